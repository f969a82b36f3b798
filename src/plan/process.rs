//! From a process to the steps that make it.

use super::Program;
use super::inside::{Inside, Lsm};
use crate::policy::spec::{Attributes, Process, Seccomp};
use crate::policy::text::CText;

/// What turns a process inside the environment into the one that was asked
/// for, up to its exec; `run`, `exec` and a joining rank share it.
pub fn process_steps(process: &Process, seccomp: Option<&Seccomp>, wait: bool) -> Vec<Inside> {
    let mut steps = Vec::new();
    steps.extend(attribute_steps(&process.attributes));
    steps.extend(process.rlimits.iter().copied().map(Inside::Rlimit));
    if let Some(mask) = process.umask {
        steps.push(Inside::Umask(mask));
    }
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, which `Become` drops;
    // with it, later is better: the filter need not allow the steps before.
    if seccomp.is_some() && !process.no_new_privileges {
        steps.push(Inside::Seccomp);
    }
    // Before the ids change, while the node's privilege is there; nothing of
    // it counts before the exec.
    for (lsm, label) in labels(&process.attributes) {
        steps.push(Inside::Label { lsm, label });
    }
    steps.push(Inside::Become { user: process.user.clone(), capabilities: process.capabilities });
    if process.no_new_privileges {
        steps.push(Inside::NoNewPrivileges);
    }
    steps.push(Inside::WorkingDirectory(process.cwd.clone()));
    if wait {
        steps.push(Inside::FindProgram);
    }
    if seccomp.is_some() && process.no_new_privileges {
        steps.push(Inside::Seccomp);
    }
    steps
}

/// What takes privilege that `Become` drops.
fn attribute_steps(attributes: &Attributes) -> Vec<Inside> {
    let mut steps = Vec::new();
    steps.extend(attributes.personality.map(Inside::Personality));
    steps.extend(attributes.memory_policy.clone().map(Inside::MemoryPolicy));
    steps.extend(attributes.io_priority.map(Inside::IoPriority));
    steps.extend(attributes.scheduler.map(Inside::Scheduler));
    steps
}

fn labels(attributes: &Attributes) -> Vec<(Lsm, CText)> {
    let labels =
        [(Lsm::SeLinux, &attributes.selinux_label), (Lsm::AppArmor, &attributes.apparmor_profile)];
    labels.into_iter().filter_map(|(lsm, label)| Some((lsm, label.clone()?))).collect()
}

/// The steps of a process that enters an environment which already runs.
pub fn entering(process: &Process, seccomp: Option<&Seccomp>) -> Vec<Inside> {
    let mut steps = process_steps(process, seccomp, false);
    steps.push(Inside::Exec(process.args[0].clone()));
    steps
}

/// The steps of one process of a job that enters its environment.
///
/// `directories`: the first that exists inside becomes the working directory.
pub fn rank_steps(
    process: &Process,
    directories: Vec<CText>,
    cpus: Option<&[u32]>,
    grouped: bool,
    filter: &Seccomp,
) -> Vec<Inside> {
    let mut steps = Vec::with_capacity(8);
    if grouped {
        steps.push(Inside::EnterGroups);
    }
    steps.extend(cpus.map(|cpus| Inside::Affinity(cpus.to_vec())));
    if process.terminal {
        steps.push(Inside::NewSession);
        steps.push(Inside::Console { rows: 0, columns: 0 });
    }
    steps.extend(process_steps(process, Some(filter), false).into_iter().map(|step| match step {
        Inside::WorkingDirectory(_) => Inside::FirstDirectory(directories.clone()),
        other => other,
    }));
    steps.push(Inside::Exec(process.args[0].clone()));
    steps
}

/// Where PATH of the process's own environment finds its program, as
/// execvp(3) would look for it.
pub fn program(process: &Process) -> Program {
    let name = &process.args[0];
    let candidates = if name.as_bytes().contains(&b'/') {
        vec![name.clone()]
    } else {
        let path = process.env.iter().find_map(|e| e.as_bytes().strip_prefix(b"PATH="));
        path.unwrap_or(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .split(|b| *b == b':')
            .map(|dir| {
                let mut full = if dir.is_empty() { b".".to_vec() } else { dir.to_vec() };
                full.push(b'/');
                full.extend_from_slice(name.as_bytes());
                CText::lossy(full)
            })
            .collect()
    };
    Program { args: process.args.clone(), env: process.env.clone(), candidates }
}
