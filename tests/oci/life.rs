//! From create to delete: states, records, what list and state print.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Case, Ran, shell, until};

fn create(case: &Case, id: &str, change: impl FnOnce(&mut Value)) -> Ran {
    let bundle = case.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        change(config);
    });
    case.call(&["create", "--bundle", bundle.to_str().unwrap(), id])
}

#[test]
fn a_life_goes_from_created_to_deleted() {
    for case in Case::each("a_life_goes_from_created_to_deleted") {
        let id = case.id("a");
        create(&case, &id, |config| {
            config["annotations"] = json!({"org.example.a": "1", "b": "two"});
        })
        .expect(0, "create");
        let created = case.query(&id);
        assert_eq!(created["status"], "created");
        let pid = created["pid"].as_i64().unwrap();
        assert!(fs::read(format!("/proc/{pid}/stat")).is_ok());
        assert_ne!(fs::read(format!("/proc/{pid}/cmdline")).unwrap(), b"sleep\x001000\0");

        case.ok(&["start", &id]);
        let running = case.query(&id);
        assert_eq!((&running["status"], &running["pid"]), (&json!("running"), &json!(pid)));
        until("exec", || fs::read(format!("/proc/{pid}/cmdline")).unwrap() == b"sleep\x001000\0");
        case.call(&["start", &id]).refused(&["cannot be started", "running"]);

        case.call(&["delete", &id]).refused(&["running", "cannot be deleted"]);
        assert_eq!(case.query(&id)["status"], "running");
        case.ok(&["kill", &id, "KILL"]);
        case.await_status(&id, "stopped");
        assert_eq!(case.query(&id)["pid"].as_i64().unwrap_or(0), 0);
        case.call(&["kill", &id, "KILL"]).refused(&["not running"]);
        case.call(&["start", &id]).refused(&["stopped"]);
        case.call(&["exec", &id, "true"]).told(&["stopped"]);

        case.ok(&["delete", &id]);
        for verb in [&["state", &id][..], &["kill", &id], &["delete", &id], &["start", &id]] {
            case.call(verb).refused(&["does not exist"]);
        }
        case.ok(&["delete", "--force", &id]);
    }
}

#[test]
fn the_state_document_is_as_the_specification_has_it() {
    let Some(case) = Case::root("the_state_document_is_as_the_specification_has_it") else {
        return;
    };
    let id = case.id("a");
    create(&case, &id, |config| config["annotations"] = json!({"k": "v"})).expect(0, "create");
    let state = case.query(&id);
    let version = state["ociVersion"].as_str().unwrap();
    assert!(version.starts_with("1."), "{version}");
    assert_eq!(state["id"], id.as_str());
    let bundle = state["bundle"].as_str().unwrap();
    assert!(bundle.starts_with(case.dir.to_str().unwrap()), "{bundle}");
    assert_eq!(state["annotations"], json!({"k": "v"}));
    for key in state.as_object().unwrap().keys() {
        let known = ["ociVersion", "id", "status", "pid", "bundle", "annotations"];
        let of_runc = ["rootfs", "created", "owner"];
        let known = known.contains(&&key[..]) || of_runc.contains(&&key[..]);
        assert!(known, "{key} is neither in the specification nor runc's");
    }
    assert_eq!(state["rootfs"], format!("{bundle}/rootfs"));
    assert_eq!(state["owner"], "root");
    assert!(state["created"].as_str().unwrap().ends_with('Z'), "{state}");
    case.delete(&id);
}

#[test]
fn a_created_container_can_be_killed_and_deleted_unstarted() {
    for case in Case::each("a_created_container_can_be_killed_and_deleted_unstarted") {
        let (killed, deleted) = (case.id("killed"), case.id("deleted"));
        for id in [&killed, &deleted] {
            create(&case, id, |_| {}).expect(0, "create");
        }
        case.ok(&["kill", &killed, "9"]);
        case.await_status(&killed, "stopped");
        case.ok(&["delete", &killed]);
        case.delete(&deleted);
    }
}

