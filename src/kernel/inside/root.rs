//! The root file system and the way into it.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::place::Target;
use super::place::write_fd_path;
use super::{Child, Fault, Named, files, open_path, sys};
use crate::policy::spec::{Fixture, LayeredFile, Writes};
use crate::policy::text::CText;

impl Child<'_> {
    /// A mount of its own on top of the directory, with everything mounted
    /// below it: pivot_root(2) wants a mount point.
    pub(super) fn root_directory(&mut self, path: &CText) -> Result<(), Fault> {
        let place = self.take_outside(path)?;
        let tree = sys::clone_tree(place.as_fd(), c"", true).named("open_tree of the root")?;
        sys::attach(tree.as_fd(), place.as_fd()).named("move_mount of the root")?;
        self.root = Some(tree);
        Ok(())
    }

    /// An empty root in a directory of the base, as a mount of its own.
    pub(super) fn root_empty(&mut self, writes: &Writes, anchor: &CText) -> Result<(), Fault> {
        let base = self.open_base(writes, anchor)?;
        make_directory(&base, c"root")?;
        let place = part(&base, c"root")?;
        let tree = sys::clone_tree(place.as_fd(), c"", false).named("open_tree of the root")?;
        sys::attach(tree.as_fd(), place.as_fd()).named("move_mount of the root")?;
        self.base = Some(base);
        self.root = Some(tree);
        Ok(())
    }

    /// The image below, what the job writes above, both named by descriptor
    /// only: the mount table inside shows no path of the node.
    pub(super) fn root_overlay(
        &mut self,
        (lower, handed): (&CText, bool),
        (writes, anchor): (&Writes, &CText),
        own: &[Fixture],
        points: &[(CText, Option<CText>)],
    ) -> Result<(), Fault> {
        let lower = open_path(lower)?;
        let base = self.open_base(writes, anchor)?;
        for name in [c"upper", c"work", c"root"] {
            make_directory(&base, name)?;
        }
        if handed {
            // Older kernels take no layer that is attached nowhere.
            make_directory(&base, c"image")?;
            let place = part(&base, c"image")?;
            sys::attach(lower.as_fd(), place.as_fd()).named("move_mount of the image")?;
        }
        let (upper, work, merged) =
            (part(&base, c"upper")?, part(&base, c"work")?, part(&base, c"root")?);
        // Not yet mounted, the upper layer is a root like any other.
        self.root = Some(upper);
        for fixture in own {
            self.put(fixture)?;
        }
        self.make_points(&lower, points)?;
        let upper = part(&base, c"upper")?;
        mount_overlay(&lower, &upper, &work, &merged)?;
        self.root = Some(part(&base, c"root")?);
        self.base = Some(base);
        Ok(())
    }

    /// Mount points that the image does not have.
    fn make_points(&self, lower: &OwnedFd, points: &[(CText, Option<CText>)]) -> Result<(), Fault> {
        for (at, source) in points {
            let flags = libc::O_PATH;
            if sys::openat2(lower.as_fd(), at.as_c_str(), flags, 0, sys::resolve::IN_ROOT).is_ok() {
                continue;
            }
            let is_file = source.as_ref().is_some_and(|path| {
                open_path(path).is_ok_and(|fd| files::is_directory(fd.as_fd()) == Ok(false))
            });
            let kind = if is_file { Target::File } else { Target::Directory };
            self.make_target(at.as_c_str(), kind)?;
        }
        Ok(())
    }

    /// Where roots and upper layers are kept: a tmpfs, or the scratch directory.
    fn open_base(&self, writes: &Writes, anchor: &CText) -> Result<OwnedFd, Fault> {
        match writes {
            Writes::Memory { bytes } => {
                tmpfs(anchor, *bytes)?;
                open_path(anchor)
            }
            Writes::Scratch { dir } => open_path(dir),
        }
    }

    /// See [`Fixture::Layered`]: what is hidden gets a whiteout, a character
    /// device 0:0 (kernel document filesystems/overlayfs, "whiteouts").
    ///
    /// [`Fixture::Layered`]: crate::policy::spec::Fixture::Layered
    pub(super) fn put_layered(
        &mut self,
        path: &CText,
        lower: &CText,
        hide: &[CText],
        files: &[LayeredFile],
    ) -> Result<(), Fault> {
        let lower = open_path(lower)?;
        let mut name = Buffer::new();
        name.push(b"layer");
        name.push_number(self.layers.into());
        self.layers += 1;
        let base = self.base.as_ref().ok_or(Fault { call: "base", errno: Errno::EBADF })?;
        make_directory(base, name.text())?;
        let layer = part(base, name.text())?;
        make_directory(&layer, c"upper")?;
        make_directory(&layer, c"work")?;
        let (upper, work) = (part(&layer, c"upper")?, part(&layer, c"work")?);
        for entry in hide {
            match sys::mknodat(upper.as_fd(), entry.as_c_str(), libc::S_IFCHR, 0) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(Fault { call: "mknod of a whiteout", errno }),
            }
        }
        for file in files {
            let flags = libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY | libc::O_NOFOLLOW;
            let _ = files::unlink(upper.as_fd(), file.name.as_c_str());
            let new = sys::openat2(upper.as_fd(), file.name.as_c_str(), flags, file.mode, 0)
                .named("create")?;
            files::chmod(new.as_fd(), file.mode).named("chmod")?;
            super::place::write_all(&new, &file.contents)?;
        }
        let merged = self.make_target(path.as_c_str(), Target::Directory)?;
        match mount_overlay(&lower, &upper, &work, &merged) {
            // Not in a user namespace before Linux 5.11 (EPERM), nor over what has mounts
            // in it there (EINVAL), as /etc/hosts is in containers: a copy shows the same.
            Err(Fault { errno: Errno::EPERM | Errno::EINVAL, .. }) => {
                let own = |name: &std::ffi::CStr| files.iter().any(|f| f.name.as_c_str() == name);
                let hidden = |name: &std::ffi::CStr| hide.iter().any(|h| h.as_c_str() == name);
                for whiteout in hide.iter().map(CText::as_c_str).filter(|name| !own(name)) {
                    let _ = files::unlink(upper.as_fd(), whiteout);
                }
                let leave = |name: &std::ffi::CStr| hidden(name) || own(name);
                super::copy_up::copy_readable(lower.as_fd(), upper.as_fd(), &leave)?;
                let tree = sys::clone_tree(upper.as_fd(), c"", false).named("open_tree")?;
                sys::attach(tree.as_fd(), merged.as_fd()).named("move_mount")
            }
            result => result,
        }
    }

    /// pivot_root(2) into the root, after which nothing of the node's file
    /// systems can be reached.
    pub(super) fn pivot_root(&mut self) -> Result<(), Fault> {
        let old =
            open(c"/", OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .named("open of the old root")?;
        nix::unistd::fchdir(self.root()?).named("chdir to the root")?;
        sys::pivot_here().named("pivot_root")?;
        nix::unistd::fchdir(&old).named("chdir to the old root")?;
        // Were it shared, letting go of it would unmount the node's own.
        sys::mount(None, c".", None, libc::MS_SLAVE | libc::MS_REC, None)
            .named("mount propagation of the old root")?;
        nix::mount::umount2(c".", nix::mount::MntFlags::MNT_DETACH)
            .named("umount of the old root")?;
        nix::unistd::chdir(c"/").named("chdir to /")?;
        close_to_others()
    }

    pub(super) fn chroot(&mut self) -> Result<(), Fault> {
        enter(&self.root()?)?;
        close_to_others()
    }

    /// Back to the runtime's mount namespace, with the root and all that is
    /// mounted in it as a tree that is attached nowhere: others do not find
    /// it, and it goes with its last process (open_tree(2),
    /// `OPEN_TREE_CLONE`; the tree stays whole when its descriptor closes).
    pub(super) fn shared_mounts(&mut self) -> Result<(), Fault> {
        let tree = sys::clone_tree(self.root()?, c"/", true).named("open_tree of the root")?;
        let mounts = self.mounts.ok_or(Fault { call: "mount namespace", errno: Errno::EBADF })?;
        nix::sched::setns(mounts, nix::sched::CloneFlags::CLONE_NEWNS)
            .named("setns to the runtime's mount namespace")?;
        enter(&tree)
    }

    pub(super) fn readonly_root(&mut self) -> Result<(), Fault> {
        super::attributes::set(self.root()?, libc::MOUNT_ATTR_RDONLY, 0)
    }
}

