//! `mounts`, the root and its propagation, as seen from inside.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::common::{Case, add_mount, namespace};

/// Line of a mount point in /proc/self/mountinfo: its own options, its
/// propagation, its file system, that one's options.
fn seen(case: &Case, at: &str, change: impl FnOnce(&mut Value)) -> String {
    case.see(&format!("grep ' {at} ' /proc/self/mountinfo"), change)
}

fn options(line: &str) -> Vec<&str> {
    line.split(' ').nth(5).unwrap().split(',').collect()
}

#[test]
fn flags_of_a_new_file_system_are_set() {
    for case in Case::each("flags_of_a_new_file_system_are_set") {
        let all = ["ro", "nosuid", "nodev", "noexec", "noatime"];
        let line = seen(&case, "/tmp/new", |config| {
            add_mount(
                config,
                json!({"destination": "/tmp/new", "type": "tmpfs", "source": "mine",
                "options": all}),
            );
        });
        assert_eq!(options(&line), all);
        assert!(line.contains("- tmpfs mine "), "{line}");
        let line = seen(&case, "/tmp/new", |config| {
            add_mount(
                config,
                json!({"destination": "/tmp/new", "type": "tmpfs", "source": "mine",
                "options": ["rw", "suid", "strictatime"]}),
            );
        });
        assert_eq!(options(&line)[0], "rw");
        for absent in ["nosuid", "nodev", "noexec", "relatime"] {
            assert!(!options(&line).contains(&absent), "{line}");
        }
    }
}

#[test]
fn data_of_a_file_system_reaches_it() {
    for case in Case::each("data_of_a_file_system_reaches_it") {
        let script = "stat -c %a /tmp/new; df -k /tmp/new | tail -n 1; df -i /tmp/new | tail -n 1";
        let text = case.see(script, |config| {
            add_mount(
                config,
                json!({"destination": "/tmp/new", "type": "tmpfs", "source": "sized",
                "options": ["mode=1770", "size=128k", "nr_inodes=7"]}),
            );
        });
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["1770"]);
        assert_eq!(lines[1][1], "128");
        assert_eq!(lines[2][1], "7");
    }
}

#[test]
fn a_bind_has_its_own_flags_and_a_plain_one_leaves_what_is_below_out() {
    let Some(case) =
        Case::root("a_bind_has_its_own_flags_and_a_plain_one_leaves_what_is_below_out")
    else {
        return;
    };
    let source = outer(&case);
    for (kind, below) in [("bind", 0), ("rbind", 1)] {
        let script = "ls /mnt | tr '\\n' ' '; ls /mnt/below | wc -l; grep ' /mnt ' /proc/self/mountinfo; \
            echo x > /mnt/x";
        let ran = in_private(&case, &source, script, &[kind, "ro", "nosuid", "nodev", "noexec"]);
        assert!(ran.err.contains("Read-only file system"), "{ran:#?}");
        let lines = ran.lines();
        assert_eq!(lines[0], format!("below file {below}"), "{kind}");
        for flag in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(options(lines[1]).contains(&flag), "{lines:?}");
        }
        assert!(!source.join("x").exists());
    }
}

#[test]
fn a_recursive_flag_reaches_what_is_mounted_below() {
    let Some(case) = Case::root("a_recursive_flag_reaches_what_is_mounted_below") else { return };
    let source = outer(&case);
    let script =
        "touch /mnt/below/y 2>/dev/null && echo below; touch /mnt/y 2>/dev/null && echo top; true";
    for (flags, expected) in [
        (&["rbind", "ro"][..], "below"),
        (&["rbind", "rro"][..], ""),
        (&["rbind", "rw"][..], "below\ntop"),
    ] {
        let ran = in_private(&case, &source, script, flags).expect(0, "rbind");
        assert_eq!(ran.out(), expected, "{flags:?}");
    }
}

/// A directory on which the wrapper of `in_private` mounts a tmpfs.
fn outer(case: &Case) -> std::path::PathBuf {
    let source = case.directory("source");
    fs::create_dir(source.join("below")).unwrap();
    fs::write(source.join("file"), "").unwrap();
    source
}

