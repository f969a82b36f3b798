//! The environment's monitor on this node: its socket, and the note that the
//! prolog left (denovo's src/supervise/protocol.rs and src/record/scheduler.rs).

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Longest packet, in bytes.
const LONGEST: usize = 256 * 1024;

/// Most descriptors that come with one.
const MOST: usize = 64;

/// Seconds that an answer may take: a loaded node is slow.
const PATIENCE: i64 = 60;

pub struct Namespace {
    /// `CLONE_NEW*`.
    pub flag: i32,
    pub fd: OwnedFd,
}

/// What the tasks of a step need to enter.
pub struct Step {
    /// In the order of entering.
    pub namespaces: Vec<Namespace>,
    /// `tasks` of each v1 group, with its controllers.
    pub v1_doors: Vec<(Vec<String>, OwnedFd)>,
    pub v2_door: Option<OwnedFd>,
    pub bounding: u64,
    pub cpus: Vec<usize>,
    pub bundle: String,
    pub unset: Vec<String>,
    pub moved: Vec<(String, String)>,
    pub set: Vec<String>,
    /// Instructions of 8 bytes, and the flags of seccomp(2); the first that
    /// the kernel gives is taken.
    pub filters: Vec<(Vec<u8>, u32)>,
    /// Kept open: as long as it is, the step counts as being inside.
    socket: OwnedFd,
}

/// What the prolog did for the job.
pub enum Prolog {
    Step(Box<Step>),
    /// The user wants no environment.
    None,
    Refused(String),
    /// It made an environment, which is no more: its monitor or first process was
    /// killed.
    Lost,
    /// No word of it.
    Absent,
}

/// Asks for what the tasks of this step need; root only. `memory` in bytes.
pub fn step(base: &Path, job: u64, memory: Option<u64>) -> Result<Prolog, String> {
    let id = format!("slurm-{job}");
    let socket = match connect(&base.join("jobs").join(&id).join("socket")) {
        Ok(socket) => socket,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ECONNREFUSED)) => {
            return Ok(noted(base, &id));
        }
        Err(e) => return Err(format!("the environment of job {job}: {e}")),
    };
    let (reply, fds) = ask(&socket, &json!({ "step": { "memory": memory } }))?;
    let step = reply.get("step").ok_or_else(|| refusal(&reply))?;
    parse(step, fds, socket)
        .ok_or_else(|| "the monitor's answer does not fit".to_owned())
        .map(|s| Prolog::Step(Box::new(s)))
}

/// A detached mount of a directory of the caller's own on the node.
pub fn bring(base: &Path, job: u64, path: &str) -> Result<OwnedFd, String> {
    let socket = connect(&place(base, job)).map_err(|e| e.to_string())?;
    let (reply, mut fds) = ask(&socket, &json!({ "bring": { "path": path } }))?;
    match fds.pop() {
        Some(fd) if fds.is_empty() => Ok(fd),
        _ => Err(refusal(&reply)),
    }
}

/// Tells of the scheduler's groups that a task is in; gives the CPUs that the task
/// itself has to keep to. A connection of its own: the step's is shared by its tasks.
pub fn within(base: &Path, job: u64, groups: &str) -> Result<Vec<usize>, String> {
    let socket = connect(&place(base, job)).map_err(|e| e.to_string())?;
    let (reply, _) = ask(&socket, &json!({ "within": { "groups": groups } }))?;
    let held = reply.get("held").ok_or_else(|| refusal(&reply))?;
    Ok(numbers(&held["cpus"]))
}

/// Has the monitor look at what those groups have counted.
pub fn count(base: &Path, job: u64) -> Result<(), String> {
    let socket = connect(&place(base, job)).map_err(|e| e.to_string())?;
    ask(&socket, &json!("count")).map(drop)
}

fn place(base: &Path, job: u64) -> PathBuf {
    base.join("jobs").join(format!("slurm-{job}")).join("socket")
}

fn numbers(list: &Value) -> Vec<usize> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|n| usize::try_from(n.as_u64()?).ok()).collect()
}

/// The listener of a task's filter; there is no reply.
pub fn answer(step: &Step, listener: &OwnedFd) -> Result<(), String> {
    say(&step.socket, &json!("answer"), listener)
}

fn filter(pair: &Value) -> Option<(Vec<u8>, u32)> {
    Some((bytes(&pair[0])?, u32::try_from(pair[1].as_u64()?).ok()?))
}

fn bytes(list: &Value) -> Option<Vec<u8>> {
    list.as_array()?.iter().map(|n| u8::try_from(n.as_u64()?).ok()).collect()
}

fn refusal(reply: &Value) -> String {
    let why = reply.get("refused").and_then(|r| r.get("why")).and_then(Value::as_str);
    why.unwrap_or("the monitor's answer does not fit; is the plugin of another version?").to_owned()
}

