//! `hooks` (OCI config.md, "POSIX-platform Hooks").

use oci_spec::runtime::{Hook as AskedHook, Hooks as Asked};

use super::findings::Findings;
use crate::policy::spec::{Hook, Hooks, Process};

/// As runc, a startContainer hook that says nothing of its environment has that
/// of the process whose place it takes for a moment. All others have none:
/// theirs would be the runtime's, which is nobody's business.
///
/// # Arguments
/// * `process` - the container's, when it is fit to run
#[allow(deprecated)]
pub(super) fn check(asked: &Asked, process: Option<&Process>, found: &mut Findings) -> Hooks {
    let mut phase = |name, hooks: &Option<Vec<AskedHook>>| phase(name, hooks, found);
    let mut hooks = Hooks {
        // Deprecated since 1.0.2 and still what many engines write.
        prestart: phase("prestart", asked.prestart()),
        create_runtime: phase("createRuntime", asked.create_runtime()),
        create_container: phase("createContainer", asked.create_container()),
        start_container: phase("startContainer", asked.start_container()),
        poststart: phase("poststart", asked.poststart()),
        poststop: phase("poststop", asked.poststop()),
    };
    let asked = asked.start_container().iter().flatten();
    for (hook, asked) in hooks.start_container.iter_mut().zip(asked) {
        if let (None, Some(process)) = (asked.env(), process) {
            hook.env = process.env.clone();
        }
    }
    hooks
}

fn phase(name: &str, hooks: &Option<Vec<AskedHook>>, found: &mut Findings) -> Vec<Hook> {
    let hooks = hooks.iter().flatten().enumerate();
    hooks.map(|(index, asked)| hook(&format!("hooks.{name}[{index}]"), asked, found)).collect()
}

fn hook(field: &str, asked: &AskedHook, found: &mut Findings) -> Hook {
    let path = asked.path().to_string_lossy();
    if !path.starts_with('/') {
        found.refuse(format_args!("{field}.path"), format!("{path:?} is not an absolute path"));
    }
    let path = found.text(format_args!("{field}.path"), &path);
    let args = asked.args().as_deref().unwrap_or_default().iter().enumerate();
    let mut args: Vec<_> =
        args.map(|(i, arg)| found.text(format_args!("{field}.args[{i}]"), arg)).collect();
    if args.is_empty() {
        args.push(path.clone());
    }
    let env = super::process::env(&format!("{field}.env"), asked.env(), found);
    Hook { path, args, env, timeout: timeout(field, asked.timeout(), found) }
}

fn timeout(field: &str, seconds: Option<i64>, found: &mut Findings) -> Option<u32> {
    let seconds = seconds?;
    let checked = u32::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    if checked.is_none() {
        let reason = format!("{seconds} is not a number of seconds from 1 to 4294967295");
        found.refuse(format_args!("{field}.timeout"), reason);
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts};
    use crate::policy::CText;
    use serde_json::json;

    #[test]
    fn what_does_not_fit_is_named() {
        let hooks = |hook: serde_json::Value| json!({"hooks": {"poststop": [hook]}});
        assert_problems(&[
            (hooks(json!({"path": "bin/x"})), &["hooks.poststop[0].path: "]),
            (hooks(json!({"path": "/x", "timeout": 0})), &["hooks.poststop[0].timeout: "]),
            (hooks(json!({"path": "/x", "timeout": -1})), &["hooks.poststop[0].timeout: "]),
            (
                hooks(json!({"path": "/x", "args": ["a\u{0}"], "env": ["HOME"]})),
                &["hooks.poststop[0].args[0]: ", "hooks.poststop[0].env[0]: "],
            ),
        ]);
    }

    #[test]
    fn each_phase_has_its_place() {
        let hook = |path: &str| json!([{"path": path}]);
        let config = json!({"hooks": {
            "prestart": hook("/1"), "createRuntime": hook("/2"), "createContainer": hook("/3"),
            "startContainer": hook("/4"), "poststart": hook("/5"),
            "poststop": [{"path": "/6", "args": ["six", "a"], "env": ["A=b"], "timeout": 3}]
        }});
        let hooks = checked(config, &facts()).spec.hooks;
        let phases = [
            &hooks.prestart,
            &hooks.create_runtime,
            &hooks.create_container,
            &hooks.start_container,
            &hooks.poststart,
            &hooks.poststop,
        ];
        let paths: Vec<String> = phases.iter().map(|p| p[0].path.to_string_lossy()).collect();
        assert_eq!(paths, ["/1", "/2", "/3", "/4", "/5", "/6"]);
        assert_eq!(hooks.prestart[0].args, [CText::lossy("/1")]);
        assert_eq!(hooks.poststop[0].args, [CText::lossy("six"), CText::lossy("a")]);
        assert_eq!(hooks.poststop[0].timeout, Some(3));
    }
}
