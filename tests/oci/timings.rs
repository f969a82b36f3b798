//! `--timings`: where the time of a start went.

use std::collections::BTreeMap;

use serde_json::json;

use crate::common::{Case, shell};

/// One report: what was started, the whole, the stages, and the steps inside,
/// in microseconds.
struct Report {
    what: String,
    whole: f64,
    stages: BTreeMap<String, f64>,
    steps: BTreeMap<String, f64>,
}

fn report(text: &str) -> Report {
    let lines: Vec<(Option<f64>, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("denovo: ")?.split_at_checked(11))
        .map(|(number, name)| (number.trim().parse().ok(), name))
        .collect();
    let head = lines.first().expect(text);
    let inside = lines.iter().position(|l| l.1.starts_with("  inside")).expect(text);
    let named = |lines: &[(Option<f64>, &str)]| {
        lines.iter().map(|(number, name)| (name.trim().to_owned(), number.expect(text))).collect()
    };
    Report {
        what: head.1.trim().to_owned(),
        whole: head.0.expect(text),
        stages: named(&lines[1..inside]),
        steps: named(&lines[inside + 1..]),
    }
}

fn check(report: &Report, stages: &[&str], steps: &[&str]) {
    for stage in stages {
        assert!(report.stages.contains_key(*stage), "{stage}: {:#?}", report.stages);
    }
    for step in steps {
        let found = report.steps.keys().any(|name| name.contains(step));
        assert!(found, "{step}: {:#?}", report.steps);
    }
    // Each number is rounded to a tenth.
    let stages: f64 = report.stages.values().sum();
    assert!((stages - report.whole).abs() < 2.0, "{stages} of {}", report.whole);
    let steps: f64 = report.steps.values().sum();
    let beside = ["clone and namespaces", "maps of ids, record of the process"];
    let beside: f64 = beside.map(|name| report.stages[name]).iter().sum();
    let inside = beside + report.stages["wait for the steps inside"];
    assert!(steps <= inside + 10.0, "{steps} of {inside}");
}

const ALL: [&str; 9] = [
    "arguments",
    "what the node is",
    "what is asked, read and checked",
    "plan",
    "record",
    "control groups",
    "clone and namespaces",
    "maps of ids, record of the process",
    "wait for the steps inside",
];

#[test]
fn run_create_and_exec_tell_where_the_time_went() {
    for case in Case::each("run_create_and_exec_tell_where_the_time_went") {
        let bundle = case.bundle(|config| {
            shell(config, "echo inside; sleep 0.2");
            config["hostname"] = json!("measured");
        });
        let bundle = bundle.display().to_string();
        let (run, created) = (case.id("run"), case.id("created"));
        let ran = case.call(&["--timings", "run", "-b", &bundle, &run]).expect(0, "run");
        assert_eq!(ran.out(), "inside");
        let told = report(&ran.err);
        assert_eq!(told.what, "run, in microseconds");
        check(&told, &ALL, &["mount proc on /proc", "hostname measured", "exec ", "wait for the"]);
        // The program's own 0.2 s are not the start's.
        assert!(told.steps.values().all(|passed| *passed < told.whole));

        let ran = case.call(&["--timings", "create", "-b", &bundle, &created]).expect(0, "create");
        let told = report(&ran.err);
        check(&told, &ALL, &["mount proc on /proc", "wait for start"]);
        let after = told.steps.keys().any(|name| name.contains("exec "));
        assert!(!after, "not yet executed: {:#?}", told.steps);
        case.delete(&created);

        let ran = case.call(&["run", "-b", &bundle, &run]).expect(0, "run, not measured");
        assert!(!ran.err.contains("microseconds"), "{ran:?}");
    }
}

#[test]
fn the_word_is_the_programs_after_the_verb() {
    for case in Case::each("the_word_is_the_programs_after_the_verb") {
        let (id, _) = case.sleeper("a", |_| {});
        let ran = case.call(&["exec", &id, "echo", "--timings"]).expect(0, "exec");
        assert_eq!((ran.out().as_str(), &ran.err[..]), ("--timings", ""));
        let ran = case.call(&["--timings", "exec", &id, "echo", "x"]).expect(0, "exec");
        let told = report(&ran.err);
        assert_eq!((ran.out().as_str(), &told.what[..]), ("x", "exec, in microseconds"));
        check(&told, &["arguments", "clone and namespaces"], &["exec echo"]);
        case.delete(&id);
    }
}
