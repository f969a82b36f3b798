//! Whether a node is as it was freshly prepared: what is there against its
//! baseline, whose it is, and what can be done about it.

mod amounts;
mod owners;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::node::{Amounts, Handle, Kind, NodeState, Thing};
use crate::request::freshness::{Freshness, Selection};

pub use owners::{Ended, Owners, Running};

/// What a freshly prepared node is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// Of this form: 1.
    pub version: u32,
    /// Seconds since 1970.
    pub at: u64,
    pub kernel: String,
    pub boot_id: String,
    /// By kind, what is the same after each boot.
    pub things: BTreeMap<Kind, BTreeSet<String>>,
    pub settings: BTreeMap<String, String>,
    pub amounts: Amounts,
}

impl Baseline {
    pub fn of(state: &NodeState) -> Self {
        let mut things: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
        for thing in &state.things {
            things.entry(thing.kind).or_default().insert(thing.key.clone());
        }
        Self {
            version: 1,
            at: state.at,
            kernel: state.kernel.clone(),
            boot_id: state.boot_id.clone(),
            things,
            settings: state.settings.clone(),
            amounts: state.amounts.clone(),
        }
    }

    pub fn knows(&self, kind: Kind, key: &str) -> bool {
        self.things.get(&kind).is_some_and(|keys| keys.contains(key))
    }
}

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As its baseline says.
    Fresh,
    /// As its baseline says again, after something was put right.
    Cleaned,
    /// Not as its baseline says.
    Dirty,
}

/// What has become of a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Left,
    Cleaned,
    /// It was tried, and why it did not work.
    Failed(String),
}

/// Something that is not as in the baseline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    pub kind: Kind,
    pub what: String,
    /// The uid that it belongs to, one of a user's further ids taken for the
    /// user's own.
    pub owner: Option<u32>,
    /// The job that left it.
    pub job: Option<String>,
    /// Whether that is certain: of the job's group, or made in its time by its
    /// user, who had no other job here then.
    pub certain: bool,
    /// Seconds since 1970 when it was made, as far as the kernel tells.
    pub made: Option<u64>,
    /// What can be done.
    pub remedy: String,
    /// The site has said that it does not mind.
    pub tolerated: bool,
    pub outcome: Outcome,
    /// Whether the owner is one that jobs run as.
    #[serde(skip)]
    pub user: bool,
    #[serde(skip, default = "no_handle")]
    pub handle: Handle,
}

fn no_handle() -> Handle {
    Handle::None
}

impl Difference {
    /// Whether it is among what a site's list names.
    pub fn among(&self, selections: &[Selection]) -> bool {
        selections.iter().any(|selection| match selection {
            Selection::All => true,
            Selection::System => self.owner.is_some() && !self.user,
            Selection::Kind(kind) => self.kind == *kind,
        })
    }

    /// In a few words, such as for the reason of a drain.
    pub fn brief(&self) -> String {
        let whose = match (&self.job, self.owner) {
            (Some(job), _) => format!(" (job {job})"),
            (None, Some(uid)) => format!(" (uid {uid})"),
            (None, None) => String::new(),
        };
        format!("{} {}{whose}", self.kind.name(), self.what)
    }
}

/// How the node stands, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    pub verdict: Verdict,
    pub differences: Vec<Difference>,
    /// Things of jobs that run, which are no residue.
    pub of_running_jobs: u64,
    /// When the baseline was taken, in seconds since 1970.
    pub baseline: Option<u64>,
}

impl Audit {
    /// The verdict on what has become of the differences.
    pub fn judge(&mut self) {
        let counted = || self.differences.iter().filter(|d| !d.tolerated);
        self.verdict = if counted().any(|d| d.outcome != Outcome::Cleaned) {
            Verdict::Dirty
        } else if self.differences.iter().any(|d| d.outcome == Outcome::Cleaned) {
            Verdict::Cleaned
        } else {
            Verdict::Fresh
        };
    }

