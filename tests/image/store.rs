//! The store when something goes wrong.

use std::time::Duration;

use crate::common::until;
use crate::help::{Shop, TREE};

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let Some(shop) = Shop::root("a_full_disk_is_said_and_loses_nothing") else { return };
    let ran = shop.run(&format!(
        r#"{TREE}
        mkdir small; mount -t tmpfs -o size=20M small small
        d image import tree one --store small/store >/dev/null
        dd if=/dev/urandom of=tree/data/big bs=1M count=16 status=none; mksquashfs tree big.sqfs -quiet -no-progress >/dev/null
        d image import tree two --store small/store 2>err && echo imported; cat err
        d image import big.sqfs two --store small/store 2>err && echo imported; cat err
        ls small/store/incoming | wc -l
        d image list --json --store small/store | jq -r '.[].name'; d image verify --store small/store; d image gc --all --store small/store
        umount small"#
    ));
    let said = ran.expect(0, "full").out();
    assert!(!said.contains("imported"), "{said}");
    assert!(
        said.matches("no space left").count() == 2 && said.contains("denovo image gc"),
        "{said}"
    );
    assert!(said.contains("\n0\none:latest\n") && said.contains(": whole"), "{said}");
}

#[test]
fn an_interrupted_import_leaves_nothing() {
    let Some(shop) = Shop::root("an_interrupted_import_leaves_nothing") else { return };
    for signal in [libc_signal::INT, libc_signal::TERM] {
        let script = r#"mkfifo -m 600 pipe 2>/dev/null || true; exec 6<>pipe; head -c 300000 /dev/zero >pipe 6>&- & exec "$0" image import - x <pipe"#;
        let script =
            script.replace("\"$0\"", &format!("'{}'", crate::common::binary(false).display()));
        let going = shop.start(shop.shell(&[], &script));
        let incoming = shop.work().join("var/lib/images/incoming");
        let entries = || std::fs::read_dir(&incoming).map_or(0, Iterator::count);
        until("the import is at work", || entries() == 1);
        std::thread::sleep(Duration::from_millis(50));
        going.signal(signal);
        assert_eq!(going.wait().code(), 128 + signal);
        assert_eq!(entries(), 0);
    }
}

/// Told to end while it waits for what reads its file; the half of it goes.
#[test]
fn an_interrupted_export_leaves_nothing() {
    let Some(shop) = Shop::root("an_interrupted_export_leaves_nothing") else { return };
    // mkfs.erofs of this shop says where it is, and never ends by itself.
    let script = format!(
        r#"{TREE}
        mkdir own; printf '#!/bin/sh\n[ "$1" = --help ] && exec echo --tar\necho $$ >"%s"/making; exec sleep 1000\n' "$W" >own/mkfs.erofs; chmod 755 own/mkfs.erofs
        d image import tree img >/dev/null; PATH=$W/own:$PATH exec '{}' image export img out.erofs"#,
        crate::common::binary(false).display()
    );
    let going = shop.start(shop.shell(&[], &script));
    let making = shop.work().join("making");
    let pid = || std::fs::read_to_string(&making).ok().and_then(|t| t.trim().parse::<u32>().ok());
    until("mkfs.erofs is at work", || pid().is_some());
    let incoming =
        || std::fs::read_dir(shop.work().join("var/lib/images/incoming")).unwrap().count();
    assert_eq!(incoming(), 1);
    // The program may be at work before whoever started it blocks signals again.
    std::thread::sleep(Duration::from_millis(50));
    going.signal(libc_signal::INT);
    assert_eq!(going.wait().code(), 130);
    assert_eq!(incoming(), 0);
    let left = std::fs::read_dir(shop.work()).unwrap().flatten();
    let left: Vec<_> = left.filter(|e| e.file_name().to_string_lossy().contains("erofs")).collect();
    assert!(left.is_empty(), "{left:?}");
    let pid = pid().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "mkfs.erofs goes on");
}

mod libc_signal {
    pub const INT: i32 = 2;
    pub const TERM: i32 = 15;
}

