//! Which tasks there are, and what the kernel tells of them.

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::{Channel, Look, Reading, lines_after, names, number, text, word};
use crate::kernel::sys::{self, Forked};

pub const CHANNELS: &[Channel] = &[
    Channel::new("procs", "/proc/PID", "tasks", |_| number(pids().len() as f64))
        .within(2.0)
        .level(40.0),
    Channel::new("comms", "/proc/PID/comm", "task names", |look| marked("comm", look)).marked(),
    Channel::new("environs", "/proc/PID/environ", "secrets", |look| marked("environ", look))
        .marked(),
    Channel::new("last_pid", "$$", "forks since boot", |_| number(f64::from(next_pid()?)))
        .within(50.0)
        .rate(150.0),
    Channel::new("si_procs", "sysinfo(2) procs", "task count", |_| {
        number(f64::from(crate::kernel::sys::probe::system_info().ok()?.procs))
    })
    .within(8.0)
    .level(40.0),
    Channel::new("timer_list", "/proc/timer_list", "tasks by name", |_| first("/proc/timer_list"))
        .showing(),
    Channel::new("sched_debug", "/proc/sched_debug", "tasks by name", |_| {
        first("/proc/sched_debug")
    })
    .showing(),
    Channel::new("debugfs_sched", "debugfs", "tasks", |_| first("/sys/kernel/debug/sched/debug"))
        .showing(),
    Channel::new("cgroups_n", "/proc/cgroups", "cgroup count", |_| {
        let all = lines_after("/proc/cgroups", 1)?;
        number(all.iter().filter_map(|l| word(l, 2)?.parse::<f64>().ok()).sum::<f64>())
    })
    .within(4.0)
    .level(8.0),
    Channel::new("cgroup_tree", "/sys/fs/cgroup", "siblings", |_| groups().map(Reading::List))
        .same()
        .marked(),
    Channel::new("cgroup_dying", "cgroup.stat", "predecessors", |_| {
        let file = |dir: &str| text(format!("{dir}/cgroup.stat"));
        let stat = file("/sys/fs/cgroup").or_else(|| file("/sys/fs/cgroup/unified"))?;
        number(super::value(&stat, "nr_dying_descendants ")?)
    })
    .within(0.0)
    .level(8.0),
];

fn pids() -> Vec<String> {
    let all = names("/proc").unwrap_or_default();
    all.into_iter().filter(|n| n.bytes().all(|b| b.is_ascii_digit())).collect()
}

/// Of every task's file the pieces that bear the neighbour's tag, and nothing
/// else: there may be secrets of others in it.
fn marked(file: &str, look: &Look) -> Option<Reading> {
    let of = |pid: &String| text(format!("/proc/{pid}/{file}"));
    let all: Vec<String> = pids().iter().filter_map(of).collect();
    let pieces = all.iter().flat_map(|text| text.split(['\0', '\n']));
    let found: Vec<&str> = pieces.filter(|piece| piece.contains(&look.tag)).collect();
    // The tag in the reader's own variables is the caller's, another channel.
    let own = |piece: &&&str| !piece.starts_with(super::super::run::VARIABLE);
    Some(Reading::List(found.iter().filter(own).take(16).map(|p| (*p).to_owned()).collect()))
}

fn next_pid() -> Option<i32> {
    match sys::clone3(0, None).ok()? {
        Forked::Child => sys::exit_now(0),
        Forked::Parent(pid) => {
            let _ = waitpid(Pid::from_raw(pid), None);
            Some(pid)
        }
    }
}

fn first(path: &str) -> Option<Reading> {
    Some(Reading::List(lines_after(path, 0)?.into_iter().take(1).collect()))
}

/// Two levels of control groups, as far as /sys/fs/cgroup shows them.
fn groups() -> Option<Vec<String>> {
    let dirs = |path: &str| {
        let all = names(path).unwrap_or_default();
        let full = all.into_iter().map(|name| format!("{path}/{name}"));
        full.filter(|p| std::fs::symlink_metadata(p).is_ok_and(|m| m.is_dir())).collect::<Vec<_>>()
    };
    std::fs::metadata("/sys/fs/cgroup").ok()?;
    let first = dirs("/sys/fs/cgroup");
    let mut all: Vec<String> = first.iter().flat_map(|dir| dirs(dir)).collect();
    all.extend(first);
    all.truncate(4096);
    Some(all)
}
