//! What a job's tasks are in, however Slurm starts them.

use std::collections::BTreeSet;

use crate::help::{Cluster, begin, cluster, finish};

const LOOK: &str = "echo $(readlink /proc/self/ns/pid) $(readlink /proc/self/ns/mnt) $(hostname)";

#[test]
fn a_task_is_in_an_environment_of_its_user() {
    let Some(c) = cluster("a_task_is_in_an_environment_of_its_user") else { return };
    let seen = c.srun(&[
        "-w",
        "n1",
        "sh",
        "-c",
        "id -u; id -G; id -Gn; hostname; pwd; ps -e -o args= | grep -v -e ps -e sh -e grep; \
         ls -A /tmp; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; echo $SLURM_JOB_NODELIST; \
         cat /proc/self/uid_map; \
         awk '/msgqueue/ { print \"queues\", $4 * 2 == $5 }' /proc/self/limits",
    ]);
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(
        lines,
        [
            "61001",
            "61001 61100",
            "alice project",
            "n1",
            "/home/alice",
            "init",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "n1",
            "     61001      61001          1",
            "queues 1",
        ],
        "{seen}"
    );
    c.clean();
}

#[test]
fn every_step_of_a_job_is_in_one_environment() {
    let Some(c) = cluster("every_step_of_a_job_is_in_one_environment") else { return };
    // With as much memory as always fits: Slurm frees a step's only some time
    // after srun has ended, and even a step with --overlap takes its own.
    let step = "srun --mem=100";
    let text = c.batch(
        &["-N2", "-n4"],
        &format!(
            "rm -f held\n{LOOK}\n{step} sh -c '{LOOK}'\n\
             {step} -N1 -n1 -w n1 sh -c ': >held; exec sleep 1000' &\n\
             until [ -e held ]; do sleep 0.1; done\n\
             {step} --overlap -N2 -n2 sh -c '{LOOK}'\n\
             kill $!; wait; rm held; touch /tmp/kept\n\
             {step} -N1 -n1 -w $(hostname) ls /tmp"
        ),
    );
    let seen: Vec<&str> = text.lines().filter(|l| l.starts_with("pid:")).collect();
    assert_eq!(seen.len(), 1 + 4 + 2, "{text}");
    let all: BTreeSet<&str> = seen.iter().copied().collect();
    assert_eq!(all.len(), 2, "one on each node: {text}");
    assert!(text.lines().any(|l| l == "kept"), "{text}");
    for node in ["n1", "n2"] {
        let own = c.ask(node, "echo $(readlink /proc/self/ns/pid)");
        assert!(!text.contains(own.trim()), "not the node's: {text}");
    }
    c.clean();
}

#[test]
fn an_interactive_shell_is_inside() {
    let Some(c) = cluster("an_interactive_shell_is_inside") else { return };
    // LaunchParameters=use_interactive_step does this for `salloc` alone.
    let words = ["salloc", "-N1", "-n1", "srun", "--interactive", "--pty", "sh", "-c", LOOK];
    let seen = finish(&mut c.user("alice", &words)).success();
    let node = c.ask("n1", "readlink /proc/self/ns/pid");
    assert!(seen.contains("pid:[") && !seen.contains(node.trim()), "{seen}");
    c.clean();
}

#[test]
fn the_terminal_of_a_step_has_a_name_inside() {
    let Some(c) = cluster("the_terminal_of_a_step_has_a_name_inside") else { return };
    let look = "tty; [ -c \"$(tty)\" ] && echo opened >\"$(tty)\"; readlink /proc/self/ns/pid\n";
    c.file("alice", "look", look);
    let srun = c.user("alice", &["srun", "-w", "n1", "--pty", "sh", "./look"]);
    let words: Vec<_> = srun.get_args().map(|word| word.to_string_lossy()).collect();
    let line = format!("{} {}", srun.get_program().to_string_lossy(), words.join(" "));
    // srun asks for a terminal of its own.
    let mut under = std::process::Command::new("script");
    under.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null());
    for _ in 0..2 {
        let done = finish(&mut under);
        assert!(done.out.contains("/dev/pts-") && done.out.contains("opened"), "{done:?}");
        let own = c.ask("n1", "readlink /proc/self/ns/pid");
        assert!(done.out.contains("pid:[") && !done.out.contains(own.trim()), "{done:?}");
    }
    c.clean();
}

