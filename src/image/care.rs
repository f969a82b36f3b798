//! Looking after a store: what is in it, whether it is whole, what is spare.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use serde::Serialize;

use super::digest::Hasher;
use super::import::Stored;
use super::merge::Progress;
use super::store::Flat;
use super::{Digest, Reference, Store, trust};
use crate::problem::{Problem, Problems};

/// Seconds for which content without a name is kept: whoever brings an image
/// in writes its parts first and its name last.
pub const YOUNG: u64 = 3600;

/// Seconds for which a broken-off transfer is kept.
pub const RESUMABLE: u64 = 24 * 3600;

/// One name, for a list.
#[derive(Debug, Serialize)]
pub struct Listed {
    pub name: String,
    pub manifest: Digest,
    /// Bytes of the layers as they came.
    pub layers: Option<u64>,
    /// The file that jobs start from.
    pub flat: Option<Flat>,
    /// Seconds since 1970.
    pub added: u64,
    pub store: PathBuf,
}

/// Every name that is seen from here.
pub fn list(store: &Store) -> Vec<Listed> {
    let one = |(named, place): (super::store::Named, PathBuf)| {
        let image = Stored::read(store, &named.manifest).ok();
        let layers = image.map(|i| i.manifest.layers.iter().map(|part| part.size).sum());
        Listed {
            flat: store.flat(&named.manifest),
            layers,
            name: named.name,
            manifest: named.manifest,
            added: named.added,
            store: place,
        }
    };
    let image = |name: &str| !name.parse::<Reference>().is_ok_and(|r| trust::is_companion(&r));
    store.refs().into_iter().filter(|(named, _)| image(&named.name)).map(one).collect()
}

/// Gives an image that has come in its name, if all of it is here still: who was slower
/// than [`YOUNG`] may have lost the first of it to a [`gc`]. From here on none takes it.
///
/// # Errors
/// It lacks something, or the store cannot be written.
pub fn name(store: &Store, reference: &Reference, manifest: &Digest) -> Result<(), Problem> {
    match trust::parts(store, manifest)?.iter().find(|part| !store.has(part)) {
        None => store.set_ref(reference, manifest),
        Some(lost) => {
            Err(Problem::site(format!("image {reference}: {lost} was removed while it came in"))
                .hint("bring it in again; denovo image gc --all takes what has no name yet"))
        }
    }
}

/// The names in the store that is written, but for those of signatures.
pub fn images(store: &Store) -> Vec<Reference> {
    let names = store.own_refs().into_iter().filter_map(|named| named.name.parse().ok());
    names.filter(|reference| !trust::is_companion(reference)).collect()
}

/// What a `gc` did.
#[derive(Debug, Default, Serialize)]
pub struct Collected {
    /// Removed, or with a dry run to be removed.
    pub removed: Vec<Digest>,
    /// Bytes.
    pub freed: u64,
    /// Without a name but young: an import may be at work on it.
    pub young: usize,
}

/// Removes content that no name leads to.
///
/// # Arguments
/// * `keep` - seconds; what was written or asked for since then is kept
/// * `dry` - only says what would go
///
/// # Errors
/// A name, or an image that one leads to, cannot be read: then nothing is known to
/// be spare, and nothing is removed.
pub fn gc(store: &Store, keep: u64, dry: bool) -> Result<Collected, Problems> {
    let mut live = BTreeSet::new();
    for named in store.every_own_ref()? {
        let parts = trust::parts(store, &named.manifest).map_err(|p| {
            Problem::site(format!("image {}: {}", named.name, p.message)).hint(format!(
                "nothing was removed; denovo image remove {} first, then pull it again",
                named.name
            ))
        })?;
        live.extend(parts);
    }
    for flat in store.flats() {
        if live.contains(&flat.manifest) {
            live.insert(flat.file);
        } else if !dry && store.age(&flat.manifest).is_none_or(|age| age >= keep) {
            store.forget_flat(&flat.manifest);
        }
    }
    let mut found = Collected::default();
    for digest in store.blobs().into_iter().filter(|digest| !live.contains(digest)) {
        // Asked again just before: it may be wanted since.
        if store.age(&digest).is_none_or(|age| age < keep) {
            found.young += 1;
            continue;
        }
        found.freed += store.size(&digest).unwrap_or(0);
        if !dry {
            store.remove_blob(&digest)?;
        }
        found.removed.push(digest);
    }
    if !dry {
        found.freed += store.sweep(keep.min(RESUMABLE));
    }
    Ok(found)
}

