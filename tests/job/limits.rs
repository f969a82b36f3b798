//! What a job may use at most, and what is said when it asks for more.

use std::fs;

use denovo::host::Facts;
use serde_json::Value;

use crate::common::{is_root, skip};
use crate::help::{Place, value};

fn lacks(test: &str, controller: &str) -> bool {
    let facts = Facts::read().unwrap();
    let lacks = facts.cgroups.v1_with(controller).is_none() && !facts.cgroups.v2_has(controller);
    if lacks {
        skip(test, &format!("no controller {controller}"));
    }
    lacks
}

/// A program that uses 200 MiB.
const GREEDY: &str = "head -c 200M /dev/zero | tail -c 200M >/dev/null";

#[test]
fn a_job_beyond_its_memory_is_told_which_limit_it_was() {
    let test = "a_job_beyond_its_memory_is_told_which_limit_it_was";
    let Some(place) = Place::root(test) else { return };
    if lacks(test, "memory") {
        return;
    }
    let id = place.id("greedy");
    let receipt = place.dir.join("receipt.json").display().to_string();
    let ran = place.run(&["--id", &id, "--memory", "64M", "--receipt", &receipt], GREEDY);
    let told: Vec<&str> = ran.err.lines().filter(|l| l.starts_with("denovo: ")).collect();
    assert_eq!(told.len(), 1, "{ran:?}");
    for word in ["memory limit of 64 MiB", "--memory", "killed"] {
        assert!(told[0].contains(word), "{word}: {ran:?}");
    }
    let json: Value = serde_json::from_str(&fs::read_to_string(&receipt).unwrap()).unwrap();
    assert_eq!((&json["job"], &json["memoryLimit"]), (&id.as_str().into(), &(64 << 20).into()));
    assert!(json["usage"]["oom_kills"].as_u64().unwrap() > 0, "{json}");
    // Not told by cgroup v2 before Linux 5.19.
    let peak = json["usage"]["memory_peak"].as_u64();
    assert!(peak.map_or(Facts::read().unwrap().kernel < (5, 19), |n| n <= 64 << 20), "{json}");
    // One that ends with 137 by itself is not said to have run out.
    let ran = place.run(&["--memory", "64M"], "kill -9 $$").expect(137, "kill");
    assert_eq!(ran.err, "");
}

#[test]
fn a_memory_limit_too_small_to_start_in_is_named() {
    let test = "a_memory_limit_too_small_to_start_in_is_named";
    let Some(place) = Place::root(test) else { return };
    if lacks(test, "memory") {
        return;
    }
    let ran = place.call(&["job", "run", "--memory", "64K", "--", "true"]);
    ran.refused(&["memory limit", "give more memory"]);
}

#[test]
fn cpus_are_for_one_job_alone_unless_shared() {
    let test = "cpus_are_for_one_job_alone_unless_shared";
    let Some(place) = Place::root(test) else { return };
    let all = Facts::read().unwrap().caller.cpus;
    if all.len() < 2 {
        return skip(test, "needs two CPUs");
    }
    if lacks(test, "cpuset") {
        return;
    }
    let count = "grep Cpus_allowed_list /proc/self/status | cut -f2; nproc";
    let id = place.started("one", &["--cpus", "1"]);
    let said = place.ok(&["job", "exec", &id, "sh", "-c", count]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].parse::<u32>().is_ok_and(|cpu| all.contains(&cpu)), "{said}");
    assert_eq!(lines[1], "1");
    // The next gets another; all of them there are not.
    let next = place.see(&["--cpus", "1"], count);
    assert_ne!(next.lines().next(), Some(lines[0]));
    let every = all.len().to_string();
    place.run(&["--cpus", &every], "true").refused(&["CPUs", &id, "holds", lines[0]]);
    let shared = place.see(&["--cpus", &every, "--share-cpus"], "nproc");
    assert_eq!(shared, every);
    let more = (all.len() + 1).to_string();
    place.run(&["--cpus", &more], "true").refused(&["CPUs", "may use only"]);
    place.run(&["--cpus", "0"], "true").refused(&["CPU"]);
    place.ok(&["job", "end", &id]);
    // Given back.
    assert_eq!(place.see(&["--cpus", &every], "nproc"), every);
}

