//! Runs one OCI hook (runtime-spec, "POSIX-platform Hooks").

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::sys;
use crate::policy::spec::Hook;

/// Why a hook did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum HookFailure {
    #[error("hook {path}: cannot be run: {why}")]
    Unusable { path: String, why: std::io::Error },
    #[error("hook {path} ended with {status}")]
    Failed { path: String, status: std::process::ExitStatus },
    #[error("hook {path} did not end within its {seconds} s and was killed")]
    Late { path: String, seconds: u32 },
    #[error("hook {path} was killed because denovo was told to end")]
    Interrupted { path: String },
}

/// Runs a hook with the container's state on its standard input, in a clean
/// environment: only what config.json says.
///
/// # Arguments
/// * `interrupt` - readable when the hook shall not go on
///
/// # Errors
/// The hook cannot be executed, fails, or takes longer than its timeout.
pub fn run_one(
    hook: &Hook,
    state: &[u8],
    interrupt: Option<BorrowedFd<'_>>,
) -> Result<(), HookFailure> {
    let path = hook.path.to_string_lossy();
    let unusable = |why| HookFailure::Unusable { path: path.clone(), why };
    let mut command = Command::new(hook.path.as_path());
    // A group of its own: what it started ends with it when it must not go on.
    command.env_clear().stdin(Stdio::piped()).process_group(0);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name.as_path());
        command.args(rest.iter().map(|a| std::ffi::OsStr::from_bytes(a.as_bytes())));
    }
    for entry in &hook.env {
        let text = entry.to_string_lossy();
        if let Some((name, value)) = text.split_once('=') {
            command.env(name, value);
        }
    }
    let mut child = command.spawn().map_err(unusable)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that does not read its input may be gone already.
        let _ = stdin.write_all(state);
    }
    let waited = if hook.timeout.is_some() || interrupt.is_some() {
        await_end(child.id() as i32, hook.timeout, interrupt)
    } else {
        Waited::Ended
    };
    if !matches!(waited, Waited::Ended) {
        let group = nix::unistd::Pid::from_raw(child.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = child.kill();
        let _ = child.wait();
    }
    match waited {
        Waited::Ended => {}
        Waited::Late(seconds) => return Err(HookFailure::Late { path, seconds }),
        Waited::Interrupted => return Err(HookFailure::Interrupted { path }),
    }
    let status = child.wait().map_err(unusable)?;
    if status.success() { Ok(()) } else { Err(HookFailure::Failed { path, status }) }
}

enum Waited {
    Ended,
    Late(u32),
    Interrupted,
}

/// # Arguments
/// * `seconds` - how long it may take
fn await_end(pid: i32, seconds: Option<u32>, interrupt: Option<BorrowedFd<'_>>) -> Waited {
    let Ok(pidfd) = sys::pidfd_open(pid) else { return Waited::Ended };
    let end = seconds.map(|s| (s, Instant::now() + Duration::from_secs(u64::from(s))));
    loop {
        let left = end.map(|(_, end)| end.saturating_duration_since(Instant::now()).as_millis());
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.min(i32::MAX as u128)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(interrupt.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let polled = poll(&mut fds, timeout);
        let ready = |fd: Option<&PollFd<'_>>| {
            fd.and_then(PollFd::revents).is_some_and(|events| !events.is_empty())
        };
        match polled {
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return Waited::Ended,
            Ok(_) if ready(fds.first()) => return Waited::Ended,
            Ok(_) if ready(fds.get(1)) => return Waited::Interrupted,
            Ok(_) => {
                if let Some((seconds, end)) = end
                    && Instant::now() >= end
                {
                    return Waited::Late(seconds);
                }
            }
        }
    }
}
