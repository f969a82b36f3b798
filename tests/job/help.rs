//! A test's own node: a base directory, a home, and `denovo job` in it.

use std::fs;
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Case, Ran, binary, until};

/// A case whose user has a home of its own, which is the working directory,
/// and environments below a base directory of its own.
pub struct Place(Case);

impl Deref for Place {
    type Target = Case;

    fn deref(&self) -> &Case {
        &self.0
    }
}

impl Place {
    fn of(case: Case) -> Self {
        let home = case.directory("home");
        // Others may not look into it, as a real one.
        fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Self(case)
    }

    pub fn root(test: &str) -> Option<Self> {
        Case::root(test).map(Self::of)
    }

    pub fn user(test: &str) -> Option<Self> {
        Case::user(test).map(Self::of)
    }

    /// As root, then as an ordinary user.
    pub fn each(test: &'static str) -> impl Iterator<Item = Self> {
        Case::each(test).map(Self::of)
    }

    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    pub fn base(&self) -> PathBuf {
        self.dir.join("base")
    }

    pub fn jobs(&self) -> PathBuf {
        self.base().join("jobs")
    }

    /// Any program as the user, at home.
    pub fn program(&self, program: &str) -> Command {
        let mut command = self.command(program);
        command.current_dir(self.home()).env("HOME", self.home());
        for name in ["TMPDIR", "LD_PRELOAD"] {
            command.env_remove(name);
        }
        command
    }

    /// The path of denovo, as this user can reach it.
    pub fn denovo_path(&self) -> String {
        binary(self.user.is_some()).display().to_string()
    }

    /// `denovo --root … ARGS`.
    pub fn node(&self, args: &[&str]) -> Command {
        let mut command = self.program(&self.denovo_path());
        command.arg("--root").arg(self.base()).args(args);
        command
    }

    /// The same as another user, who knows where to look.
    pub fn node_as(&self, uid: u32, args: &[&str]) -> Command {
        let mut command = Command::new(binary(true));
        command.arg("--root").arg(self.base()).args(args);
        command.current_dir("/").env("HOME", "/nonexistent").env_remove("XDG_RUNTIME_DIR");
        command.stdin(Stdio::null()).uid(uid).gid(uid);
        command
    }

    /// A command line of denovo for a shell, each word quoted.
    pub fn line(&self, args: &[&str]) -> String {
        let base = self.base().display().to_string();
        let mut line = format!("'{}' --root '{base}'", self.denovo_path());
        for arg in args {
            line.push_str(&format!(" '{}'", arg.replace('\'', "'\\''")));
        }
        line
    }

    /// `job run OPTIONS -- sh -c SCRIPT`.
    pub fn running(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.node(&["job", "run"]);
        command.args(options).args(["--", "sh", "-c", script]);
        command
    }

    pub fn run(&self, options: &[&str], script: &str) -> Ran {
        self.finish(self.running(options, script))
    }

    /// As `run`; the script must succeed and nothing be said beside it.
    pub fn see(&self, options: &[&str], script: &str) -> String {
        let ran = self.run(options, script).expect(0, script);
        assert_eq!(ran.err, "", "{script}");
        ran.out()
    }

    pub fn call(&self, args: &[&str]) -> Ran {
        self.finish(self.node(args))
    }

    pub fn ok(&self, args: &[&str]) -> String {
        self.call(args).expect(0, &format!("{args:?}")).out()
    }

    /// `job start` with this id.
    pub fn started(&self, what: &str, options: &[&str]) -> String {
        let id = self.id(what);
        let mut args = vec!["job", "start", "--id", &id];
        args.extend(options);
        assert_eq!(self.ok(&args), id);
        id
    }

    /// The document of `job show`.
    pub fn shown(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["job", "show", "--json", id])).unwrap()
    }

    /// Pids on the node of an environment's monitor and init.
    pub fn keepers(&self, id: &str) -> (i32, i32) {
        let record = &self.shown(id)["record"];
        let pid = |who: &str| record[who]["pid"].as_i64().unwrap_or_else(|| panic!("{record}"));
        (pid("monitor") as i32, pid("init") as i32)
    }

    /// Records and locks that are there.
    pub fn records(&self) -> Vec<String> {
        let entries = fs::read_dir(self.jobs()).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Everything that is still there of this place's environments.
    pub fn remains(&self) -> Vec<String> {
        let mut all = self.left();
        all.extend(self.records().into_iter().map(|name| format!("record {name}")));
        all.extend(self.groups());
        all
    }

    /// A job's groups lie beside others' at the top of each hierarchy.
    fn groups(&self) -> Vec<String> {
        let below = |dir: &Path| -> Vec<PathBuf> {
            fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
        };
        let tops = below(Path::new("/sys/fs/cgroup"));
        let all = tops.iter().cloned().chain(tops.iter().flat_map(|top| below(top)));
        let ours = all.filter(|path| path.to_string_lossy().contains(&self.name));
        ours.map(|path| format!("control group {}", path.display())).collect()
    }

    pub fn await_nothing(&self) {
        let mut remains = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            remains = self.remains();
            if remains.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("left behind: {remains:#?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return self.await_nothing();
        }
        for id in self.records() {
            let _ = self.node(&["job", "end", &id]).stderr(Stdio::null()).status();
        }
        let _ = self.node(&["node", "gc"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Whether a process runs; one that waits to be reaped does not.
pub fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

pub fn await_death(pid: i32) {
    until(&format!("process {pid} ends"), || !alive(pid));
}

pub fn kill(pid: i32) {
    use nix::sys::signal::{Signal, kill};
    let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
}

/// The lines `name value` that a script prints, by name.
pub fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let found = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {name:?} in {text}"))
}
