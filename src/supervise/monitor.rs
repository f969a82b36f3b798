//! The one process of denovo that stays with a job's environment: it counts
//! who is in, lets processes into the control groups, and takes everything
//! back at the end.

mod clients;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::apart::apart;
use super::image::ahead;
use super::provisions::{self, Viewer};
use super::scheduled::Scheduled;
use super::{groups, init, stage};
use crate::kernel::cgroup::Doors;
use crate::kernel::channel::{Channel, receive_with};
use crate::kernel::failure;
use crate::kernel::launch::{Born, Extra, Failure, launch};
use crate::kernel::sys::{self, Forked};
use crate::kernel::timings::{self, Stage};
use crate::plan::Plan;
use crate::plan::cgroup::CgroupPlan;
use crate::policy::spec::Kind;
use crate::policy::text::CText;
use crate::problem::{Problem, Problems};
use crate::record::job::{JobRecord, Jobs};
use crate::record::process::ProcessName;
use crate::request::job::JobRequest;

/// Everything that the monitor is told when it is made.
pub struct Orders {
    pub jobs: Jobs,
    pub record: JobRecord,
    pub plan: Plan,
    pub groups: Vec<u32>,
    /// The image's own variables.
    pub env: Vec<String>,
    /// Where no group can hold the processes on their CPUs.
    pub affinity: Option<Vec<u32>>,
    /// The image's mount, attached nowhere; the plan names this descriptor.
    pub image: Option<OwnedFd>,
    /// What keeps an unpacked image where it is.
    pub held: Option<OwnedFd>,
    /// Major and minor version of the node's kernel.
    pub kernel: (u32, u32),
    /// What the environment is made for.
    pub asked: JobRequest,
    /// Where the image is, if it is one.
    pub image_root: Option<PathBuf>,
}

/// One connection: who, and whether it counts as being in.
struct Client {
    socket: OwnedFd,
    uid: u32,
    pid: i32,
    joined: bool,
}

struct Monitor {
    orders: Orders,
    /// For us and for root.
    doors: Doors,
    /// For the environment's user, opened when the first of theirs joins.
    user_doors: Option<Doors>,
    born: Born,
    /// Who answers for the job's own view of the machine.
    viewer: Option<Viewer>,
    /// Those that are not the node's own, in the order of entering.
    namespaces: Vec<(Kind, OwnedFd)>,
    listener: OwnedFd,
    /// Who made it, until the first has joined; if that is killed before, nobody
    /// would ever leave. None where the environment is to stay.
    maker: Option<OwnedFd>,
    clients: Vec<Client>,
    /// Who waits for the end.
    waiting: Vec<OwnedFd>,
    scheduled: Scheduled,
}

/// Makes the monitor and waits until the environment stands.
///
/// # Arguments
/// * `first` - the program that will run in it first, if one is known
///
/// # Errors
/// Everything that was wrong; nothing of the environment is left then.
pub fn spawn(orders: Orders, first: Option<&CText>) -> Result<(), Problems> {
    let kernel = |what: &str, e: Errno| vec![Problem::kernel(format!("{what}: {}", e.desc()))];
    let (ours, theirs) = Channel::pair().map_err(|e| kernel("socketpair", e))?;
    let own = std::process::id() as i32;
    let maker = (!orders.record.persistent).then(|| sys::pidfd_open(own)).transpose();
    let maker = maker.map_err(|e| kernel("pidfd_open", e))?;
    match sys::clone3(0, None).map_err(|e| kernel("clone3", e))? {
        Forked::Child => {
            drop(ours);
            // Twice, so that nobody has to wait for it.
            match sys::clone3(0, None) {
                Ok(Forked::Child) => sys::exit_now(main(orders, maker, &theirs)),
                Ok(Forked::Parent(monitor)) => {
                    drop(theirs);
                    if let Some(root) = &orders.image_root {
                        ahead::begin(root, monitor, first);
                    }
                }
                Err(_) => {}
            }
            sys::exit_now(0)
        }
        Forked::Parent(pid) => {
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        }
    }
    drop(theirs);
    let mut buffer = vec![0u8; 64 * 1024];
    let length = receive_with(ours.as_owned(), &mut buffer).map_err(|e| kernel("recv", e))?.0;
    match serde_json::from_slice::<Result<(), Problems>>(&buffer[..length]) {
        Ok(result) => {
            timings::done(Stage::Monitor);
            timings::report("environment", &orders.plan.inside);
            result
        }
        Err(_) => Err(vec![
            Problem::ours("the monitor of the environment died before it stood")
                .hint("denovo node gc removes what it may have left"),
        ]),
    }
}

