//! Content on its way into a store.
//!
//! A file in `incoming/` belongs to one process, whose host and pid are in
//! its name; when that is gone, the next attempt at the same digest takes the
//! file over by renaming it, which only one can.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Store, blob_in};
use crate::host::process::Stat;
use crate::image::Digest;
use crate::image::digest::{Algorithm, Hasher};
use crate::problem::Problem;

/// Seconds without a write after which a file of another host is abandoned.
const ABANDONED: u64 = 3600;

/// Writes content that gets its name when it is complete.
///
/// Dropped before [`finish`](Self::finish), it leaves its bytes for the next
/// attempt if the digest is known, else nothing.
pub struct BlobWriter {
    store: Store,
    file: File,
    path: PathBuf,
    expected: Option<Digest>,
    hasher: Hasher,
    written: u64,
    finished: bool,
}

impl BlobWriter {
    pub(super) fn new(store: &Store, expected: Option<&Digest>) -> Result<Self, Problem> {
        let own = store.directory();
        let path = match expected {
            Some(digest) => fresh_name(own, &part_prefix(digest)),
            None => fresh_name(own, "new"),
        };
        let taken = expected.is_some_and(|digest| take_over(own, digest, &path));
        if expected.is_none() {
            begin(&path);
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(!taken)
            .mode(0o644)
            .open(&path)
            // Whatever the umask: others read what root brings in.
            .and_then(|file| {
                file.set_permissions(Permissions::from_mode(0o644))?;
                Ok(file)
            })
            .inspect_err(|_| forget(&path))
            .map_err(|why| store.failed(&path, "write", &why))?;
        let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        let mut writer = Self {
            store: store.clone(),
            file: opened,
            path,
            expected: expected.cloned(),
            hasher: Hasher::new(algorithm),
            written: 0,
            finished: false,
        };
        if taken {
            writer.rehash()?;
        }
        Ok(writer)
    }

    /// Goes over what an earlier attempt wrote.
    fn rehash(&mut self) -> Result<(), Problem> {
        let mut buffer = vec![0; 1 << 18];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    self.hasher.update(&buffer[..n]);
                    self.written += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.store.failed(&self.path, "read", &e)),
            }
        }
    }

    /// Bytes that are here: a transfer goes on from there.
    pub fn offset(&self) -> u64 {
        self.written
    }

    /// Of the bytes that are here so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Begins anew, for a source that cannot go on from [`offset`](Self::offset).
    ///
    /// # Errors
    /// The file cannot be cut.
    pub fn restart(&mut self) -> Result<(), Problem> {
        io::Seek::rewind(&mut self.file)
            .and_then(|()| self.file.set_len(0))
            .map_err(|why| self.store.failed(&self.path, "write", &why))?;
        let algorithm = self.expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        self.hasher = Hasher::new(algorithm);
        self.written = 0;
        Ok(())
    }

    /// [`Write::write_all`] with the store's words for what went wrong.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.write_all(bytes).map_err(|why| self.problem(&why))
    }

    /// The store's words for an error that [`Write`] gave.
    pub fn problem(&self, why: &io::Error) -> Problem {
        self.store.failed(&self.path, "write", why)
    }

    /// Checks the digest and gives the content its name.
    ///
    /// # Errors
    /// The content is not what was expected, and nothing of it is kept; or
    /// the disk is full.
    pub fn finish(mut self) -> Result<(Digest, u64), Problem> {
        let digest = self.hasher.clone().finish();
        if let Some(expected) = self.expected.take().filter(|e| *e != digest) {
            // Expected nothing now, so that the drop removes the file.
            return Err(Problem::user(format!(
                "{expected}: what came is something else ({digest}, {} bytes)",
                self.written
            ))
            .hint("the source is damaged or not the one that the digest was made of"));
        }
        let place = blob_in(self.store.directory(), &digest);
        self.file
            .sync_data()
            .and_then(|()| fs::rename(&self.path, &place))
            .map_err(|why| self.store.failed(&place, "write", &why))?;
        self.finished = true;
        Ok((digest, self.written))
    }

    /// Lets go of what was written.
    pub fn discard(mut self) {
        self.expected = None;
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        match &self.expected {
            _ if self.finished => {}
            Some(digest) if self.written > 0 => {
                let idle = incoming(self.store.directory()).join(part_prefix(digest));
                let _ = fs::rename(&self.path, idle);
            }
            _ => drop(fs::remove_file(&self.path)),
        }
        // Last: a signal that ends us meanwhile has to find it.
        forget(&self.path);
    }
}

fn incoming(own: &Path) -> PathBuf {
    own.join("incoming")
}

fn part_prefix(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// A name in `incoming/` that nobody else makes: `PREFIX,HOST,PID,N`.
pub(super) fn fresh_name(own: &Path, prefix: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    incoming(own).join(format!("{prefix},{},{},{n}", host(), std::process::id()))
}

/// Where a process number means what it means here: a container may have the name of
/// its host, and never its numbers (pid_namespaces(7)).
pub(super) fn host() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let pids = fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino());
    format!("{}-{pids}", name.to_string_lossy().replace([',', '/'], "-"))
}

