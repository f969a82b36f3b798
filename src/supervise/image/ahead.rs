//! What an environment's first program will read of its image, read while the
//! environment is being made: a file of an image that nobody used until now is
//! fetched and unpacked piece by piece, each a wait, and meanwhile another
//! processor has nothing to do.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use object::elf::{self, FileHeader64};
use object::read::ReadRef;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadCacheOps};

use crate::kernel::sys::{self, Forked};
use crate::policy::rank::DEFAULT_PATH;
use crate::policy::text::CText;
use crate::supervise::apart::apart;

/// Bytes asked for at a time: a block of an image, so that what others wait
/// for is looked at often.
const PIECE: u64 = 128 * 1024;
/// Bytes of one file: a C library, but not all of an interpreter of 7 MiB, of
/// which a start needs a part.
const MOST: u64 = 2 << 20;
/// Libraries of one program: what links to more takes long anyway.
const LIBRARIES: usize = 16;
/// Links in links that are followed: a loader's are two.
const MOST_LINKS: usize = 8;

/// How long the image is read ahead: the first program runs by then.
const LONGEST: Duration = Duration::from_millis(200);

/// Starts a process that reads what the first program will, for a moment, and
/// not longer than the monitor is there. Without it all works as well.
///
/// # Arguments
/// * `root` - the image's root
/// * `monitor` - a child of the caller's
/// * `first` - the program as the user named it, if one is known
pub fn begin(root: &Path, monitor: i32, first: Option<&CText>) {
    let (Ok(root), Ok(monitor)) = (self::root(root), sys::pidfd_open(monitor)) else { return };
    if !matches!(sys::clone3(0, None), Ok(Forked::Child)) {
        return;
    }
    if apart(&[&root, &monitor]).is_ok() && sys::set_process_name(c"denovo-ahead").is_ok() {
        let until = Instant::now() + LONGEST;
        let ended = || {
            let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO) != Ok(0)
        };
        Ahead::new(root, &|| Instant::now() > until || ended()).read(first);
    }
    sys::exit_now(0)
}

fn root(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    File::options().read(true).custom_flags(flags).open(path).map(OwnedFd::from)
}

/// Whoever reads an image ahead. What cannot be read is left out: time is all
/// that is lost, and the program itself will tell.
struct Ahead<'a> {
    root: OwnedFd,
    /// Whether nobody gains by it any more.
    enough: &'a dyn Fn() -> bool,
}

impl<'a> Ahead<'a> {
    fn new(root: OwnedFd, enough: &'a dyn Fn() -> bool) -> Self {
        Self { root, enough }
    }

    /// The program, its loader and its libraries.
    ///
    /// # Arguments
    /// * `first` - the program as the user named it; without one, or without
    ///   one in the image, the shell is read, which most jobs start with
    fn read(&self, first: Option<&CText>) {
        let Some(program) = candidates(first).iter().find_map(|name| self.file(name)) else {
            return;
        };
        let Some(needs) = Needs::of(&program) else { return };
        // Where the loader really is, the C library is too, and a system's others.
        let loader = self.followed(needs.loader.into());
        let beside = loader.parent().unwrap_or(Path::new("/"));
        let _ = text(loader.as_os_str().as_bytes()).and_then(|path| self.file(&path));
        self.file(c"/etc/ld.so.cache");
        for library in needs.libraries.iter().take(LIBRARIES) {
            let path = beside.join(OsStr::from_bytes(library));
            let _ = text(path.as_os_str().as_bytes()).and_then(|path| self.file(&path));
        }
    }

    /// A file of the image, its beginning in the page cache.
    fn file(&self, path: &CStr) -> Option<File> {
        // What is no file is neither waited for nor changed by its opening.
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let fd = sys::openat2(self.root.as_fd(), path, flags, 0, sys::resolve::IN_ROOT).ok()?;
        let file = File::from(fd);
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let mut at = 0;
        while at < metadata.len().min(MOST) && !(self.enough)() {
            let (offset, length) = (at as i64, PIECE as i64);
            posix_fadvise(&file, offset, length, PosixFadviseAdvice::POSIX_FADV_WILLNEED).ok()?;
            at += PIECE;
        }
        Some(file)
    }

    /// Where a path leads when its last part is a link.
    fn followed(&self, path: PathBuf) -> PathBuf {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let mut at = path;
        for _ in 0..MOST_LINKS {
            let link = text(at.as_os_str().as_bytes())
                .and_then(|p| {
                    sys::openat2(self.root.as_fd(), &p, flags, 0, sys::resolve::IN_ROOT).ok()
                })
                .and_then(|fd| nix::fcntl::readlinkat(fd, c"").ok());
            let Some(target) = link else { break };
            at = at.parent().unwrap_or(Path::new("/")).join(target);
        }
        at
    }
}

/// What a program names that the kernel and its loader open (elf(5),
/// `PT_INTERP` and `DT_NEEDED`).
struct Needs {
    loader: OsString,
    libraries: Vec<Vec<u8>>,
}

