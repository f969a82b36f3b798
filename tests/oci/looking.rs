//! ps, events, features, the version, and how a wrong command line is told.

use serde_json::{Value, json};

use crate::common::{Case, shell, skip, until, v1_directory};

#[test]
fn ps_lists_the_processes_of_one_container() {
    for case in Case::each("ps_lists_the_processes_of_one_container") {
        let bundle = case.bundle(|config| shell(config, "sleep 999 & exec sleep 998"));
        let (id, pid) = case.sleeper_of("a", &bundle);
        let pids = || -> Vec<i64> {
            let list: Value = serde_json::from_str(&case.ok(&["ps", "-f", "json", &id])).unwrap();
            list.as_array().unwrap().iter().map(|pid| pid.as_i64().unwrap()).collect()
        };
        until("both run", || case.ok(&["ps", &id]).contains("sleep 999"));
        let found = pids();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.contains(&i64::from(pid)));

        let text = case.ok(&["ps", &id]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("PID") && text.contains("sleep 998"), "{text}");
        let text = case.ok(&["ps", &id, "-o", "pid,args"]);
        assert_eq!(text.lines().next().unwrap().split_whitespace().next(), Some("PID"));
        assert_eq!(text.lines().count(), 3, "{text}");
        case.call(&["ps", &id, "-o", "args"]).refused(&["no column PID"]);
        case.call(&["ps", &id, "--nonsense"]).refused(&["ps --nonsense"]);
        case.call(&["ps", "--format", "x", &id]).refused(&["--format", "json"]);
        case.delete(&id);
        case.call(&["ps", &id]).refused(&["does not exist"]);
    }
}

#[test]
fn kill_all_reaches_every_process_with_any_signal() {
    for case in Case::each("kill_all_reaches_every_process_with_any_signal") {
        let real_time = libc::SIGRTMIN() + 3;
        for signal in [real_time.to_string(), "SIGRTMIN+3".into(), "RTMIN+3".into()] {
            let bundle = case.bundle(|config| {
                config["root"]["readonly"] = json!(false);
                let wait = format!("trap 'echo got; exit' {real_time}; while :; do sleep 0.01; done");
                shell(
                    config,
                    &format!("({wait}) > /tmp/one & ({wait}) > /tmp/two & echo > /tmp/up; wait; sleep 1000"),
                );
            });
            let (id, _) = case.sleeper_of("a", &bundle);
            let file = |name: &str| {
                std::fs::read_to_string(bundle.join("rootfs/tmp").join(name)).unwrap_or_default()
            };
            until("it is up", || !file("up").is_empty());
            std::thread::sleep(std::time::Duration::from_millis(50));
            case.ok(&["kill", "--all", &id, &signal]);
            until("both got it", || file("one") == "got\n" && file("two") == "got\n");
            case.delete(&id);
        }
    }
}

/// Whether this node has a controller, on either version.
fn counted(controller: &str) -> bool {
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    v1_directory(controller).is_some() || v2.split_whitespace().any(|name| name == controller)
}

#[test]
fn events_are_as_runc_prints_them() {
    let test = "events_are_as_runc_prints_them";
    if !counted("memory") || !counted("pids") {
        return skip(test, "no memory or no pids controller");
    }
    let Some(case) = Case::root(test) else { return };
    let (id, _) = case.sleeper("a", |config| {
        config["linux"]["resources"]["pids"] = json!({"limit": 44});
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    });
    let event: Value = serde_json::from_str(&case.ok(&["events", "--stats", &id])).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(id)));
    let data = &event["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{event}");
    for (path, number) in
        [("/pids/current", 1), ("/pids/limit", 44), ("/memory/usage/limit", 64 << 20)]
    {
        assert_eq!(data.pointer(path), Some(&json!(number)), "{path}: {event}");
    }
    assert!(data["memory"]["raw"].is_object() && data["blkio"].is_object());

    // At intervals, until the container ends.
    let watch = case.start(case.denovo(&["events", "--interval", "50ms", &id]));
    until("three events", || watch.so_far().lines().count() >= 3);
    case.ok(&["kill", &id, "KILL"]);
    let ran = watch.wait().expect(0, "events");
    for line in ran.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["type"], "stats");
    }
    case.await_status(&id, "stopped");
    case.call(&["events", &id]).refused(&["stopped"]);
    for bad in ["0", "-1s", "soon", ""] {
        case.call(&["events", &format!("--interval={bad}"), &id]).refused(&["--interval"]);
    }
    case.delete(&id);
}

#[test]
fn memory_that_runs_out_is_an_event() {
    let test = "memory_that_runs_out_is_an_event";
    let Some(case) = Case::root(test) else { return };
    if !counted("memory") {
        return skip(test, "no memory controller");
    }
    let (id, _) = case.sleeper("a", |config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
        config["process"]["args"] = json!(["sh", "-c",
            "while [ ! -e /tmp/go ]; do sleep 0.02; done; dd if=/dev/zero of=/dev/null bs=64M; sleep 1000"]);
        config["root"]["readonly"] = json!(false);
    });
    let watch = case.start(case.denovo(&["events", "--interval", "1h", &id]));
    std::thread::sleep(std::time::Duration::from_millis(200));
    case.ok(&["exec", &id, "touch", "/tmp/go"]);
    until("an oom event", || watch.so_far().contains("oom"));
    let event: Value = serde_json::from_str(watch.so_far().lines().next().unwrap()).unwrap();
    assert_eq!(event, json!({"type": "oom", "id": id}));
    case.delete(&id);
    watch.wait().expect(0, "events");
}

