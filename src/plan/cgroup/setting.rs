//! One limit in the terms of the hierarchy that it is set in.

use serde::{Deserialize, Serialize};

use super::Version;
use super::convert::io_weight;
use crate::policy::limits::{BlockDevice, Rdma, Throttle, Throttled};

/// A limit that is ready to be written. Bytes of -1 mean no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    MemoryMax {
        bytes: i64,
    },
    /// v1: memory and swap together; v2: swap alone.
    SwapMax {
        bytes: i64,
        /// A kernel without swap accounting has no such file; then there is
        /// nothing to set.
        if_present: bool,
    },
    /// What reclaim tries to leave.
    MemoryLow {
        bytes: i64,
    },
    /// v1 only, 0 to 100.
    Swappiness {
        percent: u64,
    },
    /// v1 only.
    OomKillDisable,
    /// v1: shares, 2 to 262144; v2: weight, 1 to 10000.
    CpuWeight {
        weight: u64,
    },
    /// Microseconds of CPU (-1: no limit) in each period of so many
    /// microseconds; `None` leaves the kernel's default (100000).
    CpuMax {
        /// `None`: as it is.
        quota: Option<i64>,
        period: Option<u64>,
    },
    /// Microseconds.
    CpuBurst {
        us: u64,
    },
    CpuIdle {
        idle: i64,
    },
    /// v1 only: microseconds of realtime scheduling (-1: no limit) in each
    /// period of so many microseconds; `None` leaves either as it is.
    Realtime {
        runtime: Option<i64>,
        period: Option<u64>,
    },
    /// List format of cpuset(7).
    Cpus {
        list: String,
    },
    Mems {
        list: String,
    },
    /// -1: no limit.
    PidsMax {
        count: i64,
    },
    /// Pages of one size, such as `2MB`.
    HugetlbMax {
        size: String,
        bytes: u64,
    },
    /// The same for what is reserved (mmap(2)) and not yet used.
    HugetlbReserved {
        size: String,
        bytes: u64,
    },
    /// Sets nothing: no more than this may be in use.
    MemoryFits {
        bytes: i64,
    },
    /// v1 only.
    KernelMemoryMax {
        bytes: i64,
    },
    /// v1 only.
    TcpMemoryMax {
        bytes: i64,
    },
    /// 10 to 1000; of all devices, or of one.
    IoWeight {
        weight: u16,
        device: Option<BlockDevice>,
    },
    /// v1 only.
    IoLeafWeight {
        weight: u16,
        device: Option<BlockDevice>,
    },
    IoMax(Throttle),
    /// v1 only.
    NetworkClass {
        id: u32,
    },
    /// v1 only.
    NetworkPriority {
        interface: String,
        priority: u32,
    },
    RdmaMax(Rdma),
    /// v2: a file by name, with what is written to it.
    File {
        name: String,
        value: String,
    },
}

