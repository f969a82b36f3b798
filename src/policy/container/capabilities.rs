//! `process.capabilities` (OCI config.md, "Linux Process"; capabilities(7)).

use caps::Capability;
use oci_spec::runtime::{Capabilities as Set, LinuxCapabilities as Asked};

use super::findings::Findings;
use crate::policy::spec::Capabilities;

/// Checks the five sets.
///
/// Ambient capabilities that are not both permitted and inheritable are left
/// out without a word, as runc does: the kernel would refuse to raise them,
/// and widely used default configurations list them.
///
/// # Arguments
/// * `available` - bit mask of what can be given at all; what is missing is
///   left out with a warning, since a node may bound what even root has
pub(super) fn check(asked: &Asked, available: u64, found: &mut Findings) -> Capabilities {
    let bounding = mask(asked.bounding());
    let effective = mask(asked.effective());
    let permitted = mask(asked.permitted());
    let inheritable = mask(asked.inheritable());
    let ambient = mask(asked.ambient());

    subset(("effective", effective), ("permitted", permitted), found);
    subset(("inheritable", inheritable), ("bounding", bounding), found);
    let lacking = (bounding | effective | permitted | inheritable | ambient) & !available;
    if lacking != 0 {
        let lacking = names(lacking);
        found.warn(
            "process.capabilities",
            format!("the caller does not have {lacking}, so the container gets none of it"),
        );
    }
    Capabilities {
        bounding: bounding & available,
        effective: effective & available,
        permitted: permitted & available,
        inheritable: inheritable & available,
        ambient: ambient & permitted & inheritable & available,
    }
}

/// capset(2) fails with EPERM for a set that is not within the other.
fn subset(inner: (&str, u64), outer: (&str, u64), found: &mut Findings) {
    let beyond = inner.1 & !outer.1;
    if beyond != 0 {
        found.refuse_with(
            format_args!("process.capabilities.{}", inner.0),
            format!("{} is not in the {} set; the kernel would say EPERM", names(beyond), outer.0),
            format!("add it to process.capabilities.{}, or take it out here", outer.0),
        );
    }
}

fn mask(set: &Option<Set>) -> u64 {
    let bit = |name: String| name.parse::<Capability>().map_or(0, |c| c.bitmask());
    // The crate's names lack the prefix; both crates know the same 41.
    set.iter().flatten().map(|c| bit(format!("CAP_{c}"))).fold(0, |mask, bit| mask | bit)
}

fn names(mask: u64) -> String {
    let mut known: Vec<Capability> =
        caps::all().into_iter().filter(|c| mask & c.bitmask() != 0).collect();
    known.sort_unstable_by_key(Capability::index);
    let names: Vec<String> = known.iter().map(ToString::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts};
    use super::*;
    use serde_json::json;

    const KILL: u64 = 1 << 5;
    const SYS_RESOURCE: u64 = 1 << 24;

    #[test]
    fn every_name_of_one_crate_is_known_to_the_other() {
        for capability in caps::all() {
            let text = format!("[\"{capability}\"]");
            let set: Set = serde_json::from_str(&text).unwrap();
            assert_eq!(mask(&Some(set)), capability.bitmask(), "{capability}");
        }
    }

    #[test]
    fn sets_become_masks() {
        let all = ["CAP_KILL", "CAP_CHECKPOINT_RESTORE"];
        let change = json!({"process": {"capabilities": {
            "bounding": all, "effective": ["CAP_KILL"], "permitted": all,
            "inheritable": ["CAP_KILL"], "ambient": all
        }}});
        let sets = checked(change, &facts()).spec.process.unwrap().capabilities.unwrap();
        let both = KILL | 1 << 40;
        let expected = Capabilities {
            bounding: both,
            effective: KILL,
            permitted: both,
            inheritable: KILL,
            ambient: KILL,
        };
        assert_eq!(sets, expected);
    }

    #[test]
    fn absent_sets_keep_all_and_empty_ones_none() {
        let spec = checked(json!({"process": {"capabilities": null}}), &facts()).spec;
        assert_eq!(spec.process.unwrap().capabilities, None);
    }

    #[test]
    fn sets_that_the_kernel_refuses_are_problems() {
        let sets = |sets: serde_json::Value| json!({"process": {"capabilities": sets}});
        assert_problems(&[
            (
                sets(json!({"effective": ["CAP_SYS_ADMIN"]})),
                &["process.capabilities.effective: CAP_SYS_ADMIN is not in the permitted set"],
            ),
            (
                sets(json!({"inheritable": ["CAP_CHOWN"]})),
                &["process.capabilities.inheritable: CAP_CHOWN is not in the bounding set"],
            ),
        ]);
    }

    #[test]
    fn what_the_caller_lacks_is_left_out_with_a_warning() {
        let mut facts = facts();
        facts.caller.capabilities &= !SYS_RESOURCE;
        let set = ["CAP_SYS_RESOURCE", "CAP_KILL"];
        let sets = json!({"bounding": set, "permitted": set, "effective": set});
        let checked = checked(json!({"process": {"capabilities": sets}}), &facts);
        let sets = checked.spec.process.unwrap().capabilities.unwrap();
        assert_eq!((sets.bounding, sets.permitted), (KILL, KILL));
        assert!(checked.warnings[0].contains("CAP_SYS_RESOURCE"), "{:?}", checked.warnings);
    }
}
