//! Daemons that are killed, a node whose power is cut.

use crate::help::{Cluster, begin, cluster, finish};

/// Ends slurmd under a job and starts it again; the job goes on in its
/// environment, and has a step more there if `step` says so.
fn restart_slurmd_under_a_job(c: &Cluster, signal: &str, step: bool) {
    let more = if step { "srun --overlap -n1 readlink /proc/self/ns/pid" } else { "true" };
    let look = "readlink /proc/self/ns/pid";
    let script = format!(
        "#!/bin/sh\n{look}; : >running; while [ ! -e go ]; do sleep 0.1; done; {look}; {more}\n"
    );
    c.file("alice", "long", &script);
    let words = ["sbatch", "--parsable", "-w", "n2", "-n1", "--output=out", "./long"];
    let job = finish(&mut c.user("alice", &words)).success();
    c.until("it runs", || c.home("alice").join("running").exists());
    c.ask(
        "n2",
        &format!(
            "pid=$(cat /run/slurmd.pid); kill -{signal} $pid; while [ -e /proc/$pid/exe ]; do sleep 0.05; done"
        ),
    );
    c.daemon("n2", &["slurmd", "slurmd", "-D", "-N", "n2"]);
    c.file("alice", "go", "");
    c.until("it has ended", || {
        c.ask("c", &format!("squeue --noheader -j {job} 2>/dev/null || true")).is_empty()
    });
    let text = std::fs::read_to_string(c.home("alice").join("out")).unwrap();
    let seen: Vec<&str> = text.lines().collect();
    assert_eq!(seen.len(), if step { 3 } else { 2 }, "{signal}: {text}");
    assert!(seen.iter().all(|line| *line == seen[0]), "{signal}: {text}");
    assert_ne!(seen[0], c.ask("n2", look).trim(), "{signal}");
    for name in ["go", "running"] {
        std::fs::remove_file(c.home("alice").join(name)).unwrap();
    }
    // What is left of it the new slurmd's epilog has ended.
    assert_eq!(c.receipt("n2", &job)["id"], format!("slurm-{job}"));
    c.clean();
    c.all_idle();
}

#[test]
fn slurmd_may_be_killed_and_started_again_under_a_job() {
    let Some(c) = cluster("slurmd_may_be_killed_and_started_again_under_a_job") else { return };
    // Slurm 24.11 writes down which jobs it knows at an orderly end only. One
    // that was killed holds back further steps of a job, on the bare node too: it waits
    // for a request to run the job's prolog, which has been.
    let release = c.ask("n2", "slurmd -V");
    let year = release.trim().trim_start_matches("slurm-wlm ").trim_start_matches("slurm ");
    let year: u32 = year.split('.').next().unwrap().parse().unwrap();
    restart_slurmd_under_a_job(&c, "KILL", year < 24);
    restart_slurmd_under_a_job(&c, "TERM", true);
}

#[test]
fn a_node_that_lost_its_power_is_as_new() {
    let Some(c) = cluster("a_node_that_lost_its_power_is_as_new") else { return };
    c.file("alice", "long", "#!/bin/sh\necho x >/tmp/left; : >running; sleep 1000\n");
    let words =
        ["sbatch", "--parsable", "--no-requeue", "-w", "n3", "-n1", "--output=out", "./long"];
    let job = finish(&mut c.user("alice", &words)).success();
    c.until("it runs", || c.home("alice").join("running").exists());
    c.node("down", "n3");
    c.node("up", "n3");
    std::fs::remove_file(c.home("alice").join("running")).unwrap();
    // It may be back by itself already, and is not resumed then.
    c.ask("c", &format!("scancel {job}; scontrol update nodename=n3 state=down reason=power; scontrol update nodename=n3 state=resume || :"));
    c.all_idle();
    c.clean();
    assert_eq!(c.srun(&["-w", "n3", "ls", "-A", "/tmp"]), "");
    c.clean();
}

