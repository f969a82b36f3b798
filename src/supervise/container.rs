//! Requests of the OCI command line, each from its options to its end.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

use super::exec::process_plan;
use super::interrupt::Interrupts;
use super::making::Making;
use super::proxy::{Proxy, Signals};
use super::sockets::connect;
use super::terminal::Relay;
use crate::host::Facts;
use crate::kernel::channel::{Channel, Heard};
use crate::kernel::launch::Failure;
use crate::kernel::timings::{self, Stage};
use crate::kernel::{failure, hook, sys};
use crate::plan::Plan;
use crate::plan::build::{self, Options};
use crate::policy::container::{self as policy, Checked};
use crate::policy::spec::{Hook, Spec};
use crate::policy::text::CText;
use crate::problem::{Problem, Problems};
use crate::record::container::{Record, Status, Store};
use crate::record::filters::KeptFilters;
use crate::request::oci::Bundle;

/// What `create` and `run` are told beside the id.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    pub bundle: PathBuf,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    /// Further descriptors from 3 on that the process inherits.
    pub preserve_fds: u32,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// The group is a scope that systemd makes.
    pub systemd_cgroup: bool,
    pub detach: bool,
    /// Keep the record of a container that `run` saw end.
    pub keep: bool,
}

/// How a request failed, with the exit code that callers expect.
#[derive(Debug)]
pub struct Refusal {
    pub problems: Problems,
    pub code: i32,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem], code: 125 }
    }
}

impl From<Problems> for Refusal {
    fn from(problems: Problems) -> Self {
        Self { problems, code: 125 }
    }
}

/// A request made ready: nothing was changed yet.
pub struct Ready {
    pub spec: Spec,
    pub plan: Plan,
    pub bundle: Bundle,
}

fn ready(
    id: &str,
    options: &StartOptions,
    facts: &Facts,
    wait: bool,
    filters: &KeptFilters,
    warn: &dyn Fn(&str),
) -> Result<Ready, Refusal> {
    timings::done(Stage::Facts);
    let mut bundle = Bundle::load(&options.bundle)?;
    let asked = options.systemd_cgroup.then(|| bundle.take_cgroups_path());
    let Checked { mut spec, warnings } = policy::check_with(&bundle, id, facts, filters)?;
    let mut facts = std::borrow::Cow::Borrowed(facts);
    let scope = match asked {
        Some(path) => Some(super::scope::decide(&path, id, &mut spec, facts.to_mut())?),
        None => None,
    };
    for warning in &warnings {
        warn(warning);
    }
    check_terminal(&spec, options)?;
    timings::done(Stage::Config);
    let mut plan = build::plan(
        &spec,
        &facts,
        &Options {
            id: id.to_owned(),
            anchor: CText::default(),
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            await_start: wait,
        },
    )?;
    if let Some(scope) = scope {
        plan.cgroup = plan.cgroup.in_scope(&scope);
    }
    timings::done(Stage::Plan);
    Ok(Ready { spec, plan, bundle })
}

/// runtime-spec leaves it to the caller how a terminal is handed over; a
/// detached container has nobody to relay it.
fn check_terminal(spec: &Spec, options: &StartOptions) -> Result<(), Problem> {
    let terminal = spec.process.as_ref().is_some_and(|p| p.terminal);
    match (terminal, options.detach, &options.console_socket) {
        (true, true, None) => Err(Problem::user(
            "process.terminal is true, but a detached container needs somebody to take its terminal",
        )
        .hint("give --console-socket PATH, or set process.terminal to false")),
        (false, _, Some(_)) => Err(Problem::user(
            "--console-socket was given, but process.terminal is false",
        )
        .hint("leave --console-socket out, or set process.terminal to true")),
        _ => Ok(()),
    }
}

/// The lines of `denovo explain create|run`, on the node of `facts`.
///
/// # Errors
/// As create.
pub fn explain(
    id: &str,
    options: &StartOptions,
    facts: &Facts,
    wait: bool,
    warn: &dyn Fn(&str),
) -> Result<Vec<String>, Refusal> {
    Ok(ready(id, options, facts, wait, &KeptFilters::to_read(), warn)?.plan.lines())
}

