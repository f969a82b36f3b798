//! Device lists: what they say in the end, and what cgroup v1 can say of it.

use crate::policy::limits::{DeviceKind, DeviceRule};

/// A rule that the device list of cgroup v1 cannot hold, because it takes
/// exceptions back only as they were given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device rule `{rule}` cuts into `{other}`, which cgroup v1 cannot express")]
pub struct Inexpressible {
    pub rule: String,
    pub other: String,
}

/// A rule the way `devices.allow` and `devices.deny` take it, such as
/// `c 1:3 rwm` (kernel document cgroup-v1/devices).
pub fn line(rule: &DeviceRule) -> String {
    let kind = match rule.kind {
        DeviceKind::All => 'a',
        DeviceKind::Char => 'c',
        DeviceKind::Block => 'b',
    };
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    let access: String = [(rule.read, 'r'), (rule.write, 'w'), (rule.mknod, 'm')]
        .into_iter()
        .filter_map(|(on, letter)| on.then_some(letter))
        .collect();
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

/// All rules in one line, such as `deny all, allow c 1:3 rwm, b 8:* r`.
pub fn summary(rules: &[DeviceRule]) -> String {
    let mut parts = Vec::new();
    let mut last = None;
    for rule in rules {
        let what = if is_everything(rule) { "all".to_owned() } else { line(rule) };
        let verb = if rule.allow { "allow" } else { "deny" };
        parts.push(if last == Some(rule.allow) { what } else { format!("{verb} {what}") });
        last = Some(rule.allow);
    }
    parts.join(", ")
}

/// Whether a rule speaks of every device and every access.
pub fn is_everything(rule: &DeviceRule) -> bool {
    rule.kind == DeviceKind::All
        && rule.major.is_none()
        && rule.minor.is_none()
        && rule.read
        && rule.write
        && rule.mknod
}

/// The same list in the only form that cgroup v1 carries out as it is meant:
/// first a rule for everything, then the exceptions to it, none of which
/// touches another. What no rule matches is denied, as runc and crun have it.
///
/// # Errors
/// [`Inexpressible`] when a rule takes back a part of a wider exception.
pub fn for_v1(rules: &[DeviceRule]) -> Result<Vec<DeviceRule>, Inexpressible> {
    let mut default = false;
    let mut exceptions: Vec<DeviceRule> = Vec::new();
    for rule in rules.iter().flat_map(by_kind) {
        if is_everything(&rule) {
            default = rule.allow;
            exceptions.clear();
        } else if rule.allow == default {
            for exception in &mut exceptions {
                take_back(&rule, exception)?;
            }
            exceptions.retain(|e| e.read || e.write || e.mknod);
        } else {
            let same = |e: &&mut DeviceRule| {
                (e.kind, e.major, e.minor) == (rule.kind, rule.major, rule.minor)
            };
            match exceptions.iter_mut().find(same) {
                Some(known) => {
                    known.read |= rule.read;
                    known.write |= rule.write;
                    known.mknod |= rule.mknod;
                }
                None => exceptions.push(rule),
            }
        }
    }
    let everything = DeviceRule {
        allow: default,
        kind: DeviceKind::All,
        major: None,
        minor: None,
        read: true,
        write: true,
        mknod: true,
    };
    Ok([vec![everything], exceptions].concat())
}

/// A rule for both kinds as two, unless it speaks of everything.
fn by_kind(rule: &DeviceRule) -> Vec<DeviceRule> {
    if rule.kind != DeviceKind::All || is_everything(rule) {
        return vec![rule.clone()];
    }
    [DeviceKind::Char, DeviceKind::Block].map(|kind| DeviceRule { kind, ..rule.clone() }).to_vec()
}

/// Takes what `rule` speaks of out of `exception`.
fn take_back(rule: &DeviceRule, exception: &mut DeviceRule) -> Result<(), Inexpressible> {
    let meets = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    let covers = |a: Option<u32>, b: Option<u32>| a.is_none() || a == b;
    let apart = rule.kind != exception.kind
        || !meets(rule.major, exception.major)
        || !meets(rule.minor, exception.minor);
    let shared = (rule.read && exception.read)
        || (rule.write && exception.write)
        || (rule.mknod && exception.mknod);
    if apart || !shared {
        return Ok(());
    }
    if !covers(rule.major, exception.major) || !covers(rule.minor, exception.minor) {
        return Err(Inexpressible { rule: line(rule), other: line(exception) });
    }
    exception.read &= !rule.read;
    exception.write &= !rule.write;
    exception.mknod &= !rule.mknod;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+c 1:3 rw` as a rule.
    fn rule(text: &str) -> DeviceRule {
        let words: Vec<&str> = text[1..].split(' ').collect();
        let (major, minor) = words[1].split_once(':').unwrap();
        DeviceRule {
            allow: text.starts_with('+'),
            kind: match words[0] {
                "a" => DeviceKind::All,
                "c" => DeviceKind::Char,
                _ => DeviceKind::Block,
            },
            major: major.parse().ok(),
            minor: minor.parse().ok(),
            read: words[2].contains('r'),
            write: words[2].contains('w'),
            mknod: words[2].contains('m'),
        }
    }

    fn in_v1(rules: &[&str]) -> Result<String, Inexpressible> {
        let rules: Vec<DeviceRule> = rules.iter().map(|r| rule(r)).collect();
        for_v1(&rules).map(|r| summary(&r))
    }

    #[test]
    fn lists_become_one_default_with_exceptions() {
        let table: &[(&[&str], &str)] = &[
            (&[], "deny all"),
            (&["-a *:* rwm", "+c 1:3 rwm"], "deny all, allow c 1:3 rwm"),
            (&["+c 1:3 rwm"], "deny all, allow c 1:3 rwm"),
            (&["+a *:* rwm", "-b 8:0 w"], "allow all, deny b 8:0 w"),
            (&["+c 1:3 r", "+c 1:3 w"], "deny all, allow c 1:3 rw"),
            (&["+c 1:3 rwm", "-c 1:3 m"], "deny all, allow c 1:3 rw"),
            (&["+c 1:3 rwm", "-c *:* rwm"], "deny all"),
            (&["+a *:* m"], "deny all, allow c *:* m, b *:* m"),
            (&["+c 1:3 rwm", "-b 1:3 rwm"], "deny all, allow c 1:3 rwm"),
            (&["+c 1:3 rwm", "+a *:* rwm"], "allow all"),
        ];
        for (rules, expected) in table {
            assert_eq!(in_v1(rules).as_deref(), Ok(*expected), "{rules:?}");
        }
    }

    #[test]
    fn a_hole_in_a_wildcard_is_refused_rather_than_left_open() {
        let error = in_v1(&["+c 1:* rwm", "-c 1:1 rwm"]).unwrap_err();
        assert_eq!(error, Inexpressible { rule: "c 1:1 rwm".into(), other: "c 1:* rwm".into() });
    }
}
