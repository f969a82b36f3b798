//! Mounts, block devices, swap, network interfaces, modules.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::host::cgroups::unescape;

use super::{Handle, Kind, Thing, line, names, shown};

fn thing(kind: Kind, key: String, what: String, owner: Option<u32>, handle: Handle) -> Thing {
    Thing { kind, key, what, owner, made: None, job: None, handle }
}

/// A line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
struct Mount<'a> {
    /// As the kernel counts: 12 bits and 20.
    device: u64,
    point: PathBuf,
    kind: &'a str,
    /// Of the file system, not of this mount.
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(2);
        let (major, minor) = mount.next()?.split_once(':')?;
        let device = major.parse::<u64>().ok()? << 20 | minor.parse::<u64>().ok()?;
        let point = OsString::from_vec(unescape(mount.nth(1)?.as_bytes())).into();
        let mut fields = file_system.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1).unwrap_or_default());
        Some(Self { device, point, kind, options })
    }

    fn is_fuse(&self) -> bool {
        matches!(self.kind, "fuse" | "fuseblk") || self.kind.starts_with("fuse.")
    }
}

/// Mounts of this mount namespace, from the text of its mountinfo, without
/// those that an autofs makes and takes away by itself.
pub fn mounts(text: &str) -> Vec<Thing> {
    let all: Vec<Mount> = text.lines().filter_map(Mount::parse).collect();
    let automatic: Vec<&PathBuf> =
        all.iter().filter(|m| m.kind == "autofs").map(|m| &m.point).collect();
    let by_itself = |point: &PathBuf| automatic.iter().any(|a| point != *a && point.starts_with(a));
    all.iter()
        .filter(|mount| !by_itself(&mount.point))
        .map(|mount| {
            let user = mount.options.split(',').find_map(|o| o.strip_prefix("user_id="));
            let (at, kind) = (shown(&mount.point), mount.kind);
            thing(
                if mount.is_fuse() { Kind::Fuse } else { Kind::Mount },
                format!("{at} {kind}"),
                format!("{kind} on {at}"),
                user.filter(|_| mount.is_fuse()).and_then(|u| u.parse().ok()),
                Handle::Mount { point: mount.point.clone() },
            )
        })
        .collect()
}

/// Connections of fuse(4) whose mount is in another mount namespace. One's
/// number is the device number of its mounts, which mountinfo tells: a stat of
/// a file system whose server hangs would hang as well.
pub fn fuse(dir: Option<&Path>, text: &str) -> Vec<Thing> {
    let Some(dir) = dir else { return Vec::new() };
    let mounts = text.lines().filter_map(Mount::parse).filter(Mount::is_fuse);
    let seen: Vec<u64> = mounts.map(|m| m.device).collect();
    let numbers = names(dir).into_iter().filter_map(|n| n.parse::<u32>().ok());
    numbers
        .filter(|number| !seen.contains(&u64::from(*number)))
        .filter_map(|number| {
            let owner = dir.join(number.to_string()).metadata().ok()?.uid();
            let what = format!("fuse connection {number}, mounted out of sight");
            let handle = Handle::Connection { number };
            Some(thing(Kind::Fuse, format!("connection {owner}"), what, Some(owner), handle))
        })
        .collect()
}

/// Loop devices with a file behind them, and devices of the device mapper.
pub fn block() -> Vec<Thing> {
    let mut all = Vec::new();
    for name in names("/sys/block") {
        if let Some(number) = name.strip_prefix("loop").and_then(|n| n.parse().ok()) {
            let Some(file) = line(format!("/sys/block/{name}/loop/backing_file")) else { continue };
            let owner = std::fs::symlink_metadata(&file).ok().map(|m| m.uid());
            let what = format!("/dev/{name} has {file}");
            all.push(thing(Kind::Loop, file, what, owner, Handle::Loop { number }));
        } else if let Some(mapped) = line(format!("/sys/block/{name}/dm/name")) {
            let what = format!("/dev/{name} is {mapped}");
            all.push(thing(Kind::DeviceMapper, mapped, what, None, Handle::None));
        }
    }
    all
}

/// Areas of swap (proc_swaps(5)).
pub fn swaps() -> Vec<Thing> {
    let text = crate::host::text_of("/proc/swaps".as_ref()).unwrap_or_default();
    let areas = text.lines().skip(1).filter_map(|l| l.split_ascii_whitespace().next());
    areas.map(|a| thing(Kind::Swap, a.to_owned(), a.to_owned(), None, Handle::None)).collect()
}

/// Interfaces of this network namespace (/proc/net/dev, proc_pid_net(5)); those
/// of tun(4) have an owner.
pub fn interfaces() -> Vec<Thing> {
    let text = crate::host::text_of("/proc/self/net/dev".as_ref()).unwrap_or_default();
    let names = text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim()));
    names
        .map(|name| {
            let owner = line(format!("/sys/class/net/{name}/owner")).and_then(|o| o.parse().ok());
            let what = format!("interface {name}");
            thing(Kind::Interface, name.to_owned(), what, owner, Handle::None)
        })
        .collect()
}

pub fn modules() -> Vec<Thing> {
    let text = crate::host::text_of("/proc/modules".as_ref()).unwrap_or_default();
    let all = text.lines().filter_map(|line| line.split(' ').next());
    all.map(|m| thing(Kind::Module, m.to_owned(), format!("module {m}"), None, Handle::None))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_owners() {
        let text = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                    30 21 0:40 / /home/a\\040b rw shared:3 - fuse.sshfs x rw,user_id=61001,group_id=1\n\
                    31 21 0:41 / /auto rw - autofs map rw\n\
                    32 31 0:42 / /auto/ada rw - nfs4 s:/ada rw\n\
                    broken line\n";
        let all: Vec<(Kind, String, Option<u32>)> =
            mounts(text).into_iter().map(|t| (t.kind, t.key, t.owner)).collect();
        let expected = [
            (Kind::Mount, "/ ext4".to_owned(), None),
            (Kind::Fuse, "/home/a b fuse.sshfs".to_owned(), Some(61001)),
            (Kind::Mount, "/auto autofs".to_owned(), None),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn only_connections_that_no_mount_here_has_are_out_of_sight() {
        let dir = tempfile::tempdir().unwrap();
        for number in ["40", "8388609", "41"] {
            std::fs::create_dir(dir.path().join(number)).unwrap();
        }
        let text = "30 21 0:40 / /home/ada rw - fuse.sshfs x rw,user_id=61001\n\
                    31 21 8:1 / /media/disk rw - fuseblk /dev/sda1 rw,user_id=0\n\
                    32 21 0:41 / /tmp rw - tmpfs x rw\n";
        let all = fuse(Some(dir.path()), text);
        let numbers: Vec<&Handle> = all.iter().map(|t| &t.handle).collect();
        assert_eq!(numbers, [&Handle::Connection { number: 41 }]);
    }
}
