//! Mount option `tmpcopyup`: what the root has at a mount point is copied
//! into the tmpfs that covers it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};

use super::{Fault, Named, files, sys};

/// Deeper trees are refused: each level holds two descriptors open.
const DEEPEST: u32 = 64;

/// Copies everything below `from` into `to`, with owners and modes; what is
/// neither file, directory nor link is left out.
///
/// # Errors
/// The call that failed; `ELOOP` for a tree that is too deep.
pub(super) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Fault> {
    let owners = Owners::Kept;
    copy_directory(&reopen(from, libc::O_DIRECTORY)?, &reopen(to, libc::O_DIRECTORY)?, owners, 0)
}

/// Copies what the caller may read below `from` into `to`, as the caller's own;
/// `leave` says which entries at the top are left out.
///
/// # Errors
/// As [`copy_up`].
pub(super) fn copy_readable(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    leave: &dyn Fn(&CStr) -> bool,
) -> Result<(), Fault> {
    let (from, to) = (reopen(from, libc::O_DIRECTORY)?, reopen(to, libc::O_DIRECTORY)?);
    let listing = reopen(from.as_fd(), libc::O_DIRECTORY)?;
    let mut listing = Dir::from_fd(listing).named("copy: list")?;
    for entry in listing.iter() {
        let entry = entry.named("copy: list")?;
        let name = entry.file_name();
        if name != c"." && name != c".." && !leave(name) {
            copy_entry(&from, &to, name, Owners::Own, 0)?;
        }
    }
    Ok(())
}

/// Whose the copies are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owners {
    Kept,
    /// The caller's, who leaves out what may not be read.
    Own,
}

/// An `O_PATH` descriptor opened for reading.
fn reopen(fd: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd, Fault> {
    sys::openat2(fd, c".", libc::O_RDONLY | flags, 0, sys::resolve::BENEATH)
        .named("tmpcopyup: open")
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, owners: Owners, depth: u32) -> Result<(), Fault> {
    if depth > DEEPEST {
        return Err(Fault { call: "tmpcopyup", errno: Errno::ELOOP });
    }
    take_over(from, to, owners)?;
    let listing = reopen(from.as_fd(), libc::O_DIRECTORY)?;
    let mut listing = Dir::from_fd(listing).named("tmpcopyup: list")?;
    for entry in listing.iter() {
        let entry = entry.named("tmpcopyup: list")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, owners, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &CStr,
    owners: Owners,
    depth: u32,
) -> Result<(), Fault> {
    if owners == Owners::Own && !files::may_read(from.as_fd(), name) {
        return Ok(());
    }
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let entry = sys::openat2(from.as_fd(), name, flags, 0, sys::resolve::BENEATH)
        .named("tmpcopyup: open")?;
    let stat = fstat(&entry).named("tmpcopyup: fstat")?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            mkdirat(to, name, Mode::from_bits_truncate(0o700)).named("tmpcopyup: mkdir")?;
            let inner = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let open = |dir: &OwnedFd| {
                sys::openat2(dir.as_fd(), name, inner, 0, sys::resolve::BENEATH)
                    .named("tmpcopyup: open")
            };
            copy_directory(&open(from)?, &open(to)?, owners, depth + 1)
        }
        libc::S_IFLNK => {
            let target = readlinkat(from, name).named("tmpcopyup: readlink")?;
            let target = CString::new(target.as_encoded_bytes()).unwrap_or_default();
            files::symlink(&target, to.as_fd(), name).named("tmpcopyup: symlink")
        }
        libc::S_IFREG => copy_file(from, to, name, &stat, owners),
        _ => Ok(()),
    }
}

fn copy_file(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &CStr,
    stat: &FileStat,
    owners: Owners,
) -> Result<(), Fault> {
    let read = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let write = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let source = sys::openat2(from.as_fd(), name, read, 0, sys::resolve::BENEATH)
        .named("tmpcopyup: open")?;
    let target = sys::openat2(to.as_fd(), name, write, 0o600, sys::resolve::BENEATH)
        .named("tmpcopyup: create")?;
    let mut buffer = [0u8; 16 * 1024];
    loop {
        match nix::unistd::read(&source, &mut buffer).named("tmpcopyup: read")? {
            0 => break,
            length => super::place::write_all(&target, &buffer[..length])?,
        }
    }
    if owners == Owners::Kept {
        files::chown(target.as_fd(), stat.st_uid, stat.st_gid).named("tmpcopyup: chown")?;
    }
    files::chmod(target.as_fd(), stat.st_mode & 0o7777).named("tmpcopyup: chmod")
}

/// Owner and mode of a directory.
fn take_over(from: &OwnedFd, to: &OwnedFd, owners: Owners) -> Result<(), Fault> {
    let stat = fstat(from).named("tmpcopyup: fstat")?;
    if owners == Owners::Kept {
        files::chown(to.as_fd(), stat.st_uid, stat.st_gid).named("tmpcopyup: chown")?;
    }
    files::chmod(to.as_fd(), stat.st_mode & 0o7777).named("tmpcopyup: chmod")
}
