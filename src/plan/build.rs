//! From a checked spec to its plan.

use super::cgroup::CgroupPlan;
use super::inside::{Inside, Join};
use super::{Launch, Plan};
use crate::host::Facts;
use crate::policy::spec::{
    Device, Fixture, Kind, MountSource, Namespace, Namespaces, Process, Root, Spec,
};
use crate::policy::text::CText;
use crate::problem::Problems;

pub use super::process::{entering, process_steps, program, rank_steps};

/// What a plan depends on beside the spec.
#[derive(Debug, Clone)]
pub struct Options {
    pub id: String,
    /// An existing directory that a root without a place of its own is built on.
    pub anchor: CText,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// Whether the process waits for `start` (OCI create).
    pub await_start: bool,
}

/// Makes the plan of starting `spec`.
///
/// # Errors
/// Every reason why the control groups cannot be as asked.
pub fn plan(spec: &Spec, facts: &Facts, options: &Options) -> Result<Plan, Problems> {
    let mut cgroup = super::cgroup::plan(&spec.cgroup, facts)?;
    cgroup.resctrl = spec.intel_rdt.clone();
    let mut launch = launch(&spec.namespaces, spec.process.is_none());
    // Worth it where there is another CPU to do it on; where it must belong
    // to a new user namespace, only a process in there can make it.
    launch.network_aside = launch.new & libc::CLONE_NEWNET as u64 != 0
        && !launch.new_user()
        && !launch.needs_stage()
        // Or else the way back to the caller's own would be barred.
        && !facts.caller.nested
        && facts.caller.cpus.len() > 1;
    let mut inside = Vec::with_capacity(64);
    enter_steps(spec, &cgroup, options, &mut inside);
    root_steps(spec, facts, options, &mut inside);
    seal_steps(spec, facts, options, &mut inside);
    network_steps(spec, launch.network_aside, &mut inside);
    open_outside(&spec.namespaces, facts, &mut inside);
    match &spec.process {
        Some(process) => {
            inside.extend(process_steps(process, spec.seccomp.as_ref(), options.await_start));
            finish(spec, process, options, &mut inside);
        }
        None => inside.push(Inside::Init),
    }
    Ok(Plan {
        cgroup,
        launch,
        inside,
        program: spec.process.as_ref().map(program),
        seccomp: spec.seccomp.as_ref().map(|s| (s.program.clone(), s.flags)),
        hooks: spec.hooks.clone(),
    })
}

/// Hooks and the exec itself, behind everything that `process_steps` set up.
fn finish(spec: &Spec, process: &Process, options: &Options, inside: &mut Vec<Inside>) {
    if options.await_start {
        inside.push(Inside::AwaitStart);
    }
    if !spec.hooks.start_container.is_empty() {
        inside.push(Inside::StartHooks(spec.hooks.start_container.clone()));
    }
    inside.push(Inside::Exec(process.args[0].clone()));
}

fn launch(namespaces: &Namespaces, own_init: bool) -> Launch {
    use libc as l;
    let all = [
        (Kind::User, &namespaces.user, l::CLONE_NEWUSER),
        // The cgroup namespace is unshared once the process is in its group:
        // its root is the group that the process is in at that moment.
        (Kind::Cgroup, &namespaces.cgroup, 0),
        (Kind::Ipc, &namespaces.ipc, l::CLONE_NEWIPC),
        (Kind::Uts, &namespaces.uts, l::CLONE_NEWUTS),
        (Kind::Net, &namespaces.net, l::CLONE_NEWNET),
        (Kind::Pid, &namespaces.pid, l::CLONE_NEWPID),
        (Kind::Time, &namespaces.time, 0),
        (Kind::Mount, &namespaces.mount, l::CLONE_NEWNS),
    ];
    let mut new = 0;
    let mut join = Vec::new();
    for (kind, wanted, flag) in all {
        match wanted {
            // What it mounts, it mounts aside first (`Inside::SharedMounts`).
            Namespace::Shared if kind == Kind::Mount => new |= flag as u64,
            Namespace::Shared => {}
            Namespace::New => new |= flag as u64,
            Namespace::Join(path) => join.push(Join { kind, path: path.clone() }),
        }
    }
    Launch {
        new,
        join,
        clocks: (namespaces.time == Namespace::New && !own_init).then(|| namespaces.clocks.clone()),
        uid_map: namespaces.uid_map.clone(),
        gid_map: namespaces.gid_map.clone(),
        deny_setgroups: namespaces.deny_setgroups,
        owner: namespaces.owner.clone(),
        cpus: None,
        network_aside: false,
    }
}

