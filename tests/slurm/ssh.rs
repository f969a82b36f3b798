//! A login by ssh is in the job that its user has on the node.

use std::path::Path;

use crate::common::skip;
use crate::help::{Cluster, Done, begin, cluster, finish};

/// The program that the manual gives an administrator, as it stands there.
fn into_the_job() -> &'static str {
    let manual = include_str!("../../docs/slurm.md");
    let blocks = manual.split("```sh\n").skip(1).filter_map(|b| b.split_once("```"));
    blocks
        .map(|(block, _)| block)
        .find(|block| block.contains("/into-the-job:"))
        .expect("docs/slurm.md has it")
}

/// An sshd of the node's own loopback, which alice may enter by a key.
const CONFIG: &str = "\
ListenAddress 127.0.0.1
Port 10022
HostKey /etc/ssh/denovo-host
PidFile none
UsePAM no
AuthenticationMethods publickey
AuthorizedKeysFile /etc/ssh/denovo-keys
SetEnv PATH=/opt/denovo:/usr/bin:/bin
Match User alice
    ForceCommand /etc/ssh/into-the-job
";

fn start_sshd(c: &Cluster) {
    let etc = c.dir().join("etc/ssh");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("denovo-config"), CONFIG).unwrap();
    std::fs::write(etc.join("into-the-job"), into_the_job()).unwrap();
    c.ask(
        "n1",
        "mkdir -p -m 755 /run/sshd; chmod 755 /etc/ssh /etc/ssh/into-the-job
         ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/denovo-host
         ssh-keygen -q -t ed25519 -N '' -f /home/alice/key
         chown alice: /home/alice/key; cp /home/alice/key.pub /etc/ssh/denovo-keys",
    );
    c.daemon("n1", &["sshd", "/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/denovo-config"]);
    c.until("sshd listens", || {
        // 10022 in hexadecimal.
        !c.ask("n1", "grep ':2726 .* 0A ' /proc/net/tcp || true").is_empty()
    });
}

fn ssh(c: &Cluster, words: &[&str]) -> Done {
    let fixed = [
        "+alice",
        "ssh",
        "-F",
        "none",
        "-p",
        "10022",
        "-i",
        "key",
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        "-oLogLevel=ERROR",
    ];
    finish(&mut c.on("n1", &[&fixed[..], words].concat()))
}

#[test]
fn a_login_by_ssh_is_in_the_users_job() {
    let test = "a_login_by_ssh_is_in_the_users_job";
    let Some(c) = cluster(test) else { return };
    if !["/usr/sbin/sshd", "/usr/bin/ssh"].iter().all(|p| Path::new(p).exists()) {
        skip(test, "needs sshd and ssh");
        return;
    }
    start_sshd(&c);
    let node = c.ask("n1", "readlink /proc/self/ns/pid").trim().to_owned();
    let space = ["127.0.0.1", "readlink /proc/self/ns/pid"];
    assert_eq!(ssh(&c, &space).success(), node, "who has no job is on the node");
    // Another user's job beside hers, begun later.
    let look = "echo mine >/tmp/mark; readlink /proc/self/ns/pid; \
                grep -e Cpus_allowed_list -e NoNewPrivs /proc/self/status; \
                : >running; while [ ! -e go ]; do sleep 0.1; done";
    let begun = |user: &str| {
        let job = begin(&mut c.user(user, &["srun", "-w", "n1", "-n1", "sh", "-c", look]));
        c.until("it runs", || c.home(user).join("running").exists());
        job
    };
    let (hers, his) = (begun("alice"), begun("bob"));
    let inside = "readlink /proc/self/ns/pid; \
                  grep -e Cpus_allowed_list -e NoNewPrivs /proc/self/status";
    let seen = ssh(&c, &["127.0.0.1", inside]).success();
    assert!(!seen.contains(&node), "{seen}");
    assert_eq!(ssh(&c, &["127.0.0.1", "cat /tmp/mark; id -u"]).success(), "mine\n61001");
    assert_eq!(ssh(&c, &["127.0.0.1", "exit 7"]).code, 7);
    let terminal = ssh(&c, &["-tt", "127.0.0.1", "test -t 0 && echo terminal"]);
    assert_eq!(terminal.out.trim(), "terminal", "{terminal:?}");
    // What a login leaves behind ends with the job.
    ssh(&c, &["127.0.0.1", "setsid sleep 1006 >/dev/null 2>&1 </dev/null &"]).success();
    let groups = |process: &str| {
        c.ask("n1", &format!("grep denovo-slurm /proc/$(pgrep -o -u alice -f '{process}')/cgroup"))
    };
    // The freezer, by which Slurm knows a task of its own, is Slurm's there.
    let (login, task) = (groups("sleep 100[6]"), groups("echo min[e]"));
    assert!(task.lines().all(|l| login.lines().any(|m| l == m)), "{login}\n{task}");
    for user in ["alice", "bob"] {
        c.file(user, "go", "");
    }
    assert_eq!(hers.end().success(), seen, "the task's and the login's");
    his.end().success();
    for user in ["alice", "bob"] {
        for name in ["go", "running"] {
            std::fs::remove_file(c.home(user).join(name)).unwrap();
        }
    }
    c.ask("n1", "kill $(cat /run/sshd.denovo)");
    c.clean();
    assert_eq!(c.drained(), "");
}
