//! Carries out the steps inside, in the child of the clone.
//!
//! Nothing here allocates on the way: the child is a fork of a process whose
//! plan is complete, and reports a failure as step, errno and call.

mod attributes;
mod become_process;
mod copy_up;
mod devices;
mod hooks;
mod links;
pub mod older;
mod place;
mod root;
mod seal;
mod views;

pub use devices::devices_of_root;
pub use views::{Views, device as fuse_device, usable as fuse_usable};

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::channel::{Channel, Word};
use super::{files, sys, timings};
use crate::plan::inside::Inside;
use crate::policy::spec::Hook;
use crate::policy::text::CText;

pub use become_process::affinity;
pub use place::{bind_attributes, write_fd_path};

/// A system call that failed: which, and how.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub call: &'static str,
    pub errno: Errno,
}

/// Names the call of a failed result.
pub trait Named<T> {
    /// # Errors
    /// The errno of `self` with the name of the call.
    fn named(self, call: &'static str) -> Result<T, Fault>;
}

impl<T> Named<T> for Result<T, Errno> {
    fn named(self, call: &'static str) -> Result<T, Fault> {
        self.map_err(|errno| Fault { call, errno })
    }
}

/// What a process is executed with, in the form that execve(2) takes.
pub struct Executable<'a> {
    pub candidates: &'a [CText],
    pub argv: sys::PointerList,
    pub envp: sys::PointerList,
}

/// What the child brings along from its parent's preparations.
pub struct Child<'a> {
    pub channel: &'a Channel,
    pub v1_doors: &'a [OwnedFd],
    pub executable: Option<&'a Executable<'a>>,
    pub seccomp: Option<(&'a [u8], u32)>,
    /// Listening socket that `start` connects to.
    pub start: Option<&'a OwnedFd>,
    /// Descriptors from 3 on that the process inherits (`--preserve-fds`);
    /// `None`: all that the caller left open across exec.
    pub preserve: Option<u32>,
    /// Signals that the process has blocked when it starts.
    pub mask: nix::sys::signal::SigSet,
    /// The process is killed when the one that waits for it dies.
    pub die_with_parent: bool,
    /// What the caller could open; see [`Inside::OpenOutside`].
    outside: Vec<(CText, OwnedFd)>,
    /// The node's /proc, where a label is to be written.
    pub proc: Option<&'a OwnedFd>,
    /// The runtime's mount namespace, where the process is to share it.
    pub mounts: Option<&'a OwnedFd>,
    /// See [`super::id_mapped`].
    pub mapped: &'a [(usize, OwnedFd)],
    /// Index of the step that is being taken.
    step: usize,
    root: Option<OwnedFd>,
    /// Holds the upper layers of overlays, outside the root.
    base: Option<OwnedFd>,
    layers: u32,
    /// Whether the environment runs already and this process only enters it.
    pub entering: bool,
    null: Option<OwnedFd>,
    /// What a [`Fixture::Devices`] of the plan is.
    pub devices_made: Option<&'a OwnedFd>,
    /// Who answers for the job's own view of the machine.
    pub views: Option<&'a Views>,
    /// Where that is mounted.
    viewed: Option<OwnedFd>,
    /// The directory of the device made last, as long as devices follow.
    devices: Option<(root::Buffer, OwnedFd)>,
    found: usize,
    released: bool,
    starter: Option<OwnedFd>,
}

impl<'a> Child<'a> {
    pub fn new(channel: &'a Channel, v1_doors: &'a [OwnedFd]) -> Self {
        Self {
            channel,
            v1_doors,
            executable: None,
            seccomp: None,
            start: None,
            preserve: None,
            mask: nix::sys::signal::SigSet::empty(),
            die_with_parent: false,
            outside: Vec::new(),
            proc: None,
            mounts: None,
            mapped: &[],
            step: 0,
            root: None,
            base: None,
            layers: 0,
            entering: false,
            null: None,
            devices_made: None,
            views: None,
            viewed: None,
            devices: None,
            found: 0,
            released: false,
            starter: None,
        }
    }

