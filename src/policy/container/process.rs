//! `process` (OCI config.md, "Process").

use std::collections::HashMap;

use oci_spec::runtime::{PosixRlimitType, Process as Asked, User as AskedUser};

use super::findings::Findings;
use super::namespaces::maps;
use super::{attributes, capabilities, labels};
use crate::host::Facts;
use crate::policy::CText;
use crate::policy::spec::{IdMap, Namespace, Namespaces, Process, Rlimit, User};

/// Most bytes of one argument or variable: `MAX_ARG_STRLEN` of execve(2),
/// less the NUL at the end.
const LONGEST: usize = 131_071;

/// What is around a process and bounds it.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The capabilities that it can be given, as a bit mask.
    pub capabilities: u64,
    /// setgroups(2) is denied in its user namespace.
    pub deny_setgroups: bool,
    /// The ids that exist there; empty when all do, or when it is not known.
    pub uid_map: &'a [IdMap],
    pub gid_map: &'a [IdMap],
}

impl<'a> Surroundings<'a> {
    /// Those of the first process of a container with these `namespaces`.
    pub fn of(namespaces: &'a Namespaces, facts: &Facts) -> Self {
        Self {
            // Who makes or enters a user namespace has them all in it.
            capabilities: match namespaces.user {
                Namespace::Shared => facts.caller.capabilities,
                Namespace::New | Namespace::Join(_) => u64::MAX,
            },
            deny_setgroups: namespaces.deny_setgroups,
            uid_map: &namespaces.uid_map,
            gid_map: &namespaces.gid_map,
        }
    }

    /// Those that bound nothing.
    pub fn free() -> Self {
        Self { capabilities: u64::MAX, deny_setgroups: false, uid_map: &[], gid_map: &[] }
    }
}

pub(super) fn check(asked: &Asked, around: &Surroundings<'_>, found: &mut Findings) -> Process {
    let mut attributes = attributes::check(asked, found);
    labels::check(asked, &mut attributes, found);
    Process {
        cwd: cwd(asked, found),
        args: args(asked, found),
        env: env("process.env", asked.env(), found),
        user: user(asked.user(), around, found),
        umask: umask(asked.user(), found),
        terminal: asked.terminal().unwrap_or(false),
        console_size: console_size(asked, found),
        capabilities: asked
            .capabilities()
            .as_ref()
            .map(|sets| capabilities::check(sets, around.capabilities, found)),
        rlimits: rlimits(asked, found),
        no_new_privileges: asked.no_new_privileges().unwrap_or(false),
        oom_score_adj: oom_score_adj(asked, found),
        attributes,
    }
}

fn cwd(asked: &Asked, found: &mut Findings) -> CText {
    let cwd = asked.cwd().to_string_lossy();
    if !cwd.starts_with('/') {
        found.refuse("process.cwd", format!("{cwd:?} is not an absolute path"));
    }
    found.text("process.cwd", &cwd)
}

fn args(asked: &Asked, found: &mut Findings) -> Vec<CText> {
    let args = asked.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        found.refuse_with(
            "process.args",
            "no command is given",
            "name the program and its arguments, such as [\"sh\"]",
        );
    }
    args.iter()
        .enumerate()
        .map(|(index, arg)| sized(format_args!("process.args[{index}]"), arg, found))
        .collect()
}

fn sized(field: std::fmt::Arguments<'_>, text: &str, found: &mut Findings) -> CText {
    if text.len() > LONGEST {
        found.refuse(field, "is longer than the 128 KiB that execve(2) takes");
    }
    found.text(field, text)
}

/// `NAME=value` entries, each name once: the last one wins, in the place of
/// the first (as with runc). Nothing is ever taken from the caller.
pub(super) fn env(field: &str, list: &Option<Vec<String>>, found: &mut Findings) -> Vec<CText> {
    let list = list.as_deref().unwrap_or_default();
    let mut env: Vec<CText> = Vec::with_capacity(list.len());
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let name = match entry.split_once('=') {
            Some((name, _)) if !name.is_empty() => name,
            // Only the name is shown, the value may be secret.
            Some(_) => {
                found.refuse(format_args!("{field}[{index}]"), "the name before \"=\" is empty");
                continue;
            }
            None => {
                found.refuse_with(
                    format_args!("{field}[{index}]"),
                    format!("{entry:?} has no \"=\""),
                    "write NAME=value; values are not taken from the caller",
                );
                continue;
            }
        };
        let text = sized(format_args!("{field}[{index}]"), entry, found);
        match places.get(name) {
            Some(place) => env[*place] = text,
            None => {
                places.insert(name, env.len());
                env.push(text);
            }
        }
    }
    env
}

