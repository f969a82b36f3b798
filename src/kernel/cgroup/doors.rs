//! How processes get into the groups.
//!
//! Writing a process number into `cgroup.procs` waits for a grace period of
//! the kernel, about 10 ms for each hierarchy. A single-threaded process that
//! moves itself by writing `0` to v1's `tasks` does not (Linux 5.14 and
//! later), nor does one that is born in its v2 group (`CLONE_INTO_CGROUP`,
//! clone(2), Linux 5.7). So the files are opened before the clone, and the
//! child goes through them.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::unistd::{Uid, geteuid, seteuid};

use super::CgroupError;
use super::directory::Directory;
use crate::plan::cgroup::{CgroupPlan, CgroupStep, Setting, Version};

/// Open ways into the groups of one environment; all close-on-exec.
#[derive(Debug, Default)]
pub struct Doors {
    /// `tasks` of each v1 group and of resource control, to write `0` to; on some
    /// kernels `cgroup.procs` of the v2 group instead of its directory.
    pub v1_tasks: Vec<OwnedFd>,
    /// The v2 group's directory, for `CLONE_INTO_CGROUP`.
    pub v2_dir: Option<OwnedFd>,
    /// What keeps a group of systemd's until the doors have been used.
    pub holder: Option<super::Holder>,
}

/// Opens the ways into the groups of `plan`, which must have been made.
///
/// With `opener` the v1 files are opened with that effective uid. The kernel
/// asks for the rights of who opened the file, not of who writes to it (since
/// 5.16): a file that root opened lets its holder move any process, so what is
/// handed to a user must be opened with that user's uid (and the groups be
/// delegated to it). Only a single-threaded caller should give one: the
/// effective uid is changed for a moment.
///
/// # Errors
/// [`CgroupError`] when a group is gone or the opener may not write to it.
pub fn open_doors(plan: &CgroupPlan, opener: Option<u32>) -> Result<Doors, CgroupError> {
    let mut groups = Vec::new();
    let mut v2_dir = None;
    let mut v2_procs = None;
    for group in &plan.groups {
        let directory = Directory::open(&group.at)?;
        match group.at.version {
            Version::V1 => groups.push(directory),
            Version::V2 if opener.is_none() && must_move(plan) => {
                v2_procs = Some(directory.open_file("cgroup.procs", "0")?);
            }
            Version::V2 => v2_dir = Some(directory.into_fd()),
        }
    }
    let _acting = opener.map(ActingAs::new).transpose()?;
    let mut v1_tasks =
        groups.iter().map(|g| g.open_file("tasks", "0")).collect::<Result<Vec<_>, _>>()?;
    v1_tasks.extend(v2_procs);
    if let Some(rdt) = &plan.resctrl {
        v1_tasks.extend(super::resctrl::doors(rdt)?);
    }
    Ok(Doors { v1_tasks, v2_dir, holder: None })
}

/// Whether being born in the v2 group would leave a process its parent's CPUs:
/// cpuset did not look at `CLONE_INTO_CGROUP` before Linux 6.4 and the stable
/// 6.1 and 5.15 of its day. Moving there takes effect everywhere.
fn must_move(plan: &CgroupPlan) -> bool {
    let of_cpuset = |step: &CgroupStep| {
        let CgroupStep::Set { at, setting } = step else { return false };
        at.version == Version::V2 && matches!(setting, Setting::Cpus { .. } | Setting::Mems { .. })
    };
    plan.steps.iter().any(of_cpuset) && crate::host::kernel().is_ok_and(|kernel| kernel < (5, 15))
}

/// Another effective uid until it is dropped.
struct ActingAs {
    before: Uid,
}

impl ActingAs {
    fn new(uid: u32) -> Result<Self, CgroupError> {
        let before = geteuid();
        seteuid(Uid::from_raw(uid)).map_err(|errno| CgroupError::Act { uid, errno })?;
        Ok(Self { before })
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        if seteuid(self.before).is_err() {
            // To go on with the wrong rights would be worse.
            std::process::abort();
        }
    }
}

/// Moves a process with all its threads into every group of `plan`: the slow
/// way, for a process that cannot go through the [`Doors`] itself.
///
/// # Errors
/// [`CgroupError`] with the group that refused; `ESRCH` when there is no
/// process `pid`. It is then in the groups before that one.
pub fn place(plan: &CgroupPlan, pid: i32) -> Result<(), CgroupError> {
    if pid <= 0 {
        // 0 would move the caller.
        let path = "cgroup.procs".into();
        return Err(CgroupError::Write { path, value: pid.to_string(), errno: Errno::ESRCH });
    }
    for group in &plan.groups {
        Directory::open(&group.at)?.write("cgroup.procs", &pid.to_string())?;
    }
    Ok(())
}