#[test]
fn a_task_that_is_not_where_it_was_told_to_be_says_so() {
    let Some(c) = cluster("a_task_that_is_not_where_it_was_told_to_be_says_so") else { return };
    c.ask("n1", "mkdir -p /run/place && chmod 777 /run/place");
    // The job's own directory is there; a step's is where the job has it.
    let step = "srun -n2 --overlap --mem=100 --chdir=/run/place pwd";
    let words = ["salloc", "-w", "n1", "-n2", "sh", "-c", step];
    let done = finish(&mut c.user("alice", &words));
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(lines, ["/home/alice", "/home/alice"], "{done:?}");
    let told = "/run/place is not in the job's environment: in /home/alice instead";
    assert_eq!(done.err.matches(told).count(), 1, "{done:?}");
    let bound = [&words[..4], &["--bind=/run/place"], &words[4..]].concat();
    let done = finish(&mut c.user("alice", &bound));
    assert!(done.out.starts_with("/run/place") && !done.err.contains(told), "{done:?}");
    c.clean();
}

#[test]
fn the_options_are_in_every_help_and_no_denovo_is_the_bare_node() {
    let Some(c) = cluster("the_options_are_in_every_help_and_no_denovo_is_the_bare_node") else {
        return;
    };
    for command in ["srun", "sbatch", "salloc"] {
        let help = finish(&mut c.user("alice", &[command, "--help"])).success();
        for option in ["--image=NAME", "--bundle=DIR|NAME", "--bind=SRC", "--no-denovo"] {
            assert!(help.contains(option), "{command}: {option}");
        }
    }
    let bare = c.srun(&["--no-denovo", "-w", "n1", "readlink", "/proc/self/ns/pid"]);
    assert_eq!(bare.trim(), c.ask("n1", "readlink /proc/self/ns/pid").trim());
    c.clean();
}

#[test]
fn two_users_on_one_node_do_not_see_each_other() {
    let Some(c) = cluster("two_users_on_one_node_do_not_see_each_other") else { return };
    let started = |user: &str| {
        let words = ["srun", "-w", "n1", "-n1", "sh", "-c"];
        let look = "touch /tmp/mine-$(id -u) /dev/shm/s-$(id -u); : >started; while [ ! -e go ]; do \
                    sleep 0.1; done; ps -e -o uid= | sort -u; ls /tmp /dev/shm";
        begin(&mut c.user(user, &[&words[..], &[look]].concat()))
    };
    let both: Vec<_> = ["alice", "bob"].map(|user| (user, started(user))).into();
    for (user, _) in &both {
        c.until("it runs", || c.home(user).join("started").exists());
    }
    c.file("alice", "go", "");
    c.file("bob", "go", "");
    for (user, begun) in both {
        let seen = begun.end().out;
        let (own, other) = if user == "alice" { ("61001", "61002") } else { ("61002", "61001") };
        assert!(seen.contains(own) && !seen.contains(other), "{user}: {seen}");
        for name in ["started", "go"] {
            std::fs::remove_file(c.home(user).join(name)).unwrap();
        }
    }
    c.clean();
}

#[test]
fn a_mistake_of_the_users_fails_the_job_and_not_the_node() {
    let Some(c) = cluster("a_mistake_of_the_users_fails_the_job_and_not_the_node") else { return };
    c.ask("n1", "mkdir -p -m 700 /run/closed && mkdir -p /run/closed/open");
    for (option, words) in [
        ("--image=nosuch", "there is none of this name"),
        ("--bundle=/nosuch/place", "/nosuch/place"),
        ("--bind=/nosuch", "/nosuch"),
        // Root could look there, the user cannot.
        ("--bind=/run/closed/open", "/run/closed/open"),
    ] {
        let done = c.try_srun(&["-w", "n1", option, "true"]);
        assert_eq!(done.code, 1, "{option}: {done:?}");
        assert!(done.err.contains("denovo: ") && done.err.contains(words), "{option}: {done:?}");
    }
    assert_eq!(c.drained(), "");
    c.file("alice", "mistake", "#!/bin/sh\necho ran\n");
    let words = ["sbatch", "--wait", "--image=nosuch", "--output=out", "./mistake"];
    assert_eq!(finish(&mut c.user("alice", &words)).code, 1);
    let out = std::fs::read_to_string(c.home("alice").join("out")).unwrap();
    assert!(out.contains("nosuch") && !out.contains("ran"), "{out}");
    assert_eq!(c.drained(), "");
    assert_eq!(c.ask("c", "squeue --noheader"), "", "nothing is held");
    c.clean();
}

