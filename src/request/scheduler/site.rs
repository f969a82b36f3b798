//! The table `[scheduler]` of the site's file.

use std::path::PathBuf;

use serde::Deserialize;

/// Who decides on which CPUs a job runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cpus {
    /// denovo: as many as the scheduler gave, for this job alone.
    #[default]
    Choose,
    /// The scheduler binds the tasks itself (task/affinity, task/cgroup).
    Scheduler,
}

/// From where a job's memory limit comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// What the scheduler gave; the SPANK plugin tells it before the first
    /// process of the job runs.
    #[default]
    Scheduler,
    /// The same part of the node's memory as of its CPUs.
    Share,
    None,
}

/// What the site says about jobs that come from a scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Scheduler {
    /// What a job gets that asks for nothing; `host` is the node's own
    /// distribution.
    pub image: Option<String>,
    /// Whether a prolog may fetch an image that is in no store of the node, from
    /// the registry that the site has for names without one.
    pub pull: bool,
    pub cpus: Cpus,
    pub memory: Memory,
    /// Most processes and threads of a job.
    pub pids: Option<u64>,
    /// Directories of the node that every job sees: SRC[:DST[:ro]].
    pub bind: Vec<String>,
    /// Accounts beside the user's own that a job sees: those that Slurm's
    /// configuration names, without which its commands do not run.
    pub accounts: Vec<String>,
    /// A disk for what jobs write into their root, instead of memory.
    pub scratch: Option<PathBuf>,
    /// Whether `denovo: image=…` in a job's comment is read.
    pub comment: bool,
    /// Seconds after which a prolog gives up.
    pub budget: u64,
    /// `scontrol`, by which a node is drained with a reason.
    pub scontrol: Option<PathBuf>,
    /// Where receipts are kept.
    pub receipts: PathBuf,
    /// Days that a receipt is kept.
    pub receipt_days: u64,
    /// Most receipts that are kept, in bytes.
    pub receipt_bytes: u64,
    /// The node's private key, by which receipts are signed.
    pub receipt_key: Option<PathBuf>,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            image: None,
            pull: false,
            cpus: Cpus::default(),
            memory: Memory::default(),
            pids: None,
            bind: Vec::new(),
            accounts: vec!["slurm".to_owned()],
            scratch: None,
            comment: true,
            budget: 60,
            scontrol: None,
            receipts: PathBuf::from("/var/lib/denovo/receipts"),
            receipt_days: 90,
            receipt_bytes: 256 << 20,
            receipt_key: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::request::site;

    #[test]
    fn the_table_is_read_strictly() {
        let read = |text: &str| site::parse(text, Path::new("/x")).map(|site| site.scheduler);
        assert_eq!(read("[images]\nparallel = 4\n"), Ok(Scheduler::default()));
        let site = read("[scheduler]\nimage = \"x\"\ncpus = \"scheduler\"\nbind = [\"/s\"]\n");
        let site = site.unwrap();
        assert_eq!((site.image.as_deref(), site.cpus), (Some("x"), Cpus::Scheduler));
        for (text, word) in [
            ("[scheduler]\nimgae = \"x\"", "line 2"),
            ("[scheduler]\nmemory = \"all\"", "line 2"),
            ("[scheduler]\nscratch = \"tmp\"", "absolute"),
        ] {
            let error = read(text).unwrap_err().message;
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_table_of_the_documentation_is_known() {
        let text = include_str!("../../../docs/slurm.md");
        let block = text.split("```toml\n").nth(1).and_then(|t| t.split("```").next()).unwrap();
        for text in [block.to_owned(), block.replace("\n#", "\n")] {
            site::parse(&text, Path::new("/x")).unwrap_or_else(|e| panic!("{e}: {text}"));
        }
    }
}
