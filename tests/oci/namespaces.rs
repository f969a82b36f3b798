//! `linux.namespaces`: new ones, shared ones, joined ones; user namespaces
//! and their maps; clocks.

use std::fs;

use serde_json::json;

use crate::common::{Case, add_mount, drop_namespace, namespace};

/// Names in config.json and in /proc/PID/ns.
const KINDS: [(&str, &str); 8] = [
    ("user", "user"),
    ("cgroup", "cgroup"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("network", "net"),
    ("pid", "pid"),
    ("time", "time"),
    ("mount", "mnt"),
];

fn of(pid: &str, name: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().to_string_lossy().into_owned()
}

fn inside(names: &[&str]) -> String {
    format!("for n in {}; do readlink /proc/self/ns/$n; done", names.join(" "))
}

#[test]
fn listed_namespaces_are_new_and_others_shared() {
    for case in Case::each("listed_namespaces_are_new_and_others_shared") {
        let listed: &[&str] = if case.is_rootless() {
            &["user", "ipc", "uts", "pid", "mnt"]
        } else {
            &["ipc", "uts", "net", "pid", "mnt"]
        };
        let names = KINDS.map(|(_, name)| name);
        // The default on a node with cgroup v2 alone has one more.
        let text = case.see(&inside(&names), |config| drop_namespace(config, "cgroup"));
        for (link, name) in text.lines().zip(names) {
            assert_eq!(link != of("self", name), listed.contains(&name), "{name} {link}");
        }
    }
}

#[test]
fn every_kind_can_be_new() {
    for case in Case::each("every_kind_can_be_new") {
        let names = KINDS.map(|(_, name)| name);
        let text = case.see(&inside(&names), |config| {
            for (kind, _) in KINDS {
                namespace(config, kind, None);
            }
            if !case.is_rootless() {
                let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
                config["linux"]["uidMappings"] = map.clone();
                config["linux"]["gidMappings"] = map;
            }
        });
        assert_eq!(text.lines().count(), 8);
        for (link, name) in text.lines().zip(names) {
            assert_ne!(link, of("self", name), "{name}");
        }
    }
}

#[test]
fn a_namespace_that_is_not_listed_is_the_caller_s() {
    let Some(case) = Case::root("a_namespace_that_is_not_listed_is_the_caller_s") else { return };
    for (kind, name) in [("ipc", "ipc"), ("uts", "uts"), ("network", "net"), ("pid", "pid")] {
        let text = case.see(&inside(&[name]), |config| {
            drop_namespace(config, kind);
            if kind == "uts" {
                config["hostname"] = json!(null);
            }
            if kind == "network" {
                // sysfs belongs to a network namespace, root's may be mounted.
                config["linux"]["sysctl"] = json!({});
            }
        });
        assert_eq!(text, of("self", name), "{kind}");
    }
}

/// What a container without a mount namespace mounts is its own all the same:
/// neither the node nor another container sees it, while it runs or after.
#[test]
fn without_a_mount_namespace_nothing_is_mounted_on_the_node() {
    let Some(case) = Case::root("without_a_mount_namespace_nothing_is_mounted_on_the_node") else {
        return;
    };
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    for no_pivot in [false, true] {
        let before = mounts();
        let bundle = case.bundle(|config| {
            config["process"]["args"] = json!(["sleep", "1000"]);
            drop_namespace(config, "mount");
            add_mount(config, json!({"destination": "/own", "type": "tmpfs", "source": "t"}));
        });
        let id = case.id("shares");
        let mut create = vec!["create", "--bundle", bundle.to_str().unwrap()];
        create.extend(no_pivot.then_some("--no-pivot"));
        create.push(&id);
        case.finish(case.denovo(&create)).expect(0, "create");
        case.ok(&["start", &id]);
        let state = case.query(&id);
        assert_eq!(of(&state["pid"].to_string(), "mnt"), of("self", "mnt"));
        let see = |script: &str| case.ok(&["exec", &id, "sh", "-c", script]);
        // A tmpfs and a /proc of its own, and masks over that.
        see("echo x >/own/file; ps -o args | grep -q '[s]leep 1000'");
        assert_eq!(see("cat /own/file; wc -c </proc/keys"), "x\n0");
        assert_eq!(see("readlink /proc/self/ns/mnt"), of("self", "mnt"));
        assert_eq!(see("ls /bin/busybox; pwd"), "/bin/busybox\n/");
        assert!(!bundle.join("rootfs/own/file").exists());
        assert_eq!(mounts(), before);
        case.delete(&id);
        assert_eq!(mounts(), before);
        fs::remove_dir_all(bundle).unwrap();
    }
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    case.run("true", |config| {
        drop_namespace(config, "mount");
        namespace(config, "user", None);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
    })
    .refused(&["linux.namespaces", "another user namespace", "{\"type\": \"mount\"}"]);
}

#[test]
fn each_kind_can_be_joined_by_path() {
    let Some(case) = Case::root("each_kind_can_be_joined_by_path") else { return };
    let (id, pid) = case.sleeper("other", |config| {
        for kind in ["cgroup", "time"] {
            namespace(config, kind, None);
        }
        config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 5000}});
    });
    for (kind, name) in KINDS.iter().filter(|(kind, _)| !["user", "mount"].contains(kind)) {
        let text = case.see(&inside(&[name]), |config| {
            namespace(config, kind, Some(&format!("/proc/{pid}/ns/{name}")));
            if *kind == "uts" {
                config["hostname"] = json!(null);
            }
        });
        assert_eq!(text, of(&pid.to_string(), name), "{kind}");
        assert_ne!(text, of("self", name), "{kind}");
    }
    case.delete(&id);
}

