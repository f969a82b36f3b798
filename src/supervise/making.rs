//! A container on its way: claimed, grouped, cloned, recorded; taken back when
//! anything fails.

use super::container::{Ready, Refusal, StartOptions};
use super::interrupt::Interrupts;
use super::listener::Agent;
use super::sockets::{listen, send_pidfd, send_terminal};
use crate::kernel::cgroup::Doors;
use crate::kernel::channel::{Channel, Heard, Word};
use crate::kernel::launch::{Born, Extra, NotLaunched, launch_placed};
use crate::kernel::net_device::{self, Moved};
use crate::kernel::timings::{self, Stage};
use crate::kernel::{failure, hook};
use crate::plan::Plan;
use crate::plan::cgroup::CgroupPlan;
use crate::plan::inside::Inside;
use crate::policy::spec::{Hook, NetDevice, Root};
use crate::problem::Problem;
use crate::record::container::{Record, Status, Store};
use crate::record::process::ProcessName;
use nix::sys::signal::SigSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
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
    /// Whether the process is to wait for `start`.
    waits: bool,
    /// Answers calls for the container.
    agent: Option<Agent>,
    net_devices: Vec<NetDevice>,
    moved: Moved,
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
        let Ready { spec, plan, bundle } = ready;
        let listener = spec.seccomp.as_ref().and_then(|filter| filter.listener.clone());
        let agent = listener.as_ref().map(Agent::connect).transpose()?;
        let uid = nix::unistd::geteuid().as_raw();
        store.claim(id, uid)?;
        let record = Record {
            id: id.to_owned(),
            bundle: bundle.dir.clone(),
            rootfs: match &spec.root {
                Root::Directory { path, .. } => path.as_path().to_owned(),
                Root::Overlay { .. } | Root::Empty { .. } => std::path::PathBuf::new(),
            },
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
            listener,
        };
        let mut making = Self {
            store,
            options,
            record,
            plan,
            hooks: spec.hooks,
            doors: Doors::default(),
            pid: None,
            waits: false,
            agent,
            net_devices: spec.net_devices,
            moved: Moved::default(),
            done: false,
        };
        store.save_first(&making.record)?;
        if let Some((program, _)) = &making.plan.seccomp {
            store.save_filter(id, program)?;
        }
        timings::done(Stage::Record);
        making.doors = super::groups::enter(&mut making.plan.cgroup).inspect_err(|_| {
            // None is left of ours; one that is there is somebody else's.
            making.plan.cgroup = CgroupPlan::default();
        })?;
        timings::done(Stage::Groups);
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
            devices: None,
            views: None,
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
        self.waits = start.is_some();
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
    pub fn attend(
        &mut self,
        born: &Born,
        interrupts: &Interrupts,
    ) -> Result<Option<OwnedFd>, Refusal> {
        let mut terminal = None;
        loop {
            interrupts.wait(born.channel.as_owned().as_fd())?;
            match born.next().map_err(|f| self.refuse(&f))? {
                // One that is to wait says so first; one that is executed just goes.
                Heard::Closed if self.waits => return Err(self.died().into()),
                Heard::Closed | Heard::Created => {
                    timings::done(Stage::Inside);
                    return Ok(terminal);
                }
                Heard::Terminal(master) => match &self.options.console_socket {
                    Some(path) => send_terminal(path, &master)?,
                    None => terminal = Some(master),
                },
                Heard::Listener(fd) => {
                    if let Some(agent) = &self.agent {
                        agent.hand_over(&fd, born.pid, self.record.state(Status::Creating))?;
                    }
                }
                Heard::WantDevices => {
                    self.moved = net_device::move_in(&self.net_devices, born.pid)?;
                    self.say(&born.channel, Word::Go)?;
                }
                Heard::RunHooks => {
                    for hook in self.hooks.prestart.iter().chain(&self.hooks.create_runtime) {
                        self.run_hook(hook, interrupts)?;
                    }
                    self.say(&born.channel, Word::Go)?;
                }
                Heard::WantState => {
                    let text = self.state_text()?;
                    born.channel
                        .say_text(&text)
                        .map_err(|e| Problem::kernel(format!("send: {}", e.desc())))?;
                }
                Heard::Born(_) | Heard::Note(_) => {}
                Heard::Failed { .. } => unreachable!("Born::next turns it into an error"),
            }
        }
    }

    fn died(&self) -> Problem {
        super::groups::out_of_memory(&self.plan.cgroup).unwrap_or_else(|| {
            Problem::kernel("the container's first process was killed before it was created")
                .hint("somebody sent it a signal, or the node ran out of memory: see dmesg")
        })
    }

    fn say(&self, channel: &Channel, word: Word) -> Result<(), Problem> {
        channel.say(word).map_err(|e| Problem::kernel(format!("send: {}", e.desc())))
    }

    /// For the hooks before `start`: they come after step 2 of the runtime-spec's
    /// lifecycle, from where on a container is `created`.
    fn state_text(&self) -> Result<Vec<u8>, Problem> {
        let state = self.record.state(Status::Created);
        serde_json::to_vec(&state).map_err(|e| Problem::ours(e.to_string()))
    }

    fn run_hook(&self, hook: &Hook, interrupts: &Interrupts) -> Result<(), Refusal> {
        let text = self.state_text()?;
        hook::run_one(hook, &text, Some(interrupts.as_fd())).map_err(|e| {
            // Its own error, and the exit code that goes with it.
            interrupts.check().err().unwrap_or_else(|| {
                let problem = Problem::user(e.to_string());
                problem.hint("the container is not created when a hook fails").into()
            })
        })
    }

    /// The container stands: its pid file, and a record without a keeper
    /// unless this process stays to wait. With the record come the steps taken.
    pub fn finish(mut self, born: &Born) -> Result<(Record, Vec<Inside>), Refusal> {
        if let Some(path) = &self.options.pid_file {
            write_pid_file(path, born.pid)?;
        }
        if let Some(path) = &self.options.pidfd_socket {
            send_pidfd(path, &born.pidfd)?;
        }
        if self.options.detach {
            self.record.keeper = None;
            self.store.save(&self.record)?;
        }
        std::mem::take(&mut self.moved).kept();
        self.done = true;
        timings::done(Stage::Finish);
        Ok((self.record.clone(), std::mem::take(&mut self.plan.inside)))
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Back before the namespace that they are in ends.
        drop(std::mem::take(&mut self.moved));
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
    fs::write(&new, pid.to_string()).and_then(|()| fs::rename(&new, path)).map_err(|e| {
        Problem::user(format!("--pid-file {}: {e}", path.display()))
            .hint("its directory must exist, and the caller must be able to write there")
    })
}
