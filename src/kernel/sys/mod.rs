//! The system calls that nix has no safe form of: the one module with
//! `unsafe`. Each function takes and gives safe types; each block says which
//! invariant makes it sound.

pub mod bpf;
mod heap;
pub mod left;
mod loopdev;
mod memory;
mod mount;
pub mod probe;
mod process;
mod terminal;

pub use heap::Heap;
pub use loopdev::{loop_backing, loop_configure, loop_free};
pub use memory::{page_size, prefault, set_command_line, set_process_name, shared_words, shrink};
pub use mount::{attach, clone_tree, detached, map_ids, mknodat, mount, mount_setattr, pivot_here};
pub use process::{ioprio_set, personality, sched_setattr, set_mempolicy, setxattr};
pub use terminal::{pty_peer, set_controlling_terminal, set_window_size, window_size};

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// `struct clone_args` of clone3(2), up to and including `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Both ends of a fork.
pub enum Forked {
    Child,
    Parent(libc::pid_t),
}

/// clone3(2) without a new stack, which makes it a fork with namespaces.
///
/// `flags` are `CLONE_*`; with `CLONE_PARENT` the exit signal is the parent's,
/// as the kernel demands. `cgroup`: the v2 group that the child is born in.
///
/// The process must have one thread: the child goes on with a copy of the
/// allocator's state, which no other thread may hold locked.
///
/// # Errors
/// As clone3(2).
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked, Errno> {
    let mut args = CloneArgs { flags, ..CloneArgs::default() };
    if flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given and outlives the
    // call; no CLONE_VM, so the child has its own copy of memory and stack.
    let rc = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const args, std::mem::size_of::<CloneArgs>())
    };
    match Errno::result(rc)? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as libc::pid_t)),
    }
}

fn owned(rc: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(rc)?;
    // SAFETY: the call just returned this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Takes over a descriptor that a call of nix just gave as a plain number.
pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers pass what accept4(2) or recvmsg(2) returned a
    // moment ago, which nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `struct open_how` of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `RESOLVE_*` of openat2(2).
pub mod resolve {
    pub const NO_XDEV: u64 = 0x01;
    pub const NO_MAGICLINKS: u64 = 0x02;
    pub const NO_SYMLINKS: u64 = 0x04;
    pub const BENEATH: u64 = 0x08;
    pub const IN_ROOT: u64 = 0x10;
}

/// How often openat2(2) is tried again.
const TRIES: usize = 1000;

/// openat2(2): opens `path` below `dir` as `resolve` allows.
///
/// # Errors
/// As openat2(2).
pub fn openat2(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd, Errno> {
    let how =
        OpenHow { flags: (flags | libc::O_CLOEXEC) as u32 as u64, mode: mode as u64, resolve };
    // Where `..` is on the way, any rename or mount on the node meanwhile
    // makes the kernel ask for another try; somebody who renames without end
    // must not hold us up for ever.
    for _ in 0..TRIES {
        // SAFETY: path is NUL-terminated, how has the size given; both outlive the call.
        let opened = owned(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                std::mem::size_of::<OpenHow>(),
            )
        });
        if opened.as_ref().err() != Some(&Errno::EAGAIN) {
            return opened;
        }
    }
    Err(Errno::EAGAIN)
}

