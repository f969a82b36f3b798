//! The one process of denovo that stays with a job's environment: it counts
//! who is in, lets processes into the control groups, and takes everything
//! back at the end.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::apart::apart;
use super::image::ahead;
use super::protocol::{self, Entry, Parting, Reply, Request};
use super::provisions::{self, Viewer};
use super::scheduled::Scheduled;
use super::{groups, init, stage, steps};
use crate::kernel::cgroup::{self, Doors};
use crate::kernel::channel::{Channel, accept, receive_with};
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
    match sys::clone3(0, None).map_err(|e| kernel("clone3", e))? {
        Forked::Child => {
            drop(ours);
            // Twice, so that nobody has to wait for it.
            match sys::clone3(0, None) {
                Ok(Forked::Child) => sys::exit_now(main(orders, &theirs)),
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

fn main(mut orders: Orders, report: &Channel) -> i32 {
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
    if let Err(e) = detach(report, [&orders.image, &orders.held]) {
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
    tell(&Ok(()));
    let signals = monitor.settle(report);
    monitor.serve(signals.as_ref());
    monitor.end();
    0
}

fn detach(report: &Channel, ours: [&Option<OwnedFd>; 2]) -> Result<(), Errno> {
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
            }
        }
    }

    /// A new connection, of whom the kernel says who it is.
    fn admit(&mut self) {
        let Ok(socket) = accept(&self.listener) else { return };
        let Ok(peer) = getsockopt(&socket, PeerCredentials) else { return };
        if peer.uid() != self.orders.record.uid && peer.uid() != 0 {
            let why = format!("the environment belongs to uid {}", self.orders.record.uid);
            let _ = protocol::say(&socket, &Reply::Refused { why }, &[]);
            return;
        }
        self.clients.push(Client { socket, uid: peer.uid(), joined: false });
    }

    /// One request; true when the environment is to end.
    fn answer(&mut self, index: usize) -> bool {
        let request = protocol::hear::<Request>(&self.clients[index].socket);
        match request {
            Ok(Some((Request::Join, _))) => self.let_in(index),
            Ok(Some((Request::Answer, fds))) => self.answer_calls(&fds),
            Ok(Some((Request::Place { pid }, _))) => self.place(index, pid),
            Ok(Some((Request::Show, _))) => self.show(index),
            Ok(Some((Request::Step { memory }, _))) => self.step(index, memory),
            Ok(Some((Request::Within { groups }, _))) => self.within(index, &groups),
            Ok(Some((Request::Count, _))) => self.count(index),
            Ok(Some((Request::Bring { path }, _))) => self.bring(index, &path),
            Ok(Some((Request::Leave { report }, _))) => {
                return self.let_out(index, Some(report));
            }
            Ok(Some((Request::End, _))) => {
                let reply = Reply::Ending(self.parting(true));
                let client = self.clients.swap_remove(index);
                let _ = protocol::say(&client.socket, &reply, &[]);
                self.waiting.push(client.socket);
                return true;
            }
            Ok(None) | Err(_) => return self.let_out(index, None),
        }
        false
    }

    fn let_in(&mut self, index: usize) {
        let uid = self.clients[index].uid;
        let own = self.orders.record.uid;
        // What root opened, root may use; a user goes through doors of its own.
        let opener = (uid != 0 && nix::unistd::geteuid().is_root()).then_some(uid);
        if opener.is_some() && self.user_doors.is_none() {
            match cgroup::open_doors(&self.orders.plan.cgroup, opener) {
                Ok(doors) => self.user_doors = Some(doors),
                Err(error) => {
                    let why = Problem::from(error).message;
                    let refused = Reply::Refused { why };
                    let _ = protocol::say(&self.clients[index].socket, &refused, &[]);
                    return;
                }
            }
        }
        let doors = match &self.user_doors {
            Some(doors) if opener.is_some() => doors,
            _ => &self.doors,
        };
        // A user's clone may only go straight into a v2 group below one that
        // is delegated to that user; else we move the process.
        let direct = uid == nix::unistd::geteuid().as_raw();
        let alone_v2 = doors.v1_tasks.is_empty() && doors.v2_dir.is_some();
        let v2 = doors.v2_dir.as_ref().filter(|_| direct);
        let entry = Entry {
            namespaces: self.namespaces.iter().map(|(kind, _)| *kind).collect(),
            v1_doors: doors.v1_tasks.len(),
            v2_door: v2.is_some(),
            place: alone_v2 && !direct,
            uid: own,
            gid: self.orders.record.gid,
            groups: self.orders.groups.clone(),
            bundle: self.orders.record.bundle.clone(),
            env: self.orders.env.clone(),
            cpus: self.orders.affinity.clone(),
            answered: self.viewer.is_some(),
            kernel: self.orders.kernel,
            asked: self.orders.asked.clone(),
        };
        let fds: Vec<&OwnedFd> =
            self.namespaces.iter().map(|(_, fd)| fd).chain(&doors.v1_tasks).chain(v2).collect();
        let client = &mut self.clients[index];
        client.joined = protocol::say(&client.socket, &Reply::Joined(entry), &fds).is_ok();
    }

    /// Hands a listener to whoever answers for the views. With nobody there it
    /// is closed, and the calls fail as on a kernel without them.
    fn answer_calls(&self, listeners: &[OwnedFd]) {
        if let Some(viewer) = &self.viewer {
            viewer.take(listeners);
        }
    }

    /// Moves a process of the client's user; nobody else's.
    fn place(&mut self, index: usize, pid: i32) {
        let client = &self.clients[index];
        let owner = std::fs::metadata(format!("/proc/{pid}"))
            .map(|m| std::os::unix::fs::MetadataExt::uid(&m));
        let allowed = client.uid == 0 || owner.is_ok_and(|uid| uid == client.uid);
        let placed = if allowed {
            cgroup::place(&self.orders.plan.cgroup, pid).map_err(|e| Problem::from(e).message)
        } else {
            Err(format!("process {pid} is not one of uid {}", client.uid))
        };
        let reply = placed.map_or_else(|why| Reply::Refused { why }, |()| Reply::Placed);
        let _ = protocol::say(&client.socket, &reply, &[]);
    }

    fn show(&self, index: usize) {
        let processes = self.clients.iter().filter(|c| c.joined).count();
        let record = Box::new(self.orders.record.clone());
        let reply = Reply::Shown { record, processes, usage: self.usage() };
        let _ = protocol::say(&self.clients[index].socket, &reply, &[]);
    }

    /// Counts a client out; the last one out ends what nobody asked to keep.
    /// `report`: whether it wants to hear what was used, which takes reading
    /// a dozen files; `None` when it is gone already.
    fn let_out(&mut self, index: usize, report: Option<bool>) -> bool {
        let client = self.clients.swap_remove(index);
        let others = self.clients.iter().any(|c| c.joined);
        let last = client.joined && !others && !self.orders.record.persistent;
        if let Some(report) = report {
            let parting = if last || report { self.parting(last) } else { Parting::default() };
            let _ = protocol::say(&client.socket, &Reply::Left(parting), &[]);
            if last {
                self.waiting.push(client.socket);
            }
        }
        last
    }

    /// Whether the client is root; else it is told.
    fn is_root(&self, index: usize) -> bool {
        let client = &self.clients[index];
        if client.uid != 0 {
            let why = "only root asks for a step of a scheduler".to_owned();
            let _ = protocol::say(&client.socket, &Reply::Refused { why }, &[]);
        }
        client.uid == 0
    }

    fn within(&mut self, index: usize, groups: &str) {
        if self.is_root(index) {
            let cpus = self.scheduled.hold(&mut self.orders, self.born.pid, groups);
            let _ = protocol::say(&self.clients[index].socket, &Reply::Held { cpus }, &[]);
        }
    }

    fn count(&mut self, index: usize) {
        if self.is_root(index) {
            self.scheduled.count();
            let _ = protocol::say(&self.clients[index].socket, &Reply::Counted, &[]);
        }
    }

    fn usage(&self) -> cgroup::Usage {
        self.scheduled.with(cgroup::usage(&self.orders.plan.cgroup))
    }

    /// Root's only: the doors are those that root opened.
    fn step(&mut self, index: usize, memory: Option<u64>) {
        if !self.is_root(index) {
            return;
        }
        let client = &mut self.clients[index];
        if let Err(why) = steps::limit_memory(&mut self.orders, memory) {
            let _ = protocol::say(&client.socket, &Reply::Refused { why }, &[]);
            return;
        }
        let kinds = self.namespaces.iter().map(|(kind, _)| *kind).collect();
        let step = steps::step(&self.orders, &self.doors, kinds, self.viewer.is_some());
        let fds: Vec<&OwnedFd> = self
            .namespaces
            .iter()
            .map(|(_, fd)| fd)
            .chain(&self.doors.v1_tasks)
            .chain(&self.doors.v2_dir)
            .collect();
        client.joined = protocol::say(&client.socket, &Reply::Step(step), &fds).is_ok();
    }

    fn bring(&self, index: usize, path: &str) {
        let client = &self.clients[index];
        let brought = steps::bring(path, self.orders.record.uid);
        let _ = match &brought {
            Ok(mount) => protocol::say(&client.socket, &Reply::Brought, &[mount]),
            Err(why) => protocol::say(&client.socket, &Reply::Refused { why: why.clone() }, &[]),
        };
    }

    fn parting(&self, last: bool) -> Parting {
        Parting { last, usage: self.usage(), memory: self.orders.record.memory }
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
