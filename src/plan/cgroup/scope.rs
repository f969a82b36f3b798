//! A container's group as a transient scope of systemd (`--systemd-cgroup`):
//! its name, its place, and its limits as systemd's properties, as runc has
//! them (systemd.resource-control(5), org.freedesktop.systemd1(5)).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::convert::{swap_alone, weight_of_shares};
use crate::host::cpulist::parse_list;
use crate::policy::limits::Limits;
use crate::problem::{Problem, Problems};

/// Annotations that become properties of the scope.
const ANNOTATION: &str = "org.systemd.property.";

/// A property as D-Bus takes it: a variant of this signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Property {
    pub name: String,
    pub signature: String,
    /// Its parts in the words of busctl(1), "Parameter Formatting".
    pub words: Vec<String>,
}

/// A transient scope, which systemd is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub unit: String,
    /// `None`: the system's service manager; else that of this user.
    pub user: Option<u32>,
    pub properties: Vec<Property>,
    /// Its group below the mount of cgroup v2, without a leading slash.
    pub path: String,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.user.is_some() { "the user's " } else { "" };
        write!(f, "{whose}{}:", self.unit)?;
        for property in &self.properties {
            write!(f, " {}={}", property.name, property.words.join(" "))?;
        }
        Ok(())
    }
}

impl Property {
    fn new(name: &str, signature: &str, words: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            signature: signature.to_owned(),
            words: words.iter().map(|w| (*w).to_owned()).collect(),
        }
    }

    fn number(name: &str, value: u64) -> Self {
        Self::new(name, "t", &[&value.to_string()])
    }

    fn yes(name: &str) -> Self {
        Self::new(name, "b", &["true"])
    }
}

/// Decides the scope of a container.
///
/// # Arguments
/// * `path` - `linux.cgroupsPath`: `slice:prefix:name`, or empty
/// * `user` - whose service manager is asked; `None`: the system's
///
/// # Errors
/// Every problem of the path and of the annotations.
pub fn decide(
    path: &str,
    id: &str,
    user: Option<u32>,
    limits: &Limits,
    annotations: &[(String, String)],
) -> Result<Scope, Problems> {
    let mut problems = Problems::new();
    let default = if user.is_some() { "user.slice" } else { "system.slice" };
    let parts: Vec<&str> = path.split(':').collect();
    let (slice, unit) = match parts[..] {
        [""] => (default, format!("denovo-{id}.scope")),
        [slice, prefix, name] if !name.is_empty() => {
            let slice = if slice.is_empty() { default } else { slice };
            // A name that is a slice already stays as it is, as in runc.
            let prefixed = if prefix.is_empty() {
                format!("{name}.scope")
            } else {
                format!("{prefix}-{name}.scope")
            };
            (slice, prefixed)
        }
        _ => {
            problems.push(
                Problem::user(format!("linux.cgroupsPath: {path:?} is not slice:prefix:name"))
                    .hint("with --systemd-cgroup write it as system.slice:denovo:NAME, or leave it out"),
            );
            return Err(problems);
        }
    };
    let below = expand(slice).unwrap_or_else(|| {
        problems.push(
            Problem::user(format!("linux.cgroupsPath: {slice:?} is no name of a slice"))
                .hint("such as system.slice or machine-jobs.slice (systemd.slice(5))"),
        );
        String::new()
    });
    if !unit_name(&unit) {
        problems.push(
            Problem::user(format!("linux.cgroupsPath: {unit:?} is no name of a unit"))
                .hint("letters, digits and :-_.\\ in at most 255 bytes (systemd.unit(5))"),
        );
    }
    let mut properties = fixed(id, slice);
    limits_of(limits, &mut properties);
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix(ANNOTATION) else { continue };
        match annotated(name, value) {
            Some(property) => {
                properties.retain(|p| p.name != property.name);
                properties.push(property);
            }
            None => problems.push(
                Problem::user(format!(
                    "annotations.{key}: {value:?} is no value that denovo knows"
                ))
                .hint("a number (uint64 5), true or false, 'text', or ['list', 'of texts']"),
            ),
        }
    }
    let manager = user.map_or(String::new(), |uid| format!("{}/", manager(uid)));
    let path = format!("{manager}{below}/{unit}");
    if problems.is_empty() { Ok(Scope { unit, user, properties, path }) } else { Err(problems) }
}

