use std::collections::HashSet;

use super::*;
use crate::host::{Caller, HierarchyV1, HierarchyV2};
use crate::policy::limits::{Cpu, DeviceKind, Limits, Memory};

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

fn root() -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        groups: vec![],
        capabilities: u64::MAX >> 23,
        cpus: vec![0, 1],
        nested: false,
    }
}

pub(super) fn hybrid() -> Facts {
    let v1 = |name: &str| HierarchyV1 {
        controllers: words(&[name]),
        mount: format!("/sys/fs/cgroup/{name}").into(),
        own: "/".into(),
        writable: true,
    };
    let v2 = HierarchyV2 {
        mount: "/sys/fs/cgroup/unified".into(),
        controllers: words(&["hugetlb"]),
        own: "/".into(),
        own_controllers: words(&["hugetlb"]),
        writable: true,
    };
    let v1 = ["cpu", "cpuset", "devices", "memory", "pids"].map(v1).to_vec();
    Facts { kernel: (6, 18), caller: root(), cgroups: Cgroups { v1, v2: Some(v2) } }
}

fn v2_only() -> Facts {
    let all = words(&["cpuset", "cpu", "io", "memory", "hugetlb", "pids"]);
    let v2 = HierarchyV2 {
        mount: "/sys/fs/cgroup".into(),
        controllers: all.clone(),
        own: "/user.slice/user-1000.slice".into(),
        own_controllers: words(&["memory", "pids"]),
        writable: true,
    };
    Facts { kernel: (6, 1), caller: root(), cgroups: Cgroups { v1: vec![], v2: Some(v2) } }
}

fn rootless() -> Facts {
    let mut facts = v2_only();
    facts.caller.uid = 1000;
    facts.caller.capabilities = 0;
    facts
}

fn asked(limits: Limits) -> spec::Cgroup {
    let path = Some("denovo/job-17".to_owned());
    spec::Cgroup { path, limits, best_effort: false, delegate_to: None }
}

fn limits() -> Limits {
    Limits {
        cpu: Cpu {
            shares: Some(1024),
            quota: Some(50_000),
            cpus: Some("0-1".into()),
            ..Cpu::default()
        },
        memory: Memory { limit: Some(64 << 20), ..Memory::default() },
        pids: Some(100),
        ..Limits::default()
    }
}

fn lines(plan: &CgroupPlan) -> Vec<String> {
    plan.steps.iter().map(ToString::to_string).collect()
}

#[test]
fn a_hybrid_node_sets_limits_in_v1() {
    let plan = plan(&asked(limits()), &hybrid()).unwrap();
    assert_eq!(
        lines(&plan),
        [
            "make /sys/fs/cgroup/cpu/denovo/job-17",
            "make /sys/fs/cgroup/cpuset/denovo/job-17",
            "copy cpuset.cpus and cpuset.mems from the parent to /sys/fs/cgroup/cpuset/denovo/job-17",
            "make /sys/fs/cgroup/devices/denovo/job-17",
            "make /sys/fs/cgroup/memory/denovo/job-17",
            "make /sys/fs/cgroup/pids/denovo/job-17",
            "make /sys/fs/cgroup/unified/denovo/job-17",
            "set cpu.shares = 1024 in /sys/fs/cgroup/cpu/denovo/job-17",
            "set cpu.cfs_quota_us = 50000 in /sys/fs/cgroup/cpu/denovo/job-17",
            "set cpuset.cpus = 0-1 in /sys/fs/cgroup/cpuset/denovo/job-17",
            "set memory.limit_in_bytes = 67108864 in /sys/fs/cgroup/memory/denovo/job-17",
            "set memory.memsw.limit_in_bytes = 67108864 in /sys/fs/cgroup/memory/denovo/job-17",
            "set pids.max = 100 in /sys/fs/cgroup/pids/denovo/job-17",
        ]
    );
}

#[test]
fn a_v2_node_enables_what_is_needed_from_the_top() {
    let plan = plan(&asked(limits()), &v2_only()).unwrap();
    assert_eq!(
        lines(&plan),
        [
            "make /sys/fs/cgroup/denovo/job-17",
            "enable cpu, cpuset, memory, pids below /sys/fs/cgroup",
            "enable io below /sys/fs/cgroup if possible",
            "enable cpu, cpuset, memory, pids below /sys/fs/cgroup/denovo",
            "enable io below /sys/fs/cgroup/denovo if possible",
            "set cpu.weight = 100 in /sys/fs/cgroup/denovo/job-17",
            "set cpu.max = 50000 100000 in /sys/fs/cgroup/denovo/job-17",
            "set cpuset.cpus = 0-1 in /sys/fs/cgroup/denovo/job-17",
            "set memory.max = 67108864 in /sys/fs/cgroup/denovo/job-17",
            "set pids.max = 100 in /sys/fs/cgroup/denovo/job-17",
        ]
    );
}

