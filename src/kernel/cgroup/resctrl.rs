//! Groups of the kernel's resource control (kernel document
//! arch/x86/resctrl), which are kept like control groups.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::CgroupError;
use super::directory::Directory;
use crate::plan::cgroup::{Place, Version};
use crate::policy::spec::IntelRdt;

const MONITORS: &str = "mon_groups";

/// Makes the groups that are the environment's own, and gives them their
/// shares; one that was there must have those that are asked for (OCI
/// config-linux.md, "IntelRdt").
///
/// # Errors
/// [`CgroupError`]; what was made is removed then.
pub(super) fn make(rdt: &IntelRdt) -> Result<(), CgroupError> {
    let top = Directory::resctrl(&rdt.mount)?;
    if !rdt.existing {
        top.make(&rdt.group).map_err(|errno| failed(rdt, &rdt.group, errno))?;
    }
    let filled = fill(rdt, &top);
    if filled.is_err() && !rdt.existing {
        let _ = top.remove(&rdt.group);
    }
    filled
}

fn fill(rdt: &IntelRdt, top: &Directory) -> Result<(), CgroupError> {
    let group = below(top, &rdt.group)?;
    if rdt.existing {
        let found = group.read("schemata")?;
        if let Some(line) = rdt.schemata.iter().find(|line| !has(&found, line)) {
            return Err(group.not_kept("linux.intelRdt", "schemata", line, found.trim()));
        }
    } else {
        for line in &rdt.schemata {
            group.write("schemata", &format!("{line}\n")).map_err(|error| reason(top, error))?;
        }
    }
    if let Some(name) = &rdt.monitor {
        let path = monitors(rdt);
        let made = below(top, &path)?.make(name);
        made.map_err(|errno| failed(rdt, &format!("{path}/{name}"), errno))?;
    }
    Ok(())
}

fn monitors(rdt: &IntelRdt) -> String {
    let above = if rdt.group.is_empty() { String::new() } else { format!("{}/", rdt.group) };
    format!("{above}{MONITORS}")
}

fn below(top: &Directory, path: &str) -> Result<Directory, CgroupError> {
    top.below(if path.is_empty() { "." } else { path })
}

fn failed(rdt: &IntelRdt, path: &str, errno: Errno) -> CgroupError {
    let at = Place { mount: rdt.mount.clone(), version: Version::V1, path: path.to_owned() };
    match errno {
        Errno::EEXIST => CgroupError::Occupied { at },
        errno => CgroupError::Make { at, errno },
    }
}

/// The kernel says what it did not like in a file of its own.
fn reason(top: &Directory, error: CgroupError) -> CgroupError {
    let CgroupError::Write { path, value, errno } = error else { return error };
    let said = top.read("info/last_cmd_status").unwrap_or_default();
    CgroupError::Limit {
        what: "linux.intelRdt".into(),
        path,
        value: value.trim_end().to_owned(),
        reason: if said.trim().is_empty() { errno.to_string() } else { said.trim().to_owned() },
        errno: Some(errno),
    }
}

/// Whether `schemata` has each share of `line`; the kernel writes masks with
/// leading zeros.
fn has(schemata: &str, line: &str) -> bool {
    let parts = |line: &str| -> Option<(String, Vec<(String, String)>)> {
        let (resource, shares) = line.trim().split_once(':')?;
        let share = |share: &str| {
            let (id, value) = share.split_once('=')?;
            let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
            Some((id.trim().to_owned(), value))
        };
        let shares: Option<Vec<_>> = shares.split(';').map(share).collect();
        Some((resource.trim().to_owned(), shares?))
    };
    let Some((resource, asked)) = parts(line) else { return false };
    let found = schemata.lines().filter_map(parts).find(|(name, _)| *name == resource);
    found.is_some_and(|(_, found)| asked.iter().all(|share| found.contains(share)))
}

/// The `tasks` files to write `0` to.
pub(super) fn doors(rdt: &IntelRdt) -> Result<Vec<OwnedFd>, CgroupError> {
    let top = Directory::resctrl(&rdt.mount)?;
    let mut doors = Vec::new();
    // Into the group first: a monitor counts only what is in its own.
    if !rdt.group.is_empty() {
        doors.push(below(&top, &rdt.group)?.open_file("tasks", "0")?);
    }
    if let Some(name) = &rdt.monitor {
        doors.push(top.below(&format!("{}/{name}", monitors(rdt)))?.open_file("tasks", "0")?);
    }
    Ok(doors)
}

/// Removes what [`make`] made. What is gone already is no error; processes
/// that are left go to the group above.
pub(super) fn remove(rdt: &IntelRdt) -> Result<(), CgroupError> {
    let gone = |result: Result<(), Errno>, path: &str| match result {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => {
            let at = Place { mount: rdt.mount.clone(), version: Version::V1, path: path.into() };
            Err(CgroupError::Remove { at, errno, pids: Vec::new() })
        }
    };
    let top = Directory::resctrl(&rdt.mount)?;
    if let Some(name) = &rdt.monitor
        && let Ok(above) = below(&top, &monitors(rdt))
    {
        gone(above.remove(name), name)?;
    }
    if rdt.existing { Ok(()) } else { gone(top.remove(&rdt.group), &rdt.group) }
}

#[cfg(test)]
mod tests {
    use super::has;

    #[test]
    fn shares_are_compared_as_numbers() {
        let schemata = "    MB:0=100;1=100\n    L3:0=00ff;1=0FFF\n";
        for (line, kept) in [
            ("L3:0=ff;1=fff", true),
            ("L3:1=fff", true),
            ("L3:0=f", false),
            ("L3:2=ff", false),
            ("MB:0=100", true),
            ("MB:0=10", false),
            ("L2:0=1", false),
            ("L3", false),
        ] {
            assert_eq!(has(schemata, line), kept, "{line}");
        }
    }
}