#[test]
fn a_fork_bomb_ends_at_the_limit() {
    let test = "a_fork_bomb_ends_at_the_limit";
    let Some(place) = Place::root(test) else { return };
    if lacks(test, "pids") {
        return;
    }
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 50 & done 2>/dev/null; echo not reached";
    let ran = place.run(&["--pids", "12"], script);
    assert!(!ran.out.contains("not reached") && ran.code() != 0, "{ran:?}");
    assert!(ran.err.contains("limit of processes") && ran.err.contains("--pids"), "{ran:?}");
}

#[test]
fn limits_hold_for_those_who_join() {
    let test = "limits_hold_for_those_who_join";
    let Some(place) = Place::root(test) else { return };
    if lacks(test, "memory") || lacks(test, "pids") || lacks(test, "cpuset") {
        return;
    }
    let user =
        place.name[3..].bytes().fold(2_000_000u32, |n, b| n % 1000 * 10 + u32::from(b)) + 3_000_000;
    let text = user.to_string();
    let id = place.id("given");
    place.ok(&[
        "job",
        "start",
        "--id",
        &id,
        "--user",
        &text,
        "--cpus",
        "1",
        "--share-cpus",
        "--memory",
        "48M",
        "--pids",
        "20",
    ]);
    // Of the user's own accord, who has no power over the groups.
    let script = format!(
        "id -u; id -g; nproc; cat /proc/self/cgroup | grep -c denovo; {GREEDY}; echo after"
    );
    let ran = place.finish(place.node_as(user, &["job", "exec", &id, "sh", "-c", &script]));
    assert_eq!(ran.lines()[..4], [&text[..], &text, "1", "0"], "{ran:?}");
    let usage = place.shown(&id);
    assert!(usage["usage"]["oom_kills"].as_u64().is_some_and(|n| n > 0), "{usage}");
    // A run with this id is the same, also for root: it acts as the user.
    let ran = place.finish(place.node_as(user, &["job", "run", "--id", &id, "--", "nproc"]));
    assert_eq!(ran.expect(0, "run").out(), "1");
    assert_eq!(place.ok(&["job", "exec", &id, "id", "-u"]), text);
    assert_eq!(
        place.ok(&["job", "exec", &id, "sh", "-c", "cat /proc/self/status | grep CapEff"]),
        "CapEff:\t0000000000000000"
    );
    // The host sees every process of it in its groups.
    let held = place
        .start(place.node_as(user, &["job", "exec", &id, "sh", "-c", "echo in; sleep 1000; true"]));
    held.await_output("in");
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", held.pid())).unwrap();
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", children.trim())).unwrap();
    for controller in ["memory", "pids", "cpuset"] {
        let line = groups
            .lines()
            .find(|l| l.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == controller)));
        let line = line.or_else(|| groups.lines().find(|l| l.starts_with("0::"))).unwrap();
        assert!(line.contains(&id), "{controller}: {groups}");
    }
    // Nobody else comes in, looks, or ends it.
    for args in [&["job", "exec", &id, "true"][..], &["job", "show", &id], &["job", "end", &id]] {
        let ran = place.finish(place.node_as(user + 1, args));
        ran.refused(&[&id]);
    }
    // The user may end it.
    place.finish(place.node_as(user, &["job", "end", &id])).expect(0, "end by the user");
    assert_eq!(held.wait().code(), 137);
}

#[test]
fn a_user_without_groups_is_told_in_one_line() {
    let test = "a_user_without_groups_is_told_in_one_line";
    let Some(place) = Place::user(test) else { return };
    if Facts::read().unwrap().cgroups.v2.is_some_and(|v2| v2.writable && !is_root()) {
        return skip(test, "this user has a control group");
    }
    let ran = place.run(&["--memory", "64M", "--pids", "30"], "echo in").expect(0, "run");
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!((ran.out().as_str(), lines.len()), ("in", 1), "{ran:?}");
    for word in ["denovo: warning: ", "--memory", "--pids", "Delegate"] {
        assert!(lines[0].contains(word), "{word}: {ran:?}");
    }
    // CPUs are held all the same, by affinity.
    let said =
        place.see(&["--cpus", "1"], "echo n $(nproc); grep Cpus_allowed_list /proc/self/status");
    assert_eq!(value(&said, "n"), "1");
}

