//! How a process is scheduled, where its memory is, what machine it sees (OCI
//! config.md, "Process": `scheduler`, `ioPriority`, `execCPUAffinity`;
//! config-linux.md: `personality`, `memoryPolicy`).

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType, Process, Scheduler as AskedScheduler,
};

use super::findings::Findings;
use crate::policy::spec::{Attributes, MemoryPolicy, Scheduler};
use crate::problem::Problem;
use crate::request::cpu_list;

/// As sched(7) has it: of each policy its name, number, and what it takes.
const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_DEADLINE: u32 = 6;

/// Highest number of a NUMA node that the kernel can be built for
/// (`CONFIG_NODES_SHIFT` is at most 10).
const MOST_NODES: u32 = 1024;

/// What `process` says; the labels are checked in `labels`.
pub(super) fn check(asked: &Process, found: &mut Findings) -> Attributes {
    let affinity = asked.exec_cpu_affinity().as_ref();
    let mut cpus = |name: &str, list: Option<&String>| {
        let list = list.filter(|list| !list.is_empty())?;
        self::list(&format!("process.execCPUAffinity.{name}"), list, found)
    };
    let cpus_before = cpus("initial", affinity.and_then(|a| a.initial().as_ref()));
    let cpus = cpus("final", affinity.and_then(|a| a.cpu_affinity_final().as_ref()));
    Attributes {
        scheduler: asked.scheduler().as_ref().map(|s| scheduler(s, found)),
        io_priority: asked.io_priority().as_ref().map(|p| {
            let class = match p.class() {
                IOPriorityClass::IoprioClassRt => 1,
                IOPriorityClass::IoprioClassBe => 2,
                IOPriorityClass::IoprioClassIdle => 3,
            };
            io_priority(class, p.priority(), found)
        }),
        cpus_before,
        cpus,
        ..Attributes::default()
    }
}

fn list(field: &str, text: &str, found: &mut Findings) -> Option<Vec<u32>> {
    match cpu_list::parse(text) {
        Ok(numbers) => Some(numbers),
        Err(problem) => {
            let message = format!("{field}: {problem}");
            found.push(Problem { message, ..problem });
            None
        }
    }
}

/// `IOPRIO_PRIO_VALUE` of ioprio_set(2).
fn io_priority(class: u16, priority: i64, found: &mut Findings) -> u16 {
    let level = u16::try_from(priority).ok().filter(|p| *p <= 7);
    if level.is_none() {
        found.refuse("process.ioPriority.priority", format!("{priority} is not within 0 to 7"));
    }
    class << 13 | level.unwrap_or(0)
}

fn policy(asked: LinuxSchedulerPolicy) -> Option<u32> {
    match asked {
        LinuxSchedulerPolicy::SchedOther => Some(SCHED_OTHER),
        LinuxSchedulerPolicy::SchedFifo => Some(SCHED_FIFO),
        LinuxSchedulerPolicy::SchedRr => Some(SCHED_RR),
        LinuxSchedulerPolicy::SchedBatch => Some(SCHED_BATCH),
        LinuxSchedulerPolicy::SchedIdle => Some(SCHED_IDLE),
        LinuxSchedulerPolicy::SchedDeadline => Some(SCHED_DEADLINE),
        // Reserved, and in no kernel.
        LinuxSchedulerPolicy::SchedIso => None,
    }
}

