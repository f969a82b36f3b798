//! Whether MPI will work in an environment, and what to do where it will not.

use serde::Serialize;

use crate::host::mpi::{Libraries, Node};

/// One thing that MPI needs, or would be faster with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    /// What was found.
    pub found: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Ranks run, some other way or slower.
    Note,
    /// Ranks do not start, or do not find each other.
    Missing,
}

/// In which of the families a library is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    OpenMpi,
    Mpich,
}

/// Every check, in the order in which a launch would come to it.
///
/// # Arguments
/// * `caller` - uid of who will run the job
/// * `place` - what the job runs in, for a person
/// * `libraries` - of that place
pub fn checks(node: &Node, caller: u32, place: &str, libraries: &Libraries) -> Vec<Check> {
    vec![
        namespaces(node, caller),
        single_copy(node),
        shared_memory(node),
        fabric(node),
        pinned(node),
        mpi(place, libraries),
        launcher(node, libraries),
        plugin(node),
    ]
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, state: State::Ok, found: found.into(), fix: None }
}

fn bad(name: &'static str, state: State, found: impl Into<String>, fix: &str) -> Check {
    Check { name, state, found: found.into(), fix: Some(fix.to_owned()) }
}

fn namespaces(node: &Node, caller: u32) -> Check {
    let (name, n) = ("user namespaces", &node.namespaces);
    let missing = |found: &str, fix: &str| bad(name, State::Missing, found, fix);
    if !n.built {
        return missing("this kernel was built without them", "a kernel with CONFIG_USER_NS=y");
    }
    if n.most == Some(0) {
        return missing(
            "user.max_user_namespaces is 0",
            "sysctl -w user.max_user_namespaces=65536, and in /etc/sysctl.d",
        );
    }
    // Root makes them for the job's user, whatever users may.
    if caller != 0 && n.unprivileged == Some(0) {
        return missing(
            "users may make none (kernel.unprivileged_userns_clone is 0)",
            "sysctl -w kernel.unprivileged_userns_clone=1, or let root's prolog make environments",
        );
    }
    if caller != 0 && n.apparmor == Some(1) {
        return missing(
            "AppArmor refuses them to users (kernel.apparmor_restrict_unprivileged_userns is 1)",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for \
             denovo with `userns,`, or let root's prolog make environments",
        );
    }
    let most = n.most.map_or("any number".to_owned(), |most| most.to_string());
    ok(name, format!("at most {most}"))
}

fn single_copy(node: &Node) -> Check {
    let name = "single copy (CMA)";
    if let Some(why) = &node.no_cma {
        return bad(
            name,
            State::Note,
            format!("process_vm_readv fails ({why}): ranks copy twice"),
            "a kernel with CONFIG_CROSS_MEMORY_ATTACH=y; no seccomp filter against process_vm_readv",
        );
    }
    // Ranks are siblings: with 1 only a parent may read its child (Yama).
    match node.ptrace_scope {
        Some(scope) if scope > 0 => bad(
            name,
            State::Note,
            format!("kernel.yama.ptrace_scope is {scope}: ranks may not read each other"),
            "sysctl -w kernel.yama.ptrace_scope=0 on the compute nodes, and in /etc/sysctl.d",
        ),
        _ => ok(name, "ranks of a node read each other's memory"),
    }
}

/// MPI ranks of a node map some MiB each; 64 MiB is what containers get where
/// nobody says.
const LEAST_SHM: u64 = 256 << 20;

fn shared_memory(node: &Node) -> Check {
    let name = "shared memory";
    match node.shm {
        None => bad(
            name,
            State::Missing,
            "/dev/shm is no tmpfs",
            "mount -t tmpfs -o mode=1777 tmpfs /dev/shm, and in /etc/fstab",
        ),
        Some((_, free)) if free < LEAST_SHM => bad(
            name,
            State::Note,
            format!("/dev/shm has {} MiB free", free >> 20),
            "mount -o remount,size=50% /dev/shm; jobs in environments have one of their own \
             (--shm-size), mpirun outside does not",
        ),
        Some((all, _)) => {
            ok(name, format!("/dev/shm: {} MiB here, a job's memory inside", all >> 20))
        }
    }
}

