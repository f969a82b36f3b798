//! `mounts` (OCI config.md, "Mounts").

use std::path::Path;

use oci_spec::runtime::Mount as Asked;

use super::CAP_SYS_ADMIN;
use super::findings::Findings;
use super::mount_ids;
use super::mount_options::{self, Options};
use super::namespaces::maps;
use super::paths::{below, normalise};
use crate::host::Facts;
use crate::policy::CText;
use crate::policy::spec::{Mount, MountAttributes, MountSource, Namespace, Namespaces};
use crate::request::oci::Bundle;
use crate::request::root::clean;

/// Files below /proc that may be covered: what lxcfs emulates, and what
/// checkpointing needs (runc's list). A mount anywhere else in there could
/// swallow or redirect the runtime's own writes (CVE-2019-16884).
const COVERABLE: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// mount(2) copies at most a page of data, the NUL at its end included.
const LONGEST_DATA: usize = 4095;

/// The mounts, in the order in which they are listed.
pub(super) fn check(
    bundle: &Bundle,
    namespaces: &Namespaces,
    facts: &Facts,
    found: &mut Findings,
) -> Vec<Mount> {
    let mut mounts = Vec::new();
    let linux = bundle.config.linux().as_ref();
    let label = linux.and_then(|linux| super::labels::mount(linux, found));
    for (index, asked) in bundle.config.mounts().iter().flatten().enumerate() {
        let mut one = One { field: format!("mounts[{index}]"), asked, found: &mut *found };
        if let Some(mount) = one.check(&bundle.dir, namespaces, facts) {
            mounts.push(labelled(mount, label.as_ref()));
        }
    }
    mounts
}

/// What is the kernel's own view has its labels from the policy; a message
/// queue takes one only once it is mounted; all else takes it as an option,
/// as runc gives it.
fn labelled(mut mount: Mount, label: Option<&CText>) -> Mount {
    let MountSource::New { fstype, data, .. } = &mut mount.source else { return mount };
    let Some(label) = label else { return mount };
    match fstype.as_bytes() {
        b"proc" | b"sysfs" | b"cgroup" | b"cgroup2" => {}
        b"mqueue" => mount.label = Some(label.clone()),
        _ => {
            let comma = if data.is_empty() { "" } else { "," };
            *data = CText::lossy(format!("{data}{comma}context=\"{label}\""));
        }
    }
    mount
}

/// Whether the container's /dev is one from outside, which stays as it is.
pub(super) fn binds_dev(mount: &Mount) -> bool {
    mount.destination.as_bytes() == b"/dev" && matches!(mount.source, MountSource::Bind { .. })
}

/// One entry, and where it stands.
struct One<'a> {
    field: String,
    asked: &'a Asked,
    found: &'a mut Findings,
}

