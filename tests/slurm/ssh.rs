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
UsePAM ADOPTED
AuthenticationMethods publickey
AuthorizedKeysFile /etc/ssh/denovo-keys
SetEnv PATH=/opt/denovo:/usr/bin:/bin
Match User alice
    ForceCommand /etc/ssh/into-the-job
";

/// What the manual of pam_slurm_adopt has in the file of its service.
const PAM: &str = "\
auth required pam_permit.so
account required pam_slurm_adopt.so nodename=n1
session required pam_permit.so
";

/// With `pam`, Slurm itself takes each login in.
fn start_sshd(c: &Cluster, pam: bool) {
    let etc = c.dir().join("etc/ssh");
    std::fs::create_dir_all(&etc).unwrap();
    let config = CONFIG.replace("ADOPTED", if pam { "yes" } else { "no" });
    std::fs::write(etc.join("denovo-config"), config).unwrap();
    std::fs::write(c.dir().join("etc/pam.d/sshd"), PAM).unwrap();
    std::fs::write(etc.join("into-the-job"), into_the_job()).unwrap();
    c.ask(
        "n1",
        "mkdir -p -m 755 /run/sshd; chmod 755 /etc/ssh /etc/ssh/into-the-job
         for key in /etc/ssh/denovo-host /home/alice/key; do
             [ -e $key ] || ssh-keygen -q -t ed25519 -N '' -f $key
         done
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
        "-oLogLevel=INFO",
    ];
    finish(&mut c.on("n1", &[&fixed[..], words].concat()))
}

fn have(test: &str, files: &[&str]) -> bool {
    let missing = files.iter().find(|file| !Path::new(file).exists());
    if let Some(file) = missing {
        skip(test, &format!("{file} is not installed"));
    }
    missing.is_none()
}

#[test]
fn a_login_by_ssh_is_in_the_users_job() {
    let test = "a_login_by_ssh_is_in_the_users_job";
    let Some(c) = cluster(test) else { return };
    if !have(test, &["/usr/sbin/sshd", "/usr/bin/ssh"]) {
        return;
    }
    start_sshd(&c, false);
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

#[test]
fn a_login_that_slurm_has_adopted_stays_slurms() {
    let test = "a_login_that_slurm_has_adopted_stays_slurms";
    let Some(c) = cluster(test) else { return };
    // Where PAM looks on Debian, in this order.
    let places = ["/usr/lib/x86_64-linux-gnu/security", "/usr/lib/security"];
    let module = places.map(|dir| format!("{dir}/pam_slurm_adopt.so"));
    let module = module.iter().find(|file| Path::new(file).exists()).unwrap_or(&module[1]);
    if !have(test, &["/usr/sbin/sshd", "/usr/bin/ssh", module]) {
        return;
    }
    start_sshd(&c, true);
    let refused = ssh(&c, &["127.0.0.1", "true"]);
    assert!(refused.code == 255 && refused.err.contains("no active jobs"), "{refused:?}");
    let look = "readlink /proc/self/ns/pid; : >running; while [ ! -e go ]; do sleep 0.1; done";
    let job = begin(&mut c.user("alice", &["srun", "-w", "n1", "-n1", "sh", "-c", look]));
    c.until("it runs", || c.home("alice").join("running").exists());
    let seen = ssh(&c, &["127.0.0.1", "readlink /proc/self/ns/pid"]).success();
    ssh(&c, &["127.0.0.1", "setsid sleep 1007 >/dev/null 2>&1 </dev/null &"]).success();
    // The newest: srun's own command line has the task's words too.
    let groups = |process: &str| {
        c.ask("n1", &format!("cat /proc/$(pgrep -n -u alice -f '{process}')/cgroup"))
    };
    let (login, task) = (groups("sleep 100[7]"), groups("while \\[ ! -[e]"));
    let kept = |text: &str| {
        let lines = text.lines().map(|line| line.split("/step_").next().unwrap().to_owned());
        lines.collect::<Vec<_>>()
    };
    assert_eq!(kept(&login), kept(&task), "where Slurm has a group of the job's, in that");
    assert!(login.contains("/step_extern"), "{login}");
    c.file("alice", "go", "");
    assert_eq!(job.end().success(), seen, "the task's and the login's");
    for name in ["go", "running"] {
        std::fs::remove_file(c.home("alice").join(name)).unwrap();
    }
    c.ask("n1", "kill $(cat /run/sshd.denovo)");
    c.clean();
    assert_eq!(c.drained(), "");
}
