//! What an environment has used.
//!
//! `MemController::memory_stat` of cgroups-rs is not used: it gives 0 for what
//! it could not read, and panics on an empty memory.numa_stat. A receipt must
//! tell nothing from unknown.

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::pid::PidController;
use serde::{Deserialize, Serialize};

use super::directory::Directory;
use crate::plan::cgroup::{CgroupPlan, Group, Version};

/// Statistics of an environment; `None` where this node does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Nanoseconds of CPU time.
    pub cpu_ns: Option<u64>,
    pub cpu_user_ns: Option<u64>,
    pub cpu_system_ns: Option<u64>,
    /// Periods of the CPU quota, those in which it was used up, and the
    /// nanoseconds spent waiting for the next one.
    pub cpu_periods: Option<u64>,
    pub cpu_throttled_periods: Option<u64>,
    pub cpu_throttled_ns: Option<u64>,
    /// Bytes, page cache included.
    pub memory: Option<u64>,
    pub memory_peak: Option<u64>,
    /// How often the memory limit was reached, whether or not reclaim helped.
    /// On v1 with swap limited to the same amount, Linux 6.18 (and perhaps
    /// some before it) counts none; `oom_kills` is counted always.
    pub memory_limit_hits: Option<u64>,
    /// Processes that the kernel killed because memory ran out.
    pub oom_kills: Option<u64>,
    /// Bytes of swap (v2), or of memory and swap together (v1), at most.
    pub swap_peak: Option<u64>,
    pub pids: Option<u64>,
    pub pids_peak: Option<u64>,
    /// Forks that the process limit refused.
    pub pids_limit_hits: Option<u64>,
    /// Bytes from and to block devices.
    #[serde(default)]
    pub io_read: Option<u64>,
    #[serde(default)]
    pub io_written: Option<u64>,
    /// Nanoseconds in which some process waited for CPU, memory, I/O
    /// (kernel document accounting/psi, "some"); cgroup v2 only.
    #[serde(default)]
    pub stalled_cpu_ns: Option<u64>,
    #[serde(default)]
    pub stalled_memory_ns: Option<u64>,
    #[serde(default)]
    pub stalled_io_ns: Option<u64>,
}

/// Reads what the groups of `plan` have used. A group that is gone, or a
/// statistic that this kernel does not keep, leaves its fields `None`.
pub fn usage(plan: &CgroupPlan) -> Usage {
    let mut usage = Usage::default();
    // Kept open: two controllers of cgroups-rs go by its descriptor.
    let open = |group: &Group| Directory::open(&group.at).ok();
    if let Some(group) = plan.with("cpuacct").and_then(open) {
        usage.cpu_time_v1(&group);
    }
    if let Some(group) = plan.v2().and_then(open) {
        usage.cpu_time_v2(&group);
    }
    if let Some(group) = plan.v2().and_then(open) {
        usage.stalls(&group);
    }
    if let Some(group) = plan.with("blkio").and_then(open) {
        usage.io_v1(&group);
    } else if let Some(group) = plan.v2().and_then(open) {
        usage.io_v2(&group);
    }
    if let Some(group) = plan.with("cpu").and_then(open) {
        usage.throttling(&group);
    }
    if let Some(group) = plan.with("memory").and_then(open) {
        match group.version {
            Version::V1 => usage.memory_v1(&group),
            Version::V2 => usage.memory_v2(&group),
        }
    }
    if let Some(group) = plan.with("pids").and_then(open) {
        usage.pids(&group);
    }
    usage
}

impl Usage {
    /// This and what other groups of the same environment have used: amounts are
    /// added; of peaks, which need not have been at one time, the higher counts.
    pub fn and(self, other: &Self) -> Self {
        self.combined(other, u64::saturating_add)
    }

    /// This and a later or an earlier look at the same groups, which may have been
    /// gone for one of them.
    pub fn most(self, other: &Self) -> Self {
        self.combined(other, u64::max)
    }

    fn combined(self, other: &Self, amounts: fn(u64, u64) -> u64) -> Self {
        let both = |a: Option<u64>, b: Option<u64>, how: fn(u64, u64) -> u64| match (a, b) {
            (Some(a), Some(b)) => Some(how(a, b)),
            (a, b) => a.or(b),
        };
        let amount = |a, b| both(a, b, amounts);
        let peak = |a, b| both(a, b, u64::max);
        Self {
            cpu_ns: amount(self.cpu_ns, other.cpu_ns),
            cpu_user_ns: amount(self.cpu_user_ns, other.cpu_user_ns),
            cpu_system_ns: amount(self.cpu_system_ns, other.cpu_system_ns),
            cpu_periods: amount(self.cpu_periods, other.cpu_periods),
            cpu_throttled_periods: amount(self.cpu_throttled_periods, other.cpu_throttled_periods),
            cpu_throttled_ns: amount(self.cpu_throttled_ns, other.cpu_throttled_ns),
            memory: amount(self.memory, other.memory),
            memory_peak: peak(self.memory_peak, other.memory_peak),
            memory_limit_hits: amount(self.memory_limit_hits, other.memory_limit_hits),
            oom_kills: amount(self.oom_kills, other.oom_kills),
            swap_peak: peak(self.swap_peak, other.swap_peak),
            pids: amount(self.pids, other.pids),
            pids_peak: peak(self.pids_peak, other.pids_peak),
            pids_limit_hits: amount(self.pids_limit_hits, other.pids_limit_hits),
            io_read: amount(self.io_read, other.io_read),
            io_written: amount(self.io_written, other.io_written),
            stalled_cpu_ns: peak(self.stalled_cpu_ns, other.stalled_cpu_ns),
            stalled_memory_ns: peak(self.stalled_memory_ns, other.stalled_memory_ns),
            stalled_io_ns: peak(self.stalled_io_ns, other.stalled_io_ns),
        }
    }

