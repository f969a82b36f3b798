//! What an epilog writes down.

use std::path::PathBuf;

use super::now;
use crate::kernel::{cgroup, system_v};
use crate::record::job::JobRecord;
use crate::record::receipt::{Cleaned, Given, Key, Receipt, Receipts, Times};
use crate::request::scheduler::Call;
use crate::request::scheduler::site::Scheduler;
use crate::supervise::freshness::Ending;

/// A full disk, or a key that cannot be read, is no reason to take the node
/// out of service.
pub(super) fn keep(site: &Scheduler, receipt: Receipt, warn: &dyn Fn(&str)) {
    let receipts = Receipts::new(&site.receipts);
    let key = site
        .receipt_key
        .as_ref()
        .and_then(|path| Key::read(path).inspect_err(|problem| warn(&problem.message)).ok());
    if let Err(problem) = receipts.save(receipt, key.as_ref()) {
        warn(&problem.message);
    }
    receipts.prune(now(), site.receipt_days, site.receipt_bytes, key.as_ref());
}

/// What was known of an environment just before its end.
pub(super) struct Last {
    pub(super) record: JobRecord,
    pub(super) usage: cgroup::Usage,
    pub(super) cleaned: Cleaned,
    pub(super) pids: Option<u64>,
    pub(super) namespaces: Vec<String>,
}

/// What there is to clean up, seen through the environment's first process.
pub(super) fn look(record: JobRecord, usage: cgroup::Usage) -> Last {
    let root = record
        .init
        .filter(crate::record::process::ProcessName::alive)
        .map(|init| PathBuf::from(format!("/proc/{}/root", init.pid)));
    let inside = |path: &str| root.as_ref().map(|root| root.join(path));
    let used = |path| {
        let stat = nix::sys::statvfs::statvfs(&inside(path)?).ok()?;
        Some((stat.blocks() - stat.blocks_free()) * stat.fragment_size())
    };
    let queues = inside("dev/mqueue").and_then(|dir| std::fs::read_dir(dir).ok());
    // What a job writes on the site's disk is not told from the rest there.
    let tmp = if record.scratch.is_none() { used("tmp") } else { None };
    let cleaned = Cleaned {
        processes: usage.pids.map_or(0, |n| n.saturating_sub(1)),
        shm: used("dev/shm"),
        tmp,
        system_v: record.init.and_then(|init| system_v::objects(init.pid)),
        message_queues: queues.map(|entries| entries.count() as u64),
        scratch: record.scratch.is_some(),
    };
    let pids = record.cgroup.steps.iter().find_map(|step| match step {
        crate::plan::cgroup::CgroupStep::Set {
            setting: crate::plan::cgroup::Setting::PidsMax { count },
            ..
        } => u64::try_from(*count).ok(),
        _ => None,
    });
    let namespaces = record.init.map_or(Vec::new(), |init| own_namespaces(init.pid));
    Last { record, usage, cleaned, pids, namespaces }
}

/// The kinds of namespaces(7) that a process does not share with us.
fn own_namespaces(pid: i32) -> Vec<String> {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time_for_children", "user", "uts"];
    let of = |who: &str, kind: &str| std::fs::read_link(format!("/proc/{who}/ns/{kind}")).ok();
    let differs = |kind: &&str| {
        of(&pid.to_string(), kind).is_some_and(|theirs| of("self", kind) != Some(theirs))
    };
    let short = |kind: &str| kind.split('_').next().unwrap_or(kind).to_owned();
    kinds.iter().filter(|kind| differs(kind)).map(|kind| short(kind)).collect()
}

pub(super) fn receipt(call: &Call, last: &Last, to_start: Option<u64>, to_end: u64) -> Receipt {
    let record = &last.record;
    Receipt {
        version: 1,
        id: record.id.clone(),
        node: call.node.clone(),
        uid: record.uid,
        gid: record.gid,
        job: record.granted.clone().or_else(|| Some(call.granted.clone())),
        bundle: record.bundle.clone(),
        image: record.image.clone(),
        given: Given {
            cpus: record.reserved_cpus.clone(),
            memory: record.memory,
            pids: last.pids,
            node_network: record.node_network,
            namespaces: last.namespaces.clone(),
        },
        used: last.usage.clone(),
        time: Times { started: record.created, ended: now(), to_start, to_end },
        cleaned: last.cleaned.clone(),
        status: call.status,
        exit_code: call.status.filter(|s| s & 0x7f == 0).map(|s| s >> 8 & 0xff),
        signal: call.status.map(|s| s & 0x7f).filter(|s| *s != 0),
        problems: record.cgroup.left_out.clone(),
        freshness: None,
        chain: None,
        signature: None,
    }
}

/// Of a job that had no environment.
pub(super) fn bare_receipt(call: &Call, job: &Ending, to_end: u64) -> Receipt {
    Receipt {
        version: 1,
        id: job.id.clone(),
        node: call.node.clone(),
        uid: call.uid,
        gid: call.gid,
        job: Some(call.granted.clone()),
        bundle: "none".to_owned(),
        image: None,
        given: Given { node_network: true, ..Given::default() },
        used: cgroup::Usage::default(),
        time: Times { started: job.from, ended: now(), to_start: None, to_end },
        cleaned: Cleaned::default(),
        status: call.status,
        exit_code: call.status.filter(|s| s & 0x7f == 0).map(|s| s >> 8 & 0xff),
        signal: call.status.map(|s| s & 0x7f).filter(|s| *s != 0),
        problems: Vec::new(),
        freshness: None,
        chain: None,
        signature: None,
    }
}
