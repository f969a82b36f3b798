//! Signals that end denovo while something is being made: what is made is
//! taken back first.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::container::Refusal;
use crate::kernel::sys;
use crate::problem::Problem;

const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// Ending signals, held back and waited for beside whatever else is.
pub struct Interrupts {
    fd: SignalFd,
    before: SigSet,
}

impl Interrupts {
    /// Holds them back from here on; one that the caller has ignored (as
    /// nohup does) stays without effect.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn hold() -> Result<Self, Problem> {
        let mut set = SigSet::empty();
        for signal in ENDING {
            // Blocked, it would be delivered although it is ignored.
            if !sys::ignores(signal as i32) {
                set.add(signal);
            }
        }
        let mut before = SigSet::empty();
        let failed = |e: Errno| Problem::kernel(format!("signalfd: {}", e.desc()));
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before)).map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { fd: SignalFd::with_flags(&set, flags).map_err(failed)?, before })
    }

    /// Waits until `fd` can be read.
    ///
    /// # Errors
    /// A signal came first; the exit code is 128 and its number.
    pub fn wait(&self, fd: BorrowedFd<'_>) -> Result<(), Refusal> {
        loop {
            let mut fds = [
                PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
                PollFd::new(fd, PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(Problem::kernel(format!("poll: {}", e.desc())).into()),
            }
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            // First, for it may say that all is done: then the signal is for
            // the process that runs.
            if ready(&fds[1]) {
                return Ok(());
            }
            if ready(&fds[0]) {
                self.check()?;
            }
        }
    }

    /// Sleeps for so long.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn rest(&self, time: Duration) -> Result<(), Refusal> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut fds, time);
        self.check()
    }

    /// Whether a signal has come.
    ///
    /// # Errors
    /// It has; as [`Self::wait`].
    pub fn check(&self) -> Result<(), Refusal> {
        match self.fd.read_signal() {
            Ok(Some(info)) => {
                let number = info.ssi_signo as i32;
                let name = Signal::try_from(number).map_or("a signal", Signal::as_str);
                let problem = Problem::user(format!(
                    "{name} came before everything was made, so it was taken back"
                ))
                .hint("nothing is left of it; give the command again");
                Err(Refusal { problems: vec![problem], code: 128 + number })
            }
            _ => Ok(()),
        }
    }
}

impl Interrupts {
    /// Everything is made: what comes too late to take it back is dropped, so
    /// that the exit code tells what stands.
    pub fn too_late(self) {
        while matches!(self.fd.read_signal(), Ok(Some(_))) {}
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Interrupts {
    /// What came in the meantime has its usual effect now.
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}
