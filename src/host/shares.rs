//! What the kernel allows each user, all of the user's processes together: an
//! environment gets a part of it that the user's other processes leave alone.

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::{FsFlags, statvfs};

/// An environment's part of what its user has: a job and as much beside it.
const PART: u64 = 2;

/// inotify instances for one environment, which its user namespace can be held
/// to; `None` where the kernel has no such limit, or /proc/sys is read-only.
///
/// Source: kernel document admin-guide/sysctl/user.rst, `max_inotify_instances`.
pub fn inotify_instances() -> Option<u64> {
    let number =
        |path: &str| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let own = "/proc/sys/user/max_inotify_instances";
    let user = number(own)?;
    if statvfs(own).ok()?.flags().contains(FsFlags::ST_RDONLY) {
        return None;
    }
    // In a user namespace `own` may be without bound, the node's is not.
    let node = number("/proc/sys/fs/inotify/max_user_instances").unwrap_or(user);
    Some((user.min(node) / PART).max(1))
}

/// Bytes of POSIX message queues for a process of a job: the soft limit, and the
/// hard one, up to which it may raise it itself; `None` where it has less already.
///
/// Source: getrlimit(2), `RLIMIT_MSGQUEUE`.
pub fn queue_bytes() -> Option<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MSGQUEUE).ok()?;
    let part = hard / PART;
    (hard != libc::RLIM_INFINITY && soft > part).then_some((part, hard))
}
