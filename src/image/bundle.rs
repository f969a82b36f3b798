//! Where a job's root comes from: the built-in bundle `host`, or an OCI
//! runtime bundle by directory or by name.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::problem::{Problem, Problems};
use crate::request::oci::Bundle;
use crate::request::root::RootState;

/// What a bundle's name leads to.
#[derive(Debug, Clone)]
pub enum Found {
    /// The node's own distribution.
    Host,
    Bundle(Image),
}

/// A bundle as far as a job takes it over.
#[derive(Debug, Clone)]
pub struct Image {
    pub name: String,
    /// Of the manifest, where it is an image of a store.
    pub digest: Option<String>,
    pub root: PathBuf,
    /// `process.env` of its config.json.
    pub env: Vec<String>,
    pub passwd: String,
    pub group: String,
}

/// The most that is read of an image's account files, in bytes: it may hold
/// anything there (CVE-2024-9676).
const LONGEST: u64 = 1 << 20;

/// The name by which environments of one bundle are known.
pub fn name_of(wanted: &str) -> String {
    if wanted.contains('/') {
        let path = Path::new(wanted);
        return path.canonicalize().unwrap_or(path.to_owned()).display().to_string();
    }
    wanted.to_owned()
}

/// Directories in which a name is looked up, the user's own first.
fn bundle_directories() -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/share")));
    let site = ["/etc/denovo/bundles", "/var/lib/denovo/bundles", "/usr/share/denovo/bundles"];
    own.map(|d| d.join("denovo/bundles")).into_iter().chain(site.map(PathBuf::from)).collect()
}

/// Finds a bundle; without a name the node's own distribution.
///
/// # Errors
/// There is none of that name, or it is broken.
pub fn resolve(wanted: Option<&str>) -> Result<Found, Problems> {
    let Some(wanted) = wanted.filter(|w| *w != "host") else { return Ok(Found::Host) };
    let dir = if wanted.contains('/') {
        PathBuf::from(wanted)
    } else {
        let places = bundle_directories();
        let found = places.iter().map(|d| d.join(wanted)).find(|d| d.join("config.json").exists());
        found.ok_or_else(|| {
            let looked: Vec<String> = places.iter().map(|d| d.display().to_string()).collect();
            vec![Problem::user(format!("bundle {wanted:?}: there is none of this name")).hint(
                format!(
                    "give a directory (./{wanted}), or put it into one of {}",
                    looked.join(", ")
                ),
            )]
        })?
    };
    image(wanted, &dir).map(Found::Bundle)
}

fn image(wanted: &str, dir: &Path) -> Result<Image, Problems> {
    let bundle = Bundle::load(dir).map_err(|p| vec![p])?;
    let root = match &bundle.root {
        RootState::Directory(root) => root.clone(),
        other => return Err(crate::policy::container::root_problems(other)),
    };
    let process = bundle.config.process().as_ref();
    let env = process.and_then(|p| p.env().clone()).unwrap_or_default();
    Ok(Image {
        name: name_of(wanted),
        digest: None,
        passwd: account_file(&root, "passwd"),
        group: account_file(&root, "group"),
        // An entry without `=` must never copy from the caller.
        env: env
            .into_iter()
            .filter(|e| e.split_once('=').is_some_and(|(n, _)| !n.is_empty()))
            .collect(),
        root,
    })
}

/// A regular file of the image's /etc, followed nowhere; else nothing.
pub fn account_file(root: &Path, name: &str) -> String {
    let etc = root.join("etc");
    if etc.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
        return String::new();
    }
    let mut text = String::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    if let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(etc.join(name))
        && file.metadata().is_ok_and(|m| m.is_file())
    {
        // What is not text is no account file.
        let _ = file.take(LONGEST).read_to_string(&mut text);
    }
    text
}