#[test]
fn features_say_what_a_config_may_ask_for() {
    for case in Case::each("features_say_what_a_config_may_ask_for") {
        let document: Value = serde_json::from_str(&case.ok(&["features"])).unwrap();
        assert_eq!(document["ociVersionMin"], "1.0.0");
        let newest = document["ociVersionMax"].as_str().unwrap();
        assert!(case.ok(&["--version"]).contains(&format!("\nspec: {newest}")));
        let linux = &document["linux"];
        for path in ["/cgroup/v1", "/cgroup/v2", "/seccomp/enabled"] {
            assert_eq!(linux.pointer(path), Some(&json!(true)), "{path}");
        }
        // A mount option that is said to be known works, and one that is not
        // goes to the file system, which refuses it.
        let options = document["mountOptions"].as_array().unwrap();
        assert!(options.contains(&json!("rro")) && !options.contains(&json!("nonsense")));
        for option in
            options.iter().filter(|o| ["nodev", "rnosuid", "relatime"].map(Value::from).contains(o))
        {
            let mount =
                json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": [option]});
            let ran = case.run("true", |config| crate::common::add_mount(config, mount));
            ran.expect(0, &option.to_string());
        }
        // An action that is not listed is refused by name.
        let listed = linux["seccomp"]["actions"].as_array().unwrap();
        for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY"] {
            let ran = case.run("true", |config| {
                config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["getcwd"], "action": action}]});
            });
            if !listed.contains(&json!(action)) {
                assert!(ran.err.contains(action), "{ran:#?}");
            } else if action != "SCMP_ACT_NOTIFY" {
                ran.expect(0, action);
            }
        }
    }
}

#[test]
fn the_version_is_in_the_form_that_engines_read() {
    let Some(case) = Case::root("the_version_is_in_the_form_that_engines_read") else { return };
    for option in ["--version", "-v", "-V"] {
        let text = case.ok(&[option]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("denovo version {}", env!("CARGO_PKG_VERSION")));
        assert!(lines[1..].iter().all(|line| line.contains(": ")), "{text}");
        assert!(lines[1].starts_with("spec: 1."), "{text}");
    }
}

#[test]
fn a_wrong_command_line_is_one_error_with_a_hint() {
    for case in Case::each("a_wrong_command_line_is_one_error_with_a_hint") {
        for (args, words) in [
            (&["paus", "x"][..], &["paus", "'pause'"][..]),
            (&["state"], &["<ID>", "denovo state --help"]),
            (&["state", "a/b"], &["a/b", "letters"]),
            (&["list", "--format", "xml"], &["xml", "json", "denovo list --help"]),
            (&["kill", "x", "NOPE"], &["NOPE", "kill -l"]),
            (&["run", "--preserve-fds", "many", "x"], &["many", "--preserve-fds"]),
            (&["run", "--nonsense", "x"], &["--nonsense", "denovo run --help"]),
            (&["--log-format", "xml", "list"], &["xml", "json"]),
            (&["exec", "--user", "me", "x", "true"], &["--user", "me"]),
            (&["checkpoint", "--image-path", "/x", "a"], &["checkpoint", "not supported"]),
            (&["restore", "a"], &["restore", "not supported"]),
            (&["--rootless", "perhaps", "list"], &["--rootless", "perhaps", "auto"]),
            (&["--systemd-cgroup", "list"], &["--systemd-cgroup"]),
            (&["explain", "paus"], &["paus", "'pause'"]),
        ] {
            case.call(args).refused(words);
        }
    }
}

#[test]
fn the_last_error_is_in_the_log_as_runc_writes_it() {
    for case in Case::each("the_last_error_is_in_the_log_as_runc_writes_it") {
        let log = case.dir.join("log.json");
        let entry = |args: &[&str]| -> Value {
            let _ = std::fs::remove_file(&log);
            let first = ["--log", log.to_str().unwrap(), "--log-format", "json"];
            assert_eq!(case.call(&[&first, args].concat()).code(), 125);
            let text = std::fs::read_to_string(&log).unwrap();
            serde_json::from_str(text.lines().last().unwrap()).unwrap()
        };
        for args in
            [&["state", "nothing"][..], &["nonsense"], &["run", "--bundle", "/nowhere", "x"]]
        {
            let found = entry(args);
            assert_eq!(found["level"], "error", "{found}");
            assert!(!found["msg"].as_str().unwrap().is_empty());
            let time = found["time"].as_str().unwrap();
            assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
        }
        // What containerd takes for "there is no such container".
        assert!(entry(&["state", "nothing"])["msg"].as_str().unwrap().contains("does not exist"));
    }
}
