//! The beginning and the end of a scheduler's job on this node.
//!
//! What goes wrong is the user's matter or the node's: the scheduler drains a
//! node whose prolog or epilog fails, so a wish that cannot be met must not
//! look like a broken node. The test is not whose words the error has, but
//! whether an environment without the wishes can be made.

mod end;
mod receipt;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::freshness::{self, Ending};
use end::{closes, end};
use receipt::{bare_receipt, keep, receipt};

use super::job::{self, Ensured};
use super::stage::{self, Collected};
use crate::host::{self, Facts, accounts, hardware, mpi};
use crate::kernel::sys::{self, Forked};
use crate::policy::cpus::format_list;
use crate::policy::job::check_hostname;
use crate::problem::{Problem, Problems};
use crate::record::job::Jobs;
use crate::record::receipt::{Receipt, Receipts};
use crate::record::scheduler::{Note, Notes, Phase};
use crate::request::bind;
use crate::request::freshness::Freshness;
use crate::request::job::JobRequest;
use crate::request::scheduler::site::{self, Scheduler};
use crate::request::scheduler::{Call, Granted, Wishes};
use crate::supervise::container::Refusal;

/// How long a job's end is remembered, in seconds: a prolog that comes later
/// than its epilog makes nothing.
const REMEMBERED: u64 = 20;

/// Most seconds of a budget: more than any clock counts is as good as none.
const LONGEST: u64 = 365 * 86_400;

/// Makes the job's environment. A wish that cannot be met is written down for
/// the job's tasks, and is no failure.
///
/// # Errors
/// The node cannot make environments.
pub fn prolog(
    base: &Path,
    (site, fresh): (&Scheduler, &Freshness),
    call: &Call,
    wishes: Result<Wishes, Problems>,
    warn: &dyn Fn(&str),
) -> Result<(), Refusal> {
    let (notes, id) = (Notes::new(base), call.id());
    let work = Work::begin(base, site, call, warn);
    sweep(base, site);
    if notes.load(&id).is_some_and(|note| ended_before(&note, call)) {
        warn(&format!("job {id} has ended on this node already"));
        return Ok(());
    }
    let stands = notes.load(&id).is_some_and(|note| note.phase != Phase::Ended);
    let _held = freshness::prolog(base, fresh, &site.receipts, (&id, call.uid), stands)?;
    let wishes = match wishes {
        Ok(wishes) if wishes.none => return work.note(Phase::None, None),
        Ok(wishes) => wishes,
        Err(problems) => return work.refuse(&problems),
    };
    let request = request(site, call, &wishes)?;
    match ensure(base, &request, call, warn) {
        // Else whoever made it was cut off before it could say so.
        Ok(Ensured::Stood) if notes.load(&id).is_some_and(|n| is_noted(&n, call)) => Ok(()),
        Ok(_) => work.note(Phase::Made, None),
        Err(refusal) if wishes.is_empty() => Err(refusal),
        Err(refusal) => work.blame_wishes(&refusal.problems),
    }
}

/// What a prolog does that was cut off after so many seconds, with wishes: an image of
/// the user's that takes its time to come is no fault of the node's.
///
/// # Errors
/// The node cannot make environments.
pub fn too_late(
    base: &Path,
    site: &Scheduler,
    call: &Call,
    seconds: u64,
    warn: &dyn Fn(&str),
) -> Result<(), Refusal> {
    let problem = Problem::user(format!("what the job runs in was not ready after {seconds} s"));
    Work::begin(base, site, call, warn).blame_wishes(&vec![problem])
}

/// One prolog, whose time counts from its start.
struct Work<'a> {
    base: &'a Path,
    site: &'a Scheduler,
    call: &'a Call,
    warn: &'a dyn Fn(&str),
    begun: Instant,
    /// Seconds since 1970.
    since: u64,
}

impl<'a> Work<'a> {
    fn begin(base: &'a Path, site: &'a Scheduler, call: &'a Call, warn: &'a dyn Fn(&str)) -> Self {
        Self { base, site, call, warn, begun: Instant::now(), since: now() }
    }

