//! What an engine under test has to itself.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Case, Going, LONG, Ran, binary, skip};

/// A case of root's with a root file system, and a control group below which
/// the engine puts everything.
pub struct Place(Case);

impl Deref for Place {
    type Target = Case;

    fn deref(&self) -> &Case {
        &self.0
    }
}

impl Place {
    /// Where the programs that the engine is made of are installed.
    pub fn with(test: &str, programs: &[&str]) -> Option<Self> {
        let case = Case::root(test)?;
        for program in programs {
            let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
            if !found.is_ok_and(|found| found.status.success()) {
                skip(test, &format!("{program} is not installed"));
                return None;
            }
        }
        Some(Self(case))
    }

    /// The parent of all its control groups.
    pub fn group(&self) -> String {
        format!("/denovo-{}", self.name)
    }

    /// A root file system of busybox.
    pub fn root_of_busybox(&self) -> PathBuf {
        let bundle = self.bundle(|_| {});
        for name in ["dev", "proc", "sys", "root", "run", "var"] {
            fs::create_dir(bundle.join("rootfs").join(name)).unwrap();
        }
        bundle.join("rootfs")
    }

    pub fn runtime(&self) -> PathBuf {
        binary(false)
    }

    /// Runs a command with a terminal; carriage returns are taken out.
    pub fn in_terminal(&self, command: &Command) -> Ran {
        let mut line = String::new();
        for word in [command.get_program()].into_iter().chain(command.get_args()) {
            line.push_str(&format!("'{}' ", word.to_string_lossy().replace('\'', "'\\''")));
        }
        let mut script = self.command("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let mut ran = self.finish(script);
        ran.out = ran.out.replace('\r', "").replace("^@", "");
        ran
    }

    /// Removes the groups, which nothing uses any more.
    fn remove_groups(&self) {
        let name = self.group();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let mut tops: Vec<PathBuf> = hierarchies.map(|entry| entry.path()).collect();
        tops.push("/sys/fs/cgroup".into());
        for top in tops {
            remove_tree(&top.join(name.trim_start_matches('/')));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.remove_groups();
    }
}

fn remove_tree(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// A daemon that a test started and ends.
pub struct Daemon {
    name: &'static str,
    going: Option<Going>,
    log: PathBuf,
}

impl Daemon {
    /// Starts it and waits until its socket answers to `ready`.
    ///
    /// # Errors
    /// The last line of its log, when it ends by itself before that.
    pub fn start(
        place: &Place,
        name: &'static str,
        mut command: Command,
        ready: impl Fn() -> bool,
    ) -> Result<Self, String> {
        let log = place.dir.join(format!("{name}.log"));
        let file = fs::File::create(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file).stdin(Stdio::null());
        let child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
        let mut daemon = Self { name, going: Some(Going::new(child, &log)), log };
        let deadline = Instant::now() + LONG;
        while !ready() {
            let going = daemon.going.as_mut().unwrap();
            if going.child.try_wait().unwrap().is_some() {
                return Err(format!("{name} does not run here: {}", daemon.last_words()));
            }
            assert!(Instant::now() < deadline, "{name} does not answer: {}", daemon.last_words());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().last().unwrap_or_default().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(going) = self.going.take() {
            going.signal(libc::SIGTERM);
            let status = going.wait().status;
            if !std::thread::panicking() && status.code().is_none() {
                panic!("{}: {status}", self.name);
            }
        }
        if std::thread::panicking() {
            eprintln!("{}: {}", self.name, fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
