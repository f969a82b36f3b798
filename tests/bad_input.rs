//! Input that is wrong: one clear problem with a hint, the right exit code,
//! nothing left behind.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use common::{Case, binary, push, shell, skip};

fn run(case: &Case, bundle: &Path) -> common::Ran {
    let ran = case.run_bundle(bundle);
    assert_eq!(case.left(), Vec::<String>::new(), "{ran:#?}");
    ran
}

#[test]
fn a_missing_bundle_or_configuration() {
    for case in Case::each("a_missing_bundle_or_configuration") {
        run(&case, &case.dir.join("none")).refused(&["none"]);
        let empty = case.directory("empty");
        run(&case, &empty).refused(&["config.json", "denovo spec"]);
        let file = case.file("file", "");
        run(&case, &file).refused(&["file"]);
        let odd = case.directory("odd");
        fs::create_dir(odd.join("config.json")).unwrap();
        run(&case, &odd).refused(&["config.json"]);
    }
}

#[test]
fn a_broken_configuration_is_told_by_line_and_column() {
    for case in Case::each("a_broken_configuration_is_told_by_line_and_column") {
        let bundle = case.bundle(|_| {});
        for (text, words) in [
            ("{\n  \"ociVersion\": \"1.0\",\n  \"process\": }", &["line 3", "column 14"][..]),
            ("", &["line 1"]),
            ("{\"ociVersion\": 1}", &["line 1, column 16"]),
            ("{\n\"ociVersion\": \"1.0\",\n\"root\": {\"path\": 7}}", &["line 3"]),
            ("{\"ociVersion\": \"1.0\"", &["line 1"]),
            ("\u{0}\u{1}", &["line 1"]),
        ] {
            fs::write(bundle.join("config.json"), text).unwrap();
            let ran = run(&case, &bundle);
            ran.refused(&["config.json"]);
            ran.refused(words);
        }
        fs::write(bundle.join("config.json"), vec![b'['; 100_000]).unwrap();
        run(&case, &bundle).refused(&["config.json"]);
    }
}

#[test]
fn a_root_that_is_none() {
    for case in Case::each("a_root_that_is_none") {
        let outside = case.directory("outside");
        let root = |path: serde_json::Value, prepare: &dyn Fn(&Path)| {
            let bundle = case.bundle(|config| {
                config["root"]["path"] = path;
                shell(config, "true");
            });
            prepare(&bundle);
            run(&case, &bundle)
        };
        root(json!("none"), &|_| {}).refused(&["root.path", "there is no such directory"]);
        root(json!("rootfs/bin/busybox"), &|_| {}).refused(&["root.path", "not a directory"]);
        root(json!("out"), &|b| symlink(&outside, b.join("out")).unwrap())
            .refused(&["root.path", "a symlink leads out to"]);
        root(json!("out/x"), &|b| {
            fs::create_dir_all(outside.join("x")).unwrap();
            symlink("../outside", b.join("out")).unwrap();
        })
        .refused(&["root.path", "a symlink leads out to"]);
        root(json!("loop"), &|b| symlink("loop", b.join("loop")).unwrap()).refused(&["root.path"]);
        let bundle = case.bundle(|config| {
            config.as_object_mut().unwrap().remove("root");
        });
        run(&case, &bundle).refused(&["root"]);
        let empty = case.bundle(|config| shell(config, "true"));
        fs::remove_dir_all(empty.join("rootfs")).unwrap();
        case.directory(&format!("{}/rootfs", empty.file_name().unwrap().to_str().unwrap()));
        run(&case, &empty).refused_with(127, &["not found in $PATH"]);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "only what the test made");
    }
}

