//! User and group id maps of a new user namespace (user_namespaces(7)).

use std::ffi::CString;
use std::os::fd::AsFd;
use std::process::Command;

use nix::errno::Errno;

use super::inside::{Fault, Named};
use super::procfs;
use crate::plan::Launch;
use crate::policy::spec::IdMap;

/// Writes both maps of the process's new user namespace.
///
/// A caller without privilege may map one id of its own; for more, the
/// set-user-ID helpers newuidmap(1) and newgidmap(1) check /etc/subuid and
/// /etc/subgid and write in its place.
///
/// # Errors
/// The file or the helper that refused.
pub fn write(pid: i32, launch: &Launch) -> Result<(), Fault> {
    write_maps(pid, &launch.uid_map, &launch.gid_map, launch.deny_setgroups)
}

/// [`write`] of maps that belong to no launch.
///
/// # Errors
/// As [`write`].
pub fn write_maps(
    pid: i32,
    uid_map: &[IdMap],
    gid_map: &[IdMap],
    deny_setgroups: bool,
) -> Result<(), Fault> {
    let uid = nix::unistd::geteuid().as_raw();
    let gid = nix::unistd::getegid().as_raw();
    let privileged = uid == 0;
    if deny_setgroups {
        write_file(pid, "setgroups", b"deny", "write of setgroups")?;
    }
    one(pid, "uid_map", "newuidmap", uid_map, privileged, uid)?;
    one(pid, "gid_map", "newgidmap", gid_map, privileged, gid)
}

fn one(
    pid: i32,
    file: &'static str,
    helper: &'static str,
    maps: &[IdMap],
    privileged: bool,
    own: u32,
) -> Result<(), Fault> {
    if maps.is_empty() {
        return Ok(());
    }
    if !privileged && !super::launch::is_single(maps, own) {
        return by_helper(pid, helper, maps);
    }
    let mut text = String::new();
    for map in maps {
        text.push_str(&format!("{} {} {}\n", map.inside, map.outside, map.count));
    }
    let call = if file == "uid_map" { "write of uid_map" } else { "write of gid_map" };
    write_file(pid, file, text.as_bytes(), call)
}

fn by_helper(pid: i32, helper: &'static str, maps: &[IdMap]) -> Result<(), Fault> {
    let mut command = Command::new(helper);
    command.arg(pid.to_string());
    for map in maps {
        command.args([map.inside, map.outside, map.count].map(|n| n.to_string()));
    }
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(_) => Err(Fault { call: helper, errno: Errno::EPERM }),
        Err(_) => Err(Fault { call: helper, errno: Errno::ENOENT }),
    }
}

fn write_file(pid: i32, name: &str, text: &[u8], call: &'static str) -> Result<(), Fault> {
    let path = CString::new(format!("{pid}/{name}")).unwrap_or_default();
    let file = procfs::open(procfs::root()?.as_fd(), &path, libc::O_WRONLY, call)?;
    // The kernel takes a map in one write only.
    match nix::unistd::write(&file, text).named(call)? {
        length if length == text.len() => Ok(()),
        _ => Err(Fault { call, errno: Errno::EIO }),
    }
}
