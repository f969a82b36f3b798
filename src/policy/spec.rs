//! The checked, complete description of one environment.
//!
//! What stands here can be built: every path is absolute and free of `..`,
//! every number is in range, every name was looked up. An OCI config.json and
//! a job request both end as a [`Spec`]; the plan is made from nothing else.

use serde::{Deserialize, Serialize};

use super::text::CText;

/// One environment: an OCI container, or what one job has on one node.
#[derive(Debug, Clone, Serialize)]
pub struct Spec {
    pub root: Root,
    /// What is put into the root, in order: mounts, and for a job generated
    /// files, directories and links.
    pub fixtures: Vec<Fixture>,
    pub namespaces: Namespaces,
    /// Propagation of the whole root (`MS_*` flags for mount(2), such as
    /// `MS_SLAVE | MS_REC`); OCI `linux.rootfsPropagation`.
    pub propagation: u64,
    pub hostname: Option<CText>,
    pub domainname: Option<CText>,
    /// Device nodes for /dev, the default ones of the OCI spec included;
    /// empty when the environment has no own /dev.
    pub devices: Vec<Device>,
    /// Whether /dev gets the links and the ptmx that OCI asks for.
    pub own_dev: bool,
    /// Paths under /proc/sys with their values.
    pub sysctl: Vec<(CText, CText)>,
    pub masked_paths: Vec<CText>,
    pub readonly_paths: Vec<CText>,
    pub cgroup: Cgroup,
    pub intel_rdt: Option<IntelRdt>,
    /// Network devices of the node that become the environment's own.
    pub net_devices: Vec<NetDevice>,
    pub seccomp: Option<Seccomp>,
    pub hooks: Hooks,
    /// What runs first; `None` only for a bundle that leaves `process` out,
    /// which can be created but not started.
    pub process: Option<Process>,
    pub annotations: Vec<(String, String)>,
}

/// Where the root file system comes from.
#[derive(Debug, Clone, Serialize)]
pub enum Root {
    /// A directory, used as it is.
    Directory { path: CText, readonly: bool },
    /// An overlay over `lower`, which stays as it is; gone at the end.
    Overlay {
        lower: CText,
        /// `lower` is a mount attached nowhere, by its descriptor.
        handed: bool,
        writes: Writes,
        /// Files and directories of this environment's own, in place of or
        /// beside the image's.
        own: Vec<Fixture>,
    },
    /// An empty root, made up by the fixtures.
    Empty { writes: Writes },
}

/// Where what the job writes into its root goes.
#[derive(Debug, Clone, Serialize)]
pub enum Writes {
    /// A tmpfs of at most `bytes`.
    Memory { bytes: u64 },
    /// A directory of this environment's own on disk, made before the start
    /// and removed at the end.
    Scratch { dir: CText },
}

/// One thing that is put into the root. Paths are absolute inside the root
/// and never followed out of it.
#[derive(Debug, Clone, Serialize)]
pub enum Fixture {
    Mount(Mount),
    Directory {
        path: CText,
        mode: u32,
    },
    Symlink {
        path: CText,
        target: CText,
    },
    File {
        path: CText,
        contents: Vec<u8>,
        mode: u32,
    },
    /// A directory of the node seen through an overlay: some of its entries
    /// hidden, some files of its own on top.
    Layered {
        path: CText,
        lower: CText,
        hide: Vec<CText>,
        files: Vec<LayeredFile>,
    },
    /// A small tmpfs with devices that root makes before the first process,
    /// who may make none in its user namespace: the node's own would tell
    /// when the node was started. `owner`: user and group of the directory,
    /// on the node.
    Devices {
        path: CText,
        devices: Vec<Device>,
        owner: (u32, u32),
    },
    /// The machine as the job has it, for the [`Fixture::View`]s after it,
    /// answered by denovo over FUSE. `uid`, `gid`: inside, whose it is.
    Views {
        uid: u32,
        gid: u32,
    },
    /// One file or directory of the views, over an existing path.
    View {
        path: CText,
        name: CText,
    },
    /// A file bound over an existing path, read-only (such as /proc/sys/kernel/random/boot_id).
    Cover {
        path: CText,
        contents: Vec<u8>,
    },
}

