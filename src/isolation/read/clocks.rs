//! When the host was booted.

use std::os::unix::fs::MetadataExt;

use nix::time::{ClockId, clock_gettime};

use super::{Channel, Reading, number, text, value, word_number};
use crate::host::process::Stat;
use crate::kernel::sys::{left, probe};

/// Seconds between two looks that follow each other.
const NEAR: f64 = 3.0;

pub const CHANNELS: &[Channel] = &[
    Channel::new("uptime", "/proc/uptime", "host age", |_| {
        number(word_number(&text("/proc/uptime")?, 0)?)
    })
    .within(NEAR),
    Channel::new("idletime", "/proc/uptime f2", "host age, load", |_| {
        number(word_number(&text("/proc/uptime")?, 1)?)
    })
    .within(NEAR),
    Channel::new("btime", "/proc/stat btime", "boot time", |_| {
        number(value(&text("/proc/stat")?, "btime")?)
    })
    .within(NEAR),
    // In ticks of 10 ms; the probes start within seconds of each other.
    Channel::new("self_start", "/proc/self/stat f22", "host age", |_| {
        let line = text("/proc/self/stat")?;
        number(Stat::parse(line.as_bytes())?.started()? as f64)
    })
    .within(1000.0),
    Channel::new("si_uptime", "sysinfo(2)", "host age", |_| {
        number(probe::system_info().ok()?.uptime as f64)
    })
    .within(NEAR),
    Channel::new("clock_mono", "clock_gettime MONOTONIC", "host age", |_| {
        clock(ClockId::CLOCK_MONOTONIC)
    })
    .within(NEAR),
    Channel::new("clock_boot", "clock_gettime BOOTTIME", "host age", |_| {
        clock(ClockId::CLOCK_BOOTTIME)
    })
    .within(NEAR),
    Channel::new("dev_null_mtime", "stat /dev/null", "boot time", |_| {
        let meta = std::fs::metadata("/dev/null").ok()?;
        Some(Reading::Text(format!("{}.{:09}", meta.mtime(), meta.mtime_nsec())))
    })
    .same(),
    Channel::new("dmesg", "syslog(2)", "dmesg: all", |_| {
        let log = probe::kernel_log().ok()?;
        let end = log.len().saturating_sub(200);
        Some(Reading::Text(String::from_utf8_lossy(&log[end..]).into_owned()))
    })
    .same(),
    Channel::new("adjtimex", "adjtimex freq", "host identity", |_| {
        number(left::timex().ok()?.freq as f64)
    })
    .same(),
];

fn clock(id: ClockId) -> Option<Reading> {
    let time = clock_gettime(id).ok()?;
    number(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}
