//! Many processes, one environment.

use std::collections::BTreeSet;

use crate::common::{Going, is_root, skip};
use crate::help::{Place, alive, await_death};

const RANKS: usize = 32;

#[test]
fn processes_started_at_once_meet_in_one_environment() {
    for place in Place::each("processes_started_at_once_meet_in_one_environment") {
        // Each waits for all the others, which only works where they meet.
        let script = format!(
            "touch /dev/shm/$1; i=0; while [ $(ls /dev/shm | wc -l) -lt {RANKS} ]; do sleep 0.02; i=$((i+1)); [ $i -gt 2000 ] && exit 3; done; \
             readlink /proc/self/ns/pid; sleep 0.0$(($1 % 7))"
        );
        for round in 0..10 {
            let id = place.id(&format!("round{round}"));
            let ranks: Vec<Going> = (0..RANKS)
                .map(|rank| {
                    let rank = rank.to_string();
                    let mut command = place.node(&["job", "run", "--id", &id, "--"]);
                    command.args(["sh", "-c", &script, "rank", &rank]);
                    place.start(command)
                })
                .collect();
            let spaces: BTreeSet<String> =
                ranks.into_iter().map(|r| r.wait().expect(0, &id).out()).collect();
            assert_eq!(spaces.len(), 1, "round {round}: {spaces:?}");
            assert_eq!(place.remains(), Vec::<String>::new(), "the last one out ended it");
        }
    }
}

#[test]
fn short_processes_of_one_id_never_fail_however_they_overlap() {
    for place in Place::each("short_processes_of_one_id_never_fail_however_they_overlap") {
        let id = place.id("busy");
        let loops: Vec<Going> = (0..4)
            .map(|_| {
                let run = place.line(&["job", "run", "--id", &id, "--", "true"]);
                let mut shell = place.program("sh");
                shell.args([
                    "-c",
                    &format!("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do {run} || exit; done"),
                ]);
                place.start(shell)
            })
            .collect();
        for one in loops {
            let ran = one.wait().expect(0, "a loop of short ones");
            assert_eq!(ran.err, "");
        }
        assert_eq!(place.remains(), Vec::<String>::new());
    }
}

#[test]
fn users_with_the_same_id_do_not_meet() {
    let test = "users_with_the_same_id_do_not_meet";
    let (Some(one), Some(two)) = (Place::user(test), Place::user(test)) else { return };
    if !is_root() {
        return skip(test, "only root can be two users");
    }
    // Each with the base directory that denovo finds for it.
    let id = one.id("shared");
    let run = |place: &Place, script: &str| {
        let mut command = place.program(&place.denovo_path());
        command.env("XDG_RUNTIME_DIR", place.home());
        command.args(["job", "run", "--id", &id, "--", "sh", "-c", script]);
        place.start(command)
    };
    let script = "echo in; readlink /proc/self/ns/pid; : >/tmp/mine; while [ ! -e $HOME/go ]; do sleep 0.02; done; ls /tmp | grep -v dnt; ls /proc | grep -c '^[0-9]'";
    let (a, b) = (run(&one, script), run(&two, script));
    for going in [&a, &b] {
        going.await_output("pid:");
    }
    for place in [&one, &two] {
        std::fs::write(place.home().join("go"), "").unwrap();
    }
    let (a, b) = (a.wait().expect(0, "one"), b.wait().expect(0, "two"));
    assert_ne!(a.lines()[1], b.lines()[1], "two pid namespaces");
    for ran in [a, b] {
        // init, the shell, ls and grep.
        assert_eq!(ran.lines()[2..], ["mine", "4"], "{ran:?}");
    }
}

