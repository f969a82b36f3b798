//! Compiled system call filters, kept from one start to the next.
//!
//! A file holds the whole text that its filter was compiled from, and is used
//! for that very text only; so its name need not be a secure digest. One that
//! the caller does not own, or that others can write, is not looked at: it
//! would decide what a container may do.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::base;
use crate::policy::container::Filters;

/// First line of each file; another form gets another number.
const MAGIC: &[u8] = b"denovo seccomp 1\n";
/// Bytes; a text and a program are some 20 KiB together.
const MOST_BYTES: u64 = 1 << 20;
/// Files; a node sees a handful of profiles.
const MOST_FILES: usize = 64;

/// The caller's own.
pub struct KeptFilters {
    dir: PathBuf,
    uid: u32,
    writes: bool,
}

impl KeptFilters {
    pub fn own() -> Self {
        let uid = nix::unistd::geteuid().as_raw();
        Self { dir: base::base(uid).join("seccomp"), uid, writes: true }
    }

    /// For a caller who shall change nothing.
    pub fn to_read() -> Self {
        Self { writes: false, ..Self::own() }
    }

    /// The directory, if it is the caller's alone to write.
    fn directory(&self) -> Option<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = open(&self.dir, flags, Mode::empty()).ok()?;
        let stat = nix::sys::stat::fstat(&fd).ok()?;
        (stat.st_uid == self.uid && stat.st_mode & 0o022 == 0).then_some(fd)
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        // Without O_NONBLOCK the open of a FIFO would wait for ever.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(self.directory()?, name, flags, Mode::empty()).ok()?);
        let meta = file.metadata().ok()?;
        let ours = meta.is_file() && meta.uid() == self.uid && meta.mode() & 0o022 == 0;
        if !ours || meta.len() > MOST_BYTES {
            return None;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).ok()?);
        file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn write(&self, name: &str, parts: [&[u8]; 4]) -> std::io::Result<()> {
        let other = |problem: crate::problem::Problem| std::io::Error::other(problem.message);
        if let Some(parent) = self.dir.parent() {
            base::own_directory(parent, 0o711, self.uid).map_err(other)?;
        }
        base::own_directory(&self.dir, 0o700, self.uid).map_err(other)?;
        self.make_room();
        // Another denovo may be about the same; each renames a file of its own.
        let new = self.dir.join(format!("{name}.{}", std::process::id()));
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&new)?;
        let written = parts.iter().try_for_each(|part| file.write_all(part));
        written.and_then(|()| fs::rename(&new, self.dir.join(name))).inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
    }

    /// The oldest go first.
    fn make_room(&self) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut files: Vec<_> =
            entries.filter_map(|e| Some((e.metadata().ok()?.mtime(), e.path()))).collect();
        files.sort_unstable();
        let many = (files.len() + 1).saturating_sub(MOST_FILES);
        for (_, path) in files.iter().take(many) {
            let _ = fs::remove_file(path);
        }
    }
}

impl Filters for KeptFilters {
    fn load(&self, request: &[u8]) -> Option<Vec<u8>> {
        let bytes = self.read(&name_of(request))?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (text, program) = rest.split_at_checked(length)?;
        (text == request).then(|| program.to_vec())
    }

    /// What cannot be kept is compiled anew the next time, no more.
    fn keep(&self, request: &[u8], program: &[u8]) {
        let Ok(length) = u32::try_from(request.len()) else { return };
        if self.writes {
            let _ = self.write(&name_of(request), [MAGIC, &length.to_le_bytes(), request, program]);
        }
    }
}

/// 64-bit FNV-1a, which only has to tell a handful of texts apart.
fn name_of(request: &[u8]) -> String {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let hash = request
        .iter()
        .fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn kept(base: &tempfile::TempDir) -> KeptFilters {
        let uid = nix::unistd::geteuid().as_raw();
        KeptFilters { dir: base.path().join("seccomp"), uid, writes: true }
    }

    fn mode(path: &std::path::Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_kept_is_found_for_the_same_text_only() {
        let base = tempfile::tempdir().unwrap();
        let filters = kept(&base);
        assert_eq!(filters.load(b"a"), None);
        filters.keep(b"a", b"program");
        assert_eq!(filters.load(b"a").as_deref(), Some(&b"program"[..]));
        assert_eq!(filters.load(b"b"), None);
        // The same name, as two texts of one digest would have it.
        let path = |text: &[u8]| filters.dir.join(name_of(text));
        fs::copy(path(b"a"), path(b"b")).unwrap();
        assert_eq!(filters.load(b"b"), None);
        let reader = KeptFilters { writes: false, ..kept(&base) };
        reader.keep(b"c", b"program");
        assert_eq!(filters.load(b"c"), None);
    }

    #[test]
    fn what_others_could_have_written_is_not_used() {
        let base = tempfile::tempdir().unwrap();
        let filters = kept(&base);
        filters.keep(b"a", b"program");
        let path = filters.dir.join(name_of(b"a"));
        let found = || filters.load(b"a").is_some();
        for (target, bad, good) in [(&path, 0o620, 0o600), (&filters.dir, 0o770, 0o700)] {
            mode(target, bad);
            assert!(!found(), "{}", target.display());
            mode(target, good);
            assert!(found());
        }
        let other = KeptFilters { uid: filters.uid + 1, ..kept(&base) };
        assert_eq!(other.load(b"a"), None);
        fs::rename(&path, base.path().join("elsewhere")).unwrap();
        symlink(base.path().join("elsewhere"), &path).unwrap();
        assert!(!found());
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(!found());
    }

    #[test]
    fn a_damaged_file_is_nothing() {
        let base = tempfile::tempdir().unwrap();
        let filters = kept(&base);
        filters.keep(b"text", b"program");
        let path = filters.dir.join(name_of(b"text"));
        let whole = fs::read(&path).unwrap();
        for cut in 0..MAGIC.len() + 8 {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(filters.load(b"text"), None, "{cut}");
        }
    }

    #[test]
    fn the_oldest_make_room() {
        let base = tempfile::tempdir().unwrap();
        let filters = kept(&base);
        for number in 0..MOST_FILES + 5 {
            filters.keep(format!("{number}").as_bytes(), b"program");
        }
        assert_eq!(fs::read_dir(&filters.dir).unwrap().count(), MOST_FILES);
    }
}
