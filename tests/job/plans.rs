//! `explain`: what would be done, and nothing of it done.

use crate::help::Place;

#[test]
fn a_plan_is_printed_and_nothing_is_made() {
    for place in Place::each("a_plan_is_printed_and_nothing_is_made") {
        let scratch = place.directory("disk");
        let text = scratch.display().to_string();
        let id = place.id("planned");
        let command =
            ["run", "--id", &id, "--scratch", &text, "--network", "none", "--", "touch", "made"];
        let under = [&["job", "explain"][..], &command].concat();
        let before = [&["explain", "job"][..], &command].concat();
        let plan = place.ok(&under);
        assert_eq!(plan, place.ok(&before), "both ways of asking");
        for words in ["clone into new namespaces", "bind /usr", "read-only", &id, &text, "/etc"] {
            assert!(plan.contains(words), "{words}: {plan}");
        }
        let numbers =
            plan.lines().map(|l| l.split_whitespace().next().unwrap().parse::<usize>().unwrap());
        assert!(numbers.eq(1..=plan.lines().count()), "{plan}");
        assert!(!place.base().exists() && !place.home().join("made").exists());
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
        // What would be refused is refused here.
        let ran = place.call(&["job", "explain", "run", "--bundle", "/no/such", "--", "true"]);
        ran.refused(&["/no/such"]);
    }
}

#[test]
fn a_plan_of_what_is_there() {
    for place in Place::each("a_plan_of_what_is_there") {
        let id = place.started("there", &[]);
        let plan = place.ok(&["explain", "job", "run", "--id", &id, "--", "true"]);
        assert!(plan.contains("join") && plan.contains(&id) && plan.lines().count() == 1, "{plan}");
        let plan = place.ok(&["job", "explain", "end", &id]);
        assert!(plan.contains("kill") && plan.contains("record"), "{plan}");
        assert_eq!(place.shown(&id)["processes"], 0, "nothing was ended");
        place.ok(&["explain", "node", "gc"]);
        place.ok(&["job", "end", &id]);
    }
}

#[test]
fn limits_stand_in_the_plan() {
    let Some(place) = Place::root("limits_stand_in_the_plan") else { return };
    let id = place.id("limited");
    let plan = place.ok(&[
        "job", "explain", "run", "--id", &id, "--memory", "64M", "--pids", "30", "--", "true",
    ]);
    for words in [&format!("denovo-{id}")[..], "67108864", "pids.max = 30"] {
        assert!(plan.contains(words), "{words}: {plan}");
    }
}

#[test]
fn a_plan_for_another_node_comes_from_its_facts() {
    for place in Place::each("a_plan_for_another_node_comes_from_its_facts") {
        let mut facts: serde_json::Value =
            serde_json::from_str(&place.ok(&["node", "facts"])).expect("JSON");
        // A node of cgroup v2 alone, where its root asks.
        facts["cgroups"]["v1"] = serde_json::json!([]);
        facts["cgroups"]["v2"] = serde_json::json!({
            "mount": "/sys/fs/cgroup", "controllers": ["cpuset", "cpu", "memory", "pids"],
            "own": "/", "own_controllers": ["cpuset", "cpu", "memory", "pids"], "writable": true,
        });
        facts["caller"]["uid"] = 0.into();
        facts["caller"]["capabilities"] = u64::MAX.into();
        let file = place.file("facts.json", &facts.to_string());
        let file = file.to_str().unwrap();
        let id = place.id("elsewhere");
        let command = ["job", "run", "--id", &id, "--memory", "64M", "--", "true"];
        let plan = place.ok(&[&["explain", "--facts", file][..], &command].concat());
        assert!(plan.contains(&format!("/sys/fs/cgroup/denovo-{id}")), "{plan}");
        assert!(plan.contains("memory.max") && !plan.contains("memory.limit_in_bytes"), "{plan}");

        let none = place.file("none.json", "{}");
        let refused =
            place.call(&[&["explain", "--facts", none.to_str().unwrap()][..], &command].concat());
        refused.refused(&["--facts", "none.json", "denovo node facts"]);
    }
}