#[test]
fn a_user_with_a_delegated_group_is_held_to_all_limits() {
    let test = "a_user_with_a_delegated_group_is_held_to_all_limits";
    let Some(place) = Place::user(test) else { return };
    let v2 = Facts::read().unwrap().cgroups.v2.filter(|v2| v2.writable && !is_root());
    let Some(v2) = v2 else { return skip(test, "no control group is delegated to this user") };
    for controller in ["memory", "pids", "cpuset"] {
        if !v2.own_controllers.iter().any(|c| c == controller) {
            return skip(test, &format!("{controller} is not delegated to this user"));
        }
    }
    let limits = ["--memory", "64M", "--pids", "30", "--cpus", "1"];
    let held = place.started("held", &limits);
    let dir = v2.mount.join(v2.own.trim_start_matches('/')).join(format!("denovo-{held}"));
    for (file, value) in [("memory.max", "67108864"), ("memory.swap.max", "0"), ("pids.max", "30")]
    {
        let found = fs::read_to_string(dir.join(file));
        // A kernel without swap has no file for it.
        if file != "memory.swap.max" || found.is_ok() {
            assert_eq!(found.unwrap().trim(), value, "{file}");
        }
    }
    // A second one beside it, now that the callers have stepped aside.
    place.started("beside", &["--pids", "20"]);
    let beside = dir.with_file_name(format!("denovo-{}-beside", place.name));
    assert_eq!(fs::read_to_string(beside.join("pids.max")).unwrap(), "20\n");
    place.ok(&["job", "end", &format!("{}-beside", place.name)]);
    assert_eq!(place.ok(&["job", "exec", &held, "nproc"]), "1");
    // Who joins from outside is held as well, and what runs out is told.
    let ran = place.finish(place.node(&["job", "exec", &held, "sh", "-c", GREEDY]));
    assert_ne!(ran.code(), 0, "{ran:?}");
    let usage = &place.shown(&held)["usage"];
    assert!(usage["oom_kills"].as_u64().is_some_and(|n| n > 0), "{usage}");
    place.ok(&["job", "end", &held]);
    assert!(!dir.exists());
    let ran = place.run(&["--memory", "64M"], GREEDY);
    assert!(ran.err.contains("memory limit of 64 MiB"), "{ran:?}");
    let bomb = "for i in $(seq 40); do sleep 50 & done 2>/dev/null; echo not reached";
    let ran = place.run(&["--pids", "12"], bomb);
    assert!(!ran.out.contains("not reached") && ran.err.contains("--pids"), "{ran:?}");
}

#[test]
fn a_user_may_act_for_nobody_else() {
    let Some(place) = Place::user("a_user_may_act_for_nobody_else") else { return };
    for user in ["0", "root", "1"] {
        place.run(&["--user", user], "id").refused(&["--user", "only root"]);
    }
    let own = place.uid().to_string();
    assert_eq!(place.see(&["--user", &own], "id -u"), own);
    place.run(&["--user", "no-such-user"], "id").refused(&["--user", "no-such-user"]);
}

#[test]
fn root_runs_a_command_as_the_user_asked_for() {
    let Some(place) = Place::root("root_runs_a_command_as_the_user_asked_for") else { return };
    let said = place.see(
        &["--user", "4000123:4000124", "--cwd", "/tmp"],
        "id -u; id -g; id -G; touch x; stat -c %u:%g x; grep 4000123 /etc/passwd | cut -d: -f3,4",
    );
    assert_eq!(said, "4000123\n4000124\n4000124\n4000123:4000124\n4000123:4000124");
    place.run(&["--user", "4294967295"], "id").refused(&["--user"]);
    place.run(&["--user", "nobody-of-this-name"], "id").refused(&["--user"]);
}

/// The kernel keeps these for a user, over all namespaces.
#[test]
fn a_job_has_its_part_of_what_its_user_may_have() {
    let test = "a_job_has_its_part_of_what_its_user_may_have";
    let script = "echo inotify $(cat /proc/sys/user/max_inotify_instances)
        echo queues $(awk '/msgqueue/ { print $4, $5 }' /proc/self/limits)";
    for place in Place::each(test) {
        let mut bare = place.program("/bin/sh");
        bare.args(["-c", &script.replace("user/max_inotify", "fs/inotify/max_user")]);
        let bare = numbers(&place.finish(bare).expect(0, "bare").out());
        let inside = numbers(&place.see(&[], script));
        assert_eq!(inside[0], bare[0] / 2, "inotify instances");
        assert_eq!(inside[1..], [bare[2] / 2, bare[2]], "bytes of queues");
        // It may have up to its hard limit all the same.
        place.see(&[], &format!("prlimit --msgqueue={0}:{0} true", bare[2]));
    }
}

fn numbers(said: &str) -> Vec<u64> {
    said.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
