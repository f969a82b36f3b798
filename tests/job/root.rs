//! The root of a job: what it may write, where that goes, what of the caller
//! is in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::{is_root, skip};
use crate::help::{Place, kill, value};

#[test]
fn programs_are_read_only_and_other_writes_vanish() {
    for place in Place::each("programs_are_read_only_and_other_writes_vanish") {
        let script = "for d in /usr /usr/bin /bin /lib /opt; do touch $d/x 2>/dev/null && echo wrote $d; done
                      for d in / /etc /var /var/lib /home /srv; do touch $d/x-$$ || echo not $d; done
                      if [ $(id -u) = 0 ]; then echo changed >>/etc/profile; tail -1 /etc/profile; else echo changed; fi; rm /etc/login.defs && ls /etc/login.defs 2>&1";
        let ran = place.run(&[], script).expect(2, script);
        assert_eq!(
            ran.out(),
            "changed\nls: cannot access '/etc/login.defs': No such file or directory"
        );
        assert!(!fs::read_to_string("/etc/profile").unwrap().contains("changed"));
        assert!(fs::exists("/etc/login.defs").unwrap());
    }
}

#[test]
fn a_full_root_is_told_inside_and_breaks_nothing() {
    for place in Place::each("a_full_root_is_told_inside_and_breaks_nothing") {
        let id = place.started("full", &["--root-size", "8M"]);
        let fill = "dd if=/dev/zero of=/tmp/big bs=1M count=64 2>&1 | grep -o 'No space left on device'; \
                    stat -c %s /tmp/big; df -k --output=size / | tail -1";
        let said = place.ok(&["job", "exec", &id, "sh", "-c", fill]);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "No space left on device");
        let written: u64 = lines[1].parse().unwrap();
        assert!(written > 6 << 20 && written <= 8 << 20, "{said}");
        assert_eq!(lines[2].trim(), "8192");
        let after = place.ok(&[
            "job",
            "exec",
            &id,
            "sh",
            "-c",
            "rm /tmp/big; echo room >/tmp/small; cat /tmp/small",
        ]);
        assert_eq!(after, "room");
        place.ok(&["job", "end", &id]);
    }
}

#[test]
fn dev_shm_is_as_large_as_asked() {
    for place in Place::each("dev_shm_is_as_large_as_asked") {
        let said = place.see(&["--shm-size", "3M"], "df -k --output=size /dev/shm | tail -1");
        assert_eq!(said.trim(), "3072");
    }
}

#[test]
fn scratch_takes_the_writes_and_is_emptied() {
    for place in Place::each("scratch_takes_the_writes_and_is_emptied") {
        let scratch = place.directory("disk");
        let text = scratch.display().to_string();
        let id = place.started("scratch", &["--scratch", &text]);
        let script = "head -c 300000 /dev/zero >/tmp/large; mkdir -p /var/lib/a/b; chmod 0 /var/lib/a; echo x >/etc/new; stat -f -c %T /tmp";
        let said = place.ok(&["job", "exec", &id, "sh", "-c", script]);
        assert_ne!(said, "tmpfs");
        let made: Vec<_> = fs::read_dir(&scratch).unwrap().flatten().map(|e| e.path()).collect();
        assert_eq!(made.len(), 1, "{made:?}");
        let mode = fs::metadata(&made[0]).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may not look into it: {mode:o}");
        assert!(files_below(&made[0]).contains(&300_000), "on the disk");
        place.ok(&["job", "end", &id]);
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "removed");
        // The same when the monitor is killed: gc finds it by the record.
        let id = place.started("crash", &["--scratch", &text]);
        place.ok(&["job", "exec", &id, "sh", "-c", script]);
        let (monitor, init) = place.keepers(&id);
        kill(monitor);
        crate::help::await_death(init);
        place.ok(&["node", "gc"]);
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "removed");
    }
}

fn files_below(dir: &std::path::Path) -> Vec<u64> {
    let mut sizes = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(m) if m.is_dir() => sizes.extend(files_below(&entry.path())),
            Ok(m) => sizes.push(m.len()),
            Err(_) => {}
        }
    }
    sizes
}

