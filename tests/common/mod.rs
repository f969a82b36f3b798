//! What the tests on the real kernel share: bundles made of busybox, denovo
//! run as root or as an ordinary user, and the check that nothing is left.
//!
//! Every case has a name that nothing else on the node has. It is part of the
//! case's directory and of its containers' ids, so whatever a container leaves
//! (a process, a mount, a control group, a record) can be told by it.
#![allow(dead_code)]

mod leaks;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Far above what anything here takes: a test that reaches it hangs.
/// An emulated machine on a busy one is some fifty times slower.
pub const LONG: Duration = Duration::from_secs(300);

const APPLETS: &[&str] = &[
    "awk", "cat", "chmod", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "find", "grep",
    "head", "hostname", "id", "kill", "ln", "ls", "mkdir", "mknod", "mount", "od", "ps", "pwd",
    "readlink", "rm", "sed", "seq", "sh", "sleep", "sort", "stat", "stty", "tail", "test", "touch",
    "tr", "true", "tty", "umount", "uname", "wc",
];

/// Says why a test does not run here.
pub fn skip(name: &str, reason: &str) {
    println!("SKIP {name}: {reason}");
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether what an ordinary user sees is left to another run of the tests, by
/// a real one (tests/vm): under emulation twice is too long.
fn root_only() -> bool {
    std::env::var_os("DENOVO_TEST_ROOT_ONLY").is_some()
}

/// One test's own place: directory, state directory, user, ids.
pub struct Case {
    pub name: String,
    pub dir: PathBuf,
    /// Who calls denovo; `None`: whoever runs the tests.
    pub user: Option<u32>,
    rootless: bool,
    ids: std::cell::RefCell<Vec<String>>,
    count: AtomicU32,
}

impl Case {
    fn new(test: &str, rootless: bool) -> Self {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), CASES.fetch_add(1, Ordering::Relaxed));
        let name = format!("dnt{pid}x{number}");
        // A uid of the case's own, which no account has.
        let uid = 1_000_000 + (pid % 40_000) * 1000 + number % 1000;
        let user = (rootless && is_root()).then_some(uid);
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("{test}: {}: {e}", dir.display()));
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        let ids = std::cell::RefCell::new(Vec::new());
        let case = Self { name, dir, user, rootless, ids, count: AtomicU32::new(0) };
        case.give(&case.dir);
        case
    }

    /// As root; says so and gives nothing where the tests run as another.
    pub fn root(test: &str) -> Option<Self> {
        if !is_root() {
            skip(test, "needs root");
            return None;
        }
        Some(Self::new(test, false))
    }

    /// As an ordinary user, for whom root finds a uid that nobody has.
    pub fn user(test: &str) -> Option<Self> {
        if root_only() {
            skip(test, "a user runs it beside this");
            return None;
        }
        if !user_namespaces_work() {
            skip(test, "ordinary users cannot make user namespaces here");
            return None;
        }
        Some(Self::new(test, true))
    }

    /// As root, then as an ordinary user; where the tests run as a user, as that
    /// one only, which is no reason to call the test skipped.
    pub fn each(test: &'static str) -> impl Iterator<Item = Self> {
        let root = is_root().then_some(Self::root as fn(&str) -> Option<Self>);
        let user = (!root_only()).then_some(Self::user as fn(&str) -> Option<Self>);
        root.into_iter().chain(user).filter_map(move |f| f(test))
    }

    pub fn is_rootless(&self) -> bool {
        self.rootless
    }

    /// The uid that denovo runs as.
    pub fn uid(&self) -> u32 {
        self.user.unwrap_or_else(|| nix::unistd::geteuid().as_raw())
    }

    /// Makes the user of the case the owner of a path.
    pub fn give(&self, path: &Path) {
        if let Some(uid) = self.user {
            std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
        }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// An id that nothing else on the node has.
    pub fn id(&self, what: &str) -> String {
        let id = format!("{}-{what}", self.name);
        self.ids.borrow_mut().push(id.clone());
        id
    }

    fn next(&self) -> u32 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// `denovo --root … ARGS` as the case's user, with nothing on stdin.
    pub fn denovo<A: AsRef<std::ffi::OsStr>>(&self, args: &[A]) -> Command {
        let mut command = self.command(binary(self.user.is_some()));
        command.arg("--root").arg(self.state()).args(args);
        command
    }

    /// Any program as the case's user.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.dir).stdin(Stdio::null());
        command.env_remove("XDG_RUNTIME_DIR");
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// Runs denovo to its end.
    pub fn call<A: AsRef<std::ffi::OsStr>>(&self, args: &[A]) -> Ran {
        self.finish(self.denovo(args))
    }

    /// Runs denovo, which must succeed; gives its standard output.
    pub fn ok<A: AsRef<std::ffi::OsStr> + std::fmt::Debug>(&self, args: &[A]) -> String {
        self.call(args).expect(0, &format!("{args:?}")).out()
    }

    /// Starts a command whose output goes into files: a detached container
    /// would keep a pipe open.
    pub fn start(&self, mut command: Command) -> Going {
        let number = self.next();
        let (out, err) =
            (self.dir.join(format!("out{number}")), self.dir.join(format!("err{number}")));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Going { child, out, err }
    }

    pub fn finish(&self, command: Command) -> Ran {
        self.start(command).wait()
    }

    /// A directory of the case, made and given to its user.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).unwrap();
        self.give(&path);
        path
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        self.give(&path);
        path
    }

    /// A shell script that can be executed.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A bundle with a root of busybox and the default config.json, without
    /// its terminal, as `change` leaves it.
    pub fn bundle(&self, change: impl FnOnce(&mut Value)) -> PathBuf {
        let dir = self.directory(&format!("bundle{}", self.next()));
        self.rootfs(&dir.join("rootfs"));
        self.configure(&dir, change);
        dir
    }

    pub fn configure(&self, bundle: &Path, change: impl FnOnce(&mut Value)) {
        let path = bundle.join("config.json");
        let mut spec = self.denovo(&["spec", "--bundle"]);
        spec.arg(bundle);
        if self.rootless {
            spec.arg("--rootless");
        }
        self.finish(spec).expect(0, "spec");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        change(&mut config);
        fs::write(&path, config.to_string()).unwrap();
    }

    fn rootfs(&self, dir: &Path) {
        for name in ["", "bin", "tmp", "etc"] {
            let path = dir.join(name);
            fs::create_dir(&path).unwrap();
            self.give(&path);
        }
        let busybox = dir.join("bin/busybox");
        fs::copy("/bin/busybox", &busybox).expect("busybox-static is installed");
        self.give(&busybox);
        for applet in APPLETS {
            symlink("busybox", dir.join("bin").join(applet)).unwrap();
        }
    }

    /// Runs a shell script in a container of its own.
    pub fn run(&self, script: &str, change: impl FnOnce(&mut Value)) -> Ran {
        let bundle = self.bundle(|config| {
            shell(config, script);
            change(config);
        });
        self.run_bundle(&bundle)
    }

    pub fn run_bundle(&self, bundle: &Path) -> Ran {
        let id = self.id(&self.next().to_string());
        self.call(&["run", "--bundle", bundle.to_str().unwrap(), &id])
    }

    /// As `run`; the script must succeed and say nothing on standard error.
    pub fn see(&self, script: &str, change: impl FnOnce(&mut Value)) -> String {
        let ran = self.run(script, change).expect(0, script);
        assert_eq!(ran.err, "", "{script}");
        ran.out()
    }

    /// A container in the background whose process sleeps, with its pid.
    pub fn sleeper(&self, what: &str, change: impl FnOnce(&mut Value)) -> (String, i32) {
        let bundle = self.bundle(|config| {
            config["process"]["args"] = json!(["sleep", "1000"]);
            change(config);
        });
        self.sleeper_of(what, &bundle)
    }

    pub fn sleeper_of(&self, what: &str, bundle: &Path) -> (String, i32) {
        let id = self.id(what);
        self.ok(&["run", "--detach", "--bundle", bundle.to_str().unwrap(), &id]);
        (id.clone(), self.query(&id)["pid"].as_i64().unwrap() as i32)
    }

    /// The document of `state`.
    pub fn query(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    /// Waits for a container's status.
    pub fn await_status(&self, id: &str, status: &str) {
        until(&format!("{id} is {status}"), || self.query(id)["status"] == status);
    }

    pub fn delete(&self, id: &str) {
        self.ok(&["delete", "--force", id]);
    }

    /// Everything that is still there of the case's containers.
    pub fn left(&self) -> Vec<String> {
        leaks::find(&self.name, &self.state())
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let mut left = self.left();
        if !failed {
            // The kernel takes a killed process apart in its own time.
            let deadline = Instant::now() + Duration::from_secs(20);
            while !left.is_empty() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
                left = self.left();
            }
        }
        if failed || !left.is_empty() {
            for id in self.ids.borrow().iter() {
                let _ = self.denovo(&["delete", "--force", id]).stderr(Stdio::null()).status();
            }
            leaks::end(&self.name);
        }
        let _ = fs::remove_dir_all(&self.dir);
        assert!(failed || left.is_empty(), "left behind: {left:#?}");
    }
}

