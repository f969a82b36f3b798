//! What this node is: read once, no decisions, serialisable so that another
//! node's case can be replayed (`denovo explain --facts FILE`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

pub mod accounts;
pub mod cgroups;
pub mod cpulist;
pub mod distribution;
pub mod hardware;
pub mod lsm;
pub mod mpi;
pub mod node;
pub mod process;
pub mod resctrl;
pub mod shares;
pub mod user_namespace;

/// The node and the caller, as far as a decision depends on them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// Major and minor version of the running kernel, such as (6, 1).
    pub kernel: (u32, u32),
    pub caller: Caller,
    pub cgroups: Cgroups,
}

/// Who calls, and with which powers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Effective capabilities (capabilities(7)), as a bit mask.
    pub capabilities: u64,
    /// CPUs of sched_getaffinity(2), ascending.
    pub cpus: Vec<u32>,
    /// In a user namespace other than the node's first: capabilities there
    /// say nothing about the node's control groups and devices.
    #[serde(default)]
    pub nested: bool,
}

/// The control group hierarchies that the caller sees.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cgroups {
    pub v1: Vec<HierarchyV1>,
    pub v2: Option<HierarchyV2>,
}

/// One cgroup v1 hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HierarchyV1 {
    /// Controllers bound to it, such as `cpu`, `cpuacct`; `name=systemd` for a
    /// named one without controllers.
    pub controllers: Vec<String>,
    pub mount: PathBuf,
    /// Where the caller is in it, below the mount, such as `/user.slice`.
    pub own: String,
    /// Whether the caller may make groups below its own there.
    #[serde(default)]
    pub writable: bool,
}

/// The cgroup v2 hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HierarchyV2 {
    pub mount: PathBuf,
    /// `cgroup.controllers` of its root.
    pub controllers: Vec<String>,
    /// Where the caller is in it, below the mount.
    pub own: String,
    /// `cgroup.controllers` of the caller's own group: what groups below it
    /// can get.
    #[serde(default)]
    pub own_controllers: Vec<String>,
    /// Whether the caller may make groups below its own there (for a user:
    /// it is delegated).
    #[serde(default)]
    pub writable: bool,
}

/// Why the facts could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    #[error("cannot read {path}: {reason}")]
    Unreadable { path: &'static str, reason: String },
    #[error("cannot read the effective capabilities: {reason}")]
    Capabilities { reason: String },
    #[error("cannot read the {what}: {errno}")]
    Call { what: &'static str, errno: nix::errno::Errno },
    #[error("{release:?} is no kernel release")]
    Release { release: String },
}

impl From<FactsError> for Problem {
    fn from(error: FactsError) -> Self {
        let problem = Problem::kernel(error.to_string());
        match error {
            FactsError::Unreadable { .. } => {
                problem.hint("denovo needs /proc; mount it: mount -t proc proc /proc")
            }
            _ => problem,
        }
    }
}

impl Facts {
    /// Reads the facts about this node and the calling process, in about 100 µs.
    ///
    /// # Errors
    /// A [`Problem`] when /proc is not there or a system call is refused.
    pub fn read() -> Result<Self, Problem> {
        Ok(Self { kernel: kernel()?, caller: Caller::read()?, cgroups: Cgroups::read()? })
    }
}

impl Caller {
    fn read() -> Result<Self, FactsError> {
        let call = |what| move |errno| FactsError::Call { what, errno };
        let groups = rustix::process::getgroups()
            .map_err(|e| nix::errno::Errno::from_raw(e.raw_os_error()))
            .map_err(call("supplementary groups"))?;
        let effective = caps::read(None, caps::CapSet::Effective)
            .map_err(|e| FactsError::Capabilities { reason: e.to_string() })?;
        Ok(Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
            capabilities: effective.iter().fold(0, |mask, cap| mask | cap.bitmask()),
            cpus: affinity()?,
            nested: nested(),
        })
    }

    /// Whether the caller has the capability with this number, such as 21 for
    /// `CAP_SYS_ADMIN` (capabilities(7), `linux/capability.h`).
    pub fn has(&self, capability: u8) -> bool {
        capability < 64 && self.capabilities >> capability & 1 == 1
    }
}

