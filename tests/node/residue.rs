//! Each kind of residue: planted, found, told whose, cleaned or left.

use serde_json::Value;

use crate::common::skip;
use crate::help::{Node, find, lines};

enum Plant {
    /// A shell script as the user.
    User(&'static str),
    /// A shell script as root; `$U` is the user.
    Root(&'static str),
    /// By system calls, as the user.
    Call(&'static str),
}
use Plant::{Call, Root, User};

/// What `clean` does with it.
#[derive(PartialEq, Clone, Copy, Debug)]
enum Then {
    Cleaned,
    Left,
    /// Left, and no reason to call the node dirty.
    Tolerated,
}
use Then::{Cleaned, Left, Tolerated};

struct Row {
    name: &'static str,
    plant: Plant,
    /// In the line of the audit.
    line: &'static str,
    then: Then,
}

const fn row(name: &'static str, plant: Plant, line: &'static str, then: Then) -> Row {
    Row { name, plant, line, then }
}

const TABLE: &[Row] = &[
    row("process", User("sleep 100001 >/dev/null 2>&1 &"), "process pid", Cleaned),
    row(
        "daemon",
        User("setsid sh -c 'exec tail -f /dev/null' >/dev/null 2>&1 &"),
        "(tail)",
        Cleaned,
    ),
    row("file", User("echo x >/tmp/file"), "tmp /tmp/file", Cleaned),
    row("hidden file", User("echo x >/tmp/.hidden"), "tmp /tmp/.hidden", Cleaned),
    row(
        "tree",
        User("mkdir -p /tmp/tree/a/b && echo x >/tmp/tree/a/b/c && chmod 0 /tmp/tree/a/b"),
        "tmp /tmp/tree/",
        Cleaned,
    ),
    row("name with blanks", User("echo x >'/tmp/two words'"), "tmp /tmp/two words", Cleaned),
    row("link", User("ln -s /etc/shadow /tmp/link"), "tmp /tmp/link (link)", Cleaned),
    row("pipe", User("mkfifo /tmp/pipe"), "tmp /tmp/pipe (pipe)", Cleaned),
    row("socket file", Call("socket file"), "tmp /tmp/dead.sock (socket)", Cleaned),
    row(
        "set-user-ID",
        User("cp /bin/true /tmp/suid && chmod 4755 /tmp/suid"),
        "tmp /tmp/suid (set-user-ID)",
        Cleaned,
    ),
    row(
        "file in a shared directory",
        User("echo x >/tmp/shared/mine"),
        "tmp /tmp/shared/mine",
        Cleaned,
    ),
    row("var-tmp", User("echo x >/var/tmp/file"), "tmp /var/tmp/file", Cleaned),
    row("shm", User("echo x >/dev/shm/psm_left"), "shm /dev/shm/psm_left", Cleaned),
    row("lock", User("echo x >/run/lock/LCK..left"), "run /run/lock/LCK..left", Cleaned),
    row("run-user", Root("mkdir /run/user/$U && chown $U /run/user/$U"), "run /run/user/", Cleaned),
    row(
        "crontab",
        Root(
            "echo '* * * * * x' >/var/spool/cron/crontabs/u && chown $U /var/spool/cron/crontabs/u",
        ),
        "spool /var/spool/cron/crontabs/u",
        Cleaned,
    ),
    row(
        "at job",
        Root("echo x >/var/spool/at/a0001 && chown $U /var/spool/at/a0001"),
        "spool /var/spool/at/a0001",
        Cleaned,
    ),
    row(
        "core dump",
        Root(
            "echo x >/var/lib/systemd/coredump/core.x && chown $U /var/lib/systemd/coredump/core.x",
        ),
        "core /var/lib/systemd/coredump/core.x",
        Cleaned,
    ),
    row("sysv-shm", Call("shm"), "sysv-shm shared memory", Cleaned),
    row("sysv-sem", Call("sem"), "sysv-sem set", Cleaned),
    row("sysv-msg", Call("msg"), "sysv-msg message queue", Cleaned),
    row("mqueue", Call("mqueue"), "mqueue message queue /left", Cleaned),
    row("keyring", Call("key"), "keyring ", Cleaned),
    row("tcp", Call("tcp"), "socket tcp 127.0.0.1:4711", Cleaned),
    row("udp", Call("udp"), "socket udp 127.0.0.1:4712", Cleaned),
    row("abstract", Call("abstract"), "socket unix @left-by-", Cleaned),
    row("unix", Call("unix"), "socket unix /tmp/live.sock", Cleaned),
    row("fuse", Call("fuse"), "fuse fuse.left on /media/left", Cleaned),
    row(
        "loop",
        Root(
            "dd if=/dev/zero of=/tmp/disk bs=64k count=1 2>/dev/null && chown $U /tmp/disk && losetup -f /tmp/disk",
        ),
        "has /tmp/disk",
        Cleaned,
    ),
    row(
        "cache",
        Root("mkdir -p /var/tmp/denovo-$U && chown $U /var/tmp/denovo-$U"),
        "cache /var/tmp/denovo-",
        Cleaned,
    ),
    row(
        "control group",
        Root(
            "d=/sys/fs/cgroup/pids; [ -d $d ] || d=/sys/fs/cgroup; mkdir -p $d/denovo-slurm-$J/step_0",
        ),
        "cgroup /denovo-slurm-",
        Cleaned,
    ),
    row(
        "interface",
        Root("ip tuntap add dev left0 mode tun user $U"),
        "interface interface left0",
        Left,
    ),
    row(
        "another user's in a tree",
        Root("mkdir /tmp/mixed && echo x >/tmp/mixed/roots && chown $U /tmp/mixed"),
        "tmp /tmp/mixed/",
        Left,
    ),
    row(
        "mount",
        Root("mkdir /media/m && mount -t tmpfs left /media/m"),
        "mount tmpfs on /media/m",
        Left,
    ),
    row(
        "lost mount",
        Root("umount /var/lib/systemd"),
        "mount /var/lib/systemd tmpfs is gone",
        Left,
    ),
    row(
        "sysctl",
        Root("echo 1 >/proc/sys/net/ipv4/ip_forward"),
        "setting net.ipv4.ip_forward is 1, in the baseline 0",
        Tolerated,
    ),
    row("root's file", Root("echo x >/tmp/roots"), "tmp /tmp/roots", Tolerated),
    row("root's object", Root("ipcmk -M 4096 >/dev/null"), "sysv-shm shared memory", Tolerated),
];

fn plant(node: &Node, (job, uid): (u32, u32), row: &Row) {
    let ran = match row.plant {
        User(script) => node.as_user(uid, script),
        Root(script) => node.shell(&format!("U={uid}; J={job}; {script}")),
        Call(what) => node.plant(uid, what),
    };
    ran.expect(0, row.name);
}

/// Others on the machine have processes too.
fn whose(uid: u32, row: &Row) -> Option<u32> {
    (row.then == Cleaned).then_some(uid)
}

fn outcome(difference: &Value) -> Then {
    if difference["tolerated"] == true && difference["outcome"] != "cleaned" {
        return Tolerated;
    }
    if difference["outcome"] == "cleaned" { Cleaned } else { Left }
}

/// Says so.
fn lacks(row: &Row) -> bool {
    let needed = match row.name {
        "loop" => "/dev/loop-control",
        "interface" => "/dev/net/tun",
        "fuse" => "/dev/fuse",
        _ => return false,
    };
    let lacks = !std::path::Path::new(needed).exists();
    if lacks {
        skip(&format!("residue of kind {}", row.name), &format!("there is no {needed}"));
    }
    lacks
}

/// Every row by itself: the line, the job that it is put down to, what
/// `--clean` does, and that the second look does not see it again.
#[test]
fn each_kind_is_found_attributed_and_cleaned_or_left() {
    let Some(node) = Node::new("each_kind_is_found_attributed_and_cleaned_or_left") else { return };
    let uid = node.users;
    // Also the name of a control group, which the whole machine sees.
    let mut job = uid;
    for row in TABLE {
        if lacks(row) {
            continue;
        }
        node.site("audit = true\ndrain = false");
        node.baseline();
        job += 1;
        node.slurm("prolog", job, uid, false).expect(0, "prolog");
        plant(&node, (job, uid), row);
        // Audited, with nothing that it may clean: the receipt is the record
        // of the job that `--clean` goes by.
        node.slurm("epilog", job, uid, false).expect(0, row.name);
        let found = node.audit(&[]);
        let all = lines(&found["differences"]);
        let line = find(&all, row.line, whose(uid, row));
        let line = line.unwrap_or_else(|| panic!("{}: {found:#}", row.name));
        if row.then == Cleaned {
            assert_eq!(line["job"], format!("slurm-{job}"), "{}: {line:#}", row.name);
            assert_eq!(line["owner"], uid, "{}", row.name);
        }
        assert!(row.then != Tolerated || line["tolerated"] == true, "{}: {line:#}", row.name);
        assert!(row.then != Left || line["tolerated"] == false, "{}: {line:#}", row.name);
        let counts = all.iter().any(|(_, d)| d["tolerated"] == false);
        let expected = if counts { "dirty" } else { "fresh" };
        assert_eq!(found["verdict"], expected, "{}: {found:#}", row.name);
        let cleaned = node.audit(&["--clean"]);
        let all = lines(&cleaned["differences"]);
        let line = find(&all, row.line, whose(uid, row));
        let line = line.unwrap_or_else(|| panic!("{}: {cleaned:#}", row.name));
        assert_eq!(outcome(line), row.then, "{}: {cleaned:#}", row.name);
        let again = node.audit(&[]);
        let there = find(&lines(&again["differences"]), row.line, whose(uid, row)).is_some();
        assert_eq!(there, row.then != Cleaned, "{}: {again:#}", row.name);
    }
}

/// Everything at once, by the epilog.
#[test]
fn an_epilog_cleans_what_its_job_left_and_the_receipt_says_so() {
    let Some(node) = Node::new("an_epilog_cleans_what_its_job_left_and_the_receipt_says_so") else {
        return;
    };
    let uid = node.users;
    node.baseline();
    node.site("audit = true\nclean = [\"all\"]");
    let job = uid + 5;
    node.slurm("prolog", job, uid, false).expect(0, "prolog");
    let rows = || TABLE.iter().filter(|row| row.then == Cleaned && !lacks(row));
    rows().for_each(|row| plant(&node, (job, uid), row));
    node.slurm("epilog", job, uid, false).expect(0, "epilog");
    let receipt = node.receipt(job);
    assert_eq!(receipt["freshness"]["after"], "cleaned", "{receipt:#}");
    let all = lines(&receipt["freshness"]["differences"]);
    for row in rows() {
        let line = find(&all, row.line, Some(uid));
        let line = line.unwrap_or_else(|| panic!("{}: {receipt:#}", row.name));
        assert_eq!(outcome(line), Cleaned, "{}: {line:#}", row.name);
    }
    let after = node.audit(&[]);
    assert_eq!(after["verdict"], "fresh", "{after:#}");
    node.denovo(&["receipt", "verify"]).expect(0, "verify");
}

/// The node's own settings go back when no job runs, and not before.
#[test]
fn settings_go_back_to_the_baseline() {
    let Some(node) = Node::new("settings_go_back_to_the_baseline") else { return };
    node.baseline();
    let read = || node.ok("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax");
    let before = read();
    node.ok("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 9000 >/proc/sys/kernel/msgmax");
    node.slurm("prolog", 1, node.users, false).expect(0, "prolog");
    let held = node.audit(&["--reset-settings"]);
    let all = lines(&held["differences"]);
    let line = find(&all, "setting net.ipv4.ip_forward is 1", None).expect("is told");
    assert_eq!(line["outcome"], "left", "{held:#}");
    node.site("audit = true\nreset-settings = true");
    node.slurm("epilog", 1, node.users, false).expect(0, "epilog");
    assert_eq!(read(), before);
    let all = lines(&node.receipt(1)["freshness"]["differences"]);
    for name in ["net.ipv4.ip_forward", "kernel.msgmax"] {
        let line = find(&all, &format!("setting {name} is"), None).expect(name);
        assert_eq!(line["outcome"], "cleaned", "{line:#}");
    }
}

/// A baseline has what the kernel says, under the names that people know.
#[test]
fn a_baseline_has_the_kernel_s_settings_and_is_written_in_one_form() {
    let test = "a_baseline_has_the_kernel_s_settings_and_is_written_in_one_form";
    let Some(node) = Node::new(test) else { return };
    node.baseline();
    let text = node.ok("cat /mnt/baseline.json");
    let baseline: Value = serde_json::from_str(&text).unwrap();
    // serde_json's maps are sorted: canonical means written as it is read.
    assert_eq!(text, baseline.to_string());
    for (name, file) in [
        ("vm.swappiness", "/proc/sys/vm/swappiness"),
        ("kernel.numa_balancing", "/proc/sys/kernel/numa_balancing"),
        ("vm.nr_hugepages", "/proc/sys/vm/nr_hugepages"),
        ("kernel.core_pattern", "/proc/sys/kernel/core_pattern"),
        ("kernel.tainted", "/proc/sys/kernel/tainted"),
    ] {
        let Ok(value) = std::fs::read_to_string(file) else { continue };
        assert_eq!(baseline["settings"][name], value.trim_end(), "{name}");
    }
    let huge = "/sys/kernel/mm/transparent_hugepage/enabled";
    if let Ok(value) = std::fs::read_to_string(huge) {
        let word = baseline["settings"][huge].as_str().unwrap();
        assert!(value.contains(&format!("[{word}]")), "{value}: {word}");
    }
    for kind in ["process", "mount", "interface", "tmp"] {
        assert!(baseline["things"][kind].is_array(), "{kind}: {baseline:#}");
    }
}

#[test]
fn what_files_left_in_memory_is_forgotten() {
    let Some(node) = Node::new("what_files_left_in_memory_is_forgotten") else { return };
    let name = format!("page-cache-{}", std::process::id());
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
    std::fs::write(&file, vec![1; 4 << 20]).unwrap();
    node.ok("sync");
    let resident =
        || node.ok(&format!("fincore --noheadings --bytes --output RES /mnt/disk/{name}"));
    let before = resident();
    node.baseline();
    node.denovo(&["node", "audit", "--drop-page-cache", "--compact-memory"]);
    let after = resident();
    std::fs::remove_file(&file).unwrap();
    assert_eq!((before.trim(), after.trim()), ("4194304", "0"));
}
