//! Numbers that the kernel hands out one after the other, for the whole host.

use std::os::unix::fs::MetadataExt;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::{Channel, Reading, number, text, word_number};
use crate::kernel::sys::{self, probe};

pub const CHANNELS: &[Channel] = &[
    // Each CPU takes 1024 at a time.
    Channel::new("pipe_ino", "pipe inode", "inodes ever made", |_| {
        let (read, _write) = nix::unistd::pipe().ok()?;
        number(rustix::fs::fstat(&read).ok()?.st_ino as f64)
    })
    .sequence(1e6),
    Channel::new("mntns_ino", "/proc/self/ns/* inode", "live namespaces", |_| {
        number(std::fs::metadata("/proc/self/ns/mnt").ok()?.ino() as f64)
    })
    .sequence(1e5),
    Channel::new("anon_dev", "st_dev of mounts", "live superblocks", |_| {
        mounts(|line| line.split(' ').nth(2)?.strip_prefix("0:")?.parse().ok())
    })
    .sequence(1e4),
    Channel::new("mnt_id", "mountinfo id", "live mounts", |_| mounts(|line| word_number(line, 0)))
        .sequence(1e4),
    Channel::new("peer_group", "mountinfo shared:/master:", "live peer groups", |_| {
        mounts(|line| {
            let tags = line.split(" - ").next()?.split(' ').skip(6);
            let numbers = tags.filter_map(|tag| tag.split_once(':')?.1.parse().ok());
            numbers.reduce(f64::max)
        })
    })
    .sequence(1e4),
    Channel::new("cgroup_ino", "inode of /sys/fs/cgroup", "cgroups ever made", |_| {
        mounts(|line| {
            line.contains(" - cgroup").then_some(())?;
            Some(std::fs::metadata(line.split(' ').nth(4)?).ok()?.ino() as f64)
        })
    })
    .sequence(1e6),
    Channel::new("autogroup", "/proc/self/autogroup", "sessions since boot", |_| {
        let text = text("/proc/self/autogroup")?;
        let name = text.trim_start_matches("/autogroup-");
        number(name.split(' ').next()?.parse::<f64>().ok()?)
    })
    .sequence(1e6),
    Channel::new("audit_session", "/proc/self/sessionid", "logins since boot", |_| {
        let id = word_number(&text("/proc/self/sessionid")?, 0)?;
        // What a process has that never logged in.
        (id != f64::from(u32::MAX)).then_some(())?;
        number(id)
    })
    .sequence(1e4),
    Channel::new("pidfd_ino", "pidfd inode", "tasks since boot", |_| {
        let own = sys::pidfd_open(std::process::id() as i32).ok()?;
        number(rustix::fs::fstat(&own).ok()?.st_ino as f64)
    })
    .sequence(1e6),
    Channel::new("netns_cookie", "SO_NETNS_COOKIE", "netns since boot", |_| {
        let family = (AddressFamily::Unix, SockType::Stream);
        let socket = socket(family.0, family.1, SockFlag::SOCK_CLOEXEC, None).ok()?;
        number(probe::network_namespace_cookie(&socket).ok()? as f64)
    })
    .sequence(1e6),
    Channel::new("mnt_unique", "statx MNT_ID_UNIQUE", "mounts since boot", |_| {
        // Not one of rustix's names; Linux 6.8.
        let unique = StatxFlags::from_bits_retain(0x4000);
        let found = statx(CWD, "/proc", AtFlags::empty(), unique).ok()?;
        (found.stx_mask & 0x4000 != 0).then_some(())?;
        number(found.stx_mnt_id as f64)
    })
    .sequence(1e9),
];

/// The highest of a number of each mount.
fn mounts(of: impl Fn(&str) -> Option<f64>) -> Option<Reading> {
    let text = text("/proc/self/mountinfo")?;
    number(text.lines().filter_map(of).reduce(f64::max)?)
}
