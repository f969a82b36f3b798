//! What a job has of the machine, read where it stands: its control groups
//! and its own processes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::time::{ClockId, clock_gettime};

use super::counters::{
    DeviceUse, Files, Memory, device_use_v1, device_use_v2, keyed, memory_v1, memory_v2,
};
use super::kept::Kept;
use crate::host::cpulist::parse_list;
use crate::host::process::Stat;
use crate::kernel::{procfs, sys};
use crate::plan::cgroup::{CgroupPlan, Group, Version};
use crate::policy::text::CText;

/// Tasks looked at, at most, to tell who runs and who waits: about 10 µs each.
const MOST_TASKS: usize = 1024;

/// How long a job's processes are taken to stay in their groups.
const STAYS: Duration = Duration::from_secs(1);

/// Where the job's share is read.
pub struct Share {
    /// The environment's own procfs, from before anything was placed on it.
    proc: OwnedFd,
    memory: Option<Counted>,
    cpuacct: Option<Counted>,
    blkio: Option<Counted>,
    v2: Option<Counted>,
    kept: Kept,
    /// A process of the job's and its groups, as they were a moment ago.
    seen: Mutex<Option<(Instant, String)>>,
    /// Nanoseconds that the environment's clock is ahead of the node's
    /// CLOCK_BOOTTIME (time_namespaces(7)); negative as a rule.
    offset: i128,
}

/// A control group that counts something of the environment.
struct Counted {
    version: Version,
    controller: &'static str,
    mount: PathBuf,
    /// Below the mount, without a slash at its start.
    path: String,
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

impl Share {
    pub fn new(proc: OwnedFd, plan: &CgroupPlan) -> Self {
        let counted = |controller| {
            move |group: &Group| Counted {
                version: group.at.version,
                controller,
                mount: group.at.mount.clone(),
                path: group.at.path.trim_matches('/').to_owned(),
            }
        };
        let v1 = |controller| {
            let group = plan.with(controller).filter(|g| g.at.version == Version::V1);
            group.map(counted(controller))
        };
        let mut share = Self {
            memory: plan.with("memory").map(|group| {
                // On v2 all controllers have one line, without names.
                let v1 = group.at.version == Version::V1;
                counted(if v1 { "memory" } else { "" })(group)
            }),
            cpuacct: v1("cpuacct"),
            blkio: v1("blkio"),
            v2: plan.v2().map(counted("")),
            kept: Kept::default(),
            seen: Mutex::default(),
            proc,
            offset: 0,
        };
        share.offset =
            share.own("1/timens_offsets").as_deref().and_then(parse_offset).unwrap_or_default();
        share
    }

    /// Opens what is below the environment's own /proc: whoever may mount
    /// inside could put anything over it, and this process may be root's.
    fn open(&self, path: &str, flags: i32) -> Option<OwnedFd> {
        let path = CText::lossy(path);
        procfs::open(self.proc.as_fd(), path.as_c_str(), libc::O_RDONLY | flags, "open").ok()
    }

    /// A file there.
    fn own(&self, path: &str) -> Option<String> {
        let mut text = Vec::new();
        File::from(self.open(path, 0)?).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// The entries of a directory there that are numbers.
    fn numbers(&self, path: &str) -> Vec<u32> {
        let directory = self.open(path, libc::O_DIRECTORY).and_then(|fd| Dir::from_fd(fd).ok());
        let entries = directory.into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().to_str().ok()?.parse().ok()).collect()
    }

    /// Where the job is counted: the environment's group, or the scheduler's
    /// for this job where that one keeps the job's processes in its own.
    fn place(&self, group: Option<&Counted>) -> Option<PathBuf> {
        let group = group?;
        let path = scheduled(&self.groups(), group).unwrap_or_else(|| group.path.clone());
        Some(group.mount.join(path))
    }

    /// /proc/PID/cgroup of some process of the job.
    fn groups(&self) -> String {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = seen.as_ref().filter(|(at, _)| at.elapsed() < STAYS) {
            return text.clone();
        }
        let someone = self.numbers(".").into_iter().filter(|pid| *pid > 1).min();
        let text = someone.and_then(|pid| self.own(&format!("{pid}/cgroup"))).unwrap_or_default();
        *seen = Some((Instant::now(), text.clone()));
        text
    }

    /// A file of the node's.
    pub fn node(&self, path: &str) -> String {
        self.kept.read(Path::new(path)).unwrap_or_default()
    }

    fn files<'a>(&'a self, dir: &'a Path) -> Files<'a> {
        Files { kept: &self.kept, dir }
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
        if let Some(dir) = &self.place(self.cpuacct.as_ref()) {
            let files = self.files(dir);
            let number = |name: &str| files.number(name).unwrap_or_default();
            let each = files.read("cpuacct.usage_percpu").unwrap_or_default();
            return CpuTime {
                user: number("cpuacct.usage_user"),
                system: number("cpuacct.usage_sys"),
                each: each.split_whitespace().filter_map(|n| n.parse().ok()).collect(),
            };
        }
        if let Some(text) =
            self.place(self.v2.as_ref()).and_then(|dir| self.files(&dir).read("cpu.stat"))
        {
            let stat = keyed(&text);
            let ns = |name| stat.get(name).copied().unwrap_or_default() * 1000;
            return CpuTime { user: ns("user_usec"), system: ns("system_usec"), each: Vec::new() };
        }
        self.tasks(false).cpu
    }

