//! Files of procfs, reached so that nothing else can be written in their
//! place: from a directory that has said that it is procfs, over no further
//! mount and through none of its magic links (CVE-2019-16884,
//! CVE-2025-52881).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_by_name};

use super::inside::{Fault, Named};
use super::{files, sys};

/// /proc as this process sees it.
///
/// # Errors
/// `EINVAL` when something else is mounted there.
pub fn root() -> Result<OwnedFd, Fault> {
    directory(c"/proc")
}

/// A directory in procfs.
///
/// # Errors
/// `EINVAL` when it is in no procfs.
pub fn directory(path: &'static CStr) -> Result<OwnedFd, Fault> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = open_by_name(path, flags, nix::sys::stat::Mode::empty()).named("open of /proc")?;
    if !files::is_procfs(dir.as_fd()) {
        return Err(Fault { call: "check that /proc is procfs", errno: Errno::EINVAL });
    }
    Ok(dir)
}

/// The file at the relative `path` below a directory of procfs.
///
/// # Errors
/// As openat2(2); `EXDEV` when something is mounted on the way.
pub fn open(
    base: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    call: &'static str,
) -> Result<OwnedFd, Fault> {
    let resolve = sys::resolve::BENEATH | sys::resolve::NO_XDEV | sys::resolve::NO_MAGICLINKS;
    sys::openat2(base, path, flags, 0, resolve).named(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_procfs_is_opened() {
        let root = root().unwrap();
        let read = |path: &CStr| open(root.as_fd(), path, libc::O_RDONLY, "open");
        assert!(read(c"self/status").is_ok());
        // A magic link leads out of it, as does the way up.
        for path in [c"self/exe", c"self/root/etc", c"../etc", c"self/fd/../../../etc"] {
            assert!(read(path).is_err(), "{path:?}");
        }
        let elsewhere = directory(c"/tmp").unwrap_err();
        assert_eq!(elsewhere.errno, Errno::EINVAL);
    }
}
