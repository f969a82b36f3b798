//! `root` and its propagation (OCI config.md, "Root"; config-linux.md,
//! "Rootfs Mount Propagation").

use libc::{MS_REC, MS_SLAVE};
use oci_spec::runtime::Linux;

use super::findings::Findings;
use super::mount_options;
use crate::policy::CText;
use crate::policy::spec::Root;
use crate::request::oci::Bundle;
use crate::request::root::RootState;

pub(super) fn check(bundle: &Bundle, found: &mut Findings) -> Root {
    let readonly = bundle.config.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false);
    let mut path = CText::default();
    match &bundle.root {
        RootState::Directory(directory) => {
            path = found.text("root.path", &directory.to_string_lossy());
        }
        other => refuse(other, found),
    }
    Root::Directory { path, readonly }
}

/// Says why there is no root; nothing when there is one.
pub(super) fn refuse(state: &RootState, found: &mut Findings) {
    match state {
        RootState::Directory(_) => {}
        RootState::NotGiven => found.refuse_with(
            "root",
            "is missing",
            "name the directory of the root file system, such as {\"path\": \"rootfs\"}",
        ),
        RootState::Missing(path) => found.refuse_with(
            "root.path",
            format!("{}: there is no such directory", path.display()),
            "unpack an image's root file system there",
        ),
        RootState::NotADirectory(path) => found.refuse_with(
            "root.path",
            format!("{}: not a directory", path.display()),
            "the root file system is a directory; unpack or mount an archive or image first",
        ),
        RootState::LeadsOut { path, target } => found.refuse_with(
            "root.path",
            format!("{}: a symlink leads out to {}", path.display(), target.display()),
            "name the directory itself",
        ),
        RootState::Unreadable { path, reason } => found.refuse_with(
            "root.path",
            format!("{}: {reason}", path.display()),
            "the caller must be able to search every directory on the way to it",
        ),
    }
}

/// Without a word, mounts of the host appear in the container and none of the
/// container's on the host, as with runc.
pub(super) fn propagation(linux: &Linux, found: &mut Findings) -> u64 {
    let name = linux.rootfs_propagation().as_deref().unwrap_or_default();
    if name.is_empty() {
        return MS_SLAVE | MS_REC;
    }
    mount_options::propagation(name).unwrap_or_else(|| {
        found.refuse_with(
            "linux.rootfsPropagation",
            format!("{name:?} is no propagation"),
            "use shared, slave, private or unbindable",
        );
        0
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, bundle, checked, facts};
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    #[test]
    fn each_state_of_the_root_is_one_problem() {
        let path = PathBuf::from("/bundle/rootfs");
        for (state, expected) in [
            (RootState::NotGiven, "root: is missing"),
            (RootState::Missing(path.clone()), "root.path: /bundle/rootfs: there is no such"),
            (RootState::NotADirectory(path.clone()), "root.path: /bundle/rootfs: not a directory"),
            (
                RootState::LeadsOut { path: path.clone(), target: PathBuf::from("/") },
                "root.path: /bundle/rootfs: a symlink leads out to /",
            ),
            (
                RootState::Unreadable { path, reason: "denied".into() },
                "root.path: /bundle/rootfs: denied",
            ),
        ] {
            let mut bundle = bundle(json!({}));
            bundle.root = state;
            let problems = super::super::check(&bundle, "c1", &facts()).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].message.starts_with(expected), "{problems:?}");
            assert!(problems[0].hint.is_some());
        }
    }

    #[test]
    fn propagation_by_name() {
        let with = |name: &str| json!({"linux": {"rootfsPropagation": name}});
        for (name, flags) in
            [("", 1 << 19 | 16384), ("shared", 1 << 20), ("rprivate", 1 << 18 | 16384)]
        {
            assert_eq!(checked(with(name), &facts()).spec.propagation, flags);
        }
        assert_problems(&[(with("open"), &["linux.rootfsPropagation: "])]);
    }
}
