//! What a command and the monitor of an environment say to each other: JSON
//! packets over a SOCK_SEQPACKET socket, descriptors beside them.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::kernel::cgroup::Usage;
use crate::kernel::channel::{receive_with, send_with};
use crate::policy::spec::Kind;
use crate::record::job::JobRecord;
use crate::request::job::JobRequest;

/// Longest packet, in bytes: an image's environment has to fit.
const LONGEST: usize = 256 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Count me in, and give me what entering takes.
    Join,
    /// Move this process of mine into the environment's groups.
    Place {
        pid: i32,
    },
    /// A listener of a filter of mine comes with this: whoever answers for
    /// the environment's views takes it. There is no reply.
    Answer,
    /// My process has ended; `report`: tell me what was used.
    Leave {
        report: bool,
    },
    /// End the environment.
    End,
    Show,
    /// Root's, for one step of a scheduler's job: what its tasks need to
    /// enter. `memory`: bytes that the scheduler gave to the job on this node.
    Step {
        memory: Option<u64>,
    },
    /// Root's, from a task of a step: it is in groups of the scheduler's for the job,
    /// by this text of its /proc/self/cgroup.
    Within {
        groups: String,
    },
    /// Root's: look at what those groups have counted, before they go.
    Count,
    /// The caller's own directory on the node, such as an MPI launcher's, or its
    /// terminal, as a detached mount.
    Bring {
        path: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Joined(Entry),
    Placed,
    /// How things stand for the one who leaves.
    Left(Parting),
    /// The end has begun; the connection closes when nothing is left.
    Ending(Parting),
    Shown {
        record: Box<JobRecord>,
        processes: usize,
        usage: Usage,
    },
    Step(Step),
    /// The CPUs that the task itself has to keep to.
    Held {
        cpus: Option<Vec<u32>>,
    },
    Counted,
    /// The mount follows.
    Brought,
    Refused {
        why: String,
    },
}

/// What the tasks of a step need; the descriptors come in the order of these
/// fields. The SPANK plugin (spank/) reads it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    pub namespaces: Vec<Kind>,
    /// For each cgroup v1 group whose `tasks` file follows, its controllers.
    pub v1_doors: Vec<Vec<String>>,
    /// Whether the cgroup v2 group's directory follows.
    pub v2_door: bool,
    pub uid: u32,
    /// Capabilities (capabilities(7)) that a process of root may ever get.
    pub bounding: u64,
    /// Programs (8 bytes for each instruction) and flags of system call
    /// filters: a task takes the first that the kernel gives it. A listener
    /// goes into a [`Request::Answer`].
    pub filters: Vec<(Vec<u8>, u32)>,
    /// Where no group can hold the processes on their CPUs.
    pub cpus: Option<Vec<u32>>,
    /// The image or bundle that was asked for when it was made.
    pub bundle: String,
    /// Variables that mean nothing inside.
    pub unset: Vec<String>,
    /// Variables that mean another directory inside, if they are set.
    pub moved: Vec<(String, String)>,
    /// The image's own, `NAME=value` each.
    pub set: Vec<String>,
}

/// What entering takes; the descriptors come in the order of these fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub namespaces: Vec<Kind>,
    /// `tasks` files of cgroup v1 groups.
    pub v1_doors: usize,
    /// Whether a descriptor of the cgroup v2 group follows.
    pub v2_door: bool,
    /// The monitor has to move the process.
    pub place: bool,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub bundle: String,
    /// The image's own variables.
    pub env: Vec<String>,
    /// Where no group can hold the processes on their CPUs.
    pub cpus: Option<Vec<u32>>,
    /// Whether somebody answers sysinfo(2).
    #[serde(default)]
    pub answered: bool,
    /// Major and minor version of the node's kernel.
    #[serde(default)]
    pub kernel: (u32, u32),
    /// What the environment was made for.
    pub asked: JobRequest,
}

/// What is said at the end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Parting {
    /// Nobody is left, the environment ends.
    pub last: bool,
    pub usage: Usage,
    /// Bytes; the limit that processes were killed for.
    pub memory: Option<u64>,
}

/// Sends one message.
///
/// # Errors
/// As sendmsg(2).
pub fn say<T: Serialize>(to: &OwnedFd, message: &T, fds: &[&OwnedFd]) -> Result<(), Errno> {
    let text = serde_json::to_vec(message).map_err(|_| Errno::EINVAL)?;
    let numbers: Vec<i32> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    send_with(to, &text, &numbers)
}

/// Receives one message; `None` when the other side has closed.
///
/// # Errors
/// As recvmsg(2); `EPROTO` for something that is no such message.
pub fn hear<T: DeserializeOwned>(from: &OwnedFd) -> Result<Option<(T, Vec<OwnedFd>)>, Errno> {
    let mut buffer = vec![0u8; LONGEST];
    let (length, fds) = receive_with(from, &mut buffer)?;
    if length == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[..length]).map_err(|_| Errno::EPROTO)?;
    Ok(Some((message, fds)))
}