/// Runs in a mount namespace of the test's own, with a tmpfs on source/below.
fn in_private(
    case: &Case,
    source: &std::path::Path,
    script: &str,
    flags: &[&str],
) -> crate::common::Ran {
    let bundle = case.bundle(|config| {
        crate::common::shell(config, script);
        add_mount(config, json!({"destination": "/mnt", "source": source, "options": flags}));
    });
    let mut run = case.command("unshare");
    run.args(["--mount", "sh", "-c"]);
    run.arg("mount -t tmpfs x \"$0/below\" && touch \"$0/below/inner\" && exec \"$@\"").arg(source);
    run.arg(crate::common::binary(false)).arg("--root").arg(case.state());
    run.args(["run", "-b", bundle.to_str().unwrap(), &case.id(&flags.join("-"))]);
    case.finish(run)
}

#[test]
fn a_file_is_bound_onto_a_file() {
    for case in Case::each("a_file_is_bound_onto_a_file") {
        let source = case.file("source", "bound\n");
        let text = case.see("cat /etc/new/file; echo more >> /etc/new/file", |config| {
            config["root"]["readonly"] = json!(false);
            add_mount(
                config,
                json!({"destination": "/etc/new/file", "source": source, "options": ["bind"]}),
            );
        });
        assert_eq!(text, "bound");
        assert_eq!(fs::read_to_string(source).unwrap(), "bound\nmore\n");
    }
}

#[test]
fn the_root_is_read_only_where_that_is_asked() {
    for case in Case::each("the_root_is_read_only_where_that_is_asked") {
        let script = "touch /etc/x 2>/dev/null && echo written; grep ' / / \\|rootfs / ' /proc/self/mountinfo";
        for (readonly, flag) in [(true, "ro"), (false, "rw")] {
            let text = case.see(script, |config| config["root"]["readonly"] = json!(readonly));
            assert_eq!(text.starts_with("written"), !readonly);
            assert_eq!(options(text.lines().last().unwrap())[0], flag, "{text}");
        }
    }
}

#[test]
fn propagation_of_the_root_and_of_mounts() {
    let Some(case) = Case::root("propagation_of_the_root_and_of_mounts") else { return };
    // Where the node's own root is shared, what is shared inside is its slave.
    let optional = |line: &str| -> Vec<String> {
        let fields = line.split(' ').skip(6).take_while(|f| *f != "-");
        let fields = fields.filter(|f| !f.starts_with("master:"));
        fields.map(|f| f.split(':').next().unwrap().to_owned()).collect()
    };
    for (asked, expected) in
        [("shared", &["shared"][..]), ("private", &[]), ("unbindable", &["unbindable"])]
    {
        let text = case.see("grep 'rootfs / ' /proc/self/mountinfo", |config| {
            config["linux"]["rootfsPropagation"] = json!(asked);
        });
        // Where the node's own root is shared, a shared root stays its receiver.
        let mut found = optional(&text);
        found.retain(|field| asked != "shared" || field != "master");
        assert_eq!(found, expected, "{asked}: {text}");
        let line = seen(&case, "/tmp/new", |config| {
            add_mount(
                config,
                json!({"destination": "/tmp/new", "type": "tmpfs", "source": "new",
                "options": [asked]}),
            );
        });
        assert_eq!(optional(&line), expected, "{asked}: {line}");
    }
}

#[test]
fn mounts_inside_do_not_show_on_the_node() {
    let Some(case) = Case::root("mounts_inside_do_not_show_on_the_node") else { return };
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (id, pid) = case.sleeper("a", |_| {});
    let during = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let new = during.lines().filter(|l| !before.contains(*l) && l.contains(&case.name));
    assert_eq!(new.count(), 0);
    let inner = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert!(inner.contains("/dev/mqueue"), "{inner}");
    // Nothing of the node's own mounts is left in there.
    let roots = inner.lines().filter(|l| l.split(' ').nth(4) == Some("/")).count();
    assert_eq!(roots, 1, "{inner}");
    case.delete(&id);
}

