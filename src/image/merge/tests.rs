use std::io::Write as _;

use super::*;
use crate::image::tar::Writer;

/// Collects what comes, as lines.
#[derive(Default)]
struct Lines(Vec<String>);

impl Sink for Lines {
    fn node(&mut self, entry: &Entry) -> Result<(), Problem> {
        let what = match &entry.kind {
            Kind::Directory => "/".into(),
            Kind::Symlink(to) => format!(" -> {}", String::from_utf8_lossy(to)),
            Kind::Hardlink(to) => format!(" == {}", to.lossy()),
            other => format!(" {other:?}"),
        };
        self.0.push(format!("{}{what}", entry.path.lossy()));
        Ok(())
    }

    fn file(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), Problem> {
        let mut text = String::new();
        data.read_to_string(&mut text).map_err(|e| Problem::ours(e.to_string()))?;
        self.0.push(format!("{}: {text}", entry.path.lossy()));
        Ok(())
    }
}

/// `name/`, `name: text`, `name -> target`, `name == target`, `name`.
fn entry(line: &str) -> (Entry, Vec<u8>) {
    let path = |text: &str| Path::parse(text.as_bytes()).unwrap();
    let base = |name: &str| Entry::implied(path(name));
    if let Some((name, to)) = line.split_once(" -> ") {
        return (Entry { kind: Kind::Symlink(to.into()), ..base(name) }, Vec::new());
    }
    if let Some((name, to)) = line.split_once(" == ") {
        return (Entry { kind: Kind::Hardlink(path(to)), ..base(name) }, Vec::new());
    }
    if line.ends_with('/') || line == "." {
        return (base(line), Vec::new());
    }
    let (name, text) = line.split_once(": ").unwrap_or((line, ""));
    let size = text.len() as u64;
    (Entry { kind: Kind::File, stored: size, size, ..base(name) }, text.into())
}

fn layer(lines: &[&str]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for line in lines {
        let (entry, data) = entry(line);
        writer.entry(&entry, &mut &data[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn stored(store: &Store, layers: &[&[&str]]) -> Vec<Layer> {
    layers
        .iter()
        .map(|lines| {
            let tar = layer(lines);
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&tar).unwrap();
            let blob = store.put(&gzip.finish().unwrap()).unwrap();
            Layer { blob, diff_id: Some(Digest::of(&tar)) }
        })
        .collect()
}

fn merged(layers: &[&[&str]], bounds: Bounds) -> Result<Vec<String>, Problem> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let layers = stored(&store, layers);
    let (tree, _) = read(&store, &layers, bounds, &|_| {})?;
    let mut lines = Lines::default();
    emit(&store, &layers, &tree, &mut lines, &|_| {})?;
    lines.0.remove(0);
    Ok(lines.0)
}

fn merged_at_once(layers: &[&[&str]]) -> Result<Vec<String>, Problem> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let layers = stored(&store, layers);
    let mut lines = Lines::default();
    AtOnce::begin(&store, &layers, ROOMY, &|_| {})?.emit(&mut lines)?;
    lines.0.retain(|line| line != "/");
    Ok(lines.0)
}

/// What a receiver has in the end, whatever the order: each file with all its
/// names.
fn whole(lines: &[String]) -> Vec<String> {
    let link = |line: &String| line.split_once(" == ").map(|(a, b)| (a.to_owned(), b.to_owned()));
    let mut all: Vec<String> = lines
        .iter()
        .filter(|line| link(line).is_none())
        .map(|line| {
            let Some((name, text)) = line.split_once(": ") else { return line.clone() };
            let more = lines.iter().filter_map(link).filter(|(_, to)| to == name);
            let mut names: Vec<String> = more.map(|(also, _)| also).collect();
            names.push(name.to_owned());
            names.sort();
            format!("{}: {text}", names.join(" == "))
        })
        .collect();
    all.sort();
    all
}

const ROOMY: Bounds = Bounds { bytes: 1 << 20, entries: 1000 };

/// What it is, the layers, and what they add up to.
type Added = (&'static str, &'static [&'static [&'static str]], &'static [&'static str]);

/// Where a layer replaces or moves what it brings itself.
const NOT_AT_ONCE: &[&str] = &[
    "a link out leads to the root",
    "an absolute link too",
    "links through links",
    "twice in one layer",
];

