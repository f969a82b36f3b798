//! The processes in an environment's groups: which, stop, go on, end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cgroups_rs::FreezerState;
use cgroups_rs::fs::freezer::FreezerController;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

use super::CgroupError;
use super::directory::Directory;
use super::settings::errno_of;
use crate::plan::cgroup::{CgroupPlan, Group, Version};

/// How long a process may take to end after a write to `cgroup.kill`.
const GRACE: Duration = Duration::from_millis(20);

/// Processes in the groups of `plan` and below, ascending, as numbers of the
/// caller's pid namespace; those outside of it have none and are left out. A
/// process counts when it is in any of the hierarchies.
///
/// # Errors
/// [`CgroupError::Read`]; a group that is gone has no processes.
pub fn pids(plan: &CgroupPlan) -> Result<Vec<i32>, CgroupError> {
    let mut found = BTreeSet::new();
    for group in &plan.groups {
        if let Some(directory) = open(group)? {
            found.extend(in_tree(&directory)?);
        }
    }
    Ok(found.into_iter().collect())
}

fn open(group: &Group) -> Result<Option<Directory>, CgroupError> {
    match Directory::open(&group.at) {
        Ok(directory) => Ok(Some(directory)),
        Err(CgroupError::Open { errno: Errno::ENOENT, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Processes in one group and those below it.
pub(super) fn in_tree(group: &Directory) -> Result<Vec<i32>, CgroupError> {
    let text = match group.read("cgroup.procs") {
        Ok(text) => text,
        // It was removed, or is a threaded v2 group, whose processes are
        // listed in the group above.
        Err(CgroupError::Read {
            errno: Errno::ENODEV | Errno::ENOENT | Errno::EOPNOTSUPP, ..
        }) => String::new(),
        Err(error) => return Err(error),
    };
    let mut found: Vec<i32> =
        text.lines().filter_map(|l| l.parse().ok()).filter(|pid| *pid > 0).collect();
    for name in group.groups()? {
        match group.below(&name) {
            Ok(child) => found.extend(in_tree(&child)?),
            Err(CgroupError::Open { errno: Errno::ENOENT, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Kills everything in the groups of `plan` and below but the caller, and
/// waits for at most `patience` until it is gone.
///
/// With a v2 group it is one write to `cgroup.kill` (Linux 5.14), which no
/// fork escapes; else the v1 freezer holds the processes while each is sent
/// SIGKILL, again and again until none is left.
///
/// # Errors
/// [`CgroupError::Undead`] with those left when `patience` is over.
pub fn kill(plan: &CgroupPlan, patience: Duration) -> Result<(), CgroupError> {
    let end = Instant::now() + patience;
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut pause = Duration::from_micros(100);
    let mut written = None;
    loop {
        let all = pids(plan)?;
        let with_us = all.contains(&own);
        let victims: Vec<i32> = all.into_iter().filter(|pid| *pid != own).collect();
        if victims.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let at = plan.groups[0].at.clone();
            return Err(CgroupError::Undead { at, pids: victims });
        }
        // Neither may hit ourselves.
        if with_us {
            signal_all(&victims);
        } else if written.is_none() && kill_v2(plan) {
            written = Some(Instant::now());
        } else if written.is_none_or(|since| since.elapsed() > GRACE) {
            // What is in a v1 group only, by now.
            kill_frozen(plan)?;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn kill_v2(plan: &CgroupPlan) -> bool {
    let Some(group) = plan.v2() else { return false };
    Directory::open(&group.at).is_ok_and(|group| group.write("cgroup.kill", "1").is_ok())
}

/// Processes that are frozen cannot fork or end, so that the list holds and no
/// number in it is given to a new process before the signal is sent. They die
/// when they are thawed (kernel document cgroup-v1/freezer-subsystem).
fn kill_frozen(plan: &CgroupPlan) -> Result<(), CgroupError> {
    let freezer = freezer(plan)?;
    if let Some((_, freezer)) = &freezer {
        // One that sleeps in the kernel may take its time; kill the others.
        let _ = freezer.freeze();
        wait_frozen(freezer, Duration::from_millis(50));
    }
    let list = pids(plan);
    if let Ok(list) = &list {
        signal_all(list);
    }
    if let Some((_, freezer)) = &freezer {
        let _ = freezer.thaw();
    }
    list.map(drop)
}

fn signal_all(pids: &[i32]) {
    for pid in pids {
        // ESRCH: it has ended by itself.
        let _ = send(Pid::from_raw(*pid), Signal::SIGKILL);
    }
}

/// The v1 freezer of the environment; the directory must stay open as long as
/// the controller is used, which reaches it by its descriptor.
fn freezer(plan: &CgroupPlan) -> Result<Option<(Directory, FreezerController)>, CgroupError> {
    let Some(group) = plan.with("freezer") else { return Ok(None) };
    Ok(open(group)?.map(|directory| {
        let path = directory.proc_path();
        let controller = FreezerController::new(path.clone(), path, false);
        (directory, controller)
    }))
}

/// A group that stays at `FREEZING`, because a process was just being made or
/// traced, gets on when it is told again, which does no harm otherwise.
fn wait_frozen(freezer: &FreezerController, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    let mut pause = Duration::from_micros(200);
    loop {
        if matches!(freezer.state(), Ok(FreezerState::Frozen)) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(pause);
        if pause < Duration::from_millis(10) {
            pause *= 2;
        } else {
            let _ = freezer.freeze();
        }
    }
}

/// Whether the environment's processes are stopped where they are, by its own
/// group or by one above it. One that is on its way there counts.
///
/// # Errors
/// [`CgroupError::Read`]; a group that is gone is not frozen.
pub fn frozen(plan: &CgroupPlan) -> Result<bool, CgroupError> {
    let Some(at) = freezing_group(plan) else { return Ok(false) };
    let Some(group) = open(at)? else { return Ok(false) };
    let frozen = || match group.version {
        // Kernel document cgroup-v1/freezer-subsystem.
        Version::V1 => Ok(group.read("freezer.state")?.trim() != "THAWED"),
        // Its own wish, and what those above make of it.
        Version::V2 => Ok(group.read("cgroup.freeze")?.trim() == "1"
            || group.read("cgroup.events")?.lines().any(|line| line == "frozen 1")),
    };
    match frozen() {
        // Removed since it was opened: the container has just ended.
        Err(CgroupError::Read { errno: Errno::ENODEV | Errno::ENOENT, .. }) => Ok(false),
        result => result,
    }
}

/// The group that [`freeze`] writes to, if there is one.
pub fn freezing_group(plan: &CgroupPlan) -> Option<&Group> {
    plan.with("freezer").or_else(|| plan.v2())
}

/// Stops every process of the environment where it is, and waits until all
/// have stopped, for at most two seconds.
///
/// # Errors
/// [`CgroupError::NotFrozen`] when one does not stop in time or there is no
/// group to freeze with; nothing stays frozen then.
pub fn freeze(plan: &CgroupPlan) -> Result<(), CgroupError> {
    let patience = Duration::from_secs(2);
    if let Some((group, controller)) = freezer(plan)? {
        let frozen = controller.freeze().is_ok() && wait_frozen(&controller, patience);
        return if frozen { Ok(()) } else { give_up(plan, &group) };
    }
    let Some(group) = plan.v2().map(|g| Directory::open(&g.at)).transpose()? else {
        let at = plan.groups.first().map(|g| g.at.clone());
        return at.map_or(Ok(()), |at| Err(CgroupError::NotFrozen { at }));
    };
    group.write("cgroup.freeze", "1")?;
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if group.read("cgroup.events")?.lines().any(|l| l == "frozen 1") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    give_up(plan, &group)
}

fn give_up(plan: &CgroupPlan, group: &Directory) -> Result<(), CgroupError> {
    let _ = thaw(plan);
    let at = plan.groups.iter().find(|g| g.at.dir() == group.path()).map(|g| g.at.clone());
    at.map_or(Ok(()), |at| Err(CgroupError::NotFrozen { at }))
}

/// Lets the environment's processes go on.
///
/// # Errors
/// [`CgroupError`] when the group cannot be written.
pub fn thaw(plan: &CgroupPlan) -> Result<(), CgroupError> {
    if let Some((group, controller)) = freezer(plan)? {
        return controller.thaw().map_err(|error| {
            let errno = errno_of(&error).unwrap_or(Errno::EIO);
            group.refused("freezer.state", "THAWED", errno)
        });
    }
    match plan.v2() {
        Some(group) => Directory::open(&group.at)?.write("cgroup.freeze", "0"),
        None => Ok(()),
    }
}