#[test]
fn joining_keeps_to_what_stands() {
    for place in Place::each("joining_keeps_to_what_stands") {
        let id = place.started("stands", &[]);
        let ran = place.run(&["--id", &id, "--bundle", "/no/such/bundle"], "true");
        ran.refused(&["bundle", &id, "host"]);
        place.run(&["--id", &id, "--bundle", "host"], "true").expect(0, "the same bundle");
        place.call(&["job", "start", "--id", &id]).refused(&[&id, "already"]);
        // Two commands see each other's files and processes.
        place.ok(&["job", "exec", &id, "sh", "-c", "echo 1 >/tmp/one; (setsid sleep 777 &)"]);
        let said = place.see(
            &["--id", &id],
            "cat /tmp/one; cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep 77[7]'",
        );
        assert_eq!(said, "1\nsleep 777");
        place.ok(&["job", "end", &id]);
    }
}

#[test]
fn joining_says_what_of_its_options_comes_too_late() {
    for place in Place::each("joining_says_what_of_its_options_comes_too_late") {
        let id = place.started("stands", &[]);
        let ran = place.run(&["--id", &id, "--network", "none", "--root-size", "8M"], "echo in");
        let ran = ran.expect(0, "join");
        assert_eq!(ran.out(), "in");
        let warnings: Vec<&str> = ran.err.lines().collect();
        assert!(warnings.len() == 1 && warnings[0].starts_with("denovo: warning: "), "{ran:?}");
        for word in [&id[..], "--network", "--root-size"] {
            assert!(warnings[0].contains(word), "{word}: {ran:?}");
        }
        place.ok(&["job", "end", &id]);
        // Ranks say the same options, and nothing need be said.
        let id = place.id("ranks");
        let first = place.start(
            place
                .running(&["--id", &id, "--root-size", "8M"], "echo in; cat >/dev/null; sleep 0.3"),
        );
        first.await_output("in");
        let second = place.run(&["--id", &id, "--root-size", "8M"], "true").expect(0, "the same");
        assert_eq!(second.err, "");
        first.wait().expect(0, "first");
    }
}

/// An end that comes between the join and the command is the end's doing.
#[test]
fn an_end_before_the_command_is_told_as_one() {
    for place in Place::each("an_end_before_the_command_is_told_as_one") {
        let mut told = 0;
        for round in 0..60 {
            let id = place.started(&format!("ends{round}"), &[]);
            let late = place.start(place.node(&["job", "exec", &id, "sleep", "99"]));
            std::thread::sleep(std::time::Duration::from_micros(400 * (round % 12)));
            place.ok(&["job", "end", &id]);
            let ran = late.wait();
            match ran.code() {
                137 => assert_eq!(ran.err, ""),
                _ => {
                    assert!(!ran.err.contains("kernel") && ran.err.contains("end"), "{ran:?}");
                    ran.refused(&[&id]);
                    told += 1;
                }
            }
        }
        eprintln!("{told} of 60 came too late");
    }
}

/// Whoever makes it may take minutes to fetch an image.
#[test]
fn who_waits_for_another_to_make_it_can_be_interrupted() {
    for place in Place::each("who_waits_for_another_to_make_it_can_be_interrupted") {
        let id = place.id("waits");
        place.see(&[], "true");
        let lock = place.jobs().join(format!("={id}.lock"));
        let mut flock = place.program("flock");
        // The lock goes with the one process that has it open.
        flock.args(["-o", &lock.display().to_string(), "sh", "-c", "echo held; read -r forever"]);
        flock.stdin(std::process::Stdio::piped());
        let holder = place.start(flock);
        holder.await_output("held");
        let waits = place.start(place.running(&["--id", &id], "echo must not run"));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(alive(waits.pid()), "the test shows nothing");
        waits.signal(libc::SIGINT);
        await_death(waits.pid());
        assert_eq!(waits.wait().out, "");
        holder.signal(libc::SIGKILL);
        holder.wait();
        place.ok(&["node", "gc"]);
    }
}

