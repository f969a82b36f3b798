//! The layout is held by its tests: which module may use which, where
//! `unsafe` may stand, how large a file may grow.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules from the ground up; each may use those before it.
const ORDER: [&str; 11] = [
    "problem",
    "host",
    "request",
    "policy",
    "image",
    "plan",
    "kernel",
    "record",
    "supervise",
    "isolation",
    "cli",
];

/// `request` speaks of paths and texts that `policy` defines the types of.
const ALSO: [(&str, &str); 0] = [];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(found.len() > 40, "the sources were found");
    let relative = |p: &PathBuf| p.strip_prefix(&root).expect("below src").to_owned();
    found.iter().map(|p| (relative(p), fs::read_to_string(p).expect("text"))).collect()
}

/// The first part of a path, without `.rs`.
fn module(path: &Path) -> String {
    let first = path.iter().next().expect("a part").to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn uses(text: &str) -> Vec<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1).map(name).collect::<Vec<String>>())
        .filter(|name: &String| !name.is_empty())
        .collect()
}

#[test]
fn modules_use_only_those_before_them() {
    let rank = |name: &str| ORDER.iter().position(|m| *m == name);
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let own = module(&path);
        if matches!(&own[..], "main" | "lib") {
            continue;
        }
        let level = rank(&own).unwrap_or_else(|| panic!("{own} has no place in the order"));
        for used in uses(&text) {
            let allowed = rank(&used).is_some_and(|r| r <= level)
                || ALSO.contains(&(own.as_str(), used.as_str()));
            if !allowed {
                wrong.push(format!("{}: {own} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_stands_in_one_module_with_a_reason_at_each_block() {
    for (path, text) in all() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let opens = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
            if !opens.iter().any(|word| code.contains(word)) {
                continue;
            }
            assert!(
                path.starts_with("kernel/sys"),
                "{}:{}: unsafe outside of kernel/sys",
                path.display(),
                number + 1
            );
            let before = &lines[number.saturating_sub(8)..number];
            let reasoned = before.iter().any(|l| l.contains("SAFETY:")) || code.contains("extern");
            assert!(reasoned, "{}:{}: no SAFETY reason above", path.display(), number + 1);
        }
    }
}

#[test]
fn types_of_oci_spec_stay_where_a_config_is_read_and_checked() {
    for (path, text) in all() {
        let homes = ["request", "policy/container", "image"];
        let home = homes.iter().any(|home| path.starts_with(home));
        assert!(home || !text.contains("oci_spec::"), "{} uses oci_spec", path.display());
    }
}