#[test]
fn an_id_is_taken_until_its_container_is_deleted() {
    for case in Case::each("an_id_is_taken_until_its_container_is_deleted") {
        let (id, pid) = case.sleeper("a", |_| {});
        create(&case, &id, |_| {}).refused(&["already exists"]);
        // The one that has it is untouched.
        let state = case.query(&id);
        assert_eq!((&state["status"], &state["pid"]), (&json!("running"), &json!(pid)));
        case.delete(&id);
        create(&case, &id, |_| {}).expect(0, "once more");
        case.delete(&id);
    }
}

#[test]
fn a_process_that_ended_by_itself_is_stopped_and_kept_for_delete() {
    for case in Case::each("a_process_that_ended_by_itself_is_stopped_and_kept_for_delete") {
        let bundle = case.bundle(|config| shell(config, "exit 3"));
        let id = case.id("a");
        case.ok(&["run", "--detach", "--bundle", bundle.to_str().unwrap(), &id]);
        case.await_status(&id, "stopped");
        case.ok(&["delete", &id]);
        let id = case.id("kept");
        let ran = case.call(&["run", "--keep", "--bundle", bundle.to_str().unwrap(), &id]);
        assert_eq!(ran.code(), 3);
        assert_eq!(case.query(&id)["status"], "stopped");
        case.ok(&["delete", &id]);
    }
}

#[test]
fn list_shows_every_container() {
    for case in Case::each("list_shows_every_container") {
        assert_eq!(case.ok(&["list", "--quiet"]), "");
        let (running, pid) = case.sleeper("a", |_| {});
        let created = case.id("b");
        create(&case, &created, |_| {}).expect(0, "create");
        assert_eq!(case.ok(&["list", "-q"]), format!("{running}\n{created}"));

        let text = case.ok(&["list"]);
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows[0][..3], ["ID", "PID", "STATUS"]);
        assert_eq!(rows[1][..3], [&running[..], &pid.to_string(), "running"]);
        assert_eq!((rows[2][0], rows[2][2]), (&created[..], "created"));

        let rows: Value = serde_json::from_str(&case.ok(&["list", "--format", "json"])).unwrap();
        assert_eq!(rows.as_array().unwrap().len(), 2);
        assert_eq!(rows[0]["id"], running.as_str());
        assert_eq!(rows[0]["pid"], pid);
        assert_eq!(rows[0]["status"], "running");
        assert_eq!(rows[1]["status"], "created");
        for key in ["bundle", "created", "owner", "ociVersion"] {
            assert!(rows[0][key].is_string(), "{key}");
        }
        for id in [running, created] {
            case.delete(&id);
        }
    }
}

#[test]
fn the_pid_file_names_the_process() {
    for case in Case::each("the_pid_file_names_the_process") {
        let file = case.dir.join("state-pid");
        let place = case.directory("pids");
        let file = place.join(file.file_name().unwrap());
        let bundle = case.bundle(|c| c["process"]["args"] = json!(["sleep", "1000"]));
        let id = case.id("a");
        let (bundle, path) = (bundle.to_str().unwrap(), file.to_str().unwrap());
        case.ok(&["create", "--pid-file", path, "--bundle", bundle, &id]);
        let pid = fs::read_to_string(&file).unwrap();
        assert_eq!(json!(pid.parse::<i64>().unwrap()), case.query(&id)["pid"]);
        case.delete(&id);
    }
}

