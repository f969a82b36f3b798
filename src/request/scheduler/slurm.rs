//! The variables that Slurm gives to Prolog and Epilog (slurm.conf(5),
//! prolog_epilog guide).
//!
//! Only those named here are read, each with a form and a length; the values
//! that the job's user chose (`SPANK_DENOVO_*`, the comment, the working
//! directory) are wishes that root checks as that user.

use super::{Call, Granted, Wishes};
use crate::problem::{Problem, Problems};
use crate::request::bind;

/// Longest value that is read, in bytes: a list of 10,000 nodes fits.
const LONGEST: usize = 1 << 20;

/// Longest wish, in bytes.
const LONGEST_WISH: usize = 4096;

/// Most binds that a user may wish for.
const MOST_BINDS: usize = 64;

/// Most nodes of one job.
const MOST_NODES: usize = 1 << 20;

/// Reads a prolog's call from the variables that `get` gives.
///
/// # Errors
/// Every variable that is missing or has no such form: whoever called was
/// not Slurm, or one that we do not know.
pub fn call(get: impl Fn(&str) -> Option<String>) -> Result<Call, Problems> {
    match read(get)? {
        (call, lacking) if lacking.is_empty() => Ok(call),
        (_, lacking) => Err(lacking),
    }
}

/// Reads an epilog's call. The job's id is enough to end it: without its
/// credential slurmd knows no more, and says 0 for its user (slurmctld has lost
/// the job and has it aborted: src/slurmd/slurmd/req.c, `_rpc_abort_job`); and
/// a job that was made smaller has a list without the node that it leaves.
///
/// # Errors
/// An id or a name is missing or has no such form.
pub fn ending(get: impl Fn(&str) -> Option<String>) -> Result<Call, Problems> {
    let (call, lacking) = read(get)?;
    Ok(Call { complete: lacking.is_empty(), ..call })
}

/// The name of this node, for who can tell no more of a call.
pub fn node(get: impl Fn(&str) -> Option<String>) -> Option<String> {
    short(&get, "SLURMD_NODENAME").filter(|text| is_name(text))
}

/// A call, and what it lacks of the job's allocation.
fn read(get: impl Fn(&str) -> Option<String>) -> Result<(Call, Problems), Problems> {
    let mut problems = Problems::new();
    let mut number = |name: &str| {
        let value = short(&get, name);
        let parsed = value.as_ref().and_then(|text| decimal(text));
        if parsed.is_none() {
            problems.push(wrong(name, value.as_deref(), "a number"));
        }
        parsed.unwrap_or(0)
    };
    let (job, uid, gid) =
        (number("SLURM_JOB_ID"), number("SLURM_JOB_UID"), number("SLURM_JOB_GID"));
    let mut name = |variable: &str| {
        let value = short(&get, variable).filter(|text| is_name(text));
        if value.is_none() {
            problems.push(wrong(variable, short(&get, variable).as_deref(), "a name"));
        }
        value.unwrap_or_default()
    };
    let (cluster, node) = (name("SLURM_CLUSTER_NAME"), name("SLURMD_NODENAME"));
    if !problems.is_empty() {
        return Err(problems);
    }
    let list = short(&get, "SLURM_NODELIST").or_else(|| short(&get, "SLURM_JOB_NODELIST"));
    let place = list.as_deref().and_then(|list| position(list, &node));
    if place.is_none() {
        problems.push(wrong("SLURM_NODELIST", list.as_deref(), "a list with this node"));
    }
    let (index, nodes) = place.unwrap_or((0, 1));
    let per_node = short(&get, "SLURM_JOB_CPUS_PER_NODE");
    let cpus = per_node.as_deref().and_then(|text| cpus_of(text, index));
    if cpus.is_none() && problems.is_empty() {
        problems.push(wrong(
            "SLURM_JOB_CPUS_PER_NODE",
            per_node.as_deref(),
            "a list such as 2(x3),1 with this node",
        ));
    }
    let optional = |name: &str| short(&get, name).and_then(|text| decimal(&text));
    let restarts = optional("SLURM_JOB_RESTART_COUNT").unwrap_or(0);
    let status = short(&get, "SLURM_JOB_EXIT_CODE").and_then(|text| text.parse().ok());
    let work_dir = short(&get, "SLURM_JOB_WORK_DIR")
        .filter(|dir| dir.starts_with('/') && dir.len() <= LONGEST_WISH);
    let granted = Granted {
        cluster,
        job,
        restarts,
        node: index,
        nodes,
        cpus: cpus.unwrap_or(1),
        work_dir,
        accounts: Vec::new(),
        memory_follows: false,
    };
    Ok((Call { granted, uid, gid, node, status, complete: true }, problems))
}

