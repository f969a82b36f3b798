//! What a job sees: a machine just booted, and nobody else.

use std::fs;
use std::path::Path;

use crate::help::{Place, value};

const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "ipc", "uts", "cgroup", "time", "net"];

/// `kind inode` of every namespace.
const LINKS: &str =
    "for n in user mnt pid ipc uts cgroup time net; do echo $n $(readlink /proc/self/ns/$n); done";

#[test]
fn every_namespace_is_its_own_and_the_network_as_asked() {
    for place in Place::each("every_namespace_is_its_own_and_the_network_as_asked") {
        let node = |kind: &str| {
            fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
        };
        let open = place.see(&[], LINKS);
        let closed = place.see(&["--network", "none"], LINKS);
        for kind in NAMESPACES {
            assert_eq!(value(&open, kind) == node(kind), kind == "net", "{kind}: {open}");
            assert_ne!(value(&closed, kind), node(kind), "{kind}");
            if kind != "net" {
                assert_eq!(place.node_kept(kind), node(kind));
            }
        }
        let script = "ls /sys/class/net 2>/dev/null; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; cat /sys/class/net/lo/flags 2>/dev/null; ping -c1 127.0.0.1 >/dev/null 2>&1; (exec 3<>/dev/tcp/127.0.0.1/1) 2>&1 | grep -o -m1 'refused$'";
        let ran = place.finish({
            let mut c =
                place.node(&["job", "run", "--network", "none", "--", "bash", "-c", script]);
            c.env("LC_ALL", "C");
            c
        });
        // Refused, not unreachable: loopback is up.
        assert_eq!(ran.lines(), ["lo", "refused"], "{ran:?}");
    }
}

impl Place {
    /// The tests' own namespace is as before: denovo changes nothing of its
    /// caller.
    fn node_kept(&self, kind: &str) -> String {
        fs::read_link(format!("/proc/{}/ns/{kind}", std::process::id()))
            .unwrap()
            .display()
            .to_string()
    }
}

#[test]
fn a_machine_just_booted() {
    for place in Place::each("a_machine_just_booted") {
        let script = "
            echo uptime $(cut -d. -f1 /proc/uptime)
            echo hostname $(hostname) $(cat /etc/hostname) $(uname -n)
            echo machine $(cat /etc/machine-id)
            echo boot $(cat /proc/sys/kernel/random/boot_id)
            echo monotonic $(python3 -c 'import time; print(int(time.clock_gettime(time.CLOCK_MONOTONIC)))' 2>/dev/null || cut -d. -f1 /proc/uptime)
            echo year $(date +%Y)
            echo users $(who 2>/dev/null | wc -l)";
        let (a, b) = (place.see(&["--hostname", "fresh.example"], script), place.see(&[], script));
        for said in [&a, &b] {
            for clock in ["uptime", "monotonic"] {
                let seconds: u64 = value(said, clock).parse().unwrap();
                assert!(seconds < 60, "{said}");
            }
            assert_eq!(value(said, "users"), "0");
            assert!(value(said, "year").parse::<u32>().unwrap() > 2000);
            let machine = value(said, "machine");
            assert!(machine.len() == 32 && machine.bytes().all(|b| b.is_ascii_hexdigit()));
            assert_ne!(fs::read_to_string("/etc/machine-id").unwrap_or_default().trim(), machine);
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
            assert_ne!(value(said, "boot"), boot.trim());
        }
        assert_eq!(value(&a, "hostname"), "fresh.example fresh.example fresh.example");
        assert!(value(&b, "hostname").starts_with("run-"), "{b}");
        for name in ["machine", "boot"] {
            assert_ne!(value(&a, name), value(&b, name), "{name}");
        }
        let node = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_ne!(node.trim(), "fresh.example");
    }
}