/// Makes an earlier attempt at `digest` ours, under the name `to`.
fn take_over(own: &Path, digest: &Digest, to: &Path) -> bool {
    let prefix = part_prefix(digest);
    if fs::rename(incoming(own).join(&prefix), to).is_ok() {
        return true;
    }
    let entries = fs::read_dir(incoming(own)).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .filter(|e| abandoned(&e.path()))
        .any(|e| fs::rename(e.path(), to).is_ok())
}

/// Whether whoever wrote this file is gone.
fn abandoned(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let mut parts = name.split(',').skip(1);
    let (at, pid) = (parts.next(), parts.next().and_then(|p| p.parse::<u32>().ok()));
    match (at, pid) {
        (Some(at), Some(pid)) if at == host() => pid != std::process::id() && !runs(pid),
        (Some(_), Some(_)) => age(path).is_some_and(|seconds| seconds > ABANDONED),
        _ => false,
    }
}

/// Whether a process is there and has not ended; one that nobody has waited
/// for yet (`Z`, proc_pid_stat(5)) writes no more.
fn runs(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = Stat::parse(&line).and_then(|stat| stat.state());
    state.is_some_and(|state| state != b'Z' && state != b'X')
}

fn age(path: &Path) -> Option<u64> {
    path.symlink_metadata().ok()?.modified().ok()?.elapsed().ok().map(|age| age.as_secs())
}

/// A file that another program writes; removed unless it is adopted.
pub struct Temporary {
    store: Store,
    path: PathBuf,
}

impl Temporary {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file content of the store, under its digest.
    ///
    /// # Errors
    /// It cannot be read, or the store cannot be written.
    pub fn adopt(self) -> Result<(Digest, u64), Problem> {
        let failed = |what: &str, why: &io::Error| self.store.failed(&self.path, what, why);
        let mut file = File::open(&self.path).map_err(|e| failed("read", &e))?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; 1 << 18];
        let mut size = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    size += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed("read", &e)),
            }
        }
        let digest = hasher.finish();
        let place = blob_in(self.store.directory(), &digest);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.set_permissions(mode)
            .and_then(|()| file.sync_data())
            .and_then(|()| fs::rename(&self.path, &place))
            .map_err(|e| failed("write", &e))?;
        Ok((digest, size))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove(&self.path);
        forget(&self.path);
    }
}

/// Something of ours goes, whether it is a file or a directory.
fn remove(path: &Path) {
    if fs::remove_file(path).is_err() {
        let _ = crate::image::unpack::remove(path);
    }
}

/// A path outside of the store that this process has begun to write;
/// removed unless it is kept, also if the process is told to end.
pub struct Begun(PathBuf);

impl Begun {
    pub fn new(path: PathBuf) -> Self {
        begin(&path);
        Self(path)
    }

    /// It is whole and has its own name now.
    pub fn keep(self) {
        forget(&self.0);
        std::mem::forget(self);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        remove(&self.0);
        forget(&self.0);
    }
}

/// What this process has begun and would leave behind if it ended now.
static BEGUN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn begin(path: &Path) {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
}

fn forget(path: &Path) {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner).retain(|p| p != path);
}

/// Removes what this process has begun, because it ends now. Transfers of
/// known content stay, to be taken up again.
pub fn abandon() {
    let mut all = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    for path in all.drain(..) {
        remove(&path);
    }
    // Locked from here on: no other thread begins anything any more.
    std::mem::forget(all);
}

impl Store {
    /// A name for a file, or an empty directory's, that is to become
    /// something of this store.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn temporary(&self, kind: &str) -> Result<Temporary, Problem> {
        self.prepare()?;
        let path = fresh_name(self.directory(), kind);
        begin(&path);
        Ok(Temporary { store: self.clone(), path })
    }

    /// Bytes of what is on its way or broke off.
    pub fn incoming_size(&self) -> u64 {
        let entries = fs::read_dir(incoming(self.directory())).into_iter().flatten().flatten();
        entries.filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
    }

    /// Removes what interrupted writers have left and nobody took up again
    /// within `keep` seconds.
    ///
    /// Gives the bytes that this freed.
    pub fn sweep(&self, keep: u64) -> u64 {
        let entries = fs::read_dir(incoming(self.directory())).into_iter().flatten().flatten();
        let mut freed = 0;
        for path in entries.map(|e| e.path()) {
            let named = path.to_string_lossy().contains(',');
            let old = age(&path).is_some_and(|seconds| seconds >= keep);
            // A transfer of known content whose process was killed is as good
            // as one that was let go.
            let known = ["sha256-", "sha512-"].iter().any(|p| {
                path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(p.as_bytes()))
            });
            let young = known && !old;
            if (old && !named) || (named && abandoned(&path) && !young) {
                let size = path.symlink_metadata().map_or(0, |m| m.len());
                remove(&path);
                freed += if path.symlink_metadata().is_err() { size } else { 0 };
            }
        }
        freed
    }
}
