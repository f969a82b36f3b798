//! The cluster that the tests share, one after the other: nodes are drained
//! and cut off, and there are only as many CPUs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{is_root, skip};

/// Far above what anything here takes.
const LONG: Duration = Duration::from_secs(180);

/// Whether the machine itself is the only node, with its own service manager and the
/// limits that sites have Slurm set (`cluster`, CLUSTER=machine).
pub fn on_the_machine() -> bool {
    std::env::var_os("CLUSTER").is_some_and(|kind| kind == "machine")
}

pub fn nodes() -> &'static [&'static str] {
    if on_the_machine() { &["n1"] } else { &["n1", "n2", "n3"] }
}

/// What the site of these tests says beside `cluster`.
const SITE: &str = r#"
cat >>slurm.conf <<X
Prolog=/opt/denovo/prolog
Epilog=/opt/denovo/epilog
PlugStackConfig=/etc/slurm/plugstack.conf
X
for verb in prolog epilog; do
    printf '#!/bin/sh\nexec /opt/denovo/denovo --log /var/log/denovo.log %s\n' $verb >"$DIR/opt/$verb"
    chmod 755 "$DIR/opt/$verb"
done
echo "required /opt/denovo/denovo_spank.so" >plugstack.conf
"#;

pub struct Cluster {
    dir: PathBuf,
    /// Ends the cluster when we are gone, however that comes.
    _keeper: Option<Child>,
}

static CLUSTER: OnceLock<Option<Mutex<Cluster>>> = OnceLock::new();

/// The cluster, for this test alone; `None` after saying why there is none.
pub fn cluster(test: &str) -> Option<MutexGuard<'static, Cluster>> {
    if let Some(reason) = missing() {
        skip(test, &reason);
        return None;
    }
    let made = CLUSTER.get_or_init(|| match Cluster::start() {
        Ok(cluster) => Some(Mutex::new(cluster)),
        Err(why) => panic!("the cluster does not start: {why}"),
    });
    made.as_ref().map(|cluster| cluster.lock().unwrap_or_else(PoisonError::into_inner))
}

fn missing() -> Option<String> {
    if !is_root() {
        return Some("needs root".to_owned());
    }
    let programs = ["/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/bin/srun", "/usr/sbin/munged"];
    let build = ["/usr/include/slurm/spank.h"];
    let build = build.iter().filter(|_| std::env::var_os("DENOVO_SPANK").is_none());
    let all = programs.iter().chain(build);
    all.copied().find(|p| !Path::new(p).exists()).map(|p| format!("{p} is not installed"))
}

fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script() -> PathBuf {
    source().join("tests/slurm/cluster")
}

impl Cluster {
    fn start() -> Result<Self, String> {
        // One that was built for another release of Slurm than this machine's.
        let built = std::env::var_os("DENOVO_SPANK").map(PathBuf::from);
        let built = built.unwrap_or_else(|| source().join("target/denovo_spank.so"));
        let plugin =
            Command::new(if std::env::var_os("DENOVO_SPANK").is_some() { "true" } else { "make" })
                .args(["--no-print-directory", "target/denovo_spank.so"])
                .current_dir(source())
                .env_remove("CARGO_TARGET_DIR")
                .output()
                .map_err(|e| format!("make: {e}"))?;
        if !plugin.status.success() {
            return Err(String::from_utf8_lossy(&plugin.stderr).into_owned());
        }
        let dir = std::env::temp_dir().join(format!("dn-cluster-{}", std::process::id()));
        let mut keeper = Command::new(script());
        keeper.arg("keep").arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null());
        // Not in our process group: an interrupt is for the tests.
        std::os::unix::process::CommandExt::process_group(&mut keeper, 0);
        let keeper = keeper.spawn().map_err(|e| e.to_string())?;
        let site = std::env::temp_dir().join(format!("dn-cluster-{}.site", std::process::id()));
        fs::write(&site, SITE).map_err(|e| e.to_string())?;
        // What denovo prints is what the site has.
        let files = format!(
            "cp {} \"$DIR/opt/denovo\"\ncp {} \"$DIR/opt/denovo_spank.so\"\nchmod 755 \"$DIR\"/opt/*\n\
             \"$DIR/opt/denovo\" scheduler slurm print-config oci.conf |\n\
             sed \"s|$DIR/opt/|/opt/denovo/|\" >oci.conf\n",
            env!("CARGO_BIN_EXE_denovo"),
            built.display(),
        );
        fs::write(&site, format!("{SITE}\n{files}")).map_err(|e| e.to_string())?;
        let begun = finish(Command::new(script()).arg("start").arg(&dir).arg(&site));
        let _ = fs::remove_file(&site);
        if begun.code != 0 {
            return Err(begun.err);
        }
        Ok(Self { dir, _keeper: Some(keeper) })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn home(&self, user: &str) -> PathBuf {
        self.dir.join("home").join(user)
    }

