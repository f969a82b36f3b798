//! The groups that a scheduler has made for a job and keeps its tasks in: its limits
//! hold there, and it finds the job's processes by them. What denovo's own groups
//! would hold and count in the same hierarchies, these must.

use std::fs;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::monitor::Orders;
use crate::host::cpulist::parse_list;
use crate::kernel::cgroup::{self, Usage};
use crate::plan::cgroup::{CgroupPlan, CgroupStep, Group, Place, Setting, Version};
use crate::policy::cpus::format_list;

/// Those groups, and what they had counted when they were last looked at: the
/// scheduler removes them before the job's epilog.
#[derive(Debug, Default)]
pub struct Scheduled {
    plan: CgroupPlan,
    counted: Usage,
}

impl Scheduled {
    /// Looks once more.
    pub fn count(&mut self) {
        let seen = cgroup::usage(&self.plan);
        // What is there now says nothing of the end.
        let seen = Usage { memory: None, pids: None, ..seen };
        self.counted = std::mem::take(&mut self.counted).most(&seen);
    }

    /// What the job has used in all groups, denovo's own among them.
    pub fn with(&self, own: Usage) -> Usage {
        let now = cgroup::usage(&self.plan);
        own.and(&self.counted.clone().most(&now))
    }

    /// Takes notice of the groups that a task is in, by its /proc/PID/cgroup, and
    /// sees to it that the job's limits hold there. Gives the CPUs that the task
    /// itself has to keep to; none where a group holds it.
    pub fn hold(&mut self, orders: &mut Orders, init: i32, text: &str) -> Option<Vec<u32>> {
        let job = orders.record.granted.as_ref().map(|g| format!("job_{}", g.job))?;
        let mut groups = groups(text, &job, &orders.plan.cgroup);
        // A login may be in fewer of them than the tasks are.
        if groups.iter().any(|group| !self.plan.groups.contains(group)) {
            pids(orders, &mut groups);
            self.plan.groups = groups;
            memory(orders, &self.plan);
        }
        cpus(orders, init, &self.plan)
    }

    /// For a process that comes by itself: those that it is in already (of a login
    /// that the scheduler has adopted, say), where it is to stay, and the CPUs that it
    /// has to keep to.
    pub fn keep(
        &mut self,
        orders: &mut Orders,
        init: i32,
        pid: i32,
    ) -> (Vec<Group>, Option<Vec<u32>>) {
        let Some(granted) = &orders.record.granted else {
            return (Vec::new(), orders.affinity.clone());
        };
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let kept = groups(&text, &format!("job_{}", granted.job), &orders.plan.cgroup);
        let cpus =
            if kept.is_empty() { orders.affinity.clone() } else { self.hold(orders, init, &text) };
        (kept, cpus)
    }
}

/// The scheduler's group beside each of `plan`: Slurm names it `job_ID` on every
/// version of control groups.
fn groups(text: &str, job: &str, plan: &CgroupPlan) -> Vec<Group> {
    plan.groups.iter().filter_map(|own| beside(text, job, own)).collect()
}

fn beside(text: &str, job: &str, own: &Group) -> Option<Group> {
    let path = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let same = match own.at.version {
            Version::V2 => controllers.is_empty(),
            Version::V1 => controllers.split(',').any(|c| own.controllers.iter().any(|o| o == c)),
        };
        same.then_some(path)
    })?;
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let last = parts.iter().position(|part| *part == job)?;
    if parts.contains(&"..") {
        return None;
    }
    let at = Place { path: parts[..=last].join("/"), ..own.at.clone() };
    let controllers = match at.version {
        Version::V1 => own.controllers.clone(),
        Version::V2 => words(&at, "cgroup.controllers"),
    };
    Some(Group { at, controllers })
}

fn read(at: &Place, file: &str) -> Option<String> {
    fs::read_to_string(at.dir().join(file)).ok().map(|text| text.trim().to_owned())
}