/// From the clone to a mount namespace of one's own.
fn enter_steps(spec: &Spec, cgroup: &CgroupPlan, options: &Options, inside: &mut Vec<Inside>) {
    let namespaces = &spec.namespaces;
    if !cgroup.steps.is_empty() || cgroup.resctrl.is_some() {
        inside.push(Inside::EnterGroups);
    }
    if namespaces.user != Namespace::Shared {
        inside.push(setup_user(namespaces));
    }
    if namespaces.cgroup == Namespace::New {
        inside.push(Inside::NewCgroupNamespace);
    }
    inside.push(Inside::NewSession);
    if !options.no_new_keyring {
        inside.push(Inside::NewKeyring(CText::lossy(format!("_ses.{}", options.id))));
    }
    if spec.process.is_none() && namespaces.time == Namespace::New {
        inside.push(Inside::NewClocks(namespaces.clocks.clone()));
    }
    if let Some(name) = &spec.hostname {
        inside.push(Inside::Hostname(name.clone()));
    }
    if let Some(name) = &spec.domainname {
        inside.push(Inside::Domainname(name.clone()));
    }
}

/// The new network namespace, up and entered before the first step that
/// depends on it: sysfs shows the network of the process that mounts it, and
/// so do kernel settings. What is in /sys comes as late as the order of the
/// mounts allows, so that there is time to make it.
fn network_steps(spec: &Spec, aside: bool, inside: &mut Vec<Inside>) {
    if spec.namespaces.net != Namespace::New {
        return;
    }
    let stops = |step: &Inside| {
        use Inside::*;
        matches!(
            step,
            NetDevices(_)
                | RuntimeHooks
                | ContainerHooks(_)
                | Console { .. }
                | Sysctl { .. }
                | OomScore(_)
                | ReadonlyRoot
                | PivotRoot
                | Chroot
                | Init
        )
    };
    let end = inside.iter().position(stops).unwrap_or(inside.len());
    let rest = inside.split_off(end);
    let (late, mut all) = in_sys_and_after(std::mem::take(inside));
    if aside {
        all.push(Inside::EnterNetwork);
    }
    all.push(Inside::Loopback);
    all.extend(late);
    all.extend(rest);
    *inside = all;
}

/// Divides the steps into those that concern /sys or have to follow one that
/// does, and all others, each in their order.
///
/// OCI config.md, "Mounts": entries are mounted in the listed order, so what is
/// listed after /sys waits too, and so does what may be in such a mount.
fn in_sys_and_after(steps: Vec<Inside>) -> (Vec<Inside>, Vec<Inside>) {
    let mut behind = false;
    let mut covered: Vec<CText> = Vec::new();
    steps.into_iter().partition(|step| {
        let path = concerned(step);
        let sys = path.is_some_and(|path| is_in(path, b"/sys"));
        if let Inside::Put(Fixture::Mount(mount)) = step {
            behind |= sys;
            if behind && !sys {
                covered.push(mount.destination.clone());
            }
            return behind;
        }
        sys || !covered.is_empty() && !stays(path, &covered)
    })
}

/// Whether a step is sure to be in none of these mounts, by the text of its
/// path: links are followed only in the root.
fn stays(path: Option<&CText>, covered: &[CText]) -> bool {
    path.is_some_and(|path| {
        [&b"/dev"[..], b"/proc"].iter().any(|dir| is_in(path, dir))
            && !covered.iter().any(|mount| is_in(path, mount.as_bytes()))
    })
}

