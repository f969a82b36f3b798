//! The end: also of daemons, also after denovo's own processes were killed at
//! any moment, nothing is left and the id can be used again.

use std::fs;
use std::time::Duration;

use crate::common::until;
use crate::help::{Place, alive, await_death, kill};

#[test]
fn daemons_end_with_their_job() {
    for place in Place::each("daemons_end_with_their_job") {
        let id = place.started("daemons", &["--network", "none"]);
        let script = "for i in 1 2 3; do (setsid setsid sh -c 'trap \"\" TERM HUP INT QUIT; while :; do sleep 5; done' >/dev/null 2>&1 &); done; \
                      ipcmk -M 4096 >/dev/null; ipcmk -S 3 >/dev/null; echo x >/dev/shm/x; \
                      (while :; do (sleep 0.01 &); sleep 0.01; done >/dev/null 2>&1 &); sleep 0.1; echo made";
        assert_eq!(place.ok(&["job", "exec", &id, "sh", "-c", script]), "made");
        let (monitor, init) = place.keepers(&id);
        let inside = processes_in(init);
        assert!(inside.len() >= 4, "{inside:?}");
        place.ok(&["job", "end", &id]);
        assert!(!inside.iter().any(|pid| alive(*pid)), "all ended before `end` returns");
        assert_eq!(place.remains(), Vec::<String>::new());
        await_death(monitor);
    }
}

/// Every process in the pid namespace of this one, as far as the tests' user may
/// look: what has closed itself off shows its namespaces to root only, but was
/// born into or came to that init.
fn processes_in(init: i32) -> Vec<i32> {
    assert!(alive(init));
    let space = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(own) = space(init) else {
        return [vec![init], descendants_of(init)].concat();
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|pid| space(*pid).as_ref() == Some(&own))
        .collect()
}

#[test]
fn a_killed_monitor_takes_everything_with_it_and_gc_the_rest() {
    let test = "a_killed_monitor_takes_everything_with_it_and_gc_the_rest";
    for place in Place::each(test) {
        for (round, remedy) in ["gc", "same id", "another id", "end"].iter().enumerate() {
            let id = place.id(&format!("crash{round}"));
            let going = place.start(
                place.running(&["--id", &id], "echo in; (setsid sleep 1000 &); sleep 1000; true"),
            );
            going.await_output("in");
            let (monitor, init) = place.keepers(&id);
            let inside = processes_in(init);
            kill(monitor);
            for pid in inside {
                await_death(pid);
            }
            assert_eq!(going.wait().code(), 137);
            assert!(!place.remains().is_empty(), "the test shows nothing");
            match *remedy {
                "gc" => assert_eq!(place.ok(&["node", "gc"]), format!("removed job {id}")),
                "end" => {
                    let ran = place.call(&["job", "end", &id]).expect(0, "end");
                    assert!(ran.err.contains("was killed"), "{ran:?}");
                }
                "same id" => assert_eq!(place.see(&["--id", &id], "echo again"), "again"),
                _ => assert_eq!(place.see(&[], "echo other"), "other"),
            }
            assert_eq!(place.remains(), Vec::<String>::new(), "{remedy}");
        }
    }
}

#[test]
fn a_killed_init_ends_the_job() {
    for place in Place::each("a_killed_init_ends_the_job") {
        let id = place.started("init", &[]);
        let held =
            place.start(place.node(&["job", "exec", &id, "sh", "-c", "echo in; sleep 1000; true"]));
        held.await_output("in");
        let (monitor, init) = place.keepers(&id);
        kill(init);
        assert_eq!(held.wait().code(), 137);
        await_death(monitor);
        assert_eq!(place.remains(), Vec::<String>::new());
    }
}

