//! A job gets what Slurm gave it, and a receipt says so.

use std::fs;

use crate::help::{Cluster, begin, cluster, finish};

#[test]
fn cpus_and_memory_are_those_that_slurm_gave() {
    let Some(c) = cluster("cpus_and_memory_are_those_that_slurm_gave") else { return };
    let look = "echo $SLURM_JOB_ID; grep Cpus_allowed_list /proc/self/status; nproc";
    let seen = c.srun(&["-w", "n1", "-n1", "--mem=300M", "sh", "-c", look]);
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[2], "1", "{seen}");
    let receipt = c.receipt("n1", lines[0]);
    assert_eq!(receipt["given"]["memory"], 300 << 20, "{receipt}");
    let cpu = lines[1].rsplit('\t').next().unwrap();
    assert_eq!(receipt["given"]["cpus"].to_string(), format!("[{cpu}]"), "{receipt}");
    c.clean();
}

#[test]
fn two_jobs_on_a_node_have_different_cpus() {
    let Some(c) = cluster("two_jobs_on_a_node_have_different_cpus") else { return };
    // Each waits for the other: only together do they need different ones.
    let look = "grep Cpus_allowed_list /proc/self/status; : >here.$SLURM_JOB_ID; \
                until [ $(ls here.* | wc -l) = 2 ]; do sleep 0.1; done";
    let start = || begin(&mut c.user("alice", &["srun", "-w", "n1", "-n1", "sh", "-c", look]));
    let (a, b) = (start(), start());
    let (a, b) = (a.end().out, b.end().out);
    assert!(a.starts_with("Cpus") && b.starts_with("Cpus") && a != b, "{a} {b}");
    finish(&mut c.user("alice", &["sh", "-c", "rm here.*"])).success();
    c.clean();
}

#[test]
fn a_job_that_takes_too_much_memory_is_ended_alone_and_told() {
    let Some(c) = cluster("a_job_that_takes_too_much_memory_is_ended_alone_and_told") else {
        return;
    };
    let eat = "echo $SLURM_JOB_ID; exec perl -e '$x = \"a\" x 500000000; print length $x'";
    let done = c.try_srun(&["-w", "n1", "-n1", "--mem=100M", "sh", "-c", eat]);
    assert_ne!(done.code, 0, "{done:?}");
    let receipt = c.receipt("n1", done.out.trim());
    assert!(receipt["used"]["oom_kills"].as_u64() > Some(0), "{receipt}");
    let peak = receipt["used"]["memory_peak"].as_u64().unwrap();
    assert!((50 << 20..=100 << 20).contains(&peak), "{receipt}");
    assert_eq!(c.drained(), "");
    c.clean();
}

#[test]
fn a_receipt_has_what_a_site_accounts_by_and_its_user_may_read_it() {
    let Some(c) = cluster("a_receipt_has_what_a_site_accounts_by_and_its_user_may_read_it") else {
        return;
    };
    let work = "echo $SLURM_JOB_ID; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; exit 3";
    let done = c.try_srun(&["-w", "n1", "-n1", "sh", "-c", work]);
    assert_eq!(done.code, 3, "{done:?}");
    let job = done.out.trim();
    let receipt = c.receipt("n1", job);
    assert_eq!(receipt["exitCode"], 3, "{receipt}");
    assert_eq!((&receipt["node"], &receipt["bundle"]), (&"n1".into(), &"host".into()));
    assert!(receipt["used"]["cpu_ns"].as_u64() > Some(10_000_000), "{receipt}");
    assert!(receipt["time"]["toStart"].as_u64() > Some(0), "{receipt}");
    assert!(receipt["given"]["namespaces"].as_array().unwrap().len() >= 6, "{receipt}");
    let id = format!("slurm-{job}");
    let words = ["/opt/denovo/denovo", "job", "show", "--receipt", "--json", &id];
    let own = finish(&mut c.on("n1", &[&["+alice"][..], &words].concat())).success();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&own).unwrap(), receipt);
    let other = finish(&mut c.on("n1", &[&["+bob"][..], &words].concat()));
    assert_eq!(other.code, 125, "{other:?}");
    c.clean();
}

/// Starts a node's slurmd anew, which is when it reads its settings.
fn restart(c: &Cluster, node: &str) {
    let stop =
        "pid=$(cat /run/slurmd.pid); kill $pid; while [ -e /proc/$pid/exe ]; do sleep 0.05; done";
    c.ask(node, stop);
    c.daemon(node, &["slurmd", "slurmd", "-D", "-N", node]);
}

#[test]
fn where_slurm_limits_memory_by_groups_of_its_own_the_job_is_in_them() {
    let test = "where_slurm_limits_memory_by_groups_of_its_own_the_job_is_in_them";
    let Some(c) = cluster(test) else { return };
    let file = |name: &str| c.dir().join("etc/slurm").join(name);
    let changes = [
        ("slurm.conf", "TaskPlugin=task/none", "TaskPlugin=task/cgroup"),
        ("cgroup.conf", "ConstrainRAMSpace=no", "ConstrainRAMSpace=yes"),
    ];
    let before = changes.map(|(name, ..)| fs::read_to_string(file(name)).unwrap());
    for ((name, from, to), text) in changes.iter().zip(&before) {
        assert!(text.contains(from), "{name}: {text}");
        fs::write(file(name), text.replace(from, to)).unwrap();
    }
    restart(&c, "n1");
    let task = "echo $SLURM_JOB_ID; awk '/MemTotal/ { print $2 }' /proc/meminfo; : >up; \
                until [ -e go ]; do sleep 0.1; done; exec perl -e '$x = \"a\" x 500000000; print length $x'";
    let words = ["srun", "-w", "n1", "-n1", "--mem=100M", "sh", "-c", task];
    let job = begin(&mut c.user("alice", &words));
    c.until("it runs", || c.home("alice").join("up").exists());
    let groups = c.ask("n1", "cat /proc/$(pgrep -u alice -x sh | head -n 1)/cgroup");
    let held =
        c.ask("n1", "cat /sys/fs/cgroup/memory/slurm*/uid_61001/job_*/memory.limit_in_bytes");
    c.file("alice", "go", "");
    let done = job.end();
    for (name, text) in changes.map(|(name, ..)| name).iter().zip(&before) {
        fs::write(file(name), text).unwrap();
    }
    restart(&c, "n1");
    for name in ["go", "up"] {
        fs::remove_file(c.home("alice").join(name)).unwrap();
    }
    let group = |of: &str| {
        let line = groups.lines().find(|l| l.split(':').nth(1) == Some(of));
        line.and_then(|l| l.rsplit(':').next()).unwrap_or_default().to_owned()
    };
    let lines: Vec<&str> = done.out.lines().collect();
    assert!(group("memory").contains(&format!("/job_{}", lines[0])), "{groups}");
    assert!(group("cpuset").contains("denovo-slurm-"), "{groups}");
    assert_eq!(held.trim(), (100 << 20).to_string(), "what Slurm gave");
    // Seen inside as the job's, and held.
    assert_eq!((lines[1], lines.len()), ("102400", 2), "{done:?}");
    assert_ne!(done.code, 0, "{done:?}");
    c.all_idle();
    c.clean();
}
