//! Signatures as cosign keeps them (sigstore's "Signature Specification"): a
//! manifest under the tag `sha256-HEX.sig` whose layers are payloads, with the
//! signature of each in an annotation.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Key, Verdict};
use crate::image::manifest::LARGEST;
use crate::image::{Digest, Reference, Store};
use crate::problem::Problem;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// The most bytes of one payload, and the most payloads that are looked at.
const LONGEST: u64 = 1 << 16;
const MOST: usize = 100;

/// Where the signatures of a digest are, in its own repository.
pub fn signature_tag(digest: &Digest) -> String {
    format!("{}-{}.sig", digest.algorithm().name(), digest.hex())
}

/// Where the store keeps the index that led to a manifest.
pub fn index_tag(manifest: &Digest) -> String {
    format!("{}-{}.index", manifest.algorithm().name(), manifest.hex())
}

/// Whether a name is one of the two above: no image, but what belongs to one.
pub fn is_companion(reference: &Reference) -> bool {
    let tag = reference.tag.as_deref().unwrap_or_default();
    let stem = tag.strip_suffix(".sig").or_else(|| tag.strip_suffix(".index"));
    stem.is_some_and(|stem| stem.replacen('-', ":", 1).parse::<Digest>().is_ok())
}

/// The same repository under another tag.
pub fn tagged(reference: &Reference, tag: String) -> Reference {
    Reference { tag: Some(tag), digest: None, ..reference.clone() }
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: Digest,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// A simple signing payload (containers-signature(5), "The cryptographic
/// signature format").
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
    #[serde(default)]
    identity: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: Digest,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Identity {
    docker_reference: String,
}

/// Looks for a signature on a digest by any of the keys.
///
/// # Errors
/// What is stored is damaged.
pub fn check(
    store: &Store,
    keys: &[Key],
    reference: &Reference,
    digest: &Digest,
) -> Result<Verdict, Problem> {
    let place = tagged(reference, signature_tag(digest));
    let Ok(found) = store.resolve(&place) else {
        return Ok(Verdict::No(format!("nobody has signed {digest}")));
    };
    let bytes = store.read_blob(&found.manifest, LARGEST)?;
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else {
        return Ok(Verdict::No(format!("{place} holds no signatures")));
    };
    let mut reason = format!("{place} holds no signature by a key that the site trusts");
    for layer in manifest.layers.iter().filter(|l| l.media_type == PAYLOAD).take(MOST) {
        let Some(text) = layer.annotations.get(ANNOTATION) else { continue };
        let Ok(signature) = STANDARD.decode(text) else { continue };
        let payload = store.read_blob(&layer.digest, LONGEST)?;
        let Some(key) = keys.iter().find(|key| key.made(&signature, &payload)) else { continue };
        // Only what is signed is read.
        match says(&payload, reference, digest) {
            Ok(()) => return Ok(Verdict::By(key.file.clone())),
            Err(why) => reason = format!("{place} is signed with {}, but {why}", key.file),
        }
    }
    Ok(Verdict::No(reason))
}

/// Whether a payload speaks of this image.
fn says(payload: &[u8], reference: &Reference, digest: &Digest) -> Result<(), String> {
    let payload: Payload =
        serde_json::from_slice(payload).map_err(|e| format!("what is signed is not: {e}"))?;
    let critical = payload.critical;
    if !matches!(
        &critical.kind[..],
        "cosign container image signature" | "atomic container signature"
    ) {
        return Err(format!("what is signed is a {:?}", critical.kind));
    }
    if critical.image.docker_manifest_digest != *digest {
        return Err(format!("what is signed is {}", critical.image.docker_manifest_digest));
    }
    let named = critical.identity.docker_reference;
    let name = named.split('@').next().unwrap_or_default();
    let stem = match name.rsplit_once(':') {
        Some((stem, tag)) if !tag.contains('/') => stem,
        _ => name,
    };
    if !stem.is_empty() && stem != reference.name() {
        return Err(format!("what is signed is {named:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::says;
    use crate::image::{Digest, Reference};

    #[test]
    fn a_payload_counts_for_its_own_image_only() {
        let digest = Digest::of(b"manifest");
        let reference: Reference = "r.x:5000/a/b:c".parse().unwrap();
        let payload = |kind: &str, digest: &str, name: &str| {
            format!(
                r#"{{"critical":{{"identity":{{"docker-reference":"{name}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":null}}"#
            )
        };
        let cosign = "cosign container image signature";
        let (this, other) = (digest.to_string(), Digest::of(b"other").to_string());
        let sha1 = format!("sha1:{}", "0".repeat(40));
        let table = [
            (payload(cosign, &this, "r.x:5000/a/b"), ""),
            (payload(cosign, &this, "r.x:5000/a/b:tag"), ""),
            (payload(cosign, &this, ""), ""),
            (payload("atomic container signature", &this, "r.x:5000/a/b"), ""),
            (payload(cosign, &other, "r.x:5000/a/b"), "what is signed is sha256:"),
            (payload(cosign, &this, "r.x:5000/a/evil"), "what is signed is \"r.x"),
            (payload("a recipe", &this, ""), "is a \"a recipe\""),
            (payload(cosign, &sha1, ""), "what is signed is not"),
            ("{}".to_owned(), "what is signed is not"),
        ];
        for (text, expected) in table {
            match says(text.as_bytes(), &reference, &digest) {
                Ok(()) => assert_eq!(expected, "", "{text}"),
                Err(why) => {
                    assert!(!expected.is_empty() && why.contains(expected), "{text}: {why}")
                }
            }
        }
    }
}
