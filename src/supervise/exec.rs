//! `exec`: one more process in a running container.

use super::container::Refusal;
use super::interrupt::Interrupts;
use super::listener::Agent;
use super::making::write_pid_file;
use super::proxy::{Proxy, Signals};
use super::sockets::{send_pidfd, send_terminal};
use super::terminal::Relay;
use crate::kernel::cgroup;
use crate::kernel::channel::Heard;
use crate::kernel::failure;
use crate::kernel::launch::{Extra, launch};
use crate::kernel::sys;
use crate::kernel::timings::{self, Stage};
use crate::plan::build::{self};
use crate::plan::cgroup::CgroupPlan;
use crate::plan::{self, Plan};
use crate::policy::spec::Process;
use crate::policy::text::CText;
use crate::problem::Problem;
use crate::record::container::{Record, Status, Store};
use crate::record::process::ProcessName;
use nix::sys::signal::SigSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// What `exec` is told.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    pub process: Process,
    pub pid_file: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub preserve_fds: u32,
    pub detach: bool,
    /// Also into a paused container, where it waits for the resume.
    pub ignore_paused: bool,
    /// Groups below the container's, each with or without the controllers
    /// that it is for.
    pub cgroup: Vec<String>,
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
        (Status::Paused, Some(init)) if options.ignore_paused => init,
        _ => return Err(not_now(id, status).into()),
    };
    let signals =
        Signals::hold().map_err(|e| Problem::kernel(format!("signalfd: {}", e.desc())))?;
    let (joins, mut held) = namespaces_of(init)?;
    let mut process = options.process.clone();
    if let Some(own) = &record.process {
        process.attributes = process.attributes.or(&own.attributes);
    }
    let agent = record.listener.as_ref().map(Agent::connect).transpose()?;
    let root = root_of(init, &joins)?;
    let mut plan = process_plan(Some(&process), joins, &record);
    plan.launch.cpus = process.attributes.cpus_before.clone();
    plan.seccomp = store.load_filter(&record)?;
    plan.inside = exec_steps(&process, plan.seccomp.is_some());
    if let Some((path, root)) = root {
        plan.inside.insert(1, plan::inside::Inside::RootOf(path));
        held.push(root);
    }
    let groups = below(&record.cgroup, &options.cgroup)?;
    let doors = cgroup::open_doors(&groups, None).map_err(Problem::from)?;
    let extra = Extra {
        start: None,
        preserve: Some(options.preserve_fds),
        mask: SigSet::empty(),
        die_with_parent: false,
        entering: true,
        devices: None,
        views: None,
        init: None,
    };
    let refuse = |f: &crate::kernel::launch::Failure| Refusal {
        problems: vec![failure::explain(&plan, f)],
        code: failure::exit_code(&plan, f),
    };
    timings::done(Stage::Plan);
    let interrupts = Interrupts::hold()?;
    if status == Status::Paused {
        // Born into a frozen group of v2, it could not even be talked to.
        await_resume(&record, &interrupts)?;
    }
    let born = launch(&plan, &doors, &extra).map_err(|f| refuse(&f))?;
    let mut terminal = None;
    loop {
        // It can take long, where it is paused meanwhile.
        interrupts.wait(born.channel.as_owned().as_fd()).inspect_err(|_| {
            let _ = crate::kernel::sys::pidfd_send_signal(born.pidfd.as_fd(), libc::SIGKILL);
        })?;
        match born.next() {
            Err(f) => {
                let _ = super::proxy::exit_code(born.pid);
                return Err(refuse(&f));
            }
            Ok(Heard::Terminal(master)) => match &options.console_socket {
                Some(path) => send_terminal(path, &master)?,
                None => terminal = Some(master),
            },
            Ok(Heard::Listener(fd)) => {
                let told = agent.as_ref().map(|a| a.hand_over(&fd, born.pid, record.state(status)));
                if let Some(Err(problem)) = told {
                    let _ = sys::pidfd_send_signal(born.pidfd.as_fd(), libc::SIGKILL);
                    let _ = super::proxy::exit_code(born.pid);
                    return Err(problem.into());
                }
            }
            Ok(Heard::Closed) => break,
            Ok(_) => {}
        }
    }
    timings::done(Stage::Inside);
    drop(interrupts);
    if let Some(path) = &options.pid_file {
        write_pid_file(path, born.pid)?;
    }
    if let Some(path) = &options.pidfd_socket {
        send_pidfd(path, &born.pidfd)?;
    }
    timings::done(Stage::Finish);
    timings::report("exec", &plan.inside);
    if options.detach {
        return Ok(0);
    }
    let relay = terminal.map(Relay::new);
    Ok(Proxy { pid: born.pid, pidfd: &born.pidfd, relay, signals: &signals, shares_group: false }
        .wait())
}

