//! Prolog and epilog by themselves: twice, late, out of order, at once, cut
//! off, and on a node that is broken.

use std::time::Duration;

use crate::help::{Cluster, begin, cluster, finish};

/// No job of the cluster has such a number.
const JOB: u32 = 4_000_001;

fn stands(c: &Cluster, job: u32) -> bool {
    c.ask("n1", &format!("/opt/denovo/denovo job list | grep -c '^slurm-{job} ' || true")).trim()
        == "1"
}

fn run(c: &Cluster, verb: &str, job: u32, more: &[(&str, &str)]) {
    let done = finish(&mut c.call("n1", verb, job, more));
    assert_eq!(done.code, 0, "{verb}: {done:?}");
}

#[test]
fn each_may_run_twice_and_the_epilog_without_a_prolog() {
    let Some(c) = cluster("each_may_run_twice_and_the_epilog_without_a_prolog") else { return };
    run(&c, "epilog", JOB, &[]);
    run(&c, "prolog", JOB + 1, &[]);
    let first = c.ask("n1", "cat /run/denovo/jobs/slurm-4000002/state.json");
    run(&c, "prolog", JOB + 1, &[]);
    assert_eq!(first, c.ask("n1", "cat /run/denovo/jobs/slurm-4000002/state.json"));
    run(&c, "epilog", JOB + 1, &[]);
    run(&c, "epilog", JOB + 1, &[]);
    c.clean();
}

#[test]
fn a_late_one_does_no_harm() {
    let Some(c) = cluster("a_late_one_does_no_harm") else { return };
    let (job, again) = (JOB + 10, [("SLURM_JOB_RESTART_COUNT", "1")]);
    run(&c, "prolog", job, &[]);
    run(&c, "epilog", job, &[]);
    // A prolog after its epilog makes nothing that nobody would end.
    run(&c, "prolog", job, &[]);
    assert!(!stands(&c, job));
    // The requeued job does start, and the first run's epilog leaves it alone.
    run(&c, "prolog", job, &again);
    assert!(stands(&c, job));
    run(&c, "epilog", job, &[]);
    assert!(stands(&c, job));
    run(&c, "epilog", job, &again);
    assert!(!stands(&c, job));
    c.clean();
}

#[test]
fn the_prolog_of_a_new_run_ends_what_the_old_one_left() {
    let Some(c) = cluster("the_prolog_of_a_new_run_ends_what_the_old_one_left") else { return };
    let job = JOB + 15;
    run(&c, "prolog", job, &[]);
    let keeper = "cat /run/denovo/jobs/slurm-4000016/state.json";
    let first = c.ask("n1", keeper);
    run(&c, "prolog", job, &[("SLURM_JOB_RESTART_COUNT", "1")]);
    assert_ne!(first, c.ask("n1", keeper));
    // A job id that comes again, for somebody else.
    let other =
        [("SLURM_JOB_UID", "61002"), ("SLURM_JOB_GID", "61002"), ("SLURM_JOB_RESTART_COUNT", "2")];
    run(&c, "prolog", job, &other);
    assert!(c.ask("n1", keeper).contains("\"uid\":61002"));
    run(&c, "epilog", job, &other);
    c.clean();
}

#[test]
fn many_at_once_leave_one_or_none() {
    let Some(c) = cluster("many_at_once_leave_one_or_none") else { return };
    let job = JOB + 20;
    let start = |verb: &str, restarts: &str| {
        begin(&mut c.call("n1", verb, job, &[("SLURM_JOB_RESTART_COUNT", restarts)]))
    };
    let all: Vec<_> = (0..4).map(|_| start("prolog", "0")).collect();
    for one in all {
        one.end().success();
    }
    assert!(stands(&c, job));
    let mut all: Vec<_> = (0..2).map(|_| start("epilog", "0")).collect();
    all.extend((0..2).map(|_| start("prolog", "0")));
    for one in all {
        one.end().success();
    }
    run(&c, "epilog", job, &[]);
    c.clean();
}

