//! From limits to settings: which hierarchy takes each, and in which terms.

use super::convert::{swap_alone, weight_of_shares};
use super::{CgroupPlan, CgroupStep, Setting, Version, devices};
use crate::host::{Cgroups, Facts};
use crate::policy::limits::{DeviceRule, Limits};
use crate::problem::{Problem, Problems};

/// Settings, each with the controller whose group takes it.
#[derive(Default)]
pub(super) struct Settings {
    list: Vec<(String, Version, Setting)>,
    /// Controllers that the v2 hierarchy has to give.
    pub needed_v2: Vec<String>,
}

/// Sorts limits into settings and problems.
pub(super) struct Wanted<'a> {
    /// Hierarchies that can be used.
    usable: &'a Cgroups,
    /// All that the node has.
    node: &'a Cgroups,
    /// What the v2 group can get.
    available: &'a [String],
    settings: Settings,
    wrong: Problems,
    missing: Problems,
}

/// Looks every limit up in the hierarchies that can be used; `node` has those
/// too that cannot.
pub(super) fn wanted<'a>(
    limits: &Limits,
    usable: &'a Cgroups,
    available: &'a [String],
    node: &'a Cgroups,
) -> Wanted<'a> {
    let mut wanted = Wanted {
        usable,
        node,
        available,
        settings: Settings::default(),
        wrong: Problems::new(),
        missing: Problems::new(),
    };
    wanted.cpu(limits);
    wanted.memory(limits);
    if let Some(count) = limits.pids {
        wanted.add("pids", Setting::PidsMax { count });
    }
    for (size, bytes) in &limits.hugepages {
        let (size, bytes) = (size.clone(), *bytes);
        wanted.add("hugetlb", Setting::HugetlbMax { size: size.clone(), bytes });
        if wanted.version("hugetlb").is_some() {
            wanted.add("hugetlb", Setting::HugetlbReserved { size, bytes });
        }
    }
    wanted.block_io(limits);
    wanted.network(limits);
    for rdma in &limits.rdma {
        wanted.add("rdma", Setting::RdmaMax(rdma.clone()));
    }
    for (name, value) in &limits.unified {
        wanted.unified(name, value);
    }
    wanted
}

