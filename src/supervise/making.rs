//! A container on its way: claimed, grouped, cloned, recorded; taken back when
//! anything fails.

use super::container::{Ready, Refusal, StartOptions};
use super::sockets::{listen, send_terminal};
use crate::kernel::cgroup::Doors;
use crate::kernel::channel::{Channel, Heard, Word};
use crate::kernel::launch::{Born, Extra, NotLaunched, launch_placed};
use crate::kernel::{failure, hook};
use crate::plan::Plan;
use crate::plan::cgroup::CgroupPlan;
use crate::policy::spec::Hook;
use crate::problem::Problem;
use crate::record::container::{Record, Status, Store};
use crate::record::process::ProcessName;
use nix::sys::signal::SigSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A container on its way; whatever fails takes it all back.
pub struct Making<'a> {
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
    pub fn claim(
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
            seccomp: spec.seccomp.as_ref().map(|filter| filter.flags),
        };
        let mut making = Self {
            store,
            options,
            record,
            plan,
            hooks: spec.hooks,
            doors: Doors::default(),
            pid: None,
            done: false,
        };
        store.save_first(&making.record)?;
        if let Some((program, _)) = &making.plan.seccomp {
            store.save_filter(id, program)?;
        }
        making.doors = super::groups::enter(&mut making.plan.cgroup).inspect_err(|_| {
            // None is left of ours; one that is there is somebody else's.
            making.plan.cgroup = CgroupPlan::default();
        })?;
        Ok(making)
    }

    pub fn listen(&self) -> Result<OwnedFd, Refusal> {
        listen(&self.store.start_socket(&self.record.id)).map_err(Refusal::from)
    }

    pub fn launch(&mut self, start: Option<&OwnedFd>, mask: SigSet) -> Result<Born, Refusal> {
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
    pub fn attend(&self, born: &Born) -> Result<Option<OwnedFd>, Refusal> {
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
    pub fn finish(mut self, born: &Born) -> Result<Record, Refusal> {
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

pub fn write_pid_file(path: &Path, pid: i32) -> Result<(), Problem> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .map_err(|e| Problem::user(format!("--pid-file {}: {e}", path.display())))
}