    /// Kernel document cgroup-v1/cpuacct.
    fn cpu_time_v1(&mut self, group: &Directory) {
        self.cpu_ns = number(group, "cpuacct.usage");
        self.cpu_user_ns = number(group, "cpuacct.usage_user");
        self.cpu_system_ns = number(group, "cpuacct.usage_sys");
    }

    /// These are there without the cpu controller too (kernel document
    /// cgroup-v2, "CPU Interface Files"), so also on a hybrid node.
    fn cpu_time_v2(&mut self, group: &Directory) {
        let Ok(text) = group.read("cpu.stat") else { return };
        let ns = |name| keyed(&text, name).and_then(|us| us.checked_mul(1000));
        self.cpu_ns = self.cpu_ns.or_else(|| ns("usage_usec"));
        self.cpu_user_ns = self.cpu_user_ns.or_else(|| ns("user_usec"));
        self.cpu_system_ns = self.cpu_system_ns.or_else(|| ns("system_usec"));
    }

    fn stalls(&mut self, group: &Directory) {
        let total = |file| {
            let text = group.read(file).ok()?;
            let some = text.lines().find(|line| line.starts_with("some "))?;
            let us: u64 = some.split(' ').find_map(|w| w.strip_prefix("total=")?.parse().ok())?;
            us.checked_mul(1000)
        };
        self.stalled_cpu_ns = total("cpu.pressure");
        self.stalled_memory_ns = total("memory.pressure");
        self.stalled_io_ns = total("io.pressure");
    }

    /// Kernel document cgroup-v1/blkio-controller: `MAJOR:MINOR Read BYTES`.
    fn io_v1(&mut self, group: &Directory) {
        let files =
            ["blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"];
        let Some(text) = files.iter().find_map(|file| group.read(file).ok()) else { return };
        let sum = |what: &str| {
            let lines = text.lines().filter_map(|line| {
                let mut words = line.split(' ').skip(1);
                (words.next() == Some(what)).then(|| words.next()?.parse::<u64>().ok()).flatten()
            });
            Some(lines.sum())
        };
        (self.io_read, self.io_written) = (sum("Read"), sum("Write"));
    }

    /// Kernel document cgroup-v2, "IO Interface Files".
    fn io_v2(&mut self, group: &Directory) {
        let Ok(text) = group.read("io.stat") else { return };
        let sum = |key: &str| {
            let values = text.split_ascii_whitespace().filter_map(|w| w.strip_prefix(key));
            Some(values.filter_map(|v| v.parse::<u64>().ok()).sum())
        };
        (self.io_read, self.io_written) = (sum("rbytes="), sum("wbytes="));
    }

    /// Kernel document scheduler/sched-bwc, "Statistics".
    fn throttling(&mut self, group: &Directory) {
        let path = group.proc_path();
        let text = CpuController::new(path.clone(), path, group.version == Version::V2).cpu().stat;
        self.cpu_periods = keyed(&text, "nr_periods");
        self.cpu_throttled_periods = keyed(&text, "nr_throttled");
        self.cpu_throttled_ns = keyed(&text, "throttled_time")
            .or_else(|| keyed(&text, "throttled_usec").and_then(|us| us.checked_mul(1000)));
    }

    /// Kernel document cgroup-v1/memory.
    fn memory_v1(&mut self, group: &Directory) {
        self.memory = number(group, "memory.usage_in_bytes");
        self.memory_peak = number(group, "memory.max_usage_in_bytes");
        // Where swap is limited to the same, that limit is the one that is hit.
        let hits = |file| number(group, file);
        self.memory_limit_hits =
            hits("memory.failcnt").map(|memory| memory + hits("memory.memsw.failcnt").unwrap_or(0));
        self.swap_peak = number(group, "memory.memsw.max_usage_in_bytes");
        self.oom_kills = oom_kills_v1(group);
    }

    fn memory_v2(&mut self, group: &Directory) {
        self.memory = number(group, "memory.current");
        self.memory_peak = number(group, "memory.peak");
        self.swap_peak = number(group, "memory.swap.peak");
        if let Ok(events) = group.read("memory.events") {
            self.memory_limit_hits = keyed(&events, "max");
            self.oom_kills = keyed(&events, "oom_kill");
        }
    }

    /// Kernel document cgroup-v1/pids; the files have the same names in v2.
    fn pids(&mut self, group: &Directory) {
        let path = group.proc_path();
        let controller = PidController::new(path.clone(), path, group.version == Version::V2);
        self.pids = controller.get_pid_current().ok();
        self.pids_limit_hits = controller.get_pid_events().ok();
        self.pids_peak = number(group, "pids.peak");
    }
}

/// v1 counts a kill only in the very group of the process, so the groups below
/// are added.
fn oom_kills_v1(group: &Directory) -> Option<u64> {
    let own = keyed(&group.read("memory.oom_control").ok()?, "oom_kill")?;
    let below = group.groups().unwrap_or_default();
    let below = below.iter().filter_map(|name| oom_kills_v1(&group.below(name).ok()?));
    Some(own + below.sum::<u64>())
}

fn number(group: &Directory, file: &str) -> Option<u64> {
    group.read(file).ok()?.trim().parse().ok()
}

/// The number after `name` in a file of `name number` lines.
fn keyed(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
        assert_eq!(keyed(text, "oom"), None);
    }
}
