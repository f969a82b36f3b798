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
use crate::policy::spec::{Fixture, Mount, MountAttributes, MountSource};
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
    pub(super) fn plain_directory(&self, path: &CStr) -> Result<OwnedFd, Fault> {
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

    pub(super) fn make_directories(&self, path: &[u8]) -> Result<OwnedFd, Fault> {
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
