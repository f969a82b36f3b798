//! What the kernel keeps with a process beside its ids: scheduling, I/O
//! priority, CPUs of `exec`, personality, memory policy, labels.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Case, skip};

/// Fields of /proc/PID/stat by their number in proc_pid_stat(5).
fn stat(pid: i32, fields: &[usize]) -> Vec<i64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field may hold blanks; the third comes after its bracket.
    let rest: Vec<&str> = text.rsplit_once(") ").unwrap().1.split_whitespace().collect();
    fields.iter().map(|n| rest[n - 3].parse().unwrap()).collect()
}

const NICE: usize = 19;
const PRIORITY: usize = 40;
const POLICY: usize = 41;

fn scheduled(case: &Case, what: &str, scheduler: &Value) -> Vec<i64> {
    let (id, pid) = case.sleeper(what, |config| {
        config["process"]["scheduler"] = scheduler.clone();
        // With groups of realtime scheduling, each has none unless it is given.
        config["linux"]["resources"]["cpu"] = json!({"realtimeRuntime": 10_000});
        if !has_realtime_groups() {
            config["linux"]["resources"]["cpu"] = json!({});
        }
    });
    let found = stat(pid, &[POLICY, NICE, PRIORITY]);
    case.delete(&id);
    found
}

fn has_realtime_groups() -> bool {
    crate::common::v1_directory("cpu").is_some_and(|d| d.join("cpu.rt_runtime_us").exists())
}

#[test]
fn each_scheduler_is_set() {
    let Some(case) = Case::root("each_scheduler_is_set") else { return };
    for (what, scheduler, expected) in [
        ("other", json!({"policy": "SCHED_OTHER", "nice": 7}), [0, 7, 0]),
        ("up", json!({"policy": "SCHED_OTHER", "nice": -3}), [0, -3, 0]),
        ("batch", json!({"policy": "SCHED_BATCH", "nice": 2}), [3, 2, 0]),
        ("idle", json!({"policy": "SCHED_IDLE"}), [5, 0, 0]),
        ("fifo", json!({"policy": "SCHED_FIFO", "priority": 3}), [1, 0, 3]),
        (
            "rr",
            json!({"policy": "SCHED_RR", "priority": 9, "flags": ["SCHED_RESET_ON_FORK"]}),
            [2, 0, 9],
        ),
    ] {
        assert_eq!(scheduled(&case, what, &scheduler), expected, "{what}");
    }
}

#[test]
fn a_deadline_is_set_or_the_kernel_s_reason_told() {
    let Some(case) = Case::root("a_deadline_is_set_or_the_kernel_s_reason_told") else { return };
    let scheduler = json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000u64,
        "deadline": 10_000_000u64, "period": 10_000_000u64, "flags": ["SCHED_FLAG_DL_OVERRUN"]});
    let bundle = case.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["process"]["scheduler"] = scheduler;
    });
    let id = case.id("a");
    let ran = case.call(&["run", "--detach", "--bundle", bundle.to_str().unwrap(), &id]);
    if ran.code() == 0 {
        let pid = case.query(&id)["pid"].as_i64().unwrap() as i32;
        assert_eq!(stat(pid, &[POLICY]), [6]);
        case.delete(&id);
    } else {
        // The kernel admits none in a cpuset, or beyond what is left.
        ran.refused(&["process.scheduler", "sched_setattr"]);
    }
}

#[test]
fn a_nice_value_that_is_not_the_user_s_to_take_is_refused() {
    let Some(case) = Case::user("a_nice_value_that_is_not_the_user_s_to_take_is_refused") else {
        return;
    };
    let scheduler = |nice: i32| json!({"policy": "SCHED_OTHER", "nice": nice});
    case.run("true", |c| c["process"]["scheduler"] = scheduler(-5)).refused(&["sched_setattr"]);
    let text = case.see("cut -d' ' -f19 /proc/self/stat", |c| {
        c["process"]["scheduler"] = scheduler(5);
    });
    assert_eq!(text, "5");
}

#[test]
fn the_io_priority_is_set() {
    let test = "the_io_priority_is_set";
    for case in Case::each(test) {
        if Command::new("ionice").output().is_err() {
            return skip(test, "no ionice on this node");
        }
        for (class, level, expected) in
            [("BE", 6, "best-effort: prio 6"), ("IDLE", 0, "idle"), ("RT", 2, "realtime: prio 2")]
        {
            let priority = json!({"class": format!("IOPRIO_CLASS_{class}"), "priority": level});
            let set = |config: &mut Value| config["process"]["ioPriority"] = priority.clone();
            if class == "RT" && case.is_rootless() {
                case.run("true", set).refused(&["process.ioPriority", "ioprio_set"]);
                continue;
            }
            let (id, pid) = case.sleeper(class, set);
            let shown = Command::new("ionice").args(["-p", &pid.to_string()]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), expected);
            case.delete(&id);
        }
    }
}

