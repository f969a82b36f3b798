//! From a job's request to the spec of its environment.

mod etc;
mod fixtures;

use std::path::PathBuf;

use super::limits::{Cpu, Limits, Memory};
use super::spec::{Cgroup, Clocks, Hooks, IdMap, Namespace, Namespaces, Owner, Root, Spec, Writes};
use super::text::CText;
use crate::host::Facts;
use crate::host::distribution::Distribution;
use crate::problem::{Problem, Problems};
use crate::request::job::JobRequest;

pub use etc::Identity;

/// The user whose processes run in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Of `gid` and `groups`, where they have names on the node.
    pub group_names: Vec<(u32, String)>,
    pub name: String,
    pub home: Option<PathBuf>,
}

/// Where the environment's root comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The node's own distribution as if freshly installed.
    Host(Distribution),
    /// A bundle's root, with the variables of its image and its account files.
    /// `handed`: the root is a mount attached nowhere, by its descriptor.
    Bundle { root: PathBuf, handed: bool, passwd: String, group: String, memory: u64 },
}

/// Everything that decides what the environment is.
#[derive(Debug, Clone)]
pub struct Case<'a> {
    pub id: &'a str,
    pub request: &'a JobRequest,
    pub facts: &'a Facts,
    pub person: &'a Person,
    pub source: &'a Source,
    /// CPUs chosen, when a number was asked for.
    pub cpus: Option<&'a [u32]>,
    /// Where the caller is.
    pub cwd: Option<&'a str>,
    /// Directories of an MPI launcher that its ranks must find.
    pub launcher: &'a [String],
    /// Directory on the scratch disk, made for this environment.
    pub scratch: Option<&'a str>,
    /// Whether the job can have its own view of the machine (FUSE).
    pub views: bool,
    /// The node's resolv.conf(5), where the job has the node's network.
    pub resolver: Option<&'a str>,
    /// inotify instances that it may have (`host::shares`).
    pub instances: Option<u64>,
    /// 32 random bytes, for the machine's and the boot's id.
    pub seed: [u8; 32],
}

/// The environment, and what of the request this node cannot hold.
#[derive(Debug, Clone)]
pub struct Decided {
    pub spec: Spec,
    /// CPUs to run on by affinity, where no group can hold them.
    pub affinity: Option<Vec<u32>>,
    pub warnings: Vec<String>,
}

/// Decides what environment the request gets.
///
/// # Errors
/// Every reason why it cannot be made, at once.
pub fn decide(case: &Case<'_>) -> Result<Decided, Problems> {
    let mut problems = Problems::new();
    let mut warnings = Vec::new();
    let fixtures = fixtures::fixtures(case, &mut problems);
    let namespaces = namespaces(case, &mut warnings);
    let (cgroup, affinity) = cgroup(case, &mut warnings);
    let size = case.request.root_size.unwrap_or(case.memory() / 2).max(1 << 20);
    let writes = match case.scratch {
        Some(dir) => Writes::Scratch { dir: CText::lossy(dir) },
        None => Writes::Memory { bytes: size },
    };
    let root = match case.source {
        Source::Host(_) => Root::Empty { writes },
        Source::Bundle { root, handed, .. } => Root::Overlay {
            lower: CText::lossy(root.as_os_str().as_encoded_bytes()),
            handed: *handed,
            writes,
            own: fixtures::over_image(case),
        },
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let spec = Spec {
        root,
        fixtures,
        namespaces,
        // What the node mounts and unmounts later is none of the job's.
        propagation: libc::MS_PRIVATE | libc::MS_REC,
        hostname: Some(CText::lossy(case.hostname())),
        domainname: None,
        devices: if case.makes_devices() { Vec::new() } else { fixtures::devices() },
        own_dev: true,
        sysctl: share_of_the_users(case),
        masked_paths: fixtures::MASKED.iter().map(|p| CText::lossy(*p)).collect(),
        readonly_paths: fixtures::READONLY.iter().map(|p| CText::lossy(*p)).collect(),
        cgroup,
        intel_rdt: None,
        net_devices: Vec::new(),
        seccomp: None,
        hooks: Hooks::default(),
        process: None,
        annotations: Vec::new(),
    };
    Ok(Decided { spec, affinity, warnings })
}

impl Case<'_> {
    /// Bytes that the job may count on: its limit, else the node's memory.
    fn memory(&self) -> u64 {
        let node = match self.source {
            Source::Host(distribution) => distribution.memory,
            Source::Bundle { memory, .. } => *memory,
        };
        self.request.memory.map_or(node, |limit| limit.min(node))
    }

    /// The name asked for, else one made from the id, as hostname(7) allows.
    fn hostname(&self) -> String {
        if let Some(name) = &self.request.hostname {
            return name.clone();
        }
        let mut name: String =
            self.id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        name.truncate(63);
        let trimmed = name.trim_matches('-');
        if trimmed.is_empty() { "job".to_owned() } else { trimmed.to_owned() }
    }

    /// Whether nodes of its own are made: by root, with mknod(2).
    fn makes_devices(&self) -> bool {
        /// CAP_MKNOD of capabilities(7).
        const MKNOD: u64 = 1 << 27;
        self.by_root() && self.facts.caller.capabilities & MKNOD != 0
    }

    /// Root who makes an environment for itself, or for somebody else.
    fn by_root(&self) -> bool {
        self.facts.caller.uid == 0 && !self.facts.caller.nested
    }
}

