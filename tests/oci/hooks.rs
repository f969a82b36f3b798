//! `hooks`: when each kind runs, where, with what, and what its failure does.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Case, shell};

/// A hook that notes its kind, its namespaces and the state that it read.
fn noting(kind: &str, log: &Path) -> Value {
    let log = log.display();
    json!({
        "path": "/bin/sh",
        "args": ["sh", "-c", format!(
            "read -r state; echo \"{kind} $(readlink /proc/self/ns/uts) $state\" >> {log}"
        )],
        "env": ["PATH=/bin:/usr/bin", "HOOK=1"],
    })
}

fn add(config: &mut Value, kind: &str, hook: Value) {
    crate::common::push(&mut config["hooks"][kind], hook);
}

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

#[test]
fn all_six_run_in_order_and_in_their_namespaces() {
    for case in Case::each("all_six_run_in_order_and_in_their_namespaces") {
        let log = case.directory("log").join("log");
        let bundle = case.bundle(|config| {
            for kind in KINDS {
                add(config, kind, noting(kind, &log));
            }
            // The same path inside, for the one that runs in the root.
            let at = log.parent().unwrap();
            crate::common::add_mount(
                config,
                json!({"destination": at, "source": at, "options": ["bind"]}),
            );
            config["annotations"] = json!({"k": "v"});
            config["root"]["readonly"] = json!(false);
            shell(
                config,
                &format!("echo process >> {}; readlink /proc/self/ns/uts", log.display()),
            );
        });
        let id = case.id("a");
        case.ok(&["create", "-b", bundle.to_str().unwrap(), &id]);
        let so_far = fs::read_to_string(&log).unwrap();
        let seen = |text: &str| -> Vec<String> {
            text.lines().map(|l| l.split(' ').next().unwrap().to_owned()).collect()
        };
        assert_eq!(seen(&so_far), KINDS[..3], "{so_far}");
        let pid = case.query(&id)["pid"].clone();
        case.ok(&["start", &id]);
        case.await_status(&id, "stopped");
        case.ok(&["delete", &id]);

        let text = fs::read_to_string(&log).unwrap();
        let mut order = seen(&text);
        // runtime-spec: poststart follows the start of the process, which
        // does not wait for it.
        let process = order.iter().position(|k| k == "process").unwrap();
        order.remove(process);
        assert_eq!(order, KINDS, "{text}");
        assert!(process >= 4, "{text}");

        let own = fs::read_link("/proc/self/ns/uts").unwrap().display().to_string();
        for line in text.lines().filter(|l| *l != "process") {
            let mut parts = line.splitn(3, ' ');
            let (kind, uts) = (parts.next().unwrap(), parts.next().unwrap());
            let state: Value = serde_json::from_str(parts.next().unwrap()).unwrap();
            let inside = ["createContainer", "startContainer"].contains(&kind);
            assert_eq!(uts != own, inside, "{line}");
            assert_eq!(state["id"], id.as_str());
            assert_eq!(state["annotations"], json!({"k": "v"}));
            assert!(state["ociVersion"].is_string() && state["bundle"].is_string());
            let status: &[&str] = match kind {
                "prestart" | "createRuntime" | "createContainer" | "startContainer" => &["created"],
                "poststart" => &["running"],
                _ => &["stopped"],
            };
            assert!(status.contains(&state["status"].as_str().unwrap()), "{line}");
            if ["prestart", "createRuntime", "poststart"].contains(&kind) {
                assert_eq!(state["pid"], pid, "{line}");
            }
        }
    }
}

#[test]
fn hooks_of_one_kind_run_in_the_order_given() {
    let Some(case) = Case::root("hooks_of_one_kind_run_in_the_order_given") else { return };
    let log = case.file("log", "");
    case.run("true", |config| {
        for name in ["one", "two", "three"] {
            add(config, "createRuntime", noting(name, &log));
        }
    })
    .expect(0, "run");
    let text = fs::read_to_string(&log).unwrap();
    let names: Vec<&str> = text.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["one", "two", "three"]);
}

#[test]
fn a_hook_has_only_its_own_environment() {
    let Some(case) = Case::root("a_hook_has_only_its_own_environment") else { return };
    for kind in ["createRuntime", "createContainer"] {
        let log = case.dir.join(format!("log-{kind}"));
        let bundle = case.bundle(|config| {
            let script = format!("env > {}; pwd >> {0}; echo \"$0\" >> {0}", log.display());
            add(
                config,
                kind,
                json!({"path": "/bin/sh", "args": ["own-name", "-c", script], "env": ["ONE=1"]}),
            );
            config["process"]["env"] = json!(["PATH=/bin", "LD_PRELOAD=/tmp/evil.so"]);
            shell(config, "true");
        });
        let mut run = case.denovo(&["run", "-b", bundle.to_str().unwrap(), &case.id(kind)]);
        run.env("SECRET", "of the caller");
        case.finish(run).expect(0, kind);
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.contains("ONE=1\n"), "{text}");
        for absent in ["SECRET", "LD_PRELOAD", "PATH=/bin\n"] {
            assert!(!text.contains(absent), "{kind}: {text}");
        }
        assert!(text.ends_with("own-name\n"), "{text}");
    }
}

