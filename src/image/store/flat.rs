//! What images were flattened to.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Store;
use crate::image::Digest;
use crate::problem::Problem;

/// One file that has a manifest's whole root; the contents of a file in
/// `flat/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flat {
    pub manifest: Digest,
    /// The file, which is content of the store.
    pub file: Digest,
    /// `squashfs`.
    pub format: String,
    /// Bytes.
    pub size: u64,
    /// Where they were seen as the file was made: every start needs them, and
    /// in the file they are two reads of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<Accounts>,
}

/// An image's own /etc/passwd and /etc/group; empty where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    pub passwd: String,
    pub group: String,
}

/// Bytes of a file in `flat/`.
const LONGEST: u64 = 1 << 20;

impl Store {
    /// What a manifest was flattened to, in any of the stores.
    pub fn flat(&self, manifest: &Digest) -> Option<Flat> {
        self.directories()
            .filter_map(|dir| {
                read(&file_of(dir, manifest)).filter(|_| self.believes(dir, manifest))
            })
            .find(|flat| flat.manifest == *manifest && self.blob_path(&flat.file).is_ok())
    }

    /// Whether nobody but root and the caller can have written a note.
    fn believes(&self, dir: &Path, manifest: &Digest) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        let kept = |path: &Path| {
            let kept = |m: fs::Metadata| [0, own].contains(&m.uid()) && m.mode() & 0o022 == 0;
            path.symlink_metadata().is_ok_and(kept)
        };
        !self.strict || [dir, &dir.join("flat"), &file_of(dir, manifest)].into_iter().all(kept)
    }

    /// Notes what a manifest was flattened to.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn set_flat(&self, flat: &Flat) -> Result<(), Problem> {
        let text = serde_json::to_vec(flat).map_err(|e| Problem::ours(e.to_string()))?;
        self.write_small(&file_of(self.directory(), &flat.manifest), &text)
    }

    /// Forgets what a manifest was flattened to.
    pub fn forget_flat(&self, manifest: &Digest) {
        let _ = fs::remove_file(file_of(self.directory(), manifest));
    }

    /// Everything noted in the store that is written.
    pub fn flats(&self) -> Vec<Flat> {
        let entries = fs::read_dir(self.directory().join("flat")).into_iter().flatten().flatten();
        entries.filter_map(|e| read(&e.path())).collect()
    }
}

fn read(path: &Path) -> Option<Flat> {
    use std::io::Read;
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn file_of(dir: &Path, manifest: &Digest) -> std::path::PathBuf {
    dir.join("flat").join(format!("{}-{}", manifest.algorithm().name(), manifest.hex()))
}
