//! Transient scopes: systemd is asked to make and to end a group.
//!
//! By `busctl`, which is wherever systemd is: a bus client linked in would be
//! threads, or relocations at every start, for the few who ask for scopes
//! (docs/decisions/0030).

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::directory::Directory;
use super::{CgroupError, processes, removal};
use crate::kernel::sys::{self, Forked};
use crate::plan::cgroup::{Place, Scope};

/// How long systemd may take to start or stop a scope.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that keeps a new scope from ending before the container's first
/// process is born in it; gone when dropped, or when its maker dies.
#[derive(Debug)]
pub struct Holder(Pid);

impl Holder {
    fn start(scope: &Scope) -> Result<Self, CgroupError> {
        match sys::clone3(0, None) {
            Ok(Forked::Child) => {
                let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
                loop {
                    nix::unistd::pause();
                }
            }
            Ok(Forked::Parent(pid)) => Ok(Self(Pid::from_raw(pid))),
            Err(errno) => Err(failed(scope, format!("clone: {}", errno.desc()))),
        }
    }

    /// Whether it is in the group `path` of cgroup v2.
    fn is_in(&self, path: &str) -> bool {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", self.0)).unwrap_or_default();
        text.lines().any(|line| line.strip_prefix("0::/") == Some(path))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
}

/// Has systemd make the scope, and waits until it stands where it was planned.
///
/// # Errors
/// [`CgroupError::Systemd`] with systemd's own words.
pub fn start(at: &Place, scope: &Scope) -> Result<Holder, CgroupError> {
    // sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(failed(scope, "systemd does not run this node".to_owned()));
    }
    let holder = Holder::start(scope)?;
    let mut args = vec!["ssa(sv)a(sa(sv))".to_owned(), scope.unit.clone(), "fail".to_owned()];
    args.push((scope.properties.len() + 1).to_string());
    args.extend(["PIDs", "au", "1"].map(str::to_owned));
    args.push(holder.0.to_string());
    for property in &scope.properties {
        args.extend([property.name.clone(), property.signature.clone()]);
        args.extend(property.words.iter().cloned());
    }
    args.push("0".to_owned());
    call(scope, "StartTransientUnit", &args)?;
    if !wait_until(|| holder.is_in(&at.path)) {
        let why = format!("it does not stand at {at} after {} s", PATIENCE.as_secs());
        return Err(failed(scope, why));
    }
    Ok(holder)
}

/// Has systemd end the scope, and waits until its group is gone.
///
/// # Errors
/// [`CgroupError`] when the group stays.
pub fn stop(at: &Place, scope: &Scope) -> Result<(), CgroupError> {
    if is_gone(at) {
        return Ok(());
    }
    let asked = call(scope, "StopUnit", &["ss".into(), scope.unit.clone(), "replace".into()]);
    match asked {
        _ if is_gone(at) => Ok(()),
        Ok(()) if wait_until(|| is_gone(at)) => Ok(()),
        // Without systemd, or with a unit that it knows no more, it is ours.
        _ => removal::remove_group(at, removal::PATIENCE),
    }
}

/// [`stop`] of a scope that nobody is in.
///
/// # Errors
/// As [`stop`], and at once when there are processes.
pub fn stop_empty(at: &Place, scope: &Scope) -> Result<(), CgroupError> {
    let pids = match Directory::open(at) {
        Ok(group) => processes::in_tree(&group)?,
        Err(CgroupError::Open { errno: Errno::ENOENT, .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    if pids.is_empty() {
        stop(at, scope)
    } else {
        Err(CgroupError::Remove { at: at.clone(), errno: Errno::EBUSY, pids })
    }
}

fn is_gone(at: &Place) -> bool {
    matches!(Directory::open(at), Err(CgroupError::Open { errno: Errno::ENOENT, .. }))
}

fn failed(scope: &Scope, why: String) -> CgroupError {
    CgroupError::Systemd { unit: scope.unit.clone(), why }
}

/// A method of systemd's manager (org.freedesktop.systemd1(5)).
fn call(scope: &Scope, method: &str, args: &[String]) -> Result<(), CgroupError> {
    let mut busctl = Command::new("busctl");
    busctl.arg("--quiet").arg(if scope.user.is_some() { "--user" } else { "--system" });
    if let Some(uid) = scope.user
        && std::env::var_os("XDG_RUNTIME_DIR").is_none()
    {
        busctl.env("XDG_RUNTIME_DIR", format!("/run/user/{uid}"));
    }
    busctl.args(["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"]);
    busctl.args(["org.freedesktop.systemd1.Manager", method]).arg("--").args(args);
    let output = busctl.stdin(Stdio::null()).output();
    let output = output.map_err(|e| failed(scope, format!("busctl cannot be run: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(failed(scope, if words.is_empty() { output.status.to_string() } else { words }))
}

fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