#[test]
fn only_own_processes_and_ipc_objects() {
    for place in Place::each("only_own_processes_and_ipc_objects") {
        // The shell does it all by itself.
        let said = place.see(&[], "for p in /proc/[0-9]*; do read -r n <$p/comm; echo $n; done");
        assert_eq!(said.lines().collect::<Vec<_>>(), ["init", "sh"]);
        // A segment of the node's is not seen inside, one of inside's not outside.
        let made = place.finish({
            let mut c = place.program("ipcmk");
            c.args(["-M", "4321"]);
            c
        });
        let id = made.out().rsplit(' ').next().unwrap().to_owned();
        let count =
            "tail -n +2 /proc/sysvipc/shm | wc -l; ls -A /dev/mqueue /dev/shm | grep -v -E '^$|:$'";
        let said = place.run(&[], &format!("{count}; ipcmk -M 8765 >/dev/null; {count}"));
        let node = fs::read_to_string("/proc/sysvipc/shm").unwrap();
        let mut remove = place.program("ipcrm");
        remove.args(["-m", &id]);
        place.finish(remove).expect(0, "ipcrm");
        assert_eq!(said.lines(), ["0", "1"], "{said:?}");
        assert!(node.contains(" 4321 ") && !node.contains(" 8765 "), "{node}");
    }
}

#[test]
fn own_directories_are_empty_and_writable() {
    for place in Place::each("own_directories_are_empty_and_writable") {
        let mark = format!("mark-{}", place.name);
        let mut outside = Vec::new();
        for dir in ["/tmp", "/var/tmp", "/dev/shm"] {
            let path = Path::new(dir).join(&mark);
            fs::write(&path, "node's").unwrap();
            outside.push(path);
        }
        let script = format!(
            "for d in /tmp /var/tmp /dev/shm /run/lock; do
                 echo here $d $(ls -A $d | grep -v {name} | wc -l) $(ls -A $d | grep -c {mark})
                 echo inside >$d/{mark}-in && rm $d/{mark}-in; echo mode $d $(stat -c %a $d)
             done
             echo run $(ls -A /run) ; echo varrun $(readlink /var/run)
             touch /dev/shm/{mark}-in /tmp/{mark}-in /new-in-the-root && echo written yes",
            name = place.name
        );
        let said = place.see(&["--cwd", "/"], &script);
        for path in outside {
            fs::remove_file(path).unwrap();
        }
        // Home lies below /tmp here, so /tmp holds the way to it.
        for dir in ["/tmp", "/var/tmp", "/dev/shm", "/run/lock"] {
            assert!(said.contains(&format!("here {dir} 0 0\n")), "{dir}: {said}");
            assert!(said.contains(&format!("mode {dir} 1777")), "{dir}: {said}");
        }
        assert!(said.contains("run lock\n") && said.contains("varrun /run\n"), "{said}");
        assert_eq!(value(&said, "written"), "yes");
        for dir in ["/tmp", "/dev/shm", "/"] {
            let names = fs::read_dir(dir).unwrap().flatten().map(|e| e.file_name());
            let inside = [format!("{mark}-in"), "new-in-the-root".to_owned()];
            assert!(!names.into_iter().any(|n| inside.contains(&n.to_string_lossy().into_owned())));
        }
    }
}

#[test]
fn devices_are_the_harmless_ones() {
    for place in Place::each("devices_are_the_harmless_ones") {
        let said = place.see(&[], "ls /dev | tr '\\n' ' '; echo; head -c 4 /dev/zero | od -An -tx1; echo x >/dev/null; ls /dev/pts");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines[0].trim(),
            "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
        );
        assert_eq!(lines[1].trim(), "00 00 00 00");
        assert_eq!(lines[2..], ["ptmx"]);
    }
}

