//! What is done to give an environment its control groups: pure data, in
//! order, each step with its undo.
//!
//! The environment gets a group of the same path in every hierarchy: in the
//! v1 ones for limits and statistics, in the v2 one also because its
//! processes can be killed there in one write (`cgroup.kill`).

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::cgroups::CALLERS;
use crate::host::{Cgroups, Facts};
use crate::policy::limits::DeviceRule;
use crate::policy::spec;
use crate::problem::{Problem, Problems};

pub mod convert;
pub mod devices;
mod limits;
pub mod scope;
mod setting;
pub mod update;

pub use scope::Scope;
pub use setting::{AS_IT_IS, Setting};

/// Number of the capability that overrides permission bits (capabilities(7)).
const CAP_DAC_OVERRIDE: u8 = 1;

/// The two generations of control groups (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    V1,
    V2,
}

/// One group: a hierarchy by its mount point, and a path in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub mount: PathBuf,
    pub version: Version,
    /// Below the mount point, without a leading slash; empty for its root.
    pub path: String,
}

/// The environment's group in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub at: Place,
    /// Controllers that are to be found there.
    pub controllers: Vec<String>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupStep {
    /// Has systemd make the group, with every controller that it delegates.
    Scope { at: Place, scope: Scope },
    /// Makes a group, and the groups above it that are not there yet. An empty
    /// group that is there already is used as it is, with the limits that its
    /// maker gave it: runtime-spec, config-linux.md, "Control groups".
    Make {
        at: Place,
        /// The name is one of denovo's own, so that an empty group is what a
        /// killed denovo left; it is made anew, and no old limit stays.
        #[serde(default)]
        anew: bool,
        /// Groups above it that are denovo's own and go when they are empty,
        /// the deepest first.
        shared: Vec<String>,
    },
    /// v1: gives a group and those above it the CPUs and memory nodes of their
    /// parent where they have none, without which no process can join
    /// (kernel document cgroup-v1/cpusets, section 2.1).
    InheritCpuset { at: Place },
    /// v2: moves the processes of a user's delegated group into one below it,
    /// without which no group below can have controllers (cgroups(7), "no
    /// internal processes"). They stay there: it is the user's own group.
    Aside { at: Place },
    /// v2: lets the groups below have controllers.
    Enable {
        at: Place,
        controllers: Vec<String>,
        /// Whether a limit depends on it; statistics alone do not fail a start.
        needed: bool,
    },
    /// Sets a limit.
    Set { at: Place, setting: Setting },
    /// Sets which devices may be used; each rule overrides those before it,
    /// and what none matches is denied.
    Devices { at: Place, rules: Vec<DeviceRule> },
    /// Lets a user put processes of their own into the group.
    Delegate { at: Place, uid: u32 },
}

/// How one step is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupUndo {
    /// Has systemd end the scope, which removes its group.
    Stop { at: Place, scope: Scope },
    /// Removes a group with those below it, then each of `shared` while empty.
    Remove { at: Place, shared: Vec<String> },
}

/// Everything about control groups for one environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// The environment's group in each hierarchy.
    pub groups: Vec<Group>,
    pub steps: Vec<CgroupStep>,
    /// Whether the environment starts without groups when a step is refused.
    pub best_effort: bool,
    /// What was asked and is left out because it is only best effort, each
    /// with its reason, for one line to the user.
    pub left_out: Vec<String>,
    /// A group of the kernel's resource control, which is no control group
    /// and is kept like one.
    #[serde(default)]
    pub resctrl: Option<spec::IntelRdt>,
}