    /// Takes every step; comes back only when the last one is
    /// [`Inside::Init`], or with the index of the one that failed.
    ///
    /// # Errors
    /// The step's index and the call that failed.
    pub fn carry_out(&mut self, steps: &[Inside]) -> Result<(), (usize, Fault)> {
        for (index, step) in steps.iter().enumerate() {
            if is_barrier(step) {
                self.wait_released().map_err(|fault| (index, fault))?;
            }
            self.step = index;
            self.take(step).map_err(|fault| (index, fault))?;
            timings::taken(index);
        }
        Ok(())
    }

    /// Waits until the parent has recorded this process; a parent that died
    /// instead closes the channel.
    ///
    /// # Errors
    /// `EPIPE` when the parent is gone.
    pub fn wait_released(&mut self) -> Result<(), Fault> {
        if !self.released {
            self.channel.expect(Word::Go).named("wait for the parent")?;
            timings::waited();
            self.released = true;
        }
        Ok(())
    }

    fn take(&mut self, step: &Inside) -> Result<(), Fault> {
        if !matches!(step, Inside::MakeDevice(_)) {
            self.devices = None;
        }
        match step {
            Inside::EnterGroups => self.enter_groups(),
            Inside::NewCgroupNamespace => unshare(libc::CLONE_NEWCGROUP),
            Inside::NewClocks(clocks) => super::clocks::unshare(clocks),
            Inside::OpenOutside(paths) => {
                self.open_outside(paths);
                Ok(())
            }
            Inside::BecomeSetupUser { uid, gid } => become_process::setup_user(*uid, *gid),
            Inside::NewSession => become_process::new_session(),
            Inside::NewKeyring(name) => become_process::new_keyring(name),
            Inside::Detach(flags) => {
                sys::mount(None, c"/", None, *flags, None).named("mount propagation of /")
            }
            Inside::RootDirectory { path } => self.root_directory(path),
            Inside::RootOverlay { lower, handed, writes, anchor, own, points } => {
                self.root_overlay((lower, *handed), (writes, anchor), own, points)
            }
            Inside::RootEmpty { writes, anchor } => self.root_empty(writes, anchor),
            Inside::Put(fixture) => self.put(fixture),
            Inside::MakeDevice(device) => self.make_device(device),
            Inside::BindDevice(device) => self.bind_device(device),
            Inside::DeviceLinks => self.device_links(),
            Inside::Console { rows, columns } => self.console(*rows, *columns),
            Inside::NetDevices(_) => self.net_devices(),
            Inside::RuntimeHooks => self.runtime_hooks(),
            Inside::ContainerHooks(list) => hooks::run(self.channel, list),
            Inside::StartHooks(list) => self.start_hooks(list),
            Inside::EnterNetwork => self.enter_network(),
            Inside::Loopback => become_process::loopback(),
            Inside::Hostname(name) => nix::unistd::sethostname(name.as_path()).named("sethostname"),
            Inside::Domainname(name) => become_process::domainname(name),
            Inside::Sysctl { path, value } => seal::sysctl(path, value),
            Inside::ReadonlyPath(path) => self.readonly_path(path),
            Inside::MaskedPath(path) => self.masked_path(path),
            Inside::ReadonlyMount(path) => self.readonly_mount(path),
            Inside::ReadonlyRoot => self.readonly_root(),
            Inside::PivotRoot => self.pivot_root(),
            Inside::Chroot => self.chroot(),
            Inside::SharedMounts => self.shared_mounts(),
            Inside::RootOf(path) => root::enter(&open_path(path)?),
            Inside::RootPropagation(flags) => {
                sys::mount(None, c"/", None, *flags, None).named("mount propagation of the root")
            }
            Inside::OomScore(score) => seal::oom_score(*score),
            Inside::Rlimit(limit) => {
                sys::setrlimit(limit.resource, limit.soft, limit.hard).named("setrlimit")
            }
            Inside::Affinity(cpus) => become_process::affinity(cpus),
            Inside::Umask(mask) => become_process::umask(*mask),
            Inside::Personality(number) => sys::personality(*number).named("personality"),
            Inside::MemoryPolicy(policy) => {
                sys::set_mempolicy(policy.mode, &policy.nodes).named("set_mempolicy")
            }
            Inside::IoPriority(value) => sys::ioprio_set(*value).named("ioprio_set"),
            Inside::Scheduler(wanted) => sys::sched_setattr(wanted).named("sched_setattr"),
            Inside::Label { lsm, label } => {
                let proc = self.proc.ok_or(Fault { call: "/proc", errno: Errno::EBADF })?;
                seal::label(proc.as_fd(), *lsm, label)
            }
            Inside::NoNewPrivileges => {
                sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).named("prctl(NO_NEW_PRIVS)").map(drop)
            }
            Inside::Become { user, capabilities } => {
                become_process::become_user(user, capabilities.as_ref())
            }
            Inside::Seccomp => {
                // A profile need not allow what only a runtime calls.
                self.close_at_exec()?;
                let (program, flags) = self.seccomp.unwrap_or((&[], 0));
                match sys::seccomp(program, flags).named("seccomp")? {
                    Some(listener) => {
                        self.channel.say_listener(&listener).named("send of the seccomp listener")
                    }
                    None => Ok(()),
                }
            }
            Inside::WorkingDirectory(path) => become_process::working_directory(path),
            Inside::FirstDirectory(all) => become_process::first_directory(all),
            Inside::FindProgram => self.find_program(),
            Inside::AwaitStart => self.await_start(),
            Inside::Exec(_) => self.exec().map(|never| match never {}),
            Inside::Init => Ok(()),
        }
    }

    /// See [`Inside::EnterGroups`]: "0" is the writer itself.
    fn enter_groups(&self) -> Result<(), Fault> {
        for door in self.v1_doors {
            nix::unistd::write(door, b"0").named("write to the cgroup's tasks file")?;
        }
        Ok(())
    }

    /// What cannot be opened is left to the step that needs it, which says so.
    fn open_outside(&mut self, paths: &[CText]) {
        let opened = paths.iter().filter_map(|path| Some((path.clone(), open_path(path).ok()?)));
        self.outside.extend(opened);
    }

    fn take_outside(&mut self, path: &CText) -> Result<OwnedFd, Fault> {
        match self.outside.iter().position(|(opened, _)| opened == path) {
            Some(index) => Ok(self.outside.swap_remove(index).1),
            None => open_path(path),
        }
    }

    fn enter_network(&self) -> Result<(), Fault> {
        let network = self.channel.expect_network().named("wait for the network namespace")?;
        nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).named("setns")
    }

    pub(super) fn root(&self) -> Result<BorrowedFd<'_>, Fault> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Fault { call: "root", errno: Errno::EBADF })
    }

    /// The parent moves the devices in and answers when done.
    fn net_devices(&self) -> Result<(), Fault> {
        self.channel.say(Word::WantDevices).named("send")?;
        self.channel.expect(Word::Go).named("wait for the network devices")
    }

    /// The parent runs hooks in its own namespaces and answers when done.
    fn runtime_hooks(&self) -> Result<(), Fault> {
        self.channel.say(Word::RunHooks).named("send")?;
        self.channel.expect(Word::Go).named("wait for the runtime's hooks")
    }

    fn await_start(&mut self) -> Result<(), Fault> {
        let Some(listener) = self.start else {
            return Err(Fault { call: "start socket", errno: Errno::EBADF });
        };
        // It can wait for long, with descriptors of the node's, and others may
        // enter meanwhile (CVE-2016-9962, CVE-2019-5736).
        sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).named("prctl(DUMPABLE)")?;
        // A signal may end it while it waits; nobody takes it back any more.
        let _ = nix::sys::signal::sigprocmask(
            nix::sys::signal::SigmaskHow::SIG_SETMASK,
            Some(&self.mask),
            None,
        );
        self.channel.say(Word::Created).named("send")?;
        self.starter = Some(super::channel::accept(listener).named("accept a start")?);
        Ok(())
    }

    /// The state comes from whoever waits for the start: `create` is long
    /// gone when `start` has come.
    fn start_hooks(&self, list: &[Hook]) -> Result<(), Fault> {
        match &self.starter {
            None => hooks::run(self.channel, list),
            Some(fd) => {
                let fd = nix::unistd::dup(fd).named("dup")?;
                hooks::run(&Channel::from(fd), list)
            }
        }
    }

    /// The connection of the `start` that this process was released by.
    pub fn starter(&self) -> Option<&OwnedFd> {
        self.starter.as_ref()
    }

    /// Finds the program before `create` reports success, as callers expect
    /// its absence to be create's error.
    fn find_program(&mut self) -> Result<(), Fault> {
        let Some(executable) = self.executable else { return Ok(()) };
        let mut worst = Errno::ENOENT;
        for (index, candidate) in executable.candidates.iter().enumerate() {
            match become_process::executable(candidate) {
                Ok(()) => {
                    self.found = index;
                    return Ok(());
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => worst = errno,
            }
        }
        Err(Fault { call: "exec", errno: worst })
    }

    /// Marks what the process shall not inherit. Once is enough: what is opened
    /// later is opened so.
    fn close_at_exec(&mut self) -> Result<(), Fault> {
        match self.preserve.take() {
            Some(count) => match sys::cloexec_from(3 + count) {
                // Marked before the first step (see `older`); what has been
                // opened since closes by itself.
                Err(Errno::EINVAL) => Ok(()),
                result => result.named("close_range"),
            },
            None => Ok(()),
        }
    }

    fn exec(&mut self) -> Result<Infallible, Fault> {
        let Some(executable) = self.executable else {
            return Err(Fault { call: "exec", errno: Errno::EINVAL });
        };
        self.close_at_exec()?;
        if self.die_with_parent {
            // Set last: a change of ids clears it.
            sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)
                .named("prctl(PDEATHSIG)")?;
        }
        become_process::default_signals(&self.mask);
        let mut worst = Errno::ENOENT;
        for candidate in &executable.candidates[self.found..] {
            match sys::execve(candidate.as_c_str(), &executable.argv, &executable.envp) {
                Errno::ENOENT | Errno::ENOTDIR => {}
                errno => {
                    worst = errno;
                    if errno != Errno::EACCES {
                        break;
                    }
                }
            }
        }
        Err(Fault { call: "exec", errno: worst })
    }
}

/// Steps that must not be taken before the parent is ready: those that talk
/// to it, and those after which only this process's own end undoes them.
/// Everything before is private to the new namespaces, and is done while the
/// parent still writes its record.
fn is_barrier(step: &Inside) -> bool {
    matches!(
        step,
        Inside::NetDevices(_)
            | Inside::RuntimeHooks
            | Inside::ContainerHooks(_)
            | Inside::Console { .. }
            | Inside::PivotRoot
            | Inside::Chroot
            | Inside::AwaitStart
            | Inside::Exec(_)
            | Inside::Init
    )
}

fn unshare(flags: i32) -> Result<(), Fault> {
    nix::sched::unshare(nix::sched::CloneFlags::from_bits_retain(flags)).named("unshare")
}

/// An existing directory or file outside, without following it anywhere else.
pub fn open_path(path: &(impl AsRef<std::ffi::CStr> + ?Sized)) -> Result<OwnedFd, Fault> {
    use nix::fcntl::{OFlag, open};
    open(path.as_ref(), OFlag::O_PATH | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
        .named("open")
}
