use std::io::Write;

use super::*;
use crate::image::Reference;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

fn left_in_incoming(store: &Store) -> usize {
    fs::read_dir(store.directory().join("incoming")).map_or(0, Iterator::count)
}

#[test]
fn content_is_found_by_its_digest() {
    let (_dir, store) = store();
    let digest = store.put(b"hello").unwrap();
    assert!(store.has(&digest));
    assert_eq!(store.read_blob(&digest, 5).unwrap(), b"hello");
    assert!(store.read_blob(&digest, 4).is_err(), "larger than allowed");
    assert_eq!(store.blobs(), std::slice::from_ref(&digest));
    assert_eq!(left_in_incoming(&store), 0);
    fs::write(blob_in(store.directory(), &digest), "other").unwrap();
    assert!(store.read_blob(&digest, 5).unwrap_err().message.contains("something else"));
}

#[test]
fn what_is_not_the_expected_is_not_kept() {
    let (_dir, store) = store();
    let expected = Digest::of(b"wanted");
    let mut writer = store.incoming(Some(&expected)).unwrap();
    writer.write_all(b"other!").unwrap();
    assert!(writer.finish().is_err());
    assert!(!store.has(&expected));
    assert_eq!(left_in_incoming(&store), 0);
}

#[test]
fn an_interrupted_transfer_goes_on_where_it_ended() {
    let (_dir, store) = store();
    let expected = Digest::of(b"hello world");
    let mut writer = store.incoming(Some(&expected)).unwrap();
    writer.write_all(b"hello ").unwrap();
    drop(writer);
    let mut writer = store.incoming(Some(&expected)).unwrap();
    assert_eq!(writer.offset(), 6);
    let other = store.incoming(Some(&expected)).unwrap();
    assert_eq!(other.offset(), 0, "one of two takes it up");
    writer.write_all(b"world").unwrap();
    assert_eq!(writer.finish().unwrap(), (expected.clone(), 11));
    drop(other);
    assert_eq!(left_in_incoming(&store), 0);
}

#[test]
fn a_killed_writers_bytes_are_taken_up_and_at_last_swept() {
    let (_dir, store) = store();
    store.put(b"x").unwrap();
    let expected = Digest::of(b"hello world");
    // No pid is that large.
    let left_at = |host: &str| {
        let name = format!("sha256-{},{host},4194999,0", expected.hex());
        store.directory().join("incoming").join(name)
    };
    // In a container of that host's name the number may well be somebody's.
    let elsewhere = left_at(&format!("{}0", super::incoming::host()));
    fs::write(&elsewhere, "hello").unwrap();
    assert_eq!((store.incoming(Some(&expected)).unwrap().offset(), store.sweep(0)), (0, 0));
    fs::remove_file(&elsewhere).unwrap();
    let left = left_at(&super::incoming::host());
    fs::write(&left, "hello").unwrap();
    assert_eq!(store.incoming(Some(&expected)).unwrap().offset(), 5);
    assert!(!left.exists());
    assert_eq!(left_in_incoming(&store), 1, "kept for the next attempt");
    assert_eq!(store.sweep(3600), 0);
    assert_eq!(store.sweep(0), 5);
    assert_eq!(left_in_incoming(&store), 0);
}

#[test]
fn names_lead_to_manifests() {
    let (_dir, store) = store();
    let one = store.put(b"one").unwrap();
    let two = store.put(b"two").unwrap();
    let name: Reference = "site.example:5000/a/b:c".parse().unwrap();
    assert!(store.resolve(&name).is_err());
    assert!(store.set_ref(&name, &Digest::of(b"absent")).is_err());
    store.set_ref(&name, &one).unwrap();
    store.set_ref(&name, &two).unwrap();
    assert_eq!(store.resolve(&name).unwrap().manifest, two);
    let wrong: Reference = format!("site.example:5000/a/b:c@{one}").parse().unwrap();
    assert!(store.resolve(&wrong).is_err(), "tag and digest differ");
    let by_digest: Reference = format!("a@{one}").parse().unwrap();
    assert_eq!(store.resolve(&by_digest).unwrap().name, None);
    let long: Reference = format!("{}:{}", "a".repeat(255), "b".repeat(128)).parse().unwrap();
    store.set_ref(&long, &one).unwrap();
    assert_eq!(store.resolve(&long).unwrap().manifest, one);
    assert_eq!(store.refs().len(), 2);
    store.remove_ref(&name).unwrap();
    assert!(store.remove_ref(&name).is_err());
    assert_eq!(store.refs().len(), 1);
}

#[test]
fn a_store_lies_over_others_that_are_only_read() {
    let (_dir, below) = store();
    let (_own, own) = store_over(&below);
    let name: Reference = "shared".parse().unwrap();
    let digest = below.put(b"theirs").unwrap();
    below.set_ref(&name, &digest).unwrap();
    assert_eq!(own.resolve(&name).unwrap().place, below.directory());
    assert!(own.has(&digest));
    assert!(own.remove_ref(&name).unwrap_err().message.contains("only read"));
    let mine = own.put(b"mine").unwrap();
    own.set_ref(&name, &mine).unwrap();
    assert_eq!(own.resolve(&name).unwrap().manifest, mine);
    assert_eq!(below.resolve(&name).unwrap().manifest, digest);
    assert_eq!(own.refs().len(), 1);
    own.remove_ref(&name).unwrap();
    assert_eq!(own.resolve(&name).unwrap().manifest, digest);
}

fn store_over(below: &Store) -> (tempfile::TempDir, Store) {
    let (dir, own) = store();
    (dir, own.over(vec![below.directory().to_owned()]))
}
