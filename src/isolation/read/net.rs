//! The network, and what is counted of it beyond namespaces.

use std::net::{Ipv4Addr, TcpListener};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Channel, Look, Reading, each, lines_after, names, number, text, value, word};

/// Ports that the neighbour takes some of: its own, by its tag, so that checks
/// at the same time do not take each other's.
pub fn ports(look: &Look) -> std::ops::Range<u16> {
    let number = look.tag.bytes().fold(0u32, |n, byte| n.wrapping_mul(31) + u32::from(byte));
    let first = 20_000 + (number % 300) as u16 * 32;
    first..first + 32
}

pub const CHANNELS: &[Channel] = &[
    Channel::new("net_mac", "/sys/class/net/*/address", "host identity", |_| {
        let all = each("/sys/class/net", "address")?;
        let real = |l: &String| !l.ends_with(": 00:00:00:00:00:00");
        Some(Reading::List(all.into_iter().filter(real).collect()))
    })
    .same(),
    Channel::new("sys_class_net", "/sys/class/net", "host NICs", |_| {
        Some(Reading::List(names("/sys/class/net")?.into_iter().filter(|n| n != "lo").collect()))
    })
    .same(),
    Channel::new("net_dev", "/proc/net/dev", "host NICs, traffic", |_| {
        let all = lines_after("/proc/net/dev", 2)?;
        let name = |l: &String| Some(l.split_once(':')?.0.trim().to_owned());
        Some(Reading::List(all.iter().filter_map(name).filter(|n| n != "lo").collect()))
    })
    .same(),
    Channel::new("net_arp", "/proc/net/arp", "peers", |_| {
        lines_after("/proc/net/arp", 1).map(Reading::List)
    })
    .same(),
    Channel::new("unix_abstract", "/proc/net/unix @", "services", |_| unix(|p| p.starts_with('@')))
        .same()
        .marked(),
    Channel::new("unix_paths", "/proc/net/unix", "services", |_| unix(|p| p.starts_with('/')))
        .same()
        .marked(),
    Channel::new("tcp_listen", "/proc/net/tcp", "services", |_| local("/proc/net/tcp", " 0A "))
        .same()
        .marked(),
    Channel::new("udp_bound", "/proc/net/udp", "services", |_| local("/proc/net/udp", ""))
        .same()
        .marked(),
    Channel::new("netlink", "/proc/net/netlink", "daemons", |_| {
        number(lines_after("/proc/net/netlink", 1)?.len() as f64)
    })
    .level(6.0),
    Channel::new("sockets_used", "/proc/net/sockstat", "sockets", |_| {
        number(value(&text("/proc/net/sockstat")?, "sockets: used")?)
    })
    .within(5.0)
    .level(40.0),
    Channel::new("tcp_alloc", "/proc/net/sockstat TCP alloc", "TCP sockets host-wide", |_| {
        let text = text("/proc/net/sockstat")?;
        let line = text.lines().find(|l| l.starts_with("TCP:"))?;
        number(value(line.split_once(" alloc")?.1, "")?)
    })
    .within(1.0)
    .level(6.0),
    Channel::new("snmp_tcp", "/proc/net/snmp", "traffic", |_| {
        let text = text("/proc/net/snmp")?;
        let line = text.lines().filter(|l| l.starts_with("Tcp:")).nth(1)?;
        // ActiveOpens and PassiveOpens.
        number(word(line, 5)?.parse::<f64>().ok()? + word(line, 6)?.parse::<f64>().ok()?)
    })
    .within(5.0)
    .rate(40.0),
    Channel::new("ports_taken", "bind() 127.0.0.1", "services", |look| {
        let taken = |port: &u16| {
            let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, *port));
            bound.is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
        };
        Some(Reading::List(ports(look).filter(taken).map(|port| format!(":{port}")).collect()))
    })
    .marked(),
    Channel::new("vsock", "socket(AF_VSOCK)", "not namespaced", |_| {
        let kind = (AddressFamily::Vsock, SockType::Stream);
        socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, None).ok()?;
        Some(Reading::Text("can be made".to_owned()))
    })
    .showing(),
];

fn unix(wanted: fn(&str) -> bool) -> Option<Reading> {
    let all = lines_after("/proc/net/unix", 1)?;
    let paths = all.iter().filter_map(|l| word(l, 7)).filter(|p| wanted(p));
    let mut paths: Vec<String> = paths.map(str::to_owned).collect();
    paths.sort();
    Some(Reading::List(paths))
}

/// Local addresses of the lines that hold `state`.
fn local(path: &str, state: &str) -> Option<Reading> {
    let all = lines_after(path, 1)?;
    let kept = all.iter().filter(|line| line.contains(state));
    Some(Reading::List(kept.filter_map(|l| word(l, 1)).map(str::to_owned).collect()))
}
