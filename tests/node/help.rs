//! A node of the test's own, as far as namespaces go: mounts, System V
//! objects, queues, sockets and interfaces are private, and the directories
//! that everybody writes are empty. Processes, control groups, keys and loop
//! devices are told from others' by uids that nobody else has.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::common::{Ran, binary, is_root, skip};

pub struct Node {
    holder: Child,
    pub users: u32,
    _alone: std::sync::MutexGuard<'static, ()>,
}

/// What lies on the private /mnt.
const DENOVO: &str = "/mnt/denovo";
const SITE: &str = "/mnt/site.toml";

const PREPARE: &str = "set -e
    mount --make-rprivate /
    mount -t tmpfs -o mode=1777 node /mnt
    # Both may be in a directory that is covered below.
    touch /mnt/denovo /mnt/planter
    mount --bind $DENOVO /mnt/denovo
    mount --bind $PLANTER /mnt/planter
    mkdir /mnt/disk
    mount --bind $DISK /mnt/disk
    for dir in /tmp /var/tmp /dev/shm /run/lock /run/user /var/spool /var/lib/systemd /media; do
        mkdir -p $dir && mount -t tmpfs -o mode=1777 node $dir
    done
    mkdir -p /var/spool/cron/crontabs /var/spool/at /var/lib/systemd/linger /var/lib/systemd/coredump
    mkdir -m 1777 /tmp/shared
    ip link set lo up 2>/dev/null || true
    chmod 755 /mnt";

impl Node {
    pub fn new(test: &str) -> Option<Self> {
        if !is_root() {
            skip(test, "needs root");
            return None;
        }
        // Control groups are the whole machine's: one test's job would be
        // residue to the audit of another.
        static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let users = 50_000_000 + std::process::id() % 100_000 * 100 + count % 10 * 10;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--ipc", "sh", "-c"]);
        command.arg(format!("{PREPARE}; echo ready >/mnt/ready; exec sleep 100000"));
        command.env("DENOVO", binary(false));
        command.env("PLANTER", std::env::current_exe().expect("the test's own file"));
        command.env("DISK", env!("CARGO_TARGET_TMPDIR"));
        command.stdin(Stdio::null()).process_group(0);
        let node = Self { holder: command.spawn().expect("unshare"), users, _alone: alone };
        crate::common::until("the node is prepared", || {
            node.shell("test -e /mnt/ready").status.success()
        });
        node.site("");
        Some(node)
    }

    /// The site's file: the users of this test, what varies beside it
    /// tolerated, and `more` lines of `[freshness]`.
    pub fn site(&self, more: &str) {
        let signed = self.shell("test -e /mnt/key").status.success();
        let key = if signed { "receipt-key = \"/mnt/key\"\n" } else { "" };
        let (first, last) = (self.users, self.users + 9);
        let text = format!(
            "[scheduler]\nreceipts = \"/mnt/receipts\"\n{key}scontrol = \"/mnt/scontrol\"\n\
             [freshness]\nbaseline = \"/mnt/baseline.json\"\nusers = [\"{first}-{last}\"]\n\
             tolerance = [\"system\", \"cache\", \"memory\", \"page-cache\", \"fragmentation\", \"hardware\", \"gpu\", \"unseen\", \"setting\", \"loop\", \"clock\"]\n{more}\n"
        );
        self.write(SITE, &text);
        self.write("/mnt/scontrol", "#!/bin/sh\necho \"$@\" >>/mnt/drained\n");
        self.ok("chmod 755 /mnt/scontrol");
    }

    pub fn write(&self, path: &str, text: &str) {
        self.ok(&format!("cat >{path} <<'END'\n{text}\nEND"));
    }

    fn inside(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.holder.id().to_string();
        command.args(["--target", &pid, "--mount", "--net", "--ipc", "--wd=/", "--"]);
        command.arg(program).stdin(Stdio::null()).env("DENOVO_CONFIG", SITE);
        command
    }