#[test]
fn a_pid_namespace_joined_shows_the_other_s_processes() {
    let Some(case) = Case::root("a_pid_namespace_joined_shows_the_other_s_processes") else {
        return;
    };
    let (id, pid) = case.sleeper("other", |_| {});
    let text = case.see("ps -o pid,args | grep '[s]leep 1000'; test $$ != 1", |config| {
        namespace(config, "pid", Some(&format!("/proc/{pid}/ns/pid")));
    });
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["1", "sleep", "1000"]);
    // The other is not ours to end.
    assert_eq!(case.query(&id)["status"], "running");
    case.delete(&id);
}

#[test]
fn a_mount_namespace_joined_has_the_other_s_mounts() {
    let Some(case) = Case::root("a_mount_namespace_joined_has_the_other_s_mounts") else { return };
    let (id, pid) = case.sleeper("other", |_| {});
    let bundle = case.bundle(|config| {
        // With the pid namespace that the other's /proc shows.
        namespace(config, "pid", Some(&format!("/proc/{pid}/ns/pid")));
        namespace(config, "mount", Some(&format!("/proc/{pid}/ns/mnt")));
        config["mounts"] = json!([]);
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
        config["root"] = json!({"path": "/"});
        crate::common::shell(config, "readlink /proc/self/ns/mnt");
    });
    let ran = case.run_bundle(&bundle).expect(0, "joined");
    assert_eq!(ran.out(), of(&pid.to_string(), "mnt"));
    assert_eq!(case.query(&id)["status"], "running");
    case.delete(&id);
}

#[test]
fn a_user_namespace_can_be_joined_with_its_maps() {
    for case in Case::each("a_user_namespace_can_be_joined_with_its_maps") {
        let other = case.bundle(|config| {
            config["process"]["args"] = json!(["sleep", "1000"]);
            if !case.is_rootless() {
                namespace(config, "user", None);
                let map = json!([{"containerID": 0, "hostID": 300_000, "size": 65536}]);
                config["linux"]["uidMappings"] = map.clone();
                config["linux"]["gidMappings"] = map;
            }
        });
        let bundle = case.bundle(|_| {});
        if !case.is_rootless() {
            for bundle in [&other, &bundle] {
                crate::common::own(&bundle.join("rootfs"), 300_000);
            }
        }
        let (id, pid) = case.sleeper_of("other", &other);
        std::fs::remove_file(bundle.join("config.json")).unwrap();
        case.configure(&bundle, |config| {
            let script = inside(&["user"]) + "; cat /proc/self/uid_map; id -u";
            crate::common::shell(config, &script);
            namespace(config, "user", Some(&format!("/proc/{pid}/ns/user")));
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([]);
            }
        });
        let text = case.run_bundle(&bundle).expect(0, "joined").out();
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
        let words: Vec<&str> = map.split_whitespace().collect();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], of(&pid.to_string(), "user"));
        // The outside half is shown as the reader's namespace has it.
        assert_eq!(lines[1].split_whitespace().next(), Some(words[0]));
        assert_eq!(lines[2], "0");
        case.delete(&id);
    }
}

#[test]
fn maps_of_a_user_namespace_are_as_configured() {
    let Some(case) = Case::root("maps_of_a_user_namespace_are_as_configured") else { return };
    let place = case.directory("place");
    fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let script = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; id -g; \
        touch /tmp/place/file";
    let bundle = case.bundle(|config| {
        crate::common::shell(config, script);
        namespace(config, "user", None);
        config["linux"]["uidMappings"] = json!([
            {"containerID": 0, "hostID": 300_000, "size": 10},
            {"containerID": 10, "hostID": 400_000, "size": 5},
        ]);
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 500_000, "size": 20}]);
        config["process"]["user"] = json!({"uid": 12, "gid": 7});
        add_mount(
            config,
            json!({"destination": "/tmp/place", "source": place, "options": ["bind"]}),
        );
    });
    crate::common::own(&bundle.join("rootfs"), 300_000);
    fs::create_dir(bundle.join("rootfs/tmp/place")).unwrap();
    let text = case.run_bundle(&bundle).expect(0, "maps").out();
    assert_eq!(text, " 0 300000 10\n 10 400000 5\n 0 500000 20\n12\n7");
    let file = fs::metadata(place.join("file")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((file.uid(), file.gid()), (400_002, 500_007));
}

