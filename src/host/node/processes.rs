//! Processes (proc(5)).

use std::fs::File;

use super::{Handle, Kind, Thing};
use crate::host::process::Stat;

/// `PF_KTHREAD` of linux/sched.h, in field 9 of /proc/PID/stat.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Clock ticks in a second, as every architecture's /proc has them.
const TICKS: u64 = 100;

/// Every process that is not the kernel's own.
pub fn read() -> Vec<Thing> {
    let booted = boot_time();
    let own = ancestors();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pids = pids.filter(|pid: &i32| !own.contains(pid));
    pids.filter_map(|pid| process(pid, booted)).collect()
}

/// Who asked, back to the first process: a baseline must not expect the shell
/// of the administrator who took it.
fn ancestors() -> Vec<i32> {
    let mut all = vec![std::process::id() as i32];
    while let Some(parent) = all.last().and_then(|pid| parent(*pid)) {
        if parent <= 1 || all.contains(&parent) {
            break;
        }
        all.push(parent);
    }
    all
}

/// When the node was booted, in seconds since 1970.
pub fn boot_time() -> u64 {
    let text = crate::host::text_of("/proc/stat".as_ref()).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

fn process(pid: i32, booted: u64) -> Option<Thing> {
    let mut text = [0; 512];
    let stat = Stat::parse(line(pid, &mut text)?)?;
    let started = stat.started()?;
    // One that only waits to be reaped has nothing left but its number; a
    // first thread can be gone while others run.
    let over = matches!(stat.state()?, b'Z' | b'X') && stat.number(20)? <= 1;
    if stat.number(9)? & KERNEL_THREAD != 0 || over {
        return None;
    }
    let uid = owner(pid)?;
    let groups = crate::host::text_of(format!("/proc/{pid}/cgroup").as_ref()).unwrap_or_default();
    let name = stat.name.escape_ascii().to_string();
    Some(Thing {
        kind: Kind::Process,
        key: format!("{uid} {name}"),
        what: format!("pid {pid} ({name})"),
        owner: Some(uid),
        made: Some(booted + started / TICKS),
        job: groups.lines().find_map(|line| super::groups::job(line.splitn(3, ':').nth(2)?)),
        handle: Handle::Process { pid, started },
    })
}

/// The real uid, which a program with set-user-ID does not change.
pub fn owner(pid: i32) -> Option<u32> {
    let file = File::open(format!("/proc/{pid}/status")).ok()?;
    // It is in the first lines, and the rest is long.
    let mut text = [0; 1024];
    let length = rustix::io::read(&file, &mut text[..]).ok()?;
    let text = String::from_utf8_lossy(&text[..length]);
    let field = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    field.split_ascii_whitespace().next()?.parse().ok()
}

/// The line of /proc/PID/stat, into `text`: what is asked of it is in the first
/// half.
fn line(pid: i32, text: &mut [u8; 512]) -> Option<&[u8]> {
    let file = File::open(format!("/proc/{pid}/stat")).ok()?;
    let length = rustix::io::read(&file, &mut text[..]).ok()?;
    Some(&text[..length])
}

fn parent(pid: i32) -> Option<i32> {
    i32::try_from(Stat::parse(line(pid, &mut [0; 512])?)?.number(4)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_not_among_them() {
        let pid = std::process::id() as i32;
        assert!(
            read().iter().all(|t| !matches!(t.handle, Handle::Process { pid: p, .. } if p == pid))
        );
    }
}
