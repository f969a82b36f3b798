//! Apptainer's single file (SIF specification, "Global Header", "Descriptors"):
//! where in it the squashfs is.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::problem::Problem;

const DESCRIPTOR: usize = 585;
/// Descriptors of one file.
const MOST: u64 = 4096;
const PARTITION: u32 = 0x4004;
const SQUASHFS: u32 = 1;

/// After the 32 bytes that make it executable.
pub fn is_sif(start: &[u8]) -> bool {
    start.get(32..41) == Some(b"SIF_MAGIC")
}

/// Offset and length in bytes of the first squashfs partition; one that is
/// the primary system's comes before others.
///
/// # Errors
/// There is none.
pub fn squashfs_partition(file: &mut File, source: &Path) -> Result<(u64, u64), Problem> {
    let bad = |why: &str| {
        Problem::user(format!("{}: {why}", source.display()))
            .hint("only a SIF with its root in a squashfs, not encrypted, can be read")
    };
    let length = file.metadata().map_err(|_| bad("cannot be read"))?.len();
    let mut header = [0; 128];
    file.read_exact(&mut header).map_err(|_| bad("is too short for a SIF"))?;
    let at = |offset: usize| word(&header, offset);
    let (total, offset) = (at(88), at(96));
    if total > MOST || offset > length {
        return Err(bad("its header is damaged"));
    }
    file.seek(SeekFrom::Start(offset)).map_err(|_| bad("its header is damaged"))?;
    let mut found = Vec::new();
    for _ in 0..total {
        let mut descriptor = [0; DESCRIPTOR];
        file.read_exact(&mut descriptor).map_err(|_| bad("ends within its descriptors"))?;
        let small = |offset: usize| word(&descriptor, offset) as u32;
        let used = descriptor[4] != 0;
        // Its "extra" part begins with file system and kind of partition.
        if used && small(0) == PARTITION && small(201) == SQUASHFS {
            let primary = small(205) == 2;
            found.push((!primary, word(&descriptor, 17), word(&descriptor, 25)));
        }
    }
    found.sort_by_key(|(later, ..)| *later);
    let (_, offset, size) = *found.first().ok_or_else(|| bad("has no squashfs in it"))?;
    if offset.checked_add(size).is_none_or(|end| end > length) {
        return Err(bad("its squashfs lies beyond its end"));
    }
    Ok((offset, size))
}

/// Little-endian, as every SIF on these machines is.
fn word(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}
