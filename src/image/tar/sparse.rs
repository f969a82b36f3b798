//! Sparse files: GNU's old format, and 0.0, 0.1 and 1.0 in extended headers
//! (GNU tar manual, "Storing Sparse Files").

use std::io::Read;

use super::header::{BLOCK, Header, number};
use super::pax::{Extended, decimal};
use super::{Entry, Error, Kind, Path, Reader};

/// Pieces of one file.
const MOST_PIECES: usize = 1 << 17;

/// Reads where an entry's data belongs, if it is a sparse file.
pub fn read<R: Read>(
    reader: &mut Reader<R>,
    header: &Header,
    extended: &Extended,
    entry: &mut Entry,
) -> Result<(), Error> {
    let words = &extended.sparse;
    let (map, size) = if header.kind == b'S' {
        old(reader, header, entry)?
    } else if words.major == Some(1) && words.minor == Some(0) {
        (in_data(reader, entry)?, words.size)
    } else if words.major.is_some_and(|major| major > 0) {
        return Err(bad(entry, "is sparse in a format that is not known"));
    } else if let Some(map) = &words.map {
        (pairs(map, entry)?, words.size)
    } else if !words.pairs.is_empty() {
        (pairs(&words.pairs, entry)?, words.size)
    } else {
        return Ok(());
    };
    if entry.kind != Kind::File {
        return Err(bad(entry, "is sparse, although it is no file"));
    }
    if let Some(name) = &words.name {
        entry.path = Path::parse(name).map_err(|why| bad(entry, why))?;
    }
    let size = size.ok_or_else(|| bad(entry, "is sparse without a size"))?;
    check(&map, size, entry)?;
    entry.size = size;
    entry.sparse = Some(map);
    Ok(())
}

fn bad(entry: &Entry, why: &str) -> Error {
    Error::entry(entry.path.bytes(), why)
}

/// Pieces follow one another within the file, and are all that is stored.
fn check(map: &[(u64, u64)], size: u64, entry: &Entry) -> Result<(), Error> {
    let mut end = 0;
    let mut stored = 0u64;
    for (offset, length) in map {
        let next = offset.checked_add(*length).filter(|next| *next <= size && *offset >= end);
        end = next.ok_or_else(|| bad(entry, "its pieces overlap or lie beyond its end"))?;
        stored += length;
    }
    if stored == entry.stored && size <= i64::MAX as u64 {
        Ok(())
    } else {
        Err(bad(entry, "its pieces are not what is stored of it"))
    }
}

fn pairs(numbers: &[u64], entry: &Entry) -> Result<Vec<(u64, u64)>, Error> {
    if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MOST_PIECES {
        return Err(bad(entry, "its list of pieces is broken"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

type OldMap = (Vec<(u64, u64)>, Option<u64>);

/// Four pieces in the header, 21 in each block that follows while a flag
/// says so; these blocks are not counted in the size.
fn old<R: Read>(reader: &mut Reader<R>, header: &Header, entry: &Entry) -> Result<OldMap, Error> {
    let block = &header.block;
    let broken = || bad(entry, "its list of pieces is broken");
    let field = |bytes: &[u8]| number(bytes).and_then(|n| u64::try_from(n).ok());
    let mut map = Vec::new();
    let take = |bytes: &[u8], map: &mut Vec<(u64, u64)>| -> Result<(), Error> {
        for piece in bytes.chunks_exact(24) {
            if piece[12..].iter().all(|b| matches!(b, 0 | b' ')) {
                break;
            }
            let offset = field(&piece[..12]).ok_or_else(broken)?;
            map.push((offset, field(&piece[12..]).ok_or_else(broken)?));
        }
        Ok(())
    };
    take(&block[386..482], &mut map)?;
    let mut more = block[482] != 0;
    while more {
        let next = reader.block()?.ok_or(Error::Truncated("a list of pieces"))?;
        take(&next[..504], &mut map)?;
        more = next[504] != 0;
        if map.len() > MOST_PIECES {
            return Err(broken());
        }
    }
    Ok((map, Some(field(&block[483..495]).ok_or_else(broken)?)))
}

/// Format 1.0: lines of numbers before the data, to the end of a block.
fn in_data<R: Read>(reader: &mut Reader<R>, entry: &mut Entry) -> Result<Vec<(u64, u64)>, Error> {
    let broken = |entry: &Entry| bad(entry, "its list of pieces is broken");
    let mut numbers: Vec<u64> = Vec::new();
    let mut wanted = None;
    let mut line = Vec::new();
    while wanted.is_none_or(|n| numbers.len() < n) {
        let mut block = [0; BLOCK];
        reader.data().read_exact(&mut block)?;
        entry.stored = entry.stored.checked_sub(BLOCK as u64).ok_or_else(|| broken(entry))?;
        for byte in block {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > 20 {
                    return Err(broken(entry));
                }
                continue;
            }
            let number = decimal(&line).ok_or_else(|| broken(entry))?;
            line.clear();
            match wanted {
                None if number > MOST_PIECES as u64 => return Err(broken(entry)),
                None => wanted = Some(number as usize * 2),
                Some(_) => numbers.push(number),
            }
            if wanted == Some(numbers.len()) {
                break;
            }
        }
    }
    pairs(&numbers, entry)
}
