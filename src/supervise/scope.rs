//! `--systemd-cgroup`: the container's group becomes a scope of systemd's.

use crate::host::Facts;
use crate::plan::cgroup::scope::{self, Scope};
use crate::policy::spec::Spec;
use crate::problem::{Problem, Problems};

/// Decides the scope, and puts the container's group there.
///
/// # Arguments
/// * `path` - `linux.cgroupsPath`: `slice:prefix:name`, or empty
///
/// # Errors
/// No cgroup v2 node, or every problem of the path and the annotations.
pub fn decide(path: &str, id: &str, spec: &mut Spec, facts: &mut Facts) -> Result<Scope, Problems> {
    if !facts.cgroups.v1.is_empty() || facts.cgroups.v2.is_none() {
        return Err(vec![
            Problem::site("--systemd-cgroup: this node does not use cgroup v2 alone")
                .hint("boot with systemd.unified_cgroup_hierarchy=1, or leave the option out"),
        ]);
    }
    let uid = facts.caller.uid;
    let user = (uid != 0).then_some(uid);
    let limits = &spec.cgroup.limits;
    let scope = scope::decide(path, id, user, limits, &spec.annotations)?;
    if let Some(uid) = user {
        // Groups are made by the user's service manager, from where it is.
        facts.cgroups = std::mem::take(&mut facts.cgroups).seen_from(&scope::manager(uid));
    }
    spec.cgroup.path = Some(scope.path.clone());
    spec.cgroup.best_effort = false;
    Ok(scope)
}
