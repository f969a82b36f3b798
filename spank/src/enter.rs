//! Entering: control groups, namespaces, the directory, the privileges.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use crate::monitor::{self, Step};

const CLONE_NEWPID: i32 = libc::CLONE_NEWPID;

fn last(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

fn done(rc: i64, what: &str) -> Result<(), String> {
    if rc < 0 { Err(last(what)) } else { Ok(()) }
}

/// As root behind the user: this thread's children are born into the
/// environment's pid namespace. Gives the one that they were born into before.
pub fn lead_into_pids(step: &Step) -> Result<Option<OwnedFd>, String> {
    let Some(pids) = step.namespaces.iter().find(|n| n.flag == CLONE_NEWPID) else {
        return Ok(None);
    };
    as_root(|| {
        let path = c"/proc/thread-self/ns/pid_for_children";
        // SAFETY: a literal; the result is checked before it is owned.
        let own = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        done(i64::from(own), "pid_for_children")?;
        // SAFETY: own is open and nobody else's.
        let own = unsafe { OwnedFd::from_raw_fd(own) };
        // SAFETY: plain numbers.
        let rc = unsafe { libc::setns(pids.fd.as_raw_fd(), CLONE_NEWPID) };
        done(i64::from(rc), "setns of the pid namespace")?;
        Ok(Some(own))
    })
}

pub fn come_back_to_pids(own: &OwnedFd) -> Result<(), String> {
    as_root(|| {
        // SAFETY: plain numbers.
        let rc = unsafe { libc::setns(own.as_raw_fd(), CLONE_NEWPID) };
        done(i64::from(rc), "setns back to slurmstepd's pid namespace")
    })
}

/// With the effective uid of root, which slurmstepd keeps as its real one.
fn as_root<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // SAFETY: these calls take and give plain numbers. Only this thread's ids
    // are changed, by the system call itself: what other threads of
    // slurmstepd do meanwhile is none of our business.
    unsafe {
        let before = libc::geteuid();
        if before == 0 {
            return work();
        }
        done(libc::syscall(libc::SYS_setresuid, -1, 0, -1), "seteuid")?;
        let result = work();
        if libc::syscall(libc::SYS_setresuid, -1, before, -1) < 0 {
            // To go on with the wrong rights would be worse.
            libc::abort();
        }
        result
    }
}

/// As root, in the task: the environment's groups, but where the scheduler
/// has one of its own for the job: its limits hold there, and it finds the
/// job's processes by it. The monitor is told of those.
pub fn groups(step: &Step, base: &Path, job: u64) -> Result<(), String> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut held = false;
    let mut schedulers = |controllers: &[String]| {
        let theirs = in_schedulers(&own, controllers, job);
        held |= theirs;
        theirs
    };
    for (controllers, door) in &step.v1_doors {
        if !schedulers(controllers) {
            // SAFETY: one byte of a literal.
            let rc = unsafe { libc::write(door.as_raw_fd(), c"0".as_ptr().cast(), 1) };
            done(rc as i64, &format!("the control group of {}", controllers.join(",")))?;
        }
    }
    if let Some(group) = step.v2_door.as_ref().filter(|_| !schedulers(&[])) {
        // SAFETY: a literal; the descriptor is closed below.
        unsafe {
            let fd = libc::openat(
                group.as_raw_fd(),
                c"cgroup.procs".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            );
            done(i64::from(fd), "cgroup.procs")?;
            let rc = libc::write(fd, c"0".as_ptr().cast(), 1);
            let result = done(rc as i64, "the control group");
            libc::close(fd);
            result?;
        }
    }
    let cpus = if held { monitor::within(base, job, &own)? } else { step.cpus.clone() };
    if !cpus.is_empty() {
        // SAFETY: all zeroes is an empty set, and CPU_SET checks the number.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            cpus.iter().for_each(|cpu| libc::CPU_SET(*cpu, &mut set));
            let rc = libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
            done(i64::from(rc), "sched_setaffinity")?;
        }
    }
    Ok(())
}

/// Whether the hierarchy with these controllers (v2: none) has us in a group
/// of the job's: Slurm names it `job_ID` on every version.
fn in_schedulers(own: &str, controllers: &[String], job: u64) -> bool {
    let wanted = format!("job_{job}");
    own.lines().any(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next(), fields.next(), fields.next());
        let names: Vec<&str> =
            names.unwrap_or_default().split(',').filter(|n| !n.is_empty()).collect();
        let same = if controllers.is_empty() {
            names.is_empty()
        } else {
            names.iter().any(|name| controllers.iter().any(|c| c == name))
        };
        same && path.unwrap_or_default().split('/').any(|part| part == wanted)
    })
}

/// As the user, in the task, just before its program. Gives what its user should hear
/// of the directory that it is in.
pub fn environment(
    step: &Step,
    home: Option<&str>,
    brought: &[(String, OwnedFd)],
    terminal: Option<&(String, OwnedFd)>,
) -> Result<Option<String>, String> {
    let here = std::env::current_dir().ok();
    let outside: Vec<Option<(u64, u64)>> = brought.iter().map(|(path, _)| identity(path)).collect();
    for namespace in step.namespaces.iter().filter(|n| n.flag != CLONE_NEWPID) {
        // SAFETY: plain numbers.
        let rc = unsafe { libc::setns(namespace.fd.as_raw_fd(), namespace.flag) };
        done(i64::from(rc), &format!("setns ({:#x})", namespace.flag))?;
    }
    for ((path, mount), outside) in brought.iter().zip(outside) {
        // Another rank was here first.
        if outside.is_none() || identity(path) != outside {
            attach(path, mount)?;
        }
    }
    if let Some((path, mount)) = terminal {
        // Without a name it is a terminal as well.
        let _ = name_terminal(path, mount);
    }
    let missed = stand_where(here.as_deref(), home);
    own_part_of_queues();
    give_up_privileges(step.bounding)?;
    filter(step)?;
    Ok(missed)
}

