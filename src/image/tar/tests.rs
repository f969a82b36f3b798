use proptest::prelude::*;

use super::*;

fn file(path: &str, data: &[u8]) -> (Entry, Vec<u8>) {
    let size = data.len() as u64;
    let path = Path::parse(path.as_bytes()).unwrap();
    let entry = Entry { kind: Kind::File, mode: 0o644, stored: size, size, ..Entry::implied(path) };
    (entry, data.to_vec())
}

fn archive(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        writer.entry(entry, &mut &data[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
    let mut reader = Reader::new(bytes);
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.data().read_to_end(&mut data)?;
        all.push((entry, data));
    }
    Ok(all)
}

#[test]
fn what_is_written_is_read_again() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let mut big_id = file("ids", b"x");
    big_id.0.uid = 4_000_000_000;
    big_id.0.mtime = -5;
    big_id.0.xattrs = vec![(b"security.capability".to_vec(), vec![1, 0, b'\n', b'=', 255])];
    let entries = [
        file("a", b"hello"),
        file(&long, &vec![7; 1025]),
        big_id,
        (Entry { kind: Kind::Symlink(b"../x".repeat(60)), ..file("link", b"").0 }, Vec::new()),
        (
            Entry { kind: Kind::Hardlink(Path::parse(b"a").unwrap()), ..file("hard", b"").0 },
            Vec::new(),
        ),
        (Entry { kind: Kind::Character(1, 3), ..file("null", b"").0 }, Vec::new()),
        (Entry::implied(Path::default()), Vec::new()),
    ];
    assert_eq!(read(&archive(&entries)).unwrap(), entries);
}

