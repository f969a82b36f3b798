//! `linux.sysctl`: only what belongs to a namespace of the container
//! (OCI config-linux.md, "Sysctl"; namespaces(7)). /proc/sys does not keep the
//! rest apart, so writing it would change the node (CVE-2022-0811).

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci_spec::runtime::Linux;

use super::findings::Findings;
use crate::policy::CText;
use crate::policy::spec::{Namespace, Namespaces};

/// What belongs to the ipc namespace, besides `fs.mqueue.*`.
const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Paths relative to /proc/sys with their values, in the order of the names.
pub(super) fn check(
    linux: &Linux,
    namespaces: &Namespaces,
    found: &mut Findings,
) -> Vec<(CText, CText)> {
    let mut asked: Vec<_> = linux.sysctl().iter().flatten().collect();
    asked.sort_unstable();
    let mut written = Vec::with_capacity(asked.len());
    for (name, value) in asked {
        let field = format!("linux.sysctl.{name}");
        if let Err((reason, hint)) = allowed(name, namespaces) {
            found.refuse_with(&field, reason, hint);
        }
        let path = found.text(&field, &name.replace('.', "/"));
        written.push((path, found.text(&field, value)));
    }
    written
}

/// Whether `name` may be set, or else the reason and a hint.
fn allowed(name: &str, namespaces: &Namespaces) -> Result<(), (&'static str, &'static str)> {
    // An empty part is a path's "//", and of two dots would be made "..".
    if name.contains(['/', '\0']) || name.split('.').any(str::is_empty) {
        return Err(("is no name of a sysctl", "write it with dots, such as net.ipv4.ip_forward"));
    }
    let own = |namespace: &Namespace| *namespace != Namespace::Shared;
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        let hint = "add {\"type\": \"ipc\"} to linux.namespaces, or leave it out";
        return own(&namespaces.ipc).then_some(()).ok_or(("would change the node's ipc", hint));
    }
    if name.starts_with("net.") {
        let hint = "add {\"type\": \"network\"} to linux.namespaces, or leave it out";
        return match &namespaces.net {
            Namespace::New => Ok(()),
            Namespace::Join(path) if not_ours(path.as_path(), "net") => Ok(()),
            _ => Err(("would change the node's network", hint)),
        };
    }
    if name.starts_with("user.") {
        let hint = "add {\"type\": \"user\"} to linux.namespaces, or leave it out";
        return own(&namespaces.user).then_some(()).ok_or(("would change the node's users", hint));
    }
    match name {
        "kernel.domainname" if own(&namespaces.uts) => Ok(()),
        "kernel.hostname" if own(&namespaces.uts) => {
            Err(("has a field of its own", "set hostname instead"))
        }
        _ => Err(("belongs to the node, not to a namespace", "leave it out, or ask the site")),
    }
}

/// Whether `path` names a namespace other than this process's own. One that
/// cannot be looked at counts as ours.
fn not_ours(path: &Path, kind: &str) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let ours = identity(&Path::new("/proc/self/ns").join(kind));
    let theirs = identity(path);
    ours.is_some() && theirs.is_some() && ours != theirs
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts, problems};
    use super::*;
    use serde_json::json;

    #[test]
    fn only_names_of_own_namespaces_pass() {
        let kinds = ["mount", "ipc", "uts", "network"];
        for (name, belongs) in [
            ("kernel.shmmax", Some("ipc")),
            ("kernel.sem", Some("ipc")),
            ("fs.mqueue.msg_max", Some("ipc")),
            ("net.ipv4.ip_forward", Some("network")),
            ("kernel.domainname", Some("uts")),
            ("kernel.hostname", None),
            ("kernel.core_pattern", None),
            ("kernel.sysrq", None),
            ("kernel.shmmax.x", None),
            ("vm.swappiness", None),
            ("fs.file-max", None),
            ("user.max_user_namespaces", None),
            ("net/ipv4/ip_forward", None),
            ("net.ipv4/../../kernel.sysrq", None),
            ("net..ipv4", None),
            ("net.", None),
            (".net", None),
            ("", None),
            ("net", None),
        ] {
            for without in [None, Some("ipc"), Some("network"), Some("uts")] {
                let listed: Vec<_> = kinds
                    .iter()
                    .filter(|k| Some(**k) != without)
                    .map(|k| json!({"type": k}))
                    .collect();
                let config = json!({"hostname": null, "linux": {"namespaces": listed,
                    "sysctl": {name: "1"}}});
                let passes = belongs.is_some() && belongs != without;
                let found = problems(config, &facts());
                assert_eq!(found.is_empty(), passes, "{name} without {without:?}: {found:?}");
                assert!(found.iter().all(|f| f.starts_with(&format!("linux.sysctl.{name}: "))));
            }
        }
    }

    #[test]
    fn names_become_paths_in_order() {
        let sysctl = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "32"});
        let sysctl = checked(json!({"linux": {"sysctl": sysctl}}), &facts()).spec.sysctl;
        let expected = [("kernel/shmmni", "32"), ("net/ipv4/ip_forward", "1")];
        assert_eq!(sysctl, expected.map(|(n, v)| (CText::lossy(n), CText::lossy(v))));
        let nul = json!({"linux": {"sysctl": {"kernel.sem": "1\u{0}"}}});
        assert_problems(&[(nul, &["linux.sysctl.kernel.sem: "])]);
    }

    #[test]
    fn joining_the_nodes_own_network_is_seen_through() {
        let config = |path: &str| {
            json!({"linux": {"namespaces": [{"type": "mount"},
            {"type": "uts"}, {"type": "network", "path": path}], "sysctl": {"net.core.somaxconn": "1"}}})
        };
        assert_problems(&[
            (config("/proc/self/ns/net"), &["linux.sysctl.net.core.somaxconn: would change"]),
            (config("/run/netns/none"), &["linux.sysctl.net.core.somaxconn: would change"]),
        ]);
        assert!(not_ours(Path::new("/proc/self/ns/uts"), "net"));
    }
}