#[test]
fn gc_leaves_alone_what_lives() {
    for place in Place::each("gc_leaves_alone_what_lives") {
        let id = place.started("lives", &[]);
        assert_eq!(place.ok(&["node", "gc"]), "");
        // Nor does a base directory of some age count as something left.
        let old = std::time::SystemTime::now() - Duration::from_secs(3600);
        fs::File::open(place.jobs()).unwrap().set_modified(old).unwrap();
        assert_eq!(place.ok(&["node", "gc"]), "");
        place.see(&[], "true");
        assert_eq!(place.ok(&["job", "exec", &id, "echo", "lives"]), "lives");
        place.ok(&["job", "end", &id]);
    }
}

#[test]
fn the_making_may_be_killed_at_any_moment() {
    for place in Place::each("the_making_may_be_killed_at_any_moment") {
        let id = place.id("again");
        let mut random = u64::from(std::process::id()) | 1;
        for round in 0..40u64 {
            let command = place.running(
                &["--id", &id, "--pids", "50"],
                "(setsid sleep 1000 &); echo in; sleep 1000; true",
            );
            let going = place.start(command);
            // Xorshift: from nothing to longer than the making takes.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            std::thread::sleep(Duration::from_micros(random % 25_000 * (round % 4) / 3));
            match round % 2 {
                // The creator, who becomes the proxy.
                0 => going.signal(libc::SIGKILL),
                // Whatever denovo process of this one is found: monitor,
                // stage, init.
                _ => {
                    let mut all = descendants(&place, &id);
                    all.sort_unstable();
                    match all.get(random as usize % all.len().max(1)) {
                        Some(pid) => kill(*pid),
                        None => going.signal(libc::SIGKILL),
                    }
                    std::thread::sleep(Duration::from_millis(2));
                    going.signal(libc::SIGKILL);
                }
            }
            going.wait();
            if round % 3 == 0 {
                place.call(&["node", "gc"]).expect(0, "gc");
            }
            let ran = place.run(&["--id", &id], "echo usable").expect(0, &format!("round {round}"));
            assert_eq!((ran.out().as_str(), ran.err.as_str()), ("usable", ""), "round {round}");
        }
        place.ok(&["node", "gc"]);
        assert_eq!(place.remains(), Vec::<String>::new());
    }
}

#[test]
fn an_end_of_what_was_never_finished_takes_it_away() {
    for place in Place::each("an_end_of_what_was_never_finished_takes_it_away") {
        place.see(&[], "true");
        let id = place.id("unfinished");
        fs::create_dir_all(place.jobs().join(&id).join("root")).unwrap();
        place.give(&place.jobs().join(&id));
        place.give(&place.jobs().join(&id).join("root"));
        place.ok(&["job", "end", &id]);
        assert_eq!(place.remains(), Vec::<String>::new());
    }
}

/// Nobody is in it then who could leave: it must not wait for somebody for ever.
#[test]
fn who_is_killed_before_joining_leaves_no_environment() {
    for place in Place::each("who_is_killed_before_joining_leaves_no_environment") {
        for round in 0..40u64 {
            let id = place.id(&format!("orphan{round}"));
            let going = place.start(place.running(&["--id", &id], "true"));
            std::thread::sleep(Duration::from_millis(round));
            going.signal(libc::SIGKILL);
            going.wait();
        }
        // One that was killed before there was a monitor is gc's.
        until("every monitor has ended", || {
            place.ok(&["node", "gc"]);
            place.remains().is_empty()
        });
    }
}

/// denovo's processes for this id: those with its command line, and what the
/// record names.
fn descendants(place: &Place, id: &str) -> Vec<i32> {
    let mut found = Vec::new();
    let text = fs::read_to_string(place.jobs().join(id).join("state.json")).unwrap_or_default();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    for who in ["monitor", "init"] {
        found.extend(record[who]["pid"].as_i64().map(|pid| pid as i32));
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok());
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(id) {
            found.extend(pid.filter(|pid| *pid != std::process::id() as i32));
        }
    }
    found
}

fn descendants_of(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().filter_map(|c| c.parse().ok());
    children.flat_map(|child| [vec![child], descendants_of(child)].concat()).collect()
}
