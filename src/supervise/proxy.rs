//! Stands in the caller's place for a process inside: hands signals and the
//! terminal through, waits, gives its exit status.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::terminal::Relay;
use crate::kernel::sys;

/// Signals held back while something is started, so that none is lost.
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Blocks every signal that can be; they are read from here on.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn hold() -> Result<Self, Errno> {
        let mut before = SigSet::empty();
        let all = SigSet::all();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut before))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { fd: SignalFd::with_flags(&all, flags)?, before })
    }

    /// The mask that the caller had, for the process inside.
    pub fn before(&self) -> SigSet {
        self.before
    }
}

/// A tenth of a second, in milliseconds.
const SETTLE_AFTER: u16 = 100;

/// What a wait came to.
enum Turn {
    Ended,
    Event,
    /// Nothing happened for as long as it was to wait.
    Quiet,
}

/// One process inside and what belongs to it out here.
pub struct Proxy<'a> {
    pub pid: i32,
    pub pidfd: &'a OwnedFd,
    pub relay: Option<Relay>,
    pub signals: &'a Signals,
    /// Whether the process is in our own process group: the terminal's
    /// signals reach it without our help then.
    pub shares_group: bool,
}

impl Proxy<'_> {
    /// Waits until the process ends; gives its exit code, 128+n for signal n.
    pub fn wait(mut self) -> i32 {
        // What ends at once needs no room made for it; what goes on may go
        // on for days.
        let mut timeout = PollTimeout::from(SETTLE_AFTER);
        loop {
            match self.turn(timeout) {
                Turn::Ended => break,
                Turn::Quiet => {
                    sys::shrink();
                    timeout = PollTimeout::NONE;
                }
                Turn::Event => {}
            }
        }
        if let Some(relay) = &self.relay {
            relay.drain();
        }
        exit_code(self.pid)
    }

    /// Sleeps until something happens, and handles it.
    fn turn(&mut self, timeout: PollTimeout) -> Turn {
        let stdin = std::io::stdin();
        let mut fds = vec![
            PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.fd.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(relay) = &self.relay {
            fds.push(PollFd::new(relay.master(), PollFlags::POLLIN));
            if relay.reads_input {
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut fds, timeout) {
            Ok(0) => return Turn::Quiet,
            Ok(_) => {}
            Err(_) => return Turn::Event,
        }
        let ready: Vec<bool> =
            fds.iter().map(|fd| fd.revents().is_some_and(|r| !r.is_empty())).collect();
        drop(fds);
        if ready[1] {
            self.pass_signals();
        }
        if let Some(relay) = &mut self.relay {
            if ready.get(3) == Some(&true) {
                relay.forward_input();
            }
            if ready.get(2) == Some(&true) && !relay.forward_output() {
                self.relay = None;
            }
        }
        if self.relay.as_ref().is_some_and(Relay::vanished) {
            self.hang_up();
        }
        if ready[0] { Turn::Ended } else { Turn::Event }
    }

    /// The caller's terminal is gone, so the one inside goes too. The kernel
    /// then sends SIGHUP, but never ends a namespace's first process by a
    /// signal that it left at its default; we do in its place.
    fn hang_up(&mut self) {
        self.relay = None;
        // Standard error may be a file, or the terminal that is no more.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"denovo: the terminal is gone, so the program that used it is ended\n  hint: start it in tmux or screen, or without a terminal (stdin from /dev/null)\n",
        );
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGHUP);
        if by_default(self.pid, libc::SIGHUP) {
            let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        }
    }

    fn pass_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.fd.read_signal() {
            let signal = info.ssi_signo as i32;
            // The kernel tells a whole foreground group of ^C and the like.
            let from_terminal = info.ssi_code == libc::SI_KERNEL;
            match signal {
                libc::SIGCHLD => {}
                libc::SIGWINCH if self.relay.is_some() => {
                    if let Some(relay) = &self.relay {
                        relay.resize();
                    }
                }
                libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU if self.shares_group => {
                    stop_self();
                }
                _ if from_terminal && self.shares_group => {}
                _ => {
                    let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), signal);
                }
            }
        }
    }
}

/// Whether the process neither catches nor ignores a signal (proc(5),
/// /proc/PID/status).
fn by_default(pid: i32, signal: i32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let set = |name: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    let handled = set("SigCgt:").zip(set("SigIgn:")).map(|(caught, ignored)| caught | ignored);
    handled.is_some_and(|set| set & 1 << (signal - 1) == 0)
}

/// Stops as the job control of a shell expects it of the process it started.
fn stop_self() {
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
}

/// Reaps the process; 128+n when signal n ended it.
pub fn exit_code(pid: i32) -> i32 {
    loop {
        match waitid(Id::Pid(nix::unistd::Pid::from_raw(pid)), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Err(Errno::EINTR) | Ok(_) => {}
            Err(_) => return 125,
        }
    }
}
