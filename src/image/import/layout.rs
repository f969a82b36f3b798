//! An OCI layout in a directory (image-spec, image-layout.md).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Import;
use crate::image::Digest;
use crate::image::manifest::{self, Choice, Document, Manifest, Part, Platform};
use crate::problem::Problem;

pub fn import(import: &Import<'_>, source: &Path) -> Result<Digest, Problem> {
    let index = read(&source.join("index.json"))?;
    let fetch = |part: &Part| -> Result<Vec<u8>, Problem> {
        let bytes = read(&blob(source, &part.digest))?;
        check(&part.digest, &bytes)?;
        Ok(bytes)
    };
    let (bytes, image) = choose(&index, import.wanted, fetch)?;
    let digest = import.store.put(&bytes)?;
    for part in std::iter::once(&image.config).chain(&image.layers) {
        if import.store.has(&part.digest) {
            (import.progress)(part.size);
            continue;
        }
        let path = blob(source, &part.digest);
        let mut file = File::open(&path).map_err(|e| super::unreadable(&path, &e))?;
        import.take_in(&mut file, Some(&part.digest))?;
    }
    Ok(digest)
}

/// The manifest that a layout's index leads to.
///
/// # Arguments
/// * `wanted` - its `org.opencontainers.image.ref.name`
pub fn choose(
    index: &[u8],
    wanted: Option<&str>,
    fetch: impl FnMut(&Part) -> Result<Vec<u8>, Problem>,
) -> Result<(Vec<u8>, Manifest), Problem> {
    let mut fetch = fetch;
    let Document::Index(choices) = manifest::parse(index, None)? else {
        return Err(Problem::user("index.json: is a manifest, not an index"));
    };
    let names: Vec<&str> = choices.iter().filter_map(|c| c.ref_name.as_deref()).collect();
    let hint = format!("--ref NAME chooses one of: {}", names.join(", "));
    let named: Vec<Choice> = match wanted {
        Some(name) => {
            choices.iter().filter(|c| c.ref_name.as_deref() == Some(name)).cloned().collect()
        }
        None if names.len() > 1 => {
            let first = &choices[0].part.digest;
            if choices.iter().any(|c| c.part.digest != *first) {
                return Err(Problem::user("the layout has several images").hint(hint));
            }
            choices.clone()
        }
        None => choices.clone(),
    };
    if named.is_empty() {
        return Err(Problem::user("the layout has no image of that name").hint(hint));
    }
    let part = manifest::choose(&named, &Platform::own())?.part.clone();
    let bytes = fetch(&part)?;
    manifest::descend(bytes, Some(&part.media_type), &Platform::own(), fetch)
}

pub fn check(digest: &Digest, bytes: &[u8]) -> Result<(), Problem> {
    let mut hasher = crate::image::digest::Hasher::new(digest.algorithm());
    hasher.update(bytes);
    if hasher.finish() == *digest {
        return Ok(());
    }
    Err(Problem::user(format!("{digest}: what the layout has under this digest is something else")))
}

fn blob(source: &Path, digest: &Digest) -> std::path::PathBuf {
    source.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(manifest::LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|e| super::unreadable(path, &e))?;
    Ok(bytes)
}
