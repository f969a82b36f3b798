//! `linux.intelRdt` (OCI config-linux.md, "IntelRdt").

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxIntelRdt as Asked};

use super::findings::Findings;
use crate::host::resctrl;
use crate::policy::spec::IntelRdt;
use crate::problem::Problem;

/// # Arguments
/// * `id` - names the group where `closID` does not
pub(super) fn check(linux: &Linux, id: &str, found: &mut Findings) -> Option<IntelRdt> {
    let asked = linux.intel_rdt().as_ref()?;
    let mount = asks_for_something(asked).then(resctrl::mount_point)?;
    group(asked, id, mount, &resctrl::has, found)
}

#[allow(deprecated)]
fn monitors(asked: &Asked) -> bool {
    [asked.enable_monitoring(), asked.enable_cmt(), asked.enable_mbm()].contains(&&Some(true))
}

/// Lines for `schemata`; the first two are older ways to say the same.
fn lines(asked: &Asked) -> Vec<String> {
    let older = [asked.l3_cache_schema(), asked.mem_bw_schema()];
    let lines = older.into_iter().flatten().chain(asked.schemata().iter().flatten());
    lines.filter(|line| !line.is_empty()).cloned().collect()
}

fn clos_id(asked: &Asked) -> Option<&str> {
    asked.clos_id().as_deref().filter(|id| !id.is_empty())
}

fn asks_for_something(asked: &Asked) -> bool {
    clos_id(asked).is_some() || !lines(asked).is_empty() || monitors(asked)
}

/// A group of the container's own unless `closID` names one; one that is
/// named and has no lines must be there (OCI).
fn group(
    asked: &Asked,
    id: &str,
    mount: Option<PathBuf>,
    has: &dyn Fn(&Path, &str) -> bool,
    found: &mut Findings,
) -> Option<IntelRdt> {
    let Some(mount) = mount else {
        found.push(
            Problem::site("linux.intelRdt: the kernel's resource control is not mounted").hint(
                "as root, on a CPU that has it: mount -t resctrl resctrl /sys/fs/resctrl; or leave \
                 the field out",
            ),
        );
        return None;
    };
    let schemata = lines(asked);
    for line in &schemata {
        if line.contains(['\n', '\0']) || !line.contains(':') {
            found.refuse("linux.intelRdt.schemata", format!("{line:?} is no line such as L3:0=f"));
        }
    }
    let named = clos_id(asked);
    let group = match named {
        // The top, which every group starts as.
        Some("/") => "",
        Some(name) if is_name(name) => name,
        Some(name) => {
            found.refuse("linux.intelRdt.closID", format!("{name:?} is no name of a group"));
            ""
        }
        // To be counted alone takes no class of its own.
        None if schemata.is_empty() => "",
        None => id,
    };
    let existing = named.is_some() && has(&mount, group) || group.is_empty();
    if named.is_some() && !existing && schemata.is_empty() {
        found.refuse_with(
            "linux.intelRdt.closID",
            format!("there is no group {group:?} in {}", mount.display()),
            "make the group first, or say in schemata what it is to have",
        );
    }
    let monitor = monitors(asked).then(|| id.to_owned());
    Some(IntelRdt { mount, group: group.to_owned(), existing, schemata, monitor })
}

fn is_name(name: &str) -> bool {
    let taken = ["info", "mon_groups", "mon_data", ".", ".."];
    !taken.contains(&name) && !name.contains(['/', '\n', '\0']) && name.len() <= 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn outcome(asked: Value, there: &[&str]) -> Result<Option<IntelRdt>, Vec<String>> {
        let asked: Asked = serde_json::from_value(asked).unwrap();
        let mut found = Findings::default();
        let has = |_: &Path, group: &str| there.contains(&group);
        let mount = Some(PathBuf::from("/r"));
        let made = group(&asked, "c1", mount, &has, &mut found);
        let messages = |p: Vec<Problem>| p.into_iter().map(|p| p.message).collect();
        found.conclude(made).map(|(made, _)| made).map_err(messages)
    }

    fn made(asked: Value, there: &[&str]) -> (String, bool, Vec<String>, Option<String>) {
        let rdt = outcome(asked, there).unwrap().unwrap();
        (rdt.group, rdt.existing, rdt.schemata, rdt.monitor)
    }

    #[test]
    fn which_group_and_whose() {
        let lines = |list: &[&str]| list.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        let l3 = lines(&["L3:0=f"]);
        let own = made(json!({"l3CacheSchema": "L3:0=f"}), &[]);
        assert_eq!(own, ("c1".into(), false, l3.clone(), None));
        let named = made(json!({"closID": "g", "schemata": ["L3:0=f", "MB:0=5"]}), &[]);
        assert_eq!(named, ("g".into(), false, lines(&["L3:0=f", "MB:0=5"]), None));
        assert_eq!(made(json!({"closID": "g"}), &["g"]), ("g".into(), true, vec![], None));
        assert_eq!(made(json!({"closID": "/"}), &[""]), (String::new(), true, vec![], None));
        let counted = made(json!({"enableMonitoring": true}), &[]);
        assert_eq!(counted, (String::new(), true, vec![], Some("c1".into())));
        let older =
            made(json!({"closID": "g", "memBwSchema": "MB:0=5", "enableCmt": true}), &["g"]);
        assert_eq!(older, ("g".into(), true, lines(&["MB:0=5"]), Some("c1".into())));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (asked, expected) in [
            (json!({"closID": "g"}), "linux.intelRdt.closID: there is no group"),
            (json!({"closID": "../g", "schemata": ["L3:0=f"]}), "linux.intelRdt.closID: \"../g"),
            (json!({"closID": "info", "schemata": ["L3:0=f"]}), "linux.intelRdt.closID: \"info"),
            (json!({"schemata": ["L3:0=f\nMB:0=1"]}), "linux.intelRdt.schemata: "),
            (json!({"l3CacheSchema": "f"}), "linux.intelRdt.schemata: "),
        ] {
            let found = outcome(asked, &[]).unwrap_err();
            assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
        }
        let mut found = Findings::default();
        let asked = serde_json::from_value(json!({"closID": "g"})).unwrap();
        assert!(group(&asked, "c", None, &|_, _| true, &mut found).is_none());
        let problem = found.conclude(()).unwrap_err().remove(0);
        assert!(problem.message.starts_with("linux.intelRdt: ") && problem.hint.is_some());
    }
}