#[test]
fn joining_for_somebody_else_is_refused() {
    let Some(place) = Place::root("joining_for_somebody_else_is_refused") else { return };
    let id = place.started("theirs", &["--user", "65534"]);
    let ran = place.run(&["--id", &id, "--user", "4001"], "echo must not run");
    assert_eq!(ran.out, "", "{ran:?}");
    ran.refused(&[&id, "65534", "4001"]);
    // The same user by another name.
    let ran = place.run(&["--id", &id, "--user", "nobody"], "id -u").expect(0, "nobody");
    assert_eq!((ran.out().as_str(), ran.err.as_str()), ("65534", ""));
    place.ok(&["job", "end", &id]);
}

/// A prolog's umask may be anything.
#[test]
fn a_user_gets_into_what_root_made_under_a_narrow_umask() {
    let test = "a_user_gets_into_what_root_made_under_a_narrow_umask";
    let Some(place) = Place::root(test) else { return };
    let id = place.id("narrow");
    let start = place.line(&["job", "start", "--id", &id, "--user", "65534"]);
    let mut shell = place.program("sh");
    shell.args(["-c", &format!("umask 077; {start}")]);
    place.finish(shell).expect(0, "start");
    let ran = place.finish(place.node_as(65534, &["job", "exec", &id, "id", "-u"]));
    assert_eq!(ran.expect(0, "exec").out(), "65534");
    place.ok(&["job", "end", &id]);
}

#[test]
fn root_ends_its_own_and_no_users_of_the_same_name() {
    let test = "root_ends_its_own_and_no_users_of_the_same_name";
    let (Some(root), Some(user)) = (Place::root(test), Place::user(test)) else { return };
    let id = root.id("same");
    let theirs = |args: &[&str]| {
        let mut command = user.program(&user.denovo_path());
        command.env_remove("XDG_RUNTIME_DIR").args(args);
        user.finish(command)
    };
    theirs(&["job", "start", "--id", &id]).expect(0, "the user's");
    root.ok(&["job", "start", "--id", &id]);
    root.ok(&["job", "end", &id]);
    assert_eq!(theirs(&["job", "exec", &id, "echo", "lives"]).expect(0, "exec").out(), "lives");
    // By root, when nothing else is meant.
    root.ok(&["job", "end", &id]);
    theirs(&["job", "show", &id]).refused(&[&id]);
    std::fs::remove_dir_all(format!("/tmp/denovo-{}", user.uid())).unwrap();
}

/// Of a session there is XDG_RUNTIME_DIR, of cron's there is none.
#[test]
fn with_and_without_a_session_a_users_environments_are_the_same() {
    let test = "with_and_without_a_session_a_users_environments_are_the_same";
    let Some(user) = Place::user(test) else { return };
    if !is_root() {
        return skip(test, "needs a user of its own");
    }
    let id = user.id("session");
    let call = |session: bool, args: &[&str]| {
        let mut command = user.program(&user.denovo_path());
        command.env_remove("XDG_RUNTIME_DIR").args(args);
        if session {
            command.env("XDG_RUNTIME_DIR", user.home());
        }
        user.finish(command)
    };
    call(false, &["job", "start", "--id", &id]).expect(0, "without");
    assert_eq!(call(true, &["job", "exec", &id, "echo", "in"]).expect(0, "with").out(), "in");
    call(true, &["job", "end", &id]).expect(0, "end");
    call(false, &["job", "show", &id]).refused(&[&id]);
    std::fs::remove_dir_all(format!("/tmp/denovo-{}", user.uid())).unwrap();
}

/// A user's socket that takes connections and says nothing.
#[test]
fn a_silent_socket_of_a_users_does_not_hold_root_up() {
    let test = "a_silent_socket_of_a_users_does_not_hold_root_up";
    let (Some(root), Some(user)) = (Place::root(test), Place::user(test)) else { return };
    let base = std::path::PathBuf::from(format!("/tmp/denovo-{}", user.uid()));
    std::fs::create_dir(&base).unwrap();
    user.give(&base);
    let script = "import os,socket,sys,time\n\
                  os.makedirs(sys.argv[1])\n\
                  s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n\
                  s.bind(sys.argv[1]+'/socket');s.listen(1);print('listens',flush=True);time.sleep(99)";
    let id = root.id("silent");
    let mut python = user.program("python3");
    python.args(["-c", script, &base.join("jobs").join(&id).display().to_string()]);
    let silent = user.start(python);
    silent.await_output("listens");
    let begun = std::time::Instant::now();
    root.ok(&["job", "start", "--id", &id]);
    root.ok(&["job", "end", &id]);
    root.ok(&["job", "list"]);
    root.call(&["job", "show", &id]).refused(&[&id]);
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    silent.signal(libc::SIGKILL);
    silent.wait();
    std::fs::remove_dir_all(&base).unwrap();
}

