//! What cannot be done is said once, with a hint, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::help::Place;

/// Every one is refused with these words.
fn all_refused(place: &Place, table: &[(&[&str], &[&str])]) {
    for (options, words) in table {
        let ran = place.run(options, "echo must not run");
        assert_eq!(ran.out, "", "{options:?}: {ran:?}");
        ran.refused(words);
        assert_eq!(place.remains(), Vec::<String>::new(), "{options:?}");
    }
}

#[test]
fn bundles_that_are_none() {
    for place in Place::each("bundles_that_are_none") {
        let path = |name: &str| place.dir.join(name).display().to_string();
        let (missing, empty) = (path("missing"), place.directory("empty").display().to_string());
        let broken = place.directory("broken").display().to_string();
        place.file("broken/config.json", "{\n  \"ociVersion\": \"1.0.2\",\n  \"root\": ]\n}");
        let rootless = place.directory("rootless").display().to_string();
        let config = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"user":{"uid":0,"gid":0},"args":["sh"],"cwd":"/"}}"#;
        place.file("rootless/config.json", config);
        let filed = place.directory("filed").display().to_string();
        place.file("filed/config.json", config);
        place.file("filed/rootfs", "a file");
        let linked = place.directory("linked").display().to_string();
        place.file("linked/config.json", config);
        symlink("/", place.dir.join("linked/rootfs")).unwrap();
        all_refused(
            &place,
            &[
                (&["--bundle", "no-such-name"], &["no-such-name", "none of this name"]),
                (&["--bundle", &missing], &[&missing]),
                (&["--bundle", &empty], &["config.json"]),
                (&["--bundle", &broken], &["config.json", "line 3"]),
                (&["--bundle", &rootless], &["rootfs"]),
                (&["--bundle", &filed], &["rootfs"]),
                (&["--bundle", &linked], &["rootfs"]),
            ],
        );
    }
}

#[test]
fn a_bundle_that_cannot_be_read() {
    let Some(place) = Place::user("a_bundle_that_cannot_be_read") else { return };
    let closed = place.directory("closed");
    place.file("closed/config.json", "{}");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let text = closed.display().to_string();
    all_refused(&place, &[(&["--bundle", &text], &[&text])]);
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn options_that_make_no_sense() {
    for place in Place::each("options_that_make_no_sense") {
        let none = place.dir.join("none").display().to_string();
        let bind = format!("{none}:/data");
        let scratch = place.dir.join("no-disk").display().to_string();
        all_refused(
            &place,
            &[
                (&["--bind", &bind], &[&none]),
                (&["--bind", "etc:/data"], &["etc", "absolute"]),
                (&["--scratch", &scratch], &[&scratch]),
                // Before the command has run in vain.
                (&["--receipt", "/no/such/file"], &["--receipt", "/no/such/file"]),
                (&["--memroy", "1G"], &["--memroy", "no option"]),
                (&["--env", "=x"], &["variable", "name is missing"]),
                (&["--cwd", "relative"], &["relative"]),
            ],
        );
        for options in [
            &["--id", "a/b"][..],
            &["--id", ".."],
            &["--id", ""],
            &["--bind", "/etc:relative"],
            &["--bind", "/etc:/"],
            &["--bind", "/etc:/a/../../b"],
            &["--bind", "/etc:/./proc/"],
            &["--bind", "/etc:/proc/1"],
            &["--bind", "/etc:/proc/self/fd"],
            &["--memory", "much"],
            &["--network", "other"],
            &["--hostname", "-x"],
            &["--pids", "0"],
        ] {
            let ran = place.run(options, "echo must not run");
            assert_eq!((ran.code(), ran.out.as_str()), (125, ""), "{options:?}: {ran:?}");
            assert!(ran.err.contains(options[0]), "{options:?}: {ran:?}");
        }
        let ran = place.call(&["job", "run"]);
        assert!(ran.code() == 125 && ran.err.contains("COMMAND"), "{ran:?}");
    }
}

#[test]
fn ids_that_nobody_has() {
    for place in Place::each("ids_that_nobody_has") {
        for args in [
            &["job", "exec", "no-such-job", "true"][..],
            &["job", "end", "no-such-job"],
            &["job", "show", "no-such-job"],
        ] {
            place.call(args).refused(&["no-such-job", "job list"]);
        }
        assert_eq!(
            place.ok(&["job", "list"]).lines().count(),
            place.ok(&["job", "list"]).lines().count()
        );
    }
}

#[test]
fn ids_that_are_like_denovos_own_names_do_no_harm() {
    for place in Place::each("ids_that_are_like_denovos_own_names_do_no_harm") {
        let plain = place.id("plain");
        for id in ["..cpus", ".x.lock", &format!(".{plain}.lock"), "-x", "jobs", "...", "socket"] {
            let option = format!("--id={id}");
            let ran = place.run(&[&option, "--cpus", "1", "--share-cpus"], "echo in").expect(0, id);
            assert_eq!(ran.out(), "in");
        }
        let long = format!("{plain}{}", "x".repeat(300));
        place.run(&["--id", &long], "true").refused(&["long"]);
    }
}

#[test]
fn a_path_too_long_for_a_socket_works_or_is_refused() {
    for place in Place::each("a_path_too_long_for_a_socket_works_or_is_refused") {
        let id = format!("{}{}", place.id("long"), "x".repeat(120));
        let said = place.see(&["--id", &id], "echo in");
        assert_eq!(said, "in");
        assert_eq!(place.see(&["--id", &id], "hostname | wc -c"), "64");
    }
}

#[test]
fn a_base_that_others_can_write_is_refused() {
    for place in Place::each("a_base_that_others_can_write_is_refused") {
        let base = place.directory("base");
        let jobs = place.directory("base/jobs");
        fs::set_permissions(&jobs, fs::Permissions::from_mode(0o777)).unwrap();
        all_refused(&place, &[(&[], &["only it can write"])]);
        fs::remove_dir(&jobs).unwrap();
        // A link in its place leads nowhere.
        symlink("/tmp", base.join("jobs")).unwrap();
        place.run(&[], "true").refused(&["jobs"]);
        fs::remove_file(base.join("jobs")).unwrap();
    }
}

#[test]
fn no_space_for_the_record() {
    let test = "no_space_for_the_record";
    let Some(place) = Place::root(test) else { return };
    let base = place.directory("base").display().to_string();
    // In a mount namespace of its own: a file system with room for nothing.
    let run = place.line(&["job", "run", "--", "echo", "must not run"]);
    let script = format!(
        "mount -t tmpfs -o size=4k,nr_inodes=5,mode=755 full '{base}' || exit 99; \
         head -c 8192 /dev/zero >'{base}/fill' 2>/dev/null; {run}; echo code $?; ls -A '{base}/jobs'"
    );
    let mut command = place.program("unshare");
    command.args(["-m", "sh", "-c", &script]);
    let ran = place.finish(command).expect(0, &script);
    assert_eq!(ran.out(), "code 125", "{ran:?}");
    let told = ran.err.lines().filter(|l| l.starts_with("denovo: ")).count();
    assert!(told == 1 && ran.err.contains("No space left"), "{ran:?}");
    assert!(ran.err.contains("hint: "), "{ran:?}");
}
