//! Known failures of OCI runtimes, each as a bundle or a neighbour that once
//! broke one out of its container, and what denovo makes of it. Others stand
//! with their subject: /proc and /sys as links, swapped destinations and
//! mounts over /proc in `mounts`, working directories behind descriptors in
//! `process`, groups outside the hierarchy in `limits`, forged records in
//! `tests/bad_input.rs`.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Case, add_mount, binary, drop_namespace, push, shell};

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    fs::read(path).unwrap().hash(&mut hasher);
    hasher.finish()
}

/// Nothing but `canary` itself is in its directory, and it is as it was.
fn assert_untouched(canary: &Path) {
    let names: Vec<_> = fs::read_dir(canary).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["file"], "{}", canary.display());
    assert_eq!(fs::read_to_string(canary.join("file")).unwrap(), "canary\n");
}

fn canary(case: &Case, name: &str) -> std::path::PathBuf {
    let dir = case.directory(name);
    fs::write(dir.join("file"), "canary\n").unwrap();
    dir
}

fn without_dev(config: &mut Value) {
    config["root"]["readonly"] = json!(false);
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
}

/// CVE-2016-3697, CVE-2024-40635: a user's number is looked up in an image
/// that names it as somebody else's.
#[test]
fn a_number_is_no_name_in_the_image_s_passwd() {
    let Some(case) = Case::root("a_number_is_no_name_in_the_image_s_passwd") else { return };
    let bundle = case.bundle(|config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        config["process"]["args"] = json!(["sleep", "1000"]);
    });
    fs::write(bundle.join("rootfs/etc/passwd"), "1000:x:0:0::/:/bin/sh\n").unwrap();
    let (id, pid) = case.sleeper_of("a", &bundle);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t1000\t1000\t1000\t1000"), "{status}");
    assert_eq!(case.ok(&["exec", "--user", "1000", &id, "id", "-u"]), "1000");
    case.delete(&id);
}

/// CVE-2026-30892: `exec --user 1` ran as root.
#[test]
fn exec_takes_exact_ids_only() {
    let Some(case) = Case::root("exec_takes_exact_ids_only") else { return };
    let (id, _) = case.sleeper("a", |_| {});
    for user in ["+1", "-1", "1:", ":1", "1abc", "0x1", " 1", "4294967295", "4294967296", "1:+2"] {
        let ran = case.call(&["exec", &format!("--user={user}"), &id, "id", "-u"]);
        assert_ne!(ran.code(), 0, "{user:?}: {ran:#?}");
        assert_eq!(ran.out, "", "{user:?}: {ran:#?}");
    }
    for (user, expected) in [("1", "1 0"), ("1:2", "1 2"), ("4294967294", "4294967294 0")] {
        let text = case.ok(&["exec", "--user", user, &id, "sh", "-c", "echo $(id -u) $(id -g)"]);
        assert_eq!(text, expected, "{user}");
    }
    case.delete(&id);
}

/// The same for what config.json says.
#[test]
fn a_configuration_takes_exact_ids_only() {
    for case in Case::each("a_configuration_takes_exact_ids_only") {
        for (field, value, words) in [
            ("uid", json!(u32::MAX), "process.user.uid"),
            ("gid", json!(u32::MAX), "process.user.gid"),
            ("additionalGids", json!([u32::MAX]), "process.user.additionalGids[0]"),
            ("uid", json!(1u64 << 32), "config.json: line"),
            ("uid", json!(-1), "config.json: line"),
            ("uid", json!("+1"), "config.json: line"),
            ("gid", json!("1abc"), "config.json: line"),
            ("gid", json!(""), "config.json: line"),
            ("gid", json!(1.5), "config.json: line"),
        ] {
            let ran = case.run("id -u", |config| config["process"]["user"][field] = value.clone());
            assert_eq!((ran.code(), ran.out.as_str()), (125, ""), "{field} {value}: {ran:#?}");
            assert!(ran.err.contains(words), "{field} {value}: {ran:#?}");
        }
    }
}

