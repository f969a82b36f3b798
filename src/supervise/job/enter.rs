//! Runs a command in an environment, and leaves it.

use super::{Command, Joined, ask, confused};
use crate::host::shares;
use crate::kernel::cgroup::Doors;
use crate::kernel::channel::Heard;
use crate::kernel::failure;
use crate::kernel::launch::{Born, Extra, Failure, NotLaunched, launch_placed};
use crate::kernel::timings::{self, Stage};
use crate::plan::build;
use crate::plan::inside::{Inside, Join};
use crate::plan::{self, Plan};
use crate::policy::filter;
use crate::policy::rank::{self, Rank};
use crate::policy::spec::Kind;
use crate::policy::text::CText;
use crate::problem::Problem;
use crate::supervise::container::Refusal;
use crate::supervise::protocol::{self, Entry, Parting, Reply, Request};
use crate::supervise::proxy::{Proxy, Signals};
use crate::supervise::terminal::Relay;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Runs the command inside and waits for it.
pub(super) fn execute(
    joined: Joined,
    command: &Command,
    signals: &Signals,
    warn: &dyn Fn(&str),
) -> Result<i32, Refusal> {
    let Joined { jobs, id, socket, entry, fds } = joined;
    let started = start_inside(&entry, fds, command, signals, &socket);
    let result = started.map(|(born, terminal, shares_group)| {
        let relay = terminal.map(Relay::new);
        Proxy { pid: born.pid, pidfd: &born.pidfd, relay, signals, shares_group }.wait()
    });
    let killed = result.as_ref().is_ok_and(|code| *code == 128 + libc::SIGKILL);
    let left = leave(&socket, (&id, command.receipt.as_deref()), killed, warn);
    // The exit code is the command's, whatever becomes of its receipt.
    let left = left.unwrap_or_else(|problem| {
        warn(&problem.message);
        Left::Others
    });
    if left == Left::Ended && result.is_err() {
        let why = format!("job {id:?}: was ended before the command was in it");
        return Err(Problem::user(why).hint("give the command again to start it anew").into());
    }
    if left == Left::Last && jobs.load(&id).is_some_and(|r| !r.kept()) {
        warn(&format!(
            "something of job {id} could not be removed; denovo node gc tries again and names it"
        ));
    }
    result
}

/// What is left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Others,
    /// Nobody and nothing, by now.
    Last,
    /// Nothing since before we left: the environment was ended.
    Ended,
}

/// Tells the monitor; the last one out waits until nothing is left.
fn leave(
    socket: &OwnedFd,
    (id, receipt): (&str, Option<&Path>),
    killed: bool,
    warn: &dyn Fn(&str),
) -> Result<Left, Problem> {
    match ask(socket, &Request::Leave { report: killed || receipt.is_some() }) {
        Ok(Reply::Left(parting)) => {
            if parting.last {
                wait_closed(socket);
            }
            if parting.last || killed {
                tell(&parting, warn);
            }
            write_receipt(receipt, id, &parting)?;
            Ok(if parting.last { Left::Last } else { Left::Others })
        }
        Ok(_) => Err(confused()),
        // Ended meanwhile by `job end`, which was told everything.
        Err(_) => Ok(Left::Ended),
    }
}

pub(in crate::supervise) fn wait_closed(socket: &OwnedFd) {
    while let Ok(Some(_)) = protocol::hear::<Reply>(socket) {}
}

