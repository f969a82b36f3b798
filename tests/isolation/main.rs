//! `denovo check isolation` on the real kernel: every channel's probe can
//! fail, an environment keeps closed what it closes today, nothing is left.

#[path = "../common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Case, Ran, binary, until};
use serde_json::Value;

/// Channels that an environment closed at least when this was last raised:
/// root's and a user's, with no network and with the node's, on a machine with
/// `PRESENT` of them.
const CLOSED_AT_LEAST: [(&str, usize, usize); 2] = [("none", 105, 82), ("node", 95, 69)];

/// Fewer channels than this say that the machine is another kind: what can be
/// closed there is less as well.
const PRESENT: usize = 120;

/// Channels that a bare process may find closed, and why.
const CLOSED_WHEN_BARE: [(&str, &str); 2] = [
    ("pipe_size", "root is not bound by the limit on pages of pipes"),
    ("cgroup_psi", "counts only for groups that have other processes than the probe"),
];

/// Each way to be open, and a channel that is open so to a bare process.
const WAYS: [(&str, &str); 6] = [
    ("mem_committed", "tells"),
    ("locks", "tells"),
    ("sysv_shm", "left"),
    ("boot_id", "host"),
    ("mount_hostpaths", "shows"),
    ("pipe_ino", "sequence"),
];

/// Channels, and ways of one, that no report of a bare process has open.
fn never_open(reports: &[Report]) -> Vec<String> {
    let excused = |name: &str| CLOSED_WHEN_BARE.iter().any(|(channel, _)| *channel == name);
    let always = |name: &&str| reports.iter().all(|r| r.named("closed").contains(name));
    let closed = reports[0].named("closed").into_iter().filter(|n| !excused(n)).filter(always);
    let unseen = |(channel, word): &&(&str, &str)| {
        !reports.iter().any(|report| report.why(channel).contains(word))
    };
    let ways = WAYS.iter().filter(unseen).map(|(channel, word)| format!("{channel}: {word}"));
    closed.map(str::to_owned).chain(ways).collect()
}

/// One neighbour at a time: another test's would be noticed as well.
struct Alone {
    _guard: MutexGuard<'static, ()>,
    /// A run of these tests that was killed may have left something; that is
    /// not what this one left.
    before: Vec<PathBuf>,
}

fn alone() -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Alone { _guard: guard, before: of_neighbours() }
}

impl Alone {
    /// What neighbours have made since.
    fn left(&self) -> Vec<PathBuf> {
        of_neighbours().into_iter().filter(|path| !self.before.contains(path)).collect()
    }
}

struct Report(Value);

impl Report {
    fn of(ran: &Ran) -> Self {
        Self(serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:#?}")))
    }

    fn number(&self, name: &str) -> usize {
        self.0[name].as_u64().unwrap() as usize
    }

    fn lines(&self) -> &[Value] {
        self.0["channels"].as_array().unwrap()
    }

    /// Names of the channels in that state.
    fn named(&self, state: &str) -> Vec<&str> {
        let has = |l: &&Value| l["state"] == state;
        self.lines().iter().filter(has).map(|l| l["channel"].as_str().unwrap()).collect()
    }

    fn line(&self, channel: &str) -> &Value {
        self.lines().iter().find(|l| l["channel"] == channel).unwrap()
    }

    fn why(&self, channel: &str) -> String {
        self.line(channel)["why"].to_string()
    }
}

/// A check as the case's user, in a home of its own.
fn check(case: &Case, words: &[&str]) -> Ran {
    let words = [&["check", "isolation"], words].concat();
    let mut command = case.denovo(&words);
    command.env("HOME", &case.dir);
    case.finish(command)
}

/// What neighbours leave has names that begin so.
fn of_neighbours() -> Vec<PathBuf> {
    let dirs = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten());
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("dnv") || name.starts_with("denovo-dnv")
    };
    entries.flatten().map(|e| e.path()).filter(ours).collect()
}

