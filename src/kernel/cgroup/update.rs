//! Changes the limits of groups that stand: all that is asked, or none.

use nix::errno::Errno;

use super::directory::Directory;
use super::{CgroupError, apply};
use crate::plan::cgroup::{CgroupPlan, CgroupStep, Place, Version};
use crate::request::resources::InForce;

/// Reads the limits that an update is to be understood beside.
pub fn in_force(plan: &CgroupPlan) -> InForce {
    let mut found = InForce::default();
    let open = |controller: &str| Directory::open(&plan.with(controller)?.at).ok();
    if let Some(group) = open("memory") {
        found.together = group.version == Version::V1;
        let file = if found.together { "memory.limit_in_bytes" } else { "memory.max" };
        found.memory = bytes(&group, file);
        if found.together {
            found.memory_and_swap = bytes(&group, "memory.memsw.limit_in_bytes");
        }
    }
    if let Some(group) = open("cpu") {
        let text = |file| group.read(file).unwrap_or_default();
        let (quota, period) = match group.version {
            Version::V1 => (text("cpu.cfs_quota_us"), text("cpu.cfs_period_us")),
            Version::V2 => {
                let both = text("cpu.max");
                let (quota, period) = both.split_once(' ').unwrap_or_default();
                (quota.replace("max", "-1"), period.to_owned())
            }
        };
        found.quota = quota.trim().parse().ok();
        found.period = period.trim().parse().ok();
    }
    found
}

/// Bytes of a limit; `None` for one that limits nothing, which v1 shows as the
/// largest number of pages.
fn bytes(group: &Directory, file: &str) -> Option<i64> {
    const NO_LIMIT: i64 = i64::MAX - (1 << 16);
    group.read(file).ok()?.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT)
}

/// Takes the steps in order. One that is refused for its value is tried again
/// after the others: some bound each other (a quota, and the burst beyond it).
/// When it is refused again, the files that the steps wrote, or may have
/// written, get back what they held.
///
/// # Errors
/// The first [`CgroupError`].
pub fn change(steps: &[CgroupStep]) -> Result<(), CgroupError> {
    let mut before = Vec::new();
    let mut again = Vec::new();
    let result = steps.iter().try_for_each(|step| {
        remember(step, &mut before)?;
        match apply(step) {
            Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::EBUSY)) => {
                again.push(step);
                Ok(())
            }
            result => result,
        }
    });
    let result = result.and_then(|()| again.into_iter().try_for_each(apply));
    if result.is_err() {
        // Twice: one file may be refused until another one is back.
        for (at, file, value, held) in before.iter().rev().chain(before.iter().rev()) {
            // The first error is the one to report.
            let _ = Directory::open(at).map(|group| restore(&group, file, value, held));
        }
    }
    result
}

/// A file of a group, what a step writes to it, and what it held.
type Held<'a> = (&'a Place, String, String, String);

fn remember<'a>(step: &'a CgroupStep, before: &mut Vec<Held<'a>>) -> Result<(), CgroupError> {
    let CgroupStep::Set { at, setting } = step else { return Ok(()) };
    let group = Directory::open(at)?;
    for (file, value) in setting.choices(at.version).into_iter().flatten() {
        // One that is not there is refused by the step, or left out.
        if let Ok(held) = group.read(&file) {
            before.push((at, file, value, held));
        }
    }
    Ok(())
}

/// Writes what a file held, in the terms in which it is written.
fn restore(group: &Directory, file: &str, written: &str, held: &str) {
    let held = held.trim();
    if let Some(line) = was(file, written, held) {
        let _ = group.write(file, &line);
    }
}

/// What to write to `file`, which holds `held`, to take `written` back.
fn was(file: &str, written: &str, held: &str) -> Option<String> {
    let first = written.split_whitespace().next()?;
    if file == "memory.oom_control" {
        let state = held.lines().find_map(|l| l.strip_prefix("oom_kill_disable "))?;
        return Some(state.to_owned());
    }
    let keyed = first.contains(':') || matches!(file, "rdma.max" | "net_prio.ifpriomap");
    if !keyed {
        // Weights of v2 have one of all devices among those of each.
        let whole = held.lines().find(|line| line.starts_with("default ")).unwrap_or(held);
        // An empty list is what a cpuset of v2 starts with; a write of a line
        // break alone makes it empty again.
        return Some(if whole.is_empty() { "\n".into() } else { whole.to_owned() });
    }
    // A line for each device, `8:0 …`; one that is not there has no limit.
    let line = held.lines().find(|l| l.split_whitespace().next() == Some(first));
    Some(line.map_or_else(|| no_limit(file, first), str::to_owned))
}

/// Kernel documents cgroup-v1/blkio-controller, cgroup-v1/net_prio and
/// cgroup-v2, "IO" and "RDMA".
fn no_limit(file: &str, device: &str) -> String {
    match file {
        "io.max" => format!("{device} rbps=max wbps=max riops=max wiops=max"),
        "io.weight" | "io.bfq.weight" => format!("{device} default"),
        "rdma.max" => format!("{device} hca_handle=max hca_object=max"),
        _ => format!("{device} 0"),
    }
}

#[cfg(test)]
mod tests {
    use super::was;

    #[test]
    fn what_was_is_written_in_the_files_terms() {
        for (file, written, held, back) in [
            ("pids.max", "5", "max", "max"),
            ("cpu.max", "1000 100000", "max 100000", "max 100000"),
            ("cpuset.cpus", "0", "", "\n"),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 0", "0"),
            ("io.max", "8:0 rbps=1", "", "8:0 rbps=max wbps=max riops=max wiops=max"),
            ("io.max", "8:0 rbps=1", "8:16 rbps=2\n8:0 rbps=3 wbps=max", "8:0 rbps=3 wbps=max"),
            ("blkio.throttle.read_bps_device", "8:0 5", "", "8:0 0"),
            ("io.weight", "200", "default 100\n8:0 50", "default 100"),
            ("io.weight", "8:0 200", "default 100", "8:0 default"),
            ("net_prio.ifpriomap", "eth0 5", "lo 0\neth0 2", "eth0 2"),
            ("rdma.max", "a hca_handle=1", "", "a hca_handle=max hca_object=max"),
        ] {
            assert_eq!(was(file, written, held).as_deref(), Some(back), "{file}");
        }
    }
}
