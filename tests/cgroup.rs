//! Control groups on the real kernel, in groups below `denovo-test-PID` only.
//!
//! Tests that need root or a controller that this node does not have say so
//! and pass: `SKIP name: reason`.

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use denovo::host::Facts;
use denovo::kernel::cgroup::{self, CgroupError};
use denovo::plan::cgroup::{CgroupPlan, plan};
use denovo::policy::limits::{Cpu, DeviceKind, DeviceRule, Limits, Memory};
use denovo::policy::spec;
use denovo::problem::Problem;

/// An environment's groups, which are gone at the end, whatever happens.
struct Groups(CgroupPlan);

impl Groups {
    fn planned(name: &str, limits: Limits, delegate_to: Option<u32>) -> Self {
        let path = Some(format!("denovo-test-{}/{name}", std::process::id()));
        let ask = spec::Cgroup { path, limits, best_effort: false, delegate_to };
        Self(plan(&ask, &Facts::read().unwrap()).unwrap())
    }

    fn made(name: &str, limits: Limits) -> Self {
        let groups = Self::planned(name, limits, None);
        cgroup::make(&groups.0).unwrap();
        groups
    }

    fn dir(&self, controller: &str) -> PathBuf {
        self.0.with(controller).unwrap().at.dir()
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let text = std::fs::read_to_string(self.dir(controller).join(file)).unwrap();
        text.trim().to_owned()
    }

    fn exist(&self) -> usize {
        self.0.groups.iter().filter(|g| g.at.dir().exists()).count()
    }

    /// Kills what is in the groups, of which `child` is one.
    fn end(&self, mut child: Child) {
        cgroup::kill(&self.0, Duration::from_secs(60)).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    /// A shell that goes on with `script` once it is in every group.
    fn shell(&self, script: &str) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        cgroup::place(&self.0, child.id() as i32).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        child
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let killed = cgroup::kill(&self.0, Duration::from_secs(60));
        let removed = cgroup::remove(&self.0);
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
        }
    }
}

/// Whether the node lacks what a test needs; says so.
fn lacks(test: &str, controllers: &[&str]) -> bool {
    let facts = Facts::read().unwrap();
    let missing =
        controllers.iter().find(|c| facts.cgroups.v1_with(c).is_none() && !facts.cgroups.v2_has(c));
    let reason = if facts.caller.uid != 0 {
        "not root".to_owned()
    } else if let Some(controller) = missing {
        format!("no controller {controller}")
    } else {
        return false;
    };
    println!("SKIP {test}: {reason}");
    true
}

/// Whether a test is for cgroup v1 alone and this node has none.
fn lacks_v1(test: &str, controllers: &[&str]) -> bool {
    let facts = Facts::read().unwrap();
    let all = controllers.iter().all(|c| facts.cgroups.v1_with(c).is_some());
    if !all {
        println!("SKIP {test}: not all of {controllers:?} on cgroup v1");
    }
    !all || lacks(test, controllers)
}

