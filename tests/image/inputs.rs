//! Every kind of source, as other tools make it, and every form that goes out.

use crate::help::{LISTING, Shop, TREE};

/// A SIF with one squashfs partition, as its specification lays it out.
pub fn sif(squashfs: &[u8]) -> Vec<u8> {
    let (descriptors, data) = (128usize, 4096usize);
    let mut file = vec![0u8; data];
    let put = |file: &mut Vec<u8>, at: usize, value: u64| {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    file[..20].copy_from_slice(b"#!/usr/bin/env run-s");
    file[32..41].copy_from_slice(b"SIF_MAGIC");
    for (at, value) in [(88, 2), (96, descriptors as u64), (112, data as u64)] {
        put(&mut file, at, value);
    }
    // A definition file first, then the system partition.
    for (number, kind) in [(0, 0x4001u32), (1, 0x4004)] {
        let at = descriptors + number * 585;
        file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        file[at + 4] = 1;
        put(&mut file, at + 17, data as u64);
        put(&mut file, at + 25, squashfs.len() as u64);
        file[at + 201] = 1;
        file[at + 205] = 2;
    }
    file.extend_from_slice(squashfs);
    file.extend_from_slice(b"signature");
    file
}

#[test]
fn every_source_gives_the_same_root() {
    let Some(shop) = Shop::root("every_source_gives_the_same_root") else { return };
    shop.see(&format!(
        r#"{TREE}
        tar --xattrs --xattrs-include='*' --format=posix -C tree -cf pax.tar .
        tar --xattrs --xattrs-include='*' --format=posix --sparse -C tree -cf sparse.tar .
        gzip -k pax.tar; zstd -q -k pax.tar
        mksquashfs tree root.sqfs -quiet -no-progress -comp zstd >/dev/null
        umoci init --layout oci; umoci new --image oci:one
        umoci raw add-layer --image oci:one pax.tar
        umoci config --image oci:one --config.env A=b --config.env LONELY= --config.label site=here
        skopeo --insecure-policy copy -q oci:oci:one docker-archive:saved.tar:site/saved:1
        skopeo --insecure-policy copy -q oci:oci:one oci-archive:layout.tar:one"#
    ));
    let squashfs = std::fs::read(shop.work().join("root.sqfs")).unwrap();
    std::fs::write(shop.work().join("root.sif"), sif(&squashfs)).unwrap();
    let said = shop.see(&format!(
        r#"{LISTING}
        n=0
        for source in tree pax.tar pax.tar.gz pax.tar.zst sparse.tar root.sqfs root.sif oci saved.tar layout.tar -; do
            n=$((n + 1))
            d image import $source img:$n <pax.tar >/dev/null
            d image export img:$n out.tar
            listing out.tar >list; rm out.tar
            echo "$source $(sha256sum <list | cut -c1-16) $(wc -l <list)"
        done
        listing pax.tar >list; echo "truth $(sha256sum <list | cut -c1-16) $(wc -l <list)"
        d image inspect --json img:8 | jq -c '[.config.env, .config.labels]'
        d image verify | sed 's/.*: //'; ls "$W/var/lib/images/incoming" | wc -l
        for source in saved layout; do d image import - piped <$source.tar 2>&1 | head -n 1; done"#
    ));
    let lines: Vec<&str> = said.lines().collect();
    let truth = lines[11].strip_prefix("truth ").unwrap();
    for line in &lines[..11] {
        let (source, sum) = line.split_once(' ').unwrap();
        assert_eq!(sum, truth, "{source}\n{said}");
    }
    assert_eq!(lines[12..15], [r#"[["A=b","LONELY="],{"site":"here"}]"#, "whole", "0"], "{said}");
    // Of what is piped in only a root is taken.
    assert_eq!(said.matches("an archive of images, not of a root").count(), 2, "{said}");
}

#[test]
fn the_same_source_gives_the_same_digest() {
    let Some(shop) = Shop::root("the_same_source_gives_the_same_digest") else { return };
    let said = shop.see(&format!(
        r#"{TREE}
        d image import tree a; d image inspect --json a | jq -r .flat.file
        rm -rf "$W/var/lib/images"
        d image import tree a; d image inspect --json a | jq -r .flat.file"#
    ));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], lines[2..], "{said}");
}

#[test]
fn layers_made_by_umoci_add_up_as_umoci_has_it() {
    let Some(shop) = Shop::root("layers_made_by_umoci_add_up_as_umoci_has_it") else { return };
    let said = shop.see(&format!(
        r#"{TREE}{LISTING}
        umoci init --layout oci; umoci new --image oci:a
        umoci unpack --image oci:a b1; cp -a tree/. b1/rootfs/; umoci repack --image oci:a b1
        umoci unpack --image oci:a b2
        rm -r b2/rootfs/data/deep b2/rootfs/data/soft; rm b2/rootfs/etc/name; mkdir b2/rootfs/etc/name
        echo new >b2/rootfs/data/new; rm -r b2/rootfs/tmp; echo file >b2/rootfs/tmp; ln b2/rootfs/data/hard b2/rootfs/data/harder
        umoci repack --image oci:a b2
        umoci unpack --image oci:a b3; rm -r b3/rootfs/data/nn*; chmod 600 b3/rootfs/data/new; umoci repack --image oci:a b3
        umoci unpack --image oci:a end; tar --xattrs --xattrs-include='*' --format=posix -C end/rootfs -cf end.tar .
        d image import oci img >/dev/null; d image export img mine.tar
        same() {{ listing $1 | cut -d' ' -f 1-4,6-; }}
        d image inspect --json img | jq '.layers | length'
        diff <(same end.tar) <(same mine.tar) && echo same"#
    ));
    assert_eq!(said.lines().rev().take(2).collect::<Vec<_>>(), ["same", "3"], "{said}");
}

/// umoci 0.4.7 leaves out what fills the last block of what it inserts.
#[test]
fn a_layer_may_end_with_the_last_byte_of_its_last_file() {
    let Some(shop) = Shop::root("a_layer_may_end_with_the_last_byte_of_its_last_file") else {
        return;
    };
    let said = shop.see(
        r#"umoci init --layout oci; umoci new --image oci:a
        head -c 700 /dev/zero | tr '\0' x >file; umoci insert --image oci:a file /data/file
        d image import oci img >/dev/null; d image export img out.tar
        tar -xOf out.tar data/file | cmp - file && echo same; d image verify img | sed 's/.*: //'"#,
    );
    assert_eq!(said, "same\nwhole", "{said}");
}

#[test]
fn an_erofs_has_what_the_image_has() {
    let Some(shop) = Shop::root("an_erofs_has_what_the_image_has") else { return };
    if !std::path::Path::new("/usr/bin/mkfs.erofs").exists() {
        crate::common::skip("an_erofs_has_what_the_image_has", "mkfs.erofs is not installed");
        return;
    }
    let said = shop.see(&format!(
        r#"{TREE}
        d image import tree img >/dev/null; d image export img img.erofs
        ls "$W/var/lib/images/incoming" | wc -l; mkdir at
        mount -t erofs -o ro,loop img.erofs at 2>/dev/null || {{ echo none; exit; }}
        of() {{ (cd $1; find . -printf '%p %y %m %U %G %s %n %T@ %l\n' | awk '{{ if ($2 == "d") $6 = $7 = ""; print }}' | LC_ALL=C sort; getcap data/cap; sha256sum data/sparse bin/busybox); }}
        diff <(of tree) <(of at) && echo same
        umount at"#
    ));
    if said.ends_with("none") {
        crate::common::skip("an_erofs_has_what_the_image_has", "the kernel mounts no erofs");
        return;
    }
    assert_eq!(said, "0\nsame");
}

#[test]
fn other_tools_read_what_goes_out() {
    let Some(shop) = Shop::root("other_tools_read_what_goes_out") else { return };
    let said = shop.see(&format!(
        r#"{TREE}{LISTING}
        mksquashfs tree root.sqfs -quiet -no-progress >/dev/null
        tar --xattrs --xattrs-include='*' --format=posix -C tree -cf pax.tar .
        d image import pax.tar fromtar:1 >/dev/null; d image import root.sqfs fromsqfs:1 >/dev/null
        for name in fromtar fromsqfs; do
            d image export $name:1 $name.oci
            skopeo --insecure-policy copy -q oci:$name.oci:1 dir:$name.dir
            umoci unpack --image $name.oci:1 $name.bundle >/dev/null
            cmp $name.bundle/rootfs/data/cap tree/data/cap; getcap $name.bundle/rootfs/data/cap | grep -c cap_net_raw
            stat -c '%a %u %g' $name.bundle/rootfs/data/user
            d image export $name:1 $name.sqfs; unsquashfs -s $name.sqfs | grep -c 'SQUASHFS 4'
        done
        skopeo inspect --raw oci:fromtar.oci:1 | sha256sum | cut -c1-64
        d image inspect --json fromtar:1 | jq -r .manifest | cut -d: -f2
        d image export fromtar:1 there.oci; d image export fromtar:1 there.oci 2>&1 || echo refused"#
    ));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..6], ["1", "644 1234 4321", "1", "1", "644 1234 4321", "1"], "{said}");
    assert_eq!(lines[6], lines[7], "the digest stays what it was");
    assert!(said.contains("is there already") && said.ends_with("refused"), "{said}");
}