#[test]
fn an_id_that_is_a_path() {
    for case in Case::each("an_id_that_is_a_path") {
        let canary = case.directory("canary");
        fs::write(canary.join("state.json"), "{}").unwrap();
        let bundle = case.bundle(|config| shell(config, "true"));
        let long = "x".repeat(1025);
        for id in ["../canary", "a/b", "/tmp/x", "..", ".", "", "a b", "ä", "a\n", &long] {
            for args in [
                &["run", "-b", bundle.to_str().unwrap(), "--", id][..],
                &["create", "-b", bundle.to_str().unwrap(), "--", id],
                &["delete", "--force", "--", id],
                &["state", "--", id],
                &["kill", "--", id],
                &["start", "--", id],
                &["exec", "--", id, "true"],
            ] {
                let ran = case.call(args);
                assert_eq!(ran.code(), 125, "{args:?}: {ran:#?}");
                assert!(ran.err.contains("id"), "{args:?}: {ran:#?}");
            }
        }
        assert!(canary.join("state.json").exists());
        assert_eq!(case.left(), Vec::<String>::new());
    }
}

#[test]
fn ids_of_users_that_are_none() {
    for case in Case::each("ids_of_users_that_are_none") {
        for field in ["uid", "gid"] {
            let bundle = case.bundle(|config| {
                config["process"]["user"][field] = json!(u32::MAX);
                shell(config, "id -u");
            });
            let ran = run(&case, &bundle);
            assert_eq!((ran.code(), &ran.out[..]), (125, ""), "{ran:#?}");
            assert!(ran.err.contains(&format!("process.user.{field}")), "{ran:#?}");
        }
    }
}

#[test]
fn a_bundle_that_cannot_be_read() {
    let Some(case) = Case::user("a_bundle_that_cannot_be_read") else { return };
    if !common::is_root() {
        return skip("a_bundle_that_cannot_be_read", "needs root to make what a user cannot read");
    }
    let bundle = case.bundle(|config| shell(config, "true"));
    let root = case.bundle(|config| shell(config, "true"));
    let configuration = case.bundle(|config| shell(config, "true"));
    for (path, mode) in [
        (bundle.clone(), 0o700),
        (root.join("rootfs"), 0o700),
        (configuration.join("config.json"), 0o600),
    ] {
        common::own(path.parent().unwrap(), 0);
        std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        case.give(&case.dir);
    }
    run(&case, &bundle).refused(&["ermission denied"]);
    run(&case, &configuration).refused(&["config.json", "ermission denied"]);
    let ran = run(&case, &root);
    assert_ne!(ran.code(), 0, "{ran:#?}");
    assert!(ran.err.contains("ermission denied"), "{ran:#?}");
}

#[test]
fn a_user_namespace_that_a_setting_forbids() {
    let test = "a_user_namespace_that_a_setting_forbids";
    let Some(case) = Case::user(test) else { return };
    let bundle = case.bundle(|config| shell(config, "true"));
    let mut wrapped = case.command("unshare");
    wrapped.args(["--user", "--map-current-user", "--keep-caps", "sh", "-c"]);
    wrapped.arg(
        "echo 0 > /proc/sys/user/max_user_namespaces || exit 99
        exec setpriv --inh-caps=-all --ambient-caps=-all \"$@\"",
    );
    wrapped.arg("sh");
    wrapped.arg(binary(case.user.is_some())).arg("--root").arg(case.state());
    wrapped.args(["run", "-b", bundle.to_str().unwrap(), &case.id("a")]);
    let ran = case.finish(wrapped);
    if ran.code() == 99 {
        return skip(test, "user.max_user_namespaces cannot be set in a user namespace here");
    }
    ran.refused(&["user.max_user_namespaces"]);
    assert_eq!(case.left(), Vec::<String>::new());
}

