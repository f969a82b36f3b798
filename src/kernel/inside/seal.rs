//! What closes the environment off: masks, read-only paths, kernel settings.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::attributes::{Change, attach_with};
use super::place::write_fd_path;
use super::{Child, Fault, Named, files, sys};
use crate::kernel::procfs;
use crate::plan::inside::Lsm;
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

    /// A null device, opened once: the container's own, whose file system says
    /// nothing of the node (a devtmpfs names its size), else the node's. It is
    /// checked, since a root could have anything at its /dev/null (CVE-2025-31133).
    fn null_tree(&mut self) -> Result<OwnedFd, Fault> {
        if self.null.is_none() {
            let is_null = |fd: &OwnedFd| files::is_device(fd.as_fd(), libc::S_IFCHR, 1, 3);
            let own = self.open_in_root(c"/dev/null", libc::O_PATH | libc::O_NOFOLLOW, 0);
            let null = match own.ok().filter(is_null) {
                Some(own) => own,
                None => super::open_path(c"/dev/null")?,
            };
            if !is_null(&null) {
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
    // Some sites mount /proc/sys apart, read-only but for the network's.
    let base = procfs::directory(c"/proc/sys")?;
    let flags = libc::O_WRONLY | libc::O_NOFOLLOW;
    let file = procfs::open(base.as_fd(), path.as_c_str(), flags, "open of the sysctl")?;
    super::place::write_all(&file, value.as_bytes())
}

/// proc(5) `/proc/PID/oom_score_adj`.
pub(super) fn oom_score(score: i32) -> Result<(), Fault> {
    let base = procfs::root()?;
    let path = c"self/oom_score_adj";
    let file = procfs::open(base.as_fd(), path, libc::O_WRONLY, "open of oom_score_adj")?;
    let mut text = super::root::Buffer::new();
    if score < 0 {
        text.push(b"-");
    }
    text.push_number(score.unsigned_abs().into());
    super::place::write_all(&file, text.bytes())
}

/// The label of the next program (kernel documents LSM/SELinux, AppArmor:
/// `/proc/PID/attr`), read back: a container that was to be confined must not
/// run unconfined.
pub(super) fn label(proc: BorrowedFd<'_>, lsm: Lsm, label: &CText) -> Result<(), Fault> {
    let own = c"self/attr/apparmor/exec";
    let shared = c"self/attr/exec";
    let open = |flags| match lsm {
        // Kernels before 5.8 have the shared file only.
        Lsm::AppArmor => match procfs::open(proc, own, flags, "open of attr/apparmor/exec") {
            Err(Fault { errno: Errno::ENOENT, .. }) => {
                procfs::open(proc, shared, flags, "open of attr/exec")
            }
            opened => opened,
        },
        Lsm::SeLinux => procfs::open(proc, shared, flags, "open of attr/exec"),
    };
    let prefix: &[u8] = if lsm == Lsm::AppArmor { b"exec " } else { b"" };
    let mut text = [0u8; 4096];
    let length = prefix.len() + label.as_bytes().len();
    if length > text.len() {
        return Err(Fault { call: "label", errno: Errno::ENAMETOOLONG });
    }
    text[..prefix.len()].copy_from_slice(prefix);
    text[prefix.len()..length].copy_from_slice(label.as_bytes());
    // The kernel wants it in one write.
    let written = nix::unistd::write(&open(libc::O_WRONLY)?, &text[..length]);
    written.named("write of the label")?;
    let length = nix::unistd::read(&open(libc::O_RDONLY)?, &mut text).named("read of the label")?;
    if is_label(&text[..length], label.as_bytes()) {
        Ok(())
    } else {
        Err(Fault { call: "check of the label", errno: Errno::EPERM })
    }
}

/// What is read back ends with a NUL or a line, and at AppArmor has the
/// profile's mode behind it, such as `profile (enforce)`.
fn is_label(found: &[u8], label: &[u8]) -> bool {
    let found = found.strip_prefix(label);
    found.is_some_and(|rest| {
        matches!(rest.first(), None | Some(0 | b'\n')) || rest.starts_with(b" (")
    })
}

#[cfg(test)]
mod tests {
    use super::is_label;

    #[test]
    fn a_label_is_told_from_a_longer_one() {
        for (found, label, same) in [
            ("a:b:c:s0\0", "a:b:c:s0", true),
            ("profile (enforce)\n", "profile", true),
            ("profile", "profile", true),
            ("profile2 (enforce)\n", "profile", false),
            ("profile//hat (enforce)\n", "profile", false),
            ("unconfined\n", "profile", false),
            ("", "profile", false),
        ] {
            assert_eq!(is_label(found.as_bytes(), label.as_bytes()), same, "{found:?}");
        }
    }
}
