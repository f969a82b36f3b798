//! Attributes of mounts with what is mounted below them (`rro`, `rnosuid`,
//! …): a bind of a directory on which the test has mounted something.

use serde_json::json;

use crate::common::{Case, add_mount};

/// Mount options of /mnt and of /mnt/below.
fn both(case: &Case, name: &str, below: &str, options: &[&str]) -> [Vec<String>; 2] {
    let source = case.directory("source");
    std::fs::create_dir_all(source.join("below")).unwrap();
    let bundle = case.bundle(|config| {
        crate::common::shell(config, "grep -E ' /mnt(/below)? ' /proc/self/mountinfo");
        add_mount(config, json!({"destination": "/mnt", "source": source, "options": options}));
    });
    let mut run = case.command("unshare");
    run.args(["--mount", "sh", "-c"]);
    run.arg(format!("mount -t tmpfs -o {below} x \"$0/below\" && exec \"$@\"")).arg(source);
    run.arg(crate::common::binary(false)).arg("--root").arg(case.state());
    run.args(["run", "-b", bundle.to_str().unwrap(), &case.id(name)]);
    let ran = case.finish(run).expect(0, name);
    let lines: Vec<Vec<String>> = ran
        .lines()
        .iter()
        .map(|line| line.split(' ').nth(5).unwrap().split(',').map(String::from).collect())
        .collect();
    lines.try_into().unwrap_or_else(|_| panic!("two mounts: {ran:#?}"))
}

#[test]
fn each_recursive_attribute_reaches_what_is_below() {
    let Some(case) = Case::root("each_recursive_attribute_reaches_what_is_below") else { return };
    for (option, shown) in [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnodiratime", "nodiratime"),
        ("rnosymfollow", "nosymfollow"),
    ] {
        let [top, below] = both(&case, option, "rw", &["rbind", option]);
        for found in [&top, &below] {
            assert!(found.iter().any(|word| word == shown), "{option}: {found:?}");
        }
        // Without the r it is this mount's alone.
        let plain = &option[1..];
        let [top, below] = both(&case, plain, "rw", &["rbind", plain]);
        assert!(top.iter().any(|word| word == shown), "{plain}: {top:?}");
        assert!(!below.iter().any(|word| word == shown), "{plain}: {below:?}");
    }
}

#[test]
fn each_inverse_takes_it_away_below() {
    let Some(case) = Case::root("each_inverse_takes_it_away_below") else { return };
    for (option, before) in [
        ("rrw", "ro"),
        ("rsuid", "nosuid"),
        ("rdev", "nodev"),
        ("rexec", "noexec"),
        ("ratime", "noatime"),
        ("rnorelatime", "relatime"),
        ("rstrictatime", "relatime"),
        ("rdiratime", "nodiratime"),
        ("rsymfollow", "nosymfollow"),
    ] {
        let [_, below] = both(&case, option, before, &["rbind", option]);
        // relatime is what the kernel has when nothing is said.
        let stays = option == "rnorelatime";
        assert_eq!(below.iter().any(|word| word == before), stays, "{option}: {below:?}");
    }
}
