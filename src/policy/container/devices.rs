//! `linux.devices` and `linux.resources.devices` (OCI config-linux.md,
//! "Devices", "Default Devices", "Allowed Device list").

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::findings::Findings;
use super::paths::normalise;
use crate::policy::CText;
use crate::policy::limits::{DeviceKind, DeviceRule};
use crate::policy::spec::Device;

/// What every container has in /dev, with major and minor number.
const DEFAULT: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// What else may be used without being made: terminals of the container's
/// own devpts, its ptmx, and the tun device that many engines count on.
/// /dev/console is such a terminal; the system's own, 5:1, stays out.
const USABLE: &[(u32, Option<u32>)] = &[(136, None), (5, Some(2)), (10, Some(200))];

/// A device number has 12 bits for the major and 20 for the minor (makedev(3)).
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

/// The device nodes to make. One of `linux.devices` replaces a default one of
/// the same path.
///
/// # Arguments
/// * `own_dev` - whether the container has a /dev of its own; none is made in
///   one from outside
pub(super) fn check(linux: &Linux, own_dev: bool, found: &mut Findings) -> Vec<Device> {
    let mut devices: Vec<Device> = DEFAULT.iter().map(default).collect();
    let asked = linux.devices().as_deref().unwrap_or_default();
    for (index, asked) in asked.iter().enumerate() {
        let Some(device) = device(&format!("linux.devices[{index}]"), asked, found) else {
            continue;
        };
        match devices.iter_mut().find(|known| known.path == device.path) {
            Some(known) => *known = device,
            None => devices.push(device),
        }
    }
    if own_dev {
        return devices;
    }
    if !asked.is_empty() {
        found.warn("linux.devices", "/dev is bound from outside, so no device is made; ignored");
    }
    Vec::new()
}

fn default(&(path, major, minor): &(&str, u32, u32)) -> Device {
    let path = CText::lossy(path);
    Device { path, kind: libc::S_IFCHR, major, minor, mode: 0o666, uid: 0, gid: 0 }
}

fn device(field: &str, asked: &LinuxDevice, found: &mut Findings) -> Option<Device> {
    let text = asked.path().to_string_lossy();
    let path = match normalise(&text) {
        Ok(path) if path == "/" => {
            found.refuse(format_args!("{field}.path"), "is the root itself");
            return None;
        }
        Ok(path) => found.text(format_args!("{field}.path"), &path),
        Err(reason) => {
            found.refuse(format_args!("{field}.path"), format!("{text:?} {reason}"));
            return None;
        }
    };
    let kind = match asked.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            found.refuse(format_args!("{field}.type"), "\"a\" is for rules, not for a device");
            return None;
        }
    };
    let fifo = kind == libc::S_IFIFO;
    Some(Device {
        path,
        kind,
        major: if fifo { 0 } else { number(field, "major", asked.major(), MAX_MAJOR, found) },
        minor: if fifo { 0 } else { number(field, "minor", asked.minor(), MAX_MINOR, found) },
        mode: mode(field, asked, found),
        uid: owner(field, "uid", asked.uid(), found),
        gid: owner(field, "gid", asked.gid(), found),
    })
}

fn number(field: &str, name: &str, value: i64, most: i64, found: &mut Findings) -> u32 {
    if !(0..=most).contains(&value) {
        found.refuse(format_args!("{field}.{name}"), format!("{value} is not within 0 to {most}"));
    }
    u32::try_from(value).unwrap_or(0)
}

/// Engines pass st_mode as it is; only its permission bits are meant.
fn mode(field: &str, asked: &LinuxDevice, found: &mut Findings) -> u32 {
    let mode = asked.file_mode().unwrap_or(0o666) & !libc::S_IFMT;
    if mode > 0o7777 {
        found.refuse(format_args!("{field}.fileMode"), format!("{mode} is no file mode"));
    }
    mode
}

fn owner(field: &str, name: &str, id: Option<u32>, found: &mut Findings) -> u32 {
    let id = id.unwrap_or(0);
    if id == u32::MAX {
        // chown(2) takes it for "unchanged".
        let hint = "give one from 0 to 4294967294";
        found.refuse_with(format_args!("{field}.{name}"), "4294967295 is not an id", hint);
    }
    id
}

/// The device list of the control group, in the order in which it applies:
/// nothing, then what `linux.devices` makes, then `linux.resources.devices`,
/// then the default devices, which a configuration cannot take away (runc
/// appends them too). Rules that the configuration states come after those
/// that it implies, so that `allow b 8:0 r` stays read-only.
///
/// A configuration that has no `linux.resources.devices` at all asks for no
/// list (config-linux.md: it is optional), and gets none, as with crun.
pub(super) fn rules(linux: &Linux, found: &mut Findings) -> Vec<DeviceRule> {
    let Some(asked) = linux.resources().as_ref().and_then(|r| r.devices().as_deref()) else {
        return Vec::new();
    };
    let mut rules = vec![rule(false, DeviceKind::All, None, None)];
    rules.extend(linux.devices().iter().flatten().filter_map(implied));
    for (index, asked) in asked.iter().enumerate() {
        stated(&format!("linux.resources.devices[{index}]"), asked, found, &mut rules);
    }
    for kind in [DeviceKind::Char, DeviceKind::Block] {
        // Making a node is no use of the device.
        rules.push(DeviceRule { read: false, write: false, ..rule(true, kind, None, None) });
    }
    let default = DEFAULT.iter().map(|&(_, major, minor)| (major, Some(minor)));
    for (major, minor) in default.chain(USABLE.iter().copied()) {
        rules.push(rule(true, DeviceKind::Char, Some(major), minor));
    }
    rules
}

