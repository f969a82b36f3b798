//! As much of rtnetlink(7) as moving a network device takes.
//!
//! The crates for it bring an async runtime or thousands of lines of types
//! for what are five messages here.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

/// `struct nlmsghdr` and the two headers that follow it have so many bytes.
const HEADER: usize = 16;
pub const LINK_HEADER: usize = 16;
pub const ADDRESS_HEADER: usize = 8;

/// A socket in the network namespace that this process was in when it was made.
pub struct Netlink {
    socket: OwnedFd,
}

/// A request or an answer: kind, header of the kind, attributes.
#[derive(Debug, Clone)]
pub struct Message {
    pub kind: u16,
    pub flags: u16,
    pub body: Vec<u8>,
}

impl Message {
    /// One that starts with the header of its kind.
    pub fn new(kind: u16, flags: i32, header: &[u8]) -> Self {
        Self { kind, flags: flags as u16, body: header.to_vec() }
    }

    /// Adds an attribute, padded to 4 bytes.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend((4 + value.len() as u16).to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    /// A text ends with a NUL.
    pub fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// The attributes behind a header of `header` bytes; what is cut short
    /// ends the list.
    pub fn attributes(&self, header: usize) -> Vec<(u16, &[u8])> {
        let mut rest = self.body.get(header..).unwrap_or_default();
        let mut found = Vec::new();
        while let [a, b, c, d, ..] = *rest {
            let length = usize::from(u16::from_ne_bytes([a, b]));
            let Some(value) = rest.get(4..length) else { break };
            // The two highest bits are flags of the type.
            found.push((u16::from_ne_bytes([c, d]) & 0x3fff, value));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        found
    }

    /// A number of the header or of an attribute.
    pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    }
}

impl Netlink {
    /// # Errors
    /// As socket(2).
    pub fn open() -> Result<Self, Errno> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Sends a request and gathers what is answered.
    ///
    /// # Errors
    /// The kernel's own answer, or as recv(2).
    pub fn ask(&self, request: &Message) -> Result<Vec<Message>, Errno> {
        let dump = i32::from(request.flags) & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
        let flags = request.flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut packet = Vec::with_capacity(HEADER + request.body.len());
        packet.extend(((HEADER + request.body.len()) as u32).to_ne_bytes());
        packet.extend(request.kind.to_ne_bytes());
        packet.extend(flags.to_ne_bytes());
        packet.extend([0; 8]);
        packet.extend(&request.body);
        send(self.socket.as_raw_fd(), &packet, MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for message in split(&buffer[..length]) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_ERROR => {
                        let code = Message::number(&message.body, 0).unwrap_or(0) as i32;
                        return match code {
                            0 if dump => continue,
                            0 => Ok(answers),
                            code => Err(Errno::from_raw(-code)),
                        };
                    }
                    _ => answers.push(message),
                }
            }
        }
    }
}

/// The messages of one packet.
fn split(mut packet: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    while packet.len() >= HEADER {
        let length = Message::number(packet, 0).unwrap_or(0) as usize;
        let Some(body) = packet.get(HEADER..length) else { break };
        let short = |at: usize| u16::from_ne_bytes([packet[at], packet[at + 1]]);
        found.push(Message { kind: short(4), flags: short(6), body: body.to_vec() });
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let message = Message::new(16, 0, &[7; LINK_HEADER]).with_text(3, "eth0").with(28, &[1]);
        assert_eq!(message.body.len(), LINK_HEADER + 12 + 8);
        let found = message.attributes(LINK_HEADER);
        assert_eq!(found, [(3, &b"eth0\0"[..]), (28, &[1][..])]);
        let cut = Message { body: message.body[..LINK_HEADER + 6].to_vec(), ..message };
        assert_eq!(cut.attributes(LINK_HEADER), []);
    }

    #[test]
    fn the_loopback_interface_answers() {
        let request = Message::new(libc::RTM_GETLINK, 0, &[0; LINK_HEADER]);
        let netlink = Netlink::open().unwrap();
        let answers = netlink.ask(&request.clone().with_text(libc::IFLA_IFNAME, "lo")).unwrap();
        assert_eq!(Message::number(&answers[0].body, 4), Some(1));
        let none = netlink.ask(&request.with_text(libc::IFLA_IFNAME, "dnt-none"));
        assert_eq!(none.unwrap_err(), Errno::ENODEV);
    }
}
