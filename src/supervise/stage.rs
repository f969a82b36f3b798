//! What stands on the node for an environment, and its way back.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::groups;
use crate::problem::Problem;
use crate::record::container::{Status, Store};
use crate::record::job::{JobRecord, Jobs};

/// Makes the environment's directory on the scratch disk.
///
/// # Errors
/// The disk cannot be written by the caller.
pub fn make_scratch(base: &Path, id: &str, owner: (u32, u32)) -> Result<PathBuf, Problem> {
    let dir = base.join(format!("denovo-{id}-{}", std::process::id()));
    let made = DirBuilder::new().mode(0o700).create(&dir).and_then(|()| {
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&dir, Some(owner.0), Some(owner.1))?;
        }
        Ok(())
    });
    made.map_err(|e| {
        Problem::user(format!("--scratch {}: {e}", base.display()))
            .hint("name a directory on a disk that you can write")
    })?;
    Ok(dir)
}

/// Removes everything of an environment that no longer runs. What cannot be
/// removed stays in its record, for the next `denovo node gc`.
pub fn take_back(jobs: &Jobs, record: &JobRecord) -> bool {
    let ended = groups::end(&record.cgroup).is_ok();
    if let Some(mount) = &record.image_mount {
        super::image::release(mount, &record.id);
    }
    let cleared = record.scratch.as_ref().is_none_or(|dir| remove_tree(dir).is_ok());
    ended && cleared && jobs.forget(&record.id).is_ok()
}

/// Removes a directory with all below it, never following a link.
fn remove_tree(dir: &Path) -> std::io::Result<()> {
    if let Err(e) = dir.symlink_metadata()
        && e.kind() == std::io::ErrorKind::NotFound
    {
        return Ok(());
    }
    // The job and the kernel's overlay leave directories that even their
    // owner may not search. Root may, and must not change by path what a
    // user can swap meanwhile.
    if !nix::unistd::geteuid().is_root() {
        open_up(dir);
    }
    fs::remove_dir_all(dir)
}

/// Lets the owner into every directory below this one.
fn open_up(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// What was found and removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Collected {
    pub removed: Vec<String>,
    /// What is in the way, by id.
    pub left: Vec<String>,
}

/// Removes what denovo processes that are gone have left: environments
/// without a monitor, containers that were never finished or that nobody
/// waits for any more.
pub fn collect(base: &Path, containers: &Store) -> Collected {
    let jobs = Jobs::new(base);
    let mut found = collect_all_jobs(&jobs);
    let ended = !found.removed.is_empty();
    found.removed.extend(super::image::collect(base, &jobs, ended));
    for id in containers.ids() {
        if abandoned(containers, &id) {
            let gone = forget_container(containers, &id);
            if gone { &mut found.removed } else { &mut found.left }.push(format!("container {id}"));
        }
    }
    found
}

/// [`collect_jobs`], and the lock of one who was killed while choosing CPUs:
/// who takes that may have to wait, so a new environment leaves it.
pub fn collect_all_jobs(jobs: &Jobs) -> Collected {
    let found = collect_jobs(jobs, |_| true);
    // Whoever takes it takes it away.
    if jobs.root().is_dir() {
        drop(jobs.lock_cpus());
    }
    found
}

/// The part of [`collect`] that costs next to nothing when there is nothing:
/// every new environment takes it along.
pub fn collect_jobs(jobs: &Jobs, wanted: impl Fn(&str) -> bool) -> Collected {
    let mut found = Collected::default();
    let dead = |id: &str| !jobs.load(id).is_some_and(|r| r.kept());
    for id in jobs.ids().into_iter().filter(|id| wanted(id) && dead(id)) {
        // Whoever holds the lock is at work on it.
        let Some(_lock) = jobs.try_lock(&id) else { continue };
        if !jobs.directory(&id).exists() || !dead(&id) {
            continue;
        }
        let gone = match jobs.load(&id) {
            Some(record) => take_back(jobs, &record),
            // Killed between the directory and its record: nothing else was
            // made yet.
            None => jobs.forget(&id).is_ok(),
        };
        if gone { &mut found.removed } else { &mut found.left }.push(format!("job {id}"));
    }
    jobs.sweep();
    // Taking a lock that nobody holds and letting it go removes its file.
    for id in jobs.locked().into_iter().filter(|id| wanted(id)) {
        drop(jobs.try_lock(&id));
    }
    found
}

/// A container whose making was cut off, or whose `run` was killed and which
/// has ended since.
fn abandoned(store: &Store, id: &str) -> bool {
    match store.load(id) {
        Ok(record) => {
            let kept = record.keeper.is_some_and(|k| k.alive());
            let unfinished = record.keeper.is_some() && record.init.is_none();
            let over = record.transient && store.status(&record) == Status::Stopped;
            let waiting = record.keeper.is_some() && store.status(&record) == Status::Created;
            !kept && (unfinished || over || waiting)
        }
        // No record yet: its maker needs microseconds for it, so leave it
        // alone while it is young.
        Err(_) => store
            .directory(id)
            .symlink_metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().is_ok_and(|age| age.as_secs() > 60)),
    }
}

fn forget_container(store: &Store, id: &str) -> bool {
    let ended = store.load(id).map_or(true, |record| {
        if let Some(pidfd) = record.init.and_then(|p| p.open()) {
            let _ = crate::kernel::sys::pidfd_send_signal(
                std::os::fd::AsFd::as_fd(&pidfd),
                libc::SIGKILL,
            );
        }
        groups::end(&record.cgroup).is_ok()
    });
    ended && store.forget(id).is_ok()
}
