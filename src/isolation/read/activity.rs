//! What others do: counters of the kernel's, the load, the waiting.

use nix::time::{ClockId, clock_gettime};

use super::{Channel, Reading, each_sum, number, sum, text, value, word_number};

pub const CHANNELS: &[Channel] = &[
    Channel::new("forks", "/proc/stat processes", "forks since boot", |_| stat("processes"))
        .within(5.0)
        .rate(150.0),
    Channel::new("ctxt", "/proc/stat ctxt", "activity", |_| stat("ctxt")).within(50.0).rate(2000.0),
    Channel::new("intr", "/proc/stat intr", "activity", |_| stat("intr")).within(50.0).rate(5000.0),
    Channel::new("interrupts", "/proc/interrupts", "activity", |_| {
        number(sum(&text("/proc/interrupts")?))
    })
    .within(50.0)
    .rate(5000.0),
    Channel::new("softirqs", "/proc/softirqs", "activity", |_| {
        number(sum(&text("/proc/softirqs")?))
    })
    .within(50.0)
    .rate(5000.0),
    Channel::new("schedstat", "/proc/schedstat", "activity", |_| {
        let text = text("/proc/schedstat")?;
        let cpus: String = text.lines().filter(|l| l.starts_with("cpu")).collect();
        number(sum(&cpus))
    })
    .within(1e6)
    .rate(1e8),
    Channel::new("vmstat_pgfault", "/proc/vmstat", "activity", |_| {
        number(value(&text("/proc/vmstat")?, "pgfault ")?)
    })
    .within(200.0)
    .rate(10_000.0),
    Channel::new("diskstats", "/proc/diskstats", "I/O", |_| {
        let text = text("/proc/diskstats")?;
        let moved = |l: &str| Some(word_number(l, 5)? + word_number(l, 9)?);
        number(text.lines().filter_map(moved).sum::<f64>())
    })
    .within(16.0)
    .rate(8000.0),
    Channel::new("sysblock_stat", "/sys/block/*/stat", "I/O", |_| each_sum("/sys/block", "stat"))
        .within(1000.0)
        .rate(8000.0),
    Channel::new("ext4_written", "/sys/fs/ext4/*/lifetime_write_kbytes", "disk age", |_| {
        each_sum("/sys/fs/ext4", "lifetime_write_kbytes")
    })
    .within(1000.0)
    .rate(4000.0),
    Channel::new("uevent_seq", "/sys/kernel/uevent_seqnum", "events since boot", |_| {
        number(word_number(&text("/sys/kernel/uevent_seqnum")?, 0)?)
    })
    .within(0.0),
    Channel::new("softnet", "/proc/net/softnet_stat", "host packets", |_| {
        let text = text("/proc/net/softnet_stat")?;
        let first = |l: &str| u64::from_str_radix(l.split(' ').next()?, 16).ok();
        number(text.lines().filter_map(first).sum::<u64>() as f64)
    })
    .within(20.0)
    .rate(100.0),
    Channel::new("loadavg", "/proc/loadavg", "load", |_| {
        number(word_number(&text("/proc/loadavg")?, 0)?)
    })
    .within(0.0)
    .level(0.5),
    Channel::new("load_threads", "/proc/loadavg f4", "task count", |_| {
        let text = text("/proc/loadavg")?;
        number(text.split(' ').nth(3)?.split_once('/')?.1.parse::<f64>().ok()?)
    })
    .within(8.0)
    .level(40.0),
    Channel::new("load_lastpid", "/proc/loadavg f5", "forks", |_| {
        number(word_number(&text("/proc/loadavg")?, 4)?)
    })
    .within(50.0)
    .rate(150.0),
    // It is another each time: the mean of some.
    Channel::new("procs_running", "/proc/stat", "load", |_| {
        let mut sum = 0.0;
        for _ in 0..8 {
            sum += value(&text("/proc/stat")?, "procs_running ")?;
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        number(sum / 8.0)
    })
    .level(2.0),
    Channel::new("cpu_busy", "/proc/stat cpu", "load", |_| {
        let text = text("/proc/stat")?;
        let all: Vec<f64> =
            text.lines().next()?.split(' ').filter_map(|w| w.parse().ok()).collect();
        // user, nice, system, then idle and iowait, then irq, softirq.
        number(
            all.iter()
                .enumerate()
                .filter(|(n, _)| !matches!(n, 3 | 4))
                .map(|(_, v)| v)
                .sum::<f64>(),
        )
    })
    .within(2.0)
    .rate(15.0),
    Channel::new("self_rundelay_us", "/proc/self/schedstat", "CPU contention", |_| {
        compute();
        number(word_number(&text("/proc/self/schedstat")?, 1)? / 1e3)
    })
    .contention(3000.0),
    Channel::new("psi_cpu", "/proc/pressure/cpu", "contention", |_| stalled("/proc/pressure/cpu"))
        .within(100.0)
        .rate(10_000.0),
    Channel::new("psi_memory", "/proc/pressure/memory", "contention", |_| {
        stalled("/proc/pressure/memory")
    })
    .within(100.0)
    .rate(20_000.0),
    Channel::new("psi_io", "/proc/pressure/io", "contention", |_| stalled("/proc/pressure/io"))
        .within(100.0)
        .rate(2_000.0),
    Channel::new("cgroup_psi", "own cpu.pressure", "CPU contention", |_| own_pressure())
        .contention(4000.0),
    Channel::new("cpufreq", "scaling_cur_freq", "load", |_| {
        each_sum("/sys/devices/system/cpu", "cpufreq/scaling_cur_freq")
    })
    .within(0.0),
    Channel::new("cpuidle", "cpuidle usage", "load", |_| {
        each_sum("/sys/devices/system/cpu", "cpuidle/state0/usage")
    })
    .within(50.0),
    Channel::new("thermal", "thermal, hwmon", "load", |_| {
        each_sum("/sys/class/thermal", "temp")
            .or_else(|| each_sum("/sys/class/hwmon", "temp1_input"))
    })
    .within(2000.0),
    Channel::new("rapl", "powercap energy_uj", "load, keys", |_| {
        each_sum("/sys/class/powercap", "energy_uj")
    })
    .within(1e6),
    Channel::new("si_load", "sysinfo(2) loads", "load", |_| {
        number(crate::kernel::sys::probe::system_info().ok()?.loads[0] as f64 / 65536.0)
    })
    .within(0.01)
    .level(0.5),
    Channel::new("perf_cpuwide", "perf_event_open cpu-wide", "activity", |_| {
        crate::kernel::sys::probe::faults_on_first_cpu().ok()?;
        Some(Reading::Text("opens".to_owned()))
    })
    .showing(),
];

fn stat(key: &str) -> Option<Reading> {
    number(value(&text("/proc/stat")?, &format!("{key} "))?)
}

/// Microseconds in which some task waited, of a file as in psi(8).
fn stalled(path: impl AsRef<std::path::Path>) -> Option<Reading> {
    let text = text(path)?;
    let some = text.lines().find(|line| line.starts_with("some "))?;
    number(some.rsplit_once("total=")?.1.trim().parse::<f64>().ok()?)
}

/// The pressure on the control group that this process is in, on v2.
fn own_pressure() -> Option<Reading> {
    let mounts = text("/proc/self/mountinfo")?;
    let mount = mounts.lines().find(|l| l.contains(" - cgroup2 "))?;
    let (root, place) = (mount.split(' ').nth(3)?, mount.split(' ').nth(4)?);
    let groups = text("/proc/self/cgroup")?;
    let own = groups.lines().find_map(|l| l.strip_prefix("0::"))?;
    let below = own.strip_prefix(root).unwrap_or(own).trim_start_matches('/');
    stalled(std::path::Path::new(place).join(below).join("cpu.pressure"))
}

/// Uses 15 ms of CPU time: as much whether others do or not, so that what is
/// counted for the environment itself stays the same.
fn compute() {
    let used = || {
        let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
        time.map_or(i64::MAX, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
    };
    let end = used().saturating_add(15_000_000);
    while used() < end {
        std::hint::spin_loop();
    }
}
