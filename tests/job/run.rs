//! `job run`: a command inside is as the same command outside, for its
//! caller and for itself.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use crate::common::{is_root, until};
use crate::help::{Place, alive, await_death, kill};

#[test]
fn ids_are_the_callers() {
    for place in Place::each("ids_are_the_callers") {
        let uid = place.uid();
        let said = place.see(&[], "id -u; id -ru; id -g; id -rg; grep -E 'NoNewPrivs|CapEff|CapInh|CapAmb' /proc/self/status");
        let lines: Vec<&str> = said.lines().collect();
        let gid = place.user.unwrap_or_else(|| nix::unistd::getegid().as_raw());
        let expected = [uid, uid, gid, gid].map(|n| n.to_string());
        assert_eq!(lines[..4], expected);
        assert!(said.contains("NoNewPrivs:\t1"), "{said}");
        assert!(said.contains("CapInh:\t0000000000000000"), "{said}");
        assert!(said.contains("CapAmb:\t0000000000000000"), "{said}");
        if uid != 0 {
            assert!(said.contains("CapEff:\t0000000000000000"), "{said}");
        }
    }
}

#[test]
fn supplementary_groups_stay_and_can_be_told_by_what_they_open() {
    let test = "supplementary_groups_stay_and_can_be_told_by_what_they_open";
    let Some(place) = Place::user(test) else { return };
    if !is_root() {
        return crate::common::skip(test, "only root can give a process groups");
    }
    let gid = place.uid() + 7;
    for (name, group) in [("of-the-group", gid), ("of-another", gid + 1)] {
        let file = place.home().join(name);
        fs::write(&file, "secret").unwrap();
        std::os::unix::fs::chown(&file, Some(0), Some(group)).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o040)).unwrap();
    }
    let own = place.uid().to_string();
    let mut command = place.program("setpriv");
    // Root runs setpriv, which becomes the user with the group.
    command.uid(0).gid(0);
    command.args(["--reuid", &own, "--regid", &own, "--groups", &gid.to_string()]);
    command.args([&place.denovo_path(), "--root", &place.base().display().to_string()]);
    command.args(["job", "run", "--", "sh", "-c", "cat of-the-group; cat of-another"]);
    let ran = place.finish(command).expect(1, "the other group's file");
    assert_eq!(ran.out(), "secret");
    assert!(ran.err.contains("of-another: Permission denied"), "{ran:?}");
}

#[test]
fn records_may_be_in_a_directory_named_from_here() {
    for place in Place::each("records_may_be_in_a_directory_named_from_here") {
        let base = place.base();
        let mut command = place.program(&place.denovo_path());
        command.current_dir(base.parent().unwrap());
        command.arg("--root").arg(base.file_name().unwrap());
        command.args(["job", "run", "--", "sh", "-c", "echo inside"]);
        let ran = place.finish(command).expect(0, "a relative --root");
        assert_eq!((ran.out().as_str(), ran.err.as_str()), ("inside", ""), "{ran:?}");
    }
}

#[test]
fn where_the_time_went_is_told_of_the_environment_and_of_the_rank() {
    for place in Place::each("where_the_time_went_is_told_of_the_environment_and_of_the_rank") {
        let ran = place.call(&["--timings", "job", "run", "--", "echo", "--timings"]);
        let ran = ran.expect(0, "job run");
        assert_eq!(ran.out(), "--timings");
        let number = |line: &str| -> Option<f64> {
            line.strip_prefix("denovo: ")?.split_whitespace().next()?.parse().ok()
        };
        let (environment, join) =
            ran.err.split_once("  join, in microseconds").expect("two reports");
        for (report, words) in [
            (
                environment,
                ["environment, in micro", "the job's monitor", "stay as the environment"],
            ),
            (join, ["ask to be let in", "wait for the steps inside", "exec echo"]),
        ] {
            for word in words {
                let line = report.lines().find(|line| line.contains(word));
                let passed = line.and_then(number).unwrap_or_else(|| panic!("{word}: {report}"));
                assert!(passed > 0.0, "{word}: {report}");
            }
        }
        // The stages before the steps are the whole.
        let stages = environment.lines().take_while(|line| !line.contains("inside, from"));
        let passed: Vec<f64> = stages.filter_map(number).collect();
        let sum: f64 = passed[1..].iter().sum();
        assert!((sum - passed[0]).abs() < 2.0, "{passed:?}");
        let unasked = place.run(&[], "true").expect(0, "job run, not measured");
        assert_eq!(unasked.err, "");
    }
}