/// The part of what the kernel allows the user that is this environment's: what
/// another takes of the rest is neither missed here nor noticed.
fn share_of_the_users(case: &Case<'_>) -> Vec<(CText, CText)> {
    let path = CText::lossy("user/max_inotify_instances");
    case.instances.map(|n| (path, CText::lossy(n.to_string()))).into_iter().collect()
}

fn namespaces(case: &Case<'_>, warnings: &mut Vec<String>) -> Namespaces {
    let person = case.person;
    let one = |id: u32| IdMap { inside: id, outside: id, count: 1 };
    let (uid_map, gid_map) = if person.uid == 0 {
        // Every id means itself, so that root's job can install and unpack;
        // its power ends at the environment all the same.
        let all = IdMap { inside: 0, outside: 0, count: u32::MAX };
        (vec![all], vec![all])
    } else if case.by_root() {
        let mut gids: Vec<u32> = vec![person.gid];
        gids.extend(person.groups.iter().filter(|gid| **gid != person.gid && **gid != 0));
        gids.dedup();
        // user_namespaces(7): at most 340 lines.
        gids.truncate(340);
        (vec![one(person.uid)], gids.into_iter().map(one).collect())
    } else {
        (vec![one(person.uid)], vec![one(person.gid)])
    };
    let clocks = case.facts.kernel >= (5, 6);
    if !clocks {
        warnings.push(
            "this kernel has no time namespaces (Linux 5.6): uptime inside is the node's".into(),
        );
    }
    Namespaces {
        user: Namespace::New,
        cgroup: Namespace::New,
        ipc: Namespace::New,
        uts: Namespace::New,
        net: if case.request.network_none { Namespace::New } else { Namespace::Shared },
        pid: Namespace::New,
        mount: Namespace::New,
        time: if clocks { Namespace::New } else { Namespace::Shared },
        uid_map,
        gid_map,
        deny_setgroups: !case.by_root(),
        clocks: Clocks::JustBooted,
        owner: (case.by_root() && person.uid != 0).then(|| Owner {
            uid: person.uid,
            gid: person.gid,
            groups: person.groups.clone(),
        }),
    }
}

/// Root's environments have their groups at the top, as /denovo-ID; a user's
/// where the user may make some. What no group of the user's can hold is said
/// in one line; CPUs are held by affinity then.
fn cgroup(case: &Case<'_>, warnings: &mut Vec<String>) -> (Cgroup, Option<Vec<u32>>) {
    let request = case.request;
    let path = group_path(case);
    let holds = |controller: &str| {
        let v2 = case.facts.cgroups.v2.as_ref();
        case.by_root()
            || path.is_some()
                && v2.is_some_and(|v2| v2.own_controllers.iter().any(|c| c == controller))
    };
    let mut missing = Vec::new();
    let mut amount = |asked: Option<u64>, option: &'static str, controller: &str| {
        if asked.is_some() && !holds(controller) {
            missing.push(option);
        }
        asked.filter(|_| holds(controller)).and_then(|n| i64::try_from(n).ok())
    };
    let memory = amount(request.memory, "--memory", "memory");
    let pids = amount(request.pids, "--pids", "pids");
    let cpus = case.cpus.filter(|_| holds("cpuset"));
    if !missing.is_empty() {
        warnings.push(format!(
            "{} cannot be held: this user has no control group of its own here that can; \
             a site gives one by delegation (systemd: Delegate=yes), or starts the job as root",
            missing.join(" and ")
        ));
    }
    let limits = Limits {
        cpu: Cpu { cpus: cpus.map(super::cpus::format_list), ..Cpu::default() },
        // Memory and swap together: none beyond the memory.
        memory: Memory { limit: memory, swap: memory, ..Memory::default() },
        pids,
        ..Limits::default()
    };
    let affinity = case.cpus.filter(|_| cpus.is_none()).map(<[u32]>::to_vec);
    let delegate_to = (case.by_root() && case.person.uid != 0).then_some(case.person.uid);
    let best_effort = !case.by_root() && limits.is_empty();
    (Cgroup { path, limits, best_effort, delegate_to }, affinity)
}

fn group_path(case: &Case<'_>) -> Option<String> {
    if case.by_root() {
        return Some(format!("denovo-{}", case.id));
    }
    let v2 = case.facts.cgroups.v2.as_ref().filter(|v2| v2.writable)?;
    Some(format!("{}/denovo-{}", v2.own, case.id).trim_start_matches('/').to_owned())
}

/// A hostname as hostname(7) allows it: labels of letters, digits and
/// hyphens, 64 bytes at most.
///
/// # Errors
/// A [`Problem`] that names the text.
pub fn check_hostname(text: &str) -> Result<String, Problem> {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if text.len() <= 64 && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err(Problem::user(format!("hostname {text:?}: is not one"))
        .hint("letters, digits and hyphens, in labels of at most 63 joined by dots, 64 in all"))
}

#[cfg(test)]
mod tests;
