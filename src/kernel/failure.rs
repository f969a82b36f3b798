//! From a failed step to a sentence: what, on what, why, and what to do.

use nix::errno::Errno;

use super::launch::Failure;
use crate::plan::Plan;
use crate::plan::inside::{Inside, Lsm};
use crate::policy::spec::{Fixture, MountSource};
use crate::problem::Problem;

/// Exit codes that callers know: 126 not executable, 127 not found, 125 denovo.
pub fn exit_code(plan: &Plan, failure: &Failure) -> i32 {
    match (step(plan, failure), failure.errno) {
        (Some(Inside::Exec(_) | Inside::FindProgram), Errno::ENOENT | Errno::ENOTDIR) => 127,
        (Some(Inside::Exec(_) | Inside::FindProgram), _) => 126,
        _ => 125,
    }
}

fn step<'p>(plan: &'p Plan, failure: &Failure) -> Option<&'p Inside> {
    failure.step.and_then(|index| plan.inside.get(index))
}

/// The sentence for a failure of `plan`.
pub fn explain(plan: &Plan, failure: &Failure) -> Problem {
    if let Some(note) = &failure.note {
        return Problem::user(note.clone());
    }
    match step(plan, failure) {
        None => before_steps(plan, failure),
        Some(Inside::Exec(program)) => exec(&program.to_string_lossy(), plan, failure.errno),
        Some(Inside::FindProgram) => {
            let name = plan.program.as_ref().map(|p| p.args[0].to_string_lossy());
            exec(&name.unwrap_or_default(), plan, failure.errno)
        }
        Some(step) => inside(step, failure),
    }
}

fn describe(errno: Errno) -> &'static str {
    errno.desc()
}

fn before_steps(plan: &Plan, failure: &Failure) -> Problem {
    let errno = failure.errno;
    if plan.launch.new_user()
        && matches!(errno, Errno::EPERM | Errno::ENOSPC | Errno::EUSERS)
        && failure.call == "clone3"
    {
        return crate::host::user_namespace::why_no_user_namespace(errno);
    }
    let problem = Problem::kernel(format!(
        "cannot start the environment: {}: {}",
        failure.call,
        describe(errno)
    ));
    match (&failure.call[..], errno) {
        ("clone3", Errno::EPERM) => problem
            .hint("new namespaces need CAP_SYS_ADMIN or a user namespace: denovo spec --rootless"),
        ("clone3", Errno::EINVAL) => problem
            .hint("this kernel lacks one of the namespaces asked for; denovo explain lists them"),
        ("clone3", Errno::ENOSPC) => {
            problem.hint("a limit in /proc/sys/user/max_*_namespaces is reached")
        }
        ("clone3", Errno::EAGAIN) => {
            problem.hint("the limit of processes is reached (ulimit -u, pids of the cgroup)")
        }
        ("newuidmap" | "newgidmap", Errno::ENOENT) => {
            problem.hint("install it (Debian's package uidmap), or map one id only")
        }
        ("newuidmap" | "newgidmap", _) => {
            problem.hint("the ids mapped must be the caller's in /etc/subuid and /etc/subgid")
        }
        ("setns" | "open of a namespace", _) => problem
            .hint("the namespace's path must name one that exists and that the caller may enter"),
        _ => problem,
    }
}

/// With the words that callers of OCI runtimes look for.
fn exec(program: &str, plan: &Plan, errno: Errno) -> Problem {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR if program.contains('/') => {
            Problem::user(format!("exec {program:?}: no such file or directory"))
                .hint("the path is looked up inside the environment, and so is the interpreter of a script or the loader of a dynamic program")
        }
        Errno::ENOENT | Errno::ENOTDIR => {
            let path = plan.program.as_ref().and_then(|p| {
                p.env.iter().find_map(|e| e.to_string_lossy().strip_prefix("PATH=").map(str::to_owned))
            });
            Problem::user(format!("exec {program:?}: executable file not found in $PATH"))
                .hint(format!("PATH inside is {}", path.unwrap_or_else(|| "not set".into())))
        }
        Errno::EACCES => Problem::user(format!("exec {program:?}: permission denied"))
            .hint("it must be a file with execute permission for this user, on a file system not mounted noexec"),
        Errno::ENOEXEC => Problem::user(format!("exec {program:?}: exec format error"))
            .hint("it is neither a program for this processor nor a script that begins with #!"),
        errno => Problem::user(format!("exec {program:?}: {}", describe(errno))),
    }
}

fn inside(step: &Inside, failure: &Failure) -> Problem {
    let Failure { errno, call, .. } = failure;
    let field = field(step).map_or_else(String::new, |field| format!("{field}: "));
    let what = infinitive(step);
    let problem = Problem::kernel(format!("{field}cannot {what}: {call}: {}", describe(*errno)));
    match hint(step, *errno) {
        Some(text) => problem.hint(text),
        None => problem,
    }
}