/// A command on its way.
pub struct Going {
    pub child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Going {
    /// A child that writes everything into one file.
    pub fn new(child: Child, log: &Path) -> Self {
        Self { child, out: log.to_owned(), err: log.to_owned() }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// What it wrote so far.
    pub fn so_far(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    pub fn await_output(&self, text: &str) {
        until(&format!("output {text:?}"), || self.so_far().contains(text));
    }

    pub fn wait(mut self) -> Ran {
        let deadline = Instant::now() + LONG;
        let mut pause = Duration::from_micros(200);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let err = fs::read_to_string(&self.err);
                panic!("does not end; said so far: {:?} {err:?}", self.so_far());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        };
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Ran { status, out: read(&self.out), err: read(&self.err) }
    }
}

/// A command that ended.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// As a shell tells it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    pub fn expect(self, code: i32, what: &str) -> Self {
        assert_eq!(self.code(), code, "{what}: {self:#?}");
        self
    }

    pub fn out(&self) -> String {
        self.out.trim_end().to_owned()
    }

    pub fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }

    /// One problem on standard error that needs no hint.
    pub fn told(&self, words: &[&str]) {
        assert_eq!(self.code(), 125, "{self:#?}");
        let problems = self.err.lines().filter(|l| l.starts_with("denovo: ")).count();
        assert_eq!(problems, 1, "one problem: {self:#?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} in {self:#?}");
        }
    }

    /// One problem with a hint on standard error, and denovo's own exit code.
    pub fn refused(&self, words: &[&str]) {
        self.refused_with(125, words);
    }

    pub fn refused_with(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "{self:#?}");
        let problems = self.err.lines().filter(|l| l.starts_with("denovo: ")).count();
        let hints = self.err.lines().filter(|l| l.starts_with("  hint: ")).count();
        assert_eq!((problems, hints), (1, 1), "one problem with a hint: {self:#?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} in {self:#?}");
        }
    }
}

