//! What an environment uses now, in the form of runc's `events`.
//!
//! Names and units are those of runc's type `types.Stats`, which engines
//! decode; a number that this node does not keep is left out.

use serde_json::{Map, Value, json};

use super::directory::Directory;
use crate::plan::cgroup::{CgroupPlan, Version};

/// The object `data` of an event of type `stats`.
pub fn stats(plan: &CgroupPlan) -> Value {
    let open = |controller: &str| Directory::open(&plan.with(controller)?.at).ok();
    let v2 = plan.v2().and_then(|group| Directory::open(&group.at).ok());
    json!({
        "cpu": {
            "usage": cpu_usage(open("cpuacct").as_ref(), v2.as_ref()),
            "throttling": open("cpu").map_or_else(|| json!({}), |g| throttling(&g)),
        },
        "cpuset": open("cpuset").map_or_else(|| json!({}), |g| cpuset(&g)),
        "memory": open("memory").map_or_else(|| json!({}), |g| memory(&g)),
        "pids": open("pids").map_or_else(|| json!({}), |g| object([
            ("current", number(&g, "pids.current")),
            ("limit", number(&g, "pids.max")),
        ])),
        "blkio": match (open("blkio"), open("io")) {
            (Some(group), _) => blkio_v1(&group),
            (None, Some(group)) => blkio_v2(&group),
            (None, None) => json!({}),
        },
        "hugetlb": open("hugetlb").map_or_else(|| json!({}), |g| hugetlb(&g)),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// What is known, by name.
fn object<const N: usize>(fields: [(&str, Option<u64>); N]) -> Value {
    let known =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    Value::Object(known.collect())
}

/// A file of one number; `None` also for `max`.
fn number(group: &Directory, file: &str) -> Option<u64> {
    group.read(file).ok()?.trim().parse().ok()
}

/// Lines of `name number`.
fn table(group: &Directory, file: &str) -> Map<String, Value> {
    let text = group.read(file).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .filter_map(|(name, value)| {
            Some((name.to_owned(), json!(value.trim().parse::<u64>().ok()?)))
        })
        .collect()
}

fn keyed(table: &Map<String, Value>, name: &str) -> Option<u64> {
    table.get(name).and_then(Value::as_u64)
}

/// Nanoseconds.
fn cpu_usage(v1: Option<&Directory>, v2: Option<&Directory>) -> Value {
    if let Some(group) = v1 {
        let all = group.read("cpuacct.usage_all").unwrap_or_default();
        let column = |at: usize| -> Vec<u64> {
            let rows = all.lines().skip(1);
            rows.filter_map(|row| row.split_whitespace().nth(at)?.parse().ok()).collect()
        };
        let percpu = group.read("cpuacct.usage_percpu").unwrap_or_default();
        let percpu: Vec<u64> = percpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        return json!({
            "total": number(group, "cpuacct.usage"),
            "percpu": percpu,
            "percpu_user": column(1),
            "percpu_kernel": column(2),
            "user": number(group, "cpuacct.usage_user"),
            "kernel": number(group, "cpuacct.usage_sys"),
        });
    }
    let table = v2.map(|group| table(group, "cpu.stat")).unwrap_or_default();
    let ns = |name| keyed(&table, name).map(|us| us * 1000);
    object([("total", ns("usage_usec")), ("user", ns("user_usec")), ("kernel", ns("system_usec"))])
}

fn throttling(group: &Directory) -> Value {
    let table = table(group, "cpu.stat");
    let time = keyed(&table, "throttled_time")
        .or_else(|| keyed(&table, "throttled_usec").map(|us| us * 1000));
    object([
        ("periods", keyed(&table, "nr_periods")),
        ("throttledPeriods", keyed(&table, "nr_throttled")),
        ("throttledTime", time),
    ])
}

fn cpuset(group: &Directory) -> Value {
    let list = |files: [&str; 2]| {
        let text = files.iter().find_map(|file| group.read(file).ok()).unwrap_or_default();
        crate::host::cpulist::parse_list(text.trim()).unwrap_or_default()
    };
    json!({
        "cpus": list(["cpuset.effective_cpus", "cpuset.cpus.effective"]),
        "mems": list(["cpuset.effective_mems", "cpuset.mems.effective"]),
    })
}

fn memory(group: &Directory) -> Value {
    let raw = table(group, "memory.stat");
    if group.version == Version::V1 {
        let entry = |kind: &str| {
            let file = |name: &str| number(group, &format!("memory.{kind}{name}"));
            object([
                ("limit", file("limit_in_bytes")),
                ("usage", file("usage_in_bytes")),
                ("max", file("max_usage_in_bytes")),
                ("failcnt", file("failcnt")),
            ])
        };
        return json!({
            "cache": keyed(&raw, "total_cache"),
            "usage": entry(""),
            "swap": entry("memsw."),
            "kernel": entry("kmem."),
            "kernelTCP": entry("kmem.tcp."),
            "raw": raw,
        });
    }
    // No limit is the largest number in runc's terms.
    let limit = |file| number(group, file).unwrap_or(u64::MAX);
    let usage = number(group, "memory.current");
    let events = table(group, "memory.events");
    let swap = number(group, "memory.swap.current");
    json!({
        "cache": keyed(&raw, "file"),
        "usage": object([
            ("limit", Some(limit("memory.max"))),
            ("usage", usage),
            ("max", number(group, "memory.peak")),
            ("failcnt", keyed(&events, "max")),
        ]),
        // Memory and swap together, as v1 counts them.
        "swap": object([
            ("limit", Some(limit("memory.swap.max").saturating_add(limit("memory.max")))),
            ("usage", usage.zip(swap).map(|(memory, swap)| memory + swap)),
        ]),
        "raw": raw,
    })
}

/// Lines of `8:0 Read 4096` (kernel document cgroup-v1/blkio-controller).
fn blkio_v1(group: &Directory) -> Value {
    let entries = |file: &str| -> Vec<Value> {
        let text = group.read(file).unwrap_or_default();
        text.lines().filter_map(blkio_line).collect()
    };
    json!({
        "ioServiceBytesRecursive": entries("blkio.throttle.io_service_bytes_recursive"),
        "ioServicedRecursive": entries("blkio.throttle.io_serviced_recursive"),
    })
}

fn blkio_line(line: &str) -> Option<Value> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let (op, value) = (words.next()?, words.next()?);
    blkio_entry((major, minor), op, value)
}

fn blkio_entry((major, minor): (&str, &str), op: &str, value: &str) -> Option<Value> {
    let number = |text: &str| text.parse::<u64>().ok();
    Some(json!({
        "major": number(major)?, "minor": number(minor)?, "op": op, "value": number(value)?
    }))
}

/// Lines of `8:0 rbytes=4096 wbytes=0 …` (kernel document cgroup-v2, "IO").
fn blkio_v2(group: &Directory) -> Value {
    let text = group.read("io.stat").unwrap_or_default();
    let entries = |names: [(&str, &str); 3]| -> Vec<Value> {
        let mut found = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(device) = words.next().and_then(|word| word.split_once(':')) else { continue };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let op = names.iter().find(|(name, _)| *name == key);
                found.extend(op.and_then(|(_, op)| blkio_entry(device, op, value)));
            }
        }
        found
    };
    json!({
        "ioServiceBytesRecursive":
            entries([("rbytes", "Read"), ("wbytes", "Write"), ("dbytes", "Discard")]),
        "ioServicedRecursive": entries([("rios", "Read"), ("wios", "Write"), ("dios", "Discard")]),
    })
}