#[test]
fn a_bundle_and_binds_are_what_the_job_runs_in() {
    let Some(c) = cluster("a_bundle_and_binds_are_what_the_job_runs_in") else { return };
    let home = c.home("alice");
    let script = format!(
        "mkdir -p {0}/b/rootfs/bin {0}/data && cp /bin/busybox {0}/b/rootfs/bin/ && \
         for a in sh ls cat echo readlink hostname env; do ln -sf busybox {0}/b/rootfs/bin/$a; done && \
         echo inside >{0}/b/rootfs/sign && echo brought >{0}/data/file && chown -R alice: {0}/b {0}/data",
        "/home/alice"
    );
    c.ask("n1", &script);
    let config = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},
        "process":{"args":["sh"],"cwd":"/","env":["PATH=/bin","FROM=image"],"user":{"uid":0,"gid":0}}}"#;
    std::fs::write(home.join("b/config.json"), config).unwrap();
    let words = [
        "-N2",
        "--bundle=/home/alice/b",
        "--bind=/home/alice/data:/data:ro",
        "sh",
        "-c",
        "cat /sign /data/file; echo $FROM $PATH; echo x >/data/new || echo refused",
    ];
    let seen = c.try_srun(&words);
    let lines = |text: &str| seen.out.lines().filter(|l| *l == text).count();
    assert_eq!(
        (lines("inside"), lines("brought"), lines("image /bin"), lines("refused")),
        (2, 2, 2, 2),
        "{seen:?}"
    );
    // From where the job was submitted, which is where its user is.
    assert_eq!(c.srun(&["-w", "n1", "--bundle=./b", "cat", "/sign"]), "inside");
    c.clean();
}

#[test]
fn an_image_that_does_not_come_in_time_is_no_fault_of_the_nodes() {
    let test = "an_image_that_does_not_come_in_time_is_no_fault_of_the_nodes";
    let Some(c) = cluster(test) else { return };
    if !std::path::Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        crate::common::skip(test, "needs a certificate authority to go as far as to wait");
        return;
    }
    // A registry that takes every call and answers none.
    let silent = "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 9, \
                  LocalPort => 47113) or die; sleep 100' </dev/null >/dev/null 2>&1 & \
                  echo $! >/run/silent; until grep -q ':B809 .* 0A ' /proc/net/tcp; do sleep 0.1; done";
    c.ask("n1", silent);
    c.site("[images]\nunqualified = \"127.0.0.1:47113/x\"\n[scheduler]\npull = true\nbudget = 8\n");
    let done = c.try_srun(&["-w", "n1", "-n1", "--image=slow", "true"]);
    assert!(done.code == 1 && done.err.contains("not ready after 6 s"), "{done:?}");
    assert_eq!(c.srun(&["-w", "n1", "-n1", "echo", "others run"]), "others run");
    c.site("");
    c.ask("n1", "kill $(cat /run/silent); rm /run/silent");
    assert_eq!(c.drained(), "");
    c.clean();
}

