//! The job's processors in the words of the kernel's own files.

use std::fmt::Write;
use std::time::Duration;

use super::counters::DeviceUse;
use super::share::{CpuTime, Tasks};

/// Ticks of /proc/stat in a second (time(7), USER_HZ).
const HZ: u64 = 100;
const NS_PER_TICK: u64 = 1_000_000_000 / HZ;

/// /proc/cpuinfo with the job's CPUs alone; their numbers stay, which
/// sched_getaffinity(2) gives too.
pub fn cpuinfo(node: &str, cpus: &[u32]) -> String {
    let mut text = String::new();
    for block in node.split_inclusive("\n\n") {
        let number = block
            .lines()
            .find_map(|line| line.strip_prefix("processor")?.trim_start().strip_prefix(':'))
            .and_then(|n| n.trim().parse::<u32>().ok());
        if number.is_none_or(|n| cpus.contains(&n)) {
            text.push_str(block);
        }
    }
    text
}

/// Nanoseconds that each of the job's CPUs worked for it, and of all of them
/// the part in user mode.
struct Split {
    each: Vec<(u32, u64)>,
    user: u64,
    all: u64,
}

fn split(cpus: &[u32], time: &CpuTime) -> Split {
    let all = time.user + time.system;
    let counted = |cpu: u32| time.each.get(cpu as usize).copied();
    let even = all / cpus.len().max(1) as u64;
    let each = cpus.iter().map(|cpu| (*cpu, counted(*cpu).unwrap_or(even))).collect();
    Split { each, user: time.user, all }
}

/// Ticks in user mode, in the kernel, and idle.
fn ticks(worked: u64, split: &Split, uptime: Duration) -> (u64, u64, u64) {
    let user = if split.all == 0 {
        0
    } else {
        u64::try_from(u128::from(worked) * u128::from(split.user) / u128::from(split.all))
            .unwrap_or_default()
    };
    let up = u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX);
    let in_ticks = |ns: u64| ns / NS_PER_TICK;
    (in_ticks(user), in_ticks(worked.saturating_sub(user)), in_ticks(up.saturating_sub(worked)))
}

/// What /proc/stat says beside the processors' times.
pub struct Counts<'a> {
    pub tasks: &'a Tasks,
    /// Seconds since the epoch at which the environment started.
    pub booted: u64,
    /// Highest pid of the environment seen so far.
    pub last_pid: u32,
}

/// /proc/stat (proc_stat(5)) for the job. Interrupts and context switches are
/// not counted for a job: their numbers are 0.
pub fn stat(cpus: &[u32], time: &CpuTime, uptime: Duration, counts: &Counts<'_>) -> String {
    let split = split(cpus, time);
    let each: Vec<_> =
        split.each.iter().map(|(cpu, worked)| (cpu, ticks(*worked, &split, uptime))).collect();
    let sum = each
        .iter()
        .fold((0, 0, 0), |(a, b, c), (_, (user, system, idle))| (a + user, b + system, c + idle));
    let mut text = String::new();
    let _ = writeln!(text, "cpu  {} 0 {} {} 0 0 0 0 0 0", sum.0, sum.1, sum.2);
    for (cpu, (user, system, idle)) in each {
        let _ = writeln!(text, "cpu{cpu} {user} 0 {system} {idle} 0 0 0 0 0 0");
    }
    let _ = write!(
        text,
        "intr 0\nctxt 0\nbtime {}\nprocesses {}\nprocs_running {}\nprocs_blocked {}\n\
         softirq 0 0 0 0 0 0 0 0 0 0 0\n",
        counts.booted,
        counts.last_pid,
        counts.tasks.running.max(1),
        counts.tasks.blocked
    );
    text
}

/// /proc/uptime: since the start, and the sum of what each CPU was idle.
pub fn uptime(cpus: &[u32], time: &CpuTime, uptime: Duration) -> String {
    let all = uptime.as_secs_f64() * cpus.len() as f64;
    let idle = (all - (time.user + time.system) as f64 / 1e9).max(0.0);
    format!("{:.2} {idle:.2}\n", uptime.as_secs_f64())
}

