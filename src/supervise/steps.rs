//! What the monitor gives to the steps of a scheduler's job, whose tasks the
//! scheduler starts itself: the SPANK plugin (spank/) puts them inside.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;

use super::monitor::Orders;
use super::protocol::Step;
use crate::kernel::cgroup::{self, Doors};
use crate::kernel::sys;
use crate::plan::cgroup::{CgroupStep, Setting, Version};
use crate::policy::filter;
use crate::policy::rank;
use crate::policy::spec::Kind;

/// `answered`: somebody answers sysinfo(2).
pub fn step(orders: &Orders, doors: &Doors, namespaces: Vec<Kind>, answered: bool) -> Step {
    // Below another listener the kernel gives none.
    let answers = if answered { &[true, false][..] } else { &[false] };
    let filters = answers.iter().map(|answered| filter::of_a_job(*answered, orders.kernel));
    let host = orders.record.bundle == "host";
    let v1 = orders.plan.cgroup.groups.iter().filter(|g| g.at.version == Version::V1);
    let left = rank::left_outside(host);
    let asked = orders.asked.image.clone().or_else(|| orders.asked.bundle.clone());
    let mut set = orders.env.clone();
    // The caller's stays outside, and an image need not say one.
    if !host && !set.iter().any(|entry| entry.starts_with("PATH=")) {
        set.push(format!("PATH={}", rank::DEFAULT_PATH));
    }
    Step {
        namespaces,
        v1_doors: v1.map(|group| group.controllers.clone()).collect(),
        v2_door: doors.v2_dir.is_some(),
        uid: orders.record.uid,
        bounding: rank::bounding(orders.record.uid),
        filters: filters.map(|filter| (filter.program, filter.flags)).collect(),
        cpus: orders.affinity.clone(),
        bundle: asked.unwrap_or_else(|| "host".to_owned()),
        unset: left.map(str::to_owned).collect(),
        moved: rank::MOVED.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        set,
    }
}

/// Holds the job to what the scheduler gave, from its first step on.
///
/// # Errors
/// Why the limit cannot be set, as a sentence.
pub fn limit_memory(orders: &mut Orders, memory: Option<u64>) -> Result<(), String> {
    let follows = orders.record.granted.as_ref().is_some_and(|g| g.memory_follows);
    let Some(bytes) = memory.filter(|_| follows && orders.record.memory.is_none()) else {
        return Ok(());
    };
    let Some(group) = orders.plan.cgroup.with("memory") else { return Ok(()) };
    let limit = i64::try_from(bytes).unwrap_or(i64::MAX);
    // v1 counts memory and swap together, v2 swap alone.
    let swap = if group.at.version == Version::V2 { 0 } else { limit };
    let settings =
        [Setting::MemoryMax { bytes: limit }, Setting::SwapMax { bytes: swap, if_present: true }];
    for setting in settings {
        cgroup::apply(&CgroupStep::Set { at: group.at.clone(), setting })
            .map_err(|e| e.to_string())?;
    }
    orders.record.memory = Some(bytes);
    orders.jobs.save(&orders.record).map_err(|p| p.message)
}

/// A detached mount of a directory, or of a terminal, that belongs to the
/// environment's user: nothing comes in with it that is not that user's own anyway.
///
/// # Errors
/// Why not, as a sentence.
pub fn bring(path: &str, uid: u32) -> Result<OwnedFd, String> {
    let refused = |what: &str| format!("{path}: {what}");
    if !Path::new(path).is_absolute() || path.len() > 4000 {
        return Err(refused("is no absolute path"));
    }
    let text = std::ffi::CString::new(path).map_err(|_| refused("holds a NUL byte"))?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let own = nix::fcntl::open(&*text, flags, nix::sys::stat::Mode::empty())
        .map_err(|e| refused(e.desc()))?;
    let stat = nix::sys::stat::fstat(&own).map_err(|e| refused(e.desc()))?;
    let terminal = is_terminal(&stat);
    if !terminal && stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return Err(refused("is no directory"));
    }
    if stat.st_uid != uid {
        return Err(refused(&format!("belongs to uid {}, not to {uid}", stat.st_uid)));
    }
    let mount = sys::clone_tree(own.as_fd(), c"", false).map_err(|e| refused(e.desc()))?;
    // With NODEV no device could be opened.
    let devices = if terminal { 0 } else { libc::MOUNT_ATTR_NODEV };
    let harmless = libc::MOUNT_ATTR_NOSUID | devices;
    sys::mount_setattr(mount.as_fd(), harmless, 0, false).map_err(|e| refused(e.desc()))?;
    Ok(mount)
}

/// Whether it is the lower end of a pseudoterminal: majors 136 to 143 (kernel document
/// admin-guide/devices.txt).
fn is_terminal(stat: &nix::sys::stat::FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR
        && (136..=143).contains(&nix::sys::stat::major(stat.st_rdev))
}
