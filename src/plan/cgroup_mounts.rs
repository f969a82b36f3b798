//! What the OCI mount type `cgroup` stands for on this node.

use crate::host::Facts;
use crate::policy::spec::{Fixture, Mount, MountAttributes, MountSource};
use crate::policy::text::CText;

/// The mounts that show an environment its own control groups.
///
/// With a cgroup namespace each hierarchy is mounted anew and shows the
/// environment's group as its root (cgroup_namespaces(7)); without one its
/// group is bound in, read-only: an environment without a namespace must not
/// write into the node's groups (CVE-2023-25809).
///
/// # Arguments
/// * `path` - the environment's group below the mount of each hierarchy
pub fn mounts(
    wanted: &Mount,
    facts: &Facts,
    own_namespace: bool,
    path: Option<&str>,
) -> Vec<Fixture> {
    let MountSource::Cgroup = wanted.source else { return vec![Fixture::Mount(wanted.clone())] };
    if !own_namespace {
        return path.map_or_else(Vec::new, |path| own_groups(wanted, facts, path));
    }
    let groups = &facts.cgroups;
    if groups.v1.is_empty() {
        return vec![one("cgroup2", "cgroup2", "", wanted, wanted.destination.clone())];
    }
    let mut fixtures = vec![tmpfs(wanted)];
    for hierarchy in &groups.v1 {
        let data = hierarchy.controllers.join(",");
        let name = hierarchy.mount.file_name().map(|n| n.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| data.replace("name=", ""));
        let at = below(&wanted.destination, &name);
        let data = if data.starts_with("name=") { format!("none,{data}") } else { data };
        fixtures.push(one("cgroup", "cgroup", &data, wanted, at));
        if hierarchy.controllers.len() > 1 {
            fixtures.extend(hierarchy.controllers.iter().filter(|c| **c != name).map(|c| {
                Fixture::Symlink {
                    path: below(&wanted.destination, c),
                    target: CText::lossy(name.clone()),
                }
            }));
        }
    }
    if groups.v2.is_some() {
        let at = below(&wanted.destination, "unified");
        fixtures.push(one("cgroup2", "cgroup2", "", wanted, at));
    }
    fixtures
}

fn below(dir: &CText, name: &str) -> CText {
    CText::lossy(format!("{}/{name}", dir.to_string_lossy()))
}

/// Attributes that mount(2) takes as flags; the two sets share these bits'
/// meaning, not their values.
fn flags_of(attributes: MountAttributes) -> u64 {
    let pairs = [
        (libc::MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
        (libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
        (libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
        (libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
    ];
    pairs.iter().filter(|(a, _)| attributes.set & a != 0).map(|(_, f)| f).sum()
}

fn one(fstype: &str, source: &str, data: &str, wanted: &Mount, at: CText) -> Fixture {
    let source = MountSource::New {
        fstype: CText::lossy(fstype),
        source: CText::lossy(source),
        // Read-only by attribute, not by file system flag: the superblock of
        // a hierarchy is shared by the whole node and cannot change.
        flags: flags_of(wanted.attributes) & !libc::MS_RDONLY,
        data: CText::lossy(data),
        copy_up: false,
    };
    Fixture::Mount(Mount { destination: at, source, optional: false, ..wanted.clone() })
}

fn tmpfs(wanted: &Mount) -> Fixture {
    let source = MountSource::New {
        fstype: CText::lossy("tmpfs"),
        source: CText::lossy("tmpfs"),
        flags: libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        data: CText::lossy("mode=755,size=64k"),
        copy_up: false,
    };
    Fixture::Mount(Mount { source, attributes: MountAttributes::default(), ..wanted.clone() })
}

/// The environment's group in each hierarchy, bound where it is looked for.
fn own_groups(wanted: &Mount, facts: &Facts, path: &str) -> Vec<Fixture> {
    let groups = &facts.cgroups;
    let bind = |mount: &std::path::Path, at: CText| {
        let mut attributes = wanted.attributes;
        attributes.set_recursive |= libc::MOUNT_ATTR_RDONLY;
        let source = CText::lossy(mount.join(path).as_os_str().as_encoded_bytes());
        let source = MountSource::Bind { path: source, recursive: true };
        // A caller without groups of its own has none to show.
        Fixture::Mount(Mount {
            destination: at,
            source,
            attributes,
            optional: true,
            ..wanted.clone()
        })
    };
    if groups.v1.is_empty() {
        let v2 = groups.v2.iter();
        return v2.map(|v2| bind(&v2.mount, wanted.destination.clone())).collect();
    }
    let mut fixtures = vec![tmpfs(wanted)];
    for hierarchy in &groups.v1 {
        let name = hierarchy.mount.file_name().map(|n| n.to_string_lossy().into_owned());
        let at = below(&wanted.destination, &name.unwrap_or_default());
        fixtures.push(bind(&hierarchy.mount, at));
    }
    fixtures
        .extend(groups.v2.iter().map(|v2| bind(&v2.mount, below(&wanted.destination, "unified"))));
    fixtures
}
