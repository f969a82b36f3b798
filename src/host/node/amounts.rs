//! What is measured and never the same twice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{line, names, number};
use crate::host::hardware::field;

/// The kernel's clock against the one that it is told of (adjtimex(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Clock {
    /// Whether somebody keeps it in time (not `STA_UNSYNC`).
    pub synchronised: bool,
    /// Microseconds that it is still to be moved.
    pub offset: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Amounts {
    /// Bytes (proc_meminfo(5)).
    pub memory_total: u64,
    pub memory_available: u64,
    /// Bytes of files in memory, without those of tmpfs.
    pub page_cache: u64,
    /// Of 1,000 bytes of free memory, those in blocks of 2 MiB or more
    /// (proc_buddyinfo(5)).
    pub in_large_blocks: u64,
    /// Bytes in use, by GPU.
    pub gpu_memory: BTreeMap<String, u64>,
    pub clock: Option<Clock>,
    /// What hardware has counted since the node was booted.
    pub errors: BTreeMap<String, u64>,
}

pub fn read(clock: Option<Clock>) -> Amounts {
    let text = crate::host::text_of("/proc/meminfo".as_ref()).unwrap_or_default();
    let bytes = |name: &str| {
        let kib = field(&text, name).and_then(|v| v.trim_end_matches("kB").trim().parse().ok());
        kib.map_or(0, |kib: u64| kib * 1024)
    };
    let mut errors = hardware_errors();
    errors.insert("memory taken out of use, bytes".to_owned(), bytes("HardwareCorrupted"));
    let blocks = crate::host::text_of("/proc/buddyinfo".as_ref()).unwrap_or_default();
    Amounts {
        memory_total: bytes("MemTotal"),
        memory_available: bytes("MemAvailable"),
        page_cache: (bytes("Cached") + bytes("Buffers")).saturating_sub(bytes("Shmem")),
        in_large_blocks: in_large_blocks(&blocks),
        gpu_memory: BTreeMap::new(),
        clock,
        errors,
    }
}

/// A line has the number of free blocks of 1, 2, 4, … pages of a zone.
fn in_large_blocks(text: &str) -> u64 {
    /// 2 MiB of pages of 4 KiB.
    const LARGE: usize = 9;
    let (mut large, mut all) = (0u64, 0u64);
    for line in text.lines() {
        let counts = line.split_ascii_whitespace().skip(4);
        for (order, count) in counts.filter_map(|c| c.parse::<u64>().ok()).enumerate() {
            let pages = count << order.min(32);
            all += pages;
            large += if order >= LARGE { pages } else { 0 };
        }
    }
    (large * 1000).checked_div(all).unwrap_or(1000)
}

/// Counters of memory controllers (EDAC), of PCI Express (AER), of InfiniBand
/// links; those that are zero are left out.
fn hardware_errors() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let controllers = "/sys/devices/system/edac/mc";
    for name in names(controllers).into_iter().filter(|n| n.starts_with("mc")) {
        for (file, what) in [("ce_count", "corrected"), ("ue_count", "uncorrected")] {
            all.insert(
                format!("memory {name} {what}"),
                number(format!("{controllers}/{name}/{file}")).unwrap_or(0),
            );
        }
    }
    for name in names("/sys/bus/pci/devices") {
        for kind in ["correctable", "nonfatal", "fatal"] {
            let text = line(format!("/sys/bus/pci/devices/{name}/aer_dev_{kind}"));
            all.insert(format!("pci {name} {kind}"), text.map_or(0, |t| total(&t)));
        }
    }
    for device in names("/sys/class/infiniband") {
        for port in names(format!("/sys/class/infiniband/{device}/ports")) {
            let counters = format!("/sys/class/infiniband/{device}/ports/{port}/counters");
            for what in ["symbol_error", "link_downed", "link_error_recovery"] {
                let count = number(format!("{counters}/{what}")).unwrap_or(0);
                all.insert(format!("{device} port {port} {what}"), count);
            }
        }
    }
    all.retain(|_, count| *count > 0);
    all
}

/// The last line of an `aer_dev_*` file: `TOTAL_ERR_COR 3`.
fn total(text: &str) -> u64 {
    let line = text.lines().rev().find(|line| line.starts_with("TOTAL_"));
    line.and_then(|l| l.split_ascii_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_blocks_are_counted_against_all_free_pages() {
        let text = "Node 0, zone   Normal    512      0      0      0      0      0      0      0      0      1      0\n";
        assert_eq!(in_large_blocks(text), 500);
        assert_eq!(in_large_blocks(""), 1000);
    }

    #[test]
    fn the_total_of_pci_express_errors() {
        assert_eq!(total("RxErr 1\nBadTLP 2\nTOTAL_ERR_COR 3"), 3);
        assert_eq!(total(""), 0);
    }
}
