//! Carries the steps about control groups out, and looks after the groups
//! while the environment lives.
//!
//! Every file is reached from the mount point of its hierarchy downwards,
//! through no link and over no further mount, and only once the file system
//! there has said that it is one of control groups: a path alone could lead a
//! privileged caller anywhere.

use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::host::cgroups::CALLERS;
use crate::plan::cgroup::{CgroupPlan, CgroupStep, CgroupUndo, Place, Version};

pub mod device_filter;
mod devices;
mod directory;
mod doors;
mod error;
mod oom;
mod processes;
mod removal;
mod resctrl;
mod scope;
mod settings;
mod stats;
mod update;
mod usage;

pub use doors::{Doors, open_doors, place};
pub use error::CgroupError;
pub use oom::Oom;
pub use processes::{freeze, freezing_group, frozen, kill, pids, thaw};
pub use removal::{remove, remove_now};
pub use scope::Holder;
pub use stats::stats;
pub use update::{change, in_force};
pub use usage::{Usage, usage};

use directory::Directory;

/// Carries every step out; takes those done back when one is refused. What it
/// gives keeps a group that systemd made until somebody else is in it.
///
/// # Errors
/// The first [`CgroupError`].
pub fn make(plan: &CgroupPlan) -> Result<Option<Holder>, CgroupError> {
    let mut holder = None;
    for (number, step) in plan.steps.iter().enumerate() {
        let result = match step {
            CgroupStep::Scope { at, scope } => scope::start(at, scope).map(|h| holder = Some(h)),
            step => apply(step),
        };
        let Err(error) = result else { continue };
        // A group that was there before is another environment's.
        let ours = if matches!(error, CgroupError::Occupied { .. }) { number } else { number + 1 };
        for undo_of in plan.steps[..ours].iter().rev() {
            if let Some(step) = undo_of.undo() {
                // The first error is the one to report.
                let _ = undo(&step);
            }
        }
        return Err(error);
    }
    let made = plan.resctrl.as_ref().map_or(Ok(()), resctrl::make);
    made.map(|()| holder).inspect_err(|_| {
        for step in plan.steps.iter().rev().filter_map(CgroupStep::undo) {
            let _ = undo(&step);
        }
    })
}

/// Carries one step out.
///
/// # Errors
/// [`CgroupError`] with the file and the kernel's reason; also when a limit
/// does not read back as it was written.
pub fn apply(step: &CgroupStep) -> Result<(), CgroupError> {
    match step {
        CgroupStep::Scope { at, scope } => scope::start(at, scope).map(drop),
        CgroupStep::Make { at, anew, .. } => make_group(at, *anew),
        CgroupStep::InheritCpuset { at } => inherit_cpuset(at),
        CgroupStep::Aside { at } => step_aside(at),
        CgroupStep::Enable { at, controllers, needed } => enable(at, controllers, *needed),
        CgroupStep::Set { at, setting } => settings::set(&Directory::open(at)?, setting),
        CgroupStep::Devices { at, rules } => devices::set(&Directory::open(at)?, rules),
        CgroupStep::Delegate { at, uid } => delegate(at, *uid),
    }
}

/// Takes one step back. What is gone already is no error.
///
/// # Errors
/// [`CgroupError`] when a group still has processes after two seconds.
pub fn undo(step: &CgroupUndo) -> Result<(), CgroupError> {
    let (at, shared) = match step {
        CgroupUndo::Stop { at, scope } => return scope::stop(at, scope),
        CgroupUndo::Remove { at, shared } => (at, shared),
    };
    removal::remove_group(at, removal::PATIENCE)?;
    for path in shared {
        removal::remove_if_empty(&Place { path: path.clone(), ..at.clone() })?;
    }
    Ok(())
}

