//! On cgroup v2, with the node's own service manager: the tasks are in Slurm's groups
//! alone, which hold what Slurm gave, or what denovo would hold in its own.

use std::fs;

use crate::common::skip;
use crate::help::{Cluster, begin, cluster, finish, on_the_machine};

/// The cluster, if it is the machine itself.
fn unified(test: &str) -> Option<std::sync::MutexGuard<'static, Cluster>> {
    if !on_the_machine() {
        skip(test, "needs a machine with systemd and cgroup v2 alone (tests/vm)");
        return None;
    }
    cluster(test)
}

/// What a task sees of its share, and then waits until it may go on.
const LOOK: &str = "echo job $SLURM_JOB_ID; echo space $(readlink /proc/self/ns/pid); \
    echo cpus $(sed -n 's/^Cpus_allowed_list:.//p' /proc/self/status); echo nproc $(nproc); \
    echo cpuinfo $(grep -c ^processor /proc/cpuinfo); \
    echo memory $(awk '/MemTotal/ { print $2 }' /proc/meminfo); \
    sed 's/^/group /' /proc/self/cgroup; \
    : >up.$SLURM_JOB_ID.$SLURM_PROCID; until [ -e go ]; do sleep 0.1; done";

/// The words after `name` in each line of it.
fn all<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).collect()
}

fn group_of(c: &Cluster, job: &str, file: &str) -> String {
    c.ask("n1", &format!("cat /sys/fs/cgroup/system.slice/*slurmstepd.scope/job_{job}/{file}"))
}

/// Waits for so many tasks, then gives the jobs' numbers.
fn running(c: &Cluster, tasks: usize) {
    c.until("they run", || {
        c.ask("n1", "ls /home/alice | grep -c ^up || true").trim() == tasks.to_string()
    });
}

fn let_go(c: &Cluster) {
    c.file("alice", "go", "");
}

fn tidy(c: &Cluster) {
    c.ask("n1", "rm -f /home/alice/up.* /home/alice/go");
    c.until("Slurm's groups are gone", || {
        c.ask("n1", "find /sys/fs/cgroup -type d -name 'job_*'").is_empty()
    });
    c.clean();
}

#[test]
fn ranks_share_an_environment_and_have_what_slurm_gave() {
    let Some(c) = unified("ranks_share_an_environment_and_have_what_slurm_gave") else { return };
    let words = ["srun", "-n2", "--mem=100M", "--cpu-bind=none", "sh", "-c", LOOK];
    let job = begin(&mut c.user("alice", &words));
    running(&c, 2);
    let id = c.ask("c", "squeue --noheader --format=%A").trim().to_owned();
    let cpus = group_of(&c, &id, "cpuset.cpus.effective").trim().to_owned();
    assert_eq!(group_of(&c, &id, "memory.max").trim(), (100 << 20).to_string());
    let counted =
        c.on("n1", &["/opt/denovo/denovo", "job", "show", "--json", &format!("slurm-{id}")]);
    let counted = finish(&mut { counted }).success();
    let_go(&c);
    let seen = job.end().success();
    assert_eq!(all(&seen, "job"), [id.as_str(); 2], "{seen}");
    let spaces = all(&seen, "space");
    assert!(spaces[0] == spaces[1], "one environment: {seen}");
    assert_ne!(spaces[0], c.ask("n1", "readlink /proc/self/ns/pid").trim());
    assert_eq!(all(&seen, "cpus"), [cpus.as_str(); 2], "{seen}");
    assert_eq!((all(&seen, "nproc"), all(&seen, "cpuinfo")), (vec!["2"; 2], vec!["2"; 2]));
    assert_eq!(all(&seen, "memory"), ["102400"; 2], "{seen}");
    let groups = all(&seen, "group");
    let theirs = format!("slurmstepd.scope/job_{id}/step_0/user/task_");
    assert!(groups.iter().all(|g| g.contains(&theirs)), "{seen}");
    let counted: serde_json::Value = serde_json::from_str(&counted).unwrap();
    assert!(counted.to_string().contains("\"pids\""), "{counted}");
    tidy(&c);
    let receipt = c.receipt("n1", &id);
    assert_eq!(receipt["given"]["memory"], 100 << 20, "{receipt}");
    assert_eq!(receipt["given"]["cpus"].as_array().unwrap().len(), 2, "{receipt}");
    // Denovo's own group has the first process only, which takes less.
    assert!(receipt["used"]["cpu_ns"].as_u64() > Some(200_000_000), "{receipt}");
    assert!(receipt["used"]["memory_peak"].as_u64() > Some(1 << 20), "{receipt}");
    assert_eq!(receipt["problems"], serde_json::json!([]), "{receipt}");
}