fn main(mut orders: Orders, maker: Option<OwnedFd>, report: &Channel) -> i32 {
    let tell = |result: &Result<(), Problems>| {
        let text = serde_json::to_vec(result).unwrap_or_default();
        let _ = report.say_text(&text);
    };
    // As long as we have the creator's descriptors, its lock is held, even
    // if it is killed now: from here on the record names a living keeper.
    orders.record.monitor = ProcessName::own();
    if let Err(problem) = orders.jobs.save(&orders.record) {
        stage::take_back(&orders.jobs, &orders.record);
        tell(&Err(vec![problem]));
        return 125;
    }
    if let Err(e) = detach(report, [&orders.image, &orders.held, &maker]) {
        stage::take_back(&orders.jobs, &orders.record);
        tell(&Err(vec![Problem::kernel(format!("the monitor cannot detach: {}", e.desc()))]));
        return 125;
    }
    let mut monitor = match Monitor::raise(orders) {
        Ok(monitor) => monitor,
        Err(problems) => {
            tell(&Err(problems));
            return 125;
        }
    };
    monitor.maker = maker;
    tell(&Ok(()));
    let signals = monitor.settle(report);
    monitor.serve(signals.as_ref());
    monitor.end();
    0
}

fn detach(report: &Channel, ours: [&Option<OwnedFd>; 3]) -> Result<(), Errno> {
    let mut keep = vec![report.as_owned()];
    keep.extend(ours.into_iter().flatten());
    apart(&keep)?;
    sys::set_process_name(c"denovo-monitor")
}

impl Monitor {
    /// The environment, from its record on; whatever fails takes all back.
    fn raise(mut orders: Orders) -> Result<Self, Problems> {
        let undo = |orders: &Orders, problems: Problems| {
            stage::take_back(&orders.jobs, &orders.record);
            problems
        };
        timings::done(Stage::Monitor);
        let doors = match groups::enter(&mut orders.plan.cgroup) {
            Ok(doors) => doors,
            Err(problem) => {
                // None is left of ours; one that is there is somebody else's.
                orders.record.cgroup = CgroupPlan::default();
                return Err(undo(&orders, vec![problem]));
            }
        };
        timings::done(Stage::Groups);
        // A caller who may make no groups goes on without.
        orders.record.cgroup = orders.plan.cgroup.clone();
        let provided = match provisions::of(&orders.plan) {
            Ok(provided) => provided,
            Err(problem) => return Err(undo(&orders, vec![problem])),
        };
        let extra = Extra {
            start: None,
            preserve: Some(0),
            mask: SigSet::empty(),
            die_with_parent: false,
            entering: false,
            devices: provided.devices.as_ref(),
            views: provided.views.as_ref(),
            init: Some(&init::main),
        };
        let refuse = |plan: &Plan, f: &Failure| {
            let starved = f.step.is_none().then(|| groups::out_of_memory(&plan.cgroup)).flatten();
            vec![starved.unwrap_or_else(|| failure::explain(plan, f))]
        };
        let born = match launch(&orders.plan, &doors, &extra) {
            Ok(born) => born,
            Err(f) => {
                provisions::end(provided.viewer());
                return Err(undo(&orders, refuse(&orders.plan, &f)));
            }
        };
        let viewer = provided.viewer();
        orders.record.init = ProcessName::of(born.pid);
        let raised =
            init::namespaces(&born).map_err(|f| refuse(&orders.plan, &f)).and_then(|namespaces| {
                timings::done(Stage::Inside);
                let path = orders.jobs.socket(&orders.record.id);
                let listener = super::sockets::listen(&path)?;
                super::sockets::open_to(&path, orders.record.uid)?;
                orders.jobs.save(&orders.record)?;
                timings::done(Stage::Finish);
                Ok((namespaces, listener))
            });
        match raised {
            Ok((namespaces, listener)) => {
                let (clients, waiting) = (Vec::new(), Vec::new());
                Ok(Self {
                    orders,
                    doors,
                    user_doors: None,
                    born,
                    viewer,
                    namespaces,
                    listener,
                    maker: None,
                    clients,
                    scheduled: Scheduled::default(),
                    waiting,
                })
            }
            Err(problems) => {
                let _ = sys::pidfd_send_signal(born.pidfd.as_fd(), libc::SIGKILL);
                let _ = super::proxy::exit_code(born.pid);
                provisions::end(viewer);
                Err(undo(&orders, problems))
            }
        }
    }