/// Makes the group and those above it; an empty one that is there already is
/// made `anew`, or used.
fn make_group(at: &Place, anew: bool) -> Result<(), CgroupError> {
    let names: Vec<&str> = at.path.split('/').collect();
    // Another environment's end may remove a shared parent in between.
    for _ in 0..10 {
        let mut above = Directory::mount_point(at)?;
        let mut vanished = false;
        for (depth, name) in names.iter().enumerate() {
            let own = depth + 1 == names.len();
            match above.make(name) {
                Ok(()) => {}
                Err(Errno::EEXIST) if own && (anew || !vacant(&above, name, at)?) => {
                    replace(&above, name, at)?;
                }
                Err(Errno::EEXIST) => {}
                Err(Errno::ENOENT) => vanished = true,
                Err(errno) => return Err(CgroupError::Make { at: at.clone(), errno }),
            }
            if own || vanished {
                break;
            }
            match above.below(name) {
                Ok(next) => above = next,
                Err(CgroupError::Open { errno: Errno::ENOENT, .. }) => {
                    vanished = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if !vanished {
            return Ok(());
        }
    }
    Err(CgroupError::Make { at: at.clone(), errno: Errno::ENOENT })
}

/// Whether a process may be put into the group that is there: nobody is in it,
/// and it would not be stopped on its way in.
///
/// # Errors
/// [`CgroupError::Occupied`] when it is another's.
fn vacant(above: &Directory, name: &str, at: &Place) -> Result<bool, CgroupError> {
    let group = above.below(name)?;
    if !processes::in_tree(&group)?.is_empty() {
        return Err(CgroupError::Occupied { at: at.clone() });
    }
    let (file, running) = match at.version {
        Version::V1 => ("freezer.state", "THAWED"),
        Version::V2 => ("cgroup.freeze", "0"),
    };
    // Only one of the v1 hierarchies has the file.
    Ok(group.read(file).map_or(true, |state| state.trim() == running))
}

fn replace(above: &Directory, name: &str, at: &Place) -> Result<(), CgroupError> {
    above.remove(name).and_then(|()| above.make(name)).map_err(|errno| match errno {
        Errno::EBUSY | Errno::ENOTEMPTY | Errno::EEXIST => CgroupError::Occupied { at: at.clone() },
        errno => CgroupError::Make { at: at.clone(), errno },
    })
}

fn inherit_cpuset(at: &Place) -> Result<(), CgroupError> {
    let mut above = Directory::mount_point(at)?;
    for name in at.path.split('/') {
        let group = above.below(name)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if group.read(file)?.trim().is_empty() {
                let list = above.read(file)?;
                group.write(file, list.trim())?;
                // Empty again would be found only when the first process joins.
                let found = group.read(file)?;
                if found.trim().is_empty() {
                    return Err(group.not_kept(
                        "cpuset of the group above",
                        file,
                        list.trim(),
                        found.trim(),
                    ));
                }
            }
        }
        above = group;
    }
    Ok(())
}

/// Empties a group into [`CALLERS`] below it. What its processes fork
/// meanwhile is found by the next look.
fn step_aside(at: &Place) -> Result<(), CgroupError> {
    let group = Directory::open(at)?;
    for _ in 0..100 {
        let inside = group.read("cgroup.procs")?;
        if inside.is_empty() {
            return Ok(());
        }
        match group.make(CALLERS) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(CgroupError::Make { at: at.clone(), errno }),
        }
        let aside = group.below(CALLERS)?;
        for pid in inside.lines() {
            match aside.write("cgroup.procs", pid) {
                // It has ended by itself.
                Ok(()) | Err(CgroupError::Write { errno: Errno::ESRCH, .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Err(group.refused("cgroup.procs", "", Errno::EBUSY))
}

fn enable(at: &Place, controllers: &[String], needed: bool) -> Result<(), CgroupError> {
    let group = Directory::open(at)?;
    let enabled = group.read("cgroup.subtree_control")?;
    let lacking: Vec<String> = controllers
        .iter()
        .filter(|controller| !enabled.split_whitespace().any(|c| c == *controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    // All or none of a write are taken, and each goes over all groups below.
    if lacking.is_empty() || group.write("cgroup.subtree_control", &lacking.join(" ")).is_ok() {
        return Ok(());
    }
    for word in lacking {
        let result = group.write("cgroup.subtree_control", &word);
        if needed {
            result.map_err(|error| error.enabling(&word[1..]))?;
        }
    }
    Ok(())
}

fn delegate(at: &Place, uid: u32) -> Result<(), CgroupError> {
    let group = Directory::open(at)?;
    let files: &[&str] = match at.version {
        // Not the directory: a group below would escape no limit, but would
        // have to be removed by us.
        Version::V1 => &["tasks", "cgroup.procs"],
        // Kernel document cgroup-v2, "Model of Delegation".
        Version::V2 => &["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"],
    };
    for file in files {
        group.give(file, uid)?;
    }
    if at.version == Version::V2 {
        let owner = Some(nix::unistd::Uid::from_raw(uid));
        nix::unistd::fchownat(group.as_fd(), "", owner, None, nix::fcntl::AtFlags::AT_EMPTY_PATH)
            .map_err(|errno| group.refused("", &format!("uid {uid}"), errno))?;
    }
    Ok(())
}
