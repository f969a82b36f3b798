//! Jobs beside each other, and what prolog, epilog and receipts say.

use crate::help::{Node, find, lines};

/// One of each kind that epilogs clean.
fn leave(node: &Node, uid: u32, name: &str) {
    node.as_user(
        uid,
        &format!(
            "sleep 100002 >/dev/null 2>&1 & echo x >/tmp/{name}; echo x >/dev/shm/{name}; mkfifo /var/tmp/{name}"
        ),
    )
    .expect(0, "leave");
    for what in ["shm", "key", "mqueue"] {
        node.plant(uid, what).expect(0, what);
    }
}

const LEFT: [&str; 7] =
    ["process pid", "tmp /tmp/", "shm /dev/shm/", "tmp /var/tmp/", "sysv-shm", "keyring", "mqueue"];

#[test]
fn a_neighbours_running_job_is_never_taken_for_residue() {
    let Some(node) = Node::new("a_neighbours_running_job_is_never_taken_for_residue") else {
        return;
    };
    let (uid, neighbour) = (node.users, node.users + 1);
    node.baseline();
    node.site("audit = true\nclean = [\"all\"]");
    node.slurm("prolog", 1, uid, false).expect(0, "prolog");
    node.slurm("prolog", 2, neighbour, false).expect(0, "prolog");
    leave(&node, neighbour, "neighbour");
    let epilog = node.slurm("epilog", 1, uid, false).expect(0, "epilog");
    assert!(!epilog.err.contains("neighbour"), "{epilog:#?}");
    let receipt = node.receipt(1);
    assert_eq!(receipt["freshness"]["after"], "fresh", "{receipt:#}");
    assert!(!receipt.to_string().contains(&neighbour.to_string()), "{receipt:#}");
    let audit = node.audit(&["--clean"]);
    assert!(audit["ofRunningJobs"].as_u64() >= Some(LEFT.len() as u64), "{audit:#}");
    assert!(!audit["differences"].to_string().contains(&neighbour.to_string()), "{audit:#}");
    node.ok("test -e /tmp/neighbour && test -e /dev/shm/neighbour && test -p /var/tmp/neighbour");
    // Its own end is another matter.
    node.slurm("epilog", 2, neighbour, false).expect(0, "epilog");
    let all = lines(&node.receipt(2)["freshness"]["differences"]);
    for line in LEFT {
        let found = find(&all, line, Some(neighbour)).unwrap_or_else(|| panic!("{line}: {all:#?}"));
        assert_eq!(found["outcome"], "cleaned", "{found:#}");
    }
}

#[test]
fn a_user_s_other_job_keeps_everything_of_that_user() {
    let Some(node) = Node::new("a_user_s_other_job_keeps_everything_of_that_user") else { return };
    let uid = node.users;
    node.baseline();
    node.site("audit = true\nclean = [\"all\"]");
    node.slurm("prolog", 1, uid, false).expect(0, "prolog");
    node.slurm("prolog", 2, uid, false).expect(0, "prolog");
    leave(&node, uid, "mine");
    node.slurm("epilog", 1, uid, false).expect(0, "epilog");
    assert_eq!(node.receipt(1)["freshness"]["differences"], serde_json::json!([]));
    node.ok("test -e /tmp/mine");
    node.slurm("epilog", 2, uid, false).expect(0, "epilog");
    assert_eq!(node.receipt(2)["freshness"]["after"], "cleaned");
    assert!(!node.shell("test -e /tmp/mine").status.success());
}

#[test]
fn an_environment_of_a_running_job_is_no_residue() {
    let Some(node) = Node::new("an_environment_of_a_running_job_is_no_residue") else { return };
    let (uid, other) = (node.users, node.users + 1);
    // Its control groups are named by it, on the whole machine.
    let job = other;
    node.site("audit = true\nclean = [\"all\"]");
    node.baseline();
    let made = node.slurm("prolog", job, other, true);
    if made.code() != 0 {
        panic!("{made:#?}");
    }
    node.slurm("prolog", 2, uid, false).expect(0, "prolog");
    node.slurm("epilog", 2, uid, false).expect(0, "epilog");
    let audit = node.audit(&["--clean"]);
    let text = audit["differences"].to_string();
    assert!(!text.contains(&other.to_string()), "{audit:#}");
    assert!(node.denovo(&["job", "list"]).out.contains(&format!("slurm-{job}")));
    node.slurm("epilog", job, other, true).expect(0, "epilog");
    let receipt = node.receipt(job);
    assert_eq!(receipt["freshness"]["after"], "fresh", "{receipt:#}");
    assert_eq!(receipt["bundle"], "host");
}

