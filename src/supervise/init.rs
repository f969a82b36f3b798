//! The first process of a job's environment: reaps what others leave behind
//! and ends with its monitor, whereupon the kernel ends all the rest.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::kernel::channel::{self, Channel, receive_with, send_with};
use crate::kernel::launch::{Born, Failure};
use crate::kernel::sys;
use crate::policy::spec::Kind;

/// The namespaces that a joining process enters, in this order, and their
/// names in /proc/PID/ns. Init's own clocks stay the node's: only its
/// children are in the new time namespace.
pub const NAMESPACES: [(Kind, &std::ffi::CStr); 8] = [
    (Kind::User, c"/proc/self/ns/user"),
    (Kind::Cgroup, c"/proc/self/ns/cgroup"),
    (Kind::Ipc, c"/proc/self/ns/ipc"),
    (Kind::Uts, c"/proc/self/ns/uts"),
    (Kind::Net, c"/proc/self/ns/net"),
    (Kind::Pid, c"/proc/self/ns/pid"),
    (Kind::Time, c"/proc/self/ns/time_for_children"),
    (Kind::Mount, c"/proc/self/ns/mnt"),
];

/// The first packet of init: its namespaces, or why it failed.
///
/// # Errors
/// What init could not do, in its own words.
pub fn namespaces(born: &Born) -> Result<Vec<(Kind, OwnedFd)>, Failure> {
    let mut buffer = [0u8; 1024];
    let died =
        |errno| Failure { step: None, call: "the environment's init".into(), errno, note: None };
    let (length, fds) = receive_with(born.channel.as_owned(), &mut buffer).map_err(died)?;
    if buffer[..length] == *b"n" && fds.len() == NAMESPACES.len() {
        let all = NAMESPACES.iter().zip(fds);
        return Ok(all
            .filter(|((_, own), fd)| differs(own, fd))
            .map(|((kind, _), fd)| (*kind, fd))
            .collect());
    }
    match channel::parse(&buffer[..length], None) {
        Ok(channel::Heard::Failed { step, errno, call }) => {
            Err(Failure { step: Some(step), call, errno, note: None })
        }
        _ => Err(died(Errno::ECONNRESET)),
    }
}

/// Whether a namespace is another than ours: the node's own need not be
/// entered, and could not be from inside the new user namespace.
fn differs(own: &std::ffi::CStr, theirs: &OwnedFd) -> bool {
    let own = nix::sys::stat::stat(own).map(|s| (s.st_dev, s.st_ino));
    nix::sys::stat::fstat(theirs).map(|s| (s.st_dev, s.st_ino)) != own
}

/// Runs as pid 1 until the monitor is gone; gives the exit code.
pub fn main(monitor: &Channel) -> i32 {
    let Ok(signals) = settle(monitor) else { return 125 };
    sys::shrink();
    loop {
        let mut fds = [
            PollFd::new(monitor.as_owned().as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        if fds[0].revents().is_some_and(|r| !r.is_empty()) {
            return 0;
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        reap();
    }
}

/// Hands the namespaces out, gives up every privilege.
fn settle(monitor: &Channel) -> nix::Result<SignalFd> {
    let mut held: Vec<OwnedFd> = Vec::with_capacity(NAMESPACES.len());
    for (_, path) in NAMESPACES {
        held.push(open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?);
    }
    let numbers: Vec<i32> = held.iter().map(AsRawFd::as_raw_fd).collect();
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    sys::set_process_name(c"init")?;
    sys::set_command_line(b"init");
    let mut wanted = SigSet::empty();
    wanted.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&wanted, flags)?;
    send_with(monitor.as_owned(), b"n", &numbers)?;
    sys::capset(0, 0, 0)?;
    Ok(signals)
}

fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