/// In the task's own directory, else at home, else in the root; says where not.
fn stand_where(here: Option<&Path>, home: Option<&str>) -> Option<String> {
    let can = |place: &Path| std::env::set_current_dir(place).is_ok();
    if here.is_some_and(can) {
        return None;
    }
    let place = home.filter(|dir| can(Path::new(dir))).unwrap_or("/");
    if place == "/" {
        let _ = std::env::set_current_dir("/");
    }
    here.map(|dir| format!("{} is not in the job's environment: in {place} instead", dir.display()))
}

/// Half of the bytes of message queues that the user may have, as for every process of
/// a job (denovo's `host::shares`); up to the hard limit it may have more. Best effort:
/// without it the job works as well.
fn own_part_of_queues() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one structure of that size, or nothing, and reads it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_MSGQUEUE, &raw mut limit) == 0
            && limit.rlim_max != libc::RLIM_INFINITY
        {
            limit.rlim_cur = limit.rlim_cur.min(limit.rlim_max / 2);
            libc::setrlimit(libc::RLIMIT_MSGQUEUE, &raw const limit);
        }
    }
}

/// The filter of a job's processes; who answers for it gets its listener.
fn filter(step: &Step) -> Result<(), String> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    const NEW_LISTENER: u32 = 1 << 3;
    let mut taken = Ok(());
    for (program, flags) in &step.filters {
        let len = u16::try_from(program.len() / 8).map_err(|e| e.to_string())?;
        let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
        // SAFETY: the kernel copies the program byte by byte and only reads it;
        // len counts whole instructions.
        let rc =
            unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, *flags, &raw const prog) };
        taken = done(rc, "seccomp");
        if taken.is_ok() && flags & NEW_LISTENER != 0 {
            // SAFETY: the call succeeded, so that it is a descriptor of ours alone.
            let listener = unsafe { OwnedFd::from_raw_fd(rc as i32) };
            return monitor::answer(step, &listener);
        }
        if taken.is_ok() {
            break;
        }
    }
    taken
}

fn identity(path: &str) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// As root: a detached mount of a directory, read-only.
pub fn copy_of_mount(path: &str) -> Result<OwnedFd, String> {
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    let attributes = Attributes { set, clear: 0, propagation: 0, user_namespace: 0 };
    let name = CString::new(path).map_err(|e| e.to_string())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: path and attributes have the sizes given and outlive the calls;
    // the descriptor is checked before it is owned.
    unsafe {
        let fd = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags);
        done(fd, path)?;
        let mount = OwnedFd::from_raw_fd(fd as i32);
        let rc = libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<Attributes>(),
        );
        done(rc, path)?;
        Ok(mount)
    }
}

/// The terminal that Slurm has made for the task (`srun --pty`), by its name outside.
pub fn terminal() -> Option<String> {
    let path = std::fs::read_link("/proc/self/fd/0").ok()?;
    let number = path.to_str()?.strip_prefix("/dev/pts/")?;
    number.bytes().all(|b| b.is_ascii_digit()).then(|| format!("/dev/pts/{number}"))
}

/// Gives it a name inside, where /dev/pts has terminals of its own: else ttyname(3)
/// finds none, and tmux and gpg do not start.
fn name_terminal(path: &str, mount: &OwnedFd) -> Result<(), String> {
    let inside = path.replacen("/dev/pts/", "/dev/pts-", 1);
    // One that is there already is not opened: it may be a terminal.
    match std::fs::OpenOptions::new().write(true).create_new(true).open(&inside) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(format!("{inside}: {e}"));
        }
        _ => {}
    }
    put(&inside, mount)
}

/// Mounts a detached tree where it is outside.
fn attach(path: &str, mount: &OwnedFd) -> Result<(), String> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|e| format!("{path}: {e}"))?;
    put(path, mount)
}

fn put(path: &str, mount: &OwnedFd) -> Result<(), String> {
    let to = CString::new(path).map_err(|e| e.to_string())?;
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    done(rc, &format!("mounting {path}"))
}

/// Entering the user namespace gave every capability in it; the program gets
/// those of `bounding` at most, and no way to more.
fn give_up_privileges(bounding: u64) -> Result<(), String> {
    // SAFETY: plain numbers.
    unsafe {
        for capability in 0..64 {
            if bounding >> capability & 1 == 0
                && libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) == 1
            {
                let rc = libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
                done(i64::from(rc), "dropping a capability")?;
            }
        }
        let ambient = libc::PR_CAP_AMBIENT_CLEAR_ALL;
        libc::prctl(libc::PR_CAP_AMBIENT, ambient, 0, 0, 0);
        done(i64::from(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)), "no_new_privs")
    }
}
