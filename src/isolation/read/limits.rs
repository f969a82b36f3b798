//! Limits that the kernel keeps for each user, and how much of them is left.

use nix::fcntl::{FcntlArg, fcntl};
use nix::mqueue::{MQ_OFlag, MqAttr, mq_close, mq_open, mq_unlink};
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe};

use super::{Channel, Look, Reading, number, text};
use crate::kernel::sys::{self, Forked};

pub const CHANNELS: &[Channel] = &[
    Channel::new("sigq", "SigQ in status", "signals of uid", |_| {
        let text = text("/proc/self/status")?;
        let line = text.lines().find_map(|l| l.strip_prefix("SigQ:"))?;
        number(line.trim().split('/').next()?.parse::<f64>().ok()?)
    })
    .level(30.0),
    Channel::new("nproc_used", "RLIMIT_NPROC probe", "tasks of uid", |_| {
        number(f64::from(tasks_of_user()?))
    })
    .level(40.0),
    Channel::new("inotify_left", "inotify_init until EMFILE", "instances of uid", |_| {
        inotify_left()
    })
    .level(10.0),
    Channel::new("pipe_size", "F_GETPIPE_SZ", "pipe pages of uid", |_| {
        let (read, _write) = pipe().ok()?;
        number(f64::from(fcntl(&read, FcntlArg::F_GETPIPE_SZ).ok()?))
    })
    .level(1.0),
    Channel::new(
        "mq_left",
        "mq_open until EMFILE",
        "queue bytes of uid, across ipc ns",
        queues_left,
    )
    .level(1.0),
];

/// Tasks that RLIMIT_NPROC counts, found by the lowest limit under which a
/// fork works. Not for who is above that limit.
fn tasks_of_user() -> Option<u16> {
    const MOST: u16 = 30_000;
    if fork_under(0)? || !fork_under(MOST)? {
        return None;
    }
    let (mut fails, mut works) = (0, MOST);
    while works - fails > 1 {
        let middle = fails + (works - fails) / 2;
        if fork_under(middle)? { works = middle } else { fails = middle }
    }
    Some(works)
}

/// Whether a child under that limit can make one of its own.
fn fork_under(limit: u16) -> Option<bool> {
    match sys::clone3(0, None).ok()? {
        Forked::Child => {
            let set = setrlimit(Resource::RLIMIT_NPROC, u64::from(limit), u64::from(limit));
            let made = set.is_ok() && fork_and_wait();
            sys::exit_now(i32::from(!made))
        }
        Forked::Parent(pid) => match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => Some(code == 0),
            _ => None,
        },
    }
}

fn fork_and_wait() -> bool {
    match sys::clone3(0, None) {
        Ok(Forked::Child) => sys::exit_now(0),
        Ok(Forked::Parent(pid)) => waitpid(Pid::from_raw(pid), None).is_ok(),
        Err(_) => false,
    }
}

/// `None` where the limit on descriptors is met first.
fn inotify_left() -> Option<Reading> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let mut held = Vec::new();
    while held.len() < 4096
        && let Ok(one) = Inotify::init(InitFlags::IN_CLOEXEC)
    {
        held.push(one);
    }
    // A descriptor more can be had, so it was the instances that ended.
    let instances = held.len() < 4096 && pipe().is_ok();
    let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    instances.then_some(())?;
    number(held.len() as f64)
}

/// How many queues of some 80 KiB can still be opened.
fn queues_left(look: &Look) -> Option<Reading> {
    let attr = MqAttr::new(0, 10, 8192, 0);
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_RDWR | MQ_OFlag::O_EXCL;
    let mut held = Vec::new();
    while held.len() < 64 {
        let name = format!("/{}-{}-{}", look.tag, std::process::id(), held.len());
        match mq_open(name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR, Some(&attr)) {
            Ok(queue) => held.push((name, queue)),
            Err(_) => break,
        }
    }
    let left = held.len();
    for (name, queue) in held {
        let _ = mq_close(queue);
        let _ = mq_unlink(name.as_str());
    }
    (0 < left && left < 64).then_some(())?;
    number(left as f64)
}
