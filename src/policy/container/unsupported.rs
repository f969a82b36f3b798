//! What the specification has and denovo does not do yet: refused by name, so
//! that nothing is silently less than was asked. Empty and zero values ask
//! for nothing.

use oci_spec::runtime::{
    Linux, LinuxBlockIo, LinuxCpu, LinuxIntelRdt, LinuxMemory, LinuxMemoryPolicy, LinuxNetwork,
    LinuxPersonality, LinuxPersonalityDomain, LinuxResources, MemoryPolicyModeType, Process, Spec,
};

use super::findings::Findings;

pub(super) fn check(config: &Spec, linux: &Linux, found: &mut Findings) {
    refuse(
        found,
        "",
        &[
            ("solaris", config.solaris().is_some()),
            ("windows", config.windows().is_some()),
            ("vm", config.vm().is_some()),
            ("zos", config.zos().is_some()),
        ],
    );
    if let Some(asked) = config.process() {
        process(asked, found);
    }
    self::linux(linux, found);
}

fn refuse(found: &mut Findings, parent: &str, fields: &[(&str, bool)]) {
    for (field, _) in fields.iter().filter(|(_, asked)| *asked) {
        found.unsupported(format_args!("{parent}{field}"));
    }
}

fn filled(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

fn some<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn nonzero<T: Default + PartialEq>(number: Option<T>) -> bool {
    number.is_some_and(|number| number != T::default())
}

pub(super) fn process(asked: &Process, found: &mut Findings) {
    let affinity = asked.exec_cpu_affinity().as_ref();
    refuse(
        found,
        "process.",
        &[
            ("commandLine", filled(asked.command_line())),
            ("apparmorProfile", filled(asked.apparmor_profile())),
            ("selinuxLabel", filled(asked.selinux_label())),
            ("ioPriority", asked.io_priority().is_some()),
            ("scheduler", asked.scheduler().is_some()),
            ("execCPUAffinity.initial", affinity.is_some_and(|a| filled(a.initial()))),
            ("execCPUAffinity.final", affinity.is_some_and(|a| filled(a.cpu_affinity_final()))),
            ("user.username", filled(asked.user().username())),
        ],
    );
}

fn linux(linux: &Linux, found: &mut Findings) {
    refuse(
        found,
        "linux.",
        &[
            ("netDevices", linux.net_devices().as_ref().is_some_and(|d| !d.is_empty())),
            ("mountLabel", filled(linux.mount_label())),
            ("intelRdt", linux.intel_rdt().as_ref().is_some_and(resource_control)),
            ("memoryPolicy", linux.memory_policy().as_ref().is_some_and(memory_policy)),
            ("personality", linux.personality().as_ref().is_some_and(personality)),
        ],
    );
    if let Some(asked) = linux.resources() {
        resources(asked, found);
    }
}

#[allow(deprecated)]
fn resource_control(asked: &LinuxIntelRdt) -> bool {
    filled(asked.clos_id())
        || some(asked.schemata())
        || filled(asked.l3_cache_schema())
        || filled(asked.mem_bw_schema())
        || asked.enable_cmt().unwrap_or(false)
        || asked.enable_mbm().unwrap_or(false)
        || asked.enable_monitoring().unwrap_or(false)
}

fn memory_policy(asked: &LinuxMemoryPolicy) -> bool {
    let default = asked.mode() == MemoryPolicyModeType::MpolDefault;
    !default || filled(asked.nodes()) || some(asked.flags())
}

/// `LINUX` is what every process has anyway.
fn personality(asked: &LinuxPersonality) -> bool {
    asked.domain() != LinuxPersonalityDomain::PerLinux || some(asked.flags())
}

fn resources(asked: &LinuxResources, found: &mut Findings) {
    let rdma = asked.rdma().as_ref().is_some_and(|devices| !devices.is_empty());
    refuse(found, "linux.resources.", &[("rdma", rdma)]);
    if let Some(asked) = asked.memory() {
        memory(asked, found);
    }
    if let Some(asked) = asked.cpu() {
        cpu(asked, found);
    }
    if let Some(asked) = asked.block_io() {
        block_io(asked, found);
    }
    if let Some(asked) = asked.network() {
        network(asked, found);
    }
}

/// `useHierarchy` is how every kernel since 5.11 works, and
/// `checkBeforeUpdate` has nothing to check in a new group: both may stand.
#[allow(deprecated)]
fn memory(asked: &LinuxMemory, found: &mut Findings) {
    let fields = [("kernel", nonzero(asked.kernel())), ("kernelTCP", nonzero(asked.kernel_tcp()))];
    refuse(found, "linux.resources.memory.", &fields);
}

fn cpu(asked: &LinuxCpu, found: &mut Findings) {
    refuse(
        found,
        "linux.resources.cpu.",
        &[
            ("burst", nonzero(asked.burst())),
            ("idle", nonzero(asked.idle())),
            ("realtimeRuntime", nonzero(asked.realtime_runtime())),
            ("realtimePeriod", nonzero(asked.realtime_period())),
        ],
    );
}

fn block_io(asked: &LinuxBlockIo, found: &mut Findings) {
    refuse(
        found,
        "linux.resources.blockIO.",
        &[
            ("weight", nonzero(asked.weight())),
            ("leafWeight", nonzero(asked.leaf_weight())),
            ("weightDevice", some(asked.weight_device())),
            ("throttleReadBpsDevice", some(asked.throttle_read_bps_device())),
            ("throttleWriteBpsDevice", some(asked.throttle_write_bps_device())),
            ("throttleReadIOPSDevice", some(asked.throttle_read_iops_device())),
            ("throttleWriteIOPSDevice", some(asked.throttle_write_iops_device())),
        ],
    );
}

fn network(asked: &LinuxNetwork, found: &mut Findings) {
    let fields = [("classID", nonzero(asked.class_id())), ("priorities", some(asked.priorities()))];
    refuse(found, "linux.resources.network.", &fields);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, problems};
    use serde_json::{Value, json};

    /// Wraps `value` into the objects on the way to `path`.
    fn at(path: &str, value: Value) -> Value {
        path.rsplit('.').fold(value, |value, key| json!({ key: value }))
    }

    #[test]
    fn each_is_refused_by_its_name() {
        let throttle = json!([{"major": 8, "minor": 0, "rate": 1}]);
        for (path, value) in [
            ("vm", json!({"kernel": {"path": "/k"}})),
            ("windows", json!({"layerFolders": []})),
            ("process.commandLine", json!("x")),
            ("process.apparmorProfile", json!("x")),
            ("process.selinuxLabel", json!("x")),
            ("process.ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 1})),
            ("process.scheduler", json!({"policy": "SCHED_BATCH"})),
            ("process.execCPUAffinity.initial", json!("0-1")),
            ("process.execCPUAffinity.final", json!("0")),
            ("process.user.username", json!("x")),
            ("linux.netDevices", json!({"eth0": {"name": "e"}})),
            ("linux.mountLabel", json!("x")),
            ("linux.intelRdt", json!({"closID": "x"})),
            ("linux.memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"})),
            ("linux.personality", json!({"domain": "LINUX32"})),
            ("linux.resources.rdma", json!({"mlx5_0": {"hcaHandles": 1}})),
            ("linux.resources.memory.kernel", json!(1)),
            ("linux.resources.memory.kernelTCP", json!(1)),
            ("linux.resources.cpu.burst", json!(1)),
            ("linux.resources.cpu.idle", json!(1)),
            ("linux.resources.cpu.realtimeRuntime", json!(1)),
            ("linux.resources.cpu.realtimePeriod", json!(1)),
            ("linux.resources.blockIO.weight", json!(1)),
            ("linux.resources.blockIO.leafWeight", json!(1)),
            ("linux.resources.blockIO.weightDevice", json!([{"major": 8, "minor": 0}])),
            ("linux.resources.blockIO.throttleReadBpsDevice", throttle.clone()),
            ("linux.resources.blockIO.throttleWriteBpsDevice", throttle.clone()),
            ("linux.resources.blockIO.throttleReadIOPSDevice", throttle.clone()),
            ("linux.resources.blockIO.throttleWriteIOPSDevice", throttle),
            ("linux.resources.network.classID", json!(1)),
            ("linux.resources.network.priorities", json!([{"name": "e", "priority": 1}])),
        ] {
            let found = problems(at(path, value), &facts());
            assert_eq!(found, [format!("{path}: not supported yet by denovo")]);
        }
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        for (path, value) in [
            ("process.apparmorProfile", json!("")),
            ("process.execCPUAffinity", json!({})),
            ("linux.netDevices", json!({})),
            ("linux.intelRdt", json!({})),
            ("linux.memoryPolicy", json!({"mode": "MPOL_DEFAULT"})),
            ("linux.personality", json!({"domain": "LINUX"})),
            ("linux.resources.memory", json!({"kernel": 0, "useHierarchy": true})),
            ("linux.resources.cpu", json!({"idle": 0, "burst": 0})),
            ("linux.resources.blockIO", json!({"weight": 0, "weightDevice": []})),
            ("linux.resources.network", json!({"classID": 0, "priorities": []})),
        ] {
            assert_eq!(problems(at(path, value), &facts()), Vec::<String>::new(), "{path}");
        }
    }
}
