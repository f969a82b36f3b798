//! Requests of the OCI command line, each from its options to its end.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::SigSet;

use super::proxy::{Proxy, Signals};
use super::terminal::Relay;
use crate::host::Facts;
use crate::kernel::cgroup::{self, Doors};
use crate::kernel::channel::{Channel, Heard, Word};
use crate::kernel::launch::{Born, Extra, Failure, NotLaunched, launch, launch_placed};
use crate::kernel::{failure, hook, sys};
use crate::plan::build::{self, Options};
use crate::plan::cgroup::CgroupPlan;
use crate::plan::{self, Plan};
use crate::policy::container::Checked;
use crate::policy::spec::{Hook, Process, Spec};
use crate::policy::text::CText;
use crate::problem::{Problem, Problems};
use crate::record::container::{Record, Status, Store};
use crate::record::process::ProcessName;
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
struct Ready {
    spec: Spec,
    plan: Plan,
    bundle: Bundle,
}

fn ready(
    id: &str,
    options: &StartOptions,
    wait: bool,
    warn: &dyn Fn(&str),
) -> Result<Ready, Refusal> {
    let bundle = Bundle::load(&options.bundle)?;
    let facts = Facts::read()?;
    let Checked { spec, warnings } = crate::policy::container::check(&bundle, id, &facts)?;
    for warning in &warnings {
        warn(warning);
    }
    check_terminal(&spec, options)?;
    let plan = build::plan(
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

/// A container on its way; whatever fails takes it all back.
struct Making<'a> {
    store: &'a Store,
    options: &'a StartOptions,
    record: Record,
    plan: Plan,
    hooks: crate::policy::spec::Hooks,
    doors: Doors,
    pid: Option<i32>,
    done: bool,
}

impl<'a> Making<'a> {
    fn claim(
        store: &'a Store,
        id: &str,
        ready: Ready,
        options: &'a StartOptions,
        transient: bool,
    ) -> Result<Self, Refusal> {
        let uid = nix::unistd::geteuid().as_raw();
        store.claim(id, uid)?;
        let Ready { spec, plan, bundle } = ready;
        let record = Record {
            id: id.to_owned(),
            bundle: bundle.dir.clone(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            uid,
            keeper: ProcessName::own(),
            init: None,
            cgroup: plan.cgroup.clone(),
            annotations: spec.annotations,
            poststart: spec.hooks.poststart.clone(),
            poststop: spec.hooks.poststop.clone(),
            process: spec.process,
            transient,
        };
        let mut making = Self {
            store,
            options,
            record,
            plan,
            hooks: spec.hooks,
            doors: Doors { v1_tasks: Vec::new(), v2_dir: None },
            pid: None,
            done: false,
        };
        store.save_first(&making.record)?;
        if let Some((program, _)) = &making.plan.seccomp {
            save_filter(store, id, program)?;
        }
        making.doors = super::groups::enter(&mut making.plan.cgroup).inspect_err(|_| {
            // None is left of ours; one that is there is somebody else's.
            making.plan.cgroup = CgroupPlan::default();
        })?;
        Ok(making)
    }

    fn listen(&self) -> Result<OwnedFd, Refusal> {
        listen(&self.store.start_socket(&self.record.id)).map_err(Refusal::from)
    }

    fn launch(&mut self, start: Option<&OwnedFd>, mask: SigSet) -> Result<Born, Refusal> {
        let extra = Extra {
            start,
            preserve: Some(self.options.preserve_fds),
            mask,
            die_with_parent: false,
            entering: false,
            init: None,
        };
        // Recorded before it leaves the node's file systems: were denovo
        // killed after that, the process would be nobody's where there are
        // no groups to find it in.
        let named = std::cell::Cell::new(None);
        let place = |pid| {
            named.set(ProcessName::of(pid));
            named.get().map_or(Ok(()), |init| self.store.save_init(&self.record.id, init))
        };
        let born = match launch_placed(&self.plan, &self.doors, &extra, &place) {
            Ok(born) => born,
            Err(NotLaunched::Failed(f)) => return Err(self.refuse(&f)),
            Err(NotLaunched::NotPlaced(problem)) => return Err(problem.into()),
        };
        self.record.init = named.get();
        self.pid = Some(born.pid);
        Ok(born)
    }

    fn refuse(&self, f: &crate::kernel::launch::Failure) -> Refusal {
        Refusal {
            problems: vec![failure::explain(&self.plan, f)],
            code: failure::exit_code(&self.plan, f),
        }
    }

    /// Answers the child until it is created, or executed.
    fn attend(&self, born: &Born) -> Result<Option<OwnedFd>, Refusal> {
        let mut terminal = None;
        loop {
            match born.next().map_err(|f| self.refuse(&f))? {
                Heard::Closed | Heard::Created => return Ok(terminal),
                Heard::Terminal(master) => match &self.options.console_socket {
                    Some(path) => send_terminal(path, &master)?,
                    None => terminal = Some(master),
                },
                Heard::RunHooks => {
                    for hook in self.hooks.prestart.iter().chain(&self.hooks.create_runtime) {
                        self.run_hook(hook)?;
                    }
                    self.say(&born.channel, Word::Go)?;
                }
                Heard::WantState => {
                    let text = self.state_text(Status::Creating)?;
                    born.channel
                        .say_text(&text)
                        .map_err(|e| Problem::kernel(format!("send: {}", e.desc())))?;
                }
                Heard::Born(_) | Heard::Note(_) => {}
                Heard::Failed { .. } => unreachable!("Born::next turns it into an error"),
            }
        }
    }

    fn say(&self, channel: &Channel, word: Word) -> Result<(), Problem> {
        channel.say(word).map_err(|e| Problem::kernel(format!("send: {}", e.desc())))
    }

    fn state_text(&self, status: Status) -> Result<Vec<u8>, Problem> {
        serde_json::to_vec(&self.record.state(status)).map_err(|e| Problem::ours(e.to_string()))
    }

    fn run_hook(&self, hook: &Hook) -> Result<(), Problem> {
        let text = self.state_text(Status::Creating)?;
        hook::run_one(hook, &text).map_err(|e| {
            Problem::user(e.to_string()).hint("the container is not created when a hook fails")
        })
    }

    /// The container stands: its pid file, and a record without a keeper
    /// unless this process stays to wait.
    fn finish(mut self, born: &Born) -> Result<Record, Refusal> {
        if let Some(path) = &self.options.pid_file {
            write_pid_file(path, born.pid)?;
        }
        if self.options.detach {
            self.record.keeper = None;
            self.store.save(&self.record)?;
        }
        self.done = true;
        Ok(self.record.clone())
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(pid) = self.pid {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(pid, None);
        }
        // The first error is what the caller hears; gc tries the rest again.
        let _ = super::groups::end(&self.plan.cgroup);
        let _ = self.store.forget(&self.record.id);
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

/// A plan of nothing but entering and executing.
fn process_plan(process: Option<&Process>, join: Vec<plan::inside::Join>, record: &Record) -> Plan {
    let inside =
        process.map_or_else(Vec::new, |p| vec![plan::inside::Inside::Exec(p.args[0].clone())]);
    Plan {
        cgroup: record.cgroup.clone(),
        launch: plan::Launch::joining(join),
        inside,
        program: process.map(build::program),
        seccomp: None,
        hooks: crate::policy::spec::Hooks::default(),
    }
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

fn save_filter(store: &Store, id: &str, program: &[u8]) -> Result<(), Problem> {
    let path = store.directory(id).join("seccomp.bpf");
    fs::write(&path, program).map_err(|e| Problem::site(format!("{}: {e}", path.display())))
}

fn write_pid_file(path: &Path, pid: i32) -> Result<(), Problem> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .map_err(|e| Problem::user(format!("--pid-file {}: {e}", path.display())))
}

/// A listening socket of whose connections only the owner of the directory
/// makes any.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(path: &Path) -> Result<OwnedFd, Problem> {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, bind, listen, socket};
    let make = || -> nix::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let (address, _dir) = address(path)?;
        bind(fd.as_raw_fd(), &address)?;
        listen(&fd, Backlog::new(128)?)?;
        Ok(fd)
    };
    make().map_err(|e| Problem::site(format!("{}: cannot be made: {}", path.display(), e.desc())))
}

/// # Errors
/// Nobody listens there.
pub fn connect(path: &Path) -> Result<OwnedFd, Problem> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, connect, socket};
    let make = || -> nix::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let (address, _dir) = address(path)?;
        connect(fd.as_raw_fd(), &address)?;
        Ok(fd)
    };
    make().map_err(|e| Problem::user(format!("{}: {}", path.display(), e.desc())))
}

