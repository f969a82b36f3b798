//! Whether what is stored is still what its digests say, and who signed it.

use std::fs::File;
use std::io::Read;

use super::digest::Hasher;
use super::manifest::{Document, LARGEST, Part, parse};
use super::registry::Progress;
use super::trust::{self, Verdict};
use super::{Digest, Reference, Store};
use crate::problem::{Problem, Problems};
use crate::request::site::Site;

/// What an image turned out to be.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Verified {
    pub name: String,
    pub manifest: Digest,
    /// Blobs that were hashed, and their bytes.
    pub blobs: usize,
    pub size: u64,
    /// The file of the key that it is signed with, where the site demands one.
    pub signed_by: Option<String>,
}

/// Hashes every blob of an image again, and holds it to the site's demands.
///
/// # Errors
/// Everything that is missing, damaged or not as the site wants it.
pub fn verify(
    store: &Store,
    site: &Site,
    reference: &Reference,
    progress: &Progress,
) -> Result<Verified, Problems> {
    let manifest = store.resolve(reference)?.manifest;
    let bytes = store.read_blob(&manifest, LARGEST)?;
    let mut parts = match parse(&bytes, None)? {
        Document::Manifest(document) => {
            std::iter::once(document.config).chain(document.layers).collect::<Vec<Part>>()
        }
        Document::Index(_) => Vec::new(),
    };
    let size = |digest: &Digest| store.size(digest);
    if let Some(flat) = store.flat(&manifest) {
        let size = size(&flat.file)?;
        parts.push(Part { media_type: flat.format, digest: flat.file, size });
    }
    let mut verified = Verified {
        name: reference.to_string(),
        blobs: 1,
        size: bytes.len() as u64,
        signed_by: None,
        manifest,
    };
    let mut problems = Problems::new();
    for part in &parts {
        match rehash(store, part, progress) {
            Ok(()) => {
                verified.blobs += 1;
                verified.size += part.size;
            }
            Err(problem) => problems.push(of(reference, problem)),
        }
    }
    match trusted(store, site, reference, &verified.manifest) {
        Ok(key) => verified.signed_by = key,
        Err(problem) => problems.push(problem),
    }
    if problems.is_empty() { Ok(verified) } else { Err(problems) }
}

fn of(reference: &Reference, problem: Problem) -> Problem {
    Problem { message: format!("image {reference}: {}", problem.message), ..problem }
}

fn trusted(
    store: &Store,
    site: &Site,
    reference: &Reference,
    manifest: &Digest,
) -> Result<Option<String>, Problem> {
    let demands = trust::of_caller(site);
    // A name in the store is as good as the digest that it leads to: what is
    // asked for is looked at here, not how.
    let pinned = Reference { digest: Some(manifest.clone()), ..reference.clone() };
    trust::require(store, demands, &pinned, manifest)?;
    let Some(signed) = trust::signers(demands, &pinned) else { return Ok(None) };
    Ok(match trust::verify(store, signed, &pinned, manifest)? {
        Verdict::By(key) => Some(key),
        Verdict::No(_) => None,
    })
}

fn rehash(store: &Store, part: &Part, progress: &Progress) -> Result<(), Problem> {
    let mut file: File = store.open_blob(&part.digest)?;
    let line = progress.bytes(part.digest.short(), part.size);
    let mut hasher = Hasher::new(part.digest.algorithm());
    let (mut buffer, mut size) = (vec![0; 1 << 18], 0);
    loop {
        let n = file.read(&mut buffer).map_err(|why| {
            Problem::site(format!("{}: cannot be read: {why}", part.digest))
                .hint("the disk or the file system of the store has failed")
        })?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
        line.at(size);
    }
    let is = hasher.finish();
    if is == part.digest && size == part.size {
        return Ok(());
    }
    let what = format!("{}: is damaged: what is stored is {is}, {size} bytes", part.digest);
    Err(Problem::site(what)
        .hint("remove the image, run denovo image gc, and pull or import it again"))
}
