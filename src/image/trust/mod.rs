//! Whether the site lets an image be used: its name, its digest, who signed it.
//!
//! Everything is checked from what is in the store, so that it can be checked
//! again at every use, on a node that reaches nobody.

mod key;
mod signature;

pub use key::Key;
pub use signature::{index_tag, is_companion, signature_tag, tagged};

use super::manifest::{Document, LARGEST, parse};
use super::{Digest, Reference, Store};
use crate::problem::Problem;
use crate::request::site::{self, Signed, Site, Trust};

/// What the name alone decides, before anything is fetched.
///
/// # Errors
/// The site does not allow the name, or demands a digest.
pub fn admits(trust: &Trust, reference: &Reference) -> Result<(), Problem> {
    let name = reference.name();
    if !trust.allow.is_empty() && !trust.allow.iter().any(|pattern| pattern.matches(&name)) {
        return Err(refused(reference, "its name is none of those that the site allows", "allow"));
    }
    if trust.require_digest && reference.digest.is_none() {
        return Err(refused(
            reference,
            "the site wants images to be named by digest (NAME@sha256:…)",
            "require-digest",
        ));
    }
    Ok(())
}

/// Who must have signed an image of this name; `None`: nobody need.
pub fn signers<'a>(trust: &'a Trust, reference: &Reference) -> Option<&'a Signed> {
    let name = reference.name();
    trust.signed.iter().find(|s| s.names.iter().any(|pattern| pattern.matches(&name)))
}

/// Holds an image in the store to all that the site demands of it.
///
/// # Arguments
/// * `reference` - the image as it was asked for, with its registry if it has one
/// * `manifest` - what that leads to in the store
///
/// # Errors
/// Something that is demanded is not there.
pub fn require(
    store: &Store,
    trust: &Trust,
    reference: &Reference,
    manifest: &Digest,
) -> Result<(), Problem> {
    admits(trust, reference)?;
    let Some(signed) = signers(trust, reference) else { return Ok(()) };
    match verify(store, signed, reference, manifest)? {
        Verdict::By(_) => Ok(()),
        Verdict::No(why) => Err(refused(reference, &why, "signed")),
    }
}

/// As [`require`], by the site's own file: for whoever is about to use an image.
///
/// # Errors
/// As [`require`]; the file cannot be read.
pub fn require_here(
    store: &Store,
    reference: &Reference,
    manifest: &Digest,
) -> Result<(), Problem> {
    let site = site::load()?;
    require(store, site.trust(nix::unistd::geteuid().is_root()), reference, manifest)
}

/// What came of looking at an image's signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Signed with the key of this file.
    By(String),
    /// Why no signature counts.
    No(String),
}

/// Looks at the signatures of a manifest, and of the index that led to it.
///
/// # Errors
/// A key cannot be read, or the store is damaged.
pub fn verify(
    store: &Store,
    signed: &Signed,
    reference: &Reference,
    manifest: &Digest,
) -> Result<Verdict, Problem> {
    let keys = signed.keys.iter().map(|path| Key::read(path)).collect::<Result<Vec<_>, _>>()?;
    let mut reasons = Vec::new();
    let mut candidates = vec![manifest.clone()];
    candidates.extend(index_of(store, reference, manifest)?);
    for digest in &candidates {
        match signature::check(store, &keys, reference, digest)? {
            Verdict::By(key) => return Ok(Verdict::By(key)),
            Verdict::No(why) => reasons.push(why),
        }
    }
    Ok(Verdict::No(reasons.join("; ")))
}

/// The index through which a manifest was pulled, if it says that it is in it.
fn index_of(
    store: &Store,
    reference: &Reference,
    manifest: &Digest,
) -> Result<Option<Digest>, Problem> {
    let tagged = signature::tagged(reference, index_tag(manifest));
    let Ok(found) = store.resolve(&tagged) else { return Ok(None) };
    let bytes = store.read_blob(&found.manifest, LARGEST)?;
    let Document::Index(choices) = parse(&bytes, None)? else { return Ok(None) };
    let leads = choices.iter().any(|choice| choice.part.digest == *manifest);
    Ok(leads.then_some(found.manifest))
}

fn refused(reference: &Reference, why: &str, key: &str) -> Problem {
    let table = if nix::unistd::geteuid().is_root() { "trust or root-trust" } else { "trust" };
    Problem::site(format!("image {reference}: {why}"))
        .hint(format!("{} has it under {table}.{key}", site::path().display()))
}

/// What in a store belongs to a name: an image, its signatures, or the index
/// that led to it, of which the images for other machines are not here.
///
/// # Errors
/// It is damaged.
pub fn parts(store: &Store, digest: &Digest) -> Result<Vec<Digest>, Problem> {
    let bytes = store.read_blob(digest, LARGEST)?;
    let mut parts = vec![digest.clone()];
    if let Document::Manifest(manifest) = parse(&bytes, None)? {
        parts.push(manifest.config.digest);
        parts.extend(manifest.layers.into_iter().map(|layer| layer.digest));
    }
    Ok(parts)
}

/// Who has signed an image that is stored, for `image verify`; `None` where
/// nobody need.
///
/// # Errors
/// The site demands what the image does not have.
pub fn signer(
    store: &Store,
    site: &Site,
    reference: &Reference,
) -> Result<Option<String>, Problem> {
    let manifest = store.resolve(reference)?.manifest;
    // In the store a name is as good as the digest that it leads to.
    let pinned = Reference { digest: Some(manifest.clone()), ..reference.clone() };
    let demands = of_caller(site);
    require(store, demands, &pinned, &manifest)?;
    let Some(signed) = signers(demands, &pinned) else { return Ok(None) };
    Ok(match verify(store, signed, &pinned, &manifest)? {
        Verdict::By(key) => Some(key),
        Verdict::No(_) => None,
    })
}

/// What the site demands of the caller's images.
///
/// # Errors
/// As [`site::load`].
pub fn of_caller(site: &Site) -> &Trust {
    site.trust(nix::unistd::geteuid().is_root())
}
