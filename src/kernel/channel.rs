//! The words that a starting environment and its starter exchange.
//!
//! A SOCK_SEQPACKET pair: a word is one packet, a closed end is "done" or
//! "died". The starter owns the plan, so a failure is only step, errno and
//! the name of the call.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};

/// One end.
pub struct Channel(OwnedFd);

/// What is said, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Go = b'g' as isize,
    RunHooks = b'h' as isize,
    /// Hooks of the container's namespaces want its state.
    WantState = b's' as isize,
    Created = b'c' as isize,
    Terminal = b't' as isize,
    Failed = b'e' as isize,
    /// The pid of the process that the stage made.
    Born = b'b' as isize,
    /// A sentence that goes with the failure that follows.
    Note = b'n' as isize,
    Network = b'w' as isize,
    /// Network devices are to be moved in.
    WantDevices = b'd' as isize,
    /// The listener of a seccomp filter.
    Listener = b'l' as isize,
}

/// What the starter hears.
#[derive(Debug)]
pub enum Heard {
    /// The other end is closed: the process was executed, or died.
    Closed,
    RunHooks,
    WantState,
    Created,
    WantDevices,
    Terminal(OwnedFd),
    Listener(OwnedFd),
    Born(i32),
    Note(String),
    Failed {
        step: usize,
        errno: Errno,
        call: String,
    },
}

/// Bytes of the longest word.
const PACKET: usize = 1024;

/// Step number of a failure before or outside the steps inside.
pub const STAGE: usize = u32::MAX as usize;

impl Channel {
    /// # Errors
    /// As socketpair(2).
    pub fn pair() -> Result<(Self, Self), Errno> {
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(a), Self(b)))
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        nix::sys::socket::send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    /// # Errors
    /// As send(2).
    pub fn say(&self, word: Word) -> Result<(), Errno> {
        self.send(&[word as u8])
    }

    /// # Errors
    /// As send(2).
    pub fn say_born(&self, pid: i32) -> Result<(), Errno> {
        let mut packet = [Word::Born as u8; 5];
        packet[1..].copy_from_slice(&pid.to_le_bytes());
        self.send(&packet)
    }

    /// Reports a failure; the text is cut to what fits a packet.
    pub fn say_failed(&self, step: usize, errno: Errno, call: &str) {
        let mut packet = [0u8; 128];
        packet[0] = Word::Failed as u8;
        packet[1..5].copy_from_slice(&(step as u32).to_le_bytes());
        packet[5..9].copy_from_slice(&(errno as i32).to_le_bytes());
        let text = &call.as_bytes()[..call.len().min(packet.len() - 9)];
        packet[9..9 + text.len()].copy_from_slice(text);
        // The starter may be gone; then nobody needs to know.
        let _ = self.send(&packet[..9 + text.len()]);
    }

    /// Says why, for a failure that has no system call of ours to name.
    pub fn say_note(&self, text: &str) {
        let mut packet = vec![Word::Note as u8];
        packet.extend_from_slice(text.as_bytes());
        packet.truncate(PACKET);
        let _ = self.send(&packet);
    }

    /// # Errors
    /// As sendmsg(2).
    pub fn say_terminal(&self, master: RawFd) -> Result<(), Errno> {
        let fds = [master];
        let rights = [ControlMessage::ScmRights(&fds)];
        let text = [Word::Terminal as u8];
        let iov = [IoSlice::new(&text)];
        sendmsg::<()>(self.0.as_raw_fd(), &iov, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
    }

    pub fn into_owned(self) -> OwnedFd {
        self.0
    }

    /// The descriptor, to wait on together with others.
    pub fn as_owned(&self) -> &OwnedFd {
        &self.0
    }

    /// Waits for one word and for nothing else.
    ///
    /// # Errors
    /// `EPIPE` when the other end closed, `EPROTO` for another word.
    pub fn expect(&self, word: Word) -> Result<(), Errno> {
        let mut byte = [0u8; 1];
        loop {
            match nix::unistd::read(&self.0, &mut byte) {
                Ok(0) => return Err(Errno::EPIPE),
                Ok(_) if byte[0] == word as u8 => return Ok(()),
                Ok(_) => return Err(Errno::EPROTO),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The network namespace to enter.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub fn say_network(&self, network: &OwnedFd) -> Result<(), Errno> {
        send_with(&self.0, &[Word::Network as u8], &[network.as_raw_fd()])
    }

    /// The listener of the filter that this process has from now on.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub fn say_listener(&self, listener: &OwnedFd) -> Result<(), Errno> {
        send_with(&self.0, &[Word::Listener as u8], &[listener.as_raw_fd()])
    }

    /// Waits for the network namespace.
    ///
    /// # Errors
    /// As [`Self::expect`].
    pub fn expect_network(&self) -> Result<OwnedFd, Errno> {
        let mut byte = [0u8; 1];
        match receive_with(&self.0, &mut byte)? {
            (0, _) => Err(Errno::EPIPE),
            (_, mut fds) if byte[0] == Word::Network as u8 => fds.pop().ok_or(Errno::EPROTO),
            _ => Err(Errno::EPROTO),
        }
    }

    /// Sends a text in one packet (the container's state, for hooks).
    ///
    /// # Errors
    /// As send(2).
    pub fn say_text(&self, text: &[u8]) -> Result<(), Errno> {
        self.send(text)
    }

    /// Receives one packet of text.
    ///
    /// # Errors
    /// As read(2).
    pub fn hear_text(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        nix::unistd::read(&self.0, buffer)
    }

    /// Waits for the next word.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub fn hear(&self) -> Result<Heard, Errno> {
        let mut buffer = [0u8; PACKET];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let (len, fd) = loop {
            let mut iov = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.0.as_raw_fd(), &mut iov, Some(&mut space), flags) {
                Ok(message) => break (message.bytes, first_descriptor(&message)),
                // The other end closed before it read all that we said; the
                // kernel tells so once, before what that one said itself.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(e) => return Err(e),
            }
        };
        parse(&buffer[..len], fd)
    }
}

