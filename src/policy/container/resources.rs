//! `linux.resources` but for its devices (OCI config-linux.md, "Memory",
//! "CPU", "PIDs", "Huge page limits", "Unified"; the rest is in
//! `resources_io`).

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::findings::Findings;
use super::resources_io;
use crate::host::Facts;
use crate::policy::limits::{Cpu, Limits, Memory};
use crate::problem::Problem;
use crate::request::cpu_list;

/// What the kernel clamps cpu.shares to.
const SHARES: (u64, u64) = (2, 262_144);
/// Microseconds; the kernel takes a period of 1 ms to 1 s, and no quota below
/// 1 ms (sched-bwc.rst).
const PERIOD: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
const LEAST_QUOTA: i64 = 1_000;

/// The limits; `devices` stays empty. As in runc, a number that is 0 means
/// that nothing was asked.
pub(super) fn check(asked: &LinuxResources, facts: &Facts, found: &mut Findings) -> Limits {
    Limits {
        cpu: asked.cpu().as_ref().map(|cpu| self::cpu(cpu, found)).unwrap_or_default(),
        memory: asked.memory().as_ref().map(|m| memory(m, found)).unwrap_or_default(),
        pids: asked.pids().and_then(|p| bounded("linux.resources.pids.limit", p.limit(), found)),
        devices: Vec::new(),
        hugepages: hugepages(asked, found),
        block_io: resources_io::block_io(asked, found),
        network: resources_io::network(asked, found),
        rdma: resources_io::rdma(asked, found),
        unified: unified(asked, facts, found),
    }
}

/// -1 for no limit, or above 0.
fn bounded(field: &str, value: i64, found: &mut Findings) -> Option<i64> {
    if value < -1 {
        found.refuse(field, format!("{value} is neither a limit nor -1 for none"));
    }
    (value != 0).then_some(value)
}

/// `useHierarchy` is how every kernel since 5.11 works.
#[allow(deprecated)]
fn memory(asked: &LinuxMemory, found: &mut Findings) -> Memory {
    let mut field = |name: &str, value: Option<i64>| {
        bounded(&format!("linux.resources.memory.{name}"), value?, found)
    };
    let memory = Memory {
        limit: field("limit", asked.limit()),
        swap: field("swap", asked.swap()),
        reservation: field("reservation", asked.reservation()),
        swappiness: asked.swappiness(),
        disable_oom_killer: asked.disable_oom_killer(),
        kernel: field("kernel", asked.kernel()),
        kernel_tcp: field("kernelTCP", asked.kernel_tcp()),
        check_before_update: asked.check_before_update().unwrap_or(false),
    };
    swap(&memory, found);
    if asked.swappiness().is_some_and(|s| s > 100) {
        found.refuse("linux.resources.memory.swappiness", "is not within 0 to 100");
    }
    memory
}

/// `swap` counts memory and swap together, so it needs the memory limit and
/// cannot be below it.
fn swap(memory: &Memory, found: &mut Findings) {
    let Some(swap) = memory.swap.filter(|swap| *swap > 0) else {
        return;
    };
    let field = "linux.resources.memory.swap";
    match memory.limit {
        Some(limit) if limit > swap => found.refuse_with(
            field,
            format!("{swap} is below linux.resources.memory.limit, {limit}"),
            "it counts memory and swap together; give the sum of both",
        ),
        Some(limit) if limit > 0 => {}
        _ => found.refuse_with(
            field,
            "it counts memory and swap together, and no memory is limited",
            "give linux.resources.memory.limit too",
        ),
    }
}

fn cpu(asked: &LinuxCpu, found: &mut Findings) -> Cpu {
    let nonzero = |value: Option<u64>| value.filter(|value| *value != 0);
    // Any negative one is none, as the kernel has it on v1 and runc everywhere.
    let quota = asked.quota().filter(|quota| *quota != 0).map(|quota| quota.max(-1));
    if quota.is_some_and(|quota| (1..LEAST_QUOTA).contains(&quota)) {
        found.refuse("linux.resources.cpu.quota", "is below the kernel's least, 1000 microseconds");
    }
    let period = nonzero(asked.period());
    if period.is_some_and(|period| !PERIOD.contains(&period)) {
        found.refuse("linux.resources.cpu.period", "is not within 1000 to 1000000 microseconds");
    }
    Cpu {
        shares: nonzero(asked.shares()).map(|shares| shares.clamp(SHARES.0, SHARES.1)),
        quota,
        period,
        cpus: list("linux.resources.cpu.cpus", asked.cpus(), found),
        mems: list("linux.resources.cpu.mems", asked.mems(), found),
        burst: asked.burst(),
        idle: idle(asked, found),
        realtime_runtime: asked
            .realtime_runtime()
            .and_then(|r| bounded("linux.resources.cpu.realtimeRuntime", r, found)),
        realtime_period: nonzero(asked.realtime_period()),
    }
}

