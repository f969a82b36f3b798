//! New limits for groups that stand.

use super::{CgroupPlan, CgroupStep, Setting, Version, available, enabling, limits};
use crate::host::{Cgroups, Facts};
use crate::policy::limits::Limits;
use crate::problem::{Problem, Problems};
use crate::request::resources::InForce;

/// What an update does, and the groups as they are after it.
#[derive(Debug, Clone)]
pub struct Update {
    pub steps: Vec<CgroupStep>,
    pub groups: CgroupPlan,
}

/// Plans `limits` for the groups of `standing`.
///
/// # Errors
/// The environment has no groups, and each limit that no group of it takes.
pub fn plan(
    limits: &Limits,
    standing: &CgroupPlan,
    in_force: &InForce,
    facts: &Facts,
) -> Result<Update, Problems> {
    let Some(first) = standing.groups.first() else {
        return Err(Problem::site("the container has no control groups, so nothing limits it")
            .hint("make it as root, or where a control group is delegated to the user")
            .into());
    };
    let path = &first.at.path;
    let stands = |mount: &std::path::Path, version| {
        standing.groups.iter().any(|g| g.at.mount == mount && g.at.version == version)
    };
    let usable = Cgroups {
        v1: facts.cgroups.v1.iter().filter(|h| stands(&h.mount, Version::V1)).cloned().collect(),
        v2: facts.cgroups.v2.clone().filter(|h| stands(&h.mount, Version::V2)),
    };
    let available = available(path, facts);
    let wanted = limits::wanted(limits, &usable, &available, &facts.cgroups);
    let (settings, mut wrong, missing) = wanted.into_parts();
    wrong.extend(missing);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut plan = CgroupPlan { steps: Vec::new(), ..standing.clone() };
    if let Some(group) = plan.groups.iter_mut().find(|g| g.at.version == Version::V2) {
        let has = |c: &&String| group.controllers.contains(c);
        let new: Vec<String> = settings.needed_v2.iter().filter(|c| !has(c)).cloned().collect();
        plan.steps = enabling(&group.at, facts, &new, &[]);
        group.controllers.extend(new);
    }
    limits::steps(&mut plan, settings);
    widest_first(&mut plan.steps, in_force);
    let steps = std::mem::take(&mut plan.steps);
    Ok(Update { steps, groups: CgroupPlan { steps: standing.steps.clone(), ..plan } })
}

/// v1 holds memory below memory and swap together at every moment (kernel
/// document cgroup-v1/memory, section 2.4), so of two that grow the wider one
/// goes first.
fn widest_first(steps: &mut [CgroupStep], in_force: &InForce) {
    let unlimited = |bytes: i64| if bytes < 0 { i64::MAX } else { bytes };
    let both = in_force.memory_and_swap.map_or(i64::MAX, unlimited);
    let at = |steps: &[CgroupStep], what: fn(&Setting) -> Option<i64>| {
        steps.iter().enumerate().find_map(|(number, step)| match step {
            CgroupStep::Set { at, setting } if at.version == Version::V1 => {
                what(setting).map(|bytes| (number, bytes))
            }
            _ => None,
        })
    };
    let memory = at(steps, |s| match s {
        Setting::MemoryMax { bytes } => Some(*bytes),
        _ => None,
    });
    let swap = at(steps, |s| match s {
        Setting::SwapMax { bytes, .. } => Some(*bytes),
        _ => None,
    });
    if let (Some((memory, bytes)), Some((swap, _))) = (memory, swap)
        && unlimited(bytes) > both
        && memory < swap
    {
        steps.swap(memory, swap);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Group, Place};
    use super::*;

    fn set(setting: Setting) -> CgroupStep {
        let at = Place { mount: "/m".into(), version: Version::V1, path: "g".into() };
        CgroupStep::Set { at, setting }
    }

    #[test]
    fn memory_stays_below_memory_and_swap_at_every_moment() {
        let steps = |bytes| {
            vec![
                set(Setting::MemoryMax { bytes }),
                set(Setting::SwapMax { bytes, if_present: false }),
            ]
        };
        let now = InForce { memory_and_swap: Some(100), ..InForce::default() };
        for (bytes, swap_first) in [(50, false), (100, false), (101, true), (-1, true)] {
            let mut found = steps(bytes);
            widest_first(&mut found, &now);
            let first =
                matches!(&found[0], CgroupStep::Set { setting: Setting::SwapMax { .. }, .. });
            assert_eq!(first, swap_first, "{bytes}");
        }
        let mut found = steps(50);
        widest_first(&mut found, &InForce::default());
        assert_eq!(found, steps(50));
    }

    #[test]
    fn a_limit_that_no_group_takes_is_named() {
        let facts = crate::plan::cgroup::tests::hybrid();
        let at = Place { mount: "/nowhere".into(), version: Version::V1, path: "g".into() };
        let standing = CgroupPlan {
            groups: vec![Group { at, controllers: vec!["pids".into()] }],
            ..CgroupPlan::default()
        };
        let limits = Limits { pids: Some(5), ..Limits::default() };
        let problems = plan(&limits, &standing, &InForce::default(), &facts).unwrap_err();
        assert!(problems[0].message.starts_with("process limit: "), "{problems:?}");
        let none = CgroupPlan::default();
        let problems = plan(&limits, &none, &InForce::default(), &facts).unwrap_err();
        assert!(problems[0].message.contains("has no control groups"), "{problems:?}");
    }
}
