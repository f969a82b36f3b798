//! What a job has of the machine, read where it stands: its control groups
//! and its own processes.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::host::cpulist::parse_list;
use crate::plan::cgroup::{CgroupPlan, Group, Version};

/// Tasks looked at, at most, to tell who runs and who waits: about 10 µs each.
const MOST_TASKS: usize = 1024;

/// Where the job's share is read.
pub struct Share {
    /// The environment's own procfs, from before anything was placed on it.
    proc: OwnedFd,
    memory: Option<(Version, PathBuf)>,
    cpuacct: Option<PathBuf>,
    blkio: Option<PathBuf>,
    v2: Option<PathBuf>,
    /// Nanoseconds that the environment's clock is ahead of the node's
    /// CLOCK_BOOTTIME (time_namespaces(7)); negative as a rule.
    offset: i128,
}

/// Processor time, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuTime {
    pub user: u64,
    pub system: u64,
    /// By CPU number, where the kernel counts so.
    pub each: Vec<u64>,
}

/// The job's processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tasks {
    pub threads: u64,
    /// Running or ready to.
    pub running: u64,
    /// In uninterruptible sleep.
    pub blocked: u64,
    pub cpu: CpuTime,
    /// Bytes.
    pub resident: u64,
}

/// Bytes, unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    pub limit: Option<u64>,
    pub swap_limit: Option<u64>,
    pub used: u64,
    pub swap_used: u64,
    pub anon: u64,
    pub anon_huge: u64,
    /// Page cache, with shared memory.
    pub file: u64,
    pub shmem: u64,
    pub mapped: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub active_anon: u64,
    pub inactive_anon: u64,
    pub active_file: u64,
    pub inactive_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub kernel_stack: u64,
    pub page_tables: u64,
    /// Counts.
    pub faults: u64,
    pub major_faults: u64,
}

/// What went to and from one block device: operations and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceUse {
    pub reads: u64,
    pub read: u64,
    pub writes: u64,
    pub written: u64,
}

impl Share {
    pub fn new(proc: OwnedFd, plan: &CgroupPlan) -> Self {
        let dir = |group: &Group| group.at.mount.join(group.at.path.trim_start_matches('/'));
        let v1 = |controller: &str| {
            plan.with(controller).filter(|g| g.at.version == Version::V1).map(dir)
        };
        let mut share = Self {
            memory: plan.with("memory").map(|group| (group.at.version, dir(group))),
            cpuacct: v1("cpuacct"),
            blkio: v1("blkio"),
            v2: plan.v2().map(dir),
            proc,
            offset: 0,
        };
        share.offset =
            share.own("1/timens_offsets").as_deref().and_then(parse_offset).unwrap_or_default();
        share
    }

