//! From an OCI config.json to a checked [`Spec`]: one function per subject,
//! and every reason why not at once.
//!
//! Each problem begins with the JSON path of its field. What has no meaning on
//! Linux is refused by name (`unsupported`), never dropped.

use oci_spec::runtime::Linux;

use crate::host::Facts;
use crate::problem::Problems;
use crate::request::oci::{Bundle, ProcessDocument};
use crate::request::resources::ResourcesDocument;

use super::limits::Limits;
use super::spec::{self, Spec};

mod attributes;
mod capabilities;
mod cgroup;
mod devices;
pub mod features;
mod findings;
pub mod further;
mod hooks;
mod labels;
mod mount_ids;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod paths;
mod process;
mod rdt;
mod resources;
mod resources_io;
mod root;
mod seccomp;
mod seccomp_listener;
mod seccomp_newer;
mod sysctl;
#[cfg(test)]
mod testing;
mod unsupported;

use findings::Findings;
pub use process::Surroundings;

/// The kernel's `CAP_SYS_ADMIN`, without which namespaces need a user
/// namespace first (user_namespaces(7)).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Compiled system call filters of earlier starts, by the text of all that
/// they depend on.
pub trait Filters {
    fn load(&self, request: &[u8]) -> Option<Vec<u8>>;
    fn keep(&self, request: &[u8], program: &[u8]);
}

/// None are kept.
pub struct NoFilters;

impl Filters for NoFilters {
    fn load(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn keep(&self, _: &[u8], _: &[u8]) {}
}

/// What [`check`] answers.
#[derive(Debug, Clone)]
pub struct Checked {
    pub spec: Spec,
    /// What was asked and has no effect, each with its JSON path.
    pub warnings: Vec<String>,
}

/// Checks `bundle` against what this node is.
///
/// Asks the file system nothing, but for the namespaces that are joined by
/// path, where a rule depends on which ones they are.
///
/// # Arguments
/// * `id` - the container's id, which names its control groups unless
///   `linux.cgroupsPath` does
///
/// # Errors
/// Every [`crate::problem::Problem`] of the configuration, in its order.
pub fn check(bundle: &Bundle, id: &str, facts: &Facts) -> Result<Checked, Problems> {
    check_with(bundle, id, facts, &NoFilters)
}

/// [`check`], with compiled system call filters from `filters`.
///
/// # Errors
/// As [`check`].
pub fn check_with(
    bundle: &Bundle,
    id: &str,
    facts: &Facts,
    filters: &dyn Filters,
) -> Result<Checked, Problems> {
    let mut found = Findings::default();
    let config = &bundle.config;
    for field in &bundle.unknown {
        found.warn(field, "is no field of the OCI specification that denovo knows; ignored");
    }
    let empty = empty_linux();
    let linux = config.linux().as_ref().unwrap_or(&empty);

    version(config.version(), &mut found);
    unsupported::check(config, &mut found);
    let namespaces = namespaces::check(linux, facts, &mut found);
    let around = Surroundings::of(&namespaces, facts);
    let mut process = config.process().as_ref().map(|p| process::check(p, &around, &mut found));
    let personality = attributes::personality(linux, &mut found);
    let memory_policy = attributes::memory_policy(linux, &mut found);
    if let Some(process) = &mut process {
        let attributes = &mut process.attributes;
        (attributes.personality, attributes.memory_policy) = (personality, memory_policy);
    }
    let mounts = mounts::check(bundle, &namespaces, facts, &mut found);
    let own_dev = !mounts.iter().any(mounts::binds_dev);
    let hooks = config.hooks().as_ref().map(|h| hooks::check(h, process.as_ref(), &mut found));
    let spec = Spec {
        root: root::check(bundle, &mut found),
        propagation: root::propagation(linux, &mut found),
        hostname: name("hostname", config.hostname().as_deref(), &namespaces, &mut found),
        domainname: name("domainname", config.domainname().as_deref(), &namespaces, &mut found),
        devices: devices::check(linux, own_dev, &mut found),
        own_dev,
        sysctl: sysctl::check(linux, &namespaces, &mut found),
        masked_paths: inside("linux.maskedPaths", linux.masked_paths(), &mut found),
        readonly_paths: inside("linux.readonlyPaths", linux.readonly_paths(), &mut found),
        cgroup: cgroup::check(linux, id, facts, &mut found),
        intel_rdt: rdt::check(linux, id, &mut found),
        net_devices: net_devices::check(linux, &namespaces, facts, &mut found),
        seccomp: linux.seccomp().as_ref().and_then(|s| seccomp::check(s, filters, &mut found)),
        hooks: hooks.unwrap_or_default(),
        annotations: annotations(bundle, &mut found),
        fixtures: mounts.into_iter().map(spec::Fixture::Mount).collect(),
        namespaces,
        process,
    };
    found.conclude(spec).map(|(spec, warnings)| Checked { spec, warnings })
}

/// Checks the process that is to join a container (`exec --process FILE`).
///
/// # Arguments
/// * `around` - what the container that it joins allows
///
/// # Errors
/// Every problem of the document; fields are named as in config.json.
pub fn check_process(
    document: &ProcessDocument,
    around: &Surroundings<'_>,
) -> Result<(spec::Process, Vec<String>), Problems> {
    let mut found = Findings::default();
    for field in &document.unknown {
        let field = format!("process.{field}");
        found.warn(field, "is no field of the OCI specification that denovo knows; ignored");
    }
    unsupported::process(&document.process, &mut found);
    let process = process::check(&document.process, around, &mut found);
    found.conclude(process)
}

/// Checks limits for a container that runs (`update`). Its device list stays
/// as it is, as with runc; a document that has one is warned about.
///
/// # Errors
/// Every problem of the document; fields are named as in config.json.
pub fn check_resources(
    document: &ResourcesDocument,
    facts: &Facts,
) -> Result<(Limits, Vec<String>), Problems> {
    let mut found = Findings::default();
    for field in &document.unknown {
        let field = format!("linux.resources.{field}");
        found.warn(field, "is no field of the OCI specification that denovo knows; ignored");
    }
    let asked = &document.resources;
    if asked.devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        found.warn("linux.resources.devices", "stays as it is: update does not change it");
    }
    let limits = resources::check(asked, facts, &mut found);
    found.conclude(limits)
}

