//! Indexes, manifests and configurations, read with bounds.
//!
//! The documents come from strangers: nothing in them is used before it is
//! parsed into a type that can hold nothing bad.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;

use super::Digest;
use crate::problem::Problem;

/// Bytes of a manifest, index or configuration: the distribution-spec lets
/// registries refuse manifests above this ("Pushing manifests").
pub const LARGEST: u64 = 4 << 20;
/// Manifests in one index.
pub const MOST_MANIFESTS: usize = 1000;
/// Layers in one manifest; overlay file systems end at 500.
pub const MOST_LAYERS: usize = 500;
/// Indexes within indexes (CVE-2026-53493).
pub const DEEPEST: usize = 3;

/// Media types that stand in requests to a registry.
pub const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// A layer that is a file system image, not a tar: what was imported from a
/// squashfs or SIF file.
pub const SQUASHFS_LAYER: &str = "application/vnd.denovo.image.layer.v1.squashfs";

/// Something that a manifest or index points at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// What a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Index(Vec<Choice>),
    Manifest(Manifest),
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub part: Part,
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.ref.name`, in the index of a layout.
    pub ref_name: Option<String>,
}

/// An image: its configuration, and its layers from the lowest up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Manifest {
    pub config: Part,
    pub layers: Vec<Part>,
    pub annotations: BTreeMap<String, String>,
}

/// For which machines an image is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Platform {
    pub os: String,
    /// Go's names: `amd64`, `arm64`.
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// This node.
    pub fn own() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Whether an image for `other` runs here; a variant is only looked at
    /// where one is asked for.
    fn takes(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || self.variant == other.variant)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |v| write!(f, "/{v}"))
    }
}

/// Which lists a document has: one with those of both kinds means one thing
/// to one reader and another to the next (CVE-2021-41190).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads an index or a manifest, OCI's or Docker's.
///
/// # Arguments
/// * `named` - the media type by which it came: a descriptor's, or the
///   `Content-Type` of a registry; it must be the document's own
///
/// # Errors
/// It is neither, both, too large, or has something in it that is not allowed.
pub fn parse(bytes: &[u8], named: Option<&str>) -> Result<Document, Problem> {
    if bytes.len() as u64 > LARGEST {
        return Err(bad(format!("is larger than {LARGEST} bytes")));
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    if shape.schema_version != Some(2) {
        return Err(bad(format!(
            "has schemaVersion {}, not 2",
            shape.schema_version.map_or("none".into(), |v| v.to_string())
        )));
    }
    let lists = shape.manifests.is_some();
    let image = shape.layers.is_some() || shape.config.is_some() || shape.fs_layers.is_some();
    if lists && image {
        return Err(bad("has both manifests and layers, and could be read as either".into()));
    }
    for media_type in [shape.media_type.as_deref(), named].into_iter().flatten() {
        let kind = kind_of(media_type)
            .ok_or_else(|| bad(format!("is of media type {media_type:?}, which is no image's")))?;
        if (kind == Kind::Index) != lists {
            return Err(bad(format!("is called {media_type:?}, but its contents are not that")));
        }
    }
    if lists { index(bytes) } else { manifest(bytes).map(Document::Manifest) }
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Kind {
    Index,
    Manifest,
}

fn kind_of(media_type: &str) -> Option<Kind> {
    let known = ACCEPTED.iter().position(|known| *known == media_type)?;
    Some(if known % 2 == 0 { Kind::Manifest } else { Kind::Index })
}

fn index(bytes: &[u8]) -> Result<Document, Problem> {
    let index: ImageIndex = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    if index.manifests().len() > MOST_MANIFESTS {
        return Err(bad(format!(
            "has {} manifests; {MOST_MANIFESTS} are allowed",
            index.manifests().len()
        )));
    }
    let choice = |descriptor: &Descriptor| {
        let platform = descriptor.platform().as_ref().map(|p| Platform {
            os: p.os().to_string(),
            architecture: p.architecture().to_string(),
            variant: p.variant().clone(),
        });
        let note = |name: &str| descriptor.annotations().as_ref()?.get(name).cloned();
        Ok(Choice {
            part: part(descriptor)?,
            platform,
            ref_name: note("org.opencontainers.image.ref.name"),
        })
    };
    index.manifests().iter().map(choice).collect::<Result<_, _>>().map(Document::Index)
}

fn manifest(bytes: &[u8]) -> Result<Manifest, Problem> {
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    if manifest.layers().len() > MOST_LAYERS {
        return Err(bad(format!(
            "has {} layers; {MOST_LAYERS} are allowed",
            manifest.layers().len()
        )));
    }
    let config = part(manifest.config())?;
    if config.size > LARGEST {
        return Err(bad(format!("has a configuration of {} bytes", config.size)));
    }
    let annotations = manifest.annotations().clone().unwrap_or_default();
    Ok(Manifest {
        config,
        layers: manifest.layers().iter().map(part).collect::<Result<_, _>>()?,
        annotations: annotations.into_iter().collect(),
    })
}

fn part(descriptor: &Descriptor) -> Result<Part, Problem> {
    Ok(Part {
        media_type: descriptor.media_type().to_string(),
        digest: descriptor.digest().to_string().parse()?,
        size: descriptor.size(),
    })
}

/// The entry of an index that this platform runs.
///
/// # Errors
/// There is none.
pub fn choose<'a>(choices: &'a [Choice], platform: &Platform) -> Result<&'a Choice, Problem> {
    let fits = |c: &&Choice| {
        c.platform.as_ref().is_none_or(|p| platform.takes(p))
            && kind_of(&c.part.media_type).is_some()
    };
    // One that names its platform is a better answer than one that does not.
    let named = choices.iter().filter(fits).find(|c| c.platform.is_some());
    named.or_else(|| choices.iter().find(fits)).ok_or_else(|| {
        let there: Vec<String> =
            choices.iter().filter_map(|c| c.platform.as_ref()).map(ToString::to_string).collect();
        Problem::user(format!(
            "the image is not for {platform}; it is for {}",
            if there.is_empty() { "no platform that it names".into() } else { there.join(", ") }
        ))
    })
}

/// Follows indexes down to the manifest for a platform.
///
/// # Arguments
/// * `fetch` - gives the bytes of a part, checked against its digest
///
/// # Errors
/// What `fetch` says, indexes nested too deep, none for the platform.
pub fn descend(
    bytes: Vec<u8>,
    named: Option<&str>,
    platform: &Platform,
    mut fetch: impl FnMut(&Part) -> Result<Vec<u8>, Problem>,
) -> Result<(Vec<u8>, Manifest), Problem> {
    let (mut bytes, mut named) = (bytes, named.map(str::to_owned));
    for _ in 0..=DEEPEST {
        match parse(&bytes, named.as_deref())? {
            Document::Manifest(manifest) => return Ok((bytes, manifest)),
            Document::Index(choices) => {
                let part = choose(&choices, platform)?.part.clone();
                if part.size > LARGEST {
                    return Err(bad(format!("{} has {} bytes", part.digest, part.size)));
                }
                bytes = fetch(&part)?;
                named = Some(part.media_type);
            }
        }
    }
    Err(bad(format!("has indexes in indexes, more than {DEEPEST} deep")))
}

/// A configuration as far as denovo goes by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Config {
    /// `NAME=VALUE` each; an entry that is not is left out, since it must
    /// never copy from the caller (CVE-2026-57231).
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub user: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub created: Option<String>,
    pub os: String,
    pub architecture: String,
    /// Digests of the layers' tars, from the lowest up.
    pub diff_ids: Vec<Digest>,
}

/// Reads an image's configuration.
///
/// # Errors
/// It is no configuration, too large, or has digests that are none.
pub fn parse_config(bytes: &[u8]) -> Result<Config, Problem> {
    if bytes.len() as u64 > LARGEST {
        return Err(bad(format!("has a configuration larger than {LARGEST} bytes")));
    }
    let whole: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|e| bad(format!("configuration: {e}")))?;
    let process = whole.config().clone().unwrap_or_default();
    let ids = whole.rootfs().diff_ids().iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
    let text = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    Ok(Config {
        env: process.env().iter().flatten().filter(|e| is_variable(e)).cloned().collect(),
        working_dir: text(process.working_dir()),
        entrypoint: process.entrypoint().clone().unwrap_or_default(),
        cmd: process.cmd().clone().unwrap_or_default(),
        user: text(process.user()),
        labels: process.labels().clone().unwrap_or_default().into_iter().collect(),
        created: whole.created().clone(),
        os: whole.os().to_string(),
        architecture: whole.architecture().to_string(),
        diff_ids: ids,
    })
}

fn is_variable(entry: &str) -> bool {
    !entry.contains('\0') && entry.split_once('=').is_some_and(|(name, _)| !name.is_empty())
}

/// The media types of layers that are tars, OCI's and Docker's.
pub fn is_tar_layer(media_type: &str) -> bool {
    let oci = MediaType::from(media_type);
    matches!(
        oci,
        MediaType::ImageLayer
            | MediaType::ImageLayerGzip
            | MediaType::ImageLayerZstd
            | MediaType::ImageLayerNonDistributable
            | MediaType::ImageLayerNonDistributableGzip
            | MediaType::ImageLayerNonDistributableZstd
    ) || matches!(
        media_type,
        "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    )
}

fn bad(why: String) -> Problem {
    Problem::user(format!("the image's manifest {why}"))
        .hint("it is damaged, or made to mislead; ask whoever made the image")
}

#[cfg(test)]
mod tests;
