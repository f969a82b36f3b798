//! Writes a plain archive: ustar headers, with an extended one where a value
//! does not fit.

use std::io::{self, Read, Write};

use super::header::{BLOCK, checksum};
use super::{Entry, Kind};

const ZEROS: [u8; 8192] = [0; 8192];

/// Writes entries one after the other; the same entries give the same bytes.
pub struct Writer<W> {
    sink: W,
}

impl<W: Write> Writer<W> {
    pub fn new(sink: W) -> Self {
        Self { sink }
    }

    /// An entry with its data: the stored pieces of it, which are laid out
    /// at full size with zeros between them.
    ///
    /// # Errors
    /// What the sink or the data say.
    pub fn entry(&mut self, entry: &Entry, data: &mut dyn Read) -> io::Result<()> {
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        self.headers(entry, size)?;
        match &entry.sparse {
            None => self.exactly(data, size)?,
            Some(map) => {
                let mut at = 0;
                for (offset, length) in map {
                    self.zeros(offset - at)?;
                    self.exactly(data, *length)?;
                    at = offset + length;
                }
                self.zeros(size - at)?;
            }
        }
        self.zeros(size.next_multiple_of(BLOCK as u64) - size)
    }

    /// Two blocks of zeros end an archive.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish(mut self) -> io::Result<W> {
        self.zeros(2 * BLOCK as u64)?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn exactly(&mut self, data: &mut dyn Read, length: u64) -> io::Result<()> {
        let mut buffer = vec![0; 128 << 10];
        let mut left = length;
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            let n = match data.read(&mut buffer[..most]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.sink.write_all(&buffer[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    fn zeros(&mut self, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let n = length.min(ZEROS.len() as u64);
            self.sink.write_all(&ZEROS[..n as usize])?;
            length -= n;
        }
        Ok(())
    }

    fn headers(&mut self, entry: &Entry, size: u64) -> io::Result<()> {
        let mut name = entry.path.bytes().to_vec();
        if name.is_empty() {
            name.push(b'.');
        }
        if entry.kind == Kind::Directory {
            name.push(b'/');
        }
        let empty: &[u8] = &[];
        let (flag, link, device) = match &entry.kind {
            Kind::File => (b'0', empty, (0, 0)),
            Kind::Hardlink(to) => (b'1', to.bytes(), (0, 0)),
            Kind::Symlink(to) => (b'2', &to[..], (0, 0)),
            Kind::Character(major, minor) => (b'3', empty, (*major, *minor)),
            Kind::Block(major, minor) => (b'4', empty, (*major, *minor)),
            Kind::Directory => (b'5', empty, (0, 0)),
            Kind::Fifo => (b'6', empty, (0, 0)),
        };
        let records = records(entry, size, &name, link);
        if !records.is_empty() {
            let mut block = header(b"PaxHeader", b'x', 0o644, records.len() as u64);
            seal(&mut block);
            self.sink.write_all(&block)?;
            self.sink.write_all(&records)?;
            let length = records.len() as u64;
            self.zeros(length.next_multiple_of(BLOCK as u64) - length)?;
        }
        let mut block = header(&name, flag, entry.mode, size);
        put_text(&mut block[157..257], link);
        put_number(&mut block[108..116], u64::from(entry.uid));
        put_number(&mut block[116..124], u64::from(entry.gid));
        put_number(&mut block[136..148], entry.mtime.max(0) as u64);
        if matches!(flag, b'3' | b'4') {
            put_number(&mut block[329..337], u64::from(device.0));
            put_number(&mut block[337..345], u64::from(device.1));
        }
        seal(&mut block);
        self.sink.write_all(&block)
    }
}

/// What does not fit in a header, or has no field there.
fn records(entry: &Entry, size: u64, name: &[u8], link: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| records.extend(record(key, value));
    if name.len() > 100 {
        add(b"path", name);
    }
    if link.len() > 100 {
        add(b"linkpath", link);
    }
    for (key, value, most) in [
        (&b"size"[..], size, 0o77_777_777_777),
        (b"uid", u64::from(entry.uid), 0o7_777_777),
        (b"gid", u64::from(entry.gid), 0o7_777_777),
    ] {
        if value > most {
            add(key, value.to_string().as_bytes());
        }
    }
    if entry.mtime < 0 || entry.mtime > 0o77_777_777_777 {
        add(b"mtime", entry.mtime.to_string().as_bytes());
    }
    let mut xattrs: Vec<_> = entry.xattrs.iter().collect();
    xattrs.sort();
    for (name, value) in xattrs {
        add(&[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    records
}

/// The length of a record counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn header(name: &[u8], flag: u8, mode: u32, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put_text(&mut block[..100], name);
    put_number(&mut block[100..108], u64::from(mode));
    put_number(&mut block[108..116], 0);
    put_number(&mut block[116..124], 0);
    put_number(&mut block[124..136], size);
    put_number(&mut block[136..148], 0);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block
}

fn seal(block: &mut [u8; BLOCK]) {
    let sum = checksum(block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Cut where it does not fit: then an extended header has all of it.
fn put_text(field: &mut [u8], text: &[u8]) {
    let n = text.len().min(field.len());
    field[..n].copy_from_slice(&text[..n]);
}

/// Octal digits and a NUL; 0 where they do not fit, as above.
fn put_number(field: &mut [u8], number: u64) {
    let digits = field.len() - 1;
    let text = format!("{number:0digits$o}");
    let text = if text.len() > digits { "0".repeat(digits) } else { text };
    field[..digits].copy_from_slice(text.as_bytes());
}
