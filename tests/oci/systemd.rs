//! `--systemd-cgroup`: what systemd says about a container's scope, and what
//! the kernel says about its group.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use denovo::host::Facts;
use serde_json::{Value, json};

use crate::common::{Case, is_root, skip, until};

/// Root, or the ordinary user who runs the tests, on a node whose systemd can
/// make scopes for it.
fn case(test: &str) -> Option<Case> {
    let facts = Facts::read().unwrap();
    if !Path::new("/run/systemd/system").is_dir() {
        skip(test, "systemd does not run this node");
        return None;
    }
    if !facts.cgroups.v1.is_empty() {
        skip(test, "not cgroup v2 alone");
        return None;
    }
    if is_root() { Case::root(test) } else { Case::user(test) }
}

fn manager(program: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(if is_root() { "--system" } else { "--user" });
    command
}

/// A property of a unit, as `systemctl show` has it.
fn property(unit: &str, name: &str) -> String {
    let output = manager("systemctl").args(["show", "--value", "-p", name, unit]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `denovo --systemd-cgroup run --detach` of a sleeper; its id and its group.
fn sleeper(case: &Case, what: &str, change: impl Fn(&mut Value)) -> (String, PathBuf) {
    let bundle = case.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        change(config);
    });
    let id = case.id(what);
    let bundle = bundle.display().to_string();
    case.ok(&["--systemd-cgroup", "run", "--detach", "--bundle", &bundle, &id]);
    let pid = case.query(&id)["pid"].as_i64().unwrap();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.trim().strip_prefix("0::/").unwrap();
    (id, Path::new("/sys/fs/cgroup").join(path))
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
}

#[test]
fn limits_are_systemds_and_the_kernels() {
    let test = "limits_are_systemds_and_the_kernels";
    let Some(case) = case(test) else { return };
    let unit = format!("test-{}.scope", case.name);
    let (id, dir) = sleeper(&case, "a", |config| {
        config["linux"]["cgroupsPath"] = json!(format!(":test:{}", case.name));
        let resources = &mut config["linux"]["resources"];
        resources["memory"] = json!({"limit": 67_108_864});
        resources["pids"] = json!({"limit": 42});
        resources["cpu"] = json!({"quota": 25_000, "period": 50_000, "shares": 512, "cpus": "0"});
        config["annotations"]["org.systemd.property.TimeoutStopUSec"] = json!("uint64 7000000");
    });
    assert!(dir.ends_with(&unit), "{}", dir.display());
    for (name, value) in [
        ("MemoryMax", "67108864"),
        ("TasksMax", "42"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("CPUWeight", "59"),
        ("AllowedCPUs", "0"),
        ("Delegate", "yes"),
        ("TimeoutStopUSec", "7s"),
        ("Slice", if is_root() { "system.slice" } else { "user.slice" }),
        ("ActiveState", "active"),
    ] {
        assert_eq!(property(&unit, name), value, "{name}");
    }
    for (file, value) in [
        ("memory.max", "67108864"),
        ("pids.max", "42"),
        ("cpu.max", "25000 50000"),
        ("cpu.weight", "59"),
        ("cpuset.cpus", "0"),
    ] {
        assert_eq!(read(&dir, file), value, "{file}");
    }
    // Nobody but the container is in it.
    assert_eq!(read(&dir, "cgroup.procs").lines().count(), 1);
    // systemd's own view stays what it is when it looks again.
    manager("systemctl").arg("daemon-reload").status().unwrap();
    assert_eq!(read(&dir, "memory.max"), "67108864");
    case.ok(&["--systemd-cgroup", "kill", &id, "KILL"]);
    case.await_status(&id, "stopped");
    case.ok(&["--systemd-cgroup", "delete", &id]);
    assert!(!dir.exists());
    until("the unit is gone", || property(&unit, "LoadState") == "not-found");
}

#[test]
fn a_scope_ends_with_all_that_is_in_it() {
    let test = "a_scope_ends_with_all_that_is_in_it";
    let Some(case) = case(test) else { return };
    let (id, dir) = sleeper(&case, "a", |_| {});
    let unit = format!("denovo-{id}.scope");
    assert!(dir.ends_with(&unit), "{}", dir.display());
    let own = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
    case.ok(&["exec", "--detach", &id, "sleep", "1001"]);
    until("exec is in the scope", || read(&dir, "cgroup.procs").lines().count() == 2);
    assert!(read(&dir, "cgroup.procs").contains(own.trim()));
    case.delete(&id);
    assert!(!dir.exists());
    until("the unit is gone", || property(&unit, "LoadState") == "not-found");
    // In the foreground too, and the name is free again.
    let bundle = case.bundle(|config| crate::common::shell(config, "exit 3"));
    let bundle = bundle.display().to_string();
    for _ in 0..2 {
        let ran = case.call(&["--systemd-cgroup", "run", "--bundle", &bundle, &id]);
        assert_eq!((ran.code(), &ran.err[..]), (3, ""), "{ran:#?}");
        assert!(!dir.exists());
    }
}

#[test]
fn what_systemd_refuses_is_told_in_its_words() {
    let test = "what_systemd_refuses_is_told_in_its_words";
    let Some(case) = case(test) else { return };
    for (key, value, word) in [
        ("org.systemd.property.NoSuchThing", "true", "NoSuchThing"),
        ("org.systemd.property.CollectMode", "word", "annotations"),
    ] {
        let bundle = case.bundle(|config| config["annotations"][key] = json!(value));
        let id = case.id("refused");
        let bundle = bundle.display().to_string();
        case.call(&["--systemd-cgroup", "run", "--bundle", &bundle, &id]).refused(&[word]);
    }
    let bundle = case.bundle(|config| config["linux"]["cgroupsPath"] = json!("/a/path"));
    let (id, bundle) = (case.id("path"), bundle.display().to_string());
    case.call(&["--systemd-cgroup", "run", "--bundle", &bundle, &id])
        .refused(&["slice:prefix:name"]);
}

#[test]
fn without_systemd_it_is_refused_by_name() {
    let test = "without_systemd_it_is_refused_by_name";
    if Path::new("/run/systemd/system").is_dir() {
        return skip(test, "systemd runs this node");
    }
    let Some(case) = Case::root(test) else { return };
    let bundle = case.bundle(|_| {});
    let (id, bundle) = (case.id("a"), bundle.display().to_string());
    case.call(&["--systemd-cgroup", "run", "--bundle", &bundle, &id]).refused(&["systemd"]);
}
