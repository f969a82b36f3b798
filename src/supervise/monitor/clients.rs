//! What processes ask a monitor for, and what they are given.

use std::os::fd::OwnedFd;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{Client, Monitor};
use crate::kernel::cgroup;
use crate::kernel::channel::accept;
use crate::plan::cgroup::{Group, Version};
use crate::problem::Problem;
use crate::supervise::protocol::{self, Entry, Parting, Reply, Request};
use crate::supervise::steps;

impl Monitor {
    /// A new connection, of whom the kernel says who it is.
    pub(super) fn admit(&mut self) {
        let Ok(socket) = accept(&self.listener) else { return };
        let Ok(peer) = getsockopt(&socket, PeerCredentials) else { return };
        if peer.uid() != self.orders.record.uid && peer.uid() != 0 {
            let why = format!("the environment belongs to uid {}", self.orders.record.uid);
            let _ = protocol::say(&socket, &Reply::Refused { why }, &[]);
            return;
        }
        self.clients.push(Client { socket, uid: peer.uid(), pid: peer.pid(), joined: false });
    }

    /// One request; true when the environment is to end.
    pub(super) fn answer(&mut self, index: usize) -> bool {
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

    /// The doors of a user's, when the first of theirs comes.
    fn open_for(&mut self, opener: Option<u32>) -> Result<(), String> {
        if opener.is_some() && self.user_doors.is_none() {
            let doors = cgroup::open_doors(&self.orders.plan.cgroup, opener);
            self.user_doors = Some(doors.map_err(|error| Problem::from(error).message)?);
        }
        Ok(())
    }

    fn let_in(&mut self, index: usize) {
        let uid = self.clients[index].uid;
        let own = self.orders.record.uid;
        // What root opened, root may use; a user goes through doors of its own.
        let opener = (uid != 0 && nix::unistd::geteuid().is_root()).then_some(uid);
        if let Err(why) = self.open_for(opener) {
            let _ = protocol::say(&self.clients[index].socket, &Reply::Refused { why }, &[]);
            return;
        }
        let (kept, cpus) = match opener {
            Some(_) => {
                let pid = self.clients[index].pid;
                self.scheduled.keep(&mut self.orders, self.born.pid, pid)
            }
            None => (Vec::new(), self.orders.affinity.clone()),
        };
        let doors = self.user_doors.as_ref().filter(|_| opener.is_some()).unwrap_or(&self.doors);
        let stays = |group: &Group| kept.iter().any(|k| k.at.mount == group.at.mount);
        let (v1, v2): (Vec<_>, Vec<_>) =
            self.orders.plan.cgroup.groups.iter().partition(|g| g.at.version == Version::V1);
        // After the doors of groups there are those of resource control.
        let ways = doors.v1_tasks.iter().enumerate();
        let v1_tasks = ways.filter(|(at, _)| v1.get(*at).is_none_or(|g| !stays(g))).map(|(_, w)| w);
        let v1_tasks: Vec<&OwnedFd> = v1_tasks.collect();
        // A user's clone may only go straight into a v2 group below one that
        // is delegated to that user; else we move the process.
        let direct = uid == nix::unistd::geteuid().as_raw();
        let alone_v2 = doors.v1_tasks.is_empty() && doors.v2_dir.is_some();
        let v2_dir = doors.v2_dir.as_ref().filter(|_| direct);
        let entry = Entry {
            namespaces: self.namespaces.iter().map(|(kind, _)| *kind).collect(),
            v1_doors: v1_tasks.len(),
            v2_door: v2_dir.is_some(),
            place: alone_v2 && !direct && !v2.into_iter().any(stays),
            uid: own,
            gid: self.orders.record.gid,
            groups: self.orders.groups.clone(),
            bundle: self.orders.record.bundle.clone(),
            env: self.orders.env.clone(),
            cpus,
            answered: self.viewer.is_some(),
            kernel: self.orders.kernel,
            asked: self.orders.asked.clone(),
        };
        let namespaces = self.namespaces.iter().map(|(_, fd)| fd);
        let fds: Vec<&OwnedFd> = namespaces.chain(v1_tasks).chain(v2_dir).collect();
        let client = &mut self.clients[index];
        client.joined = protocol::say(&client.socket, &Reply::Joined(entry), &fds).is_ok();
        if client.joined {
            self.maker = None;
        }
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

    pub(super) fn parting(&self, last: bool) -> Parting {
        Parting { last, usage: self.usage(), memory: self.orders.record.memory }
    }
}
