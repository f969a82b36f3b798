//! The node's baseline, and the lock under which a user's things are removed.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::base;
use super::process::ProcessName;
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
    // A pipe there must not hold a prolog up.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = match opened {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| wrong(e.to_string()))?,
    };
    let meta = file.metadata().map_err(|e| wrong(e.to_string()))?;
    let own = nix::unistd::geteuid().as_raw();
    if !meta.is_file() {
        return Err(wrong("is no regular file".to_owned()));
    }
    if meta.uid() != own || meta.mode() & 0o022 != 0 {
        let (uid, mode) = (meta.uid(), meta.mode() & 0o7777);
        return Err(wrong(format!("others can write it: it is uid {uid}'s, mode {mode:o}")));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|e| wrong(e.to_string()))?;
    // First: what else is in one of another form may be anything.
    let form: Form = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    if form.version != 1 {
        let version = form.version;
        return Err(wrong(format!("is of form {version}, which this denovo does not know")));
    }
    serde_json::from_slice(&text).map(Some).map_err(|e| wrong(e.to_string()))
}

#[derive(serde::Deserialize)]
struct Form {
    version: u32,
}

/// Writes the baseline so that a reader sees the old or the new one, whole.
///
/// # Errors
/// The directory cannot be written.
pub fn save(path: &Path, baseline: &Baseline) -> Result<(), Problem> {
    let another = |problem: Problem| problem.hint("name another file with --file FILE");
    let cannot = |e: std::io::Error| {
        another(Problem::site(format!("{}: cannot be written: {e}", path.display())))
    };
    if let Some(dir) = path.parent()
        && !dir.as_os_str().is_empty()
        && !dir.is_dir()
    {
        base::own_directory(dir, 0o755, nix::unistd::geteuid().as_raw()).map_err(another)?;
    }
    let begin = format!("{}.new.", path.file_name().unwrap_or_default().to_string_lossy());
    let new = path.with_file_name(format!("{begin}{}", std::process::id()));
    let text = canonical(baseline)?;
    sweep(&new, &begin);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
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

/// Removes what writers that were killed left, and one of our own pid.
fn sweep(new: &Path, begin: &str) {
    let dir = new.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.strip_prefix(begin)?.parse().ok());
        if pid.is_some_and(|pid| ProcessName::of(pid).is_none()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_file(new);
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
///
/// # Errors
/// Why not, in words.
pub fn try_lock(at: &Path, uid: u32) -> Result<Flock<File>, String> {
    let (file, _) = lock_file(at, uid).map_err(|problem| problem.message)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        nix::errno::Errno::EWOULDBLOCK => "a prolog or epilog of its user is at work".to_owned(),
        e => e.desc().to_owned(),
    })
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_baseline_is_read_only_where_nobody_else_can_have_written_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/b.json");
        assert_eq!(load(&path).unwrap(), None);
        let baseline = Baseline { version: 1, ..Baseline::default() };
        // Of a writer that was killed; no process has such a pid.
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/b.json.new.2147483647"), "{").unwrap();
        save(&path, &baseline).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("sub")).unwrap().count(), 1);
        assert_eq!(load(&path).unwrap(), Some(baseline));
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o620);
        assert!(load(&path).unwrap_err().message.contains("others can write it"));
        mode(0o600);
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for (place, words) in [(dir.path(), "no regular file"), (&pipe, "no regular file")] {
            let problem = load(place).unwrap_err();
            assert!(problem.message.contains(words), "{problem}");
        }
        for (text, words) in [
            ("", "EOF"),
            ("{\"version\":", "EOF"),
            ("{}", "missing field"),
            ("{\"version\":2,\"at\":\"x\"}", "is of form 2"),
        ] {
            fs::write(&path, text).unwrap();
            let problem = load(&path).unwrap_err();
            assert!(problem.message.contains(words), "{text:?}: {problem}");
        }
    }
}
