//! What can go wrong with control groups, and what to do about it.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::plan::cgroup::{Place, Version};
use crate::problem::Problem;

/// Why a step about control groups failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CgroupError {
    #[error("cannot open {}: {errno}", path.display())]
    Open { path: PathBuf, errno: Errno },
    #[error("{} is no control group file system", path.display())]
    NotCgroups { path: PathBuf },
    #[error("cannot make the control group {at}: {errno}")]
    Make { at: Place, errno: Errno },
    #[error("the control group {at} is in use already")]
    Occupied { at: Place },
    #[error("cannot remove the control group {at}: {errno}")]
    Remove { at: Place, errno: Errno, pids: Vec<i32> },
    #[error("cannot read {}: {errno}", path.display())]
    Read { path: PathBuf, errno: Errno },
    #[error("cannot write {value:?} to {}: {errno}", path.display())]
    Write { path: PathBuf, value: String, errno: Errno },
    #[error("{what} refused: cannot write {value:?} to {}: {reason}", path.display())]
    Limit { what: String, path: PathBuf, value: String, reason: String, errno: Option<Errno> },
    #[error("{what}: {} holds {found:?} after {asked:?} was written to it", path.display())]
    NotKept { what: String, path: PathBuf, asked: String, found: String },
    #[error("cannot enable the controller {controller} below {}: {errno}", path.display())]
    Enable { path: PathBuf, controller: String, errno: Errno },
    #[error("cannot {act} the device filter of {at}: {errno}")]
    DeviceFilter { at: Place, act: &'static str, errno: Errno },
    #[error("{at} still has processes after they were killed")]
    Undead { at: Place, pids: Vec<i32> },
    #[error("cannot act as uid {uid}: {errno}")]
    Act { uid: u32, errno: Errno },
    #[error("systemd makes no scope {unit}: {why}")]
    Systemd { unit: String, why: String },
    #[error("{at} does not freeze")]
    NotFrozen { at: Place },
}

impl CgroupError {
    /// A refused write to `cgroup.subtree_control`, by the controller's name.
    pub(super) fn enabling(self, controller: &str) -> Self {
        match self {
            Self::Write { path, errno, .. } => {
                let path = path.parent().map(PathBuf::from).unwrap_or(path);
                Self::Enable { path, controller: controller.to_owned(), errno }
            }
            other => other,
        }
    }

    /// The kernel's reason, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open { errno, .. }
            | Self::Make { errno, .. }
            | Self::Remove { errno, .. }
            | Self::Read { errno, .. }
            | Self::Write { errno, .. }
            | Self::Enable { errno, .. }
            | Self::DeviceFilter { errno, .. }
            | Self::Act { errno, .. } => Some(*errno),
            Self::Limit { errno, .. } => *errno,
            Self::NotCgroups { .. }
            | Self::Occupied { .. }
            | Self::NotKept { .. }
            | Self::Undead { .. }
            | Self::Systemd { .. }
            | Self::NotFrozen { .. } => None,
        }
    }

    /// Whether the caller lacks the right, so that a best effort may go on.
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
    }
}

impl From<CgroupError> for Problem {
    fn from(error: CgroupError) -> Self {
        let message = error.to_string();
        let running = |pids: &[i32]| {
            let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
            format!("processes still in it: {}", pids.join(", "))
        };
        match &error {
            CgroupError::Occupied { .. } => {
                Self::user(message).hint("choose another id, or end the environment that has it")
            }
            CgroupError::Remove { pids, .. } | CgroupError::Undead { pids, .. }
                if !pids.is_empty() =>
            {
                Self::kernel(message).hint(running(pids))
            }
            CgroupError::Systemd { .. } => Self::site(message).hint(
                "see journalctl; without --systemd-cgroup denovo makes the control group itself",
            ),
            CgroupError::NotCgroups { .. } => {
                Self::site(message).hint("as root: mount -t cgroup2 none /sys/fs/cgroup")
            }
            CgroupError::Enable { errno: Errno::EBUSY, .. } => Self::site(message).hint(
                "the group has processes of its own (cgroups(7), \"no internal processes\"): \
                 start denovo in a group of its own, such as with systemd-run --user --scope",
            ),
            CgroupError::Limit { errno: Some(errno), .. } => limit_hint(*errno, message),
            CgroupError::NotKept { path, .. } if path.ends_with("memory.kmem.limit_in_bytes") => {
                Self::kernel(message).hint(
                    "kernels since 5.16 count the kernel's memory in the memory limit only; leave \
                     the field out",
                )
            }
            CgroupError::NotKept { .. } => Self::kernel(message)
                .hint("the limit is not in force; a group above may have a lower one"),
            _ if error.errno() == Some(Errno::EROFS) => Self::site(message)
                .hint("the control groups are mounted read-only, as inside another container"),
            _ if error.is_permission() => Self::site(message).hint(permission_hint(&error)),
            _ => Self::kernel(message),
        }
    }
}

fn limit_hint(errno: Errno, message: String) -> Problem {
    match errno {
        Errno::EINVAL | Errno::ERANGE | Errno::ENODEV => Problem::user(message)
            .hint("the value is out of range, or is more than the group above may use"),
        Errno::EBUSY | Errno::ENOSPC => {
            Problem::user(message).hint("the group uses more than that already")
        }
        Errno::ENOENT => Problem::kernel(message)
            .hint("this kernel was built or booted without that setting; leave the limit out"),
        Errno::EACCES | Errno::EPERM => {
            Problem::site(message).hint("run denovo as root, or leave the limit out")
        }
        _ => Problem::kernel(message),
    }
}

fn permission_hint(error: &CgroupError) -> &'static str {
    match error {
        CgroupError::Make { at: Place { version: Version::V2, .. }, .. } => {
            "this user has no delegated control group; the site gives one with [Service] \
             Delegate=yes for user@.service, or runs denovo as root"
        }
        CgroupError::DeviceFilter { .. } => {
            "this takes CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN"
        }
        _ => "run denovo as root, or leave the limits out",
    }
}