#[test]
fn every_channel_of_the_machine_is_seen_open_by_a_bare_process() {
    let alone = alone();
    for case in Case::each("every_channel_of_the_machine_is_seen_open_by_a_bare_process") {
        let probe = binary(case.user.is_some());
        let look = |rounds| {
            let words = ["--json", "--rounds", rounds, "--rootfs", "/", "--with", "--"];
            let ran = check(&case, &[&words[..], &[probe.to_str().unwrap(), "probe"]].concat());
            assert_eq!(ran.code(), 1);
            Report::of(&ran)
        };
        let mut reports = vec![look("1")];
        // What others do on the node may hide one: then again, and longer.
        while reports.len() < 3 && !never_open(&reports).is_empty() {
            reports.push(look("2"));
        }
        assert_eq!(never_open(&reports), Vec::<String>::new(), "never seen open");
        assert!(reports[0].number("present") > 100, "{}", reports[0].number("present"));
    }
    assert_eq!(alone.left(), Vec::<PathBuf>::new());
}

#[test]
fn an_environment_keeps_closed_what_it_closes() {
    let alone = alone();
    for case in Case::each("an_environment_keeps_closed_what_it_closes") {
        for (network, root, user) in CLOSED_AT_LEAST {
            let ran = check(&case, &["--json", "--rounds", "1", "--network", network]);
            let report = Report::of(&ran);
            // What other tests hold to as well, so that a probe that says
            // "open" to everything is none either.
            for name in [
                "uptime",
                "boot_id",
                "nodename",
                "procs",
                "sysv_shm",
                "tmp",
                "locks",
                "mq_left",
                "inotify_left",
            ] {
                assert!(report.named("closed").contains(&name), "{network}: {name}");
            }
            assert_eq!(report.named("closed").contains(&"tcp_listen"), network == "none");
            // Open as whoever has the node's network cannot help.
            let excused = report.line("tcp_listen")["residual"].is_string();
            assert_eq!(excused, network == "node");
            let (open, unexplained) = (report.number("open"), report.number("unexplained"));
            assert_eq!(report.named("open").len(), open);
            assert_eq!(ran.code(), i32::from(unexplained > 0));
            if case.uid() != 0 && report.named("open").contains(&"dev_null_mtime") {
                assert!(report.line("dev_null_mtime")["residual"].is_string());
            }
            let least = if case.uid() == 0 { root } else { user };
            if report.number("present") >= PRESENT {
                let closed = report.number("closed");
                assert!(closed >= least, "{network}: {closed} closed; {:?}", report.named("open"));
            }
        }
        let ids = std::fs::read_dir(case.state().join("jobs")).into_iter().flatten();
        assert_eq!(ids.count(), 0);
        let _ = std::fs::remove_dir_all(case.state());
    }
    assert_eq!(alone.left(), Vec::<PathBuf>::new());
}

#[test]
fn root_looks_from_another_users_environment() {
    let alone = alone();
    let Some(case) = Case::root("root_looks_from_another_users_environment") else { return };
    let ran = check(&case, &["--user", "1234567:1234567", "--network", "none", "--rounds", "1"]);
    let summary = ran.lines().into_iter().find(|l| l.contains("channels present here"));
    assert!(summary.is_some_and(|l| l.ends_with("are closed")), "{ran:#?}");
    let closed =
        |name: &str| ran.lines().iter().any(|l| l.starts_with(&format!("closed   {name} ")));
    assert!(closed("nproc_used") && closed("procs") && closed("tmp"), "{ran:#?}");
    let _ = std::fs::remove_dir_all(case.state());
    assert_eq!(alone.left(), Vec::<PathBuf>::new());
}

#[test]
fn what_cannot_be_asked_is_refused() {
    for case in Case::each("what_cannot_be_asked_is_refused") {
        check(&case, &["--allow", "weather"]).refused(&["--allow", "weather"]);
        let _alone = alone();
        check(&case, &["--with", "--", "true"]).refused(&["the probe inside", "denovo probe"]);
        check(&case, &["--with", "--", "/no/program"]).refused(&["/no/program"]);
        // Whoever has no answer is not waited for.
        let endless = "echo '{'; exec sleep 1000";
        check(&case, &["--with", "--", "sh", "-c", endless]).refused(&["not an answer"]);
        check(&case, &["--network", "none", "--with", "--", "true"]).refused(&["--with"]);
        // There are none.
        check(&case, &["--neighbour", "other-cpus"]).refused(&["every CPU", "--cpus"]);
        let explained = case.ok(&["explain", "check", "isolation", "--network", "none"]);
        assert!(explained.contains("neighbour") && !Path::new("/tmp/dnv").exists());
        let ids = std::fs::read_dir(case.state().join("jobs")).into_iter().flatten();
        assert_eq!(ids.count(), 0);
        let _ = std::fs::remove_dir_all(case.state());
    }
}

