//! Tar streams, as layers are: read strictly, written plainly.
//!
//! POSIX.1-2001 (`pax`), GNU's long names and sparse files, ustar and v7 are
//! read. Where two readers could see two different lists of files, the stream
//! is refused (CVE-2025-62518): sizes in extended headers win, headers that
//! have no data must say so, nothing follows a lone end block.

mod header;
mod pax;
mod sparse;
mod write;

pub use write::Writer;

use std::io::{self, Read};

use header::{BLOCK, Header};
use pax::Extended;

/// Bytes of a path, as PATH_MAX has it.
pub const LONGEST_PATH: usize = 4096;
/// Bytes of one extended header or long name.
const LARGEST_EXTENDED: u64 = 1 << 20;

/// Why a stream is no archive that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("a header's checksum is wrong, after {0:?}")]
    Checksum(String),
    #[error("entry {entry:?}: {why}")]
    Entry { entry: String, why: String },
}

impl Error {
    pub fn entry(entry: &[u8], why: impl Into<String>) -> Self {
        let shown: String = String::from_utf8_lossy(entry).chars().take(300).collect();
        Self::Entry { entry: shown, why: why.into() }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    /// Its target as it stands; never followed outside of a root.
    Symlink(Vec<u8>),
    /// Path of an entry before.
    Hardlink(Path),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// A path below a root: parts that are neither empty, `.` nor `..`; none at
/// all is the root itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Path(Vec<u8>);

impl Path {
    /// # Errors
    /// It has `..` or NUL, or is too long. A leading `/` is the root's.
    pub fn parse(text: &[u8]) -> Result<Self, &'static str> {
        if text.contains(&0) {
            return Err("its name has a NUL");
        }
        let mut path = Vec::with_capacity(text.len());
        for part in text.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err("its name has .. in it"),
                part if part.len() > 255 => {
                    return Err("a part of its name is longer than 255 bytes");
                }
                part => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(part);
                }
            }
        }
        if path.len() > LONGEST_PATH - 2 {
            return Err("its name is longer than 4094 bytes");
        }
        Ok(Self(path))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Directory and name; nothing for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (Self(self.0[..at].to_vec()), &self.0[at + 1..]),
            None => (Self::default(), &self.0[..]),
        })
    }

    /// # Arguments
    /// * `name` - one part, of a path that was parsed
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }

    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty())
    }

    pub fn lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: Path,
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes that follow in the stream.
    pub stored: u64,
    /// Bytes of the file.
    pub size: u64,
    /// Where the stored bytes belong: offset and length each, in order.
    pub sparse: Option<Vec<(u64, u64)>>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// A directory that nobody described: root's, 0755.
    pub fn implied(path: Path) -> Self {
        Self {
            path,
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            stored: 0,
            size: 0,
            sparse: None,
            xattrs: Vec::new(),
        }
    }
}

/// Reads the entries of a stream one after the other.
pub struct Reader<R> {
    source: R,
    /// Bytes of the current entry's data that were not read yet.
    left: u64,
    /// And what fills its last block.
    padding: u64,
    /// Name of the last entry, for errors.
    last: String,
    ended: bool,
}

