//! What the kernel keeps with a process beside its ids.

use nix::errno::Errno;

use crate::policy::spec::Scheduler;

/// `struct sched_attr` of sched_setattr(2), version 1 (Linux 5.3).
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

/// sched_setattr(2) of this process.
///
/// # Errors
/// As sched_setattr(2).
pub fn sched_setattr(wanted: &Scheduler) -> Result<(), Errno> {
    const UTIL_CLAMP: u64 = 0x60;
    // Kernels that know no more take version 0 of the structure.
    let size = if wanted.flags & UTIL_CLAMP == 0 { 48 } else { std::mem::size_of::<SchedAttr>() };
    let attr = SchedAttr {
        size: size as u32,
        policy: wanted.policy,
        flags: wanted.flags,
        nice: wanted.nice,
        priority: wanted.priority,
        runtime: wanted.runtime,
        deadline: wanted.deadline,
        period: wanted.period,
        util_min: 0,
        util_max: 0,
    };
    // SAFETY: attr is at least as long as its size field says and outlives the call.
    let rc = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0u32) };
    Errno::result(rc).map(drop)
}

/// ioprio_set(2) of this process; class and level in one number.
///
/// # Errors
/// As ioprio_set(2).
pub fn ioprio_set(value: u16) -> Result<(), Errno> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: no pointers.
    let rc = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, i32::from(value)) };
    Errno::result(rc).map(drop)
}

/// personality(2).
///
/// # Errors
/// As personality(2).
pub fn personality(number: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::personality(libc::c_ulong::from(number)) }).map(drop)
}

/// Bits in one word of a node mask.
const WORD: usize = libc::c_ulong::BITS as usize;
/// Words for the 1024 nodes that a kernel can be built for.
const WORDS: usize = 1024 / WORD;

/// set_mempolicy(2) of this process.
///
/// # Errors
/// As set_mempolicy(2); `EINVAL` for a node above 1023.
pub fn set_mempolicy(mode: u32, nodes: &[u32]) -> Result<(), Errno> {
    let mut mask: [libc::c_ulong; WORDS] = [0; WORDS];
    for node in nodes {
        let node = *node as usize;
        *mask.get_mut(node / WORD).ok_or(Errno::EINVAL)? |= 1 << (node % WORD);
    }
    let (mask, bits) = match nodes.last() {
        // The kernel takes one bit less than it is told.
        Some(last) => (mask.as_ptr(), *last as usize + 2),
        None => (std::ptr::null(), 0),
    };
    // SAFETY: the mask has room for the bits named and outlives the call, or is NULL.
    let rc = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    Errno::result(rc).map(drop)
}

/// setxattr(2).
///
/// # Errors
/// As setxattr(2).
pub fn setxattr(path: &std::ffi::CStr, name: &std::ffi::CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: both texts are NUL-terminated, the value has the length given;
    // all outlive the call.
    let rc = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    Errno::result(rc).map(drop)
}
