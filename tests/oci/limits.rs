//! `linux.resources` and `linux.cgroupsPath`: read back on the node, and in
//! effect inside.

use std::fs;
use std::path::{Path, PathBuf};

use denovo::host::Facts;
use serde_json::{Value, json};

use crate::common::{Case, drop_namespace, skip};

/// Directory of a container's group in the hierarchy that has the controller,
/// and whether that is v2; says so where none has.
fn group(test: &str, controller: &str, path: &str) -> Option<(PathBuf, bool)> {
    let groups = Facts::read().unwrap().cgroups;
    let v1 = groups.v1_with(controller).map(|h| (h.mount.join(path), false));
    let v2 = groups.v2.as_ref().filter(|_| groups.v2_has(controller));
    let found = v1.or_else(|| v2.map(|h| (h.mount.join(path), true)));
    if found.is_none() {
        skip(test, &format!("no control group has {controller}"));
    }
    found
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
}

fn limited(case: &Case, resources: Value) -> String {
    let (id, _) = case.sleeper("a", |config| {
        for (name, value) in resources.as_object().unwrap() {
            config["linux"]["resources"][name] = value.clone();
        }
    });
    id
}

#[test]
fn memory_pids_and_cpu_are_set() {
    let test = "memory_pids_and_cpu_are_set";
    let Some(case) = Case::root(test) else { return };
    let id = limited(
        &case,
        json!({
            "memory": {"limit": 33_554_432},
            "pids": {"limit": 42},
            "cpu": {"quota": 25_000, "period": 50_000, "shares": 512, "cpus": "0"},
        }),
    );
    let path = format!("denovo-{id}");
    for (controller, v1, v2) in [
        ("memory", ("memory.limit_in_bytes", "33554432"), ("memory.max", "33554432")),
        ("pids", ("pids.max", "42"), ("pids.max", "42")),
        ("cpu", ("cpu.cfs_quota_us", "25000"), ("cpu.max", "25000 50000")),
        ("cpu", ("cpu.cfs_period_us", "50000"), ("cpu.max", "25000 50000")),
        ("cpu", ("cpu.shares", "512"), ("cpu.weight", "59")),
        ("cpuset", ("cpuset.cpus", "0"), ("cpuset.cpus.effective", "0")),
    ] {
        if let Some((dir, is_v2)) = group(test, controller, &path) {
            let (file, value) = if is_v2 { v2 } else { v1 };
            assert_eq!(read(&dir, file), value, "{file}");
            assert_eq!(read(&dir, "cgroup.procs").lines().count(), 1, "{controller}");
        }
    }
    case.delete(&id);
}

#[test]
fn a_limit_of_processes_holds() {
    let test = "a_limit_of_processes_holds";
    let Some(case) = Case::root(test) else { return };
    if group(test, "pids", "").is_none() {
        return;
    }
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; echo all";
    let ran = case.run(script, |c| c["linux"]["resources"]["pids"] = json!({"limit": 5}));
    assert!(!ran.out.contains("all"), "{ran:#?}");
    let ran = case.run(script, |c| c["linux"]["resources"]["pids"] = json!({"limit": 20}));
    assert_eq!(ran.out(), "all", "{ran:#?}");
}

#[test]
fn a_limit_of_memory_holds() {
    let test = "a_limit_of_memory_holds";
    let Some(case) = Case::root(test) else { return };
    if group(test, "memory", "").is_none() {
        return;
    }
    let script = "head -c 40000000 /dev/zero > /tmp/a/x; echo end $?";
    let hold = |config: &mut Value, limit: u64| {
        config["linux"]["resources"]["memory"] = json!({"limit": limit, "swap": limit});
        crate::common::add_mount(
            config,
            json!({"destination": "/tmp/a", "type": "tmpfs", "source": "x"}),
        );
    };
    let ran = case.run(script, |config| hold(config, 16 << 20));
    assert_ne!(ran.out(), "end 0", "{ran:#?}");
    assert_eq!(case.run(script, |config| hold(config, 200 << 20)).out(), "end 0");
}

#[test]
fn the_group_is_where_config_json_says() {
    let test = "the_group_is_where_config_json_says";
    let Some(case) = Case::root(test) else { return };
    for path in [format!("/denovo/{}-path/inner", case.name), format!("denovo/{}-path", case.name)]
    {
        let (id, pid) = case.sleeper("a", |config| config["linux"]["cgroupsPath"] = json!(path));
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let below = path.trim_start_matches('/');
        assert!(text.lines().any(|l| l.ends_with(below)), "{path}: {text}");
        case.delete(&id);
        let Some((made, _)) = group(test, "pids", below) else { return };
        assert!(!made.exists(), "{path}");
        // A parent that denovo made for it is gone too, or is empty at most.
        let parent = made.ancestors().find(|p| p.ends_with(format!("{}-path", case.name)));
        assert!(parent.is_some_and(|p| !p.exists()), "{path}");
    }
}