#[test]
fn explain_prints_the_plan_and_changes_nothing() {
    for case in Case::each("explain_prints_the_plan_and_changes_nothing") {
        let bundle = case.bundle(|config| shell(config, "true"));
        let before = listing(&bundle);
        let id = case.id("a");
        for verb in ["create", "run"] {
            let text = case.ok(&["explain", verb, "--bundle", bundle.to_str().unwrap(), &id]);
            for part in ["clone into new namespaces: ", "mount proc on /proc", "exec sh"] {
                assert!(text.contains(part), "{part} in {text}");
            }
            assert_eq!(text.contains("wait for start"), verb == "create");
            // Every line has its number, in order.
            for (index, line) in text.lines().enumerate() {
                assert!(line.trim_start().starts_with(&format!("{} ", index + 1)), "{line}");
            }
            assert_eq!(listing(&bundle), before);
            assert_eq!(case.left(), Vec::<String>::new());
        }
        let (id, _) = case.sleeper("b", |_| {});
        for verb in [&["delete", &id][..], &["kill", &id], &["exec", &id, "touch", "/tmp/x"]] {
            case.ok(&[&["explain"], verb].concat());
            assert_eq!(case.query(&id)["status"], "running");
        }
        case.delete(&id);
    }
}

fn listing(dir: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        names.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            names.extend(listing(&entry.path()));
        }
    }
    names.sort();
    names
}

#[test]
fn many_at_once_do_not_get_in_each_other_s_way() {
    for case in Case::each("many_at_once_do_not_get_in_each_other_s_way") {
        let bundle = case.bundle(|config| shell(config, "echo $$"));
        let going: Vec<_> = (0..12)
            .map(|n| {
                let id = case.id(&n.to_string());
                case.start(case.denovo(&["run", "-b", bundle.to_str().unwrap(), &id]))
            })
            .collect();
        for one in going {
            assert_eq!(one.wait().expect(0, "run").out(), "1");
        }
    }
}

#[test]
fn of_many_creates_with_one_id_one_wins() {
    for case in Case::each("of_many_creates_with_one_id_one_wins") {
        let bundle = case.bundle(|c| c["process"]["args"] = json!(["sleep", "1000"]));
        let id = case.id("a");
        let args = ["create", "-b", bundle.to_str().unwrap(), &id];
        let going: Vec<_> = (0..8).map(|_| case.start(case.denovo(&args))).collect();
        let codes: Vec<i32> = going.into_iter().map(|g| g.wait().code()).collect();
        assert_eq!(codes.iter().filter(|c| **c == 0).count(), 1, "{codes:?}");
        assert_eq!(case.query(&id)["status"], "created");
        case.delete(&id);
    }
}

#[test]
fn a_container_without_a_process_is_created_but_not_run() {
    let Some(case) = Case::root("a_container_without_a_process_is_created_but_not_run") else {
        return;
    };
    let bundle = case.bundle(|config| {
        config.as_object_mut().unwrap().remove("process");
    });
    case.run_bundle(&bundle).refused(&["process"]);
}

#[test]
fn while_it_is_made_a_container_is_creating() {
    for case in Case::each("while_it_is_made_a_container_is_creating") {
        let place = case.directory("place");
        let bundle = case.bundle(|config| {
            shell(config, "sleep 1000");
            let hold = format!(
                "touch {0}/held; while ! test -e {0}/go; do sleep 0.02; done",
                place.display()
            );
            config["hooks"]["createRuntime"] = json!([{
                "path": "/bin/sh", "args": ["sh", "-c", hold], "env": ["PATH=/bin:/usr/bin"],
            }]);
        });
        let id = case.id("a");
        let args = ["create", "-b", bundle.to_str().unwrap(), &id];
        let create = case.start(case.denovo(&args));
        until("the hook", || place.join("held").exists());
        assert_eq!(case.query(&id)["status"], "creating");
        case.call(&["start", &id]).refused(&["cannot be started", "creating"]);
        case.call(&["delete", &id]).refused(&["creating"]);
        fs::write(place.join("go"), "").unwrap();
        create.wait().expect(0, "create");
        assert_eq!(case.query(&id)["status"], "created");
        case.delete(&id);
    }
}
