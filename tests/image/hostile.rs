//! Images that are made to do harm, through the whole program: each is
//! refused, says why, and the canaries beside the root live.

use std::io::Write;

use crate::help::{Shop, TREE};

/// A tar header: name, type flag, size, link target.
fn header(name: &str, flag: u8, size: u64, link: &str) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0004755\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn file(name: &str, text: &str) -> Vec<u8> {
    let mut bytes = header(name, b'0', text.len() as u64, "");
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut all = parts.concat();
    all.resize(all.len() + 1024, 0);
    all
}

fn link(name: &str, to: &str) -> Vec<u8> {
    header(name, b'2', 0, to)
}

fn hard(name: &str, to: &str) -> Vec<u8> {
    header(name, b'1', 0, to)
}

#[test]
fn layers_that_lead_out_are_refused_or_stay_inside() {
    let Some(shop) = Shop::root("layers_that_lead_out_are_refused_or_stay_inside") else { return };
    let canary = shop.dir.join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("file"), "alive").unwrap();
    let out = canary.display().to_string();
    let up = format!("../../../../../../..{out}");
    let in_file = |dir: &str| format!("{dir}/file");
    let pwned = "pwned";
    // Refused (the words), or the names that the root has in the end.
    let refused: [(&str, Vec<Vec<u8>>, &str); 10] = [
        ("a name with ..", vec![file(&format!("{up}/new"), pwned)], "has .."),
        ("a hard link with ..", vec![hard("h", &in_file(&up))], "has .."),
        ("a hard link to an absolute name", vec![hard("h", &in_file(&out))], "not there"),
        ("a root that is a link", vec![link(".", &out), file("new", pwned)], "replace the root"),
        ("a root called / that is a link", vec![link("/", &out)], "replace the root"),
        ("a whiteout of ..", vec![file("d/.wh...", "")], "takes away"),
        ("a directory with data", vec![header("d", b'5', 512, ""), file("hidden", "")], "has data"),
        ("more after the end", vec![file("a", ""), vec![0; 512], file("b", "")], "end block"),
        ("a type that is none", vec![header("v", b'V', 0, "")], "of type"),
        ("a file cut short", vec![header("f", b'0', 1 << 30, "")], "ends in the middle"),
    ];
    for (what, parts, words) in &refused {
        std::fs::write(shop.dir.join("bad.tar"), archive(parts)).unwrap();
        let ran =
            shop.run("d image import bad.tar bad 2>&1 || true; ls var/lib/images/refs | wc -l");
        let said = ran.out();
        assert!(said.contains(words) && said.ends_with('0'), "{what}: {said}");
    }
    let inside: [(&str, Vec<Vec<u8>>, &str); 4] = [
        ("a link out, and a file through it", vec![link("l", &out), file("l/file", pwned)], "file"),
        (
            "links through links",
            vec![link("a", &up), link("b", "a"), file("b/file", pwned)],
            "file",
        ),
        (
            "a link, then a hard link through it",
            vec![file("x", "1"), link("l", &out), hard("l/file", "x")],
            "file",
        ),
        ("an absolute name", vec![file(&in_file(&out), pwned)], "file"),
    ];
    for (what, parts, name) in &inside {
        std::fs::write(shop.dir.join("bad.tar"), archive(parts)).unwrap();
        // Once as a tree for the kernel, once unpacked.
        let said = shop.see("d image import bad.tar bad >/dev/null; d image export bad out.tar; tar tf out.tar; rm out.tar");
        assert!(said.contains(format!("{out}/{name}").trim_start_matches('/')), "{what}: {said}");
    }
    let found: Vec<_> = std::fs::read_dir(&canary).unwrap().flatten().collect();
    assert_eq!(found.len(), 1);
    assert_eq!(std::fs::read_to_string(canary.join("file")).unwrap(), "alive");
}

