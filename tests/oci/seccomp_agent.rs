//! `linux.seccomp.listenerPath`: an agent of the test's own answers.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

use crate::common::Case;

/// One message: the document, and the filter's listener.
fn receive(socket: &UnixListener) -> (Value, OwnedFd) {
    let (stream, _) = socket.accept().unwrap();
    let mut text = vec![0; 65536];
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut parts = [std::io::IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
    let fds: Vec<i32> = message
        .cmsgs()
        .unwrap()
        .filter_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(fds.len(), 1);
    let length = message.bytes;
    // SAFETY: the kernel has just given this descriptor to us.
    let fd = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    (serde_json::from_slice(&text[..length]).unwrap(), fd)
}

/// Answers one call with an error number (seccomp_unotify(2)); gives the
/// number of the call.
fn answer(listener: &OwnedFd, errno: i32) -> i32 {
    // struct seccomp_notif has 80 bytes, struct seccomp_notif_resp 24.
    const RECEIVE: u64 = 0xc050_2100;
    const SEND: u64 = 0xc018_2101;
    let mut asked = [0u64; 10];
    // SAFETY: the structure has the size that is part of the request's number.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as _, asked.as_mut_ptr()) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    let mut reply = [asked[0], 0, u64::from(-errno as u32)];
    // SAFETY: as above.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), SEND as _, reply.as_mut_ptr()) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    asked[2] as u32 as i32
}

fn notify(config: &mut Value, path: &Path) {
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "from the test",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]
    });
}

fn agent(case: &Case) -> (std::path::PathBuf, UnixListener) {
    let path = case.dir.join("agent.sock");
    let socket = UnixListener::bind(&path).unwrap();
    case.give(&path);
    (path, socket)
}

#[test]
fn the_agent_answers_for_the_first_process_and_for_exec() {
    for case in Case::each("the_agent_answers_for_the_first_process_and_for_exec") {
        let (path, socket) = agent(&case);
        let bundle = case.bundle(|config| {
            notify(config, &path);
            let script = "mkdir /tmp/x 2> /tmp/error; exec sleep 1000";
            crate::common::shell(config, script);
            config["root"]["readonly"] = json!(false);
        });
        let id = case.id("a");
        let run = case.start(case.denovo(&["run", "-d", "-b", bundle.to_str().unwrap(), &id]));
        let (state, listener) = receive(&socket);
        assert_eq!(answer(&listener, libc::EXDEV), libc::SYS_mkdir as i32);
        run.wait().expect(0, "run");
        assert_eq!(state["ociVersion"], "1.2.0");
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "from the test");
        assert_eq!(state["state"]["id"], json!(id));
        assert_eq!(state["state"]["status"], "creating");
        assert_eq!(state["state"]["bundle"], json!(bundle));
        assert_eq!(state["pid"], case.query(&id)["pid"]);
        let error = bundle.join("rootfs/tmp/error");
        crate::common::until("the answer", || {
            std::fs::read_to_string(&error).is_ok_and(|text| text.contains("cross-device"))
                || std::fs::read_to_string(&error).is_ok_and(|text| text.contains("Cross-device"))
        });

        let exec = case.start(case.denovo(&["exec", &id, "mkdir", "/tmp/y"]));
        let (state, listener) = receive(&socket);
        answer(&listener, libc::ENOSPC);
        let ran = exec.wait();
        assert!(ran.err.contains("No space left"), "{ran:#?}");
        assert_eq!(state["state"]["status"], "running");
        assert_ne!(state["pid"], case.query(&id)["pid"]);
        case.delete(&id);
    }
}

#[test]
fn create_hands_it_over_before_start() {
    let Some(case) = Case::root("create_hands_it_over_before_start") else { return };
    let (path, socket) = agent(&case);
    let bundle = case.bundle(|config| {
        notify(config, &path);
        config["process"]["args"] = json!(["mkdir", "/tmp/x"]);
    });
    let id = case.id("a");
    let create = case.start(case.denovo(&["create", "-b", bundle.to_str().unwrap(), &id]));
    let (_, listener) = receive(&socket);
    create.wait().expect(0, "create");
    case.ok(&["start", &id]);
    assert_eq!(answer(&listener, libc::EPERM), libc::SYS_mkdir as i32);
    case.await_status(&id, "stopped");
    case.delete(&id);
}

#[test]
fn without_an_agent_nothing_is_started() {
    for case in Case::each("without_an_agent_nothing_is_started") {
        let path = case.dir.join("nobody.sock");
        case.run("touch /tmp/ran", |config| notify(config, &path))
            .refused(&["linux.seccomp.listenerPath", "nobody.sock"]);
    }
}