/// CVE-2026-57231: `NAME` or `*` copied the caller's environment.
#[test]
fn nothing_of_the_caller_s_environment_can_be_asked_for() {
    for case in Case::each("nothing_of_the_caller_s_environment_can_be_asked_for") {
        for entry in ["SECRET", "*", "", "=x"] {
            let bundle = case.bundle(|config| {
                push(&mut config["process"]["env"], json!(entry));
                shell(config, "env");
            });
            let id = case.id("a");
            let mut run = case.denovo(&["run", "-b", bundle.to_str().unwrap(), &id]);
            run.env("SECRET", "s3cret");
            let ran = case.finish(run);
            assert_eq!(ran.code(), 125, "{entry:?}: {ran:#?}");
            assert!(ran.err.contains("process.env["), "{ran:#?}");
            assert!(!ran.out.contains("s3cret") && !ran.err.contains("s3cret"), "{ran:#?}");
        }
    }
}

/// CVE-2016-9962: what is open in a process on its way in can be reached from
/// inside through /proc.
#[test]
fn descriptors_of_an_exec_cannot_be_reached_from_inside() {
    let Some(case) = Case::root("descriptors_of_an_exec_cannot_be_reached_from_inside") else {
        return;
    };
    let canary = canary(&case, "canary");
    let (id, _) = case.sleeper("a", |config| {
        config["root"]["readonly"] = json!(false);
        shell(
            config,
            "while :; do for f in /proc/[0-9]*/fd/*; do
                case $f in /proc/1/*|/proc/self/*) continue;; esac
                test -e $f/file && echo $f >> /tmp/found
                test -e $f/etc/shadow && echo $f >> /tmp/found
            done; done 2>/dev/null",
        );
    });
    let mut run = case.command("sh");
    // The caller holds directories of the node open.
    run.args([
        "-c",
        "exec 7<\"$0\" 8</; i=0; while test $i -lt 40; do \"$@\" || exit; i=$((i+1)); done",
    ]);
    run.arg(&canary).arg(binary(false)).arg("--root").arg(case.state());
    run.args(["exec", &id, "true"]);
    case.finish(run).expect(0, "exec");
    assert_eq!(case.ok(&["exec", &id, "sh", "-c", "cat /tmp/found 2>/dev/null; true"]), "");
    case.delete(&id);
}

/// CVE-2019-5736: the runtime's own program, reached through /proc/PID/exe.
#[test]
fn the_program_cannot_be_overwritten_from_inside() {
    let Some(case) = Case::root("the_program_cannot_be_overwritten_from_inside") else { return };
    let program = binary(false);
    let before = hash(&program);
    let (id, _) = case.sleeper("a", |config| {
        config["root"]["readonly"] = json!(false);
        shell(
            config,
            "while :; do for f in /proc/[0-9]*/exe; do
                case $(readlink $f) in */denovo*) (echo broken > $f) && echo $f >> /tmp/wrote;; esac
            done; done 2>/dev/null",
        );
    });
    for _ in 0..40 {
        // A script whose interpreter is the runtime itself was the way in.
        case.call(&["exec", &id, "/proc/self/exe", "--version"]);
        case.ok(&["exec", &id, "true"]);
    }
    assert_eq!(case.ok(&["exec", &id, "sh", "-c", "cat /tmp/wrote 2>/dev/null; true"]), "");
    assert_eq!(hash(&program), before);
    case.delete(&id);
}

/// CVE-2021-43784: a length that did not fit became configuration.
#[test]
fn large_configurations_are_exact_or_refused() {
    for case in Case::each("large_configurations_are_exact_or_refused") {
        let text = case.see("echo $#; env | wc -c; env | grep -c ^V", |config| {
            for number in 0..300 {
                let entry = format!("V{number}={}", "x".repeat(1000));
                push(&mut config["process"]["env"], json!(entry));
            }
        });
        let lines: Vec<usize> = text.lines().map(|l| l.parse().unwrap()).collect();
        assert!(lines[1] > 300_000 && lines[2] == 300, "{text}");
        let long = "x".repeat(131_072);
        case.run("true", |c| push(&mut c["process"]["env"], json!(format!("A={long}"))))
            .told(&["process.env["]);
        let ran = case.run("true", |config| {
            let path = format!("/{}", "n".repeat(70_000));
            crate::common::namespace(config, "ipc", Some(&path));
        });
        assert_eq!(ran.code(), 125, "{}", ran.out);
        let maps: Vec<Value> = (0..4000)
            .map(|n| json!({"containerID": n, "hostID": 100_000 + n, "size": 1}))
            .collect();
        let ran = case.run("true", |config| {
            crate::common::namespace(config, "user", None);
            config["linux"]["uidMappings"] = json!(maps);
            config["linux"]["gidMappings"] = json!(maps);
        });
        assert_eq!(ran.code(), 125, "{}", ran.out);
        assert!(ran.err.contains("linux.uidMappings"), "{}", ran.err);
    }
}

