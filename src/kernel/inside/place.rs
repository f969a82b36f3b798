//! Puts things into the root: mounts, files, links, devices, the terminal.
//!
//! Every path is opened below the root's descriptor with `RESOLVE_IN_ROOT`
//! and used by descriptor from then on, so that a link in an untrusted root
//! leads nowhere outside of it, however it changes meanwhile.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::Mode;

use super::attributes::{self, Change, attach_with};
use super::{Child, Fault, Named, files, sys};
use crate::policy::spec::{Device, Fixture, Mount, MountAttributes, MountSource};
use crate::policy::text::CText;

/// What is to stand at a mount's destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Directory,
    File,
}

/// `/proc/self/fd/N`: a path that leads to what the descriptor is open on,
/// through the node's own /proc (the child still has it until pivot_root).
pub fn write_fd_path<'b>(buffer: &'b mut [u8; 32], fd: BorrowedFd<'_>) -> &'b CStr {
    let mut text = super::root::Buffer::new();
    text.push(b"/proc/self/fd/");
    text.push_number(fd.as_raw_fd() as u64);
    let bytes = text.bytes();
    buffer[..bytes.len()].copy_from_slice(bytes);
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"/proc/self/fd/")
}

/// The attributes that a bind mount is to have, on its detached tree, which
/// takes Linux 5.12 as mapping its ids does.
pub fn bind_attributes(tree: BorrowedFd<'_>, wanted: MountAttributes) -> Result<(), Fault> {
    for change in changes(wanted).iter().filter(|change| change.set | change.clear != 0) {
        sys::mount_setattr(tree, change.set, change.clear, change.recursive)
            .named("mount_setattr")?;
    }
    Ok(())
}

fn changes(wanted: MountAttributes) -> [Change; 2] {
    [
        Change { set: wanted.set, clear: wanted.clear, recursive: false },
        Change { set: wanted.set_recursive, clear: wanted.clear_recursive, recursive: true },
    ]
}