#[test]
fn nothing_of_the_nodes_state_is_there() {
    for place in Place::each("nothing_of_the_nodes_state_is_there") {
        let script = "
            for f in /etc/shadow /etc/gshadow /etc/ssh /etc/sudoers /etc/munge /etc/slurm /etc/crontab \\
                     /var/lib/dpkg /var/log/dpkg.log /run/denovo /run/systemd /etc/hostname- /proc/kcore; do
                [ -s $f ] && echo seen $f
            done
            ls -A /home /var/lib /var/log /var/spool /var/cache /mnt /srv /media /boot | grep -v -E ':$|^$'
            cat /proc/cmdline /proc/interrupts /proc/partitions
            ls /etc/ssh_host* /etc/*shadow* 2>/dev/null
            grep -c . /etc/passwd";
        let ran = place.run(&["--no-home", "--cwd", "/"], script);
        let most = if place.uid() == 0 { "4" } else { "5" };
        assert_eq!(ran.lines(), [most], "{ran:?}");
    }
}

#[test]
fn the_kernels_switches_cannot_be_moved() {
    for place in Place::each("the_kernels_switches_cannot_be_moved") {
        let script = "
            for f in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sysrq-trigger \\
                     /proc/sys/vm/overcommit_memory /sys/devices/system/cpu/cpu0/online /usr/x /etc/alternatives/x; do
                (echo 1 >$f) 2>/dev/null && echo written $f
            done
            mount -t tmpfs x /mnt 2>/dev/null && echo mounted
            umount /usr 2>/dev/null && echo unmounted
            unshare -U true 2>/dev/null; mknod /tmp/disk b 254 0 2>/dev/null && cat /tmp/disk | head -c1 | wc -c
            hostname other 2>/dev/null && echo renamed
            echo over";
        let said = place.see(&[], script);
        let allowed = |l: &&str| *l != "written /etc/alternatives/x";
        assert_eq!(said.lines().filter(allowed).collect::<Vec<_>>(), ["over"]);
        assert!(!Path::new("/etc/alternatives/x").exists());
    }
}

#[test]
fn a_second_job_sees_nothing_of_the_first() {
    for place in Place::each("a_second_job_sees_nothing_of_the_first") {
        let leave = "echo 1 >/tmp/t; echo 1 >/dev/shm/s; echo 1 >/in-root; echo 1 >/etc/e; echo 1 >/var/lib/v; \
                     ipcmk -M 77 >/dev/null; ipcmk -Q >/dev/null; (setsid sleep 555 &)";
        let look = "ls /tmp/t /dev/shm/s /in-root /etc/e /var/lib/v 2>/dev/null; cat /proc/sysvipc/shm /proc/sysvipc/msg | grep -v key; \
                    cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep 55[0-9]'; echo over";
        let id = place.id("same");
        place.see(&["--id", &id], leave);
        assert_eq!(place.see(&["--id", &id], look), "over", "a later one of the same id");
        // And at once: the first holds on while the second looks.
        let held = place.started("held", &[]);
        place.ok(&["job", "exec", &held, "sh", "-c", leave]);
        assert_eq!(place.see(&[], look), "over", "one beside it");
        let own = place.ok(&["job", "exec", &held, "sh", "-c", look]);
        assert_eq!(own.lines().count(), 9, "it has what it made: {own}");
        place.ok(&["job", "end", &held]);
    }
}

#[test]
fn abstract_sockets_are_seen_only_over_the_nodes_network() {
    let test = "abstract_sockets_are_seen_only_over_the_nodes_network";
    for place in Place::each(test) {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixListener};
        let address = SocketAddr::from_abstract_name(place.name.as_bytes()).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let script = format!("grep -c @{} /proc/net/unix; true", place.name);
        assert_eq!(place.see(&["--network", "none"], &script), "0");
        assert_eq!(place.see(&[], &script), "1");
    }
}

#[test]
fn two_jobs_do_not_meet_over_signals_or_proc() {
    for place in Place::each("two_jobs_do_not_meet_over_signals_or_proc") {
        let held = place.started("held", &[]);
        let (_, init) = place.keepers(&held);
        let script = format!("ls -d /proc/{init} 2>/dev/null; kill -9 -1 2>/dev/null; echo alive");
        // kill -1 spares the caller; it must spare everybody outside too.
        assert_eq!(place.see(&[], &script), "alive");
        assert_eq!(place.ok(&["job", "exec", &held, "echo", "there"]), "there");
        place.ok(&["job", "end", &held]);
    }
}

#[test]
fn names_of_the_network_are_found_as_on_the_node() {
    let Ok(node) = fs::read_to_string("/etc/resolv.conf") else { return };
    for place in Place::each("names_of_the_network_are_found_as_on_the_node") {
        assert_eq!(place.see(&[], "cat /etc/resolv.conf"), node.trim_end());
        let script = "cat /etc/resolv.conf 2>/dev/null; true";
        assert_eq!(place.see(&["--network", "none"], script), "");
    }
}