    fn finish(mut command: Command) -> Ran {
        let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { status: output.status, out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// A shell script as root on the node.
    pub fn shell(&self, script: &str) -> Ran {
        let mut command = self.inside("/bin/sh".as_ref());
        command.args(["-c", script]);
        Self::finish(command)
    }

    pub fn ok(&self, script: &str) -> String {
        self.shell(script).expect(0, script).out()
    }

    /// The same as a user, leaving behind whatever it starts.
    pub fn as_user(&self, uid: u32, script: &str) -> Ran {
        let mut command = self.inside("/usr/bin/setpriv".as_ref());
        let uid = uid.to_string();
        command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "sh", "-c", script]);
        Self::finish(command)
    }

    /// One of the plants that takes system calls, as a user.
    pub fn plant(&self, uid: u32, what: &str) -> Ran {
        let mut command = self.inside("/mnt/planter".as_ref());
        command.args(["--exact", "plant::planter", "--nocapture"]);
        command.env("PLANT", what).env("PLANT_UID", uid.to_string());
        Self::finish(command)
    }

    pub fn denovo(&self, args: &[&str]) -> Ran {
        let mut command = self.inside(DENOVO.as_ref());
        command.args(["--root", "/mnt/state"]).args(args);
        Self::finish(command)
    }

    pub fn baseline(&self) {
        self.denovo(&["node", "baseline"]).expect(0, "baseline");
    }

    /// `node audit --json`, with further options.
    pub fn audit(&self, more: &[&str]) -> Value {
        let args = [&["node", "audit", "--json"], more].concat();
        let ran = self.denovo(&args);
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:#?}"))
    }

    /// `prolog` or `epilog` as Slurm calls it; the job has no environment
    /// unless `environment`.
    pub fn slurm(&self, verb: &str, job: u32, uid: u32, environment: bool) -> Ran {
        let mut command = self.inside(DENOVO.as_ref());
        command.args(["--root", "/mnt/state", verb]);
        for (name, value) in [
            ("SLURM_JOB_ID", job.to_string()),
            ("SLURM_JOB_UID", uid.to_string()),
            ("SLURM_JOB_GID", uid.to_string()),
            ("SLURM_CLUSTER_NAME", "test".to_owned()),
            ("SLURMD_NODENAME", "n1".to_owned()),
            ("SLURM_NODELIST", "n1".to_owned()),
            ("SLURM_JOB_CPUS_PER_NODE", "1".to_owned()),
        ] {
            command.env(name, value);
        }
        if !environment {
            command.env("SPANK_DENOVO_NONE", "1");
        }
        Self::finish(command)
    }

    pub fn receipt(&self, job: u32) -> Value {
        let text = self.ok(&format!("cat /mnt/receipts/slurm-{job}.*.json"));
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What would outlive these namespaces, if a test has failed.
        let _ = self.shell("losetup -j /tmp/disk | cut -d: -f1 | xargs -r losetup -d");
        let of_jobs = format!("denovo-slurm-{}*", self.users / 100);
        let _ = self.shell(&format!(
            "rmdir /sys/fs/cgroup/{of_jobs}/step_0 /sys/fs/cgroup/pids/{of_jobs}/step_0 \
             /sys/fs/cgroup/{of_jobs} /sys/fs/cgroup/pids/{of_jobs}"
        ));
        // Whatever of this test's users still runs.
        for user in self.users..self.users + 10 {
            for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                    continue;
                };
                let status = std::fs::read_to_string(entry.path().join("status"));
                if status.unwrap_or_default().contains(&format!("\nUid:\t{user}\t")) {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
            }
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Differences of an audit or a receipt, as `kind what`, with what has become
/// of them.
pub fn lines(differences: &Value) -> Vec<(String, Value)> {
    let all = differences.as_array().unwrap_or_else(|| panic!("{differences}"));
    all.iter()
        .map(|d| {
            let text = format!("{} {}", d["kind"].as_str().unwrap(), d["what"].as_str().unwrap());
            (text, d.clone())
        })
        .collect()
}

/// The first whose line has these words, of this owner if one is named.
pub fn find<'a>(
    lines: &'a [(String, Value)],
    words: &str,
    owner: Option<u32>,
) -> Option<&'a Value> {
    let wanted = |d: &Value| owner.is_none_or(|uid| d["owner"] == uid);
    lines.iter().find(|(line, d)| line.contains(words) && wanted(d)).map(|(_, d)| d)
}
