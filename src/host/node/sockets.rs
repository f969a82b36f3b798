//! Sockets of this network namespace that wait for others (proc_net(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use super::{Handle, Kind, Scope, Thing};

/// A listening TCP socket, and one of UDP that is bound without a peer
/// (include/net/tcp_states.h).
const TCP_LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

pub fn read(scope: &Scope<'_>) -> Vec<Thing> {
    let tables = [
        ("tcp", TCP_LISTEN),
        ("tcp6", TCP_LISTEN),
        ("udp", UNCONNECTED),
        ("udp6", UNCONNECTED),
        ("udplite", UNCONNECTED),
        ("raw", UNCONNECTED),
        ("raw6", UNCONNECTED),
    ];
    let mut all = Vec::new();
    for (protocol, state) in tables {
        let path = format!("/proc/self/net/{protocol}");
        let text = crate::host::text_of(path.as_ref()).unwrap_or_default();
        all.extend(text.lines().skip(1).filter_map(|line| inet(protocol, state, line)));
    }
    let text = crate::host::text_of("/proc/self/net/unix".as_ref()).unwrap_or_default();
    all.extend(unix(scope, &text));
    all
}

fn inet(protocol: &str, state: &str, line: &str) -> Option<Thing> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if *fields.get(3)? != state {
        return None;
    }
    let address = address(fields.get(1)?)?;
    let owner = fields.get(7)?.parse().ok()?;
    Some(socket(format!("{protocol} {address}"), Some(owner)))
}

fn socket(key: String, owner: Option<u32>) -> Thing {
    Thing {
        kind: Kind::Socket,
        what: key.clone(),
        key,
        owner,
        made: None,
        job: None,
        handle: Handle::None,
    }
}

/// `0100007F:1F90` as `127.0.0.1:8080`: words in the node's byte order.
fn address(text: &str) -> Option<String> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..host.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(host.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    if let Ok(four) = <[u8; 4]>::try_from(&bytes[..]) {
        return Some(format!("{}:{port}", std::net::Ipv4Addr::from(four)));
    }
    let sixteen = <[u8; 16]>::try_from(&bytes[..]).ok()?;
    Some(format!("[{}]:{port}", std::net::Ipv6Addr::from(sixteen)))
}

/// One of AF_UNIX with a name: its path's owner, or where there is no such path
/// (an abstract name, a file that was removed) the process that holds it, which
/// is looked for only where the name is new.
fn unix(scope: &Scope<'_>, text: &str) -> Vec<Thing> {
    let mut names: BTreeMap<&str, u64> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let Some((fields, name)) = line.find(['/', '@']).map(|at| line.split_at(at)) else {
            continue;
        };
        // Accepted connections have the name as well.
        let waits =
            |fields: &[&str]| fields.get(3) == Some(&"00010000") || fields.get(4) == Some(&"0002");
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        if let Some(inode) = fields.get(6).and_then(|i| i.parse().ok()).filter(|_| waits(&fields)) {
            names.entry(name).or_insert(inode);
        }
    }
    let key = |name: &str| format!("unix {}", name.as_bytes().escape_ascii());
    let file = |name: &str| std::fs::symlink_metadata(name).ok().map(|m| m.uid());
    let new = |name: &str| !(scope.known)(Kind::Socket, &key(name)) && file(name).is_none();
    let wanted: BTreeSet<u64> = names.iter().filter(|(n, _)| new(n)).map(|(_, i)| *i).collect();
    let holders = if wanted.is_empty() { BTreeMap::new() } else { holders(&wanted) };
    let owner = |name: &str, inode: u64| file(name).or_else(|| holders.get(&inode).copied());
    names.iter().map(|(name, inode)| socket(key(name), owner(name, *inode))).collect()
}

/// The uid of a process that has each of these sockets open.
fn holders(inodes: &BTreeSet<u64>) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    super::gpu::descriptors(|pid, target| {
        let inode = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']'));
        if let Some(inode) = inode.and_then(|i| i.parse().ok()).filter(|i| inodes.contains(i))
            && !found.contains_key(&inode)
            && let Some(uid) = super::processes::owner(pid)
        {
            found.insert(inode, uid);
        }
        found.len() < inodes.len()
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        if cfg!(target_endian = "little") {
            assert_eq!(address("0100007F:1F90").unwrap(), "127.0.0.1:8080");
            assert_eq!(address("00000000000000000000000001000000:0016").unwrap(), "[::1]:22");
        }
        assert_eq!(address("nothing"), None);
        assert_eq!(address("0100:1"), None);
    }

    #[test]
    fn only_what_waits_is_taken() {
        let listening = "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 61001        0 77 1";
        let thing = inet("tcp", TCP_LISTEN, listening).unwrap();
        assert_eq!((&*thing.what, thing.owner), ("tcp 0.0.0.0:22", Some(61001)));
        assert!(inet("tcp", TCP_LISTEN, &listening.replace(" 0A ", " 01 ")).is_none());
    }

    #[test]
    fn names_of_unix_sockets_are_taken_once() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    ffff: 00000002 00000000 00010000 0001 01 11 /no/such/a b\n\
                    ffff: 00000003 00000000 00000000 0001 03 12 /no/such/a b\n\
                    ffff: 00000003 00000000 00000000 0001 03 13\n\
                    ffff: 00000002 00000000 00000000 0002 01 14 @log\n";
        let scope = Scope {
            known: &|_, _| true,
            all: true,
            is_user: &|_| false,
            directories: &[],
            queues: None,
            connections: None,
            clock: None,
        };
        let keys: Vec<String> = unix(&scope, text).into_iter().map(|t| t.key).collect();
        assert_eq!(keys, ["unix /no/such/a b", "unix @log"]);
    }
}
