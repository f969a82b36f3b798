//! `linux.resources` beyond the common ones: set where this node has them,
//! refused by the name of the field where it has not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{Case, skip, v1_directory};

/// Directory of a container's group in cgroup v2, where it has the controllers.
fn v2_directory(controllers: &[&str]) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut lines = mounts.lines().filter(|line| line.contains(" - cgroup2 "));
    let mount = PathBuf::from(lines.next()?.split(' ').nth(4)?);
    let has = fs::read_to_string(mount.join("cgroup.controllers")).unwrap();
    controllers.iter().all(|c| has.split_whitespace().any(|h| h == *c)).then_some(mount)
}

fn read(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).unwrap().trim().to_owned()
}

fn set(config: &mut Value, resources: &Value) {
    for (name, value) in resources.as_object().unwrap() {
        config["linux"]["resources"][name] = value.clone();
    }
}

/// Starts a container with `resources` and compares files of its groups: all
/// that is told apart by a line is found in one.
fn assert_set(case: &Case, resources: &Value, files: &[(&Path, &str, &str)]) {
    let (id, _) = case.sleeper("a", |config| set(config, resources));
    for (mount, file, expected) in files {
        let text = read(&mount.join(format!("denovo-{id}")), file);
        assert!(text == *expected || text.lines().any(|l| l == *expected), "{file}: {text}");
    }
    case.delete(&id);
}

/// Major and minor number of the disk that the tests' directory is on.
fn disk() -> Option<(u64, u64)> {
    let number = fs::metadata(std::env::temp_dir()).unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    // The kernel limits whole disks only.
    let whole = fs::exists(format!("/sys/dev/block/{major}:{minor}/queue")).unwrap();
    whole.then_some((major, minor))
}

#[test]
fn cpu_time_beyond_a_quota_on_cgroup_v1() {
    let test = "cpu_time_beyond_a_quota_on_cgroup_v1";
    let Some(case) = Case::root(test) else { return };
    let Some(cpu) = v1_directory("cpu") else { return skip(test, "no cpu on cgroup v1") };
    let resources = json!({"cpu": {"quota": 20_000, "period": 40_000, "burst": 10_000}});
    assert_set(
        &case,
        &resources,
        &[(&cpu, "cpu.cfs_burst_us", "10000"), (&cpu, "cpu.cfs_quota_us", "20000")],
    );
    assert_set(&case, &json!({"cpu": {"shares": 100, "idle": 1}}), &[(&cpu, "cpu.idle", "1")]);
    assert_set(&case, &json!({"cpu": {"idle": 0, "burst": 0}}), &[(&cpu, "cpu.idle", "0")]);
    case.run("true", |c| set(c, &json!({"cpu": {"quota": 20_000, "burst": 90_000}})))
        .refused(&["linux.resources.cpu.burst", "cpu.cfs_burst_us"]);
}

#[test]
fn realtime_scheduling_on_cgroup_v1() {
    let test = "realtime_scheduling_on_cgroup_v1";
    let Some(case) = Case::root(test) else { return };
    let resources = json!({"cpu": {"realtimeRuntime": 5000, "realtimePeriod": 500_000}});
    let cpu = v1_directory("cpu").filter(|d| d.join("cpu.rt_runtime_us").exists());
    let Some(cpu) = cpu else {
        case.run("true", |c| set(c, &resources)).refused(&["linux.resources.cpu.realtimeRuntime"]);
        return skip(test, "this kernel does not divide realtime scheduling among groups of v1");
    };
    let files = [(&*cpu, "cpu.rt_runtime_us", "5000"), (&*cpu, "cpu.rt_period_us", "500000")];
    assert_set(&case, &resources, &files);
}

#[test]
fn memory_of_the_kernel_on_cgroup_v1() {
    let test = "memory_of_the_kernel_on_cgroup_v1";
    let Some(case) = Case::root(test) else { return };
    let Some(memory) = v1_directory("memory") else { return skip(test, "no memory on cgroup v1") };
    let resources = json!({"memory": {"limit": 33_554_432, "kernelTCP": 1_048_576,
        "swappiness": 7, "reservation": 16_777_216, "disableOOMKiller": true,
        "checkBeforeUpdate": true}});
    assert_set(
        &case,
        &resources,
        &[
            (&memory, "memory.kmem.tcp.limit_in_bytes", "1048576"),
            (&memory, "memory.swappiness", "7"),
            (&memory, "memory.soft_limit_in_bytes", "16777216"),
            (&memory, "memory.oom_control", "oom_kill_disable 1"),
        ],
    );
    // Since Linux 5.16 it cannot be limited apart, and that is said.
    let ran = case.run("true", |c| set(c, &json!({"memory": {"kernel": 1_048_576}})));
    if ran.code() != 0 {
        ran.refused(&["linux.resources.memory.kernel", "memory.kmem.limit_in_bytes"]);
    }
}

