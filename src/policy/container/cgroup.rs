//! The container's control groups (OCI config-linux.md, "Control groups").

use oci_spec::runtime::Linux;

use super::CAP_SYS_ADMIN;
use super::findings::Findings;
use super::{devices, resources};
use crate::host::Facts;
use crate::policy::spec::Cgroup;

/// The parent of all groups that are not placed by an absolute path.
const PARENT: &str = "denovo";

/// A name in a control group hierarchy is a file name (NAME_MAX).
const LONGEST_NAME: usize = 255;

/// Place and limits. A user who asked for no limit can do without a group; a
/// user has no device list either, since only CAP_SYS_ADMIN may set one, and
/// a user namespace makes no device nodes.
///
/// # Arguments
/// * `id` - names the group when `linux.cgroupsPath` does not
pub(super) fn check(linux: &Linux, id: &str, facts: &Facts, found: &mut Findings) -> Cgroup {
    let privileged = facts.caller.capabilities & CAP_SYS_ADMIN != 0 && !facts.caller.nested;
    let mut path = path(linux, id, found);
    let resources = linux.resources().as_ref();
    let mut limits = resources.map(|r| resources::check(r, facts, found)).unwrap_or_default();
    let best_effort = !privileged && limits.is_empty();
    let rules = devices::rules(linux, found);
    if privileged {
        limits.devices = rules;
    }
    if let Some(own) = delegated(facts).filter(|_| !privileged && !limits.is_empty()) {
        let absolute = linux.cgroups_path().as_ref().is_some_and(|p| p.is_absolute());
        if !absolute {
            path = format!("{own}/{path}");
        }
    }
    Cgroup { path: Some(path), limits, best_effort, delegate_to: None }
}

/// The caller's own v2 group, where a user may make groups below it.
fn delegated(facts: &Facts) -> Option<&str> {
    let own = facts.cgroups.v2.as_ref().filter(|v2| v2.writable)?.own.trim_matches('/');
    (!own.is_empty()).then_some(own)
}

/// Absolute: below the top of each hierarchy; relative: below our parent
/// group; none: a group of the id at the top. For a user with limits the top
/// is the group that was delegated.
fn path(linux: &Linux, id: &str, found: &mut Findings) -> String {
    let asked = linux.cgroups_path().as_ref().map(|p| p.to_string_lossy()).unwrap_or_default();
    if asked.is_empty() {
        // One level: each more is a directory to make and to remove in every
        // hierarchy, 0.4 ms on a node with cgroup v1.
        return format!("{PARENT}-{id}");
    }
    let mut names = Vec::new();
    if !asked.starts_with('/') {
        names.push(PARENT);
    }
    names.extend(asked.split('/').filter(|name| !name.is_empty() && *name != "."));
    if let Some((reason, hint)) = refused(&asked, &names) {
        found.refuse_with("linux.cgroupsPath", format!("{asked:?} {reason}"), hint);
    }
    names.join("/")
}

fn refused(asked: &str, names: &[&str]) -> Option<(&'static str, &'static str)> {
    const PLAIN: &str = "write a path such as /denovo/job-17";
    if asked.matches(':').count() == 2 && !asked.starts_with('/') {
        const SYSTEMD: &str =
            "give --systemd-cgroup before the verb, or write a path such as /denovo/job-17";
        Some(("is systemd's slice:prefix:name", SYSTEMD))
    } else if names.contains(&"..") {
        Some(("goes up with \"..\"", PLAIN))
    } else if names.is_empty() {
        Some(("is the top of the hierarchy, which is the node's", PLAIN))
    } else if asked.contains(['\0', '\n']) || names.iter().any(|n| n.len() > LONGEST_NAME) {
        Some(("is no path of a control group", PLAIN))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts, user};
    use serde_json::json;

    #[test]
    fn places() {
        for (asked, path) in [
            ("", "denovo-c1"),
            ("/a/b", "a/b"),
            ("//a/./b/", "a/b"),
            ("a/b", "denovo/a/b"),
            ("/a:b", "a:b"),
            ("/a/...", "a/..."),
        ] {
            let config = json!({"linux": {"cgroupsPath": asked}});
            let cgroup = checked(config, &facts()).spec.cgroup;
            assert_eq!(cgroup.path.as_deref(), Some(path), "{asked}");
        }
    }

    #[test]
    fn places_that_are_refused() {
        for bad in [
            "..",
            "../x",
            "/..",
            "/a/../b",
            "/",
            "//",
            "/.",
            "system.slice:runc:c1",
            ":runc:c1",
            "/a\n",
            "/a\0",
        ] {
            let config = json!({"linux": {"cgroupsPath": bad}});
            assert_problems(&[(config, &["linux.cgroupsPath: "])]);
        }
    }

    #[test]
    fn a_user_can_do_without_unless_a_limit_is_asked() {
        let own = |id| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        let config = |resources: serde_json::Value| {
            json!({"mounts": [], "linux": {
                "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "user"}],
                "uidMappings": own(1000), "gidMappings": own(100), "resources": resources
            }})
        };
        let deny_all = json!({"devices": [{"allow": false, "access": "rwm"}]});
        for (resources, best_effort) in
            [(json!(null), true), (deny_all, true), (json!({"pids": {"limit": 5}}), false)]
        {
            let cgroup = checked(config(resources), &user()).spec.cgroup;
            assert_eq!(cgroup.best_effort, best_effort);
            assert!(cgroup.limits.devices.is_empty());
        }
        assert!(!checked(config(json!(null)), &facts()).spec.cgroup.best_effort);
    }
}