    /// What makes the node dirty, in one line.
    pub fn reason(&self) -> Option<String> {
        let left = self.differences.iter().filter(|d| !d.tolerated);
        let left: Vec<_> = left.filter(|d| d.outcome != Outcome::Cleaned).collect();
        let more = match left.len() {
            0 => return None,
            1 => String::new(),
            n => format!(", and {} more", n - 1),
        };
        Some(format!("node is dirty: {}{more}", left[0].brief()))
    }
}

/// What is known of the jobs on the node, and what denovo keeps there itself.
#[derive(Debug, Clone, Default)]
pub struct Jobs {
    pub running: Vec<Running>,
    /// The oldest first.
    pub ended: Vec<Ended>,
    /// Paths with all below them that are denovo's or a running job's.
    pub exempt: Vec<PathBuf>,
    /// Numbers of the loop devices of images that denovo mounted.
    pub loops: Vec<u32>,
    /// When the node was booted, in seconds since 1970.
    pub booted: u64,
}

/// Compares. Things of running jobs and of their users are no difference.
pub fn compare(
    state: &NodeState,
    baseline: Option<&Baseline>,
    jobs: &Jobs,
    owners: &Owners,
    site: &Freshness,
) -> Audit {
    let mut audit = Audit {
        verdict: Verdict::Fresh,
        differences: Vec::new(),
        of_running_jobs: 0,
        baseline: baseline.map(|b| b.at),
    };
    for thing in &state.things {
        let known = baseline.is_some_and(|b| b.knows(thing.kind, &thing.key));
        // Without a baseline only what a user has left can be told.
        let told =
            baseline.is_some() || thing.owner.is_some_and(|uid| site.is_user(owners.user(uid)));
        if known || !told || exempt(thing, jobs) {
            continue;
        }
        if of_running(thing, jobs, owners) {
            audit.of_running_jobs += 1;
            continue;
        }
        audit.differences.push(difference(thing, jobs, owners, site));
    }
    match baseline {
        Some(baseline) => {
            audit.differences.extend(gone(state, baseline));
            audit.differences.extend(settings(state, baseline, jobs));
            audit.differences.extend(amounts::differences(state, baseline, jobs, site));
        }
        None => audit.differences.push(of_node(
            Kind::Baseline,
            format!("there is none: {}", site.baseline.display()),
            "denovo node baseline, on the freshly prepared node, records it",
        )),
    }
    for difference in &mut audit.differences {
        difference.tolerated = difference.among(&site.tolerance);
    }
    audit.differences.sort_by(|a, b| (a.kind, &a.what).cmp(&(b.kind, &b.what)));
    audit.judge();
    audit
}

fn exempt(thing: &Thing, jobs: &Jobs) -> bool {
    match &thing.handle {
        Handle::Mount { point: path } | Handle::File { path, .. } => {
            jobs.exempt.iter().any(|own| path.starts_with(own))
        }
        Handle::Loop { number } => jobs.loops.contains(number),
        _ => false,
    }
}

/// A job's own, or its user's: whoever has a job here may have anything here.
fn of_running(thing: &Thing, jobs: &Jobs, owners: &Owners) -> bool {
    let owner = thing.owner.map(|uid| owners.user(uid));
    jobs.running.iter().any(|job| {
        // An environment's views of /proc are served over one.
        let served = matches!(thing.handle, Handle::Connection { .. }) && owner == Some(0);
        let by_pid = matches!(thing.handle, Handle::Process { pid, .. } if job.pids.contains(&pid));
        by_pid
            || (served && !job.pids.is_empty())
            || thing.job.as_ref() == Some(&job.id)
            || (job.uid != 0 && owner == Some(job.uid))
    })
}