/// A file on top of a [`Fixture::Layered`] directory.
#[derive(Debug, Clone, Serialize)]
pub struct LayeredFile {
    /// Without a slash.
    pub name: CText,
    pub contents: Vec<u8>,
    pub mode: u32,
}

/// One mount.
#[derive(Debug, Clone, Serialize)]
pub struct Mount {
    /// Absolute, inside the root, without `.` and `..`.
    pub destination: CText,
    pub source: MountSource,
    /// Attributes of the mount itself, for mount_setattr(2).
    pub attributes: MountAttributes,
    /// Propagation to set on it (`MS_SHARED`, `MS_SLAVE | MS_REC`, …), in order.
    pub propagation: Vec<u64>,
    /// A missing source is no error (used for what only some nodes have).
    pub optional: bool,
    /// How the owners of its files are shown.
    pub id_map: Option<MountIds>,
    /// SELinux label of the top directory, where the file system takes none
    /// as an option.
    pub label: Option<CText>,
}

/// An id-mapped mount (mount_setattr(2), `MOUNT_ATTR_IDMAP`): an owner
/// `inside` of a map on the file system is shown as its `outside`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountIds {
    pub maps: IdMaps,
    /// Whether the mounts below are mapped too.
    pub recursive: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum IdMaps {
    Given {
        uid: Vec<IdMap>,
        gid: Vec<IdMap>,
    },
    /// Those of the user namespace that this path names.
    Of(CText),
}

#[derive(Debug, Clone, Serialize)]
pub enum MountSource {
    /// A path outside, taken with all mounts below it when `recursive`.
    Bind { path: CText, recursive: bool },
    /// A new file system: mount(2)'s type, source, `MS_*` flags and data.
    New {
        fstype: CText,
        source: CText,
        flags: u64,
        data: CText,
        /// Whether what the root has at the destination is copied in first.
        copy_up: bool,
    },
    /// The environment's own control groups, in whichever form the node has
    /// them (OCI mount type `cgroup`).
    Cgroup,
}

/// `MOUNT_ATTR_*` bits of mount_setattr(2): those set, those cleared, and the
/// same for the mounts below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MountAttributes {
    pub set: u64,
    pub clear: u64,
    pub set_recursive: u64,
    pub clear_recursive: u64,
}

/// The kinds of namespaces(7), in the order in which they must be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    User,
    Cgroup,
    Ipc,
    Uts,
    Net,
    Pid,
    Mount,
    Time,
}

/// What becomes of one kind of namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Namespace {
    /// The caller's own.
    Shared,
    New,
    /// The one that this path names.
    Join(CText),
}

#[derive(Debug, Clone, Serialize)]
pub struct Namespaces {
    pub user: Namespace,
    pub cgroup: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    pub net: Namespace,
    pub pid: Namespace,
    pub mount: Namespace,
    pub time: Namespace,
    pub uid_map: Vec<IdMap>,
    pub gid_map: Vec<IdMap>,
    /// Whether an unprivileged caller writes the gid map, which the kernel
    /// allows only after setgroups(2) was denied (user_namespaces(7)).
    pub deny_setgroups: bool,
    /// Offsets of a new time namespace.
    pub clocks: Clocks,
    /// The user on whose behalf root makes the user namespace, so that this
    /// user's later processes may enter it without privilege.
    pub owner: Option<Owner>,
}