#[test]
fn an_epilog_while_its_prolog_is_at_work_leaves_nothing() {
    let Some(c) = cluster("an_epilog_while_its_prolog_is_at_work_leaves_nothing") else { return };
    let mut early = 0;
    for number in 0..16u32 {
        let job = JOB + 100 + number;
        let going = begin(&mut c.call("n1", "prolog", job, &[]));
        std::thread::sleep(Duration::from_millis(u64::from(number) * 3));
        early += u32::from(!stands(&c, job));
        run(&c, "epilog", job, &[]);
        let done = going.end();
        assert_eq!(done.code, 0, "{done:?}");
        // No second epilog comes.
        c.nothing_left("n1");
        let note = c.ask("n1", &format!("cat /run/denovo/scheduler/slurm-{job}"));
        assert!(note.contains("\"ended\""), "{note}");
    }
    assert!(early > 0, "the prolog was always through");
}

#[test]
fn the_id_of_a_job_is_enough_to_end_it() {
    let Some(c) = cluster("the_id_of_a_job_is_enough_to_end_it") else { return };
    let job = JOB + 130;
    run(&c, "prolog", job, &[("SLURM_JOB_RESTART_COUNT", "2")]);
    assert!(stands(&c, job));
    // As slurmd has it of a job that slurmctld does not know: no credential, so no
    // user, no CPUs, no count of restarts; or of a node that leaves a job, so another
    // list.
    let bare = [
        ("SLURM_JOB_UID", "0"),
        ("SLURM_JOB_GID", "0"),
        ("SLURM_JOB_CPUS_PER_NODE", ""),
        ("SLURM_NODELIST", "n[2-3]"),
    ];
    run(&c, "epilog", job, &bare);
    assert!(!stands(&c, job));
    let receipt = c.receipt("n1", &job.to_string());
    assert_eq!((&receipt["job"]["restarts"], &receipt["uid"]), (&2.into(), &61001.into()));
    c.clean();
}

#[test]
fn a_prolog_that_is_killed_at_any_time_leaves_nothing_after_the_epilog() {
    let test = "a_prolog_that_is_killed_at_any_time_leaves_nothing_after_the_epilog";
    let Some(c) = cluster(test) else { return };
    let mut stood = 0;
    for number in 0..12u32 {
        let job = JOB + 30 + number;
        let going = begin(&mut c.call("n1", "prolog", job, &[]));
        // Between nothing and an environment that stands lie some 30 ms.
        std::thread::sleep(Duration::from_millis(u64::from(number) * 6));
        c.ask("n1", "pkill -KILL -f '/opt/denovo/denovo prolo[g]' || true");
        going.end();
        stood += u32::from(stands(&c, job));
        run(&c, "epilog", job, &[]);
        c.nothing_left("n1");
    }
    assert!(stood < 12, "none was cut off");
}

#[test]
fn what_is_killed_is_put_right_by_the_next_or_by_node_gc() {
    let Some(c) = cluster("what_is_killed_is_put_right_by_the_next_or_by_node_gc") else { return };
    let killed = |verb: &str, job: u32, after: u64| {
        let going = begin(&mut c.call("n1", verb, job, &[]));
        std::thread::sleep(Duration::from_millis(after));
        c.ask("n1", &format!("pkill -KILL -f '/opt/denovo/denovo {verb}$' || true"));
        going.end();
    };
    for number in 0..9u32 {
        let (job, after) = (JOB + 60 + number, u64::from(number) * 4);
        run(&c, "prolog", job, &[]);
        killed("epilog", job, after);
        match number % 3 {
            0 => run(&c, "epilog", job, &[]),
            // The job comes again before anybody looks.
            1 => {
                let again = [("SLURM_JOB_RESTART_COUNT", "1")];
                run(&c, "prolog", job, &again);
                assert!(stands(&c, job), "{after} ms");
                run(&c, "epilog", job, &again);
            }
            _ => {
                // Killed before its first step, it has said nothing; Slurm
                // has seen it fail, and drains the node.
                let note = format!("cat /run/denovo/scheduler/slurm-{job}");
                let begun = c.ask("n1", &note).contains("\"ended\"");
                c.ask("n1", "/opt/denovo/denovo node gc");
                if !begun {
                    run(&c, "epilog", job, &[]);
                }
            }
        }
        c.nothing_left("n1");
    }
    // A prolog that is killed leaves nothing that gc does not find, or an
    // environment that stands and that the epilog ends.
    for number in 0..4u32 {
        let job = JOB + 80 + number;
        killed("prolog", job, u64::from(number) * 12);
        c.ask("n1", "/opt/denovo/denovo node gc");
        if !stands(&c, job) {
            c.nothing_left("n1");
        }
        run(&c, "epilog", job, &[]);
        c.nothing_left("n1");
    }
}