/// pidfd_open(2).
///
/// # Errors
/// As pidfd_open(2).
pub fn pidfd_open(pid: libc::pid_t) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// pidfd_send_signal(2).
///
/// # Errors
/// As pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: a NULL siginfo asks the kernel to fill it in.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::c_void>(),
            0,
        )
    };
    Errno::result(rc).map(drop)
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC` from `first` on: nothing of the
/// caller's leaks through the next exec.
///
/// # Errors
/// As close_range(2); `EINVAL` before Linux 5.11.
pub fn cloexec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: no pointers; marking descriptors changes no ownership.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 4u32) };
    Errno::result(rc).map(drop)
}

/// fcntl(2) `F_SETFD` with `FD_CLOEXEC`.
///
/// # Errors
/// `EBADF`: there is no such descriptor.
pub fn set_cloexec(number: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointers; marking a descriptor changes no ownership.
    let rc = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    Errno::result(rc).map(drop)
}

/// Closes every descriptor from `first` to `last`, both included.
///
/// # Errors
/// As close_range(2).
pub fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the callers are long-lived processes that keep no owner of a
    // descriptor in the range (see supervise::daemon).
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    Errno::result(rc).map(drop)
}

/// The version 3 of capset(2): effective, permitted, inheritable.
///
/// # Errors
/// As capset(2).
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    let header: [u32; 2] = [0x2008_0522, 0];
    let data: [u32; 6] = [
        effective as u32,
        permitted as u32,
        inheritable as u32,
        (effective >> 32) as u32,
        (permitted >> 32) as u32,
        (inheritable >> 32) as u32,
    ];
    // SAFETY: header and two data elements as version 3 wants them.
    let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    Errno::result(rc).map(drop)
}

/// prctl(2) with whole numbers only.
///
/// # Errors
/// As prctl(2).
pub fn prctl(option: i32, a: u64, b: u64) -> Result<i32, Errno> {
    // SAFETY: the options used here (PR_SET_*, PR_CAP*) take no pointers.
    let rc = unsafe { libc::prctl(option, a, b, 0u64, 0u64) };
    Errno::result(rc)
}

/// setgroups(2) for this process, by the raw call: glibc's own would signal
/// threads that do not exist here.
///
/// # Errors
/// As setgroups(2).
pub fn setgroups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: pointer and length are of one slice.
    let rc = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Errno::result(rc).map(drop)
}

/// setresgid(2), all three to `gid`.
///
/// # Errors
/// As setresgid(2).
pub fn setgid_all(gid: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    let rc = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    Errno::result(rc).map(drop)
}

/// setresuid(2), all three to `uid`.
///
/// # Errors
/// As setresuid(2).
pub fn setuid_all(uid: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    let rc = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    Errno::result(rc).map(drop)
}

/// The effective uid alone, through the raw call.
///
/// # Errors
/// As setresuid(2).
pub fn seteuid(uid: u32) -> Result<(), Errno> {
    // SAFETY: no pointers; -1 leaves a value as it is.
    let rc = unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
    Errno::result(rc).map(drop)
}

/// setrlimit(2).
///
/// # Errors
/// As setrlimit(2).
pub fn setrlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: limit outlives the call.
    let rc = unsafe { libc::setrlimit64(resource, &raw const limit) };
    Errno::result(rc).map(drop)
}

/// seccomp(2) `SECCOMP_SET_MODE_FILTER` with a program of 8-byte instructions.
/// With `SECCOMP_FILTER_FLAG_NEW_LISTENER` it gives the listener.
///
/// # Errors
/// As seccomp(2); `EINVAL` for a program of odd size.
pub fn seccomp(program: &[u8], flags: u32) -> Result<Option<OwnedFd>, Errno> {
    const NEW_LISTENER: u32 = 1 << 3;
    let len = u16::try_from(program.len() / 8).map_err(|_| Errno::EINVAL)?;
    if !program.len().is_multiple_of(8) || len == 0 {
        return Err(Errno::EINVAL);
    }
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies the program byte by byte and only reads it;
    // len counts whole instructions of the slice.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, 1u32, flags, &raw const prog) };
    if flags & NEW_LISTENER != 0 { owned(rc).map(Some) } else { Errno::result(rc).map(|_| None) }
}

/// execve(2); returns only on failure. `argv` and `envp` end with NULL.
pub fn execve(path: &CStr, argv: &PointerList, envp: &PointerList) -> Errno {
    // SAFETY: both lists are NULL-terminated (PointerList::new) and point into
    // texts that the caller keeps alive.
    unsafe { libc::execve(path.as_ptr(), argv.0.as_ptr(), envp.0.as_ptr()) };
    Errno::last()
}

/// A NULL-terminated list of texts, made before a clone so that the child
/// allocates nothing.
pub struct PointerList(Vec<*const libc::c_char>);

impl PointerList {
    /// The texts must outlive the list; callers build both from one plan.
    pub fn new<T: AsRef<CStr>>(texts: &[T]) -> Self {
        let mut list: Vec<_> = texts.iter().map(|t| t.as_ref().as_ptr()).collect();
        list.push(std::ptr::null());
        Self(list)
    }
}

/// Leaves at once: no destructors, no exit handlers, for children of a clone.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// A fresh session keyring (keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`), so that
/// keys of the caller's session cannot be seen.
///
/// # Errors
/// As keyctl(2).
pub fn new_session_keyring(name: &CStr) -> Result<(), Errno> {
    // SAFETY: name is NUL-terminated and outlives the call.
    let rc = unsafe { libc::syscall(libc::SYS_keyctl, 1u32, name.as_ptr()) };
    Errno::result(rc).map(drop)
}

/// setdomainname(2).
///
/// # Errors
/// As setdomainname(2).
pub fn setdomainname(name: &CStr) -> Result<(), Errno> {
    // SAFETY: pointer and length are of one text.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) }).map(drop)
}

/// getcwd(2) by the raw call, which tells "(unreachable)" where glibc's
/// wrapper would turn it into an error.
///
/// # Errors
/// As getcwd(2).
pub fn getcwd(buffer: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length are of one slice.
    let rc = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    Errno::result(rc).map(drop)
}

/// Takes a lease against writers on a file that is open for reading, and
/// gives it back at once (fcntl(2), `F_SETLEASE`).
///
/// # Errors
/// `EAGAIN`: somebody has it open for writing. As fcntl(2).
pub fn take_read_lease(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: the arguments are whole numbers.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) })?;
    // SAFETY: the arguments are whole numbers.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) }).map(drop)
}

/// Sets a signal's action back to the default.
pub fn default_signal(signal: i32) {
    // SAFETY: SIG_DFL installs no handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Ignores a signal.
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Whether this process ignores a signal.
pub fn ignores(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action the call only writes the present one, for
    // which there is room; all zeros are a valid one should it fail.
    let action = unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

#[repr(C)]
struct IfreqFlags {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    pad: [u8; 22],
}

/// Brings the loopback interface of this network namespace up
/// (`SIOCSIFFLAGS`, netdevice(7)).
///
/// # Errors
/// As netdevice(7).
pub fn loopback_up(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut request = IfreqFlags {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short,
        pad: [0; 22],
    };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: IfreqFlags has the layout and size (40 bytes) of struct ifreq.
    Errno::result(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
    })
    .map(drop)
}
