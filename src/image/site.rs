//! What the site says about the stores and about how large an image may be:
//! the table `[images]` of its file.

use std::path::PathBuf;

use crate::problem::Problem;
use crate::request::site;

/// Root's own store, which every user reads.
pub const ROOT_STORE: &str = "/var/lib/denovo/images";

/// The `[images]` table.
#[derive(Debug, Clone, Default)]
pub struct Site(pub site::Images);

impl Site {
    /// Reads the site's file; without one there are the defaults.
    ///
    /// # Errors
    /// As [`site::load`].
    pub fn read() -> Result<Self, Problem> {
        site::load().map(|site| Self(site.images))
    }

    /// The stores that are read below the caller's own.
    pub fn stores(&self) -> Vec<PathBuf> {
        let mut all = self.0.stores.clone();
        all.push(PathBuf::from(ROOT_STORE));
        all
    }

    /// Bytes that one image may unpack to: 256 GiB unless the site says.
    pub fn unpacked_limit(&self) -> u64 {
        self.0.most_unpacked.unwrap_or(256 << 30)
    }

    /// Entries that one image may hold: 16 million unless the site says.
    pub fn entries_limit(&self) -> u64 {
        self.0.most_entries.unwrap_or(16 << 20)
    }
}
