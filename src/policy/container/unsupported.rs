//! What has no meaning on Linux: refused by name, since a configuration that
//! asks for it was written for another system, and would do less than it says
//! here. (OCI config.md, "Platform-specific configuration", says that a
//! section of another platform must not be there.)

use oci_spec::runtime::{Process, Spec};

use super::findings::Findings;

pub(super) fn check(config: &Spec, found: &mut Findings) {
    for (field, platform, asked) in [
        ("solaris", "Solaris", config.solaris().is_some()),
        ("windows", "Windows", config.windows().is_some()),
        ("vm", "virtual machines", config.vm().is_some()),
        ("zos", "z/OS", config.zos().is_some()),
    ] {
        if asked {
            elsewhere(field, platform, found);
        }
    }
    if let Some(asked) = config.process() {
        process(asked, found);
    }
}

pub(super) fn process(asked: &Process, found: &mut Findings) {
    if asked.command_line().as_ref().is_some_and(|text| !text.is_empty()) {
        elsewhere("process.commandLine", "Windows", found);
    }
}

fn elsewhere(field: &str, platform: &str, found: &mut Findings) {
    found.refuse_with(
        field,
        format!("is for {platform}, and this is a container of Linux"),
        "leave it out",
    );
}

#[cfg(test)]
mod tests {
    use super::super::testing::{checked, facts, problems};
    use serde_json::json;

    #[test]
    fn each_is_refused_by_its_name() {
        for (field, config) in [
            ("vm", json!({"vm": {"kernel": {"path": "/k"}}})),
            ("windows", json!({"windows": {"layerFolders": []}})),
            ("solaris", json!({"solaris": {}})),
            ("process.commandLine", json!({"process": {"commandLine": "x"}})),
        ] {
            let found = problems(config, &facts());
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(&format!("{field}: is for ")), "{found:?}");
        }
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        let config = json!({"process": {"commandLine": "", "apparmorProfile": "",
            "selinuxLabel": "", "execCPUAffinity": {}},
            "linux": {"netDevices": {}, "mountLabel": "", "intelRdt": {}, "resources": {
                "memory": {"kernel": 0, "useHierarchy": true}}}});
        assert_eq!(checked(config, &facts()).warnings, Vec::<String>::new());
    }

    #[test]
    fn a_name_beside_the_ids_is_said_to_have_no_effect() {
        let warnings = checked(json!({"process": {"user": {"username": "x"}}}), &facts()).warnings;
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("process.user.username: names are not"), "{warnings:?}");
    }
}
