//! Terminals (ioctl_tty(2)).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::owned;

/// The device of a terminal's other end, opened through its master
/// (`TIOCGPTPEER`, ioctl_tty(2)), so that no path can be swapped in between.
///
/// # Errors
/// As ioctl_tty(2).
pub fn pty_peer(master: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which outlives the call.
    Errno::result(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked)
    })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) } as libc::c_long)
}

/// Makes the terminal the controlling one of this session (`TIOCSCTTY`).
///
/// # Errors
/// As ioctl_tty(2).
pub fn set_controlling_terminal(tty: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the argument is a whole number.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Sets a terminal's size in rows and columns (`TIOCSWINSZ`).
///
/// # Errors
/// As ioctl_tty(2).
pub fn set_window_size(tty: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<(), Errno> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: size outlives the call.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
        .map(drop)
}

/// A terminal's size in rows and columns (`TIOCGWINSZ`).
///
/// # Errors
/// As ioctl_tty(2).
pub fn window_size(tty: BorrowedFd<'_>) -> Result<(u16, u16), Errno> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills in one winsize.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok((size.ws_row, size.ws_col))
}