/// Offsets in a new time namespace (time_namespaces(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Clocks {
    /// Each as (seconds, nanoseconds); OCI `linux.timeOffsets`.
    Offsets { monotonic: Option<(i64, u32)>, boottime: Option<(i64, u32)> },
    /// Both read as on a machine that has just booted.
    JustBooted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IdMap {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Device {
    /// Absolute, inside the root.
    pub path: CText,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The process to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// At least one.
    pub args: Vec<CText>,
    /// `NAME=value`, each name once.
    pub env: Vec<CText>,
    pub cwd: CText,
    pub user: User,
    pub umask: Option<u32>,
    pub terminal: bool,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// `None`: all that the process has are kept.
    pub capabilities: Option<Capabilities>,
    pub rlimits: Vec<Rlimit>,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    #[serde(default)]
    pub attributes: Attributes,
}

/// What else the kernel keeps with a process; `None` leaves what the caller
/// has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    pub scheduler: Option<Scheduler>,
    /// As ioprio_set(2) takes it: class and priority in one number.
    pub io_priority: Option<u16>,
    /// CPUs of the runtime itself while it enters (`exec` only).
    pub cpus_before: Option<Vec<u32>>,
    /// CPUs once the process is in its control groups (`exec` only).
    pub cpus: Option<Vec<u32>>,
    /// `PER_*` of personality(2).
    pub personality: Option<u32>,
    pub memory_policy: Option<MemoryPolicy>,
    pub apparmor_profile: Option<CText>,
    pub selinux_label: Option<CText>,
}

impl Attributes {
    /// Those of a further process of a container whose first one has `own`.
    pub fn or(self, own: &Self) -> Self {
        Self {
            scheduler: self.scheduler.or(own.scheduler),
            io_priority: self.io_priority.or(own.io_priority),
            cpus_before: self.cpus_before.or_else(|| own.cpus_before.clone()),
            cpus: self.cpus.or_else(|| own.cpus.clone()),
            personality: self.personality.or(own.personality),
            memory_policy: self.memory_policy.or_else(|| own.memory_policy.clone()),
            apparmor_profile: self.apparmor_profile.or_else(|| own.apparmor_profile.clone()),
            selinux_label: self.selinux_label.or_else(|| own.selinux_label.clone()),
        }
    }
}

/// What sched_setattr(2) is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// `SCHED_*` of sched(7).
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds, of SCHED_DEADLINE.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// What set_mempolicy(2) is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// `MPOL_*` with its `MPOL_F_*` bits.
    pub mode: u32,
    /// NUMA nodes, ascending.
    pub nodes: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// `None`: the caller's supplementary groups stay as they are.
    pub groups: Option<Vec<u32>>,
}

/// The five sets of capabilities(7), as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_*` of getrlimit(2).
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// A compiled system call filter.
#[derive(Debug, Clone, Serialize)]
pub struct Seccomp {
    /// `struct sock_filter` after `struct sock_filter`, 8 bytes each.
    #[serde(skip)]
    pub program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*` of seccomp(2).
    pub flags: u32,
    /// What it does, for `explain`.
    pub summary: String,
    /// Who answers the calls that it leaves to somebody else.
    pub listener: Option<Listener>,
}

/// The agent of a filter with `SCMP_ACT_NOTIFY` (seccomp_unotify(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// A stream socket on which it listens.
    pub path: CText,
    /// Handed on as it is.
    pub metadata: Option<String>,
}

/// A network device that is moved in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetDevice {
    /// On the node.
    pub host: String,
    /// Inside.
    pub name: String,
}

/// A group of the kernel's resource control (kernel document
/// arch/x86/resctrl): shares of caches and memory bandwidth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntelRdt {
    /// Where its file system is mounted.
    pub mount: std::path::PathBuf,
    /// The group's name; empty for the top, which every process is in.
    pub group: String,
    /// The group is there and stays when the environment ends.
    pub existing: bool,
    /// Lines of its `schemata`.
    pub schemata: Vec<String>,
    /// Name of a group of its own for what is counted.
    pub monitor: Option<String>,
}

/// The environment's control groups.
#[derive(Debug, Clone, Serialize)]
pub struct Cgroup {
    /// Below the mount point of each hierarchy, without a leading slash,
    /// such as `denovo-job-17`; `None`: no group is made.
    pub path: Option<String>,
    pub limits: super::limits::Limits,
    /// The caller may carry on when the groups cannot be made (a user without
    /// delegation who asked for no limit).
    pub best_effort: bool,
    /// The user who may move processes of their own into the group.
    pub delegate_to: Option<u32>,
}

/// OCI `hooks`, by phase.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub path: CText,
    /// With `argv[0]`.
    pub args: Vec<CText>,
    pub env: Vec<CText>,
    /// Seconds.
    pub timeout: Option<u32>,
}
