//! One more process in a container that runs: `exec`.

use std::collections::BTreeMap;
use std::path::Path;

use super::findings::Findings;
use super::{Surroundings, check_process, labels};
use crate::policy::spec::{Attributes, Capabilities, Process, User};
use crate::policy::text::CText;
use crate::problem::{Problem, Problems};
use crate::request::oci::ProcessDocument;
use crate::request::user::UserIds;

/// What the command line of `exec` says; the rest is as the container's
/// first process has it.
#[derive(Debug, Clone, Default)]
pub struct Further {
    pub args: Vec<String>,
    pub cwd: Option<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    pub user: Option<UserIds>,
    pub additional_gids: Vec<u32>,
    pub terminal: bool,
    /// By name, with or without `CAP_`.
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    /// In place of the first process's.
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
}

/// Reads and checks `exec --process FILE`, with warnings.
///
/// # Errors
/// Everything that is wrong with the document.
pub fn from_document(file: &Path) -> Result<(Process, Vec<String>), Problems> {
    let document = ProcessDocument::load(file).map_err(|problem| vec![problem])?;
    check_process(&document, &Surroundings::free())
}

/// The container's own process with what the options change.
///
/// # Errors
/// Everything that is wrong with the options.
pub fn from_options(own: Option<&Process>, options: &Further) -> Result<Process, Problems> {
    let mut problems = Problems::new();
    if options.args.is_empty() {
        problems
            .push(Problem::user("no command is given").hint("denovo exec ID COMMAND [ARGUMENT…]"));
    }
    let mut process = own.cloned().unwrap_or_else(plain);
    process.args = texts(&options.args, "argument", &mut problems);
    process.env = environment(&process.env, &options.env, &mut problems);
    process.terminal = options.terminal;
    process.console_size = None;
    if let Some(cwd) = &options.cwd {
        if !cwd.starts_with('/') {
            problems.push(
                Problem::user(format!("--cwd {cwd:?}: is not absolute")).hint("begin it with /"),
            );
        }
        process.cwd = CText::lossy(cwd.clone());
    }
    if let Some(user) = options.user {
        let gid =
            user.gid.unwrap_or(if user.uid == process.user.uid { process.user.gid } else { 0 });
        // Another user has no claim to the first one's groups.
        process.user = User { uid: user.uid, gid, groups: Some(Vec::new()) };
    }
    if !options.additional_gids.is_empty() {
        let mut groups = process.user.groups.clone().unwrap_or_default();
        groups.extend(&options.additional_gids);
        process.user.groups = Some(groups);
    }
    process.no_new_privileges |= options.no_new_privileges;
    add_capabilities(&mut process, &options.capabilities, &mut problems);
    let mut found = Findings::default();
    let labels = (options.apparmor_profile.as_deref(), options.selinux_label.as_deref());
    labels::given(labels, &mut process.attributes, &mut found);
    problems.extend(found.conclude(()).err().unwrap_or_default());
    if problems.is_empty() { Ok(process) } else { Err(problems) }
}

fn plain() -> Process {
    Process {
        args: Vec::new(),
        env: Vec::new(),
        cwd: CText::lossy("/"),
        user: User { uid: 0, gid: 0, groups: Some(Vec::new()) },
        umask: None,
        terminal: false,
        console_size: None,
        capabilities: Some(Capabilities::default()),
        rlimits: Vec::new(),
        no_new_privileges: true,
        oom_score_adj: None,
        attributes: Attributes::default(),
    }
}

fn texts(list: &[String], what: &str, problems: &mut Problems) -> Vec<CText> {
    let mut made = Vec::with_capacity(list.len());
    for text in list {
        match CText::new(text.as_str()) {
            Ok(text) => made.push(text),
            Err(e) => problems.push(Problem::user(format!("{what}: {e}"))),
        }
    }
    made
}

fn environment(own: &[CText], more: &[String], problems: &mut Problems) -> Vec<CText> {
    let mut all: BTreeMap<String, CText> = BTreeMap::new();
    let name_of = |text: &CText| text.to_string_lossy().split('=').next().unwrap_or("").to_owned();
    for entry in own {
        all.insert(name_of(entry), entry.clone());
    }
    for entry in texts(more, "--env", problems) {
        let name = name_of(&entry);
        if name.is_empty() || !entry.as_bytes().contains(&b'=') {
            problems.push(
                Problem::user(format!("--env {name:?}: is not of the form NAME=value"))
                    .hint("nothing is taken from the caller's environment"),
            );
        }
        all.insert(name, entry);
    }
    all.into_values().collect()
}

/// Into every set but the inheritable and ambient ones, which would hand the
/// capability on to programs that were not meant (CVE-2022-29162).
fn add_capabilities(process: &mut Process, names: &[String], problems: &mut Problems) {
    let mut sets = process.capabilities.unwrap_or_default();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        match full.parse::<caps::Capability>() {
            Ok(capability) => {
                let bit = capability.bitmask();
                sets.bounding |= bit;
                sets.effective |= bit;
                sets.permitted |= bit;
            }
            Err(_) => problems.push(
                Problem::user(format!("--cap {name:?}: no such capability"))
                    .hint("capabilities(7) lists them, such as CAP_NET_BIND_SERVICE"),
            ),
        }
    }
    if !names.is_empty() {
        process.capabilities = Some(sets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Further {
        Further { args: vec!["true".into()], ..Further::default() }
    }

    #[test]
    fn a_capability_is_never_inheritable() {
        let further = Further { capabilities: vec!["cap_kill".into()], ..args() };
        let sets = from_options(None, &further).expect("valid").capabilities.expect("sets");
        assert_eq!((sets.effective, sets.inheritable, sets.ambient), (1 << 5, 0, 0));
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let further = Further {
            cwd: Some("tmp".into()),
            env: vec!["NOVALUE".into()],
            capabilities: vec!["CAP_NOPE".into()],
            ..Further::default()
        };
        assert_eq!(from_options(None, &further).expect_err("refused").len(), 4);
    }

    #[test]
    fn another_user_does_not_get_the_first_ones_groups() {
        let mut own = plain();
        own.user = User { uid: 5, gid: 6, groups: Some(vec![7]) };
        let user = Some(UserIds { uid: 8, gid: None });
        let process = from_options(Some(&own), &Further { user, ..args() }).expect("valid");
        assert_eq!(process.user, User { uid: 8, gid: 0, groups: Some(Vec::new()) });
    }
}
