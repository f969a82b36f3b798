//! Being told that an environment ran out of memory.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::CgroupError;
use super::directory::Directory;
use crate::plan::cgroup::{CgroupPlan, Place, Version};

/// A descriptor to wait on for the group's memory to run out.
pub struct Oom {
    at: Place,
    watch: Watch,
}

enum Watch {
    /// Kernel document cgroup-v1/memory, section 10. The second descriptor
    /// must stay open.
    V1(EventFd, #[allow(dead_code)] File),
    /// Kernel document cgroup-v2, `memory.events`; with the kills so far.
    V2(File, u64),
}

impl Oom {
    /// `None` where no group counts memory.
    ///
    /// # Errors
    /// [`CgroupError`] when the kernel does not tell.
    pub fn watch(plan: &CgroupPlan) -> Result<Option<Self>, CgroupError> {
        let Some(group) = plan.with("memory") else { return Ok(None) };
        let at = group.at.clone();
        let directory = Directory::open(&at)?;
        let watch = match at.version {
            Version::V1 => {
                let control = File::from(directory.open_for_reading("memory.oom_control")?);
                let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
                let event = EventFd::from_flags(flags)
                    .map_err(|errno| directory.refused("memory.oom_control", "eventfd", errno))?;
                let words = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
                directory.write("cgroup.event_control", &words)?;
                Watch::V1(event, control)
            }
            Version::V2 => {
                let events = File::from(directory.open_for_reading("memory.events")?);
                let kills = kills(&events);
                Watch::V2(events, kills)
            }
        };
        Ok(Some(Self { at, watch }))
    }

    /// What to poll(2) for.
    pub fn wait_on(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.watch {
            Watch::V1(event, _) => (event.as_fd(), PollFlags::POLLIN),
            Watch::V2(events, _) => (events.as_fd(), PollFlags::POLLPRI),
        }
    }

    /// Whether memory has run out since the last call. The descriptor wakes
    /// for other reasons too, such as the group's removal.
    pub fn happened(&mut self) -> bool {
        match &mut self.watch {
            Watch::V1(event, _) => event.read().is_ok() && Directory::open(&self.at).is_ok(),
            Watch::V2(events, before) => {
                let now = kills(events);
                std::mem::replace(before, now) < now
            }
        }
    }
}

/// The kernel takes a read from the start as having heard.
fn kills(events: &File) -> u64 {
    let mut buffer = [0; 512];
    let length = events.read_at(&mut buffer, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&buffer[..length]);
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
    count.unwrap_or(0)
}