#[test]
fn the_default_mounts_are_there() {
    let Some(case) = Case::root("the_default_mounts_are_there") else { return };
    let text = case.see("cut -d' ' -f5- /proc/self/mountinfo", |_| {});
    for (at, fstype, flags) in [
        ("/proc", "proc", &["rw", "relatime"][..]),
        ("/dev", "tmpfs", &["rw", "nosuid"]),
        ("/dev/pts", "devpts", &["rw", "nosuid", "noexec", "relatime"]),
        ("/dev/shm", "tmpfs", &["rw", "nosuid", "nodev", "noexec", "relatime"]),
        ("/dev/mqueue", "mqueue", &["rw", "nosuid", "nodev", "noexec", "relatime"]),
        ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec", "relatime"]),
    ] {
        let line = text.lines().find(|l| l.split(' ').next() == Some(at));
        let line = line.unwrap_or_else(|| panic!("no {at} in {text}"));
        assert_eq!(line.split(' ').nth(1).unwrap(), flags.join(","), "{at}");
        assert!(line.contains(&format!(" - {fstype} ")), "{line}");
    }
}

/// As engines ask for it where the network is the node's: /sys bound, and on the
/// cgroup2 that comes with it the container's own.
#[test]
fn own_groups_are_mounted_over_the_node_s() {
    let name = "own_groups_are_mounted_over_the_node_s";
    let Some(case) = Case::root(name) else { return };
    let bundle = case.bundle(|config| {
        for kind in ["user", "cgroup"] {
            crate::common::namespace(config, kind, None);
        }
        crate::common::drop_namespace(config, "network");
        let map = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/sys"));
        let options = json!(["nosuid", "noexec", "nodev", "ro"]);
        for (at, kind, source) in [("/sys", "none", "/sys"), ("/sys/fs/cgroup", "cgroup", "cgroup")]
        {
            let mut options = options.clone();
            if kind == "none" {
                crate::common::push(&mut options, json!("rbind"));
            }
            add_mount(
                config,
                json!({"destination": at, "type": kind, "source": source, "options": options}),
            );
        }
        crate::common::shell(
            config,
            "grep -c . /sys/fs/cgroup/cgroup.procs; grep ' /sys/fs/cgroup ' /proc/self/mountinfo",
        );
    });
    // Where the node has cgroup v1 there, a view of our own that has not.
    let script = "stat -f -c %T /sys/fs/cgroup | grep -q cgroup2 ||
        mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let mut command = case.command("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    let run = case.denovo(&["run", "--bundle", bundle.to_str().unwrap(), &case.id("a")]);
    command.arg(run.get_program()).args(run.get_args());
    let ran = case.finish(command).expect(0, "run");
    let lines = ran.lines();
    // Its own processes only: those of the node's root group are many more.
    assert!(lines[0].parse::<u32>().unwrap() <= 3, "{ran:#?}");
    let last = lines.last().unwrap();
    assert!(last.contains("ro,nosuid,nodev,noexec") && last.contains("cgroup2"), "{ran:#?}");
}

/// OCI config.md, "Mounts": the runtime must mount entries in the listed order.
#[test]
fn mounts_are_made_in_the_listed_order() {
    let Some(case) = Case::root("mounts_are_made_in_the_listed_order") else { return };
    let text = case.see("cut -d' ' -f5 /proc/self/mountinfo; ls -A /tmp", |config| {
        for at in ["/tmp/hidden", "/sys/fs/cgroup", "/tmp", "/tmp/seen"] {
            add_mount(config, json!({"destination": at, "type": "tmpfs", "source": at}));
        }
    });
    let lines: Vec<&str> = text.lines().collect();
    let place = |at: &str| lines.iter().position(|l| *l == at).unwrap_or_else(|| panic!("{text}"));
    for pair in ["/proc", "/dev", "/sys", "/sys/fs/cgroup", "/tmp", "/tmp/seen"].windows(2) {
        assert!(place(pair[0]) < place(pair[1]), "{pair:?}: {text}");
    }
    assert_eq!(lines.last(), Some(&"seen"), "{text}");
}

#[test]
fn a_file_system_s_options_mean_nothing_to_a_bind_mount() {
    let Some(case) = Case::root("a_file_system_s_options_mean_nothing_to_a_bind_mount") else {
        return;
    };
    let source = case.directory("source");
    fs::write(source.join("word"), "seen").unwrap();
    let ran = case.run("cat /tmp/word", |config| {
        add_mount(
            config,
            json!({"destination": "/tmp", "source": source,
                "options": ["bind", "mode=755", "size=1k"]}),
        );
    });
    assert_eq!(ran.out(), "seen", "{ran:#?}");
    assert!(ran.err.contains("warning: mounts[") && ran.err.contains("size=1k"), "{ran:#?}");
}

#[test]
fn the_own_groups_are_seen_read_only() {
    let Some(case) = Case::root("the_own_groups_are_seen_read_only") else { return };
    // Below the hierarchy, or as its root, as runc shows it.
    let script = "cd /sys/fs/cgroup; test -d pids && cd pids
        own=$(sed -n 's/.*:pids:/./p; s/^0::/./p' /proc/self/cgroup | head -n 1)
        test -d $own && cd $own; cat pids.max; echo 5 > pids.max";
    let ran = case.run(script, |config| {
        config["linux"]["resources"]["pids"] = json!({"limit": 77});
        config["process"]["capabilities"]["bounding"] =
            json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    });
    assert_eq!(ran.out(), "77", "{ran:#?}");
    assert_ne!(ran.code(), 0, "{ran:#?}");
}

#[test]
fn masked_and_read_only_paths_are_that() {
    for case in Case::each("masked_and_read_only_paths_are_that") {
        let bundle = case.bundle(|config| {
            config["root"]["readonly"] = json!(false);
            config["linux"]["maskedPaths"] =
                json!(["/etc/secret", "/etc/hidden", "/etc/none", "/proc/timer_list"]);
            config["linux"]["readonlyPaths"] = json!(["/etc/fixed", "/etc/plain", "/etc/none"]);
            crate::common::shell(
                config,
                "cat /etc/secret; ls -A /etc/hidden; cat /proc/timer_list
                for f in /etc/fixed/file /etc/plain /etc/secret /etc/hidden/new; do
                    (echo no > $f) 2>/dev/null && echo wrote $f; done
                cat /etc/fixed/file /etc/plain",
            );
        });
        let etc = bundle.join("rootfs/etc");
        for dir in ["hidden", "fixed"] {
            fs::create_dir(etc.join(dir)).unwrap();
        }
        for (file, text) in
            [("secret", "s\n"), ("hidden/h", "h\n"), ("fixed/file", "f\n"), ("plain", "p\n")]
        {
            fs::write(etc.join(file), text).unwrap();
            case.give(&etc.join(file));
        }
        let ran = case.run_bundle(&bundle).expect(0, "paths");
        // The null device takes what is written to it.
        assert_eq!(ran.out(), "wrote /etc/secret\nf\np", "{ran:#?}");
        assert_eq!(fs::read_to_string(etc.join("secret")).unwrap(), "s\n");
    }
}

#[test]
fn destinations_are_resolved_inside_the_root() {
    for case in Case::each("destinations_are_resolved_inside_the_root") {
        let canary = case.directory("canary");
        let (up, here) = (format!("../../../../../../..{}", canary.display()), canary.display());
        for target in ["/tmp", &here.to_string(), &up] {
            let note = case.file("note", "n\n");
            let bundle = case.bundle(|config| {
                config["root"]["readonly"] = json!(false);
                add_mount(
                    config,
                    json!({"destination": "/link/tmpfs", "type": "tmpfs", "source": "x"}),
                );
                add_mount(
                    config,
                    json!({"destination": "/link/file", "source": note, "options": ["bind"]}),
                );
                crate::common::shell(config, "cat /link/file");
            });
            symlink(target, bundle.join("rootfs/link")).unwrap();
            let ran = case.run_bundle(&bundle).expect(0, target);
            assert_eq!(ran.out(), "n");
            // What was missing was made inside, where the link leads there.
            assert_eq!(fs::read_dir(&canary).unwrap().count(), 0, "{target}");
        }
    }
}

#[test]
fn proc_and_sys_through_links_are_refused() {
    for case in Case::each("proc_and_sys_through_links_are_refused") {
        let canary = case.directory("canary");
        for name in ["proc", "sys"] {
            if name == "sys" && case.is_rootless() {
                continue; // a bind of the node's own, like any other
            }
            for target in [canary.to_str().unwrap(), "/tmp", "dangling"] {
                let bundle = case.bundle(|config| crate::common::shell(config, "ls /tmp"));
                symlink(target, bundle.join("rootfs").join(name)).unwrap();
                case.run_bundle(&bundle).refused(&[name]);
                assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
            }
        }
    }
}

#[test]
fn mounts_onto_proc_are_refused() {
    let Some(case) = Case::root("mounts_onto_proc_are_refused") else { return };
    for destination in ["/proc/sys", "/proc/self/attr", "/proc/1"] {
        let ran = case.run("true", |config| {
            add_mount(config, json!({"destination": destination, "type": "tmpfs", "source": "x"}));
        });
        ran.told(&["mounts[7]", destination]);
    }
}

#[test]
fn a_root_that_shares_the_node_s_propagation_leaks_nothing() {
    let Some(case) = Case::root("a_root_that_shares_the_node_s_propagation_leaks_nothing") else {
        return;
    };
    // The node's root is shared on most machines (systemd); here in a mount
    // namespace of the test's own.
    let bundle = case.bundle(|config| {
        namespace(config, "mount", None);
        crate::common::shell(config, "true");
    });
    let mut run = case.command("unshare");
    // Private first, so that what others mount meanwhile does not show.
    run.args(["--mount", "--propagation", "private", "sh", "-c"]);
    run.arg("mount --make-rshared /; before=$(wc -l < /proc/self/mountinfo); \"$@\" || exit; test $(wc -l < /proc/self/mountinfo) = $before");
    run.arg("sh").arg(crate::common::binary(false)).arg("--root").arg(case.state());
    run.args(["run", "-b", bundle.to_str().unwrap(), &case.id("a")]);
    case.finish(run).expect(0, "shared root");
}

#[test]
fn a_destination_that_is_swapped_meanwhile_leads_nowhere_else() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let Some(case) = Case::root("a_destination_that_is_swapped_meanwhile_leads_nowhere_else")
    else {
        return;
    };
    // CVE-2021-30465, CVE-2024-45310: another container that shares the
    // root exchanges a directory and a link to the node's.
    let canary = case.directory("canary");
    let bundle = case.bundle(|config| {
        config["root"]["readonly"] = json!(false);
        add_mount(config, json!({"destination": "/a/new/sub", "type": "tmpfs", "source": "x"}));
        add_mount(
            config,
            json!({"destination": "/a/bound", "source": canary, "options": ["bind", "ro"]}),
        );
        crate::common::shell(config, "ls /a/new/sub; ls /a/bound");
    });
    let (a, b) = (bundle.join("rootfs/a"), bundle.join("rootfs/b"));
    fs::create_dir(&a).unwrap();
    symlink(&canary, &b).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        let found: Vec<String> = (0..60)
            .map(|_| {
                case.run_bundle(&bundle);
                let made = fs::read_dir(&canary).unwrap().flatten();
                made.map(|e| e.path().display().to_string()).collect::<String>()
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(found.concat(), "", "made on the node");
    });
}