fn idle(asked: &LinuxCpu, found: &mut Findings) -> Option<i64> {
    let idle = asked.idle()?;
    if !(0..=1).contains(&idle) {
        found.refuse("linux.resources.cpu.idle", format!("{idle} is neither 0 nor 1"));
    }
    Some(idle)
}

fn list(field: &str, asked: &Option<String>, found: &mut Findings) -> Option<String> {
    let asked = asked.as_deref().map(str::trim).filter(|text| !text.is_empty())?;
    match cpu_list::parse(asked) {
        Ok(numbers) => Some(cpu_list::format(&numbers)),
        Err(problem) => {
            let message = format!("{field}: {problem}");
            found.push(Problem { message, ..problem });
            None
        }
    }
}

fn hugepages(asked: &LinuxResources, found: &mut Findings) -> Vec<(String, u64)> {
    let mut limits: Vec<(String, u64)> = Vec::new();
    for (index, asked) in asked.hugepage_limits().iter().flatten().enumerate() {
        let field = format!("linux.resources.hugepageLimits[{index}]");
        let size = asked.page_size();
        if !is_page_size(size) {
            let reason = format!("{size:?} is no page size such as 2MB");
            found.refuse(format_args!("{field}.pageSize"), reason);
        } else if limits.iter().any(|(known, _)| known == size) {
            found.refuse(format_args!("{field}.pageSize"), format!("{size} is listed twice"));
        }
        let bytes = u64::try_from(asked.limit()).unwrap_or_else(|_| {
            found.refuse(format_args!("{field}.limit"), "is below 0");
            0
        });
        limits.push((size.clone(), bytes));
    }
    limits
}

/// OCI: `^[1-9][0-9]*[KMG]B$`; it becomes part of a file name.
fn is_page_size(text: &str) -> bool {
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| text.strip_suffix(unit));
    digits.is_some_and(|digits| {
        digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() && !digits.starts_with('0')
    })
}