/// The field of config.json that a step comes from, where its line alone does
/// not tell.
fn field(step: &Inside) -> Option<&'static str> {
    match step {
        Inside::Scheduler(_) => Some("process.scheduler"),
        Inside::IoPriority(_) => Some("process.ioPriority"),
        Inside::Label { lsm: Lsm::AppArmor, .. } => Some("process.apparmorProfile"),
        Inside::Label { lsm: Lsm::SeLinux, .. } => Some("process.selinuxLabel"),
        Inside::Personality(_) => Some("linux.personality"),
        Inside::MemoryPolicy(_) => Some("linux.memoryPolicy"),
        _ => None,
    }
}

/// The step's line as part of a sentence.
fn infinitive(step: &Inside) -> String {
    match step {
        Inside::Put(Fixture::Mount(_)) | Inside::EnterGroups | Inside::PivotRoot => {
            step.to_string()
        }
        Inside::MaskedPath(_)
        | Inside::Chroot
        | Inside::RootOf(_)
        | Inside::AwaitStart
        | Inside::Loopback => step.to_string(),
        other => format!("set up: {other}"),
    }
}

fn hint(step: &Inside, errno: Errno) -> Option<String> {
    match (step, errno) {
        (Inside::Put(Fixture::Mount(m)), Errno::ENODEV) => Some(format!(
            "this kernel does not have the file system of the mount on {}",
            m.destination
        )),
        (Inside::Put(Fixture::Mount(m)), Errno::ENOENT) => match &m.source {
            MountSource::Bind { path, .. } => Some(format!("{path} must exist on the node")),
            _ => None,
        },
        (Inside::Put(Fixture::Mount(m)), Errno::EPERM) if matches!(m.source, MountSource::New { .. }) => {
            Some("in a user namespace only some file systems can be mounted; a fresh proc needs a new pid namespace and an unmasked /proc outside, sysfs a new network namespace".into())
        }
        (Inside::Put(Fixture::Mount(m)), Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => Some(format!(
            "{} in the root must be a directory and no link",
            m.destination
        )),
        (Inside::Put(Fixture::Mount(m)), Errno::EINVAL | Errno::EPERM) if m.id_map.is_some() => {
            Some("the source's file system must allow id-mapped mounts (ext4, xfs, btrfs, tmpfs since Linux 6.3, …; not proc or sysfs, nor one that is id-mapped already)".into())
        }
        (Inside::Scheduler(_), Errno::EPERM) => Some(
            "it takes CAP_SYS_NICE; realtime scheduling also takes linux.resources.cpu.realtimeRuntime where cgroup v1 divides it, and SCHED_DEADLINE the CPUs of no cpuset".into(),
        ),
        (Inside::Scheduler(_), _) => {
            Some("sched(7) says which values go with which policy; the kernel admits no SCHED_DEADLINE beyond the CPU time that is left".into())
        }
        (Inside::IoPriority(_), Errno::EPERM) => {
            Some("the class IOPRIO_CLASS_RT takes CAP_SYS_NICE or CAP_SYS_ADMIN; use IOPRIO_CLASS_BE".into())
        }
        (Inside::MemoryPolicy(_), Errno::EINVAL) => {
            Some("linux.memoryPolicy must name nodes of this machine that the container's cpuset allows (numactl -H), in a mode that this kernel has".into())
        }
        (Inside::MemoryPolicy(_), Errno::ENOSYS) => {
            Some("this kernel has no NUMA (CONFIG_NUMA); leave linux.memoryPolicy out".into())
        }
        (Inside::Label { .. }, Errno::ENOENT | Errno::EINVAL) => {
            Some("the profile or label must be known to the kernel: load it first (apparmor_parser, semodule)".into())
        }
        (Inside::Affinity(_), Errno::EINVAL) => {
            Some("none of these CPUs is one that the control groups allow".into())
        }
        (Inside::DeviceLinks, Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => {
            Some("/dev in the root must be a directory and no link".into())
        }
        (_, Errno::ENOSPC) => Some("the file system for the environment's writes is full".into()),
        (Inside::WorkingDirectory(path), Errno::ENOENT) => {
            Some(format!("{path} must exist inside the environment"))
        }
        (Inside::Rlimit(_), Errno::EPERM) => {
            Some("raising a hard limit needs CAP_SYS_RESOURCE, which the caller lacks".into())
        }
        (Inside::RootDirectory { path } | Inside::RootOverlay { lower: path, .. }, Errno::EACCES) => {
            Some(format!("the caller must be able to search {path} and every directory above it"))
        }
        (Inside::RootOverlay { .. }, Errno::EPERM | Errno::ENODEV) => {
            Some("overlay in a user namespace needs Linux 5.11 or newer".into())
        }
        (Inside::NewClocks(_), Errno::EINVAL) => Some("this kernel has no time namespaces (Linux 5.6, CONFIG_TIME_NS)".into()),
        (Inside::Seccomp, Errno::EINVAL) => Some("this kernel has no seccomp filters, or refuses this one".into()),
        _ => None,
    }
}
