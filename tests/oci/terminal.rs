//! Terminals: handed over by socket, relayed in the foreground, gone.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::json;

use crate::common::{Case, shell, until};

/// Takes one terminal from a console socket.
fn take(listener: &UnixListener) -> File {
    let (stream, _) = listener.accept().unwrap();
    let mut buffer = [0u8; 64];
    let mut iov = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            .unwrap();
    let control = message.cmsgs().unwrap().next().expect("a descriptor");
    let ControlMessageOwned::ScmRights(fds) = control else { panic!("{control:?}") };
    assert_eq!(fds.len(), 1);
    // SAFETY: the kernel just made this descriptor for us.
    File::from(unsafe { OwnedFd::from_raw_fd(fds[0]) })
}

fn socket(case: &Case) -> (UnixListener, std::path::PathBuf) {
    let path = case.dir.join("console.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    case.give(&path);
    (listener, path)
}

/// Everything up to the end of the terminal, which is EIO on its master.
fn read_all(master: &mut File) -> String {
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        text.extend(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).replace("\r\n", "\n")
}

const LOOK: &str = "tty; test -t 0 && test -t 1 && test -t 2 && echo all; stty size; \
    stat -c '%t:%T' /dev/console; ls -1 /dev/pts; read -r line < /dev/tty; echo \"[$line]\"";

#[test]
fn a_console_socket_receives_the_container_s_terminal() {
    for case in Case::each("a_console_socket_receives_the_container_s_terminal") {
        let (listener, path) = socket(&case);
        let bundle = case.bundle(|config| {
            shell(config, LOOK);
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({"height": 41, "width": 97});
        });
        let id = case.id("a");
        let (bundle, path) = (bundle.to_str().unwrap(), path.to_str().unwrap());
        let create =
            case.start(case.denovo(&["create", "--console-socket", path, "-b", bundle, &id]));
        let mut master = take(&listener);
        create.wait().expect(0, "create");
        case.ok(&["start", &id]);
        master.write_all(b"typed\n").unwrap();
        let text = read_all(&mut master);
        for part in ["/dev/pts/0\n", "all\n", "41 97\n", "88:0\n", "0\nptmx\n", "[typed]\n"] {
            assert!(text.contains(part), "{part:?} in {text:?}");
        }
        case.await_status(&id, "stopped");
        case.ok(&["delete", &id]);
    }
}

#[test]
fn exec_hands_a_terminal_of_the_container_over() {
    for case in Case::each("exec_hands_a_terminal_of_the_container_over") {
        let (id, _) = case.sleeper("a", |_| {});
        let (listener, path) = socket(&case);
        let args = ["exec", "-t", "--console-socket", path.to_str().unwrap(), &id, "sh", "-c"];
        let script = "tty; echo ready; read -r line; echo \"[$line]\"; exit 5";
        let exec = case.start(case.denovo(&[&args[..], &[script]].concat()));
        let mut master = take(&listener);
        master.write_all(b"typed\n").unwrap();
        let text = read_all(&mut master);
        assert!(text.contains("/dev/pts/0\n") && text.contains("[typed]\n"), "{text:?}");
        assert_eq!(exec.wait().code(), 5);
        case.delete(&id);
    }
}

#[test]
fn a_pidfd_socket_receives_the_process() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let named = |pidfd: &File| {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
        let line = text.unwrap().lines().find_map(|l| l.strip_prefix("Pid:").map(str::to_owned));
        line.unwrap().trim().parse::<i32>().unwrap()
    };
    for case in Case::each("a_pidfd_socket_receives_the_process") {
        let (listener, path) = socket(&case);
        let path = path.to_str().unwrap();
        let bundle = case.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
        let (id, bundle) = (case.id("a"), bundle.to_str().unwrap());
        let create =
            case.start(case.denovo(&["create", "--pidfd-socket", path, "-b", bundle, &id]));
        let pidfd = take(&listener);
        create.wait().expect(0, "create");
        assert_eq!(case.query(&id)["pid"], named(&pidfd));
        case.ok(&["start", &id]);
        let exec = case.start(case.denovo(&["exec", "--pidfd-socket", path, &id, "sleep", "1000"]));
        let other = take(&listener);
        assert_ne!(named(&other), named(&pidfd));
        assert!(std::path::Path::new(&format!("/proc/{}", named(&other))).exists());
        case.ok(&["delete", "--force", &id]);
        exec.wait();
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(1), "it tells the end");
        let absent = case.dir.join("nobody");
        let absent = absent.to_str().unwrap();
        case.call(&["create", "--pidfd-socket", absent, "-b", bundle, &id])
            .refused(&["--pidfd-socket", "nobody"]);
        assert!(case.left().is_empty(), "{:?}", case.left());
    }
}