impl Needs {
    /// Of a program that is loaded: none of a script's, nor of a static one's.
    fn of(program: &File) -> Option<Self> {
        let data = &ReadCache::new(Beginning(program));
        let header = FileHeader64::<Endianness>::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, data).ok()?;
        let loader = segments.iter().find_map(|s| s.interpreter(endian, data).ok()?)?;
        let dynamic = segments.iter().find_map(|s| s.dynamic(endian, data).ok()?)?;
        let value = |tag| dynamic.iter().find(|d| d.tag(endian) == tag).map(|d| d.val(endian));
        let (address, size) = (value(elf::DT_STRTAB)?, value(elf::DT_STRSZ)?.min(MOST));
        let names = segments.iter().find_map(|s| {
            let within = address.checked_sub(s.p_vaddr(endian))?;
            let loaded = s.p_type(endian) == elf::PT_LOAD && within < s.p_filesz(endian);
            loaded.then(|| s.p_offset(endian).checked_add(within))?
        })?;
        let names = data.read_bytes_at(names, size).ok()?;
        let name = |at: u64| names.get(usize::try_from(at).ok()?..)?.split(|b| *b == 0).next();
        let libraries = dynamic
            .iter()
            .filter(|d| d.tag(endian) == elf::DT_NEEDED)
            .filter_map(|d| name(d.val(endian)).map(<[u8]>::to_vec))
            .collect();
        Some(Self { loader: OsString::from_vec(loader.to_vec()), libraries })
    }
}

/// As much of a file as is looked at, whatever it says of itself: what it asks
/// for is kept in memory.
struct Beginning<'a>(&'a File);

/// Bytes of that; python3's 7 MiB have their dynamic section near the end.
const LOOKED_AT: u64 = 16 << 20;

impl ReadCacheOps for Beginning<'_> {
    fn len(&mut self) -> Result<u64, ()> {
        self.0.metadata().map(|m| m.len().min(LOOKED_AT)).map_err(|_| ())
    }

    fn seek(&mut self, to: u64) -> Result<u64, ()> {
        Seek::seek(&mut self.0, SeekFrom::Start(to)).map_err(|_| ())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ()> {
        Read::read(&mut self.0, buffer).map_err(|_| ())
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ()> {
        Read::read_exact(&mut self.0, buffer).map_err(|_| ())
    }
}

fn text(path: impl Into<Vec<u8>>) -> Option<CString> {
    CString::new(path).ok()
}

/// Where execvp(3) would look, and the shell.
fn candidates(first: Option<&CText>) -> Vec<CString> {
    let paths = match first.map(CText::as_bytes) {
        Some(name) if name.contains(&b'/') => vec![name.to_vec()],
        Some(name) => {
            DEFAULT_PATH.split(':').map(|dir| [dir.as_bytes(), b"/", name].concat()).collect()
        }
        None => Vec::new(),
    };
    paths.into_iter().chain([b"/bin/sh".to_vec()]).filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_names_its_loader_and_libraries() {
        let needs = Needs::of(&File::open("/bin/sh").unwrap()).unwrap();
        assert!(needs.loader.as_bytes().starts_with(b"/lib"), "{:?}", needs.loader);
        assert!(needs.libraries.contains(&b"libc.so.6".to_vec()), "{:?}", needs.libraries);
        assert!(Needs::of(&File::open("/etc/passwd").unwrap()).is_none());
    }

    #[test]
    fn a_program_that_asks_for_all_memory_gets_none() {
        let mut program = std::fs::read("/bin/sh").unwrap();
        let word = |at: usize| u64::from_le_bytes(program[at..at + 8].try_into().unwrap()) as usize;
        let (table, count) = (word(32), usize::from(program[56]));
        // Every segment is as long as a file can be (elf(5), `p_filesz`).
        for header in 0..count {
            let at = table + header * 56 + 32;
            program[at..at + 8].copy_from_slice(&(1u64 << 46).to_le_bytes());
        }
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &program).unwrap();
        file.set_len(1 << 43).unwrap();
        assert!(Needs::of(&file).is_none());
    }

    #[test]
    fn nothing_is_read_that_nobody_waits_for() {
        let asked = std::cell::Cell::new(0);
        let enough = || asked.replace(asked.get() + 1) > 0;
        let ahead = Ahead::new(root(Path::new("/")).unwrap(), &enough);
        assert!(ahead.file(c"/etc/../etc/passwd").is_some());
        assert!(ahead.file(c"/dev/null").is_none(), "no file");
        assert!(ahead.file(c"/nothing").is_none());
        ahead.read(Some(&CText::lossy("sh")));
        // Once for each file that was opened, and no piece after the first.
        assert!((3..=20).contains(&asked.get()), "{}", asked.get());
    }

    #[test]
    fn links_are_followed_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        std::fs::write(dir.path().join("usr/lib/real"), "").unwrap();
        std::os::unix::fs::symlink("usr/lib", dir.path().join("lib")).unwrap();
        std::os::unix::fs::symlink("/lib/real", dir.path().join("usr/lib/second")).unwrap();
        std::os::unix::fs::symlink("second", dir.path().join("usr/lib/first")).unwrap();
        let ahead = Ahead::new(root(dir.path()).unwrap(), &|| false);
        assert_eq!(ahead.followed("/lib/first".into()), Path::new("/lib/real"));
        assert_eq!(ahead.followed("/nothing".into()), Path::new("/nothing"));
    }

    #[test]
    fn the_search_is_the_shell_s() {
        let names = |first: &str| candidates(Some(&CText::lossy(first)));
        assert_eq!(names("./a.out"), [c"./a.out".to_owned(), c"/bin/sh".to_owned()]);
        assert!(names("mpirun").contains(&c"/usr/bin/mpirun".to_owned()));
        assert_eq!(candidates(None), [c"/bin/sh".to_owned()]);
    }
}
