//! Sets limits with the setters of cgroups-rs, and reads each one back.
//!
//! Its `CgroupBuilder` is not used: that drops the errors of the setters. Each
//! controller is given the open directory by way of /proc/self/fd, so that it
//! writes where we looked.

use std::error::Error as _;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::error::Error as CratesError;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use nix::errno::Errno;

use super::CgroupError;
use super::directory::Directory;
use crate::host::cpulist::parse_list;
use crate::plan::cgroup::{Setting, Version};

/// Sets one limit and holds the kernel to it.
pub(super) fn set(group: &Directory, setting: &Setting) -> Result<(), CgroupError> {
    let files = setting.files(group.version);
    if may_be_absent(setting) && !files.iter().all(|(file, _)| group.has(file)) {
        return Ok(());
    }
    write(group, setting).map_err(|error| refused(group, setting, &error))?;
    for (file, asked) in files {
        let found = group.read(&file)?;
        if !kept(&file, &asked, found.trim()) {
            return Err(group.not_kept(&file, &asked, found.trim()));
        }
    }
    Ok(())
}

fn may_be_absent(setting: &Setting) -> bool {
    matches!(setting, Setting::SwapMax { if_present: true, .. })
}

/// A setter's own error, or ours for what cgroups-rs has no setter for.
enum Failure {
    Crate(CratesError),
    Own(CgroupError),
}

impl From<CratesError> for Failure {
    fn from(error: CratesError) -> Self {
        Self::Crate(error)
    }
}

impl From<CgroupError> for Failure {
    fn from(error: CgroupError) -> Self {
        Self::Own(error)
    }
}

fn write(group: &Directory, setting: &Setting) -> Result<(), Failure> {
    let path = group.proc_path();
    let v2 = group.version == Version::V2;
    let memory = || MemController::new(path.clone(), path.clone(), v2);
    let cpu = || CpuController::new(path.clone(), path.clone(), v2);
    let cpuset = || CpuSetController::new(path.clone(), path.clone(), v2);
    match setting {
        Setting::MemoryMax { bytes } => memory().set_limit(*bytes)?,
        Setting::SwapMax { bytes, .. } => memory().set_memswap_limit(*bytes)?,
        // The crate writes -1 to memory.low, which only v1's file takes.
        Setting::MemoryLow { bytes } if v2 && *bytes < 0 => group.write("memory.low", "max")?,
        Setting::MemoryLow { bytes } => memory().set_soft_limit(*bytes)?,
        Setting::Swappiness { percent } => memory().set_swappiness(*percent)?,
        Setting::OomKillDisable => memory().disable_oom_killer()?,
        Setting::CpuWeight { weight } => cpu().set_shares(*weight)?,
        Setting::CpuMax { quota, period } if v2 => {
            cpu().set_cfs_quota_and_period(Some(*quota), Some(period.unwrap_or(100_000)))?;
        }
        Setting::CpuMax { quota, period } => {
            // Not the crate's setter for both: that one sets the quota first,
            // which is then too large a part of the old period.
            if let Some(period) = period {
                cpu().set_cfs_period(*period)?;
            }
            cpu().set_cfs_quota(*quota)?;
        }
        Setting::Cpus { list } => cpuset().set_cpus(list)?,
        Setting::Mems { list } => cpuset().set_mems(list)?,
        Setting::PidsMax { count } => {
            let most = if *count < 0 { MaxValue::Max } else { MaxValue::Value(*count) };
            PidController::new(path.clone(), path, v2).set_pid_max(most)?;
        }
        Setting::HugetlbMax { size, bytes } => {
            HugeTlbController::new(path.clone(), path, v2).set_limit_in_bytes(size, *bytes)?;
        }
        Setting::File { name, value } => group.write(name, value)?,
    }
    Ok(())
}

