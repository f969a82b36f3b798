//! Moves network devices of the node into an environment (OCI
//! config-linux.md, "Network Devices"), with their permanent global addresses,
//! which the kernel drops on the way, and back when the start fails.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};

use super::inside::{Fault, Named};
use super::netlink::{ADDRESS_HEADER, LINK_HEADER, Message, Netlink};
use crate::policy::spec::NetDevice;
use crate::problem::Problem;

/// Devices that were moved; back they go unless they are [`Moved::kept`].
#[derive(Debug, Default)]
pub struct Moved {
    list: Vec<(NetDevice, Vec<Message>)>,
    namespace: Option<OwnedFd>,
}

/// Moves `devices` into the network namespace of the process `pid`, gives each
/// its name and addresses there, and brings it up.
///
/// The caller must have one thread: it enters that namespace for a moment.
///
/// # Errors
/// The device that cannot be moved, and why; none is moved then.
pub fn move_in(devices: &[NetDevice], pid: i32) -> Result<Moved, Problem> {
    let mut moved = Moved::default();
    let refused = |device: &NetDevice, fault: Fault| problem(device, &fault);
    for device in devices {
        let taken = || -> Result<(OwnedFd, Vec<Message>), Fault> {
            let inside = namespace(&format!("/proc/{pid}/ns/net"))?;
            let own = namespace("/proc/self/ns/net")?;
            if same(&inside, &own)? {
                let call = "check that the network namespace is another than the node's";
                return Err(Fault { call, errno: Errno::EINVAL });
            }
            let addresses = hand_over(&device.host, &device.name, &inside)?;
            Ok((inside, addresses))
        };
        let (inside, addresses) = taken().map_err(|fault| refused(device, fault))?;
        moved.list.push((device.clone(), addresses.clone()));
        let set = within(&inside, || set_up(&device.name, &addresses, true));
        moved.namespace = Some(inside);
        set.map_err(|fault| refused(device, fault))?;
    }
    Ok(moved)
}

fn problem(device: &NetDevice, fault: &Fault) -> Problem {
    let NetDevice { host, name } = device;
    let Fault { call, errno } = fault;
    let message = format!("linux.netDevices.{host}: {call}: {}", errno.desc());
    match errno {
        Errno::ENODEV => {
            Problem::user(message).hint("ip link shows the network devices of this node")
        }
        Errno::EEXIST => Problem::user(message)
            .hint(format!("there is a device {name} inside already; give it another name")),
        Errno::EINVAL => Problem::user(message).hint(
            "a loopback device, and some of a tunnel or bridge, cannot leave the node's network",
        ),
        _ => Problem::kernel(message),
    }
}

impl Moved {
    /// The environment stands: they are its own from now on.
    pub fn kept(mut self) {
        self.list.clear();
    }
}

impl Drop for Moved {
    /// The kernel would give back a device of hardware with the namespace's
    /// end, and destroy any other.
    fn drop(&mut self) {
        let Some(inside) = &self.namespace else { return };
        let Ok(own) = namespace("/proc/self/ns/net") else { return };
        for (device, addresses) in self.list.iter().rev() {
            // The first error is the one to report.
            let back = within(inside, || hand_over(&device.name, &device.host, &own).map(drop));
            if back.is_ok() {
                let _ = set_up(&device.host, addresses, false);
            }
        }
    }
}

fn namespace(path: &str) -> Result<OwnedFd, Fault> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    open(path, flags, nix::sys::stat::Mode::empty()).named("open of the network namespace")
}

fn same(a: &OwnedFd, b: &OwnedFd) -> Result<bool, Fault> {
    let id = |fd: &OwnedFd| nix::sys::stat::fstat(fd).map(|s| (s.st_dev, s.st_ino)).named("fstat");
    Ok(id(a)? == id(b)?)
}