fn rule(allow: bool, kind: DeviceKind, major: Option<u32>, minor: Option<u32>) -> DeviceRule {
    DeviceRule { allow, kind, major, minor, read: true, write: true, mknod: true }
}

fn implied(device: &LinuxDevice) -> Option<DeviceRule> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P | LinuxDeviceType::A => return None,
    };
    // Numbers out of range were refused with the device.
    let number = |number: i64| u32::try_from(number).ok();
    Some(rule(true, kind, Some(number(device.major())?), Some(number(device.minor())?)))
}

fn stated(
    field: &str,
    asked: &LinuxDeviceCgroup,
    found: &mut Findings,
    rules: &mut Vec<DeviceRule>,
) {
    let kind = match asked.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => DeviceKind::All,
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => {
            found.refuse(format_args!("{field}.type"), "\"p\" is no device that a rule can name");
            return;
        }
    };
    let access = asked.access().as_deref().unwrap_or_default();
    if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
        found.refuse(
            format_args!("{field}.access"),
            format!("{access:?} is not made of r, w and m"),
        );
    }
    let mut wildcard = |name: &str, value: Option<i64>, most: i64| match value {
        // Engines write -1 for "every one" as well as leaving it out.
        None | Some(-1) => None,
        Some(value) => Some(number(field, name, value, most, found)),
    };
    let major = wildcard("major", asked.major(), MAX_MAJOR);
    let minor = wildcard("minor", asked.minor(), MAX_MINOR);
    if kind == DeviceKind::All && (major.is_some() || minor.is_some()) {
        // The kernel's "a" takes no numbers, and would mean every device.
        for kind in [DeviceKind::Char, DeviceKind::Block] {
            rules.push(with_access(rule(asked.allow(), kind, major, minor), access));
        }
    } else {
        rules.push(with_access(rule(asked.allow(), kind, major, minor), access));
    }
}

fn with_access(rule: DeviceRule, access: &str) -> DeviceRule {
    DeviceRule {
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
        ..rule
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts};
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_does_not_fit_is_named() {
        let devices = |device: Value| json!({"linux": {"devices": [device]}});
        let rules = |rule: Value| json!({"linux": {"resources": {"devices": [rule]}}});
        assert_problems(&[
            (devices(json!({"path": "dev/x", "type": "c"})), &["linux.devices[0].path: "]),
            (devices(json!({"path": "/dev/../x", "type": "c"})), &["linux.devices[0].path: "]),
            (devices(json!({"path": "/", "type": "c"})), &["linux.devices[0].path: "]),
            (devices(json!({"path": "/dev/x", "type": "a"})), &["linux.devices[0].type: "]),
            (
                devices(json!({"path": "/dev/x", "type": "b", "major": 4096, "minor": -1})),
                &["linux.devices[0].major: ", "linux.devices[0].minor: "],
            ),
            (
                devices(json!({"path": "/dev/x", "type": "p", "uid": u32::MAX,
                    "fileMode": 0x1_0000_0000u64 - 1})),
                &["linux.devices[0].fileMode: ", "linux.devices[0].uid: "],
            ),
            (rules(json!({"allow": true})), &["linux.resources.devices[0].access: "]),
            (rules(json!({"access": "rx"})), &["linux.resources.devices[0].access: "]),
            (rules(json!({"type": "p", "access": "r"})), &["linux.resources.devices[0].type: "]),
            (
                rules(json!({"type": "c", "major": -2, "minor": 1 << 20, "access": "r"})),
                &["linux.resources.devices[0].major: ", "linux.resources.devices[0].minor: "],
            ),
        ]);
    }

    #[test]
    fn a_device_replaces_the_default_of_its_path() {
        let devices = json!({"linux": {"devices": [
            {"path": "/dev//null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o100_600,
             "gid": 7},
            {"path": "/dev/fuse", "type": "u", "major": 10, "minor": 229},
            {"path": "/run/pipe", "type": "p", "major": -1}
        ]}});
        let devices = checked(devices, &facts()).spec.devices;
        assert_eq!(devices.len(), 8);
        assert_eq!((devices[0].mode, devices[0].gid), (0o600, 7));
        assert_eq!((devices[6].kind, devices[6].major, devices[6].minor), (0o020_000, 10, 229));
        assert_eq!((devices[7].kind, devices[7].major), (0o010_000, 0));
    }

    #[test]
    fn rules_apply_in_order_and_the_stated_ones_over_the_implied() {
        let config = json!({"linux": {
            "devices": [{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}],
            "resources": {"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"},
                {"allow": true, "major": 4, "access": "rw"}
            ]}
        }});
        let rules = checked(config, &facts()).spec.cgroup.limits.devices;
        let disk = rule(true, DeviceKind::Block, Some(8), Some(0));
        assert_eq!(rules[0], rule(false, DeviceKind::All, None, None));
        assert_eq!(rules[1], disk);
        assert_eq!(rules[2], rule(false, DeviceKind::All, None, None));
        assert_eq!(rules[3], DeviceRule { write: false, mknod: false, ..disk });
        assert_eq!((rules[4].kind, rules[4].major), (DeviceKind::Char, Some(4)));
        assert_eq!((rules[5].kind, rules[5].mknod), (DeviceKind::Block, false));
        assert_eq!(rules.len(), 6 + 2 + 6 + 3);
        assert!(rules[6].mknod && !rules[6].read);
    }
}