#[test]
fn what_is_dirty_beyond_tolerance_drains_with_one_line() {
    let Some(node) = Node::new("what_is_dirty_beyond_tolerance_drains_with_one_line") else {
        return;
    };
    let uid = node.users;
    node.baseline();
    node.site("audit = true");
    node.slurm("prolog", 1, uid, false).expect(0, "prolog");
    node.as_user(uid, "echo x >/tmp/left").expect(0, "leave");
    node.slurm("epilog", 1, uid, false).expect(1, "epilog");
    let drained = node.ok("cat /mnt/drained");
    let expected = "update NodeName=n1 State=DRAIN Reason=denovo epilog: node is dirty: tmp /tmp/left (job slurm-1)";
    assert_eq!(drained, expected);
    assert_eq!(node.receipt(1)["freshness"]["after"], "dirty");
    // The same, where the site does not mind, or wants to be told only.
    for more in ["drain = false", "clean = [\"tmp\"]"] {
        node.site(&format!("audit = true\n{more}"));
        node.slurm("prolog", 2, uid, false).expect(0, "prolog");
        node.slurm("epilog", 2, uid, false).expect(0, more);
        node.ok("rm /mnt/receipts/slurm-2.*; rm -f /mnt/state/scheduler/*");
    }
    // The file is older than the job, and its user has no other here.
    assert!(!node.shell("test -e /tmp/left").status.success());
}

#[test]
fn a_prolog_refuses_or_repairs_what_is_not_as_the_baseline_says() {
    let Some(node) = Node::new("a_prolog_refuses_or_repairs_what_is_not_as_the_baseline_says")
    else {
        return;
    };
    let (uid, next) = (node.users, node.users + 1);
    node.site("audit = true\ndrain = false");
    node.baseline();
    node.slurm("prolog", 1, uid, false).expect(0, "prolog");
    node.as_user(uid, "echo x >/tmp/left").expect(0, "leave");
    node.slurm("epilog", 1, uid, false).expect(0, "epilog");
    // While a prolog or epilog of that user is at work.
    let meanwhile = format!(
        "flock /mnt/state/freshness/{uid} /mnt/denovo --root /mnt/state node audit --clean"
    );
    let waits = node.shell(&meanwhile).expect(1, "audit").out;
    assert!(waits.contains("failed     tmp /tmp/left (job slurm-1): a prolog or"), "{waits}");
    node.site("audit = true\nprolog = \"refuse\"");
    let refused = node.slurm("prolog", 2, next, false).expect(1, "prolog");
    assert!(refused.err.contains("node is dirty: tmp /tmp/left (job slurm-1)"), "{refused:#?}");
    assert!(node.ok("cat /mnt/drained").contains("denovo prolog: node is dirty"));
    node.ok("test -e /tmp/left");
    node.site("audit = true\nprolog = \"repair\"");
    node.slurm("prolog", 2, next, false).expect(0, "prolog");
    assert!(!node.shell("test -e /tmp/left").status.success());
    node.slurm("epilog", 2, next, false).expect(0, "epilog");
    let receipt = node.receipt(2);
    assert_eq!(receipt["freshness"]["before"], "cleaned", "{receipt:#}");
    assert_eq!(receipt["freshness"]["after"], "fresh", "{receipt:#}");
}

#[test]
fn without_a_baseline_the_node_is_dirty_and_says_what_to_do() {
    let Some(node) = Node::new("without_a_baseline_the_node_is_dirty_and_says_what_to_do") else {
        return;
    };
    let ran = node.denovo(&["node", "audit"]).expect(1, "audit");
    assert!(ran.out.contains("baseline there is none"), "{ran:#?}");
    assert!(ran.out.contains("denovo node baseline"), "{ran:#?}");
    // A user's directory is one thing, as with one.
    node.as_user(node.users, "mkdir /tmp/mine && touch /tmp/mine/a /tmp/mine/b").expect(0, "leave");
    let ran = node.denovo(&["node", "audit"]).expect(1, "audit");
    assert!(ran.out.contains("/tmp/mine/ ") && !ran.out.contains("/tmp/mine/a"), "{ran:#?}");
    let told = node.denovo(&["node", "baseline"]).expect(0, "baseline");
    let expected = format!("tmp /tmp/mine/ (uid {})", node.users);
    assert!(told.err.contains(&expected), "{told:#?}");
    node.ok("rm -r /tmp/mine");
    node.baseline();
    node.denovo(&["node", "audit"]).expect(0, "audit");
    assert_eq!(node.ok("stat -c %a /mnt/baseline.json"), "600");
    node.ok("chmod 666 /mnt/baseline.json");
    let ran = node.denovo(&["node", "audit"]).expect(125, "audit");
    assert!(ran.err.contains("others can write it"), "{ran:#?}");
    node.write("/mnt/baseline.json", "{}");
    node.ok("chmod 600 /mnt/baseline.json");
    node.denovo(&["node", "audit"]).expect(125, "audit");
}

