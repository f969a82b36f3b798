//! The agent that answers system calls for a container (OCI runtime.md,
//! "Seccomp": `listenerPath`; "Container Process State").

use std::os::fd::{AsRawFd, OwnedFd};

use serde::Serialize;

use super::sockets::connect_stream;
use crate::kernel::channel::send_with;
use crate::policy::spec::Listener;
use crate::problem::Problem;
use crate::record::container::{OCI_VERSION, State};

/// A connection to the agent, made before the process so that a missing agent
/// stops nothing half-way.
pub struct Agent {
    socket: OwnedFd,
    listener: Listener,
}

/// What the agent is told with the descriptor (OCI config-linux.md, "The
/// Container Process State").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'static str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: State<'a>,
}

impl Agent {
    /// # Errors
    /// Nobody listens there.
    pub fn connect(listener: &Listener) -> Result<Self, Problem> {
        let socket = connect_stream(listener.path.as_path()).map_err(|errno| {
            let path = &listener.path;
            Problem::user(format!("linux.seccomp.listenerPath: {path}: {}", errno.desc()))
                .hint("start the agent that answers system calls for the container first")
        })?;
        Ok(Self { socket, listener: listener.clone() })
    }

    /// Hands the filter's listener of the process `pid` over.
    ///
    /// # Errors
    /// The agent is gone.
    pub fn hand_over(&self, fd: &OwnedFd, pid: i32, state: State<'_>) -> Result<(), Problem> {
        let document = ProcessState {
            oci_version: OCI_VERSION,
            fds: ["seccompFd"],
            pid,
            metadata: self.listener.metadata.as_deref(),
            state,
        };
        let text = serde_json::to_vec(&document).map_err(|e| Problem::ours(e.to_string()))?;
        send_with(&self.socket, &text, &[fd.as_raw_fd()]).map_err(|errno| {
            let path = &self.listener.path;
            Problem::user(format!("linux.seccomp.listenerPath: {path}: {}", errno.desc()))
        })
    }
}
