//! What a control group counts, in either version.

use std::collections::HashMap;
use std::path::Path;

use super::kept::Kept;

/// Bytes, unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    pub limit: Option<u64>,
    pub swap_limit: Option<u64>,
    pub used: u64,
    pub swap_used: u64,
    pub anon: u64,
    pub anon_huge: u64,
    /// Page cache, with shared memory.
    pub file: u64,
    pub shmem: u64,
    pub mapped: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub active_anon: u64,
    pub inactive_anon: u64,
    pub active_file: u64,
    pub inactive_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub kernel_stack: u64,
    pub page_tables: u64,
    /// Counts.
    pub faults: u64,
    pub major_faults: u64,
}

/// What went to and from one block device: operations and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceUse {
    pub reads: u64,
    pub read: u64,
    pub writes: u64,
    pub written: u64,
}

/// The directory of a group, with what is kept open.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    pub kept: &'a Kept,
    pub dir: &'a Path,
}

impl Files<'_> {
    pub fn read(&self, name: &str) -> Option<String> {
        self.kept.read(&self.dir.join(name))
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.read(name)?.trim().parse().ok()
    }

    /// A limit; `None` for `max` and for what v1 has in its place, a number of
    /// pages that no machine has.
    pub fn limit(&self, name: &str) -> Option<u64> {
        self.number(name).filter(|bytes| *bytes < 1 << 60)
    }
}

pub fn keyed(text: &str) -> HashMap<&str, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name, value.trim().parse().ok()?))
        })
        .collect()
}

/// Kernel document cgroup-v1/memory.
pub fn memory_v1(files: Files<'_>) -> Memory {
    let text = files.read("memory.stat").unwrap_or_default();
    let stat = keyed(&text);
    // With the groups below: a scheduler makes one for each step.
    let get = |name: &str| stat.get(format!("total_{name}").as_str()).copied().unwrap_or_default();
    // What those above allow counts as well.
    let above = stat.get("hierarchical_memory_limit").copied().filter(|bytes| *bytes < 1 << 60);
    let limit = least([files.limit("memory.limit_in_bytes"), above]);
    let both = files.limit("memory.memsw.limit_in_bytes");
    Memory {
        limit,
        swap_limit: both.zip(limit).map(|(both, limit)| both.saturating_sub(limit)),
        used: files.number("memory.usage_in_bytes").unwrap_or_default(),
        swap_used: get("swap"),
        anon: get("rss"),
        anon_huge: get("rss_huge"),
        file: get("cache"),
        shmem: get("shmem"),
        mapped: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        active_anon: get("active_anon"),
        inactive_anon: get("inactive_anon"),
        active_file: get("active_file"),
        inactive_file: get("inactive_file"),
        unevictable: get("unevictable"),
        faults: get("pgfault"),
        major_faults: get("pgmajfault"),
        ..Memory::default()
    }
}

fn least(limits: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    limits.into_iter().flatten().min()
}

/// Kernel document cgroup-v2, "Memory Interface Files"; `mount`: the top of the
/// hierarchy.
pub fn memory_v2(files: Files<'_>, mount: &Path) -> Memory {
    let text = files.read("memory.stat").unwrap_or_default();
    let stat = keyed(&text);
    let get = |name: &str| stat.get(name).copied().unwrap_or_default();
    // The group's own and those above; the top has none.
    let groups = files.dir.ancestors().take_while(|dir| dir.starts_with(mount) && *dir != mount);
    Memory {
        limit: least(groups.map(|dir| Files { dir, ..files }.limit("memory.max"))),
        swap_limit: files.limit("memory.swap.max"),
        used: files.number("memory.current").unwrap_or_default(),
        swap_used: files.number("memory.swap.current").unwrap_or_default(),
        anon: get("anon"),
        anon_huge: get("anon_thp"),
        file: get("file"),
        shmem: get("shmem"),
        mapped: get("file_mapped"),
        dirty: get("file_dirty"),
        writeback: get("file_writeback"),
        active_anon: get("active_anon"),
        inactive_anon: get("inactive_anon"),
        active_file: get("active_file"),
        inactive_file: get("inactive_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        kernel_stack: get("kernel_stack"),
        page_tables: get("pagetables"),
        faults: get("pgfault"),
        major_faults: get("pgmajfault"),
    }
}

/// Lines such as `8:0 Read 17` (kernel document cgroup-v1/blkio-controller).
pub fn device_use_v1(text: &str, operations: bool, found: &mut HashMap<String, DeviceUse>) {
    for line in text.lines() {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let [device, what, count] = parts[..] else { continue };
        let Ok(count) = count.parse::<u64>() else { continue };
        let device = found.entry(device.to_owned()).or_default();
        match (what, operations) {
            ("Read", true) => device.reads = count,
            ("Read", false) => device.read = count,
            ("Write", true) => device.writes = count,
            ("Write", false) => device.written = count,
            _ => {}
        }
    }
}

/// Lines such as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
pub fn device_use_v2(text: &str, found: &mut HashMap<String, DeviceUse>) {
    for line in text.lines() {
        let Some((device, rest)) = line.split_once(' ') else { continue };
        let value = |name: &str| {
            rest.split(' ').find_map(|w| w.strip_prefix(name)?.parse().ok()).unwrap_or_default()
        };
        let seen = DeviceUse {
            reads: value("rios="),
            read: value("rbytes="),
            writes: value("wios="),
            written: value("wbytes="),
        };
        found.insert(device.to_owned(), seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_all_groups_above_counts() {
        let place = tempfile::tempdir().unwrap();
        let (top, kept) = (place.path(), Kept::default());
        let (slice, own) = (top.join("slice"), top.join("slice/own"));
        std::fs::create_dir_all(&own).unwrap();
        let write = |dir: &Path, name: &str, text: &str| std::fs::write(dir.join(name), text);
        let files = Files { kept: &kept, dir: &own };
        write(&own, "memory.max", "max\n").unwrap();
        assert_eq!(memory_v2(files, top).limit, None);
        write(&slice, "memory.max", "4096\n").unwrap();
        assert_eq!(memory_v2(files, top).limit, Some(4096));
        assert_eq!(memory_v2(files, &slice).limit, None);
        write(&own, "memory.max", "1024\n").unwrap();
        assert_eq!(memory_v2(files, top).limit, Some(1024));
        write(&own, "memory.limit_in_bytes", "9223372036854771712\n").unwrap();
        for (above, limit) in [("9223372036854771712", None), ("8192", Some(8192))] {
            write(&own, "memory.stat", &format!("hierarchical_memory_limit {above}\n")).unwrap();
            assert_eq!(memory_v1(files).limit, limit);
        }
    }

    #[test]
    fn devices_by_either_version() {
        let mut one = HashMap::new();
        device_use_v1("8:0 Read 3\n8:0 Write 4\n8:0 Sync 1\nTotal 7\n", true, &mut one);
        device_use_v1("8:0 Read 4096\n8:0 Write 8192\nTotal 1\n", false, &mut one);
        let mut two = HashMap::new();
        device_use_v2("8:0 rbytes=4096 wbytes=8192 rios=3 wios=4 dbytes=0 dios=0\n", &mut two);
        assert_eq!(one, two);
        assert_eq!(one["8:0"], DeviceUse { reads: 3, read: 4096, writes: 4, written: 8192 });
    }
}