#[test]
fn without_limits_statistics_are_enabled_if_possible() {
    let plan = plan(&asked(Limits::default()), &v2_only()).unwrap();
    assert_eq!(
        lines(&plan)[1..],
        [
            "enable cpu, io, memory, pids below /sys/fs/cgroup if possible",
            "enable cpu, io, memory, pids below /sys/fs/cgroup/denovo if possible",
        ]
    );
}

#[test]
fn a_user_changes_nothing_above_what_is_delegated() {
    let mut ask = asked(Limits { pids: Some(5), ..Limits::default() });
    ask.path = Some("user.slice/user-1000.slice/denovo/job-1".into());
    let plan = plan(&ask, &rootless()).unwrap();
    assert_eq!(
        lines(&plan)[1..4],
        [
            "move the processes in /sys/fs/cgroup/user.slice/user-1000.slice to denovo-callers \
             below it",
            "enable pids below /sys/fs/cgroup/user.slice/user-1000.slice",
            "enable memory below /sys/fs/cgroup/user.slice/user-1000.slice if possible",
        ]
    );
    // For statistics nobody is moved, and the user's group stays as it is.
    let idle = spec::Cgroup { limits: Limits::default(), ..ask };
    let idle = lines(&super::plan(&idle, &rootless()).unwrap());
    assert!(idle.iter().all(|line| !line.contains("1000.slice to") && !line.contains("enable")));
    let undo = plan.steps[0].undo().unwrap().to_string();
    assert_eq!(
        undo,
        "remove /sys/fs/cgroup/user.slice/user-1000.slice/denovo/job-1, \
         /sys/fs/cgroup/user.slice/user-1000.slice/denovo when empty"
    );
}

#[test]
fn a_missing_controller_is_named_or_left_out() {
    let mut ask = asked(limits());
    ask.path = Some("user.slice/user-1000.slice/denovo/job-1".into());
    let problems = plan(&ask, &rootless()).unwrap_err();
    let names: Vec<&str> = problems.iter().map(|p| p.message.split(':').next().unwrap()).collect();
    assert_eq!(names, ["CPU shares", "CPU quota", "CPU list"]);
    assert!(problems.iter().all(|p| p.hint.as_deref().is_some_and(|h| h.contains("Delegate="))));
    ask.best_effort = true;
    let plan = plan(&ask, &rootless()).unwrap();
    assert_eq!(plan.left_out.len(), 3);
}

#[test]
fn no_hierarchy_at_all() {
    let mut facts = hybrid();
    facts.cgroups = Cgroups::default();
    let problems = plan(&asked(Limits::default()), &facts).unwrap_err();
    assert!(problems[0].message.contains("no control group hierarchy is mounted"));
    let mut ask = asked(Limits::default());
    ask.best_effort = true;
    assert_eq!(plan(&ask, &facts).unwrap().steps, []);
    ask.path = None;
    ask.best_effort = false;
    assert_eq!(plan(&ask, &facts).unwrap().steps, []);
}

#[test]
fn a_user_without_delegation_makes_no_group() {
    let mut facts = hybrid();
    facts.caller = rootless().caller;
    facts.cgroups.v1.iter_mut().for_each(|h| h.writable = false);
    // v2 alone is delegated, and lacks the controllers.
    let problems = plan(&asked(limits()), &facts).unwrap_err();
    assert_eq!(problems.len(), 5);
    assert!(problems.iter().all(|p| p.message.contains("root's alone")), "{problems:?}");
    let mut ask = asked(limits());
    ask.best_effort = true;
    let steps = lines(&plan(&ask, &facts).unwrap());
    assert_eq!(steps, ["make /sys/fs/cgroup/unified/denovo/job-17"]);
    facts.cgroups.v2.as_mut().unwrap().writable = false;
    let best = plan(&ask, &facts).unwrap();
    assert_eq!((best.steps.len(), best.left_out.len()), (0, 1));
    let problems = plan(&asked(Limits::default()), &facts).unwrap_err();
    assert!(problems[0].message.contains("may make no control group"), "{problems:?}");
}

