//! `linux.resources` of devices and networks (OCI config-linux.md, "Block
//! IO", "Network", "RDMA").

use oci_spec::runtime::{LinuxBlockIo, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice};

use super::findings::Findings;
use super::net_devices::is_name;
use crate::policy::limits::{
    BlockDevice, BlockIo, DeviceWeight, Network, Rdma, Throttle, Throttled,
};

/// What the specification allows for a weight.
const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

pub(super) fn block_io(resources: &LinuxResources, found: &mut Findings) -> BlockIo {
    let field = "linux.resources.blockIO";
    let Some(asked) = resources.block_io() else { return BlockIo::default() };
    let devices = asked.weight_device().iter().flatten().enumerate();
    let devices = devices
        .filter_map(|(i, d)| device_weight(&format!("{field}.weightDevice[{i}]"), d, found))
        .collect();
    BlockIo {
        weight: weight(&format!("{field}.weight"), asked.weight(), found),
        leaf_weight: weight(&format!("{field}.leafWeight"), asked.leaf_weight(), found),
        devices,
        throttles: throttles(field, asked, found),
    }
}

/// 0 means that nothing was asked, as in runc.
fn weight(field: &str, asked: Option<u16>, found: &mut Findings) -> Option<u16> {
    let weight = asked.filter(|weight| *weight != 0)?;
    if !WEIGHTS.contains(&weight) {
        found.refuse(field, format!("{weight} is not within 10 to 1000"));
    }
    Some(weight)
}

fn device_weight(
    field: &str,
    asked: &LinuxWeightDevice,
    found: &mut Findings,
) -> Option<DeviceWeight> {
    let both = DeviceWeight {
        device: device(field, asked.major(), asked.minor(), found)?,
        weight: weight(&format!("{field}.weight"), asked.weight(), found),
        leaf_weight: weight(&format!("{field}.leafWeight"), asked.leaf_weight(), found),
    };
    if both.weight.is_none() && both.leaf_weight.is_none() {
        // OCI: one of the two MUST be given.
        found.refuse(field, "has neither weight nor leafWeight");
    }
    Some(both)
}

/// The kernel has 12 bits for a major and 20 for a minor number (makedev(3)).
fn device(field: &str, major: i64, minor: i64, found: &mut Findings) -> Option<BlockDevice> {
    let number = |value: i64, bits: u32| u32::try_from(value).ok().filter(|n| n >> bits == 0);
    match (number(major, 12), number(minor, 20)) {
        (Some(major), Some(minor)) => Some(BlockDevice { major, minor }),
        _ => {
            found.refuse(field, format!("{major}:{minor} are no numbers of a device"));
            None
        }
    }
}

