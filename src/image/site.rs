//! What the site says about images: `[images]` in /etc/denovo/denovo.toml.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::problem::Problem;

/// Root's own store, which every user reads.
pub const ROOT_STORE: &str = "/var/lib/denovo/images";

/// Where the site's word is.
pub const FILE: &str = "/etc/denovo/denovo.toml";

/// The `[images]` table.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Site {
    /// Stores that everybody reads, in this order, before root's own.
    pub stores: Vec<PathBuf>,
    /// Bytes that one image may unpack to.
    pub most_unpacked: Option<u64>,
    /// Files, directories and links that one image may hold.
    pub most_entries: Option<u64>,
}

/// The file has tables of others too.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Whole {
    images: Site,
}

impl Site {
    /// Reads the site's file; without one there are the defaults.
    ///
    /// # Errors
    /// It is not TOML, or has a key in `[images]` that means nothing.
    pub fn read() -> Result<Self, Problem> {
        Self::read_from(Path::new(FILE))
    }

    /// # Errors
    /// As [`Site::read`].
    pub fn read_from(path: &Path) -> Result<Self, Problem> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => {
                return Err(Problem::site(format!("{}: cannot be read: {e}", path.display())));
            }
        };
        let whole: Whole = toml::from_str(&text).map_err(|e| {
            Problem::site(format!("{}: {}", path.display(), e.to_string().trim_end()))
                .hint("docs/images.md lists the keys of [images]")
        })?;
        if let Some(dir) = whole.images.stores.iter().find(|dir| !dir.is_absolute()) {
            return Err(Problem::site(format!(
                "{}: images.stores: {} is not absolute",
                path.display(),
                dir.display()
            )));
        }
        Ok(whole.images)
    }

    /// The stores that are read below the caller's own.
    pub fn stores(&self) -> Vec<PathBuf> {
        let mut all = self.stores.clone();
        all.push(PathBuf::from(ROOT_STORE));
        all
    }

    /// Bytes that one image may unpack to: 256 GiB unless the site says.
    pub fn unpacked_limit(&self) -> u64 {
        self.most_unpacked.unwrap_or(256 << 30)
    }

    /// Entries that one image may hold: 16 million unless the site says.
    pub fn entries_limit(&self) -> u64 {
        self.most_entries.unwrap_or(16 << 20)
    }
}