#[test]
fn what_started_it_does_not_matter_to_who_stays() {
    for place in Place::each("what_started_it_does_not_matter_to_who_stays") {
        let id = place.id("passes-on");
        let mut command = place
            .running(&["--id", &id], "echo in; readlink /proc/self/ns/pid; read -r line; true");
        command.stdin(std::process::Stdio::piped());
        let mut first = place.start(command);
        first.await_output("pid:");
        let mut command = place
            .running(&["--id", &id], "readlink /proc/self/ns/pid; read -r line; echo still here");
        command.stdin(std::process::Stdio::piped());
        let mut second = place.start(command);
        second.await_output("pid:");
        drop(first.child.stdin.take());
        let first = first.wait().expect(0, "first").out();
        drop(second.child.stdin.take());
        let second = second.wait().expect(0, "second").out();
        assert_eq!(second.lines().nth(1), Some("still here"));
        assert_eq!(first.lines().nth(1), second.lines().next());
    }
}

#[test]
fn list_show_and_end() {
    for place in Place::each("list_show_and_end") {
        let id = place.started("named", &["--hostname", "n1"]);
        let other = place.started("other", &["--network", "none"]);
        let list = place.ok(&["job", "list"]);
        assert!(list.lines().next().unwrap().starts_with("JOB"));
        for id in [&id, &other] {
            assert_eq!(list.lines().filter(|l| l.starts_with(&id[..])).count(), 1, "{list}");
        }
        let json: serde_json::Value =
            serde_json::from_str(&place.ok(&["job", "list", "--json"])).unwrap();
        let ids: Vec<&str> =
            json.as_array().unwrap().iter().filter_map(|j| j["record"]["id"].as_str()).collect();
        assert!(ids.contains(&&id[..]) && ids.contains(&&other[..]), "{ids:?}");
        let shown = place.ok(&["job", "show", &id]);
        assert!(
            shown.contains(&place.uid().to_string()) && shown.contains("the node's"),
            "{shown}"
        );
        let (monitor, init) = place.keepers(&id);
        assert!(alive(monitor) && alive(init));
        let held =
            place.start(place.node(&["job", "exec", &id, "sh", "-c", "echo in; sleep 1000"]));
        held.await_output("in");
        assert_eq!(place.shown(&id)["processes"], 1);
        place.ok(&["job", "end", &id]);
        assert!(!alive(init), "end waits until nothing is left");
        await_death(monitor);
        assert_eq!(held.wait().code(), 137);
        place.call(&["job", "show", &id]).refused(&[&id]);
        place.ok(&["job", "end", &other]);
    }
}

#[test]
fn a_waiting_monitor_is_small() {
    let Some(place) = Place::root("a_waiting_monitor_is_small") else { return };
    let id = place.started("small", &[]);
    let (monitor, init) = place.keepers(&id);
    // Neither holds anything of its caller's: directory, descriptors.
    for pid in [monitor, init] {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let targets: Vec<String> = fds
            .filter_map(|e| Some(std::fs::read_link(e.path()).ok()?.display().to_string()))
            .collect();
        assert!(targets.iter().all(|t| !t.contains("/out") && !t.contains("/err")), "{targets:?}");
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert_eq!(cwd, std::path::Path::new("/"));
    }
    place.ok(&["job", "end", &id]);
}
