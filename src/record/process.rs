//! Naming a process so that a recycled pid is not taken for it.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::host::process::Stat;
use crate::kernel::sys;

/// A process by pid and start time (field 22 of /proc/PID/stat, proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessName {
    pub pid: i32,
    /// Clock ticks after boot.
    pub started: u64,
}

impl ProcessName {
    /// Names a process that runs now.
    pub fn of(pid: i32) -> Option<Self> {
        seen(pid).map(|(_, started)| Self { pid, started })
    }

    pub fn own() -> Option<Self> {
        Self::of(std::process::id() as i32)
    }

    /// Whether it still runs; one that only waits to be reaped does not.
    pub fn alive(&self) -> bool {
        seen(self.pid).is_some_and(|(state, started)| {
            started == self.started && state != b'Z' && state != b'X'
        })
    }

    /// A descriptor for just this process: opened first, compared second, so
    /// that no other can slip in.
    pub fn open(&self) -> Option<OwnedFd> {
        let pidfd = sys::pidfd_open(self.pid).ok()?;
        self.alive().then_some(pidfd)
    }
}

/// State and start.
fn seen(pid: i32) -> Option<(u8, u64)> {
    let file = std::fs::File::open(format!("/proc/{pid}/stat")).ok()?;
    // The fields asked for are in the first half of it.
    let mut text = [0; 512];
    let length = rustix::io::read(&file, &mut text[..]).ok()?;
    let stat = Stat::parse(&text[..length])?;
    Some((stat.state()?, stat.started()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive_and_another_start_time_is_not_it() {
        let own = ProcessName::own().expect("own stat");
        assert!(own.alive());
        assert!(!ProcessName { started: own.started + 1, ..own }.alive());
    }
}
