//! What closes the environment off: masks, read-only paths, kernel settings.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::attributes::{Change, attach_with};
use super::place::write_fd_path;
use super::{Child, Fault, Named, files, sys};
use crate::policy::text::CText;

impl Child<'_> {
    /// OCI `linux.readonlyPaths`; what does not exist needs no protection.
    pub(super) fn readonly_path(&mut self, path: &CText) -> Result<(), Fault> {
        let Some(target) = self.open_existing(path)? else { return Ok(()) };
        let tree = sys::clone_tree(target.as_fd(), c"", true).named("open_tree")?;
        let change = Change { set: libc::MOUNT_ATTR_RDONLY, clear: 0, recursive: true };
        attach_with(tree.as_fd(), target.as_fd(), &[change])
    }

    /// A mount that had to be written to until everything in it was placed.
    pub(super) fn readonly_mount(&mut self, path: &CText) -> Result<(), Fault> {
        let mount = self.open_in_root(path.as_c_str(), libc::O_PATH, 0)?;
        super::attributes::set(mount.as_fd(), libc::MOUNT_ATTR_RDONLY, 0)
    }

    /// OCI `linux.maskedPaths`: an empty read-only directory or the null
    /// device on top.
    pub(super) fn masked_path(&mut self, path: &CText) -> Result<(), Fault> {
        let Some(target) = self.open_existing(path)? else { return Ok(()) };
        if files::is_directory(target.as_fd()).named("fstat")? {
            let mut text = [0; 32];
            let at = write_fd_path(&mut text, target.as_fd());
            let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            return sys::mount(
                Some(c"tmpfs"),
                at,
                Some(c"tmpfs"),
                flags,
                Some(c"size=0k,nr_inodes=2"),
            )
            .named("mount of a mask");
        }
        let tree = self.null_tree()?;
        sys::attach(tree.as_fd(), target.as_fd()).named("move_mount of a mask")
    }

    /// The node's own null device, opened once and checked: a root could
    /// have put anything at its /dev/null (CVE-2025-31133).
    fn null_tree(&mut self) -> Result<OwnedFd, Fault> {
        if self.null.is_none() {
            let null = super::open_path(&CText::lossy("/dev/null"))?;
            if !files::is_device(null.as_fd(), libc::S_IFCHR, 1, 3) {
                return Err(Fault { call: "check of /dev/null", errno: Errno::ENODEV });
            }
            self.null = Some(null);
        }
        let Some(null) = &self.null else {
            return Err(Fault { call: "null", errno: Errno::EBADF });
        };
        sys::clone_tree(null.as_fd(), c"", false).named("open_tree of /dev/null")
    }

    fn open_existing(&self, path: &CText) -> Result<Option<OwnedFd>, Fault> {
        match self.open_in_root(path.as_c_str(), libc::O_PATH, 0) {
            Ok(fd) => Ok(Some(fd)),
            Err(Fault { errno: Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES, .. }) => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

/// Writes a kernel setting of this process's namespaces through the node's
/// own /proc, which is known to be procfs (CVE-2025-52881).
pub(super) fn sysctl(path: &CText, value: &CText) -> Result<(), Fault> {
    let base = proc_directory(c"/proc/sys")?;
    let file = sys::openat2(
        base.as_fd(),
        path.as_c_str(),
        libc::O_WRONLY,
        0,
        sys::resolve::BENEATH | sys::resolve::NO_SYMLINKS | sys::resolve::NO_XDEV,
    )
    .named("open of the sysctl")?;
    super::place::write_all(&file, value.as_bytes())
}

/// proc(5) `/proc/PID/oom_score_adj`.
pub(super) fn oom_score(score: i32) -> Result<(), Fault> {
    let base = proc_directory(c"/proc")?;
    let file = sys::openat2(base.as_fd(), c"self/oom_score_adj", libc::O_WRONLY, 0, 0)
        .named("open of oom_score_adj")?;
    let mut text = super::root::Buffer::new();
    if score < 0 {
        text.push(b"-");
    }
    text.push_number(score.unsigned_abs().into());
    super::place::write_all(&file, text.bytes())
}

fn proc_directory(path: &'static std::ffi::CStr) -> Result<OwnedFd, Fault> {
    use nix::fcntl::{OFlag, open};
    let dir = open(
        path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .named("open of /proc")?;
    if !files::is_procfs(dir.as_fd()) {
        return Err(Fault { call: "check that /proc is procfs", errno: Errno::EINVAL });
    }
    Ok(dir)
}
