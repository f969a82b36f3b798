//! What `denovo spec` writes: a config.json to start from, of the same
//! content as `runc spec` writes.

use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, Linux, LinuxBuilder, LinuxDeviceCgroupBuilder, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxResourcesBuilder, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Root,
    RootBuilder, User, get_default_maskedpaths, get_default_mounts, get_default_readonly_paths,
    get_rootless_mounts,
};
use serde::Serialize;

/// The version of the OCI runtime specification that is written.
pub const OCI_VERSION: &str = "1.2.0";

/// For whom the configuration is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct For {
    /// Uid and gid of an unprivileged caller, who becomes root in a user
    /// namespace; `None` for root.
    pub rootless: Option<(u32, u32)>,
    /// The node has cgroup v2 only, where a cgroup namespace belongs to it.
    pub unified_cgroups: bool,
}

/// The configuration as JSON, indented with tabs, with a newline at the end.
pub fn default_config(target: For) -> String {
    let mut json = Vec::with_capacity(4096);
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut json, format);
    // Writing into memory cannot fail, and every key is a string.
    let _ = document(target).serialize(&mut writer);
    json.push(b'\n');
    String::from_utf8(json).unwrap_or_default()
}

/// oci-spec keeps capabilities in hash sets, which would come out in another
/// order each time; so the frame is ours and its parts are the crate's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    oci_version: &'static str,
    process: Process,
    root: Root,
    hostname: &'static str,
    mounts: Vec<Mount>,
    linux: Linux,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    terminal: bool,
    user: User,
    args: [&'static str; 1],
    env: [&'static str; 2],
    cwd: &'static str,
    capabilities: CapabilitySets,
    rlimits: Vec<PosixRlimit>,
    no_new_privileges: bool,
}

/// No inheritable set (CVE-2022-29162), hence no ambient one either.
#[derive(Serialize)]
struct CapabilitySets {
    bounding: [Capability; 3],
    effective: [Capability; 3],
    permitted: [Capability; 3],
}

fn document(target: For) -> Document {
    Document {
        oci_version: OCI_VERSION,
        process: process(),
        root: RootBuilder::default().path("rootfs").readonly(true).build().unwrap_or_default(),
        hostname: "denovo",
        mounts: match target.rootless {
            None => get_default_mounts(),
            Some(_) => rootless_mounts(),
        },
        linux: linux(target),
    }
}

fn process() -> Process {
    let kept = [Capability::AuditWrite, Capability::Kill, Capability::NetBindService];
    let files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .hard(1024u64)
        .soft(1024u64)
        .build();
    Process {
        terminal: true,
        user: User::default(),
        args: ["sh"],
        env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        cwd: "/",
        capabilities: CapabilitySets { bounding: kept, effective: kept, permitted: kept },
        rlimits: files.into_iter().collect(),
        no_new_privileges: true,
    }
}

/// A user namespace on the node's network can mount neither sysfs nor a
/// devpts for a group that it lacks; the crate's rootless mounts see to both,
/// but leave the host's sysfs without its options.
fn rootless_mounts() -> Vec<Mount> {
    let mut mounts = get_rootless_mounts();
    for mount in &mut mounts {
        if mount.destination().as_os_str() == "/sys" {
            let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
            mount.set_source(Some(PathBuf::from("/sys")));
            mount.set_options(Some(options.map(String::from).to_vec()));
        }
    }
    mounts
}

fn linux(target: For) -> Linux {
    let frame = LinuxBuilder::default()
        .namespaces(namespaces(target))
        .masked_paths(masked_paths())
        .readonly_paths(get_default_readonly_paths());
    let mut linux = match target.rootless {
        None => {
            let deny_all = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build();
            let rules: Vec<_> = deny_all.into_iter().collect();
            let resources = LinuxResourcesBuilder::default().devices(rules).build();
            frame.resources(resources.unwrap_or_default()).build().unwrap_or_default()
        }
        Some((uid, gid)) => frame
            .uid_mappings(vec![own_id_as_root(uid)])
            .gid_mappings(vec![own_id_as_root(gid)])
            .build()
            .unwrap_or_default(),
    };
    if target.rootless.is_some() {
        linux.set_resources(None);
    }
    linux
}

fn own_id_as_root(id: u32) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default()
        .container_id(0u32)
        .host_id(id)
        .size(1u32)
        .build()
        .unwrap_or_default()
}

