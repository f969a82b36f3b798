//! Control groups (cgroups(7)).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Handle, Kind, Scope, Thing, shown};
use crate::host::Cgroups;

/// Groups that are looked at in one hierarchy, and how deep.
const MOST: usize = 4000;
const DEEPEST: usize = 8;

/// A group of the same path in several hierarchies is one thing.
#[derive(Default)]
struct Found {
    directories: Vec<PathBuf>,
    hierarchies: Vec<String>,
    owner: u32,
}

/// The groups that are not expected, and those that are; what is below one
/// that is not expected goes with it.
pub fn read(scope: &Scope<'_>) -> Vec<Thing> {
    let layout = Cgroups::read().unwrap_or_default();
    let v1 = layout.v1.iter().map(|h| (h.controllers.join(","), h.mount.clone()));
    let v2 = layout.v2.iter().map(|h| ("unified".to_owned(), h.mount.clone()));
    let mut all: BTreeMap<String, Found> = BTreeMap::new();
    for (name, mount) in v1.chain(v2) {
        let mut left = MOST;
        walk(scope, &mount, &mount, &name, DEEPEST, &mut left, &mut all);
    }
    all.into_iter().map(thing).collect()
}

fn walk(
    scope: &Scope<'_>,
    mount: &Path,
    dir: &Path,
    hierarchy: &str,
    depth: usize,
    left: &mut usize,
    all: &mut BTreeMap<String, Found>,
) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let path = entry.path();
        let Ok(below) = path.strip_prefix(mount) else { continue };
        let key = format!("/{}", shown(below));
        let expected = (scope.known)(Kind::Cgroup, &key);
        let found = all.entry(key).or_default();
        found.owner = entry.metadata().map_or(0, |m| m.uid());
        found.hierarchies.push(hierarchy.to_owned());
        found.directories.push(path.clone());
        if expected && depth > 0 {
            walk(scope, mount, &path, hierarchy, depth - 1, left, all);
        }
    }
}

fn thing((key, found): (String, Found)) -> Thing {
    Thing {
        kind: Kind::Cgroup,
        what: format!("{key} ({})", found.hierarchies.join(" ")),
        owner: Some(user(&key).unwrap_or(found.owner)),
        made: None,
        job: job(&key),
        handle: Handle::Groups { directories: found.directories },
        key,
    }
}

/// The job of a group, by the names that denovo and Slurm give: `denovo-ID`
/// anywhere, `job_N` below Slurm's own, where no user can make groups.
pub fn job(path: &str) -> Option<String> {
    let mut parts = path.trim_end().split('/');
    let slurms = path.starts_with("/slurm") || path.contains("slurmstepd.scope/");
    parts.find_map(|part| {
        if let Some(id) = part.strip_prefix("denovo-") {
            return Some(id.to_owned());
        }
        let number = part.strip_prefix("job_").filter(|_| slurms)?;
        number.parse::<u32>().ok().map(|n| format!("slurm-{n}"))
    })
}

/// The user of a group by its name: systemd's `user-1000.slice`, Slurm's
/// `uid_1000`.
fn user(path: &str) -> Option<u32> {
    path.split('/').find_map(|part| {
        let slice = part.strip_prefix("user-").and_then(|p| p.strip_suffix(".slice"));
        slice.or_else(|| part.strip_prefix("uid_"))?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_tell_their_job_and_their_user() {
        let table = [
            ("/denovo-slurm-7", Some("slurm-7"), None),
            ("/slurm/uid_61001/job_7/step_0", Some("slurm-7"), Some(61001)),
            ("/slurm_n1/uid_61001/job_7", Some("slurm-7"), Some(61001)),
            ("/system.slice/slurmstepd.scope/job_9/step_batch/user", Some("slurm-9"), None),
            ("/user.slice/user-61001.slice/user@61001.service/job_9", None, Some(61001)),
            ("/system.slice/cron.service", None, None),
            ("/", None, None),
        ];
        for (path, expected, uid) in table {
            assert_eq!(job(path).as_deref(), expected, "{path}");
            assert_eq!(user(path), uid, "{path}");
        }
    }
}