#[test]
fn block_devices_on_cgroup_v1() {
    let test = "block_devices_on_cgroup_v1";
    let Some(case) = Case::root(test) else { return };
    let Some(blkio) = v1_directory("blkio") else { return skip(test, "no blkio on cgroup v1") };
    let Some((major, minor)) = disk() else { return skip(test, "no disk of its own") };
    let at = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let resources = json!({"blockIO": {
        "throttleReadBpsDevice": at(1_048_576), "throttleWriteBpsDevice": at(2_097_152),
        "throttleReadIOPSDevice": at(100), "throttleWriteIOPSDevice": at(200)}});
    let line = |rate: u64| format!("{major}:{minor} {rate}");
    assert_set(
        &case,
        &resources,
        &[
            (&blkio, "blkio.throttle.read_bps_device", &line(1_048_576)),
            (&blkio, "blkio.throttle.write_bps_device", &line(2_097_152)),
            (&blkio, "blkio.throttle.read_iops_device", &line(100)),
            (&blkio, "blkio.throttle.write_iops_device", &line(200)),
        ],
    );
    let none = json!({"blockIO": {"throttleReadBpsDevice":
        [{"major": 4000, "minor": 1, "rate": 1}]}});
    case.run("true", |c| set(c, &none))
        .refused(&["linux.resources.blockIO.throttleReadBpsDevice", "blkio.throttle"]);
    // Weights belong to a scheduler of disks that may not be there.
    let groups = case.run("true", |c| set(c, &json!({"blockIO": {"weight": 300}})));
    if groups.code() != 0 {
        groups.refused(&["linux.resources.blockIO.weight", "blkio.", "weight"]);
    }
    case.run("true", |c| set(c, &json!({"blockIO": {"leafWeight": 300}})))
        .refused(&["linux.resources.blockIO.leafWeight", "blkio.leaf_weight"]);
}

#[test]
fn huge_pages_in_use_and_reserved() {
    let test = "huge_pages_in_use_and_reserved";
    let Some(case) = Case::root(test) else { return };
    let resources = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]});
    let on_v1 = v1_directory("hugetlb");
    let (mount, most) = match (&on_v1, v2_directory(&["hugetlb"])) {
        (Some(mount), _) => (mount.clone(), "limit_in_bytes"),
        (None, Some(mount)) => (mount, "max"),
        (None, None) => {
            case.run("true", |c| set(c, &resources)).refused(&["huge page limit", "hugetlb"]);
            return skip(test, "no control group has hugetlb");
        }
    };
    let (used, reserved) = (format!("hugetlb.2MB.{most}"), format!("hugetlb.2MB.rsvd.{most}"));
    assert_set(&case, &resources, &[(&mount, &used, "4194304"), (&mount, &reserved, "4194304")]);
}

#[test]
fn what_the_node_lacks_is_named_by_its_field() {
    let Some(case) = Case::root("what_the_node_lacks_is_named_by_its_field") else { return };
    for (controller, resources, field, file, expected) in [
        (
            "net_cls",
            json!({"network": {"classID": 1_048_577}}),
            "linux.resources.network.classID",
            "net_cls.classid",
            "1048577",
        ),
        (
            "net_prio",
            json!({"network": {"priorities": [{"name": "lo", "priority": 3}]}}),
            "linux.resources.network.priorities",
            "net_prio.ifpriomap",
            "lo 3",
        ),
    ] {
        match v1_directory(controller) {
            Some(mount) => assert_set(&case, &resources, &[(&mount, file, expected)]),
            None => case.run("true", |c| set(c, &resources)).refused(&[field, controller]),
        }
    }
    let rdma = json!({"rdma": {"mlx5_none": {"hcaHandles": 3}}});
    case.run("true", |c| set(c, &rdma)).refused(&["linux.resources.rdma"]);
    case.run("true", |c| c["linux"]["intelRdt"] = json!({"closID": "dnt-none"}))
        .refused(&["linux.intelRdt"]);
}

