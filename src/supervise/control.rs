//! What is done to the processes of a container that runs: signals, pause,
//! resume; and which they are.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::container::Refusal;
use crate::kernel::cgroup;
use crate::kernel::sys;
use crate::problem::Problem;
use crate::record::container::{Record, Status, Store};

/// How long processes may take to go on.
const PATIENCE: Duration = Duration::from_secs(1);

/// `kill`: one signal to the first process, or to all. SIGKILL also ends what
/// is paused.
///
/// # Errors
/// The container does not run, or a process cannot be sent the signal.
pub fn kill(store: &Store, id: &str, signal: i32, all: bool) -> Result<(), Refusal> {
    let record = store.load(id)?;
    if all {
        for pid in members(&record)? {
            let sent = sys::pidfd_open(pid)
                .and_then(|pidfd| sys::pidfd_send_signal(pidfd.as_fd(), signal));
            match sent {
                // It has ended by itself.
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(e) => return Err(unsent(&record, signal, e).into()),
            }
        }
    } else {
        let pidfd = record.init.and_then(|p| p.open()).ok_or_else(|| not_running(id))?;
        sys::pidfd_send_signal(pidfd.as_fd(), signal).map_err(|e| unsent(&record, signal, e))?;
    }
    if signal == libc::SIGKILL {
        wake(&record)?;
    }
    Ok(())
}

/// Callers of runc look for the words `container not running`.
fn not_running(id: &str) -> Problem {
    Problem::user(format!("container not running: {id:?}"))
        .hint("denovo state shows what it is; denovo delete removes what is left")
}

fn unsent(record: &Record, signal: i32, errno: nix::errno::Errno) -> Problem {
    Problem::user(format!("container {:?}: signal {signal}: {}", record.id, errno.desc()))
}

/// Lets processes that were sent SIGKILL go on, without which those in a v1
/// freezer do not end (kernel document cgroup-v1/freezer-subsystem).
///
/// # Errors
/// The group cannot be written.
pub fn wake(record: &Record) -> Result<(), Problem> {
    if cgroup::frozen(&record.cgroup)? {
        cgroup::thaw(&record.cgroup)?;
    }
    Ok(())
}

/// The container's processes, ascending, as the caller numbers them: those in
/// its control groups; where it has none, those in its pid namespace, or else
/// its first process alone.
///
/// # Errors
/// A control group cannot be read.
pub fn members(record: &Record) -> Result<Vec<i32>, Problem> {
    if !record.cgroup.groups.is_empty() {
        return Ok(cgroup::pids(&record.cgroup)?);
    }
    let Some(init) = record.init.filter(|init| init.alive()) else { return Ok(Vec::new()) };
    let namespace = |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns/pid")).ok();
    let own = namespace(&init.pid.to_string());
    if own.is_none() || own == namespace("self") {
        return Ok(vec![init.pid]);
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<i32> = numbers
        .filter(|name| namespace(name) == own)
        .filter_map(|name| name.parse().ok())
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// `pause`: stops every process where it is, and waits until all have.
///
/// # Errors
/// The container neither runs nor waits for start, has no group to be frozen
/// by, or does not stop; it goes on then.
pub fn pause(store: &Store, id: &str) -> Result<(), Refusal> {
    let record = store.load(id)?;
    let status = store.status(&record);
    if !matches!(status, Status::Running | Status::Created) {
        return Err(Problem::user(format!(
            "container {id:?} cannot be paused: it is {}",
            status.name()
        ))
        .hint("only a container that runs can be paused")
        .into());
    }
    if cgroup::freezing_group(&record.cgroup).is_none() {
        return Err(Problem::site(format!(
            "container {id:?} cannot be paused: it has no control group that can freeze it"
        ))
        .hint(
            "make it as root, or where a control group is delegated to the user \
             (systemd-run --user --scope -p Delegate=yes denovo …)",
        )
        .into());
    }
    cgroup::freeze(&record.cgroup).map_err(Problem::from)?;
    Ok(())
}

/// `resume`: lets the processes of a paused container go on.
///
/// # Errors
/// The container is not paused, or the kernel refuses.
pub fn resume(store: &Store, id: &str) -> Result<(), Refusal> {
    let record = store.load(id)?;
    let status = store.status(&record);
    if status != Status::Paused {
        return Err(Problem::user(format!(
            "container {id:?} cannot be resumed: it is {}, not paused",
            status.name()
        ))
        .hint("denovo pause stops a container that runs")
        .into());
    }
    cgroup::thaw(&record.cgroup).map_err(Problem::from)?;
    // Thawed itself, it stays as it is below a group that is frozen.
    let end = Instant::now() + PATIENCE;
    while cgroup::frozen(&record.cgroup).map_err(Problem::from)? {
        if Instant::now() < end {
            std::thread::sleep(Duration::from_micros(500));
            continue;
        }
        return Err(Problem::site(format!(
            "container {id:?} stays paused: a control group above its own is frozen"
        ))
        .hint("whoever froze it, such as a scheduler, has to thaw it")
        .into());
    }
    Ok(())
}
