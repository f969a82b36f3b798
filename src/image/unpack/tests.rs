use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn entry(path: &str, kind: Kind) -> Entry {
    Entry { kind, ..Entry::implied(Path::parse(path.as_bytes()).unwrap()) }
}

fn write(unpacker: &mut Unpacker, path: &str, text: &[u8]) -> Result<(), Problem> {
    let size = text.len() as u64;
    let entry = Entry { size, stored: size, mtime: 77, ..entry(path, Kind::File) };
    unpacker.file(&entry, &mut &text[..])
}

fn unpacker() -> (tempfile::TempDir, std::path::PathBuf, Unpacker) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let unpacker = Unpacker::new(&root, Owners::Caller).unwrap();
    (dir, root, unpacker)
}

#[test]
fn a_tree_is_written_as_it_is_described() {
    let (_dir, root, mut u) = unpacker();
    let shut = Entry { mode: 0o500, ..entry("d", Kind::Directory) };
    u.node(&entry("", Kind::Directory)).unwrap();
    u.node(&shut).unwrap();
    write(&mut u, "d/a", b"hello").unwrap();
    u.node(&entry("b", Kind::Hardlink(Path::parse(b"d/a").unwrap()))).unwrap();
    let map = Some(vec![(0, 2), (1 << 20, 2)]);
    let sparse = Entry { size: 2 << 20, stored: 4, sparse: map, ..entry("s", Kind::File) };
    u.file(&sparse, &mut &b"abcd"[..]).unwrap();
    u.node(&entry("null", Kind::Character(1, 3))).unwrap();
    u.node(&entry("fifo", Kind::Fifo)).unwrap();
    u.node(&entry("l", Kind::Symlink(b"/etc/passwd".to_vec()))).unwrap();
    assert_eq!(u.finish().unwrap(), 1, "one device left out");
    let of = |name: &str| root.join(name).symlink_metadata().unwrap();
    assert_eq!(of("d").permissions().mode() & 0o7777, 0o500);
    assert_eq!((of("d/a").len(), of("d/a").mtime(), of("b").ino()), (5, 77, of("d/a").ino()));
    let data = std::fs::read(root.join("s")).unwrap();
    assert_eq!((data.len(), &data[1 << 20..(1 << 20) + 3]), (2 << 20, &b"cd\0"[..]));
    assert!(of("s").blocks() < 512, "holes stay holes");
    assert!(of("l").is_symlink());
    super::remove(&root).unwrap();
    assert!(!root.exists());
}

/// What [`crate::image::merge::Tree`] never gives must not do harm either.
#[test]
fn nothing_is_written_through_links() {
    let (dir, root, mut u) = unpacker();
    let canary = dir.path().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("file"), "whole").unwrap();
    symlink(&canary, root.join("out")).unwrap();
    symlink(canary.join("file"), root.join("link")).unwrap();
    let up = Path::default().join(b"..").join(b"canary");
    for path in [Path::parse(b"out/x").unwrap(), Path::parse(b"link").unwrap(), up.join(b"x")] {
        let entry = Entry { path: path.clone(), kind: Kind::File, ..Entry::implied(path.clone()) };
        assert!(u.file(&entry, &mut &b""[..]).is_err(), "{path:?}");
        let entry = Entry { path: path.clone(), ..Entry::implied(path.clone()) };
        assert!(u.node(&entry).is_err(), "{path:?}");
    }
    for to in [Path::parse(b"out/file").unwrap(), up.join(b"file")] {
        assert!(u.node(&entry("h", Kind::Hardlink(to))).is_err());
    }
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 1);
    assert_eq!(std::fs::read(canary.join("file")).unwrap(), b"whole");
}