#[test]
fn a_monitor_that_is_killed_takes_its_job_along_and_the_epilog_the_rest() {
    let test = "a_monitor_that_is_killed_takes_its_job_along_and_the_epilog_the_rest";
    let Some(c) = cluster(test) else { return };
    c.file("alice", "long", "#!/bin/sh\n: >running; sleep 1000\n");
    let words = ["sbatch", "--parsable", "-w", "n1", "-n1", "--output=out", "./long"];
    let job = finish(&mut c.user("alice", &words)).success();
    c.until("it runs", || c.home("alice").join("running").exists());
    c.ask("n1", "pkill -KILL -f 'denovo monito[r]'");
    c.until("it has ended", || {
        c.ask("c", &format!("squeue --noheader -j {job} 2>/dev/null || true")).is_empty()
    });
    std::fs::remove_file(c.home("alice").join("running")).unwrap();
    assert_eq!(c.receipt("n1", &job)["id"], format!("slurm-{job}"));
    c.clean();
    assert_eq!(c.drained(), "");
}

#[test]
fn a_step_whose_environment_was_killed_does_not_run_on_the_bare_node() {
    let test = "a_step_whose_environment_was_killed_does_not_run_on_the_bare_node";
    let Some(c) = cluster(test) else { return };
    // Not even where jobs without one may.
    let stack = c.dir().join("etc/slurm/plugstack.conf");
    let before = std::fs::read_to_string(&stack).unwrap();
    std::fs::write(&stack, format!("{} optional\n", before.trim_end())).unwrap();
    let steps = "srun true; : >running; until [ -e go ]; do sleep 0.1; done; srun echo ran";
    let job = begin(&mut c.user("alice", &["salloc", "-w", "n1", "-n1", "sh", "-c", steps]));
    c.until("it runs", || c.home("alice").join("running").exists());
    c.ask("n1", "pkill -KILL -f 'denovo monito[r]'");
    c.file("alice", "go", "");
    let done = job.end();
    std::fs::write(&stack, before).unwrap();
    for name in ["go", "running"] {
        std::fs::remove_file(c.home("alice").join(name)).unwrap();
    }
    assert!(!done.out.contains("ran") && done.err.contains("ended before the job"), "{done:?}");
    c.clean();
    assert_eq!(c.drained(), "");
}

#[test]
fn a_job_that_is_requeued_has_an_environment_each_time() {
    let Some(c) = cluster("a_job_that_is_requeued_has_an_environment_each_time") else { return };
    // The second run finds nothing of the first, and a go.
    let script = "#!/bin/sh\nreadlink /proc/self/ns/pid; ls /tmp; touch /tmp/left; : >running\n\
                  until [ -e go ]; do sleep 0.1; done\n";
    c.file("alice", "twice", script);
    let options = ["-w", "n2", "-n1", "--requeue", "--open-mode=append", "--output=twice.out"];
    let words = [&["sbatch", "--parsable"], &options[..], &["./twice"]].concat();
    let job = finish(&mut c.user("alice", &words)).success();
    c.until("it runs", || c.home("alice").join("running").exists());
    std::fs::remove_file(c.home("alice").join("running")).unwrap();
    c.ask("c", &format!("scontrol requeue {job}"));
    // Slurm itself would wait for two minutes. slurmd runs no prolog for a job that
    // comes again in the second in which it was ended (src/common/slurm_cred.c,
    // slurm_cred_handle_reissue).
    c.until("it is pending", || {
        c.ask("c", &format!("squeue --noheader --format=%T -j {job}")).trim() == "PENDING"
    });
    std::thread::sleep(std::time::Duration::from_secs(3));
    c.ask("c", &format!("scontrol update jobid={job} starttime=now"));
    c.until("it is over or runs again", || {
        let state = c.ask("c", &format!("squeue --noheader --format=%T -j {job} || true"));
        state.is_empty() || c.home("alice").join("running").exists()
    });
    c.file("alice", "go", "");
    c.until("it has ended", || {
        c.ask("c", &format!("squeue --noheader -j {job} 2>/dev/null || true")).is_empty()
    });
    let text = std::fs::read_to_string(c.home("alice").join("twice.out")).unwrap();
    for name in ["twice.out", "go", "running"] {
        let _ = std::fs::remove_file(c.home("alice").join(name));
    }
    let own = c.ask("n2", "readlink /proc/self/ns/pid");
    let seen: Vec<&str> = text.lines().filter(|line| line.starts_with("pid:")).collect();
    assert_eq!(seen.len(), 2, "{text}");
    assert!(!seen.contains(&own.trim()) && !text.contains("left"), "{text}");
    c.clean();
    let receipts = format!("ls /var/lib/denovo/receipts | grep -c '^slurm-{job}[.]' || true");
    c.until("each run has a receipt", || c.ask("n2", &receipts).trim() == "2");
    assert_eq!(c.drained(), "");
}
