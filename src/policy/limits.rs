//! Resource limits, checked and independent of the cgroup version.

use serde::Serialize;

/// What an environment may use. `None` leaves the node's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Limits {
    pub cpu: Cpu,
    pub memory: Memory,
    /// Most processes and threads; -1 for no limit (OCI `pids.limit`).
    pub pids: Option<i64>,
    /// In order; a later rule overrides an earlier one (OCI `resources.devices`).
    pub devices: Vec<DeviceRule>,
    /// Page size (such as `2MB`) and bytes.
    pub hugepages: Vec<(String, u64)>,
    /// cgroup v2 files by name, written as they stand (OCI `unified`).
    pub unified: Vec<(String, String)>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Relative weight in cgroup v1's terms, 2 to 262144 (1024 is usual).
    pub shares: Option<u64>,
    /// Microseconds of CPU per period; -1 for no limit.
    pub quota: Option<i64>,
    /// Microseconds.
    pub period: Option<u64>,
    /// cpuset list format (cpuset(7)), such as `0-3,8`.
    pub cpus: Option<String>,
    /// Memory nodes, in the same format.
    pub mems: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Bytes; -1 for no limit.
    pub limit: Option<i64>,
    /// Bytes of memory and swap together, as in cgroup v1; -1 for no limit.
    pub swap: Option<i64>,
    /// Bytes that reclaim tries to leave.
    pub reservation: Option<i64>,
    pub swappiness: Option<u64>,
    pub disable_oom_killer: Option<bool>,
}

/// One line of a device list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct DeviceRule {
    pub allow: bool,
    pub kind: DeviceKind,
    /// `None`: every one.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum DeviceKind {
    All,
    Char,
    Block,
}

impl Limits {
    /// Whether anything at all is to be set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