#[test]
fn exec_runs_on_its_cpus() {
    for case in Case::each("exec_runs_on_its_cpus") {
        let (id, pid) = case.sleeper("a", |config| {
            config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
        });
        let list = "grep Cpus_allowed_list /proc/self/status | cut -f2";
        assert_eq!(case.ok(&["exec", &id, "sh", "-c", list]), "0");
        // It is about exec only.
        let own = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let node = fs::read_to_string("/proc/self/status").unwrap();
        let field = |text: &str| {
            let line = text.lines().find(|l| l.starts_with("Cpus_allowed_list:"));
            line.unwrap().to_owned()
        };
        assert_eq!(field(&own), field(&node));
        case.delete(&id);

        let (id, _) = case.sleeper("b", |config| {
            config["process"]["execCPUAffinity"] = json!({"final": "4000"});
        });
        assert_eq!(case.call(&["exec", &id, "true"]).code(), 125);
        case.delete(&id);
    }
}

#[test]
fn the_personality_is_set() {
    for case in Case::each("the_personality_is_set") {
        let machine = |domain: &str| {
            case.see("uname -m", |c| c["linux"]["personality"] = json!({ "domain": domain }))
        };
        assert_eq!(machine("LINUX"), std::env::consts::ARCH);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(machine("LINUX32"), "i686");
        }
        let (id, _) =
            case.sleeper("a", |c| c["linux"]["personality"] = json!({"domain": "LINUX32"}));
        // What is added runs on the same machine.
        assert_ne!(case.ok(&["exec", &id, "uname", "-m"]), "x86_64");
        case.delete(&id);
    }
}

#[test]
fn the_memory_policy_is_set() {
    let test = "the_memory_policy_is_set";
    for case in Case::each(test) {
        if !fs::exists("/proc/self/numa_maps").unwrap() {
            return skip(test, "this kernel has no NUMA");
        }
        for (mode, nodes, flags, expected) in [
            ("MPOL_BIND", "0", json!([]), "bind:0"),
            ("MPOL_INTERLEAVE", "0", json!(["MPOL_F_STATIC_NODES"]), "interleave=static:0"),
            ("MPOL_PREFERRED_MANY", "0", json!([]), "prefer (many):0"),
            ("MPOL_LOCAL", "", json!([]), "local"),
        ] {
            let policy = json!({"mode": mode, "nodes": nodes, "flags": flags});
            let text = case.see("head -n 1 /proc/self/numa_maps", |config| {
                config["linux"]["memoryPolicy"] = policy;
            });
            let shown = text.split_once(' ').unwrap().1;
            assert!(shown.starts_with(expected), "{mode}: {text}");
        }
        let beyond = json!({"mode": "MPOL_BIND", "nodes": "1000"});
        case.run("true", |c| c["linux"]["memoryPolicy"] = beyond).refused(&["linux.memoryPolicy"]);
    }
}

#[test]
fn a_label_is_in_force_or_the_start_refused() {
    let Some(case) = Case::root("a_label_is_in_force_or_the_start_refused") else { return };
    let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with('Y'));
    let set = |config: &mut Value| config["process"]["apparmorProfile"] = json!("denovo-none");
    if on {
        // No such profile is loaded.
        case.run("true", set).refused(&["process.apparmorProfile", "denovo-none"]);
        let own = "cat /proc/self/attr/apparmor/current";
        let text = case.see(own, |c| c["process"]["apparmorProfile"] = json!("unconfined"));
        assert_eq!(text, "unconfined");
    } else {
        case.run("true", set).refused(&["process.apparmorProfile", "AppArmor is not on"]);
        case.see("true", |c| c["process"]["apparmorProfile"] = json!("unconfined"));
    }
    if !fs::exists("/sys/fs/selinux/enforce").unwrap() {
        let label = "system_u:system_r:container_t:s0";
        case.run("true", |c| c["process"]["selinuxLabel"] = json!(label))
            .refused(&["process.selinuxLabel", "SELinux is not on"]);
        case.run("true", |c| c["linux"]["mountLabel"] = json!(label))
            .refused(&["linux.mountLabel", "SELinux is not on"]);
    }
}