/// Numbers that a SIF or a squashfs says about itself.
#[test]
fn single_files_that_lie_about_themselves_are_refused() {
    let Some(shop) = Shop::root("single_files_that_lie_about_themselves_are_refused") else {
        return;
    };
    let whole = crate::inputs::sif(&[0; 4096]);
    let with = |at: usize, value: u64| {
        let mut file = whole.clone();
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        file
    };
    let mut cut = [&b"hsqs"[..], &[0; 92]].concat();
    cut[28] = 4;
    // Where the specification has them: descriptors (number, place), and the
    // second one's place and size.
    let second = 128 + 585;
    for (what, file, words) in [
        ("more descriptors than there are", with(88, 40), "ends within its descriptors"),
        ("descriptors without number", with(88, u64::MAX), "its header is damaged"),
        ("descriptors beyond the end", with(96, u64::MAX), "its header is damaged"),
        ("a root beyond the end", with(second + 17, 1 << 40), "beyond its end"),
        ("a root that wraps around", with(second + 17, u64::MAX - 4095), "beyond its end"),
        ("a root larger than the file", with(second + 25, u64::MAX), "beyond its end"),
        ("no header", whole[..100].to_vec(), "too short"),
        ("no squashfs in its place", whole.clone(), "no squashfs of version 4"),
        ("a squashfs of nothing", cut, "superblock says"),
    ] {
        std::fs::write(shop.dir.join("bad"), file).unwrap();
        let said =
            shop.run("d image import bad bad 2>&1 || true; ls var/lib/images/refs | wc -l").out();
        assert!(said.contains(words) && said.ends_with('0'), "{what}: {said}");
    }
}

#[test]
fn documents_that_mislead_are_refused() {
    let Some(shop) = Shop::root("documents_that_mislead_are_refused") else { return };
    let digest = format!("sha256:{}", "0".repeat(64));
    let part = |d: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{d}","size":2}}"#
        )
    };
    let index = |parts: &str| format!(r#"{{"schemaVersion":2,"manifests":[{parts}]}}"#);
    for (what, text, words) in [
        ("both lists", r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(), "both"),
        ("a path for a digest", index(&part("sha256:../../../../etc/passwd")), "manifest"),
        ("a short digest", index(&part("sha256:00")), "manifest"),
        ("upper case", index(&part(&digest.replace('0', "A"))), "manifest"),
        ("a weak hash", index(&part(&format!("md5:{}", "0".repeat(32)))), "algorithm"),
        ("a crowd", index(&vec![part(&digest); 10_000].join(",")), "allowed"),
        ("nothing of it there", index(&part(&digest)), "cannot be read"),
    ] {
        let layout = shop.dir.join("layout");
        std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        std::fs::write(layout.join("index.json"), text).unwrap();
        let said = shop.run("d image import layout bad 2>&1").out();
        assert!(said.contains(words), "{what}: {said}");
    }
}

#[test]
fn a_bomb_ends_at_the_sites_limit() {
    let Some(shop) = Shop::root("a_bomb_ends_at_the_sites_limit") else { return };
    std::fs::write(
        shop.dir.join("denovo.toml"),
        "[images]\nmost-unpacked = 1000000\nmost-entries = 100\n",
    )
    .unwrap();
    let mut many = Vec::new();
    (0..200).for_each(|n| many.extend(file(&format!("f{n}"), "")));
    std::fs::write(shop.dir.join("many.tar"), archive(&[many])).unwrap();
    let mut bomb = std::fs::File::create(shop.dir.join("bomb.tar")).unwrap();
    bomb.write_all(&header("zeros", b'0', 1 << 28, "")).unwrap();
    bomb.set_len(512 + (1 << 28) + 1024).unwrap();
    let ran = shop.run(
        "mkdir -p etc; cp denovo.toml etc/; mkdir -p /etc/denovo; mount --bind etc /etc/denovo
        gzip -k bomb.tar; zstd -q -k bomb.tar
        for f in bomb.tar.gz bomb.tar.zst many.tar; do d image import $f bad 2>&1 || true; done; ls var/lib/images/refs | wc -l",
    );
    let said = ran.out();
    assert_eq!(said.matches("that the site allows").count(), 3, "{said} {}", ran.err);
    assert!(said.contains("images.most-entries") && said.ends_with('0'), "{said}");
}

