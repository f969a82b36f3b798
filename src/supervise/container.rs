//! Requests of the OCI command line, each from its options to its end.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

use super::exec::process_plan;
use super::making::Making;
use super::proxy::{Proxy, Signals};
use super::sockets::connect;
use super::terminal::Relay;
use crate::host::Facts;
use crate::kernel::cgroup::{self};
use crate::kernel::channel::{Channel, Heard};
use crate::kernel::launch::Failure;
use crate::kernel::{failure, hook, sys};
use crate::plan::Plan;
use crate::plan::build::{self, Options};
use crate::policy::container::Checked;
use crate::policy::spec::{Hook, Spec};
use crate::policy::text::CText;
use crate::problem::{Problem, Problems};
use crate::record::container::{Record, Status, Store};
use crate::request::oci::Bundle;

/// What `create` and `run` are told beside the id.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    pub bundle: PathBuf,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
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
    wait: bool,
    warn: &dyn Fn(&str),
) -> Result<Ready, Refusal> {
    let mut bundle = Bundle::load(&options.bundle)?;
    let mut facts = Facts::read()?;
    let asked = options.systemd_cgroup.then(|| bundle.take_cgroups_path());
    let Checked { mut spec, warnings } = crate::policy::container::check(&bundle, id, &facts)?;
    let scope = match asked {
        Some(path) => Some(super::scope::decide(&path, id, &mut spec, &mut facts)?),
        None => None,
    };
    for warning in &warnings {
        warn(warning);
    }
    check_terminal(&spec, options)?;
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

/// The lines of `denovo explain create|run`.
///
/// # Errors
/// As create.
pub fn explain(
    id: &str,
    options: &StartOptions,
    wait: bool,
    warn: &dyn Fn(&str),
) -> Result<Vec<String>, Refusal> {
    Ok(ready(id, options, wait, warn)?.plan.lines())
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
    let ready = ready(id, &options, true, warn)?;
    let mut making = Making::claim(store, id, ready, &options, false)?;
    let listener = making.listen()?;
    let born = making.launch(Some(&listener), SigSet::empty())?;
    making.attend(&born)?;
    making.finish(&born)?;
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
    let ready = ready(id, options, false, warn)?;
    if ready.spec.process.is_none() {
        return Err(Problem::user("config.json has no `process`, so there is nothing to run")
            .hint("add one, or use denovo create")
            .into());
    }
    let signals =
        Signals::hold().map_err(|e| Problem::kernel(format!("signalfd: {}", e.desc())))?;
    let poststop = ready.spec.hooks.poststop.clone();
    let poststart = ready.spec.hooks.poststart.clone();
    let mut making = Making::claim(store, id, ready, options, !options.detach && !options.keep)?;
    let born = making.launch(None, SigSet::empty())?;
    let terminal = making.attend(&born)?;
    let record = making.finish(&born)?;
    run_hooks_of(&record, &poststart, Status::Running, warn);
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
    if !options.keep {
        clean(store, &record)?;
        run_hooks_of(&record, &poststop, Status::Stopped, warn);
    }
    Ok(code)
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

/// poststart and poststop hooks: a failure is logged, not fatal
/// (runtime-spec, "Lifecycle").
fn run_hooks_of(record: &Record, hooks: &[Hook], status: Status, warn: &dyn Fn(&str)) {
    if hooks.is_empty() {
        return;
    }
    let text = serde_json::to_vec(&record.state(status)).unwrap_or_default();
    for hook in hooks {
        if let Err(e) = hook::run_one(hook, &text) {
            warn(&e.to_string());
        }
    }
}

/// `start`: lets the created process go and hears whether it could be executed.
///
/// # Errors
/// The container is not in the state `created`, or its program failed to start.
pub fn start(store: &Store, id: &str, warn: &dyn Fn(&str)) -> Result<(), Refusal> {
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
    run_hooks_of(&record, &record.poststart, Status::Running, warn);
    Ok(())
}

/// The plan is long forgotten; only of its last step is enough known.
fn start_failure(record: &Record, failure: Failure) -> Refusal {
    let step = (failure.call == "exec").then_some(0);
    let f = Failure { step, ..failure };
    let plan = process_plan(record.process.as_ref(), Vec::new(), record);
    Refusal { problems: vec![failure::explain(&plan, &f)], code: failure::exit_code(&plan, &f) }
}

/// `kill`: one signal to the first process, or to all.
///
/// # Errors
/// The container does not run.
pub fn kill(store: &Store, id: &str, signal: i32, all: bool) -> Result<(), Refusal> {
    let record = store.load(id)?;
    let not_running = || {
        Problem::user(format!("container {id:?} is not running"))
            .hint("denovo state shows what it is; denovo delete removes what is left")
    };
    if all {
        for pid in cgroup::pids(&record.cgroup).map_err(Problem::from)? {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal_of(signal));
        }
        return Ok(());
    }
    let pidfd = record.init.and_then(|p| p.open()).ok_or_else(not_running)?;
    sys::pidfd_send_signal(pidfd.as_fd(), signal).map_err(|e| {
        Problem::user(format!("container {id:?}: signal {signal}: {}", e.desc())).into()
    })
}

fn signal_of(number: i32) -> Option<nix::sys::signal::Signal> {
    nix::sys::signal::Signal::try_from(number).ok()
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
    if matches!(status, Status::Running | Status::Creating) && !force {
        return Err(Problem::user(format!(
            "container {id:?} is {} and cannot be deleted",
            status.name()
        ))
        .hint(format!("end it first (denovo kill {id} KILL), or use delete --force"))
        .into());
    }
    if let Some(pidfd) = record.init.and_then(|p| p.open()) {
        let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        wait_end(&record, &pidfd)?;
    }
    clean(store, &record)?;
    run_hooks_of(&record, &record.poststop, Status::Stopped, warn);
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
