//! Signals: passed on in the foreground, sent by `kill`.

use serde_json::json;

use crate::common::{Case, shell, until};

const TRAPS: &str =
    "for s in HUP INT QUIT USR1 USR2 TERM WINCH CONT; do trap \"echo got $s\" $s; done
    trap 'exit 9' ALRM
    echo up; while :; do sleep 0.05; done";

#[test]
fn signals_to_denovo_reach_the_process() {
    for case in Case::each("signals_to_denovo_reach_the_process") {
        let bundle = case.bundle(|config| shell(config, TRAPS));
        let run = case.start(case.denovo(&["run", "-b", bundle.to_str().unwrap(), &case.id("a")]));
        run.await_output("up");
        for (name, signal) in [
            ("HUP", libc::SIGHUP),
            ("INT", libc::SIGINT),
            ("QUIT", libc::SIGQUIT),
            ("USR1", libc::SIGUSR1),
            ("USR2", libc::SIGUSR2),
            ("TERM", libc::SIGTERM),
            ("WINCH", libc::SIGWINCH),
        ] {
            run.signal(signal);
            run.await_output(&format!("got {name}\n"));
        }
        run.signal(libc::SIGALRM);
        assert_eq!(run.wait().code(), 9);
    }
}

#[test]
fn signals_to_exec_reach_its_process_only() {
    let Some(case) = Case::root("signals_to_exec_reach_its_process_only") else { return };
    let (id, _) = case.sleeper("a", |_| {});
    let exec = case.start(case.denovo(&["exec", &id, "sh", "-c", TRAPS]));
    exec.await_output("up");
    exec.signal(libc::SIGUSR1);
    exec.await_output("got USR1");
    exec.signal(libc::SIGALRM);
    assert_eq!(exec.wait().code(), 9);
    assert_eq!(case.query(&id)["status"], "running");
    case.delete(&id);
}

#[test]
fn kill_sends_what_it_is_told() {
    for case in Case::each("kill_sends_what_it_is_told") {
        let bundle = case.bundle(|config| shell(config, TRAPS));
        let id = case.id("a");
        let run = case.start(case.denovo(&["run", "-b", bundle.to_str().unwrap(), &id]));
        run.await_output("up");
        for (word, name) in [("USR1", "USR1"), ("SIGUSR2", "USR2"), ("1", "HUP"), ("sigint", "INT")]
        {
            case.ok(&["kill", &id, word]);
            run.await_output(&format!("got {name}\n"));
        }
        // TERM is the one by default.
        case.ok(&["kill", &id]);
        run.await_output("got TERM\n");
        for word in ["NOPE", "0", "65", "-9"] {
            let ran = case.call(&["kill", "--", &id, word]);
            assert_eq!(ran.code(), 125, "{word}: {ran:#?}");
        }
        case.ok(&["kill", &id, "ALRM"]);
        assert_eq!(run.wait().code(), 9);
    }
}

#[test]
fn kill_all_reaches_every_process() {
    let Some(case) = Case::root("kill_all_reaches_every_process") else { return };
    let bundle = case.bundle(|config| {
        shell(
            config,
            "(trap 'echo child got it' USR1; echo child up; while :; do sleep 0.05; done) &
            trap 'echo first got it' USR1; echo first up; while :; do sleep 0.05; done",
        );
    });
    let id = case.id("a");
    let run = case.start(case.denovo(&["run", "-b", bundle.to_str().unwrap(), &id]));
    run.await_output("child up");
    run.await_output("first up");
    case.ok(&["kill", &id, "USR1"]);
    run.await_output("first got it");
    assert!(!run.so_far().contains("child got it"));
    // A sleep that the signal finds has no trap and dies of it; the loop goes on.
    case.ok(&["kill", "--all", &id, "USR1"]);
    run.await_output("child got it");
    case.ok(&["kill", &id, "KILL"]);
    assert_eq!(run.wait().code(), 137);
}

#[test]
fn a_signal_before_the_start_is_not_lost() {
    let Some(case) = Case::root("a_signal_before_the_start_is_not_lost") else { return };
    // A hook holds the start up until denovo has its signal.
    let bundle = case.bundle(|config| {
        shell(config, TRAPS);
        config["hooks"]["createRuntime"] = json!([{
            "path": "/bin/sh",
            "args": ["sh", "-c", format!("touch {0}/held; while ! test -e {0}/go; do sleep 0.02; done",
                case.dir.display())],
            "env": ["PATH=/bin:/usr/bin"],
        }]);
    });
    let run = case.start(case.denovo(&["run", "-b", bundle.to_str().unwrap(), &case.id("a")]));
    until("the hook", || case.dir.join("held").exists());
    // One that does not end denovo itself.
    run.signal(libc::SIGUSR1);
    case.file("go", "");
    // Before the traps stand it does nothing to pid 1; after that it is seen.
    run.await_output("up");
    run.signal(libc::SIGALRM);
    assert_eq!(run.wait().code(), 9);
}

/// A bundle whose hook keeps its container from ever being made, and a file
/// that the hook writes once it runs.
fn never_made(case: &Case, hook: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let up = case.directory("up").join(hook);
    let inside = hook == "createContainer";
    let script = case.script("hook", &format!("touch {}\nsleep 998 & sleep 998", up.display()));
    let bundle = case.bundle(|config| {
        config["hooks"] = json!({ hook: [{"path": script}] });
        if inside {
            config["process"]["args"] = json!(["true"]);
        }
    });
    (bundle, up)
}

#[test]
fn a_signal_while_a_container_is_made_takes_it_back() {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    for case in Case::each("a_signal_while_a_container_is_made_takes_it_back") {
        for (verb, hook, signal) in [
            (&["create"][..], "createRuntime", SIGTERM),
            (&["create"], "createContainer", SIGTERM),
            (&["create"], "prestart", SIGINT),
            (&["run"], "createRuntime", SIGINT),
            (&["run"], "createContainer", SIGHUP),
            (&["run", "--detach"], "createRuntime", SIGQUIT),
            (&["run", "--detach"], "createContainer", SIGTERM),
        ] {
            let (bundle, up) = never_made(&case, hook);
            let id = case.id("a");
            let words = [verb, &["--bundle", bundle.to_str().unwrap(), &id]].concat();
            let making = case.start(case.denovo(&words));
            until("the hook runs", || up.exists());
            making.signal(signal as i32);
            making.wait().refused_with(128 + signal as i32, &[signal.as_str(), "taken back"]);
            case.call(&["state", &id]).refused(&["does not exist"]);
            // Groups, processes of the hook's too, mounts.
            until("nothing is left", || case.left().is_empty());
            std::fs::remove_file(&up).unwrap();
        }
    }
}

#[test]
fn a_signal_that_is_ignored_does_not_disturb_the_making() {
    let Some(case) = Case::root("a_signal_that_is_ignored_does_not_disturb_the_making") else {
        return;
    };
    let script = case.script("hook", &format!("touch {}/up; sleep 0.3", case.dir.display()));
    let bundle = case.bundle(|config| {
        config["hooks"] = json!({"createRuntime": [{"path": script}]});
        config["process"]["args"] = json!(["echo", "made"]);
    });
    let id = case.id("a");
    let mut command = case.command("nohup");
    command.arg(crate::common::binary(false)).arg("--root").arg(case.state());
    command.args(["run", "--bundle", bundle.to_str().unwrap(), &id]);
    let making = case.start(command);
    until("the hook runs", || case.dir.join("up").exists());
    making.signal(libc::SIGHUP);
    assert_eq!(making.wait().expect(0, "run").out(), "made");
}