/// Runs one test of this file alone in a process of its own, in another view
/// of the node that `prepare` sets up in a private mount namespace.
fn alone(test: &str, prepare: &str) {
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{prepare} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

fn memory(bytes: i64) -> Limits {
    Limits { memory: Memory { limit: Some(bytes), ..Memory::default() }, ..Limits::default() }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(100);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything denied but /dev/null.
fn only_null() -> Limits {
    let all = DeviceRule {
        allow: false,
        kind: DeviceKind::All,
        major: None,
        minor: None,
        read: true,
        write: true,
        mknod: true,
    };
    let null = DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(3),
        ..all.clone()
    };
    Limits { devices: vec![all, null], ..Limits::default() }
}

fn output(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn limits_are_in_force() {
    if lacks_v1("limits_are_in_force", &["memory", "cpu", "cpuset", "pids"]) {
        return;
    }
    let mut limits = memory((64 << 20) + 1);
    limits.memory.reservation = Some(32 << 20);
    limits.cpu = Cpu {
        shares: Some(512),
        quota: Some(150_000),
        period: Some(50_000),
        cpus: Some("0".into()),
        mems: Some("0".into()),
        ..Cpu::default()
    };
    limits.pids = Some(77);
    let groups = Groups::made("limits", limits);
    let table = [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "150000"),
        ("cpu", "cpu.cfs_period_us", "50000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("pids", "pids.max", "77"),
    ];
    for (controller, file, expected) in table {
        assert_eq!(groups.read(controller, file), expected, "{file}");
    }
    if groups.dir("memory").join("memory.memsw.limit_in_bytes").exists() {
        assert_eq!(groups.read("memory", "memory.memsw.limit_in_bytes"), "67108864");
    }
    assert_eq!(output(groups.shell("grep Cpus_allowed_list /proc/self/status")).as_str(), {
        "Cpus_allowed_list:\t0"
    });
}

#[test]
fn a_refused_limit_is_told_and_leaves_nothing() {
    if lacks("a_refused_limit_is_told_and_leaves_nothing", &["cpuset"]) {
        return;
    }
    let cpu = Cpu { cpus: Some("4000".into()), ..Cpu::default() };
    let groups = Groups::planned("refused", Limits { cpu, ..Limits::default() }, None);
    let error = cgroup::make(&groups.0).unwrap_err();
    assert!(matches!(error, CgroupError::Limit { .. }), "{error:?}");
    let problem = Problem::from(error);
    assert!(problem.message.contains("CPU list refused"), "{problem}");
    assert!(problem.message.contains("4000") && problem.hint.is_some(), "{problem:?}");
    assert_eq!(groups.exist(), 0);
}

#[test]
fn who_takes_too_much_memory_is_killed_and_counted() {
    if lacks("who_takes_too_much_memory_is_killed_and_counted", &["memory", "pids"]) {
        return;
    }
    let groups = Groups::made("oom", memory(32 << 20));
    let mut hog = groups.shell("exec tail /dev/zero");
    let status = hog.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    let usage = cgroup::usage(&groups.0);
    assert_eq!(usage.oom_kills, Some(1), "{usage:?}");
    assert!(usage.memory_limit_hits.is_some(), "{usage:?}");
    // cgroup v2 tells the peak since Linux 5.19.
    let facts = Facts::read().unwrap();
    let untold = facts.cgroups.v1_with("memory").is_none() && facts.kernel < (5, 19);
    let peak = usage.memory_peak;
    assert!(peak.map_or(untold, |peak| (16 << 20..=32 << 20).contains(&peak)), "{usage:?}");
    assert!(usage.cpu_ns > Some(0) && usage.pids == Some(0), "{usage:?}");
}

#[test]
fn throttling_and_refused_forks_are_counted() {
    if lacks("throttling_and_refused_forks_are_counted", &["cpu", "pids"]) {
        return;
    }
    let cpu = Cpu { quota: Some(5_000), period: Some(50_000), ..Cpu::default() };
    let groups = Groups::made("throttled", Limits { cpu, pids: Some(3), ..Limits::default() });
    let forks = groups.shell("sleep 9 & sleep 9 & sleep 9 & sleep 9");
    wait_until("no fork was refused", || cgroup::usage(&groups.0).pids_limit_hits > Some(0));
    cgroup::kill(&groups.0, Duration::from_secs(60)).unwrap();
    output(forks);
    let busy = groups.shell("while :; do :; done");
    wait_until("never throttled", || cgroup::usage(&groups.0).cpu_throttled_periods > Some(1));
    let usage = cgroup::usage(&groups.0);
    assert!(usage.cpu_throttled_ns > Some(0) && usage.cpu_periods > Some(0), "{usage:?}");
    groups.end(busy);
}

#[test]
fn nothing_survives_kill_and_remove() {
    if lacks("nothing_survives_kill_and_remove", &[]) {
        return;
    }
    let groups = Groups::made("killed", Limits::default());
    for group in &groups.0.groups {
        std::fs::create_dir_all(group.at.dir().join("sub/subsub")).unwrap();
    }
    // Forks all the time, and no shell waits for another.
    let child = groups.shell("while :; do (sleep 100 &) ; sleep 0.001; done");
    wait_until("nothing was forked", || cgroup::pids(&groups.0).unwrap().len() > 10);
    let all = cgroup::pids(&groups.0).unwrap();
    groups.end(child);
    assert_eq!(cgroup::pids(&groups.0).unwrap(), Vec::<i32>::new());
    let gone = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.contains("(sleep)") || stat.contains(") Z")
    };
    // Those on their way out are in no group any more, and end shortly after.
    wait_until("a process is still there", || all.iter().all(gone));
    cgroup::remove(&groups.0).unwrap();
    assert_eq!(groups.exist(), 0);
    // Once more is no error.
    cgroup::remove(&groups.0).unwrap();
}

#[test]
fn a_group_in_use_is_not_taken_over() {
    if lacks("a_group_in_use_is_not_taken_over", &[]) {
        return;
    }
    let groups = Groups::made("used", Limits::default());
    // Empty, as a killed denovo would leave it: made anew.
    cgroup::make(&groups.0).unwrap();
    let child = groups.shell("sleep 100");
    let error = cgroup::make(&groups.0).unwrap_err();
    assert!(matches!(error, CgroupError::Occupied { .. }), "{error:?}");
    assert_eq!(groups.exist(), groups.0.groups.len());
    assert!(!cgroup::pids(&groups.0).unwrap().is_empty());
    groups.end(child);
}

#[test]
fn who_writes_0_to_the_doors_is_in_every_group() {
    if lacks_v1("who_writes_0_to_the_doors_is_in_every_group", &["memory"]) {
        return;
    }
    let groups = Groups::made("doors", Limits::default());
    let doors = cgroup::open_doors(&groups.0, None).unwrap();
    let v1 = groups.0.groups.len() - usize::from(doors.v2_dir.is_some());
    assert_eq!(doors.v1_tasks.len(), v1);
    // A thread moves alone, as a single-threaded child does.
    let (own, took) = std::thread::spawn(move || {
        let mut doors: Vec<std::fs::File> = doors.v1_tasks.into_iter().map(Into::into).collect();
        let begin = Instant::now();
        for door in &mut doors {
            door.write_all(b"0").unwrap();
        }
        let took = begin.elapsed();
        (std::fs::read_to_string("/proc/thread-self/cgroup").unwrap(), took)
    })
    .join()
    .unwrap();
    println!("{v1} hierarchies joined in {took:?}");
    let inside = own.lines().filter(|l| l.ends_with("/doors")).count();
    assert_eq!(inside, v1, "{own}");
}

#[test]
fn a_user_joins_only_what_is_delegated() {
    if lacks_v1("a_user_joins_only_what_is_delegated", &["memory", "pids"]) {
        return;
    }
    let join = |groups: &Groups| {
        let tasks = groups.dir("memory").join("tasks");
        let script = format!("echo 0 > {} && cat /proc/self/cgroup", tasks.display());
        let child = Command::new("sh")
            .args(["-c", &script])
            .uid(12345)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        output(child)
    };
    let mine = Groups::planned("delegated", Limits::default(), Some(12345));
    cgroup::make(&mine.0).unwrap();
    assert!(join(&mine).contains("/delegated"));
    let others = Groups::made("not-delegated", Limits::default());
    assert_eq!(join(&others), "");
}

#[test]
#[ignore = "changes the effective uid of the process; run by the test below"]
fn doors_of_a_user_admit_only_that_user() {
    let groups = Groups::planned("user-doors", Limits::default(), Some(12345));
    cgroup::make(&groups.0).unwrap();
    let doors = cgroup::open_doors(&groups.0, Some(12345)).unwrap();
    // dash's own echo, to its standard output: the door.
    let write = |uid: u32, value: &str| {
        let door = doors.v1_tasks[0].try_clone().unwrap();
        let script = format!("echo {value} 2>&-");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).uid(uid).stdout(Stdio::from(door)).stderr(Stdio::null());
        shell.status().unwrap().success()
    };
    assert!(write(12345, "0"));
    assert!(!write(12345, &std::process::id().to_string()), "root's process was moved");
    let others = Groups::made("user-doors-closed", Limits::default());
    assert!(cgroup::open_doors(&others.0, Some(12345)).unwrap_err().is_permission());
    assert_eq!(Facts::read().unwrap().caller.uid, 0);
}