#[test]
fn a_tmpfs_starts_with_what_it_covers() {
    use std::os::unix::fs::PermissionsExt;
    for case in Case::each("a_tmpfs_starts_with_what_it_covers") {
        let bundle = case.bundle(|config| {
            crate::common::shell(
                config,
                "cat /etc/app/conf /etc/app/sub/more; readlink /etc/app/link
                stat -c '%a %u' /etc/app/conf /etc/app/sub; echo new > /etc/app/conf
                cat /etc/app/conf; grep -c ' /etc/app .* - tmpfs ' /proc/self/mountinfo",
            );
            add_mount(
                config,
                json!({"destination": "/etc/app", "type": "tmpfs", "source": "x",
                    "options": ["tmpcopyup", "mode=755"]}),
            );
        });
        let app = bundle.join("rootfs/etc/app");
        fs::create_dir_all(app.join("sub")).unwrap();
        fs::write(app.join("conf"), "old\n").unwrap();
        fs::write(app.join("sub/more"), "more\n").unwrap();
        symlink("/nowhere", app.join("link")).unwrap();
        fs::set_permissions(app.join("conf"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(app.join("sub"), fs::Permissions::from_mode(0o750)).unwrap();
        for path in ["", "sub", "conf", "sub/more", "link"] {
            case.give(&app.join(path));
        }
        let ran = case.run_bundle(&bundle).expect(0, "tmpcopyup");
        assert_eq!(ran.out(), "old\nmore\n/nowhere\n640 0\n750 0\nnew\n1", "{ran:#?}");
        assert_eq!(fs::read_to_string(app.join("conf")).unwrap(), "old\n");
    }
}