#[test]
fn what_a_killed_import_left_is_swept() {
    let Some(shop) = Shop::root("what_a_killed_import_left_is_swept") else { return };
    let said = shop.see(&format!(
        r#"{TREE}
        mkfifo pipe; exec 6<>pipe; head -c 60000 /dev/zero >&6
        d image import - x <pipe & sleep 0.5; kill -9 $(pgrep -P $! || echo $!) 2>/dev/null || true; kill -9 $! 2>/dev/null || true; wait || true
        ls "$W/var/lib/images/incoming" | wc -l
        d image import tree img >/dev/null; ls "$W/var/lib/images/incoming" | wc -l
        d image verify | sed 's/.*: //'"#
    ));
    assert_eq!(said, "1\n0\nwhole");
}

#[test]
fn names_space_and_damage_are_looked_after() {
    let Some(shop) = Shop::root("names_space_and_damage_are_looked_after") else { return };
    let said = shop.see(&format!(
        r#"{TREE}
        d image import tree one >/dev/null; d image tag one site.example/two:3 --json | jq -r .name
        d image list --json | jq -c 'map(.name)'; d image du --json | jq '.spare'
        d image remove one; d image remove one 2>&1 || echo refused
        d image gc --all --json | jq -c '.removed'
        d image remove site.example/two:3; d image gc --json | jq -c '[.removed, .young]'
        d image gc --all --dry-run --json | jq '.removed | length'; d image gc --all --json | jq '.removed | length'
        ls -R "$W/var/lib/images" | grep -c '^[0-9a-f]\{{64\}}' || true
        d image import tree one >/dev/null; printf x >>$(ls $W/var/lib/images/blobs/sha256/* | head -n 1); d image verify 2>&1 || echo damaged
        d image import tree one >/dev/null 2>&1 || true; d image verify >/dev/null 2>&1 || echo still damaged
        d image verify --discard 2>&1 || true; d image import tree one >/dev/null; d image verify | grep -o whole
        d image import tree 'Bad Name' 2>&1 || true; d image import /dev/null x 2>&1 || true"#
    ));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[..3],
        ["site.example/two:3", r#"["one:latest","site.example/two:3"]"#, "0"],
        "{said}"
    );
    assert!(lines[3].contains("there is none of this name"), "{said}");
    for line in ["refused", "[]", "[[],4]", "4", "0", "damaged", "still damaged", "whole"] {
        assert!(lines.contains(&line), "{line:?} in {said}");
    }
    assert!(said.contains("the file under this digest is sha256:"), "{said}");
    assert!(said.contains("no root file system"), "{said}");
}

#[test]
fn a_store_is_read_by_others_whatever_the_umask() {
    let Some(shop) = Shop::root("a_store_is_read_by_others_whatever_the_umask") else { return };
    let said = shop.see(&format!(
        r#"{TREE}
        umask 077
        d image import tree one --store store >/dev/null
        find store -type d ! -perm 755 -o -type f ! -perm -444"#
    ));
    assert_eq!(said, "", "closed to others");
}

#[test]
fn what_only_looks_makes_no_store_and_a_digest_is_held_to() {
    let test = "what_only_looks_makes_no_store_and_a_digest_is_held_to";
    let Some(shop) = Shop::root(test) else { return };
    let digest = format!("sha256:{}", "0".repeat(64));
    let said = shop.see(&format!(
        r#"{TREE}
        for verb in list verify gc du "inspect a" "remove a" "tag a b"; do
            d image $verb --store none 2>&1 | head -n 1
        done
        d explain image import tree a --store none >/dev/null
        ls -d none 2>&1 || true
        d image import tree one@{digest} --store store 2>&1 || ls -d store 2>&1 || true
        d image import tree one --store store >/dev/null
        d image tag one two@{digest} --store store 2>&1 || true
        d image remove one@{digest} --store store 2>&1 || true
        d image list --json --store store | jq -r '.[].name'"#
    ));
    assert_eq!(said.matches("none: there is no image store").count(), 7, "{said}");
    assert_eq!(said.matches("No such file").count(), 2, "none was made: {said}");
    assert_eq!(said.matches("a name to give has no digest").count(), 2, "{said}");
    assert!(said.contains("here one:latest is sha256:"), "{said}");
    assert!(said.ends_with("one:latest"), "{said}");
}
