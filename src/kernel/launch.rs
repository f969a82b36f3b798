//! From a plan to the first process: the clone, the maps, the first word.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::cgroup::Doors;
use super::channel::{Channel, Heard, STAGE, Word};
use super::inside::{Child, Executable, Fault, Named};
use super::sys::{self, Forked};
use super::timings::{self, Stage};
use crate::plan::inside::{Inside, Join};
use crate::plan::{Launch, Plan};
use crate::policy::spec::{IdMap, Kind};
use crate::problem::Problem;

/// What the child of the clone gets beside the plan.
pub struct Extra<'a> {
    /// Listening socket that `start` connects to.
    pub start: Option<&'a OwnedFd>,
    /// See [`Child::preserve`].
    pub preserve: Option<u32>,
    /// See [`Child::mask`].
    pub mask: nix::sys::signal::SigSet,
    /// See [`Child::die_with_parent`].
    pub die_with_parent: bool,
    /// See [`Child::entering`].
    pub entering: bool,
    /// See [`Child::devices_made`].
    pub devices: Option<&'a OwnedFd>,
    /// See [`Child::views`].
    pub views: Option<&'a super::inside::Views>,
    /// What the first process does once every step is taken, when the plan
    /// ends with an init of denovo's own.
    pub init: Option<&'a dyn Fn(&Channel) -> i32>,
}

/// The first process, waiting for nothing but its steps.
pub struct Born {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub channel: Channel,
}

/// Where and how a start failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Index into the plan's inside steps; `None`: before the first of them.
    pub step: Option<usize>,
    pub call: String,
    pub errno: Errno,
    /// What else is known, as a sentence.
    pub note: Option<String>,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { step: None, call: fault.call.to_owned(), errno: fault.errno, note: None }
    }
}

/// Why there is no first process.
#[derive(Debug)]
pub enum NotLaunched {
    Failed(Failure),
    /// It could not be put where it belongs before its first step.
    NotPlaced(Problem),
}

impl From<Fault> for NotLaunched {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault.into())
    }
}

impl From<Failure> for NotLaunched {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Makes the first process and lets it take its steps.
///
/// # Errors
/// What failed before the process could start on its steps; nothing of it is
/// left then. Later failures come over the channel, see [`Born::next`].
pub fn launch(plan: &Plan, doors: &Doors, extra: &Extra<'_>) -> Result<Born, Failure> {
    launch_placed(plan, doors, extra, &|_| Ok(())).map_err(|e| match e {
        NotLaunched::Failed(failure) => failure,
        NotLaunched::NotPlaced(problem) => Failure {
            step: None,
            call: "place".into(),
            errno: Errno::EIO,
            note: Some(problem.message),
        },
    })
}

/// [`launch`], with `place` done to the process's pid before its first step.
///
/// # Errors
/// As [`launch`], and what `place` says.
pub fn launch_placed(
    plan: &Plan,
    doors: &Doors,
    extra: &Extra<'_>,
    place: &dyn Fn(i32) -> Result<(), Problem>,
) -> Result<Born, NotLaunched> {
    if let Some(cpus) = &plan.launch.cpus {
        super::inside::affinity(cpus).map_err(|fault| Fault {
            call: "sched_setaffinity (process.execCPUAffinity.initial)",
            ..fault
        })?;
    }
    let held = Held {
        mapped: super::id_mapped::prepare(&plan.inside)?,
        proc: plan
            .inside
            .iter()
            .any(|step| matches!(step, Inside::Label { .. }))
            .then(super::procfs::root)
            .transpose()?,
        mounts: plan
            .inside
            .iter()
            .any(|step| matches!(step, Inside::SharedMounts))
            .then(|| own("mnt"))
            .transpose()?,
    };
    let (ours, theirs) = Channel::pair().named("socketpair")?;
    let executable = plan.program.as_ref().map(|program| Executable {
        candidates: &program.candidates,
        argv: sys::PointerList::new(&program.args),
        envp: sys::PointerList::new(&program.env),
    });
    let body =
        |channel: &Channel| run_child(plan, doors, extra, &held, executable.as_ref(), channel);
    let mut new = plan.launch.new;
    if plan.launch.network_aside {
        new &= !(libc::CLONE_NEWNET as u64);
    }
    let cgroup = doors.v2_dir.as_ref().map(AsFd::as_fd);
    if plan.launch.needs_stage() {
        return staged(plan, doors, (ours, theirs), &body, place);
    }
    match sys::clone3(new, cgroup).named("clone3")? {
        Forked::Child => {
            drop(ours);
            sys::exit_now(body(&theirs))
        }
        Forked::Parent(pid) => {
            drop(theirs);
            timings::done(Stage::Clone);
            adopt(&plan.launch, pid, ours, place)
        }
    }
}

/// Takes the child in: its maps, then the word to go.
fn adopt(
    launch: &Launch,
    pid: i32,
    channel: Channel,
    place: &dyn Fn(i32) -> Result<(), Problem>,
) -> Result<Born, NotLaunched> {
    let prepared = || -> Result<OwnedFd, NotLaunched> {
        let pidfd = sys::pidfd_open(pid).named("pidfd_open")?;
        if launch.new_user() {
            super::maps::write(pid, launch)?;
        }
        if launch.network_aside {
            match channel.say_network(&make_network()?) {
                Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => {}
                Err(errno) => return Err(Fault { call: "send", errno }.into()),
            }
        }
        place(pid).map_err(NotLaunched::NotPlaced)?;
        match channel.say(Word::Go) {
            // It failed already; why is still to be heard.
            Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(pidfd),
            Err(errno) => Err(Fault { call: "send", errno }.into()),
        }
    };
    match prepared() {
        Ok(pidfd) => {
            timings::done(Stage::Release);
            Ok(Born { pid, pidfd, channel })
        }
        Err(error) => {
            // Closing the channel ends the child, which still waits.
            drop(channel);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            Err(error)
        }
    }
}

/// A new network namespace, made by this process, which then goes back to its
/// own: hooks of the runtime's namespaces are to find themselves there.
fn make_network() -> Result<OwnedFd, Fault> {
    use nix::sched::CloneFlags;
    let old = own("net")?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).named("unshare of the network namespace")?;
    let new = own("net");
    nix::sched::setns(old, CloneFlags::CLONE_NEWNET)
        .named("setns back to the network namespace")?;
    new
}

