//! System V objects of another process's IPC namespace (sysvipc(7)).

use std::fs::{self, File};

use nix::sched::{CloneFlags, setns};

/// How many segments, queues and sets of semaphores there are in the IPC
/// namespace of `pid`; `None` where we may not look. /proc/sysvipc shows the
/// reader's own namespace (proc_sysvipc(5)), so this thread goes there and
/// comes back.
pub fn objects(pid: i32) -> Option<u64> {
    let own = File::open("/proc/thread-self/ns/ipc").ok()?;
    let other = File::open(format!("/proc/{pid}/ns/ipc")).ok()?;
    setns(&other, CloneFlags::CLONE_NEWIPC).ok()?;
    let count = ["msg", "sem", "shm"].iter().try_fold(0, |sum, kind| {
        let text = fs::read_to_string(format!("/proc/sysvipc/{kind}")).ok()?;
        // The first line is a heading.
        Some(sum + text.lines().count().saturating_sub(1) as u64)
    });
    setns(&own, CloneFlags::CLONE_NEWIPC).ok()?;
    count
}