fn first_descriptor(message: &nix::sys::socket::RecvMsg<'_, '_, ()>) -> Option<OwnedFd> {
    for control in message.cmsgs().ok()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            return fds.first().map(|fd| super::sys::own(*fd));
        }
    }
    None
}

/// Reads one packet of the starting child.
///
/// # Errors
/// `EPROTO` for something that is no word.
pub fn parse(packet: &[u8], fd: Option<OwnedFd>) -> Result<Heard, Errno> {
    let number = |at: usize| -> Option<i32> {
        Some(i32::from_le_bytes(packet.get(at..at + 4)?.try_into().ok()?))
    };
    let Some(first) = packet.first() else { return Ok(Heard::Closed) };
    let heard = match *first {
        b if b == Word::RunHooks as u8 => Some(Heard::RunHooks),
        b if b == Word::WantState as u8 => Some(Heard::WantState),
        b if b == Word::Created as u8 => Some(Heard::Created),
        b if b == Word::Terminal as u8 => fd.map(Heard::Terminal),
        b if b == Word::Listener as u8 => fd.map(Heard::Listener),
        b if b == Word::WantDevices as u8 => Some(Heard::WantDevices),
        b if b == Word::Born as u8 => number(1).map(Heard::Born),
        b if b == Word::Note as u8 => {
            Some(Heard::Note(String::from_utf8_lossy(&packet[1..]).into_owned()))
        }
        b if b == Word::Failed as u8 => number(1).zip(number(5)).map(|(step, errno)| {
            let call = String::from_utf8_lossy(packet.get(9..).unwrap_or_default()).into_owned();
            Heard::Failed { step: step as u32 as usize, errno: Errno::from_raw(errno), call }
        }),
        _ => None,
    };
    heard.ok_or(Errno::EPROTO)
}

/// One packet with descriptors.
///
/// # Errors
/// As sendmsg(2).
pub fn send_with(to: &OwnedFd, bytes: &[u8], fds: &[RawFd]) -> Result<(), Errno> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let iov = [IoSlice::new(bytes)];
    sendmsg::<()>(to.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Most descriptors that one packet carries here: eight namespaces and a
/// door for each cgroup hierarchy.
const MOST_FDS: usize = 32;

/// One packet with its descriptors; empty at the end of the connection.
///
/// # Errors
/// As recvmsg(2); `EMSGSIZE` when the packet is longer than the buffer.
pub fn receive_with(from: &OwnedFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = nix::cmsg_space!([RawFd; MOST_FDS]);
    loop {
        let mut iov = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(from.as_raw_fd(), &mut iov, Some(&mut space), flags) {
            Ok(message) if message.flags.contains(MsgFlags::MSG_TRUNC) => {
                return Err(Errno::EMSGSIZE);
            }
            Ok(message) => {
                let mut fds = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(list) = control {
                        fds.extend(list.into_iter().map(super::sys::own));
                    }
                }
                return Ok((message.bytes, fds));
            }
            // See `Channel::hear`.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(e) => return Err(e),
        }
    }
}

/// accept4(2) on a listening socket, again when a signal came in between.
///
/// # Errors
/// As accept4(2).
pub fn accept(listener: &OwnedFd) -> Result<OwnedFd, Errno> {
    loop {
        match nix::sys::socket::accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => return Ok(super::sys::own(fd)),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}