fn throttles(field: &str, asked: &LinuxBlockIo, found: &mut Findings) -> Vec<Throttle> {
    let lists: [(&str, Throttled, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("throttleReadBpsDevice", Throttled::ReadBytes, asked.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", Throttled::WriteBytes, asked.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", Throttled::ReadOperations, asked.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", Throttled::WriteOperations, asked.throttle_write_iops_device()),
    ];
    let mut throttles = Vec::new();
    for (name, what, list) in lists {
        for (index, asked) in list.iter().flatten().enumerate() {
            let field = format!("{field}.{name}[{index}]");
            if let Some(device) = device(&field, asked.major(), asked.minor(), found) {
                throttles.push(Throttle { what, device, rate: asked.rate() });
            }
        }
    }
    throttles
}

pub(super) fn network(resources: &LinuxResources, found: &mut Findings) -> Network {
    let Some(asked) = resources.network() else { return Network::default() };
    let mut priorities: Vec<(String, u32)> = Vec::new();
    for (index, asked) in asked.priorities().iter().flatten().enumerate() {
        let field = format!("linux.resources.network.priorities[{index}].name");
        let name = asked.name();
        if !is_name(name) {
            found.refuse(field, format!("{name:?} is no name of a network interface"));
        } else if priorities.iter().any(|(known, _)| known == name) {
            found.refuse(field, format!("{name} is listed twice"));
        }
        priorities.push((name.clone(), asked.priority()));
    }
    Network { class_id: asked.class_id().filter(|id| *id != 0), priorities }
}

/// In the order of the names.
pub(super) fn rdma(resources: &LinuxResources, found: &mut Findings) -> Vec<Rdma> {
    let mut list: Vec<Rdma> = Vec::new();
    for (name, asked) in resources.rdma().iter().flatten() {
        let field = format!("linux.resources.rdma.{name}");
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '\0') {
            found.refuse(&field, "is no name of an RDMA device");
        }
        let (handles, objects) = (asked.hca_handles(), asked.hca_objects());
        if handles.is_none() && objects.is_none() {
            // OCI: at least one MUST be given.
            found.refuse(&field, "has neither hcaHandles nor hcaObjects");
        }
        list.push(Rdma { device: name.clone(), handles, objects });
    }
    list.sort_unstable_by(|a, b| a.device.cmp(&b.device));
    list
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts};
    use super::*;
    use serde_json::{Value, json};

    fn with(resources: Value) -> Value {
        json!({"linux": {"resources": resources}})
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let io = |io: Value| with(json!({"blockIO": io}));
        let field = "linux.resources.blockIO";
        let bad = json!([{"major": 8, "minor": -1, "rate": 1}]);
        let net = |list: Value| with(json!({"network": {"priorities": list}}));
        assert_problems(&[
            (io(json!({"weight": 9})), &["linux.resources.blockIO.weight: 9 is not within"]),
            (io(json!({"leafWeight": 1001})), &["linux.resources.blockIO.leafWeight: "]),
            (
                io(json!({"weightDevice": [{"major": 8, "minor": 0}, {"major": 4096, "minor": 0,
                    "weight": 10}, {"major": 8, "minor": 0, "weight": 5}]})),
                &[
                    &format!("{field}.weightDevice[0]: has neither"),
                    &format!("{field}.weightDevice[1]: 4096:0 are no"),
                    &format!("{field}.weightDevice[2].weight: 5"),
                ],
            ),
            (io(json!({"throttleReadBpsDevice": bad})), &["linux.resources.blockIO.throttleRead"]),
            (io(json!({"throttleWriteIOPSDevice": bad})), &["linux.resources.blockIO.throttleW"]),
            (
                net(json!([{"name": "a/b", "priority": 1}, {"name": "e", "priority": 1},
                    {"name": "e", "priority": 2}])),
                &[
                    "linux.resources.network.priorities[0].name: \"a/b\"",
                    "linux.resources.network.priorities[2].name: e is listed twice",
                ],
            ),
            (with(json!({"rdma": {"a b": {"hcaHandles": 1}}})), &["linux.resources.rdma.a b: "]),
            (with(json!({"rdma": {"m": {}}})), &["linux.resources.rdma.m: has neither"]),
        ]);
    }

    #[test]
    fn values_arrive() {
        let at = |rate: u64| json!([{"major": 8, "minor": 16, "rate": rate}]);
        let resources = json!({
            "blockIO": {"weight": 500, "leafWeight": 0,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 10, "leafWeight": 1000}],
                "throttleReadBpsDevice": at(1), "throttleWriteBpsDevice": at(2),
                "throttleReadIOPSDevice": at(3), "throttleWriteIOPSDevice": at(4)},
            "network": {"classID": 1_048_577, "priorities": [{"name": "eth0", "priority": 5}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3}, "hfi1_0": {"hcaObjects": 0}}
        });
        let limits = checked(with(resources), &facts()).spec.cgroup.limits;
        let io = limits.block_io;
        assert_eq!((io.weight, io.leaf_weight), (Some(500), None));
        let device = BlockDevice { major: 8, minor: 0 };
        let weights = DeviceWeight { device, weight: Some(10), leaf_weight: Some(1000) };
        assert_eq!(io.devices, [weights]);
        let rates: Vec<_> = io.throttles.iter().map(|t| (t.what, t.rate)).collect();
        use Throttled::*;
        let all = [(ReadBytes, 1), (WriteBytes, 2), (ReadOperations, 3), (WriteOperations, 4)];
        assert_eq!(rates, all);
        assert!(io.throttles.iter().all(|t| t.device.to_string() == "8:16"));
        assert_eq!(limits.network.class_id, Some(1_048_577));
        assert_eq!(limits.network.priorities, [("eth0".to_owned(), 5)]);
        let names: Vec<&str> = limits.rdma.iter().map(|r| r.device.as_str()).collect();
        assert_eq!(names, ["hfi1_0", "mlx5_1"]);
        assert_eq!((limits.rdma[0].objects, limits.rdma[0].handles), (Some(0), None));
    }

    #[test]
    fn zero_and_empty_ask_for_nothing() {
        let resources = json!({"blockIO": {"weight": 0, "weightDevice": []},
            "network": {"classID": 0, "priorities": []}, "rdma": {}});
        let mut limits = checked(with(resources), &facts()).spec.cgroup.limits;
        limits.devices.clear();
        assert!(limits.is_empty(), "{limits:?}");
    }
}