impl Setting {
    /// The files that it writes, with their values, in order
    /// (kernel documents cgroup-v1/* and cgroup-v2).
    pub fn files(&self, version: Version) -> Vec<(String, String)> {
        let v2 = version == Version::V2;
        let one = |v1_name: &str, v2_name: &str, value: String| {
            vec![(if v2 { v2_name } else { v1_name }.to_owned(), value)]
        };
        // v1 takes -1 for no limit, v2 the word.
        let most = |n: i64| if v2 && n < 0 { "max".to_owned() } else { n.to_string() };
        match self {
            Self::MemoryMax { bytes } => one("memory.limit_in_bytes", "memory.max", most(*bytes)),
            Self::SwapMax { bytes, .. } => {
                one("memory.memsw.limit_in_bytes", "memory.swap.max", most(*bytes))
            }
            Self::MemoryLow { bytes } => {
                one("memory.soft_limit_in_bytes", "memory.low", most(*bytes))
            }
            Self::Swappiness { percent } => {
                one("memory.swappiness", "memory.swappiness", percent.to_string())
            }
            Self::OomKillDisable => one("memory.oom_control", "memory.oom_control", "1".into()),
            Self::CpuWeight { weight } => one("cpu.shares", "cpu.weight", weight.to_string()),
            Self::CpuMax { quota, period } if v2 => {
                let quota = quota.map_or_else(|| AS_IT_IS.to_owned(), most);
                vec![("cpu.max".to_owned(), format!("{quota} {}", period.unwrap_or(100_000)))]
            }
            Self::CpuMax { quota, period } => {
                pair(("cpu.cfs_period_us", *period), ("cpu.cfs_quota_us", *quota))
            }
            Self::CpuBurst { us } => one("cpu.cfs_burst_us", "cpu.max.burst", us.to_string()),
            Self::CpuIdle { idle } => one("cpu.idle", "cpu.idle", idle.to_string()),
            Self::Realtime { runtime, period } => {
                pair(("cpu.rt_period_us", *period), ("cpu.rt_runtime_us", *runtime))
            }
            Self::Cpus { list } => one("cpuset.cpus", "cpuset.cpus", list.clone()),
            Self::Mems { list } => one("cpuset.mems", "cpuset.mems", list.clone()),
            // The only v1 file that takes the word and not -1.
            Self::PidsMax { count } if *count < 0 => one("pids.max", "pids.max", "max".into()),
            Self::PidsMax { count } => one("pids.max", "pids.max", count.to_string()),
            Self::HugetlbMax { size, bytes } => one(
                &format!("hugetlb.{size}.limit_in_bytes"),
                &format!("hugetlb.{size}.max"),
                bytes.to_string(),
            ),
            Self::HugetlbReserved { size, bytes } => one(
                &format!("hugetlb.{size}.rsvd.limit_in_bytes"),
                &format!("hugetlb.{size}.rsvd.max"),
                bytes.to_string(),
            ),
            Self::MemoryFits { .. } => Vec::new(),
            Self::KernelMemoryMax { bytes } => {
                vec![("memory.kmem.limit_in_bytes".into(), bytes.to_string())]
            }
            Self::TcpMemoryMax { bytes } => {
                vec![("memory.kmem.tcp.limit_in_bytes".into(), bytes.to_string())]
            }
            Self::IoWeight { .. } | Self::IoLeafWeight { .. } => {
                self.choices(version).swap_remove(0)
            }
            Self::IoMax(throttle) => vec![io_max(throttle, v2)],
            Self::NetworkClass { id } => vec![("net_cls.classid".into(), id.to_string())],
            Self::NetworkPriority { interface, priority } => {
                vec![("net_prio.ifpriomap".into(), format!("{interface} {priority}"))]
            }
            Self::RdmaMax(rdma) => vec![("rdma.max".into(), rdma_max(rdma))],
            Self::File { name, value } => vec![(name.clone(), value.clone())],
        }
    }

    /// [`Self::files`] for each way in which kernels have it; the first that
    /// is there counts. Weights of devices belong to a scheduler (bfq) or to a
    /// controller (iocost, and once cfq), which name their files differently.
    pub fn choices(&self, version: Version) -> Vec<Vec<(String, String)>> {
        let with = |device: &Option<BlockDevice>, weight: u64| match device {
            Some(device) => format!("{device} {weight}"),
            None => weight.to_string(),
        };
        let list: Vec<(&str, String)> = match (self, version) {
            (Self::IoWeight { weight, device }, Version::V1) => {
                let value = with(device, u64::from(*weight));
                match device {
                    None => vec![("blkio.weight", value.clone()), ("blkio.bfq.weight", value)],
                    Some(_) => vec![
                        ("blkio.weight_device", value.clone()),
                        ("blkio.bfq.weight_device", value),
                    ],
                }
            }
            (Self::IoWeight { weight, device }, Version::V2) => vec![
                ("io.bfq.weight", with(device, u64::from(*weight))),
                ("io.weight", with(device, io_weight(*weight))),
            ],
            (Self::IoLeafWeight { weight, device }, _) => {
                let file =
                    if device.is_some() { "blkio.leaf_weight_device" } else { "blkio.leaf_weight" };
                vec![(file, with(device, u64::from(*weight)))]
            }
            _ => return vec![self.files(version)],
        };
        list.into_iter().map(|(file, value)| vec![(file.to_owned(), value)]).collect()
    }

