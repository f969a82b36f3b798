//! Calls that look at, and take away, what processes leave behind.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

const LOOP_CLR_FD: u64 = 0x4c01;

/// shmctl(2), semctl(2) and msgctl(2) with `IPC_RMID`.
///
/// # Errors
/// As these calls.
pub fn shm_remove(id: i32) -> Result<(), Errno> {
    // SAFETY: IPC_RMID takes no buffer.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

/// # Errors
/// As semctl(2).
pub fn sem_remove(id: i32) -> Result<(), Errno> {
    // SAFETY: IPC_RMID takes no fourth argument.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }).map(drop)
}

/// # Errors
/// As msgctl(2).
pub fn msg_remove(id: i32) -> Result<(), Errno> {
    // SAFETY: IPC_RMID takes no buffer.
    Errno::result(unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

/// Takes the file from behind a loop device, now or with its last user.
///
/// # Errors
/// As loop(4).
pub fn loop_clear(device: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the request takes no argument.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _, 0) }).map(drop)
}

/// keyctl(2) with whole numbers only.
///
/// # Errors
/// As keyctl(2).
pub fn keyctl(operation: u32, a: i64, b: i64) -> Result<i64, Errno> {
    // SAFETY: the operations used here (get, clear, unlink, invalidate) take no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, operation, a, b, 0, 0) })
}

/// Microseconds that the clock is still to be moved, and whether somebody
/// keeps it in time (adjtimex(2), which changes nothing with `modes` 0).
///
/// # Errors
/// As adjtimex(2).
pub fn clock() -> Result<(i64, bool), Errno> {
    let timex = timex()?;
    let nanoseconds = timex.status & libc::STA_NANO != 0;
    let offset = if nanoseconds { timex.offset / 1000 } else { timex.offset };
    Ok((offset, timex.status & libc::STA_UNSYNC == 0))
}

/// The state of the clock (adjtimex(2), which changes nothing with `modes` 0).
///
/// # Errors
/// As adjtimex(2).
pub fn timex() -> Result<libc::timex, Errno> {
    let mut timex = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all zeros are a valid timex, and the call writes only that.
    unsafe {
        Errno::result(libc::adjtimex(timex.as_mut_ptr()))?;
        Ok(timex.assume_init())
    }
}