/// What the job's user asked for: the plugin's options, else, if the site
/// reads it, a comment `denovo: image=NAME bind=SRC:DST none`.
///
/// # Errors
/// Each wish that has no such form; the user's mistakes.
pub fn wishes(get: impl Fn(&str) -> Option<String>, comment: bool) -> Result<Wishes, Problems> {
    let mut found = Wishes::default();
    let mut problems = Problems::new();
    let plugin = |name: &str| get(&format!("SPANK_DENOVO_{name}"));
    let options =
        [("image", plugin("IMAGE")), ("bundle", plugin("BUNDLE")), ("none", plugin("NONE"))];
    let from_plugin: Vec<(String, String)> = options
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .chain(plugin("BIND").into_iter().flat_map(|all| {
            all.lines().map(|l| ("bind".to_owned(), l.to_owned())).collect::<Vec<_>>()
        }))
        .collect();
    let words = if from_plugin.is_empty() && comment {
        get("SLURM_JOB_COMMENT").as_deref().map_or(Vec::new(), in_comment)
    } else {
        from_plugin
    };
    for (key, value) in words {
        if value.len() > LONGEST_WISH || value.contains(char::is_control) {
            problems.push(
                Problem::user(format!("--{key}: the value is too long, or has control characters"))
                    .hint("give a name or a path of at most 4096 bytes"),
            );
            continue;
        }
        match &*key {
            "none" => found.none = true,
            // Every cluster's users know the node's own distribution by name.
            "image" if value == "host" => found.bundle = Some(value),
            "image" => found.image = Some(value),
            "bundle" => found.bundle = Some(value),
            "bind" if found.binds.len() >= MOST_BINDS => {
                problems.push(
                    Problem::user(format!("--bind: more than {MOST_BINDS}"))
                        .hint("bind a directory above them"),
                );
            }
            "bind" => match bind::parse(&value) {
                Ok(bind) if bind.source.starts_with('/') => found.binds.push(bind),
                Ok(_) => problems.push(
                    Problem::user(format!("--bind {value:?}: the source is not absolute"))
                        .hint("begin it with /"),
                ),
                Err(problem) => problems.push(problem),
            },
            _ => problems.push(
                Problem::user(format!("comment: denovo knows no {key:?}"))
                    .hint("denovo: image=NAME bundle=DIR bind=SRC[:DST[:ro]] none"),
            ),
        }
    }
    if found.image.is_some() && found.bundle.is_some() {
        problems.push(
            Problem::user("an image and a bundle are asked for")
                .hint("give one of --image and --bundle"),
        );
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// The words after `denovo:` in a comment.
fn in_comment(text: &str) -> Vec<(String, String)> {
    let Some(rest) = text.trim_start().strip_prefix("denovo:") else { return Vec::new() };
    rest.split_ascii_whitespace()
        .map(|word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

fn short(get: &impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    get(name).filter(|value| !value.is_empty() && value.len() <= LONGEST && !value.contains('\0'))
}

fn wrong(name: &str, value: Option<&str>, form: &str) -> Problem {
    let problem = match value {
        None => Problem::site(format!("{name} is not set")),
        Some(value) => {
            let shown: String = value.chars().take(60).collect();
            Problem::site(format!("{name}={shown:?} is not {form}"))
        }
    };
    problem.hint("slurmd calls this as Prolog and Epilog (slurm.conf); docs/slurm.md")
}

/// Digits only: no sign, no blank, nothing that would wrap.
fn decimal(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_name(text: &str) -> bool {
    text.len() <= 255
        && !text.starts_with(['.', '-'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// The count for node number `index` in `2(x3),1`.
fn cpus_of(text: &str, index: usize) -> Option<usize> {
    let mut before = 0usize;
    for part in text.split(',') {
        let (count, times) = match part.split_once("(x") {
            Some((count, rest)) => (count, decimal(rest.strip_suffix(')')?)?),
            None => (part, 1),
        };
        let count = decimal(count).filter(|n| *n > 0)?;
        before = before.checked_add(usize::try_from(times).ok()?)?;
        if index < before {
            return usize::try_from(count).ok();
        }
    }
    None
}

/// Where `wanted` stands in a host list such as `n[1-3,07],login`, and how
/// many there are.
fn position(list: &str, wanted: &str) -> Option<(usize, usize)> {
    let mut found = None;
    let mut count = 0usize;
    for expression in split_outside(list)? {
        expand(expression, String::new(), &mut |name| {
            if name == wanted && found.is_none() {
                found = Some(count);
            }
            count += 1;
            count <= MOST_NODES
        })?;
    }
    found.map(|index| (index, count))
}

/// Splits at the commas that are not in brackets.
fn split_outside(list: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0i32);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        if !(0..=1).contains(&depth) {
            return None;
        }
    }
    parts.push(&list[start..]);
    (depth == 0).then_some(parts)
}

/// Every name of one expression, in order; `each` says whether to go on.
fn expand(rest: &str, before: String, each: &mut impl FnMut(&str) -> bool) -> Option<()> {
    let Some((literal, tail)) = rest.split_once('[') else {
        return each(&(before + rest)).then_some(());
    };
    let (ranges, after) = tail.split_once(']')?;
    for range in ranges.split(',') {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (decimal(low)?, decimal(high)?);
        for number in first..=last {
            // As many digits as the lower end is written with.
            let name = format!("{before}{literal}{number:0width$}", width = low.len());
            expand(after, name, each)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn variables(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let plain = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_JOB_UID", "1500"),
            ("SLURM_JOB_GID", "1500"),
            ("SLURM_CLUSTER_NAME", "t"),
            ("SLURMD_NODENAME", "n2"),
            ("SLURM_NODELIST", "n[1-3]"),
            ("SLURM_JOB_CPUS_PER_NODE", "2(x2),1"),
        ];
        plain.iter().chain(more).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn parsed(more: &[(&str, &str)]) -> Result<Call, String> {
        let all = variables(more);
        call(|name| all.get(name).cloned())
            .map_err(|p| p.iter().map(|p| p.message.clone()).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn a_call_is_read() {
        let call =
            parsed(&[("SLURM_JOB_RESTART_COUNT", "2"), ("SLURM_JOB_WORK_DIR", "/w")]).unwrap();
        assert_eq!((call.uid, call.gid, call.id()), (1500, 1500, "slurm-7".to_owned()));
        let g = call.granted;
        assert_eq!((g.node, g.nodes, g.cpus, g.restarts), (1, 3, 2, 2));
        assert_eq!(g.work_dir.as_deref(), Some("/w"));
    }

    #[test]
    fn what_is_no_call_of_slurms_is_refused_by_name() {
        for (name, value) in [
            ("SLURM_JOB_ID", ""),
            ("SLURM_JOB_ID", "-1"),
            ("SLURM_JOB_ID", "+1"),
            ("SLURM_JOB_ID", "1 "),
            ("SLURM_JOB_ID", "4294967296"),
            ("SLURM_JOB_UID", "root"),
            ("SLURM_CLUSTER_NAME", "../x"),
            ("SLURM_CLUSTER_NAME", "a/b"),
            ("SLURMD_NODENAME", "n2\n"),
            ("SLURM_NODELIST", "n[3-4]"),
            ("SLURM_NODELIST", "n[1-2"),
            ("SLURM_NODELIST", "n[1-4000000000]"),
            ("SLURM_JOB_CPUS_PER_NODE", "2"),
            ("SLURM_JOB_CPUS_PER_NODE", "0(x3)"),
            ("SLURM_JOB_CPUS_PER_NODE", "2(x3"),
            ("SLURM_JOB_CPUS_PER_NODE", "x"),
        ] {
            let error = parsed(&[(name, value)]).unwrap_err();
            assert!(error.contains(name), "{name}={value:?}: {error}");
        }
    }

    #[test]
    fn the_id_is_enough_to_end_a_job() {
        let mut all = variables(&[("SLURM_NODELIST", "n[7-9]")]);
        all.remove("SLURM_JOB_CPUS_PER_NODE");
        let ending = |all: &BTreeMap<String, String>| super::ending(|name| all.get(name).cloned());
        let call = ending(&all).unwrap();
        assert_eq!((call.id(), call.uid, call.complete), ("slurm-7".to_owned(), 1500, false));
        assert!(super::call(|name| all.get(name).cloned()).is_err());
        assert!(ending(&variables(&[])).unwrap().complete);
        for id in ["SLURM_JOB_ID", "SLURM_JOB_UID", "SLURM_CLUSTER_NAME", "SLURMD_NODENAME"] {
            let mut all = all.clone();
            all.remove(id);
            assert!(ending(&all).unwrap_err()[0].message.contains(id));
        }
    }

    #[test]
    fn positions_in_host_lists() {
        for (list, name, expected) in [
            ("n1", "n1", Some((0, 1))),
            ("n[1-3]", "n3", Some((2, 3))),
            ("n[01-03,07],login", "n07", Some((3, 5))),
            ("n[01-03,07],login", "login", Some((4, 5))),
            ("n[09-11]", "n10", Some((1, 3))),
            ("r[1-2]n[1-2]", "r2n1", Some((2, 4))),
            ("a,b", "c", None),
            ("a]", "a", None),
            ("a[[1]]", "a1", None),
            ("a[]", "a", None),
        ] {
            assert_eq!(position(list, name), expected, "{list} {name}");
        }
    }

    #[test]
    fn cpus_of_each_node() {
        for (text, index, expected) in [
            ("2", 0, Some(2)),
            ("2", 1, None),
            ("2(x3),1", 2, Some(2)),
            ("2(x3),1", 3, Some(1)),
            ("1,2,3", 1, Some(2)),
            ("1(x0),2", 0, Some(2)),
            ("", 0, None),
            ("2(x", 0, None),
        ] {
            assert_eq!(cpus_of(text, index), expected, "{text} {index}");
        }
    }

    #[test]
    fn wishes_come_from_the_plugin_or_a_comment() {
        let ask = |all: &[(&str, &str)], comment| {
            let all = variables(all);
            wishes(|name| all.get(name).cloned(), comment)
        };
        let plugin = ask(
            &[
                ("SPANK_DENOVO_IMAGE", "x"),
                ("SPANK_DENOVO_BIND", "/a\n/b:/c:ro"),
                ("SLURM_JOB_COMMENT", "denovo: image=y"),
            ],
            true,
        )
        .unwrap();
        assert_eq!((plugin.image.as_deref(), plugin.binds.len()), (Some("x"), 2));
        let comment = [("SLURM_JOB_COMMENT", "denovo: image=y bind=/a")];
        assert_eq!(ask(&comment, true).unwrap().image.as_deref(), Some("y"));
        assert!(ask(&comment, false).unwrap().is_empty());
        assert!(ask(&[("SLURM_JOB_COMMENT", "my run of denovo: x")], true).unwrap().is_empty());
        assert!(ask(&[("SLURM_JOB_COMMENT", "denovo: none")], true).unwrap().none);
        for bad in [
            "denovo: imge=x",
            "denovo: bind=a:b",
            "denovo: bind=rel",
            "denovo: image=a bundle=b",
            "denovo: image=host image=a",
        ] {
            assert!(ask(&[("SLURM_JOB_COMMENT", bad)], true).is_err(), "{bad}");
        }
        assert!(ask(&[("SPANK_DENOVO_IMAGE", "a\u{7}b")], true).is_err());
    }
}