fn concerned(step: &Inside) -> Option<&CText> {
    match step {
        Inside::Put(Fixture::Mount(mount)) => Some(&mount.destination),
        Inside::MakeDevice(device) | Inside::BindDevice(device) => Some(&device.path),
        Inside::ReadonlyMount(path) | Inside::ReadonlyPath(path) | Inside::MaskedPath(path) => {
            Some(path)
        }
        _ => None,
    }
}

/// Whether the clean path is the clean directory or below it.
fn is_in(path: &CText, dir: &[u8]) -> bool {
    let rest = path.as_bytes().strip_prefix(dir);
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || dir == b"/")
}

/// Where the user that builds the root is another one than the caller, the
/// caller opens its sources (a bundle is often in a directory of mode 700).
fn open_outside(namespaces: &Namespaces, facts: &Facts, inside: &mut Vec<Inside>) {
    if namespaces.user == Namespace::Shared || namespaces.owner.is_some() || facts.caller.uid != 0 {
        return;
    }
    let paths: Vec<CText> = inside
        .iter()
        .filter_map(|step| match step {
            Inside::RootDirectory { path } => Some(path.clone()),
            Inside::Put(Fixture::Mount(mount)) => match &mount.source {
                MountSource::Bind { path, .. } => Some(path.clone()),
                MountSource::New { .. } | MountSource::Cgroup => None,
            },
            _ => None,
        })
        .collect();
    let before = inside.iter().position(|step| matches!(step, Inside::BecomeSetupUser { .. }));
    if let Some(index) = before.filter(|_| !paths.is_empty()) {
        inside.insert(index, Inside::OpenOutside(paths));
    }
}

/// The user that builds the root: 0 of the new user namespace where there is
/// one, else whoever is mapped. (Its capabilities come with the namespace,
/// not with the uid.)
fn setup_user(namespaces: &Namespaces) -> Inside {
    let pick = |maps: &[crate::policy::spec::IdMap]| {
        if maps.iter().any(|m| m.inside == 0 && m.count > 0) || maps.is_empty() {
            0
        } else {
            maps[0].inside
        }
    };
    Inside::BecomeSetupUser { uid: pick(&namespaces.uid_map), gid: pick(&namespaces.gid_map) }
}

fn root_steps(spec: &Spec, facts: &Facts, options: &Options, inside: &mut Vec<Inside>) {
    let anchor = options.anchor.clone();
    inside.push(Inside::Detach(first_propagation(spec.propagation)));
    inside.push(match &spec.root {
        Root::Directory { path, .. } => Inside::RootDirectory { path: path.clone() },
        Root::Overlay { lower, handed, writes, own } => Inside::RootOverlay {
            lower: lower.clone(),
            handed: *handed,
            writes: writes.clone(),
            anchor,
            own: own.clone(),
            points: mount_points(&spec.fixtures),
        },
        Root::Empty { writes } => Inside::RootEmpty { writes: writes.clone(), anchor },
    });
    for fixture in &spec.fixtures {
        expand(fixture, facts, spec, inside);
    }
    // First: a /dev that is a link is refused before anything is made in it.
    if spec.own_dev {
        inside.push(Inside::DeviceLinks);
    }
    let devices: fn(Device) -> Inside =
        if spec.namespaces.user == Namespace::Shared && !facts.caller.nested {
            Inside::MakeDevice
        } else {
            Inside::BindDevice
        };
    inside.extend(spec.devices.iter().cloned().map(devices));
    if let Some(process) = &spec.process
        && process.terminal
    {
        let (rows, columns) = process.console_size.unwrap_or((0, 0));
        inside.push(Inside::Console { rows, columns });
    }
}

fn mount_points(fixtures: &[Fixture]) -> Vec<(CText, Option<CText>)> {
    let mounts = fixtures.iter().filter_map(|f| match f {
        Fixture::Mount(mount) => Some(mount),
        _ => None,
    });
    mounts
        .map(|mount| match &mount.source {
            MountSource::Bind { path, .. } => (mount.destination.clone(), Some(path.clone())),
            _ => (mount.destination.clone(), None),
        })
        .collect()
}

