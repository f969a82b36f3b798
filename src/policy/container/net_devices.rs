//! `linux.netDevices` (OCI config-linux.md, "Network Devices").

use oci_spec::runtime::Linux;

use super::findings::Findings;
use crate::host::Facts;
use crate::policy::spec::{Namespace, Namespaces, NetDevice};
use crate::problem::Problem;

/// A name has at most 15 bytes (`IFNAMSIZ`, netdevice(7)).
const LONGEST: usize = 15;
const CAP_NET_ADMIN: u8 = 12;

/// Whether the kernel takes it for the name of a network device
/// (`dev_valid_name` in net/core/dev.c).
pub(super) fn is_name(name: &str) -> bool {
    let bad = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    !name.is_empty() && name.len() <= LONGEST && !matches!(name, "." | "..") && !name.contains(bad)
}

/// The devices, in the order of their names on the node.
pub(super) fn check(
    linux: &Linux,
    namespaces: &Namespaces,
    facts: &Facts,
    found: &mut Findings,
) -> Vec<NetDevice> {
    let mut asked: Vec<_> = linux.net_devices().iter().flatten().collect();
    asked.sort_unstable_by_key(|(host, _)| host.as_str());
    let mut devices: Vec<NetDevice> = Vec::with_capacity(asked.len());
    for (host, device) in asked {
        let field = format!("linux.netDevices.{host}");
        let name = device.name().clone().filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| host.clone());
        for text in [host, &name] {
            if !is_name(text) {
                found.refuse(&field, format!("{text:?} is no name of a network device"));
                break;
            }
        }
        if devices.iter().any(|other| other.name == name) {
            found.refuse(&field, format!("two devices cannot both be {name} inside"));
        }
        devices.push(NetDevice { host: host.clone(), name });
    }
    if devices.is_empty() {
        return devices;
    }
    if namespaces.net == Namespace::Shared {
        found.refuse_with(
            "linux.netDevices",
            "the container has no network namespace of its own to move them to",
            "add {\"type\": \"network\"} to linux.namespaces, or leave the devices out",
        );
    } else if !facts.caller.has(CAP_NET_ADMIN) || facts.caller.nested {
        found.push(
            Problem::site("linux.netDevices: only root of the node can give its devices away")
                .hint("run denovo as root, or leave the devices out"),
        );
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts};
    use super::*;
    use serde_json::{Value, json};

    fn with(devices: Value) -> Value {
        json!({"linux": {"netDevices": devices}})
    }

    #[test]
    fn names_are_the_kernels() {
        for name in ["eth0", "a", "abcdefghijklmno", "eth0.5", "..."] {
            assert!(is_name(name), "{name:?}");
        }
        for name in ["", ".", "..", "abcdefghijklmnop", "a/b", "a:1", "a b", "a\n", "a\0"] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert_problems(&[
            (with(json!({"a/b": {}})), &["linux.netDevices.a/b: \"a/b\" is no name"]),
            (with(json!({"e": {"name": "x:y"}})), &["linux.netDevices.e: \"x:y\" is no name"]),
            (
                with(json!({"e0": {"name": "e"}, "e1": {"name": "e"}})),
                &["linux.netDevices.e1: two devices"],
            ),
            (
                json!({"hostname": null, "linux": {"namespaces": [{"type": "mount"}],
                    "netDevices": {"eth0": {}}}}),
                &["linux.netDevices: the container has no network"],
            ),
        ]);
        let mut weak = facts();
        weak.caller.capabilities &= !(1 << CAP_NET_ADMIN);
        let found = super::super::testing::problems(with(json!({"eth0": {}})), &weak);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn without_a_name_it_keeps_its_own() {
        let devices = with(json!({"eth1": {"name": "inside"}, "eth0": {}, "eth2": {"name": ""}}));
        let devices = checked(devices, &facts()).spec.net_devices;
        let names: Vec<_> = devices.iter().map(|d| (d.host.as_str(), d.name.as_str())).collect();
        assert_eq!(names, [("eth0", "eth0"), ("eth1", "inside"), ("eth2", "eth2")]);
    }
}