#[test]
fn a_user_stays_below_the_own_group() {
    let problems = plan(&asked(Limits::default()), &rootless()).unwrap_err();
    assert!(problems[0].hint.as_deref().unwrap().contains("Delegate=yes"), "{problems:?}");
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in ["", "/denovo/x", "denovo//x", "denovo/..", "a/./b", "a/", "a\nb"] {
        let ask = spec::Cgroup { path: Some(path.into()), ..asked(Limits::default()) };
        assert!(plan(&ask, &hybrid()).is_err(), "{path:?}");
    }
}

#[test]
fn only_denovos_own_parents_are_ever_removed() {
    let table: &[(&str, &[&str])] = &[
        ("denovo/job-17", &["denovo"]),
        ("denovo-test-4/a/b", &["denovo-test-4/a", "denovo-test-4"]),
        ("kubepods/pod1/c", &[]),
        ("slice/denovo/job", &["slice/denovo"]),
        ("denovo", &[]),
    ];
    for (path, expected) in table {
        assert_eq!(shared(path), *expected, "{path}");
    }
}

#[test]
fn only_a_group_of_denovos_own_is_made_anew() {
    for (path, anew) in [("denovo-c1", true), ("denovo/a", true), ("kubepods/pod1/c", false)] {
        let ask = spec::Cgroup { path: Some(path.into()), ..asked(Limits::default()) };
        for step in plan(&ask, &hybrid()).unwrap().steps {
            if let CgroupStep::Make { anew: found, .. } = step {
                assert_eq!(found, anew, "{path}");
            }
        }
    }
}

#[test]
fn v2_has_no_swappiness_and_needs_memory_beside_swap() {
    let memory = Memory {
        swap: Some(10),
        swappiness: Some(60),
        disable_oom_killer: Some(true),
        ..Memory::default()
    };
    let ask = asked(Limits { memory, ..Limits::default() });
    assert_eq!(plan(&ask, &v2_only()).unwrap_err().len(), 3);
    assert!(plan(&ask, &hybrid()).is_ok());
}

#[test]
fn unified_files_go_to_v2_or_fail_by_name() {
    let unified = vec![("memory.high".to_owned(), "1000".to_owned())];
    let ask = asked(Limits { unified, ..Limits::default() });
    let steps = lines(&plan(&ask, &v2_only()).unwrap());
    assert!(steps.contains(&"set memory.high = 1000 in /sys/fs/cgroup/denovo/job-17".to_owned()));
    assert!(plan(&ask, &hybrid()).unwrap_err()[0].message.contains("memory.high"));
    let unified = vec![("../x.y".to_owned(), "1".to_owned())];
    let ask = asked(Limits { unified, ..Limits::default() });
    assert!(plan(&ask, &v2_only()).is_err());
}

#[test]
fn devices_go_to_v1_or_a_program() {
    let null = DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(3),
        read: true,
        write: true,
        mknod: false,
    };
    let ask = asked(Limits { devices: vec![null], ..Limits::default() });
    let last = |facts: Facts| lines(&plan(&ask, &facts).unwrap()).pop().unwrap();
    assert_eq!(
        last(hybrid()),
        "devices: deny all, allow c 1:3 rw in /sys/fs/cgroup/devices/denovo/job-17"
    );
    assert_eq!(last(v2_only()), "devices: allow c 1:3 rw in /sys/fs/cgroup/denovo/job-17");
    assert!(plan(&ask, &rootless()).is_err());
}

#[test]
fn plans_survive_the_journal_and_name_each_group_once() {
    let mut ask = asked(limits());
    ask.delegate_to = Some(1000);
    let plan = plan(&ask, &hybrid()).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<CgroupPlan>(&text).unwrap(), plan);
    let made: Vec<PathBuf> = plan.groups.iter().map(|g| g.at.dir()).collect();
    assert_eq!(made.iter().collect::<HashSet<_>>().len(), made.len());
    let delegated = plan.steps.iter().filter(|s| matches!(s, CgroupStep::Delegate { .. }));
    assert_eq!(delegated.count(), made.len());
    assert!(plan.steps.iter().all(|s| s.at().path.is_empty() || s.at().path.starts_with("denovo")));
}