#[test]
fn what_is_no_call_of_slurms_is_refused() {
    let Some(c) = cluster("what_is_no_call_of_slurms_is_refused") else { return };
    for (name, value) in [
        ("SLURM_JOB_ID", "../x"),
        ("SLURM_JOB_UID", "alice"),
        ("SLURM_NODELIST", "n[7-9]"),
        ("SLURM_JOB_CPUS_PER_NODE", "many"),
    ] {
        let done = finish(&mut c.call("n1", "prolog", JOB + 50, &[(name, value)]));
        assert_eq!(done.code, 125, "{name}: {done:?}");
        assert!(done.err.contains(name), "{done:?}");
    }
    let user = finish(&mut c.on("n1", &["+alice", "/opt/denovo/denovo", "prolog"]));
    assert_eq!(user.code, 125, "{user:?}");
    c.clean();
}

#[test]
fn a_broken_node_is_drained_with_the_reason() {
    let Some(c) = cluster("a_broken_node_is_drained_with_the_reason") else { return };
    c.site("[scheduler]\nscratch = \"/nosuch/disk\"\n");
    let done = c.try_srun(&["-w", "n2", "true"]);
    c.site("");
    assert_ne!(done.code, 0, "{done:?}");
    let drained = c.drained();
    assert!(
        drained.starts_with("n2 denovo prolog:") && drained.contains("/nosuch/disk"),
        "{drained}"
    );
    // A site's file that is wrong is the node's matter too.
    c.all_idle();
    c.site("[scheduler]\nscrach = \"/tmp\"\n");
    c.try_srun(&["-w", "n2", "true"]);
    c.site("");
    let drained = c.drained();
    assert!(drained.contains("line 2") && drained.contains("scrach"), "{drained}");
    c.all_idle();
    c.srun(&["-w", "n2", "true"]);
    c.clean();
}

#[test]
fn a_budget_that_no_clock_counts_is_none() {
    let Some(c) = cluster("a_budget_that_no_clock_counts_is_none") else { return };
    c.site(&format!("[scheduler]\nbudget = {}\n", i64::MAX));
    run(&c, "prolog", JOB + 150, &[]);
    run(&c, "epilog", JOB + 150, &[]);
    c.site("");
    c.clean();
}

#[test]
fn to_be_asked_what_would_be_done_drains_nothing() {
    let Some(c) = cluster("to_be_asked_what_would_be_done_drains_nothing") else { return };
    c.site("[scheduler]\nscrach = \"/tmp\"\n");
    for verb in ["explain prolog", "explain epilog"] {
        let done = finish(&mut c.call("n2", verb, JOB + 140, &[]));
        assert!(done.code != 0 && done.err.contains("scrach"), "{done:?}");
    }
    c.site("");
    assert_eq!(c.drained(), "");
}

#[test]
fn what_slurmd_cannot_do_for_want_of_cpus_names_the_setting() {
    let Some(c) = cluster("what_slurmd_cannot_do_for_want_of_cpus_names_the_setting") else {
        return;
    };
    // As with cores that Slurm keeps for its daemons.
    let two = [("SLURM_JOB_CPUS_PER_NODE", "2")];
    let call = c.call("n2", "prolog", JOB + 141, &two);
    let words: Vec<_> = call.get_args().map(std::ffi::OsStr::to_owned).collect();
    let mut pinned = std::process::Command::new("taskset");
    pinned.args(["-c", "0"]).arg(call.get_program()).args(words);
    let done = finish(pinned.stdin(std::process::Stdio::null()));
    assert_eq!(done.code, 1, "{done:?}");
    let drained = c.drained();
    assert!(drained.contains("only 0: cpus = ") && drained.contains("scheduler"), "{drained}");
    c.all_idle();
    c.clean();
}
