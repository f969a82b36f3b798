//! What the monitor makes or starts for an environment before its first
//! process, which could not do it itself.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::views;
use crate::kernel::channel::{Channel, send_with};
use crate::kernel::inside::{self, Views};
use crate::plan::Plan;
use crate::plan::inside::Inside;
use crate::policy::spec::{Device, Fixture};
use crate::problem::Problem;

/// For the first process, by the plan's fixtures.
pub struct Provisions {
    pub devices: Option<OwnedFd>,
    pub views: Option<Views>,
    answers: Option<i32>,
}

/// Whoever answers for the environment's views.
pub struct Viewer {
    pid: i32,
    connection: OwnedFd,
}

impl Viewer {
    /// Gives it listeners of the job's filters. When it is gone, the calls
    /// fail as on a kernel without them.
    pub fn take(&self, listeners: &[OwnedFd]) {
        let numbers: Vec<i32> = listeners.iter().map(AsRawFd::as_raw_fd).collect();
        let _ = send_with(&self.connection, b"l", &numbers);
    }
}

impl Provisions {
    /// What stays once the first process has its own.
    pub fn viewer(self) -> Option<Viewer> {
        let (pid, views) = self.answers.zip(self.views)?;
        Some(Viewer { pid, connection: views.server })
    }
}

/// Makes and starts what the plan's fixtures need.
///
/// # Errors
/// The call that was refused; nothing is left then.
pub fn of(plan: &Plan) -> Result<Provisions, Problem> {
    let (mut devices, mut wants_views) = (None, false);
    for step in &plan.inside {
        match step {
            Inside::Put(Fixture::Devices { devices: all, owner, .. }) => {
                devices = Some(made(all, *owner)?);
            }
            Inside::Put(Fixture::Views { .. }) => wants_views = true,
            _ => {}
        }
    }
    if !wants_views {
        return Ok(Provisions { devices, views: None, answers: None });
    }
    let failed = |call: &str, errno: Errno| {
        Problem::kernel(format!("the job's own view of the machine: {call}: {}", errno.desc()))
    };
    let (from, server) = Channel::pair().map_err(|e| failed("socketpair", e))?;
    // The first process acts as the user, whose the node's device may not be.
    let device = (nix::unistd::geteuid().is_root() && plan.launch.owner.is_some())
        .then(inside::fuse_device)
        .transpose()
        .map_err(|fault| failed(fault.call, fault.errno))?;
    let pid = views::serve(from.as_owned(), &plan.cgroup).map_err(|e| failed("clone3", e))?;
    let views = Views { server: server.into_owned(), device };
    Ok(Provisions { devices, views: Some(views), answers: Some(pid) })
}

fn made(devices: &[Device], owner: (u32, u32)) -> Result<OwnedFd, Problem> {
    inside::devices_of_root(devices, owner).map_err(|f| {
        Problem::kernel(format!("the environment's devices: {}: {}", f.call, f.errno.desc()))
            .hint("a devices control group around denovo may refuse mknod: allow \"c *:* m\" there")
    })
}

/// Its mount is gone with the environment, and nothing is asked any more.
pub fn end(viewer: Option<Viewer>) {
    if let Some(viewer) = viewer {
        let pid = Pid::from_raw(viewer.pid);
        let _ = kill(pid, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(pid, None);
    }
}
