//! `linux.seccomp.listenerPath`: calls that an agent outside answers
//! (OCI config-linux.md, "Seccomp"; seccomp_unotify(2)).

use oci_spec::runtime::{LinuxSeccomp as Asked, LinuxSeccompAction as Action};

use super::findings::Findings;
use crate::policy::spec::Listener;

/// The system call by which the container's first process hands the listener
/// on: were it the agent's to answer, it would wait for ever.
const HANDS_ON: &str = "sendmsg";

/// The agent, where there is a call that it answers (OCI: `listenerPath` is
/// needed then, and otherwise has no effect).
pub(super) fn check(asked: &Asked, found: &mut Findings) -> Option<Listener> {
    let path = asked.listener_path().as_ref().filter(|path| !path.as_os_str().is_empty());
    let metadata = asked.listener_metadata().clone().filter(|text| !text.is_empty());
    let rules = asked.syscalls().iter().flatten().enumerate();
    let mut notify = rules.filter(|(_, rule)| rule.action() == Action::ScmpActNotify).peekable();
    if asked.default_action() == Action::ScmpActNotify {
        found.refuse_with(
            "linux.seccomp.defaultAction",
            "SCMP_ACT_NOTIFY for every call would stop the container before its agent is told",
            "list the calls that the agent answers in linux.seccomp.syscalls",
        );
    }
    let first = notify.peek().map(|(index, _)| format!("linux.seccomp.syscalls[{index}]"));
    for (index, rule) in notify {
        if rule.names().iter().any(|name| name == HANDS_ON) {
            let field = format!("linux.seccomp.syscalls[{index}].names");
            found.refuse(field, "sendmsg cannot be the agent's: it is what hands on the listener");
        }
    }
    match (first, path) {
        (Some(_), Some(path)) => {
            let text = path.to_string_lossy();
            if !text.starts_with('/') {
                let reason = format!("{text:?} is not an absolute path");
                found.refuse("linux.seccomp.listenerPath", reason);
            }
            Some(Listener { path: found.text("linux.seccomp.listenerPath", &text), metadata })
        }
        (Some(field), None) => {
            found.refuse_with(
                "linux.seccomp.listenerPath",
                format!("is missing, but {field} has SCMP_ACT_NOTIFY"),
                "name the socket on which the agent listens",
            );
            None
        }
        (None, path) => {
            if path.is_some() || metadata.is_some() {
                let reason = "no call has SCMP_ACT_NOTIFY, so nobody is told; ignored";
                found.warn("linux.seccomp.listenerPath", reason);
            }
            None
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::testing::{assert_problems, checked, facts, run_bpf};
    use crate::policy::CText;
    use serde_json::{Value, json};

    const NEW_LISTENER: u32 = 8;
    const WAIT_KILLABLE_RECV: u32 = 32;

    fn with(change: Value, names: Value) -> Value {
        let mut seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]});
        for (key, value) in change.as_object().unwrap() {
            seccomp[key] = value.clone();
        }
        json!({"linux": {"seccomp": seccomp}})
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let read = json!(["read"]);
        assert_problems(&[
            (
                with(
                    json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/a"}),
                    read.clone(),
                ),
                &["linux.seccomp.defaultAction: SCMP_ACT_NOTIFY for every call"],
            ),
            (with(json!({}), read.clone()), &["linux.seccomp.listenerPath: is missing"]),
            (
                with(json!({"listenerPath": "a"}), read),
                &["linux.seccomp.listenerPath: \"a\" is not"],
            ),
            (
                with(json!({"listenerPath": "/a"}), json!(["read", "sendmsg"])),
                &["linux.seccomp.syscalls[0].names: sendmsg"],
            ),
        ]);
    }

    #[test]
    fn the_agent_and_its_flags_arrive() {
        let change = json!({"listenerPath": "/run/agent", "listenerMetadata": "m",
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]});
        let filter = checked(with(change, json!(["mkdir"])), &facts()).spec.seccomp.unwrap();
        assert_eq!(filter.flags, NEW_LISTENER | WAIT_KILLABLE_RECV);
        let listener = filter.listener.unwrap();
        assert_eq!(listener.path, CText::lossy("/run/agent"));
        assert_eq!(listener.metadata.as_deref(), Some("m"));
        let verdict = |n| run_bpf(&filter.program, 0xc000_003e, n, [0; 6]);
        assert_eq!(verdict(libc::SYS_mkdir), 0x7fc0_0000);
        assert_eq!(verdict(libc::SYS_read), 0x7fff_0000);
    }

    #[test]
    fn without_a_call_to_answer_there_is_no_agent() {
        let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a",
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]});
        let checked = checked(json!({"linux": {"seccomp": seccomp}}), &facts());
        let filter = checked.spec.seccomp.unwrap();
        assert_eq!((filter.flags, filter.listener), (0, None));
        assert_eq!(checked.warnings.len(), 2, "{:?}", checked.warnings);
    }
}
