//! Slurm's own `--container`, by the oci.conf that denovo prints.

use crate::help::{Cluster, cluster, finish};

/// A bundle of alice's.
fn bundle(c: &Cluster) {
    let script = "cd /home/alice && mkdir -p o/rootfs/bin o/rootfs/tmp && cp /bin/busybox o/rootfs/bin && \
                  for a in sh cat echo readlink sleep env; do ln -sf busybox o/rootfs/bin/$a; done && \
                  echo inside >o/rootfs/sign && chown -R alice: o";
    c.ask("n1", script);
    let config = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},
        "process":{"args":["sh"],"cwd":"/","env":["PATH=/bin"],"user":{"uid":0,"gid":0}}}"#;
    std::fs::write(c.home("alice").join("o/config.json"), config).unwrap();
}

#[test]
fn its_tasks_share_an_environment_and_nothing_is_left() {
    let Some(c) = cluster("its_tasks_share_an_environment_and_nothing_is_left") else { return };
    bundle(&c);
    // Two steps of one job at the same time; Slurm 22.05 itself cannot have
    // two tasks of a step on one node.
    let look = "cat /sign; readlink /proc/self/ns/pid";
    let step = "srun --no-denovo --mem=100 -n1 -N1 --container=/home/alice/o";
    let script = format!(
        "rm -f there; {step} sh -c '{look}; : >/home/alice/there; while [ -e /home/alice/there ]; do sleep 0.1; done' &\n\
         until [ -e there ]; do sleep 0.1; done\n\
         {step} --overlap sh -c '{look}'\n\
         rm there; wait; {step} sh -c 'exit 7'; echo code $?"
    );
    let text = c.batch(&["-w", "n1", "-n2", "--no-denovo"], &script);
    let spaces: Vec<&str> = text.lines().filter(|l| l.starts_with("pid:")).collect();
    assert_eq!(text.lines().filter(|l| *l == "inside").count(), 2, "{text}");
    assert!(spaces.len() == 2 && spaces[0] == spaces[1], "{text}");
    let own = c.ask("n1", "readlink /proc/self/ns/pid");
    assert!(!spaces.contains(&own.trim()), "{text}");
    assert!(text.contains("code 7"), "{text}");
    c.until("nothing of it is left", || {
        c.ask("n1", "pgrep -u alice; ls -A /tmp/denovo-61001/jobs 2>/dev/null; true").is_empty()
    });
    assert_eq!(c.drained(), "");
    c.clean();
}

#[test]
fn what_slurm_runs_as_root_trusts_no_users_records() {
    let Some(c) = cluster("what_slurm_runs_as_root_trusts_no_users_records") else { return };
    bundle(&c);
    let id = "n1.alice.1.0.0";
    // What alice could write: a container of that name, where hers are.
    let make = format!(
        "cd o && /opt/denovo/denovo run --detach {id} </dev/null >/dev/null 2>&1; \
                        ls /tmp/denovo-61001/containers; mkdir -p /tmp/denovo-61001/containers/{id}; \
                        echo '{{}}' >/tmp/denovo-61001/containers/{id}/state.json"
    );
    finish(&mut c.on("n1", &["+alice", "sh", "-c", &make])).success();
    for words in [&["state", id][..], &["delete", "--force", id], &["kill", "--all", id, "KILL"]] {
        let all = [&["/opt/denovo/denovo"], words].concat();
        let done = finish(&mut c.on("n1", &all));
        assert!(!done.out.contains("status"), "{words:?}: {done:?}");
        assert!(words[0] == "delete" || done.code != 0, "{words:?}: {done:?}");
    }
    assert_eq!(c.ask("n1", &format!("ls /tmp/denovo-61001/containers/{id}")), "state.json");
    c.ask("n1", "rm -r /tmp/denovo-61001");
    c.clean();
}
