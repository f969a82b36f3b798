//! What a prolog did for a scheduler's job on this node: a note for whoever
//! comes later, the plugin's tasks, another prolog, the epilog.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::base;
use crate::problem::Problem;
use crate::request::scheduler::Granted;

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The environment stands, or stood.
    Made,
    /// The user wants none.
    None,
    /// The user's own mistake; the job's tasks are told.
    Refused,
    /// The epilog was here.
    Ended,
}

/// The SPANK plugin (spank/) reads it, as the job's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub phase: Phase,
    pub granted: Granted,
    pub uid: u32,
    /// For the user, when refused.
    pub why: Option<String>,
    /// Seconds since 1970.
    pub at: u64,
    /// Microseconds from the prolog's start to its end.
    pub took: u64,
}

/// All notes on this node; gone with a reboot.
pub struct Notes {
    dir: PathBuf,
}

/// Held by who looks at a note before it writes another in its place.
const LOCK: &str = "=lock";

impl Notes {
    pub fn new(base: &Path) -> Self {
        Self { dir: base.join("scheduler") }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    pub fn load(&self, id: &str) -> Option<Note> {
        let path = self.path(id);
        let own = nix::unistd::geteuid().as_raw();
        path.symlink_metadata().ok().filter(|m| m.is_file() && m.uid() == own)?;
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// One for all notes: it is held for the time of a rename.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn lock(&self) -> Result<Flock<fs::File>, Problem> {
        base::own_directory(&self.dir, 0o755, nix::unistd::geteuid().as_raw())?;
        let path = self.dir.join(LOCK);
        let cannot = |why: String| Problem::site(format!("{}: {why}", path.display()));
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|e| cannot(e.to_string()))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| cannot(e.desc().into()))
    }

    /// # Errors
    /// The directory cannot be written.
    pub fn save(&self, id: &str, note: &Note) -> Result<(), Problem> {
        base::own_directory(&self.dir, 0o755, nix::unistd::geteuid().as_raw())?;
        let new = self.dir.join(format!("={id}.{}", std::process::id()));
        let text = serde_json::to_vec(note).map_err(|e| Problem::ours(e.to_string()))?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        options
            .open(&new)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &text))
            .and_then(|()| fs::rename(&new, self.path(id)))
            .map_err(|e| {
                let _ = fs::remove_file(&new);
                base::unwritable(&self.dir, &e, None)
            })
    }

    /// Ids of all jobs of which there is a note, sorted.
    pub fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut ids: Vec<String> = names.filter(|name| !name.starts_with('=')).collect();
        ids.sort();
        ids
    }

    /// Removes the notes of jobs that have ended more than so many seconds
    /// ago, and what a killed process was writing; not those of which
    /// something `stands`, since an epilog was cut off there.
    pub fn sweep(&self, now: u64, seconds: u64, stands: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let old = |m: fs::Metadata| {
                u64::try_from(m.mtime()).is_ok_and(|t| t.saturating_add(seconds) < now)
            };
            if name == LOCK {
                continue;
            }
            let over = self.load(&name).is_none_or(|note| note.phase == Phase::Ended);
            if over && !stands(&name) && entry.metadata().is_ok_and(old) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
