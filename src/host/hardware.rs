//! Slower facts about the machine; none of it is needed to start a process.

use std::fs;

use super::cpulist::parse_list;

/// One NUMA node with its CPUs, ascending.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NumaNode {
    pub number: u32,
    pub cpus: Vec<u32>,
}

/// Bytes of usable memory (`MemTotal` of proc_meminfo(5)); `None` without /proc.
pub fn memory_total() -> Option<u64> {
    parse_memory_total(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_memory_total(meminfo: &str) -> Option<u64> {
    let kib: u64 = field(meminfo, "MemTotal")?.trim_end_matches("kB").trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// CPUs that are online, ascending (sysfs-devices-system-cpu).
pub fn online_cpus() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    parse_list(&text).unwrap_or_default()
}

/// NUMA nodes that have CPUs, by number (sysfs-devices-node). A kernel
/// without NUMA has one node with every CPU.
pub fn numa_nodes() -> Vec<NumaNode> {
    let base = "/sys/devices/system/node";
    let online = fs::read_to_string(format!("{base}/online")).unwrap_or_default();
    let nodes: Vec<NumaNode> = parse_list(&online)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|number| {
            let list = fs::read_to_string(format!("{base}/node{number}/cpulist")).ok()?;
            let cpus = parse_list(&list).ok()?;
            (!cpus.is_empty()).then_some(NumaNode { number, cpus })
        })
        .collect();
    if nodes.is_empty() { vec![NumaNode { number: 0, cpus: online_cpus() }] } else { nodes }
}

/// The value of `name` in a file of `Name: value` lines, as /proc has many.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_memory_is_in_bytes() {
        let text = "MemTotal:        8024156 kB\nMemFree:  1 kB\n";
        assert_eq!(parse_memory_total(text), Some(8_024_156 * 1024));
        assert_eq!(parse_memory_total("nothing"), None);
    }

    #[test]
    fn every_online_cpu_is_in_a_node() {
        let nodes = numa_nodes();
        let in_nodes: usize = nodes.iter().map(|n| n.cpus.len()).sum();
        assert!(in_nodes >= online_cpus().len());
    }
}
