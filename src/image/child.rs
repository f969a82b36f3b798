//! Programs that work for this process, and end with it.
//!
//! Each has a process group of its own, so that a terminal's Ctrl-C reaches
//! this process alone, which then ends them in order.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

/// How long a program may take to clean up after itself: a root of Debian's
/// packages is many files to remove.
const PATIENCE: Duration = Duration::from_secs(20);

/// Process groups of programs that were not waited for yet.
static RUNNING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// A program that [`end_all`] knows of until this is dropped.
pub struct Child(std::process::Child);

impl Child {
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        // A child begins with the signals blocked that this thread blocks,
        // and one that blocks SIGTERM would never end. For this moment a
        // signal ends us without more; what that leaves is swept later.
        running(|all| {
            let before = SigSet::thread_get_mask()?;
            SigSet::empty().thread_set_mask()?;
            let child = command.process_group(0).spawn();
            before.thread_set_mask()?;
            let child = child?;
            all.push(child.id() as i32);
            Ok(Self(child))
        })
    }
}

impl Deref for Child {
    type Target = std::process::Child;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Child {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let own = self.0.id() as i32;
        running(|all| all.retain(|pid| *pid != own));
    }
}

fn running<T>(act: impl FnOnce(&mut Vec<i32>) -> T) -> T {
    act(&mut RUNNING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Tells all programs to end, and waits until whoever started them has seen
/// that they did.
pub fn end_all() {
    let tell = |signal| {
        running(|all| {
            all.retain(|group| killpg(Pid::from_raw(*group), signal) != Err(Errno::ESRCH));
            all.is_empty()
        })
    };
    let until = Instant::now() + PATIENCE;
    let mut over = tell(Some(Signal::SIGTERM));
    while !over && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
        over = tell(None);
    }
    tell(Some(Signal::SIGKILL));
}
