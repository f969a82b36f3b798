//! The caller's terminal, while a program inside has one of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::kernel::sys;

/// Relays between the caller's terminal and the master of the one inside.
/// The caller's is in raw mode until this is dropped.
pub struct Relay {
    master: OwnedFd,
    before: Option<Termios>,
    /// The caller's side still gives input.
    pub reads_input: bool,
}

impl Relay {
    /// Takes the terminal over; without one on standard input only output
    /// is relayed as it comes.
    pub fn new(master: OwnedFd) -> Self {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            // A terminal that vanished meanwhile shows as end of input.
            let _ = tcsetattr(&stdin, SetArg::TCSANOW, &raw);
        }
        let relay = Self { master, before, reads_input: true };
        relay.resize();
        relay
    }

    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Whether the caller's terminal is gone: in raw mode nothing else ends
    /// its input.
    pub fn vanished(&self) -> bool {
        self.before.is_some() && !self.reads_input
    }

    /// Hands the caller's window size on (SIGWINCH).
    pub fn resize(&self) {
        let stdin = std::io::stdin();
        if let Ok((rows, columns)) = sys::window_size(stdin.as_fd())
            && rows > 0
        {
            let _ = sys::set_window_size(self.master.as_fd(), rows, columns);
        }
    }

    /// One piece from the caller to the program.
    pub fn forward_input(&mut self) {
        if !copy(std::io::stdin().as_fd(), self.master.as_fd()) {
            self.reads_input = false;
            // What a terminal driver does when the line ends: end of file
            // for a program that reads lines.
            let _ = nix::unistd::write(&self.master, &[4]);
        }
    }

    /// One piece from the program to the caller; false at its end.
    pub fn forward_output(&self) -> bool {
        copy(self.master.as_fd(), std::io::stdout().as_fd())
    }

    /// What the program wrote before it ended.
    pub fn drain(&self) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        loop {
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::ZERO).unwrap_or(0);
            let readable = fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN));
            if ready == 0 || !readable || !self.forward_output() {
                return;
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

/// Whether something was copied; false at the end of either side.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; 8192];
    let length = match nix::unistd::read(from, &mut buffer) {
        Ok(0) => return false,
        Ok(length) => length,
        Err(Errno::EINTR | Errno::EAGAIN) => return true,
        // EIO: the last process with the terminal open is gone.
        Err(_) => return false,
    };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match nix::unistd::write(to, rest) {
            Ok(done) => rest = &rest[done..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_writable(to),
            Err(_) => return false,
        }
    }
    true
}

fn wait_writable(fd: BorrowedFd<'_>) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    let _ = poll(&mut fds, PollTimeout::NONE);
}