/// chroot(2) into an open directory.
pub(super) fn enter(root: &impl AsFd) -> Result<(), Fault> {
    nix::unistd::fchdir(root).named("chdir to the root")?;
    nix::unistd::chroot(c".").named("chroot")?;
    nix::unistd::chdir(c"/").named("chdir to /")
}

/// From here on others may be inside, who must not read the descriptors and
/// the program of this process through /proc (CVE-2016-9962, CVE-2019-5736).
/// Not earlier: it makes this process's own files in /proc root's.
fn close_to_others() -> Result<(), Fault> {
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).named("prctl(DUMPABLE)").map(drop)
}

pub(super) fn make_directory(base: &OwnedFd, name: &std::ffi::CStr) -> Result<(), Fault> {
    match nix::sys::stat::mkdirat(base, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => files::chmod_at(base.as_fd(), name, 0o755).named("chmod"),
        Err(errno) => Err(Fault { call: "mkdir", errno }),
    }
}

/// A directory of ours below the base, which nobody else writes.
pub(super) fn part(base: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd, Fault> {
    sys::openat2(base.as_fd(), name, libc::O_PATH | libc::O_DIRECTORY, 0, sys::resolve::NO_SYMLINKS)
        .named("open below the base")
}

/// A tmpfs of at most `bytes` on `at`.
fn tmpfs(at: &CText, bytes: u64) -> Result<(), Fault> {
    let mut data = Buffer::new();
    data.push(b"mode=755,size=");
    data.push_number(bytes);
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    sys::mount(Some(c"denovo"), at.as_c_str(), Some(c"tmpfs"), flags, Some(data.text()))
        .named("mount tmpfs")
}

/// In a user namespace whiteouts and opaque marks must be kept in user.*
/// attributes (`userxattr`, since Linux 5.11); where the upper file system
/// cannot do these, overlay says so in the kernel's log and does without.
fn mount_overlay(
    lower: &OwnedFd,
    upper: &OwnedFd,
    work: &OwnedFd,
    merged: &OwnedFd,
) -> Result<(), Fault> {
    let mut data = Buffer::new();
    data.push(b"userxattr");
    for (name, fd) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        data.push(b",");
        data.push(name.as_bytes());
        data.push(b"=/proc/self/fd/");
        data.push_number(files::number(fd) as u64);
    }
    let mut target = [0u8; 32];
    let target = write_fd_path(&mut target, merged.as_fd());
    let flags = libc::MS_NODEV | libc::MS_NOSUID;
    sys::mount(Some(c"denovo"), target, Some(c"overlay"), flags, Some(data.text()))
        .named("mount overlay")
}

/// Mount data on the stack.
pub(super) struct Buffer {
    bytes: [u8; 256],
    len: usize,
}

impl Buffer {
    pub(super) fn new() -> Self {
        Self { bytes: [0; 256], len: 0 }
    }

    /// What does not fit is cut; the callers' texts are far shorter.
    pub(super) fn push(&mut self, text: &[u8]) {
        let room = self.bytes.len() - 1 - self.len;
        let text = &text[..text.len().min(room)];
        self.bytes[self.len..self.len + text.len()].copy_from_slice(text);
        self.len += text.len();
    }

    pub(super) fn push_number(&mut self, mut number: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }

    pub(super) fn text(&self) -> &std::ffi::CStr {
        std::ffi::CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
