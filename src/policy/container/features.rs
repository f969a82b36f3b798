//! What a config.json may ask for, as the document that the runtime-spec
//! defines (features.md, features-linux.md).
//!
//! Nothing is listed as supported because somebody wrote so: each value of
//! the specification is put into a configuration, and what the checks take is
//! what is said.

use serde_json::{Map, Value, json};

use super::{mount_options, seccomp};
use crate::host::Facts;
use crate::request::oci::{Bundle, Config, parse};

/// The oldest config.json that is read: all of 1.x is compatible.
const OLDEST: &str = "1.0.0";

/// The document.
///
/// # Arguments
/// * `newest` - the version of the specification that denovo writes
pub fn document(facts: &Facts, newest: &str) -> Value {
    let probe = Probe { facts, newest };
    json!({
        "ociVersionMin": OLDEST,
        "ociVersionMax": newest,
        "hooks": probe.of(
            &["prestart", "createRuntime", "createContainer", "startContainer", "poststart",
                "poststop"],
            |hook| json!({"hooks": {hook: [{"path": "/bin/true"}]}}),
        ),
        "mountOptions": mount_options::names()
            .into_iter()
            .filter(|option| !option.ends_with("idmap") || probe.takes(&id_mapped(option)))
            .collect::<Vec<_>>(),
        "linux": linux(&probe),
        "annotations": {"denovo.version": env!("CARGO_PKG_VERSION")},
    })
}

fn linux(probe: &Probe<'_>) -> Value {
    let linux = |fields: Value| probe.takes(&json!({"linux": fields}));
    let process = |fields: Value| probe.takes(&json!({"process": fields}));
    let systemd = linux(json!({"cgroupsPath": "system.slice:denovo:features"}));
    json!({
        "namespaces": probe.of(
            &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            |kind| json!({"linux": {"namespaces": [{"type": "mount"}, {"type": kind}]}}),
        ),
        "capabilities": capabilities(),
        "cgroup": {
            // Both generations have their terms in the plan's settings.
            "v1": true,
            "v2": true,
            "systemd": systemd,
            "systemdUser": systemd,
            "rdma": linux(json!({"resources": {"rdma": {"mlx5_0": {"hcaHandles": 1}}}})),
        },
        "seccomp": seccomp_features(probe),
        "apparmor": {"enabled": process(json!({"apparmorProfile": "unconfined"}))},
        "selinux": {"enabled": process(json!({"selinuxLabel": "system_u:system_r:container_t:s0"}))},
        "intelRdt": {"enabled": linux(json!({"intelRdt": {"closID": "denovo"}}))},
        "memoryPolicy": {
            "enabled": linux(json!({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}})),
        },
        "netDevices": {"enabled": linux(json!({"netDevices": {"eth0": {"name": "eth1"}}}))},
        "mountExtensions": {"idmap": {"enabled": probe.takes(&id_mapped("idmap"))}},
    })
}

fn capabilities() -> Vec<String> {
    let mut all: Vec<caps::Capability> = caps::all().into_iter().collect();
    all.sort_unstable_by_key(caps::Capability::index);
    all.iter().map(ToString::to_string).collect()
}

fn seccomp_features(probe: &Probe<'_>) -> Value {
    let rule = |action: &str| {
        let mut filter = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getcwd"], "action": action}]
        });
        if action == "SCMP_ACT_NOTIFY" {
            filter["listenerPath"] = json!("/run/denovo-features.sock");
        }
        json!({"linux": {"seccomp": filter}})
    };
    let operator = |name: &str| {
        let arg = json!({"index": 0, "value": 1, "valueTwo": 1, "op": name});
        let rule = json!({"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "args": [arg]});
        json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}}})
    };
    let arch = |name: &str| json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [name]}}});
    let flag = |name: &str| {
        let mut filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [name]});
        if name == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" {
            filter["listenerPath"] = json!("/run/denovo-features.sock");
            filter["syscalls"] = json!([{"names": ["getcwd"], "action": "SCMP_ACT_NOTIFY"}]);
        }
        json!({"linux": {"seccomp": filter}})
    };
    json!({
        "enabled": true,
        "actions": probe.of(seccomp::ACTIONS, rule),
        "operators": probe.of(seccomp::OPERATORS, operator),
        "archs": probe.of(seccomp::ARCHITECTURES, arch),
        "knownFlags": probe.known(seccomp::FLAGS, flag),
        "supportedFlags": probe.of(seccomp::FLAGS, flag),
    })
}