#[test]
fn a_path_that_goes_up_is_refused() {
    let Some(case) = Case::root("a_path_that_goes_up_is_refused") else { return };
    for path in ["../../../../../tmp/x", "/denovo/../../x", "denovo/.."] {
        case.run("true", |config| config["linux"]["cgroupsPath"] = json!(path))
            .refused(&["linux.cgroupsPath"]);
    }
}

#[test]
fn a_group_that_two_containers_name_is_not_shared_unnoticed() {
    let test = "a_group_that_two_containers_name_is_not_shared_unnoticed";
    let Some(case) = Case::root(test) else { return };
    let path = format!("denovo/{}-both", case.name);
    let (first, _) = case.sleeper("a", |config| config["linux"]["cgroupsPath"] = json!(path));
    let ran = case.run("true", |config| config["linux"]["cgroupsPath"] = json!(path));
    assert_eq!(ran.code(), 125, "{ran:#?}");
    // And the refusal did not take the first one's group or processes away.
    assert_eq!(case.query(&first)["status"], "running");
    case.delete(&first);
}

#[test]
fn a_group_that_somebody_made_keeps_its_limits() {
    let test = "a_group_that_somebody_made_keeps_its_limits";
    let Some(case) = Case::root(test) else { return };
    // No name of denovo's, below which groups are made anew.
    let path = format!("denovotest{}", case.name.trim_start_matches("denovo"));
    let Some((dir, is_v2)) = group(test, "pids", &path) else { return };
    if is_v2 {
        fs::write(dir.parent().unwrap().join("cgroup.subtree_control"), "+pids").unwrap();
    }
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("pids.max"), "77").unwrap();
    let (id, _) = case.sleeper("a", |c| c["linux"]["cgroupsPath"] = json!(format!("/{path}")));
    assert_eq!(read(&dir, "pids.max"), "77");
    assert_eq!(read(&dir, "cgroup.procs").lines().count(), 1);
    let ran = case.run("true", |c| c["linux"]["cgroupsPath"] = json!(format!("/{path}")));
    assert_eq!(ran.code(), 125, "{ran:#?}");
    assert_eq!(case.query(&id)["status"], "running");
    case.delete(&id);
    assert!(!dir.exists());
}

#[test]
fn exec_goes_into_the_same_groups() {
    let Some(case) = Case::root("exec_goes_into_the_same_groups") else { return };
    let (id, pid) = case.sleeper("a", |config| drop_namespace(config, "cgroup"));
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(case.ok(&["exec", &id, "cat", "/proc/self/cgroup"]), own.trim_end());
    case.delete(&id);
}

#[test]
fn everything_in_the_groups_ends_with_the_container() {
    let Some(case) = Case::root("everything_in_the_groups_ends_with_the_container") else { return };
    // Without a pid namespace children outlive the first process.
    let ran = case.run("sleep 1000 & sleep 1000 & echo end", |config| {
        drop_namespace(config, "pid");
    });
    assert_eq!(ran.expect(0, "run").out(), "end");
}

#[test]
fn a_container_that_runs_out_of_memory_is_told_so() {
    let test = "a_container_that_runs_out_of_memory_is_told_so";
    let Some(case) = Case::root(test) else { return };
    if crate::common::v1_directory("memory").is_none()
        && !denovo::host::Facts::read().unwrap().cgroups.v2_has("memory")
    {
        return skip(test, "no controller memory");
    }
    let limit = |bytes: u64, script: &'static str| {
        move |config: &mut Value| {
            config["linux"]["resources"]["memory"] = json!({"limit": bytes});
            crate::common::shell(config, script);
        }
    };
    // So little that the first process does not even come to its program.
    let bundle = case.bundle(limit(4096, "true"));
    let create = ["create", "-b", bundle.to_str().unwrap(), &case.id("a")];
    case.call(&create).refused(&["memory limit"]);
    let bundle =
        case.bundle(limit(32 << 20, "head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null"));
    let ran = case.call(&["run", "-b", bundle.to_str().unwrap(), &case.id("b")]);
    assert!(ran.code() == 137 && ran.err.contains("memory limit"), "{ran:?}");
    let bundle = case.bundle(limit(32 << 20, "sh -c 'kill -9 $$'; exit $?"));
    let ran = case.call(&["run", "-b", bundle.to_str().unwrap(), &case.id("c")]);
    assert!(ran.code() == 137 && !ran.err.contains("memory"), "{ran:?}");
}