/// CVE-2026-94603's kind: what an image says of itself is no option of whoever runs it.
#[test]
fn what_an_image_says_of_itself_loosens_nothing() {
    let Some(shop) = Shop::root("what_an_image_says_of_itself_loosens_nothing") else { return };
    let words = [
        "io.podman.annotations.privileged=TRUE",
        "io.podman.annotations.seccomp=unconfined",
        "io.container.manager=libpod",
        "org.criu.config=/etc/shadow",
        "run.oci.keep_original_groups=1",
        "run.oci.mount_context_type=rootcontext",
        "run.oci.systemd.force_cgroup_v1=/sys/fs/cgroup",
        "org.systemd.property.DevicePolicy='auto'",
        "io.kubernetes.cri-o.userns-mode=host",
        "denovo.network=host",
    ];
    let all =
        |option: &str| -> String { words.iter().map(|w| format!(" {option} \"{w}\"")).collect() };
    let said = shop.see(&format!(
        r#"{TREE}
        umoci init --layout plain.oci; umoci new --image plain.oci:a; tar -C tree -cf l.tar .; umoci raw add-layer --image plain.oci:a l.tar; cp -r plain.oci hostile.oci
        umoci config --image hostile.oci:a{labels}{annotations}
        for name in plain hostile; do
            d image import $name.oci $name >/dev/null
            d job explain run --image $name --id {id} -- true | sed "s/$name//g; s/[0-9a-f]\{{64\}}//g" >$name.plan
            run --image $name -- sh -c 'grep -E "^(Cap|NoNewPrivs|Seccomp:|Groups)" /proc/self/status; cat /proc/self/uid_map; ls -1 /dev' >$name.seen
        done
        d image inspect --json hostile | grep -c privileged
        wc -l <plain.plan; diff plain.plan hostile.plan && echo same plan
        grep -E "CapEff|NoNewPrivs|Seccomp:" hostile.seen; diff plain.seen hostile.seen && echo same inside"#,
        id = shop.id("says"),
        labels = all("--config.label"),
        annotations = all("--manifest.annotation"),
    ));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].parse::<u32>().is_ok_and(|n| n > 0), "the image has them: {said}");
    assert!(lines[1].parse::<u32>().is_ok_and(|n| n > 20), "{said}");
    for line in ["same plan", "same inside", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(lines.contains(&line), "{line}: {said}");
    }
}

/// CVE-2026-41567's kind: an image that brings the programs by which it is unpacked.
#[test]
fn an_images_own_decompressors_are_never_run() {
    let Some(shop) = Shop::root("an_images_own_decompressors_are_never_run") else { return };
    let said = shop.see(&format!(
        r#"{TREE}
        for dir in bin usr/bin usr/local/bin sbin; do
            mkdir -p tree/$dir
            for name in xz unxz xzcat gzip gunzip zcat unpigz pigz zstd unzstd bzip2 tar mksquashfs unsquashfs squashfuse_ll; do
                printf '#!/bin/sh\necho "$0 $*" >>%s/ran; exit 1\n' "$W" >tree/$dir/$name; chmod 755 tree/$dir/$name
            done
        done
        tree/usr/bin/xz by hand || true; wc -l <ran; rm ran
        umoci init --layout oci; umoci new --image oci:a; tar -C tree -cf l.tar .; umoci raw add-layer --image oci:a l.tar
        d image import oci gz >/dev/null; gzip -k l.tar; d image import l.tar.gz gz2 >/dev/null
        zstd -q l.tar; d image import l.tar.zst zst >/dev/null; d image import tree dir >/dev/null
        for image in gz gz2 zst dir; do
            d image export $image $image.out.tar; d image verify $image >/dev/null; run --image $image -- cat /etc/name
        done
        xz -k l.tar; d image import l.tar.xz xz 2>&1 || true
        ls -d ran tree/ran 2>/dev/null || echo nothing ran"#,
    ));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "1", "the canary can tell: {said}");
    assert_eq!(lines.iter().filter(|l| **l == "image").count(), 4, "{said}");
    assert!(said.contains("compressed by xz"), "{said}");
    assert_eq!(lines.last(), Some(&"nothing ran"), "{said}");
}