impl Wanted<'_> {
    /// Settings, what is wrong anywhere, and what this node lacks.
    pub fn into_parts(self) -> (Settings, Problems, Problems) {
        (self.settings, self.wrong, self.missing)
    }

    /// Which hierarchy has the controller; v1 first, since a controller that
    /// is bound to v1 is not in v2.
    fn version(&self, controller: &str) -> Option<Version> {
        if self.usable.v1_with(controller).is_some() {
            Some(Version::V1)
        } else if self.usable.v2.is_some() && self.available.iter().any(|c| c == controller) {
            Some(Version::V2)
        } else {
            None
        }
    }

    fn add(&mut self, controller: &str, setting: Setting) {
        match self.version(controller) {
            Some(version) => {
                if version == Version::V2
                    && !self.settings.needed_v2.iter().any(|c| c == controller)
                {
                    self.settings.needed_v2.push(controller.to_owned());
                }
                self.settings.list.push((controller.to_owned(), version, setting));
            }
            None => {
                let problem = lacking(controller, setting.name(), self.node);
                self.missing.push(problem);
            }
        }
    }

    fn cpu(&mut self, limits: &Limits) {
        let cpu = &limits.cpu;
        // 0 means unset to every runtime.
        if let Some(shares) = cpu.shares.filter(|s| *s > 0) {
            let v2 = self.version("cpu") == Some(Version::V2);
            let weight = if v2 { weight_of_shares(shares) } else { shares.clamp(2, 262_144) };
            self.add("cpu", Setting::CpuWeight { weight });
        }
        let quota = cpu.quota.filter(|q| *q != 0);
        let period = cpu.period.filter(|p| *p != 0);
        if quota.is_some() || period.is_some() {
            let quota = quota.map(|quota| quota.max(-1));
            self.add("cpu", Setting::CpuMax { quota, period });
        }
        if let Some(us) = cpu.burst {
            self.add("cpu", Setting::CpuBurst { us });
        }
        if cpu.realtime_runtime.is_some() || cpu.realtime_period.is_some() {
            let (runtime, period) = (cpu.realtime_runtime, cpu.realtime_period);
            self.only_v1("cpu", Setting::Realtime { runtime, period });
        }
        // Last: an idle group takes no shares.
        if let Some(idle) = cpu.idle {
            self.add("cpu", Setting::CpuIdle { idle });
        }
        if let Some(list) = cpu.cpus.clone().filter(|l| !l.is_empty()) {
            self.add("cpuset", Setting::Cpus { list });
        }
        if let Some(list) = cpu.mems.clone().filter(|l| !l.is_empty()) {
            self.add("cpuset", Setting::Mems { list });
        }
    }

    fn memory(&mut self, limits: &Limits) {
        let memory = &limits.memory;
        let v2 = self.version("memory") == Some(Version::V2);
        if let (Some(bytes), true) = (memory.limit, memory.check_before_update)
            && bytes > 0
        {
            self.add("memory", Setting::MemoryFits { bytes });
        }
        if let Some(bytes) = memory.limit {
            self.add("memory", Setting::MemoryMax { bytes: bytes.max(-1) });
        }
        if v2 {
            self.swap_v2(limits);
        } else {
            self.swap_v1(limits);
        }
        if let Some(bytes) = memory.reservation {
            self.add("memory", Setting::MemoryLow { bytes: bytes.max(-1) });
        }
        if let Some(percent) = memory.swappiness {
            self.only_v1("memory", Setting::Swappiness { percent });
        }
        if memory.disable_oom_killer == Some(true) {
            self.only_v1("memory", Setting::OomKillDisable);
        }
        if let Some(bytes) = memory.kernel {
            self.only_v1("memory", Setting::KernelMemoryMax { bytes });
        }
        if let Some(bytes) = memory.kernel_tcp {
            self.only_v1("memory", Setting::TcpMemoryMax { bytes });
        }
    }

    fn block_io(&mut self, limits: &Limits) {
        let io = &limits.block_io;
        let mut weights = vec![(None, io.weight, io.leaf_weight)];
        weights.extend(io.devices.iter().map(|d| (Some(d.device), d.weight, d.leaf_weight)));
        for (device, weight, leaf_weight) in weights {
            if let Some(weight) = weight {
                self.add(self.io(), Setting::IoWeight { weight, device });
            }
            if let Some(weight) = leaf_weight {
                self.only_v1(self.io(), Setting::IoLeafWeight { weight, device });
            }
        }
        for throttle in &io.throttles {
            self.add(self.io(), Setting::IoMax(*throttle));
        }
    }

    /// The controller of block devices has a name of its own in v1.
    fn io(&self) -> &'static str {
        if self.version("blkio").is_none() && self.node.v2_has("io") { "io" } else { "blkio" }
    }

    /// v2 has no such controllers: packets are marked by a program or by
    /// netfilter there (kernel document cgroup-v2, "Deprecated v1 Core
    /// Features").
    fn network(&mut self, limits: &Limits) {
        let network = &limits.network;
        if let Some(id) = network.class_id {
            self.add("net_cls", Setting::NetworkClass { id });
        }
        for (interface, priority) in &network.priorities {
            let interface = interface.clone();
            self.add("net_prio", Setting::NetworkPriority { interface, priority: *priority });
        }
    }

    fn swap_v1(&mut self, limits: &Limits) {
        let memory = &limits.memory;
        match (memory.swap, memory.limit) {
            (Some(swap), Some(limit)) if swap >= 0 && swap < limit => {
                self.wrong.extend(swap_alone(swap, Some(limit)).err().map(bad_swap));
            }
            (Some(bytes), _) => {
                self.add("memory", Setting::SwapMax { bytes: bytes.max(-1), if_present: false });
            }
            // A job over its limit is to be told so, not to crawl in swap.
            (None, Some(bytes)) if bytes >= 0 && self.version("memory").is_some() => {
                self.add("memory", Setting::SwapMax { bytes, if_present: true });
            }
            (None, _) => {}
        }
    }

    fn swap_v2(&mut self, limits: &Limits) {
        let Some(swap) = limits.memory.swap else { return };
        match swap_alone(swap, limits.memory.limit) {
            Ok(bytes) => self.add("memory", Setting::SwapMax { bytes, if_present: bytes <= 0 }),
            Err(error) => self.wrong.push(bad_swap(error)),
        }
    }

    fn only_v1(&mut self, controller: &str, setting: Setting) {
        if self.version(controller) == Some(Version::V2) {
            self.missing.push(
                Problem::user(format!("{}: cgroup v2 has no such setting", setting.name()))
                    .hint(instead(&setting)),
            );
        } else {
            self.add(controller, setting);
        }
    }

    fn unified(&mut self, name: &str, value: &str) {
        let controller = name.split_once('.').map_or("", |(controller, _)| controller);
        if controller.is_empty() || name.contains(['/', '\0']) {
            self.wrong.push(Problem::user(format!(
                "unified: {name:?} is no name of a cgroup v2 file (such as memory.high)"
            )));
            return;
        }
        let setting = Setting::File { name: name.to_owned(), value: value.to_owned() };
        // cgroup.* files belong to the group itself.
        if controller == "cgroup" && self.usable.v2.is_some() {
            self.settings.list.push((controller.to_owned(), Version::V2, setting));
        } else if self.version(controller) == Some(Version::V2) {
            self.add(controller, setting);
        } else {
            self.missing.push(
                Problem::user(format!(
                    "unified: {name} cannot be set, this node has no `{controller}` on cgroup v2"
                ))
                .hint("use the limits that both versions know (linux.resources.memory, cpu, pids)"),
            );
        }
    }
}