/// Why a bundle has no root; empty when it has one.
pub fn root_problems(state: &crate::request::root::RootState) -> Problems {
    let mut found = Findings::default();
    root::refuse(state, &mut found);
    found.conclude(()).err().unwrap_or_default()
}

/// A `linux` object that says nothing; the crate's default says a lot.
fn empty_linux() -> Linux {
    let mut linux = Linux::default();
    linux.set_resources(None).set_namespaces(None).set_masked_paths(None).set_readonly_paths(None);
    linux
}

/// OCI config.md, "Specification version". Engines differ in what they write
/// after `1.`, and all of 1.x is compatible.
fn version(version: &str, found: &mut Findings) {
    if version.is_empty() {
        found.warn("ociVersion", "is missing; taken as 1.x");
    } else if !version.starts_with("1.") {
        found.refuse("ociVersion", format!("{version:?} is not a version 1.x, which denovo reads"));
    }
}

/// A host or domain name: OCI config.md, "Hostname"; sethostname(2) takes 64
/// bytes. A joined uts namespace may be named anew, as runc allows.
fn name(
    field: &str,
    text: Option<&str>,
    namespaces: &spec::Namespaces,
    found: &mut Findings,
) -> Option<super::CText> {
    let text = text.filter(|text| !text.is_empty())?;
    if namespaces.uts == spec::Namespace::Shared {
        found.refuse_with(
            field,
            "the container has no uts namespace of its own to name",
            "add {\"type\": \"uts\"} to linux.namespaces, or leave the name out",
        );
    }
    if text.len() > 64 {
        found.refuse(field, "is longer than the 64 bytes that the kernel takes");
    }
    Some(found.text(field, text))
}

/// Paths inside the root (OCI config-linux.md, "Masked Paths", "Readonly Paths").
fn inside(field: &str, list: &Option<Vec<String>>, found: &mut Findings) -> Vec<super::CText> {
    let mut paths = Vec::new();
    for (index, path) in list.iter().flatten().enumerate() {
        let field = format!("{field}[{index}]");
        match paths::normalise(path) {
            Ok(path) if path == "/" => found.refuse(field, "is the root itself"),
            Ok(path) => paths.push(found.text(field, &path)),
            Err(reason) => found.refuse(field, format!("{path:?} {reason}")),
        }
    }
    paths
}

/// OCI config.md, "Annotations": keys are not empty. In the order of the keys.
fn annotations(bundle: &Bundle, found: &mut Findings) -> Vec<(String, String)> {
    let mut list: Vec<(String, String)> =
        bundle.config.annotations().clone().unwrap_or_default().into_iter().collect();
    list.sort_unstable();
    if list.iter().any(|(key, _)| key.is_empty()) {
        found.refuse("annotations", "an annotation has an empty name");
    }
    list
}