#[test]
fn exit_status_is_the_commands() {
    for place in Place::each("exit_status_is_the_commands") {
        for (script, code) in
            [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill $$", 143)]
        {
            let ran = place.run(&[], script).expect(code, script);
            assert_eq!(ran.err, "", "{script}");
        }
    }
}

#[test]
fn a_command_that_cannot_run_is_told_as_a_shell_does() {
    for place in Place::each("a_command_that_cannot_run_is_told_as_a_shell_does") {
        let home = place.home();
        place.file("home/plain", "no program");
        let plain = home.join("plain").display().to_string();
        for (command, code, word) in [
            ("no-such-command", 127, "no-such-command"),
            ("/no/such/file", 127, "/no/such/file"),
            (&plain[..], 126, &plain[..]),
            ("/tmp", 126, "/tmp"),
        ] {
            let ran = place.call(&["job", "run", "--", command]);
            assert_eq!(ran.code(), code, "{command}: {ran:?}");
            let told = ran.err.lines().filter(|l| l.starts_with("denovo: ")).count();
            assert!(told == 1 && ran.err.contains(word), "{ran:?}");
        }
    }
}

#[test]
fn standard_streams_go_through() {
    for place in Place::each("standard_streams_go_through") {
        let mut command = place.running(&[], "tr a-z A-Z; echo told >&2");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || {
            stdin.write_all("words\n".repeat(30_000).as_bytes()).unwrap();
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert_eq!(output.stdout.len(), 6 * 30_000);
        assert!(output.stdout.starts_with(b"WORDS\nWORDS\n"));
        assert_eq!(output.stderr, b"told\n");
    }
}

#[test]
fn nothing_of_denovo_holds_a_pipe_open() {
    for place in Place::each("nothing_of_denovo_holds_a_pipe_open") {
        // The environment stays, its monitor and init with it; `cat` must
        // end all the same.
        let id = place.id("stays");
        let start = place.line(&["job", "start", "--id", &id]);
        let run = place.line(&["job", "run", "--id", &id, "--", "echo", "said"]);
        let mut shell = place.program("sh");
        shell.args(["-c", &format!("{{ {start}; {run}; }} 2>&1 | cat; echo over")]);
        assert_eq!(place.finish(shell).expect(0, "pipe").out(), format!("{id}\nsaid\nover"));
        place.ok(&["job", "end", &id]);
        // The first to come made the environment, the one with the pipe is
        // still in it when that one is gone.
        let fifo = place.home().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        place.give(&fifo);
        let id = place.id("first");
        let other = place.start(place.running(&["--id", &id], "echo in; cat fifo >/dev/null"));
        other.await_output("in");
        let first = place.line(&["job", "run", "--id", &id, "--", "echo", "said"]);
        let mut shell = place.program("sh");
        shell.args(["-c", &format!("{first} | cat; echo over; : >fifo")]);
        assert_eq!(place.finish(shell).expect(0, "pipe").out(), "said\nover");
        other.wait().expect(0, "the other");
    }
}

#[test]
fn inherited_descriptors_are_usable_and_none_of_denovos_is_there() {
    let test = "inherited_descriptors_are_usable_and_none_of_denovos_is_there";
    for place in Place::each(test) {
        let script = "echo through 5 >&5; read -r line <&7; echo got $line; exec ls /proc/self/fd";
        let run = place.line(&["job", "run", "--", "sh", "-c", script]);
        let mut shell = place.program("bash");
        // Every other descriptor is closed first.
        let close = "for f in /proc/self/fd/*; do f=${f##*/}; [ $f -gt 2 ] && eval \"exec $f>&-\"; done 2>/dev/null;";
        shell.args(["-c", &format!("{close} {{ echo in 7 | {run} 5>&3 7<&0 3>&-; }} 3>&1")]);
        let ran = place.finish(shell).expect(0, "descriptors");
        // `ls` itself opens the directory as 3.
        assert_eq!(ran.lines(), ["through 5", "got in 7", "0", "1", "2", "3", "5", "7"], "{ran:?}");
    }
}

#[test]
fn signals_reach_the_command() {
    for place in Place::each("signals_reach_the_command") {
        for (name, number) in [
            ("TERM", libc::SIGTERM),
            ("INT", libc::SIGINT),
            ("HUP", libc::SIGHUP),
            ("USR1", libc::SIGUSR1),
        ] {
            let script = format!(
                "trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.02; done"
            );
            let going = place.start(place.running(&[], &script));
            going.await_output("ready");
            going.signal(number);
            let ran = going.wait().expect(9, name);
            assert_eq!(ran.lines(), ["ready", &format!("got {name}")]);
        }
        // One that nobody handles ends it.
        let going = place.start(place.running(&[], "echo ready; exec sleep 1000"));
        going.await_output("ready");
        going.signal(libc::SIGTERM);
        going.wait().expect(143, "SIGTERM");
    }
}

#[test]
fn the_command_ends_with_a_killed_denovo() {
    for place in Place::each("the_command_ends_with_a_killed_denovo") {
        let id = place.started("stays", &[]);
        let going = place.start(place.running(&["--id", &id], "echo ready; exec sleep 4321"));
        going.await_output("ready");
        let inside = sleeper_of(going.pid());
        assert!(alive(inside));
        going.signal(libc::SIGKILL);
        going.wait().expect(137, "SIGKILL");
        await_death(inside);
        until("the monitor counts it out", || place.shown(&id)["processes"] == 0);
        assert_eq!(place.ok(&["job", "exec", &id, "echo", "usable"]), "usable");
        place.ok(&["job", "end", &id]);
    }
}

/// The process that a denovo waits for.
fn sleeper_of(proxy: i32) -> i32 {
    let children = format!("/proc/{proxy}/task/{proxy}/children");
    let text = fs::read_to_string(children).unwrap();
    // One that only led it in may still be there before it.
    text.split_whitespace().last().expect("a child").parse().unwrap()
}

#[test]
fn whoever_leaves_last_ends_the_rest() {
    for place in Place::each("whoever_leaves_last_ends_the_rest") {
        // In the background, in a session of its own, deaf to signals.
        let script = "(setsid sh -c 'trap \"\" TERM HUP INT; echo $$; while :; do sleep 1; done' &) ; sleep 0.1; echo done";
        let ran = place.run(&[], script).expect(0, script);
        assert!(ran.out.contains("done"));
        // denovo waits for the end, so that it is over at once.
        assert_eq!(place.remains(), Vec::<String>::new());
    }
}

#[test]
fn variables_are_the_callers_without_its_session() {
    for place in Place::each("variables_are_the_callers_without_its_session") {
        let script = "echo $OMP_NUM_THREADS-$SSH_AUTH_SOCK-$XDG_RUNTIME_DIR-$TMPDIR-$HOME-$MORE";
        let mut command = place.running(&["--env", "MORE=a=b"], script);
        command.env("OMP_NUM_THREADS", "4").env("SSH_AUTH_SOCK", "/tmp/agent");
        command.env("TMPDIR", "/local/scratch");
        let home = place.home().display().to_string();
        let said = place.finish(command).expect(0, script).out();
        assert_eq!(said, format!("4---/tmp-{home}-a=b"));
        let mut command =
            place.running(&["--clean-env", "-e", "KEPT"], "echo ${GONE-none} $KEPT $PMI_RANK");
        command.env("GONE", "1").env("KEPT", "2").env("PMI_RANK", "3");
        assert_eq!(place.finish(command).expect(0, "clean").out(), "none 2 3");
    }
}

#[test]
fn variables_and_arguments_of_any_bytes_go_in() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    for place in Place::each("variables_and_arguments_of_any_bytes_go_in") {
        let odd = OsStr::from_bytes(b"a\xffb");
        let mut command = place.running(&[], "printf '%s %s' \"$ODD\" \"$0\" | od -An -tx1");
        command.arg(odd).env("ODD", odd).env(OsStr::from_bytes(b"N\xff"), "x");
        let ran = place.finish(command).expect(0, "odd bytes");
        assert_eq!(ran.out().trim(), "61 ff 62 20 61 ff 62", "{ran:?}");
    }
}

#[test]
fn the_working_directory_comes_along() {
    for place in Place::each("the_working_directory_comes_along") {
        let home = place.home().display().to_string();
        assert_eq!(place.see(&[], "pwd; echo kept >there"), home);
        assert_eq!(fs::read_to_string(place.home().join("there")).unwrap(), "kept\n");
        assert_eq!(place.see(&["--cwd", "/usr/lib"], "pwd"), "/usr/lib");
        // Beside home.
        let other = place.directory("other place").display().to_string();
        let mut command = place.running(&[], "pwd; touch file; ls -a .. | sort | tr '\\n' ' '");
        command.current_dir(&other);
        let ran = place.finish(command).expect(0, "pwd");
        assert_eq!(ran.lines(), [&other[..], ". .. home other place "]);
        assert!(place.dir.join("other place/file").exists());
        let ran = place.run(&["--cwd", "/no/such"], "true");
        assert!(ran.code() == 125 && ran.err.contains("/no/such"), "{ran:?}");
    }
}

#[test]
fn a_stopped_command_can_go_on() {
    use nix::sys::signal::{Signal, killpg};
    for place in Place::each("a_stopped_command_can_go_on") {
        // As the terminal does it: to the whole group.
        let mut command = place.running(&[], "echo ready; sleep 0.2; echo over");
        command.process_group(0);
        let going = place.start(command);
        going.await_output("ready");
        let inside = sleeper_of(going.pid());
        let group = nix::unistd::Pid::from_raw(going.pid());
        killpg(group, Signal::SIGTSTP).unwrap();
        // A shell in vfork(2) waits for its child, which is stopped: D.
        let stopped = || matches!(state(inside), 'T' | 'D');
        until("both stop", || state(going.pid()) == 'T' && stopped());
        killpg(group, Signal::SIGCONT).unwrap();
        assert!(going.wait().expect(0, "SIGCONT").out.contains("over"));
    }
}

fn state(pid: i32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|r| r.trim_start().chars().next()).unwrap_or('?')
}

#[test]
fn a_command_that_closes_its_output_early_hurts_nobody() {
    for place in Place::each("a_command_that_closes_its_output_early_hurts_nobody") {
        let run = place.line(&["job", "run", "--", "sh", "-c", "yes | head -c 3000000"]);
        let mut shell = place.program("sh");
        shell.args(["-c", &format!("{run} | head -c 5; echo; echo over")]);
        assert_eq!(place.finish(shell).expect(0, "pipe").lines(), ["y", "y", "y", "over"]);
    }
}

#[test]
fn a_killed_process_inside_is_reaped_and_its_status_told() {
    let Some(place) = Place::root("a_killed_process_inside_is_reaped_and_its_status_told") else {
        return;
    };
    let going = place.start(place.running(&[], "echo ready; exec sleep 1000"));
    going.await_output("ready");
    kill(sleeper_of(going.pid()));
    going.wait().expect(137, "killed from outside");
}
