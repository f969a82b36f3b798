//! OCI hooks of the container's namespaces.

use nix::errno::Errno;

use super::{Channel, Fault, Named};
use crate::policy::spec::Hook;

/// The parent sends the state that hooks read; runs them one by one.
pub(super) fn run(channel: &Channel, hooks: &[Hook]) -> Result<(), Fault> {
    let mut state = vec![0u8; 64 * 1024];
    channel.say(super::Word::WantState).named("send")?;
    let length = channel.hear_text(&mut state).named("receive the state for hooks")?;
    for hook in hooks {
        if let Err(failure) = crate::kernel::hook::run_one(hook, &state[..length], None) {
            channel.say_note(&failure.to_string());
            return Err(Fault { call: "hook", errno: Errno::ECANCELED });
        }
    }
    Ok(())
}
