//! What is asked of a job's environment; no decisions yet.

use std::path::PathBuf;

use super::bind::Bind;
use super::scheduler::Granted;

/// The options of `job run` and `job start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JobRequest {
    pub id: Option<String>,
    /// `host`, a directory, or a name looked up in the bundle directories.
    pub bundle: Option<String>,
    /// A name or digest in the image stores, instead of a bundle.
    #[serde(default)]
    pub image: Option<String>,
    /// The image must be in a store of this node: nothing is fetched for it.
    #[serde(default)]
    pub no_fetch: bool,
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
    /// The scheduler's job that it is for, if root makes it for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Granted>,
}

impl JobRequest {
    /// The options that are asked for here and not in `made`, for which an
    /// environment was made; the bundle is not looked at.
    pub fn differing(&self, made: &Self) -> Vec<&'static str> {
        fn other<T: PartialEq>(here: &Option<T>, made: &Option<T>) -> bool {
            here.is_some() && here != made
        }
        let all = [
            ("--cpus", other(&self.cpus, &made.cpus)),
            ("--memory", other(&self.memory, &made.memory)),
            ("--pids", other(&self.pids, &made.pids)),
            ("--bind", self.binds.iter().any(|bind| !made.binds.contains(bind))),
            ("--network", self.network_none && !made.network_none),
            ("--scratch", other(&self.scratch, &made.scratch)),
            ("--root-size", other(&self.root_size, &made.root_size)),
            ("--shm-size", other(&self.shm_size, &made.shm_size)),
            ("--no-home", self.no_home && !made.no_home),
            ("--hostname", other(&self.hostname, &made.hostname)),
        ];
        all.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_anew_differs() {
        let made = JobRequest { memory: Some(1), no_home: true, ..JobRequest::default() };
        assert!(JobRequest::default().differing(&made).is_empty());
        assert!(made.differing(&made).is_empty());
        let more = JobRequest { memory: Some(2), network_none: true, ..JobRequest::default() };
        assert_eq!(more.differing(&made), ["--memory", "--network"]);
    }
}
