//! Which jobs are on the node, and which were.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Asked;
use crate::host::node::{Handle, NodeState, boot_time, process_owner};
use crate::policy::freshness::{Ended, Jobs, Running};
use crate::record::job::{self, JobRecord};
use crate::record::process::ProcessName;
use crate::record::receipt::Receipts;
use crate::record::scheduler::{Notes, Phase};

/// Receipts that are read to tell which job left something.
const MOST: usize = 500;

/// The job that an epilog ends.
pub struct Ending {
    pub id: String,
    pub uid: u32,
    /// Seconds since 1970 when it began here.
    pub from: u64,
}

/// All that is known of them, from denovo's records and notes, Slurm's
/// control groups, and receipts.
pub fn jobs(asked: &Asked<'_>, state: &NodeState) -> Jobs {
    let environments = job::Jobs::new(asked.base);
    let records: Vec<JobRecord> =
        environments.ids().iter().filter_map(|id| environments.load(id)).collect();
    let mut exempt = vec![asked.base.to_owned(), asked.receipts.to_owned()];
    exempt.push(asked.site.baseline.clone());
    let mut running = Vec::new();
    for record in records.iter().filter(|r| r.kept()) {
        exempt.extend(record.scratch.clone());
        running.push(running_of(record));
    }
    let notes = Notes::new(asked.base);
    for id in notes.ids() {
        if let Some(note) = notes.load(&id).filter(|note| note.phase != Phase::Ended) {
            running.push(Running { id, uid: note.uid, pids: Vec::new() });
        }
    }
    running.extend(slurms(state));
    if !asked.scheduled {
        running.extend(users_own());
    }
    running.retain(|job| asked.ending.is_none_or(|ending| ending.id != job.id));
    let mut ended = Receipts::new(asked.receipts).ended(MOST);
    ended.retain(|e| !running.iter().any(|r| r.id == e.id && r.uid == e.uid));
    ended.extend(asked.ending.map(|job| Ended {
        id: job.id.clone(),
        uid: job.uid,
        from: job.from,
        to: state.at,
    }));
    Jobs { running, ended, exempt, loops: loops(asked.base), booted: boot_time() }
}

fn running_of(record: &JobRecord) -> Running {
    let keepers = [record.monitor, record.init];
    let mut pids: Vec<i32> = keepers.into_iter().flatten().map(|p| p.pid).collect();
    // Its monitor's children serve the environment from outside.
    for pid in pids.clone() {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        pids.extend(children.split_ascii_whitespace().filter_map(|p| p.parse::<i32>().ok()));
    }
    Running { id: record.id.clone(), uid: record.uid, pids }
}

/// A job without an environment is known by the processes in its group, where
/// only Slurm puts any.
fn slurms(state: &NodeState) -> Vec<Running> {
    let mut found = BTreeSet::new();
    for thing in state.things.iter().filter(|t| t.job.is_some()) {
        let (Handle::Process { pid, .. }, Some(id), Some(uid)) =
            (&thing.handle, &thing.job, thing.owner)
        else {
            continue;
        };
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if uid != 0 && groups.contains("/job_") {
            found.insert((id.clone(), uid));
        }
    }
    found.into_iter().map(|(id, uid)| Running { id, uid, pids: Vec::new() }).collect()
}

/// Environments that users made for themselves. Their records are the users'
/// to write, so only one counts whose keeper is a process of that user.
fn users_own() -> Vec<Running> {
    let directories = |dir: &str| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<PathBuf>>()
    };
    let named =
        |path: &Path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("denovo-"));
    let tmp = directories("/tmp").into_iter().filter(|path| named(path));
    let run = directories("/run/user").into_iter().map(|path| path.join("denovo"));
    let mut found = Vec::new();
    for base in tmp.chain(run) {
        for dir in directories(&base.join("jobs").to_string_lossy()) {
            let Some(record) = users_record(&dir.join("state.json")) else { continue };
            let keeper = record.monitor.filter(ProcessName::alive);
            let theirs = keeper.is_some_and(|k| process_owner(k.pid) == Some(record.uid));
            if theirs {
                found.push(running_of(&record));
            }
        }
    }
    found
}

/// Loop devices of images that denovo has mounted.
fn loops(base: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(base.join("images")).into_iter().flatten().flatten();
    let files = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "loop"));
    files.filter_map(|p| std::fs::read_to_string(p).ok()?.trim().parse().ok()).collect()
}

/// What a user has written is read as such: no pipe to wait at, no link, no
/// end of bytes.
fn users_record(path: &Path) -> Option<JobRecord> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok().filter(|m| m.is_file())?;
    let mut text = Vec::new();
    file.take(1 << 20).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
