//! What the site says about images: /etc/denovo/denovo.toml.
//!
//! It is read by what fetches, builds or mounts images; a job without one never
//! opens it. Every key has a default, and a file that is not there means all of
//! them.

mod names;
mod read;

pub use names::Pattern;
pub use read::{load, parse, path};

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::freshness::Freshness;
use super::scheduler::site::Scheduler;

/// All of it; docs/site-config.md explains each key to a site.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Site {
    pub images: Images,
    /// Registries by `host` or `host:port`.
    pub registry: BTreeMap<String, Registry>,
    pub trust: Trust,
    /// What is asked of images that root mounts, instead of `trust`.
    pub root_trust: Option<Trust>,
    /// Jobs that a batch scheduler starts.
    pub scheduler: Scheduler,
    /// What a node is to be like between jobs.
    pub freshness: Freshness,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Images {
    /// Stores that everybody reads below their own, in this order.
    pub stores: Vec<PathBuf>,
    /// Where a name without a registry goes, such as `registry.example.org/hpc`.
    pub unqualified: Option<String>,
    /// Bytes that one image may unpack to.
    #[serde(deserialize_with = "size")]
    pub most_unpacked: Option<u64>,
    /// Files, directories and links that one image may hold.
    pub most_entries: Option<u64>,
    /// Bytes of one blob as it is fetched.
    #[serde(deserialize_with = "size")]
    pub most_blob: Option<u64>,
    /// Blobs that are fetched at the same moment.
    pub parallel: Option<usize>,
}

impl Images {
    /// Bytes of one blob as it is fetched: 64 GiB unless the site says.
    pub fn blob_limit(&self) -> u64 {
        self.most_blob.unwrap_or(64 << 30)
    }

    /// Blobs that are fetched at the same moment: 4 unless the site says.
    pub fn parallel(&self) -> usize {
        self.parallel.unwrap_or(4)
    }
}

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Registry {
    /// Speak http without TLS.
    pub plain_http: bool,
    /// Certificates (PEM) that are trusted for it instead of the system's.
    pub ca: Option<PathBuf>,
    /// Asked before it, in this order: `host[:port][/prefix]`.
    pub mirrors: Vec<String>,
    /// Nothing is fetched from it or its mirrors.
    pub blocked: bool,
}

/// What an image must have before it is used.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Trust {
    /// It must be named by digest.
    pub require_digest: bool,
    /// Its name must match one of these, if there are any.
    pub allow: Vec<Pattern>,
    /// Who must have signed it; the first whose `names` match counts.
    pub signed: Vec<Signed>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Signed {
    pub names: Vec<Pattern>,
    /// Files with one public key each (PEM); a signature by any of them will do.
    pub keys: Vec<PathBuf>,
}

impl Site {
    /// What is said of a registry, by `host` or `host:port`.
    pub fn registry(&self, host: &str) -> Registry {
        self.registry.get(host).cloned().unwrap_or_default()
    }

    /// What is asked of an image for the caller (`root`: for a mount by root).
    pub fn trust(&self, root: bool) -> &Trust {
        self.root_trust.as_ref().filter(|_| root).unwrap_or(&self.trust)
    }
}

/// A number of bytes, or a text such as `50G`.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a number of bytes or a text such as \"50G\"")]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(from)? {
        Size::Bytes(bytes) => Ok(Some(bytes)),
        Size::Text(text) => crate::request::size::parse(&text)
            .map(Some)
            .map_err(|problem| serde::de::Error::custom(problem.message)),
    }
}
