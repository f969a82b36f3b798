//! `pause` and `resume`: what a paused container does, and what can be done
//! to it.

use std::fs;
use std::time::Duration;

use crate::common::{Case, shell, until};

/// A container that counts in a file that can be read from outside.
fn counter(case: &Case) -> (String, impl Fn() -> String + use<>) {
    let bundle = case.bundle(|config| {
        config["root"]["readonly"] = serde_json::json!(false);
        shell(config, "i=0; while :; do i=$((i + 1)); echo $i > /tmp/count; done");
    });
    let (id, _) = case.sleeper_of("counter", &bundle);
    let file = bundle.join("rootfs/tmp/count");
    until("it counts", || fs::read_to_string(&file).is_ok_and(|text| !text.is_empty()));
    (id, move || fs::read_to_string(&file).unwrap())
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let Some(case) = Case::root("a_paused_container_stands_still_until_it_is_resumed") else {
        return;
    };
    let (id, count) = counter(&case);
    case.ok(&["pause", &id]);
    let state = case.query(&id);
    assert_eq!(state["status"], "paused");
    assert!(state["pid"].as_i64().unwrap() > 0, "{state}");
    assert!(case.ok(&["list"]).contains(" paused "));
    let before = count();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(count(), before);
    case.call(&["pause", &id]).refused(&["cannot be paused", "paused"]);

    case.ok(&["resume", &id]);
    assert_eq!(case.query(&id)["status"], "running");
    until("it counts again", || count() != before);
    case.call(&["resume", &id]).refused(&["cannot be resumed", "running"]);
    case.delete(&id);
    for verb in ["pause", "resume"] {
        case.call(&[verb, &id]).refused(&["does not exist"]);
    }
}

#[test]
fn a_paused_container_can_be_killed_and_deleted() {
    let Some(case) = Case::root("a_paused_container_can_be_killed_and_deleted") else { return };
    for all in [&["kill"][..], &["kill", "--all"]] {
        let (id, _) = case.sleeper("killed", |_| {});
        case.ok(&["pause", &id]);
        case.call(&["delete", &id]).refused(&["paused", "cannot be deleted"]);
        assert_eq!(case.query(&id)["status"], "paused");
        // Another signal waits as long as the container does.
        case.ok(&["kill", &id, "USR1"]);
        assert_eq!(case.query(&id)["status"], "paused");
        case.ok(&[all, &[&id, "KILL"]].concat());
        case.await_status(&id, "stopped");
        case.ok(&["delete", &id]);
    }
    let (id, _) = case.sleeper("deleted", |_| {});
    case.ok(&["pause", &id]);
    case.delete(&id);
}

#[test]
fn exec_into_a_paused_container_waits_only_when_told_to() {
    let test = "exec_into_a_paused_container_waits_only_when_told_to";
    let Some(case) = Case::root(test) else { return };
    let (id, _) = case.sleeper("a", |_| {});
    case.ok(&["pause", &id]);
    case.call(&["exec", &id, "true"]).refused(&["paused", "--ignore-paused"]);
    let waiting = case.start(case.denovo(&["exec", "--ignore-paused", &id, "echo", "on"]));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(waiting.so_far(), "");
    case.ok(&["resume", &id]);
    assert_eq!(waiting.wait().expect(0, "exec").out(), "on");

    // One that waits can be given up.
    case.ok(&["pause", &id]);
    let waiting = case.start(case.denovo(&["exec", "--ignore-paused", &id, "echo", "on"]));
    std::thread::sleep(Duration::from_millis(200));
    waiting.signal(libc::SIGTERM);
    assert_eq!(waiting.wait().code(), 143);
    case.ok(&["resume", &id]);
    until("nothing of it is left", || {
        case.ok(&["ps", "--format", "json", &id]).matches(',').count() == 0
    });
    case.delete(&id);
}

#[test]
fn a_container_that_waits_for_start_can_be_paused_too() {
    let Some(case) = Case::root("a_container_that_waits_for_start_can_be_paused_too") else {
        return;
    };
    let id = case.id("a");
    let bundle = case.bundle(|config| shell(config, "exec sleep 1000"));
    case.ok(&["create", "--bundle", bundle.to_str().unwrap(), &id]);
    case.ok(&["pause", &id]);
    case.call(&["start", &id]).refused(&["cannot be started", "paused"]);
    case.ok(&["resume", &id]);
    assert_eq!(case.query(&id)["status"], "created");
    case.ok(&["start", &id]);
    assert_eq!(case.query(&id)["status"], "running");
    case.delete(&id);
}

#[test]
fn without_a_group_nothing_is_paused() {
    let Some(case) = Case::user("without_a_group_nothing_is_paused") else { return };
    let (id, _) = case.sleeper("a", |_| {});
    let groups = fs::read_to_string(case.state().join(&id).join("state.json")).unwrap();
    if groups.contains(r#""groups":[]"#) {
        case.call(&["pause", &id]).refused(&["cannot be paused", "control group"]);
        case.call(&["update", "--pids-limit", "9", &id]).refused(&["no control groups"]);
        case.call(&["events", "--stats", &id]).refused(&["no control groups"]);
        assert_eq!(case.query(&id)["status"], "running");
    }
    case.delete(&id);
}