fn id_mapped(option: &str) -> Value {
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    json!({"mounts": [{
        "destination": "/mnt", "source": "/tmp", "type": "bind", "options": ["bind", option],
        "uidMappings": map, "gidMappings": map
    }]})
}

/// Configurations that ask for one thing.
struct Probe<'a> {
    facts: &'a Facts,
    newest: &'a str,
}

impl Probe<'_> {
    /// Those of `names` whose configuration is taken.
    fn of(&self, names: &[&'static str], config: impl Fn(&str) -> Value) -> Vec<&'static str> {
        names.iter().copied().filter(|name| self.takes(&config(name))).collect()
    }

    /// Those of `names` that can be read at all.
    fn known(&self, names: &[&'static str], config: impl Fn(&str) -> Value) -> Vec<&'static str> {
        names.iter().copied().filter(|name| self.read(&config(name)).is_some()).collect()
    }

    fn read(&self, fields: &Value) -> Option<Bundle> {
        let mut config = json!({
            "ociVersion": self.newest, "root": {"path": "/"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
            "linux": {"namespaces": [{"type": "mount"}]}
        });
        merge(&mut config, fields);
        let text = config.to_string();
        let (config, unknown) =
            parse::<Config>(text.as_bytes(), std::path::Path::new("features")).ok()?;
        unknown.is_empty().then(|| Bundle::new("/".into(), config, unknown))
    }

    /// Whether denovo does what the configuration asks for. That this caller
    /// or this node could not is another matter (features.md: "Irrelevant to
    /// the availability on the host").
    fn takes(&self, fields: &Value) -> bool {
        let Some(bundle) = self.read(fields) else { return false };
        match super::check(&bundle, "features", self.facts) {
            Ok(_) => true,
            Err(problems) => !problems.iter().any(|p| {
                p.message.contains("not supported") || p.message.contains("libseccomp refuses")
            }),
        }
    }
}

fn merge(whole: &mut Value, part: &Value) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            let whole: &mut Map<String, Value> = whole;
            for (key, value) in part {
                merge(whole.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (whole, part) => *whole = part.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, user};
    use super::*;

    fn list<'a>(document: &'a Value, path: &str) -> Vec<&'a str> {
        let found = document.pointer(path).and_then(Value::as_array).expect(path);
        found.iter().filter_map(Value::as_str).collect()
    }

    #[test]
    fn what_is_said_is_what_the_checks_take() {
        let document = document(&facts(), "1.2.0");
        assert_eq!(list(&document, "/hooks").len(), 6);
        assert_eq!(list(&document, "/linux/namespaces").len(), 8);
        assert_eq!(list(&document, "/linux/capabilities")[0], "CAP_CHOWN");
        let options = list(&document, "/mountOptions");
        for option in ["bind", "rbind", "ro", "rro", "nosuid", "rslave", "tmpcopyup", "sync"] {
            assert!(options.contains(&option), "{option}");
        }
        for option in ["size=1", "rsync", "rdefaults"] {
            assert!(!options.contains(&option), "{option}");
        }
        let actions = list(&document, "/linux/seccomp/actions");
        assert!(actions.contains(&"SCMP_ACT_ERRNO") && actions.contains(&"SCMP_ACT_LOG"));
        assert_eq!(list(&document, "/linux/seccomp/operators").len(), 7);
        assert!(list(&document, "/linux/seccomp/archs").contains(&"SCMP_ARCH_X86_64"));
    }

    /// The same field says the same in a config.json: no list of its own.
    #[test]
    fn a_field_that_is_refused_is_not_a_feature() {
        let document = document(&facts(), "1.2.0");
        for (feature, field) in [
            ("/linux/apparmor/enabled", json!({"process": {"apparmorProfile": "unconfined"}})),
            ("/linux/selinux/enabled", json!({"process": {"selinuxLabel": "a:b:c:s0"}})),
            ("/linux/intelRdt/enabled", json!({"linux": {"intelRdt": {"closID": "x"}}})),
            ("/linux/cgroup/systemd", json!({"linux": {"cgroupsPath": "s.slice:a:b"}})),
        ] {
            let said = document.pointer(feature).and_then(Value::as_bool);
            let found = super::super::testing::problems(field, &facts());
            let refused = found.iter().any(|p| p.contains("not supported"));
            assert_eq!(said, Some(!refused), "{feature}: {found:?}");
        }
    }

    #[test]
    fn a_user_is_told_the_same() {
        assert_eq!(document(&user(), "1.2.0"), document(&facts(), "1.2.0"));
    }
}
