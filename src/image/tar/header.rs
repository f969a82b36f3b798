//! One header block: ustar (POSIX.1-1988), GNU, and v7.

use super::Error;

pub const BLOCK: usize = 512;

/// The fields of a block.
#[derive(Debug)]
pub struct Header {
    /// Type flag.
    pub kind: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: i64,
    pub major: u32,
    pub minor: u32,
    /// For GNU's sparse map.
    pub block: Box<[u8; BLOCK]>,
}

impl Header {
    /// # Arguments
    /// * `after` - name of the entry before, for an error
    ///
    /// # Errors
    /// The checksum is wrong, or a number is none.
    pub fn parse(block: &[u8; BLOCK], after: &str) -> Result<Self, Error> {
        let sum = checksum(block);
        if number(&block[148..156]) != Some(i128::from(sum)) {
            return Err(Error::Checksum(after.to_owned()));
        }
        let gnu = &block[257..265] == b"ustar  \0";
        let ustar = &block[257..263] == b"ustar\0";
        let mut name = text(&block[..100]).to_vec();
        if ustar {
            let prefix = text(&block[345..500]);
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
        }
        let field = |range: std::ops::Range<usize>, what: &str| {
            number(&block[range])
                .ok_or_else(|| Error::entry(&name, format!("its {what} is no number")))
        };
        let unsigned = |range, what: &str| {
            u64::try_from(field(range, what)?)
                .map_err(|_| Error::entry(&name, format!("its {what} is out of range")))
        };
        let kind = block[156];
        let device = |range| {
            let known = (gnu || ustar) && matches!(kind, b'3' | b'4');
            let number = if known { unsigned(range, "device number")? } else { 0 };
            u32::try_from(number)
                .map_err(|_| Error::entry(&name, "its device number is out of range"))
        };
        Ok(Self {
            kind,
            link: text(&block[157..257]).to_vec(),
            mode: (unsigned(100..108, "mode")? & 0o7777) as u32,
            uid: unsigned(108..116, "uid")?,
            gid: unsigned(116..124, "gid")?,
            size: unsigned(124..136, "size")?,
            mtime: i64::try_from(field(136..148, "time")?)
                .map_err(|_| Error::entry(&name, "its time is out of range"))?,
            major: device(329..337)?,
            minor: device(337..345)?,
            block: Box::new(*block),
            name,
        })
    }
}

/// The sum of all bytes, those of the sum itself counted as blanks.
pub fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    let own: u32 = block[148..156].iter().map(|b| u32::from(*b)).sum();
    sum - own + 8 * u32::from(b' ')
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal digits between blanks, or GNU's binary form: the first bit set, the
/// rest a signed number, most significant byte first.
pub fn number(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = if negative { -1 } else { 0 };
        let first = if negative { i128::from(first) - 0x100 } else { i128::from(first & 0x7f) };
        let rest = &field[1..];
        // More than 64 bits mean nothing here.
        if rest.len() > 8 && rest[..rest.len() - 8].iter().any(|b| *b != (start as u8)) {
            return None;
        }
        if rest.len() > 8 && !matches!(first, 0 | -1) {
            return None;
        }
        let head = if rest.len() > 8 { start } else { first };
        let tail = &rest[rest.len().saturating_sub(8)..];
        return Some(tail.iter().fold(head, |n, b| (n << 8) | i128::from(*b)));
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(digits.len());
    // A field of NULs is zero; so v7 and star leave what they do not set.
    digits[..end]
        .iter()
        .try_fold(0, |n, b| matches!(b, b'0'..=b'7').then(|| n * 8 + i128::from(b - b'0')))
}