/// What there is on cgroup v2 in place of a setting that it lacks.
fn instead(setting: &Setting) -> &'static str {
    match setting {
        Setting::KernelMemoryMax { .. } | Setting::TcpMemoryMax { .. } => {
            "leave it out on this node: linux.resources.memory.limit counts the kernel's memory too"
        }
        Setting::IoLeafWeight { .. } => {
            "leave it out on this node: no kernel since 5.0 has it; weight is what is left"
        }
        _ => "leave it out on this node",
    }
}

fn bad_swap(error: super::convert::BadSwap) -> Problem {
    Problem::user(error.to_string())
        .hint("give a memory limit, and a swap limit of at least as much")
}

/// The node has no such controller for us: where it is, and how to get it.
fn lacking(controller: &str, limit: &str, node: &Cgroups) -> Problem {
    let what = format!("{limit}: no control group on this node has the controller `{controller}`");
    if node.v1_with(controller).is_some() {
        return Problem::site(format!("{what} for this user: cgroup v1 is root's alone"))
            .hint("run denovo as root, or leave the limit out");
    }
    if node.v2_has(controller) {
        return Problem::site(format!("{what} for this user: it is not delegated")).hint(format!(
            "as root, for user@.service: systemctl edit user@.service, and add \
             [Service] Delegate={controller}; or run denovo as root"
        ));
    }
    let hint = match controller {
        "net_cls" | "net_prio" => format!(
            "cgroup v2 has none; as root, if the kernel has it: mount -t cgroup -o {controller} \
             none /sys/fs/cgroup/{controller}; or leave the limit out"
        ),
        "memory" => "boot the kernel with cgroup_enable=memory, or leave the limit out".to_owned(),
        _ => format!(
            "see /proc/cgroups; as root, mount it: mount -t cgroup -o {controller} none \
             /sys/fs/cgroup/{controller}; or leave the limit out"
        ),
    };
    Problem::site(what).hint(hint)
}

/// Adds a step for each setting, in the group that takes it.
pub(super) fn steps(plan: &mut CgroupPlan, settings: Settings) {
    for (controller, version, setting) in settings.list {
        let takes = |at: &&super::Group| {
            at.at.version == version
                && (controller == "cgroup" || at.controllers.contains(&controller))
        };
        if let Some(group) = plan.groups.iter().find(takes) {
            let at = group.at.clone();
            plan.steps.push(CgroupStep::Set { at, setting });
        }
    }
}

/// Adds the device list: the v1 controller's where there is one, else a
/// program on the v2 group, which only a caller with power over BPF can load
/// (kernel document cgroup-v2, "Device controller").
pub(super) fn device_steps(
    plan: &mut CgroupPlan,
    rules: &[DeviceRule],
    facts: &Facts,
    wrong: &mut Problems,
    missing: &mut Problems,
) {
    const CAP_SYS_ADMIN: u8 = 21;
    if rules.is_empty() {
        return;
    }
    if let Some(group) = plan.with("devices") {
        match devices::for_v1(rules) {
            Ok(rules) => {
                plan.steps.push(CgroupStep::Devices { at: group.at.clone(), rules });
            }
            Err(error) => wrong.push(
                Problem::user(error.to_string())
                    .hint("name the devices one by one instead of the wider rule"),
            ),
        }
    } else if !facts.caller.has(CAP_SYS_ADMIN) {
        missing.push(
            Problem::user("device list: only root can set one on this node")
                .hint("leave linux.resources.devices out, or run denovo as root"),
        );
    } else if let Some(group) = plan.v2() {
        plan.steps.push(CgroupStep::Devices { at: group.at.clone(), rules: rules.to_vec() });
    } else {
        missing.push(
            Problem::site("device list: no control group on this node has `devices`")
                .hint("as root: mount -t cgroup2 none /sys/fs/cgroup"),
        );
    }
}