/// What is wrong with a store.
#[derive(Debug, Default, Serialize)]
pub struct Verified {
    /// Bytes and files that were hashed.
    pub bytes: u64,
    pub files: usize,
    pub problems: Vec<String>,
    /// What is not what its digest says: no import or pull replaces it while it is there.
    pub damaged: Vec<Digest>,
}

/// Hashes everything anew; every name must lead to an image that has all its
/// parts.
///
/// # Arguments
/// * `only` - one image; else all that the store has
///
/// # Errors
/// `only` is not there.
pub fn verify(
    store: &Store,
    only: Option<&Reference>,
    progress: Progress<'_>,
) -> Result<Verified, Problem> {
    let mut found = Verified::default();
    let mut wanted = BTreeSet::new();
    let names = match only {
        Some(reference) => vec![(reference.to_string(), store.resolve(reference)?.manifest)],
        None => {
            let names = store.every_own_ref().unwrap_or_else(|problems| {
                found.problems.extend(problems.into_iter().map(|p| p.message));
                store.own_refs()
            });
            names.into_iter().map(|n| (n.name, n.manifest)).collect()
        }
    };
    for (name, manifest) in &names {
        match trust::parts(store, manifest) {
            Ok(parts) => {
                for lost in parts.iter().filter(|part| store.blob_path(part).is_err()) {
                    found.problems.push(format!("image {name}: lacks {lost}"));
                }
                wanted.extend(parts);
            }
            Err(problem) => found.problems.push(format!("image {name}: {}", problem.message)),
        }
        wanted.extend(store.flat(manifest).map(|flat| flat.file));
    }
    if only.is_none() {
        wanted.extend(store.blobs());
    }
    for digest in wanted.iter().filter(|digest| store.blob_path(digest).is_ok()) {
        match hash(store, digest, progress) {
            Ok((now, size)) => {
                found.files += 1;
                found.bytes += size;
                if now != *digest {
                    found.problems.push(format!("{digest}: the file under this digest is {now}"));
                    found.damaged.push(digest.clone());
                }
            }
            Err(why) => found.problems.push(format!("{digest}: cannot be read: {why}")),
        }
    }
    Ok(found)
}

fn hash(store: &Store, digest: &Digest, progress: Progress<'_>) -> std::io::Result<(Digest, u64)> {
    let mut file = store.open_blob(digest).map_err(|p| std::io::Error::other(p.message))?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((hasher.finish(), size));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
        progress(n as u64);
    }
}

/// Where the space of a store goes; bytes.
#[derive(Debug, Default, Serialize)]
pub struct Usage {
    /// Parts of images as they came.
    pub layers: u64,
    /// Files that jobs start from.
    pub flat: u64,
    /// What no name leads to.
    pub spare: u64,
    /// What is on its way or broke off.
    pub incoming: u64,
    /// For each name what only it holds.
    pub alone: BTreeMap<String, u64>,
}