    /// A file below the environment's own /proc.
    fn own(&self, path: &str) -> Option<String> {
        let text = std::fs::read(format!("/proc/self/fd/{}/{path}", self.proc.as_raw_fd())).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// Since the environment's start, with what its clock started at.
    pub fn uptime(&self) -> Duration {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map(|t| i128::from(t.tv_sec()) * 1_000_000_000 + i128::from(t.tv_nsec()))
            .unwrap_or_default();
        Duration::from_nanos(u64::try_from(now + self.offset).unwrap_or_default())
    }

    /// CPUs and memory nodes that the environment may use, ascending: those of
    /// its first process, which the cpuset and the affinity both hold.
    pub fn allowed(&self) -> (Vec<u32>, Vec<u32>) {
        let status = self.own("1/status").unwrap_or_default();
        let list = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|text| parse_list(text.trim()).ok()).unwrap_or_default()
        };
        (list("Cpus_allowed_list"), list("Mems_allowed_list"))
    }

    pub fn cpu_time(&self) -> CpuTime {
        if let Some(dir) = &self.cpuacct {
            let number = |name: &str| read_number(dir, name).unwrap_or_default();
            let each = read(dir, "cpuacct.usage_percpu").unwrap_or_default();
            return CpuTime {
                user: number("cpuacct.usage_user"),
                system: number("cpuacct.usage_sys"),
                each: each.split_whitespace().filter_map(|n| n.parse().ok()).collect(),
            };
        }
        if let Some(text) = self.v2.as_ref().and_then(|dir| read(dir, "cpu.stat")) {
            let stat = keyed(&text);
            let ns = |name| stat.get(name).copied().unwrap_or_default() * 1000;
            return CpuTime { user: ns("user_usec"), system: ns("system_usec"), each: Vec::new() };
        }
        self.tasks(false).cpu
    }

    pub fn memory(&self) -> Memory {
        match &self.memory {
            Some((Version::V1, dir)) => memory_v1(dir),
            Some((Version::V2, dir)) => memory_v2(dir),
            None => {
                let resident = self.tasks(false).resident;
                let (used, anon) = (resident, resident);
                Memory { used, anon, active_anon: anon, ..Memory::default() }
            }
        }
    }

    /// `threads`: look at every thread, not only at each process.
    pub fn tasks(&self, threads: bool) -> Tasks {
        let mut tasks = Tasks::default();
        let base = format!("/proc/self/fd/{}", self.proc.as_raw_fd());
        let mut left = MOST_TASKS;
        for pid in numbers_in(&base) {
            let Some(stat) = self.own(&format!("{pid}/stat")) else { continue };
            let Some(seen) = Stat::parse(&stat) else { continue };
            tasks.add(&seen);
            left = left.saturating_sub(1);
            if threads && seen.threads > 1 && left > 0 {
                let own = format!("{base}/{pid}/task");
                for tid in numbers_in(&own).filter(|tid| *tid != pid).take(left) {
                    let stat = self.own(&format!("{pid}/task/{tid}/stat"));
                    if let Some(seen) = stat.as_deref().and_then(Stat::parse) {
                        tasks.count_state(seen.state);
                    }
                }
                left = left.saturating_sub(seen.threads as usize);
            }
        }
        tasks
    }

    /// By "major:minor".
    pub fn devices(&self) -> Vec<(String, DeviceUse)> {
        let mut found: HashMap<String, DeviceUse> = HashMap::new();
        if let Some(dir) = &self.blkio {
            for (file, operations) in
                [("blkio.throttle.io_serviced", true), ("blkio.throttle.io_service_bytes", false)]
            {
                device_use_v1(&read(dir, file).unwrap_or_default(), operations, &mut found);
            }
        } else if let Some(text) = self.v2.as_ref().and_then(|dir| read(dir, "io.stat")) {
            device_use_v2(&text, &mut found);
        }
        let mut all: Vec<_> = found.into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// `cpu`, `memory` or `io`: the group's own stalls (kernel document
    /// accounting/psi); nothing where the kernel does not count them for it.
    pub fn pressure(&self, what: &str) -> String {
        let own = self.v2.as_ref().and_then(|dir| read(dir, &format!("{what}.pressure")));
        own.unwrap_or_else(|| {
            let line = |kind| format!("{kind} avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
            line("some") + &line("full")
        })
    }
}

/// The fields of /proc/PID/stat (proc_pid_stat(5)) that are of use here.
struct Stat {
    state: u8,
    user: u64,
    system: u64,
    threads: u64,
    resident: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name before it can hold anything, parentheses too.
        let rest: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        let number = |field: usize| rest.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: *rest.first()?.as_bytes().first()?,
            user: number(14)?,
            system: number(15)?,
            threads: number(20)?,
            resident: number(24)?,
        })
    }
}

impl Tasks {
    fn add(&mut self, stat: &Stat) {
        /// A tick of /proc is always a hundredth of a second (time(7)).
        const TICK: u64 = 10_000_000;
        self.threads += stat.threads;
        self.cpu.user += stat.user * TICK;
        self.cpu.system += stat.system * TICK;
        self.resident += stat.resident * 4096;
        self.count_state(stat.state);
    }

    fn count_state(&mut self, state: u8) {
        self.running += u64::from(state == b'R');
        self.blocked += u64::from(state == b'D');
    }
}

fn numbers_in(path: &str) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// The offset of the boot clock in /proc/PID/timens_offsets, in nanoseconds.
fn parse_offset(text: &str) -> Option<i128> {
    let line = text.lines().find_map(|l| l.strip_prefix("boottime"))?;
    let mut parts = line.split_whitespace().map(str::parse::<i128>);
    Some(parts.next()?.ok()? * 1_000_000_000 + parts.next()?.ok()?)
}

fn read(dir: &std::path::Path, name: &str) -> Option<String> {
    std::fs::read_to_string(dir.join(name)).ok()
}

fn read_number(dir: &std::path::Path, name: &str) -> Option<u64> {
    read(dir, name)?.trim().parse().ok()
}

/// A limit; `None` for `max` and for what v1 has in its place, a number of
/// pages that no machine has.
fn read_limit(dir: &std::path::Path, name: &str) -> Option<u64> {
    read_number(dir, name).filter(|bytes| *bytes < 1 << 60)
}

fn keyed(text: &str) -> HashMap<&str, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name, value.trim().parse().ok()?))
        })
        .collect()
}

