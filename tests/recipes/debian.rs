//! Recipes of Debian's packages. They need mmdebstrap and an archive; what is
//! made is kept below target/ by its recipe, so that only the first run is slow.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Case, binary, is_root, skip};

/// Whether apt reaches an archive of Debian.
fn archive(test: &str) -> bool {
    if !is_root() {
        skip(test, "needs root");
        return false;
    }
    let mut probe = Command::new(binary(false));
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/debian-12");
    let store = kept();
    probe.args(["explain", "image", "build"]).arg(recipe).arg("--store").arg(store);
    let ran = probe.stdin(Stdio::null()).output().unwrap();
    let there = Command::new("mmdebstrap").arg("--version").output().is_ok();
    if !ran.status.success() || !there {
        let why = String::from_utf8_lossy(&ran.stderr);
        let why = why.lines().next().unwrap_or("there is no mmdebstrap");
        skip(test, &format!("no Debian root can be made here: {why}"));
        return false;
    }
    true
}

/// The store that outlives the tests.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("images")
}

/// Longer than what `Case` waits for: packages are fetched and unpacked.
fn build(case: &Case, dir: &Path, store: &Path) -> std::process::Child {
    let mut command = case.denovo(&["image", "build"]);
    command.arg(dir).arg("--store").arg(store).arg("--force");
    command.env_remove("SOURCE_DATE_EPOCH").env_remove("DENOVO_CONFIG");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_debian_root_twice_is_the_same_image() {
    let test = "a_debian_root_twice_is_the_same_image";
    if !archive(test) {
        return;
    }
    let Some(case) = Case::root(test) else { return };
    let dir = case.directory("small");
    case.file(
        "small/bundle.toml",
        r#"
about = "as little of Debian as dpkg needs"
run = ["echo 'site:x:4000:' >>/etc/group; ldconfig; date >/var/log/made.log"]
[root]
from = "debian"
suite = "bookworm"
variant = "essential"
exclude = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"]
[[file]]
path = "/lib/site"
text = "through a link that the root has\n"
"#,
    );
    // At the same time, so in different directories and with different pids.
    let builds = ["store1", "store2"].map(|s| build(&case, &dir, &case.dir.join(s)));
    let digests = builds.map(|child| {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    });
    assert_eq!(digests[0], digests[1]);
    let tar = case.dir.join("root.tar");
    let mut export = case.denovo(&["image", "export", "small"]);
    export.arg(&tar).arg("--store").arg(case.dir.join("store1"));
    case.finish(export).expect(0, "export");
    let mut command = case.command("tar");
    command.args(["--list", "--file"]).arg(&tar);
    let list = case.finish(command).expect(0, "tar").out;
    assert!(list.contains("usr/lib/site"), "{list}");
    for stray in ["etc/hostname", "etc/resolv.conf", "made.log", "dpkg.log", "_dists_", ".deb\n"] {
        assert!(!list.contains(stray), "{stray} in {list}");
    }
    let mut command = case.command("tar");
    command
        .args(["--extract", "--to-stdout", "--file"])
        .arg(&tar)
        .args(["./etc/machine-id", "./etc/group"]);
    let text = case.finish(command).expect(0, "tar").out;
    assert!(text.contains("site:x:4000:"), "{text}");
    assert!(!text.lines().any(|l| l.len() == 32 && l.bytes().all(|b| b.is_ascii_hexdigit())));
}

#[test]
fn one_mpi_program_runs_in_three_releases_at_the_same_time() {
    let test = "one_mpi_program_runs_in_three_releases_at_the_same_time";
    if !archive(test) {
        return;
    }
    let Some(case) = Case::root(test) else { return };
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/releases/run");
    let mut command = case.command(demo);
    command.arg(binary(false)).env("STORE", kept()).env_remove("DENOVO_CONFIG");
    let out = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}{err}");
    // glibc and OpenMPI of each release, as Debian has them.
    for (release, glibc, mpi) in
        [("11.", "2.31", "v4.1.0"), ("12.", "2.36", "v4.1.4"), ("13.", "2.41", "v5.0.7")]
    {
        let line = text.lines().find(|l| l.starts_with(&format!("Debian {release}")));
        let line = line.unwrap_or_else(|| panic!("Debian {release} in {text}{err}"));
        for words in [glibc, mpi, "2 ranks, sum 1", "at the same time"] {
            assert!(line.contains(words), "{words} in {line}");
        }
    }
}