fn refused(group: &Directory, setting: &Setting, failure: &Failure) -> CgroupError {
    let (reason, errno) = match failure {
        Failure::Crate(error) => {
            let errno = error
                .source()
                .and_then(|cause| cause.downcast_ref::<std::io::Error>())
                .and_then(std::io::Error::raw_os_error)
                .map(Errno::from_raw);
            (errno.map_or_else(|| error.to_string(), |errno| errno.to_string()), errno)
        }
        Failure::Own(error) => (error.to_string(), error.errno()),
    };
    let files = setting.files(group.version);
    let (file, value) = files.into_iter().next_back().unwrap_or_default();
    CgroupError::Limit {
        what: setting.name().to_owned(),
        path: group.path().join(file),
        value,
        reason,
        errno,
    }
}

/// Whether a file that reads `found` is what `asked` sets: the kernel rounds
/// down to pages, clamps, and writes lists its own way.
fn kept(file: &str, asked: &str, found: &str) -> bool {
    if asked == found {
        return true;
    }
    match file {
        "cpuset.cpus" | "cpuset.mems" => parse_list(asked) == parse_list(found),
        "memory.oom_control" => found.lines().any(|l| l == "oom_kill_disable 1"),
        _ if file.starts_with("hugetlb.") => same_amount(asked, found, huge_page(file)),
        _ if is_bytes(file) => same_amount(asked, found, page()),
        // A unified file may have a form of its own (io.max): what the kernel
        // took is what counts, and it refuses what it cannot set.
        _ => !is_ours(file),
    }
}

/// Files that a limit of ours is written to, so that their form is known.
fn is_ours(file: &str) -> bool {
    matches!(
        file,
        "cpu.shares"
            | "cpu.weight"
            | "cpu.max"
            | "cpu.cfs_quota_us"
            | "cpu.cfs_period_us"
            | "pids.max"
            | "memory.swappiness"
    )
}

fn is_bytes(file: &str) -> bool {
    matches!(
        file,
        "memory.limit_in_bytes"
            | "memory.memsw.limit_in_bytes"
            | "memory.soft_limit_in_bytes"
            | "memory.max"
            | "memory.swap.max"
            | "memory.low"
            | "memory.min"
            | "memory.high"
    )
}

/// Whether `found` is `asked` rounded down to whole units of `unit` bytes. No
/// limit is -1 or `max`, and reads back as the largest number of pages.
fn same_amount(asked: &str, found: &str, unit: u64) -> bool {
    let most = i64::MAX as u64 / unit;
    let units = |text: &str| match text {
        "max" | "-1" => Some(most),
        _ => text.parse::<u64>().ok().map(|bytes| (bytes / unit).min(most)),
    };
    units(asked).is_some() && units(asked) == units(found)
}

fn page() -> u64 {
    use nix::unistd::{SysconfVar, sysconf};
    sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|n| u64::try_from(n).ok())
        .unwrap_or(4096)
}

/// Bytes of the page size in a name such as `hugetlb.2MB.max`.
fn huge_page(file: &str) -> u64 {
    let size = file.split('.').nth(1).unwrap_or("");
    let digits = size.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &size[digits.len()..] {
        "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => 1,
    };
    digits.parse::<u64>().unwrap_or(1).saturating_mul(unit).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_rounds_is_kept() {
        let table = [
            ("memory.limit_in_bytes", "67108865", "67108864", true),
            ("memory.limit_in_bytes", "67108864", "9223372036854771712", false),
            ("memory.limit_in_bytes", "-1", "9223372036854771712", true),
            ("memory.max", "max", "max", true),
            ("memory.max", "4096", "max", false),
            ("cpuset.cpus", "1,0", "0-1", true),
            ("cpuset.cpus", "0-1", "0", false),
            ("hugetlb.2MB.max", "3000000", "2097152", true),
            ("hugetlb.1GB.max", "3000000", "2097152", true),
            ("hugetlb.2MB.max", "3000000", "4194304", false),
            ("cpu.shares", "5", "1024", false),
            ("pids.max", "5", "max", false),
            ("memory.oom_control", "1", "oom_kill_disable 1\nunder_oom 0", true),
            ("io.max", "8:0 rbps=1", "8:0 rbps=1 wbps=max", true),
        ];
        for (file, asked, found, expected) in table {
            assert_eq!(kept(file, asked, found), expected, "{file}: {asked} as {found}");
        }
    }
}