/// CVE-2022-29162, CVE-2022-27650, CVE-2025-27612.
#[test]
fn no_capability_is_inheritable() {
    let Some(case) = Case::root("no_capability_is_inheritable") else { return };
    let (id, _) = case.sleeper("a", |_| {});
    let inheritable = "grep CapInh /proc/self/status | tr -d '\\t'";
    let none = format!("CapInh:{:016}", 0);
    let exec = ["exec", "--cap", "CAP_KILL", &id, "sh", "-c", inheritable];
    assert_eq!(case.ok(&exec), none);
    assert_eq!(case.ok(&["exec", &id, "sh", "-c", inheritable]), none);
    assert_eq!(case.see(inheritable, |_| {}), none);
    case.delete(&id);
}

/// CVE-2023-25809: the node's control groups, writable without a cgroup
/// namespace.
#[test]
fn control_groups_cannot_be_written_without_a_namespace() {
    for case in Case::each("control_groups_cannot_be_written_without_a_namespace") {
        let ran = case.run(
            "cd /sys/fs/cgroup && for d in . */; do mkdir $d/dnt-escape && echo made $d; done
            find . -name release_agent | while read f; do echo /bin/x > $f && echo wrote $f; done",
            |config| {
                drop_namespace(config, "cgroup");
                let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
                    "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]});
                add_mount(config, mount);
            },
        );
        assert!(!ran.out.contains("made") && !ran.out.contains("wrote"), "{ran:#?}");
    }
}

/// CVE-2022-0492: release_agent of cgroup v1 from a process with all that a
/// container has.
#[test]
fn a_container_mounts_no_control_groups() {
    let Some(case) = Case::root("a_container_mounts_no_control_groups") else { return };
    let ran = case.run(
        "mkdir /tmp/g; for t in memory pids rdma; do mount -t cgroup -o $t x /tmp/g && echo yes; done
        mount -t cgroup2 x /tmp/g && echo yes",
        |config| config["root"]["readonly"] = json!(false),
    );
    assert!(!ran.out.contains("yes"), "{ran:#?}");
}

/// CVE-2025-31133, CVE-2025-62161: a mask made of the container's own
/// /dev/null, which is a link to a setting of the node.
#[test]
fn a_mask_is_not_what_the_container_calls_null() {
    let Some(case) = Case::root("a_mask_is_not_what_the_container_calls_null") else { return };
    let dev = case.directory("dev");
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap();
    let before = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let ran = case.run("cat /proc/timer_list /etc/hidden; echo x > /proc/timer_list", |config| {
        config["linux"]["maskedPaths"] = json!(["/proc/timer_list"]);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        add_mount(config, json!({"destination": "/dev", "source": dev, "options": ["bind"]}));
    });
    assert_eq!(ran.out, "", "{ran:#?}");
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
}

/// CVE-2025-52881, CVE-2019-16884: writes of the runtime to procfs, led to
/// another of its files.
#[test]
fn writes_to_procfs_go_nowhere_else() {
    let Some(case) = Case::root("writes_to_procfs_go_nowhere_else") else { return };
    let (pattern, other) = ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness");
    let before = (fs::read(pattern).unwrap(), fs::read(other).unwrap());
    for (destination, source) in [
        ("/proc/sys/net/ipv4/ip_forward", pattern),
        ("/proc/self/oom_score_adj", other),
        ("/proc/self/attr/exec", other),
        ("/proc", "/tmp"),
        ("/proc/sys", "/tmp"),
    ] {
        let ran = case.run("true", |config| {
            config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
            config["process"]["oomScoreAdj"] = json!(100);
            add_mount(
                config,
                json!({"destination": destination, "source": source, "options": ["bind"]}),
            );
        });
        ran.told(&["mounts[7].destination", "proc"]);
    }
    // A root whose own /proc holds links is covered by the real one first.
    let bundle = case.bundle(|config| {
        config["process"]["oomScoreAdj"] = json!(123);
        shell(config, "cat /proc/self/oom_score_adj");
    });
    fs::create_dir_all(bundle.join("rootfs/proc/self")).unwrap();
    symlink(other, bundle.join("rootfs/proc/self/oom_score_adj")).unwrap();
    assert_eq!(case.run_bundle(&bundle).out(), "123");
    assert_eq!((fs::read(pattern).unwrap(), fs::read(other).unwrap()), before);
}