#[test]
fn doors_can_be_opened_for_a_user() {
    if !lacks_v1("doors_can_be_opened_for_a_user", &["memory"]) {
        alone("doors_of_a_user_admit_only_that_user", "");
    }
}

#[test]
fn a_device_list_holds() {
    if lacks_v1("a_device_list_holds", &["devices"]) {
        return;
    }
    let groups = Groups::made("devices", only_null());
    assert_eq!(groups.read("devices", "devices.list"), "c 1:3 rwm");
    assert_eq!(output(groups.shell(DEVICES)), "null\nno zero");
}

const DEVICES: &str = "cat /dev/null && echo null; head -c1 /dev/zero >&2 || echo no zero";

#[test]
fn stopped_processes_go_on() {
    if lacks("stopped_processes_go_on", &[]) {
        return;
    }
    let groups = Groups::made("frozen", Limits::default());
    let child = groups.shell("while :; do :; done");
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.split(' ').nth(13).unwrap().parse::<u64>().unwrap()
    };
    cgroup::freeze(&groups.0).unwrap();
    let before = ticks();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ticks(), before);
    cgroup::thaw(&groups.0).unwrap();
    wait_until("it did not go on", || ticks() > before);
    // And a frozen one can be killed.
    cgroup::freeze(&groups.0).unwrap();
    groups.end(child);
}