/// By page size, such as `2MB`.
fn hugetlb(group: &Directory) -> Value {
    let names = std::fs::read_dir(group.proc_path()).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let usage = match group.version {
        Version::V1 => ".usage_in_bytes",
        Version::V2 => ".current",
    };
    let sizes = names.filter_map(|name| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(usage)?;
        (!size.ends_with(".rsvd")).then(|| size.to_owned())
    });
    let entry = |size: &str| {
        let file = |name: &str| number(group, &format!("hugetlb.{size}.{name}"));
        match group.version {
            Version::V1 => object([
                ("usage", file("usage_in_bytes")),
                ("max", file("max_usage_in_bytes")),
                ("failcnt", file("failcnt")),
            ]),
            Version::V2 => object([
                ("usage", file("current")),
                ("failcnt", keyed(&table(group, &format!("hugetlb.{size}.events")), "max")),
            ]),
        }
    };
    Value::Object(sizes.map(|size| (size.clone(), entry(&size))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_devices_are_read() {
        let entry = json!({"major": 8, "minor": 16, "op": "Read", "value": 4096});
        assert_eq!(blkio_line("8:16 Read 4096"), Some(entry));
        for other in ["Total 4096", "8:16 Read", "", "8 Read 1"] {
            assert_eq!(blkio_line(other), None, "{other}");
        }
    }
}
