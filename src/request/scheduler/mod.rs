//! What a batch scheduler says of a job on this node, and what the site says
//! about jobs that come from one.

pub mod site;
pub mod slurm;
pub mod slurm_config;
pub mod slurm_container;

use serde::{Deserialize, Serialize};

use super::bind::Bind;

/// The job that an environment belongs to, so that a late prolog or epilog
/// can tell one run of a job from the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Name of the scheduler's cluster.
    pub cluster: String,
    /// The scheduler's job id.
    pub job: u32,
    /// How often the job was requeued before.
    pub restarts: u32,
    /// Which of the job's nodes this is, from 0, and how many there are.
    pub node: usize,
    pub nodes: usize,
    /// CPUs of this node that the scheduler gave to the job.
    pub cpus: usize,
    /// The job's working directory, if it has one; user's words.
    pub work_dir: Option<String>,
    /// Lines of passwd(5) that it gets beside the user's own.
    #[serde(default)]
    pub accounts: Vec<String>,
    /// The scheduler's plugin will say how much memory the job has.
    #[serde(default)]
    pub memory_follows: bool,
}

/// What the user of a job asked for, through the SPANK plugin or the job's
/// comment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// No environment at all.
    pub none: bool,
    pub image: Option<String>,
    /// A name or a directory.
    pub bundle: Option<String>,
    pub binds: Vec<Bind>,
}

impl Wishes {
    /// Whether there is anything that can be the user's mistake.
    pub fn is_empty(&self) -> bool {
        self.image.is_none() && self.bundle.is_none() && self.binds.is_empty()
    }
}

/// One call by a scheduler, at the beginning or the end of a job on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub granted: Granted,
    pub uid: u32,
    pub gid: u32,
    /// Name of this node to the scheduler.
    pub node: String,
    /// The job's exit status as wait(2) has it; at the end only, and only
    /// where the scheduler tells.
    pub status: Option<i32>,
    /// Whether the scheduler has told what it `granted`; of a job that its
    /// controller has forgotten it knows the id alone.
    pub complete: bool,
}

impl Call {
    /// The environment's id, the same that a rank of the job finds by itself.
    pub fn id(&self) -> String {
        job_id(self.granted.job)
    }
}

/// The id of a Slurm job's environment.
pub fn job_id(job: u32) -> String {
    format!("slurm-{job}")
}
