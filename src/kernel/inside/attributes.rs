//! Attributes of mounts, also before Linux 5.12, which has no
//! mount_setattr(2): there a mount is attached first and remounted then, and
//! those below it one by one.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use super::place::write_fd_path;
use super::{Fault, Named, sys};

/// What is set and cleared (`MOUNT_ATTR_*`), and whether also on mounts below.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub set: u64,
    pub clear: u64,
    pub recursive: bool,
}

/// Attaches a detached mount with these attributes.
pub(super) fn attach_with(
    tree: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    changes: &[Change],
) -> Result<(), Fault> {
    let mut late = &changes[..0];
    for (done, change) in changes.iter().enumerate() {
        if change.set | change.clear == 0 {
            continue;
        }
        match sys::mount_setattr(tree, change.set, change.clear, change.recursive) {
            // What is mounted nowhere cannot be remounted.
            Err(Errno::ENOSYS) => {
                late = &changes[done..];
                break;
            }
            result => result.named("mount_setattr")?,
        }
    }
    sys::attach(tree, target).named("move_mount")?;
    late.iter().filter(|c| c.set | c.clear != 0).try_for_each(|change| remount(tree, *change))
}

/// Changes the attributes of one mount that is attached.
pub(super) fn set(mount: BorrowedFd<'_>, set: u64, clear: u64) -> Result<(), Fault> {
    match sys::mount_setattr(mount, set, clear, false) {
        Err(Errno::ENOSYS) => remount(mount, Change { set, clear, recursive: false }),
        result => result.named("mount_setattr"),
    }
}

fn remount(mount: BorrowedFd<'_>, change: Change) -> Result<(), Fault> {
    let mut path = [0; 32];
    let top = write_fd_path(&mut path, mount);
    remount_one(top, change)?;
    if change.recursive {
        for below in mounts_below(mount)? {
            remount_one(&below, change)?;
        }
    }
    Ok(())
}

/// mount(2) sets all flags anew, so those that are to stay are asked for
/// first; in a user namespace most may not be taken away.
fn remount_one(at: &CStr, change: Change) -> Result<(), Fault> {
    let has = nix::sys::statvfs::statvfs(at).named("statvfs")?.flags().bits();
    let flags: [(u64, u64, u64); 7] = [
        (libc::MOUNT_ATTR_RDONLY, libc::ST_RDONLY, libc::MS_RDONLY),
        (libc::MOUNT_ATTR_NOSUID, libc::ST_NOSUID, libc::MS_NOSUID),
        (libc::MOUNT_ATTR_NODEV, libc::ST_NODEV, libc::MS_NODEV),
        (libc::MOUNT_ATTR_NOEXEC, libc::ST_NOEXEC, libc::MS_NOEXEC),
        (libc::MOUNT_ATTR_NOATIME, libc::ST_NOATIME, libc::MS_NOATIME),
        (libc::MOUNT_ATTR_NODIRATIME, libc::ST_NODIRATIME, libc::MS_NODIRATIME),
        (0, libc::ST_RELATIME, libc::MS_RELATIME),
    ];
    let mut all = libc::MS_REMOUNT | libc::MS_BIND;
    for (attribute, had, flag) in flags {
        let kept = has & had != 0 && change.clear & attribute == 0;
        if kept || change.set & attribute != 0 {
            all |= flag;
        }
    }
    sys::mount(None, at, None, all, None).named("remount")
}

/// Mount points below that of `mount` in this process's mount namespace.
fn mounts_below(mount: BorrowedFd<'_>) -> Result<Vec<CString>, Fault> {
    let errno = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
    let link = format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd());
    let mut top = std::fs::read_link(link).map_err(errno).named("readlink")?;
    top.push("");
    let table = std::fs::read("/proc/self/mountinfo").map_err(errno).named("read of mountinfo")?;
    let points = table.split(|b| *b == b'\n').filter_map(|line| {
        let point = crate::host::cgroups::unescape(line.split(|b| *b == b' ').nth(4)?);
        point.starts_with(top.as_os_str().as_bytes()).then_some(point)
    });
    Ok(points.filter_map(|point| CString::new(point).ok()).collect())
}