#[test]
fn an_epilog_that_comes_again_leaves_the_receipt_and_the_chain_alone() {
    let test = "an_epilog_that_comes_again_leaves_the_receipt_and_the_chain_alone";
    let Some(node) = Node::new(test) else { return };
    let uid = node.users;
    node.baseline();
    node.site("audit = true\ndrain = false");
    node.slurm("prolog", 1, uid, false).expect(0, "prolog");
    for time in ["first", "second", "third"] {
        node.slurm("epilog", 1, uid, false).expect(0, time);
        assert_eq!(node.receipt(1)["chain"]["sequence"], 1, "{time}");
    }
    node.denovo(&["receipt", "verify"]).expect(0, "verify");
    // Others see that the whole is not theirs to check, not that it is broken.
    let refused = node.as_user(uid + 1, "/mnt/denovo receipt verify /mnt/receipts");
    assert_eq!(refused.code(), 125, "{refused:#?}");
    assert!(refused.err.contains("the whole chain is for root"), "{refused:#?}");
    // A prolog that looks leaves nothing where no epilog looks.
    node.site("prolog = \"refuse\"\ndrain = false\nclean = []");
    node.slurm("prolog", 2, uid, false).expect(0, "prolog");
    node.slurm("epilog", 2, uid, false).expect(0, "epilog");
    assert!(!node.shell("ls /mnt/state/freshness/*.json").status.success());
}

#[test]
fn a_receipt_that_its_user_changes_is_found() {
    let Some(node) = Node::new("a_receipt_that_its_user_changes_is_found") else { return };
    let uid = node.users;
    node.denovo(&["receipt", "key", "/mnt/key"]).expect(0, "key");
    node.site("audit = true\ndrain = false");
    node.baseline();
    for job in 1..4 {
        node.slurm("prolog", job, uid, false).expect(0, "prolog");
        node.slurm("epilog", job, uid, false).expect(0, "epilog");
    }
    let verified = node.denovo(&["receipt", "verify"]).expect(0, "verify");
    assert!(
        verified.out.contains("3 receipts, 1 to 3, as they were written, signed"),
        "{verified:#?}"
    );
    let refused = node.denovo(&["receipt", "verify", "/mnt/receipts/=chain.json"]);
    refused.refused(&["is no receipt of the chain"]);
    // Its own, and so its to change: mode 400 does not hold an owner back.
    let change = "cd /mnt/receipts; f=$(ls slurm-2.*); chmod u+w $f && sed -i.x 's/n1/n9/' $f || sed 's/n1/n9/' $f >/tmp/c && chmod u+w $f && cat /tmp/c >$f";
    node.as_user(uid, change).expect(0, "change");
    let refused = node.denovo(&["receipt", "verify", "/mnt/receipts"]).expect(1, "verify");
    assert!(
        refused.err.contains("slurm-2.") && refused.err.contains("was changed"),
        "{refused:#?}"
    );
    node.ok("rm /mnt/receipts/slurm-2.*");
    let refused = node.denovo(&["receipt", "verify"]).expect(1, "verify");
    assert!(refused.err.contains("receipt 2 was removed"), "{refused:#?}");
}

#[test]
fn more_files_than_one_look_takes_in_are_cleaned_all_the_same() {
    let test = "more_files_than_one_look_takes_in_are_cleaned_all_the_same";
    let Some(node) = Node::new(test) else { return };
    let uid = node.users;
    node.baseline();
    node.site("audit = true\nclean = [\"tmp\"]");
    node.slurm("prolog", 1, uid, false).expect(0, "prolog");
    node.as_user(uid, "cd /tmp && seq -f flat%.0f 12000 | xargs touch").expect(0, "leave");
    node.slurm("epilog", 1, uid, false).expect(0, "epilog");
    assert_eq!(node.ok("ls /tmp | wc -l"), "1");
    let freshness = &node.receipt(1)["freshness"];
    assert_eq!(freshness["after"], "cleaned");
    assert_eq!(lines(&freshness["differences"]).len(), 12_000);
}
