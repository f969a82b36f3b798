//! Removes a user's files from directories that others write as well: by
//! descriptor from the root down, through no link, over no mount, and nothing
//! that is another's.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::kernel::sys;

/// Directories in one another that are followed: a user can nest them without
/// end, and each costs a descriptor.
const DEEPEST: usize = 128;

/// Removes what is at `path` with all below it, if it is still the file of
/// this device and inode and all of it is of owners that are `mine`.
///
/// # Errors
/// What is in the way: another user's file in it, a mount, a flag.
pub fn remove(
    path: &Path,
    (device, inode): (u64, u64),
    mine: &dyn Fn(u32) -> bool,
) -> Result<(), String> {
    let told = |e: Errno| e.desc().to_owned();
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err("is no file".to_owned());
    };
    let text = |part: &[u8]| CString::new(part).map_err(|_| "has no such name".to_owned());
    let (above, name) = (text(above.as_os_str().as_bytes())?, text(name.as_bytes())?);
    let resolve = sys::resolve::NO_SYMLINKS | sys::resolve::NO_MAGICLINKS;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let root = sys::openat2(nix::fcntl::AT_FDCWD, &above, flags, 0, resolve);
    let dir = match root {
        Err(Errno::ENOENT) => return Ok(()),
        other => other.map_err(told)?,
    };
    match look(dir.as_fd(), &name) {
        Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(told(e)),
        Ok(stat) if (stat.st_dev, stat.st_ino) != (device, inode) => Ok(()),
        Ok(stat) => one(dir.as_fd(), &name, &stat, mine, DEEPEST),
    }
}

fn look(dir: BorrowedFd<'_>, name: &CStr) -> Result<FileStat, Errno> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn one(
    dir: BorrowedFd<'_>,
    name: &CStr,
    stat: &FileStat,
    mine: &dyn Fn(u32) -> bool,
    depth: usize,
) -> Result<(), String> {
    let named = |why: &str| format!("{}: {why}", name.to_bytes().escape_ascii());
    if !mine(stat.st_uid) {
        return Err(named(&format!("is uid {}'s", stat.st_uid)));
    }
    let is_dir = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if is_dir {
        if depth == 0 {
            return Err(named("is nested too deeply"));
        }
        let opened = open_below(dir, name).map_err(|e| named(e.desc()))?;
        // What was looked at may have been swapped since.
        let same =
            fstat(opened.as_fd()).is_ok_and(|s| (s.st_dev, s.st_ino) == (stat.st_dev, stat.st_ino));
        if !same {
            return Err(named("changes while it is removed"));
        }
        inside(opened, mine, depth - 1)?;
    }
    let flag = if is_dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    match unlinkat(dir, name, flag) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(named(e.desc())),
    }
}

fn open_below(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = sys::resolve::BENEATH | sys::resolve::NO_SYMLINKS | sys::resolve::NO_XDEV;
    sys::openat2(dir, name, libc::O_RDONLY | libc::O_DIRECTORY, 0, resolve)
}

/// Everything in a directory: what can be removed is, whatever else stands in
/// the way; the first of that is told.
fn inside(dir: OwnedFd, mine: &dyn Fn(u32) -> bool, depth: usize) -> Result<(), String> {
    let told = |e: Errno| e.desc().to_owned();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut list = Dir::openat(&dir, ".", flags, Mode::empty()).map_err(told)?;
    let names: Vec<CString> = list
        .iter()
        .flatten()
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
        .collect();
    let mut first = Ok(());
    for name in names {
        let result = match look(dir.as_fd(), &name) {
            Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(told(e)),
            Ok(stat) => one(dir.as_fd(), &name, &stat, mine, depth),
        };
        first = first.and(result);
    }
    first
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn file(path: &Path) -> (u64, u64) {
        let meta = path.symlink_metadata().unwrap();
        (meta.dev(), meta.ino())
    }

    #[test]
    fn a_tree_goes_and_what_a_link_leads_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("x"), "x").unwrap();
        symlink(&kept, tree.join("a/link")).unwrap();
        fs::write(tree.join("a/b/c"), "c").unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        // Another file has come in its place.
        remove(&tree, (file(&tree).0, file(&kept).1), &|u| u == uid).unwrap();
        assert!(tree.exists());
        assert!(remove(&tree, file(&tree), &|u| u == uid + 1).unwrap_err().contains("is uid"));
        remove(&tree, file(&tree), &|u| u == uid).unwrap();
        assert!(!tree.exists() && kept.join("x").exists());
        remove(&tree, (1, 1), &|u| u == uid).unwrap();
    }
}
