//! The node's own distribution, as far as a fresh copy of it is made: what
//! there is, not what is in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One entry of the root directory that belongs to the distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopEntry {
    /// A link, such as `bin` to `usr/bin`.
    Link {
        name: String,
        target: String,
    },
    Directory {
        name: String,
    },
}

/// What a fresh copy of this node's distribution is made from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Distribution {
    pub top: Vec<TopEntry>,
    /// Names in /etc.
    pub etc: Vec<String>,
    /// Those of [`Self::etc`] that not everybody may read.
    pub etc_private: Vec<String>,
    /// Whether there is an /opt, where sites install software.
    pub has_opt: bool,
    /// Bytes of memory.
    pub memory: u64,
}

/// Directories of a distribution's programs and libraries
/// (Filesystem Hierarchy Standard 3.0, chapters 3 and 4).
const PROGRAMS: [&str; 8] = ["bin", "lib", "lib32", "lib64", "libo32", "libx32", "sbin", "usr"];

impl Distribution {
    /// Looks at the root directory and /etc.
    pub fn read() -> Self {
        Self::of(Path::new("/"))
    }

    fn of(root: &Path) -> Self {
        let (mut etc, mut etc_private) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(root.join("etc")).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let private = entry.metadata().is_ok_and(|m| {
                let readable = if m.is_dir() { 0o005 } else { 0o004 };
                !m.is_symlink() && m.permissions().mode() & readable != readable
            });
            if private {
                etc_private.push(name.clone());
            }
            etc.push(name);
        }
        etc.sort();
        etc_private.sort();
        Self {
            top: PROGRAMS.iter().filter_map(|name| top_entry(root, name)).collect(),
            etc,
            etc_private,
            has_opt: root.join("opt").is_dir(),
            memory: super::hardware::memory_total().unwrap_or(1 << 30),
        }
    }
}

fn top_entry(root: &Path, name: &str) -> Option<TopEntry> {
    let path = root.join(name);
    let meta = path.symlink_metadata().ok()?;
    let name = name.to_owned();
    if meta.is_symlink() {
        let target = fs::read_link(&path).ok()?.to_string_lossy().into_owned();
        return Some(TopEntry::Link { name, target });
    }
    meta.is_dir().then_some(TopEntry::Directory { name })
}

/// The node's resolv.conf(5), wherever its link leads: what that is in is not inside.
pub fn resolver() -> Option<String> {
    std::fs::read_to_string("/etc/resolv.conf").ok()
}