impl One<'_> {
    fn check(&mut self, dir: &Path, namespaces: &Namespaces, facts: &Facts) -> Option<Mount> {
        let destination = self.destination()?;
        let options = mount_options::parse(self.asked.options().as_deref().unwrap_or_default());
        let fstype = self.asked.typ().as_deref().unwrap_or_default();
        // crun takes the type for the option as well.
        let bind = options.bind.or((fstype == "bind").then_some(false));
        let source = match bind {
            Some(recursive) => self.bind(dir, recursive, &options)?,
            None if fstype == "cgroup" => self.cgroup(&options),
            None => self.fresh(fstype, &options, namespaces, facts)?,
        };
        self.proc(&destination, fstype, &source);
        let id_map = mount_ids::check(
            &self.field,
            self.asked,
            &options,
            &source,
            namespaces,
            facts,
            self.found,
        );
        let mut attributes = options.attributes;
        if matches!(source, MountSource::New { .. }) {
            // mount(2) has them as flags already.
            attributes = MountAttributes { set: 0, clear: 0, ..attributes };
        }
        Some(Mount {
            destination: self.found.text(format_args!("{}.destination", self.field), &destination),
            source,
            attributes,
            propagation: options.propagation,
            optional: false,
            id_map,
            label: None,
        })
    }

    fn refuse(&mut self, field: &str, reason: impl std::fmt::Display) {
        self.found.refuse(format_args!("{}.{field}", self.field), reason);
    }

    /// A relative path means one below `/` (OCI config.md, deprecated there).
    fn destination(&mut self) -> Option<String> {
        let path = self.asked.destination().to_string_lossy();
        let relative = !path.is_empty() && !path.starts_with('/');
        if relative {
            let field = format!("{}.destination", self.field);
            self.found.warn(field, format!("{path:?} is not absolute; taken as below /"));
        }
        match normalise(&if relative { format!("/{path}") } else { path.clone().into_owned() }) {
            Ok(clean) if clean == "/" => self.refuse("destination", "is the root itself"),
            Ok(clean) => return Some(clean),
            Err(reason) => self.refuse("destination", format!("{path:?} {reason}")),
        }
        None
    }

    fn bind(&mut self, dir: &Path, recursive: bool, options: &Options) -> Option<MountSource> {
        self.not_tmpfs(options);
        if !options.data.is_empty() {
            // The kernel ignores them (mount(2), `MS_BIND`), and so do callers
            // that give them.
            let data = options.data.join(",");
            let field = format!("{}.options", self.field);
            self.found
                .warn(field, format!("a bind mount has none of a file system: {data} ignored"));
        }
        self.whole_ignored(options);
        let source = self.asked.source().as_ref().filter(|s| !s.as_os_str().is_empty());
        let Some(source) = source else {
            self.refuse("source", "a bind mount needs it");
            return None;
        };
        let path = if source.is_absolute() { source.clone() } else { clean(&dir.join(source)) };
        let path = self.found.text(format_args!("{}.source", self.field), &path.to_string_lossy());
        Some(MountSource::Bind { path, recursive })
    }

    fn cgroup(&mut self, options: &Options) -> MountSource {
        self.not_tmpfs(options);
        self.whole_ignored(options);
        if !options.data.is_empty() {
            let data = options.data.join(",");
            let field = format!("{}.options", self.field);
            self.found.warn(field, format!("{data} has no effect on a cgroup mount; ignored"));
        }
        MountSource::Cgroup
    }

    fn fresh(
        &mut self,
        fstype: &str,
        options: &Options,
        namespaces: &Namespaces,
        facts: &Facts,
    ) -> Option<MountSource> {
        if fstype.is_empty() || fstype == "none" {
            self.found.refuse_with(
                format_args!("{}.type", self.field),
                "no file system type is given",
                "name a type such as tmpfs, or add the option rbind for a bind mount",
            );
            return None;
        }
        if fstype != "tmpfs" {
            self.not_tmpfs(options);
        }
        if fstype == "sysfs" {
            self.sysfs(namespaces, facts);
        }
        self.mapped_ids(options, namespaces);
        let data = options.data.join(",");
        if data.len() > LONGEST_DATA {
            self.refuse("options", "are longer than the page of data that mount(2) takes");
        }
        let source = self.asked.source().as_deref().map(Path::to_string_lossy).unwrap_or_default();
        let source = if source.is_empty() { fstype } else { &source };
        Some(MountSource::New {
            fstype: self.found.text(format_args!("{}.type", self.field), fstype),
            source: self.found.text(format_args!("{}.source", self.field), source),
            flags: options.flags,
            data: self.found.text(format_args!("{}.options", self.field), &data),
            copy_up: options.copy_up,
        })
    }

    fn not_tmpfs(&mut self, options: &Options) {
        if options.copy_up {
            self.refuse("options", "tmpcopyup is for mounts of type tmpfs");
        }
    }

    fn whole_ignored(&mut self, options: &Options) {
        if !options.whole.is_empty() {
            let words = options.whole.join(", ");
            let field = format!("{}.options", self.field);
            self.found.warn(field, format!("{words} cannot be set on this mount alone; ignored"));
        }
    }

    /// sysfs can be mounted only by who owns the network namespace.
    fn sysfs(&mut self, namespaces: &Namespaces, facts: &Facts) {
        let user = facts.caller.capabilities & CAP_SYS_ADMIN == 0;
        if user && namespaces.user == Namespace::New && namespaces.net == Namespace::Shared {
            self.found.refuse_with(
                format_args!("{}.type", self.field),
                "a user cannot mount sysfs on the node's network",
                "bind it (\"source\": \"/sys\", \"options\": [\"rbind\", \"ro\"]), or add \
                 {\"type\": \"network\"} to linux.namespaces",
            );
        }
    }

    /// The kernel answers an unmapped owner with a bare EINVAL.
    fn mapped_ids(&mut self, options: &Options, namespaces: &Namespaces) {
        for option in &options.data {
            let (map, id) = match option.split_once('=') {
                Some(("uid", id)) => (&namespaces.uid_map, id),
                Some(("gid", id)) => (&namespaces.gid_map, id),
                _ => continue,
            };
            let unmapped = id.parse().is_ok_and(|id| !map.is_empty() && !maps(map, id));
            if unmapped {
                self.found.refuse_with(
                    format_args!("{}.options", self.field),
                    format!("{option} does not exist in the container's user namespace"),
                    "leave the option out, or map the id",
                );
            }
        }
    }

    fn proc(&mut self, destination: &str, fstype: &str, source: &MountSource) {
        let allowed = match source {
            _ if below(destination, "/proc") => COVERABLE.contains(&destination),
            MountSource::Bind { path, .. } => is_proc(path),
            MountSource::New { .. } => fstype == "proc",
            MountSource::Cgroup => false,
        };
        if allowed || !(destination == "/proc" || below(destination, "/proc")) {
            return;
        }
        let reason = match destination {
            "/proc" => "only a proc file system may be mounted there".to_owned(),
            path => format!("{path} is inside /proc, which nothing may cover"),
        };
        self.refuse("destination", reason);
    }
}

