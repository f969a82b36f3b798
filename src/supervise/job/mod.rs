//! Requests about jobs' environments, each from its options to its end.

mod enter;
mod make;
mod seen;

pub(super) use enter::wait_closed;
use enter::{check_receipt, execute, tell, write_receipt};
use make::make;
pub use make::{explain, person};
pub use seen::{Seen, list, show};
use seen::{places_of_others, reach};

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::image;
use crate::policy::rank::{self};
use crate::policy::text::CText;
use crate::problem::Problem;
use crate::record::base;
use crate::record::job::{JobRecord, Jobs};
use crate::request::job::JobRequest;
use crate::request::scheduler::Granted;
use crate::supervise::container::Refusal;
use crate::supervise::protocol::{self, Entry, Parting, Reply, Request};
use crate::supervise::proxy::Signals;
use crate::supervise::sockets::connect;
use crate::supervise::stage;

/// A command to run in an environment.
#[derive(Debug, Clone, Default)]
pub struct Command {
    pub args: Vec<CText>,
    pub cwd: Option<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    pub clean_env: bool,
    /// Where to write what was used, as JSON.
    pub receipt: Option<PathBuf>,
}

/// An open way into an environment.
struct Joined {
    jobs: Jobs,
    id: String,
    socket: OwnedFd,
    entry: Entry,
    /// Namespaces, then doors.
    fds: Vec<OwnedFd>,
}

/// Where environments of this caller can be: its own, and those that root
/// made for it.
fn places(base: &Path) -> Vec<Jobs> {
    let mut all = vec![Jobs::new(base)];
    let uid = nix::unistd::geteuid().as_raw();
    // Not where --root names one place.
    if base == base::base(uid) {
        all.extend(base::others(uid).iter().map(|dir| Jobs::new(dir)));
    }
    if base != base::site_base() {
        all.insert(0, Jobs::new(base::site_base()));
    }
    all
}

/// `job run`: makes the environment or joins it, runs the command.
///
/// # Errors
/// Nothing of an environment that could not be made is left.
pub fn run(
    base: &Path,
    request: &JobRequest,
    command: &Command,
    warn: &dyn Fn(&str),
) -> Result<i32, Refusal> {
    let id = request.id.clone().unwrap_or_else(rank::default_id);
    check_receipt(command.receipt.as_deref())?;
    for jobs in places(base) {
        if let Some(joined) = try_join(&jobs, &id)? {
            check_same(&id, request, &joined.entry, warn)?;
            let signals = hold_signals()?;
            return execute(joined, command, &signals, warn);
        }
    }
    let jobs = Jobs::new(base);
    // Whoever makes it may take minutes to fetch its image, we too: ^C ends that.
    let lock = jobs.lock(&id)?;
    let held = request.image.is_none().then(hold_signals).transpose()?;
    let joined = match join_when_ready(&jobs, &id)? {
        Some(joined) => {
            check_same(&id, request, &joined.entry, warn)?;
            joined
        }
        None => {
            make(&jobs, &id, request, false, command.args.first(), warn)?;
            try_join(&jobs, &id)?.ok_or_else(|| vanished(&id))?
        }
    };
    drop(lock);
    let signals = held.map_or_else(hold_signals, Ok)?;
    execute(joined, command, &signals, warn)
}

/// `job start`: makes an environment that stays until `job end`.
///
/// # Errors
/// It exists already, or cannot be made.
pub fn start(base: &Path, request: &JobRequest, warn: &dyn Fn(&str)) -> Result<String, Refusal> {
    let id = request.id.clone().unwrap_or_else(rank::default_id);
    let jobs = Jobs::new(base);
    let _lock = jobs.lock(&id)?;
    if join_when_ready(&jobs, &id)?.is_some() {
        return Err(Problem::user(format!("job {id:?} has an environment on this node already"))
            .hint(format!(
                "use it with: denovo job exec {id} COMMAND, or end it with: denovo job end {id}"
            ))
            .into());
    }
    make(&jobs, &id, request, true, None, warn)?;
    Ok(id)
}

/// Whether an environment had to be made for a scheduler's job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    Made,
    /// An earlier call for this very run of the job made it.
    Stood,
}