#[test]
fn jobs_beside_each_other_see_and_are_told_the_cpus_that_slurm_chose() {
    let test = "jobs_beside_each_other_see_and_are_told_the_cpus_that_slurm_chose";
    let Some(c) = unified(test) else { return };
    // Slurm takes CPUs by cores and sockets, denovo would by its own order.
    let start = |options: &[&str]| {
        let words = [&["srun", "--mem=100M"], options, &["sh", "-c", LOOK]].concat();
        begin(&mut c.user("alice", &words))
    };
    let first = start(&["-n1"]);
    running(&c, 1);
    let second = start(&["-n2", "--ntasks-per-socket=1", "--cpu-bind=none"]);
    running(&c, 3);
    let_go(&c);
    for (job, count) in [(first, "1"), (second, "2")] {
        let seen = job.end().success();
        let (id, cpus) = (all(&seen, "job")[0], all(&seen, "cpus")[0]);
        assert_eq!((all(&seen, "nproc")[0], all(&seen, "cpuinfo")[0]), (count, count), "{seen}");
        let receipt = c.receipt("n1", id);
        let told: Vec<String> =
            receipt["given"]["cpus"].as_array().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(told.join(","), cpus.replace('-', ","), "{receipt}");
    }
    tidy(&c);
}

#[test]
fn too_much_memory_ends_that_job_alone_on_v2() {
    let Some(c) = unified("too_much_memory_ends_that_job_alone_on_v2") else { return };
    let beside = begin(&mut c.user("alice", &["srun", "-n1", "--mem=100M", "sh", "-c", LOOK]));
    running(&c, 1);
    let eat = "echo $SLURM_JOB_ID; exec perl -e '$x = \"a\" x 300000000; print length $x'";
    let done = c.try_srun(&["-n1", "--mem=100M", "sh", "-c", eat]);
    assert_ne!(done.code, 0, "{done:?}");
    let_go(&c);
    beside.end().success();
    tidy(&c);
    let receipt = c.receipt("n1", done.out.trim());
    assert!(receipt["used"]["oom_kills"].as_u64() > Some(0), "{receipt}");
    let peak = receipt["used"]["memory_peak"].as_u64().unwrap();
    assert!((90 << 20..=100 << 20).contains(&peak), "{receipt}");
    assert_eq!(c.drained(), "");
}

/// With other settings of Slurm's and of the site's until it is dropped.
struct Changed<'a> {
    c: &'a Cluster,
    before: Vec<(&'static str, String)>,
}

impl<'a> Changed<'a> {
    fn new(c: &'a Cluster, changes: &[(&'static str, &str, &str)]) -> Self {
        let mut before = Vec::new();
        for (name, from, to) in changes {
            let path = c.dir().join("etc/slurm").join(name);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{name}: {text}");
            fs::write(&path, text.replace(from, to)).unwrap();
            before.push((*name, text));
        }
        let changed = Self { c, before };
        changed.restart();
        changed
    }

    fn restart(&self) {
        self.c.ask("n1", "systemctl restart slurmctld slurmd");
        self.c.until("Slurm is there again", || {
            let words = ["sinfo", "--noheader", "--format=%t%D"];
            finish(&mut self.c.on("c", &words)).out.trim() == "idle1"
        });
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        for (name, text) in self.before.iter().rev() {
            let _ = fs::write(self.c.dir().join("etc/slurm").join(name), text);
        }
        self.c.site("");
        if !std::thread::panicking() {
            self.restart();
        }
    }
}

#[test]
fn what_slurm_does_not_limit_denovo_does_in_slurms_groups() {
    let test = "what_slurm_does_not_limit_denovo_does_in_slurms_groups";
    let Some(c) = unified(test) else { return };
    let changed = Changed::new(
        &c,
        &[
            ("cgroup.conf", "ConstrainCores=yes", "ConstrainCores=no"),
            ("cgroup.conf", "ConstrainRAMSpace=yes", "ConstrainRAMSpace=no"),
            ("slurm.conf", "task/affinity,", ""),
        ],
    );
    c.site("[scheduler]\npids = 60\n");
    let words = ["srun", "-n1", "--mem=100M", "sh", "-c", LOOK];
    let job = begin(&mut c.user("alice", &words));
    running(&c, 1);
    let id = c.ask("c", "squeue --noheader --format=%A").trim().to_owned();
    let held = ["memory.max", "pids.max", "cpuset.cpus"].map(|file| group_of(&c, &id, file));
    let_go(&c);
    let seen = job.end().success();
    let cpus = all(&seen, "cpus")[0].to_owned();
    assert_eq!(
        held.map(|text| text.trim().to_owned()),
        [(100 << 20).to_string(), "60".into(), cpus]
    );
    assert_eq!((all(&seen, "nproc")[0], all(&seen, "memory")[0]), ("1", "102400"), "{seen}");
    let eat = "echo $SLURM_JOB_ID; exec perl -e '$x = \"a\" x 300000000; print length $x'";
    let done = c.try_srun(&["-n1", "--mem=100M", "sh", "-c", eat]);
    assert_ne!(done.code, 0, "{done:?}");
    let receipt = c.receipt("n1", done.out.trim());
    assert!(receipt["used"]["oom_kills"].as_u64() > Some(0), "{receipt}");
    assert_eq!(
        (&receipt["given"]["pids"], &receipt["problems"]),
        (&60.into(), &serde_json::json!([]))
    );
    tidy(&c);
    drop(changed);
    c.all_idle();
}
