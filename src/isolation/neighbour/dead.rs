//! What a neighbour has left on the node, removed: by itself when it goes, and
//! when it was killed by the next of its user.
//!
//! While it has anything there, a neighbour holds a lock (flock(2)) on a file
//! of its tag. Where nobody holds it, the neighbour is dead.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::mqueue::{MQ_OFlag, mq_close, mq_open, mq_unlink};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::things;
use crate::host::node::{Handle, Kind, system_v};
use crate::kernel::residue;
use crate::kernel::sys::probe;

/// What the tag does not tell of a neighbour's things.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    pub home: Option<PathBuf>,
    /// Of its System V objects.
    pub key: i32,
}

/// A neighbour's sign of life: it ends with the process, however that ends.
pub struct Alive {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Alive {
    /// `None` where no file can be made.
    pub fn begin(tag: &str, kept: &Kept) -> Option<Self> {
        let path = sign(tag);
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        loop {
            let file = options.open(&path).ok()?;
            let mut lock = Flock::lock(file, FlockArg::LockExclusive).ok()?;
            // Before it had the lock, somebody may have taken it for a dead one.
            if is_at(&lock, &path) {
                let _ = lock.write_all(&serde_json::to_vec(kept).unwrap_or_default());
                return Some(Self { path, _lock: lock });
            }
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn sign(tag: &str) -> PathBuf {
    Path::new("/tmp").join(format!("{tag}.alive"))
}

fn is_at(file: &File, path: &Path) -> bool {
    let number = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let there = path.symlink_metadata().map(number).ok();
    there.is_some() && file.metadata().map(number).ok() == there
}

/// Removes what dead neighbours of the caller's have left; gives their tags.
pub fn sweep() -> Vec<String> {
    let entries = fs::read_dir("/tmp").into_iter().flatten().flatten();
    let tags = entries.filter_map(|e| tag_of(e.file_name().to_str()?));
    tags.filter(|tag| {
        let Some((_lock, kept)) = dead(tag) else { return false };
        remove(tag, &kept);
        fs::remove_file(sign(tag)).is_ok()
    })
    .collect()
}

fn tag_of(name: &str) -> Option<String> {
    let tag = name.strip_suffix(".alive")?;
    let digits = tag.strip_prefix("dnv").filter(|d| d.len() == 8)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| tag.to_owned())
}

/// Everybody can put files there, and links to others: only one that is the
/// caller's, and nowhere else, is believed.
fn dead(tag: &str) -> Option<(Flock<File>, Kept)> {
    let path = sign(tag);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits()).open(&path).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || !mine(meta.uid()) || meta.nlink() != 1 {
        return None;
    }
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
    is_at(&lock, &path).then_some(())?;
    let mut text = Vec::new();
    (&*lock).take(1 << 16).read_to_end(&mut text).ok()?;
    // One that was killed before it wrote had nothing yet.
    Some((lock, serde_json::from_slice(&text).unwrap_or_default()))
}

fn mine(uid: u32) -> bool {
    uid == nix::unistd::geteuid().as_raw()
}

/// Removes everything of the caller's that bears this tag.
pub fn remove(tag: &str, kept: &Kept) {
    for path in things::files(tag, kept.home.as_deref()) {
        let _ = file(&path);
    }
    for name in things::queue_names(tag).into_iter().chain(listed_queues(tag)) {
        let _ = queue(&name);
    }
    let key = format!("{:#x} {}", kept.key, nix::unistd::geteuid());
    for object in system_v().into_iter().filter(|o| o.key == key) {
        let _ = residue::remove(object.kind, &object.handle, &mine);
    }
    let named = |text: &str| text.rsplit(';').next().is_some_and(|name| name.starts_with(tag));
    for (id, _) in probe::user_keys().unwrap_or_default().iter().filter(|(_, text)| named(text)) {
        let _ = probe::unlink_user_key(*id);
    }
    let own = |dir: &PathBuf| dir.symlink_metadata().is_ok_and(|m| m.is_dir() && mine(m.uid()));
    let directories = things::group_places(tag).into_iter().filter(own).collect();
    let _ = residue::remove(Kind::Cgroup, &Handle::Groups { directories }, &mine);
}

/// Through no link but those on the way to the directory, as `/tmp` may be one.
fn file(path: &Path) -> Option<()> {
    let path = path.parent()?.canonicalize().ok()?.join(path.file_name()?);
    let meta = path.symlink_metadata().ok()?;
    let handle = Handle::File { path, device: meta.dev(), inode: meta.ino() };
    residue::remove(Kind::Tmp, &handle, &mine).ok()
}

/// Of its probes, which are killed in the middle of a look.
fn listed_queues(tag: &str) -> Vec<String> {
    let entries = fs::read_dir("/dev/mqueue").into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    names.filter(|name| name.starts_with(tag)).map(|name| format!("/{name}")).collect()
}

fn queue(name: &str) -> Option<()> {
    let flags = MQ_OFlag::O_RDONLY | MQ_OFlag::O_NONBLOCK;
    let queue = mq_open(name, flags, Mode::empty(), None).ok()?;
    let stat = nix::sys::stat::fstat(queue.as_fd());
    let _ = mq_close(queue);
    mine(stat.ok()?.st_uid).then(|| mq_unlink(name).ok())?
}