/// `create`: everything up to the process, which waits for `start`.
///
/// # Errors
/// Nothing is left of a container that could not be created.
pub fn create(
    store: &Store,
    id: &str,
    options: &StartOptions,
    warn: &dyn Fn(&str),
) -> Result<(), Refusal> {
    let options = StartOptions { detach: true, ..options.clone() };
    let ready = ready(id, &options, &Facts::read()?, true, &KeptFilters::own(), warn)?;
    let interrupts = Interrupts::hold()?;
    let mut making = Making::claim(store, id, ready, &options, false)?;
    let listener = making.listen()?;
    let born = making.launch(Some(&listener), SigSet::empty())?;
    making.attend(&born, &interrupts)?;
    interrupts.check()?;
    let (_, steps) = making.finish(&born)?;
    interrupts.too_late();
    timings::report("create", &steps);
    Ok(())
}

/// `run`: create and start in one, waiting in the foreground unless detached.
///
/// # Errors
/// Nothing is left of a container that could not be started.
pub fn run(
    store: &Store,
    id: &str,
    options: &StartOptions,
    warn: &dyn Fn(&str),
) -> Result<i32, Refusal> {
    let ready = ready(id, options, &Facts::read()?, false, &KeptFilters::own(), warn)?;
    if ready.spec.process.is_none() {
        return Err(Problem::user("config.json has no `process`, so there is nothing to run")
            .hint("add one, or use denovo create")
            .into());
    }
    let signals =
        Signals::hold().map_err(|e| Problem::kernel(format!("signalfd: {}", e.desc())))?;
    let poststop = ready.spec.hooks.poststop.clone();
    let poststart = ready.spec.hooks.poststart.clone();
    let interrupts = Interrupts::hold()?;
    let mut making = Making::claim(store, id, ready, options, !options.detach && !options.keep)?;
    let born = making.launch(None, SigSet::empty())?;
    let terminal = making.attend(&born, &interrupts)?;
    drop(interrupts);
    let (record, steps) = making.finish(&born)?;
    if let Err(problem) = started(&record, &poststart) {
        clean(store, &record)?;
        warn_of_hooks(&record, &poststop, warn);
        return Err(problem.into());
    }
    timings::done(Stage::Finish);
    timings::report("run", &steps);
    drop(steps);
    if options.detach {
        return Ok(0);
    }
    let proxy = Proxy {
        pid: born.pid,
        pidfd: &born.pidfd,
        relay: terminal.map(Relay::new),
        signals: &signals,
        shares_group: false,
    };
    let code = proxy.wait();
    if code == 128 + libc::SIGKILL {
        tell_memory(&record, warn);
    }
    if !options.keep {
        clean(store, &record)?;
        warn_of_hooks(&record, &poststop, warn);
    }
    Ok(code)
}

/// Whether it was for want of memory, which 137 alone does not say.
fn tell_memory(record: &Record, warn: &dyn Fn(&str)) {
    if let Some(kills) = crate::kernel::cgroup::usage(&record.cgroup).oom_kills.filter(|n| *n > 0) {
        warn(&format!(
            "{kills} process(es) of the container were killed because its memory limit was reached; raise linux.resources.memory.limit"
        ));
    }
}

/// Kills what is left, removes the groups and the record.
///
/// # Errors
/// Something cannot be removed; it is named.
fn clean(store: &Store, record: &Record) -> Result<(), Refusal> {
    super::groups::end(&record.cgroup)?;
    store.forget(&record.id)?;
    Ok(())
}

/// poststart hooks: when one fails, the container is stopped and the rest of
/// them not run (runtime-spec, "Lifecycle", step 9).
fn started(record: &Record, hooks: &[Hook]) -> Result<(), Problem> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = record.state(Status::Running);
    let text = serde_json::to_vec(&state).map_err(|e| Problem::ours(e.to_string()))?;
    for hook in hooks {
        if let Err(failure) = hook::run_one(hook, &text, None) {
            stop(record)?;
            let problem = Problem::user(format!("poststart {failure}"));
            return Err(problem.hint("the container was stopped, as the runtime-spec demands"));
        }
    }
    Ok(())
}

