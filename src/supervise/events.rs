//! `events`: statistics of a container at intervals, and a word when it runs
//! out of memory.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::container::Refusal;
use crate::kernel::cgroup::{self, Oom};
use crate::problem::Problem;
use crate::record::container::{Record, Status, Store};

/// The record of a container that runs and has groups to read.
fn counted(store: &Store, id: &str) -> Result<Record, Refusal> {
    let record = store.load(id)?;
    let status = store.status(&record);
    if matches!(status, Status::Stopped | Status::Creating) {
        let what = format!("container {id:?} is {}, so there are no events", status.name());
        return Err(Problem::user(what).hint("denovo list shows those that run").into());
    }
    if record.cgroup.groups.is_empty() {
        return Err(Problem::site(format!(
            "container {id:?} has no control groups, so nothing is counted"
        ))
        .hint("make it as root, or where a control group is delegated to the user")
        .into());
    }
    Ok(record)
}

/// One event of type `stats`, as runc has it.
///
/// # Errors
/// The container does not run, or has no groups.
pub fn once(store: &Store, id: &str) -> Result<Value, Refusal> {
    Ok(stats(&counted(store, id)?))
}

fn stats(record: &Record) -> Value {
    json!({ "type": "stats", "id": record.id, "data": cgroup::stats(&record.cgroup) })
}

/// Hands events to `emit` until the container ends, or `emit` wants no more.
///
/// # Errors
/// As [`once`]; the kernel does not tell of memory that runs out.
pub fn watch(
    store: &Store,
    id: &str,
    interval: Duration,
    emit: &mut dyn FnMut(&Value) -> bool,
) -> Result<(), Refusal> {
    let record = counted(store, id)?;
    let mut oom = Oom::watch(&record.cgroup).map_err(Problem::from)?;
    let Some(pidfd) = record.init.and_then(|init| init.open()) else { return Ok(()) };
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up: a wait that ends too soon would only be repeated.
        let left = left.as_millis().saturating_add(1).min(i32::MAX as u128);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(oom.as_ref().map(|oom| {
            let (fd, flags) = oom.wait_on();
            PollFd::new(fd, flags)
        }));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Problem::kernel(format!("poll: {}", e.desc())).into()),
        }
        let ready = |fd: Option<&PollFd<'_>>| {
            fd.and_then(PollFd::revents).is_some_and(|events| !events.is_empty())
        };
        let (ended, told) = (ready(fds.first()), ready(fds.get(1)));
        drop(fds);
        if told
            && oom.as_mut().is_some_and(Oom::happened)
            && !emit(&json!({ "type": "oom", "id": record.id }))
        {
            return Ok(());
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            if !emit(&stats(&record)) {
                return Ok(());
            }
            next += interval;
        }
    }
}
