//! System calls by which a process notices its neighbours, and by which one
//! lets itself be noticed: what `denovo check isolation` reads and does.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;

use super::{left, owned};

/// The kernel's log as far as syslog(2) shows it (`SYSLOG_ACTION_READ_ALL`).
///
/// # Errors
/// As syslog(2).
pub fn kernel_log() -> Result<Vec<u8>, Errno> {
    const READ_ALL: i32 = 3;
    let mut buffer = vec![0u8; 1 << 20];
    let len = buffer.len() as i32;
    // SAFETY: the kernel writes at most `len` bytes, which the buffer has.
    let rc = unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), len) };
    buffer.truncate(Errno::result(rc)? as usize);
    Ok(buffer)
}

/// The figures of the machine (sysinfo(2)). rustix has this call, but takes it
/// for one that cannot fail: a filter may refuse it.
///
/// # Errors
/// As the filter says.
pub fn system_info() -> Result<libc::sysinfo, Errno> {
    let mut info = std::mem::MaybeUninit::<libc::sysinfo>::zeroed();
    // SAFETY: all zeros are a valid sysinfo, and the call writes only that.
    unsafe {
        Errno::result(libc::sysinfo(info.as_mut_ptr()))?;
        Ok(info.assume_init())
    }
}

/// Opens a counter of page faults of every process on CPU 0 (perf_event_open(2)).
///
/// # Errors
/// As perf_event_open(2).
pub fn faults_on_first_cpu() -> Result<OwnedFd, Errno> {
    const SOFTWARE: u32 = 1;
    const PAGE_FAULTS: u64 = 2;
    // struct perf_event_attr, version 0 (64 bytes): type, size, config.
    let mut attr = [0u64; 8];
    attr[0] = u64::from(SOFTWARE) | 64 << 32;
    attr[1] = PAGE_FAULTS;
    // SAFETY: attr has the size that it says and outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), -1, 0, -1, 0) })
}

/// The number of the caller's network namespace since boot
/// (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// As getsockopt(2).
pub fn network_namespace_cookie(socket: impl AsFd) -> Result<u64, Errno> {
    const NETNS_COOKIE: i32 = 71;
    let (mut cookie, mut len) = (0u64, size_of::<u64>() as libc::socklen_t);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: value and length outlive the call, the length is the value's.
    Errno::result(unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    })?;
    Ok(cookie)
}

/// How many pages of a file are in memory (cachestat(2), Linux 6.5).
///
/// # Errors
/// As cachestat(2).
pub fn pages_in_memory(file: impl AsFd) -> Result<u64, Errno> {
    // x86-64 and arm64 alike.
    const CACHESTAT: libc::c_long = 451;
    let (range, mut found) = ([0u64; 2], [0u64; 5]);
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: cachestat_range is two, cachestat five 64-bit numbers; a length
    // of 0 asks for the whole file.
    Errno::result(unsafe {
        libc::syscall(CACHESTAT, fd, range.as_ptr(), found.as_mut_ptr(), 0u32)
    })?;
    Ok(found[0])
}

/// The keys in the caller's user keyring with their descriptions
/// (keyctl(2) `KEYCTL_READ`, `KEYCTL_DESCRIBE`), each
/// `TYPE;UID;GID;PERMISSIONS;NAME`.
///
/// # Errors
/// As keyctl(2).
pub fn user_keys() -> Result<Vec<(i32, String)>, Errno> {
    const READ: u32 = 11;
    let mut ids = vec![0i32; 4096];
    let bytes = ids.len() * size_of::<i32>();
    // SAFETY: the kernel writes at most `bytes`, which the list has.
    let rc =
        unsafe { libc::syscall(libc::SYS_keyctl, READ, USER_KEYRING, ids.as_mut_ptr(), bytes) };
    ids.truncate(Errno::result(rc)? as usize / size_of::<i32>());
    Ok(ids.iter().filter_map(|id| Some((*id, describe_key(*id).ok()?))).collect())
}

/// `KEY_SPEC_USER_KEYRING`
const USER_KEYRING: i32 = -4;

fn describe_key(id: i32) -> Result<String, Errno> {
    const DESCRIBE: u32 = 6;
    let mut text = vec![0u8; 512];
    // SAFETY: the kernel writes at most the length given.
    let rc =
        unsafe { libc::syscall(libc::SYS_keyctl, DESCRIBE, id, text.as_mut_ptr(), text.len()) };
    text.truncate((Errno::result(rc)? as usize).saturating_sub(1).min(512));
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Puts a key of type `user` into the caller's user keyring (add_key(2)).
///
/// # Errors
/// As add_key(2).
pub fn add_user_key(name: &CStr) -> Result<i32, Errno> {
    // SAFETY: both texts are NUL-terminated, the payload has the length given.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            name.as_ptr(),
            b"x".as_ptr(),
            1usize,
            USER_KEYRING,
        )
    };
    Errno::result(rc).map(|id| id as i32)
}

/// Takes a key out of the caller's user keyring (keyctl(2) `KEYCTL_UNLINK`).
///
/// # Errors
/// As keyctl(2).
pub fn unlink_user_key(id: i32) -> Result<(), Errno> {
    const UNLINK: u32 = 9;
    left::keyctl(UNLINK, i64::from(id), i64::from(USER_KEYRING)).map(drop)
}

/// A place for `events` asynchronous reads (io_setup(2)); it goes with the
/// process.
///
/// # Errors
/// As io_setup(2).
pub fn asynchronous_io(events: u32) -> Result<(), Errno> {
    let mut context = 0u64;
    // SAFETY: the kernel writes one aio_context_t, which is 64 bits here.
    let rc = unsafe { libc::syscall(libc::SYS_io_setup, events, &raw mut context) };
    Errno::result(rc).map(drop)
}

/// Queues a signal for this process (sigqueue(3)); the caller blocks it.
///
/// # Errors
/// As sigqueue(3).
pub fn queue_to_self(signal: i32) -> Result<(), Errno> {
    let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
    // SAFETY: the value is handed through, nobody follows the pointer.
    Errno::result(unsafe { libc::sigqueue(libc::getpid(), signal, value) }).map(drop)
}

/// Blocks a signal for this thread, also one without a name (sigprocmask(2)).
pub fn block_signal(signal: i32) {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigemptyset makes the set valid before anything reads it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Makes one object of each System V kind, known by one key (sysvipc(7)): a
/// segment of `bytes`, a set of one semaphore and a queue.
///
/// # Errors
/// As shmget(2), semget(2), msgget(2).
pub fn system_v(key: i32, bytes: usize) -> Result<(), Errno> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::shmget(key, bytes, flags) })?;
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::semget(key, 1, flags) })?;
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::msgget(key, flags) }).map(drop)
}
