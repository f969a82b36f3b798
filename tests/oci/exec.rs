//! `exec`: one more process in a running container.

use std::fs;

use serde_json::json;

use crate::common::{Case, namespace};

#[test]
fn it_is_in_the_container_s_namespaces_and_root() {
    for case in Case::each("it_is_in_the_container_s_namespaces_and_root") {
        let (id, pid) = case.sleeper("a", |config| {
            namespace(config, "time", None);
            namespace(config, "cgroup", None);
            config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 7777}});
        });
        let names = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
        let script = format!("for n in {}; do readlink /proc/self/ns/$n; done", names.join(" "));
        let text = case.ok(&["exec", &id, "sh", "-c", &script]);
        for (link, name) in text.lines().zip(names) {
            let theirs = fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
            assert_eq!(link, theirs.to_str().unwrap(), "{name}");
        }
        assert_eq!(text.lines().count(), names.len());
        assert_eq!(case.ok(&["exec", &id, "sh", "-c", "ps -o pid,args | grep -c '[s]leep'"]), "1");
        case.delete(&id);
    }
}

#[test]
fn exit_codes_are_the_process_s() {
    for case in Case::each("exit_codes_are_the_process_s") {
        let (id, _) = case.sleeper("a", |_| {});
        for (script, code) in
            [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill $$", 143)]
        {
            assert_eq!(case.call(&["exec", &id, "sh", "-c", script]).code(), code, "{script}");
        }
        case.call(&["exec", &id, "nothing-there"]).refused_with(127, &["not found in $PATH"]);
        case.call(&["exec", &id, "/nothing"]).refused_with(127, &["no such file"]);
        case.call(&["exec", &id, "/tmp"]).refused_with(126, &["permission denied"]);
        case.call(&["exec", &id]).refused(&["no command"]);
        case.call(&["exec", &format!("{id}-not"), "true"]).refused(&["does not exist"]);
        case.delete(&id);
    }
}

#[test]
fn options_change_what_they_name() {
    let Some(case) = Case::root("options_change_what_they_name") else { return };
    let (id, _) = case.sleeper("a", |config| {
        config["process"]["env"] = json!(["PATH=/bin", "KEPT=1", "CHANGED=1"]);
        config["process"]["cwd"] = json!("/etc");
    });
    let mut plain = case.denovo(&["exec", &id, "env"]);
    plain.env("SECRET", "x");
    let ran = case.finish(plain).expect(0, "env");
    let mut env = ran.lines();
    env.sort_unstable();
    assert_eq!(env, ["CHANGED=1", "KEPT=1", "PATH=/bin"]);
    assert_eq!(case.ok(&["exec", &id, "pwd"]), "/etc");
    assert_eq!(case.ok(&["exec", "--cwd", "/tmp", &id, "pwd"]), "/tmp");
    let text = case.ok(&["exec", "-e", "CHANGED=2", "--env", "NEW=a b", &id, "env"]);
    let mut env: Vec<&str> = text.lines().collect();
    env.sort_unstable();
    assert_eq!(env, ["CHANGED=2", "KEPT=1", "NEW=a b", "PATH=/bin"]);

    let ids = "grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr -s '\\t ' ' '";
    let text = case.ok(&["exec", "-u", "12:34", "-g", "56", "-g", "78", &id, "sh", "-c", ids]);
    assert_eq!(text, "Uid: 12 12 12 12\nGid: 34 34 34 34\nGroups: 56 78");
    case.delete(&id);
}

#[test]
fn a_user_is_a_number_or_nothing() {
    let Some(case) = Case::root("a_user_is_a_number_or_nothing") else { return };
    let (id, _) = case.sleeper("a", |_| {});
    for user in ["+1", "-1", "1:", "4294967295", "4294967296", "1abc", "root", "0x1", " 1", "1:-1"]
    {
        let ran = case.call(&["exec", &format!("--user={user}"), &id, "id", "-u"]);
        assert_eq!((ran.code(), &ran.out[..]), (125, ""), "{user}: {ran:#?}");
        assert!(!ran.err.is_empty());
    }
    assert_eq!(case.ok(&["exec", "-u", "1", &id, "id", "-u"]), "1");
    assert_eq!(case.ok(&["exec", "-u", "1000:0", &id, "sh", "-c", "id -u; id -g"]), "1000\n0");
    case.delete(&id);
}

#[test]
fn capabilities_are_never_inheritable() {
    for case in Case::each("capabilities_are_never_inheritable") {
        let (id, _) = case.sleeper("a", |_| {});
        let script = "grep -E '^Cap(Inh|Amb|Bnd|Eff)' /proc/self/status | tr -d '\\t'";
        let text = case.ok(&["exec", &id, "sh", "-c", script]);
        let plain = 1u64 << 5 | 1 << 10 | 1 << 29;
        let expected = |set: u64, ambient: u64| {
            format!(
                "CapInh:{ambient:016x}\nCapEff:{set:016x}\nCapBnd:{set:016x}\nCapAmb:{ambient:016x}"
            )
        };
        assert_eq!(text, expected(plain, 0));
        let text = case.ok(&["exec", "--cap", "CAP_CHOWN", &id, "sh", "-c", script]);
        assert_eq!(text, expected(plain | 1, 0));
        case.call(&["exec", "--cap", "NOT_ONE", &id, "true"]).refused(&["NOT_ONE"]);
        case.delete(&id);
    }
}

#[test]
fn a_process_document_says_everything() {
    let Some(case) = Case::root("a_process_document_says_everything") else { return };
    let (id, _) = case.sleeper("a", |_| {});
    let document = json!({
        "args": ["sh", "-c", "id -u; id -g; pwd; umask; env | sort; grep NoNewPrivs /proc/self/status"],
        "env": ["PATH=/bin", "ONLY=1"], "cwd": "/tmp",
        "user": {"uid": 11, "gid": 22, "umask": 0o077}, "noNewPrivileges": true,
    });
    let file = case.file("process.json", &document.to_string());
    let text = case.ok(&["exec", "--process", file.to_str().unwrap(), &id]);
    // busybox's shell adds PWD, SHLVL and OLDPWD.
    let lines: Vec<&str> =
        text.lines().filter(|l| !l.contains("PWD=") && !l.contains("SHLVL")).collect();
    assert_eq!(lines, ["11", "22", "/tmp", "0077", "ONLY=1", "PATH=/bin", "NoNewPrivs:\t1"]);
    let file = case.file("broken.json", "{\n\"args\": [}");
    case.call(&["exec", "--process", file.to_str().unwrap(), &id])
        .refused(&["broken.json", "line 2"]);
    case.delete(&id);
}

#[test]
fn detached_it_goes_on_and_its_pid_is_told() {
    for case in Case::each("detached_it_goes_on_and_its_pid_is_told") {
        let (id, _) = case.sleeper("a", |_| {});
        let file = case.directory("pids").join("pid");
        case.ok(&["exec", "-d", "--pid-file", file.to_str().unwrap(), &id, "sleep", "2000"]);
        let pid = fs::read_to_string(&file).unwrap();
        crate::common::until("sleep", || {
            fs::read(format!("/proc/{pid}/cmdline")).unwrap() == b"sleep\x002000\0"
        });
        // It ends with the container, whose first process takes the rest along.
        case.ok(&["kill", &id, "KILL"]);
        case.await_status(&id, "stopped");
        case.ok(&["delete", &id]);
    }
}

#[test]
fn descriptors_of_the_caller_stay_out() {
    for case in Case::each("descriptors_of_the_caller_stay_out") {
        let (id, _) = case.sleeper("a", |_| {});
        let note = case.file("note", "of the caller\n");
        let mut exec = case.command("sh");
        exec.args(["-c", "exec 3<\"$0\" 9</; exec \"$@\""]).arg(&note);
        exec.arg(crate::common::binary(case.user.is_some())).arg("--root").arg(case.state());
        exec.args(["exec", &id, "sh", "-c", "ls /proc/self/fd | grep -v '^[012]$' | wc -l"]);
        // One is the directory that ls reads.
        assert_eq!(case.finish(exec).expect(0, "exec").out(), "1");
        case.delete(&id);
    }
}

#[test]
fn the_container_cannot_look_into_denovo_while_it_enters() {
    let Some(case) = Case::root("the_container_cannot_look_into_denovo_while_it_enters") else {
        return;
    };
    // Looks for a process whose program or descriptors are not the
    // container's own: denovo on its way in (CVE-2016-9962, CVE-2019-5736).
    let bundle = case.bundle(|config| {
        config["root"]["readonly"] = json!(false);
        crate::common::shell(
            config,
            "while test ! -e /tmp/stop; do
                for p in /proc/[0-9]*; do
                    exe=$(readlink $p/exe) && case $exe in
                        /bin/busybox) ;; *) echo \"$p $exe\" >> /tmp/seen;; esac
                    ls -l $p/fd 2>/dev/null | grep -E 'cgroup|tasks|rootfs' >> /tmp/seen
                done
            done; touch /tmp/done; sleep 1000",
        );
    });
    let (id, _) = case.sleeper_of("a", &bundle);
    for _ in 0..40 {
        case.ok(&["exec", &id, "true"]);
    }
    case.ok(&["exec", &id, "touch", "/tmp/stop"]);
    let tmp = bundle.join("rootfs/tmp");
    crate::common::until("the watcher", || tmp.join("done").exists());
    let seen = fs::read_to_string(tmp.join("seen")).unwrap_or_default();
    assert_eq!(seen, "");
    case.delete(&id);
}

