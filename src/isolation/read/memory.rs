//! How much memory others use, and for what.

use super::{
    Channel, Look, Reading, each, each_sum, lines_after, number, sum, text, value, word_number,
};

/// KiB that the neighbour moves at least, of what it takes in memory.
const MOVED: f64 = 100_000.0;
/// KiB by which two looks at a busy host's memory differ.
const NEAR: f64 = 40_000.0;

pub const CHANNELS: &[Channel] = &[
    Channel::new("mem_free", "/proc/meminfo", "neighbour memory", |_| meminfo("MemFree"))
        .within(NEAR)
        .level(MOVED),
    Channel::new("mem_committed", "/proc/meminfo", "neighbour memory", |_| meminfo("Committed_AS"))
        .within(NEAR)
        .level(MOVED),
    Channel::new("mem_shmem", "/proc/meminfo", "neighbour shm", |_| meminfo("Shmem"))
        .within(2000.0)
        .level(30_000.0),
    Channel::new("mem_pagetables", "/proc/meminfo", "task count", |_| meminfo("PageTables"))
        .within(500.0)
        .level(2000.0),
    Channel::new("swaps", "/proc/swaps", "memory", |_| {
        lines_after("/proc/swaps", 1).map(Reading::List)
    })
    .same(),
    Channel::new("zoneinfo", "/proc/zoneinfo", "free pages", |_| {
        let text = text("/proc/zoneinfo")?;
        let free =
            |l: &str| l.trim_start().strip_prefix("nr_free_pages ")?.trim().parse::<f64>().ok();
        number(text.lines().filter_map(free).sum::<f64>())
    })
    .within(NEAR / 4.0)
    .level(MOVED / 4.0),
    Channel::new("buddyinfo", "/proc/buddyinfo", "free pages", |_| {
        number(text("/proc/buddyinfo")?.lines().map(free_pages).sum::<f64>())
    })
    .within(NEAR / 4.0)
    .level(MOVED / 4.0),
    Channel::new("pagetypeinfo", "/proc/pagetypeinfo", "free pages", |_| {
        lines_after("/proc/pagetypeinfo", 0)
            .map(|all| Reading::List(all.into_iter().take(1).collect()))
    })
    .showing(),
    Channel::new("slabinfo", "/proc/slabinfo", "task, file count", |_| {
        number(value(&text("/proc/slabinfo")?, "task_struct ")?)
    })
    .within(20.0)
    .level(30.0),
    Channel::new("vmallocinfo", "/proc/vmallocinfo", "task stacks", |_| {
        number(lines_after("/proc/vmallocinfo", 0)?.len() as f64)
    })
    .within(20.0)
    .level(40.0),
    Channel::new("node_free", "/sys/devices/system/node/*/meminfo", "free pages", |_| {
        let free = |text: &String| {
            let line = text.lines().find(|l| l.contains("MemFree:"))?;
            word_number(line.split_once("MemFree:")?.1, 0)
        };
        let all = each("/sys/devices/system/node", "meminfo")?;
        number(all.iter().filter_map(free).reduce(|a, b| a + b)?)
    })
    .within(NEAR)
    .level(MOVED),
    Channel::new(
        "node_vmstat",
        "/sys/devices/system/node/node0/vmstat",
        "neighbour memory",
        |_| {
            number(
                value(&text("/sys/devices/system/node/node0/vmstat")?, "nr_active_anon ")?
                    + value(&text("/sys/devices/system/node/node0/vmstat")?, "nr_inactive_anon ")?,
            )
        },
    )
    .within(NEAR / 4.0)
    .level(MOVED / 4.0),
    Channel::new("numastat", "/sys/devices/system/node/*/numastat", "activity", |_| {
        each_sum("/sys/devices/system/node", "numastat")
    })
    .within(500.0)
    .rate(10_000.0),
    Channel::new("si_freeram", "sysinfo(2)", "neighbour memory", |_| {
        let info = crate::kernel::sys::probe::system_info().ok()?;
        number(info.freeram as f64 * f64::from(info.mem_unit) / 1024.0)
    })
    .within(NEAR)
    .level(MOVED),
    Channel::new("si_sharedram", "sysinfo(2)", "neighbour shm", |_| {
        let info = crate::kernel::sys::probe::system_info().ok()?;
        number(info.sharedram as f64 * f64::from(info.mem_unit) / 1024.0)
    })
    .within(2000.0)
    .level(30_000.0),
    Channel::new("pagecache", "cachestat on image file", "what others read", pages).level(4.0),
];

fn meminfo(key: &str) -> Option<Reading> {
    number(value(&text("/proc/meminfo")?, &format!("{key}:"))?)
}

/// Pages of a line of proc_buddyinfo(5): blocks of 1, 2, 4… pages.
fn free_pages(line: &str) -> f64 {
    let blocks = line.split_once("zone").map_or("", |(_, rest)| rest);
    let blocks = blocks.split_ascii_whitespace().skip(1);
    blocks.enumerate().map(|(order, n)| sum(n) * f64::from(1u32 << order.min(31))).sum()
}

fn pages(look: &Look) -> Option<Reading> {
    let file = std::fs::File::open(look.watched.as_ref()?).ok()?;
    number(crate::kernel::sys::probe::pages_in_memory(&file).ok()? as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_by_their_size() {
        assert_eq!(free_pages("Node 0, zone   Normal      3      2      1"), 11.0);
        assert_eq!(free_pages(""), 0.0);
    }
}