    pub fn memory(&self) -> Memory {
        let dir = self.place(self.memory.as_ref());
        match self.memory.as_ref().zip(dir.as_ref()) {
            Some((Counted { version: Version::V1, .. }, dir)) => memory_v1(self.files(dir)),
            Some((group, dir)) => memory_v2(self.files(dir), &group.mount),
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
        let mut left = MOST_TASKS;
        for pid in self.numbers(".") {
            let Some(line) = self.own(&format!("{pid}/stat")) else { continue };
            let Some(stat) = Stat::parse(line.as_bytes()) else { continue };
            let count = tasks.add(&stat);
            left = left.saturating_sub(1);
            if threads && count > 1 && left > 0 {
                let own = self.numbers(&format!("{pid}/task"));
                for tid in own.into_iter().filter(|tid| *tid != pid).take(left) {
                    let line = self.own(&format!("{pid}/task/{tid}/stat")).unwrap_or_default();
                    tasks.count_state(Stat::parse(line.as_bytes()).and_then(|s| s.state()));
                }
                left = left.saturating_sub(count as usize);
            }
        }
        tasks
    }

    /// By "major:minor".
    pub fn devices(&self) -> Vec<(String, DeviceUse)> {
        let mut found: HashMap<String, DeviceUse> = HashMap::new();
        if let Some(dir) = &self.place(self.blkio.as_ref()) {
            for (file, operations) in
                [("blkio.throttle.io_serviced", true), ("blkio.throttle.io_service_bytes", false)]
            {
                device_use_v1(
                    &self.files(dir).read(file).unwrap_or_default(),
                    operations,
                    &mut found,
                );
            }
        } else if let Some(text) =
            self.place(self.v2.as_ref()).and_then(|dir| self.files(&dir).read("io.stat"))
        {
            device_use_v2(&text, &mut found);
        }
        let mut all: Vec<_> = found.into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// `cpu`, `memory` or `io`: the group's own stalls (kernel document
    /// accounting/psi); nothing where the kernel does not count them for it.
    pub fn pressure(&self, what: &str) -> String {
        let own = self.place(self.v2.as_ref());
        let own = own.and_then(|dir| self.files(&dir).read(&format!("{what}.pressure")));
        own.unwrap_or_else(|| {
            let line = |kind| format!("{kind} avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
            line("some") + &line("full")
        })
    }
}

/// The path of the scheduler's group for the job (Slurm names it `job_ID` on
/// every version), by /proc/PID/cgroup (cgroups(7)) of a process of the job's.
/// `None` where the process is in the environment's.
fn scheduled(text: &str, group: &Counted) -> Option<String> {
    let path = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|c| c == group.controller).then_some(path)
    })?;
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let own = parts.join("/");
    if own == group.path || own.starts_with(&format!("{}/", group.path)) {
        return None;
    }
    let job = parts.iter().position(|part| part.starts_with("job_"))?;
    Some(parts[..=job].join("/"))
}

impl Tasks {
    /// Gives its number of threads.
    fn add(&mut self, stat: &Stat<'_>) -> u64 {
        /// A tick of /proc is always a hundredth of a second (time(7)).
        const TICK: u64 = 10_000_000;
        let number = |field| stat.number(field).unwrap_or_default();
        let threads = number(20);
        self.threads += threads;
        self.cpu.user += number(14) * TICK;
        self.cpu.system += number(15) * TICK;
        self.resident += number(24) * sys::page_size();
        self.count_state(stat.state());
        threads
    }

    fn count_state(&mut self, state: Option<u8>) {
        self.running += u64::from(state == Some(b'R'));
        self.blocked += u64::from(state == Some(b'D'));
    }
}

/// The offset of the boot clock in /proc/PID/timens_offsets, in nanoseconds.
fn parse_offset(text: &str) -> Option<i128> {
    let line = text.lines().find_map(|l| l.strip_prefix("boottime"))?;
    let mut parts = line.split_whitespace().map(str::parse::<i128>);
    Some(parts.next()?.ok()? * 1_000_000_000 + parts.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clocks_offset() {
        let text = "monotonic        -100         0\nboottime         -7200         5\n";
        assert_eq!(parse_offset(text), Some(-7_200_000_000_000 + 5));
        assert_eq!(parse_offset("monotonic 0 0\n"), None);
    }

    #[test]
    fn a_schedulers_group_counts_where_the_job_is_in_it() {
        let group = Counted {
            version: Version::V1,
            controller: "memory",
            mount: "/sys/fs/cgroup/memory".into(),
            path: "denovo-slurm-7".into(),
        };
        let slurm = "5:cpu,cpuacct:/\n4:memory:/slurm_n1/uid_9/job_7/step_0/task_0\n0::/\n";
        assert_eq!(scheduled(slurm, &group).as_deref(), Some("slurm_n1/uid_9/job_7"));
        assert_eq!(scheduled("4:memory:/denovo-slurm-7/inner\n", &group), None);
        assert_eq!(scheduled("4:memory:/elsewhere\n", &group), None);
        let v2 = Counted { version: Version::V2, controller: "", ..group };
        let unified = "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n";
        let path = "system.slice/slurmstepd.scope/job_7";
        assert_eq!(scheduled(unified, &v2).as_deref(), Some(path));
    }
}