fn user(asked: &AskedUser, around: &Surroundings<'_>, found: &mut Findings) -> User {
    let (uid, gid) = (asked.uid(), asked.gid());
    if asked.username().as_ref().is_some_and(|name| !name.is_empty()) {
        // OCI has it for Windows; looked up in the root it would be the
        // image's word on who is root.
        found.warn("process.user.username", "names are not looked up, uid and gid count; ignored");
    }
    id("process.user.uid", uid, around.uid_map, found);
    id("process.user.gid", gid, around.gid_map, found);
    let groups = asked.additional_gids().clone().unwrap_or_default();
    for (index, gid) in groups.iter().enumerate() {
        id(format_args!("process.user.additionalGids[{index}]"), *gid, around.gid_map, found);
    }
    if around.deny_setgroups && !groups.is_empty() {
        found.refuse_with(
            "process.user.additionalGids",
            "a user without privilege cannot set supplementary groups (user_namespaces(7))",
            "leave it out, or have the site grant subordinate group ids in /etc/subgid",
        );
    }
    User { uid, gid, groups: (!around.deny_setgroups).then_some(groups) }
}

fn id(field: impl std::fmt::Display, id: u32, map: &[IdMap], found: &mut Findings) {
    if id == u32::MAX {
        // The process would stay what its starter is: root.
        found.refuse_with(
            field,
            "4294967295 is not an id (it means \"unchanged\" to setresuid(2))",
            "give one from 0 to 4294967294",
        );
    } else if !map.is_empty() && !maps(map, id) {
        found.refuse_with(
            field,
            format!("{id} does not exist in the container's user namespace"),
            "map it in linux.uidMappings and linux.gidMappings, or use an id that is mapped",
        );
    }
}

fn umask(asked: &AskedUser, found: &mut Findings) -> Option<u32> {
    let umask = asked.umask()?;
    if umask > 0o777 {
        found.refuse("process.user.umask", format!("{umask} is above 511 (octal 0777)"));
    }
    Some(umask)
}

fn console_size(asked: &Asked, found: &mut Findings) -> Option<(u16, u16)> {
    let size = asked.console_size()?;
    if !asked.terminal().unwrap_or(false) || (size.height() == 0 && size.width() == 0) {
        // OCI: consoleSize is ignored when there is no terminal.
        return None;
    }
    match (u16::try_from(size.height()), u16::try_from(size.width())) {
        (Ok(rows), Ok(columns)) => Some((rows, columns)),
        _ => {
            found.refuse("process.consoleSize", "a terminal has at most 65535 rows and columns");
            None
        }
    }
}

/// OCI config.md, "rlimits": a type that is listed twice is an error.
fn rlimits(asked: &Asked, found: &mut Findings) -> Vec<Rlimit> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for (index, limit) in asked.rlimits().iter().flatten().enumerate() {
        let resource = resource(limit.typ());
        let (soft, hard) = (limit.soft(), limit.hard());
        if limits.iter().any(|l| l.resource == resource) {
            found.refuse(
                format_args!("process.rlimits[{index}].type"),
                format!("{} is listed twice", limit.typ()),
            );
        }
        if soft > hard {
            found.refuse(
                format_args!("process.rlimits[{index}].soft"),
                format!("{soft} is above the hard limit {hard} (getrlimit(2))"),
            );
        }
        limits.push(Rlimit { resource, soft, hard });
    }
    limits
}