#[test]
fn into_a_created_container_too() {
    let Some(case) = Case::root("into_a_created_container_too") else { return };
    let bundle = case.bundle(|c| c["process"]["args"] = json!(["sleep", "1000"]));
    let id = case.id("a");
    case.ok(&["create", "-b", bundle.to_str().unwrap(), &id]);
    // The process that waits for start is denovo's, and stays closed.
    let script = "for f in exe root cwd fd/0 fd/1 fd/2 fd/3 fd/4 fd/5 fd/6 fd/7 fd/8 fd/9; do
        readlink /proc/1/$f; (: < /proc/1/$f) 2>/dev/null && echo opened $f; done; true";
    assert_eq!(case.ok(&["exec", &id, "sh", "-c", script]), "");
    case.delete(&id);
}

#[test]
fn it_goes_into_a_group_below_the_container_s() {
    let test = "it_goes_into_a_group_below_the_container_s";
    let Some(case) = Case::root(test) else { return };
    let Some(pids) = crate::common::v1_directory("pids") else {
        return crate::common::skip(test, "pids is not on cgroup v1 here");
    };
    let (id, _) = case.sleeper("a", |_| {});
    fs::create_dir(pids.join(format!("denovo-{id}/part"))).unwrap();
    let text = case.ok(&["exec", "--cgroup", "pids:part", &id, "cat", "/proc/self/cgroup"]);
    let group = |name: &str| {
        let line = text.lines().find(|l| l.split(':').nth(1) == Some(name)).unwrap();
        line.rsplit(':').next().unwrap().to_owned()
    };
    assert!(group("pids").ends_with(&format!("denovo-{id}/part")), "{text}");
    assert!(group("memory").ends_with(&format!("denovo-{id}")), "{text}");
    for (bad, words) in [
        ("pids:none", "there is no control group"),
        ("nonsense:part", "no group with `nonsense`"),
        ("../x", "goes up"),
        ("pids:..", "goes up"),
    ] {
        case.call(&["exec", "--cgroup", bad, &id, "true"]).refused(&["--cgroup", words]);
    }
    case.delete(&id);
}
