//! What a case's containers left on the node.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One line for everything that bears the case's name.
pub fn find(name: &str, state: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for (pid, why) in processes(name) {
        left.push(format!("process {pid}: {why}"));
    }
    for dir in groups(name) {
        left.push(format!("control group {}", dir.display()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(mounts.lines().filter(|l| l.contains(name)).map(|l| format!("mount {l}")));
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        left.push(format!("record {}", entry.path().display()));
    }
    left
}

/// Processes in a root, in a group or with arguments of the case.
fn processes(name: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        if pid == std::process::id() as i32 || is_dead(pid) {
            continue;
        }
        for file in ["cmdline", "cgroup", "mountinfo"] {
            let text = fs::read(entry.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).replace('\0', " ");
            if let Some(line) = text.lines().find(|l| l.contains(name)) {
                found.push((pid, format!("{file}: {line}")));
                break;
            }
        }
    }
    found
}

fn is_dead(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

/// Groups of that name at the top of every hierarchy and below its `denovo`,
/// and the same in the group that was delegated to whoever runs the tests.
fn groups(name: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let mut tops: Vec<PathBuf> = hierarchies.map(|e| e.path()).collect();
    tops.push("/sys/fs/cgroup".into());
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some(own) = own.lines().find_map(|l| l.strip_prefix("0::/")) {
        let own = own.trim_end_matches(denovo::host::cgroups::CALLERS);
        tops.push(PathBuf::from("/sys/fs/cgroup").join(own));
    }
    tops.iter()
        .flat_map(|top| [top.clone(), top.join("denovo")])
        .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().contains(name))
        .map(|entry| entry.path())
        .collect()
}

/// Ends and removes it, after a test that failed.
pub fn end(name: &str) {
    for (pid, _) in processes(name) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for dir in groups(name) {
        let _ = fs::remove_dir(dir);
    }
}
