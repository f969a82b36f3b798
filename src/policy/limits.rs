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
    pub block_io: BlockIo,
    pub network: Network,
    pub rdma: Vec<Rdma>,
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
    /// Microseconds that may be saved up from one period to a later one.
    pub burst: Option<u64>,
    /// 1: only CPU that nobody else wants (`SCHED_IDLE`); 0: as usual.
    pub idle: Option<i64>,
    /// Microseconds of realtime scheduling per period; -1 for no limit.
    pub realtime_runtime: Option<i64>,
    /// Microseconds.
    pub realtime_period: Option<u64>,
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
    /// Bytes of kernel memory, which only old kernels limit apart.
    pub kernel: Option<i64>,
    /// Bytes in buffers of TCP.
    pub kernel_tcp: Option<i64>,
    /// A limit below what is in use is refused instead of enforced by killing.
    pub check_before_update: bool,
}

/// Weights and limits of block devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BlockIo {
    /// Relative, 10 to 1000.
    pub weight: Option<u16>,
    /// The same against the groups below.
    pub leaf_weight: Option<u16>,
    /// For single devices, in place of the above.
    pub devices: Vec<DeviceWeight>,
    pub throttles: Vec<Throttle>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceWeight {
    pub device: BlockDevice,
    pub weight: Option<u16>,
    pub leaf_weight: Option<u16>,
}

/// A block device by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct BlockDevice {
    pub major: u32,
    pub minor: u32,
}

impl std::fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Most that goes to or from one device in a second; 0 for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Throttle {
    pub what: Throttled,
    pub device: BlockDevice,
    /// Bytes, or operations.
    pub rate: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum Throttled {
    ReadBytes,
    WriteBytes,
    ReadOperations,
    WriteOperations,
}

/// Marks on the packets of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Network {
    pub class_id: Option<u32>,
    /// Interface and priority.
    pub priorities: Vec<(String, u32)>,
}

/// What may be held of one RDMA device; `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Rdma {
    /// Its name, such as `mlx5_0`.
    pub device: String,
    pub handles: Option<u32>,
    pub objects: Option<u32>,
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
