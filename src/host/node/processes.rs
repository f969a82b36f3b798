//! Processes (proc(5)).

use std::fs::File;

use super::{Handle, Kind, Thing};

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
    while let Some(parent) = all.last().and_then(|pid| stat(*pid)).map(|s| s.parent) {
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
    let stat = stat(pid)?;
    // One that only waits to be reaped has nothing left but its number; a
    // first thread can be gone while others run.
    let over = matches!(stat.state, 'Z' | 'X') && stat.threads <= 1;
    if stat.flags & KERNEL_THREAD != 0 || over {
        return None;
    }
    let uid = owner(pid)?;
    let groups = crate::host::text_of(format!("/proc/{pid}/cgroup").as_ref()).unwrap_or_default();
    let name = stat.name.as_bytes().escape_ascii().to_string();
    Some(Thing {
        kind: Kind::Process,
        key: format!("{uid} {name}"),
        what: format!("pid {pid} ({name})"),
        owner: Some(uid),
        made: Some(booted + stat.started / TICKS),
        job: groups.lines().find_map(|line| super::groups::job(line.splitn(3, ':').nth(2)?)),
        handle: Handle::Process { pid, started: stat.started },
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

/// Fields of /proc/PID/stat (proc_pid_stat(5)).
pub struct Stat {
    pub name: String,
    pub state: char,
    pub parent: i32,
    pub flags: u64,
    pub threads: u64,
    /// Clock ticks after boot.
    pub started: u64,
}

/// Of a process that is there.
pub fn stat(pid: i32) -> Option<Stat> {
    let file = File::open(format!("/proc/{pid}/stat")).ok()?;
    let mut text = [0; 512];
    let length = rustix::io::read(&file, &mut text[..]).ok()?;
    parse(&String::from_utf8_lossy(&text[..length]))
}

/// The name in parentheses can hold anything, so fields count from its end.
fn parse(text: &str) -> Option<Stat> {
    let (start, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        name: start.split_once('(')?.1.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        flags: fields.get(6)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_over_any_name() {
        let line = "7 (a) b (c)) S 1 7 7 0 -1 2097152 0 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let stat = parse(line).unwrap();
        assert_eq!((&*stat.name, stat.state, stat.parent), ("a) b (c)", 'S', 1));
        assert_eq!((stat.flags & KERNEL_THREAD != 0, stat.started), (true, 4242));
    }

    #[test]
    fn who_asks_is_not_among_them() {
        let pid = std::process::id() as i32;
        assert!(
            read().iter().all(|t| !matches!(t.handle, Handle::Process { pid: p, .. } if p == pid))
        );
    }
}
