//! From the process that built the environment to the one that was asked for.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Fault, Named, sys};
use crate::policy::spec::{Capabilities, User};
use crate::policy::text::CText;

/// The ids of the new user namespace under which the root is built.
pub(super) fn setup_user(uid: u32, gid: u32) -> Result<(), Fault> {
    // Groups stay: an unprivileged gid map forbids setgroups(2), and those
    // that are not mapped give no more than the caller has anyway.
    sys::setgid_all(gid).named("setresgid in the user namespace")?;
    // Capabilities of the new namespace survive this: it is to the uid that
    // this process has already, or to 0.
    sys::setuid_all(uid).named("setresuid in the user namespace")
}

/// setsid(2); a process that already leads a group stays as it is.
pub(super) fn new_session() -> Result<(), Fault> {
    match nix::unistd::setsid() {
        Ok(_) | Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(Fault { call: "setsid", errno }),
    }
}

/// Kernels without keyrings and callers whose filter forbids them have none
/// to leak.
pub(super) fn new_keyring(name: &CText) -> Result<(), Fault> {
    match sys::new_session_keyring(name.as_c_str()) {
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM | Errno::EDQUOT | Errno::EACCES) => Ok(()),
        Err(errno) => Err(Fault { call: "keyctl", errno }),
    }
}

pub(super) fn loopback() -> Result<(), Fault> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .named("socket")?;
    sys::loopback_up(any.as_fd()).named("SIOCSIFFLAGS of lo")
}

pub(super) fn domainname(name: &CText) -> Result<(), Fault> {
    sys::setdomainname(name.as_c_str()).named("setdomainname")
}

pub(super) fn umask(mask: u32) -> Result<(), Fault> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
    Ok(())
}

/// sched_setaffinity(2) of this process, which its children inherit.
///
/// # Errors
/// As sched_setaffinity(2); `EINVAL` for a CPU above 1023.
pub fn affinity(cpus: &[u32]) -> Result<(), Fault> {
    let mut set = nix::sched::CpuSet::new();
    for cpu in cpus {
        set.set(*cpu as usize).named("CPU_SET")?;
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).named("sched_setaffinity")
}

/// Groups, gid, uid and the five capability sets, in the order in which each
/// is still allowed; then proof that the ids are what was asked.
pub(super) fn become_user(user: &User, capabilities: Option<&Capabilities>) -> Result<(), Fault> {
    if let Some(sets) = capabilities {
        drop_bounding(sets.bounding)?;
        sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).named("prctl(KEEPCAPS)")?;
    }
    if let Some(groups) = &user.groups {
        match sys::setgroups(groups) {
            Ok(()) => {}
            // Denied in a user namespace without privilege outside; then the
            // only groups are the caller's own and none was asked for.
            Err(Errno::EPERM) if groups.is_empty() => {}
            Err(errno) => return Err(Fault { call: "setgroups", errno }),
        }
    }
    sys::setgid_all(user.gid).named("setresgid")?;
    sys::setuid_all(user.uid).named("setresuid")?;
    let ids = (
        nix::unistd::getresuid().named("getresuid")?,
        nix::unistd::getresgid().named("getresgid")?,
    );
    let uids = [ids.0.real.as_raw(), ids.0.effective.as_raw(), ids.0.saved.as_raw()];
    let gids = [ids.1.real.as_raw(), ids.1.effective.as_raw(), ids.1.saved.as_raw()];
    if uids != [user.uid; 3] || gids != [user.gid; 3] {
        return Err(Fault { call: "check of the process's ids", errno: Errno::EPERM });
    }
    if let Some(sets) = capabilities {
        sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).named("prctl(KEEPCAPS)")?;
        sys::capset(sets.effective, sets.permitted, sets.inheritable).named("capset")?;
        raise_ambient(sets.ambient & sets.permitted & sets.inheritable)?;
    }
    Ok(())
}

fn drop_bounding(keep: u64) -> Result<(), Fault> {
    for capability in 0..64u64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        match sys::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(_) => {}
            // Past the last capability that this kernel knows.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(Fault { call: "prctl(CAPBSET_DROP)", errno }),
        }
    }
    Ok(())
}

