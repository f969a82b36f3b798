//! `process`: what the program finds itself as.

use serde_json::json;

use crate::common::{Case, push, shell};

#[test]
fn the_environment_is_exactly_the_configured_one() {
    for case in Case::each("the_environment_is_exactly_the_configured_one") {
        let env = ["PATH=/bin", "A=1=2", "EMPTY=", "TEXT=two words"];
        let bundle = case.bundle(|config| {
            config["process"]["args"] = json!(["env"]);
            config["process"]["env"] = json!(env);
        });
        let mut run = case.denovo(&["run", "-b", bundle.to_str().unwrap(), &case.id("env")]);
        run.env("SECRET", "of the caller");
        let ran = case.finish(run).expect(0, "env");
        assert_eq!(ran.lines(), env);
    }
}

#[test]
fn arguments_arrive_as_they_are() {
    for case in Case::each("arguments_arrive_as_they_are") {
        let odd = ["a b", "", "ä\n", "-x", "$HOME"];
        let text = case.see("", |config| {
            let mut args = vec!["sh", "-c", "for a; do echo \"[$a]\"; done", "name"];
            args.extend(odd);
            config["process"]["args"] = json!(args);
        });
        assert_eq!(text, odd.map(|a| format!("[{a}]")).join("\n"));
    }
}

#[test]
fn the_user_has_exactly_its_groups() {
    let Some(case) = Case::root("the_user_has_exactly_its_groups") else { return };
    let script = "grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr -s '\\t ' ' '";
    let text = case.see(script, |config| {
        config["process"]["user"] = json!({"uid": 1234, "gid": 567, "additionalGids": [89, 1000]});
    });
    assert_eq!(text, "Uid: 1234 1234 1234 1234\nGid: 567 567 567 567\nGroups: 89 1000".to_owned());
    let none = case.see("grep Groups /proc/self/status | tr -d '\\t '", |_| {});
    assert_eq!(none, "Groups:");
}

#[test]
fn the_working_directory_is_made_of_the_root_only() {
    for case in Case::each("the_working_directory_is_made_of_the_root_only") {
        assert_eq!(case.see("pwd", |c| c["process"]["cwd"] = json!("/tmp")), "/tmp");
        case.run("pwd", |c| c["process"]["cwd"] = json!("/none")).refused(&["/none"]);
    }
}

#[test]
fn a_working_directory_behind_a_descriptor_is_refused() {
    for case in Case::each("a_working_directory_behind_a_descriptor_is_refused") {
        let outside = case.directory("outside");
        std::fs::write(outside.join("canary"), "").unwrap();
        for number in [3, 4, 5, 6, 7, 8, 9, 10, 12, 20, 64] {
            let bundle = case.bundle(|config| {
                config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
                shell(config, "pwd; ls -a . .. ../../..");
            });
            // The caller holds a directory of the node open, without
            // close-on-exec. Other numbers may be denovo's own.
            let mut run = case.command("sh");
            run.args(["-c", "exec 7<\"$0\"; exec \"$@\""]).arg(&outside);
            run.arg(crate::common::binary(case.user.is_some())).arg("--root").arg(case.state());
            run.args(["run", "-b", bundle.to_str().unwrap(), &case.id(&number.to_string())]);
            let ran = case.finish(run);
            assert!(!ran.out.contains("canary"), "fd {number}: {ran:#?}");
            if number == 7 || number == 64 {
                ran.refused(&["working directory"]);
            } else if ran.code() == 0 {
                // At most a directory of the container itself.
                assert!(ran.out.starts_with('/') && !ran.out.starts_with("/tmp/"), "{ran:#?}");
            }
        }
    }
}

#[test]
fn limits_umask_and_no_new_privileges_are_set() {
    for case in Case::each("limits_umask_and_no_new_privileges_are_set") {
        let script = "grep -E 'open files|core file|stack' /proc/self/limits | tr -s ' '
            umask; grep NoNewPrivs /proc/self/status | tr -d '\\t'";
        let text = case.see(script, |config| {
            config["process"]["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_STACK", "soft": 1048576, "hard": 2097152},
            ]);
            config["process"]["user"]["umask"] = json!(0o027);
            config["process"]["noNewPrivileges"] = json!(true);
        });
        let expected = [
            "Max stack size 1048576 2097152 bytes ",
            "Max core file size 0 0 bytes ",
            "Max open files 100 200 files ",
            "0027",
            "NoNewPrivs:1",
        ];
        assert_eq!(text, expected.join("\n"));
    }
}

#[test]
fn privileges_can_be_gained_where_that_is_asked() {
    let Some(case) = Case::root("privileges_can_be_gained_where_that_is_asked") else { return };
    let script = "grep NoNewPrivs /proc/self/status | tr -d '\\t'";
    let text = case.see(script, |c| c["process"]["noNewPrivileges"] = json!(false));
    assert_eq!(text, "NoNewPrivs:0");
}

#[test]
fn the_oom_score_is_set() {
    for case in Case::each("the_oom_score_is_set") {
        let text =
            case.see("cat /proc/self/oom_score_adj", |c| c["process"]["oomScoreAdj"] = json!(321));
        assert_eq!(text, "321");
    }
}

