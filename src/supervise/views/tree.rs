//! The file system of the views, answered over FUSE (kernel document
//! filesystems/fuse).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};

use super::processor::{self, Counts, Load};
use super::share::Share;
use super::sysinfo::SystemInfo;
use super::topology::{self, Allowed, What};
use super::{LIVE, SYSTEM, memory};

/// What is at a name stays there as long as the environment does.
const KEPT: Duration = Duration::from_secs(3600);

/// How often the load is looked at, once somebody has asked for it.
const TICK: Duration = Duration::from_secs(5);
/// After this long without a reader of the load it is left alone.
const FORGOTTEN: Duration = Duration::from_secs(900);

enum Node {
    Directory,
    Link(String),
    /// The kernel keeps it once it was read.
    Fixed(String),
    /// Made anew for each reader, from its path.
    Live,
}

struct Entry {
    path: Vec<String>,
    node: Node,
}

/// The load, and when it was looked at.
struct Watch {
    load: Load,
    at: Instant,
    /// Nanoseconds of processor time at that moment.
    used: u64,
    asked: Instant,
}

#[derive(Default)]
struct State {
    /// By inode number less [`FIRST`].
    entries: Vec<Entry>,
    numbers: HashMap<Vec<String>, u64>,
    open: HashMap<u64, String>,
    next_handle: u64,
    /// The node's, which says what kind of processors these are and not what
    /// they do.
    cpuinfo: Option<String>,
    last_pid: u32,
    watch: Option<Watch>,
}

pub struct Tree {
    share: Share,
    state: Mutex<State>,
    booted: SystemTime,
}

const FIRST: u64 = 2;

