//! A user's keyrings (keyrings(7)): user-keyring(7),
//! user-session-keyring(7), persistent-keyring(7).

use crate::kernel::sys::left::keyctl;
use crate::kernel::sys::{self, Forked};

const GET_KEYRING_ID: u32 = 0;
const CLEAR: u32 = 7;
const INVALIDATE: u32 = 21;
const GET_PERSISTENT: u32 = 22;
const PROCESS_KEYRING: i64 = -2;
const USER_KEYRING: i64 = -4;
const USER_SESSION_KEYRING: i64 = -5;

/// Empties them and lets them go. They are found by who asks, so a child
/// becomes that user.
///
/// # Errors
/// The user's own keyring cannot be emptied.
pub fn remove(uid: u32) -> Result<(), String> {
    let failed = |e: nix::errno::Errno| e.desc().to_owned();
    match sys::clone3(0, None).map_err(failed)? {
        Forked::Child => sys::exit_now(i32::from(!as_user(uid))),
        Forked::Parent(pid) => {
            match nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None) {
                Ok(nix::sys::wait::WaitStatus::Exited(_, 0)) => Ok(()),
                Ok(_) => Err("its keyring cannot be emptied".to_owned()),
                Err(e) => Err(failed(e)),
            }
        }
    }
}

fn as_user(uid: u32) -> bool {
    // A session of its own first: root's must not lead to the user's.
    let _ = sys::new_session_keyring(c"_denovo");
    let persistent = keyctl(GET_PERSISTENT, i64::from(uid), PROCESS_KEYRING);
    if sys::setuid_all(uid).is_err() {
        return false;
    }
    // Both before either goes: to look for one makes the other anew.
    let own = [USER_SESSION_KEYRING, USER_KEYRING].map(|k| keyctl(GET_KEYRING_ID, k, 0));
    let mut done = true;
    for id in own.into_iter().chain([persistent]).flatten() {
        done &= keyctl(CLEAR, id, 0).is_ok();
        let _ = keyctl(INVALIDATE, id, 0);
    }
    done
}
