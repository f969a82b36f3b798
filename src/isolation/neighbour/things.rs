//! Its things: what is gone when it lets go (sockets, locks, terminals), and
//! what stays until somebody removes it (files, System V objects, keys).

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, PosixFadviseAdvice, fcntl, posix_fadvise, posix_fallocate};
use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_close, mq_open};
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;

use super::dead::{self, Alive, Kept};
use super::{Look, Marks};
use crate::isolation::read::ports;
use crate::kernel::sys::probe;

/// Bytes of each of its large files.
const LARGE: i64 = 48 << 20;
/// Small files.
const FILES: usize = 600;

/// What it holds open.
pub struct Held {
    descriptors: Vec<OwnedFd>,
    watches: Vec<Inotify>,
    queues: Vec<MqdT>,
    server: Option<TcpListener>,
}

impl Held {
    pub fn take(look: &Look, marks: &mut Marks) -> Self {
        let mut held =
            Self { descriptors: Vec::new(), watches: Vec::new(), queues: Vec::new(), server: None };
        held.sockets(look, marks);
        held.locks(look, marks);
        let terminal = || File::options().read(true).write(true).open("/dev/ptmx");
        held.descriptors.extend((0..16).filter_map(|_| Some(terminal().ok()?.into())));
        held.watches.extend((0..20).filter_map(|_| Inotify::init(InitFlags::IN_CLOEXEC).ok()));
        held.queues(look);
        held.pipes();
        held
    }

    fn keep(&mut self, one: Option<impl Into<OwnedFd>>) {
        self.descriptors.extend(one.map(Into::into));
    }

    fn sockets(&mut self, look: &Look, marks: &mut Marks) {
        let name = SocketAddr::from_abstract_name(look.tag.as_bytes());
        self.keep(name.and_then(|name| UnixListener::bind_addr(&name)).ok());
        self.keep(UnixListener::bind(Path::new("/tmp").join(format!("{}.sock", look.tag))).ok());
        let any = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok();
        for listener in (0..8).filter_map(|_| any()) {
            if let Ok(at) = listener.local_addr() {
                mark(marks, "tcp_listen", format!("0100007F:{:04X}", at.port()));
            }
            self.keep(Some(listener));
        }
        for port in ports(look).step_by(4) {
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                mark(marks, "ports_taken", format!(":{port}"));
                self.keep(Some(listener));
            }
        }
        for socket in (0..8).filter_map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()) {
            if let Ok(at) = socket.local_addr() {
                mark(marks, "udp_bound", format!("0100007F:{:04X}", at.port()));
            }
            self.keep(Some(socket));
        }
        for _ in 0..10 {
            let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
            self.keep(socket(family, kind, SockFlag::SOCK_CLOEXEC, None).ok().filter(bound));
        }
        for (one, other) in (0..40).filter_map(|_| UnixStream::pair().ok()) {
            self.keep(Some(one));
            self.keep(Some(other));
        }
        self.server = any();
    }

    /// One lock of each kind on one file, whose number is in every line.
    fn locks(&mut self, look: &Look, marks: &mut Marks) {
        let path = Path::new("/tmp").join(format!("{}.lock", look.tag));
        for _ in 0..3 {
            let Ok(file) = File::options().create(true).append(true).open(&path) else { return };
            let Ok(meta) = file.metadata() else { return };
            let range = libc::flock {
                l_type: libc::F_WRLCK as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: self.descriptors.len() as i64,
                l_len: 1,
                l_pid: 0,
            };
            let _ = fcntl(&file, FcntlArg::F_OFD_SETLK(&range));
            mark(marks, "locks", format!(":{} ", meta.ino()));
            self.keep(Some(file));
        }
        let shared = File::open(&path);
        if let Ok(file) = shared
            && file.lock_shared().is_ok()
        {
            self.keep(Some(file));
        }
    }

    fn queues(&mut self, look: &Look) {
        let attr = MqAttr::new(0, 10, 8192, 0);
        let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_RDWR;
        for name in queue_names(&look.tag) {
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            self.queues.extend(mq_open(name.as_str(), flags, mode, Some(&attr)).ok());
        }
    }

    /// As many pages of pipes as a user may have without privilege, and some
    /// more; pipe(7), /proc/sys/fs/pipe-user-pages-soft.
    fn pipes(&mut self) {
        for _ in 0..100 {
            let Ok((read, write)) = nix::unistd::pipe() else { return };
            let _ = fcntl(&read, FcntlArg::F_SETPIPE_SZ(1 << 20));
            self.keep(Some(read));
            self.keep(Some(write));
        }
    }

    /// Connections and datagrams, of a fixed number.
    pub fn work(&self) {
        let Some(at) = self.server.as_ref().and_then(|s| s.local_addr().ok()) else { return };
        for _ in 0..60 {
            let made = TcpStream::connect(at);
            let taken = self.server.as_ref().map(TcpListener::accept);
            drop((made, taken));
        }
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            for _ in 0..300 {
                let _ = socket.local_addr().and_then(|own| socket.send_to(b"x", own));
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for queue in self.queues.drain(..) {
            let _ = mq_close(queue);
        }
    }
}

