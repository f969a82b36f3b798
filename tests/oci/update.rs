//! `update`: limits of a container that runs.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;

use crate::common::{Case, skip, v1_directory};

/// The group of a container in the v1 hierarchy of a controller.
fn group(controller: &str, id: &str) -> PathBuf {
    v1_directory(controller).unwrap().join(format!("denovo-{id}"))
}

fn value(controller: &str, id: &str, file: &str) -> String {
    let path = group(controller, id).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().into()
}

fn case(test: &str) -> Option<Case> {
    if v1_directory("memory").is_none() {
        skip(test, "memory is not limited by cgroup v1 here");
        return None;
    }
    Case::root(test)
}

#[test]
fn each_option_sets_its_limit() {
    let Some(case) = case("each_option_sets_its_limit") else { return };
    let (id, _) = case.sleeper("a", |_| {});
    for (options, controller, file, found) in [
        (&["--memory", "64M"][..], "memory", "memory.limit_in_bytes", "67108864"),
        (&["--memory-swap", "96M"], "memory", "memory.memsw.limit_in_bytes", "100663296"),
        (&["--memory-reservation", "32M"], "memory", "memory.soft_limit_in_bytes", "33554432"),
        (&["--pids-limit", "77"], "pids", "pids.max", "77"),
        (&["--pids-limit", "-1"], "pids", "pids.max", "max"),
        (&["--pids-limit", "0"], "pids", "pids.max", "1"),
        (&["--cpu-quota", "-9999"], "cpu", "cpu.cfs_quota_us", "-1"),
        (&["--cpu-share", "512"], "cpu", "cpu.shares", "512"),
        (&["--cpu-period", "50000"], "cpu", "cpu.cfs_period_us", "50000"),
        (&["--cpu-quota", "20000"], "cpu", "cpu.cfs_quota_us", "20000"),
        (&["--cpu-burst", "5000"], "cpu", "cpu.cfs_burst_us", "5000"),
        (&["--cpu-burst", "0", "--cpu-quota", "-1"], "cpu", "cpu.cfs_quota_us", "-1"),
        (&["--cpuset-cpus", "0"], "cpuset", "cpuset.cpus", "0"),
        (&["--cpuset-mems", "0"], "cpuset", "cpuset.mems", "0"),
        (&["--cpu-idle", "1"], "cpu", "cpu.idle", "1"),
        (&["--blkio-weight", "200"], "blkio", "blkio.bfq.weight", "200"),
    ] {
        if !group(controller, &id).join(file).exists() {
            // Of a scheduler or a kernel that this machine has not.
            skip("each_option_sets_its_limit", &format!("no {file}"));
            continue;
        }
        case.ok(&[&["update"], options, &[&id]].concat());
        assert_eq!(value(controller, &id, file), found, "{options:?}");
    }
    // What was not named stayed.
    assert_eq!(value("cpu", &id, "cpu.cfs_period_us"), "50000");
    assert_eq!(value("memory", &id, "memory.limit_in_bytes"), "67108864");
    case.delete(&id);
}

#[test]
fn memory_grows_and_shrinks_with_its_swap() {
    let Some(case) = case("memory_grows_and_shrinks_with_its_swap") else { return };
    let (id, _) = case.sleeper("a", |config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    });
    let both = || {
        ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
            .map(|file| value("memory", &id, file).parse::<u64>().unwrap() >> 20)
    };
    for (options, found) in [
        (&["--memory", "128M"][..], [128, 128]),
        (&["--memory", "32M"], [32, 32]),
        (&["--memory-swap", "100M"], [32, 100]),
        (&["--memory", "50M"], [50, 100]),
        (&["--memory", "300M", "--memory-swap", "400M"], [300, 400]),
        (&["--memory", "40M", "--memory-swap", "50M"], [40, 50]),
    ] {
        case.ok(&[&["update"], options, &[&id]].concat());
        assert_eq!(both(), found, "{options:?}");
    }
    // Beyond what memory and swap may be together.
    let told = case.call(&["update", "--memory", "60M", &id]);
    told.refused(&["linux.resources.memory.swap", "below"]);
    assert_eq!(both(), [40, 50]);
    case.ok(&["update", "--memory", "-1", &id]);
    assert!(both().iter().all(|mib| *mib > 1 << 30), "{:?}", both());
    case.delete(&id);
}

