//! At a job's end everything of it is gone, and only of it.

use crate::help::{Cluster, begin, cluster, finish};

/// Leaves behind what a careless or hostile job would.
const LITTER: &str = "
setsid sh -c 'trap \"\" HUP INT TERM QUIT USR1; while :; do sleep 1000; done' &
setsid sleep 1001 &
sh -c 'setsid sh -c \"sleep 1002 &\" &' &
sleep 1003 & kill -STOP $!
echo left >/tmp/left; echo left >/dev/shm/left; ipcmk -M 4096 -S 1 -Q >/dev/null
: >/dev/mqueue/left && echo queued
mkdir -p /tmp/m /dev/shm/u /dev/shm/w
setsid unshare -rm sh -c 'mount -t overlay -o lowerdir=/usr,upperdir=/dev/shm/u,workdir=/dev/shm/w overlay /tmp/m &&
    echo overlaid; : >/tmp/1; exec sleep 1005' &
perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 1, LocalPort => 47111) or die; system q(echo listening; : >/tmp/2); sleep 1004' &
for i in $(seq 300); do [ -e /tmp/1 ] && [ -e /tmp/2 ] && break; sleep 0.1; done
echo littered
";

/// What keeps a namespace of a job's on a node, and with it the job's shared memory,
/// queues and mounts, denovo's own FUSE mount among them: a process in it, an open
/// file, a mount.
const HELD: &str = "
for kind in ipc mnt pid user; do
    for process in /proc/[0-9]*; do
        [ \"$(readlink $process/ns/$kind)\" = \"$(readlink /proc/self/ns/$kind)\" ] || [ ! -e $process/exe ] ||
            echo $process $(cat $process/comm)
    done
    ls -l /proc/[0-9]*/fd 2>/dev/null | grep \"$kind:\\[\"
    grep \" $kind:\\[\" /proc/[0-9]*/mountinfo
done
grep -e ' /tmp/m ' -e 'fuse[^ ]* denovo' /proc/[0-9]*/mountinfo
true";

/// One of every kind, which stays as long as its job; afterwards says what is
/// still there.
const KEPT: &str = "
echo kept >/dev/shm/kept; echo kept >/tmp/kept; : >/dev/mqueue/kept
ipcmk -M 4096 -S 1 -Q >/dev/null
mkdir -p /tmp/o /dev/shm/u /dev/shm/w
setsid unshare -rm sh -c 'mount -t overlay -o lowerdir=/usr,upperdir=/dev/shm/u,workdir=/dev/shm/w overlay /tmp/o
    : >/tmp/1; while [ ! -e go ]; do sleep 0.1; done; [ -d /tmp/o/bin ] && : >/tmp/overlaid' &
perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 1, LocalPort => 47112) or die; system q(: >/tmp/2); sleep 1007' &
listener=$!
sleep 1008 & frozen=$!; kill -STOP $frozen
until [ -e /tmp/1 ] && [ -e /tmp/2 ]; do sleep 0.1; done
: >running
until [ -e go ]; do sleep 0.1; done
cat /dev/shm/kept /tmp/kept; ls /dev/mqueue; tail -n +2 -q /proc/sysvipc/* | wc -l
perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(q(127.0.0.1:47112)) ? qq(listens\n) : qq(deaf\n)'
for i in $(seq 100); do [ -e /tmp/overlaid ] && break; sleep 0.1; done; ls /tmp/overlaid
ps -o stat= -p $frozen
kill $listener && kill -KILL $frozen && echo alive
";

fn socket_listens(c: &Cluster, node: &str) -> bool {
    // 47111 in hexadecimal, listening.
    !c.ask(node, "grep ':B807 .* 0A ' /proc/net/tcp || true").is_empty()
}

#[test]
fn nothing_of_a_job_is_left() {
    let Some(c) = cluster("nothing_of_a_job_is_left") else { return };
    let text = c.batch(&["-w", "n1", "-n1"], &format!("echo $SLURM_JOB_ID; {LITTER}"));
    for word in ["queued", "overlaid", "listening", "littered"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // A job can make no file system that waits for a process of its own: there is
    // no /dev/fuse inside, and a device that is brought in is none. What users of the
    // bare node mount so is tests/node's matter.
    c.ask("n1", "[ -e /opt/fuse ] || mknod -m 666 /opt/fuse c 10 229");
    let look = "ls /dev/fuse; exec 3<>/run/fuse";
    let fuse = c.try_srun(&["-w", "n1", "--bind=/opt/fuse:/run/fuse", "sh", "-c", look]);
    assert!(fuse.code != 0 && fuse.err.contains("/dev/fuse': No such file"), "{fuse:?}");
    assert!(fuse.err.contains("/run/fuse: Permission denied"), "{fuse:?}");
    c.clean();
    assert!(!socket_listens(&c, "n1"));
    assert_eq!(c.ask("n1", "ls /dev/shm /tmp /dev/mqueue | grep left || true"), "");
    assert_eq!(c.ask("n1", "tail -n +2 -q /proc/sysvipc/*"), "");
    assert_eq!(c.ask("n1", HELD), "");
    let receipt = c.receipt("n1", text.lines().next().unwrap());
    let cleaned = &receipt["cleaned"];
    assert_eq!(cleaned["systemV"], 3, "{receipt}");
    assert_eq!(cleaned["messageQueues"], 1, "{receipt}");
    assert!(cleaned["shm"].as_u64() >= Some(4096), "{receipt}");
    assert!(cleaned["tmp"].as_u64() >= Some(4096), "{receipt}");
    assert_eq!(c.drained(), "");
}

#[test]
fn only_of_that_job() {
    let Some(c) = cluster("only_of_that_job") else { return };
    // Another of the same user's on the same node goes on.
    c.file("alice", "keep", KEPT);
    let other = begin(&mut c.user("alice", &["srun", "-w", "n1", "-n1", "sh", "./keep"]));
    c.until("the other runs", || c.home("alice").join("running").exists());
    let text = c.batch(&["-w", "n1", "-n1"], &format!("echo $SLURM_JOB_ID; {LITTER}"));
    // Its epilog is through.
    c.receipt("n1", text.lines().next().unwrap());
    assert!(!socket_listens(&c, "n1"));
    let held = c.ask("n1", HELD);
    for word in ["sleep", "ipc:[", "fuse"] {
        assert!(held.contains(word), "{word}: {held}");
    }
    c.file("alice", "go", "");
    let seen = other.end();
    let lines: Vec<&str> = seen.out.lines().collect();
    let there = ["kept", "kept", "kept", "3", "listens", "/tmp/overlaid", "T", "alive"];
    assert_eq!(lines, there, "{seen:?}");
    for name in ["go", "running"] {
        std::fs::remove_file(c.home("alice").join(name)).unwrap();
    }
    c.clean();
}

#[test]
fn a_cancelled_job_is_gone_too() {
    let Some(c) = cluster("a_cancelled_job_is_gone_too") else { return };
    let script = format!("#!/bin/sh\n{LITTER}\n: >running; sleep 1000\n");
    c.file("alice", "long", &script);
    let words = ["sbatch", "--parsable", "-N3", "-n3", "--output=out", "./long"];
    let job = finish(&mut c.user("alice", &words)).success();
    c.until("it runs", || c.home("alice").join("running").exists());
    finish(&mut c.user("alice", &["scancel", &job])).success();
    c.clean();
    assert!(!socket_listens(&c, "n1"));
    std::fs::remove_file(c.home("alice").join("running")).unwrap();
    assert_eq!(c.drained(), "");
    // The others of its nodes had an environment and an end as well.
    assert_eq!(c.receipt("n3", &job)["job"]["node"], 2);
}

/// Whatever happens, it must not stay so: no signal ends who waits for it.
struct Frozen<'a>(&'a Cluster);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = finish(&mut self.0.on("n1", &["fsfreeze", "--unfreeze", "/srv/frozen"]));
    }
}

#[test]
fn a_process_that_does_not_end_is_named_in_the_drain() {
    let test = "a_process_that_does_not_end_is_named_in_the_drain";
    let Some(c) = cluster(test) else { return };
    let image = c.dir().join("frozen.img");
    let made = c.ask(
        "n1",
        &format!(
            "truncate -s 64M {0} && mkfs.ext4 -q {0} >/dev/null 2>&1 && mkdir -p /srv/frozen && \
             mount -o loop {0} /srv/frozen 2>/dev/null && chmod 1777 /srv/frozen && echo yes || echo no",
            image.display()
        ),
    );
    if made.trim() != "yes" {
        crate::common::skip(test, "this machine mounts no file system that could be frozen");
        return;
    }
    c.file(
        "alice",
        "stuck",
        "#!/bin/sh\nsh -c 'while [ ! -e go ]; do sleep 0.1; done; echo x >/srv/frozen/x' &\n: >running; wait\n",
    );
    let words = [
        "sbatch",
        "--parsable",
        "-w",
        "n1",
        "-n1",
        "--bind=/srv/frozen",
        "--output=out",
        "./stuck",
    ];
    let job = finish(&mut c.user("alice", &words)).success();
    c.until("it runs", || c.home("alice").join("running").exists());
    c.ask("n1", "fsfreeze --freeze /srv/frozen");
    let frozen = Frozen(&c);
    c.file("alice", "go", "");
    c.until("it waits for the disk", || {
        !c.ask("n1", "ps -u alice -o stat= | grep D || true").is_empty()
    });
    finish(&mut c.user("alice", &["scancel", &job])).success();
    // First Slurm gives up ("Kill task failed"), then the epilog, which names it.
    c.until("the drain names it", || c.drained().contains(") in state D"));
    let drained = c.drained();
    drop(frozen);
    for name in ["go", "running"] {
        std::fs::remove_file(c.home("alice").join(name)).unwrap();
    }
    assert!(drained.contains(&format!("job slurm-{job}: cannot be ended: pid ")), "{drained}");
    c.until("it ends then", || c.ask("n1", "pgrep -u alice || true").is_empty());
    c.ask("n1", "/opt/denovo/denovo node gc; umount /srv/frozen; rmdir /srv/frozen");
    c.all_idle();
    c.clean();
}