fn noted(base: &Path, id: &str) -> Prolog {
    let text = std::fs::read(base.join("scheduler").join(id)).unwrap_or_default();
    let note: Value = serde_json::from_slice(&text).unwrap_or_default();
    let why = || note["why"].as_str().unwrap_or("no reason is known").to_owned();
    match note["phase"].as_str() {
        Some("none") => Prolog::None,
        Some("refused") => Prolog::Refused(why()),
        Some("made") => Prolog::Lost,
        _ => Prolog::Absent,
    }
}

fn parse(step: &Value, fds: Vec<OwnedFd>, socket: OwnedFd) -> Option<Step> {
    let mut fds = fds.into_iter();
    let mut namespaces = Vec::new();
    for kind in step["namespaces"].as_array()? {
        let flag = match kind.as_str()? {
            "User" => libc::CLONE_NEWUSER,
            "Cgroup" => libc::CLONE_NEWCGROUP,
            "Ipc" => libc::CLONE_NEWIPC,
            "Uts" => libc::CLONE_NEWUTS,
            "Net" => libc::CLONE_NEWNET,
            "Pid" => libc::CLONE_NEWPID,
            "Mount" => libc::CLONE_NEWNS,
            "Time" => 0x80,
            _ => return None,
        };
        namespaces.push(Namespace { flag, fd: fds.next()? });
    }
    let mut v1_doors = Vec::new();
    for controllers in step["v1_doors"].as_array()? {
        v1_doors.push((texts(controllers)?, fds.next()?));
    }
    let v2_door = if step["v2_door"].as_bool()? { Some(fds.next()?) } else { None };
    if fds.next().is_some() {
        return None;
    }
    let cpus = numbers(&step["cpus"]);
    let mut moved = Vec::new();
    for pair in step["moved"].as_array()? {
        moved.push((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned()));
    }
    Some(Step {
        namespaces,
        v1_doors,
        v2_door,
        bounding: step["bounding"].as_u64()?,
        filters: step["filters"].as_array()?.iter().map(filter).collect::<Option<_>>()?,
        cpus,
        bundle: step["bundle"].as_str()?.to_owned(),
        unset: texts(&step["unset"])?,
        moved,
        set: texts(&step["set"])?,
        socket,
    })
}

fn texts(list: &Value) -> Option<Vec<String>> {
    list.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: plain numbers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fd is open and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = name.as_bytes_with_nul();
    if bytes.len() > address.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let wait = libc::timeval { tv_sec: PATIENCE, tv_usec: 0 };
    // SAFETY: the option's value and the address have the sizes given and
    // outlive the calls.
    let rc = unsafe {
        for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                option,
                (&raw const wait).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            );
        }
        libc::connect(
            fd,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn ask(socket: &OwnedFd, request: &Value) -> Result<(Value, Vec<OwnedFd>), String> {
    let lost = || format!("the environment's monitor: {}", io::Error::last_os_error());
    let text = request.to_string();
    // SAFETY: the text outlives the call.
    let sent = unsafe {
        libc::send(socket.as_raw_fd(), text.as_ptr().cast(), text.len(), libc::MSG_NOSIGNAL)
    };
    if sent < 0 {
        return Err(lost());
    }
    let mut buffer = vec![0u8; LONGEST];
    let mut control = vec![0u64; 8 + MOST];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<u64>() * control.len();
    // SAFETY: both buffers have the lengths given and outlive the call.
    let length =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if length <= 0 {
        return Err(lost());
    }
    let fds = descriptors(&message);
    let reply = serde_json::from_slice(&buffer[..length as usize]).map_err(|e| e.to_string())?;
    Ok((reply, fds))
}

/// One packet with one descriptor; no answer comes.
fn say(socket: &OwnedFd, request: &Value, fd: &OwnedFd) -> Result<(), String> {
    let text = request.to_string();
    let mut control = [0u64; 4];
    let mut part = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
    // SAFETY: all zeroes is a valid msghdr; the control buffer has room for one
    // descriptor and its header, and both buffers outlive the call, which
    // only reads them.
    let sent = unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<i32>() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<i32>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd.as_raw_fd());
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent < 0 {
        return Err(format!("the environment's monitor: {}", io::Error::last_os_error()));
    }
    Ok(())
}

fn descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    // SAFETY: the kernel has filled the control buffer; CMSG_* walk what it
    // says is there, and each number in an SCM_RIGHTS part is a new
    // descriptor of ours alone.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let data = libc::CMSG_DATA(header).cast::<i32>();
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                for at in 0..bytes / size_of::<i32>() {
                    found.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    found
}
