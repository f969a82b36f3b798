//! Id-mapped mounts (OCI config.md, "Mounts": `idmap`, `ridmap`,
//! `uidMappings`, `gidMappings`).

use oci_spec::runtime::Mount as Asked;

use super::CAP_SYS_ADMIN;
use super::findings::Findings;
use super::mount_options::Options;
use super::namespaces::id_maps;
use crate::host::Facts;
use crate::policy::spec::{IdMaps, MountIds, MountSource, Namespace, Namespaces};
use crate::problem::Problem;

/// `idmap` and `ridmap`, or mappings alone, as runc takes them (OCI
/// config.md, "idmap"): without mappings those of the container count.
pub(super) fn check(
    field: &str,
    asked: &Asked,
    options: &Options,
    source: &MountSource,
    namespaces: &Namespaces,
    facts: &Facts,
    found: &mut Findings,
) -> Option<MountIds> {
    let fields = ["uidMappings", "gidMappings"].map(|name| format!("{field}.{name}"));
    let uid = id_maps(&fields[0], asked.uid_mappings(), found);
    let gid = id_maps(&fields[1], asked.gid_mappings(), found);
    if options.id_map.is_none() && uid.is_empty() && gid.is_empty() {
        return None;
    }
    may_map_ids(field, source, facts, found);
    let maps = match (uid.is_empty(), gid.is_empty(), &namespaces.user) {
        (false, false, _) => IdMaps::Given { uid, gid },
        (true, true, Namespace::New) => {
            IdMaps::Given { uid: namespaces.uid_map.clone(), gid: namespaces.gid_map.clone() }
        }
        (true, true, Namespace::Join(path)) => IdMaps::Of(path.clone()),
        (true, true, Namespace::Shared) => {
            found.refuse_with(
                format_args!("{field}.options"),
                "idmap needs mappings, and the container has no user namespace to take them from",
                "give uidMappings and gidMappings on the mount",
            );
            return None;
        }
        (uid_missing, ..) => {
            let missing = &fields[usize::from(!uid_missing)];
            found.refuse(missing, "is missing; an id-mapped mount needs both maps");
            return None;
        }
    };
    Some(MountIds { maps, recursive: options.id_map.unwrap_or(false) })
}

fn may_map_ids(field: &str, source: &MountSource, facts: &Facts, found: &mut Findings) {
    let field = format!("{field}.options");
    if !matches!(source, MountSource::Bind { .. }) {
        // As in runc: a new file system has no owners to map yet.
        found.refuse(&field, "only a bind mount can be id-mapped");
    }
    let (major, minor) = facts.kernel;
    if facts.kernel < (5, 12) {
        found.push(
            Problem::kernel(format!(
                "{field}: id-mapped mounts need Linux 5.12, this is {major}.{minor}"
            ))
            .hint("bind it as it is, and change the owners of its files"),
        );
    }
    if facts.caller.capabilities & CAP_SYS_ADMIN == 0 || facts.caller.nested {
        found.push(
            Problem::site(format!(
                "{field}: the kernel lets only root of the node make id-mapped mounts"
            ))
            .hint("run denovo as root, or bind it as it is"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{checked, facts, problems};
    use super::*;
    use crate::policy::spec::{Fixture, Mount};
    use serde_json::{Value, json};

    fn mount(config: Value) -> Mount {
        match checked(config, &facts()).spec.fixtures.remove(0) {
            Fixture::Mount(mount) => mount,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn owners_are_mapped_as_asked_or_as_the_container_is() {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 5}]);
        let one = vec![crate::policy::spec::IdMap { inside: 0, outside: 1000, count: 5 }];
        let given = Some(IdMaps::Given { uid: one.clone(), gid: one });
        for (options, mappings, expected) in [
            (json!(["bind"]), map.clone(), Some(false)),
            (json!(["bind", "idmap"]), map.clone(), Some(false)),
            (json!(["rbind", "ridmap"]), map.clone(), Some(true)),
            (json!(["bind"]), json!([]), None),
        ] {
            let mount = mount(json!({"mounts": [{"destination": "/a", "source": "/b",
                "options": options, "uidMappings": mappings, "gidMappings": mappings}]}));
            assert_eq!(mount.id_map.as_ref().map(|m| m.recursive), expected);
            assert_eq!(mount.id_map.map(|m| m.maps), expected.and(given.clone()));
        }
        let mounts = json!([{"destination": "/a", "source": "/b", "options": ["bind", "idmap"]}]);
        let config = json!({"mounts": mounts, "linux": {"uidMappings": map, "gidMappings": map,
            "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "user"}]}});
        let Fixture::Mount(mount) = checked(config.clone(), &facts()).spec.fixtures.remove(0)
        else {
            panic!("no mount")
        };
        assert_eq!(mount.id_map.map(|m| m.maps), given);
        let mut weak = facts();
        weak.caller.nested = true;
        let found = problems(config, &weak);
        assert!(found.iter().any(|f| f.contains("only root of the node")), "{found:?}");
    }
}