/// What the job should know of how it was held.
pub(super) fn tell(parting: &Parting, warn: &dyn Fn(&str)) {
    let usage = &parting.usage;
    if let Some(kills) = usage.oom_kills.filter(|n| *n > 0) {
        let limit = parting.memory.map_or(String::new(), |b| format!(" of {} MiB", b >> 20));
        let peak =
            usage.memory_peak.map_or(String::new(), |b| format!(", peak use {} MiB", b >> 20));
        warn(&format!(
            "{kills} process(es) were killed because the memory limit{limit} was reached{peak}; give more with --memory"
        ));
    }
    if let Some(periods) = usage.cpu_throttled_periods.filter(|n| *n > 0) {
        let seconds = usage.cpu_throttled_ns.unwrap_or(0) as f64 / 1e9;
        warn(&format!(
            "the CPU quota held the job back in {periods} periods, {seconds:.1} s in all"
        ));
    }
    if let Some(refused) = usage.pids_limit_hits.filter(|n| *n > 0) {
        warn(&format!(
            "{refused} forks were refused because the limit of processes was reached; give more with --pids"
        ));
    }
}

/// Before anything is done that is to be told: whether it can be.
///
/// # Errors
/// The file cannot be written.
pub(super) fn check_receipt(path: Option<&Path>) -> Result<(), Problem> {
    let Some(path) = path else { return Ok(()) };
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(false).open(path);
    opened.map(drop).map_err(|e| unwritten(path, &e))
}

fn unwritten(path: &Path, why: &std::io::Error) -> Problem {
    Problem::user(format!("--receipt {}: {why}", path.display()))
        .hint("name a file that you can write")
}

pub(super) fn write_receipt(
    path: Option<&Path>,
    id: &str,
    parting: &Parting,
) -> Result<(), Problem> {
    let Some(path) = path else { return Ok(()) };
    let document =
        serde_json::json!({ "job": id, "memoryLimit": parting.memory, "usage": parting.usage });
    std::fs::write(path, format!("{document:#}\n")).map_err(|e| unwritten(path, &e))
}

type Started = (Born, Option<OwnedFd>, bool);

/// The way in, as the monitor gave it.
struct Way {
    namespaces: Vec<OwnedFd>,
    doors: Doors,
}

impl Way {
    fn new(entry: &Entry, fds: Vec<OwnedFd>) -> Self {
        let mut fds = fds.into_iter();
        let namespaces = fds.by_ref().take(entry.namespaces.len()).collect();
        let v1_tasks = fds.by_ref().take(entry.v1_doors).collect();
        Self { namespaces, doors: Doors { v1_tasks, v2_dir: fds.next(), holder: None } }
    }
}

fn start_inside(
    entry: &Entry,
    fds: Vec<OwnedFd>,
    command: &Command,
    signals: &Signals,
    socket: &OwnedFd,
) -> Result<Started, Refusal> {
    timings::done(Stage::Join);
    let terminal = has_terminal();
    let way = Way::new(entry, fds);
    let plan = plan(entry, &way, command, terminal, entry.answered)?;
    timings::done(Stage::Plan);
    match start(&plan, entry, &way.doors, signals, socket) {
        Err(NotStarted::ListenerTaken) => {
            let plan = self::plan(entry, &way, command, terminal, false)?;
            start(&plan, entry, &way.doors, signals, socket)
        }
        result => result,
    }
    .map(|(born, master)| (born, master, !terminal))
    .map_err(NotStarted::refusal)
}

/// Whether the caller's terminal is ours to take over: one who was started in the
/// background (`denovo job run … &`) must not read what is typed for somebody else.
fn has_terminal() -> bool {
    use std::io::IsTerminal;
    let stdin = std::io::stdin();
    let foreground = || match nix::unistd::tcgetpgrp(&stdin) {
        Ok(group) => group == nix::unistd::getpgrp(),
        // It is not the one that our session goes by: nobody's group reads it.
        Err(_) => true,
    };
    stdin.is_terminal() && std::io::stdout().is_terminal() && foreground()
}

