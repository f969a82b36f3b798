//! The node's baseline, and the lock under which a user's things are removed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::base;
use crate::policy::freshness::{Audit, Baseline};
use crate::problem::Problem;

/// As RFC 8785 (JSON Canonicalization Scheme) has it, but for numbers above
/// 2^53, which stay whole: keys sorted, no blanks.
///
/// # Errors
/// It is no JSON, which would be an error of ours.
pub fn canonical(value: &impl serde::Serialize) -> Result<Vec<u8>, Problem> {
    let ours = |e: serde_json::Error| Problem::ours(e.to_string());
    // A map of serde_json's is sorted.
    let sorted = serde_json::to_value(value).map_err(ours)?;
    serde_json::to_vec(&sorted).map_err(ours)
}

/// Reads the baseline; `None` where there is none.
///
/// # Errors
/// It is not root's alone, or no baseline.
pub fn load(path: &Path) -> Result<Option<Baseline>, Problem> {
    let wrong = |why: String| {
        Problem::site(format!("baseline {}: {why}", path.display()))
            .hint("denovo node baseline, on the freshly prepared node, records another")
    };
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| wrong(e.to_string()))?,
    };
    let meta = file.metadata().map_err(|e| wrong(e.to_string()))?;
    let own = nix::unistd::geteuid().as_raw();
    if !meta.is_file() || meta.uid() != own || meta.mode() & 0o022 != 0 {
        return Err(wrong("others can write it".to_owned()));
    }
    let found: Baseline =
        serde_json::from_reader(std::io::BufReader::new(file)).map_err(|e| wrong(e.to_string()))?;
    if found.version != 1 {
        return Err(wrong(format!(
            "is of form {}, which this denovo does not know",
            found.version
        )));
    }
    Ok(Some(found))
}

/// Writes the baseline so that a reader sees the old or the new one, whole.
///
/// # Errors
/// The directory cannot be written.
pub fn save(path: &Path, baseline: &Baseline) -> Result<(), Problem> {
    let cannot = |e: std::io::Error| {
        Problem::site(format!("{}: cannot be written: {e}", path.display()))
            .hint("name another file with --file FILE")
    };
    if let Some(dir) = path.parent()
        && !dir.is_dir()
    {
        base::own_directory(dir, 0o755, nix::unistd::geteuid().as_raw())?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let new = PathBuf::from(name);
    let text = canonical(baseline)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let _ = fs::remove_file(&new);
    options
        .open(&new)
        .and_then(|mut file| {
            std::io::Write::write_all(&mut file, &text)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path))
        .map_err(|e| {
            let _ = fs::remove_file(&new);
            cannot(e)
        })
}

/// Held by an epilog from the moment it looks whether a user has another job
/// until what it removes is gone, and by a prolog until its job is noted.
///
/// # Errors
/// The directory cannot be written.
pub fn lock(at: &Path, uid: u32) -> Result<Flock<File>, Problem> {
    let (file, path) = lock_file(at, uid)?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| Problem::site(format!("{}: {}", path.display(), e.desc())))
}

/// The same if nobody holds it: who has one lock already must not wait for
/// another.
pub fn try_lock(at: &Path, uid: u32) -> Option<Flock<File>> {
    let (file, _) = lock_file(at, uid).ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

fn lock_file(at: &Path, uid: u32) -> Result<(File, PathBuf), Problem> {
    let dir = at.join("freshness");
    // Users look for their environments below the base.
    base::own_directory(at, 0o711, nix::unistd::geteuid().as_raw())?;
    base::own_directory(&dir, 0o700, nix::unistd::geteuid().as_raw())?;
    let path = dir.join(uid.to_string());
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|e| Problem::site(format!("{}: {e}", path.display())))?;
    Ok((file, path))
}

/// Keeps what an audit at a job's beginning said until its end.
///
/// # Errors
/// The directory cannot be written.
pub fn save_audit(base: &Path, id: &str, audit: &Audit) -> Result<(), Problem> {
    let path = base.join("freshness").join(format!("{id}.json"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let text = canonical(audit)?;
    options
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &text))
        .map_err(|e| Problem::site(format!("{}: {e}", path.display())))
}

/// Gives it, and forgets it.
pub fn take_audit(base: &Path, id: &str) -> Option<Audit> {
    let path = base.join("freshness").join(format!("{id}.json"));
    let audit = serde_json::from_slice(&fs::read(&path).ok()?).ok();
    let _ = fs::remove_file(path);
    audit
}