/// This process's namespace of a kind by its name in /proc/PID/ns.
fn own(name: &str) -> Result<OwnedFd, Fault> {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    open(&*format!("/proc/self/ns/{name}"), flags, nix::sys::stat::Mode::empty())
        .named("open of a namespace")
}

/// What is opened or made before the clone, where the privilege for it is.
struct Held {
    mapped: super::id_mapped::Trees,
    proc: Option<OwnedFd>,
    mounts: Option<OwnedFd>,
}

fn run_child(
    plan: &Plan,
    doors: &Doors,
    extra: &Extra<'_>,
    held: &Held,
    executable: Option<&Executable<'_>>,
    channel: &Channel,
) -> i32 {
    timings::born();
    if plan.launch.owner.is_some() {
        // Becoming the owner made this process's files in /proc root's, who
        // is nobody in the new user namespace; some must be written to.
        let _ = sys::prctl(libc::PR_SET_DUMPABLE, 1, 0);
    }
    if let Some(count) = extra.preserve {
        super::inside::older::mark_inherited(3 + count as i32);
    }
    let mut child = Child::new(channel, &doors.v1_tasks);
    child.executable = executable;
    child.seccomp = plan.seccomp.as_ref().map(|(program, flags)| (&program[..], *flags));
    child.mapped = &held.mapped;
    child.proc = held.proc.as_ref();
    child.mounts = held.mounts.as_ref();
    child.start = extra.start;
    child.preserve = extra.preserve;
    child.devices_made = extra.devices;
    child.views = extra.views;
    child.mask = extra.mask;
    child.entering = extra.entering;
    child.die_with_parent = extra.die_with_parent;
    // Ids must be mapped, and a process that enters be in its groups, before
    // the first step; else there is no need to wait.
    let early = !plan.launch.uid_map.is_empty() || extra.entering;
    if early && child.wait_released().is_err() {
        return 125;
    }
    if let Err((step, fault)) = child.carry_out(&plan.inside) {
        report(channel, child.starter(), step, fault);
        return 125;
    }
    extra.init.map_or(0, |init| init(channel))
}

/// To whoever listens: the creator, or once released the `start` command.
fn report(channel: &Channel, starter: Option<&OwnedFd>, step: usize, fault: Fault) {
    match starter.and_then(|fd| fd.try_clone().ok()) {
        Some(fd) => Channel::from(fd).say_failed(step, fault.errno, fault.call),
        None => channel.say_failed(step, fault.errno, fault.call),
    }
}

/// With a process in between, which joins or prepares what the first process
/// is then born into, hands it to us (`CLONE_PARENT`) and is gone.
fn staged(
    plan: &Plan,
    doors: &Doors,
    (ours, theirs): (Channel, Channel),
    body: &dyn Fn(&Channel) -> i32,
    place: &dyn Fn(i32) -> Result<(), Problem>,
) -> Result<Born, NotLaunched> {
    let launch = &plan.launch;
    // A new time namespace belongs to the user namespace it is made in, so
    // that one must exist first; the stage is then born into it.
    let user_first = launch.clocks.is_some() && launch.new_user();
    let first = if user_first { libc::CLONE_NEWUSER as u64 } else { 0 };
    let (stage_ours, stage_theirs) = Channel::pair().named("socketpair")?;
    let cgroup = doors.v2_dir.as_ref().map(AsFd::as_fd);
    let stage = match sys::clone3(first, cgroup).named("clone3")? {
        Forked::Child => {
            drop((ours, stage_ours));
            run_stage(launch, user_first, &stage_theirs, &theirs, body)
        }
        Forked::Parent(pid) => pid,
    };
    drop((stage_theirs, theirs));
    let result = (|| -> Result<i32, Failure> {
        if user_first {
            super::maps::write(stage, launch)?;
            stage_ours.say(Word::Go).named("send")?;
        }
        hear_birth(&stage_ours)
    })();
    drop(stage_ours);
    let born = result.map_err(NotLaunched::from).and_then(|pid| {
        timings::done(Stage::Clone);
        if user_first {
            let new = launch.new & !(libc::CLONE_NEWUSER as u64);
            return adopt(&Launch { new, ..launch.clone() }, pid, ours, place);
        }
        adopt(launch, pid, ours, place)
    });
    // Only now: the first process goes on while the one in between ends.
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(stage), None);
    born
}