/// poststop hooks: a failure is logged, not fatal (runtime-spec, "Lifecycle",
/// step 13).
fn warn_of_hooks(record: &Record, hooks: &[Hook], warn: &dyn Fn(&str)) {
    if hooks.is_empty() {
        return;
    }
    let text = serde_json::to_vec(&record.state(Status::Stopped)).unwrap_or_default();
    for hook in hooks {
        if let Err(e) = hook::run_one(hook, &text, None) {
            warn(&e.to_string());
        }
    }
}

/// Kills the first process, if it runs, and waits for its end.
fn stop(record: &Record) -> Result<(), Problem> {
    let Some(pidfd) = record.init.and_then(|p| p.open()) else { return Ok(()) };
    let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    super::control::wake(record)?;
    wait_end(record, &pidfd)
}

/// `start`: lets the created process go and hears whether it could be executed.
///
/// # Errors
/// The container is not in the state `created`, or its program failed to start.
pub fn start(store: &Store, id: &str) -> Result<(), Refusal> {
    let record = store.load(id)?;
    let status = store.status(&record);
    if status != Status::Created {
        return Err(Problem::user(format!(
            "container {id:?} cannot be started: it is {}",
            status.name()
        ))
        .hint("only a created container can be started, and only once")
        .into());
    }
    if record.process.is_none() {
        return Err(
            Problem::user("config.json has no `process`, so there is nothing to start").into()
        );
    }
    let path = store.start_socket(id);
    let channel = Channel::from(connect(&path)?);
    let _ = fs::remove_file(&path);
    let spoke = |e: nix::errno::Errno| Problem::kernel(format!("start: {}", e.desc()));
    let mut note = None;
    loop {
        match channel.hear().map_err(spoke)? {
            Heard::Closed => break,
            Heard::Note(text) => note = Some(text),
            Heard::Failed { errno, call, .. } => {
                return Err(start_failure(&record, Failure { step: None, call, errno, note }));
            }
            Heard::WantState => {
                let state = record.state(Status::Created);
                let text = serde_json::to_vec(&state).map_err(|e| Problem::ours(e.to_string()))?;
                channel.say_text(&text).map_err(spoke)?;
            }
            _ => {}
        }
    }
    started(&record, &record.poststart)?;
    Ok(())
}

/// The plan is long forgotten; only of its last step is enough known.
fn start_failure(record: &Record, failure: Failure) -> Refusal {
    let step = (failure.call == "exec").then_some(0);
    let f = Failure { step, ..failure };
    let plan = process_plan(record.process.as_ref(), Vec::new(), record);
    Refusal { problems: vec![failure::explain(&plan, &f)], code: failure::exit_code(&plan, &f) }
}

/// `delete`: removes what a stopped container left; with `force` ends it first.
///
/// # Errors
/// The container still runs, or something of it cannot be removed.
pub fn delete(store: &Store, id: &str, force: bool, warn: &dyn Fn(&str)) -> Result<(), Refusal> {
    let record = match store.load(id) {
        Ok(record) => record,
        // `rm -f` semantics, as callers of runc expect.
        Err(_) if force && !store.directory(id).exists() => return Ok(()),
        Err(problem)
            if force
                && (problem.blame == crate::problem::Blame::Denovo
                    || store.is_claimed_only(id)) =>
        {
            store.forget(id)?;
            return Ok(());
        }
        Err(problem) => return Err(problem.into()),
    };
    let status = store.status(&record);
    if matches!(status, Status::Running | Status::Paused | Status::Creating) && !force {
        return Err(Problem::user(format!(
            "container {id:?} is {} and cannot be deleted",
            status.name()
        ))
        .hint(format!("end it first (denovo kill {id} KILL), or use delete --force"))
        .into());
    }
    stop(&record)?;
    clean(store, &record)?;
    warn_of_hooks(&record, &record.poststop, warn);
    Ok(())
}

fn wait_end(record: &Record, pidfd: &OwnedFd) -> Result<(), Problem> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(1000u16)).is_ok_and(|n| n > 0) {
            return Ok(());
        }
    }
    Err(Problem::kernel(format!(
        "container {:?}: its first process does not end, 10 s after SIGKILL",
        record.id
    ))
    .hint("it waits in the kernel (state D); look at /proc/PID/stack"))
}
