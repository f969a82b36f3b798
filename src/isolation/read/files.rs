//! What others keep on file systems, and what the kernel counts of that.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sys::statvfs::statvfs;

use super::{Channel, Look, Reading, each, listing, names, number, text, word_number};

/// Bytes that the neighbour's files take at least on each file system.
const FILLED: f64 = 16e6;
/// Bytes by which two looks at a busy disk differ.
const NEAR: f64 = 8e6;

pub const CHANNELS: &[Channel] = &[
    Channel::new("dev_shm", "/dev/shm", "files", |_| listing("/dev/shm")).same().marked(),
    Channel::new("tmp", "/tmp", "files", |_| listing("/tmp")).same().marked(),
    Channel::new("var_tmp", "/var/tmp", "files", |_| listing("/var/tmp")).same().marked(),
    Channel::new("run", "/run", "daemons", |_| listing("/run")).same().marked(),
    Channel::new("home", "$HOME", "files", |_| names(home()?).map(Reading::List)).same().marked(),
    Channel::new("utmp", "utmp", "logins", |_| {
        Some(Reading::Text(text("/run/utmp").or_else(|| text("/var/run/utmp"))?))
    })
    .same(),
    Channel::new("df_root", "statfs /", "free space", |_| taken("/".into()))
        .within(NEAR)
        .level(FILLED),
    Channel::new("df_tmp", "statfs /tmp", "free space", |_| taken("/tmp".into()))
        .within(NEAR)
        .level(FILLED),
    Channel::new("df_shm", "statfs /dev/shm", "free space", |_| taken("/dev/shm".into()))
        .within(NEAR)
        .level(FILLED),
    Channel::new("df_home", "statfs $HOME", "free space", |_| taken(home()?))
        .within(NEAR)
        .level(FILLED),
    Channel::new("df_dev", "statfs /dev", "memory", |_| taken("/dev".into()))
        .within(4096.0)
        .level(FILLED),
    Channel::new("file_nr", "/proc/sys/fs/file-nr", "open files", |_| {
        first("/proc/sys/fs/file-nr")
    })
    .within(200.0)
    .level(1000.0),
    Channel::new("inode_nr", "/proc/sys/fs/inode-nr", "files touched", |_| {
        first("/proc/sys/fs/inode-nr")
    })
    .within(500.0)
    .level(400.0),
    Channel::new("dentry_state", "/proc/sys/fs/dentry-state", "files touched", |_| {
        first("/proc/sys/fs/dentry-state")
    })
    .within(500.0)
    .level(400.0),
    Channel::new("aio_nr", "/proc/sys/fs/aio-nr", "aio users", |_| first("/proc/sys/fs/aio-nr"))
        .within(0.0)
        .level(60.0),
    Channel::new("ext4_mb", "/proc/fs/ext4/*/mb_groups", "free blocks", |_| {
        each("/proc/fs/ext4", "mb_groups").map(|all| short(&all))
    })
    .same(),
    Channel::new("jbd2", "/proc/fs/jbd2", "I/O", |_| {
        each("/proc/fs/jbd2", "info").map(|all| short(&all))
    })
    .same(),
    Channel::new("xfs_stat", "/proc/fs/xfs/stat", "I/O", |_| {
        text("/proc/fs/xfs/stat").map(|all| short(&[all]))
    })
    .same(),
    Channel::new("bdi", "/sys/class/bdi", "mounts", |_| listing("/sys/class/bdi")).same(),
    Channel::new("fuse_conns", "/sys/fs/fuse/connections", "FUSE mounts", |_| {
        listing("/sys/fs/fuse/connections")
    })
    .same(),
    Channel::new("image_atime", "atime of image files", "who read it", |look: &Look| {
        let meta = std::fs::metadata(look.unread.as_ref()?).ok()?;
        Some(Reading::Text(format!("{}.{:09}", meta.atime(), meta.atime_nsec())))
    })
    .changes(),
];

fn first(path: &str) -> Option<Reading> {
    number(word_number(&text(path)?, 0)?)
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|dir| dir.is_dir())
}

/// Bytes that are taken: what is free says how much fits as well, which is no
/// news of others.
fn taken(dir: PathBuf) -> Option<Reading> {
    let stat = statvfs(&dir).ok()?;
    let blocks = stat.blocks().saturating_sub(stat.blocks_free());
    number(blocks as f64 * stat.fragment_size() as f64)
}

/// The beginning of long lists of numbers: enough to tell whether it is the
/// host's.
fn short(all: &[String]) -> Reading {
    Reading::Text(all.iter().flat_map(|text| text.chars().take(2048)).collect())
}
