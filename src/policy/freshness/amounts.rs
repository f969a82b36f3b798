//! What is measured: compared by how much it may differ, and only when no job
//! runs that may have it.

use super::{Baseline, Difference, Jobs, of_node};
use crate::host::node::{Kind, NodeState};
use crate::request::freshness::Freshness;

/// Of all memory, in percent, that more of it may hold files than in the
/// baseline; of free memory, in thousandths, that less may be in large blocks.
const PAGE_CACHE: u64 = 10;
const LARGE_BLOCKS: u64 = 200;

/// Bytes of a GPU's memory that a driver may need more or less.
const GPU_SLACK: u64 = 64 << 20;

pub fn differences(
    state: &NodeState,
    baseline: &Baseline,
    jobs: &Jobs,
    site: &Freshness,
) -> Vec<Difference> {
    let (now, before) = (&state.amounts, &baseline.amounts);
    let mut all = Vec::new();
    let mut found = |kind, what: String, remedy| all.push(of_node(kind, what, remedy));
    // The kernel's own use varies by some pages from boot to boot.
    if now.memory_total + (64 << 20) < before.memory_total {
        let what = format!(
            "{} in all, {} in the baseline",
            mib(now.memory_total),
            mib(before.memory_total)
        );
        found(Kind::Memory, what, "a module of memory may be broken");
    }
    if jobs.running.is_empty() {
        if now.memory_available + before.memory_total / 100 * site.memory_percent
            < before.memory_available
        {
            let what = format!(
                "{} available, {} in the baseline",
                mib(now.memory_available),
                mib(before.memory_available)
            );
            found(Kind::Memory, what, "find who holds it, or boot the node");
        }
        if now.page_cache > before.page_cache + before.memory_total / 100 * PAGE_CACHE {
            let what = format!(
                "{} of files in memory, {} in the baseline",
                mib(now.page_cache),
                mib(before.page_cache)
            );
            found(Kind::PageCache, what, "denovo node audit --drop-page-cache forgets them");
        }
        if now.in_large_blocks + LARGE_BLOCKS < before.in_large_blocks {
            let what = format!(
                "{} % of free memory in blocks of 2 MiB, {} % in the baseline",
                now.in_large_blocks / 10,
                before.in_large_blocks / 10
            );
            found(
                Kind::Fragmentation,
                what,
                "denovo node audit --compact-memory moves it together",
            );
        }
        for (gpu, used) in &now.gpu_memory {
            let then = before.gpu_memory.get(gpu).copied().unwrap_or(0);
            if *used > then + GPU_SLACK {
                let what = format!("{gpu}: {} in use, {} in the baseline", mib(*used), mib(then));
                found(Kind::Gpu, what, "end the process that holds it, or reset the GPU");
            }
        }
        for gpu in before.gpu_memory.keys().filter(|gpu| !now.gpu_memory.contains_key(*gpu)) {
            found(Kind::Gpu, format!("{gpu} is gone"), "boot the node, or look at its log");
        }
    }
    if let (Some(clock), Some(then)) = (now.clock, before.clock) {
        if then.synchronised && !clock.synchronised {
            found(Kind::Clock, "nobody keeps it in time".to_owned(), "look at chrony or ntpd");
        }
        let off = clock.offset.unsigned_abs() / 1000;
        if off > site.clock_ms {
            found(Kind::Clock, format!("is {off} ms off"), "look at chrony or ntpd");
        }
    }
    // They are counted from the boot.
    let same_boot = state.boot_id == baseline.boot_id;
    for (what, count) in &now.errors {
        let then = before.errors.get(what).copied().filter(|_| same_boot).unwrap_or(0);
        if *count > then {
            found(Kind::Hardware, format!("{what}: {}", count - then), "look at the kernel's log");
        }
    }
    all
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