/// The groups that `--cgroup [CONTROLLER,…:]PATH` names, below the
/// container's own.
fn below(own: &CgroupPlan, asked: &[String]) -> Result<CgroupPlan, Problem> {
    let mut groups = own.clone();
    for text in asked {
        let (controllers, path) = match text.split_once(':') {
            Some((controllers, path)) => (Some(controllers), path),
            None => (None, &text[..]),
        };
        let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        let wrong = |reason: &str| {
            Problem::user(format!("--cgroup {text:?}: {reason}"))
                .hint("such as --cgroup part, or --cgroup memory:part, for a group that is there")
        };
        if names.contains(&"..") {
            return Err(wrong("goes up with \"..\""));
        }
        for name in controllers.iter().flat_map(|list| list.split(',')) {
            if !own.groups.iter().any(|g| g.controllers.iter().any(|c| c == name)) {
                return Err(wrong(&format!("the container has no group with `{name}`")));
            }
        }
        for group in &mut groups.groups {
            let named = |name: &str| group.controllers.iter().any(|c| c == name);
            if controllers.is_none_or(|list| list.split(',').any(named)) {
                for name in &names {
                    group.at.path = format!("{}/{name}", group.at.path);
                }
                if !group.at.dir().is_dir() {
                    return Err(wrong(&format!("there is no control group {}", group.at)));
                }
            }
        }
    }
    Ok(groups)
}

/// Waits until a paused container goes on.
fn await_resume(record: &Record, interrupts: &Interrupts) -> Result<(), Refusal> {
    while cgroup::frozen(&record.cgroup).map_err(Problem::from)? {
        if !record.init.is_some_and(|init| init.alive()) {
            return Err(not_now(&record.id, Status::Stopped).into());
        }
        // The freezer of v1 tells nobody when it thaws.
        interrupts.rest(Duration::from_millis(20))?;
    }
    Ok(())
}

fn not_now(id: &str, status: Status) -> Problem {
    let what = format!("container {id:?} is {}, so nothing can be executed in it", status.name());
    Problem::user(what).hint(match status {
        Status::Paused => {
            format!(
                "denovo resume {id} lets it go on; with --ignore-paused the process waits for that"
            )
        }
        Status::Creating => "wait until its create has come back".into(),
        _ => format!("denovo delete {id} removes what is left of it"),
    })
}

fn exec_steps(process: &Process, filtered: bool) -> Vec<plan::inside::Inside> {
    use plan::inside::Inside;
    let filter = filtered.then(|| crate::policy::spec::Seccomp {
        program: Vec::new(),
        flags: 0,
        summary: String::new(),
        listener: None,
    });
    let mut steps = vec![Inside::EnterGroups];
    steps.extend(process.attributes.cpus.clone().map(Inside::Affinity));
    steps.push(Inside::NewSession);
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

/// The root of a process that has our mount namespace, which therefore does
/// not bring its root along (docs/decisions/0032), as `namespaces_of`.
fn root_of(
    init: ProcessName,
    joins: &[plan::inside::Join],
) -> Result<Option<(CText, OwnedFd)>, Problem> {
    if joins.iter().any(|join| join.kind == crate::policy::spec::Kind::Mount) {
        return Ok(None);
    }
    let theirs = format!("/proc/{}/root", init.pid);
    let root = crate::kernel::inside::open_path(&CText::lossy(theirs.as_str()))
        .map_err(|fault| Problem::kernel(format!("{theirs}: {}", fault.errno.desc())))?;
    if !init.alive() {
        return Err(Problem::user("the container has just ended"));
    }
    Ok(Some((CText::lossy(format!("/proc/self/fd/{}", root.as_raw_fd())), root)))
}

/// A plan of nothing but entering and executing.
pub fn process_plan(
    process: Option<&Process>,
    join: Vec<plan::inside::Join>,
    record: &Record,
) -> Plan {
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