#[test]
fn a_state_directory_that_is_full() {
    let Some(case) = Case::root("a_state_directory_that_is_full") else { return };
    let bundle = case.bundle(|config| shell(config, "true"));
    // With room for nothing; for directories only; for the record's first form.
    for (limit, room) in [("nr_inodes=1", 0), ("nr_inodes=2", 0), ("size=8k", 2), ("size=8k", 1)] {
        let mut wrapped = case.command("unshare");
        wrapped.args(["--mount", "sh", "-c"]);
        wrapped.arg(format!(
            "mkdir -p \"$0\" && mount -t tmpfs -o {limit} x \"$0\" || exit 99
            test {room} = 0 || dd if=/dev/zero of=\"$0\"/fill bs=4k count={room} 2>/dev/null
            \"$@\"; code=$?
            rm -f \"$0\"/fill; ls -A \"$0\"; exit $code"
        ));
        wrapped.arg(case.state()).arg(binary(false)).arg("--root").arg(case.state());
        wrapped.args(["run", "-b", bundle.to_str().unwrap(), &case.id("a")]);
        let ran = case.finish(wrapped);
        if ran.code() == 0 {
            assert_eq!((limit, room), ("size=8k", 1), "{ran:#?}");
            continue;
        }
        ran.refused(&["state"]);
        assert_eq!(ran.out, "", "left in the directory: {ran:#?}");
        assert_eq!(case.left(), Vec::<String>::new());
    }
}

#[test]
fn a_state_directory_that_cannot_be_made() {
    for case in Case::each("a_state_directory_that_cannot_be_made") {
        let file = case.file("file", "");
        let bundle = case.bundle(|config| shell(config, "true"));
        let mut run = case.command(binary(case.user.is_some()));
        run.arg("--root").arg(file.join("state"));
        run.args(["run", "-b", bundle.to_str().unwrap(), &case.id("a")]);
        case.finish(run).refused(&["file"]);
    }
}

#[test]
fn a_record_that_somebody_else_can_write_is_not_trusted() {
    let Some(case) = Case::root("a_record_that_somebody_else_can_write_is_not_trusted") else {
        return;
    };
    let (id, pid) = case.sleeper("a", |_| {});
    let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let dir = case.state().join(&id);
    // Another user's directory, with a record that names a process of the node.
    let forged = case.id("forged");
    let place = case.state().join(&forged);
    fs::create_dir(&place).unwrap();
    let text = fs::read_to_string(dir.join("state.json")).unwrap();
    let text = text.replace(&pid.to_string(), &sleep.id().to_string());
    fs::write(place.join("state.json"), text.replace(&id, &forged)).unwrap();
    std::os::unix::fs::chown(&place, Some(12345), Some(12345)).unwrap();
    for args in [
        &["state", &forged][..],
        &["kill", &forged, "KILL"],
        &["exec", &forged, "true"],
        &["delete", &forged],
    ] {
        let ran = case.call(args);
        assert_eq!(ran.code(), 125, "{args:?} {ran:#?}");
        assert!(ran.err.contains("not trusted"), "{args:?} {ran:#?}");
    }
    case.call(&["delete", "--force", &forged]);
    // A whole state directory of somebody else is not used either.
    assert!(sleep.try_wait().unwrap().is_none(), "a process of the node was killed");
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    let _ = fs::remove_dir_all(&place);
    case.delete(&id);
}

#[test]
fn a_state_directory_of_somebody_else_is_not_used() {
    let Some(case) = Case::root("a_state_directory_of_somebody_else_is_not_used") else { return };
    let bundle = case.bundle(|config| shell(config, "true"));
    fs::create_dir(case.state()).unwrap();
    std::os::unix::fs::chown(case.state(), Some(12345), Some(12345)).unwrap();
    case.run_bundle(&bundle).refused(&["state"]);
}

#[test]
fn a_damaged_record_is_told_and_can_be_removed() {
    for case in Case::each("a_damaged_record_is_told_and_can_be_removed") {
        let id = case.id("a");
        let dir = case.state().join(&id);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("state.json"), "{\"id\": ").unwrap();
        for path in [case.state(), dir.clone(), dir.join("state.json")] {
            case.give(&path);
        }
        case.call(&["state", &id]).refused(&["damaged", "delete --force"]);
        assert_eq!(case.ok(&["list", "-q"]), "");
        case.ok(&["delete", "--force", &id]);
        assert!(!dir.exists());
    }
}