pub fn shell(config: &mut Value, script: &str) {
    config["process"]["args"] = json!(["sh", "-c", script]);
}

pub fn push(list: &mut Value, entry: Value) {
    match list {
        Value::Array(list) => list.push(entry),
        other => *other = json!([entry]),
    }
}

pub fn add_mount(config: &mut Value, mount: Value) {
    push(&mut config["mounts"], mount);
}

/// Adds a namespace, or gives the one of that kind a path.
pub fn namespace(config: &mut Value, kind: &str, path: Option<&str>) {
    drop_namespace(config, kind);
    let mut entry = json!({ "type": kind });
    if let Some(path) = path {
        entry["path"] = json!(path);
    }
    push(&mut config["linux"]["namespaces"], entry);
}

pub fn drop_namespace(config: &mut Value, kind: &str) {
    if let Some(list) = config["linux"]["namespaces"].as_array_mut() {
        list.retain(|n| n["type"] != kind);
    }
}

/// Waits for something that has to come.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program, at a place that `for_others` can reach too.
pub fn binary(for_others: bool) -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_denovo"));
    let open = |path: &Path| {
        let others = |p: &Path| fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 1 != 0);
        path.ancestors().all(others)
    };
    if !for_others || open(&built) {
        return built;
    }
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let copy = std::env::temp_dir().join(format!("denovo-under-test-{}", std::process::id()));
        fs::copy(&built, &copy).unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
        copy
    })
    .clone()
}

fn user_namespaces_work() -> bool {
    static WORK: OnceLock<bool> = OnceLock::new();
    *WORK.get_or_init(|| {
        let mut probe = Command::new("unshare");
        probe.args(["--user", "--map-root-user", "--mount", "true"]);
        if is_root() {
            probe.uid(999_999).gid(999_999);
        }
        probe.stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    })
}

/// Gives a directory and what is directly in it to somebody else.
pub fn own(dir: &Path, uid: u32) {
    chown(dir, Some(uid), Some(uid)).unwrap();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        std::os::unix::fs::lchown(entry.path(), Some(uid), Some(uid)).unwrap();
    }
}

/// Where this process is in cgroup v1's hierarchy of a controller, as a
/// directory; `None` where the controller is not on v1.
pub fn v1_directory(controller: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let options = (right.next() == Some("cgroup")).then(|| right.nth(1)).flatten()?;
        let has = options.split(',').any(|o| o == controller);
        has.then(|| PathBuf::from(left.split(' ').nth(4).unwrap_or_default()))
    })
}
