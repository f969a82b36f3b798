//! Sets the device list: with the files of cgroup v1, or with a program on v2.

use super::CgroupError;
use super::device_filter;
use super::directory::Directory;
use crate::plan::cgroup::Version;
use crate::plan::cgroup::devices::{is_everything, line};
use crate::policy::limits::DeviceRule;

pub(super) fn set(group: &Directory, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    match group.version {
        Version::V1 => set_v1(group, rules),
        Version::V2 => device_filter::attach(group, rules),
    }
}

/// Writes rule by rule; the plan has brought them into the form that v1 needs.
fn set_v1(group: &Directory, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        let value = if is_everything(rule) { "a".to_owned() } else { line(rule) };
        group.write(file, &value)?;
    }
    // The list shows the exceptions while everything else is denied, and one
    // line while everything else is allowed.
    let found = group.read("devices.list")?;
    let default = rules.iter().rfind(|r| is_everything(r)).is_none_or(|r| r.allow);
    let kept = if default {
        found.trim() == "a *:* rwm"
    } else {
        let allowed = rules.iter().filter(|r| r.allow && !is_everything(r));
        allowed.clone().count() == found.lines().count()
            && allowed.clone().all(|rule| found.lines().any(|l| l == line(rule)))
    };
    if kept {
        Ok(())
    } else {
        let asked: Vec<String> = rules.iter().map(line).collect();
        Err(group.not_kept(
            "device list",
            "devices.list",
            &asked.join(", "),
            &found.trim().replace('\n', ", "),
        ))
    }
}