    /// What a person calls it.
    pub fn name(&self) -> &str {
        match self {
            Self::MemoryMax { .. } => "memory limit",
            Self::SwapMax { .. } => "swap limit",
            Self::MemoryLow { .. } => "memory reservation",
            Self::Swappiness { .. } => "memory swappiness",
            Self::OomKillDisable => "disabling the OOM killer",
            Self::CpuWeight { .. } => "CPU shares",
            Self::CpuMax { .. } => "CPU quota",
            Self::Cpus { .. } => "CPU list",
            Self::Mems { .. } => "memory node list",
            Self::PidsMax { .. } => "process limit",
            Self::HugetlbMax { .. } => "huge page limit",
            Self::HugetlbReserved { .. } => "limit of reserved huge pages",
            Self::MemoryFits { .. } => "linux.resources.memory.checkBeforeUpdate",
            Self::KernelMemoryMax { .. } => "linux.resources.memory.kernel",
            Self::TcpMemoryMax { .. } => "linux.resources.memory.kernelTCP",
            Self::CpuBurst { .. } => "linux.resources.cpu.burst",
            Self::CpuIdle { .. } => "linux.resources.cpu.idle",
            Self::Realtime { runtime: None, .. } => "linux.resources.cpu.realtimePeriod",
            Self::Realtime { .. } => "linux.resources.cpu.realtimeRuntime",
            Self::IoWeight { device: None, .. } => "linux.resources.blockIO.weight",
            Self::IoLeafWeight { device: None, .. } => "linux.resources.blockIO.leafWeight",
            Self::IoWeight { .. } | Self::IoLeafWeight { .. } => {
                "linux.resources.blockIO.weightDevice"
            }
            Self::IoMax(throttle) => match throttle.what {
                Throttled::ReadBytes => "linux.resources.blockIO.throttleReadBpsDevice",
                Throttled::WriteBytes => "linux.resources.blockIO.throttleWriteBpsDevice",
                Throttled::ReadOperations => "linux.resources.blockIO.throttleReadIOPSDevice",
                Throttled::WriteOperations => "linux.resources.blockIO.throttleWriteIOPSDevice",
            },
            Self::NetworkClass { .. } => "linux.resources.network.classID",
            Self::NetworkPriority { .. } => "linux.resources.network.priorities",
            Self::RdmaMax(_) => "linux.resources.rdma",
            Self::File { name, .. } => name,
        }
    }
}

/// Stands for a value that is left alone where one write holds several.
pub const AS_IT_IS: &str = "*";

/// A period and what of it may be used, as far as they are given.
fn pair(period: (&str, Option<u64>), amount: (&str, Option<i64>)) -> Vec<(String, String)> {
    let period = period.1.map(|n| (period.0.to_owned(), n.to_string()));
    period.into_iter().chain(amount.1.map(|n| (amount.0.to_owned(), n.to_string()))).collect()
}

/// v1 has a file for each, v2 a word of `io.max`.
fn io_max(throttle: &Throttle, v2: bool) -> (String, String) {
    let Throttle { what, device, rate } = throttle;
    let (file, word) = match what {
        Throttled::ReadBytes => ("blkio.throttle.read_bps_device", "rbps"),
        Throttled::WriteBytes => ("blkio.throttle.write_bps_device", "wbps"),
        Throttled::ReadOperations => ("blkio.throttle.read_iops_device", "riops"),
        Throttled::WriteOperations => ("blkio.throttle.write_iops_device", "wiops"),
    };
    match (v2, rate) {
        (false, rate) => (file.to_owned(), format!("{device} {rate}")),
        (true, 0) => ("io.max".to_owned(), format!("{device} {word}=max")),
        (true, rate) => ("io.max".to_owned(), format!("{device} {word}={rate}")),
    }
}

fn rdma_max(rdma: &Rdma) -> String {
    let mut value = rdma.device.clone();
    for (word, most) in [("hca_handle", rdma.handles), ("hca_object", rdma.objects)] {
        if let Some(most) = most {
            value.push_str(&format!(" {word}={most}"));
        }
    }
    value
}
