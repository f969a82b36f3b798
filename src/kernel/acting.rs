//! Doing something with another user's rights, for a moment.

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups, setegid, seteuid};

use super::sys;

/// Another user's effective ids and groups until it is dropped. Only for a
/// process with one thread: the ids of a process are its threads' together.
#[derive(Debug)]
pub struct Acting {
    uid: Uid,
    gid: Gid,
    groups: Vec<u32>,
}

impl Acting {
    /// # Errors
    /// As setgroups(2), setegid(2), seteuid(2); the caller's own are back then.
    pub fn as_user(uid: u32, gid: u32, groups: &[u32]) -> Result<Self, Errno> {
        let before = Self {
            uid: geteuid(),
            gid: getegid(),
            groups: getgroups()?.into_iter().map(Gid::as_raw).collect(),
        };
        sys::setgroups(groups)?;
        // From here on its end takes back what was done.
        setegid(Gid::from_raw(gid))?;
        seteuid(Uid::from_raw(uid))?;
        Ok(before)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        let back = seteuid(self.uid)
            .and_then(|()| setegid(self.gid))
            .and_then(|()| sys::setgroups(&self.groups));
        if back.is_err() {
            // To go on with the wrong rights would be worse.
            std::process::abort();
        }
    }
}