/// Netlink sockets are listed once they have an address.
fn bound(socket: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    nix::sys::socket::bind(socket.as_raw_fd(), &nix::sys::socket::NetlinkAddr::new(0, 0)).is_ok()
}

pub fn queue_names(tag: &str) -> [String; 3] {
    [format!("/{tag}"), format!("/{tag}-2"), format!("/{tag}-3")]
}

fn mark(marks: &mut Marks, channel: &str, text: String) {
    marks.entry(channel.to_owned()).or_default().push(text);
}

/// What stays, also when the process is killed.
#[derive(Default)]
pub struct Left {
    alive: Option<Alive>,
}

impl Left {
    pub fn make(look: &Look, marks: &mut Marks) -> Self {
        // First: whatever has no sign of life beside it is nobody's to remove.
        let alive = Alive::begin(&look.tag, &kept());
        let small = Path::new("/tmp").join(format!("{}.d", look.tag));
        let _ = fs::create_dir(&small);
        for number in 0..FILES {
            let _ = fs::write(small.join(number.to_string()), "x");
        }
        for path in large(&look.tag, home().as_deref()) {
            let filled = File::create(&path).map(|file| posix_fallocate(&file, 0, LARGE));
            drop(filled);
        }
        let _ = fs::create_dir(Path::new("/run").join(&look.tag));
        for kind in ["sysv_shm", "sysv_sem", "sysv_msg"] {
            mark(marks, kind, format!("{} ", key()));
        }
        for number in 0..20 {
            if let Ok(name) = CString::new(format!("{}-{number}", look.tag)) {
                let _ = probe::add_user_key(&name);
            }
        }
        let _ = probe::system_v(key(), 1 << 20);
        make_groups(&look.tag);
        Self { alive }
    }

    pub fn remove(&mut self, look: &Look) {
        dead::remove(&look.tag, &kept());
        forget_pages(look);
        self.alive = None;
    }
}

fn kept() -> Kept {
    Kept { home: home(), key: key() }
}

/// The process's number: nobody else makes a key of it at this moment.
fn key() -> i32 {
    0x4456_0000 | (std::process::id() as i32 & 0xffff)
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from)
}

/// Every file and directory that a neighbour makes.
pub fn files(tag: &str, home: Option<&Path>) -> Vec<PathBuf> {
    let in_tmp = ["d", "sock", "lock"].map(|end| Path::new("/tmp").join(format!("{tag}.{end}")));
    let mut all = large(tag, home);
    all.extend(in_tmp);
    all.push(Path::new("/run").join(tag));
    all
}

/// One file on each file system that a user writes to.
fn large(tag: &str, home: Option<&Path>) -> Vec<PathBuf> {
    let dirs = ["/tmp", "/var/tmp", "/dev/shm"].map(Path::new).into_iter().chain(home);
    dirs.map(|dir| dir.join(format!("{tag}.large"))).collect()
}

/// Where its control groups may be.
pub fn group_places(tag: &str) -> [PathBuf; 2] {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(|top| Path::new(top).join(format!("denovo-{tag}")))
}

/// Control groups, where this user may make some.
fn make_groups(tag: &str) {
    for dir in group_places(tag) {
        let is_v2 = dir.parent().is_some_and(|top| top.join("cgroup.procs").exists());
        if is_v2 && fs::create_dir(&dir).is_ok() {
            for number in 0..12 {
                let _ = fs::create_dir(dir.join(number.to_string()));
            }
            break;
        }
    }
}

/// Writes to the disk, reads the distribution's files.
pub fn write_and_read(look: &Look) {
    let path = Path::new("/var/tmp").join(format!("{}.large", look.tag));
    if let Ok(mut file) = File::options().write(true).open(path) {
        let block = vec![7u8; 1 << 20];
        for _ in 0..8 {
            let _ = file.write_all(&block);
        }
        let _ = file.sync_all();
    }
    for path in [&look.watched, &look.unread].into_iter().flatten() {
        let mut all = Vec::new();
        let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut all));
    }
}

/// As if nobody had read them.
fn forget_pages(look: &Look) {
    if let Some(file) = look.watched.as_ref().and_then(|path| File::open(path).ok()) {
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}