/// The group of a user's service manager (user@.service(5)).
pub fn manager(uid: u32) -> String {
    format!("user.slice/user-{uid}.slice/user@{uid}.service")
}

/// `a-b.slice` is inside `a.slice` (systemd.slice(5)); `-.slice` is the root.
fn expand(slice: &str) -> Option<String> {
    let stem = slice.strip_suffix(".slice").filter(|_| unit_name(slice))?;
    let names: Vec<&str> = stem.split('-').collect();
    if names.iter().any(|name| name.is_empty()) {
        return None;
    }
    let all = (1..=names.len()).map(|n| format!("{}.slice", names[..n].join("-")));
    Some(all.collect::<Vec<_>>().join("/"))
}

fn unit_name(name: &str) -> bool {
    name.len() <= 255 && name.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\".contains(c))
}

fn fixed(id: &str, slice: &str) -> Vec<Property> {
    vec![
        Property::new("Description", "s", &[&format!("denovo container {id}")]),
        Property::new("Slice", "s", &[slice]),
        // What is below it is the container's, and its limits may be ours.
        Property::yes("Delegate"),
        Property::new("DefaultDependencies", "b", &["false"]),
        // A failed one would keep its name.
        Property::new("CollectMode", "s", &["inactive-or-failed"]),
        Property::yes("CPUAccounting"),
        Property::yes("MemoryAccounting"),
        Property::yes("TasksAccounting"),
    ]
}

/// Limits that systemd knows; they are set in the group's files as well, with
/// those that it does not know.
fn limits_of(limits: &Limits, to: &mut Vec<Property>) {
    let most = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    let memory = &limits.memory;
    to.extend(memory.limit.map(|n| Property::number("MemoryMax", most(n))));
    to.extend(memory.reservation.map(|n| Property::number("MemoryLow", most(n))));
    // One that cannot be said is refused with the group's files.
    let swap = memory.swap.and_then(|swap| swap_alone(swap, memory.limit).ok());
    to.extend(swap.map(|n| Property::number("MemorySwapMax", most(n))));
    to.extend(limits.pids.map(|n| Property::number("TasksMax", most(n))));
    let cpu = &limits.cpu;
    if let Some(shares) = cpu.shares.filter(|n| *n > 0) {
        to.push(Property::number("CPUWeight", weight_of_shares(shares)));
    }
    if let Some(quota) = cpu.quota.filter(|n| *n != 0) {
        let period = cpu.period.filter(|n| *n != 0).unwrap_or(100_000);
        let second = u64::try_from(quota).map_or(u64::MAX, |quota| {
            // systemd rounds down to 10 ms in each second; a job must not get less.
            (quota.saturating_mul(1_000_000) / period).next_multiple_of(10_000)
        });
        to.push(Property::number("CPUQuotaPerSecUSec", second));
        to.push(Property::number("CPUQuotaPeriodUSec", period));
    }
    for (list, name) in [(&cpu.cpus, "AllowedCPUs"), (&cpu.mems, "AllowedMemoryNodes")] {
        let numbers = list.as_deref().and_then(|list| parse_list(list).ok());
        if let Some(numbers) = numbers.filter(|numbers| !numbers.is_empty()) {
            to.push(bits(name, &numbers));
        }
    }
}

/// A set of numbers as a string of bits, the least first.
fn bits(name: &str, numbers: &[u32]) -> Property {
    let last = numbers.iter().max().copied().unwrap_or(0) as usize;
    let mut bytes = vec![0u8; last / 8 + 1];
    for number in numbers {
        bytes[*number as usize / 8] |= 1 << (number % 8);
    }
    let mut words = vec![bytes.len().to_string()];
    words.extend(bytes.iter().map(ToString::to_string));
    Property { name: name.to_owned(), signature: "ay".to_owned(), words }
}

