//! `linux.namespaces`, id mappings and time offsets (OCI config-linux.md).

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, LinuxTimeOffset};

use super::CAP_SYS_ADMIN;
use super::findings::Findings;
use crate::host::Facts;
use crate::policy::spec::{Clocks, IdMap, Kind, Namespace, Namespaces};
use crate::problem::Problem;

/// The kernel takes at most this many lines (user_namespaces(7)).
const MAX_MAPPINGS: usize = 340;
const CAP_SETGID: u64 = 1 << 6;

pub(super) fn check(linux: &Linux, facts: &Facts, found: &mut Findings) -> Namespaces {
    let mut listed = listed(linux, found);
    let mut take = |kind| listed.remove(&kind).unwrap_or(Namespace::Shared);
    let mut namespaces = Namespaces {
        user: take(Kind::User),
        cgroup: take(Kind::Cgroup),
        ipc: take(Kind::Ipc),
        uts: take(Kind::Uts),
        net: take(Kind::Net),
        pid: take(Kind::Pid),
        mount: take(Kind::Mount),
        time: take(Kind::Time),
        uid_map: id_maps("linux.uidMappings", linux.uid_mappings(), found),
        gid_map: id_maps("linux.gidMappings", linux.gid_mappings(), found),
        deny_setgroups: false,
        clocks: Clocks::Offsets { monotonic: None, boottime: None },
        owner: None,
    };
    if namespaces.mount == Namespace::Shared {
        shared_mounts(&namespaces, found);
    }
    mappings(&mut namespaces, found);
    namespaces.clocks = clocks(linux, &namespaces, facts, found);
    namespaces.deny_setgroups = must_deny_setgroups(&namespaces, facts);
    privilege(&namespaces, facts, found);
    namespaces
}

/// mount_namespaces(7): the runtime's mounts belong to the user namespace that
/// they were made in (docs/decisions/0032).
fn shared_mounts(namespaces: &Namespaces, found: &mut Findings) {
    if namespaces.user != Namespace::Shared {
        found.refuse_with(
            "linux.namespaces",
            "a container in another user namespace can mount nothing in the runtime's mount \
             namespace, and no mount namespace is listed",
            "add {\"type\": \"mount\"} to linux.namespaces",
        );
    }
}

fn listed(linux: &Linux, found: &mut Findings) -> BTreeMap<Kind, Namespace> {
    let mut listed = BTreeMap::new();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let kind = kind(namespace.typ());
        let path = namespace.path().as_ref().map(|p| p.to_string_lossy()).unwrap_or_default();
        let value = if path.is_empty() {
            Namespace::New
        } else {
            if !path.starts_with('/') {
                let field = format!("linux.namespaces[{index}].path");
                found.refuse(field, format!("{path:?} is not an absolute path"));
            }
            Namespace::Join(found.text(format_args!("linux.namespaces[{index}].path"), &path))
        };
        if listed.insert(kind, value).is_some() {
            let field = format!("linux.namespaces[{index}].type");
            found.refuse(field, format!("{:?} is listed twice", namespace.typ()));
        }
    }
    listed
}

fn kind(kind: LinuxNamespaceType) -> Kind {
    match kind {
        LinuxNamespaceType::User => Kind::User,
        LinuxNamespaceType::Cgroup => Kind::Cgroup,
        LinuxNamespaceType::Ipc => Kind::Ipc,
        LinuxNamespaceType::Uts => Kind::Uts,
        LinuxNamespaceType::Network => Kind::Net,
        LinuxNamespaceType::Pid => Kind::Pid,
        LinuxNamespaceType::Mount => Kind::Mount,
        LinuxNamespaceType::Time => Kind::Time,
    }
}

/// Whether `id` exists inside.
pub(super) fn maps(map: &[IdMap], id: u32) -> bool {
    map.iter().any(|m| id.checked_sub(m.inside).is_some_and(|distance| distance < m.count))
}

