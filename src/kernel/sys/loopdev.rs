//! Loop devices (loop(4)).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

const LOOP_SET_FD: u64 = 0x4c00;
const LOOP_CLR_FD: u64 = 0x4c01;
const LOOP_SET_STATUS64: u64 = 0x4c04;
const LOOP_GET_STATUS64: u64 = 0x4c05;
const LOOP_CONFIGURE: u64 = 0x4c0a;
const LOOP_CTL_GET_FREE: u64 = 0x4c82;

/// `LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR` (loop(4)).
const READ_ONLY_AUTOCLEAR: u32 = 1 | 4;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const EMPTY: LoopInfo = LoopInfo {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: READ_ONLY_AUTOCLEAR,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// The number of a loop device that nothing uses, made if need be.
///
/// # Errors
/// As loop(4).
pub fn loop_free(control: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: the request takes no argument.
    let rc = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    Errno::result(rc).map(|n| n as u32)
}

/// Puts a file behind a loop device: read-only, and let go by the kernel
/// with the last user, whatever becomes of this process (`LOOP_CONFIGURE`,
/// Linux 5.8; before that in two calls).
///
/// # Arguments
/// * `block_size` - of the device, in bytes; 0 leaves it to the kernel, as
///   Linux before 5.8 does always
///
/// # Errors
/// `EBUSY`: somebody else took the device meanwhile. As loop(4).
pub fn loop_configure(
    device: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    block_size: u32,
) -> Result<(), Errno> {
    let fd = file.as_raw_fd() as u32;
    let config = LoopConfig { fd, block_size, info: EMPTY, reserved: [0; 8] };
    // SAFETY: config has the layout that the request reads, and outlives the call.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    match Errno::result(rc) {
        Err(Errno::EINVAL | Errno::ENOTTY) => {}
        other => return other.map(drop),
    }
    // SAFETY: the argument is a descriptor's number.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD as _, file.as_raw_fd()) })?;
    let info = EMPTY;
    // SAFETY: info has the layout that the request reads, and outlives the call.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64 as _, &raw const info) };
    Errno::result(rc).map(drop).inspect_err(|_| {
        // SAFETY: the request takes no argument.
        unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _, 0) };
    })
}

/// Device and inode of the file behind a loop device, if it is one that
/// [`loop_configure`] set up: read-only, at offset 0, let go by itself.
///
/// # Errors
/// `ENXIO`: nothing is behind it. As loop(4).
pub fn loop_backing(device: BorrowedFd<'_>) -> Result<Option<(u64, u64)>, Errno> {
    let mut info = EMPTY;
    // SAFETY: info has the layout that the request writes, and outlives the call.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) };
    Errno::result(rc)?;
    let ours = info.flags & READ_ONLY_AUTOCLEAR == READ_ONLY_AUTOCLEAR
        && (info.offset, info.size_limit) == (0, 0);
    Ok(ours.then_some((info.device, info.inode)))
}