fn raise_ambient(set: u64) -> Result<(), Fault> {
    const RAISE: u64 = 2;
    const CLEAR_ALL: u64 = 4;
    match sys::prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL, 0) {
        Ok(_) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(Fault { call: "prctl(CAP_AMBIENT)", errno }),
    }
    for capability in (0..64u64).filter(|c| set & (1 << c) != 0) {
        sys::prctl(libc::PR_CAP_AMBIENT, RAISE, capability).named("prctl(CAP_AMBIENT)")?;
    }
    Ok(())
}

/// chdir(2), then proof that the directory is below this root: a descriptor
/// of the node's could hide behind /proc/self/fd (CVE-2024-21626).
pub(super) fn working_directory(path: &CText) -> Result<(), Fault> {
    nix::unistd::chdir(path.as_c_str()).named("chdir")?;
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    match sys::getcwd(&mut buffer) {
        // The kernel says "(unreachable)…" of what is outside this root.
        Ok(()) if buffer[0] == b'/' => Ok(()),
        Ok(()) => {
            Err(Fault { call: "check that the working directory is inside", errno: Errno::ENOENT })
        }
        // A filter may hold already that knows no getcwd(2).
        Err(Errno::EPERM | Errno::ENOSYS) => climb_to_root(),
        Err(errno) => Err(Fault { call: "getcwd", errno }),
    }
}

/// Proof without getcwd(2) that the working directory is below this root: the
/// way up ends there.
fn climb_to_root() -> Result<(), Fault> {
    use nix::fcntl::{AT_FDCWD, OFlag, openat};
    use nix::sys::stat::{Mode, fstat};
    let open = |below: std::os::fd::BorrowedFd<'_>, name: &std::ffi::CStr| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(below, name, flags, Mode::empty()).named("open of a directory above")?;
        let stat = fstat(&fd).named("fstat of a directory above")?;
        Ok::<_, Fault>((fd, (stat.st_dev, stat.st_ino)))
    };
    let (_, root) = open(AT_FDCWD, c"/")?;
    let (mut at, mut place) = open(AT_FDCWD, c".")?;
    while place != root {
        let (above, next) = open(at.as_fd(), c"..")?;
        if next == place {
            let call = "check that the working directory is inside";
            return Err(Fault { call, errno: Errno::ENOENT });
        }
        (at, place) = (above, next);
    }
    Ok(())
}

/// The first directory that there is.
pub(super) fn first_directory(all: &[CText]) -> Result<(), Fault> {
    let mut last = Err(Fault { call: "chdir", errno: Errno::ENOENT });
    for path in all {
        last = working_directory(path);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Whether the path names a file that this process may execute. The seccomp
/// filter may hold already: the oldest calls come first, which every profile
/// has, and one that is refused leaves the answer to execve(2).
pub(super) fn executable(path: &CText) -> Result<(), Errno> {
    use nix::fcntl::{AT_FDCWD, AtFlags};
    use nix::unistd::{AccessFlags, access, faccessat};
    let answer = match access(path.as_c_str(), AccessFlags::X_OK) {
        // For another uid than 0 it does not look at capabilities.
        Err(Errno::EACCES) => {
            let flags = AtFlags::AT_EACCESS;
            match faccessat(AT_FDCWD, path.as_c_str(), AccessFlags::X_OK, flags) {
                Err(Errno::EPERM | Errno::ENOSYS) => Err(Errno::EACCES),
                answer => answer,
            }
        }
        answer => answer,
    };
    let mode = answer.and_then(|()| nix::sys::stat::stat(path.as_c_str())).map(|s| s.st_mode);
    match mode {
        Ok(mode) if mode & libc::S_IFMT == libc::S_IFDIR => Err(Errno::EACCES),
        // execve(2) itself gives neither for want of a permission on a file.
        Ok(_) | Err(Errno::EPERM | Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Signal handling as a program expects to find it: only what the caller
/// blocked, nothing ignored (Rust's own start ignores SIGPIPE).
pub(super) fn default_signals(mask: &nix::sys::signal::SigSet) {
    use nix::sys::signal::{SigmaskHow, Signal, sigprocmask};
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None);
    sys::default_signal(Signal::SIGPIPE as i32);
}