fn fabric(node: &Node) -> Check {
    let name = "fabric devices";
    let closed: Vec<&str> =
        node.devices.iter().filter(|(_, open)| !open).map(|(path, _)| path.as_str()).collect();
    if !closed.is_empty() {
        return bad(
            name,
            State::Note,
            format!("{} cannot be opened: MPI goes by TCP", closed.join(", ")),
            "a udev rule with MODE=\"0666\" for them (rdma-core has one), or the user's group",
        );
    }
    match (node.adapters.is_empty(), node.devices.is_empty()) {
        (true, true) => ok(name, "none on this node: TCP and shared memory"),
        (false, true) => bad(
            name,
            State::Note,
            format!("{} without devices in /dev: MPI goes by TCP", node.adapters.join(", ")),
            "modprobe ib_uverbs rdma_ucm (InfiniBand, RoCE), and in /etc/modules-load.d",
        ),
        _ => {
            let all: Vec<&str> = node.devices.iter().map(|(path, _)| path.as_str()).collect();
            ok(name, format!("{}; a scheduler's jobs have them, others by --bind", all.join(", ")))
        }
    }
}

fn pinned(node: &Node) -> Check {
    let name = "pinned memory";
    match node.memlock {
        Some(bytes) if !node.devices.is_empty() || !node.adapters.is_empty() => bad(
            name,
            State::Note,
            format!("RLIMIT_MEMLOCK is {} KiB: fabrics pin more", bytes >> 10),
            "LimitMEMLOCK=infinity in slurmd's unit, PropagateResourceLimitsExcept=MEMLOCK in \
             slurm.conf; `* - memlock unlimited` in limits.conf for logins",
        ),
        Some(bytes) => ok(name, format!("{} KiB, and no fabric that needs more", bytes >> 10)),
        None => ok(name, "unlimited"),
    }
}

/// Open MPI's library is libmpi.so.40 since 3.0, MPICH's (and Intel's,
/// MVAPICH's, Cray's: the common ABI) libmpi.so.12 or libmpich.so.12.
fn family(libraries: &Libraries) -> Vec<Family> {
    let has = |starts: &[&str]| {
        libraries.names.iter().any(|name| starts.iter().any(|start| name.starts_with(start)))
    };
    let mut found = Vec::new();
    if has(&["libmpi.so.40", "libmpi.so.20"]) {
        found.push(Family::OpenMpi);
    }
    if has(&["libmpi.so.12", "libmpich.so."]) {
        found.push(Family::Mpich);
    }
    found
}

fn mpi(place: &str, libraries: &Libraries) -> Check {
    let name = "MPI library";
    if family(libraries).is_empty() {
        return bad(
            name,
            State::Missing,
            format!("{place} has none"),
            "install Open MPI or MPICH there (Debian: openmpi-bin, mpich); a program that is \
             linked statically, or brings its own, needs none",
        );
    }
    ok(name, format!("{place}: {}", libraries.names.join(", ")))
}

/// Which of Slurm's plugins a family's ranks find each other by; what was
/// measured is in docs/mpi.md.
fn launcher(node: &Node, libraries: &Libraries) -> Check {
    let name = "PMI, PMIx";
    let Some(slurm) = &node.slurm else {
        return ok(name, "no Slurm here: mpirun brings its own");
    };
    let has = |wanted: &str| slurm.mpi.iter().any(|name| name.starts_with(wanted));
    let (mut ways, mut lacking) = (Vec::new(), Vec::new());
    for family in family(libraries) {
        let (who, way) = match family {
            Family::OpenMpi => ("Open MPI", "pmix"),
            Family::Mpich => ("MPICH", "pmi2"),
        };
        if has(way) {
            ways.push(format!("{who} by srun --mpi={way}"));
        } else {
            lacking.push((who, way));
        }
    }
    if let Some((who, way)) = lacking.first() {
        return bad(
            name,
            State::Missing,
            format!(
                "{} has no mpi_{way}.so: srun starts {who}'s ranks alone",
                slurm.plugins.display()
            ),
            if *way == "pmix" {
                "build Slurm --with-pmix and install that plugin (Debian: \
                 slurm-wlm-basic-plugins, libpmix2), or start by mpirun in the allocation"
            } else {
                "install Slurm's contribs/pmi2 and mpi_pmi2.so, or start by mpiexec.hydra in the \
                 allocation"
            },
        );
    }
    if ways.is_empty() {
        return ok(name, format!("srun --mpi={}", slurm.mpi.join(", ")));
    }
    ok(name, ways.join(", "))
}

