//! Small file operations by descriptor, over nix.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat};
use nix::unistd::{Gid, Uid, UnlinkatFlags};

use super::inside::write_fd_path;

/// Whether the descriptor (`O_PATH` will do) is open on a directory.
///
/// # Errors
/// As fstat(2).
pub fn is_directory(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fstat(fd)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Whether the descriptor is open on just this device.
pub fn is_device(fd: BorrowedFd<'_>, kind: u32, major: u32, minor: u32) -> bool {
    fstat(fd)
        .is_ok_and(|s| s.st_mode & libc::S_IFMT == kind && s.st_rdev == libc::makedev(major, minor))
}

/// Whether the descriptor is in a procfs.
pub fn is_procfs(fd: BorrowedFd<'_>) -> bool {
    nix::sys::statfs::fstatfs(fd)
        .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
}

/// Whether the caller may read an entry (search it, if a directory); a link
/// itself can always be read.
pub fn may_read(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    use nix::unistd::{AccessFlags, faccessat};
    let stat = nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    let wanted = match stat.map(|s| s.st_mode & libc::S_IFMT) {
        Ok(libc::S_IFLNK) => return true,
        Ok(libc::S_IFDIR) => AccessFlags::R_OK | AccessFlags::X_OK,
        Ok(_) => AccessFlags::R_OK,
        Err(_) => return false,
    };
    faccessat(dir, name, wanted, AtFlags::AT_EACCESS).is_ok()
}

/// chmod(2) by a descriptor that may be `O_PATH`, through /proc/self/fd.
///
/// # Errors
/// As chmod(2).
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    let mut path = [0; 32];
    let path = write_fd_path(&mut path, fd);
    fchmodat(
        nix::fcntl::AT_FDCWD,
        path,
        Mode::from_bits_truncate(mode),
        FchmodatFlags::FollowSymlink,
    )
}

/// chmod(2) of an entry of a directory of ours.
///
/// # Errors
/// As fchmodat(2).
pub fn chmod_at(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    fchmodat(dir, name, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)
}

/// chown(2) by a descriptor that may be `O_PATH`.
///
/// # Errors
/// As fchownat(2).
pub fn chown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    nix::unistd::fchownat(fd, c"", ids.0, ids.1, AtFlags::AT_EMPTY_PATH)
}

/// # Errors
/// As symlinkat(2).
pub fn symlink(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    nix::unistd::symlinkat(target, dir, name)
}

/// # Errors
/// As unlinkat(2).
pub fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    nix::unistd::unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)
}

/// Makes the descriptor standard input, output and error.
///
/// # Errors
/// As dup2(2).
pub fn become_stdio(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    nix::unistd::dup2_stdin(fd)?;
    nix::unistd::dup2_stdout(fd)?;
    nix::unistd::dup2_stderr(fd)
}

/// A descriptor's number; for messages and paths only.
pub fn number(fd: &impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}