fn difference(thing: &Thing, jobs: &Jobs, owners: &Owners, site: &Freshness) -> Difference {
    // Root makes a job's groups.
    let by_job = thing.job.as_ref().filter(|_| thing.kind == Kind::Cgroup);
    let by_job = by_job.and_then(|id| jobs.ended.iter().find(|job| job.id == *id));
    let owner = by_job.map(|job| job.uid).or_else(|| thing.owner.map(|uid| owners.user(uid)));
    let user = owner.is_some_and(|uid| site.is_user(uid));
    let (job, certain) = owners::left_by(thing, owner.filter(|_| user), jobs);
    let remedy = remedy(thing, user, job.is_some() && certain);
    Difference {
        kind: thing.kind,
        what: thing.what.clone(),
        owner,
        job,
        certain,
        made: thing.made,
        remedy,
        tolerated: false,
        outcome: Outcome::Left,
        user,
        handle: thing.handle.clone(),
    }
}

fn remedy(thing: &Thing, user: bool, certain: bool) -> String {
    let removable = !matches!(thing.handle, Handle::None) && thing.kind != Kind::Mount;
    if user && certain && removable {
        return "denovo node audit --clean removes it".to_owned();
    }
    let by_hand = match thing.kind {
        Kind::Process => "end it: kill",
        Kind::Mount | Kind::Fuse => "umount it",
        Kind::Cgroup => "rmdir it once it is empty",
        Kind::SysvShm => "ipcrm -m removes it",
        Kind::SysvSem => "ipcrm -s removes it",
        Kind::SysvMsg => "ipcrm -q removes it",
        Kind::Mqueue => "mq_unlink(3) removes it",
        Kind::Keyring => "its user's keyctl clear @u empties it",
        Kind::Loop => "losetup -d takes the file away",
        Kind::DeviceMapper => "dmsetup remove",
        Kind::Swap => "swapoff",
        Kind::Socket => "the process that holds it is to end",
        Kind::Interface => "ip link delete",
        Kind::Module => "modprobe -r, or boot the node",
        Kind::Gpu => "the process is to end",
        Kind::Unseen => "look at it by hand",
        _ => "remove it",
    };
    by_hand.to_owned()
}

/// A difference of the node as a whole.
fn of_node(kind: Kind, what: String, remedy: &str) -> Difference {
    Difference {
        kind,
        what,
        owner: None,
        job: None,
        certain: false,
        made: None,
        remedy: remedy.to_owned(),
        tolerated: false,
        outcome: Outcome::Left,
        user: false,
        handle: Handle::None,
    }
}

/// What the node had and has no longer, of the kinds that do not come and go.
fn gone(state: &NodeState, baseline: &Baseline) -> Vec<Difference> {
    let kinds = [Kind::Mount, Kind::Interface, Kind::DeviceMapper, Kind::Swap];
    let mut all = Vec::new();
    for kind in kinds {
        let now: BTreeSet<&str> =
            state.things.iter().filter(|t| t.kind == kind).map(|t| &*t.key).collect();
        let before = baseline.things.get(&kind).into_iter().flatten();
        for key in before.filter(|key| !now.contains(&***key)) {
            let what = format!("{key} is gone");
            all.push(of_node(kind, what, "bring it back, or take a new baseline"));
        }
    }
    if state.kernel != baseline.kernel {
        let what = format!("is {}, in the baseline {}", state.kernel, baseline.kernel);
        all.push(of_node(Kind::Kernel, what, "boot that one, or take a new baseline"));
    }
    all
}

fn settings(state: &NodeState, baseline: &Baseline, jobs: &Jobs) -> Vec<Difference> {
    let changed = baseline.settings.iter().filter_map(|(name, before)| {
        let now = state.settings.get(name).filter(|now| *now != before)?;
        // Slurm's --cpu-freq sets it for a job, until that ends.
        let asked_for = name.contains("/cpufreq/") && !jobs.running.is_empty();
        (!asked_for).then_some((name, now, before))
    });
    changed
        .map(|(name, now, before)| {
            let one_line = |text: &str| text.replace(['\t', '\n'], " ");
            let what = format!("{name} is {}, in the baseline {}", one_line(now), one_line(before));
            let mut difference =
                of_node(Kind::Setting, what, "denovo node audit --reset-settings puts it back");
            difference.handle = Handle::Setting {
                file: crate::host::node::setting_file(name),
                value: before.clone(),
            };
            difference
        })
        .collect()
}