#[test]
fn exit_codes_are_the_process_s_own() {
    for case in Case::each("exit_codes_are_the_process_s_own") {
        // A signal from inside does not end pid 1, so a child's has to do.
        let killed = "sh -c 'kill -9 $$'; exit $?";
        for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), (killed, 137)] {
            assert_eq!(case.run(script, |_| {}).code(), code, "{script}");
        }
        for (args, code, words) in [
            (json!(["nothing-of-that-name"]), 127, "not found in $PATH"),
            (json!(["/bin/nothing"]), 127, "no such file"),
            (json!(["/bin/busybox/x"]), 127, "/bin/busybox/x"),
            (json!(["/etc/text"]), 126, "permission denied"),
            (json!(["/tmp"]), 126, "permission denied"),
            (json!(["/etc/binary"]), 126, "exec format error"),
        ] {
            let bundle = case.bundle(|config| config["process"]["args"] = args.clone());
            std::fs::write(bundle.join("rootfs/etc/text"), "echo no").unwrap();
            let binary = bundle.join("rootfs/etc/binary");
            std::fs::write(&binary, [0x7f, b'E', b'L', b'F', 0, 0, 0, 0]).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&binary, mode).unwrap();
            case.run_bundle(&bundle).refused_with(code, &[words]);
        }
    }
}

#[test]
fn a_process_that_a_signal_ends_is_told_as_128_and_more() {
    let Some(case) = Case::root("a_process_that_a_signal_ends_is_told_as_128_and_more") else {
        return;
    };
    for signal in [9, 15] {
        let bundle = case.bundle(|config| shell(config, "echo up; exec sleep 1000"));
        let id = case.id(&signal.to_string());
        let run = case.start(case.denovo(&["run", "-b", bundle.to_str().unwrap(), &id]));
        run.await_output("up");
        if signal == 15 {
            // Pid 1 of a namespace ends by SIGTERM from outside only if it
            // asked for it, so KILL is all that is sure.
            run.signal(15);
        }
        case.ok(&["kill", &id, "KILL"]);
        assert_eq!(run.wait().code(), 137);
    }
}

#[test]
fn descriptors_of_the_caller_stay_out_unless_preserved() {
    for case in Case::each("descriptors_of_the_caller_stay_out_unless_preserved") {
        let note = case.file("note", "of the caller\n");
        let script = "ls /proc/self/fd | grep -v '^[012]$' | wc -l; cat <&3";
        for (preserve, code, expected) in [("0", 1, "1\n"), ("1", 0, "2\nof the caller\n")] {
            let bundle = case.bundle(|config| shell(config, script));
            let mut run = case.command("sh");
            run.args(["-c", "exec 3<\"$0\" 4</ 9</etc; exec \"$@\""]).arg(&note);
            run.arg(crate::common::binary(case.user.is_some())).arg("--root").arg(case.state());
            run.args(["run", "--preserve-fds", preserve, "-b", bundle.to_str().unwrap()]);
            run.arg(case.id(preserve));
            let ran = case.finish(run).expect(code, preserve);
            assert_eq!(ran.out, expected);
        }
    }
}

#[test]
fn the_kernel_s_settings_and_names_are_the_container_s_own() {
    let Some(case) = Case::root("the_kernel_s_settings_and_names_are_the_container_s_own") else {
        return;
    };
    let before = std::fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
    let script = "hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/shmmni \
        /proc/sys/net/ipv4/ip_default_ttl";
    let text = case.see(script, |config| {
        config["hostname"] = json!("inner-name");
        config["domainname"] = json!("inner.domain");
        config["linux"]["sysctl"] = json!({"kernel.shmmni": "17", "net.ipv4.ip_default_ttl": "33"});
    });
    assert_eq!(text, "inner-name\ninner.domain\n17\n33");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(), before);
}

#[test]
fn settings_of_the_node_are_refused() {
    let Some(case) = Case::root("settings_of_the_node_are_refused") else { return };
    for name in ["kernel.core_pattern", "vm.swappiness", "kernel.shmmni/../core_pattern"] {
        let ran = case.run("true", |config| {
            let mut settings = serde_json::Map::new();
            settings.insert(name.into(), json!("1"));
            config["linux"]["sysctl"] = settings.into();
        });
        assert_eq!(ran.code(), 125, "{name}");
        assert!(ran.err.contains("linux.sysctl"), "{}", ran.err);
    }
}

#[test]
fn a_user_without_name_runs_with_its_own_files() {
    let Some(case) = Case::user("a_user_without_name_runs_with_its_own_files") else { return };
    let place = case.directory("place");
    let text = case.see("id -u; id -g; echo x > /mnt/file; stat -c %u:%g /mnt/file", |config| {
        push(
            &mut config["mounts"],
            json!({"destination": "/mnt", "source": place, "options": ["bind"]}),
        );
    });
    assert_eq!(text, "0\n0\n0:0");
    let made = std::fs::metadata(place.join("file")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), case.uid());
}