/// Plans the groups and limits that `cgroup` asks for on the node of `facts`.
///
/// # Errors
/// Every [`Problem`] at once: a path that is none, and each limit for which
/// the node has no controller. With `best_effort` the latter are in
/// [`CgroupPlan::left_out`] instead.
pub fn plan(cgroup: &spec::Cgroup, facts: &Facts) -> Result<CgroupPlan, Problems> {
    let mut plan = CgroupPlan { best_effort: cgroup.best_effort, ..CgroupPlan::default() };
    let mut problems = Problems::new();
    let Some(path) = &cgroup.path else {
        if !cgroup.limits.is_empty() {
            problems.push(
                Problem::user("limits are asked for, but no control group to set them in")
                    .hint("leave the limits out, or let denovo make a group"),
            );
        }
        return finish(plan, Problems::new(), problems);
    };
    if let Some(problem) = bad_path(path) {
        return Err(vec![problem]);
    }
    let usable = usable(path, facts);
    if usable.v1.is_empty() && usable.v2.is_none() {
        return finish(plan, problems, vec![no_groups(&facts.cgroups)]);
    }
    let available = available(path, facts);
    let wanted = limits::wanted(&cgroup.limits, &usable, &available, &facts.cgroups);
    let (settings, mut wrong, missing) = wanted.into_parts();
    // A user cannot be let into a v2 group that root made: the kernel asks for
    // rights in the groups above (cgroup-v2, "Delegation Containment"). Where
    // the limits are v1's, the v2 group would only show who is not in it.
    let mut usable = usable;
    if cgroup.delegate_to.is_some() && !usable.v1.is_empty() && settings.needed_v2.is_empty() {
        usable.v2 = None;
    }
    groups(&mut plan, path, &usable, facts, &settings.needed_v2);
    limits::steps(&mut plan, settings);
    limits::device_steps(&mut plan, &cgroup.limits.devices, facts, &mut wrong, &mut problems);
    problems.extend(missing);
    if let Some(uid) = cgroup.delegate_to {
        for group in &plan.groups {
            plan.steps.push(CgroupStep::Delegate { at: group.at.clone(), uid });
        }
    }
    finish(plan, wrong, problems)
}

/// `wrong` is wrong anywhere, `missing` only on this node.
fn finish(
    mut plan: CgroupPlan,
    mut wrong: Problems,
    missing: Problems,
) -> Result<CgroupPlan, Problems> {
    if plan.best_effort {
        plan.left_out.extend(missing.into_iter().map(|p| p.message));
    } else {
        wrong.extend(missing);
    }
    if wrong.is_empty() { Ok(plan) } else { Err(wrong) }
}

/// The hierarchies in which the caller may make a group at `path`.
fn usable(path: &str, facts: &Facts) -> Cgroups {
    let may = |writable: bool, own: &str| {
        writable && (facts.caller.has(CAP_DAC_OVERRIDE) || is_below(path, own))
    };
    Cgroups {
        v1: facts.cgroups.v1.iter().filter(|h| may(h.writable, &h.own)).cloned().collect(),
        v2: facts.cgroups.v2.clone().filter(|h| may(h.writable, &h.own)),
    }
}

/// Whether a group at `path` is below the group `own`, such as `/user.slice`.
fn is_below(path: &str, own: &str) -> bool {
    let own = own.trim_matches('/');
    own.is_empty() || path.strip_prefix(own).is_some_and(|rest| rest.starts_with('/'))
}

fn no_groups(node: &Cgroups) -> Problem {
    if node.v1.is_empty() && node.v2.is_none() {
        return Problem::site("no control group hierarchy is mounted")
            .hint("as root: mount -t cgroup2 none /sys/fs/cgroup");
    }
    Problem::site("the caller may make no control group on this node").hint(
        "run denovo as root, or in a group that is delegated: systemd-run --user --scope \
         -p Delegate=yes denovo …",
    )
}

/// What makes `path` no path of a group below a mount point.
fn bad_path(path: &str) -> Option<Problem> {
    let bad = |why: &str| Some(Problem::user(format!("control group path {path:?}: {why}")));
    if path.contains(['\n', '\0']) {
        return bad("holds a line break or a NUL byte");
    }
    match path.split('/').find(|name| matches!(*name, "" | "." | "..") || name.len() > 255) {
        Some("") => bad("is empty, or begins or ends with a slash, or has two in a row"),
        Some(name) if name.len() > 255 => bad("has a name of more than 255 bytes"),
        Some(_) => bad("has `.` or `..` in it"),
        None => None,
    }
}

