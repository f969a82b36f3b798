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
