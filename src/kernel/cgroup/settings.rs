//! Sets limits with the setters of cgroups-rs, and reads each one back.
//!
//! Its `CgroupBuilder` is not used: that drops the errors of the setters. Each
//! controller is given the open directory by way of /proc/self/fd, so that it
//! writes where we looked.

use std::error::Error as _;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::blkio::BlkIoController;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::error::Error as CratesError;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::net_cls::NetClsController;
use cgroups_rs::fs::net_prio::NetPrioController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::rdma::RdmaController;
use nix::errno::Errno;

use super::CgroupError;
use super::directory::Directory;
use crate::host::cpulist::parse_list;
use crate::plan::cgroup::{AS_IT_IS, Setting, Version};
use crate::policy::limits::{Throttle, Throttled};

/// Sets one limit and holds the kernel to it.
pub(super) fn set(group: &Directory, setting: &Setting) -> Result<(), CgroupError> {
    if let Setting::MemoryFits { bytes } = setting {
        return fits(group, setting, *bytes);
    }
    let mut choices = setting.choices(group.version);
    let present = |files: &Vec<(String, String)>| files.iter().all(|(file, _)| group.has(file));
    let chosen = match choices.len() {
        1 if !may_be_absent(setting) => Some(0),
        _ => choices.iter().position(present),
    };
    if chosen.is_none() && may_be_absent(setting) {
        return Ok(());
    }
    let files = choices.swap_remove(chosen.unwrap_or(0));
    write(group, setting, &files).map_err(|error| refused(group, setting, &files, &error))?;
    for (file, asked) in files {
        let found = group.read(&file)?;
        if !kept(&file, &asked, found.trim()) {
            return Err(group.not_kept(setting.name(), &file, &asked, found.trim()));
        }
    }
    Ok(())
}

/// What asks for no more than a kernel without the file does anyway.
fn may_be_absent(setting: &Setting) -> bool {
    matches!(
        setting,
        Setting::SwapMax { if_present: true, .. }
            | Setting::CpuIdle { idle: 0 }
            | Setting::CpuBurst { us: 0 }
            // Since Linux 5.7; before that, use is all that can be limited.
            | Setting::HugetlbReserved { .. }
    )
}

/// v1 refuses a limit that is in use; v2 would kill until it is not
/// (OCI config-linux.md, "Memory": `checkBeforeUpdate`).
fn fits(group: &Directory, setting: &Setting, bytes: i64) -> Result<(), CgroupError> {
    let file = match group.version {
        Version::V1 => "memory.usage_in_bytes",
        Version::V2 => "memory.current",
    };
    let used = group.read(file)?.trim().parse::<i64>().unwrap_or(i64::MAX);
    if used <= bytes {
        return Ok(());
    }
    Err(CgroupError::Limit {
        what: setting.name().to_owned(),
        path: group.path().join(file),
        value: bytes.to_string(),
        reason: format!("{used} bytes are in use"),
        errno: Some(Errno::EBUSY),
    })
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

fn write(group: &Directory, setting: &Setting, files: &[(String, String)]) -> Result<(), Failure> {
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
            cpu().set_cfs_quota_and_period(*quota, Some(period.unwrap_or(100_000)))?;
        }
        Setting::CpuMax { quota, period } => both(
            period.map(|period| move || cpu().set_cfs_period(period)),
            quota.map(|quota| move || cpu().set_cfs_quota(quota)),
        )?,
        Setting::Realtime { runtime, period } => both(
            period.map(|period| move || cpu().set_rt_period_us(period)),
            runtime.map(|runtime| move || cpu().set_rt_runtime(runtime)),
        )?,
        Setting::Cpus { list } => cpuset().set_cpus(list)?,
        Setting::Mems { list } => cpuset().set_mems(list)?,
        Setting::PidsMax { count } => {
            let most = if *count < 0 { MaxValue::Max } else { MaxValue::Value(*count) };
            PidController::new(path.clone(), path, v2).set_pid_max(most)?;
        }
        Setting::HugetlbMax { size, bytes } => {
            HugeTlbController::new(path.clone(), path, v2).set_limit_in_bytes(size, *bytes)?;
        }
        Setting::KernelMemoryMax { bytes } => memory().set_kmem_limit(*bytes)?,
        Setting::TcpMemoryMax { bytes } => memory().set_tcp_limit(*bytes)?,
        Setting::IoMax(throttle) if !(v2 && throttle.rate == 0) => {
            throttled(&BlkIoController::new(path.clone(), path, v2), throttle)?;
        }
        Setting::NetworkClass { id } => {
            NetClsController::new(path.clone(), path).set_class(u64::from(*id))?;
        }
        Setting::NetworkPriority { interface, priority } => {
            let controller = NetPrioController::new(path.clone(), path);
            controller.set_if_prio(interface, u64::from(*priority))?;
        }
        Setting::RdmaMax(_) => {
            let value = files.first().map_or("", |(_, value)| value);
            RdmaController::new(path.clone(), path).set_max(value)?;
        }
        Setting::MemoryFits { .. } => {}
        // The crate has no setter, or knows one name of several only.
        Setting::CpuBurst { .. }
        | Setting::CpuIdle { .. }
        | Setting::HugetlbReserved { .. }
        | Setting::IoWeight { .. }
        | Setting::IoLeafWeight { .. }
        | Setting::IoMax(_)
        | Setting::File { .. } => {
            for (file, value) in files {
                group.write(file, value)?;
            }
        }
    }
    Ok(())
}

