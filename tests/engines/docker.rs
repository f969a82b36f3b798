//! Docker Engine with denovo as a further runtime.

use std::process::Command;

use crate::common::{Ran, skip, until};
use crate::containerd::{Containerd, IMAGE, image};
use crate::place::Daemon;

/// Field order is the order in which they end.
struct Docker {
    daemon: Option<Daemon>,
    containerd: Containerd,
}

impl Docker {
    fn new(test: &str) -> Option<Self> {
        let containerd = Containerd::new(test, &["dockerd", "docker"])?;
        let mut this = Self { daemon: None, containerd };
        let place = &this.containerd;
        let dir = |name: &str| place.dir.join(name).display().to_string();
        let mut command = place.command("dockerd");
        command.arg("--containerd").arg(place.socket());
        command.args(["--data-root", &dir("docker"), "--exec-root", &dir("docker-exec")]);
        command.args(["--pidfile", &dir("docker.pid"), "--host", &this.host()]);
        command.args(["--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
        command.args(["--ip-masq=false", "--bridge=none", "--storage-driver=vfs"]);
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        command.args(["--cgroup-parent", &place.group()]);
        command.args(["--add-runtime", &format!("denovo={}", place.runtime().display())]);
        let ready = || this.call(&["info"]).code() == 0;
        match Daemon::start(place, "dockerd", command, ready) {
            Ok(daemon) => this.daemon = Some(daemon),
            Err(why) => {
                skip(test, &why);
                return None;
            }
        }
        let archive = image(&this.containerd, &this.containerd.root_of_busybox());
        this.ok(&["load", "--input", archive.to_str().unwrap()]);
        Some(this)
    }

    fn host(&self) -> String {
        format!("unix://{}", self.containerd.dir.join("docker.sock").display())
    }

    fn docker(&self, args: &[&str]) -> Command {
        let mut command = self.containerd.command("docker");
        command.env("DOCKER_CONFIG", self.containerd.dir.join("docker-client"));
        command.arg("--host").arg(self.host()).args(args);
        command
    }

    fn call(&self, args: &[&str]) -> Ran {
        self.containerd.finish(self.docker(args))
    }

    fn ok(&self, args: &[&str]) -> String {
        self.call(args).expect(0, &args.join(" ")).out()
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Command {
        let first = ["run", "--network", "none", "--runtime", "denovo"];
        self.docker(&[&first[..], options, &[IMAGE], command].concat())
    }

    fn status(&self, name: &str) -> String {
        self.ok(&["inspect", "--format", "{{.State.Status}}", name])
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        for id in self.call(&["ps", "--all", "--quiet"]).out.lines() {
            let _ = self.call(&["rm", "--force", id]);
        }
    }
}

#[test]
fn docker_runs_a_command() {
    let Some(docker) = Docker::new("docker_runs_a_command") else { return };
    let run = |options: &[&str], command: &[&str]| {
        docker.containerd.finish(docker.run(&[&["--rm"], options].concat(), command))
    };
    assert_eq!(run(&[], &["echo", "hello"]).expect(0, "run").out(), "hello");
    assert_eq!(run(&[], &["sh", "-c", "exit 7"]).code(), 7);
    assert_eq!(run(&[], &["/nothing"]).code(), 127);
    let ran = run(&["--memory", "64m", "--user", "7:8"], &["sh", "-c", "id -u; id -g"]);
    assert_eq!(ran.expect(0, "options").out(), "7\n8");
    let script = "test -t 0 && test -t 1 && echo yes";
    let command = docker.run(&["--rm", "-it"], &["sh", "-c", script]);
    let ran = docker.containerd.in_terminal(&command).expect(0, "run -it");
    assert!(ran.out.contains("yes"), "{ran:#?}");
}

#[test]
fn docker_leads_a_container_through_its_life() {
    let Some(docker) = Docker::new("docker_leads_a_container_through_its_life") else { return };
    let script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done";
    let start = docker.run(&["--detach", "--name", "life"], &["sh", "-c", script]);
    docker.containerd.finish(start).expect(0, "run --detach");
    until("it is up", || docker.ok(&["logs", "life"]).contains("up"));
    assert_eq!(docker.ok(&["exec", "life", "echo", "in"]), "in");
    assert_eq!(docker.call(&["exec", "life", "sh", "-c", "exit 9"]).code(), 9);
    assert!(docker.ok(&["top", "life"]).contains("trap"));
    docker.ok(&["pause", "life"]);
    assert_eq!(docker.status("life"), "paused");
    docker.ok(&["unpause", "life"]);
    let limits = ["--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--pids-limit", "50"];
    docker.ok(&[&["update"], &limits[..], &["life"]].concat());
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "life"]);
    assert!(stats.ends_with("/ 64MiB"), "{stats}");
    docker.ok(&["stop", "--time", "20", "life"]);
    assert_eq!(docker.ok(&["inspect", "--format", "{{.State.ExitCode}}", "life"]), "5");
    docker.ok(&["start", "life"]);
    docker.ok(&["kill", "life"]);
    until("it has ended", || docker.status("life") == "exited");
    docker.ok(&["rm", "life"]);
    assert_eq!(docker.ok(&["ps", "--all", "--quiet"]), "");
}
