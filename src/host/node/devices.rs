//! Mounts, block devices, swap, network interfaces, modules.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Handle, Kind, Thing, line, names, shown};

fn thing(kind: Kind, key: String, what: String, owner: Option<u32>, handle: Handle) -> Thing {
    Thing { kind, key, what, owner, made: None, job: None, handle }
}

/// Mounts of this mount namespace, without those that an autofs makes and
/// takes away by itself (proc_pid_mountinfo(5)).
pub fn mounts() -> Vec<Thing> {
    let text = crate::host::text_of("/proc/self/mountinfo".as_ref()).unwrap_or_default();
    parse_mounts(&text)
}

fn parse_mounts(text: &str) -> Vec<Thing> {
    let all: Vec<(PathBuf, &str, &str)> = text
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut fields = file_system.split(' ');
            let (kind, options) = (fields.next()?, fields.nth(1).unwrap_or_default());
            Some((unescape(mount.split(' ').nth(4)?), kind, options))
        })
        .collect();
    let automatic: Vec<&PathBuf> =
        all.iter().filter(|(_, kind, _)| *kind == "autofs").map(|(point, ..)| point).collect();
    let by_itself = |point: &PathBuf| automatic.iter().any(|a| point != *a && point.starts_with(a));
    let named = all.iter().filter(|(point, ..)| !by_itself(point));
    named
        .map(|(point, kind, options)| {
            let fuse = *kind == "fuse" || *kind == "fuseblk" || kind.starts_with("fuse.");
            let user = options.split(',').find_map(|o| o.strip_prefix("user_id="));
            let at = shown(point);
            thing(
                if fuse { Kind::Fuse } else { Kind::Mount },
                format!("{at} {kind}"),
                format!("{kind} on {at}"),
                user.filter(|_| fuse).and_then(|u| u.parse().ok()),
                Handle::Mount { point: point.clone() },
            )
        })
        .collect()
}

/// `\040` and the like, as the kernel writes blanks in paths.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let octal = text.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(plain).into()
}

/// Connections of fuse(4) whose mount is in another mount namespace.
pub fn fuse(dir: Option<&Path>, mounts: &[Thing]) -> Vec<Thing> {
    let Some(dir) = dir else { return Vec::new() };
    let seen: Vec<u64> = mounts
        .iter()
        .filter(|t| t.kind == Kind::Fuse)
        .filter_map(|t| match &t.handle {
            Handle::Mount { point } => fuse_device(point),
            _ => None,
        })
        .collect();
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

/// The device number of a mount, from mountinfo: a stat of a file system
/// whose server hangs would hang as well.
fn fuse_device(point: &Path) -> Option<u64> {
    let text = crate::host::text_of("/proc/self/mountinfo".as_ref()).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (major, minor) = fields.nth(2)?.split_once(':')?;
        let here = unescape(fields.nth(1)?) == point && major == "0";
        if here { minor.parse().ok() } else { None }
    })
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

/// Interfaces of this network namespace; those of tun(4) have an owner.
pub fn interfaces() -> Vec<Thing> {
    names("/sys/class/net")
        .into_iter()
        .map(|name| {
            let owner = line(format!("/sys/class/net/{name}/owner")).and_then(|o| o.parse().ok());
            thing(Kind::Interface, name.clone(), format!("interface {name}"), owner, Handle::None)
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
            parse_mounts(text).into_iter().map(|t| (t.kind, t.key, t.owner)).collect();
        let expected = [
            (Kind::Mount, "/ ext4".to_owned(), None),
            (Kind::Fuse, "/home/a b fuse.sshfs".to_owned(), Some(61001)),
            (Kind::Mount, "/auto autofs".to_owned(), None),
        ];
        assert_eq!(all, expected);
    }
}