/// A value in GVariant's text form, of the types that properties have. A name
/// in `…Sec` takes seconds, as unit files do, and becomes `…USec`.
fn annotated(name: &str, value: &str) -> Option<Property> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return None;
    }
    let value = value.trim();
    if let Some(stem) = name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) {
        let number = value.rsplit(' ').next()?;
        let seconds: f64 = number.parse().ok().filter(|s: &f64| s.is_finite() && *s >= 0.0)?;
        return Some(Property::number(&format!("{stem}USec"), (seconds * 1e6) as u64));
    }
    let text = |word: &str| -> Option<String> {
        let inner = ['\'', '"'].iter().find_map(|q| word.strip_prefix(*q)?.strip_suffix(*q))?;
        (!inner.contains(['\'', '"', '\\', '\0'])).then(|| inner.to_owned())
    };
    let list = value.strip_prefix('[').and_then(|v| v.strip_suffix(']'));
    let (signature, words) = if let Some(list) = list {
        let parts = list.split(',').map(str::trim).filter(|w| !w.is_empty());
        let texts = parts.map(text).collect::<Option<Vec<_>>>()?;
        ("as", [vec![texts.len().to_string()], texts].concat())
    } else if let Some(text) = text(value) {
        ("s", vec![text])
    } else if matches!(value, "true" | "false") {
        ("b", vec![value.to_owned()])
    } else {
        let (kind, number) = value.split_once(' ').unwrap_or(("int32", value));
        let signature = match kind {
            "uint64" => number.parse::<u64>().ok().map(|_| "t"),
            "int64" => number.parse::<i64>().ok().map(|_| "x"),
            "uint32" => number.parse::<u32>().ok().map(|_| "u"),
            "int32" => number.parse::<i32>().ok().map(|_| "i"),
            _ => None,
        };
        (signature?, vec![number.to_owned()])
    };
    Some(Property { name: name.to_owned(), signature: signature.to_owned(), words })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::limits::{Cpu, Memory};

    fn scope(path: &str, user: Option<u32>) -> Result<Scope, Problems> {
        decide(path, "c1", user, &Limits::default(), &[])
    }

    #[test]
    fn places() {
        for (asked, user, path) in [
            ("", None, "system.slice/denovo-c1.scope"),
            (":cri:x", None, "system.slice/cri-x.scope"),
            ("a-b.slice:p:n", None, "a.slice/a-b.slice/p-n.scope"),
            ("a.slice::n", None, "a.slice/n.scope"),
            ("", Some(7), "user.slice/user-7.slice/user@7.service/user.slice/denovo-c1.scope"),
        ] {
            assert_eq!(scope(asked, user).unwrap().path, path, "{asked}");
        }
        for bad in ["/a/b", "a:b", "a.slice:b:", "a:b:c", "-.slice:a:b", "a--b.slice:p:n", "::a/b"]
        {
            assert!(scope(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_become_properties() {
        let limits = Limits {
            memory: Memory { limit: Some(64), swap: Some(96), ..Memory::default() },
            cpu: Cpu {
                quota: Some(25_001),
                period: Some(50_000),
                cpus: Some("0,9".into()),
                shares: Some(1024),
                ..Cpu::default()
            },
            pids: Some(-1),
            ..Limits::default()
        };
        let scope = decide("", "c1", None, &limits, &[]).unwrap();
        let of = |name: &str| {
            let p = scope.properties.iter().find(|p| p.name == name).unwrap();
            format!("{} {}", p.signature, p.words.join(" "))
        };
        assert_eq!(of("MemoryMax"), "t 64");
        assert_eq!(of("MemorySwapMax"), "t 32");
        assert_eq!(of("CPUQuotaPerSecUSec"), "t 510000");
        assert_eq!(of("CPUWeight"), "t 100");
        assert_eq!(of("TasksMax"), format!("t {}", u64::MAX));
        assert_eq!(of("AllowedCPUs"), "ay 2 1 2");
    }

    #[test]
    fn annotations_have_types() {
        for (name, value, expected) in [
            ("TimeoutStopSec", "1.5", "TimeoutStopUSec t 1500000"),
            ("TimeoutStopUSec", "uint64 5", "TimeoutStopUSec t 5"),
            ("CollectMode", "'inactive'", "CollectMode s inactive"),
            ("SendSIGHUP", "true", "SendSIGHUP b true"),
            ("After", "['a.service', \"b.service\"]", "After as 2 a.service b.service"),
            ("X", "-5", "X i -5"),
        ] {
            let p = annotated(name, value).unwrap();
            assert_eq!(format!("{} {} {}", p.name, p.signature, p.words.join(" ")), expected);
        }
        for (name, value) in [("A", "word"), ("A b", "1"), ("A", "uint64 -1"), ("ASec", "x")] {
            assert!(annotated(name, value).is_none(), "{name} {value}");
        }
    }
}
