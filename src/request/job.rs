//! What is asked of a job's environment; no decisions yet.

use std::path::PathBuf;

use super::bind::Bind;

/// The options of `job run` and `job start`.
#[derive(Debug, Clone, Default)]
pub struct JobRequest {
    pub id: Option<String>,
    /// `host`, a directory, or a name looked up in the bundle directories.
    pub bundle: Option<String>,
    /// How many CPUs.
    pub cpus: Option<usize>,
    /// CPUs may be given to others as well.
    pub share_cpus: bool,
    /// Bytes.
    pub memory: Option<u64>,
    /// Most processes and threads.
    pub pids: Option<u64>,
    pub binds: Vec<Bind>,
    /// A network namespace of its own, with loopback only.
    pub network_none: bool,
    /// Directory on a disk for what the job writes into its root.
    pub scratch: Option<PathBuf>,
    /// Bytes that the job may write into its root.
    pub root_size: Option<u64>,
    /// Bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// Leave the home directory out.
    pub no_home: bool,
    pub hostname: Option<String>,
    /// For whom; root only. Name or uid.
    pub user: Option<String>,
}
