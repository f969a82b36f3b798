//! /sys/devices/system as a job sees it: its processors and memory nodes, and
//! of the rest what programs read there (sysfs-devices-system-cpu,
//! sysfs-devices-node of the kernel's ABI documents).

use std::path::PathBuf;

use crate::host::cpulist::{format_list, parse_list};

/// What stands at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    Directory,
    Link(String),
    /// A text that stays as it is.
    Fixed(String),
    /// Which CPUs or memory nodes are the job's, as they are at this moment.
    List(String),
    /// Made anew for each reader.
    NodeMemory(u32),
    NodeCounters(u32),
    NodeHits(u32),
}

/// What the job may use, ascending.
pub struct Allowed {
    pub cpus: Vec<u32>,
    pub nodes: Vec<u32>,
}

pub const BASE: &str = "/sys/devices/system";

/// Directories of a CPU and of the processors as a whole whose files say how
/// the machine is built and nothing of what runs on it.
const OF_CPU: &[&str] = &["topology", "cache"];
const OF_CPUS: &[&str] = &["vulnerabilities", "smt"];
/// The limits of a CPU's frequency; the one that it has now tells its load.
const FREQUENCY: &[&str] = &["base_frequency", "cpuinfo_max_freq", "cpuinfo_min_freq"];

/// What the job finds at `path` below /sys/devices/system; `None`: nothing.
pub fn what(path: &[&str], allowed: &Allowed) -> Option<What> {
    let list = |numbers: &[u32]| Some(What::List(format_list(numbers) + "\n"));
    let none = || Some(What::Fixed("\n".to_owned()));
    match path {
        [] | ["cpu" | "node"] => {
            PathBuf::from(BASE).join(path.concat()).is_dir().then_some(What::Directory)
        }
        ["cpu", "online" | "possible" | "present"] => list(&allowed.cpus),
        ["cpu", "offline" | "isolated" | "nohz_full"] => none(),
        ["cpu", "kernel_max" | "modalias"] => from_node(path, allowed),
        ["cpu", of, ..] if OF_CPUS.contains(of) => from_node(path, allowed),
        ["cpu", name, rest @ ..] => {
            let number = numbered(name, "cpu").filter(|n| allowed.cpus.contains(n))?;
            of_cpu(path, rest, allowed).filter(|_| at(&["cpu", &format!("cpu{number}")]).is_dir())
        }
        ["node", "online" | "possible" | "has_memory" | "has_normal_memory"] => {
            list(&allowed.nodes)
        }
        ["node", "has_cpu"] => {
            let with: Vec<u32> = allowed
                .nodes
                .iter()
                .copied()
                .filter(|n| !cpus_of(*n, allowed).is_empty())
                .collect();
            list(&with)
        }
        ["node", name, rest @ ..] => {
            let number = numbered(name, "node").filter(|n| allowed.nodes.contains(n))?;
            of_node(number, path, rest, allowed)
        }
        _ => None,
    }
}

fn of_cpu(path: &[&str], rest: &[&str], allowed: &Allowed) -> Option<What> {
    match rest {
        [] => Some(What::Directory),
        ["online" | "cpu_capacity"] => from_node(path, allowed),
        [of, ..] if OF_CPU.contains(of) => from_node(path, allowed),
        ["cpufreq"] => at(path).is_dir().then_some(What::Directory),
        ["cpufreq", name] if FREQUENCY.contains(name) => from_node(path, allowed),
        [name] => {
            let node = numbered(name, "node").filter(|n| allowed.nodes.contains(n))?;
            at(path).exists().then(|| What::Link(format!("../../node/node{node}")))
        }
        _ => None,
    }
}

fn of_node(number: u32, path: &[&str], rest: &[&str], allowed: &Allowed) -> Option<What> {
    match rest {
        [] => Some(What::Directory),
        ["cpulist" | "cpumap"] => from_node(path, allowed),
        ["hugepages", ..] => from_node(path, allowed),
        ["distance"] => Some(What::Fixed(distances(&read(path)?, &node_numbers(), &allowed.nodes))),
        ["meminfo"] => Some(What::NodeMemory(number)),
        ["vmstat"] => Some(What::NodeCounters(number)),
        ["numastat"] => Some(What::NodeHits(number)),
        [name] => {
            let cpu = numbered(name, "cpu").filter(|n| allowed.cpus.contains(n))?;
            at(path).exists().then(|| What::Link(format!("../../cpu/cpu{cpu}")))
        }
        _ => None,
    }
}

/// Names in a directory that [`what`] finds something at.
pub fn names(path: &[&str], allowed: &Allowed) -> Vec<String> {
    if path.is_empty() {
        return ["cpu", "node"]
            .into_iter()
            .filter(|n| at(&[n]).is_dir())
            .map(str::to_owned)
            .collect();
    }
    let entries = std::fs::read_dir(at(path)).into_iter().flatten().flatten();
    let all = entries.filter_map(|e| e.file_name().into_string().ok());
    let mut shown: Vec<String> =
        all.filter(|name| what(&[path, &[name.as_str()]].concat(), allowed).is_some()).collect();
    shown.sort();
    shown
}