fn plugin(node: &Node) -> Check {
    let name = "Slurm plugin";
    match node.slurm.as_ref().map(|slurm| slurm.spank) {
        None => ok(name, "no Slurm here"),
        Some(Some(true)) => ok(name, "plugstack.conf names denovo_spank.so"),
        Some(Some(false)) => bad(
            name,
            State::Note,
            "plugstack.conf does not name denovo_spank.so: ranks start on the bare node",
            "`required denovo_spank.so` in plugstack.conf (docs/slurm.md), or srun … denovo job run",
        ),
        Some(None) => ok(name, "slurm.conf is not on this node"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mpi::Slurm;
    use crate::host::user_namespace::Settings;

    fn good() -> Node {
        Node {
            namespaces: Settings { built: true, most: Some(100), ..Settings::default() },
            shm: Some((1 << 34, 1 << 33)),
            slurm: Some(Slurm {
                plugins: "/p".into(),
                mpi: vec!["pmi2".into(), "pmix".into(), "pmix_v4".into()],
                spank: Some(true),
            }),
            ..Node::default()
        }
    }

    fn both() -> Libraries {
        Libraries { names: vec!["libmpi.so.40.30.4".into(), "libmpich.so.12.1.14".into()] }
    }

    #[test]
    fn a_good_node_has_nothing_to_mend() {
        let all = checks(&good(), 5, "host", &both());
        assert!(all.iter().all(|c| c.state == State::Ok && c.fix.is_none()), "{all:#?}");
    }

    #[test]
    fn each_failure_has_the_setting_that_mends_it() {
        type Break = fn(&mut Node, &mut Libraries);
        let cases: [(Break, &str, State, &str); 16] = [
            (
                |n, _| n.namespaces.built = false,
                "user namespaces",
                State::Missing,
                "CONFIG_USER_NS",
            ),
            (|n, _| n.namespaces.most = Some(0), "user namespaces", State::Missing, "max_user_n"),
            (
                |n, _| n.namespaces.unprivileged = Some(0),
                "user namespaces",
                State::Missing,
                "unprivileged_userns_clone=1",
            ),
            (|n, _| n.namespaces.apparmor = Some(1), "user namespaces", State::Missing, "AppArmor"),
            (|n, _| n.ptrace_scope = Some(1), "single copy (CMA)", State::Note, "ptrace_scope=0"),
            (
                |n, _| n.no_cma = Some("x".into()),
                "single copy (CMA)",
                State::Note,
                "CONFIG_CROSS_MEMORY_ATTACH",
            ),
            (|n, _| n.shm = None, "shared memory", State::Missing, "mount -t tmpfs"),
            (|n, _| n.shm = Some((1 << 26, 1)), "shared memory", State::Note, "remount"),
            (|n, _| n.adapters = vec!["mlx5_0".into()], "fabric devices", State::Note, "ib_uverbs"),
            (
                |n, _| n.devices = vec![("/dev/infiniband/uverbs0".into(), false)],
                "fabric devices",
                State::Note,
                "udev",
            ),
            (
                |n, _| {
                    n.devices = vec![("/dev/infiniband/uverbs0".into(), true)];
                    n.memlock = Some(65536);
                },
                "pinned memory",
                State::Note,
                "LimitMEMLOCK",
            ),
            (|_, l| l.names.clear(), "MPI library", State::Missing, "openmpi-bin"),
            (
                |n, _| n.slurm.as_mut().unwrap().mpi = vec!["pmi2".into()],
                "PMI, PMIx",
                State::Missing,
                "--with-pmix",
            ),
            (
                |n, _| n.slurm.as_mut().unwrap().mpi = vec!["pmix_v4".into()],
                "PMI, PMIx",
                State::Missing,
                "pmi2",
            ),
            (
                |n, _| n.slurm.as_mut().unwrap().spank = Some(false),
                "Slurm plugin",
                State::Note,
                "required denovo_spank.so",
            ),
            (
                |n, _| n.namespaces.most = Some(0),
                "user namespaces",
                State::Missing,
                "/etc/sysctl.d",
            ),
        ];
        for (number, (change, name, state, fix)) in cases.into_iter().enumerate() {
            let (mut node, mut libraries) = (good(), both());
            change(&mut node, &mut libraries);
            let all = checks(&node, 5, "host", &libraries);
            let wrong: Vec<&Check> = all.iter().filter(|c| c.state != State::Ok).collect();
            assert_eq!(wrong.len(), 1, "{number}: {wrong:#?}");
            assert_eq!((wrong[0].name, wrong[0].state), (name, state), "{number}");
            let told = wrong[0].fix.as_deref().unwrap_or_default();
            assert!(told.contains(fix), "{number}: {told}");
        }
    }

    #[test]
    fn root_needs_no_leave_of_users_and_no_slurm_needs_no_plugin() {
        let mut node = good();
        node.namespaces.unprivileged = Some(0);
        node.namespaces.apparmor = Some(1);
        node.slurm = None;
        let all = checks(&node, 0, "host", &both());
        assert!(all.iter().all(|c| c.state == State::Ok), "{all:#?}");
    }
}