/// Controllers that a v2 group at `path` can get.
fn available(path: &str, facts: &Facts) -> Vec<String> {
    let Some(v2) = &facts.cgroups.v2 else { return Vec::new() };
    if first_level(path, facts) > 0 { &v2.own_controllers } else { &v2.controllers }.clone()
}

/// How many names of `path` are above what the caller may change: those of
/// its own v2 group, when it has been delegated that one and no more.
fn first_level(path: &str, facts: &Facts) -> usize {
    let own = facts.cgroups.v2.as_ref().map_or("", |v2| v2.own.trim_matches('/'));
    let ours = own.is_empty() || facts.caller.has(CAP_DAC_OVERRIDE) || !is_below(path, own);
    if ours { 0 } else { own.split('/').count() }
}

/// Groups above the environment's that belong to denovo, the deepest first:
/// those from the name `denovo` or `denovo-…` on. Others may be a scheduler's
/// or a service manager's, which would not like them removed when empty.
fn shared(path: &str) -> Vec<String> {
    let names: Vec<&str> = path.split('/').collect();
    let first = first_of_ours(path).unwrap_or(names.len());
    (first + 1..names.len()).rev().map(|end| names[..end].join("/")).collect()
}

/// The first name of `path` that only denovo gives.
fn first_of_ours(path: &str) -> Option<usize> {
    path.split('/').position(|name| name == "denovo" || name.starts_with("denovo-"))
}

fn make(at: &Place) -> CgroupStep {
    let anew = first_of_ours(&at.path).is_some();
    CgroupStep::Make { at: at.clone(), anew, shared: shared(&at.path) }
}

fn groups(plan: &mut CgroupPlan, path: &str, usable: &Cgroups, facts: &Facts, needed: &[String]) {
    let Cgroups { v1, v2 } = usable;
    for hierarchy in v1 {
        let at =
            Place { mount: hierarchy.mount.clone(), version: Version::V1, path: path.to_owned() };
        plan.steps.push(make(&at));
        if hierarchy.controllers.iter().any(|c| c == "cpuset") {
            plan.steps.push(CgroupStep::InheritCpuset { at: at.clone() });
        }
        plan.groups.push(Group { at, controllers: hierarchy.controllers.clone() });
    }
    let Some(v2) = v2 else { return };
    let at = Place { mount: v2.mount.clone(), version: Version::V2, path: path.to_owned() };
    plan.steps.push(make(&at));
    let statistics: Vec<String> = available(path, facts)
        .into_iter()
        .filter(|c| STATISTICS.contains(&&c[..]) && !needed.contains(c))
        .collect();
    plan.steps.extend(enabling(&at, facts, needed, &statistics));
    let controllers = [needed, &statistics].concat();
    plan.groups.push(Group { at, controllers });
}

/// Controllers that a v2 group has without a limit too: receipts and engines
/// read memory.peak, pids.peak and io.stat there, and callers of runc, which
/// enables all, find the files of the CPU's limits.
const STATISTICS: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// What lets the v2 group `at` have controllers: those that limits need, and
/// those that are only welcome.
fn enabling(at: &Place, facts: &Facts, needed: &[String], welcome: &[String]) -> Vec<CgroupStep> {
    let names: Vec<&str> = at.path.split('/').collect();
    let mut steps = Vec::new();
    let first = first_level(&at.path, facts);
    for level in first..names.len() {
        let above = Place { path: names[..level].join("/"), ..at.clone() };
        if level > 0 && level == first {
            // A user's own group has processes. For statistics alone they are
            // not moved; and with `pids` enabled all the same, it would become
            // the root of threads only (cgroup-v2, "Threads").
            if needed.is_empty() {
                break;
            }
            steps.push(CgroupStep::Aside { at: above.clone() });
        }
        for (controllers, needed) in [(needed, true), (welcome, false)] {
            if !controllers.is_empty() {
                let controllers = controllers.to_vec();
                steps.push(CgroupStep::Enable { at: above.clone(), controllers, needed });
            }
        }
    }
    steps
}

