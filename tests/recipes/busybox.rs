//! Recipes that need no network.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Case, Ran};

fn bundles(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name)
}

/// A recipe's folder of the case's own.
fn recipe(case: &Case, name: &str, text: &str) -> PathBuf {
    let dir = case.directory(name);
    case.file(&format!("{name}/bundle.toml"), text);
    dir
}

fn build(case: &Case, store: &str, dir: &Path, more: &[&str]) -> Ran {
    let mut command = case.denovo(&["image", "build"]);
    command.arg(dir).arg("--store").arg(case.dir.join(store)).args(more);
    command.env("HOME", &case.dir).env_remove("SOURCE_DATE_EPOCH").env_remove("DENOVO_CONFIG");
    case.finish(command)
}

/// The manifest's digest.
fn digest(ran: Ran) -> String {
    let ran = ran.expect(0, "build");
    let line = ran.out.lines().next().unwrap_or_default().to_owned();
    line.split('@').nth(1).unwrap_or_else(|| panic!("{ran:?}")).to_owned()
}

fn inspect(case: &Case, store: &str, name: &str) -> Value {
    let mut command = case.denovo(&["image", "inspect", name, "--json", "--store"]);
    command.arg(case.dir.join(store)).env("HOME", &case.dir);
    serde_json::from_str(&case.finish(command).expect(0, "inspect").out).unwrap()
}

/// What is in it, as GNU tar lists it.
fn list(case: &Case, store: &str, name: &str) -> String {
    let to = case.dir.join(format!("{store}.tar"));
    let mut command = case.denovo(&["image", "export", name]);
    command.arg(&to).arg("--store").arg(case.dir.join(store)).env("HOME", &case.dir);
    case.finish(command).expect(0, "export");
    let mut tar = case.command("tar");
    tar.args(["--list", "--verbose", "--full-time", "--numeric-owner", "--utc", "--file"]).arg(to);
    case.finish(tar).expect(0, "tar").out
}

/// Two builds in stores of their own, at different times.
#[test]
fn busybox_twice_is_the_same_image_and_starts() {
    for case in Case::each("busybox_twice_is_the_same_image_and_starts") {
        let first = digest(build(&case, "store1", &bundles("busybox"), &[]));
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let second = digest(build(&case, "store2", &bundles("busybox"), &[]));
        assert_eq!(first, second);
        let text = list(&case, "store2", "busybox");
        for line in text.lines() {
            assert!(line.contains(" 0/0 ") && line.contains(" 2025-01-01 00:00:00 "), "{line}");
        }
        assert!(text.contains("bin/ls -> /bin/busybox"), "{text}");
        // Nothing of the build is left beside it.
        let incoming = std::fs::read_dir(case.dir.join("store1/incoming")).unwrap();
        assert_eq!(incoming.count(), 0);

        let site = format!("[images]\nstores = [{:?}]", case.dir.join("store1").display());
        let mut run = case.denovo(&["job", "run", "--id", &case.id("job"), "--image"]);
        run.arg(format!("busybox@{first}")).args(["--network", "none", "--no-home", "--"]);
        run.args(["sh", "-c", "busybox | head -n 1; echo $PATH; touch /etc/x && echo written"]);
        run.env("DENOVO_CONFIG", case.file("denovo.toml", &site)).env("HOME", &case.dir);
        let ran = case.finish(run).expect(0, "job run");
        assert!(ran.out.contains("BusyBox v") && ran.out.contains("written"), "{ran:?}");
        let jobs = case.state().join("jobs");
        let records = || std::fs::read_dir(&jobs).into_iter().flatten().count();
        crate::common::until("the job's record is gone", || records() == 0);
        std::fs::remove_dir_all(case.state()).unwrap();
    }
}

