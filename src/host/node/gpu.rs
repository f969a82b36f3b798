//! GPUs: who is on them, how much of their memory is taken, what errors they
//! have counted. NVIDIA's by `nvidia-smi`, which needs a part of a second;
//! AMD's by sysfs.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use super::{Handle, Kind, Thing, names, number};

/// Bytes in use by GPU.
type Memory = BTreeMap<String, u64>;
type Errors = BTreeMap<String, u64>;

pub fn read() -> (Vec<Thing>, Memory, Errors) {
    let (mut things, mut memory, mut errors) = (Vec::new(), Memory::new(), Errors::new());
    if std::path::Path::new("/dev/nvidiactl").exists() {
        things.extend(on_nvidia());
        let fields = "uuid,memory.used,ecc.errors.uncorrected.volatile.total";
        for (gpu, used, wrong) in nvidia(&ask(&format!("--query-gpu={fields}"))) {
            memory.insert(gpu.clone(), used);
            errors.extend(wrong.map(|n| (format!("{gpu} uncorrected"), n)));
        }
    }
    for pid in names("/sys/class/kfd/kfd/proc").iter().filter_map(|p| p.parse().ok()) {
        things.extend(process(pid));
    }
    for card in names("/sys/class/drm") {
        let used = number(format!("/sys/class/drm/{card}/device/mem_info_vram_used"));
        memory.extend(used.filter(|_| !card.contains('-')).map(|used| (card, used)));
    }
    (things, memory, errors)
}

fn ask(query: &str) -> String {
    let places = ["/usr/bin/nvidia-smi", "/usr/local/bin/nvidia-smi"];
    let Some(program) = places.iter().find(|p| std::path::Path::new(p).exists()) else {
        return String::new();
    };
    let mut command = Command::new(program);
    command.args([query, "--format=csv,noheader,nounits"]).env_clear();
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).into_owned())
}

/// `GPU-1, 4, 0`: name, MiB in use, errors or `[N/A]`.
fn nvidia(text: &str) -> Vec<(String, u64, Option<u64>)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(',').map(str::trim);
            let name = fields.next().filter(|n| n.starts_with("GPU-"))?.to_owned();
            let used: u64 = fields.next()?.parse().ok()?;
            Some((name, used << 20, fields.next().and_then(|n| n.parse().ok())))
        })
        .collect()
}

/// Processes that have a device such as /dev/nvidia0 open: no context on a
/// GPU is without one.
fn on_nvidia() -> Vec<Thing> {
    let mut pids = BTreeSet::new();
    descriptors(|pid, target| {
        let device = target.strip_prefix("/dev/nvidia");
        if device.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit())) {
            pids.insert(pid);
        }
        true
    });
    pids.into_iter().filter_map(process).collect()
}

fn process(pid: i32) -> Option<Thing> {
    let owner = super::processes::owner(pid)?;
    let name = super::line(format!("/proc/{pid}/comm"))?.as_bytes().escape_ascii().to_string();
    Some(Thing {
        kind: Kind::Gpu,
        key: format!("{owner} {name}"),
        what: format!("pid {pid} ({name}) has a GPU open"),
        owner: Some(owner),
        made: None,
        job: None,
        handle: Handle::None,
    })
}

/// Calls `see` with each process's open descriptors until it has seen enough.
pub fn descriptors(mut see: impl FnMut(i32, &str) -> bool) {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for target in fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()) {
            if target.to_str().is_some_and(|target| !see(pid, target)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nvidia_smi_says_is_read() {
        let text = "GPU-aa, 4, 0\nGPU-bb, 1024, [N/A]\nNo devices were found\n";
        let expected =
            [("GPU-aa".to_owned(), 4 << 20, Some(0)), ("GPU-bb".to_owned(), 1 << 30, None)];
        assert_eq!(nvidia(text), expected);
    }
}