#[test]
fn a_link_is_not_followed_and_nothing_else_is_a_group() {
    if lacks("a_link_is_not_followed_and_nothing_else_is_a_group", &[]) {
        return;
    }
    let mut groups = Groups::planned("elsewhere", Limits::default(), None);
    let elsewhere = tempfile::tempdir().unwrap();
    groups.0.groups.truncate(1);
    groups.0.steps.truncate(1);
    let denovo::plan::cgroup::CgroupStep::Make { at, .. } = &mut groups.0.steps[0] else {
        panic!("the first step makes a group");
    };
    at.mount = elsewhere.path().to_owned();
    groups.0.groups[0].at.mount = elsewhere.path().to_owned();
    let error = cgroup::make(&groups.0).unwrap_err();
    assert!(matches!(error, CgroupError::NotCgroups { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    groups.0 = CgroupPlan::default();
}

#[test]
#[ignore = "needs a view of cgroup v2 alone; run by the test below"]
fn in_v2_alone() {
    let facts = Facts::read().unwrap();
    assert!(facts.cgroups.v1.is_empty());
    let groups = Groups::made("v2", only_null());
    assert_eq!(output(groups.shell(DEVICES)), "null\nno zero");
    assert!(cgroup::usage(&groups.0).cpu_ns > Some(0));

    std::fs::create_dir(groups.0.groups[0].at.dir().join("sub")).unwrap();
    let child = groups.shell("while :; do (sleep 100 &) ; sleep 0.001; done");
    wait_until("nothing was forked", || cgroup::pids(&groups.0).unwrap().len() > 10);
    cgroup::freeze(&groups.0).unwrap();
    cgroup::thaw(&groups.0).unwrap();
    groups.end(child);
    assert!(cgroup::open_doors(&groups.0, None).unwrap().v2_dir.is_some());
    cgroup::remove(&groups.0).unwrap();
    assert_eq!(groups.exist(), 0);

    if !facts.cgroups.v2_has("memory") {
        let path = Some("denovo-test-x/y".to_owned());
        let ask =
            spec::Cgroup { path, limits: memory(1 << 30), best_effort: false, delegate_to: None };
        let problems = plan(&ask, &facts).unwrap_err();
        assert!(problems[0].message.contains("`memory`"), "{problems:?}");
    }
    let delegated = Groups::planned("v2-delegated", Limits::default(), Some(12345));
    cgroup::make(&delegated.0).unwrap();
    let dir = delegated.0.groups[0].at.dir();
    let status = Command::new("mkdir").arg(dir.join("sub")).uid(12345).status().unwrap();
    assert!(status.success());
}

#[test]
fn cgroup_v2_alone_does_the_same() {
    if lacks("cgroup_v2_alone_does_the_same", &[]) {
        return;
    }
    let view = "umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup &&";
    alone("in_v2_alone", view);
}
