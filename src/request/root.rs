//! What stands at a bundle's `root.path`.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// The answer of [`inspect`]; paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootState {
    /// config.json names no root.
    NotGiven,
    Missing(PathBuf),
    NotADirectory(PathBuf),
    /// A symlink takes the path to `target`, outside of where it seems to be.
    LeadsOut {
        path: PathBuf,
        target: PathBuf,
    },
    Unreadable {
        path: PathBuf,
        reason: String,
    },
    /// A directory, by its path without symlinks.
    Directory(PathBuf),
}

/// Looks at `path`, which is relative to the bundle `dir` unless absolute
/// (OCI config.md, "Root").
///
/// Symlinks that stay inside the bundle are followed, and so are those above
/// an absolute root (`/var/run`). Any other may have been planted by whoever
/// fills the root, and is reported.
///
/// # Arguments
/// * `dir` - the bundle's directory, absolute and without symlinks
/// * `path` - `root.path` as it stands in config.json
pub fn inspect(dir: &Path, path: &Path) -> RootState {
    let path = clean(&dir.join(path));
    let target = match path.canonicalize() {
        Ok(target) => target,
        Err(error) => return failed(path, &error),
    };
    if target != path && !stays(dir, &path, &target) {
        return RootState::LeadsOut { path, target };
    }
    if target.is_dir() { RootState::Directory(target) } else { RootState::NotADirectory(path) }
}

fn failed(path: PathBuf, error: &std::io::Error) -> RootState {
    match error.kind() {
        ErrorKind::NotFound => RootState::Missing(path),
        ErrorKind::NotADirectory => RootState::NotADirectory(path),
        _ => RootState::Unreadable { path, reason: error.to_string() },
    }
}

fn stays(dir: &Path, path: &Path, target: &Path) -> bool {
    if path.starts_with(dir) { target.starts_with(dir) } else { !path.is_symlink() }
}

/// Takes `.` and `..` out without asking the file system, as runc does.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn each_kind_of_root_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let bundle = top.join("bundle");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::create_dir_all(top.join("outside")).unwrap();
        fs::write(bundle.join("file"), "").unwrap();
        symlink("rootfs", bundle.join("inner")).unwrap();
        symlink("../outside", bundle.join("out")).unwrap();
        symlink("nowhere", bundle.join("dangling")).unwrap();
        symlink("loop", bundle.join("loop")).unwrap();
        symlink(&bundle, top.join("alias")).unwrap();

        let rootfs = RootState::Directory(bundle.join("rootfs"));
        let absolute = bundle.join("rootfs");
        let alias = top.join("alias/rootfs");
        for (path, expected) in [
            (Path::new("rootfs"), rootfs.clone()),
            (Path::new("./rootfs/"), rootfs.clone()),
            (Path::new("../bundle/rootfs"), rootfs.clone()),
            (Path::new("inner"), rootfs.clone()),
            (&absolute, rootfs.clone()),
            (&alias, rootfs),
            (Path::new("../outside"), RootState::Directory(top.join("outside"))),
            (Path::new("none"), RootState::Missing(bundle.join("none"))),
            (Path::new("dangling"), RootState::Missing(bundle.join("dangling"))),
            (Path::new("file"), RootState::NotADirectory(bundle.join("file"))),
            (Path::new("file/x"), RootState::NotADirectory(bundle.join("file/x"))),
            (
                Path::new("out"),
                RootState::LeadsOut { path: bundle.join("out"), target: top.join("outside") },
            ),
        ] {
            assert_eq!(inspect(&bundle, path), expected, "{}", path.display());
        }
        assert!(matches!(inspect(&bundle, Path::new("loop")), RootState::Unreadable { .. }));
    }
}