fn namespaces(target: For) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType as Kind;
    let rootless = target.rootless.is_some();
    let wanted = [
        (Kind::Pid, true),
        (Kind::Network, !rootless),
        (Kind::Ipc, true),
        (Kind::Uts, true),
        (Kind::Mount, true),
        (Kind::Cgroup, target.unified_cgroups),
        (Kind::User, rootless),
    ];
    wanted
        .into_iter()
        .filter(|(_, wanted)| *wanted)
        .filter_map(|(kind, _)| LinuxNamespaceBuilder::default().typ(kind).build().ok())
        .collect()
}

/// The crate's, and the energy counters of CPUs, by which one can tell what
/// a neighbour computes (GHSA-7ww5-4wqc-m92c).
fn masked_paths() -> Vec<String> {
    let mut paths = get_default_maskedpaths();
    paths.push("/sys/devices/virtual/powercap".into());
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn written(target: For) -> Value {
        serde_json::from_str(&default_config(target)).unwrap()
    }

    fn kinds(config: &Value) -> Vec<&str> {
        let list = config["linux"]["namespaces"].as_array().unwrap();
        list.iter().map(|n| n["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn for_root_it_says_what_runc_says() {
        let config = written(For::default());
        assert_eq!(config["process"]["args"], json!(["sh"]));
        assert_eq!(config["process"]["user"], json!({"uid": 0, "gid": 0}));
        let kept = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
        let sets = json!({"bounding": kept, "effective": kept, "permitted": kept});
        assert_eq!(config["process"]["capabilities"], sets);
        let files = json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]);
        assert_eq!(config["process"]["rlimits"], files);
        assert_eq!(config["root"], json!({"path": "rootfs", "readonly": true}));
        assert_eq!(config["hostname"], "denovo");
        assert_eq!(config["mounts"].as_array().unwrap().len(), 7);
        let devices = json!({"devices": [{"allow": false, "access": "rwm"}]});
        assert_eq!(config["linux"]["resources"], devices);
        assert_eq!(config["linux"]["maskedPaths"].as_array().unwrap().len(), 11);
        assert_eq!(config["linux"]["readonlyPaths"].as_array().unwrap().len(), 5);
        assert_eq!(kinds(&config), ["pid", "network", "ipc", "uts", "mount"]);
    }

    #[test]
    fn a_node_with_cgroup_v2_gets_a_cgroup_namespace() {
        let config = written(For { unified_cgroups: true, rootless: None });
        assert_eq!(kinds(&config), ["pid", "network", "ipc", "uts", "mount", "cgroup"]);
    }

    #[test]
    fn for_a_user_it_is_made_of_what_a_user_may() {
        let config = written(For { rootless: Some((1000, 100)), unified_cgroups: false });
        let linux = &config["linux"];
        assert_eq!(linux["uidMappings"], json!([{"containerID": 0, "hostID": 1000, "size": 1}]));
        assert_eq!(linux["gidMappings"], json!([{"containerID": 0, "hostID": 100, "size": 1}]));
        assert_eq!(linux.get("resources"), None);
        assert_eq!(kinds(&config), ["pid", "ipc", "uts", "mount", "user"]);
        let sys = &config["mounts"][5];
        assert_eq!(sys["source"], "/sys");
        assert_eq!(sys["type"], "none");
        assert_eq!(sys["options"], json!(["rbind", "nosuid", "noexec", "nodev", "ro"]));
        assert!(!config["mounts"].to_string().contains("gid=5"));
    }

    #[test]
    fn it_comes_out_the_same_each_time() {
        assert_eq!(default_config(For::default()), default_config(For::default()));
        assert!(default_config(For::default()).starts_with("{\n\t\"ociVersion\": \"1.2.0\",\n"));
    }
}