#[cfg(test)]
mod tests {
    use super::testing::{assert_problems, checked, facts, user};
    use super::*;
    use crate::request::default_config::{For, default_config};
    use serde_json::json;

    #[test]
    fn the_default_config_passes_without_a_word() {
        let checked = checked(json!({}), &facts());
        assert_eq!(checked.warnings, Vec::<String>::new());
        let spec = checked.spec;
        assert_eq!(spec.fixtures.len(), 7);
        assert_eq!(spec.devices.len(), 6);
        assert_eq!(spec.masked_paths.len(), 11);
        assert_eq!(spec.hostname.unwrap().to_string_lossy(), "denovo");
        assert!(spec.own_dev);
        assert!(!spec.cgroup.best_effort);
    }

    #[test]
    fn the_rootless_config_passes_for_a_user() {
        let target = For { rootless: Some((1000, 100)), unified_cgroups: true };
        let bundle = testing::bundle_of(&default_config(target));
        let checked = check(&bundle, "c1", &user()).unwrap();
        assert_eq!(checked.warnings, Vec::<String>::new());
        assert!(checked.spec.namespaces.deny_setgroups);
        assert!(checked.spec.cgroup.best_effort);
        assert_eq!(checked.spec.process.unwrap().user.groups, None);
    }

    #[test]
    fn all_problems_come_at_once() {
        assert_problems(&[(
            json!({
                "ociVersion": "2.0.0",
                "process": {"cwd": "x", "args": []},
                "mounts": [{"destination": "/a/../b", "type": "tmpfs"}],
                "linux": {"maskedPaths": ["a", "/"], "cgroupsPath": "../x"},
                "annotations": {"": "x"}
            }),
            &[
                "ociVersion: ",
                "process.cwd: ",
                "process.args: ",
                "mounts[0].destination: ",
                "linux.maskedPaths[0]: ",
                "linux.maskedPaths[1]: ",
                "linux.cgroupsPath: ",
                "annotations: ",
            ],
        )]);
    }

    #[test]
    fn names_need_a_uts_namespace() {
        let without = json!({"linux": {"namespaces": [{"type": "mount"}]}});
        assert_problems(&[
            (without, &["hostname: "]),
            (json!({"hostname": "x".repeat(65)}), &["hostname: "]),
            (json!({"domainname": "a\u{0}b"}), &["domainname: "]),
            (json!({"hostname": "", "linux": {"namespaces": [{"type": "mount"}]}}), &[]),
        ]);
    }

    #[test]
    fn a_config_needs_neither_process_nor_linux() {
        let spec = checked(json!({"linux": null, "hostname": null}), &facts()).spec;
        assert_eq!(spec.namespaces.mount, crate::policy::spec::Namespace::Shared);
        let spec = checked(json!({"process": null}), &facts()).spec;
        assert!(spec.process.is_none());
    }

    #[test]
    fn unknown_fields_are_warned_about() {
        let warnings = checked(json!({"linux": {"colour": 1}}), &facts()).warnings;
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("linux.colour: "), "{warnings:?}");
    }

    #[test]
    fn a_process_document_is_checked_alike() {
        let text = r#"{"user": {"uid": 1}, "args": ["id"], "cwd": "/", "x": 1,
                       "apparmorProfile": "p"}"#;
        let (process, unknown) =
            crate::request::oci::parse(text.as_bytes(), std::path::Path::new("p")).unwrap();
        let document = ProcessDocument { process, unknown };
        let around = Surroundings::free();
        let problems = check_process(&document, &around).unwrap_err();
        assert!(problems[0].message.starts_with("process.apparmorProfile: "), "{problems:?}");

        let mut document = document;
        document.process.set_apparmor_profile(None);
        let (process, warnings) = check_process(&document, &around).unwrap();
        assert_eq!(process.user.uid, 1);
        assert!(warnings[0].starts_with("process.x: "), "{warnings:?}");
    }

    proptest::proptest! {
        /// A byte of the default configuration changed or cut: whatever still
        /// parses is checked without a panic.
        #[test]
        fn no_configuration_makes_a_check_panic(at in 0usize..3000, byte in 32u8..127, cut in 0usize..40) {
            let mut text = default_config(For::default()).into_bytes();
            let at = at % text.len();
            text[at] = byte;
            text.drain(at + 1..(at + 1 + cut).min(text.len()));
            if let Ok((config, unknown)) =
                crate::request::oci::parse(&text, std::path::Path::new("x"))
            {
                let bundle = Bundle::new("/none".into(), config, unknown);
                let _ = check(&bundle, "c1", &facts());
                let _ = check(&bundle, "c1", &user());
            }
        }
    }
}