#[test]
fn a_document_is_read_from_a_file_and_from_standard_input() {
    let Some(case) = case("a_document_is_read_from_a_file_and_from_standard_input") else {
        return;
    };
    let (id, _) = case.sleeper("a", |_| {});
    let file = case.file("new.json", r#"{"memory": {"limit": 67108864}, "cpu": {"shares": 300}}"#);
    case.ok(&["update", "--resources", file.to_str().unwrap(), "--cpu-share", "400", &id]);
    assert_eq!(value("memory", &id, "memory.limit_in_bytes"), "67108864");
    assert_eq!(value("cpu", &id, "cpu.shares"), "400", "options stand over the document");

    let mut command = case.denovo(&["update", "-r", "-", &id]);
    command.stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(br#"{"pids": {"limit": 55}}"#).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(value("pids", &id, "pids.max"), "55");

    for (text, words) in [
        ("{", "new.json: line 1"),
        (r#"{"memory": {"limit": "x"}}"#, "new.json: line 1"),
        (r#"{"memory": {"limit": -5}}"#, "linux.resources.memory.limit"),
    ] {
        let file = case.file("new.json", text);
        let ran = case.call(&["update", "-r", file.to_str().unwrap(), &id]);
        assert_eq!(ran.code(), 125, "{ran:#?}");
        assert!(ran.err.contains(words), "{ran:#?}");
    }
    case.call(&["update", "-r", "/nonexistent.json", &id]).refused(&["/nonexistent.json"]);
    assert_eq!(value("memory", &id, "memory.limit_in_bytes"), "67108864");
    case.delete(&id);
}

#[test]
fn nothing_is_half_applied() {
    let Some(case) = case("nothing_is_half_applied") else { return };
    let (id, _) = case.sleeper("a", |config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        config["linux"]["resources"]["cpu"] = json!({"shares": 300, "quota": 30000});
    });
    let files = [
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.memsw.limit_in_bytes"),
        ("cpu", "cpu.shares"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.cfs_period_us"),
        ("cpuset", "cpuset.cpus"),
        ("pids", "pids.max"),
    ];
    let all = || files.map(|(controller, file)| value(controller, &id, file));
    let before = all();
    // No machine has that CPU; everything else could be set.
    for memory in ["32M", "512M"] {
        case.call(&[
            "update",
            "--cpu-share",
            "700",
            "--cpu-quota",
            "50000",
            "--cpu-period",
            "200000",
            "--memory",
            memory,
            "--pids-limit",
            "33",
            "--cpuset-cpus",
            "8191",
            &id,
        ])
        .refused(&["CPU list"]);
        assert_eq!(all(), before);
    }
    case.delete(&id);
}

#[test]
fn what_cannot_be_changed_is_named() {
    let Some(case) = case("what_cannot_be_changed_is_named") else { return };
    let (id, _) = case.sleeper("a", |_| {});
    for (options, words) in [
        (&[][..], &["no limit is given"][..]),
        (&["--memory", "much"], &["--memory", "much"]),
        (&["--cpu-quota", "5"], &["cpu.quota"]),
        (&["--cpuset-cpus", "3-1"], &["cpu.cpus"]),
        (&["--l3-cache-schema", "L3:0=f"], &["--l3-cache-schema", "not supported"]),
        (&["--kernel-memory", "5M"], &["memory.k"]),
        (&["--nonsense"], &["--nonsense"]),
    ] {
        case.call(&[&["update"], options, &[&id]].concat()).refused(words);
    }
    case.call(&["update", "--memory", "5M", &case.id("none")]).refused(&["does not exist"]);
    case.ok(&["kill", &id, "KILL"]);
    case.await_status(&id, "stopped");
    case.call(&["update", "--memory", "5M", &id]).refused(&["cannot be updated", "stopped"]);
    case.delete(&id);
}

#[test]
fn explain_shows_what_an_update_would_write() {
    let Some(case) = case("explain_shows_what_an_update_would_write") else { return };
    let (id, _) = case.sleeper("a", |_| {});
    let text = case.ok(&["explain", "update", "--pids-limit", "12", &id]);
    assert!(text.contains("set pids.max = 12 in "), "{text}");
    assert_ne!(value("pids", &id, "pids.max"), "12");
    case.delete(&id);
}

#[test]
fn each_option_sets_its_limit_on_cgroup_v2() {
    let test = "each_option_sets_its_limit_on_cgroup_v2";
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
    if !["cpu", "cpuset", "memory", "pids"].into_iter().all(has) {
        return skip(test, "cgroup v2 lacks cpu, cpuset, memory or pids here");
    }
    let Some(case) = Case::root(test) else { return };
    let (id, _) = case.sleeper("a", |_| {});
    let value = |file: &str| {
        let path = PathBuf::from(format!("/sys/fs/cgroup/denovo-{id}")).join(file);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    for (options, file, found) in [
        (&["--memory", "64M"][..], "memory.max", "67108864"),
        (&["--memory-swap", "96M"], "memory.max", "67108864"),
        (&["--memory", "-1"], "memory.swap.max", "max"),
        (&["--memory-reservation", "32M"], "memory.low", "33554432"),
        (&["--pids-limit", "0"], "pids.max", "1"),
        (&["--pids-limit", "77"], "pids.max", "77"),
        (&["--cpu-quota", "-9999"], "cpu.max", "max 100000"),
        (&["--cpu-share", "512"], "cpu.weight", "59"),
        (&["--cpu-quota", "20000"], "cpu.max", "20000 100000"),
        (&["--cpu-period", "50000"], "cpu.max", "20000 50000"),
        (&["--cpuset-cpus", "0"], "cpuset.cpus", "0"),
    ] {
        case.ok(&[&["update"], options, &[&id]].concat());
        assert_eq!(value(file).trim(), found, "{options:?}");
    }
    let told = case.call(&["update", "--pids-limit", "33", "--cpuset-cpus", "8191", &id]);
    told.refused(&["CPU list"]);
    assert_eq!((value("pids.max").trim(), value("cpuset.cpus").trim()), ("77", "0"));
    case.delete(&id);
}
