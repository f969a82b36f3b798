//! The job's own view of the machine: a FUSE file system that a process of
//! denovo's outside answers (`supervise/views`).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::attributes::{Change, attach_with};
use super::place::write_fd_path;
use super::root::{Buffer, make_directory, part};
use super::{Child, Fault, Named, files, sys};
use crate::kernel::channel::send_with;
use crate::policy::text::CText;

/// What the first process needs to have its views answered.
pub struct Views {
    /// To whom the connection goes.
    pub server: OwnedFd,
    /// A device of root's own making: the node's may be root's alone, whom
    /// the first process is not any more.
    pub device: Option<OwnedFd>,
}

/// Whether this process can have a FUSE connection.
pub fn usable() -> bool {
    open(c"/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).is_ok()
}

/// A FUSE device (kernel document admin-guide/devices, 10:229) that anybody
/// who has the descriptor may open; it is on no path.
///
/// # Errors
/// What of mount and mknod was refused.
pub fn device() -> Result<OwnedFd, Fault> {
    let place = sys::detached(c"tmpfs", &[], 0).named("mount of a tmpfs")?;
    let number = nix::sys::stat::makedev(10, 229);
    sys::mknodat(place.as_fd(), c"fuse", libc::S_IFCHR | 0o666, number).named("mknod")?;
    files::chmod_at(place.as_fd(), c"fuse", 0o666).named("chmod")?;
    sys::openat2(place.as_fd(), c"fuse", libc::O_PATH, 0, sys::resolve::BENEATH).named("open")
}

impl Child<'_> {
    /// Mounts the views beside the root, where only binds of them show inside,
    /// and hands the connection to whom it shall be answered by, with the
    /// environment's procfs: nothing lies over it yet.
    ///
    /// The connection has to be opened by this process: the kernel wants it to
    /// come from the user namespace that the mount is in.
    pub(super) fn views(&mut self, uid: u32, gid: u32) -> Result<(), Fault> {
        let Some(Views { server, device }) = self.views else {
            return Err(Fault { call: "views", errno: Errno::EBADF });
        };
        let mut path = [0; 32];
        let device = match device {
            Some(device) => write_fd_path(&mut path, device.as_fd()),
            None => c"/dev/fuse",
        };
        let connection = open(device, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
            .named("open of /dev/fuse")?;
        let proc = self.open_in_root(c"/proc", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        let base = self.base.as_ref().ok_or(Fault { call: "base", errno: Errno::EBADF })?;
        make_directory(base, c"views")?;
        let place = part(base, c"views")?;
        let mut data = Buffer::new();
        data.push(b"rootmode=40555,allow_other,default_permissions,fd=");
        data.push_number(connection.as_raw_fd() as u64);
        for (name, id) in [(&b",user_id="[..], uid), (b",group_id=", gid)] {
            data.push(name);
            data.push_number(id.into());
        }
        let mut path = [0; 32];
        let at = write_fd_path(&mut path, place.as_fd());
        let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        sys::mount(Some(c"denovo"), at, Some(c"fuse"), flags, Some(data.text()))
            .named("mount of the views")?;
        let handed = [connection.as_raw_fd(), proc.as_raw_fd()];
        send_with(server, b"v", &handed).named("send of the views")?;
        self.viewed = Some(part(base, c"views")?);
        Ok(())
    }

    /// What this node's kernel does not have is not put there either.
    pub(super) fn view(&self, path: &CText, name: &CText) -> Result<(), Fault> {
        let target = match self.open_in_root(path.as_c_str(), libc::O_PATH, 0) {
            Err(Fault { errno: Errno::ENOENT, .. }) => return Ok(()),
            result => result?,
        };
        let views = self.viewed.as_ref().ok_or(Fault { call: "views", errno: Errno::EBADF })?;
        let source =
            sys::openat2(views.as_fd(), name.as_c_str(), libc::O_PATH, 0, sys::resolve::BENEATH)
                .named("open of a view")?;
        let tree = sys::clone_tree(source.as_fd(), c"", false).named("open_tree of a view")?;
        let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        attach_with(tree.as_fd(), target.as_fd(), &[Change { set, clear: 0, recursive: false }])
    }
}