/// A terminal that stands for the caller's own.
struct Outer {
    master: File,
    going: crate::common::Going,
}

/// Starts denovo with a new terminal as its controlling one.
fn on_a_terminal(case: &Case, args: &[&str]) -> Outer {
    // Closed on exec: neither denovo nor a test beside may hold the master.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let mut slave = File::options();
    slave.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let mut command = case.denovo(args);
    command.stdin(slave.open(ptsname_r(&master).unwrap()).unwrap());
    // SAFETY: two system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            libc::ioctl(0, libc::TIOCSCTTY as _, 0);
            Ok(())
        });
    }
    let going = case.start(command);
    Outer { master: File::from(OwnedFd::from(master)), going }
}

#[test]
fn in_the_foreground_the_caller_s_terminal_is_relayed() {
    for case in Case::each("in_the_foreground_the_caller_s_terminal_is_relayed") {
        let bundle = case.bundle(|config| {
            shell(config, "test -t 0 && echo terminal; read -r line; echo \"[$line]\"; exit 6");
            config["process"]["terminal"] = json!(true);
        });
        let id = case.id("a");
        let mut outer = on_a_terminal(&case, &["run", "-b", bundle.to_str().unwrap(), &id]);
        outer.going.await_output("terminal");
        outer.master.write_all(b"typed\r").unwrap();
        let ran = outer.going.wait();
        assert_eq!(ran.code(), 6, "{ran:#?}");
        assert!(ran.out.contains("[typed]"), "{ran:#?}");
    }
}

#[test]
fn keys_that_signal_act_inside() {
    let Some(case) = Case::root("keys_that_signal_act_inside") else { return };
    let bundle = case.bundle(|config| {
        shell(config, "trap 'echo interrupted; exit 4' INT; echo up; while :; do sleep 0.05; done");
        config["process"]["terminal"] = json!(true);
    });
    let id = case.id("a");
    let mut outer = on_a_terminal(&case, &["run", "-b", bundle.to_str().unwrap(), &id]);
    outer.going.await_output("up");
    outer.master.write_all(&[3]).unwrap();
    let ran = outer.going.wait();
    assert_eq!(ran.code(), 4, "{ran:#?}");
    assert!(ran.out.contains("interrupted"), "{ran:#?}");
}

#[test]
fn a_terminal_that_vanishes_ends_the_container() {
    for case in Case::each("a_terminal_that_vanishes_ends_the_container") {
        for trapped in [false, true] {
            let note = case.directory("notes").join(format!("note-{trapped}"));
            let bundle = case.bundle(|config| {
                let trap = if trapped { "trap 'echo hup > /tmp/note; exit 3' HUP;" } else { "" };
                let at = note.parent().unwrap();
                crate::common::add_mount(
                    config,
                    json!({"destination": "/tmp", "source": at, "options": ["bind"]}),
                );
                let script = format!("{trap} echo up; while :; do sleep 0.05; done");
                shell(config, &script.replace("/tmp/note", &format!("/tmp/note-{trapped}")));
                config["process"]["terminal"] = json!(true);
            });
            let id = case.id(&trapped.to_string());
            let outer = on_a_terminal(&case, &["run", "-b", bundle.to_str().unwrap(), &id]);
            outer.going.await_output("up");
            drop(outer.master);
            let ran = outer.going.wait();
            if trapped {
                assert_eq!(ran.code(), 3, "{ran:#?}");
                assert!(note.exists());
            } else {
                assert_ne!(ran.code(), 0, "{ran:#?}");
            }
            until("nothing is left", || case.left().is_empty());
        }
    }
}

#[test]
fn what_a_terminal_needs_is_said_before_anything_is_made() {
    for case in Case::each("what_a_terminal_needs_is_said_before_anything_is_made") {
        let with = case.bundle(|c| c["process"]["terminal"] = json!(true));
        let without = case.bundle(|_| {});
        let create = |bundle: &Path, more: &[&str]| {
            let id = case.id(&format!("x{}", more.len()));
            let args = [&["create", "-b", bundle.to_str().unwrap()], more, &[&id]].concat();
            case.call(&args)
        };
        create(&with, &[]).refused(&["terminal", "--console-socket"]);
        create(&without, &["--console-socket", "/none"]).refused(&["process.terminal is false"]);
        create(&with, &["--console-socket", "/none"]).refused(&["--console-socket /none"]);
        assert_eq!(case.left(), Vec::<String>::new());
    }
}
