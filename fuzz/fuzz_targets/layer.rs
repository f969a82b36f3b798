//! Any bytes are two layers: they are read and merged, or refused; no name
//! that comes out leads elsewhere.
#![no_main]

use denovo::image::merge::Tree;
use denovo::image::tar::Reader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut tree = Tree::default();
    let (first, second) = bytes.split_at(bytes.len() / 1024 * 512);
    for (number, layer) in [first, second].into_iter().enumerate() {
        let Ok(plain) = denovo::image::decompress::open(layer) else { return };
        let plain = denovo::image::decompress::Bounded::new(plain, 1 << 24);
        let mut reader = Reader::new(plain);
        let mut entries = Vec::new();
        while let Ok(Some(entry)) = reader.next_entry() {
            assert!(entry.path.parts().all(|part| part != b".." && part != b"."));
            entries.push(entry);
        }
        if tree.add(number, entries).is_err() {
            return;
        }
    }
    for entry in tree.directories().chain(tree.rest()) {
        assert!(entry.path.parts().all(|part| part != b".." && part != b"."));
    }
});