impl<R: Read> Reader<R> {
    pub fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, last: String::new(), ended: false }
    }

    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next entry; what was not read of the one before is skipped.
    ///
    /// # Errors
    /// The stream is not an archive, or one that can be read in two ways.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        self.skip()?;
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else {
                return if extended.is_empty() {
                    Ok(None)
                } else {
                    Err(Error::Truncated("an entry: its extended header is the last"))
                };
            };
            match header.kind {
                b'x' => {
                    let bytes = self.small(&header)?;
                    extended.read(&bytes, &self.last)?;
                }
                // Its values would hold for all entries that follow; those
                // that change which files there are, no image has.
                b'g' => {
                    let bytes = self.small(&header)?;
                    Extended::refuse_global(&bytes, &self.last)?;
                }
                b'L' => extended.long_name(self.small(&header)?),
                b'K' => extended.long_link(self.small(&header)?),
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// Data of the current entry as it is stored.
    pub fn data(&mut self) -> Data<'_, R> {
        Data { reader: self }
    }

    /// Reads the rest of the stream, so that all of it was seen.
    ///
    /// # Errors
    /// What the source says.
    pub fn drain(&mut self) -> Result<(), Error> {
        io::copy(&mut self.source, &mut io::sink())?;
        Ok(())
    }

    /// What fills a file's last block may be missing where the stream ends, as
    /// the end blocks may: umoci 0.4.7 `insert` writes neither, and Go's
    /// archive/tar, by which other tools read layers, takes that for the end. A
    /// layer that was cut short is told by its digest.
    fn skip(&mut self) -> Result<(), Error> {
        let mut pass = |bytes| io::copy(&mut (&mut self.source).take(bytes), &mut io::sink());
        if pass(self.left)? != self.left {
            return Err(Error::Truncated("a file"));
        }
        pass(self.padding)?;
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>, Error> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block.iter().all(|b| *b == 0) {
            self.ended = true;
            return match self.block()? {
                Some(second) if second.iter().any(|b| *b != 0) => Err(Error::entry(
                    self.last.as_bytes(),
                    "one end block after it, and then more entries, which some readers would see",
                )),
                _ => Ok(None),
            };
        }
        Header::parse(&block, &self.last).map(Some)
    }

    /// A whole block, or the end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Error::Truncated("a header")),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Some(block))
    }

    /// The data of a header that describes the next entry.
    fn small(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        if header.size > LARGEST_EXTENDED {
            return Err(Error::entry(
                &header.name,
                format!("an extended header of {} bytes", header.size),
            ));
        }
        self.begin(header.size);
        let mut bytes = Vec::new();
        self.data().read_to_end(&mut bytes)?;
        self.skip()?;
        if bytes.len() as u64 == header.size {
            Ok(bytes)
        } else {
            Err(Error::Truncated("an extended header"))
        }
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, Error> {
        let name = extended.path.as_deref().unwrap_or(&header.name).to_vec();
        let bad = |why: &str| Error::entry(&name, why);
        let path = Path::parse(&name).map_err(bad)?;
        self.last = path.lossy().into_owned();
        let link = extended.link.as_deref().unwrap_or(&header.link);
        let size = extended.size.unwrap_or(header.size);
        if size > i64::MAX as u64 {
            return Err(bad("its size is no size"));
        }
        let kind = match header.kind {
            b'0' | 0 if name.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink(Path::parse(link).map_err(bad)?),
            b'2' if link.is_empty() || link.contains(&0) || link.len() >= LONGEST_PATH => {
                return Err(bad("is a symlink to nothing that can be one's target"));
            }
            b'2' => Kind::Symlink(link.to_vec()),
            b'3' => Kind::Character(header.major, header.minor),
            b'4' => Kind::Block(header.major, header.minor),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(bad(&format!("is of type {:?}", char::from(other)))),
        };
        if kind != Kind::File && size != 0 {
            return Err(bad(
                "has data, although it is no file; some readers would take that for entries",
            ));
        }
        let mut entry = Entry {
            path,
            kind,
            mode: header.mode & 0o7777,
            uid: id(extended.uid.unwrap_or(header.uid)).ok_or_else(|| bad("its uid is none"))?,
            gid: id(extended.gid.unwrap_or(header.gid)).ok_or_else(|| bad("its gid is none"))?,
            mtime: extended.mtime.unwrap_or(header.mtime),
            stored: size,
            size,
            sparse: None,
            xattrs: extended.xattrs.clone(),
        };
        self.begin(size);
        sparse::read(self, header, &extended, &mut entry)?;
        Ok(entry)
    }
}

/// (uid_t)-1 means "unchanged" to chown(2), and more does not fit.
fn id(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX)
}

/// The data of one entry.
pub struct Data<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.reader.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.reader.source.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it ends in the middle of {:?}", self.reader.last),
            ));
        }
        self.reader.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
