//! Where records live.

use std::fs::{DirBuilder, Metadata, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::problem::Problem;

/// The caller's base directory: /run/denovo for root, for a user below
/// `XDG_RUNTIME_DIR` (XDG Base Directory Specification) or else in /tmp.
pub fn base(uid: u32) -> PathBuf {
    if uid == 0 {
        return PathBuf::from("/run/denovo");
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime {
        Some(dir) if dir.is_absolute() && owned_directory(&dir, uid) => dir.join("denovo"),
        _ => PathBuf::from(format!("/tmp/denovo-{uid}")),
    }
}

/// Where else environments of this user's can be: a session has `XDG_RUNTIME_DIR`,
/// cron and su have none.
pub fn others(uid: u32) -> Vec<PathBuf> {
    if uid == 0 {
        return Vec::new();
    }
    let runtime = PathBuf::from(format!("/run/user/{uid}"));
    let all = [PathBuf::from(format!("/tmp/denovo-{uid}")), runtime.join("denovo")];
    all.into_iter().filter(|dir| owned_directory(dir, uid) && *dir != base(uid)).collect()
}

/// Root's base directory, in which users look for environments that a
/// scheduler made for them.
pub fn site_base() -> &'static Path {
    Path::new("/run/denovo")
}

fn owned_directory(path: &Path, uid: u32) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() == uid)
}

/// That a file or directory cannot be written, with what to do about it.
///
/// # Arguments
/// * `otherwise` - what else there is, such as "name another place with --root DIR"
pub fn unwritable(path: &Path, why: &std::io::Error, otherwise: Option<&str>) -> Problem {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let step = match why.kind() {
        StorageFull | QuotaExceeded => "free some space there",
        ReadOnlyFilesystem => "make the file system writable",
        PermissionDenied => "see who may write there",
        _ => "see what is there",
    };
    let or = otherwise.map(|words| format!(", or {words}")).unwrap_or_default();
    Problem::site(format!("{}: cannot be written: {why}", path.display()))
        .hint(format!("{step}{or}"))
}

/// Makes a directory (and its missing parents) that is the caller's own, or
/// finds it made; refuses one that somebody else put there.
///
/// # Errors
/// It cannot be made, or is not a directory of the caller's.
pub fn own_directory(path: &Path, mode: u32, uid: u32) -> Result<(), Problem> {
    match make_directory(path, mode) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                own_directory(parent, mode, uid)?;
            }
            match make_directory(path, mode) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(cannot(path, &e)),
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(cannot(path, &e)),
    }
    match path.symlink_metadata() {
        Ok(m) if m.is_dir() && m.uid() == uid && private_enough(&m) => Ok(()),
        Ok(m) => Err(Problem::site(format!(
            "{}: is not a directory of uid {uid} that only it can write (found uid {}, mode {:o})",
            path.display(),
            m.uid(),
            m.mode()
        ))
        .hint("remove it, or name another place with --root DIR")),
        Err(e) => Err(cannot(path, &e)),
    }
}

/// Makes a directory of this very mode: a umask that keeps others out would keep a
/// job's user from what root made for it.
///
/// # Errors
/// As mkdir(2) and chmod(2).
pub fn make_directory(path: &Path, mode: u32) -> std::io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

fn private_enough(m: &Metadata) -> bool {
    m.mode() & 0o022 == 0
}

fn cannot(path: &Path, why: &std::io::Error) -> Problem {
    Problem::site(format!("{}: cannot be made: {why}", path.display()))
        .hint("name a directory that you can write with --root DIR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_goes_by_what_is_wrong() {
        for (errno, step) in [
            (libc::ENOSPC, "free some space there, or wait"),
            (libc::EDQUOT, "free some space there, or wait"),
            (libc::EROFS, "make the file system writable, or wait"),
            (libc::EACCES, "see who may write there, or wait"),
            (libc::ENOTDIR, "see what is there, or wait"),
        ] {
            let error = std::io::Error::from_raw_os_error(errno);
            let problem = unwritable(Path::new("/x"), &error, Some("wait"));
            assert!(problem.message.starts_with("/x: cannot be written: "), "{problem}");
            assert_eq!(problem.hint.as_deref(), Some(step));
        }
    }
}
