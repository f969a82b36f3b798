//! Where images are kept: content by its digest, names beside it.
//!
//! ```text
//! blobs/sha256/HEX     content, as in an OCI layout (image-spec, image-layout.md)
//! refs/NAME            one small file for each name (see `refs`)
//! flat/sha256-HEX      what a manifest was flattened to (see `flat`)
//! incoming/            what is being written (see `incoming`)
//! ```
//!
//! Several nodes may write one store on a shared file system: nothing is ever
//! locked. Everything is written under a name of its own and then renamed, so
//! that a reader sees all of it or nothing, and a crash leaves only what `gc`
//! removes from `incoming/`.

mod flat;
mod incoming;
mod refs;

pub use flat::{Accounts, Flat};
pub use incoming::{Begun, BlobWriter, Temporary, abandon};
pub use refs::{Named, Stored};

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Digest;
use super::site::Site;
use crate::problem::Problem;

/// A store that is written, over stores that are only read.
#[derive(Debug, Clone)]
pub struct Store {
    own: PathBuf,
    below: Vec<PathBuf>,
    /// Of what an image was flattened to only root's word and the caller's counts.
    strict: bool,
}

impl Store {
    /// The store in `dir`, made if it is not there.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Problem> {
        let own = dir.into();
        make_directories(&own, 0o755)?;
        Ok(Self { own, below: Vec::new(), strict: false })
    }

    /// One that is there.
    ///
    /// # Errors
    /// It is not there, or no directory.
    pub fn existing(dir: impl Into<PathBuf>) -> Result<Self, Problem> {
        let own = dir.into();
        if !own.is_dir() {
            return Err(Problem::user(format!("{}: there is no image store", own.display()))
                .hint("denovo image import or pull with that --store makes one"));
        }
        Ok(Self { own, below: Vec::new(), strict: false })
    }

    /// The caller's store over the site's: `$XDG_DATA_HOME/denovo/images`
    /// (XDG Base Directory Specification), for root /var/lib/denovo/images.
    ///
    /// Nothing is made until something is written.
    ///
    /// # Errors
    /// The caller has no home to keep it in.
    pub fn of_caller(site: &Site) -> Result<Self, Problem> {
        let own = own_directory()?;
        let below = site.stores().into_iter().filter(|dir| *dir != own).collect();
        Ok(Self { own, below, strict: false })
    }

    /// With read-only stores below; what is here hides what is there.
    #[must_use]
    pub fn over(mut self, below: Vec<PathBuf>) -> Self {
        self.below = below;
        self
    }

    /// The same for an image whose digest or signature is demanded. Those are of its
    /// manifest; which file the manifest was flattened to is a note in the store, and
    /// whoever can write that could name another.
    #[must_use]
    pub fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    /// The directory that is written.
    pub fn directory(&self) -> &Path {
        &self.own
    }

    /// Every directory that is read, the one that is written first.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.own.as_path()).chain(self.below.iter().map(PathBuf::as_path))
    }

    /// Makes what a writer needs.
    fn prepare(&self) -> Result<(), Problem> {
        let mode =
            if own_directory().is_ok_and(|d| d == self.own) && !is_root() { 0o700 } else { 0o755 };
        make_directories(&self.own, mode)?;
        for name in ["blobs", "blobs/sha256", "blobs/sha512", "refs", "flat", "incoming"] {
            make_directories(&self.own.join(name), 0o755)?;
        }
        Ok(())
    }

    /// Takes content in, hashing it on the way. With `expected` an earlier
    /// attempt at the same is taken up where it ended.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn incoming(&self, expected: Option<&Digest>) -> Result<BlobWriter, Problem> {
        self.prepare()?;
        BlobWriter::new(self, expected)
    }

    /// Takes in content that is at hand.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, Problem> {
        let digest = Digest::of(bytes);
        if self.has(&digest) {
            return Ok(digest);
        }
        let mut writer = self.incoming(None)?;
        writer.put(bytes)?;
        Ok(writer.finish()?.0)
    }

    /// Whether content is here, in any of the stores. In our own it counts
    /// as new again, so that no `gc` takes it from under whoever asks.
    pub fn has(&self, digest: &Digest) -> bool {
        let own = blob_in(&self.own, digest);
        if let Ok(file) = File::open(&own) {
            let _ = file.set_modified(SystemTime::now());
            return true;
        }
        self.below.iter().any(|dir| blob_in(dir, digest).is_file())
    }

    /// The file that content is in.
    ///
    /// # Errors
    /// None of the stores has it.
    pub fn blob_path(&self, digest: &Digest) -> Result<PathBuf, Problem> {
        let mut paths = self.directories().map(|dir| blob_in(dir, digest));
        paths.find(|path| path.is_file()).ok_or_else(|| self.lacks(digest))
    }

    /// Opens content for reading.
    ///
    /// # Errors
    /// None of the stores has it, or it cannot be read.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, Problem> {
        let mut first = None;
        for dir in self.directories() {
            match File::open(blob_in(dir, digest)) {
                Ok(file) => return Ok(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => drop(first.get_or_insert((dir, e))),
            }
        }
        Err(first.map_or_else(|| self.lacks(digest), |(dir, why)| unreadable(dir, digest, &why)))
    }

    /// Small content, whole and checked against its digest.
    ///
    /// # Arguments
    /// * `most` - bytes; what is larger is refused
    ///
    /// # Errors
    /// It is not here, too large, or damaged.
    pub fn read_blob(&self, digest: &Digest, most: u64) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        let file = self.open_blob(digest)?;
        file.take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(|why| unreadable(&self.own, digest, &why))?;
        if bytes.len() as u64 > most {
            return Err(Problem::user(format!("{digest}: is larger than {most} bytes"))
                .hint("no honest manifest or configuration is"));
        }
        let mut hasher = super::digest::Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if hasher.finish() != *digest {
            return Err(self.damaged(digest));
        }
        Ok(bytes)
    }

    /// Length of content in bytes.
    ///
    /// # Errors
    /// None of the stores has it.
    pub fn size(&self, digest: &Digest) -> Result<u64, Problem> {
        let path = self.blob_path(digest)?;
        path.metadata().map(|m| m.len()).map_err(|why| unreadable(&path, digest, &why))
    }

    /// The digests of everything in the store that is written.
    pub fn blobs(&self) -> Vec<Digest> {
        let list = |name: &str| {
            let entries = fs::read_dir(self.own.join("blobs").join(name));
            let prefix = name.to_owned();
            entries.into_iter().flatten().flatten().filter_map(move |e| {
                format!("{prefix}:{}", e.file_name().to_str()?).parse::<Digest>().ok()
            })
        };
        let mut all: Vec<Digest> = list("sha256").chain(list("sha512")).collect();
        all.sort();
        all
    }

    /// Removes content from the store that is written.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), Problem> {
        let path = blob_in(&self.own, digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed(&path, "remove", &e)),
            _ => Ok(()),
        }
    }

    /// How long ago content was written or asked for, in seconds.
    pub fn age(&self, digest: &Digest) -> Option<u64> {
        let modified = blob_in(&self.own, digest).metadata().ok()?.modified().ok()?;
        Some(modified.elapsed().map_or(0, |age| age.as_secs()))
    }

    fn lacks(&self, digest: &Digest) -> Problem {
        let places: Vec<_> = self.directories().map(|d| d.display().to_string()).collect();
        Problem::user(format!("{digest}: is in none of {}", places.join(", "))).hint(
            "denovo image verify names the images that lack something; pull or import them again",
        )
    }

    fn damaged(&self, digest: &Digest) -> Problem {
        Problem::site(format!("{digest}: what is stored under this digest is something else")).hint(
            "denovo image verify names the images that it belongs to; remove and pull them again",
        )
    }

    /// What a failed write means: the disk is full, or not ours.
    fn failed(&self, path: &Path, what: &str, why: &io::Error) -> Problem {
        let full = matches!(why.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full {
            return Problem::site(format!(
                "image store {}: no space left ({why}) to {what} {}",
                self.own.display(),
                path.display()
            ))
            .hint(
                "denovo image gc removes what no name leads to; what was stored before is whole",
            );
        }
        Problem::site(format!("{}: cannot {what}: {why}", path.display())).hint(
            "the store must be writable for the caller; XDG_DATA_HOME names another place for one's own",
        )
    }

    /// Writes a small file so that a reader sees the old or the new one, whole.
    fn write_small(&self, path: &Path, bytes: &[u8]) -> Result<(), Problem> {
        self.prepare()?;
        let new = incoming::fresh_name(&self.own, "small");
        let written = File::create_new(&new).and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(0o644))?;
            io::Write::write_all(&mut file, bytes)?;
            file.sync_data()
        });
        written.and_then(|()| fs::rename(&new, path)).map_err(|why| {
            let _ = fs::remove_file(&new);
            self.failed(path, "write", &why)
        })
    }
}

/// The caller's own store.
///
/// # Errors
/// There is neither `XDG_DATA_HOME` nor `HOME`.
fn own_directory() -> Result<PathBuf, Problem> {
    if is_root() {
        return Ok(PathBuf::from(super::site::ROOT_STORE));
    }
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("denovo/images"))
        .ok_or_else(|| {
            Problem::user("there is no place for the image store: HOME is not set")
                .hint("set HOME or XDG_DATA_HOME, or give --store DIR")
        })
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn blob_in(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

fn unreadable(place: &Path, digest: &Digest, why: &io::Error) -> Problem {
    Problem::site(format!("{digest} in {}: cannot be read: {why}", place.display()))
        .hint("the store must be readable for the caller")
}

fn make_directories(path: &Path, mode: u32) -> Result<(), Problem> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directories(parent, 0o755)?;
    }
    // Whatever the umask: others read what root brings in.
    let made = DirBuilder::new().mode(mode).create(path);
    match made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode))) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(Problem::site(format!("{}: cannot be made: {e}", path.display()))
                .hint("the image store must be writable for the caller"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