    /// Ready for a long sleep: next to nothing of us stays in memory.
    fn settle(&mut self, report: &Channel) -> Option<SignalFd> {
        // The creator has its answer; without this end it would wait on.
        let _ = nix::sys::socket::shutdown(
            report.as_owned().as_raw_fd(),
            nix::sys::socket::Shutdown::Both,
        );
        sys::set_command_line(b"denovo monitor");
        self.orders.plan.inside = Vec::new();
        self.orders.plan.program = None;
        sys::shrink();
        let mut wanted = SigSet::empty();
        wanted.add(Signal::SIGTERM);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        SignalFd::with_flags(&wanted, flags).ok()
    }

    /// Answers until the environment is to end. What an answer brought into
    /// memory goes again when it has been quiet for a moment.
    fn serve(&mut self, signals: Option<&SignalFd>) {
        let quiet = PollTimeout::from(1000u16);
        let mut grown = false;
        loop {
            let mut fds = vec![
                PollFd::new(self.born.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            ];
            let others = fds.len() + usize::from(signals.is_some());
            fds.extend(signals.map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
            fds.extend(
                self.clients.iter().map(|c| PollFd::new(c.socket.as_fd(), PollFlags::POLLIN)),
            );
            // Last: only looked at while nobody is here.
            let alone = self.maker.as_ref().filter(|_| self.clients.is_empty());
            let watched = alone.is_some();
            fds.extend(alone.map(|maker| PollFd::new(maker.as_fd(), PollFlags::POLLIN)));
            let timeout = if grown { quiet } else { PollTimeout::NONE };
            match poll(&mut fds, timeout) {
                Ok(0) => {
                    grown = false;
                    drop(fds);
                    sys::shrink();
                    continue;
                }
                Ok(_) => grown = true,
                Err(_) => continue,
            }
            let ready: Vec<bool> =
                fds.iter().map(|fd| fd.revents().is_some_and(|r| !r.is_empty())).collect();
            drop(fds);
            if ready[0] || (signals.is_some() && ready[2]) {
                return;
            }
            // From the back: an answer may remove its client.
            for index in (0..self.clients.len()).rev() {
                if ready[others + index] && self.answer(index) {
                    return;
                }
            }
            if ready[1] {
                self.admit();
            } else if watched && ready.last() == Some(&true) {
                return;
            }
        }
    }

    /// Ends every process, then takes everything back, then lets those go
    /// who wait for it.
    fn end(mut self) {
        self.clients.clear();
        let _ = std::fs::remove_file(self.orders.jobs.socket(&self.orders.record.id));
        let _ = sys::pidfd_send_signal(self.born.pidfd.as_fd(), libc::SIGKILL);
        // The kernel ends every process of the pid namespace before its init
        // is gone (pid_namespaces(7)).
        let _ = super::proxy::exit_code(self.born.pid);
        provisions::end(self.viewer);
        self.namespaces.clear();
        drop((self.listener, self.doors, self.user_doors));
        stage::take_back(&self.orders.jobs, &self.orders.record);
        drop(self.waiting);
    }
}
