//! Ends the environment of a scheduler's job.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::receipt::{Last, look};
use crate::host::process::Stat;
use crate::kernel::cgroup;
use crate::problem::Problem;
use crate::record::job::{JobRecord, Jobs};
use crate::supervise::container::Refusal;
use crate::supervise::job::{ask, connect_to, wait_closed};
use crate::supervise::protocol::{Reply, Request};
use crate::supervise::stage;

/// How long the processes of a job may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ends an environment in bounded time, whatever state it is in: standing,
/// on its way, without a monitor.
pub(super) fn end(base: &Path, id: &str) -> Result<Option<Last>, Refusal> {
    let jobs = Jobs::new(base);
    let give_up = Instant::now() + PATIENCE;
    let mut last = None;
    loop {
        let record = jobs.load(id);
        if let Some(socket) = connect_to(&jobs, id) {
            if let Ok(Reply::Shown { record, usage, .. }) = ask(&socket, &Request::Show) {
                last = Some(look(*record, usage));
            }
            if let Ok(Reply::Ending(parting)) = ask(&socket, &Request::End)
                && let Some(last) = &mut last
            {
                last.usage = parting.usage;
            }
            if !closes(&socket, give_up) {
                return Err(undead(last.map(|l| l.record).or(record).as_ref(), id).into());
            }
            wait_closed(&socket);
        }
        match jobs.load(id) {
            None if jobs.directory(id).exists() => {
                let _lock = jobs.lock(id)?;
                // Who held it may have been making one.
                if jobs.load(id).is_none() {
                    jobs.forget(id)?;
                }
            }
            None => return Ok(last),
            // On its way in or out.
            Some(record) if record.kept() && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Some(record) if record.kept() => return Err(undead(Some(&record), id).into()),
            Some(record) => {
                let usage = cgroup::usage(&record.cgroup);
                last.get_or_insert_with(|| look(record.clone(), usage));
                let _lock = jobs.lock(id)?;
                if jobs.load(id).is_none_or(|now| now.monitor != record.monitor) {
                    continue;
                }
                if !stage::take_back(&jobs, &record) {
                    return Err(undead(Some(&record), id).into());
                }
            }
        }
    }
}

/// Whether the other end is closed, or a process of a pidfd ended, by then.
pub(super) fn closes(socket: &OwnedFd, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) => {}
        }
    }
}

/// Names the processes that hold an environment up.
fn undead(record: Option<&JobRecord>, id: &str) -> Problem {
    let pids = record.and_then(|r| cgroup::pids(&r.cgroup).ok()).unwrap_or_default();
    let named: Vec<String> = pids.iter().filter_map(|pid| describe(*pid)).collect();
    let who = if named.is_empty() { String::new() } else { format!(": {}", named.join(", ")) };
    Problem::kernel(format!("job {id}: cannot be ended{who}"))
        .hint("a process in state D waits for a disk or a file server; it ends when that answers")
}

/// `pid 17 (cp) in state D`.
fn describe(pid: i32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = Stat::parse(&line)?;
    let name: String =
        stat.name.iter().filter(|b| b.is_ascii_graphic()).map(|b| char::from(*b)).collect();
    let state = char::from(stat.state()?);
    (state != 'Z').then(|| format!("pid {pid} ({name}) in state {state}"))
}
