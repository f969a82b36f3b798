//! Labels of security modules (OCI config.md: `apparmorProfile`,
//! `selinuxLabel`; config-linux.md: `mountLabel`).
//!
//! One that this node cannot give is refused: a container that was to be
//! confined must not run unconfined (CVE-2019-16884, CVE-2025-65105).

use oci_spec::runtime::{Linux, Process};

use super::findings::Findings;
use crate::host::lsm;
use crate::policy::CText;
use crate::policy::spec::Attributes;
use crate::problem::Problem;

/// AppArmor's word for no profile at all.
const UNCONFINED: &str = "unconfined";

pub(super) fn check(asked: &Process, attributes: &mut Attributes, found: &mut Findings) {
    let (profile, label) = (asked.apparmor_profile().as_deref(), asked.selinux_label().as_deref());
    given((profile, label), attributes, found);
}

/// The same for a profile and a label by themselves; empty ones ask for
/// nothing.
pub(super) fn given(
    (profile, label): (Option<&str>, Option<&str>),
    attributes: &mut Attributes,
    found: &mut Findings,
) {
    let given = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    if let Some(profile) = given(profile) {
        attributes.apparmor_profile = apparmor(&profile, lsm::apparmor(), found);
    }
    if let Some(label) = given(label) {
        attributes.selinux_label = selinux("process.selinuxLabel", &label, lsm::selinux(), found);
    }
}

/// The label that the container's own file systems get.
pub(super) fn mount(linux: &Linux, found: &mut Findings) -> Option<CText> {
    let label = linux.mount_label().as_ref().filter(|label| !label.is_empty())?;
    selinux("linux.mountLabel", label, lsm::selinux(), found)
}

fn apparmor(profile: &str, on: bool, found: &mut Findings) -> Option<CText> {
    let field = "process.apparmorProfile";
    if !on {
        if profile != UNCONFINED {
            missing(field, "AppArmor", "boot with lsm=…,apparmor or apparmor=1", found);
        }
        return None;
    }
    if profile.contains(char::is_whitespace) {
        found.refuse(field, format!("{profile:?} is no name of a profile"));
    }
    Some(found.text(field, profile))
}

fn selinux(field: &str, label: &str, on: bool, found: &mut Findings) -> Option<CText> {
    if !on {
        missing(field, "SELinux", "boot with lsm=…,selinux, with a policy installed", found);
        return None;
    }
    // user:role:type, and with MLS a level; it is put in quotes as an option.
    if label.split(':').count() < 3 || label.contains(['"', '\n']) {
        found.refuse(field, format!("{label:?} is no label such as system_u:object_r:type_t:s0"));
    }
    Some(found.text(field, label))
}

fn missing(field: &str, module: &str, how: &str, found: &mut Findings) {
    found.push(
        Problem::site(format!("{field}: {module} is not on in this node's kernel"))
            .hint(format!("leave the field out on this node; the site: {how}")),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome<T>(check: impl FnOnce(&mut Findings) -> T) -> Result<T, String> {
        let mut found = Findings::default();
        let value = check(&mut found);
        found.conclude(value).map(|(value, _)| value).map_err(|p| p[0].message.clone())
    }

    #[test]
    fn a_label_needs_its_module() {
        let text = |text: &str| Ok(Some(CText::lossy(text)));
        assert_eq!(outcome(|f| apparmor("profile", true, f)), text("profile"));
        assert_eq!(outcome(|f| apparmor("unconfined", true, f)), text("unconfined"));
        assert_eq!(outcome(|f| apparmor("unconfined", false, f)), Ok(None));
        let refused = outcome(|f| apparmor("profile", false, f)).unwrap_err();
        assert!(refused.starts_with("process.apparmorProfile: AppArmor is not on"), "{refused}");
        assert!(outcome(|f| apparmor("a b", true, f)).is_err());

        let label = "system_u:system_r:container_t:s0:c1,c2";
        assert_eq!(outcome(|f| selinux("x", label, true, f)), text(label));
        for (label, on) in [(label, false), ("container_t", true), ("a:b:c\"", true)] {
            assert!(outcome(|f| selinux("x", label, on, f)).unwrap_err().starts_with("x: "));
        }
    }
}
