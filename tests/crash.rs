//! SIGKILL of denovo at any moment: what it leaves, delete removes.

mod common;

use std::time::Duration;

use common::{Case, until};
use serde_json::json;

/// Kills the command after each of many delays, and cleans up.
fn killed(case: &Case, verb: &str, change: impl Fn(&mut serde_json::Value)) {
    let bundle = case.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        change(config);
    });
    let bundle = bundle.to_str().unwrap();
    // From before the first step to where everything stands.
    let whole = {
        let id = case.id(&format!("{verb}-whole"));
        let began = std::time::Instant::now();
        let going = case.start(case.denovo(&[verb, "-b", bundle, &id]));
        let stands = if verb == "create" { "created" } else { "running" };
        until("it stands", || {
            let state = case.call(&["state", &id]);
            state.code() == 0 && state.out.contains(stands)
        });
        let took = began.elapsed();
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(going.pid()),
            nix::sys::signal::Signal::SIGKILL,
        );
        going.wait();
        case.delete(&id);
        took
    };
    const TIMES: u32 = 30;
    for number in 0..TIMES {
        let id = case.id(&format!("{verb}-{number}"));
        let going = case.start(case.denovo(&[verb, "-b", bundle, &id]));
        std::thread::sleep((whole * number / TIMES).max(Duration::from_micros(50)));
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(going.pid()),
            nix::sys::signal::Signal::SIGKILL,
        );
        going.wait();
        // list must cope with whatever stands there.
        case.ok(&["list"]);
        case.ok(&["delete", "--force", &id]);
        until("nothing is left", || case.left().is_empty());
        // And the id is free again.
        case.call(&["state", &id]).refused(&["does not exist"]);
    }
}

#[test]
fn create_can_be_killed_at_any_moment() {
    for case in Case::each("create_can_be_killed_at_any_moment") {
        killed(&case, "create", |_| {});
    }
}

#[test]
fn run_can_be_killed_at_any_moment() {
    for case in Case::each("run_can_be_killed_at_any_moment") {
        killed(&case, "run", |_| {});
    }
}

#[test]
fn a_run_with_a_process_in_between_can_be_killed_at_any_moment() {
    for case in Case::each("a_run_with_a_process_in_between_can_be_killed_at_any_moment") {
        killed(&case, "run", |config| common::namespace(config, "time", None));
    }
}

#[test]
fn a_killed_delete_can_be_repeated() {
    let Some(case) = Case::root("a_killed_delete_can_be_repeated") else { return };
    for number in 0..15u32 {
        let (id, _) = case.sleeper(&number.to_string(), |_| {});
        let going = case.start(case.denovo(&["delete", "--force", &id]));
        std::thread::sleep(Duration::from_micros(50) + Duration::from_micros(700) * number);
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(going.pid()),
            nix::sys::signal::Signal::SIGKILL,
        );
        going.wait();
        case.ok(&["delete", "--force", &id]);
        until("nothing is left", || case.left().is_empty());
    }
}

#[test]
fn a_killed_exec_leaves_the_container_alone() {
    let Some(case) = Case::root("a_killed_exec_leaves_the_container_alone") else { return };
    let (id, _) = case.sleeper("a", |_| {});
    for number in 0..15u32 {
        let going = case.start(case.denovo(&["exec", &id, "true"]));
        std::thread::sleep(Duration::from_micros(50) + Duration::from_micros(500) * number);
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(going.pid()),
            nix::sys::signal::Signal::SIGKILL,
        );
        going.wait();
        assert_eq!(case.query(&id)["status"], "running");
    }
    case.delete(&id);
}
