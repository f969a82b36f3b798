//! Whose something is, and which job left it.

use super::Jobs;
use crate::host::node::{Handle, Kind, Thing};

/// A job on the node now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub id: String,
    pub uid: u32,
    /// Processes that keep its environment, which are root's.
    pub pids: Vec<i32>,
}

/// A job that was on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub id: String,
    pub uid: u32,
    /// Seconds since 1970.
    pub from: u64,
    pub to: u64,
}

/// Further ids of users (subuid(5)): first, how many, the user's own.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    pub ranges: Vec<(u32, u32, u32)>,
}

impl Owners {
    /// The user whose id this is.
    pub fn user(&self, uid: u32) -> u32 {
        let range = |r: &&(u32, u32, u32)| uid.checked_sub(r.0).is_some_and(|n| n < r.1);
        self.ranges.iter().find(range).map_or(uid, |r| r.2)
    }
}

/// Clocks have whole seconds here and start times are counted from a boot
/// time that is rounded.
const SLACK: u64 = 2;

/// The job that left something of this user, and whether that is certain.
pub fn left_by(thing: &Thing, owner: Option<u32>, jobs: &Jobs) -> (Option<String>, bool) {
    if let Some(job) = &thing.job {
        return (Some(job.clone()), jobs.ended.iter().any(|ended| ended.id == *job));
    }
    let Some(uid) = owner else { return (None, false) };
    let theirs = || jobs.ended.iter().rev().filter(|job| job.uid == uid);
    let Some(last) = theirs().next() else { return (None, false) };
    let within = |job: &&super::Ended, at: u64| {
        job.from.saturating_sub(SLACK) <= at && at <= job.to.saturating_add(SLACK)
    };
    match thing.made {
        Some(at) => {
            let job = theirs().find(|job| within(job, at));
            let before = || theirs().find(|job| job.from <= at);
            match job {
                Some(job) => (Some(job.id.clone()), true),
                None => (before().map(|job| job.id.clone()), false),
            }
        }
        // It lives in memory only, so that it is from after the boot; of
        // whom with a job here since, it is that job's.
        None => {
            let memory =
                matches!(thing.kind, Kind::Mqueue | Kind::Keyring | Kind::Fuse | Kind::Loop)
                    || matches!(thing.handle, Handle::Groups { .. });
            (Some(last.id.clone()), memory && last.to >= jobs.booted)
        }
    }
}