/// A period, then what of it may be used; the other way round where what was
/// allowed before is too large a part of the new period. (The crate's setter
/// for both always takes the second way, which fails on the first limit.)
fn both<P, Q>(period: Option<P>, amount: Option<Q>) -> Result<(), CratesError>
where
    P: Fn() -> Result<(), CratesError>,
    Q: Fn() -> Result<(), CratesError>,
{
    let amount = || amount.as_ref().map_or(Ok(()), |set| set());
    let Some(period) = period else { return amount() };
    if period().is_err() {
        amount()?;
        period()?;
    }
    amount()
}

fn throttled(controller: &BlkIoController, throttle: &Throttle) -> Result<(), CratesError> {
    let Throttle { what, device, rate } = *throttle;
    let (major, minor) = (u64::from(device.major), u64::from(device.minor));
    match what {
        Throttled::ReadBytes => controller.throttle_read_bps_for_device(major, minor, rate),
        Throttled::WriteBytes => controller.throttle_write_bps_for_device(major, minor, rate),
        Throttled::ReadOperations => controller.throttle_read_iops_for_device(major, minor, rate),
        Throttled::WriteOperations => controller.throttle_write_iops_for_device(major, minor, rate),
    }
}

/// The kernel's reason inside an error of cgroups-rs.
pub(super) fn errno_of(error: &CratesError) -> Option<Errno> {
    let cause = error.source()?.downcast_ref::<std::io::Error>()?;
    cause.raw_os_error().map(Errno::from_raw)
}

fn refused(
    group: &Directory,
    setting: &Setting,
    files: &[(String, String)],
    failure: &Failure,
) -> CgroupError {
    let (reason, errno) = match failure {
        Failure::Crate(error) => {
            let errno = errno_of(error);
            (errno.map_or_else(|| error.to_string(), |errno| errno.to_string()), errno)
        }
        Failure::Own(error) => match error.errno() {
            Some(errno) => (errno.to_string(), Some(errno)),
            None => (error.to_string(), None),
        },
    };
    // The one that is not there, if that is the reason.
    let absent = files.iter().find(|(file, _)| !group.has(file));
    let (file, value) = absent.or(files.last()).cloned().unwrap_or_default();
    // The crate knows a missing file by name only.
    let errno = errno.or(absent.map(|_| Errno::ENOENT));
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
        "cpu.max" => words_kept(asked, found),
        _ if file.starts_with("blkio.") || is_list(file) => in_list(asked, found),
        _ if file.starts_with("hugetlb.") => same_amount(asked, found, huge_page(file)),
        _ if is_bytes(file) => same_amount(asked, found, page()),
        // A unified file may have a form of its own (io.max): what the kernel
        // took is what counts, and it refuses what it cannot set.
        _ => !is_ours(file),
    }
}

/// Word by word, but for those that were left as they were.
fn words_kept(asked: &str, found: &str) -> bool {
    let (mut asked, mut found) = (asked.split(' '), found.split(' '));
    asked.all(|word| found.next().is_some_and(|found| word == AS_IT_IS || word == found))
}

/// Files of a line for each device or interface.
fn is_list(file: &str) -> bool {
    matches!(file, "io.max" | "io.weight" | "io.bfq.weight" | "net_prio.ifpriomap" | "rdma.max")
}

/// Whether the line that begins as `asked` does has all of its words. A line
/// that says that there is no limit is left out by the kernel.
fn in_list(asked: &str, found: &str) -> bool {
    let Some((key, values)) = asked.split_once(' ') else {
        // A value for all, alone or with `default` before it.
        return found.split_whitespace().any(|word| word == asked);
    };
    let line = found.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    let unlimited = |word: &str| word == "0" || word.ends_with("=max");
    match line {
        Some(line) => values.split(' ').all(|word| line.split(' ').any(|found| found == word)),
        None => values.split(' ').all(unlimited),
    }
}

/// Files that a limit of ours is written to, so that their form is known.
fn is_ours(file: &str) -> bool {
    matches!(
        file,
        "cpu.shares"
            | "cpu.weight"
            | "cpu.cfs_quota_us"
            | "cpu.cfs_period_us"
            | "cpu.cfs_burst_us"
            | "cpu.max.burst"
            | "cpu.idle"
            | "cpu.rt_runtime_us"
            | "cpu.rt_period_us"
            | "net_cls.classid"
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
            | "memory.kmem.limit_in_bytes"
            | "memory.kmem.tcp.limit_in_bytes"
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
            ("io.max", "8:0 rbps=1", "8:0 rbps=2 wbps=max", false),
            ("io.max", "8:0 rbps=1", "8:01 rbps=1", false),
            ("io.max", "8:0 rbps=max", "", true),
            ("io.weight", "5", "default 5\n8:0 7", true),
            ("io.weight", "8:0 5", "default 5\n8:0 7", false),
            ("blkio.bfq.weight", "5", "5", true),
            ("blkio.throttle.read_bps_device", "8:0 5", "7:0 6\n8:0 5", true),
            ("blkio.throttle.read_bps_device", "8:0 5", "", false),
            ("blkio.throttle.read_bps_device", "8:0 0", "7:0 6", true),
            ("rdma.max", "m hca_handle=2", "m hca_handle=2 hca_object=max", true),
            ("rdma.max", "m hca_handle=2", "m hca_handle=max hca_object=max", false),
            ("net_prio.ifpriomap", "lo 3", "lo 3\neth0 0", true),
            ("net_cls.classid", "1048577", "1048577", true),
            ("cpu.max", "* 50000", "max 50000", true),
            ("cpu.max", "max 50000", "1000 50000", false),
            ("cpu.idle", "1", "0", false),
            ("hugetlb.2MB.rsvd.max", "3000000", "2097152", true),
            ("memory.kmem.tcp.limit_in_bytes", "4096", "9223372036854771712", false),
        ];
        for (file, asked, found, expected) in table {
            assert_eq!(kept(file, asked, found), expected, "{file}: {asked} as {found}");
        }
    }
}