fn scheduler(asked: &AskedScheduler, found: &mut Findings) -> Scheduler {
    let policy = policy(*asked.policy()).unwrap_or_else(|| {
        let hint = "use SCHED_OTHER, FIFO, RR, BATCH, IDLE or DEADLINE";
        found.refuse_with("process.scheduler.policy", "no Linux has SCHED_ISO", hint);
        SCHED_OTHER
    });
    let nice = asked.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        found.refuse("process.scheduler.nice", format!("{nice} is not within -20 to 19"));
    }
    let realtime = matches!(policy, SCHED_FIFO | SCHED_RR);
    let priority = asked.priority().unwrap_or(0);
    if realtime && !(1..=99).contains(&priority) {
        let reason = format!("{priority} is not within 1 to 99, which {} takes", asked.policy());
        found.refuse("process.scheduler.priority", reason);
    } else if !realtime && priority != 0 {
        found.refuse(
            "process.scheduler.priority",
            format!("{} has none but 0 (sched(7))", asked.policy()),
        );
    }
    let time = |time: &Option<u64>| time.unwrap_or(0);
    let (runtime, deadline, period) =
        (time(asked.runtime()), time(asked.deadline()), time(asked.period()));
    if policy != SCHED_DEADLINE {
        for (name, value) in [("runtime", runtime), ("deadline", deadline), ("period", period)] {
            if value != 0 {
                let field = format!("process.scheduler.{name}");
                found.refuse(field, format!("belongs to SCHED_DEADLINE, not {}", asked.policy()));
            }
        }
    } else if runtime == 0 || runtime > deadline || (period != 0 && deadline > period) {
        found.refuse(
            "process.scheduler",
            "SCHED_DEADLINE needs 0 < runtime <= deadline <= period, in nanoseconds (sched(7))",
        );
    }
    let flags = asked.flags().iter().flatten().fold(0, |all, flag| all | flag_bit(*flag));
    let priority = u32::try_from(priority).unwrap_or(0);
    Scheduler { policy, flags, nice, priority, runtime, deadline, period }
}

/// `SCHED_FLAG_*` of linux/sched.h.
fn flag_bit(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

/// `PER_LINUX` or `PER_LINUX32` of personality(2).
pub(super) fn personality(linux: &Linux, found: &mut Findings) -> Option<u32> {
    use oci_spec::runtime::LinuxPersonalityDomain as Domain;
    let asked = linux.personality().as_ref()?;
    if asked.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        // OCI: "Currently no flag values are supported".
        found.refuse("linux.personality.flags", "the specification has no flag yet");
    }
    Some(match asked.domain() {
        Domain::PerLinux => 0,
        Domain::PerLinux32 => 8,
    })
}

/// Mode and nodes of set_mempolicy(2), which says what goes with what.
pub(super) fn memory_policy(linux: &Linux, found: &mut Findings) -> Option<MemoryPolicy> {
    use MemoryPolicyModeType as Mode;
    let asked = linux.memory_policy().as_ref()?;
    let (number, nodes_are) = match asked.mode() {
        Mode::MpolDefault => (0, Nodes::None),
        Mode::MpolPreferred => (1, Nodes::Any),
        Mode::MpolBind => (2, Nodes::Some),
        Mode::MpolInterleave => (3, Nodes::Some),
        Mode::MpolLocal => (4, Nodes::None),
        Mode::MpolPreferredMany => (5, Nodes::Some),
        Mode::MpolWeightedInterleave => (6, Nodes::Some),
    };
    let text = asked.nodes().as_deref().map(str::trim).unwrap_or_default();
    let nodes = match text {
        "" => Vec::new(),
        text => list("linux.memoryPolicy.nodes", text, found).unwrap_or_default(),
    };
    if text.is_empty() && nodes_are == Nodes::Some {
        found.refuse("linux.memoryPolicy.nodes", format!("{} needs nodes", asked.mode()));
    }
    if !text.is_empty() && nodes_are == Nodes::None {
        found.refuse("linux.memoryPolicy.nodes", format!("{} takes no nodes", asked.mode()));
    }
    if nodes.last().is_some_and(|last| *last >= MOST_NODES) {
        found.refuse("linux.memoryPolicy.nodes", "no kernel has a node above 1023");
    }
    let flags = memory_flags(asked.flags().as_deref().unwrap_or_default(), found);
    if flags & (STATIC | RELATIVE) != 0 && text.is_empty() {
        found.refuse("linux.memoryPolicy.flags", "say what nodes mean, and none are given");
    }
    Some(MemoryPolicy { mode: number | flags, nodes })
}