#[test]
fn a_record_with_a_link_in_it_removes_only_itself() {
    let Some(case) = Case::root("a_record_with_a_link_in_it_removes_only_itself") else { return };
    let canary = case.directory("canary");
    fs::write(canary.join("file"), "").unwrap();
    let (id, _) = case.sleeper("a", |_| {});
    symlink(&canary, case.state().join(&id).join("link")).unwrap();
    case.delete(&id);
    assert!(canary.join("file").exists());
    // A record that is a link as a whole is not one.
    let id = case.id("b");
    symlink(&canary, case.state().join(&id)).unwrap();
    let ran = case.call(&["delete", "--force", &id]);
    assert!(canary.join("file").exists(), "{ran:#?}");
    let _ = fs::remove_file(case.state().join(&id));
}

#[test]
fn what_is_not_supported_is_named() {
    let Some(case) = Case::root("what_is_not_supported_is_named") else { return };
    for (field, value) in [
        ("process.apparmorProfile", json!("x")),
        ("process.selinuxLabel", json!("x:y")),
        ("linux.mountLabel", json!("x")),
        ("vm", json!({"kernel": {"path": "/x"}})),
    ] {
        let bundle = case.bundle(|config| {
            let mut at = &mut *config;
            for part in field.split('.') {
                at = &mut at[part];
            }
            *at = value.clone();
        });
        let ran = run(&case, &bundle);
        assert_eq!(ran.code(), 125, "{ran:#?}");
        // Where AppArmor is in force it is the profile that there is none of.
        let told = ran.err.contains(field) || ran.err.contains("AppArmor profile x");
        assert!(told, "{field}: {ran:#?}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let Some(case) = Case::root("all_problems_are_told_at_once") else { return };
    let bundle = case.bundle(|config| {
        config["process"]["cwd"] = json!("relative");
        config["process"]["user"]["uid"] = json!(u32::MAX);
        config["root"]["path"] = json!("none");
        push(&mut config["linux"]["namespaces"], json!({"type": "ipc"}));
    });
    let ran = run(&case, &bundle);
    for field in ["process.cwd", "process.user.uid", "root.path", "linux.namespaces"] {
        assert!(ran.err.contains(field), "{field}: {ran:#?}");
    }
}

#[test]
fn a_mount_source_that_is_missing_is_named() {
    for case in Case::each("a_mount_source_that_is_missing_is_named") {
        let ran = case.run("true", |config| {
            common::add_mount(
                config,
                json!({"destination": "/mnt", "source": "/none/such", "options": ["bind"]}),
            );
        });
        ran.refused(&["/none/such", "must exist"]);
    }
}

#[test]
fn a_pid_file_that_cannot_be_written_leaves_no_container() {
    for case in Case::each("a_pid_file_that_cannot_be_written_leaves_no_container") {
        let bundle = case.bundle(|c| c["process"]["args"] = json!(["sleep", "1000"]));
        let id = case.id("a");
        let args = ["create", "--pid-file", "/none/pid", "-b", bundle.to_str().unwrap(), &id];
        case.call(&args).told(&["--pid-file /none/pid"]);
        assert_eq!(case.left(), Vec::<String>::new());
    }
}

#[test]
fn a_log_is_written_in_the_form_asked_for() {
    let Some(case) = Case::root("a_log_is_written_in_the_form_asked_for") else { return };
    let log = case.dir.join("log.json");
    let mut run = case.command(binary(false));
    run.args(["--log", log.to_str().unwrap(), "--log-format", "json", "--root"]).arg(case.state());
    run.args(["run", "-b", "/none/such", &case.id("a")]);
    assert_eq!(case.finish(run).code(), 125);
    let line: serde_json::Value = serde_json::from_str(&fs::read_to_string(log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("/none/such"));
}

#[test]
fn a_failure_is_heard_however_early_it_comes() {
    for case in Case::each("a_failure_is_heard_however_early_it_comes") {
        let bundle = case.bundle(|config| shell(config, "true"));
        symlink("tmp", bundle.join("rootfs/proc")).unwrap();
        for _ in 0..40 {
            case.run_bundle(&bundle).refused(&["/proc"]);
        }
    }
}