/// The environment of a scheduler's job, as `request.granted` says: made, or
/// found made. One that another run of the job, or another user's job with
/// this id, has left is ended first.
///
/// # Errors
/// It cannot be made, or what was left cannot be ended.
pub fn ensure(
    base: &Path,
    request: &JobRequest,
    id: &str,
    uid: u32,
    warn: &dyn Fn(&str),
) -> Result<Ensured, Refusal> {
    let jobs = Jobs::new(base);
    let _lock = jobs.lock(id)?;
    if let Some(joined) = join_when_ready(&jobs, id)? {
        let same = |a: &Granted, b: &Granted| {
            (&a.cluster, a.job, a.restarts) == (&b.cluster, b.job, b.restarts)
        };
        let made = joined.entry.asked.granted.as_ref().zip(request.granted.as_ref());
        if joined.entry.uid == uid && made.is_some_and(|(a, b)| same(a, b)) {
            return Ok(Ensured::Stood);
        }
        warn(&format!("job {id}: an environment of an earlier run stood here and is ended"));
        ask(&joined.socket, &Request::End)?;
        wait_closed(&joined.socket);
        join_when_ready(&jobs, id)?;
    }
    make(&jobs, id, request, true, None, warn)?;
    Ok(Ensured::Made)
}

/// `job exec`: runs a command in an environment that is there.
///
/// # Errors
/// There is none of this id for the caller.
pub fn exec(base: &Path, id: &str, command: &Command, warn: &dyn Fn(&str)) -> Result<i32, Refusal> {
    check_receipt(command.receipt.as_deref())?;
    let signals = hold_signals()?;
    for jobs in places(base) {
        if let Some(joined) = try_join(&jobs, id)? {
            return execute(joined, command, &signals, warn);
        }
    }
    Err(absent(id).into())
}

/// `job end`: ends everything in an environment and waits until nothing of
/// it is left.
///
/// # Errors
/// There is none of this id, or something of it cannot be removed.
pub fn end(
    base: &Path,
    id: &str,
    receipt: Option<&Path>,
    warn: &dyn Fn(&str),
) -> Result<(), Refusal> {
    check_receipt(receipt)?;
    let mut found = false;
    for jobs in places(base) {
        found |= end_in(&jobs, id, receipt, warn)?;
    }
    // An epilog's job is root's own: what users call the same is not meant.
    if !found {
        for jobs in places_of_others() {
            found |= end_in(&jobs, id, receipt, warn)?;
        }
    }
    if found { Ok(()) } else { Err(absent(id).into()) }
}