impl Place {
    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        if self.path.is_empty() { self.mount.clone() } else { self.mount.join(&self.path) }
    }
}

impl CgroupStep {
    /// What takes the step back; `None` where removing the group does.
    pub fn undo(&self) -> Option<CgroupUndo> {
        match self {
            Self::Make { at, shared, .. } => {
                Some(CgroupUndo::Remove { at: at.clone(), shared: shared.clone() })
            }
            Self::Scope { at, scope } => {
                Some(CgroupUndo::Stop { at: at.clone(), scope: scope.clone() })
            }
            // A controller stays enabled for the groups beside ours; the rest
            // goes with the group.
            Self::Aside { .. }
            | Self::Enable { .. }
            | Self::InheritCpuset { .. }
            | Self::Set { .. }
            | Self::Devices { .. }
            | Self::Delegate { .. } => None,
        }
    }

    /// The group that the step changes.
    pub fn at(&self) -> &Place {
        match self {
            Self::Scope { at, .. }
            | Self::Make { at, .. }
            | Self::InheritCpuset { at }
            | Self::Aside { at }
            | Self::Enable { at, .. }
            | Self::Set { at, .. }
            | Self::Devices { at, .. }
            | Self::Delegate { at, .. } => at,
        }
    }
}

impl CgroupPlan {
    /// The same in a scope of systemd's, which makes the group itself.
    pub fn in_scope(mut self, scope: &Scope) -> Self {
        let made = |step: &CgroupStep| {
            matches!(
                step,
                CgroupStep::Make { .. } | CgroupStep::Enable { .. } | CgroupStep::Aside { .. }
            )
        };
        self.steps.retain(|step| !made(step));
        if let Some(group) = self.v2() {
            let step = CgroupStep::Scope { at: group.at.clone(), scope: scope.clone() };
            self.steps.insert(0, step);
        }
        self.best_effort = false;
        self
    }

    /// The group in the v2 hierarchy.
    pub fn v2(&self) -> Option<&Group> {
        self.groups.iter().find(|g| g.at.version == Version::V2)
    }

    /// The group that has this controller.
    pub fn with(&self, controller: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.controllers.iter().any(|c| c == controller))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dir().display())
    }
}

impl fmt::Display for CgroupStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope { at, scope } => write!(f, "have systemd make {at} as {scope}"),
            Self::Make { at, anew: true, .. } => write!(f, "make {at}"),
            Self::Make { at, .. } => write!(f, "make {at}, or use it when it is there and empty"),
            Self::InheritCpuset { at } => {
                write!(f, "copy cpuset.cpus and cpuset.mems from the parent to {at}")
            }
            Self::Aside { at } => write!(f, "move the processes in {at} to {CALLERS} below it"),
            Self::Enable { at, controllers, needed } => {
                let whenever = if *needed { "" } else { " if possible" };
                write!(f, "enable {} below {at}{whenever}", controllers.join(", "))
            }
            Self::Set { at, setting: Setting::MemoryFits { bytes } } => {
                write!(f, "check that no more than {bytes} bytes are in use in {at}")
            }
            Self::Set { at, setting } => {
                let written = |files: Vec<(String, String)>| {
                    let files = files.into_iter().map(|(name, value)| format!("{name} = {value}"));
                    files.collect::<Vec<String>>().join(", ")
                };
                let choices = setting.choices(at.version).into_iter().map(written);
                write!(f, "set {} in {at}", choices.collect::<Vec<String>>().join(" or "))
            }
            Self::Devices { at, rules } => {
                write!(f, "devices: {} in {at}", devices::summary(rules))
            }
            Self::Delegate { at, uid } => write!(f, "let uid {uid} join {at}"),
        }
    }
}

impl fmt::Display for CgroupUndo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, shared) = match self {
            Self::Stop { at, scope } => {
                return write!(f, "have systemd stop {}, which removes {at}", scope.unit);
            }
            Self::Remove { at, shared } => (at, shared),
        };
        write!(f, "remove {at}")?;
        for path in shared {
            write!(f, ", {} when empty", Place { path: path.clone(), ..at.clone() })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