/// The first user namespace is the only one that maps every id to itself
/// (user_namespaces(7)); a kernel without them has no other.
fn nested() -> bool {
    let map = text_of(Path::new("/proc/self/uid_map")).unwrap_or_default();
    let fields: Vec<&str> = map.split_ascii_whitespace().collect();
    !fields.is_empty() && fields != ["0", "0", "4294967295"]
}

impl Cgroups {
    /// Reads which hierarchies there are.
    ///
    /// # Errors
    /// [`FactsError::Unreadable`] when /proc is not there.
    pub fn read() -> Result<Self, FactsError> {
        let mountinfo = read("/proc/self/mountinfo")?;
        // Absent on a kernel without control groups.
        let own = read("/proc/self/cgroup").unwrap_or_default();
        let mut found = cgroups::layout(&mountinfo, &own);
        cgroups::look_into(&mut found);
        Ok(found)
    }

    /// The v1 hierarchy that has this controller.
    pub fn v1_with(&self, controller: &str) -> Option<&HierarchyV1> {
        self.v1.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    /// Whether the v2 hierarchy has this controller.
    pub fn v2_has(&self, controller: &str) -> bool {
        self.v2.as_ref().is_some_and(|h| h.controllers.iter().any(|c| c == controller))
    }
}

/// Text of a file under /proc, which may hold any bytes.
fn read(path: &'static str) -> Result<String, FactsError> {
    text_of(Path::new(path)).map_err(|e| FactsError::Unreadable { path, reason: e.to_string() })
}

/// Text of a file of the kernel's, which has no size to go by: std would ask
/// for one, and read in small pieces.
///
/// # Errors
/// As open(2) and read(2).
fn text_of(path: &Path) -> std::io::Result<String> {
    let file = std::fs::File::open(path)?;
    let mut bytes = Vec::with_capacity(4 << 10);
    while rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))? > 0 {
        bytes.reserve(4 << 10);
    }
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into_owned()))
}

/// Major and minor version of the running kernel.
///
/// # Errors
/// [`FactsError`] when its release is no version.
pub fn kernel() -> Result<(u32, u32), FactsError> {
    let name = nix::sys::utsname::uname()
        .map_err(|errno| FactsError::Call { what: "kernel release", errno })?;
    let release = name.release().to_string_lossy();
    version(&release).ok_or_else(|| FactsError::Release { release: release.into_owned() })
}

/// Major and minor number out of a release such as `6.1.0-28-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// CPUs on which the calling process may run.
///
/// # Errors
/// The system call is refused.
pub fn affinity() -> Result<Vec<u32>, FactsError> {
    use nix::sched::{CpuSet, sched_getaffinity};
    match sched_getaffinity(nix::unistd::Pid::from_raw(0)) {
        Ok(set) => Ok((0..CpuSet::count())
            .filter(|n| set.is_set(*n) == Ok(true))
            .map(|n| n as u32)
            .collect()),
        // A kernel for more CPUs than the C library's set has room for.
        Err(nix::errno::Errno::EINVAL) => {
            let status = read("/proc/self/status")?;
            let list = hardware::field(&status, "Cpus_allowed_list").unwrap_or("");
            Ok(cpulist::parse_list(list).unwrap_or_default())
        }
        Err(errno) => Err(FactsError::Call { what: "CPU affinity", errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_understood() {
        let table = [
            ("6.1.0-28-amd64", Some((6, 1))),
            ("4.18.0-553.el8_10.x86_64", Some((4, 18))),
            ("6.18.44-fc", Some((6, 18))),
            ("5.14", Some((5, 14))),
            ("linux", None),
            ("", None),
        ];
        for (release, expected) in table {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn this_node_can_be_read_and_replayed() {
        let facts = Facts::read().unwrap();
        assert!(facts.kernel.0 >= 3 && !facts.caller.cpus.is_empty());
        let text = serde_json::to_string(&facts).unwrap();
        let again: Facts = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }

    #[test]
    fn capabilities_are_looked_up_by_number() {
        let caller = Caller {
            uid: 1,
            gid: 1,
            groups: vec![],
            capabilities: 1 << 21,
            cpus: vec![],
            nested: false,
        };
        assert!(caller.has(21) && !caller.has(22) && !caller.has(64));
    }
}