#[test]
fn every_limit_has_its_file_in_either_version() {
    use crate::policy::limits::{BlockDevice, BlockIo, DeviceWeight, Network, Rdma, Throttled};
    let device = BlockDevice { major: 8, minor: 16 };
    let throttle = |what, rate| crate::policy::limits::Throttle { what, device, rate };
    let limits = Limits {
        cpu: Cpu { period: Some(50_000), burst: Some(1000), idle: Some(1), ..Cpu::default() },
        memory: Memory { limit: Some(8192), check_before_update: true, ..Memory::default() },
        hugepages: vec![("2MB".into(), 4096)],
        block_io: BlockIo {
            weight: Some(500),
            leaf_weight: None,
            devices: vec![DeviceWeight { device, weight: Some(1000), leaf_weight: None }],
            throttles: vec![throttle(Throttled::ReadBytes, 7), throttle(Throttled::WriteBytes, 0)],
        },
        rdma: vec![Rdma { device: "mlx5_0".into(), handles: Some(2), objects: Some(0) }],
        ..Limits::default()
    };
    let mut v1 = hybrid();
    for (name, controller) in [("blkio", "blkio"), ("rdma", "rdma"), ("net_cls", "net_cls")] {
        v1.cgroups.v1.push(HierarchyV1 {
            controllers: words(&[controller]),
            mount: format!("/sys/fs/cgroup/{name}").into(),
            own: "/".into(),
            writable: true,
        });
    }
    let of = |limits: &Limits, facts: &Facts| plan(&asked(limits.clone()), facts);
    let set = |facts: &Facts, limits: &Limits| -> Vec<String> {
        let steps = of(limits, facts).unwrap().steps;
        let sets = steps.iter().filter(|s| matches!(s, CgroupStep::Set { .. }));
        sets.map(|s| s.to_string().split(" in /").next().unwrap().to_owned()).collect()
    };
    assert_eq!(
        set(&v1, &limits),
        [
            "set cpu.cfs_period_us = 50000",
            "set cpu.cfs_burst_us = 1000",
            "set cpu.idle = 1",
            "check that no more than 8192 bytes are in use",
            "set memory.limit_in_bytes = 8192",
            "set memory.memsw.limit_in_bytes = 8192",
            "set hugetlb.2MB.max = 4096",
            "set hugetlb.2MB.rsvd.max = 4096",
            "set blkio.weight = 500 or blkio.bfq.weight = 500",
            "set blkio.weight_device = 8:16 1000 or blkio.bfq.weight_device = 8:16 1000",
            "set blkio.throttle.read_bps_device = 8:16 7",
            "set blkio.throttle.write_bps_device = 8:16 0",
            "set rdma.max = mlx5_0 hca_handle=2 hca_object=0",
        ]
    );
    let mut v2 = v2_only();
    v2.cgroups.v2.as_mut().unwrap().controllers.push("rdma".into());
    assert_eq!(
        set(&v2, &limits),
        [
            "set cpu.max = * 50000",
            "set cpu.max.burst = 1000",
            "set cpu.idle = 1",
            "check that no more than 8192 bytes are in use",
            "set memory.max = 8192",
            "set hugetlb.2MB.max = 4096",
            "set hugetlb.2MB.rsvd.max = 4096",
            "set io.bfq.weight = 500 or io.weight = 4950",
            "set io.bfq.weight = 8:16 1000 or io.weight = 8:16 10000",
            "set io.max = 8:16 rbps=7",
            "set io.max = 8:16 wbps=max",
            "set rdma.max = mlx5_0 hca_handle=2 hca_object=0",
        ]
    );
    let steps = of(&limits, &v2).unwrap().steps;
    let enabled = "enable cpu, memory, hugetlb, io, rdma below /sys/fs/cgroup";
    assert!(steps.iter().any(|step| step.to_string() == enabled), "{steps:?}");

    let network = Network { class_id: Some(1), priorities: vec![("eth0".into(), 3)] };
    let old = Limits {
        network,
        cpu: Cpu { realtime_runtime: Some(1), ..Cpu::default() },
        memory: Memory { kernel: Some(1), kernel_tcp: Some(-1), ..Memory::default() },
        block_io: BlockIo { leaf_weight: Some(10), ..BlockIo::default() },
        ..Limits::default()
    };
    let found = of(&old, &v2).unwrap_err();
    let fields: Vec<&str> = found.iter().map(|p| p.message.split(':').next().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "linux.resources.cpu.realtimeRuntime",
            "linux.resources.memory.kernel",
            "linux.resources.memory.kernelTCP",
            "linux.resources.blockIO.leafWeight",
            "linux.resources.network.classID",
            "linux.resources.network.priorities",
        ]
    );
    assert!(found.iter().all(|p| p.hint.is_some()));
    // Here net_prio alone is missing.
    let found = of(&old, &v1).unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(found[0].message.starts_with("linux.resources.network.priorities: "), "{found:?}");
}
