//! Processes of denovo's that outlive the command which made them.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::kernel::sys;

/// Away from the caller's terminal, directory and descriptors: a pipe held
/// open here would keep its reader waiting for as long as the job runs. No
/// signal but SIGKILL ends this process from here on.
///
/// # Errors
/// As open(2) of /dev/null and close_range(2).
pub fn apart(keep: &[&OwnedFd]) -> Result<(), Errno> {
    let _ = nix::unistd::setsid();
    nix::unistd::chdir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let null = open(c"/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    crate::kernel::files::become_stdio(null.as_fd())?;
    drop(null);
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut next = 3;
    for fd in keep {
        if next < fd {
            sys::close_range(next, fd - 1)?;
        }
        next = fd + 1;
    }
    sys::close_range(next, u32::MAX)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
}