/// Checked lines of a map; empty where none are given.
pub(super) fn id_maps(
    field: &str,
    list: &Option<Vec<LinuxIdMapping>>,
    found: &mut Findings,
) -> Vec<IdMap> {
    let list = list.as_deref().unwrap_or_default();
    let maps: Vec<IdMap> = list
        .iter()
        .map(|m| IdMap { inside: m.container_id(), outside: m.host_id(), count: m.size() })
        .collect();
    if maps.len() > MAX_MAPPINGS {
        found.refuse(field, format!("{} lines, where the kernel takes 340", maps.len()));
    }
    // (uid_t)-1 is no id, so a range ends at 2^32 - 2.
    let too_far = |first: u32, count: u32| first.checked_add(count).is_none();
    for (index, map) in maps.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if map.count == 0 {
            found.refuse(field, "its size is 0 or missing");
        } else if too_far(map.inside, map.count) || too_far(map.outside, map.count) {
            found.refuse(field, "it goes beyond the last id, 4294967294");
        } else if maps[..index].iter().any(|other| overlap(other, map)) {
            found.refuse(field, "it overlaps an earlier one");
        }
    }
    maps
}

fn overlap(a: &IdMap, b: &IdMap) -> bool {
    let meet = |a: u32, a_count: u32, b: u32, b_count: u32| {
        a < b.saturating_add(b_count) && b < a.saturating_add(a_count)
    };
    meet(a.inside, a.count, b.inside, b.count) || meet(a.outside, a.count, b.outside, b.count)
}

/// Mappings belong to a new user namespace, and it to them.
fn mappings(namespaces: &mut Namespaces, found: &mut Findings) {
    let given = !namespaces.uid_map.is_empty() || !namespaces.gid_map.is_empty();
    match &namespaces.user {
        Namespace::New => {
            for (field, map) in [
                ("linux.uidMappings", &namespaces.uid_map),
                ("linux.gidMappings", &namespaces.gid_map),
            ] {
                if map.is_empty() {
                    found.refuse_with(
                        field,
                        "a new user namespace needs it",
                        "map at least one id, such as {\"containerID\": 0, \"hostID\": 1000, \"size\": 1}",
                    );
                }
            }
        }
        Namespace::Shared if given => found.refuse_with(
            "linux.uidMappings",
            "mappings are given, but no user namespace to have them",
            "add {\"type\": \"user\"} to linux.namespaces, or leave the mappings out",
        ),
        Namespace::Join(path) if given => {
            let same = mapped_alike(path.as_path(), "uid_map", &namespaces.uid_map)
                && mapped_alike(path.as_path(), "gid_map", &namespaces.gid_map);
            if same {
                // containerd and CRI-O give both, and mean the same by them.
                found.warn("linux.uidMappings", "the joined user namespace has them already");
            } else {
                found.refuse_with(
                    "linux.uidMappings",
                    format!("mappings are given for {path}, which has its own"),
                    "leave the mappings out, or leave the path out for a new user namespace",
                );
            }
            namespaces.uid_map.clear();
            namespaces.gid_map.clear();
        }
        Namespace::Shared | Namespace::Join(_) => {}
    }
}

/// Whether the user namespace at `path` has the mappings `map`. It can be
/// told for `/proc/PID/ns/user` only.
fn mapped_alike(path: &Path, file: &str, map: &[IdMap]) -> bool {
    let process = path.parent().filter(|dir| dir.ends_with("ns")).and_then(Path::parent);
    let Some(text) = process.and_then(|dir| std::fs::read_to_string(dir.join(file)).ok()) else {
        return false;
    };
    let mut lines = text.lines();
    map.iter().all(|map| {
        let line = lines.next().unwrap_or_default();
        line.split_whitespace().map(str::parse).eq([map.inside, map.outside, map.count].map(Ok))
    }) && lines.next().is_none()
}