/// How long an environment on its way out may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether there was one: standing, on its way in or out, or what a crash left.
fn end_in(
    jobs: &Jobs,
    id: &str,
    receipt: Option<&Path>,
    warn: &dyn Fn(&str),
) -> Result<bool, Refusal> {
    // What is being made stands when its maker lets go of the lock, even if that
    // was killed meanwhile; and the end is over before another is made.
    let uid = nix::unistd::geteuid().as_raw();
    let dir = jobs.directory(id);
    let own = dir.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() == uid);
    let _lock = own.then(|| jobs.lock(id)).transpose()?;
    let give_up = Instant::now() + PATIENCE;
    let mut found = false;
    loop {
        if let Some(socket) = reach(jobs, id) {
            match end_standing(&socket, (id, receipt), warn)? {
                true if jobs.load(id).is_some_and(|r| !r.kept()) => {
                    return Err(immovable(id).into());
                }
                true => return Ok(true),
                // It came to its end by itself meanwhile.
                false => found = true,
            }
        }
        match jobs.load(id) {
            Some(record) if !record.kept() => {
                return clear_away(jobs, &record, receipt, warn).map(|()| true);
            }
            record if Instant::now() > give_up && (record.is_some() || found) => {
                return Err(immovable(id).into());
            }
            Some(_) => found = true,
            // Killed before it wrote down what it would make.
            None if own && dir.exists() => {
                jobs.forget(id)?;
                return Ok(true);
            }
            None if reach(jobs, id).is_none() => return Ok(found),
            None => {}
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether its monitor heard it.
fn end_standing(
    socket: &OwnedFd,
    (id, receipt): (&str, Option<&Path>),
    warn: &dyn Fn(&str),
) -> Result<bool, Refusal> {
    match ask(socket, &Request::End) {
        Ok(Reply::Ending(parting)) => {
            wait_closed(socket);
            tell(&parting, warn);
            write_receipt(receipt, id, &parting)?;
            Ok(true)
        }
        Ok(Reply::Refused { why }) => Err(Problem::user(format!("job {id:?}: {why}")).into()),
        Ok(_) => Err(confused().into()),
        Err(_) => Ok(false),
    }
}

/// What a killed monitor has left.
fn clear_away(
    jobs: &Jobs,
    record: &JobRecord,
    receipt: Option<&Path>,
    warn: &dyn Fn(&str),
) -> Result<(), Refusal> {
    let id = &record.id;
    let usage = crate::kernel::cgroup::usage(&record.cgroup);
    if !stage::take_back(jobs, record) {
        return Err(immovable(id).into());
    }
    warn(&format!("the monitor of job {id} was killed; what it left is removed"));
    let parting = Parting { last: true, usage, memory: record.memory };
    Ok(write_receipt(receipt, id, &parting)?)
}

fn immovable(id: &str) -> Problem {
    Problem::kernel(format!("job {id:?}: something of it could not be removed"))
        .hint("denovo node gc tries again and names what is in the way")
}

fn hold_signals() -> Result<Signals, Problem> {
    Signals::hold().map_err(|e| Problem::kernel(format!("signalfd: {}", e.desc())))
}

fn absent(id: &str) -> Problem {
    Problem::user(format!("job {id:?} has no environment on this node"))
        .hint("denovo job list shows those there are")
}

fn vanished(id: &str) -> Problem {
    Problem::kernel(format!("job {id:?}: its environment ended as soon as it was made"))
        .hint("look for the kernel's out-of-memory killer in its log")
}

fn confused() -> Problem {
    Problem::ours("the monitor of the environment gave an answer that does not fit")
        .hint("another version of denovo may have made it; end it with that one")
}

pub(super) fn connect_to(jobs: &Jobs, id: &str) -> Option<OwnedFd> {
    connect(&jobs.socket(id)).ok()
}

pub(super) fn ask(socket: &OwnedFd, request: &Request) -> Result<Reply, Problem> {
    let lost =
        |e: nix::errno::Errno| Problem::kernel(format!("the environment's monitor: {}", e.desc()));
    protocol::say(socket, request, &[]).map_err(lost)?;
    match protocol::hear::<Reply>(socket).map_err(lost)? {
        Some((reply, _)) => Ok(reply),
        None => Err(Problem::kernel("the environment ended while it was asked")),
    }
}

/// Counted in, or `None` when there is no environment (any more).
fn try_join(jobs: &Jobs, id: &str) -> Result<Option<Joined>, Problem> {
    let Some(socket) = connect_to(jobs, id) else { return Ok(None) };
    if protocol::say(&socket, &Request::Join, &[]).is_err() {
        return Ok(None);
    }
    match protocol::hear::<Reply>(&socket) {
        Ok(Some((Reply::Joined(entry), fds))) => {
            let expected = entry.namespaces.len() + entry.v1_doors + usize::from(entry.v2_door);
            if fds.len() == expected {
                Ok(Some(Joined { jobs: jobs.clone(), id: id.to_owned(), socket, entry, fds }))
            } else {
                Err(confused())
            }
        }
        Ok(Some((Reply::Refused { why }, _))) => Err(Problem::user(format!("job {id:?}: {why}"))),
        Ok(Some(_)) => Err(confused()),
        // It ended between the connection and the answer.
        Ok(None) | Err(_) => Ok(None),
    }
}

/// With the lock held: joins what stands, waits for what is ending, clears
/// away what a crash left.
fn join_when_ready(jobs: &Jobs, id: &str) -> Result<Option<Joined>, Problem> {
    loop {
        if let Some(joined) = try_join(jobs, id)? {
            return Ok(Some(joined));
        }
        match jobs.load(id) {
            Some(record) if record.kept() => {
                // On its way out, which takes milliseconds.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Some(record) if !stage::take_back(jobs, &record) => {
                return Err(Problem::kernel(format!(
                    "job {id:?}: what an earlier environment left cannot be removed"
                ))
                .hint("denovo node gc names what is in the way"));
            }
            Some(_) => return Ok(None),
            None => {
                if jobs.directory(id).exists() {
                    jobs.forget(id)?;
                }
                return Ok(None);
            }
        }
    }
}

/// Who joins with another bundle would be surprised by what is inside, and who
/// joins for another user by whose processes they are; what else comes too late
/// is said.
fn check_same(
    id: &str,
    request: &JobRequest,
    entry: &Entry,
    warn: &dyn Fn(&str),
) -> Result<(), Problem> {
    if let Some(user) = &request.user
        && make::uid_of(user) != Some(entry.uid)
    {
        return Err(Problem::user(format!(
            "job {id:?} is of uid {} on this node, not of {user:?}",
            entry.uid
        ))
        .hint("leave --user out to join it, or choose another --id"));
    }
    let bundle = request.bundle.as_deref().map(image::name_of);
    let wanted = bundle.or_else(|| request.image.as_deref().map(super::image::name_of));
    match &wanted {
        Some(wanted) if *wanted != entry.bundle => Err(Problem::user(format!(
            "job {id:?} runs {:?} on this node, not {wanted:?}",
            entry.bundle
        ))
        .hint("leave --bundle and --image out to join it, or choose another --id")),
        _ => {
            let late = request.differing(&entry.asked);
            if !late.is_empty() {
                warn(&format!(
                    "job {id} has its environment already, made without this: {} has no effect",
                    late.join(", ")
                ));
            }
            Ok(())
        }
    }
}