#[derive(PartialEq)]
enum Nodes {
    None,
    Any,
    Some,
}

/// `MPOL_F_*` of linux/mempolicy.h.
const BALANCING: u32 = 1 << 13;
const RELATIVE: u32 = 1 << 14;
const STATIC: u32 = 1 << 15;

fn memory_flags(asked: &[MemoryPolicyFlagType], found: &mut Findings) -> u32 {
    let flags = asked.iter().fold(0, |all, flag| {
        all | match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => BALANCING,
            MemoryPolicyFlagType::MpolFRelativeNodes => RELATIVE,
            MemoryPolicyFlagType::MpolFStaticNodes => STATIC,
        }
    });
    if flags & STATIC != 0 && flags & RELATIVE != 0 {
        let reason = "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other";
        found.refuse("linux.memoryPolicy.flags", reason);
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts};
    use super::*;
    use serde_json::{Value, json};

    fn of_process(change: Value) -> Attributes {
        checked(json!({ "process": change }), &facts()).spec.process.unwrap().attributes
    }

    fn of_linux(change: Value) -> Attributes {
        checked(json!({ "linux": change }), &facts()).spec.process.unwrap().attributes
    }

    #[test]
    fn each_policy_and_flag_has_its_number() {
        for (name, number) in [("OTHER", 0), ("BATCH", 3), ("IDLE", 5)] {
            let scheduler = json!({"policy": format!("SCHED_{name}"), "nice": 5});
            let expected = Scheduler { policy: number, nice: 5, ..Scheduler::default() };
            let found = of_process(json!({ "scheduler": scheduler })).scheduler;
            assert_eq!(found, Some(expected), "{name}");
        }
        for (name, number) in [("FIFO", 1), ("RR", 2)] {
            let scheduler = json!({"policy": format!("SCHED_{name}"), "priority": 9});
            let found = of_process(json!({ "scheduler": scheduler })).scheduler.unwrap();
            assert_eq!((found.policy, found.priority), (number, 9), "{name}");
        }
        let deadline = json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3,
            "flags": ["SCHED_FLAG_DL_OVERRUN"]});
        let found = of_process(json!({ "scheduler": deadline })).scheduler.unwrap();
        assert_eq!((found.policy, found.runtime, found.deadline, found.period), (6, 1, 2, 3));
        assert_eq!(found.flags, 4);
        for (flag, bit) in [
            ("SCHED_RESET_ON_FORK", 1),
            ("SCHED_FLAG_RECLAIM", 2),
            ("SCHED_FLAG_KEEP_POLICY", 8),
            ("SCHED_FLAG_KEEP_PARAMS", 16),
            ("SCHED_FLAG_UTIL_CLAMP_MIN", 32),
            ("SCHED_FLAG_UTIL_CLAMP_MAX", 64),
        ] {
            let scheduler = json!({"policy": "SCHED_OTHER", "flags": [flag]});
            let found = of_process(json!({ "scheduler": scheduler })).scheduler.unwrap();
            assert_eq!(found.flags, bit, "{flag}");
        }
    }

    #[test]
    fn other_attributes_arrive() {
        for (class, value) in [("RT", 1 << 13 | 7), ("BE", 2 << 13 | 7), ("IDLE", 3 << 13 | 7)] {
            let priority = json!({"class": format!("IOPRIO_CLASS_{class}"), "priority": 7});
            assert_eq!(of_process(json!({ "ioPriority": priority })).io_priority, Some(value));
        }
        let affinity = json!({"initial": "0-1", "final": "3,1"});
        let found = of_process(json!({ "execCPUAffinity": affinity }));
        assert_eq!((found.cpus_before, found.cpus), (Some(vec![0, 1]), Some(vec![1, 3])));
        for (domain, number) in [("LINUX", 0), ("LINUX32", 8)] {
            let found = of_linux(json!({"personality": {"domain": domain}}));
            assert_eq!(found.personality, Some(number));
        }
        for (mode, nodes, flags, number) in [
            ("DEFAULT", "", json!([]), 0),
            ("LOCAL", "", json!([]), 4),
            ("PREFERRED", "", json!([]), 1),
            ("PREFERRED", "1", json!(["MPOL_F_STATIC_NODES"]), 1 | STATIC),
            ("BIND", "0-1", json!(["MPOL_F_NUMA_BALANCING"]), 2 | BALANCING),
            ("INTERLEAVE", "0", json!(["MPOL_F_RELATIVE_NODES"]), 3 | RELATIVE),
            ("PREFERRED_MANY", "0", json!([]), 5),
            ("WEIGHTED_INTERLEAVE", "0", json!([]), 6),
        ] {
            let policy = json!({"mode": format!("MPOL_{mode}"), "nodes": nodes, "flags": flags});
            let found = of_linux(json!({ "memoryPolicy": policy })).memory_policy.unwrap();
            assert_eq!(found.mode, number, "{mode}");
            assert_eq!(found.nodes.is_empty(), nodes.is_empty(), "{mode}");
        }
        assert_eq!(of_process(json!({})), Attributes::default());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let scheduler = |value: Value| json!({"process": {"scheduler": value}});
        let policy = |value: Value| json!({"linux": {"memoryPolicy": value}});
        let io = |p: i64| json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": p}}});
        assert_problems(&[
            (scheduler(json!({"policy": "SCHED_ISO"})), &["process.scheduler.policy: no Linux"]),
            (
                scheduler(json!({"policy": "SCHED_OTHER", "nice": 20, "priority": 1, "period": 1})),
                &[
                    "process.scheduler.nice: 20",
                    "process.scheduler.priority: ",
                    "process.scheduler.period: belongs",
                ],
            ),
            (scheduler(json!({"policy": "SCHED_FIFO"})), &["process.scheduler.priority: 0 is"]),
            (scheduler(json!({"policy": "SCHED_RR", "priority": 100})), &["process.scheduler.pri"]),
            (
                scheduler(json!({"policy": "SCHED_DEADLINE", "runtime": 3, "deadline": 2})),
                &["process.scheduler: SCHED_DEADLINE needs"],
            ),
            (io(8), &["process.ioPriority.priority: 8"]),
            (io(-1), &["process.ioPriority.priority: -1"]),
            (
                json!({"process": {"execCPUAffinity": {"initial": "3-1", "final": "9999"}}}),
                &["process.execCPUAffinity.initial: list", "process.execCPUAffinity.final: list"],
            ),
            (
                json!({"linux": {"personality": {"domain": "LINUX", "flags": ["x"]}}}),
                &["linux.personality.flags: "],
            ),
            (policy(json!({"mode": "MPOL_BIND"})), &["linux.memoryPolicy.nodes: MPOL_BIND needs"]),
            (
                policy(json!({"mode": "MPOL_LOCAL", "nodes": "0"})),
                &["linux.memoryPolicy.nodes: MPOL_LOCAL takes"],
            ),
            (policy(json!({"mode": "MPOL_BIND", "nodes": "x"})), &["linux.memoryPolicy.nodes: l"]),
            (policy(json!({"mode": "MPOL_BIND", "nodes": "1024"})), &["linux.memoryPolicy.nodes"]),
            (
                policy(json!({"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_STATIC_NODES"]})),
                &["linux.memoryPolicy.flags: say"],
            ),
            (
                policy(json!({"mode": "MPOL_BIND", "nodes": "0",
                    "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]})),
                &["linux.memoryPolicy.flags: MPOL_F"],
            ),
        ]);
    }

    #[test]
    fn exec_takes_over_what_it_does_not_say_itself() {
        let own = of_process(json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1},
            "execCPUAffinity": {"final": "1"}}));
        let asked = Attributes { io_priority: Some(9), ..Attributes::default() };
        let both = asked.or(&own);
        assert_eq!((both.io_priority, both.cpus), (Some(9), Some(vec![1])));
    }
}