/// `answered`: the process's sysinfo(2) is left to the environment's views.
fn plan(
    entry: &Entry,
    way: &Way,
    command: &Command,
    terminal: bool,
    answered: bool,
) -> Result<Plan, Refusal> {
    let join = |(kind, fd): (&Kind, &OwnedFd)| Join {
        kind: *kind,
        path: CText::lossy(format!("/proc/self/fd/{}", fd.as_raw_fd())),
    };
    let own = std::env::vars_os();
    let host = entry.bundle == "host";
    let rank = Rank {
        uid: entry.uid,
        gid: entry.gid,
        groups: (nix::unistd::geteuid().as_raw() != entry.uid).then(|| entry.groups.clone()),
        args: &command.args,
        env: rank::environment(own, &entry.env, &command.env, command.clean_env, host),
        cwd: command.cwd.as_deref(),
        here: std::env::current_dir().ok(),
        terminal,
        cpus: entry.cpus.as_deref(),
        queue_bytes: shares::queue_bytes(),
    };
    let process = rank.process()?;
    let filter = filter::of_a_job(answered, entry.kernel);
    let grouped = !way.doors.v1_tasks.is_empty();
    let joins = entry.namespaces.iter().zip(&way.namespaces).map(join);
    Ok(Plan {
        cgroup: plan::cgroup::CgroupPlan::default(),
        launch: plan::Launch::joining(joins.collect()),
        inside: build::rank_steps(&process, rank.directories(), rank.cpus, grouped, &filter),
        program: Some(build::program(&process)),
        seccomp: Some((filter.program, filter.flags)),
        hooks: crate::policy::spec::Hooks::default(),
    })
}

/// Why no process of the job was started.
enum NotStarted {
    Refused(Refusal),
    /// A filter around the caller has a listener, and there can be only one
    /// (seccomp(2), EBUSY): the process goes without an answer of its own.
    ListenerTaken,
}

impl NotStarted {
    fn of(plan: &Plan, f: &Failure) -> Self {
        let step = f.step.and_then(|index| plan.inside.get(index));
        if f.errno == Errno::EBUSY && matches!(step, Some(Inside::Seccomp)) {
            return Self::ListenerTaken;
        }
        let problems = vec![failure::explain(plan, f)];
        Self::Refused(Refusal { problems, code: failure::exit_code(plan, f) })
    }

    fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::ListenerTaken => {
                Problem::kernel("seccomp: a filter around the caller has a listener").into()
            }
        }
    }
}

/// The process, and its terminal if it has one.
fn start(
    plan: &Plan,
    entry: &Entry,
    doors: &Doors,
    signals: &Signals,
    socket: &OwnedFd,
) -> Result<(Born, Option<OwnedFd>), NotStarted> {
    let place = |pid: i32| -> Result<(), Problem> {
        if !entry.place {
            return Ok(());
        }
        match ask(socket, &Request::Place { pid })? {
            Reply::Placed => Ok(()),
            Reply::Refused { why } => Err(Problem::kernel(why)),
            _ => Err(confused()),
        }
    };
    let extra = Extra {
        start: None,
        preserve: None,
        mask: signals.before(),
        die_with_parent: true,
        entering: true,
        devices: None,
        views: None,
        init: None,
    };
    let born = launch_placed(plan, doors, &extra, &place).map_err(|e| match e {
        NotLaunched::Failed(f) => NotStarted::of(plan, &f),
        NotLaunched::NotPlaced(problem) => NotStarted::Refused(problem.into()),
    })?;
    let mut master = None;
    loop {
        match born.next() {
            Err(f) => {
                let _ = crate::supervise::proxy::exit_code(born.pid);
                return Err(NotStarted::of(plan, &f));
            }
            Ok(Heard::Terminal(fd)) => master = Some(fd),
            Ok(Heard::Listener(fd)) => {
                // Who waits for an answer that never comes fails, and goes on.
                let _ = protocol::say(socket, &Request::Answer, &[&fd]);
            }
            Ok(Heard::Closed) => {
                timings::done(Stage::Inside);
                timings::report("join", &plan.inside);
                return Ok((born, master));
            }
            Ok(_) => {}
        }
    }
}