#[test]
fn a_failing_hook_fails_the_start_and_leaves_nothing() {
    for case in Case::each("a_failing_hook_fails_the_start_and_leaves_nothing") {
        for kind in &KINDS[..4] {
            for (path, words) in
                [("/bin/false", "/bin/false ended with"), ("/none/such", "cannot be run")]
            {
                let marker = case.directory("out").join("ran");
                let bundle = case.bundle(|config| {
                    add(config, kind, json!({"path": path, "args": ["x"]}));
                    let at = marker.parent().unwrap();
                    crate::common::add_mount(
                        config,
                        json!({"destination": "/tmp", "source": at, "options": ["bind"]}),
                    );
                    shell(config, "touch /tmp/ran");
                });
                // Inside it is busybox that has to fail.
                std::os::unix::fs::symlink("busybox", bundle.join("rootfs/bin/false")).ok();
                let ran = case.run_bundle(&bundle);
                assert_eq!(ran.code(), 125, "{kind}: {ran:#?}");
                assert!(ran.err.contains(words), "{kind}: {ran:#?}");
                assert!(!marker.exists(), "{kind}");
                assert_eq!(case.left(), Vec::<String>::new(), "{kind} {path}");
            }
        }
    }
}

#[test]
fn a_failing_start_hook_of_a_created_container_fails_start() {
    let Some(case) = Case::root("a_failing_start_hook_of_a_created_container_fails_start") else {
        return;
    };
    let bundle = case.bundle(|config| {
        add(config, "startContainer", json!({"path": "/bin/false"}));
        shell(config, "sleep 1000");
    });
    let id = case.id("a");
    case.ok(&["create", "-b", bundle.to_str().unwrap(), &id]);
    let ran = case.call(&["start", &id]);
    assert_eq!(ran.code(), 125, "{ran:#?}");
    assert!(ran.err.contains("/bin/false"), "{ran:#?}");
    case.await_status(&id, "stopped");
    case.ok(&["delete", &id]);
}

/// runtime-spec, "Lifecycle", step 9: an error, and the container is stopped.
#[test]
fn a_failing_poststart_hook_stops_the_container() {
    for case in Case::each("a_failing_poststart_hook_stops_the_container") {
        let log = case.file("log", "");
        let bundle = case.bundle(|config| {
            for (name, end) in [("one", ""), ("two", "; exit 3"), ("three", "")] {
                let script = format!("echo {name} >> {}{end}", log.display());
                add(config, "poststart", json!({"path": "/bin/sh", "args": ["sh", "-c", script]}));
            }
            add(config, "poststop", noting("poststop", &log));
            shell(config, "sleep 1000");
        });
        let id = case.id("a");
        case.ok(&["create", "-b", bundle.to_str().unwrap(), &id]);
        case.call(&["start", &id]).refused(&["poststart", "/bin/sh", "3"]);
        assert_eq!(case.query(&id)["status"], "stopped");
        assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\n");
        case.ok(&["delete", &id]);
        assert!(fs::read_to_string(&log).unwrap().contains("poststop"));

        fs::write(&log, "").unwrap();
        let ran = case.run_bundle(&bundle);
        ran.refused(&["poststart", "/bin/sh", "3"]);
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.starts_with("one\ntwo\npoststop"), "{text}");
        assert_eq!(case.left(), Vec::<String>::new());
    }
}

#[test]
fn a_failing_poststop_hook_is_told_and_changes_nothing() {
    for case in Case::each("a_failing_poststop_hook_is_told_and_changes_nothing") {
        let ran = case.run("exit 7", |config| {
            add(config, "poststop", json!({"path": "/bin/false"}));
        });
        assert_eq!(ran.code(), 7, "{ran:#?}");
        assert!(ran.err.contains("/bin/false"), "{ran:#?}");
    }
}

/// It takes the process's place for a moment, so it has its environment unless
/// it says another.
#[test]
fn a_start_hook_without_environment_has_the_process_s() {
    for case in Case::each("a_start_hook_without_environment_has_the_process_s") {
        for (env, wanted) in [(json!(null), "two"), (json!(["PATH=/bin"]), "")] {
            let ran = case.run("cat /tmp/seen", |config| {
                config["root"]["readonly"] = json!(false);
                crate::common::push(&mut config["process"]["env"], json!("ONE=two"));
                let script = "echo \"ONE is $ONE\" > /tmp/seen";
                let mut hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
                if !env.is_null() {
                    hook["env"] = env.clone();
                }
                add(config, "startContainer", hook);
            });
            assert_eq!(ran.out(), format!("ONE is {wanted}").trim(), "{ran:#?}");
        }
    }
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    for case in Case::each("a_hook_that_takes_too_long_is_killed") {
        for kind in ["createRuntime", "createContainer", "startContainer"] {
            let began = std::time::Instant::now();
            let ran = case.run("true", |config| {
                add(
                    config,
                    kind,
                    json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}),
                );
            });
            assert_eq!(ran.code(), 125, "{kind}: {ran:#?}");
            assert!(ran.err.contains("within its 1 s"), "{kind}: {ran:#?}");
            assert!(began.elapsed() < crate::common::LONG);
            assert_eq!(case.left(), Vec::<String>::new(), "{kind}");
        }
    }
}

#[test]
fn a_hook_need_not_read_the_state() {
    for case in Case::each("a_hook_need_not_read_the_state") {
        let bundle = case.bundle(|config| {
            // More than a pipe holds.
            config["annotations"] = json!({"long": "x".repeat(200_000)});
            add(config, "createRuntime", json!({"path": "/bin/true"}));
            shell(config, "sleep 1000");
        });
        let id = case.id("a");
        case.ok(&["create", "-b", bundle.to_str().unwrap(), &id]);
        case.delete(&id);
    }
}