/// One header as it stands in an archive, with its fields overwritten.
fn raw(name: &[u8], flag: u8, size: u64, change: impl Fn(&mut [u8; BLOCK])) -> Vec<u8> {
    let bytes = archive(&[file("x", b"")]);
    let mut block: [u8; BLOCK] = bytes[..BLOCK].try_into().unwrap();
    block[..100].fill(0);
    block[..name.len()].copy_from_slice(name);
    block[156] = flag;
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    change(&mut block);
    let sum = header::checksum(&block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.to_vec()
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

fn pax(records: &[u8]) -> Vec<u8> {
    [raw(b"p", b'x', records.len() as u64, |_| {}), padded(records)].concat()
}

fn names(bytes: &[u8]) -> Result<Vec<String>, Error> {
    Ok(read(bytes)?.iter().map(|(e, _)| e.path.lossy().into_owned()).collect())
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["..", "../x", "a/../../x", "/../x", "a/..", "./.."] {
        assert!(names(&raw(name.as_bytes(), b'0', 0, |_| {})).is_err(), "{name}");
        let link = [&b"\0"[..], name.as_bytes()].concat();
        let hard = raw(b"h", b'1', 0, |b| b[157..157 + name.len()].copy_from_slice(&link[1..]));
        assert!(names(&hard).is_err(), "hard link to {name}");
    }
    assert_eq!(names(&raw(b"/etc/./x", b'0', 0, |_| {})).unwrap(), ["etc/x"]);
    let nul = pax(b"15 path=a\0bcd\n\n");
    assert!(names(&[nul, raw(b"x", b'0', 0, |_| {})].concat()).is_err());
}

#[test]
fn a_size_in_an_extended_header_wins() {
    // To a reader that goes by the ustar size of 0, the data is an entry.
    let hidden = padded(&raw(b"hidden", b'0', 0, |_| {}));
    let bytes = [pax(b"12 size=512\n"), raw(b"seen", b'0', 0, |_| {}), hidden].concat();
    assert_eq!(names(&bytes).unwrap(), ["seen"]);
}

#[test]
fn what_two_readers_could_see_differently_is_refused() {
    let entry = || raw(b"x", b'0', 0, |_| {});
    let global = b"14 path=other\n";
    for (what, bytes) in [
        ("a directory with data", [raw(b"d", b'5', 512, |_| {}), entry()].concat()),
        ("a link with data", [raw(b"l", b'1', 512, |b| b[157] = b'x'), entry()].concat()),
        ("more after an end block", [vec![0; BLOCK], entry()].concat()),
        ("a name for all", [raw(b"g", b'g', 14, |_| {}), padded(global), entry()].concat()),
        ("a volume", raw(b"v", b'V', 0, |_| {})),
        ("a wrong sum", {
            let mut b = entry();
            b[0] = b'y';
            b
        }),
        ("half a header", entry()[..300].to_vec()),
        ("half a file", [raw(b"x", b'0', 1000, |_| {}), vec![1; 512]].concat()),
        ("a header for nothing", pax(b"12 size=512\n")),
        ("a record too long", [pax(b"99 size=512\n"), entry()].concat()),
        ("a record without end", [pax(b"12 size=5123"), entry()].concat()),
        ("a negative size", [pax(b"11 size=-1\n"), entry()].concat()),
        ("a size beyond all", [pax(b"29 size=18446744073709551615\n"), entry()].concat()),
        ("uid -1", [pax(b"18 uid=4294967295\n"), entry()].concat()),
        ("uid 2^32", [pax(b"18 uid=4294967296\n"), entry()].concat()),
        ("a huge header", raw(b"p", b'x', 1 << 30, |_| {})),
        ("a link to nothing", raw(b"l", b'2', 0, |_| {})),
    ] {
        assert!(read(&bytes).is_err(), "{what}");
    }
}

#[test]
fn an_archive_may_end_after_the_last_byte_of_a_file() {
    let whole = archive(&[file("a", b"x"), file("b", &[1; 700])]);
    let data = whole.iter().rposition(|b| *b != 0).unwrap() + 1;
    // Without end blocks, without what fills the last block, and half of either.
    for end in [data, data + 1, data.next_multiple_of(BLOCK), whole.len() - BLOCK, whole.len()] {
        assert_eq!(names(&whole[..end]).unwrap(), ["a", "b"], "{end} of {}", whole.len());
    }
    assert!(names(&whole[..data - 1]).is_err(), "a byte is missing");
    assert!(names(&whole[..whole.len() - 3 * BLOCK]).is_err(), "a header is cut off");
}

#[test]
fn sparse_files_are_laid_out() {
    // 1.0: two pieces, "ab" at 0 and "cd" at 1000, of 2000 bytes.
    let map = padded(b"2\n0\n2\n1000\n2\n");
    let records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n24 GNU.sparse.name=file\n28 GNU.sparse.realsize=2000\n";
    let bytes =
        [pax(records), raw(b"GNUSparseFile.0/file", b'0', 516, |_| {}), map, padded(b"abcd")]
            .concat();
    let mut reader = Reader::new(&bytes[..]);
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!((entry.path.lossy().as_ref(), entry.size, entry.stored), ("file", 2000, 4));
    let mut writer = Writer::new(Vec::new());
    writer.entry(&entry, &mut reader.data()).unwrap();
    let (_, data) = &read(&writer.finish().unwrap()).unwrap()[0];
    let mut expected = vec![0; 2000];
    expected[..2].copy_from_slice(b"ab");
    expected[1000..1002].copy_from_slice(b"cd");
    assert_eq!(*data, expected);
    for wrong in
        [&b"2\n0\n2\n1\n2\n"[..], b"2\n0\n2\n1999\n2\n", b"1\n0\n2\n", b"x\n", b"99999999\n"]
    {
        let bytes =
            [pax(records), raw(b"f", b'0', 516, |_| {}), padded(wrong), padded(b"abcd")].concat();
        assert!(read(&bytes).is_err(), "{}", String::from_utf8_lossy(wrong));
    }
}

proptest! {
    #[test]
    fn no_bytes_confuse_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = read(&bytes);
    }

    #[test]
    fn a_damaged_archive_never_leads_out(changes in proptest::collection::vec((0usize..4096, any::<u8>()), 1..6)) {
        let mut bytes = archive(&[file(&"a/b".repeat(60), b"x"), file("c", &[1; 600])]);
        let length = bytes.len();
        for (at, byte) in changes {
            bytes[at % length] = byte;
        }
        // Sums are set right, so that more than the sum is tested.
        for block in bytes.chunks_exact_mut(BLOCK) {
            let array: &mut [u8; BLOCK] = block.try_into().unwrap();
            let sum = header::checksum(array);
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        if let Ok(entries) = read(&bytes) {
            for (entry, _) in entries {
                prop_assert!(entry.path.parts().all(|p| p != b".." && p != b"." && !p.is_empty()));
            }
        }
    }
}
