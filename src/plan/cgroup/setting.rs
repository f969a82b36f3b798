//! One limit in the terms of the hierarchy that it is set in.

use serde::{Deserialize, Serialize};

use super::Version;

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
        quota: i64,
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
                let value = format!("{} {}", most(*quota), period.unwrap_or(100_000));
                vec![("cpu.max".to_owned(), value)]
            }
            Self::CpuMax { quota, period } => period
                .iter()
                .map(|p| ("cpu.cfs_period_us".to_owned(), p.to_string()))
                .chain([("cpu.cfs_quota_us".to_owned(), quota.to_string())])
                .collect(),
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
            Self::File { name, value } => vec![(name.clone(), value.clone())],
        }
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
            Self::File { name, .. } => name,
        }
    }
}