const ADDED: &[Added] = &[
    ("a file is replaced", &[&["a: 1"], &["a: 2"]], &["a: 2"]),
    ("a whiteout", &[&["d/", "d/a: 1", "d/b: 1"], &["d/.wh.a"]], &["d/", "d/b: 1"]),
    ("a whiteout of a directory", &[&["d/", "d/a: 1", "d0: 1"], &[".wh.d"]], &["d0: 1"]),
    ("not of its own layer", &[&["a: 1"], &["a: 2", ".wh.a"]], &["a: 2"]),
    (
        "opaque",
        &[&["d/", "d/a: 1", "d/e/", "d/e/f: 1"], &["d/b: 2", "d/.wh..wh..opq"]],
        &["d/", "d/b: 2"],
    ),
    ("the whole root", &[&["a: 1", "d/"], &[".wh..wh..opq", "b: 2"]], &["b: 2"]),
    ("a directory becomes a file", &[&["d/", "d/a: 1"], &["d: 2"]], &["d: 2"]),
    ("a file becomes a directory", &[&["d: 1"], &["d/", "d/a: 2"]], &["d/", "d/a: 2"]),
    ("a directory stays with what is in it", &[&["d/", "d/a: 1"], &["d/"]], &["d/", "d/a: 1"]),
    ("hard links", &[&["a: 1", "b == a"]], &["a: 1", "b == a"]),
    ("a link outlives its file", &[&["a: 1"], &["b == a"], &[".wh.a"]], &["b: 1"]),
    ("a link keeps the old file", &[&["a: 1"], &["b == a", "a: 2"]], &["b: 1", "a: 2"]),
    ("missing directories", &[&["a/b/c: 1"]], &["a/", "a/b/", "a/b/c: 1"]),
    (
        "through a link inside",
        &[&["usr/lib/", "lib -> usr/lib"], &["lib/x: 2"]],
        &["usr/", "usr/lib/", "usr/lib/x: 2", "lib -> usr/lib"],
    ),
    (
        "a link out leads to the root",
        &[&["l -> ../../../etc", "etc/", "l/x: 1"]],
        &["etc/", "etc/x: 1", "l -> ../../../etc"],
    ),
    (
        "an absolute link too",
        &[&["l -> /etc", "l/x: 1", "etc/"]],
        &["etc/", "etc/x: 1", "l -> /etc"],
    ),
    (
        "links through links",
        &[&["a -> /b", "b -> ../c/..", "a/x: 1"]],
        &["c/", "x: 1", "a -> /b", "b -> ../c/.."],
    ),
    ("a link, then a directory of its name", &[&["l -> /etc", "l/", "l/x: 1"]], &["l/", "l/x: 1"]),
    ("AUFS' own", &[&[".wh..wh.plnk/", ".wh..wh.plnk/1: x", "a: 1"]], &["a: 1"]),
    ("twice in one layer", &[&["a: 1", "a: 2"]], &["a: 2"]),
];

#[test]
fn layers_add_up_as_the_specification_has_it() {
    for (what, layers, expected) in ADDED {
        let found = merged(layers, ROOMY).unwrap_or_else(|p| panic!("{what}: {p}"));
        assert_eq!(found, *expected, "{what}");
    }
}

#[test]
fn one_pass_gives_the_same_or_nothing() {
    let mut not = Vec::new();
    for (what, layers, expected) in ADDED {
        let Ok(found) = merged_at_once(layers) else {
            not.push(*what);
            continue;
        };
        let expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(whole(&found), whole(&expected), "{what}");
    }
    assert_eq!(not, NOT_AT_ONCE);
    // The largest between others, of which one takes from it.
    let large = "d/c: 0123456789 0123456789 0123456789 0123456789 0123456789 9876543210";
    let layers: &[&[&str]] = &[
        &["d/", "d/a: 1", "e: 1"],
        &["dev/", "dev/x -> y", ".", "d/b: 2", large, "d/f: 2", "d/g: 2", "h: 2", "i == h"],
        &["d/.wh.f", "d/g: 3", "d/j/k: 3"],
    ];
    assert_eq!(whole(&merged_at_once(layers).unwrap()), whole(&merged(layers, ROOMY).unwrap()));
}

#[test]
fn hostile_layers_are_refused() {
    for (what, lines) in [
        ("a root that is a link", &[". -> /etc"][..]),
        ("a root that is a file", &["./x: 1", ". == x"]),
        ("a whiteout of ..", &["d/.wh..."]),
        ("a whiteout of .", &["d/.wh.."]),
        ("a whiteout of nothing", &["d/.wh."]),
        ("a hard link to what is not there", &["a == etc/passwd"]),
        ("a hard link to a directory", &["d/", "a == d"]),
        ("a hard link to itself", &["a == a"]),
        ("links in a circle", &["a -> b", "b -> a", "a/x: 1"]),
        ("below a file", &["a: 1", "a/b: 1"]),
    ] {
        let found = merged(&[lines], ROOMY);
        assert!(found.is_err(), "{what}: {found:?}");
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let text = format!("a: {}", "x".repeat(5000));
    let lines: &[&str] = &[&text];
    let few = Bounds { bytes: 4000, entries: 10 };
    assert!(merged(&[lines], few).unwrap_err().message.contains("4000"));
    let twice = Bounds { bytes: 9000, entries: 10 };
    assert!(merged(&[lines, lines], twice).is_err(), "layers count together");
    let entries = Bounds { bytes: 1 << 20, entries: 3 };
    assert!(merged(&[&["a: 1", "b: 1"], &["a: 1", "b: 1"]], entries).is_err());
}

#[test]
fn a_layer_that_is_not_the_configurations_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let blob = store.put(&layer(&["a: 1"])).unwrap();
    let wrong = Layer { blob, diff_id: Some(Digest::of(b"other")) };
    let problem = read(&store, &[wrong], ROOMY, &|_| {}).unwrap_err();
    assert!(problem.message.contains("as the configuration says"), "{problem}");
}