#[test]
fn what_has_not_changed_is_not_built_again() {
    let Some(case) = Case::user("what_has_not_changed_is_not_built_again") else { return };
    let text = "about = \"one file\"\n[root]\nfrom = \"files\"\n[[file]]\npath = \"/a/b\"\nsource = \"b\"\n";
    let dir = recipe(&case, "one", text);
    case.file("one/b", "1");
    let json = |ran: Ran| -> Value { serde_json::from_str(&ran.expect(0, "build").out).unwrap() };
    let first = json(build(&case, "store", &dir, &["--json"]));
    assert_eq!(first["unchanged"], false);
    let again = json(build(&case, "store", &dir, &["--json"]));
    assert_eq!((&again["unchanged"], &again["manifest"]), (&true.into(), &first["manifest"]));
    // A remark is no part of a recipe; what a file holds is.
    case.file("one/bundle.toml", &format!("# a remark\n{text}"));
    assert_eq!(json(build(&case, "store", &dir, &["--json"]))["unchanged"], true);
    case.file("one/b", "2");
    let changed = json(build(&case, "store", &dir, &["--json"]));
    assert_eq!(changed["unchanged"], false);
    assert_ne!(changed["manifest"], first["manifest"]);
}

#[test]
fn files_commands_and_defaults_are_in_the_image() {
    for case in Case::each("files_commands_and_defaults_are_in_the_image") {
        let text = r#"
about = "a bit of everything"
epoch = 86400
run = [
    "test $(id -u) = 0; echo from inside >/etc/made; chmod 600 /etc/made",
    "test -s /etc/made; ! test -e /work-of-the-node; wc -l </proc/net/dev >/etc/interfaces",
]
[root]
from = "files"
[[file]]
path = "/bin/busybox"
source = "/bin/busybox"
[[file]]
path = "/bin/sh"
link = "busybox"
[[file]]
path = "/opt/it's/text"
text = "text\n"
mode = "4750"
[[file]]
path = "/etc"
[[file]]
path = "/tmp"
mode = "1777"
[[file]]
path = "/proc"
[[file]]
path = "/sys"
[[file]]
path = "/dev"
[[file]]
path = "/bin/test"
link = "busybox"
[[file]]
path = "/bin/id"
link = "busybox"
[[file]]
path = "/bin/chmod"
link = "busybox"
[[file]]
path = "/bin/wc"
link = "busybox"
[config]
env = { A = "b c" }
labels = { "site.example" = "yes" }
cmd = ["/bin/sh", "-l"]
working-dir = "/opt"
user = "0:0"
"#;
        let dir = recipe(&case, "mixed", text);
        build(&case, "store", &dir, &["--name", "other:1"]).expect(0, "build");
        let config = inspect(&case, "store", "other:1")["config"].clone();
        assert_eq!(config["cmd"], serde_json::json!(["/bin/sh", "-l"]));
        assert_eq!(config["working_dir"], "/opt");
        assert_eq!(config["user"], "0:0");
        assert_eq!(config["labels"]["site.example"], "yes");
        assert_eq!(config["labels"]["org.opencontainers.image.description"], "a bit of everything");
        assert_eq!(config["created"], "1970-01-02T00:00:00Z");
        assert!(config["env"].as_array().unwrap().contains(&"A=b c".into()), "{config}");
        let text = list(&case, "store", "other:1");
        let has = |mode: &str, path: &str| {
            let found = text.lines().any(|l| l.starts_with(mode) && l.contains(path));
            assert!(found, "{mode} {path} in {text}");
        };
        has("-rw-------", "etc/made");
        has("-rwsr-x---", "opt/it's/text");
        has("drwxrwxrwt", "tmp/");
        assert!(text.lines().all(|l| l.contains("1970-01-02 00:00:00")), "{text}");
    }
}

