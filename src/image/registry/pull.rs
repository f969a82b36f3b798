//! From a registry into the store.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;

use super::fetch::{self, Fetched};
use super::progress::Progress;
use super::sources::{Sources, qualify};
use crate::image::manifest::{Document, LARGEST, Manifest, Part, Platform, descend, parse};
use crate::image::merge::Bounds;
use crate::image::site::Site as Limits;
use crate::image::trust::{self, index_tag, signature_tag};
use crate::image::{Digest, Reference, Store, care, import};
use crate::problem::Problem;
use crate::request::site::Site;

/// What is to be pulled, and how.
#[derive(Debug, Clone)]
pub struct Pull {
    pub reference: Reference,
    pub platform: Platform,
    /// The registry speaks http, because the caller says so.
    pub plain_http: bool,
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Pulled {
    /// The name in the store.
    pub name: String,
    /// What the registry has under the name: `manifest`, or an index with it.
    pub digest: Digest,
    pub manifest: Digest,
    /// Bytes of its blobs, and of those that had to be fetched.
    pub size: u64,
    pub fetched: u64,
}

/// Pulls an image for one platform, with its signatures, and names it when
/// everything is there and the site's demands are met.
///
/// # Errors
/// The site does not allow it, no registry has it, it is not what its digests
/// say, or the store cannot be written. Parts of blobs stay for another time.
pub fn pull(
    store: &Store,
    site: &Site,
    wanted: &Pull,
    progress: &Progress,
) -> Result<Pulled, Problem> {
    let reference = qualify(&wanted.reference, site)?;
    let demands = trust::of_caller(site);
    trust::admits(demands, &reference)?;
    let sources = Sources::of(&reference, site, wanted.plain_http)?;
    let tag = reference.tag.as_deref().unwrap_or("latest");
    let top = sources.first(|s| fetch::manifest(s, tag, reference.digest.as_ref()))?;
    // Every document on the way down, as it came.
    let mut documents = vec![top.bytes.clone()];
    let (bytes, manifest) =
        descend(top.bytes.clone(), top.media_type.as_deref(), &wanted.platform, |part| {
            let bytes = document(store, &sources, part)?;
            documents.push(bytes.clone());
            Ok(bytes)
        })
        .map_err(|p| Problem { message: format!("image {reference}: {}", p.message), ..p })?;
    let parts = parts(&manifest, site, &reference)?;
    let fetched = blobs(store, site, &sources, &parts, progress)?;
    let digest = keep(store, &bytes, &top)?;
    for document in &documents[..documents.len() - 1] {
        store.put(document)?;
    }
    signatures(store, site, &sources, &reference, [&digest, &top.digest])?;
    if top.digest != digest {
        store.put(&top.bytes)?;
        store.set_ref(&trust::tagged(&reference, index_tag(&digest)), &top.digest)?;
    }
    trust::require(store, demands, &reference, &digest)?;
    flatten(store, site, &digest, parts.iter().map(|p| p.size).sum(), progress)?;
    care::name(store, &reference, &digest)?;
    let size = parts.iter().map(|p| p.size).sum();
    let name = reference.stored_name();
    Ok(Pulled { name, digest: top.digest, manifest: digest, size, fetched })
}

/// Makes the file that jobs start from, so that the first of them need not.
fn flatten(
    store: &Store,
    site: &Site,
    manifest: &Digest,
    size: u64,
    progress: &Progress,
) -> Result<(), Problem> {
    let bounds = Bounds::of(&Limits(site.images.clone()));
    // Layers are read twice: for their names, then for their data.
    let line = progress.bytes("flatten", 2 * size);
    import::complete(store, manifest, bounds, &|n| line.more(n)).map(drop)
}

/// Stores the manifest under the digest that it was asked for by, if it was.
fn keep(store: &Store, bytes: &[u8], top: &Fetched) -> Result<Digest, Problem> {
    if bytes == top.bytes && Digest::of(bytes) != top.digest {
        let mut writer = store.incoming(Some(&top.digest))?;
        writer.restart()?;
        writer.put(bytes)?;
        return Ok(writer.finish()?.0);
    }
    store.put(bytes)
}

/// A manifest below an index, from the store if it is there.
fn document(store: &Store, sources: &Sources, part: &Part) -> Result<Vec<u8>, Problem> {
    if store.has(&part.digest)
        && let Ok(bytes) = store.read_blob(&part.digest, LARGEST)
    {
        return Ok(bytes);
    }
    let fetched = sources.first(|s| {
        let fetched = fetch::manifest(s, "", Some(&part.digest))?;
        if fetched.bytes.len() as u64 == part.size {
            return Ok(fetched);
        }
        let (is, what) = (fetched.bytes.len(), format!("manifest {}", part.digest));
        Err(s.wrong(&what, format!("it is {is} bytes long, not {}", part.size)))
    })?;
    Ok(fetched.bytes)
}

/// The configuration and each layer once.
fn parts(manifest: &Manifest, site: &Site, reference: &Reference) -> Result<Vec<Part>, Problem> {
    let limit = site.images.blob_limit();
    let mut seen = BTreeSet::new();
    let mut parts = Vec::new();
    for part in std::iter::once(&manifest.config).chain(&manifest.layers) {
        if part.size > limit {
            return Err(Problem::site(format!(
                "image {reference}: {} has {} bytes, of which {limit} are allowed",
                part.digest, part.size
            ))
            .hint("most-blob in denovo.toml is the limit"));
        }
        if seen.insert(part.digest.clone()) {
            parts.push(part.clone());
        }
    }
    Ok(parts)
}

/// Fetches what the store lacks, several at the same moment; gives the bytes
/// of that.
fn blobs(
    store: &Store,
    site: &Site,
    sources: &Sources,
    parts: &[Part],
    progress: &Progress,
) -> Result<u64, Problem> {
    let lacking: VecDeque<&Part> = parts.iter().filter(|p| !store.has(&p.digest)).collect();
    let bytes = lacking.iter().map(|p| p.size).sum();
    let threads = site.images.parallel().min(lacking.len());
    let (queue, failure) = (Mutex::new(lacking), Mutex::new(None));
    let next = || {
        let failed = failure.lock().unwrap_or_else(|e| e.into_inner()).is_some();
        if failed { None } else { queue.lock().unwrap_or_else(|e| e.into_inner()).pop_front() }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(part) = next() {
                    if let Err(problem) = blob(store, sources, part, progress) {
                        failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(problem);
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(problem) => Err(problem),
        None => Ok(bytes),
    }
}

fn blob(store: &Store, sources: &Sources, part: &Part, progress: &Progress) -> Result<(), Problem> {
    let line = progress.bytes(part.digest.short(), part.size);
    let mut writer = store.incoming(Some(&part.digest))?;
    sources.first(|session| fetch::blob(session, part, &mut writer, &line))?;
    writer.finish().map(drop)
}

/// Takes the signatures along, so that they can be checked without anybody's
/// help. Where the site demands none, none is missed.
fn signatures(
    store: &Store,
    site: &Site,
    sources: &Sources,
    reference: &Reference,
    digests: [&Digest; 2],
) -> Result<(), Problem> {
    let demanded = trust::signers(trust::of_caller(site), reference).is_some();
    for digest in BTreeSet::from(digests) {
        match signature(store, site, sources, reference, &signature_tag(digest)) {
            Err(problem) if demanded => return Err(problem),
            _ => {}
        }
    }
    Ok(())
}

fn signature(
    store: &Store,
    site: &Site,
    sources: &Sources,
    reference: &Reference,
    tag: &str,
) -> Result<(), Problem> {
    let Some(found) = sources.find(|s| fetch::manifest(s, tag, None))? else { return Ok(()) };
    let Document::Manifest(manifest) = parse(&found.bytes, found.media_type.as_deref())? else {
        return Ok(());
    };
    let parts = parts(&manifest, site, reference)?;
    if parts.iter().map(|p| p.size).sum::<u64>() > LARGEST {
        return Err(Problem::user(format!(
            "image {reference}: {tag} is larger than any signature"
        ))
        .hint("ask whoever pushed it"));
    }
    blobs(store, site, sources, &parts, &Progress::hidden())?;
    let digest = store.put(&found.bytes)?;
    store.set_ref(&trust::tagged(reference, tag.to_owned()), &digest)
}
