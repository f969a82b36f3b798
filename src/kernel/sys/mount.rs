//! Mounts and nodes.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::owned;

/// open_tree(2) with `OPEN_TREE_CLONE`: a detached copy of the mount at
/// `path` (of `dir` itself when `path` is empty).
///
/// # Errors
/// As open_tree(2).
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as u32;
    }
    // SAFETY: path is NUL-terminated and outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// move_mount(2): attaches the detached mount `from` on `to`, both by descriptor.
///
/// # Errors
/// As move_mount(2).
pub fn attach(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty literals; descriptors are borrowed for the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    Errno::result(rc).map(drop)
}

/// fsopen(2), fsconfig(2) and fsmount(2): a file system with `options`, each
/// a name and a value, mounted nowhere yet, with `attributes` (`MOUNT_ATTR_*`).
///
/// # Errors
/// As these calls.
pub fn detached(
    fstype: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    // linux/mount.h; libc lacks it.
    const FSCONFIG_SET_STRING: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const CLOEXEC: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: fstype is NUL-terminated and outlives the call.
    let fs = owned(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), CLOEXEC) })?;
    for (name, value) in options {
        let (name, value) = (name.as_ptr(), value.as_ptr());
        // SAFETY: both are NUL-terminated and outlive the call.
        let rc = unsafe {
            libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), FSCONFIG_SET_STRING, name, value, 0)
        };
        Errno::result(rc)?;
    }
    // SAFETY: this command takes no key and no value.
    let rc = unsafe {
        libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    };
    Errno::result(rc)?;
    // SAFETY: numbers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), CLOEXEC, attributes) })
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// mount_setattr(2) on the mount that `mount` is the root of.
///
/// `set` and `clear` are `MOUNT_ATTR_*`.
///
/// # Errors
/// As mount_setattr(2); `ENOSYS` before Linux 5.12.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = MountAttr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    set_attr(mount, &attr, recursive)
}

/// mount_setattr(2) with `MOUNT_ATTR_IDMAP`: owners on the detached `mount`
/// are shown as the maps of the user namespace say.
///
/// # Errors
/// As mount_setattr(2).
pub fn map_ids(
    mount: BorrowedFd<'_>,
    user_namespace: BorrowedFd<'_>,
    recursive: bool,
) -> Result<(), Errno> {
    let userns_fd = user_namespace.as_raw_fd() as u64;
    let attr =
        MountAttr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attr(mount, &attr, recursive)
}

fn set_attr(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: attr has the size given and outlives the call; the path is a literal.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            std::mem::size_of::<MountAttr>(),
        )
    };
    Errno::result(rc).map(drop)
}

/// mount(2) with the data and flags as they stand.
///
/// # Errors
/// As mount(2).
pub fn mount(
    source: Option<&CStr>,
    target: &CStr,
    fstype: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Result<(), Errno> {
    let ptr = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is NULL or NUL-terminated text that outlives the call.
    let rc = unsafe {
        libc::mount(
            ptr(source),
            target.as_ptr(),
            ptr(fstype),
            flags as libc::c_ulong,
            ptr(data).cast::<libc::c_void>(),
        )
    };
    Errno::result(rc).map(drop)
}

/// pivot_root(2) of the current directory onto itself: the old root ends up
/// mounted on top of the new one.
///
/// # Errors
/// As pivot_root(2).
pub fn pivot_here() -> Result<(), Errno> {
    // SAFETY: two literals.
    let rc = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    Errno::result(rc).map(drop)
}

/// mknodat(2) with a device number.
///
/// # Errors
/// As mknodat(2).
pub fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32, dev: u64) -> Result<(), Errno> {
    // SAFETY: name is NUL-terminated and outlives the call.
    let rc = unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, dev) };
    Errno::result(rc).map(drop)
}
