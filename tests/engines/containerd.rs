//! containerd with denovo as the runtime of its shim for runc.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::common::{Ran, until};
use crate::place::{Daemon, Place};

pub const IMAGE: &str = "docker.io/denovo/busybox:test";

/// Field order is the order in which they end.
pub struct Containerd {
    daemon: Option<Daemon>,
    place: Place,
}

impl Deref for Containerd {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Containerd {
    pub fn new(test: &str, further: &[&str]) -> Option<Self> {
        let own = ["containerd", "containerd-shim-runc-v2", "ctr", "sha256sum", "tar"];
        let place = Place::with(test, &[&own, further].concat())?;
        let mut this = Self { daemon: None, place };
        let dir = |name: &str| this.dir.join(name).display().to_string();
        let config = this.file(
            "containerd.toml",
            &format!(
                "version = 2\nroot = '{}'\nstate = '{}'\n\
                 disabled_plugins = ['io.containerd.grpc.v1.cri']\n\
                 [grpc]\naddress = '{}'\n[ttrpc]\naddress = '{}'\n",
                dir("containerd"),
                dir("containerd-state"),
                this.socket().display(),
                dir("ttrpc.sock"),
            ),
        );
        let mut command = this.command("containerd");
        command.arg("--config").arg(config);
        let ready = || this.finish(this.ctr(&["version"])).code() == 0;
        match Daemon::start(&this.place, "containerd", command, ready) {
            Ok(daemon) => this.daemon = Some(daemon),
            Err(why) => {
                crate::common::skip(test, &why);
                return None;
            }
        }
        Some(this)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = self.command("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", "denovo"]).args(args);
        command
    }

    fn ok(&self, args: &[&str]) -> String {
        self.finish(self.ctr(args)).expect(0, &args.join(" ")).out()
    }

    fn call(&self, args: &[&str]) -> Ran {
        self.finish(self.ctr(args))
    }

    /// `ctr run` of the image as the container `id`.
    fn run(&self, id: &str, options: &[&str], command: &[&str]) -> Command {
        let (runtime, group) = (self.runtime(), format!("{}/{id}", self.group()));
        let records = self.dir.join("runc").display().to_string();
        let mut words = vec!["run", "--snapshotter", "native", "--cgroup", &group];
        words.extend(["--runtime", "io.containerd.runc.v2", "--runc-root", &records]);
        words.extend(["--runc-binary", runtime.to_str().unwrap()]);
        words.extend(options);
        words.extend([IMAGE, id]);
        words.extend(command);
        self.ctr(&words)
    }

    fn import(&self) {
        let archive = image(self, &self.root_of_busybox());
        self.ok(&["image", "import", "--snapshotter", "native", archive.to_str().unwrap()]);
    }

    fn task(&self, id: &str) -> String {
        let list = self.ok(&["task", "ls"]);
        let row = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        row.and_then(|row| row.split_whitespace().nth(2)).unwrap_or("none").to_owned()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for id in self.call(&["task", "ls", "--quiet"]).out.lines() {
                let _ = self.call(&["task", "rm", "--force", id]);
            }
        } else {
            let records = self.dir.join("runc/denovo");
            let left = fs::read_dir(&records).into_iter().flatten().flatten().count();
            assert_eq!(left, 0, "records in {}", records.display());
        }
    }
}

/// A Docker archive of one layer.
pub fn image(place: &Place, root: &Path) -> PathBuf {
    let dir = place.directory("image");
    let sum = |name: &str| {
        let mut command = place.command("sha256sum");
        command.arg(dir.join(name));
        let text = place.finish(command).expect(0, "sha256sum").out();
        text.split_whitespace().next().unwrap().to_owned()
    };
    let tar = |archive: &Path, from: &Path, names: &[&str]| {
        let mut command = place.command("tar");
        command.arg("-cf").arg(archive).arg("-C").arg(from).args(names);
        place.finish(command).expect(0, "tar");
    };
    tar(&dir.join("layer.tar"), root, &["."]);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sum("layer.tar"))]},
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = place.dir.join("image.tar");
    tar(&archive, &dir, &["manifest.json", "config.json", "layer.tar"]);
    archive
}

#[test]
fn containerd_runs_a_command() {
    let Some(containerd) = Containerd::new("containerd_runs_a_command", &[]) else { return };
    containerd.import();
    let run =
        |id: &str, command: &[&str]| containerd.finish(containerd.run(id, &["--rm"], command));
    assert_eq!(run("hello", &["echo", "hello"]).expect(0, "run").out(), "hello");
    assert_eq!(run("seven", &["sh", "-c", "exit 7"]).code(), 7);
    let ran = run("nothing", &["/nothing"]);
    assert!(ran.code() != 0 && ran.err.contains("no such file"), "{ran:#?}");

    let script = "test -t 0 && test -t 1 && echo yes";
    let command = containerd.run("terminal", &["--rm", "--tty"], &["sh", "-c", script]);
    let ran = containerd.in_terminal(&command);
    assert!(ran.out.contains("yes"), "{ran:#?}");
    assert_eq!(containerd.ok(&["task", "ls", "--quiet"]), "");
}

#[test]
fn containerd_leads_a_task_through_its_life() {
    let test = "containerd_leads_a_task_through_its_life";
    let Some(containerd) = Containerd::new(test, &[]) else { return };
    containerd.import();
    let start =
        containerd.run("life", &["--detach", "--memory-limit", "67108864"], &["sleep", "1000"]);
    containerd.finish(start).expect(0, "run --detach");
    assert_eq!(containerd.task("life"), "RUNNING");

    assert_eq!(containerd.ok(&["task", "exec", "--exec-id", "a", "life", "echo", "in"]), "in");
    let ran = containerd.call(&["task", "exec", "--exec-id", "b", "life", "sh", "-c", "exit 9"]);
    assert_eq!(ran.code(), 9, "{ran:#?}");
    let words =
        ["task", "exec", "--tty", "--exec-id", "c", "life", "sh", "-c", "test -t 0 && echo yes"];
    let ran = containerd.in_terminal(&containerd.ctr(&words));
    assert!(ran.out.contains("yes"), "{ran:#?}");

    containerd.ok(&["task", "pause", "life"]);
    assert_eq!(containerd.task("life"), "PAUSED");
    containerd.ok(&["task", "resume", "life"]);
    assert_eq!(containerd.task("life"), "RUNNING");
    assert_eq!(containerd.ok(&["task", "ps", "life"]).lines().count(), 2);
    let metrics = containerd.ok(&["task", "metrics", "life"]);
    assert!(metrics.contains("memory.") && metrics.contains("67108864"), "{metrics}");

    containerd.ok(&["task", "kill", "--signal", "KILL", "life"]);
    until("it has ended", || containerd.task("life") == "STOPPED");
    // The task's exit code becomes ctr's own.
    let ran = containerd.call(&["task", "delete", "life"]);
    assert!([0, 137].contains(&ran.code()), "{ran:#?}");
    containerd.ok(&["container", "delete", "life"]);
    assert_eq!(containerd.ok(&["container", "ls", "--quiet"]), "");
}
