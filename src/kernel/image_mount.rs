//! A file with a root in it becomes a mount, by the kernel.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

use super::sys;

/// What failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{call}: {why}")]
pub struct NotMounted {
    pub call: &'static str,
    pub why: String,
}

fn named<T, E: std::fmt::Display>(
    call: &'static str,
    result: Result<T, E>,
) -> Result<T, NotMounted> {
    result.map_err(|e| NotMounted { call, why: e.to_string() })
}

/// Mounts a squashfs, attached nowhere: the mount ends with its last user,
/// and the loop device with the last mount.
///
/// Everybody who mounts one file shares one loop device, and so one file
/// system with one cache. Which device that is, is written in the file
/// `lock`, which is locked meanwhile; what is written there is believed only
/// if the device says so itself.
///
/// # Arguments
/// * `image` - open for reading; nobody but root may be able to write it
///
/// # Errors
/// There is no loop device, or the kernel has no squashfs.
pub fn mount_squashfs(image: &File, lock: &Path) -> Result<OwnedFd, NotMounted> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(lock);
    let mut lock = Flock::lock(named("open of the lock", file)?, FlockArg::LockExclusive)
        .map_err(|(_, e)| NotMounted { call: "flock", why: e.desc().into() })?;
    let mut text = String::new();
    let _ = lock.read_to_string(&mut text);
    let (device, number) = match text.trim().parse().ok().and_then(|n| shared(image, n)) {
        Some(found) => found,
        None => {
            let new = configure(image)?;
            // Over whatever number stands there: a file is cut slowly.
            let written =
                lock.rewind().and_then(|()| lock.write_all(format!("{:<10}", new.1).as_bytes()));
            named("write of the lock", written)?;
            new
        }
    };
    let context = named("fsopen", fsopen("squashfs", FsOpenFlags::FSOPEN_CLOEXEC))?;
    let source = device_path(number);
    named("fsconfig", fsconfig_set_string(context.as_fd(), "source", source.as_str()))?;
    named("fsconfig", fsconfig_set_flag(context.as_fd(), "ro"))?;
    named("mount of the squashfs", fsconfig_create(context.as_fd()))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes);
    // Until now it is what kept the device from being let go.
    drop(device);
    named("fsmount", mount)
}

fn device_path(number: u32) -> String {
    format!("/dev/loop{number}")
}

/// The device that already has this file behind it.
fn shared(image: &File, number: u32) -> Option<(File, u32)> {
    let device = File::open(device_path(number)).ok()?;
    let metadata = image.metadata().ok()?;
    let behind = sys::loop_backing(device.as_fd()).ok()??;
    (behind == (metadata.dev(), metadata.ino())).then_some((device, number))
}

/// In blocks of a page, squashfs keeps those of its tables that it has read a
/// part of (Linux 6.5), which saves a third of all reads of a start.
fn configure(image: &File) -> Result<(File, u32), NotMounted> {
    let size = named("stat of the image", image.metadata())?.len();
    // The device has no part of a block.
    let block_size = if size.is_multiple_of(4096) { 4096 } else { 0 };
    let control = named("open of /dev/loop-control", File::open("/dev/loop-control"))?;
    loop {
        let number = named("LOOP_CTL_GET_FREE", sys::loop_free(control.as_fd()))?;
        let device = named("open of a loop device", File::open(device_path(number)))?;
        match sys::loop_configure(device.as_fd(), image.as_fd(), block_size) {
            Ok(()) => return Ok((device, number)),
            // Somebody else was quicker.
            Err(Errno::EBUSY) => {}
            Err(e) => return Err(NotMounted { call: "LOOP_CONFIGURE", why: e.desc().into() }),
        }
    }
}

/// A directory as a mount of its own, read-only, without devices and without
/// setuid, attached nowhere.
///
/// # Errors
/// As open_tree(2) and mount_setattr(2).
pub fn mount_directory(dir: &Path) -> Result<OwnedFd, NotMounted> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = named("open_tree", open_tree(rustix::fs::CWD, dir, flags))?;
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;
    named("mount_setattr", sys::mount_setattr(tree.as_fd(), set, 0, false))?;
    Ok(tree)
}

/// Whether somebody has a file open for writing: a lease against writers is
/// not given then (fcntl(2), `F_SETLEASE`). Where the file system has no
/// leases, nobody can tell.
pub fn open_for_writing(file: &File) -> bool {
    match sys::take_read_lease(file.as_raw_fd()) {
        Ok(()) => false,
        Err(e) => e == Errno::EAGAIN,
    }
}
