//! Id-mapped mounts, made before the clone: the kernel lets only who has
//! power over the file system make one (mount_setattr(2)), and the first
//! process may be in a user namespace. It attaches what it inherits.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};

use super::channel::{Channel, Word};
use super::inside::{Fault, Named};
use super::launch::Failure;
use super::sys::{self, Forked};
use crate::plan::inside::Inside;
use crate::policy::spec::{Fixture, IdMap, IdMaps, Mount, MountIds, MountSource};

/// Detached mounts by the index of the step that places each.
pub type Trees = Vec<(usize, OwnedFd)>;

/// Makes every id-mapped mount of a plan.
///
/// # Errors
/// The step and the call that failed.
pub fn prepare(steps: &[Inside]) -> Result<Trees, Failure> {
    let mut trees = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let Inside::Put(Fixture::Mount(mount)) = step else { continue };
        let Some(ids) = &mount.id_map else { continue };
        let tree = tree(mount, ids)
            .map_err(|fault| Failure { step: Some(index), ..Failure::from(fault) })?;
        trees.push((index, tree));
    }
    Ok(trees)
}

fn tree(mount: &Mount, ids: &MountIds) -> Result<OwnedFd, Fault> {
    let MountSource::Bind { path, recursive } = &mount.source else {
        return Err(Fault { call: "id-mapped mount", errno: Errno::EINVAL });
    };
    let place = super::inside::open_path(path)?;
    let tree = sys::clone_tree(place.as_fd(), c"", *recursive).named("open_tree")?;
    let namespace = match &ids.maps {
        IdMaps::Given { uid, gid } => user_namespace(uid, gid)?,
        IdMaps::Of(path) => namespace_at(path.as_c_str())?,
    };
    sys::map_ids(tree.as_fd(), namespace.as_fd(), ids.recursive)
        .named("mount_setattr(MOUNT_ATTR_IDMAP)")?;
    super::inside::bind_attributes(tree.as_fd(), mount.attributes)?;
    Ok(tree)
}

fn namespace_at(path: &std::ffi::CStr) -> Result<OwnedFd, Fault> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    open(path, flags, nix::sys::stat::Mode::empty()).named("open of a namespace")
}

/// A user namespace with these maps, kept by its descriptor alone: the process
/// that it was made with is gone again.
fn user_namespace(uid: &[IdMap], gid: &[IdMap]) -> Result<OwnedFd, Fault> {
    let (ours, theirs) = Channel::pair().named("socketpair")?;
    let pid = match sys::clone3(libc::CLONE_NEWUSER as u64, None).named("clone3")? {
        Forked::Child => {
            drop(ours);
            let _ = theirs.expect(Word::Go);
            sys::exit_now(0)
        }
        Forked::Parent(pid) => pid,
    };
    drop(theirs);
    let made = super::maps::write_maps(pid, uid, gid, false).and_then(|()| {
        let path = std::ffi::CString::new(format!("/proc/{pid}/ns/user")).unwrap_or_default();
        namespace_at(&path)
    });
    // The closed channel ends it.
    drop(ours);
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
    made
}