/// The root mount must not be shared while it is set up: mounts would show
/// on the node, and pivot_root(2) refuses it.
fn first_propagation(wanted: u64) -> u64 {
    if wanted & libc::MS_PRIVATE != 0 {
        libc::MS_PRIVATE | libc::MS_REC
    } else {
        libc::MS_SLAVE | libc::MS_REC
    }
}

/// The mount type `cgroup` stands for what the node has: on cgroup v2 one
/// mount, on v1 a tmpfs with one mount a hierarchy, as callers of runc expect.
fn expand(fixture: &Fixture, facts: &Facts, spec: &Spec, inside: &mut Vec<Inside>) {
    let Fixture::Mount(mount) = fixture else {
        inside.push(Inside::Put(fixture.clone()));
        return;
    };
    match &mount.source {
        MountSource::Cgroup => {
            let own_namespace = spec.namespaces.cgroup == Namespace::New;
            let path = spec.cgroup.path.as_deref();
            let mounts = super::cgroup_mounts::mounts(mount, facts, own_namespace, path);
            inside.extend(mounts.into_iter().map(Inside::Put));
        }
        // Further mounts and devices may be placed in it first.
        MountSource::New { fstype, flags, .. }
            if fstype.as_bytes() == b"tmpfs" && flags & libc::MS_RDONLY != 0 =>
        {
            let mut writable = mount.clone();
            if let MountSource::New { flags, .. } = &mut writable.source {
                *flags &= !libc::MS_RDONLY;
            }
            inside.push(Inside::Put(Fixture::Mount(writable)));
        }
        _ => inside.push(Inside::Put(fixture.clone())),
    }
}

/// See [`expand`]: those that are read-only at last.
fn read_only_at_last(spec: &Spec, facts: &Facts) -> impl Iterator<Item = Inside> {
    let one_mount = facts.cgroups.v1.is_empty();
    spec.fixtures.iter().filter_map(move |fixture| {
        let Fixture::Mount(mount) = fixture else { return None };
        let readonly = match &mount.source {
            MountSource::New { fstype, flags, .. } => {
                fstype.as_bytes() == b"tmpfs" && flags & libc::MS_RDONLY != 0
            }
            MountSource::Cgroup => {
                !one_mount && mount.attributes.set & libc::MOUNT_ATTR_RDONLY != 0
            }
            MountSource::Bind { .. } => false,
        };
        readonly.then(|| Inside::ReadonlyMount(mount.destination.clone()))
    })
}

/// Hooks, masks and the way into the root.
fn seal_steps(spec: &Spec, facts: &Facts, options: &Options, inside: &mut Vec<Inside>) {
    if !spec.net_devices.is_empty() {
        inside.push(Inside::NetDevices(spec.net_devices.clone()));
    }
    if !spec.hooks.prestart.is_empty() || !spec.hooks.create_runtime.is_empty() {
        inside.push(Inside::RuntimeHooks);
    }
    if !spec.hooks.create_container.is_empty() {
        inside.push(Inside::ContainerHooks(spec.hooks.create_container.clone()));
    }
    for (path, value) in &spec.sysctl {
        inside.push(Inside::Sysctl { path: path.clone(), value: value.clone() });
    }
    inside.extend(read_only_at_last(spec, facts));
    inside.extend(spec.readonly_paths.iter().cloned().map(Inside::ReadonlyPath));
    inside.extend(spec.masked_paths.iter().cloned().map(Inside::MaskedPath));
    if let Some(score) = spec.process.as_ref().and_then(|p| p.oom_score_adj) {
        inside.push(Inside::OomScore(score));
    }
    if matches!(spec.root, Root::Directory { readonly: true, .. }) {
        inside.push(Inside::ReadonlyRoot);
    }
    inside.push(if options.no_pivot { Inside::Chroot } else { Inside::PivotRoot });
    let kind = spec.propagation & !libc::MS_REC;
    if kind != 0 && kind != libc::MS_SLAVE && kind != libc::MS_PRIVATE {
        inside.push(Inside::RootPropagation(spec.propagation));
    }
    if spec.namespaces.mount == Namespace::Shared {
        inside.push(Inside::SharedMounts);
    }
}
