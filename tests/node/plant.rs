//! Residue that takes system calls to make. Run by itself this test does
//! nothing; [`crate::help::Node::plant`] runs it in a process of its own.

use std::ffi::CString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

#[test]
fn planter() {
    let (Ok(what), Ok(uid)) = (std::env::var("PLANT"), std::env::var("PLANT_UID")) else { return };
    let uid: u32 = uid.parse().unwrap();
    let id = nix::unistd::Uid::from_raw(uid);
    if what == "fuse" {
        return fuse(uid);
    }
    nix::unistd::setresuid(id, id, id).unwrap();
    match &*what {
        // SAFETY: whole numbers only.
        "shm" => assert!(unsafe { libc::shmget(0x1234, 4096, libc::IPC_CREAT | 0o600) } >= 0),
        // SAFETY: whole numbers only.
        "sem" => assert!(unsafe { libc::semget(0x1234, 3, libc::IPC_CREAT | 0o600) } >= 0),
        // SAFETY: whole numbers only.
        "msg" => assert!(unsafe { libc::msgget(0x1234, libc::IPC_CREAT | 0o600) } >= 0),
        "mqueue" => queue(),
        "key" => key(),
        "socket file" => drop(UnixListener::bind("/tmp/dead.sock").unwrap()),
        "tcp" => stay(std::net::TcpListener::bind("127.0.0.1:4711").unwrap()),
        "udp" => stay(std::net::UdpSocket::bind("127.0.0.1:4712").unwrap()),
        "abstract" => {
            let name = SocketAddr::from_abstract_name(format!("left-by-{uid}")).unwrap();
            stay(UnixListener::bind_addr(&name).unwrap());
        }
        "unix" => stay(UnixListener::bind("/tmp/live.sock").unwrap()),
        other => panic!("{other}"),
    }
}

/// Holds a socket in a process that nobody waits for.
fn stay<T: std::os::fd::AsRawFd>(socket: T) {
    let fd = socket.as_raw_fd();
    // SAFETY: whole numbers only; the descriptor is to outlive the next exec.
    assert!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } == 0);
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new("sleep");
    command.arg("100000").process_group(0).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    // It is to be left behind.
    std::mem::forget(command.spawn().unwrap());
}

fn queue() {
    let name = CString::new("/left").unwrap();
    let flags = libc::O_CREAT | libc::O_RDWR;
    let none = std::ptr::null::<libc::mq_attr>();
    // SAFETY: the name is NUL-terminated; without attributes the defaults hold.
    assert!(unsafe { libc::mq_open(name.as_ptr(), flags, 0o600 as libc::c_uint, none) } >= 0);
}

/// A key in the user's own keyring, which outlives its processes.
fn key() {
    const USER_KEYRING: i64 = -4;
    let (kind, name) = (CString::new("user").unwrap(), CString::new("left").unwrap());
    let data = b"secret";
    // SAFETY: texts are NUL-terminated, the length is the data's.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            kind.as_ptr(),
            name.as_ptr(),
            data.as_ptr(),
            data.len(),
            USER_KEYRING,
        )
    };
    assert!(rc > 0, "{}", std::io::Error::last_os_error());
}

/// A mount of fuse(4) whose server is gone.
fn fuse(uid: u32) {
    use std::os::fd::AsRawFd;
    std::fs::create_dir("/media/left").unwrap();
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id={uid},group_id={uid}", device.as_raw_fd());
    nix::mount::mount(
        Some("left"),
        "/media/left",
        Some("fuse.left"),
        nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV,
        Some(&*options),
    )
    .unwrap();
}