impl Child<'_> {
    pub(super) fn put(&mut self, fixture: &Fixture) -> Result<(), Fault> {
        match fixture {
            Fixture::Mount(mount) => self.put_mount(mount),
            Fixture::Directory { path, mode } => {
                let dir = self.make_target(path.as_c_str(), Target::Directory)?;
                files::chmod(dir.as_fd(), *mode).named("chmod")
            }
            Fixture::Symlink { path, target } => {
                let (parent, name) = self.open_parent(path.as_c_str())?;
                match files::symlink(target.as_c_str(), parent.as_fd(), name) {
                    Ok(()) | Err(Errno::EEXIST) => Ok(()),
                    Err(errno) => Err(Fault { call: "symlink", errno }),
                }
            }
            Fixture::File { path, contents, mode } => self.put_file(path, contents, *mode),
            Fixture::Layered { path, lower, hide, files } => {
                self.put_layered(path, lower, hide, files)
            }
            Fixture::Devices { path, .. } => self.devices_of_root(path),
            Fixture::Views { uid, gid } => self.views(*uid, *gid),
            Fixture::View { path, name } => self.view(path, name),
            Fixture::Cover { path, contents } => self.cover(path, contents),
        }
    }

    fn put_mount(&mut self, mount: &Mount) -> Result<(), Fault> {
        match &mount.source {
            MountSource::Bind { path, recursive } => self.put_bind(mount, path, *recursive),
            MountSource::New { .. } => self.put_new(mount),
            // The plan has expanded it (plan::cgroup_mounts).
            MountSource::Cgroup => Err(Fault { call: "cgroup mount", errno: Errno::EINVAL }),
        }?;
        if mount.propagation.is_empty() {
            return Ok(());
        }
        let at = self.open_in_root(mount.destination.as_c_str(), libc::O_PATH, 0)?;
        let mut path = [0; 32];
        let target = write_fd_path(&mut path, at.as_fd());
        for flags in &mount.propagation {
            sys::mount(None, target, None, *flags, None).named("mount propagation")?;
        }
        Ok(())
    }

    fn put_bind(&mut self, mount: &Mount, source: &CText, recursive: bool) -> Result<(), Fault> {
        let outside = match self.take_outside(source) {
            Err(f) if mount.optional && matches!(f.errno, Errno::ENOENT | Errno::EACCES) => {
                return Ok(());
            }
            result => result?,
        };
        let kind = if files::is_directory(outside.as_fd()).named("fstat")? {
            Target::Directory
        } else {
            Target::File
        };
        let target = self.bind_target(&mount.destination, kind)?;
        if mount.id_map.is_some() {
            let mapped = self.mapped.iter().find(|(step, _)| *step == self.step);
            let Some((_, tree)) = mapped else {
                return Err(Fault { call: "id-mapped mount", errno: Errno::EBADF });
            };
            return sys::attach(tree.as_fd(), target.as_fd()).named("move_mount");
        }
        let tree = sys::clone_tree(outside.as_fd(), c"", recursive).named("open_tree")?;
        attach_with(tree.as_fd(), target.as_fd(), &changes(mount.attributes))
    }

    fn bind_target(&self, destination: &CText, kind: Target) -> Result<OwnedFd, Fault> {
        if kind == Target::Directory && must_be_plain(destination) {
            self.plain_directory(destination.as_c_str())
        } else {
            self.make_target(destination.as_c_str(), kind)
        }
    }

    fn put_new(&mut self, mount: &Mount) -> Result<(), Fault> {
        let MountSource::New { fstype, source, flags, data, copy_up } = &mount.source else {
            return Ok(());
        };
        let target = if is_kernel_view(fstype) || must_be_plain(&mount.destination) {
            self.plain_directory(mount.destination.as_c_str())?
        } else {
            self.make_target(mount.destination.as_c_str(), Target::Directory)?
        };
        let mut path = [0; 32];
        let path = write_fd_path(&mut path, target.as_fd());
        let data = (!data.is_empty()).then_some(data.as_c_str());
        match sys::mount(Some(source.as_c_str()), path, Some(fstype.as_c_str()), *flags, data) {
            // mount(2) puts no file system onto a mount of the same one, as
            // cgroup2 onto the node's that came with its /sys. The attributes
            // follow below.
            Err(Errno::EBUSY) if data.is_none() => {
                let new = sys::detached(fstype.as_c_str(), &[], 0).named("mount")?;
                sys::attach(new.as_fd(), target.as_fd()).named("move_mount")?;
            }
            result => result.named("mount")?,
        }
        let wanted = mount.attributes;
        if *copy_up || mount.label.is_some() || wanted.set | wanted.clear != 0 {
            let new = self.open_in_root(mount.destination.as_c_str(), libc::O_PATH, 0)?;
            if let Some(label) = &mount.label {
                let mut path = [0; 32];
                let path = write_fd_path(&mut path, new.as_fd());
                sys::setxattr(path, c"security.selinux", label.as_bytes()).named("setxattr")?;
            }
            if *copy_up {
                super::copy_up::copy_up(target.as_fd(), new.as_fd())?;
            }
            if wanted.set | wanted.clear != 0 {
                attributes::set(new.as_fd(), wanted.set, wanted.clear)?;
            }
        }
        Ok(())
    }

    pub(super) fn open_in_root(
        &self,
        path: &CStr,
        flags: i32,
        mode: u32,
    ) -> Result<OwnedFd, Fault> {
        sys::openat2(self.root()?, path, flags, mode, sys::resolve::IN_ROOT).named("openat2")
    }

    /// /proc and /sys must be directories of the root itself: a link there
    /// would put the kernel's view where nobody expects it, and what should
    /// be protected would not be (CVE-2019-19921, CVE-2023-27561).
    fn plain_directory(&self, path: &CStr) -> Result<OwnedFd, Fault> {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let resolve = sys::resolve::BENEATH | sys::resolve::NO_SYMLINKS;
        let open = || {
            sys::openat2(self.root()?, relative(path), flags, 0, resolve)
                .named("open of a directory that must not be a link")
        };
        match open() {
            Err(Fault { errno: Errno::ENOENT, .. }) => {
                drop(self.make_target(path, Target::Directory)?);
                open()
            }
            result => result,
        }
    }

    /// The destination, made when missing, every missing parent too.
    pub(super) fn make_target(&self, path: &CStr, kind: Target) -> Result<OwnedFd, Fault> {
        match self.open_in_root(path, libc::O_PATH, 0) {
            Err(Fault { errno: Errno::ENOENT, .. }) => {}
            result => return result,
        }
        if let Some(made) = self.make_in_place(path, kind) {
            return Ok(made);
        }
        let path = self.past_dangling_links(path)?;
        let (parent, name) = self.open_parent(&path)?;
        match kind {
            Target::Directory => {
                match nix::sys::stat::mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(Fault { call: "mkdir", errno }),
                }
            }
            Target::File => {
                let flags = libc::O_CREAT | libc::O_NOFOLLOW | libc::O_RDONLY;
                drop(
                    sys::openat2(parent.as_fd(), name, flags, 0o644, sys::resolve::NO_SYMLINKS)
                        .named("create")?,
                );
            }
        }
        sys::openat2(
            parent.as_fd(),
            name,
            libc::O_PATH | libc::O_NOFOLLOW,
            0,
            sys::resolve::BENEATH,
        )
        .named("openat2")
    }

    /// What is missing in a directory that is there: most of the time.
    fn make_in_place(&self, path: &CStr, kind: Target) -> Option<OwnedFd> {
        let bytes = path.to_bytes();
        let cut = bytes.iter().rposition(|b| *b == b'/')?;
        let mut above = super::root::Buffer::new();
        above.push(&bytes[..cut.max(1)]);
        let name = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[cut + 1..]).ok()?;
        if cut >= 250 || name.is_empty() {
            return None;
        }
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let above =
            sys::openat2(self.root().ok()?, above.text(), flags, 0, sys::resolve::IN_ROOT).ok()?;
        match kind {
            Target::Directory => {
                nix::sys::stat::mkdirat(&above, name, Mode::from_bits_truncate(0o755)).ok()?;
            }
            Target::File => {
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDONLY;
                drop(sys::openat2(above.as_fd(), name, flags, 0o644, 0).ok()?);
            }
        }
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        sys::openat2(above.as_fd(), name, flags, 0, sys::resolve::BENEATH).ok()
    }

    /// The directory that holds the last component, made when missing, and
    /// that component.
    fn open_parent<'p>(&self, path: &'p CStr) -> Result<(OwnedFd, &'p CStr), Fault> {
        let bytes = path.to_bytes();
        let cut = bytes.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
        let name = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[cut..]).unwrap_or(c"");
        Ok((self.make_directories(&bytes[..cut])?, name))
    }

    fn make_directories(&self, path: &[u8]) -> Result<OwnedFd, Fault> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let mut whole = [0u8; libc::PATH_MAX as usize];
        if path.len() + 2 > whole.len() {
            return Err(Fault { call: "mkdir", errno: Errno::ENAMETOOLONG });
        }
        whole[0] = b'/';
        whole[1..=path.len()].copy_from_slice(path);
        let open = |bytes: &mut [u8], end: usize| {
            bytes[end] = 0;
            let text = CStr::from_bytes_until_nul(bytes).unwrap_or(c"/");
            sys::openat2(self.root()?, text, flags, 0, sys::resolve::IN_ROOT).named("openat2")
        };
        let length = path.len() + 1;
        match open(&mut whole, length) {
            Err(Fault { errno: Errno::ENOENT, .. }) => {}
            result => return result,
        }
        let mut here = open(&mut [b'/', 0], 1)?;
        let mut at = 0;
        while at < length {
            let end = whole[at..length].iter().position(|b| *b == b'/').map_or(length, |i| at + i);
            if end > at {
                here = self.step_into(&here, &mut whole, at, end)?;
                if end < length {
                    whole[end] = b'/';
                }
            }
            at = end + 1;
        }
        Ok(here)
    }

    /// One component further; what exists is resolved from the root, so that
    /// absolute links of the image keep their meaning.
    fn step_into(
        &self,
        here: &OwnedFd,
        whole: &mut [u8],
        at: usize,
        end: usize,
    ) -> Result<OwnedFd, Fault> {
        whole[end] = 0;
        let sofar = CStr::from_bytes_until_nul(whole).unwrap_or(c"/");
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        match sys::openat2(self.root()?, sofar, flags, 0, sys::resolve::IN_ROOT) {
            Err(Errno::ENOENT) => {}
            result => return result.named("openat2"),
        }
        let name = CStr::from_bytes_until_nul(&whole[at..]).unwrap_or(c"");
        nix::sys::stat::mkdirat(here, name, Mode::from_bits_truncate(0o755)).named("mkdir")?;
        sys::openat2(here.as_fd(), name, flags | libc::O_NOFOLLOW, 0, sys::resolve::BENEATH)
            .named("openat2")
    }

    fn put_file(&self, path: &CText, contents: &[u8], mode: u32) -> Result<(), Fault> {
        let (parent, name) = self.open_parent(path.as_c_str())?;
        // Whatever an image has there (a link, a pipe that nobody reads) makes
        // way, and is never opened.
        let _ = files::unlink(parent.as_fd(), name);
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW;
        let file = sys::openat2(parent.as_fd(), name, flags, mode, sys::resolve::NO_SYMLINKS)
            .named("create")?;
        files::chmod(file.as_fd(), mode).named("chmod")?;
        write_all(&file, contents)
    }

    /// Binds a file of the given contents over `path`, read-only. The file
    /// itself lies outside the root.
    fn cover(&mut self, path: &CText, contents: &[u8]) -> Result<(), Fault> {
        let target = match self.open_in_root(path.as_c_str(), libc::O_PATH, 0) {
            Err(Fault { errno: Errno::ENOENT, .. }) => return Ok(()),
            result => result?,
        };
        let mut name = super::root::Buffer::new();
        name.push(b"cover");
        name.push_number(self.layers.into());
        self.layers += 1;
        let base = self.base.as_ref().ok_or(Fault { call: "base", errno: Errno::EBADF })?;
        let flags = libc::O_CREAT | libc::O_TRUNC | libc::O_RDWR | libc::O_NOFOLLOW;
        let file = sys::openat2(base.as_fd(), name.text(), flags, 0o444, sys::resolve::BENEATH)
            .named("create")?;
        write_all(&file, contents)?;
        let tree = sys::clone_tree(file.as_fd(), c"", false).named("open_tree")?;
        let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC;
        attach_with(tree.as_fd(), target.as_fd(), &[Change { set, clear: 0, recursive: false }])
    }

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
    fn devices_of_root(&mut self, path: &CText) -> Result<(), Fault> {
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

/// A device where nothing is yet; what is there already stays.
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

/// What the runtime itself writes in or counts on: a link there would lead
/// that elsewhere (CVE-2026-41579).
fn must_be_plain(destination: &CText) -> bool {
    matches!(destination.as_bytes(), b"/proc" | b"/sys" | b"/dev")
}

fn is_kernel_view(fstype: &CText) -> bool {
    matches!(fstype.as_bytes(), b"proc" | b"sysfs")
}

/// The path without its leading slash, for `RESOLVE_BENEATH`.
fn relative(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let start = bytes.iter().position(|b| *b != b'/').unwrap_or(0);
    CStr::from_bytes_with_nul(&bytes[start..]).unwrap_or(c".")
}

pub(super) fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Fault> {
    while !bytes.is_empty() {
        let done = nix::unistd::write(file, bytes).named("write")?;
        bytes = &bytes[done..];
    }
    Ok(())
}
