//! Compressed streams, told apart by how they begin, never by what they are
//! called; read in this process, so that no program of an image's or of the
//! node's has a hand in it (CVE-2026-41567).

use std::io::{self, BufRead, BufReader, Read};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Tells it from the first bytes (RFC 1952, 2.3.1; RFC 8878, 3.1.1).
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// The program by which a stream is compressed that begins so, where it is none that
/// layers have (OCI image spec, layer.md: gzip and zstd): tar takes them, so people
/// bring them.
fn foreign(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        // With what follows their letters: a tar begins with a file's name.
        [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..] => Some("bzip2"),
        [b'L', b'Z', b'I', b'P', 1, ..] => Some("lzip"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
        _ => None,
    }
}

/// A window of 128 MiB is what zstd itself takes at most unless asked; a
/// larger one would be memory that the stream orders us to have.
const LARGEST_WINDOW_LOG: u32 = 27;

/// Reads what `source` is the compressed form of.
///
/// # Errors
/// The first bytes cannot be read, or are those of another compression.
pub fn open<'a>(source: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut source = BufReader::with_capacity(1 << 17, source);
    let start = source.fill_buf()?;
    if let Some(program) = foreign(start) {
        return Err(io::Error::other(format!(
            "it is compressed by {program}, and layers by gzip or zstd: unpack it first \
             ({program} -dc FILE | denovo image import - NAME)"
        )));
    }
    let compression = Compression::of(start);
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(LARGEST_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// Stops a stream that does not end: what a few bytes unpack to has no other
/// bound than the site's.
pub struct Bounded<R> {
    source: R,
    left: u64,
    most: u64,
}

impl<R: Read> Bounded<R> {
    /// # Arguments
    /// * `most` - bytes
    pub fn new(source: R, most: u64) -> Self {
        Self { source, left: most, most }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::other(format!(
                "it unpacks to more than the {} bytes that the site allows (images.most-unpacked)",
                self.most
            ))
        })?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Bounded::new(open(bytes)?, 1 << 20).read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_kind_is_read() {
        let text = b"hello hello hello".repeat(1000);
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        let halves = [gzip(&text[..5000]), gzip(&text[5000..])].concat();
        for bytes in
            [text.clone(), gzip(&text), halves, zstd.clone(), [zstd.clone(), zstd].concat()]
        {
            assert!(all(&bytes).unwrap().starts_with(&text));
        }
        assert_eq!(all(b"").unwrap(), b"");
    }

    #[test]
    fn what_layers_are_not_compressed_by_is_named() {
        let named: [(&[u8], _); 4] = [
            (b"\xfd7zXZ\0\0\x04", "xz"),
            (b"BZh91AY&SY\x12", "bzip2"),
            (b"LZIP\x01\x0c", "lzip"),
            (b"\x04\x22\x4d\x18\x64", "lz4"),
        ];
        for (start, program) in named {
            let error = all(start).unwrap_err().to_string();
            assert!(error.contains(&format!("compressed by {program},")), "{error}");
        }
        // The first names of archives.
        for name in [&b"BZh9/\0\0\0\0\0"[..], b"LZIP-1.0/\0"] {
            assert_eq!(all(name).unwrap(), name);
        }
    }

    #[test]
    fn broken_and_endless_streams_are_errors() {
        let text = b"hello".repeat(1000);
        let whole = gzip(&text);
        assert!(all(&whole[..whole.len() - 4]).is_err(), "cut off");
        let bomb = vec![0; 8 << 20];
        for bytes in [gzip(&bomb), zstd::encode_all(&bomb[..], 1).unwrap(), bomb] {
            let error = all(&bytes).unwrap_err();
            assert!(error.to_string().contains("most-unpacked"), "{error}");
        }
    }
}