    /// A file in a user's home, which all nodes see.
    pub fn file(&self, user: &str, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
        let (home, path) = (self.home(user), self.home(user).join(name));
        fs::write(&path, text).unwrap();
        let owner = fs::metadata(&home).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A command on a node as root.
    pub fn on(&self, node: &str, words: &[&str]) -> Command {
        let mut command = Command::new(script());
        command.arg("on").arg(&self.dir).arg(node).args(words).stdin(Stdio::null());
        command
    }

    /// A command on the controller's node as a user.
    pub fn user(&self, user: &str, words: &[&str]) -> Command {
        let mut all = vec![format!("+{user}")];
        all.extend(words.iter().map(|w| (*w).to_owned()));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        self.on("c", &all)
    }

    /// A node's verb of `cluster`, such as `down`.
    pub fn node(&self, verb: &str, node: &str) {
        let mut command = Command::new(script());
        finish(command.arg(verb).arg(&self.dir).arg(node)).success();
    }

    pub fn daemon(&self, node: &str, words: &[&str]) {
        let mut command = Command::new(script());
        finish(command.arg("daemon").arg(&self.dir).arg(node).args(words)).success();
    }

    /// `srun` as alice; must succeed.
    pub fn srun(&self, words: &[&str]) -> String {
        let all = [&["srun"], words].concat();
        finish(&mut self.user("alice", &all)).success()
    }

    /// `srun` that may fail.
    pub fn try_srun(&self, words: &[&str]) -> Done {
        finish(&mut self.user("alice", &[&["srun"], words].concat()))
    }

    /// Runs a batch script of alice's to its end; gives its output.
    pub fn batch(&self, options: &[&str], text: &str) -> String {
        let name = format!("batch{}", std::process::id());
        self.file("alice", &name, &format!("#!/bin/sh\n{text}\n"));
        let script = format!("./{name}");
        let fixed = ["sbatch", "--wait", "--output=out"];
        let all = [&fixed[..], options, &[&script]].concat();
        let done = finish(&mut self.user("alice", &all));
        let text = fs::read_to_string(self.home("alice").join("out")).unwrap_or_default();
        assert_eq!(done.code, 0, "{done:?} {text}");
        text
    }

    /// What a node says as root.
    pub fn ask(&self, node: &str, script: &str) -> String {
        finish(&mut self.on(node, &["sh", "-c", script])).success()
    }

    /// Reasons of nodes that are drained.
    pub fn drained(&self) -> String {
        self.ask("c", "sinfo --noheader --list-reasons --format='%N %E'")
    }

    /// Lets every node in again, and waits until all are idle.
    pub fn all_idle(&self) {
        self.until("all nodes are idle", || {
            let idle = format!("idle{}", nodes().len());
            if self.ask("c", "sinfo --noheader --format=%t%D").trim() == idle {
                return true;
            }
            // Again and again: slurmd's own drain may come after the first.
            for node in nodes() {
                let resume = format!("scontrol update nodename={node} state=resume 2>/dev/null");
                self.ask("c", &(resume + "; true"));
            }
            false
        });
    }

    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + LONG;
        while !holds() {
            let state = || self.ask("c", "squeue; sinfo; sinfo -R");
            assert!(Instant::now() < deadline, "never: {what}\n{}", state());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Everything of denovo's jobs that is still on a node.
    pub fn remains(&self, node: &str) -> String {
        self.ask(
            node,
            "ls -A /run/denovo/jobs 2>/dev/null
             find /sys/fs/cgroup -maxdepth 2 -name 'denovo-slurm-*'
             pgrep -a -u alice,bob
             pgrep -a -f 'denovo monito[r]'
             grep denovo-slurm /proc/mounts
             true",
        )
    }

    pub fn nothing_left(&self, node: &str) {
        let deadline = Instant::now() + LONG;
        while !self.remains(node).is_empty() {
            assert!(Instant::now() < deadline, "left on {node}: {}", self.remains(node));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until no job has left anything anywhere.
    pub fn clean(&self) {
        for node in nodes() {
            self.nothing_left(node);
        }
    }

    /// The last receipt of a job on a node.
    pub fn receipt(&self, node: &str, job: &str) -> Value {
        let place = format!("/var/lib/denovo/receipts/slurm-{job}.*");
        let mut text = String::new();
        self.until("the receipt is there", || {
            text = self.ask(node, &format!("cat {place} 2>/dev/null || true"));
            !text.is_empty()
        });
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// denovo on a node with the variables that slurmd would give it.
    pub fn call(&self, node: &str, verb: &str, job: u32, more: &[(&str, &str)]) -> Command {
        let mut words = vec!["env".to_owned(), "-i".to_owned()];
        let plain = [
            ("SLURM_JOB_ID", job.to_string()),
            ("SLURM_JOB_UID", "61001".to_owned()),
            ("SLURM_JOB_GID", "61001".to_owned()),
            ("SLURM_JOB_USER", "alice".to_owned()),
            ("SLURM_CLUSTER_NAME", "denovo".to_owned()),
            ("SLURMD_NODENAME", node.to_owned()),
            ("SLURM_NODELIST", node.to_owned()),
            ("SLURM_JOB_CPUS_PER_NODE", "1".to_owned()),
            ("SLURM_CONF", "/etc/slurm/slurm.conf".to_owned()),
        ];
        words.extend(plain.iter().map(|(name, value)| format!("{name}={value}")));
        words.extend(more.iter().map(|(name, value)| format!("{name}={value}")));
        words.push("/opt/denovo/denovo".to_owned());
        words.extend(verb.split(' ').map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.on(node, &words)
    }

    /// The site's file of all nodes.
    pub fn site(&self, text: &str) {
        fs::write(self.dir.join("etc/denovo/denovo.toml"), text).unwrap();
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn success(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.out.trim_end().to_owned()
    }
}

/// A command that goes on beside the test.
pub struct Begun {
    shown: String,
    group: nix::unistd::Pid,
    output: std::sync::mpsc::Receiver<std::io::Result<Output>>,
}

/// Starts a command whose end is awaited later.
pub fn begin(command: &mut Command) -> Begun {
    let shown = format!("{command:?}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: all that it started can be ended with it.
    std::os::unix::process::CommandExt::process_group(command, 0);
    let child = command.spawn().unwrap();
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    let (sender, output) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    Begun { shown, group, output }
}

impl Begun {
    /// Waits for its end, for at most `LONG`.
    pub fn end(self) -> Done {
        let Ok(output) = self.output.recv_timeout(LONG) else {
            let _ = nix::sys::signal::killpg(self.group, nix::sys::signal::Signal::SIGKILL);
            panic!("does not end: {}", self.shown);
        };
        let output = output.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

/// Runs a command to its end, for at most `LONG`.
pub fn finish(command: &mut Command) -> Done {
    begin(command).end()
}
