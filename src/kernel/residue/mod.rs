//! Takes away what was left on the node. Each thing is looked at again just
//! before, so that nothing that has come in its place is taken for it.

mod files;
mod keys;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::sys;
use crate::host::node::{Clock, Handle, Kind};
use crate::host::process;

/// How long killed processes may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file system of this type, mounted where nobody else sees it, and the
/// path by which this process reaches it.
pub struct Seen {
    _mount: OwnedFd,
    pub path: PathBuf,
}

/// mqueue or fusectl, whether or not the node has it mounted.
pub fn see(kind: &std::ffi::CStr) -> Option<Seen> {
    let mount = sys::detached(kind, &[], 0).ok()?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", super::files::number(&mount)));
    Some(Seen { _mount: mount, path })
}

/// The kernel's clock.
pub fn clock() -> Option<Clock> {
    sys::left::clock().ok().map(|(offset, synchronised)| Clock { synchronised, offset })
}

/// Removes one thing; of files only those whose owner is `mine`.
///
/// # Errors
/// Why it is still there.
pub fn remove(kind: Kind, handle: &Handle, mine: &dyn Fn(u32) -> bool) -> Result<(), String> {
    let told = |e: Errno| e.desc().to_owned();
    match handle {
        // All at once: `end`.
        Handle::Process { .. } => Ok(()),
        Handle::SystemV { id } => gone(match kind {
            Kind::SysvShm => sys::left::shm_remove(*id),
            Kind::SysvSem => sys::left::sem_remove(*id),
            _ => sys::left::msg_remove(*id),
        }),
        Handle::Queue { name } => {
            let seen = see(c"mqueue").ok_or("mqueue cannot be mounted")?;
            match std::fs::remove_file(seen.path.join(name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.to_string()),
                _ => Ok(()),
            }
        }
        Handle::File { path, device, inode } => files::remove(path, (*device, *inode), mine),
        Handle::Keys { uid } => keys::remove(*uid),
        Handle::Mount { point } if kind == Kind::Fuse => {
            let flags = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW;
            nix::mount::umount2(point, flags).map_err(told)
        }
        Handle::Connection { number } => {
            let seen = see(c"fusectl").ok_or("fusectl cannot be mounted")?;
            let abort = seen.path.join(number.to_string()).join("abort");
            std::fs::write(abort, "1").map_err(|e| e.to_string())
        }
        Handle::Loop { number } => {
            let device = File::open(format!("/dev/loop{number}")).map_err(|e| e.to_string())?;
            match sys::left::loop_clear(device.as_fd()) {
                Err(Errno::ENXIO) => Ok(()),
                other => other.map_err(told),
            }
        }
        Handle::Groups { directories } => directories.iter().try_for_each(|dir| empty_group(dir)),
        Handle::Mount { .. } | Handle::Setting { .. } | Handle::None => {
            Err("denovo does not remove such a thing".to_owned())
        }
    }
}

/// That it is gone already is no failure.
fn gone(result: Result<(), Errno>) -> Result<(), String> {
    match result {
        Err(Errno::EINVAL | Errno::EIDRM) | Ok(()) => Ok(()),
        Err(e) => Err(e.desc().to_owned()),
    }
}

/// Removes a group with those below it, none of which may have processes:
/// rmdir(2) takes no other.
fn empty_group(dir: &Path) -> Result<(), String> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            empty_group(&entry.path())?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {e}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Ends processes, given by pid and start time, and waits until they are gone.
/// Gives those that are not, by their place in the list.
pub fn end(processes: &[(i32, u64)]) -> Vec<usize> {
    let mut open: Vec<(usize, OwnedFd)> = Vec::new();
    for (place, (pid, started)) in processes.iter().enumerate() {
        // Opened first, compared second, so that no other can slip in.
        let Ok(pidfd) = sys::pidfd_open(*pid) else { continue };
        if process::started(*pid) == Some(*started)
            && sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL).is_ok()
        {
            open.push((place, pidfd));
        }
    }
    let until = Instant::now() + PATIENCE;
    while !open.is_empty() && Instant::now() < until {
        open.retain(|(_, pidfd)| {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            !matches!(poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout), Ok(1..))
        });
    }
    open.into_iter().map(|(place, _)| place).collect()
}

/// Puts a value of the kernel's back.
///
/// # Errors
/// As open(2) and write(2), with the file.
pub fn reset(file: &Path, value: &str) -> Result<(), String> {
    std::fs::write(file, value).map_err(|e| format!("{}: {e}", file.display()))
}

/// Forgets what of files is in memory and on the disk (sysctl vm.drop_caches).
///
/// # Errors
/// As open(2) and write(2).
pub fn drop_page_cache() -> Result<(), String> {
    // What is not on the disk yet is not forgotten.
    nix::unistd::sync();
    reset(Path::new("/proc/sys/vm/drop_caches"), "3")
}

/// Moves free memory together (sysctl vm.compact_memory).
///
/// # Errors
/// As open(2) and write(2).
pub fn compact_memory() -> Result<(), String> {
    reset(Path::new("/proc/sys/vm/compact_memory"), "1")
}