#[test]
fn a_command_that_fails_leaves_no_image() {
    let Some(case) = Case::user("a_command_that_fails_leaves_no_image") else { return };
    let text = "about = \"x\"\nrun = [\"echo about to fail; exit 3\"]\n[root]\nfrom = \"files\"\n[[file]]\npath = \"/bin/sh\"\nsource = \"/bin/busybox\"\n[[file]]\npath = \"/proc\"\n[[file]]\npath = \"/dev\"\n[[file]]\npath = \"/sys\"\n";
    let dir = recipe(&case, "failing", text);
    let ran = build(&case, "store", &dir, &[]).expect(125, "build");
    assert!(ran.err.contains("a command of the recipe failed"), "{ran:?}");
    assert!(ran.err.contains("about to fail"), "{ran:?}");
    for dir in ["refs", "blobs/sha256", "incoming"] {
        let entries = std::fs::read_dir(case.dir.join("store").join(dir)).unwrap();
        assert_eq!(entries.count(), 0, "{dir}");
    }
}

/// Also where the command, as the first process of its container, hears of no
/// signal.
#[test]
fn a_build_that_is_told_to_end_leaves_nothing() {
    for case in Case::each("a_build_that_is_told_to_end_leaves_nothing") {
        let mark = format!("98765.{}{}", std::process::id(), case.dir.display().to_string().len());
        let text = format!(
            "about = \"x\"\nrun = [\"busybox sleep {mark}\"]\n[root]\nfrom = \"files\"\n[[file]]\npath = \"/bin/busybox\"\nsource = \"/bin/busybox\"\n[[file]]\npath = \"/bin/sh\"\nlink = \"busybox\"\n[[file]]\npath = \"/proc\"\n[[file]]\npath = \"/dev\"\n[[file]]\npath = \"/sys\"\n"
        );
        let dir = recipe(&case, "endless", &text);
        let mut command = case.denovo(&["image", "build"]);
        command.arg(dir).arg("--store").arg(case.dir.join("store")).env("HOME", &case.dir);
        let going = case.start(command);
        let sleeps = || {
            let all = std::fs::read_dir("/proc").unwrap().flatten();
            let lines = all.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
            let words = format!("busybox\0sleep\0{mark}\0");
            lines.filter(|line| *line == words.as_bytes()).count()
        };
        crate::common::until("the command runs", || sleeps() == 1);
        going.signal(15);
        let ran = going.wait();
        assert_eq!((ran.code(), ran.err.as_str()), (143, ""));
        assert_eq!(sleeps(), 0);
        for dir in ["refs", "blobs/sha256", "incoming"] {
            let entries = std::fs::read_dir(case.dir.join("store").join(dir)).unwrap();
            assert_eq!(entries.count(), 0, "{dir}");
        }
    }
}

#[test]
fn a_link_cannot_lead_a_file_out_of_the_root() {
    let Some(case) = Case::user("a_link_cannot_lead_a_file_out_of_the_root") else { return };
    let out = case.directory("out");
    let text = format!(
        "about = \"x\"\n[root]\nfrom = \"files\"\n[[file]]\npath = \"/a\"\nlink = {out:?}\n[[file]]\npath = \"/a/b\"\ntext = \"x\"\n"
    );
    let dir = recipe(&case, "leading", &text);
    build(&case, "store", &dir, &[]).refused(&["file /a/b", "out of the root"]);
    assert_eq!(std::fs::read_dir(out).unwrap().count(), 0);
}

#[test]
fn explain_prints_the_steps_and_makes_nothing() {
    let Some(case) = Case::user("explain_prints_the_steps_and_makes_nothing") else { return };
    let mut command = case.denovo(&["explain", "image", "build"]);
    command.arg(bundles("busybox")).arg("--store").arg(case.dir.join("store"));
    command.env("HOME", &case.dir);
    let ran = case.finish(command).expect(0, "explain");
    for words in ["put /bin/busybox into it", "run in a container on it", "the name busybox:latest"]
    {
        assert!(ran.out.contains(words), "{words}: {ran:?}");
    }
    assert!(!case.dir.join("store/refs").exists());
}
