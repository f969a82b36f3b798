//! Values that the kernel keeps for the whole node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{line, names};

/// Below /proc/sys: what counts or changes by itself, what acts when it is
/// read (vm/stat_refresh), and secrets.
const LEFT_OUT: &[&str] = &[
    "fs/aio-nr",
    "fs/binfmt_misc",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "fs/quota",
    "kernel/cad_pid",
    "kernel/hung_task_detect_count",
    "kernel/ns_last_pid",
    "kernel/perf_event_max_sample_rate",
    "kernel/pty/nr",
    "kernel/random",
    "net/ipv4/route/flush",
    "net/ipv4/tcp_available_congestion_control",
    "net/ipv4/tcp_available_ulp",
    "net/ipv4/tcp_fastopen_key",
    "net/ipv6/route/flush",
    "net/netfilter/nf_conntrack_count",
    "sunrpc/transports",
    "vm/compact_memory",
    "vm/drop_caches",
    "vm/stat_refresh",
];

/// Files below /sys; `*` stands for every name there that begins so.
const SYS: &[&str] = &[
    "kernel/mm/transparent_hugepage/enabled",
    "kernel/mm/transparent_hugepage/defrag",
    "kernel/mm/transparent_hugepage/shmem_enabled",
    "kernel/mm/transparent_hugepage/use_zero_page",
    "kernel/mm/transparent_hugepage/khugepaged/defrag",
    "kernel/mm/transparent_hugepage/khugepaged/max_ptes_none",
    "kernel/mm/transparent_hugepage/khugepaged/pages_to_scan",
    "kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
    "kernel/mm/hugepages/*/nr_hugepages",
    "kernel/mm/hugepages/*/nr_overcommit_hugepages",
    "kernel/mm/ksm/run",
    "kernel/mm/lru_gen/enabled",
    "kernel/mm/numa/demotion_enabled",
    "module/zswap/parameters/enabled",
    "devices/system/cpu/online",
    "devices/system/cpu/smt/control",
    "devices/system/cpu/cpufreq/boost",
    "devices/system/cpu/cpufreq/policy*/scaling_governor",
    "devices/system/cpu/cpufreq/policy*/scaling_min_freq",
    "devices/system/cpu/cpufreq/policy*/scaling_max_freq",
    "devices/system/cpu/cpufreq/policy*/energy_performance_preference",
    "devices/system/cpu/intel_pstate/no_turbo",
    "devices/system/node/node*/hugepages/*/nr_hugepages",
    "devices/system/clocksource/clocksource0/current_clocksource",
];

/// All of them, by name.
pub fn read() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    sysctl(Path::new("/proc/sys"), &mut all);
    for pattern in SYS {
        let mut found = vec![PathBuf::from("/sys")];
        for part in pattern.split('/') {
            found = found.iter().flat_map(|dir| matching(dir, part)).collect();
        }
        for path in found {
            if let Some(value) = line(&path) {
                all.insert(path.display().to_string(), chosen(&value).to_owned());
            }
        }
    }
    all
}

fn matching(dir: &Path, part: &str) -> Vec<PathBuf> {
    match part.strip_suffix('*') {
        None => vec![dir.join(part)],
        Some(start) => {
            let names = names(dir).into_iter().filter(|name| name.starts_with(start));
            names.map(|name| dir.join(name)).collect()
        }
    }
}

/// `always [madvise] never`: the one in use.
fn chosen(value: &str) -> &str {
    let inner = value.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(value, |(word, _)| word)
}

fn sysctl(dir: &Path, all: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(name) = path.strip_prefix("/proc/sys").ok().and_then(Path::to_str) else {
            continue;
        };
        if LEFT_OUT.contains(&name) || of_one_interface(name) {
            continue;
        }
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            sysctl(&path, all);
        } else if let Some(value) = line(&path) {
            all.insert(dotted(name), value);
        }
    }
}

/// `net/ipv4/conf/eth0`: comes and goes with the interface; what counts for
/// new ones is in `all` and `default`.
fn of_one_interface(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    matches!(parts[..], ["net", _, "conf" | "neigh", who, ..] if !matches!(who, "all" | "default"))
}

/// As sysctl(8) prints it: a dot in a name is a slash there.
fn dotted(name: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    name.chars().map(swap).collect()
}

/// The file of a setting by its name.
pub fn file(name: &str) -> PathBuf {
    if name.starts_with("/sys/") {
        return PathBuf::from(name);
    }
    Path::new("/proc/sys").join(dotted(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_files() {
        for (name, path) in [
            ("vm.swappiness", "/proc/sys/vm/swappiness"),
            ("net.ipv4.conf.eth0/7.rp_filter", "/proc/sys/net/ipv4/conf/eth0.7/rp_filter"),
            ("/sys/kernel/mm/ksm/run", "/sys/kernel/mm/ksm/run"),
        ] {
            assert_eq!(file(name), Path::new(path), "{name}");
        }
    }

    #[test]
    fn the_word_in_use_is_taken() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("60"), "60");
    }

    #[test]
    fn interfaces_that_come_and_go_are_left_out() {
        assert!(of_one_interface("net/ipv4/conf/eth0"));
        assert!(of_one_interface("net/ipv6/neigh/eth0/x"));
        assert!(!of_one_interface("net/ipv4/conf/all"));
        assert!(!of_one_interface("net/ipv4/conf"));
        assert!(!of_one_interface("net/core/somaxconn"));
    }
}