/// CVE-2026-41579, CVE-2026-47766: a root whose /dev is a link.
#[test]
fn a_dev_that_is_a_link_is_refused() {
    for case in Case::each("a_dev_that_is_a_link_is_refused") {
        let canary = canary(&case, "canary");
        for own_mount in [true, false] {
            for target in [canary.to_str().unwrap(), "/tmp", "dangling", "../../../../.."] {
                let bundle = case.bundle(|config| {
                    shell(config, "ls /tmp");
                    if !own_mount {
                        without_dev(config);
                    }
                });
                let rootfs = bundle.join("rootfs");
                symlink(target, rootfs.join("dev")).unwrap();
                let ran = case.run_bundle(&bundle);
                ran.refused(&["/dev", "link"]);
                assert_untouched(&canary);
                assert!(fs::read_dir(rootfs.join("tmp")).unwrap().next().is_none(), "{target}");
                assert!(!rootfs.join("dangling").exists());
            }
        }
    }
}

/// CVE-2025-24965: links at every path that the runtime itself writes to.
#[test]
fn links_where_the_runtime_writes_lead_nowhere() {
    let Some(case) = Case::root("links_where_the_runtime_writes_lead_nowhere") else { return };
    let canary = canary(&case, "canary");
    let bundle = case.bundle(|config| {
        without_dev(config);
        push(
            &mut config["linux"]["devices"],
            json!({"path": "/dev/sub/fuse", "type": "c", "major": 10, "minor": 229}),
        );
        add_mount(config, json!({"destination": "/lnk/sub", "type": "tmpfs", "source": "x"}));
        shell(config, "echo overwritten > /dev/null; ls /lnk");
    });
    let rootfs = bundle.join("rootfs");
    fs::create_dir(rootfs.join("dev")).unwrap();
    let file = canary.join("file");
    for name in ["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "fd"] {
        symlink(&file, rootfs.join("dev").join(name)).unwrap();
    }
    symlink(&canary, rootfs.join("dev/sub")).unwrap();
    symlink(&canary, rootfs.join("lnk")).unwrap();
    case.run_bundle(&bundle);
    assert_untouched(&canary);
}

/// CVE-2025-52565: a terminal whose place in /dev is a link.
#[test]
fn a_terminal_is_bound_over_no_link_of_the_node_s() {
    let Some(case) = Case::root("a_terminal_is_bound_over_no_link_of_the_node_s") else { return };
    let canary = canary(&case, "canary");
    let dev = case.directory("dev");
    symlink(canary.join("file"), dev.join("console")).unwrap();
    let bundle = case.bundle(|config| {
        config["process"]["terminal"] = json!(true);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != "/dev");
        let bind = json!({"destination": "/dev", "source": dev, "options": ["bind"]});
        mounts.insert(0, bind);
        shell(config, "echo overwritten > /dev/console");
    });
    case.run_bundle(&bundle);
    assert_untouched(&canary);
}

/// GHSA-7ww5-4wqc-m92c: energy counters tell a neighbour's secrets.
#[test]
fn energy_counters_cannot_be_read() {
    for case in Case::each("energy_counters_cannot_be_read") {
        let masked = "/sys/devices/virtual/powercap";
        let ran = case.run(&format!("ls {masked} 2>/dev/null; true"), |config| {
            let paths = config["linux"]["maskedPaths"].as_array().unwrap();
            assert!(paths.contains(&json!(masked)), "{paths:?}");
        });
        assert_eq!(ran.out(), "", "{ran:#?}");
    }
}
