//! Removes groups. Only rmdir(2) is ever called, which takes nothing but
//! empty groups, and only below the group given.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::directory::Directory;
use super::{CgroupError, processes, scope, undo};
use crate::plan::cgroup::{CgroupPlan, CgroupUndo, Place};

/// How long killed processes may take to leave their group.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Removes every group of `plan`, with the groups below and denovo's own
/// groups above that have become empty. What is gone already is no error.
///
/// # Errors
/// The first [`CgroupError`]; the other hierarchies are cleared all the same.
pub fn remove(plan: &CgroupPlan) -> Result<(), CgroupError> {
    let mut first = plan.resctrl.as_ref().map_or(Ok(()), super::resctrl::remove);
    for step in plan.steps.iter().rev().filter_map(|step| step.undo()) {
        let result = undo(&step);
        if first.is_ok() {
            first = result;
        }
    }
    first
}

/// [`remove`] without waiting for anything: what is busy is left.
///
/// # Errors
/// As [`remove`], at once.
pub fn remove_now(plan: &CgroupPlan) -> Result<(), CgroupError> {
    plan.resctrl.as_ref().map_or(Ok(()), super::resctrl::remove)?;
    for step in plan.steps.iter().rev().filter_map(|step| step.undo()) {
        let (at, shared) = match step {
            CgroupUndo::Stop { at, scope } => {
                scope::stop_empty(&at, &scope)?;
                continue;
            }
            CgroupUndo::Remove { at, shared } => (at, shared),
        };
        remove_group(&at, Duration::ZERO)?;
        for path in shared {
            remove_if_empty(&Place { path, ..at.clone() })?;
        }
    }
    Ok(())
}

/// Removes one group and those below it, waiting for at most `patience` while
/// processes are on their way out.
pub(super) fn remove_group(at: &Place, patience: Duration) -> Result<(), CgroupError> {
    let Some((above, name)) = parent(at)? else { return Ok(()) };
    let end = Instant::now() + patience;
    let mut pause = Duration::from_micros(200);
    loop {
        match remove_tree(&above, name) {
            Ok(()) => return Ok(()),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) if Instant::now() < end => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(errno) => {
                let pids = Directory::open(at)
                    .and_then(|group| processes::in_tree(&group))
                    .unwrap_or_default();
                return Err(CgroupError::Remove { at: at.clone(), errno, pids });
            }
        }
    }
}

/// Removes a group that others may use, when nobody does. One that is not
/// the caller's to remove (it was delegated) stays.
pub(super) fn remove_if_empty(at: &Place) -> Result<(), CgroupError> {
    let Some((above, name)) = parent(at)? else { return Ok(()) };
    match above.remove(name) {
        Ok(())
        | Err(Errno::ENOENT | Errno::EBUSY | Errno::ENOTEMPTY | Errno::EACCES | Errno::EPERM) => {
            Ok(())
        }
        Err(errno) => Err(CgroupError::Remove { at: at.clone(), errno, pids: Vec::new() }),
    }
}

/// The open group above `at` and the last name; `None` when it is gone.
fn parent(at: &Place) -> Result<Option<(Directory, &str)>, CgroupError> {
    let (above, name) = at.path.rsplit_once('/').unwrap_or(("", &at.path));
    let above = Place { path: above.to_owned(), ..at.clone() };
    match Directory::open(&above) {
        _ if name.is_empty() => Ok(None),
        Ok(directory) => Ok(Some((directory, name))),
        Err(CgroupError::Open { errno: Errno::ENOENT, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// rmdir(2) from the bottom up. Depth is bounded by the kernel's own limit on
/// the length of a path.
fn remove_tree(above: &Directory, name: &str) -> Result<(), Errno> {
    match above.remove(name) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => {}
        Err(errno) => return Err(errno),
    }
    if let Ok(group) = above.below(name) {
        for child in group.groups().unwrap_or_default() {
            remove_tree(&group, &child)?;
        }
    }
    match above.remove(name) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}