fn words(at: &Place, file: &str) -> Vec<String> {
    read(at, file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Whether the scheduler's groups stand in for denovo's own with this controller.
fn stands_in(orders: &Orders, plan: &CgroupPlan, controller: &str) -> bool {
    let own = orders.plan.cgroup.with(controller);
    own.is_some_and(|own| plan.groups.iter().any(|g| g.at.mount == own.at.mount))
}

/// Sets a limit there, or has the receipt say that it is not held.
fn set(orders: &mut Orders, at: Option<&Place>, setting: Setting) {
    let name = setting.name().to_owned();
    let result = match at {
        Some(at) => cgroup::apply(&CgroupStep::Set { at: at.clone(), setting })
            .map_err(|error| error.to_string()),
        None => Err("the scheduler's group of the job has no such controller".to_owned()),
    };
    if let Err(why) = result {
        orders.record.cgroup.left_out.push(format!("the {name} does not hold: {why}"));
        let _ = orders.jobs.save(&orders.record);
    }
}

/// Slurm lets its groups have no such controller (cgroup v2): the one above the job's
/// must hand it down first.
fn pids(orders: &mut Orders, groups: &mut [Group]) {
    let limit = orders.plan.cgroup.steps.iter().find_map(|step| match step {
        CgroupStep::Set { setting: Setting::PidsMax { count }, .. } => Some(*count),
        _ => None,
    });
    let Some((count, group)) = limit.zip(groups.iter_mut().find(|g| g.at.version == Version::V2))
    else {
        return;
    };
    if let Some((above, _)) = group.at.path.rsplit_once('/') {
        let at = Place { path: above.to_owned(), ..group.at.clone() };
        let controllers = vec!["pids".to_owned()];
        let _ = cgroup::apply(&CgroupStep::Enable { at, controllers, needed: false });
    }
    group.controllers = words(&group.at, "cgroup.controllers");
    let at = group.controllers.iter().any(|c| c == "pids").then(|| group.at.clone());
    set(orders, at.as_ref(), Setting::PidsMax { count });
}

/// The scheduler's own limit stays where it is the lower one.
fn memory(orders: &mut Orders, plan: &CgroupPlan) {
    let Some(bytes) = orders.record.memory.filter(|_| stands_in(orders, plan, "memory")) else {
        return;
    };
    let group = plan.with("memory");
    let file = match group.map(|g| g.at.version) {
        Some(Version::V1) => "memory.limit_in_bytes",
        _ => "memory.max",
    };
    let held = group.and_then(|g| read(&g.at, file)).and_then(|text| text.parse::<u64>().ok());
    if held.is_none_or(|held| held > bytes) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        set(orders, group.map(|g| &g.at), Setting::MemoryMax { bytes });
    }
}

/// The scheduler's own choice of CPUs counts, for denovo's groups and its first
/// process too, by which the job's views go.
fn cpus(orders: &mut Orders, init: i32, plan: &CgroupPlan) -> Option<Vec<u32>> {
    let Some(group) = plan.with("cpuset") else {
        let lost = stands_in(orders, plan, "cpuset") && !orders.record.reserved_cpus.is_empty();
        return if lost {
            Some(orders.record.reserved_cpus.clone())
        } else {
            orders.affinity.clone()
        };
    };
    let chosen = read(&group.at, "cpuset.cpus").filter(|list| !list.is_empty());
    if chosen.is_none() {
        let own = orders.record.reserved_cpus.clone();
        if own.is_empty() {
            return orders.affinity.clone();
        }
        let step = CgroupStep::Set {
            at: group.at.clone(),
            setting: Setting::Cpus { list: format_list(&own) },
        };
        return cgroup::apply(&step).is_err().then_some(own);
    }
    let list = read(&group.at, "cpuset.cpus.effective").or(chosen).unwrap_or_default();
    let Ok(theirs) = parse_list(&list) else { return None };
    if theirs != orders.record.reserved_cpus {
        follow(orders, init, &list, &theirs);
    }
    None
}

fn follow(orders: &mut Orders, init: i32, list: &str, cpus: &[u32]) {
    if let Some(own) = orders.plan.cgroup.with("cpuset") {
        let setting = Setting::Cpus { list: list.to_owned() };
        let _ = cgroup::apply(&CgroupStep::Set { at: own.at.clone(), setting });
    }
    let mut set = CpuSet::new();
    let known = cpus.iter().all(|cpu| set.set(*cpu as usize).is_ok());
    if known {
        let _ = sched_setaffinity(Pid::from_raw(init), &set);
    }
    orders.affinity = orders.affinity.as_ref().map(|_| cpus.to_vec());
    orders.record.reserved_cpus = cpus.to_vec();
    let _ = orders.jobs.save(&orders.record);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(version: Version, controllers: &[&str]) -> Group {
        let at = Place { mount: "/nowhere".into(), version, path: "denovo-slurm-7".into() };
        Group { at, controllers: controllers.iter().map(|c| (*c).to_owned()).collect() }
    }

    #[test]
    fn the_jobs_group_is_found_in_each_hierarchy_that_has_one() {
        let groups = vec![own(Version::V1, &["memory"]), own(Version::V1, &["cpu", "cpuacct"])];
        let plan = CgroupPlan { groups, ..CgroupPlan::default() };
        let text = "5:cpu,cpuacct:/\n4:memory:/slurm_n1/uid_9/job_7/step_0/task_0\n0::/\n";
        let found = super::groups(text, "job_7", &plan);
        let paths: Vec<&str> = found.iter().map(|g| g.at.path.as_str()).collect();
        assert_eq!(paths, ["slurm_n1/uid_9/job_7"]);
        assert_eq!(super::groups(text, "job_70", &plan), []);
    }

    #[test]
    fn on_v2_it_is_the_one_line_and_not_what_lies_outside() {
        let plan = CgroupPlan { groups: vec![own(Version::V2, &[])], ..CgroupPlan::default() };
        let text = "0::/system.slice/slurmstepd.scope/job_7/step_0/slurm\n";
        let found = super::groups(text, "job_7", &plan);
        assert_eq!(found[0].at.path, "system.slice/slurmstepd.scope/job_7");
        assert_eq!(super::groups("0::/../x/job_7/step_0\n", "job_7", &plan), []);
    }
}