#[test]
fn a_check_that_is_killed_leaves_nothing() {
    let alone = alone();
    for case in Case::each("a_check_that_is_killed_leaves_nothing") {
        let probe = binary(case.user.is_some());
        let words = [
            "check",
            "isolation",
            "--rounds",
            "9",
            "--with",
            "--",
            probe.to_str().unwrap(),
            "probe",
        ];
        let mut command = case.denovo(&words);
        command.env("HOME", &case.dir);
        let going = case.start(command);
        until("the neighbour is there", || !alone.left().is_empty());
        going.signal(libc::SIGKILL);
        assert_eq!(going.wait().code(), 137);
        until("the neighbour has cleared away", || alone.left().is_empty());
    }
}

/// The neighbour of a check, which is its first child.
fn neighbour_of(check: i32) -> Option<nix::unistd::Pid> {
    let children = std::fs::read_to_string(format!("/proc/{check}/task/{check}/children")).ok()?;
    let neighbour = |pid: &&str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.ends_with(b"probe\0neighbour\0")
    };
    let pid = children.split_whitespace().find(neighbour)?.parse().ok()?;
    Some(nix::unistd::Pid::from_raw(pid))
}

/// What of a tag is not a file: System V objects by their owner and the
/// beginning of their keys, and the user's keys.
fn objects_of(case: &Case, tag: &str) -> Vec<String> {
    let mut all = Vec::new();
    for kind in ["shm", "sem", "msg"] {
        let text = std::fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap();
        for line in text.lines().skip(1) {
            let key = line.split_whitespace().next().and_then(|k| k.parse::<i32>().ok());
            let uid = case.uid().to_string();
            if key.is_some_and(|k| k >> 16 == 0x4456) && line.split_whitespace().any(|w| w == uid) {
                all.push(format!("{kind} {line}"));
            }
        }
    }
    let mut keys = case.command("cat");
    keys.arg("/proc/keys");
    all.extend(
        case.finish(keys).lines().into_iter().filter(|l| l.contains(tag)).map(str::to_owned),
    );
    all
}

#[test]
fn what_a_killed_neighbour_left_goes_with_the_next_check_and_a_living_ones_stays() {
    let alone = alone();
    let test = "what_a_killed_neighbour_left_goes_with_the_next_check_and_a_living_ones_stays";
    for case in Case::each(test) {
        let probe = binary(case.user.is_some());
        let words = ["check", "isolation", "--with", "--", probe.to_str().unwrap(), "probe"];
        let mut command = case.denovo(&words);
        command.env("HOME", &case.dir);
        let going = case.start(command);
        let lock = || alone.left().into_iter().find(|p| p.extension().is_some_and(|e| e == "lock"));
        until("the neighbour is there", || lock().is_some());
        let tag = lock().unwrap().file_stem().unwrap().to_str().unwrap().to_owned();
        let neighbour = neighbour_of(going.pid()).unwrap();
        nix::sys::signal::kill(neighbour, nix::sys::signal::Signal::SIGSTOP).unwrap();
        let (files, objects) = (alone.left(), objects_of(&case, &tag));
        assert!(files.len() > 4 && objects.len() > 3, "{files:?} {objects:?}");
        let next = || {
            check(&case, &["--with", "--", "true"]).refused(&["the probe inside"]);
        };
        next();
        assert_eq!((alone.left(), objects_of(&case, &tag)), (files, objects));
        nix::sys::signal::kill(neighbour, nix::sys::signal::Signal::SIGKILL).unwrap();
        going.signal(libc::SIGKILL);
        assert_eq!(going.wait().code(), 137);
        until("the dead are gone", || !Path::new(&format!("/proc/{neighbour}/stat")).exists());
        assert!(alone.left().len() > 4, "{:?}", alone.left());
        // Of others, or a link to what is not a neighbour's.
        let theirs = PathBuf::from("/tmp/dnv00000001.alive");
        std::os::unix::fs::symlink(&case.dir, &theirs).unwrap();
        next();
        assert_eq!(alone.left(), std::slice::from_ref(&theirs), "{tag}");
        assert_eq!(objects_of(&case, &tag), Vec::<String>::new());
        assert!(!case.dir.join(format!("{tag}.large")).exists());
        std::fs::remove_file(theirs).unwrap();
        let _ = std::fs::remove_dir_all(case.state());
    }
}