    /// Writes down how it went. An epilog that came meanwhile has found nothing to
    /// end, so that what was made must not stay.
    fn note(&self, phase: Phase, why: Option<String>) -> Result<(), Refusal> {
        let (notes, id) = (Notes::new(self.base), self.call.id());
        let note = Note {
            phase,
            granted: self.call.granted.clone(),
            uid: self.call.uid,
            why,
            at: now(),
            took: u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        {
            let _lock = notes.lock()?;
            let over = |n: &Note| is_over(n, self.call) && n.at >= self.since;
            if !notes.load(&id).is_some_and(|n| over(&n)) {
                return Ok(notes.save(&id, &note)?);
            }
        }
        (self.warn)(&format!("job {id} has ended on this node meanwhile"));
        end(self.base, &id)?;
        Ok(())
    }

    fn refuse(&self, problems: &Problems) -> Result<(), Refusal> {
        let why = sentence(problems);
        (self.warn)(&format!("job {}: {why}", self.call.id()));
        self.note(Phase::Refused, Some(why))
    }

    /// The user's matter, if an environment can be made without the wishes.
    fn blame_wishes(&self, problems: &Problems) -> Result<(), Refusal> {
        let plain = request(self.site, self.call, &Wishes::default())?;
        end(self.base, &self.call.id())?;
        ensure(self.base, &plain, self.call, self.warn)?;
        end(self.base, &self.call.id())?;
        self.refuse(problems)
    }
}

/// Forgets jobs that no prolog can come for any more, not even one that began before
/// their end.
fn sweep(base: &Path, site: &Scheduler) {
    let seconds = REMEMBERED.max(site.budget);
    Notes::new(base).sweep(now(), seconds, |id| Jobs::new(base).directory(id).exists());
}

/// Whether the note is of this job, in whichever run.
fn is_of(note: &Note, call: &Call) -> bool {
    (note.uid, note.granted.job) == (call.uid, call.granted.job)
        && note.granted.cluster == call.granted.cluster
}

fn is_noted(note: &Note, call: &Call) -> bool {
    note.phase == Phase::Made && is_of(note, call) && note.granted.restarts == call.granted.restarts
}

/// Whether this run of the job, or a later one, has had its epilog.
fn is_over(note: &Note, call: &Call) -> bool {
    note.phase == Phase::Ended
        && is_of(note, call)
        && note.granted.restarts >= call.granted.restarts
}

/// A late prolog must not make what nobody ends; a job that was requeued may
/// come back at once.
fn ended_before(note: &Note, call: &Call) -> bool {
    is_over(note, call) && note.at.saturating_add(REMEMBERED) >= now()
}

fn ensure(
    base: &Path,
    request: &JobRequest,
    call: &Call,
    warn: &dyn Fn(&str),
) -> Result<Ensured, Refusal> {
    let make = |request: &JobRequest| job::ensure(base, request, &call.id(), call.uid, warn);
    match make(request) {
        // The scheduler may give a CPU twice (OverSubscribe, gang scheduling);
        // who asked for CPUs without it must not make a job fail.
        Err(_) if request.cpus.is_some() && !request.share_cpus => {
            make(&JobRequest { share_cpus: true, ..request.clone() })
        }
        made => made,
    }
}

/// The lines of `denovo explain prolog`.
///
/// # Errors
/// As the prolog, the user's mistakes too.
pub fn explain(
    base: &Path,
    site: &Scheduler,
    call: &Call,
    wishes: &Wishes,
    facts: &Facts,
) -> Result<Vec<String>, Refusal> {
    if wishes.none {
        return Ok(vec![format!("job {} wants no environment; note that", call.id())]);
    }
    job::explain(base, &request(site, call, wishes)?, facts)
}

/// The fabric's devices, the names of the other nodes, and, for the node's own
/// srun and scontrol, MUNGE's socket and Slurm's configuration.
fn nodes_files(host: bool) -> Vec<String> {
    let mut all = mpi::fabric_paths();
    all.push("/etc/hosts".to_owned());
    if !host {
        return all;
    }
    all.push("/run/munge".to_owned());
    let conf = std::env::var_os("SLURM_CONF").map(PathBuf::from);
    let conf = conf.filter(|path| path.is_absolute()).unwrap_or("/etc/slurm/slurm.conf".into());
    all.extend(
        conf.parent().filter(|dir| dir.components().count() > 2).map(|d| d.display().to_string()),
    );
    all.retain(|path| Path::new(path).exists());
    all
}

/// Lines of passwd(5) for accounts that Slurm's configuration names.
fn accounts(site: &Scheduler) -> Vec<String> {
    let known = site.accounts.iter().filter_map(|name| accounts::user_by_name(name));
    known
        .map(|u| format!("{}:x:{}:{}::/nonexistent:/usr/sbin/nologin", u.name, u.uid, u.gid))
        .collect()
}

fn request(site: &Scheduler, call: &Call, wishes: &Wishes) -> Result<JobRequest, Problem> {
    let mut binds = Vec::new();
    for text in &site.bind {
        binds.push(bind::parse(text)?);
    }
    let (image, bundle) = match (&wishes.image, &wishes.bundle) {
        (None, None) => (site.image.clone().filter(|name| name != "host"), None),
        (image, bundle) => (image.clone(), bundle.clone()),
    };
    // An image has no clients of this site's Slurm, unless the site says.
    let host = image.is_none() && bundle.as_deref().is_none_or(|name| name == "host");
    for path in nodes_files(host) {
        if !binds.iter().any(|b| b.destination == path) {
            // Devices are written to, whoever may.
            let how = if path.starts_with("/dev/") { "rw" } else { "ro" };
            binds.push(bind::parse(&format!("{path}:{path}:{how}"))?);
        }
    }
    binds.extend(wishes.binds.iter().cloned());
    let all = hardware::memory_total();
    let cpus = hardware::online_cpus().len();
    let memory = match site.memory {
        site::Memory::Share => all.map(|bytes| {
            let share = u128::from(bytes) * call.granted.cpus as u128 / cpus.max(1) as u128;
            u64::try_from(share).unwrap_or(bytes).min(bytes)
        }),
        site::Memory::Scheduler | site::Memory::None => None,
    };
    let choose = site.cpus == site::Cpus::Choose;
    let own = if choose { host::affinity()? } else { Vec::new() };
    if choose && call.granted.cpus > own.len() {
        return Err(Problem::site(format!(
            "the job has {} CPUs here, and slurmd, by which this runs, only {}: cpus = \
             \"scheduler\" in [scheduler] leaves them to Slurm",
            call.granted.cpus,
            format_list(&own)
        ))
        .hint("cores that slurmd keeps for itself (CoreSpecCount) need task/cgroup in any case"));
    }
    let mut granted = call.granted.clone();
    granted.accounts = accounts(site);
    granted.memory_follows = site.memory == site::Memory::Scheduler;
    Ok(JobRequest {
        id: Some(call.id()),
        image,
        no_fetch: !site.pull,
        bundle,
        cpus: choose.then_some(call.granted.cpus),
        memory,
        pids: site.pids,
        binds,
        scratch: site.scratch.clone(),
        user: Some(format!("{}:{}", call.uid, call.gid)),
        // MPI launchers tell a job's nodes apart by their names.
        hostname: check_hostname(&call.node).ok(),
        granted: Some(granted),
        ..JobRequest::default()
    })
}

/// Ends the job's environment, with a receipt. There need not be one.
///
/// # Errors
/// Something of it cannot be ended; what, and why, is said.
pub fn epilog(
    base: &Path,
    (site, fresh): (&Scheduler, &Freshness),
    call: &Call,
    warn: &dyn Fn(&str),
) -> Result<(), Refusal> {
    let (notes, id) = (Notes::new(base), call.id());
    let lock = notes.lock()?;
    let note = notes.load(&id);
    let call = &as_noted(call, note.as_ref());
    // An epilog that comes late must not end the next run of the job.
    if note.as_ref().is_some_and(|n| {
        n.phase != Phase::Ended
            && n.granted.cluster == call.granted.cluster
            && n.granted.restarts > call.granted.restarts
    }) {
        warn(&format!("job {id} has been started anew since"));
        return Ok(());
    }
    // First of all, so that no prolog makes another meanwhile.
    notes.save(
        &id,
        &Note {
            phase: Phase::Ended,
            granted: call.granted.clone(),
            uid: call.uid,
            why: None,
            at: now(),
            took: note.as_ref().map_or(0, |n| n.took),
        },
    )?;
    drop(lock);
    let begun = Instant::now();
    let ended = end(base, &id);
    let to_end = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (last, mut problems) = match ended {
        Ok(last) => (last, Problems::new()),
        Err(refusal) => (None, refusal.problems),
    };
    let from = last.as_ref().map(|l| l.record.created).or(note.as_ref().map(|n| n.at));
    let job = Ending { id: id.clone(), uid: call.uid, from: from.unwrap_or_else(now) };
    let seen = match freshness::epilog(base, fresh, &site.receipts, &job, warn) {
        Ok(seen) => seen,
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    let (freshness, dirty) = seen.map_or((None, None), |(entry, dirty)| (Some(entry), dirty));
    let again = note.as_ref().is_none_or(|n| n.phase == Phase::Ended) && told(site, call);
    let made = note.filter(|n| n.phase == Phase::Made).map(|n| n.took);
    let receipt = match last {
        Some(last) => Some(receipt(call, &last, made, to_end)),
        // What a job on the bare node leaves has no other record; an epilog
        // that comes again must not hide the one that there is.
        None if again => None,
        None => freshness.as_ref().map(|_| bare_receipt(call, &job, to_end)),
    };
    if let Some(receipt) = receipt {
        keep(site, Receipt { freshness, ..receipt }, warn);
    }
    problems.extend(dirty);
    sweep(base, site);
    // What a prolog that was killed left.
    let _ = stage::collect_all_jobs(&Jobs::new(base));
    if problems.is_empty() { Ok(()) } else { Err(problems.into()) }
}

/// The run of the job that an epilog ends is the one that a prolog has noted. slurmctld
/// counts a requeue before that; of a job that it has forgotten slurmd says that it
/// is root's, and no more.
fn as_noted(call: &Call, note: Option<&Note>) -> Call {
    let same = |note: &&Note| {
        let (theirs, ours) = (&note.granted, &call.granted);
        (&theirs.cluster, theirs.job) == (&ours.cluster, ours.job)
    };
    match note.filter(same) {
        Some(note) if !call.complete => {
            Call { granted: note.granted.clone(), uid: note.uid, ..call.clone() }
        }
        Some(note) if note.granted.restarts < call.granted.restarts => {
            let restarts = note.granted.restarts;
            Call { granted: Granted { restarts, ..call.granted.clone() }, ..call.clone() }
        }
        _ => call.clone(),
    }
}

/// Whether there is a receipt of this run of the job.
fn told(site: &Scheduler, call: &Call) -> bool {
    let last = Receipts::new(&site.receipts).load(&call.id());
    last.and_then(|receipt| receipt.job).is_some_and(|job| {
        job.cluster == call.granted.cluster && job.restarts == call.granted.restarts
    })
}

/// Ends what an epilog that was cut off has left standing: its note says that
/// the job is over. For `denovo node gc`.
pub fn collect(base: &Path) -> Collected {
    let (notes, jobs, mut found) = (Notes::new(base), Jobs::new(base), Collected::default());
    for id in notes.ids() {
        let over = |note: &Note| {
            let granted = jobs.load(&id).and_then(|record| record.granted);
            note.phase == Phase::Ended
                && granted.is_some_and(|g| {
                    g.cluster == note.granted.cluster && g.restarts <= note.granted.restarts
                })
        };
        if notes.load(&id).is_some_and(|note| over(&note)) {
            let gone = end(base, &id).is_ok();
            if gone { &mut found.removed } else { &mut found.left }.push(format!("job {id}"));
        }
    }
    found
}

/// Runs `work` in a process of its own for at most so many seconds.
///
/// # Errors
/// It took longer; it is ended then.
pub fn within(seconds: u64, what: &str, work: impl FnOnce() -> i32) -> Result<i32, Problem> {
    let failed = |e: nix::errno::Errno| Problem::kernel(format!("{what}: {}", e.desc()));
    let pid = match sys::clone3(0, None).map_err(failed)? {
        Forked::Child => sys::exit_now(work()),
        Forked::Parent(pid) => pid,
    };
    let pidfd = sys::pidfd_open(pid).map_err(failed)?;
    let limit = Duration::from_secs(seconds.clamp(1, LONGEST));
    if !closes(&pidfd, Instant::now() + limit) {
        let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        return Err(Problem::site(format!("{what}: gave up after {seconds} s"))
            .hint("[scheduler] budget in /etc/denovo/denovo.toml is the limit"));
    }
    Ok(super::proxy::exit_code(pid))
}

/// Every problem in one line.
pub fn sentence(problems: &Problems) -> String {
    problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; ")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