/// /proc/diskstats (kernel document admin-guide/iostats): operations and
/// sectors of the devices that the job has used, without how long they took.
pub fn diskstats(devices: &[(String, DeviceUse)], name: impl Fn(&str) -> Option<String>) -> String {
    let mut text = String::new();
    for (device, used) in devices {
        let (Some(name), Some((major, minor))) = (name(device), device.split_once(':')) else {
            continue;
        };
        let (read, written) = (used.read / 512, used.written / 512);
        let (reads, writes) = (used.reads, used.writes);
        let _ = writeln!(
            text,
            "{major:>4} {minor:>7} {name} {reads} 0 {read} 0 {writes} 0 {written} 0 0 0 0"
        );
    }
    text
}

/// The load averages of a job (proc_loadavg(5)): how many of its tasks ran or
/// wanted to, averaged with weights that fade over 1, 5 and 15 minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    pub averages: [f64; 3],
}

impl Load {
    const FADE: [f64; 3] = [60.0, 300.0, 900.0];

    /// `running` tasks on average for the last `seconds`.
    pub fn add(&mut self, running: f64, seconds: f64) {
        for (average, fade) in self.averages.iter_mut().zip(Self::FADE) {
            let kept = (-seconds / fade).exp();
            *average = *average * kept + running * (1.0 - kept);
        }
    }

    pub fn text(&self, tasks: &Tasks, last_pid: u32) -> String {
        let [one, five, fifteen] = self.averages;
        format!(
            "{one:.2} {five:.2} {fifteen:.2} {}/{} {last_pid}\n",
            tasks.running.max(1),
            tasks.threads.max(1)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_jobs_cpus_are_there_under_their_own_numbers() {
        let block = |n| format!("processor\t: {n}\nmodel name\t: X\n\n");
        let node: String = (0..4).map(block).collect();
        assert_eq!(cpuinfo(&node, &[1, 3]), block(1) + &block(3));
    }

    #[test]
    fn times_add_up_to_the_uptime() {
        let time =
            CpuTime { user: 3_000_000_000, system: 1_000_000_000, each: vec![0, 4_000_000_000] };
        let counts = Counts { tasks: &Tasks::default(), booted: 1000, last_pid: 17 };
        let text = stat(&[0, 1], &time, Duration::from_secs(10), &counts);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "cpu  300 0 100 1600 0 0 0 0 0 0");
        assert_eq!(lines[1], "cpu0 0 0 0 1000 0 0 0 0 0 0");
        assert_eq!(lines[2], "cpu1 300 0 100 600 0 0 0 0 0 0");
        assert!(text.contains("\nbtime 1000\nprocesses 17\nprocs_running 1\n"), "{text}");
        assert_eq!(uptime(&[0, 1], &time, Duration::from_secs(10)), "10.00 16.00\n");
    }

    #[test]
    fn what_is_not_counted_by_cpu_is_spread() {
        let time = CpuTime { user: 4_000_000_000, ..CpuTime::default() };
        let counts = Counts { tasks: &Tasks::default(), booted: 0, last_pid: 1 };
        let text = stat(&[2, 5], &time, Duration::from_secs(4), &counts);
        assert!(text.contains("cpu2 200 0 0 200 ") && text.contains("cpu5 200 0 0 200 "), "{text}");
    }

    #[test]
    fn a_load_nears_what_runs() {
        let mut load = Load::default();
        load.add(4.0, 60.0);
        assert!((load.averages[0] - 4.0 * (1.0 - (-1.0f64).exp())).abs() < 1e-9);
        load.add(4.0, 1e6);
        assert_eq!(load.text(&Tasks::default(), 9), "4.00 4.00 4.00 1/1 9\n");
    }

    #[test]
    fn devices_without_a_name_are_left_out() {
        let used = DeviceUse { reads: 1, read: 1024, writes: 2, written: 2048 };
        let all = vec![("8:0".to_owned(), used), ("9:9".to_owned(), used)];
        let text = diskstats(&all, |d| (d == "8:0").then(|| "sda".to_owned()));
        assert_eq!(text, "   8       0 sda 1 0 2 0 2 0 4 0 0 0 0\n");
    }
}
