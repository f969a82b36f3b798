//! Podman with denovo as its runtime.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

use crate::common::Ran;
use crate::place::Place;

struct Podman {
    place: Place,
    root: PathBuf,
    /// denovo with a directory of records of its own: `--runtime-flag` does
    /// not reach the clean-up that podman leaves to conmon.
    runtime: PathBuf,
}

impl Deref for Podman {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Podman {
    fn new(test: &str) -> Option<Self> {
        let place = Place::with(test, &["podman", "conmon"])?;
        let root = place.root_of_busybox();
        // Locks in files: others' podman uses the node's shared memory.
        place.file(
            "containers.conf",
            "[engine]\nlock_type = \"file\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
        );
        let (denovo, state) = (place.runtime(), place.state());
        let line = format!("exec '{}' --root '{}' \"$@\"", denovo.display(), state.display());
        let runtime = place.script("denovo", &line);
        Some(Self { place, root, runtime })
    }

    fn podman(&self, args: &[&str]) -> Command {
        let dir = |name: &str| self.dir.join(name).display().to_string();
        let mut command = self.command("podman");
        command.env("CONTAINERS_CONF", dir("containers.conf"));
        command.args([
            "--root",
            &dir("storage"),
            "--runroot",
            &dir("run"),
            "--tmpdir",
            &dir("tmp"),
        ]);
        command.args(["--storage-driver", "vfs", "--network-config-dir", &dir("net")]);
        command.arg("--runtime").arg(&self.runtime).args(args);
        command
    }

    /// `podman run` of the busybox root; limits that need no privilege that
    /// this machine may lack.
    fn run(&self, options: &[&str], command: &[&str]) -> Command {
        let group = self.group();
        let mut words = vec!["run", "--network", "none", "--cgroup-parent", &group];
        words.extend(["--ulimit", "nofile=512:512", "--ulimit", "nproc=512:512"]);
        words.extend(options);
        words.extend(["--rootfs", self.root.to_str().unwrap()]);
        words.extend(command);
        self.podman(&words)
    }

    fn ok(&self, args: &[&str]) -> String {
        self.finish(self.podman(args)).expect(0, &args.join(" ")).out()
    }

    fn call(&self, args: &[&str]) -> Ran {
        self.finish(self.podman(args))
    }

    fn status(&self, name: &str) -> String {
        self.ok(&["inspect", "--format", "{{.State.Status}}", name])
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.call(&["rm", "--all", "--force", "--time", "0"]);
    }
}

#[test]
fn podman_runs_a_command() {
    let Some(podman) = Podman::new("podman_runs_a_command") else { return };
    let ran = podman.finish(podman.run(&["--rm"], &["/bin/echo", "hello"]));
    assert_eq!(ran.expect(0, "run").out(), "hello");
    let ran = podman.finish(podman.run(&["--rm"], &["sh", "-c", "echo to err >&2; exit 7"]));
    assert_eq!((ran.code(), ran.err.contains("to err")), (7, true), "{ran:#?}");
    for (command, code) in [("/nothing", 127), ("/tmp", 126)] {
        let ran = podman.finish(podman.run(&["--rm"], &[command]));
        assert_eq!(ran.code(), code, "{ran:#?}");
    }
    let options = ["--rm", "--env", "A=b", "--workdir", "/tmp", "--user", "7:8", "--hostname", "h"];
    let script = "echo $A $(pwd) $(id -u):$(id -g) $(hostname); grep Seccomp: /proc/self/status";
    let ran = podman.finish(podman.run(&options, &["sh", "-c", script]));
    assert_eq!(ran.expect(0, "options").out(), "b /tmp 7:8 h\nSeccomp:\t2");
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn podman_gives_a_terminal() {
    let Some(podman) = Podman::new("podman_gives_a_terminal") else { return };
    // Podman's own words (warnings, on some machines) come to the same terminal;
    // and what conmon has not read when the process ends, podman may not show.
    let script = "test -t 0 && test -t 1 && stty size && echo yes && sleep 0.5";
    let ran = podman.in_terminal(&podman.run(&["--rm", "-it"], &["sh", "-c", script]));
    let ran = ran.expect(0, "run -t");
    assert!(ran.out().lines().any(|line| line == "yes"), "{ran:#?}");
    let without = podman.finish(podman.run(&["--rm"], &["sh", "-c", "test -t 0"]));
    assert_eq!(without.code(), 1);
}

#[test]
fn podman_leads_a_container_through_its_life() {
    let Some(podman) = Podman::new("podman_leads_a_container_through_its_life") else { return };
    let script = "trap 'echo got usr1' USR1; trap 'echo bye; exit 5' TERM; echo up; \
                  while :; do sleep 0.05; done";
    let mut start = podman.run(&["--detach", "--name", "life", "--memory", "64m"], &[]);
    start.args(["sh", "-c", script]);
    podman.finish(start).expect(0, "run --detach");
    crate::common::until("it is up", || podman.ok(&["logs", "life"]).contains("up"));

    assert_eq!(podman.ok(&["exec", "life", "echo", "in"]), "in");
    assert_eq!(podman.call(&["exec", "life", "sh", "-c", "exit 9"]).code(), 9);
    let terminal = podman.podman(&["exec", "-it", "life", "sh", "-c", "test -t 0 && echo yes"]);
    assert!(podman.in_terminal(&terminal).expect(0, "exec -t").out().contains("yes"));

    assert!(podman.ok(&["ps"]).contains("life"));
    assert!(podman.ok(&["top", "life"]).contains("trap"));
    let stats = podman.ok(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "life"]);
    assert!(!stats.starts_with("0 ") && !stats.starts_with("-"), "{stats}");
    let runtime = podman.ok(&["inspect", "--format", "{{.OCIRuntime}}", "life"]);
    assert_eq!(runtime, podman.runtime.to_str().unwrap());
    assert_eq!(podman.status("life"), "running");

    podman.ok(&["pause", "life"]);
    assert_eq!(podman.status("life"), "paused");
    assert_ne!(podman.call(&["exec", "life", "true"]).code(), 0);
    podman.ok(&["unpause", "life"]);
    assert_eq!(podman.status("life"), "running");

    podman.ok(&["kill", "--signal", "USR1", "life"]);
    crate::common::until("the signal", || podman.ok(&["logs", "life"]).contains("got usr1"));
    podman.ok(&["stop", "--time", "20", "life"]);
    assert_eq!(podman.status("life"), "exited");
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.ExitCode}}", "life"]), "5");
    podman.ok(&["start", "life"]);
    podman.ok(&["kill", "life"]);
    crate::common::until("it has ended", || podman.status("life") == "exited");
    podman.ok(&["rm", "life"]);
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
}
