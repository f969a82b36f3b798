//! What jobs leave beside their environments, between real prologs and
//! epilogs.

use crate::help::cluster;

/// Every kind but files in /dev/shm: nodes of one machine share their kernel with
/// all that runs there.
const TOLERANCE: &str = "tolerance = [\"system\", \"process\", \"cgroup\", \"mount\", \"socket\", \"keyring\", \"fuse\", \"loop\", \"memory\", \"page-cache\", \"fragmentation\", \"hardware\", \"gpu\", \"interface\", \"setting\", \"clock\", \"module\", \"tmp\", \"run\", \"unseen\", \"cache\", \"sysv-shm\", \"sysv-sem\", \"sysv-msg\", \"mqueue\"]\n";

#[test]
fn what_a_job_leaves_on_the_bare_node_is_cleaned_told_or_drains() {
    let test = "what_a_job_leaves_on_the_bare_node_is_cleaned_told_or_drains";
    let Some(c) = cluster(test) else { return };
    c.ask("n1", "/opt/denovo/denovo node baseline 2>/dev/null");
    let table = format!("[freshness]\naudit = true\n{TOLERANCE}");
    c.site(&format!("{table}clean = [\"shm\"]\n"));
    let leave = "touch /dev/shm/left /dev/shm/more; echo $SLURM_JOB_ID";
    let job = c.srun(&["-w", "n1", "--no-denovo", "sh", "-c", leave]);
    let receipt = c.receipt("n1", &job);
    assert_eq!(
        (&receipt["bundle"], &receipt["freshness"]["after"]),
        (&"none".into(), &"cleaned".into())
    );
    for what in ["/dev/shm/left", "/dev/shm/more"] {
        let all = receipt["freshness"]["differences"].as_array().unwrap();
        let found = all.iter().find(|d| d["what"] == what);
        let found = found.unwrap_or_else(|| panic!("{what}: {receipt:#}"));
        assert_eq!(found["job"], format!("slurm-{job}"), "{found:#}");
        assert_eq!(found["outcome"], "cleaned", "{found:#}");
    }
    assert_eq!(c.ask("n1", "ls /dev/shm/left /dev/shm/more 2>/dev/null || true"), "");
    // The same in an environment is nowhere to be found.
    let job = c.srun(&["-w", "n1", "sh", "-c", leave]);
    let receipt = c.receipt("n1", &job);
    assert_eq!(receipt["freshness"]["after"], "fresh", "{receipt:#}");
    assert!(!receipt.to_string().contains("/dev/shm/left"), "{receipt:#}");
    c.ask("n1", "/opt/denovo/denovo receipt verify");
    // Nothing of a user who never had a job here is removed; no job starts.
    c.ask("n1", "touch /dev/shm/bobs; chown 61002 /dev/shm/bobs");
    c.site(&format!("{table}prolog = \"repair\"\n"));
    let refused = c.try_srun(&["-w", "n1", "true"]);
    c.site("");
    c.ask("n1", "rm /dev/shm/bobs");
    let drained = c.drained();
    c.all_idle();
    assert_ne!(refused.code, 0, "{refused:?}");
    // Slurm runs the epilog after a prolog that failed, which finds the same.
    let reason = ": node is dirty: shm /dev/shm/bobs (uid 61002)";
    assert!(drained.starts_with("n1 denovo ") && drained.contains(reason), "{drained}");
    c.clean();
}