#[test]
fn home_is_the_callers_and_can_be_left_out() {
    for place in Place::each("home_is_the_callers_and_can_be_left_out") {
        let home = place.home().display().to_string();
        let neighbour = place.directory("neighbour");
        fs::write(neighbour.join("secret"), "x").unwrap();
        let script = "echo kept >$HOME/file; ls ..; stat -c %u $HOME; ls -A /root /home 2>/dev/null | grep -v : | wc -w";
        // Root's own home by the account file is another directory.
        let said = place.see(&[], script);
        assert_eq!(said, format!("home\n{}\n0", place.uid()));
        assert_eq!(fs::read_to_string(place.home().join("file")).unwrap(), "kept\n");
        let said = place.see(
            &["--no-home", "--cwd", "/"],
            &format!("ls {home} 2>/dev/null; ls -A /home; echo none"),
        );
        assert_eq!(said, "none");
        let account =
            place.see(&[], &format!("grep :{}: /etc/passwd | cut -d: -f6 | tail -1", place.uid()));
        if place.uid() != 0 {
            assert_eq!(account, home, "the account inside names it");
        }
    }
}

#[test]
fn a_home_that_is_somebody_elses_does_not_come_along() {
    let test = "a_home_that_is_somebody_elses_does_not_come_along";
    let Some(place) = Place::user(test) else { return };
    if !is_root() {
        return skip(test, "only root can make somebody else's directory");
    }
    let other = place.dir.join("others");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("readable"), "x").unwrap();
    let mut command = place.running(&["--cwd", "/"], "ls $HOME 2>&1 | grep -c readable; true");
    command.env("HOME", &other);
    assert_eq!(place.finish(command).expect(0, "home").out(), "0");
}

#[test]
fn binds_bring_in_what_is_asked_for() {
    for place in Place::each("binds_bring_in_what_is_asked_for") {
        let data = place.directory("data");
        place.file("data/input", "words");
        let data = data.display().to_string();
        let file = place.file("one file", "alone").display().to_string();
        let (ro, rw) = (format!("{data}:/data/in:ro"), format!("{data}:/data/out"));
        let one = format!("{file}:/etc/one.conf:ro");
        let script = "cat /data/in/input; echo; touch /data/in/x 2>/dev/null && echo wrote ro; echo out >/data/out/result; cat /etc/one.conf";
        let options = ["--bind", &ro, "--bind", &rw, "--bind", &one, "--bind", &data];
        let said = place.see(&options, &format!("{script}; echo; cat {data}/result"));
        assert_eq!(said, "words\nalone\nout");
        assert_eq!(fs::read_to_string(place.dir.join("data/result")).unwrap(), "out\n");
        // What lies in a bind has no power inside.
        let said =
            place.see(&["--bind", &rw], "grep ' /data/out ' /proc/self/mountinfo | cut -d' ' -f6");
        assert!(said.contains("nosuid") && said.contains("nodev"), "{said}");
    }
}

#[test]
fn a_setuid_program_gives_nothing() {
    let Some(place) = Place::user("a_setuid_program_gives_nothing") else { return };
    if !is_root() {
        return skip("a_setuid_program_gives_nothing", "only root can make one");
    }
    let program = place.home().join("id");
    fs::copy("/usr/bin/id", &program).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    let said = place
        .see(&[], "echo uid $(./id -u); echo su $(su -c 'id -u' root 2>&1 </dev/null | tail -1)");
    assert_eq!(value(&said, "uid"), place.uid().to_string());
    assert_ne!(value(&said, "su"), "0");
}

/// As in containers, which have /etc/hosts and its like mounted.
#[test]
fn what_is_mounted_in_the_nodes_etc_is_no_obstacle() {
    let test = "what_is_mounted_in_the_nodes_etc_is_no_obstacle";
    let Some(place) = Place::root(test) else { return };
    let look = "ls -A /etc | sort | md5sum; test -e /etc/shadow && echo shadow; id -un";
    let plain = place.see(&["--no-home", "--cwd", "/"], look);
    let run = place.node(&["job", "run", "--no-home", "--cwd", "/", "--", "sh", "-c", look]);
    let mut around = place.program("unshare");
    let mount = "mount --bind /etc/passwd /etc/passwd; exec \"$@\"";
    around.args(["-m", "sh", "-ec", mount, "sh"]).arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        if let Some(value) = value {
            around.env(name, value);
        }
    }
    let over = place.finish(around).expect(0, "with a mount");
    assert_eq!(over.out(), plain, "{over:?}");
}