/// File names of cgroup v2, in the order of the names.
fn unified(asked: &LinuxResources, facts: &Facts, found: &mut Findings) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> =
        asked.unified().clone().unwrap_or_default().into_iter().collect();
    files.sort_unstable();
    for (name, value) in &files {
        let is_file = name.contains('.') && !name.starts_with('.') && !name.contains(['/', '\0']);
        if !is_file || value.contains('\0') {
            let field = format!("linux.resources.unified.{name}");
            found.refuse(field, "is no file of cgroup v2 such as memory.high");
        }
    }
    if !files.is_empty() && facts.cgroups.v2.is_none() {
        found.push(
            Problem::site("linux.resources.unified: this node has no cgroup v2")
                .hint("state the limits in linux.resources.memory, cpu and pids instead"),
        );
    }
    files
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts, problems};
    use super::*;
    use serde_json::{Value, json};

    fn with(resources: Value) -> Value {
        json!({"linux": {"resources": resources}})
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let memory = |memory: Value| with(json!({"memory": memory}));
        let cpu = |cpu: Value| with(json!({"cpu": cpu}));
        let pages = |pages: Value| with(json!({"hugepageLimits": pages}));
        assert_problems(&[
            (memory(json!({"limit": -2})), &["linux.resources.memory.limit: "]),
            (memory(json!({"reservation": -2})), &["linux.resources.memory.reservation: "]),
            (memory(json!({"limit": 8, "swap": 4})), &["linux.resources.memory.swap: 4 is below"]),
            (memory(json!({"swap": 4})), &["linux.resources.memory.swap: it counts"]),
            (memory(json!({"limit": -1, "swap": 4})), &["linux.resources.memory.swap: it counts"]),
            (memory(json!({"limit": 4, "swap": -1})), &[]),
            (memory(json!({"swappiness": 101})), &["linux.resources.memory.swappiness: "]),
            (cpu(json!({"quota": 999})), &["linux.resources.cpu.quota: "]),
            (cpu(json!({"quota": -5})), &[]),
            (cpu(json!({"period": 999})), &["linux.resources.cpu.period: "]),
            (cpu(json!({"period": 1_000_001})), &["linux.resources.cpu.period: "]),
            (cpu(json!({"idle": 2})), &["linux.resources.cpu.idle: 2 is neither"]),
            (cpu(json!({"realtimeRuntime": -2})), &["linux.resources.cpu.realtimeRuntime: "]),
            (memory(json!({"kernelTCP": -2})), &["linux.resources.memory.kernelTCP: "]),
            (cpu(json!({"cpus": "3-1"})), &["linux.resources.cpu.cpus: list \"3-1\""]),
            (cpu(json!({"mems": "x"})), &["linux.resources.cpu.mems: "]),
            (with(json!({"pids": {"limit": -2}})), &["linux.resources.pids.limit: "]),
            (
                pages(json!([
                    {"pageSize": "../x", "limit": 1}, {"pageSize": "2MB", "limit": -1},
                    {"pageSize": "2MB", "limit": 1}
                ])),
                &[
                    "linux.resources.hugepageLimits[0].pageSize: ",
                    "linux.resources.hugepageLimits[1].limit: ",
                    "linux.resources.hugepageLimits[2].pageSize: ",
                ],
            ),
            (
                with(json!({"unified": {"../x.y": "1", "memory": "1", "memory.high": "1"}})),
                &["linux.resources.unified.../x.y: ", "linux.resources.unified.memory: "],
            ),
        ]);
    }

    #[test]
    fn values_arrive() {
        let resources = json!({
            "memory": {"limit": 1 << 30, "swap": 1u64 << 31, "reservation": -1, "swappiness": 0,
                "disableOOMKiller": true, "kernel": 0, "kernelTCP": 4096, "useHierarchy": true,
                "checkBeforeUpdate": true},
            "cpu": {"shares": 1, "quota": -1, "period": 100_000, "cpus": "3,0-1", "mems": "0",
                "burst": 5000, "idle": 1, "realtimeRuntime": 950_000, "realtimePeriod": 1_000_000},
            "pids": {"limit": -1},
            "hugepageLimits": [{"pageSize": "1GB", "limit": 0}],
            "unified": {"memory.high": "max", "cpu.idle": "1"}
        });
        let limits = checked(with(resources), &facts()).spec.cgroup.limits;
        let memory = Memory {
            limit: Some(1 << 30),
            swap: Some(1 << 31),
            reservation: Some(-1),
            swappiness: Some(0),
            disable_oom_killer: Some(true),
            kernel: None,
            kernel_tcp: Some(4096),
            check_before_update: true,
        };
        assert_eq!(limits.memory, memory);
        let cpu = Cpu {
            shares: Some(2),
            quota: Some(-1),
            period: Some(100_000),
            cpus: Some("0-1,3".into()),
            mems: Some("0".into()),
            burst: Some(5000),
            idle: Some(1),
            realtime_runtime: Some(950_000),
            realtime_period: Some(1_000_000),
        };
        assert_eq!(limits.cpu, cpu);
        assert_eq!(limits.pids, Some(-1));
        assert_eq!(limits.hugepages, [("1GB".to_owned(), 0)]);
        assert_eq!(limits.unified[0], ("cpu.idle".to_owned(), "1".to_owned()));
    }

    #[test]
    fn zero_asks_for_nothing() {
        let resources = json!({
            "memory": {"limit": 0, "swap": 0}, "pids": {"limit": 0},
            "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": " "}
        });
        let mut limits = checked(with(resources), &facts()).spec.cgroup.limits;
        limits.devices.clear();
        assert!(limits.is_empty(), "{limits:?}");
    }

    #[test]
    fn unified_needs_cgroup_v2() {
        let mut facts = facts();
        facts.cgroups.v2 = None;
        let found = problems(with(json!({"unified": {"memory.high": "1"}})), &facts);
        assert_eq!(found, ["linux.resources.unified: this node has no cgroup v2"]);
    }
}
