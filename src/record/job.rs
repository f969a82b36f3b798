//! Records of jobs' environments: one directory each, with `state.json` and
//! the socket of the monitor.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::base;
use super::process::ProcessName;
use crate::plan::cgroup::CgroupPlan;
use crate::problem::Problem;
use crate::request::scheduler::Granted;

/// All environments below one base directory.
#[derive(Debug, Clone)]
pub struct Jobs {
    root: PathBuf,
}

/// What is known of one environment; written before its first step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobRecord {
    pub id: String,
    /// Whose processes run in it.
    pub uid: u32,
    pub gid: u32,
    pub bundle: String,
    /// Digest of the image that it was made from, if it was.
    #[serde(default)]
    pub image: Option<String>,
    /// Seconds since 1970.
    pub created: u64,
    /// The process that keeps it; when that is gone, so is the environment.
    pub monitor: Option<ProcessName>,
    pub init: Option<ProcessName>,
    pub cgroup: CgroupPlan,
    /// CPUs that no other environment may take.
    pub reserved_cpus: Vec<u32>,
    /// Bytes.
    pub memory: Option<u64>,
    pub node_network: bool,
    /// Stays when the last process leaves (`job start`).
    pub persistent: bool,
    /// Directory on the scratch disk to remove.
    pub scratch: Option<PathBuf>,
    /// Where its image is mounted for this user's environments together.
    #[serde(default)]
    pub image_mount: Option<PathBuf>,
    /// The scheduler's job that it was made for by root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Granted>,
}

/// Held while an environment of one id is made or joined.
pub struct Lock {
    _file: Flock<File>,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever waits for it notices that the name is gone (see `lock`).
        let _ = fs::remove_file(&self.path);
    }
}

impl Jobs {
    pub fn new(base: &Path) -> Self {
        Self { root: base.join("jobs") }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn directory(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    pub fn socket(&self, id: &str) -> PathBuf {
        self.directory(id).join("socket")
    }

    /// Waits until nobody else makes, joins or removes this id.
    ///
    /// # Errors
    /// The base directory cannot be written.
    pub fn lock(&self, id: &str) -> Result<Lock, Problem> {
        self.lock_file(self.root.join(lock_name(id)))
    }

    /// Waits until nobody else chooses CPUs.
    ///
    /// # Errors
    /// The base directory cannot be written.
    pub fn lock_cpus(&self) -> Result<Lock, Problem> {
        self.lock_file(self.root.join("=cpus"))
    }

    /// The lock of an id if nobody holds it.
    pub fn try_lock(&self, id: &str) -> Option<Lock> {
        let path = self.root.join(lock_name(id));
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path).ok()?;
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        same_file(&held, &path).then_some(Lock { _file: held, path })
    }

    fn lock_file(&self, path: PathBuf) -> Result<Lock, Problem> {
        let uid = nix::unistd::geteuid().as_raw();
        base::own_directory(&self.root, 0o711, uid)?;
        let cannot = |why: String| {
            Problem::site(format!("{}: cannot be locked: {why}", path.display()))
                .hint("name a directory that you can write with --root DIR")
        };
        loop {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = file.map_err(|e| cannot(e.to_string()))?;
            let held = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, e)| cannot(e.desc().into()))?;
            // Else its last holder removed the name while we waited.
            if same_file(&held, &path) {
                return Ok(Lock { _file: held, path });
            }
        }
    }

    /// Makes the directory of an environment.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    pub fn make(&self, id: &str) -> Result<(), Problem> {
        let dir = self.directory(id);
        base::make_directory(&dir, 0o711)
            .and_then(|()| {
                let root = base::make_directory(&dir.join("root"), 0o711);
                root.inspect_err(|_| drop(fs::remove_dir(&dir)))
            })
            .map_err(|e| base::unwritable(&dir, &e, Some(ELSEWHERE)))
    }

    /// Writes a record so that a reader sees the old or the new one, whole.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn save(&self, record: &JobRecord) -> Result<(), Problem> {
        let dir = self.directory(&record.id);
        let (new, path) = (dir.join("state.json.new"), dir.join("state.json"));
        let text = serde_json::to_vec(record).map_err(|e| Problem::ours(e.to_string()))?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &text))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|e| base::unwritable(&path, &e, Some(ELSEWHERE)))
    }

    /// The record of an environment, if its directory is the caller's own.
    pub fn load(&self, id: &str) -> Option<JobRecord> {
        let dir = self.directory(id);
        let own = nix::unistd::geteuid().as_raw();
        dir.symlink_metadata().ok().filter(|m| m.is_dir() && m.uid() == own)?;
        serde_json::from_slice(&fs::read(dir.join("state.json")).ok()?).ok()
    }

    /// Ids of all environments here, sorted.
    pub fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut ids: Vec<String> = entries
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|name| !name.starts_with('='))
            .collect();
        ids.sort();
        ids
    }

    /// Ids of which a lock is there, held or left by a process that was
    /// killed.
    pub fn locked(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let id = |name: String| name.strip_prefix('=')?.strip_suffix(".lock").map(str::to_owned);
        entries.filter_map(|e| id(e.file_name().into_string().ok()?)).collect()
    }

    /// CPUs that other live environments hold, with the id of each holder.
    pub fn reserved(&self) -> Vec<(u32, String)> {
        self.ids()
            .iter()
            .filter_map(|id| self.load(id))
            .filter(JobRecord::kept)
            .flat_map(|r| r.reserved_cpus.into_iter().map(move |cpu| (cpu, r.id.clone())))
            .collect()
    }

    /// Removes the directory of an environment: it loses its name first, so
    /// that whoever makes the next of this id has nothing to do with it.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn forget(&self, id: &str) -> Result<(), Problem> {
        let dir = self.directory(id);
        let gone = self.root.join(format!("{GONE}{}", std::process::id()));
        self.remove(&gone)?;
        match fs::rename(&dir, &gone) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            // No space for another name is no reason to keep it.
            Err(_) => self.remove(&dir),
            Ok(()) => self.remove(&gone),
        }
    }

    /// Removes what a killed process was removing.
    pub fn sweep(&self) {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(GONE)) {
            let _ = self.remove(&entry.path());
        }
    }

    fn remove(&self, dir: &Path) -> Result<(), Problem> {
        for name in ["socket", "state.json", "state.json.new"] {
            let _ = fs::remove_file(dir.join(name));
        }
        let _ = fs::remove_dir(dir.join("root"));
        match fs::remove_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Problem::site(format!("{}: cannot be removed: {e}", dir.display())))
            }
            _ => Ok(()),
        }
    }
}

/// Where else a job's record can be.
const ELSEWHERE: &str = "name another directory with --root DIR";

/// How the name of a directory begins that is being removed.
const GONE: &str = "=gone-";

/// No id holds a `=`, so that no lock can be taken for an environment.
fn lock_name(id: &str) -> String {
    format!("={id}.lock")
}

/// Whether an open file still has this name.
fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => a.ino() == b.ino() && a.dev() == b.dev(),
        _ => false,
    }
}

impl JobRecord {
    /// Whether somebody keeps the environment.
    pub fn kept(&self) -> bool {
        self.monitor.is_some_and(|m| m.alive())
    }
}
