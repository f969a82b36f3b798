//! A tree written out as a directory.
//!
//! The directory is new and nobody else's, and every path is opened below its
//! descriptor with no symlink allowed on the way (openat2(2)); symlinks are
//! made last, so none is there that an entry could be written through.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    self as sys, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use super::merge::Sink;
use super::tar::{Entry, Kind, Path};
use crate::problem::Problem;

/// Whose the files will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// As the image says; for root.
    Kept,
    /// The caller's, who can give nothing away and make no devices.
    Caller,
}

/// Writes what it is given into a directory.
pub struct Unpacker {
    root: OwnedFd,
    shown: String,
    owners: Owners,
    /// The last directory that was opened: files come sorted by layers, not
    /// by directories, but mostly in runs.
    parent: Option<(Path, OwnedFd)>,
    /// Directories get their modes and times when nothing more comes.
    directories: Vec<Entry>,
    /// Devices that only root can make.
    left_out: usize,
}

type Sys<T> = Result<T, (&'static str, Errno)>;

impl Unpacker {
    /// # Arguments
    /// * `root` - an empty directory that nobody else can write
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn new(root: &std::path::Path, owners: Owners) -> Result<Self, Problem> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let shown = root.display().to_string();
        let root = sys::openat(CWD, root, flags, Mode::empty())
            .map_err(|e| Problem::site(format!("{shown}: cannot be opened: {e}")))?;
        Ok(Self { root, shown, owners, parent: None, directories: Vec::new(), left_out: 0 })
    }

    /// Gives directories their modes, owners and times.
    ///
    /// Gives the number of devices that were left out.
    ///
    /// # Errors
    /// One of them cannot be changed.
    pub fn finish(mut self) -> Result<usize, Problem> {
        self.parent = None;
        // From the deepest up: one that may not be written or searched
        // would be in the way of those in it.
        for entry in std::mem::take(&mut self.directories).iter().rev() {
            let done = self.open(&entry.path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
            done.and_then(|dir| self.dress(&File::from(dir), entry))
                .map_err(|e| self.problem(&entry.path, e))?;
        }
        Ok(self.left_out)
    }

    fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> Sys<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let name: &[u8] = if path.is_root() { b"." } else { path.bytes() };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        sys::openat2(&self.root, name, flags, mode, resolve).map_err(|e| ("openat2", e))
    }

    fn parent<'p>(&mut self, path: &'p Path) -> Sys<(&OwnedFd, &'p [u8])> {
        let Some((directory, _)) = path.split() else { return Err(("mkdir", Errno::EXIST)) };
        let name = &path.bytes()[path.bytes().len() - path.split().map_or(0, |(_, n)| n.len())..];
        if self.parent.as_ref().is_none_or(|(p, _)| *p != directory) {
            let fd = self.open(&directory, OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?;
            self.parent = Some((directory, fd));
        }
        self.parent.as_ref().map(|(_, fd)| (fd, name)).ok_or(("openat2", Errno::NOENT))
    }

    /// Owner, attributes, mode and times, in this order: a change of owner
    /// takes setuid and file capabilities away.
    fn dress(&self, file: &File, entry: &Entry) -> Sys<()> {
        if self.owners == Owners::Kept {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            sys::fchown(file, Some(uid), Some(gid)).map_err(|e| ("fchown", e))?;
        }
        for (name, value) in &entry.xattrs {
            let theirs = self.owners == Owners::Caller && !name.starts_with(b"user.");
            if theirs {
                continue;
            }
            match sys::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                // A file system that has none of these.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(e) => return Err(("fsetxattr", e)),
            }
        }
        sys::fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(|e| ("fchmod", e))?;
        sys::futimens(file, &times(entry)).map_err(|e| ("futimens", e))
    }

    fn make(&mut self, entry: &Entry) -> Sys<()> {
        if entry.path.is_root() {
            return Ok(());
        }
        let owners = self.owners;
        let hard = match &entry.kind {
            Kind::Hardlink(to) => {
                let (directory, _) = to.split().ok_or(("link", Errno::ISDIR))?;
                Some(self.open(&directory, OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?)
            }
            _ => None,
        };
        let (parent, name) = self.parent(&entry.path)?;
        let node = |kind, device| {
            let mode = Mode::from_raw_mode(0o600);
            sys::mknodat(parent, name, kind, mode, device).map_err(|e| ("mknod", e))
        };
        match &entry.kind {
            Kind::Directory => {
                return sys::mkdirat(parent, name, Mode::RWXU).map_err(|e| ("mkdir", e));
            }
            Kind::Hardlink(to) => {
                let from = hard.as_ref().ok_or(("link", Errno::NOENT))?;
                let (_, target) = to.split().ok_or(("link", Errno::ISDIR))?;
                let flags = AtFlags::empty();
                return sys::linkat(from, target, parent, name, flags).map_err(|e| ("link", e));
            }
            Kind::Symlink(to) => {
                sys::symlinkat(&to[..], parent, name).map_err(|e| ("symlink", e))?;
            }
            Kind::Fifo => node(FileType::Fifo, 0)?,
            Kind::Character(..) | Kind::Block(..) if owners == Owners::Caller => {
                self.left_out += 1;
                return Ok(());
            }
            Kind::Character(major, minor) => {
                node(FileType::CharacterDevice, sys::makedev(*major, *minor))?;
            }
            Kind::Block(major, minor) => {
                node(FileType::BlockDevice, sys::makedev(*major, *minor))?;
            }
            Kind::File => return Err(("write", Errno::INVAL)),
        }
        // None of these is opened: a FIFO would wait, a device act.
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if owners == Owners::Kept {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            sys::chownat(parent, name, Some(uid), Some(gid), flags).map_err(|e| ("chown", e))?;
        }
        if !matches!(entry.kind, Kind::Symlink(_)) {
            let mode = Mode::from_raw_mode(entry.mode);
            sys::chmodat(parent, name, mode, AtFlags::empty()).map_err(|e| ("chmod", e))?;
        }
        sys::utimensat(parent, name, &times(entry), flags).map_err(|e| ("utimensat", e))
    }

    fn problem(&self, path: &Path, (call, errno): (&'static str, Errno)) -> Problem {
        let what = format!("{}/{}: {call}: {errno}", self.shown, path.lossy());
        match errno {
            Errno::NOSPC | Errno::DQUOT => Problem::site(what).hint("free some space there"),
            _ => Problem::site(what),
        }
    }
}

impl Sink for Unpacker {
    fn node(&mut self, entry: &Entry) -> Result<(), Problem> {
        if entry.kind == Kind::Directory {
            self.directories.push(entry.clone());
        }
        self.make(entry).map_err(|e| self.problem(&entry.path, e))
    }

    fn file(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), Problem> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
        let made = self.parent(&entry.path).and_then(|(parent, name)| {
            let mode = Mode::from_raw_mode(0o600);
            sys::openat(parent, name, flags | OFlags::CLOEXEC, mode).map_err(|e| ("create", e))
        });
        let file = File::from(made.map_err(|e| self.problem(&entry.path, e))?);
        copy(&file, entry, data).map_err(|e| {
            let what = format!("{}/{}: {e}", self.shown, entry.path.lossy());
            Problem::site(what).hint("free some space there, or ask whoever made the image")
        })?;
        self.dress(&file, entry).map_err(|e| self.problem(&entry.path, e))
    }
}

/// The stored pieces where they belong; what is between them stays a hole.
fn copy(file: &File, entry: &Entry, data: &mut dyn Read) -> io::Result<()> {
    let whole = [(0, entry.size)];
    let mut buffer = vec![0; 1 << 17];
    for (offset, length) in entry.sparse.as_deref().unwrap_or(&whole) {
        let mut done = 0;
        while done < *length {
            let most = (length - done).min(buffer.len() as u64) as usize;
            let n = match data.read(&mut buffer[..most]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            file.write_all_at(&buffer[..n], offset + done)?;
            done += n as u64;
        }
    }
    if entry.sparse.is_some() { file.set_len(entry.size) } else { Ok(()) }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Removes a directory with everything in it, following nothing.
///
/// # Errors
/// Something in it cannot be removed.
pub fn remove(dir: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            // A user's own directories may forbid the user to look into them.
            open_up(dir)?;
            std::fs::remove_dir_all(dir)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open_up(dir: &std::path::Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = sys::openat(CWD, dir, flags, Mode::empty())?;
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held.as_fd()));
    sys::chmod(&name, Mode::RWXU)?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
