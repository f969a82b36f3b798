//! The table `[scheduler]` of the site's file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::problem::Problem;

const PLACE: &str = "/etc/denovo/denovo.toml";

/// The most that is read of the site's file, in bytes.
const LONGEST: u64 = 1 << 20;

/// Reads the table from the site's file; without either there are defaults.
///
/// # Errors
/// The file cannot be read, is not root's alone, or has a value that is no
/// value of its key.
pub fn load() -> Result<Scheduler, Problem> {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;
    let path = std::env::var_os("DENOVO_CONFIG").map_or(PathBuf::from(PLACE), PathBuf::from);
    let wrong = |what: String| {
        Problem::site(format!("{}: {what}", path.display())).hint("docs/slurm.md has every key")
    };
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && path == Path::new(PLACE) => {
            return Ok(Scheduler::default());
        }
        Err(e) => return Err(wrong(e.to_string())),
    };
    let meta = file.metadata().map_err(|e| wrong(e.to_string()))?;
    if nix::unistd::geteuid().is_root() && (meta.uid() != 0 || meta.mode() & 0o022 != 0) {
        return Err(wrong("root does not follow a file that others can write".to_owned()));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(|e| wrong(e.to_string()))?;
    parse(&text).map_err(wrong)
}

/// The table out of the whole file's text.
///
/// # Errors
/// What is wrong, as a sentence.
pub fn parse(text: &str) -> Result<Scheduler, String> {
    #[derive(Deserialize)]
    struct Site {
        #[serde(default)]
        scheduler: Scheduler,
    }
    let site: Site = toml::from_str(text).map_err(|e| {
        let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        let line = line.map_or(String::new(), |line| format!("line {line}: "));
        format!("{line}{}", e.message().trim().replace('\n', ", "))
    })?;
    let paths = [&site.scheduler.scratch, &site.scheduler.scontrol];
    for path in paths.into_iter().flatten().chain([&site.scheduler.receipts]) {
        if !path.is_absolute() {
            return Err(format!("{}: must be absolute", path.display()));
        }
    }
    Ok(site.scheduler)
}

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
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            image: None,
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_strictly() {
        assert_eq!(parse("[images]\nparallel = 4\n"), Ok(Scheduler::default()));
        let site = parse("[scheduler]\nimage = \"x\"\ncpus = \"scheduler\"\nbind = [\"/s\"]\n");
        let site = site.unwrap();
        assert_eq!((site.image.as_deref(), site.cpus), (Some("x"), Cpus::Scheduler));
        for (text, word) in [
            ("[scheduler]\nimgae = \"x\"", "line 2"),
            ("[scheduler]\nmemory = \"all\"", "line 2"),
            ("[scheduler]\nscratch = \"tmp\"", "absolute"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }
}