/// A socket's address holds at most 107 bytes (unix(7)); a longer path is
/// named through a descriptor of its directory.
fn address(path: &Path) -> nix::Result<(nix::sys::socket::UnixAddr, Option<OwnedFd>)> {
    use nix::fcntl::{OFlag, open};
    use nix::sys::socket::UnixAddr;
    if let Ok(address) = UnixAddr::new(path) {
        return Ok((address, None));
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let fd = open(
        dir,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .join(path.file_name().unwrap_or_default());
    Ok((UnixAddr::new(&short)?, Some(fd)))
}

/// Hands the terminal to whoever listens on `--console-socket`.
fn send_terminal(path: &Path, master: &OwnedFd) -> Result<(), Problem> {
    use nix::sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, connect, sendmsg, socket,
    };
    let make = || -> nix::Result<()> {
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let (address, _dir) = address(path)?;
        connect(fd.as_raw_fd(), &address)?;
        let fds = [master.as_raw_fd()];
        let name = b"/dev/ptmx";
        let iov = [std::io::IoSlice::new(name)];
        sendmsg::<()>(
            fd.as_raw_fd(),
            &iov,
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    };
    make().map_err(|e| {
        Problem::user(format!("--console-socket {}: {}", path.display(), e.desc()))
            .hint("it must be a socket on which somebody listens for the terminal")
    })
}

/// What `exec` is told.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    pub process: Process,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub preserve_fds: u32,
    pub detach: bool,
}

/// `exec`: one more process in a running container.
///
/// # Errors
/// The container does not run, or the process cannot be started.
pub fn exec(store: &Store, id: &str, options: &ExecOptions) -> Result<i32, Refusal> {
    let record = store.load(id)?;
    let status = store.status(&record);
    let init = match (status, record.init) {
        (Status::Running | Status::Created, Some(init)) => init,
        _ => {
            return Err(Problem::user(format!(
                "container {id:?} is {}, so nothing can be executed in it",
                status.name()
            ))
            .into());
        }
    };
    let signals =
        Signals::hold().map_err(|e| Problem::kernel(format!("signalfd: {}", e.desc())))?;
    let (joins, _held) = namespaces_of(init)?;
    let mut plan = process_plan(Some(&options.process), joins, &record);
    plan.seccomp =
        fs::read(store.directory(id).join("seccomp.bpf")).ok().map(|program| (program, 0));
    plan.inside = exec_steps(&options.process, plan.seccomp.is_some());
    let doors = cgroup::open_doors(&record.cgroup, None).map_err(Problem::from)?;
    let extra = Extra {
        start: None,
        preserve: Some(options.preserve_fds),
        mask: SigSet::empty(),
        die_with_parent: false,
        entering: true,
        init: None,
    };
    let refuse = |f: &crate::kernel::launch::Failure| Refusal {
        problems: vec![failure::explain(&plan, f)],
        code: failure::exit_code(&plan, f),
    };
    let born = launch(&plan, &doors, &extra).map_err(|f| refuse(&f))?;
    let mut terminal = None;
    loop {
        match born.next() {
            Err(f) => {
                let _ = super::proxy::exit_code(born.pid);
                return Err(refuse(&f));
            }
            Ok(Heard::Terminal(master)) => match &options.console_socket {
                Some(path) => send_terminal(path, &master)?,
                None => terminal = Some(master),
            },
            Ok(Heard::Closed) => break,
            Ok(_) => {}
        }
    }
    if let Some(path) = &options.pid_file {
        write_pid_file(path, born.pid)?;
    }
    if options.detach {
        return Ok(0);
    }
    let relay = terminal.map(Relay::new);
    Ok(Proxy { pid: born.pid, pidfd: &born.pidfd, relay, signals: &signals, shares_group: false }
        .wait())
}

fn exec_steps(process: &Process, filtered: bool) -> Vec<plan::inside::Inside> {
    use plan::inside::Inside;
    let filter = filtered.then(|| crate::policy::spec::Seccomp {
        program: Vec::new(),
        flags: 0,
        summary: String::new(),
    });
    let mut steps = vec![Inside::EnterGroups, Inside::NewSession];
    if process.terminal {
        let (rows, columns) = process.console_size.unwrap_or((0, 0));
        steps.push(Inside::Console { rows, columns });
    }
    steps.extend(build::entering(process, filter.as_ref()));
    steps
}

/// The namespaces of a process that are not ours, as paths to descriptors
/// held open here: nothing can be swapped in between.
fn namespaces_of(init: ProcessName) -> Result<(Vec<plan::inside::Join>, Vec<OwnedFd>), Problem> {
    use crate::policy::spec::Kind;
    use nix::fcntl::{OFlag, open};
    let kinds = [
        (Kind::User, "user"),
        (Kind::Cgroup, "cgroup"),
        (Kind::Ipc, "ipc"),
        (Kind::Uts, "uts"),
        (Kind::Net, "net"),
        (Kind::Pid, "pid"),
        (Kind::Time, "time"),
        (Kind::Mount, "mnt"),
    ];
    let mut joins = Vec::new();
    let mut held = Vec::new();
    for (kind, name) in kinds {
        let theirs = format!("/proc/{}/ns/{name}", init.pid);
        let own = fs::read_link(format!("/proc/self/ns/{name}")).ok();
        match fs::read_link(&theirs) {
            Err(_) if own.is_none() => continue,
            Ok(link) if Some(&link) == own.as_ref() => continue,
            _ => {}
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = open(&theirs[..], flags, nix::sys::stat::Mode::empty())
            .map_err(|e| Problem::kernel(format!("{theirs}: {}", e.desc())))?;
        let path = CText::lossy(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        joins.push(plan::inside::Join { kind, path });
        held.push(fd);
    }
    if !init.alive() {
        return Err(Problem::user("the container has just ended"));
    }
    Ok((joins, held))
}