impl Tree {
    pub fn new(share: Share) -> Self {
        let booted = SystemTime::now().checked_sub(share.uptime()).unwrap_or(UNIX_EPOCH);
        Self { share, state: Mutex::default(), booted }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allowed(&self) -> Allowed {
        let (cpus, nodes) = self.share.allowed();
        Allowed { cpus, nodes }
    }

    fn find(&self, path: &[String]) -> Option<Node> {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match &parts[..] {
            [] | ["pressure"] => Some(Node::Directory),
            ["pressure", what] => {
                LIVE.contains(&&*format!("pressure/{what}")).then_some(Node::Live)
            }
            [first, rest @ ..] if *first == SYSTEM => {
                Some(match topology::what(rest, &self.allowed())? {
                    What::Directory => Node::Directory,
                    What::Link(target) => Node::Link(target),
                    What::Fixed(text) => Node::Fixed(text),
                    What::List(_)
                    | What::NodeMemory(_)
                    | What::NodeCounters(_)
                    | What::NodeHits(_) => Node::Live,
                })
            }
            [name] => LIVE.contains(name).then_some(Node::Live),
            _ => None,
        }
    }

    fn names(&self, path: &[String]) -> Vec<String> {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match &parts[..] {
            [] => {
                let live = LIVE.iter().filter(|name| !name.contains('/'));
                live.chain(&["pressure", SYSTEM]).map(|n| (*n).to_owned()).collect()
            }
            ["pressure"] => ["cpu", "io", "memory"].map(str::to_owned).into(),
            [first, rest @ ..] if *first == SYSTEM => topology::names(rest, &self.allowed()),
            _ => Vec::new(),
        }
    }

    /// The inode at a path, made when it is first asked for.
    fn number(&self, path: &[String]) -> Option<u64> {
        if path.is_empty() {
            return Some(INodeNo::ROOT.0);
        }
        if let Some(number) = self.state().numbers.get(path) {
            return Some(*number);
        }
        let node = self.find(path)?;
        let mut state = self.state();
        let number = state.entries.len() as u64 + FIRST;
        state.entries.push(Entry { path: path.to_vec(), node });
        state.numbers.insert(path.to_vec(), number);
        Some(number)
    }

    fn path(&self, number: INodeNo) -> Option<Vec<String>> {
        if number == INodeNo::ROOT {
            return Some(Vec::new());
        }
        let index = number.0.checked_sub(FIRST)? as usize;
        self.state().entries.get(index).map(|entry| entry.path.clone())
    }

    /// Does something with the entry of a number that was given out.
    fn with<T>(&self, number: INodeNo, act: impl FnOnce(&Node) -> T) -> Option<T> {
        if number == INodeNo::ROOT {
            return Some(act(&Node::Directory));
        }
        let index = number.0.checked_sub(FIRST)? as usize;
        self.state().entries.get(index).map(|entry| act(&entry.node))
    }

    fn attributes(&self, number: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = self.with(number, |node| match node {
            Node::Directory => (FileType::Directory, 0o555, 0),
            Node::Link(target) => (FileType::Symlink, 0o777, target.len() as u64),
            Node::Fixed(text) => (FileType::RegularFile, 0o444, text.len() as u64),
            Node::Live => (FileType::RegularFile, 0o444, 0),
        })?;
        let at = self.booted;
        Some(FileAttr {
            ino: number,
            size,
            blocks: 0,
            atime: at,
            mtime: at,
            ctime: at,
            crtime: at,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// The text of a live file as it is now.
    fn render(&'static self, path: &[String]) -> String {
        let node = |file: &str| self.share.node(file);
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match &parts[..] {
            ["meminfo"] => memory::meminfo(&node("/proc/meminfo"), &self.share.memory()),
            ["vmstat"] => {
                let of_node = node("/proc/meminfo");
                memory::vmstat(&node("/proc/vmstat"), &of_node, &self.share.memory())
            }
            ["swaps"] => memory::swaps(),
            ["cpuinfo"] => {
                let mut state = self.state();
                let text = state.cpuinfo.get_or_insert_with(|| node("/proc/cpuinfo"));
                processor::cpuinfo(text, &self.allowed().cpus)
            }
            ["stat"] => self.stat(),
            ["uptime"] => {
                let cpus = self.allowed().cpus;
                processor::uptime(&cpus, &self.share.cpu_time(), self.share.uptime())
            }
            ["loadavg"] => self.load(),
            ["diskstats"] => processor::diskstats(&self.share.devices(), device_name),
            ["pressure", what] => self.share.pressure(what),
            [_, "node", of, file] => self.of_numa_node(of, file),
            [_, rest @ ..] => match topology::what(rest, &self.allowed()) {
                Some(What::List(text)) => text,
                _ => String::new(),
            },
            [] => String::new(),
        }
    }

    fn stat(&self) -> String {
        let booted = self.booted.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let tasks = self.share.tasks(false);
        let counts = Counts { tasks: &tasks, booted, last_pid: self.state().last_pid };
        let cpus = self.allowed().cpus;
        processor::stat(&cpus, &self.share.cpu_time(), self.share.uptime(), &counts)
    }

    fn of_numa_node(&self, of: &str, file: &str) -> String {
        let node = |file: &str| self.share.node(file);
        let own = node(&format!("{}/node/{of}/{file}", topology::BASE));
        let nodes = self.allowed().nodes.len();
        let number = of.strip_prefix("node").and_then(|n| n.parse().ok()).unwrap_or_default();
        match file {
            "meminfo" => {
                let all = node("/proc/meminfo");
                memory::of_numa_node(number, nodes, &all, &own, &self.share.memory())
            }
            "vmstat" if nodes == 1 => {
                memory::vmstat(&own, &node("/proc/meminfo"), &self.share.memory())
            }
            // Nothing counts these for a job.
            _ => own
                .lines()
                .filter_map(|l| l.split(' ').next())
                .fold(String::new(), |all, name| all + name + " 0\n"),
        }
    }

    /// The load so far; the first who asks gets what the whole time since the
    /// start comes to, and has it watched from then on.
    fn load(&'static self) -> String {
        let tasks = self.share.tasks(true);
        let (load, last_pid) = self.watched();
        load.text(&tasks, last_pid)
    }

    /// What sysinfo(2) says to the job.
    pub fn system_info(&'static self) -> SystemInfo {
        let memory = self.share.memory();
        let sums = memory.sums(&self.share.node("/proc/meminfo"));
        SystemInfo {
            uptime: self.share.uptime().as_secs(),
            loads: self.watched().0.averages,
            total: sums.total,
            free: sums.free,
            shared: memory.shmem,
            swap: sums.swap,
            swap_free: sums.swap_free,
            tasks: self.share.tasks(false).threads,
        }
    }

    /// The load, and the highest pid seen.
    fn watched(&'static self) -> (Load, u32) {
        let time = self.share.cpu_time();
        let used = time.user + time.system;
        let now = Instant::now();
        let mut state = self.state();
        let last_pid = state.last_pid;
        let first = state.watch.is_none();
        let watch = state.watch.get_or_insert_with(|| {
            let mut load = Load::default();
            let seconds = self.share.uptime().as_secs_f64().max(1.0);
            load.add(used as f64 / 1e9 / seconds, seconds);
            Watch { load, at: now, used, asked: now }
        });
        watch.asked = now;
        let load = watch.load;
        drop(state);
        if first {
            // Without a thread for it the load stays what it is now.
            let _ = std::thread::Builder::new().spawn(move || self.watch());
        }
        (load, last_pid)
    }

    /// Looks at the load every few seconds for as long as anybody reads it.
    fn watch(&self) {
        loop {
            std::thread::sleep(TICK);
            self.look();
            let mut state = self.state();
            if state.watch.as_ref().is_none_or(|w| w.asked.elapsed() > FORGOTTEN) {
                state.watch = None;
                return;
            }
        }
    }

    fn look(&self) {
        let time = self.share.cpu_time();
        let used = time.user + time.system;
        let mut state = self.state();
        let Some(watch) = &mut state.watch else { return };
        let seconds = watch.at.elapsed().as_secs_f64().max(0.001);
        let worked = used.saturating_sub(watch.used) as f64 / 1e9 / seconds;
        // With a CPU to spare nothing waits for one, and what worked is what
        // wanted to; else those that wait are counted too.
        let spare = worked < self.share.allowed().0.len() as f64 - 0.1;
        let wanted = if spare {
            worked
        } else {
            let tasks = self.share.tasks(true);
            worked.max((tasks.running + tasks.blocked) as f64)
        };
        watch.load.add(wanted, seconds);
        (watch.at, watch.used) = (Instant::now(), used);
    }
}

/// The name of a block device, by "major:minor".
fn device_name(device: &str) -> Option<String> {
    let link = std::fs::read_link(format!("/sys/dev/block/{device}")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

impl Filesystem for &'static Tree {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.path(parent).zip(name.to_str()).and_then(|(mut path, name)| {
            path.push(name.to_owned());
            self.attributes(INodeNo(self.number(&path)?))
        });
        match found {
            Some(attributes) => reply.entry(&KEPT, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number) {
            Some(attributes) => reply.attr(&KEPT, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let target = self.with(number, |node| match node {
            Node::Link(target) => Some(target.clone()),
            _ => None,
        });
        match target.flatten() {
            Some(target) => reply.data(target.as_bytes()),
            None => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, request: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let live = self.with(number, |node| matches!(node, Node::Live));
        let mut state = self.state();
        state.last_pid = state.last_pid.max(request.pid());
        match live {
            Some(true) => {
                state.next_handle += 1;
                reply.opened(FileHandle(state.next_handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            Some(false) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fixed = self.with(number, |node| match node {
            Node::Fixed(text) => Some(text.clone()),
            _ => None,
        });
        let text = match fixed.flatten() {
            Some(text) => text,
            None => {
                let kept = (offset > 0).then(|| self.state().open.get(&handle.0).cloned());
                kept.flatten().unwrap_or_else(|| {
                    let text = self.path(number).map(|path| self.render(&path)).unwrap_or_default();
                    self.state().open.insert(handle.0, text.clone());
                    text
                })
            }
        };
        let start = (offset as usize).min(text.len());
        let end = start.saturating_add(size as usize).min(text.len());
        reply.data(&text.as_bytes()[start..end]);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.state().open.remove(&handle.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(path) = self.path(number) else { return reply.error(Errno::ENOENT) };
        let mut all = vec![(number.0, FileType::Directory, ".".to_owned())];
        all.push((number.0, FileType::Directory, "..".to_owned()));
        for name in self.names(&path) {
            let at = [&path[..], std::slice::from_ref(&name)].concat();
            let Some(found) = self.number(&at) else { continue };
            let Some(attributes) = self.attributes(INodeNo(found)) else { continue };
            all.push((found, attributes.kind, name));
        }
        for (index, (inode, kind, name)) in all.into_iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(inode), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