/// Does something in another network namespace and comes back.
fn within<T>(namespace_fd: &OwnedFd, act: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    let own = namespace("/proc/self/ns/net")?;
    setns(namespace_fd.as_fd(), CloneFlags::CLONE_NEWNET).named("setns")?;
    let done = act();
    setns(own, CloneFlags::CLONE_NEWNET).named("setns back to the network namespace")?;
    done
}

/// `struct ifinfomsg` for a device, with `flags` set.
fn link_header(index: u32, flags: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// The index of a device by its name, and its `IFF_*` flags.
fn look_up(netlink: &Netlink, name: &str) -> Result<(u32, u32), Fault> {
    let request =
        Message::new(libc::RTM_GETLINK, 0, &[0; LINK_HEADER]).with_text(libc::IFLA_IFNAME, name);
    let answers = netlink.ask(&request).named("look for the device")?;
    let body = answers.first().map_or(&[][..], |answer| &answer.body);
    match (Message::number(body, 4), Message::number(body, 8)) {
        (Some(index), Some(flags)) => Ok((index, flags)),
        _ => Err(Fault { call: "look for the device", errno: Errno::EPROTO }),
    }
}

/// Moves a device out of the current namespace under another name; gives the
/// requests that add its addresses again.
fn hand_over(name: &str, new_name: &str, to: &OwnedFd) -> Result<Vec<Message>, Fault> {
    let netlink = Netlink::open().named("netlink socket")?;
    let (index, _) = look_up(&netlink, name)?;
    let addresses = addresses(&netlink, index)?;
    // Kernels before 6.15 move it under its old name first and only then find
    // the new one taken: it would be gone.
    if within(to, || Ok(look_up(&Netlink::open().named("netlink socket")?, new_name).is_ok()))? {
        return Err(Fault { call: "move to the container", errno: Errno::EEXIST });
    }
    let request = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0))
        .with(libc::IFLA_NET_NS_FD, &to.as_raw_fd().to_ne_bytes())
        .with_text(libc::IFLA_IFNAME, new_name);
    netlink.ask(&request).named("move to the container")?;
    Ok(addresses)
}

/// What is permanent and not bound to the link: those of the link make
/// themselves anew.
fn addresses(netlink: &Netlink, index: u32) -> Result<Vec<Message>, Fault> {
    const PERMANENT: u8 = 0x80;
    const SCOPE_GLOBAL: u8 = 0;
    let request = Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS_HEADER]);
    let answers = netlink.ask(&request).named("look for its addresses")?;
    let ours = answers.into_iter().filter(|answer| {
        let header = &answer.body;
        Message::number(header, 4) == Some(index)
            && header[2] & PERMANENT != 0
            && header[3] == SCOPE_GLOBAL
    });
    Ok(ours.map(|answer| as_request(&answer)).collect())
}

/// The request for an address: what it is, without its lifetime and the name
/// of the device that it was on.
fn as_request(address: &Message) -> Message {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let request = Message::new(libc::RTM_NEWADDR, flags, &address.body[..ADDRESS_HEADER]);
    let kept = [libc::IFA_LOCAL, libc::IFA_ADDRESS, libc::IFA_BROADCAST];
    let attributes = address.attributes(ADDRESS_HEADER);
    attributes
        .into_iter()
        .filter(|(kind, _)| kept.contains(kind))
        .fold(request, |request, (kind, value)| request.with(kind, value))
}

/// Gives a device of the current namespace its addresses, and brings it up.
fn set_up(name: &str, addresses: &[Message], up: bool) -> Result<(), Fault> {
    let netlink = Netlink::open().named("netlink socket")?;
    let (index, _) = look_up(&netlink, name)?;
    for address in addresses {
        let mut request = address.clone();
        request.body[4..8].copy_from_slice(&index.to_ne_bytes());
        match netlink.ask(&request) {
            Ok(_) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Fault { call: "give it its address", errno }),
        }
    }
    if up {
        let header = link_header(index, libc::IFF_UP as u32);
        netlink.ask(&Message::new(libc::RTM_NEWLINK, 0, &header)).named("bring it up")?;
    }
    Ok(())
}
