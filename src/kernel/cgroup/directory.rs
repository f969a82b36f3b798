//! An open group, and its files.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, fstatfs};
use nix::unistd::{Uid, UnlinkatFlags, fchownat, unlinkat};

use super::CgroupError;
use crate::plan::cgroup::{Place, Version};

/// The directory of a group, known to be on a control group file system.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
    pub version: Version,
    /// What every directory below must be on too.
    magic: FsType,
}

/// `RDTGROUP_SUPER_MAGIC` of linux/magic.h.
const RESCTRL_MAGIC: FsType = FsType(0x0765_5821);

impl Directory {
    /// The top of the hierarchy that `at` is in.
    pub fn mount_point(at: &Place) -> Result<Self, CgroupError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&at.mount, flags, Mode::empty())
            .map_err(|errno| CgroupError::Open { path: at.mount.clone(), errno })?;
        let magic = match at.version {
            Version::V1 => CGROUP_SUPER_MAGIC,
            Version::V2 => CGROUP2_SUPER_MAGIC,
        };
        checked(fd, at.mount.clone(), at.version, magic)
    }

    /// The top of the kernel's resource control, whose groups work like v1's.
    pub fn resctrl(mount: &Path) -> Result<Self, CgroupError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(mount, flags, Mode::empty())
            .map_err(|errno| CgroupError::Open { path: mount.to_owned(), errno })?;
        checked(fd, mount.to_owned(), Version::V1, RESCTRL_MAGIC)
    }

    /// The group `at`.
    ///
    /// # Errors
    /// [`CgroupError::Open`] when it is not there or a link is on the way,
    /// [`CgroupError::NotCgroups`] when something else is mounted there.
    pub fn open(at: &Place) -> Result<Self, CgroupError> {
        let top = Self::mount_point(at)?;
        if at.path.is_empty() { Ok(top) } else { top.below(&at.path) }
    }

    /// The group at the relative `path` below this one.
    pub fn below(&self, path: &str) -> Result<Self, CgroupError> {
        let full = self.path.join(path);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let fd = self
            .resolve(path, flags)
            .map_err(|errno| CgroupError::Open { path: full.clone(), errno })?;
        checked(fd, full, self.version, self.magic)
    }

    /// Opens `path` without leaving this directory, following a link or
    /// crossing a mount.
    fn resolve(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_CLOEXEC;
        let beneath = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        match openat2(&self.fd, path, OpenHow::new().flags(flags).resolve(beneath)) {
            // Before Linux 5.6, or filtered by a container around us.
            Err(Errno::ENOSYS | Errno::EPERM) => self.resolve_by_name(path, flags),
            other => other,
        }
    }

    /// The same without openat2(2): name by name, none of them a link.
    fn resolve_by_name(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
        let mut held: Option<OwnedFd> = None;
        for name in above.split('/').filter(|n| !n.is_empty()).chain([last]) {
            if name == ".." {
                return Err(Errno::EXDEV);
            }
            let last = std::ptr::eq(name, last);
            let step = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let flags = if last { flags } else { step } | OFlag::O_NOFOLLOW;
            let at = held.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            held = Some(openat(at, name, flags, Mode::empty())?);
        }
        held.ok_or(Errno::ENOENT)
    }

    /// Makes the group `name` in this one.
    pub fn make(&self, name: &str) -> Result<(), Errno> {
        mkdirat(&self.fd, name, Mode::from_bits_truncate(0o755))
    }

    /// Removes the group `name` in this one.
    pub fn remove(&self, name: &str) -> Result<(), Errno> {
        unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)
    }

    /// Names of the groups in this one.
    pub fn groups(&self) -> Result<Vec<String>, CgroupError> {
        let error = |e: std::io::Error| CgroupError::Read {
            path: self.path.clone(),
            errno: Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)),
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.proc_path()).map_err(error)? {
            let entry = entry.map_err(error)?;
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    /// The text of one of its files.
    pub fn read(&self, file: &str) -> Result<String, CgroupError> {
        let error = |errno| CgroupError::Read { path: self.path.join(file), errno };
        let fd = self.resolve(file, OFlag::O_RDONLY).map_err(error)?;
        let mut text = String::new();
        std::fs::File::from(fd)
            .read_to_string(&mut text)
            .map_err(|e| error(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))))?;
        Ok(text)
    }

    /// Writes `value` to one of its files, in one write(2) as the kernel wants it.
    pub fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let fd = self.open_file(file, value)?;
        let mut file_of_group = std::fs::File::from(fd);
        match file_of_group.write(value.as_bytes()) {
            Ok(n) if n == value.len() => Ok(()),
            Ok(_) => Err(self.refused(file, value, Errno::EIO)),
            Err(e) => {
                let errno = Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
                Err(self.refused(file, value, errno))
            }
        }
    }

    /// One of its files, open for writing.
    pub fn open_file(&self, file: &str, value: &str) -> Result<OwnedFd, CgroupError> {
        self.resolve(file, OFlag::O_WRONLY).map_err(|errno| self.refused(file, value, errno))
    }

    /// One of its files, open for reading.
    pub fn open_for_reading(&self, file: &str) -> Result<OwnedFd, CgroupError> {
        let error = |errno| CgroupError::Read { path: self.path.join(file), errno };
        self.resolve(file, OFlag::O_RDONLY).map_err(error)
    }

    /// Whether it has such a file.
    pub fn has(&self, file: &str) -> bool {
        self.resolve(file, OFlag::O_PATH).is_ok()
    }

    /// Makes `uid` the owner of one of its files.
    pub fn give(&self, file: &str, uid: u32) -> Result<(), CgroupError> {
        let owner = Some(Uid::from_raw(uid));
        match fchownat(&self.fd, file, owner, None, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // cgroup.threads is there since Linux 4.14.
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.refused(file, &format!("uid {uid}"), errno)),
        }
    }

    /// A path to this very directory, however its name may change: for code
    /// that takes paths only.
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub fn refused(&self, file: &str, value: &str, errno: Errno) -> CgroupError {
        CgroupError::Write { path: self.path.join(file), value: value.to_owned(), errno }
    }

    pub fn not_kept(&self, what: &str, file: &str, asked: &str, found: &str) -> CgroupError {
        CgroupError::NotKept {
            what: what.to_owned(),
            path: self.path.join(file),
            asked: asked.to_owned(),
            found: found.to_owned(),
        }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn checked(
    fd: OwnedFd,
    path: PathBuf,
    version: Version,
    magic: FsType,
) -> Result<Directory, CgroupError> {
    match fstatfs(&fd) {
        Ok(stat) if stat.filesystem_type() == magic => Ok(Directory { fd, path, version, magic }),
        Ok(_) => Err(CgroupError::NotCgroups { path }),
        Err(errno) => Err(CgroupError::Open { path, errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_way_of_opening_leaves_the_directory() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("top/group/sub")).unwrap();
        std::fs::write(base.path().join("top/group/file"), "x").unwrap();
        std::os::unix::fs::symlink("group", base.path().join("top/link")).unwrap();
        std::os::unix::fs::symlink("group/file", base.path().join("top/file")).unwrap();
        let path = base.path().join("top");
        let fd = OwnedFd::from(std::fs::File::open(&path).unwrap());
        let top = Directory { fd, path, version: Version::V1, magic: CGROUP_SUPER_MAGIC };
        let table = [
            ("group", true),
            ("group/sub", true),
            ("group/file", true),
            ("link", false),
            ("link/sub", false),
            ("file", false),
            ("..", false),
            ("group/../..", false),
            ("missing", false),
        ];
        for (name, opens) in table {
            let by_kernel = top.resolve(name, OFlag::O_RDONLY);
            assert_eq!(by_kernel.is_ok(), opens, "openat2 {name}");
            let by_name = top.resolve_by_name(name, OFlag::O_RDONLY | OFlag::O_CLOEXEC);
            assert_eq!(by_name.is_ok(), opens, "by name {name}");
        }
    }

    #[test]
    fn a_directory_elsewhere_is_no_group() {
        let base = tempfile::tempdir().unwrap();
        let mount = base.path().to_owned();
        let at = Place { mount, version: Version::V2, path: "x".into() };
        let error = Directory::open(&at).unwrap_err();
        assert!(matches!(error, CgroupError::NotCgroups { .. }), "{error:?}");
    }
}