fn hear_birth(stage: &Channel) -> Result<i32, Failure> {
    match stage.hear().named("recv")? {
        Heard::Born(pid) => Ok(pid),
        Heard::Failed { errno, call, .. } => Err(Failure { step: None, call, errno, note: None }),
        _ => Err(Fault { call: "the process in between", errno: Errno::EPROTO }.into()),
    }
}

fn run_stage(
    launch: &Launch,
    user_first: bool,
    stage: &Channel,
    channel: &Channel,
    body: &dyn Fn(&Channel) -> i32,
) -> ! {
    // Nothing inside may look at what this process brings along from outside
    // (CVE-2016-9962). One that makes a user namespace instead must stay
    // readable for its parent, who writes the maps; nobody is inside yet.
    if !launch.join.is_empty() {
        let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0);
    }
    if user_first && stage.expect(Word::Go).is_err() {
        sys::exit_now(125);
    }
    match stage_steps(launch, user_first) {
        Ok(Forked::Child) => sys::exit_now(body(channel)),
        Ok(Forked::Parent(pid)) => {
            let _ = stage.say_born(pid);
            sys::exit_now(0)
        }
        Err(fault) => {
            stage.say_failed(STAGE, fault.errno, fault.call);
            sys::exit_now(125)
        }
    }
}

fn stage_steps(launch: &Launch, user_first: bool) -> Result<Forked, Fault> {
    let mut new = launch.new;
    if user_first {
        // Its ids stay the caller's: they own its files in /proc, where the
        // clocks are set, and open what lies outside.
        new &= !(libc::CLONE_NEWUSER as u64);
    }
    enter(&launch.join)?;
    if let Some(clocks) = &launch.clocks {
        super::clocks::unshare(clocks)?;
    }
    if let Some(owner) = &launch.owner {
        act_as(owner.uid, owner.gid, &owner.groups)?;
    }
    sys::clone3(new | libc::CLONE_PARENT as u64, None).named("clone3")
}

/// Enters namespaces by path. All are opened first: once in another mount
/// namespace the paths would mean something else.
fn enter(joins: &[Join]) -> Result<(), Fault> {
    use nix::fcntl::{OFlag, open};
    let mut opened = Vec::with_capacity(joins.len());
    for join in joins {
        let fd = open(
            join.path.as_c_str(),
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
        .named("open of a namespace")?;
        opened.push((join.kind, fd));
    }
    for (kind, fd) in &opened {
        nix::sched::setns(fd, nix::sched::CloneFlags::from_bits_retain(clone_flag(*kind)))
            .named("setns")?;
    }
    Ok(())
}

/// `CLONE_NEW*` of a kind of namespace.
pub fn clone_flag(kind: Kind) -> i32 {
    match kind {
        Kind::User => libc::CLONE_NEWUSER,
        Kind::Cgroup => libc::CLONE_NEWCGROUP,
        Kind::Ipc => libc::CLONE_NEWIPC,
        Kind::Uts => libc::CLONE_NEWUTS,
        Kind::Net => libc::CLONE_NEWNET,
        Kind::Pid => libc::CLONE_NEWPID,
        Kind::Mount => libc::CLONE_NEWNS,
        Kind::Time => libc::CLONE_NEWTIME,
    }
}

/// Becomes the user who shall own the new namespaces, with capabilities
/// kept, so that no setting for unprivileged users gets in root's way.
fn act_as(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Fault> {
    sys::setgroups(groups).named("setgroups")?;
    sys::setgid_all(gid).named("setresgid")?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).named("prctl(KEEPCAPS)")?;
    sys::setuid_all(uid).named("setresuid")?;
    let permitted = caps::read(None, caps::CapSet::Permitted)
        .map_err(|_| Fault { call: "capget", errno: Errno::EPERM })?;
    caps::set(None, caps::CapSet::Effective, &permitted)
        .map_err(|_| Fault { call: "capset", errno: Errno::EPERM })
}

impl Born {
    /// The next thing that the child reports.
    ///
    /// # Errors
    /// The step that failed inside, with the child's own words.
    pub fn next(&self) -> Result<Heard, Failure> {
        let mut note = None;
        loop {
            match self.channel.hear().named("recv")? {
                Heard::Note(text) => note = Some(text),
                Heard::Failed { step, errno, call } => {
                    return Err(Failure { step: Some(step), call, errno, note });
                }
                heard => return Ok(heard),
            }
        }
    }
}

/// Whether two ids are one map of one id each: what an unprivileged process
/// may write itself.
pub fn is_single(maps: &[IdMap], id: u32) -> bool {
    matches!(maps, [m] if m.count == 1 && m.outside == id)
}
