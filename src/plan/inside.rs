//! The steps that the child of the clone takes, in its new namespaces.
//!
//! Each is lowered already: texts are C strings, numbers are what the system
//! call takes, so that the child only makes system calls.

use std::fmt;

use serde::Serialize;

use crate::policy::spec::{
    Capabilities, Clocks, Device, Fixture, Hook, Kind, MemoryPolicy, MountAttributes, MountSource,
    NetDevice, Rlimit, Scheduler, User, Writes,
};
use crate::policy::text::CText;

/// One step inside. They are undone by the end of the namespaces, so none has
/// an undo of its own.
#[derive(Debug, Clone, Serialize)]
pub enum Inside {
    /// Write "0" to the `tasks` file of each cgroup v1 group: about 5 µs
    /// each, where a pid in cgroup.procs waits for a grace period.
    EnterGroups,
    NewCgroupNamespace,
    /// A new time namespace for the processes started from here.
    NewClocks(Clocks),
    /// Open what lies outside the root while this process still has the ids of
    /// the caller: those of the new user namespace may not be able to search
    /// the directories above.
    OpenOutside(Vec<CText>),
    /// Take on these ids of the new user namespace.
    BecomeSetupUser {
        uid: u32,
        gid: u32,
    },
    NewSession,
    NewKeyring(CText),
    /// Propagation of every mount that came along from the caller.
    Detach(u64),
    RootDirectory {
        path: CText,
    },
    RootOverlay {
        lower: CText,
        /// It is a mount attached nowhere: it is taken in first.
        handed: bool,
        writes: Writes,
        anchor: CText,
        /// Put into the upper layer before it is mounted: in a user
        /// namespace nobody may write into directories of unmapped owners.
        own: Vec<Fixture>,
        /// Where something will be mounted, with the path that is bound there.
        points: Vec<(CText, Option<CText>)>,
    },
    RootEmpty {
        writes: Writes,
        anchor: CText,
    },
    Put(Fixture),
    /// A node made with mknod(2).
    MakeDevice(Device),
    /// The node's own device bound in, where mknod(2) is not allowed.
    BindDevice(Device),
    DeviceLinks,
    /// A terminal from the environment's own devpts, as /dev/console too.
    Console {
        rows: u16,
        columns: u16,
    },
    /// Devices of the node's that the parent moves into this process's network
    /// namespace.
    NetDevices(Vec<NetDevice>),
    /// Hooks that run in the runtime's namespaces: the parent takes over.
    RuntimeHooks,
    ContainerHooks(Vec<Hook>),
    /// The network namespace that the parent has made meanwhile.
    EnterNetwork,
    Loopback,
    Hostname(CText),
    Domainname(CText),
    Sysctl {
        path: CText,
        value: CText,
    },
    ReadonlyPath(CText),
    MaskedPath(CText),
    /// A tmpfs that is read-only once everything in it is placed.
    ReadonlyMount(CText),
    ReadonlyRoot,
    PivotRoot,
    /// Enter the root without pivot_root(2) (`--no-pivot`).
    Chroot,
    /// Back to the runtime's mount namespace, with the root that was made
    /// aside (docs/decisions/0032).
    SharedMounts,
    /// Enter the root of a container that has the runtime's mount namespace.
    RootOf(CText),
    /// Propagation of the root once it is entered (OCI `rootfsPropagation`).
    RootPropagation(u64),
    OomScore(i32),
    Rlimit(Rlimit),
    /// CPUs by sched_setaffinity(2), where no control group can hold them.
    Affinity(Vec<u32>),
    Umask(u32),
    /// personality(2).
    Personality(u32),
    /// set_mempolicy(2).
    MemoryPolicy(MemoryPolicy),
    /// ioprio_set(2).
    IoPriority(u16),
    /// sched_setattr(2).
    Scheduler(Scheduler),
    /// The label that the kernel gives this process when it executes.
    Label {
        lsm: Lsm,
        label: CText,
    },
    /// No gain of privilege by exec(2) from here on.
    NoNewPrivileges,
    /// Take on the process's ids and capabilities.
    Become {
        user: User,
        capabilities: Option<Capabilities>,
    },
    Seccomp,
    WorkingDirectory(CText),
    /// The first of these that exists.
    FirstDirectory(Vec<CText>),
    FindProgram,
    /// Wait for `start` on the container's start socket.
    AwaitStart,
    StartHooks(Vec<Hook>),
    Exec(CText),
    /// Stay as the environment's first process: start, reap, end.
    Init,
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Inside::*;
        match self {
            EnterGroups => f.write_str("enter the control groups"),
            NewCgroupNamespace => f.write_str("new cgroup namespace, rooted there"),
            NewClocks(Clocks::JustBooted) => f.write_str("new clocks, as just after boot"),
            NewClocks(Clocks::Offsets { monotonic, boottime }) => {
                write!(f, "new clocks, offset by {monotonic:?} and {boottime:?}")
            }
            OpenOutside(paths) => {
                let names: Vec<String> = paths.iter().map(ToString::to_string).collect();
                write!(f, "open as the caller: {}", names.join(", "))
            }
            BecomeSetupUser { uid, gid } => {
                write!(f, "act as uid {uid}, gid {gid} of the new user namespace")
            }
            NewSession => f.write_str("new session (setsid)"),
            NewKeyring(name) => write!(f, "new session keyring {name}"),
            Detach(flags) => write!(f, "make every mount {}", propagation_name(*flags)),
            RootDirectory { path } => write!(f, "root: the directory {path}"),
            RootOverlay { lower, handed, writes, anchor, own, .. } => write!(
                f,
                "root: overlay over {}{lower} with {} entries of its own, {} (built at {anchor})",
                if *handed { "the mount " } else { "" },
                own.len(),
                writes_name(writes)
            ),
            RootEmpty { writes, anchor } => {
                write!(f, "root: empty, {} (built at {anchor})", writes_name(writes))
            }
            Put(fixture) => fixture_line(fixture, f),
            MakeDevice(d) => {
                write!(f, "device {} {}:{} mode {:o}", d.path, d.major, d.minor, d.mode)
            }
            BindDevice(d) => write!(f, "device {} from the node", d.path),
            DeviceLinks => f.write_str("links /dev/{fd,stdin,stdout,stderr,ptmx}"),
            Console { rows, columns } => write!(f, "terminal of {rows} rows, {columns} columns"),
            NetDevices(devices) => {
                let names: Vec<String> =
                    devices.iter().map(|d| format!("{} as {}", d.host, d.name)).collect();
                write!(f, "move in the network device {}", names.join(", "))
            }
            RuntimeHooks => f.write_str("hooks in the runtime's namespaces"),
            ContainerHooks(h) => write!(f, "{} createContainer hooks", h.len()),
            EnterNetwork => f.write_str("enter the new network namespace"),
            Loopback => f.write_str("bring up the loopback interface"),
            Hostname(name) => write!(f, "hostname {name}"),
            Domainname(name) => write!(f, "domain name {name}"),
            Sysctl { path, value } => write!(f, "sysctl {path} = {value}"),
            ReadonlyPath(path) => write!(f, "read-only {path}"),
            MaskedPath(path) => write!(f, "mask {path}"),
            ReadonlyMount(path) => write!(f, "read-only from here on: {path}"),
            ReadonlyRoot => f.write_str("root read-only"),
            PivotRoot => f.write_str("enter the root (pivot_root), let go of the old one"),
            Chroot => f.write_str("enter the root (chroot)"),
            SharedMounts => f.write_str("back to the runtime's mount namespace, in the same root"),
            RootOf(path) => write!(f, "enter the root {path} (chroot)"),
            RootPropagation(flags) => write!(f, "make the root {}", propagation_name(*flags)),
            OomScore(score) => write!(f, "oom_score_adj {score}"),
            Rlimit(r) => write!(f, "rlimit {} = {}:{}", r.resource, r.soft, r.hard),
            Affinity(cpus) => write!(f, "run on CPUs {cpus:?}"),
            Umask(mask) => write!(f, "umask {mask:03o}"),
            Personality(0) => f.write_str("personality LINUX"),
            Personality(number) => write!(f, "personality {number:#x}"),
            MemoryPolicy(policy) => {
                write!(f, "memory policy {:#x} of nodes {:?}", policy.mode, policy.nodes)
            }
            IoPriority(value) => {
                write!(f, "I/O priority class {}, level {}", value >> 13, value & 0x1fff)
            }
            Scheduler(s) => scheduler_line(s, f),
            Label { lsm: Lsm::AppArmor, label } => write!(f, "AppArmor profile {label}"),
            Label { lsm: Lsm::SeLinux, label } => write!(f, "SELinux label {label}"),
            NoNewPrivileges => f.write_str("no new privileges"),
            Become { user, capabilities } => {
                write!(f, "become uid {}, gid {}", user.uid, user.gid)?;
                match capabilities {
                    Some(c) => {
                        write!(f, ", capabilities {:#x}, at most {:#x}", c.effective, c.bounding)
                    }
                    None => Ok(()),
                }
            }
            Seccomp => f.write_str("system call filter"),
            WorkingDirectory(path) => write!(f, "working directory {path}"),
            FirstDirectory(all) => {
                let all: Vec<String> = all.iter().map(ToString::to_string).collect();
                write!(f, "working directory {}", all.join(", else "))
            }
            FindProgram => f.write_str("look for the program"),
            AwaitStart => f.write_str("wait for start"),
            StartHooks(h) => write!(f, "{} startContainer hooks", h.len()),
            Exec(program) => write!(f, "exec {program}"),
            Init => f.write_str("stay as the environment's init"),
        }
    }
}

