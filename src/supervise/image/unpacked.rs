//! Images that were unpacked on this node, since nothing could mount them.
//!
//! An environment holds the directory that it is made of locked, shared
//! (flock(2)); who wants to remove one has to have it alone.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{Found, by_root, lock};
use crate::image::import;
use crate::image::merge;
use crate::image::unpack::{Owners, Unpacker, remove};
use crate::problem::Problem;
use crate::record::base;

/// Root's cache of unpacked images; nobody else may look into it.
const ROOT_CACHE: &str = "/var/cache/denovo/unpacked";

fn cache() -> PathBuf {
    if by_root() {
        return PathBuf::from(ROOT_CACHE);
    }
    PathBuf::from(format!("/var/tmp/denovo-{}/unpacked", nix::unistd::geteuid()))
}

/// The image's directory in the node-local cache, unpacked by the first who
/// needs it; and what keeps it there.
pub(super) fn acquire(
    found: &Found,
    why: &str,
    warn: &dyn Fn(&str),
) -> Result<(PathBuf, OwnedFd), Problem> {
    let uid = nix::unistd::geteuid().as_raw();
    let cache = cache();
    if let Some(parent) = cache.parent() {
        base::own_directory(parent, 0o700, uid)?;
    }
    base::own_directory(&cache, 0o700, uid)?;
    let name = found.stored.digest.hex();
    let dir = cache.join(name);
    if let Some(held) = hold(&dir) {
        return Ok((dir, held));
    }
    let waiting = cache.join(format!("{name}.lock"));
    let _lock = lock(&waiting)?;
    let unlock = || {
        let _ = fs::remove_file(waiting.join("lock"));
        let _ = fs::remove_dir(&waiting);
    };
    if let Some(held) = hold(&dir) {
        unlock();
        return Ok((dir, held));
    }
    warn(&format!(
        "image {} is unpacked to {}, once for this node: {why}",
        found.stored.digest,
        dir.display()
    ));
    let part = cache.join(format!("{name}.part"));
    let failed = |e: std::io::Error| {
        Problem::site(format!("{}: {e}", part.display())).hint("free some space there")
    };
    // What a killed process began.
    remove(&part).map_err(failed)?;
    DirBuilder::new().mode(0o700).create(&part).map_err(failed)?;
    let done = unpack(found, &part);
    if let Err(problem) = done {
        let _ = remove(&part);
        return Err(problem);
    }
    // Held before it has its name, so that nobody removes it in between.
    let held = locked(&part, FlockOperation::NonBlockingLockShared);
    fs::rename(&part, &dir).map_err(failed)?;
    unlock();
    let held = held.ok_or_else(|| {
        Problem::kernel(format!("{}: cannot be locked", dir.display()))
            .hint("the cache must be on a file system that has flock(2)")
    });
    held.map(|held| (dir, held))
}

fn locked(dir: &Path, how: FlockOperation) -> Option<OwnedFd> {
    let file = File::open(dir).ok()?;
    flock(&file, how).ok()?;
    Some(file.into())
}

/// Keeps a directory, if it is there and still is once it is held.
fn hold(dir: &Path) -> Option<OwnedFd> {
    let held = File::from(locked(dir, FlockOperation::LockShared)?);
    let (ours, named) = (held.metadata().ok()?, dir.symlink_metadata().ok()?);
    ((ours.dev(), ours.ino()) == (named.dev(), named.ino())).then(|| held.into())
}

fn unpack(found: &Found, to: &Path) -> Result<(), Problem> {
    let owners = if by_root() { Owners::Kept } else { Owners::Caller };
    let (layers, tree) = import::tree_of(&found.store, &found.stored, found.bounds, &|_| {})?;
    let mut unpacker = Unpacker::new(to, owners)?;
    merge::emit(&found.store, &layers, &tree, &mut unpacker, &|_| {})?;
    unpacker.finish().map(drop)
}

/// Removes the caller's unpacked images that no name leads to and no
/// environment is made of.
///
/// Gives what went, or would go.
///
/// # Arguments
/// * `live` - hexadecimal digests of the manifests that have a name
/// * `dry` - only says what would go
pub fn collect(live: &BTreeSet<String>, dry: bool) -> Vec<PathBuf> {
    let mut gone = Vec::new();
    for entry in fs::read_dir(cache()).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let image = name.len() >= 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        // What a killed process was removing or unpacking.
        let rest = name.ends_with(".gone") || name.ends_with(".part") && idle(&path);
        if !rest && (!image || live.contains(&name)) {
            continue;
        }
        let Some(_alone) = locked(&path, FlockOperation::NonBlockingLockExclusive) else {
            continue;
        };
        let aside = path.with_extension("gone");
        if dry || (rest || fs::rename(&path, &aside).is_ok()) {
            if !dry && remove(if rest { &path } else { &aside }).is_err() {
                continue;
            }
            gone.push(path);
        }
    }
    gone
}

/// Whether nobody is unpacking to this `.part`.
fn idle(part: &Path) -> bool {
    let lock = part.with_extension("lock").join("lock");
    let Ok(file) = File::open(lock) else { return true };
    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}