fn resource(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType as R;
    match kind {
        R::RlimitCpu => libc::RLIMIT_CPU,
        R::RlimitFsize => libc::RLIMIT_FSIZE,
        R::RlimitData => libc::RLIMIT_DATA,
        R::RlimitStack => libc::RLIMIT_STACK,
        R::RlimitCore => libc::RLIMIT_CORE,
        R::RlimitRss => libc::RLIMIT_RSS,
        R::RlimitNproc => libc::RLIMIT_NPROC,
        R::RlimitNofile => libc::RLIMIT_NOFILE,
        R::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        R::RlimitAs => libc::RLIMIT_AS,
        R::RlimitLocks => libc::RLIMIT_LOCKS,
        R::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        R::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        R::RlimitNice => libc::RLIMIT_NICE,
        R::RlimitRtprio => libc::RLIMIT_RTPRIO,
        R::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

fn oom_score_adj(asked: &Asked, found: &mut Findings) -> Option<i32> {
    let score = asked.oom_score_adj()?;
    if !(-1000..=1000).contains(&score) {
        found.refuse("process.oomScoreAdj", format!("{score} is not within -1000 to 1000"));
    }
    Some(score)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_problems, checked, facts, user as a_user};
    use super::*;
    use serde_json::{Value, json};

    fn process(change: Value) -> Process {
        checked(json!({"process": change}), &facts()).spec.process.unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |change: Value, fields: &'static [&'static str]| {
            assert_problems(&[(json!({"process": change}), fields)]);
        };
        let nobody = u32::MAX;
        problem(json!({"user": {"uid": nobody}}), &["process.user.uid: 4294967295"]);
        problem(json!({"user": {"gid": nobody}}), &["process.user.gid: 4294967295"]);
        problem(
            json!({"user": {"additionalGids": [1, nobody]}}),
            &["process.user.additionalGids[1]: "],
        );
        problem(json!({"user": {"umask": 512}}), &["process.user.umask: "]);
        problem(json!({"cwd": ""}), &["process.cwd: "]);
        problem(json!({"cwd": "tmp"}), &["process.cwd: "]);
        problem(json!({"cwd": "/a\u{0}"}), &["process.cwd: "]);
        problem(json!({"args": null}), &["process.args: "]);
        problem(json!({"args": [""]}), &["process.args: "]);
        problem(json!({"args": ["a", "b\u{0}c"]}), &["process.args[1]: "]);
        problem(json!({"args": ["a", "b".repeat(131_072)]}), &["process.args[1]: "]);
        problem(json!({"env": ["A=b", "SECRET", "=x"]}), &["process.env[1]: ", "process.env[2]: "]);
        problem(json!({"env": ["*"]}), &["process.env[0]: "]);
        problem(json!({"oomScoreAdj": 1001}), &["process.oomScoreAdj: "]);
        problem(json!({"consoleSize": {"height": 70000, "width": 1}}), &["process.consoleSize: "]);
        problem(
            json!({"rlimits": [
                {"type": "RLIMIT_CORE", "soft": 1, "hard": 0},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
            ]}),
            &["process.rlimits[0].soft: ", "process.rlimits[1].type: "],
        );
    }

    #[test]
    fn the_last_of_a_variable_wins_in_the_first_place() {
        let env = process(json!({"env": ["A=1", "B=2", "A=3=4", "C="]})).env;
        let env: Vec<String> = env.iter().map(CText::to_string_lossy).collect();
        assert_eq!(env, ["A=3=4", "B=2", "C="]);
    }

    #[test]
    fn values_arrive() {
        let process = process(json!({
            "user": {"uid": 7, "gid": 8, "umask": 18, "additionalGids": [9]},
            "rlimits": [{"type": "RLIMIT_MEMLOCK", "soft": 5, "hard": u64::MAX}],
            "consoleSize": {"height": 40, "width": 100},
            "oomScoreAdj": -500,
        }));
        assert_eq!(process.user, User { uid: 7, gid: 8, groups: Some(vec![9]) });
        assert_eq!(process.umask, Some(18));
        assert_eq!(process.rlimits, [Rlimit { resource: 8, soft: 5, hard: u64::MAX }]);
        assert_eq!(process.console_size, Some((40, 100)));
        assert_eq!(process.oom_score_adj, Some(-500));
    }

    #[test]
    fn ids_must_exist_in_the_user_namespace() {
        let rootless = json!({
            "process": {"user": {"uid": 1, "gid": 0, "additionalGids": [0]}},
            "mounts": [],
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "user"}],
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
                "gidMappings": [{"containerID": 0, "hostID": 100, "size": 1}],
                "resources": null
            }
        });
        let problems = super::super::testing::problems(rootless, &a_user());
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("process.user.uid: 1 does not exist"));
        assert!(problems[1].starts_with("process.user.additionalGids: "));
    }
}
