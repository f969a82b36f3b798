//! Ordered steps, and for each that the node can see its undo: pure data.
//!
//! A [`Plan`] is made from a [`Spec`] without touching the system, printed by
//! `denovo explain`, written to the journal, and carried out by `kernel`.

pub mod build;
pub mod cgroup;
pub mod cgroup_mounts;
pub mod inside;
pub mod process;

use std::fmt;

use serde::Serialize;

use crate::policy::spec::{Hooks, IdMap, Owner};
use crate::policy::text::CText;
use cgroup::CgroupPlan;
use inside::{Inside, Join};

/// Everything that starting one environment does.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub cgroup: CgroupPlan,
    pub launch: Launch,
    pub inside: Vec<Inside>,
    pub program: Option<Program>,
    #[serde(skip)]
    pub seccomp: Option<(Vec<u8>, u32)>,
    pub hooks: Hooks,
}

/// How the first process comes to be.
#[derive(Debug, Clone, Serialize)]
pub struct Launch {
    /// `CLONE_NEW*` of the final clone.
    pub new: u64,
    /// Namespaces entered first, in this order, by a process in between.
    pub join: Vec<Join>,
    /// A new time namespace that has to exist before the first process
    /// (without denovo's own init the clone itself must enter it).
    pub clocks: Option<crate::policy::spec::Clocks>,
    pub uid_map: Vec<IdMap>,
    pub gid_map: Vec<IdMap>,
    pub deny_setgroups: bool,
    pub owner: Option<Owner>,
    /// CPUs of the caller itself from the clone on (OCI
    /// `execCPUAffinity.initial`).
    pub cpus: Option<Vec<u32>>,
    /// The network namespace is made by the parent while the child already
    /// sets up its root: it takes as long as all of that.
    pub network_aside: bool,
}

/// What is executed, with every place that PATH gives.
#[derive(Debug, Clone, Serialize)]
pub struct Program {
    pub args: Vec<CText>,
    pub env: Vec<CText>,
    pub candidates: Vec<CText>,
}

impl Launch {
    /// One that enters namespaces and makes none.
    pub fn joining(join: Vec<Join>) -> Self {
        Self {
            new: 0,
            join,
            clocks: None,
            uid_map: Vec::new(),
            gid_map: Vec::new(),
            deny_setgroups: false,
            owner: None,
            cpus: None,
            network_aside: false,
        }
    }

    /// Whether a process in between is needed: one that joins or prepares
    /// what the first process is then born into.
    pub fn needs_stage(&self) -> bool {
        !self.join.is_empty() || self.clocks.is_some() || self.owner.is_some()
    }

    /// Whether the clone makes a user namespace.
    pub fn new_user(&self) -> bool {
        self.new & libc::CLONE_NEWUSER as u64 != 0
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cpus) = &self.cpus {
            writeln!(f, "run on CPUs {cpus:?} until the control groups are entered")?;
        }
        for join in &self.join {
            writeln!(f, "enter the {:?} namespace {}", join.kind, join.path)?;
        }
        if let Some(owner) = &self.owner {
            writeln!(
                f,
                "act as uid {}, gid {}, so that this user owns the namespaces",
                owner.uid, owner.gid
            )?;
        }
        write!(f, "clone into new namespaces: {}", namespace_names(self.new))?;
        if self.network_aside {
            f.write_str("; meanwhile make the network namespace")?;
        }
        for (name, maps) in [("uid", &self.uid_map), ("gid", &self.gid_map)] {
            for m in maps {
                write!(
                    f,
                    "\nmap {name} {}..{} inside to {} outside",
                    m.inside,
                    m.inside as u64 + m.count as u64 - 1,
                    m.outside
                )?;
            }
        }
        Ok(())
    }
}

fn namespace_names(flags: u64) -> String {
    let names = [
        (libc::CLONE_NEWUSER, "user"),
        (libc::CLONE_NEWNS, "mount"),
        (libc::CLONE_NEWPID, "pid"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWNET, "network"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
    ];
    let found: Vec<&str> =
        names.iter().filter(|(bit, _)| flags & *bit as u64 != 0).map(|(_, name)| *name).collect();
    if found.is_empty() { "none".into() } else { found.join(", ") }
}

impl Plan {
    /// The plan as a person reads it: a numbered line a step.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        lines.extend(self.cgroup.steps.iter().map(ToString::to_string));
        lines.extend(self.cgroup.resctrl.iter().flat_map(resctrl_lines));
        lines.extend(self.launch.to_string().lines().map(str::to_owned));
        lines.extend(self.inside.iter().map(|step| format!("inside: {step}")));
        lines
    }
}

fn resctrl_lines(rdt: &crate::policy::spec::IntelRdt) -> Vec<String> {
    let group = rdt.mount.join(&rdt.group);
    let mut lines = Vec::new();
    if !rdt.existing {
        lines.push(format!("make {}", group.display()));
    }
    for line in &rdt.schemata {
        let act = if rdt.existing { "check that schemata has" } else { "set schemata =" };
        lines.push(format!("{act} {line} in {}", group.display()));
    }
    if let Some(name) = &rdt.monitor {
        lines.push(format!("make {}", group.join("mon_groups").join(name).display()));
    }
    lines
}