/// Offsets belong to a new time namespace (OCI config-linux.md, "Offset for
/// Time Namespace"; time_namespaces(7)).
fn clocks(linux: &Linux, namespaces: &Namespaces, facts: &Facts, found: &mut Findings) -> Clocks {
    let mut offsets = (None, None);
    let mut asked: Vec<_> = linux.time_offsets().iter().flatten().collect();
    asked.sort_unstable_by_key(|(clock, _)| *clock);
    for (clock, value) in &asked {
        let field = format!("linux.timeOffsets.{clock}");
        match clock.as_str() {
            "monotonic" => offsets.0 = Some(offset(&field, value, found)),
            "boottime" => offsets.1 = Some(offset(&field, value, found)),
            _ => found.refuse(field, "the clocks with an offset are monotonic and boottime"),
        }
    }
    if namespaces.time != Namespace::New && !asked.is_empty() {
        found.refuse_with(
            "linux.timeOffsets",
            "offsets are given, but no new time namespace to have them",
            "add {\"type\": \"time\"} without a path to linux.namespaces",
        );
    }
    if namespaces.time != Namespace::Shared && facts.kernel < (5, 6) {
        let (major, minor) = facts.kernel;
        found.push(
            Problem::kernel(format!(
                "linux.namespaces: time namespaces need Linux 5.6, this is {major}.{minor}"
            ))
            .hint("take {\"type\": \"time\"} out of linux.namespaces"),
        );
    }
    Clocks::Offsets { monotonic: offsets.0, boottime: offsets.1 }
}

fn offset(field: &str, value: &LinuxTimeOffset, found: &mut Findings) -> (i64, u32) {
    let nanoseconds = value.nanosecs().unwrap_or(0);
    if nanoseconds > 999_999_999 {
        found.refuse(format!("{field}.nanosecs"), format!("{nanoseconds} is a second or more"));
    }
    (value.secs().unwrap_or(0), nanoseconds)
}

/// A caller without CAP_SETGID may map only its own group, and only after
/// setgroups(2) was denied; newgidmap(1) writes any other map, and needs no
/// denial (user_namespaces(7)).
fn must_deny_setgroups(namespaces: &Namespaces, facts: &Facts) -> bool {
    let own_group_only = matches!(
        namespaces.gid_map[..],
        [IdMap { outside, count: 1, .. }] if outside == facts.caller.gid
    );
    let privileged = facts.caller.capabilities & CAP_SETGID != 0;
    namespaces.user == Namespace::New && !privileged && own_group_only
}