/// Kernel document cgroup-v1/memory.
fn memory_v1(dir: &std::path::Path) -> Memory {
    let text = read(dir, "memory.stat").unwrap_or_default();
    let stat = keyed(&text);
    // With the groups below: a scheduler makes one for each step.
    let get = |name: &str| stat.get(format!("total_{name}").as_str()).copied().unwrap_or_default();
    let limit = read_limit(dir, "memory.limit_in_bytes");
    let both = read_limit(dir, "memory.memsw.limit_in_bytes");
    Memory {
        limit,
        swap_limit: both.zip(limit).map(|(both, limit)| both.saturating_sub(limit)),
        used: read_number(dir, "memory.usage_in_bytes").unwrap_or_default(),
        swap_used: get("swap"),
        anon: get("rss"),
        anon_huge: get("rss_huge"),
        file: get("cache"),
        shmem: get("shmem"),
        mapped: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        active_anon: get("active_anon"),
        inactive_anon: get("inactive_anon"),
        active_file: get("active_file"),
        inactive_file: get("inactive_file"),
        unevictable: get("unevictable"),
        faults: get("pgfault"),
        major_faults: get("pgmajfault"),
        ..Memory::default()
    }
}

/// Kernel document cgroup-v2, "Memory Interface Files".
fn memory_v2(dir: &std::path::Path) -> Memory {
    let text = read(dir, "memory.stat").unwrap_or_default();
    let stat = keyed(&text);
    let get = |name: &str| stat.get(name).copied().unwrap_or_default();
    Memory {
        limit: read_limit(dir, "memory.max"),
        swap_limit: read_limit(dir, "memory.swap.max"),
        used: read_number(dir, "memory.current").unwrap_or_default(),
        swap_used: read_number(dir, "memory.swap.current").unwrap_or_default(),
        anon: get("anon"),
        anon_huge: get("anon_thp"),
        file: get("file"),
        shmem: get("shmem"),
        mapped: get("file_mapped"),
        dirty: get("file_dirty"),
        writeback: get("file_writeback"),
        active_anon: get("active_anon"),
        inactive_anon: get("inactive_anon"),
        active_file: get("active_file"),
        inactive_file: get("inactive_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        kernel_stack: get("kernel_stack"),
        page_tables: get("pagetables"),
        faults: get("pgfault"),
        major_faults: get("pgmajfault"),
    }
}

/// Lines such as `8:0 Read 17` (kernel document cgroup-v1/blkio-controller).
fn device_use_v1(text: &str, operations: bool, found: &mut HashMap<String, DeviceUse>) {
    for line in text.lines() {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let [device, what, count] = parts[..] else { continue };
        let Ok(count) = count.parse::<u64>() else { continue };
        let device = found.entry(device.to_owned()).or_default();
        match (what, operations) {
            ("Read", true) => device.reads = count,
            ("Read", false) => device.read = count,
            ("Write", true) => device.writes = count,
            ("Write", false) => device.written = count,
            _ => {}
        }
    }
}

/// Lines such as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn device_use_v2(text: &str, found: &mut HashMap<String, DeviceUse>) {
    for line in text.lines() {
        let Some((device, rest)) = line.split_once(' ') else { continue };
        let value = |name: &str| {
            rest.split(' ').find_map(|w| w.strip_prefix(name)?.parse().ok()).unwrap_or_default()
        };
        let seen = DeviceUse {
            reads: value("rios="),
            read: value("rbytes="),
            writes: value("wios="),
            written: value("wbytes="),
        };
        found.insert(device.to_owned(), seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_past_its_name() {
        let text = "17 (a) b) R 1 17 17 0 -1 4194304 99 0 0 0 250 50 0 0 20 0 4 0 77 1000 12 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.user, stat.system), (b'R', 250, 50));
        assert_eq!((stat.threads, stat.resident), (4, 12));
        assert!(Stat::parse("17 (cut off").is_none());
    }

    #[test]
    fn the_boot_clocks_offset() {
        let text = "monotonic        -100         0\nboottime         -7200         5\n";
        assert_eq!(parse_offset(text), Some(-7_200_000_000_000 + 5));
        assert_eq!(parse_offset("monotonic 0 0\n"), None);
    }

    #[test]
    fn devices_by_either_version() {
        let mut one = HashMap::new();
        device_use_v1("8:0 Read 3\n8:0 Write 4\n8:0 Sync 1\nTotal 7\n", true, &mut one);
        device_use_v1("8:0 Read 4096\n8:0 Write 8192\nTotal 1\n", false, &mut one);
        let mut two = HashMap::new();
        device_use_v2("8:0 rbytes=4096 wbytes=8192 rios=3 wios=4 dbytes=0 dios=0\n", &mut two);
        assert_eq!(one, two);
        assert_eq!(one["8:0"], DeviceUse { reads: 3, read: 4096, writes: 4, written: 8192 });
    }
}