/// Everything at once, for a node that has all of it on cgroup v2.
#[test]
fn every_resource_on_cgroup_v2() {
    let test = "every_resource_on_cgroup_v2";
    let Some(case) = Case::root(test) else { return };
    let Some(v2) = v2_directory(&["cpu", "cpuset", "io", "memory", "pids"]) else {
        return skip(test, "cgroup v2 lacks cpu, cpuset, io, memory or pids here");
    };
    let resources = json!({
        "cpu": {"shares": 1024, "quota": 20_000, "period": 40_000, "burst": 10_000,
            "cpus": "0", "mems": "0"},
        "memory": {"limit": 67_108_864, "swap": 100_663_296, "reservation": 33_554_432,
            "checkBeforeUpdate": true},
        "pids": {"limit": 77},
        "unified": {"memory.high": "60000000"}
    });
    assert_set(
        &case,
        &resources,
        &[
            (&v2, "cpu.weight", "100"),
            (&v2, "cpu.max", "20000 40000"),
            (&v2, "cpu.max.burst", "10000"),
            (&v2, "cpuset.cpus", "0"),
            (&v2, "cpuset.mems", "0"),
            (&v2, "memory.max", "67108864"),
            (&v2, "memory.low", "33554432"),
            (&v2, "memory.swap.max", "33554432"),
            (&v2, "memory.high", "59998208"),
            (&v2, "pids.max", "77"),
        ],
    );
    assert_set(&case, &json!({"cpu": {"idle": 1}}), &[(&v2, "cpu.idle", "1")]);
    if let Some((major, minor)) = disk() {
        let at = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
        let io = json!({"blockIO": {"throttleReadBpsDevice": at(1_048_576),
            "throttleWriteIOPSDevice": at(200)}});
        let line = format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=200");
        assert_set(&case, &io, &[(&v2, "io.max", &line)]);
    }
    let weight = case.run("true", |c| set(c, &json!({"blockIO": {"weight": 500}})));
    if weight.code() != 0 {
        weight.refused(&["linux.resources.blockIO.weight", "io."]);
    }
    for (resources, field) in [
        (json!({"cpu": {"realtimeRuntime": 5}}), "linux.resources.cpu.realtimeRuntime"),
        (json!({"memory": {"kernel": 4096}}), "linux.resources.memory.kernel"),
        (json!({"memory": {"kernelTCP": 4096}}), "linux.resources.memory.kernelTCP"),
        (json!({"blockIO": {"leafWeight": 10}}), "linux.resources.blockIO.leafWeight"),
        (json!({"network": {"classID": 5}}), "linux.resources.network.classID"),
    ] {
        case.run("true", |c| set(c, &resources)).refused(&[field]);
    }
}

/// Limits that bound each other change together, whichever must go first.
#[test]
fn an_update_of_limits_that_bound_each_other() {
    let test = "an_update_of_limits_that_bound_each_other";
    let Some(case) = Case::root(test) else { return };
    let Some(cpu) = v1_directory("cpu") else { return skip(test, "no cpu on cgroup v1") };
    let (id, _) = case.sleeper("a", |config| {
        set(config, &json!({"cpu": {"quota": 40_000, "period": 40_000, "burst": 30_000}}));
    });
    let group = cpu.join(format!("denovo-{id}"));
    for (quota, burst) in [(10_000, 5_000), (38_000, 38_000), (2_000, 1_000)] {
        let new = json!({"cpu": {"quota": quota, "burst": burst}}).to_string();
        let file = case.file("new.json", &new);
        case.ok(&["update", "--resources", file.to_str().unwrap(), &id]);
        assert_eq!(read(&group, "cpu.cfs_quota_us"), quota.to_string());
        assert_eq!(read(&group, "cpu.cfs_burst_us"), burst.to_string());
    }
    // All or nothing.
    let file = case.file("new.json", r#"{"cpu": {"shares": 77, "quota": 5000, "burst": 6000}}"#);
    let refused = case.call(&["update", "--resources", file.to_str().unwrap(), &id]);
    assert!(refused.err.contains("linux.resources.cpu.burst"), "{refused:#?}");
    assert_eq!(read(&group, "cpu.cfs_quota_us"), "2000");
    assert_eq!(read(&group, "cpu.shares"), "1024");
    case.delete(&id);
}
