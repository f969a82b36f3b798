//! Runs one OCI hook (runtime-spec, "POSIX-platform Hooks").

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

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
}

/// Runs a hook with the container's state on its standard input, in a clean
/// environment: only what config.json says.
///
/// # Errors
/// The hook cannot be executed, fails, or takes longer than its timeout.
pub fn run_one(hook: &Hook, state: &[u8]) -> Result<(), HookFailure> {
    let path = hook.path.to_string_lossy();
    let unusable = |why| HookFailure::Unusable { path: path.clone(), why };
    let mut command = Command::new(hook.path.as_path());
    command.env_clear().stdin(Stdio::piped());
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
    if let Some(seconds) = hook.timeout
        && !ends_within(child.id() as i32, seconds)
    {
        let _ = child.kill();
        let _ = child.wait();
        return Err(HookFailure::Late { path, seconds });
    }
    let status = child.wait().map_err(unusable)?;
    if status.success() { Ok(()) } else { Err(HookFailure::Failed { path, status }) }
}

fn ends_within(pid: i32, seconds: u32) -> bool {
    let Ok(pidfd) = sys::pidfd_open(pid) else { return true };
    let wait = i32::try_from(u64::from(seconds) * 1000).unwrap_or(i32::MAX);
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    !matches!(poll(&mut fds, timeout), Ok(0))
}
