//! Sockets by path: of monitors, of waiting containers, of terminals.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::problem::Problem;

/// A listening socket of whose connections only the owner of the directory
/// makes any.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(path: &Path) -> Result<OwnedFd, Problem> {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, bind, listen, socket};
    let make = || -> nix::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let (address, _dir) = address(path)?;
        bind(fd.as_raw_fd(), &address)?;
        listen(&fd, Backlog::new(128)?)?;
        Ok(fd)
    };
    make().map_err(|e| Problem::site(format!("{}: cannot be made: {}", path.display(), e.desc())))
}

/// # Errors
/// Nobody listens there.
pub fn connect(path: &Path) -> Result<OwnedFd, Problem> {
    connect_within(path, None)
}

/// [`connect`] to one that is not trusted to answer: each call on the connection,
/// and the connection itself, takes at most so many seconds.
///
/// # Errors
/// Nobody listens there, or not in time.
pub fn connect_within(path: &Path, seconds: Option<i64>) -> Result<OwnedFd, Problem> {
    use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, connect, setsockopt, socket};
    use nix::sys::time::{TimeVal, TimeValLike};
    let make = || -> nix::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        if let Some(limit) = seconds.map(TimeVal::seconds) {
            setsockopt(&fd, SendTimeout, &limit)?;
            setsockopt(&fd, ReceiveTimeout, &limit)?;
        }
        let (address, _dir) = address(path)?;
        connect(fd.as_raw_fd(), &address)?;
        Ok(fd)
    };
    make().map_err(|e| Problem::user(format!("{}: {}", path.display(), e.desc())))
}

/// A socket's address holds at most 107 bytes (unix(7)); a longer path is
/// named through a descriptor of its directory.
fn address(path: &Path) -> nix::Result<(nix::sys::socket::UnixAddr, Option<OwnedFd>)> {
    use nix::fcntl::{OFlag, open};
    use nix::sys::socket::UnixAddr;
    if let Ok(address) = UnixAddr::new(path) {
        return Ok((address, None));
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let fd = open(
        dir,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .join(path.file_name().unwrap_or_default());
    Ok((UnixAddr::new(&short)?, Some(fd)))
}

/// A stream connection to a socket that somebody else made.
///
/// # Errors
/// As connect(2).
pub fn connect_stream(path: &Path) -> nix::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, connect, socket};
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let (address, _dir) = address(path)?;
    connect(fd.as_raw_fd(), &address)?;
    Ok(fd)
}

/// Hands the terminal to whoever listens on `--console-socket`.
///
/// # Errors
/// Nobody listens there.
pub fn send_terminal(path: &Path, master: &OwnedFd) -> Result<(), Problem> {
    send_fd(path, master, b"/dev/ptmx").map_err(|e| {
        Problem::user(format!("--console-socket {}: {}", path.display(), e.desc()))
            .hint("it must be a socket on which somebody listens for the terminal")
    })
}

/// Hands the process's pidfd to whoever listens on `--pidfd-socket`.
///
/// # Errors
/// Nobody listens there.
pub fn send_pidfd(path: &Path, pidfd: &OwnedFd) -> Result<(), Problem> {
    send_fd(path, pidfd, b"pidfd").map_err(|e| {
        Problem::user(format!("--pidfd-socket {}: {}", path.display(), e.desc()))
            .hint("it must be a socket on which somebody listens for the pidfd")
    })
}

/// One descriptor over a stream connection of its own, with a name as the
/// data that must come with it (unix(7), `SCM_RIGHTS`).
fn send_fd(path: &Path, fd: &OwnedFd, name: &[u8]) -> nix::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let socket = connect_stream(path)?;
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let data = [std::io::IoSlice::new(name)];
    sendmsg::<()>(socket.as_raw_fd(), &data, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Only the environment's user (and root) may connect.
///
/// # Errors
/// As chmod(2) and chown(2).
pub fn open_to(path: &std::path::Path, uid: u32) -> Result<(), Problem> {
    use std::os::unix::fs::{PermissionsExt, chown};
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| {
            if uid == nix::unistd::geteuid().as_raw() {
                Ok(())
            } else {
                chown(path, Some(uid), None)
            }
        })
        .map_err(|e| Problem::site(format!("{}: {e}", path.display())))
}
