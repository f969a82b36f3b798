//! The job's memory in the words of the kernel's own files.

use std::fmt::Write;

use super::counters::Memory;
use crate::kernel::sys;

/// What follows from the job's memory and the node's.
pub(super) struct Sums {
    pub total: u64,
    pub free: u64,
    pub available: u64,
    pub swap: u64,
    pub swap_free: u64,
}

impl Memory {
    /// `node`: text of the node's /proc/meminfo.
    pub(super) fn sums(&self, node: &str) -> Sums {
        let of_node = |name| field(node, name).unwrap_or_default() * 1024;
        let total = self.limit.unwrap_or(u64::MAX).min(of_node("MemTotal"));
        let free = total.saturating_sub(self.used);
        let reclaimable = self.active_file + self.inactive_file + self.slab_reclaimable;
        let swap = self.swap_limit.unwrap_or(u64::MAX).min(of_node("SwapTotal"));
        let swap_free = swap.saturating_sub(self.swap_used);
        Sums { total, free, available: (free + reclaimable).min(total), swap, swap_free }
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// /proc/meminfo (proc_meminfo(5)) for the job: the node's lines in their
/// order, with the job's values. Of huge pages, which are one pool for the
/// whole node, the node's are shown: a job that asks for more would fail.
pub fn meminfo(node: &str, memory: &Memory) -> String {
    let sums = memory.sums(node);
    let mut text = String::with_capacity(node.len());
    for line in node.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        if name.starts_with("Huge") || name.starts_with("VmallocTotal") {
            text.push_str(line);
            text.push('\n');
            continue;
        }
        // How the kernel's own map of all memory grew since the boot.
        if name.starts_with("DirectMap") {
            continue;
        }
        let bytes = value(name, memory, &sums);
        let unit = if rest.ends_with("kB") { " kB" } else { "" };
        let _ = writeln!(text, "{:<15} {:>8}{unit}", format!("{name}:"), bytes / 1024);
    }
    text
}

fn value(name: &str, m: &Memory, sums: &Sums) -> u64 {
    match name {
        "MemTotal" | "CommitLimit" => sums.total,
        "MemFree" => sums.free,
        "MemAvailable" => sums.available,
        "Cached" => m.file,
        "SwapTotal" => sums.swap,
        "SwapFree" => sums.swap_free,
        "Active" => m.active_anon + m.active_file,
        "Inactive" => m.inactive_anon + m.inactive_file,
        "Active(anon)" => m.active_anon,
        "Inactive(anon)" => m.inactive_anon,
        "Active(file)" => m.active_file,
        "Inactive(file)" => m.inactive_file,
        "Unevictable" | "Mlocked" => m.unevictable,
        "Dirty" => m.dirty,
        "Writeback" => m.writeback,
        "AnonPages" => m.anon,
        "AnonHugePages" => m.anon_huge,
        "Mapped" => m.mapped,
        "Shmem" => m.shmem,
        "KReclaimable" | "SReclaimable" => m.slab_reclaimable,
        "SUnreclaim" => m.slab_unreclaimable,
        "Slab" => m.slab_reclaimable + m.slab_unreclaimable,
        "KernelStack" => m.kernel_stack,
        "PageTables" => m.page_tables,
        "Committed_AS" => m.anon + m.shmem,
        _ => 0,
    }
}

/// /proc/vmstat for the job: every name of the node's, with the job's count
/// where there is one.
pub fn vmstat(node: &str, meminfo: &str, m: &Memory) -> String {
    let sums = m.sums(meminfo);
    let page = sys::page_size();
    let mut text = String::with_capacity(node.len());
    for name in node.lines().filter_map(|line| line.split(' ').next()) {
        let count = match name {
            "nr_free_pages" => sums.free / page,
            "nr_zone_inactive_anon" | "nr_inactive_anon" => m.inactive_anon / page,
            "nr_zone_active_anon" | "nr_active_anon" => m.active_anon / page,
            "nr_zone_inactive_file" | "nr_inactive_file" => m.inactive_file / page,
            "nr_zone_active_file" | "nr_active_file" => m.active_file / page,
            "nr_zone_unevictable" | "nr_unevictable" => m.unevictable / page,
            "nr_anon_pages" => m.anon / page,
            "nr_mapped" => m.mapped / page,
            "nr_file_pages" => m.file / page,
            "nr_dirty" => m.dirty / page,
            "nr_writeback" => m.writeback / page,
            "nr_shmem" => m.shmem / page,
            "nr_slab_reclaimable" => m.slab_reclaimable / page,
            "nr_slab_unreclaimable" => m.slab_unreclaimable / page,
            "nr_page_table_pages" => m.page_tables / page,
            "nr_kernel_stack" => m.kernel_stack / 1024,
            "pgfault" => m.faults,
            "pgmajfault" => m.major_faults,
            _ => 0,
        };
        let _ = writeln!(text, "{name} {count}");
    }
    text
}

/// /proc/swaps: the job's swap is a number, not a device.
pub fn swaps() -> String {
    "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned()
}

/// /sys/devices/system/node/nodeN/meminfo for a job on `nodes` memory nodes:
/// its memory, a part of it on each. `node`: text of the node's /proc/meminfo.
pub fn of_numa_node(number: u32, nodes: usize, node: &str, own: &str, memory: &Memory) -> String {
    let share = nodes.max(1) as u64;
    let sums = memory.sums(node);
    let total = (sums.total / share).min(field_of_node(own, "MemTotal").unwrap_or(u64::MAX));
    let used = (memory.used / share).min(total);
    let mut text = String::new();
    for name in own.lines().filter_map(|l| l.split_whitespace().nth(2)?.strip_suffix(':')) {
        let bytes = match name {
            "MemTotal" => total,
            "MemFree" => total - used,
            "MemUsed" => used,
            name if name.starts_with("HugePages_") => continue,
            "FilePages" => memory.file / share,
            name => value(name, memory, &sums) / share,
        };
        let _ = writeln!(text, "Node {number} {:<15} {:>8} kB", format!("{name}:"), bytes / 1024);
    }
    for line in own.lines().filter(|line| line.contains("HugePages_")) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Bytes, of lines such as `Node 0 MemTotal: 24 kB`.
fn field_of_node(text: &str, name: &str) -> Option<u64> {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found =
        words.into_iter().find(|w| w.get(2).and_then(|n| n.strip_suffix(':')) == Some(name))?;
    Some(found.get(3)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "MemTotal:       24000000 kB\nMemFree:        20000000 kB\n\
        MemAvailable:   21000000 kB\nCached:          1000000 kB\nSwapTotal:             0 kB\n\
        AnonPages:       2000000 kB\nHugePages_Total:       4\nHugepagesize:       2048 kB\n\
        DirectMap4k:      100000 kB\n";

    fn memory() -> Memory {
        Memory {
            limit: Some(1 << 30),
            used: 256 << 20,
            anon: 100 << 20,
            file: 64 << 20,
            inactive_file: 64 << 20,
            ..Memory::default()
        }
    }

    #[test]
    fn the_limit_is_the_machine() {
        let text = meminfo(NODE, &memory());
        assert_eq!(field(&text, "MemTotal"), Some(1 << 20));
        assert_eq!(field(&text, "MemFree"), Some((1024 - 256) << 10));
        assert_eq!(field(&text, "MemAvailable"), Some((1024 - 256 + 64) << 10));
        assert_eq!(field(&text, "AnonPages"), Some(100 << 10));
        assert_eq!(field(&text, "HugePages_Total"), Some(4));
        assert!(!text.contains("DirectMap"));
        assert!(text.starts_with("MemTotal:        1048576 kB\n"), "{text}");
    }

    #[test]
    fn without_a_limit_it_is_the_nodes_total_and_the_jobs_use() {
        let text = meminfo(NODE, &Memory { limit: None, ..memory() });
        assert_eq!(field(&text, "MemTotal"), Some(24_000_000));
        assert_eq!(field(&text, "MemFree"), Some(24_000_000 - (256 << 10)));
    }

    #[test]
    fn each_memory_node_has_its_part() {
        let own = "Node 1 MemTotal:       12000000 kB\nNode 1 MemFree:  9 kB\n\
            Node 1 MemUsed:  9 kB\nNode 1 HugePages_Total:     2\n";
        let text = of_numa_node(1, 2, NODE, own, &memory());
        assert_eq!(field_of_node(&text, "MemTotal"), Some(512 << 20));
        assert_eq!(field_of_node(&text, "MemUsed"), Some(128 << 20));
        assert!(text.contains("Node 1 HugePages_Total:     2\n"));
    }

    #[test]
    fn every_counter_of_the_nodes_is_there() {
        let text = vmstat("nr_free_pages 5\npgfault 900\nnuma_hit 7\n", NODE, &memory());
        assert_eq!(
            text,
            format!("nr_free_pages {}\npgfault 0\nnuma_hit 0\n", (768 << 20) / sys::page_size())
        );
    }
}
