//! What this node is: read once, no decisions, serialisable so that another
//! node's case can be replayed (`denovo explain --facts FILE`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
}

/// The control group hierarchies that the caller sees.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cgroups {
    pub v1: Vec<HierarchyV1>,
    pub v2: Option<HierarchyV2>,
}

/// One cgroup v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HierarchyV1 {
    /// Controllers bound to it, such as `cpu`, `cpuacct`; `name=systemd` for a
    /// named one without controllers.
    pub controllers: Vec<String>,
    pub mount: PathBuf,
    /// Where the caller is in it, such as `/user.slice`.
    pub own: String,
}

/// The cgroup v2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HierarchyV2 {
    pub mount: PathBuf,
    /// `cgroup.controllers` of its root.
    pub controllers: Vec<String>,
    pub own: String,
}