fn privilege(namespaces: &Namespaces, facts: &Facts, found: &mut Findings) {
    if namespaces.user == Namespace::Shared && facts.caller.capabilities & CAP_SYS_ADMIN == 0 {
        found.refuse_with(
            "linux.namespaces",
            format!(
                "user {} has no privilege to make namespaces without a user namespace",
                facts.caller.uid
            ),
            "write a configuration for an ordinary user with `denovo spec --rootless`",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts, problems, user};
    use super::*;
    use crate::policy::CText;
    use serde_json::{Value, json};

    fn with(namespaces: Value, linux: Value) -> Value {
        let mut linux = linux;
        linux["namespaces"] = namespaces;
        json!({"linux": linux, "hostname": null, "mounts": [], "process": null})
    }

    fn own(id: u32) -> Value {
        json!([{"containerID": 0, "hostID": id, "size": 1}])
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let mount = json!({"type": "mount"});
        let user = json!({"type": "user"});
        let time = json!({"type": "time"});
        let maps = |uid: Value| json!({"uidMappings": uid, "gidMappings": own(0)});
        let map = |inside: u32, outside: u32, size: u32| json!({"containerID": inside, "hostID": outside, "size": size});
        assert_problems(&[
            (with(json!([user]), maps(own(0))), &["linux.namespaces: a container in another user"]),
            (
                with(json!([mount, {"type": "pid"}, {"type": "pid"}]), json!({})),
                &["linux.namespaces[2].type: "],
            ),
            (
                with(json!([mount, {"type": "network", "path": "run/x"}]), json!({})),
                &["linux.namespaces[1].path: "],
            ),
            (
                with(json!([mount, user]), json!({})),
                &["linux.uidMappings: a new", "linux.gidMappings: a new"],
            ),
            (with(json!([mount]), maps(own(0))), &["linux.uidMappings: mappings"]),
            (
                with(json!([mount, {"type": "user", "path": "/run/none"}]), maps(own(0))),
                &["linux.uidMappings: mappings are given for /run/none"],
            ),
            (with(json!([mount, user]), maps(json!([map(0, 0, 0)]))), &["linux.uidMappings[0]: "]),
            (
                with(json!([mount, user]), maps(json!([map(0, u32::MAX, 1)]))),
                &["linux.uidMappings[0]: "],
            ),
            (
                with(json!([mount, user]), maps(json!([map(0, 0, 10), map(9, 100, 1)]))),
                &["linux.uidMappings[1]: it overlaps"],
            ),
            (
                with(json!([mount, user]), maps(json!([map(0, 0, 10), map(10, 9, 1)]))),
                &["linux.uidMappings[1]: it overlaps"],
            ),
            (
                with(json!([mount]), json!({"timeOffsets": {"monotonic": {"secs": 1}}})),
                &["linux.timeOffsets: "],
            ),
            (
                with(
                    json!([mount, time]),
                    json!({"timeOffsets": {"boottime": {"nanosecs": 1_000_000_000}, "tai": {}}}),
                ),
                &["linux.timeOffsets.boottime.nanosecs: ", "linux.timeOffsets.tai: "],
            ),
        ]);
    }

    #[test]
    fn namespaces_arrive() {
        let listed = json!([{"type": "mount"}, {"type": "network", "path": "/run/netns/a"},
            {"type": "pid", "path": ""}, {"type": "time"}]);
        let linux = json!({"timeOffsets": {"boottime": {"secs": -5, "nanosecs": 7}}});
        let namespaces = checked(with(listed, linux), &facts()).spec.namespaces;
        assert_eq!(namespaces.net, Namespace::Join(CText::lossy("/run/netns/a")));
        assert_eq!(namespaces.pid, Namespace::New);
        assert_eq!(namespaces.ipc, Namespace::Shared);
        let clocks = Clocks::Offsets { monotonic: None, boottime: Some((-5, 7)) };
        assert_eq!(namespaces.clocks, clocks);
    }

    #[test]
    fn root_may_set_groups_and_a_user_only_with_help() {
        let listed = json!([{"type": "mount"}, {"type": "user"}]);
        let linux =
            |gids: Value| json!({"uidMappings": own(1000), "gidMappings": gids, "resources": null});
        let two = json!([{"containerID": 0, "hostID": 100, "size": 1},
            {"containerID": 1, "hostID": 100_000, "size": 65536}]);
        for (facts, gids, denied) in
            [(user(), own(100), true), (user(), two, false), (facts(), own(100), false)]
        {
            let config = with(listed.clone(), linux(gids));
            assert_eq!(checked(config, &facts).spec.namespaces.deny_setgroups, denied);
        }
    }

    #[test]
    fn a_user_without_a_user_namespace_gets_one_problem() {
        let found = problems(json!({}), &user());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("linux.namespaces: user 1000 has no privilege"));
    }

    #[test]
    fn a_kernel_without_time_namespaces_is_said_so() {
        let mut facts = facts();
        facts.kernel = (5, 4);
        let found = problems(with(json!([{"type": "mount"}, {"type": "time"}]), json!({})), &facts);
        assert_eq!(found, ["linux.namespaces: time namespaces need Linux 5.6, this is 5.4"]);
    }

    #[test]
    fn mappings_that_the_joined_namespace_has_are_accepted() {
        let text = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        let own: Vec<u32> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let map = [IdMap { inside: own[0], outside: own[1], count: own[2] }];
        assert!(mapped_alike(Path::new("/proc/self/ns/user"), "uid_map", &map));
        assert!(!mapped_alike(Path::new("/proc/self/ns/user"), "uid_map", &[]));
        assert!(!mapped_alike(Path::new("/run/none"), "uid_map", &map));
    }
}