fn at(path: &[&str]) -> PathBuf {
    let mut whole = PathBuf::from(BASE);
    whole.extend(path);
    whole
}

fn read(path: &[&str]) -> Option<String> {
    std::fs::read_to_string(at(path)).ok()
}

/// As the node has it, with no number of a CPU that is not the job's.
fn from_node(path: &[&str], allowed: &Allowed) -> Option<What> {
    let name = path.last()?;
    if matches!(*name, "power" | "uevent" | "subsystem" | "device" | "driver" | "firmware_node") {
        return None;
    }
    let kind = std::fs::symlink_metadata(at(path)).ok()?.file_type();
    if kind.is_dir() {
        return Some(What::Directory);
    }
    if kind.is_symlink() {
        return None;
    }
    let text = read(path)?;
    Some(What::Fixed(if name.ends_with("list") {
        only_list(&text, &allowed.cpus)
    } else if name.ends_with("_siblings") || name.ends_with("_cpus") || name.ends_with("map") {
        only_mask(&text, &allowed.cpus)
    } else {
        text
    }))
}

/// Of a name as the kernel writes it: `cpu07` is none.
fn numbered(name: &str, kind: &str) -> Option<u32> {
    let digits = name.strip_prefix(kind)?;
    digits.parse().ok().filter(|number: &u32| number.to_string() == digits)
}

fn node_numbers() -> Vec<u32> {
    parse_list(&read(&["node", "online"]).unwrap_or_default()).unwrap_or_default()
}

fn cpus_of(node: u32, allowed: &Allowed) -> Vec<u32> {
    let text = read(&["node", &format!("node{node}"), "cpulist"]).unwrap_or_default();
    let all = parse_list(&text).unwrap_or_default();
    all.into_iter().filter(|cpu| allowed.cpus.contains(cpu)).collect()
}

fn only_list(text: &str, cpus: &[u32]) -> String {
    match parse_list(text) {
        Ok(all) => {
            let own: Vec<u32> = all.into_iter().filter(|cpu| cpus.contains(cpu)).collect();
            format_list(&own) + "\n"
        }
        Err(_) => text.to_owned(),
    }
}

/// A mask in groups of 32 bits, the highest first, as many as the node has.
fn only_mask(text: &str, cpus: &[u32]) -> String {
    let words: Vec<&str> = text.trim().split(',').collect();
    let count = words.len();
    let mut kept = Vec::with_capacity(count);
    for (index, word) in words.iter().enumerate() {
        let Ok(bits) = u32::from_str_radix(word, 16) else { return text.to_owned() };
        let base = (count - 1 - index) as u32 * 32;
        let own = cpus.iter().filter(|cpu| (base..base + 32).contains(cpu));
        let mask = own.fold(0u32, |mask, cpu| mask | 1 << (cpu - base));
        kept.push(format!("{:0width$x}", bits & mask, width = word.len()));
    }
    kept.join(",") + "\n"
}

/// The distances to the shown nodes, out of those to all.
fn distances(text: &str, all: &[u32], shown: &[u32]) -> String {
    let columns = text.split_whitespace().zip(all);
    let own: Vec<&str> =
        columns.filter(|(_, node)| shown.contains(node)).map(|(distance, _)| distance).collect();
    own.join(" ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_lists_keep_only_the_jobs_cpus() {
        assert_eq!(only_list("0-7\n", &[2, 3, 9]), "2-3\n");
        assert_eq!(only_mask("ff\n", &[2, 3]), "0c\n");
        assert_eq!(only_mask("00000001,ffffffff\n", &[0, 32, 33]), "00000001,00000001\n");
        assert_eq!(only_mask("nonsense\n", &[0]), "nonsense\n");
    }

    #[test]
    fn distances_follow_the_nodes_that_are_shown() {
        assert_eq!(distances("10 21 31\n", &[0, 1, 4], &[0, 4]), "10 31\n");
    }

    #[test]
    fn a_cpu_that_is_not_the_jobs_is_not_there() {
        let allowed = Allowed { cpus: vec![0], nodes: vec![0] };
        assert_eq!(what(&["cpu", "online"], &allowed), Some(What::List("0\n".into())));
        assert_eq!(what(&["cpu", "cpu0"], &allowed), Some(What::Directory));
        assert_eq!(what(&["cpu", "cpu1"], &allowed), None);
        assert_eq!(what(&["cpu", "cpu00"], &allowed), None);
        assert_eq!(what(&["cpu", "cpu+0"], &allowed), None);
        assert_eq!(what(&["cpu", "cpu1", "topology", "core_id"], &allowed), None);
        assert_eq!(what(&["cpu", "cpu0", "cpuidle"], &allowed), None);
        assert_eq!(what(&["memory"], &allowed), None);
        assert!(!names(&["cpu"], &allowed).iter().any(|n| n == "cpu1" || n == "cpuidle"));
    }
}
