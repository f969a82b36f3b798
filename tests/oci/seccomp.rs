//! `linux.seccomp`: what a filtered call gives.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::common::{Case, shell};

fn filter(config: &mut Value, syscalls: Value) {
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls});
}

#[test]
fn a_call_fails_with_the_configured_errno() {
    for case in Case::each("a_call_fails_with_the_configured_errno") {
        for (errno, words) in [(1, "Operation not permitted"), (28, "No space left")] {
            let ran = case.run("mkdir /tmp/x; grep Seccomp: /proc/self/status", |config| {
                config["root"]["readonly"] = json!(false);
                filter(
                    config,
                    json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO",
                        "errnoRet": errno}]),
                );
            });
            assert!(ran.err.contains(words), "{ran:#?}");
            assert_eq!(ran.out(), "Seccomp:\t2");
        }
    }
}

#[test]
fn a_filter_without_no_new_privileges_works_too() {
    let Some(case) = Case::root("a_filter_without_no_new_privileges_works_too") else { return };
    let ran = case.run("mkdir /tmp/x; grep -E 'Seccomp:|NoNew' /proc/self/status", |config| {
        config["process"]["noNewPrivileges"] = json!(false);
        filter(config, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
    });
    assert_eq!(ran.out(), "NoNewPrivs:\t0\nSeccomp:\t2");
    assert!(ran.err.contains("not permitted"), "{ran:#?}");
}

#[test]
fn a_call_can_kill() {
    for case in Case::each("a_call_can_kill") {
        // SIGSYS, 31: from inside it reaches pid 1 as well.
        for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS"] {
            let ran = case.run("echo up; mkdir /tmp/x; echo survived $?", |config| {
                filter(config, json!([{"names": ["mkdir", "mkdirat"], "action": action}]));
            });
            assert_eq!(ran.out(), "up\nsurvived 159", "{action}: {ran:#?}");
        }
    }
}

#[test]
fn an_allow_list_and_arguments_are_respected() {
    for case in Case::each("an_allow_list_and_arguments_are_respected") {
        // dup2 to descriptor 77 only.
        let ran = case.run("(exec 77>&1) && echo no; (exec 78>&1) && echo yes", |config| {
            let refuse = json!([{"index": 1, "value": 77, "op": "SCMP_CMP_EQ"}]);
            filter(
                config,
                json!([{"names": ["dup2", "dup3"], "action": "SCMP_ACT_ERRNO", "args": refuse},
                    {"names": ["fcntl"], "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 2, "value": 77, "op": "SCMP_CMP_EQ"}]}]),
            );
        });
        assert_eq!(ran.out(), "yes", "{ran:#?}");
    }
}

#[test]
fn exec_is_filtered_as_the_first_process_is() {
    let Some(case) = Case::root("exec_is_filtered_as_the_first_process_is") else { return };
    let (id, _) = case.sleeper("a", |config| {
        filter(config, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
    });
    let ran =
        case.call(&["exec", &id, "sh", "-c", "mkdir /tmp/x; grep Seccomp: /proc/self/status"]);
    assert_eq!(ran.out(), "Seccomp:\t2", "{ran:#?}");
    assert!(ran.err.contains("not permitted"), "{ran:#?}");
    case.delete(&id);
}

/// The way to execve(2) is under the filter too.
#[test]
fn a_filter_may_refuse_what_only_a_runtime_calls() {
    for case in Case::each("a_filter_may_refuse_what_only_a_runtime_calls") {
        for names in [
            json!(["faccessat2", "close_range"]),
            json!(["faccessat2", "faccessat", "access", "statx", "close_range", "getcwd"]),
        ] {
            let ran = case.run("echo ran", |config| {
                config["process"]["noNewPrivileges"] = json!(case.is_rootless());
                filter(config, json!([{"names": names, "action": "SCMP_ACT_ERRNO"}]));
            });
            assert_eq!(ran.out(), "ran", "{names}: {ran:#?}");
        }
        // As created, then started.
        if !case.is_rootless() {
            let (id, bundle) = (
                case.id("s"),
                case.bundle(|config| {
                    config["process"]["noNewPrivileges"] = json!(false);
                    crate::common::shell(config, "exit 0");
                    let names = ["faccessat2", "close_range"];
                    filter(config, json!([{"names": names, "action": "SCMP_ACT_ERRNO"}]));
                }),
            );
            case.ok(&["create", "--bundle", bundle.to_str().unwrap(), &id]);
            case.ok(&["start", &id]);
            case.await_status(&id, "stopped");
            case.delete(&id);
        }
    }
}

/// A profile of the size that engines write: all calls that this kernel is
/// asked for by name, but one.
fn large(config: &mut Value, but: &str) {
    let names: Vec<String> = (0..450)
        .filter_map(|number| libseccomp::ScmpSyscall::from(number).get_name().ok())
        .filter(|name| name != but && name != &format!("{but}at"))
        .collect();
    assert!(names.len() > 300, "{}", names.len());
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]
    });
    config["root"]["readonly"] = json!(false);
}

#[test]
fn a_filter_that_was_kept_filters_as_the_first_one_did() {
    let Some(case) = Case::user("a_filter_that_was_kept_filters_as_the_first_one_did") else {
        return;
    };
    let runtime = case.directory("runtime");
    let kept = runtime.join("denovo/seccomp");
    let count = || fs::read_dir(&kept).map_or(0, Iterator::count);
    let run = |but: &str| {
        let bundle = case.bundle(|config| {
            shell(config, "mkdir /tmp/a; ln -s x /tmp/b; grep Seccomp: /proc/self/status");
            large(config, but);
        });
        let mut command =
            case.denovo(&["run", "--bundle", bundle.to_str().unwrap(), &case.id("a")]);
        command.env("XDG_RUNTIME_DIR", &runtime);
        let ran = case.finish(command).expect(0, "run");
        assert_eq!(ran.out(), "Seccomp:\t2", "{ran:#?}");
        (ran.err.contains("mkdir:"), ran.err.contains("ln:"))
    };
    for _ in 0..2 {
        assert_eq!(run("mkdir"), (true, false));
        assert_eq!(count(), 1);
    }
    for _ in 0..2 {
        assert_eq!(run("symlink"), (false, true));
        assert_eq!(count(), 2);
    }
    // What another could have written is compiled anew.
    for entry in fs::read_dir(&kept).unwrap().flatten() {
        let path = entry.path();
        let mut bytes = fs::read(&path).unwrap();
        // The filter of the one profile as that of the other would let it by.
        let from = bytes.len() - 8;
        bytes[from..].copy_from_slice(&[6, 0, 0, 0, 0, 0, 0xff, 0x7f]);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    }
    assert_eq!(run("mkdir"), (true, false));
    assert_eq!(run("symlink"), (false, true));
}