#[test]
fn each_component_of_a_heterogeneous_job_has_what_it_asked_for() {
    let test = "each_component_of_a_heterogeneous_job_has_what_it_asked_for";
    let Some(c) = cluster(test) else { return };
    for name in ["h1", "h2"] {
        let script = format!(
            "mkdir -p /home/alice/{name}/rootfs/bin && cd /home/alice/{name}/rootfs && \
             cp /bin/busybox bin && for a in sh cat; do ln -sf busybox bin/$a; done && \
             echo {name} >sign && chown -R alice: /home/alice/{name}"
        );
        c.ask("n1", &script);
        let config = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"}}"#;
        std::fs::write(c.home("alice").join(name).join("config.json"), config).unwrap();
    }
    let look = "[ -e /sign ] && cat /sign || readlink /proc/self/ns/pid";
    let bare = c.ask("n2", "readlink /proc/self/ns/pid");
    let run = |first: &[&str], second: &[&str]| {
        let task = ["sh", "-c", look];
        let (a, b) = (["-w", "n1", "-n1"], ["-w", "n2", "-n1"]);
        let words = [&["srun"], &a[..], first, &task, &[":"], &b, second, &task].concat();
        let text = finish(&mut c.user("alice", &words)).success();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (one, two) = (["--bundle=/home/alice/h1"], ["--bundle=/home/alice/h2"]);
    assert_eq!(run(&one, &two), ["h1", "h2"]);
    let host = |lines: Vec<String>, name: &str| {
        assert!(lines[0] == name && lines[1].starts_with("pid:"), "{lines:?}");
        lines[1] == bare.trim()
    };
    assert!(!host(run(&one, &[]), "h1"));
    assert!(!host(run(&[], &two), "h2"));
    assert!(host(run(&one, &["--no-denovo"]), "h1"));
    assert_eq!(c.drained(), "");
    c.clean();
}

/// A root with a shell in it, as image NAME of the site's store, which all
/// nodes see.
fn import(c: &Cluster, name: &str) -> String {
    let script = format!(
        "mkdir -p /tmp/{name}/bin /tmp/{name}/etc && cp /bin/busybox /tmp/{name}/bin/ && \
         for a in sh cat id ls sleep; do ln -sf busybox /tmp/{name}/bin/$a; done && \
         echo {name} >/tmp/{name}/etc/name && \
         /opt/denovo/denovo image import --store /opt/denovo/images /tmp/{name} {name} >/dev/null && \
         rm -r /tmp/{name} && /opt/denovo/denovo image inspect --json {name}"
    );
    let text = c.ask("n1", &script);
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    shown["manifest"].as_str().unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[test]
fn an_image_of_the_sites_store_is_what_the_job_runs_in() {
    let test = "an_image_of_the_sites_store_is_what_the_job_runs_in";
    let Some(c) = cluster(test) else { return };
    if !["/usr/bin/mksquashfs", "/bin/busybox"].iter().all(|p| std::path::Path::new(p).exists()) {
        crate::common::skip(test, "needs mksquashfs and busybox");
        return;
    }
    // Names without a registry are looked up somewhere, but not by a prolog.
    let stores = "[images]\nstores = [\"/opt/denovo/images\"]\n\
                  unqualified = \"127.0.0.1:9/x\"\n[scheduler]\n";
    c.site(stores);
    let (one, two) = (import(&c, "one"), import(&c, "two"));
    let look = "cat /etc/name; id -u; echo job $SLURM_JOB_ID; sleep 1";
    let words = ["-N2", "-n4", "--mem=100", "--image=one", "sh", "-c", look];
    let seen = c.srun(&words);
    let count = |text: &str| seen.lines().filter(|l| *l == text).count();
    assert_eq!((count("one"), count("61001")), (4, 4), "{seen}");
    let job = seen.lines().find_map(|l| l.strip_prefix("job ")).unwrap();
    for node in ["n1", "n2"] {
        let receipt = c.receipt(node, job);
        assert_eq!(
            (&receipt["image"], &receipt["bundle"]),
            (&one.as_str().into(), &"one:latest".into())
        );
    }
    // The batch script is inside as well.
    assert_eq!(c.batch(&["-N1", "-n1", "--image=one"], "cat /etc/name"), "one\n");
    // A site's default; who asks for another has that; none of the name.
    c.site(&format!("{stores}image = \"two\"\n"));
    let default = c.srun(&["-w", "n3", "sh", "-c", "cat /etc/name; echo $SLURM_JOB_ID"]);
    let (name, job) = default.split_once('\n').unwrap();
    assert_eq!((name, &c.receipt("n3", job)["image"]), ("two", &two.as_str().into()));
    assert_eq!(c.srun(&["-w", "n3", "--image=one", "cat", "/etc/name"]), "one");
    assert_ne!(c.srun(&["-w", "n3", "--image=host", "cat", "/etc/os-release"]), "");
    let none = c.try_srun(&["-w", "n3", "--image=three", "true"]);
    assert!(none.code == 1 && none.err.contains("three"), "{none:?}");
    assert_eq!(c.drained(), "");
    // A default that is not there is the site's mistake, and the node's.
    c.site(&format!("{stores}image = \"three\"\n"));
    c.try_srun(&["-w", "n3", "true"]);
    let drained = c.drained();
    assert!(drained.starts_with("n3 denovo prolog:") && drained.contains("three"), "{drained}");
    c.site("");
    c.all_idle();
    let loops =
        c.ask("n1", "losetup --noheadings --output BACK-FILE | grep /opt/denovo/images || true");
    assert_eq!(loops, "", "no device is kept");
    c.clean();
}