/// Adds up the store that is written.
pub fn usage(store: &Store) -> Usage {
    let mut holders: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
    let mut names: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for named in store.own_refs() {
        let manifest = named.manifest.clone();
        let parts = trust::parts(store, &manifest).unwrap_or_default();
        let flat = store.flat(&manifest).map(|flat| flat.file);
        for part in parts.into_iter().chain(flat) {
            holders.entry(part).or_default().insert(manifest.clone());
        }
        names.entry(manifest).or_default().push(named.name);
    }
    let flats: BTreeSet<Digest> = store.flats().into_iter().map(|flat| flat.file).collect();
    let mut usage = Usage { incoming: store.incoming_size(), ..Usage::default() };
    for digest in store.blobs() {
        let size = store.size(&digest).unwrap_or(0);
        let Some(held) = holders.get(&digest) else {
            usage.spare += size;
            continue;
        };
        if flats.contains(&digest) {
            usage.flat += size
        } else {
            usage.layers += size
        }
        if let (1, Some(only)) = (held.len(), held.first()) {
            for name in names.get(only).into_iter().flatten() {
                *usage.alone.entry(name.clone()).or_default() += size;
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::import::write;
    use crate::image::manifest::Config;

    fn image(store: &Store, name: &str, text: &str) -> Digest {
        let layer = store.put(text.as_bytes()).unwrap();
        let part = ("application/vnd.oci.image.layer.v1.tar", &layer, text.len() as u64, &layer);
        let manifest = write(store, &Config::default(), &[part]).unwrap();
        store.set_ref(&name.parse().unwrap(), &manifest).unwrap();
        manifest
    }

    #[test]
    fn only_what_no_name_leads_to_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (a, b) = (image(&store, "a", "layer a"), image(&store, "b", "layer b"));
        store.remove_ref(&"b".parse().unwrap()).unwrap();
        assert_eq!(gc(&store, YOUNG, false).unwrap().young, 3, "layer, configuration, manifest");
        let dry = gc(&store, 0, true).unwrap();
        assert!(store.has(&b));
        let done = gc(&store, 0, false).unwrap();
        assert_eq!((dry.removed.len(), &dry.removed), (done.removed.len(), &done.removed));
        assert!(store.has(&a) && !store.has(&b));
        assert!(Stored::read(&store, &a).is_ok());
        assert!(verify(&store, None, &|_| {}).unwrap().problems.is_empty());
    }

    #[test]
    fn damage_is_found_and_nothing_is_removed_over_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let manifest = image(&store, "a", "layer a");
        let layer = Digest::of(b"layer a");
        std::fs::write(store.blob_path(&layer).unwrap(), "layer x").unwrap();
        let found = verify(&store, None, &|_| {}).unwrap();
        assert_eq!(found.problems.len(), 1, "{found:?}");
        store.remove_blob(&layer).unwrap();
        let found = verify(&store, Some(&"a".parse().unwrap()), &|_| {}).unwrap();
        assert!(found.problems[0].contains("lacks"), "{found:?}");
        store.remove_blob(&manifest).unwrap();
        store.put(b"spare").unwrap();
        assert!(gc(&store, 0, false).unwrap_err()[0].message.contains("image a"));
        assert!(store.has(&Digest::of(b"spare")));
    }

    #[test]
    fn an_image_that_lacks_something_gets_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let manifest = image(&store, "a", "layer a");
        let other = "b".parse().unwrap();
        store.remove_blob(&Digest::of(b"layer a")).unwrap();
        let problem = name(&store, &other, &manifest).unwrap_err();
        assert!(problem.message.contains("was removed"), "{problem}");
        assert!(store.resolve(&other).is_err());
        store.put(b"layer a").unwrap();
        name(&store, &other, &manifest).unwrap();
        assert_eq!(store.resolve(&other).unwrap().manifest, manifest);
    }

    #[test]
    fn a_name_that_cannot_be_read_may_lead_to_anything() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let manifest = image(&store, "a", "layer a");
        for damaged in ["", "{}", "{\"name\":\"b:latest\"}"] {
            std::fs::write(dir.path().join("refs/a:latest"), damaged).unwrap();
            let problems = gc(&store, 0, false).unwrap_err();
            assert!(problems[0].message.contains("a:latest: is damaged"), "{problems:?}");
            let found = verify(&store, None, &|_| {}).unwrap();
            assert!(found.problems[0].contains("a:latest: is damaged"), "{found:?}");
            assert!(store.has(&manifest));
        }
        std::fs::remove_file(dir.path().join("refs/a:latest")).unwrap();
        std::fs::write(dir.path().join("refs/.nfs0001"), "").unwrap();
        assert!(gc(&store, 0, false).unwrap().removed.contains(&manifest));
    }

    #[test]
    fn a_name_with_a_digest_is_taken_away_only_from_that() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let manifest = image(&store, "a", "layer a");
        let with = |digest: &Digest| format!("a@{digest}").parse::<Reference>().unwrap();
        let problem = store.remove_ref(&with(&Digest::of(b"another"))).unwrap_err();
        assert!(problem.message.contains(&manifest.to_string()), "{problem}");
        assert_eq!(store.own_refs().len(), 1);
        store.remove_ref(&with(&manifest)).unwrap();
        assert_eq!(store.own_refs().len(), 0);
    }
}