#[test]
fn clocks_have_their_offsets() {
    for case in Case::each("clocks_have_their_offsets") {
        let uptime = || -> f64 {
            let text = fs::read_to_string("/proc/uptime").unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        let before = uptime();
        let script = "cat /proc/self/timens_offsets | tr -s ' '; cut -d' ' -f1 /proc/uptime";
        let text = case.see(script, |config| {
            namespace(config, "time", None);
            config["linux"]["timeOffsets"] = json!({
                "monotonic": {"secs": 86_400, "nanosecs": 5}, "boottime": {"secs": 100_000},
            });
        });
        let lines: Vec<&str> = text.lines().collect();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(lines[0]), ["monotonic", "86400", "5"]);
        assert_eq!(words(lines[1]), ["boottime", "100000", "0"]);
        let shown: f64 = lines[2].parse().unwrap();
        assert!(shown - before >= 99_999.0 && shown <= uptime() + 100_001.0, "{before} {shown}");
    }
}

/// The ids of the user namespace may search neither directory; the caller may.
#[test]
fn a_mapped_root_needs_no_way_to_its_bundle() {
    use std::os::unix::fs::PermissionsExt;
    let Some(case) = Case::root("a_mapped_root_needs_no_way_to_its_bundle") else { return };
    for time in [false, true] {
        let bundle = case.bundle(|config| {
            namespace(config, "user", None);
            let map = json!([{"containerID": 0, "hostID": 70_000, "size": 1000}]);
            config["linux"]["uidMappings"] = map.clone();
            config["linux"]["gidMappings"] = map;
            if time {
                namespace(config, "time", None);
                config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 5000}});
            }
            let source = case.directory("closed/within");
            fs::write(source.join("word"), "seen").unwrap();
            add_mount(
                config,
                json!({"destination": "/tmp", "source": source, "options": ["rbind", "ro"]}),
            );
            crate::common::shell(config, "cat /tmp/word; cat /proc/self/timens_offsets");
        });
        for name in ["proc", "dev", "sys"] {
            fs::create_dir(bundle.join("rootfs").join(name)).unwrap();
        }
        for dir in [&bundle, &case.dir.join("closed")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let ran = case.run_bundle(&bundle).expect(0, "run");
        assert!(ran.out.starts_with("seen"), "{ran:#?}");
        let boottime: Vec<&str> = ran.out.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(boottime, ["boottime", if time { "5000" } else { "0" }, "0"], "{ran:#?}");
    }
}

#[test]
fn a_cgroup_namespace_hides_where_the_group_is() {
    let Some(case) = Case::root("a_cgroup_namespace_hides_where_the_group_is") else { return };
    let text = case.see("cat /proc/self/cgroup", |config| namespace(config, "cgroup", None));
    let whole = if crate::common::v1_directory("pids").is_some() { ":pids:/" } else { "0::/" };
    assert!(text.lines().any(|l| l.ends_with(whole)), "{text}");
    let shared = case.see("cat /proc/self/cgroup", |config| drop_namespace(config, "cgroup"));
    assert!(shared.contains(&case.name), "{shared}");
}

#[test]
fn a_path_that_is_no_namespace_is_refused() {
    let Some(case) = Case::root("a_path_that_is_no_namespace_is_refused") else { return };
    for (kind, path) in [
        ("ipc", "/none"),
        ("network", "/etc/passwd"),
        ("uts", "/proc/self/ns/net"),
        ("pid", "/tmp"),
    ] {
        let ran = case.run("true", |config| {
            namespace(config, kind, Some(path));
            if kind == "uts" {
                config["hostname"] = json!(null);
            }
        });
        ran.refused(&["namespace"]);
    }
}

#[test]
fn a_new_network_has_only_its_loopback_and_that_is_up() {
    let Some(case) = Case::root("a_new_network_has_only_its_loopback_and_that_is_up") else {
        return;
    };
    let script = "ls /sys/class/net; cat /sys/class/net/lo/flags; grep -c : /proc/net/dev";
    // IFF_UP | IFF_LOOPBACK | IFF_RUNNING is not all in flags; bit 0 is up.
    let text = case.see(script, |_| {});
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.contains(&"lo") && lines.contains(&"0x9"), "{text}");
}