fn scheduler_line(s: &Scheduler, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "scheduler policy {}, nice {}, priority {}", s.policy, s.nice, s.priority)?;
    if s.period != 0 || s.runtime != 0 {
        write!(f, ", {} of {} ns every {} ns", s.runtime, s.deadline, s.period)?;
    }
    Ok(())
}

fn writes_name(writes: &Writes) -> String {
    match writes {
        Writes::Memory { bytes } => format!("writes in memory, at most {} MiB", bytes >> 20),
        Writes::Scratch { dir } => format!("writes in {dir}"),
    }
}

fn fixture_line(fixture: &Fixture, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match fixture {
        Fixture::Directory { path, mode } => write!(f, "directory {path} mode {mode:o}"),
        Fixture::Symlink { path, target } => write!(f, "link {path} -> {target}"),
        Fixture::File { path, contents, mode } => {
            write!(f, "file {path} mode {mode:o}, {} bytes", contents.len())
        }
        Fixture::Layered { path, lower, hide, files } => write!(
            f,
            "overlay of the node's {lower} on {path}, {} entries hidden, {} files of its own",
            hide.len(),
            files.len()
        ),
        Fixture::Devices { path, devices, owner: (uid, gid) } => {
            write!(f, "tmpfs on {path} for {uid}:{gid} with devices of root's making:")?;
            devices.iter().try_for_each(|d| write!(f, " {}", d.path))
        }
        Fixture::Views { uid, gid } => {
            write!(f, "mount the job's own view of the machine (FUSE) for {uid}:{gid}")
        }
        Fixture::View { path, name } => write!(f, "the job's own {name} on {path}"),
        Fixture::Cover { path, contents } => {
            write!(f, "cover {path} with {} bytes of its own", contents.len())
        }
        Fixture::Mount(m) => {
            match &m.source {
                MountSource::Bind { path, recursive } => {
                    let all = if *recursive { " with all below" } else { "" };
                    write!(f, "bind {path}{all} on {}", m.destination)?;
                }
                MountSource::New { fstype, data, flags, .. } => {
                    write!(f, "mount {fstype} on {}", m.destination)?;
                    if !data.is_empty() {
                        write!(f, " ({data})")?;
                    }
                    if flags & libc::MS_RDONLY != 0 {
                        f.write_str(" read-only")?;
                    }
                }
                MountSource::Cgroup => write!(f, "the own control groups on {}", m.destination)?,
            }
            let attributes = m.attributes;
            if attributes != MountAttributes::default() {
                write!(f, ", {}", attribute_names(attributes.set | attributes.set_recursive))?;
            }
            if let Some(ids) = &m.id_map {
                f.write_str(if ids.recursive {
                    ", owners mapped, below too"
                } else {
                    ", owners mapped"
                })?;
            }
            Ok(())
        }
    }
}

fn attribute_names(set: u64) -> String {
    let names = [
        (libc::MOUNT_ATTR_RDONLY, "read-only"),
        (libc::MOUNT_ATTR_NOSUID, "nosuid"),
        (libc::MOUNT_ATTR_NODEV, "nodev"),
        (libc::MOUNT_ATTR_NOEXEC, "noexec"),
    ];
    let found: Vec<&str> =
        names.iter().filter(|(bit, _)| set & bit != 0).map(|(_, name)| *name).collect();
    found.join(",")
}

fn propagation_name(flags: u64) -> String {
    let kind = match flags & !libc::MS_REC {
        libc::MS_SHARED => "shared",
        libc::MS_SLAVE => "slave",
        libc::MS_PRIVATE => "private",
        libc::MS_UNBINDABLE => "unbindable",
        _ => "as it is",
    };
    if flags & libc::MS_REC == 0 { kind.to_owned() } else { format!("{kind}, with all below") }
}

/// A security module of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Lsm {
    AppArmor,
    SeLinux,
}

/// A namespace entered by path before the clone.
#[derive(Debug, Clone, Serialize)]
pub struct Join {
    pub kind: Kind,
    pub path: CText,
}
