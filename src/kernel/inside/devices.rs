//! Devices and the terminal.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::Mode;

use super::place::Target;
use super::{Child, Fault, Named, files, sys};
use crate::policy::spec::Device;
use crate::policy::text::CText;

impl Child<'_> {
    pub(super) fn make_device(&mut self, device: &Device) -> Result<(), Fault> {
        let path = device.path.as_c_str();
        let cut = path.to_bytes().iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
        let directory = &path.to_bytes()[..cut];
        let name = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[cut..]).unwrap_or(c"");
        let parent = match self.devices.take() {
            Some((opened, fd)) if opened.bytes() == directory => fd,
            _ => self.make_directories(directory)?,
        };
        make_node(&parent, name, device)?;
        let mut opened = super::root::Buffer::new();
        opened.push(directory);
        self.devices = Some((opened, parent));
        Ok(())
    }

    pub(super) fn bind_device(&mut self, device: &Device) -> Result<(), Fault> {
        // Opened on the node, by the device's own path, and checked to be
        // that device: a root can plant anything at such a path.
        let outside = super::open_path(&device.path)?;
        if !files::is_device(outside.as_fd(), device.kind, device.major, device.minor) {
            return Err(Fault { call: "check of the node's device", errno: Errno::ENODEV });
        }
        let tree = sys::clone_tree(outside.as_fd(), c"", false).named("open_tree")?;
        let target = self.make_target(device.path.as_c_str(), Target::File)?;
        sys::attach(tree.as_fd(), target.as_fd()).named("move_mount")
    }

    /// See [`Fixture::Devices`].
    pub(super) fn devices_of_root(&mut self, path: &CText) -> Result<(), Fault> {
        let made = self.devices_made.ok_or(Fault { call: "devices", errno: Errno::EBADF })?;
        let target = self.plain_directory(path.as_c_str())?;
        sys::attach(made.as_fd(), target.as_fd()).named("move_mount of the devices")
    }

    pub(super) fn device_links(&self) -> Result<(), Fault> {
        let links = [
            (c"fd", c"/proc/self/fd"),
            (c"stdin", c"/proc/self/fd/0"),
            (c"stdout", c"/proc/self/fd/1"),
            (c"stderr", c"/proc/self/fd/2"),
            (c"ptmx", c"pts/ptmx"),
        ];
        let dev = self.plain_directory(c"/dev")?;
        for (name, target) in links {
            match files::symlink(target, dev.as_fd(), name) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(Fault { call: "symlink", errno }),
            }
        }
        Ok(())
    }

    /// A terminal from the environment's own devpts; its master goes to the
    /// starter, its other end becomes standard input, output and error, the
    /// controlling terminal and /dev/console.
    pub(super) fn console(&mut self, rows: u16, columns: u16) -> Result<(), Fault> {
        if self.entering {
            self.root = Some(super::open_path(c"/")?);
        }
        let master = sys::openat2(
            self.root()?,
            c"/dev/pts/ptmx",
            libc::O_RDWR | libc::O_NOCTTY,
            0,
            sys::resolve::IN_ROOT,
        )
        .named("open of /dev/pts/ptmx")?;
        let peer = sys::pty_peer(master.as_fd()).named("TIOCGPTPEER")?;
        if rows > 0 && columns > 0 {
            sys::set_window_size(master.as_fd(), rows, columns).named("TIOCSWINSZ")?;
        }
        if !self.entering {
            self.bind_console(&peer)?;
        }
        self.channel.say_terminal(master.as_raw_fd()).named("send of the terminal")?;
        sys::set_controlling_terminal(peer.as_fd()).named("TIOCSCTTY")?;
        files::become_stdio(peer.as_fd()).named("dup2")
    }

    fn bind_console(&self, peer: &OwnedFd) -> Result<(), Fault> {
        let target = self.make_target(c"/dev/console", Target::File)?;
        let tree = sys::clone_tree(peer.as_fd(), c"", false).named("open_tree of the terminal")?;
        sys::attach(tree.as_fd(), target.as_fd()).named("move_mount")
    }
}

/// As root: what a [`Fixture::Devices`] is, mounted nowhere yet.
///
/// # Errors
/// The call that was refused.
pub fn devices_of_root(devices: &[Device], (uid, gid): (u32, u32)) -> Result<OwnedFd, Fault> {
    let number = |id: u32| {
        let mut text = super::root::Buffer::new();
        text.push_number(id.into());
        text
    };
    let (uid, gid) = (number(uid), number(gid));
    let options = [
        (c"mode", c"755"),
        (c"size", c"64k"),
        (c"nr_inodes", c"64"),
        (c"uid", uid.text()),
        (c"gid", gid.text()),
    ];
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    let made = sys::detached(c"tmpfs", &options, attributes).named("mount of a tmpfs")?;
    for device in devices {
        let path = device.path.as_bytes();
        let start = path.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
        let name = CText::lossy(&path[start..]);
        make_node(&made, name.as_c_str(), device)?;
    }
    Ok(made)
}

/// A device where nothing is yet; what is there already stays.
fn make_node(parent: &OwnedFd, name: &CStr, device: &Device) -> Result<(), Fault> {
    let number = libc::makedev(device.major, device.minor);
    let before = nix::sys::stat::umask(Mode::empty());
    let made = sys::mknodat(parent.as_fd(), name, device.kind | device.mode, number);
    nix::sys::stat::umask(before);
    match made {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Ok(()),
        Err(errno) => return Err(Fault { call: "mknod", errno }),
    }
    // Whoever makes it here is root, and has made it root's.
    if (device.uid, device.gid) == (0, 0) {
        return Ok(());
    }
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let node = sys::openat2(parent.as_fd(), name, flags, 0, sys::resolve::BENEATH)
        .named("open of the new device")?;
    files::chown(node.as_fd(), device.uid, device.gid).named("chown")?;
    // Giving it away cleared what set-user-ID bits the mode had.
    files::chmod(node.as_fd(), device.mode).named("chmod")
}
