//! An environment's control groups over its life.

use std::time::Duration;

use crate::kernel::cgroup::{self, Doors};
use crate::plan::cgroup::CgroupPlan;
use crate::problem::Problem;

/// How long processes may take to end once they are killed: one that waits
/// for a disk or a server does not end before that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the groups and opens the ways into them. A caller who may make none
/// and asked for no limit goes on without, and the plan says so from then on.
///
/// # Errors
/// A limit cannot be set, or a group cannot be made; none is left then.
pub fn enter(plan: &mut CgroupPlan) -> Result<Doors, Problem> {
    let holder = match cgroup::make(plan) {
        Err(error) if plan.best_effort && error.is_permission() => {
            *plan = CgroupPlan::default();
            None
        }
        made => made?,
    };
    let doors = cgroup::open_doors(plan, None).map_err(|error| {
        // The first error is the one to report.
        let _ = cgroup::remove(plan);
        Problem::from(error)
    })?;
    Ok(Doors { holder, ..doors })
}

/// Why a first process came to nothing, if it was for want of memory.
pub fn out_of_memory(plan: &CgroupPlan) -> Option<Problem> {
    let usage = cgroup::usage(plan);
    usage.oom_kills.filter(|kills| *kills > 0)?;
    let peak = usage.memory_peak.map_or(String::new(), |b| format!(" ({} KiB)", b >> 10));
    let problem = Problem::user(format!(
        "the environment's first process was killed: it reached the memory limit{peak}"
    ));
    Some(problem.hint("an environment itself takes about 1 MiB: give more memory"))
}

/// Ends whatever still runs in the groups, and removes them.
///
/// # Errors
/// A process does not end, or a group cannot be removed; it is named.
pub fn end(plan: &CgroupPlan) -> Result<(), Problem> {
    if plan.groups.is_empty() && plan.resctrl.is_none() {
        return Ok(());
    }
    // Most of the time nothing is left, and rmdir is the cheapest way to see.
    if cgroup::remove_now(plan).is_ok() {
        return Ok(());
    }
    cgroup::kill(plan, PATIENCE)?;
    cgroup::remove(plan)?;
    Ok(())
}