fn is_proc(path: &CText) -> bool {
    normalise(&path.to_string_lossy()).is_ok_and(|path| path == "/proc")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts, problems, user};
    use super::*;
    use crate::policy::spec::Fixture;
    use serde_json::{Value, json};

    fn with(mount: Value) -> Value {
        json!({"mounts": [mount]})
    }

    fn mount(mount: Value) -> Mount {
        match checked(with(mount), &facts()).spec.fixtures.remove(0) {
            Fixture::Mount(mount) => mount,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let at = |destination: &str| with(json!({"destination": destination, "type": "tmpfs"}));
        let bind =
            |options: Value| with(json!({"destination": "/a", "source": "/b", "options": options}));
        let map = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        assert_problems(&[
            (at(""), &["mounts[0].destination: \"\" is empty"]),
            (at("/"), &["mounts[0].destination: is the root"]),
            (at("/a/../b"), &["mounts[0].destination: "]),
            (at("../b"), &["mounts[0].destination: "]),
            (at("/a\u{0}"), &["mounts[0].destination: "]),
            (at("/proc"), &["mounts[0].destination: only a proc"]),
            (at("/proc/self"), &["mounts[0].destination: /proc/self is inside"]),
            (at("//proc/./sys/"), &["mounts[0].destination: /proc/sys is inside"]),
            (at("/proc/uptime"), &[]),
            (at("/process"), &[]),
            (with(json!({"destination": "/a"})), &["mounts[0].type: "]),
            (with(json!({"destination": "/a", "type": "none"})), &["mounts[0].type: "]),
            (bind(json!(["rbind", "size=1m"])), &[]),
            (bind(json!(["bind", "tmpcopyup"])), &["mounts[0].options: tmpcopyup"]),
            (bind(json!(["bind", "idmap"])), &["mounts[0].options: idmap needs mappings"]),
            (with(json!({"destination": "/a", "options": ["bind"]})), &["mounts[0].source: "]),
            (
                with(json!({"destination": "/proc", "source": "/tmp", "options": ["bind"]})),
                &["mounts[0].destination: only a proc"],
            ),
            (
                with(json!({"destination": "/a", "source": "/b", "options": ["bind"],
                    "uidMappings": map})),
                &["mounts[0].gidMappings: is missing"],
            ),
            (
                with(json!({"destination": "/a", "source": "/b", "options": ["bind"],
                    "gidMappings": map})),
                &["mounts[0].uidMappings: is missing"],
            ),
            (
                with(json!({"destination": "/a", "type": "tmpfs",
                    "uidMappings": map, "gidMappings": map})),
                &["mounts[0].options: only a bind mount"],
            ),
            (
                with(json!({"destination": "/a", "source": "/b", "options": ["bind"],
                    "uidMappings": [{"containerID": 0, "hostID": 0, "size": 0}],
                    "gidMappings": map})),
                &["mounts[0].uidMappings[0]: its size"],
            ),
            (
                with(json!({"destination": "/a", "type": "tmpfs", "options": ["x".repeat(4096)]})),
                &["mounts[0].options: are longer"],
            ),
            (
                with(json!({"destination": "/a", "type": "proc", "options": ["tmpcopyup"]})),
                &["mounts[0].options: tmpcopyup"],
            ),
        ]);
    }

    #[test]
    fn a_new_file_system_has_flags() {
        let mount = mount(json!({"destination": "dev/./shm/", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "ro", "mode=1777", "rnodev", "size=64m", "tmpcopyup", "slave"]}));
        assert_eq!(mount.destination, CText::lossy("/dev/shm"));
        let MountSource::New { fstype, source, flags, data, copy_up } = mount.source else {
            panic!("not new")
        };
        assert_eq!((fstype, source), (CText::lossy("tmpfs"), CText::lossy("shm")));
        assert_eq!((flags, data, copy_up), (3, CText::lossy("mode=1777,size=64m"), true));
        let recursive = MountAttributes { set_recursive: 4, ..MountAttributes::default() };
        assert_eq!(mount.attributes, recursive);
        assert_eq!(mount.propagation, [1 << 19]);
    }

    #[test]
    fn a_bind_has_attributes_and_a_source_in_the_bundle() {
        let mount = mount(json!({"destination": "/a", "type": "none", "source": "./x/../data",
            "options": ["rbind", "ro", "noatime"]}));
        let MountSource::Bind { path, recursive } = mount.source else { panic!("no bind") };
        assert_eq!((path, recursive), (CText::lossy("/bundle/data"), true));
        let attributes = MountAttributes { set: 0x11, clear: 0x70, ..MountAttributes::default() };
        assert_eq!(mount.attributes, attributes);
    }

    #[test]
    fn the_type_bind_is_a_bind_and_a_cgroup_is_the_containers_own() {
        let bind = mount(json!({"destination": "/a", "type": "bind", "source": "/b"}));
        assert!(matches!(bind.source, MountSource::Bind { recursive: false, .. }));
        let cgroup = mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
            "options": ["ro", "relatime"]}));
        assert!(matches!(cgroup.source, MountSource::Cgroup));
        let attributes = MountAttributes { set: 1, clear: 0x70, ..MountAttributes::default() };
        assert_eq!(cgroup.attributes, attributes);
        let proc = mount(json!({"destination": "/proc", "source": "/proc", "options": ["rbind"]}));
        assert!(matches!(proc.source, MountSource::Bind { .. }));
    }

    #[test]
    fn a_label_goes_where_the_file_system_takes_it() {
        let label = CText::lossy("a:b:c:s0:c1,c2");
        for (fstype, options, data, later) in [
            ("tmpfs", json!(["size=1m"]), "size=1m,context=\"a:b:c:s0:c1,c2\"", false),
            ("devpts", json!([]), "context=\"a:b:c:s0:c1,c2\"", false),
            ("proc", json!([]), "", false),
            ("mqueue", json!([]), "", true),
        ] {
            let destination = if fstype == "proc" { "/proc" } else { "/a" };
            let mount =
                mount(json!({"destination": destination, "type": fstype, "options": options}));
            let mount = labelled(mount, Some(&label));
            let MountSource::New { data: found, .. } = &mount.source else { panic!("not new") };
            assert_eq!((found.to_string_lossy().as_str(), mount.label.is_some()), (data, later));
        }
    }

    #[test]
    fn what_has_no_effect_is_warned_about() {
        let config = with(json!({"destination": "a", "source": "/b",
            "options": ["bind", "sync", "async"]}));
        let warnings = checked(config, &facts()).warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("mounts[0].destination: "), "{warnings:?}");
        assert!(warnings[1].starts_with("mounts[0].options: sync "), "{warnings:?}");
    }

    #[test]
    fn a_bound_dev_is_left_alone() {
        let config = with(json!({"destination": "/dev/", "source": "/dev", "options": ["rbind"]}));
        let spec = checked(config, &facts()).spec;
        assert!(!spec.own_dev);
        assert!(spec.devices.is_empty());
    }

    #[test]
    fn what_a_users_namespace_cannot_mount_is_named() {
        let config = json!({
            "mounts": [
                {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
                {"destination": "/dev/pts", "type": "devpts", "options": ["gid=5", "uid=0"]}
            ],
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "user"}],
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
                "gidMappings": [{"containerID": 0, "hostID": 100, "size": 1}],
                "resources": null
            }
        });
        let found = problems(config, &user());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("mounts[0].type: a user cannot mount sysfs"));
        assert!(found[1].starts_with("mounts[1].options: gid=5 does not exist"));
    }
}
