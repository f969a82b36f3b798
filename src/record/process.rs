//! Naming a process so that a recycled pid is not taken for it.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::kernel::sys;

/// A process by pid and start time (field 22 of /proc/PID/stat, proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessName {
    pub pid: i32,
    /// Clock ticks after boot.
    pub started: u64,
}

/// Fields of /proc/PID/stat that we use.
struct Stat {
    state: u8,
    started: u64,
}

impl ProcessName {
    /// Names a process that runs now.
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|s| Self { pid, started: s.started })
    }

    pub fn own() -> Option<Self> {
        Self::of(std::process::id() as i32)
    }

    /// Whether it still runs; one that only waits to be reaped does not.
    pub fn alive(&self) -> bool {
        stat(self.pid)
            .is_some_and(|s| s.started == self.started && s.state != b'Z' && s.state != b'X')
    }

    /// A descriptor for just this process: opened first, compared second, so
    /// that no other can slip in.
    pub fn open(&self) -> Option<OwnedFd> {
        let pidfd = sys::pidfd_open(self.pid).ok()?;
        self.alive().then_some(pidfd)
    }
}

fn stat(pid: i32) -> Option<Stat> {
    let file = std::fs::File::open(format!("/proc/{pid}/stat")).ok()?;
    // The fields asked for are in the first half of it.
    let mut text = [0; 512];
    let length = rustix::io::read(&file, &mut text[..]).ok()?;
    parse(&text[..length])
}

/// The name in parentheses can hold anything, so fields count from its end.
fn parse(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&text[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, started })
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

    #[test]
    fn a_name_with_parentheses_and_blanks_is_read_over() {
        let line = b"7 (a) b (c)) S 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let stat = parse(line).expect("parsed");
        assert_eq!((stat.state, stat.started), (b'S', 4242));
    }
}
