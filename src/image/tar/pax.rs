//! Extended headers (POSIX.1-2001, pax, "pax Extended Header") and GNU's long
//! names, which say the same in another form.

use super::Error;

/// Extended attributes of one entry.
const MOST_XATTRS: usize = 256;
/// Bytes of one, as xattr(7) has it.
const LARGEST_XATTR: usize = 64 << 10;

/// What the headers before an entry say of it.
#[derive(Debug, Default)]
pub struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<i64>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: SparseWords,
    seen: bool,
}

/// GNU's records about sparse files (GNU tar, "Storing Sparse Files").
#[derive(Debug, Default)]
pub struct SparseWords {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    /// Format 0.1: offsets and lengths in one record.
    pub map: Option<Vec<u64>>,
    /// Format 0.0: one record each.
    pub pairs: Vec<u64>,
}

impl Extended {
    pub fn is_empty(&self) -> bool {
        !self.seen
    }

    pub fn long_name(&mut self, bytes: Vec<u8>) {
        self.seen = true;
        self.path.get_or_insert(without_end(bytes));
    }

    pub fn long_link(&mut self, bytes: Vec<u8>) {
        self.seen = true;
        self.link.get_or_insert(without_end(bytes));
    }

    /// # Errors
    /// A record is not one, or its value means nothing.
    pub fn read(&mut self, bytes: &[u8], after: &str) -> Result<(), Error> {
        self.seen = true;
        for record in records(bytes, after) {
            let (key, value) = record?;
            self.word(key, value).ok_or_else(|| Error::entry(after.as_bytes(), bad_value(key)))?;
        }
        Ok(())
    }

    fn word(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(seconds(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(decimal(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.pairs.push(decimal(value)?)
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|b| *b == b',').map(decimal);
                self.sparse.map = Some(numbers.collect::<Option<_>>()?);
            }
            _ => self.attribute(key, value)?,
        }
        Some(())
    }

    /// `SCHILY.xattr.NAME`, as GNU tar and Go write it. Others
    /// (`LIBARCHIVE.xattr`) repeat it, and what is no attribute is let go.
    fn attribute(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else { return Some(()) };
        let whole = !name.is_empty() && name.len() <= 255 && !name.contains(&0);
        if !whole || value.len() > LARGEST_XATTR || self.xattrs.len() >= MOST_XATTRS {
            return None;
        }
        self.xattrs.retain(|(n, _)| n != name);
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Some(())
    }

    /// A header for all entries that follow may hold a comment, not a name
    /// or a size.
    ///
    /// # Errors
    /// It does.
    pub fn refuse_global(bytes: &[u8], after: &str) -> Result<(), Error> {
        for record in records(bytes, after) {
            let (key, _) = record?;
            if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse") {
                return Err(Error::entry(
                    after.as_bytes(),
                    format!(
                        "a header after it sets {:?} for all entries",
                        String::from_utf8_lossy(key)
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn bad_value(key: &[u8]) -> String {
    format!("the value of {:?} in the header after it is none", String::from_utf8_lossy(key))
}

/// `LENGTH KEY=VALUE\n`, the length counting all of it.
fn records<'a>(
    bytes: &'a [u8],
    after: &'a str,
) -> impl Iterator<Item = Result<(&'a [u8], &'a [u8]), Error>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        // Some writers fill the block up.
        if rest.iter().all(|b| *b == 0) {
            return None;
        }
        let found = record(rest);
        let Some((key, value, next)) = found else {
            rest = &[];
            return Some(Err(Error::entry(
                after.as_bytes(),
                "the extended header after it is broken",
            )));
        };
        rest = next;
        Some(Ok((key, value)))
    })
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn record(bytes: &[u8]) -> Option<Record<'_>> {
    let blank = bytes.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&bytes[..blank])?).ok()?;
    let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

pub fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 20 && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

/// Whole seconds of a decimal fraction, rounded down.
fn seconds(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let fraction =
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.bytes().any(|b| b != b'0'))?;
    let number: i64 = whole.parse().ok()?;
    let below = whole.starts_with('-') && fraction;
    number.checked_sub(i64::from(below))
}

fn without_end(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}
