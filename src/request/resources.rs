//! New limits for a container that runs: a document of the runtime-spec's
//! `linux.resources`, options over it, and what is in force beside them.

use std::path::Path;

use serde_json::{Value, json};

use super::oci;
use crate::problem::Problem;

/// Limits by their place in `linux.resources`, as options of a command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes(Vec<(&'static str, Value)>);

/// The limits that others are to be understood beside. `None`: no limit, or
/// not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InForce {
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together, where one setting limits both
    /// (cgroup v1).
    pub memory_and_swap: Option<i64>,
    /// Whether one setting limits both.
    pub together: bool,
    /// Microseconds in each period.
    pub quota: Option<i64>,
    /// Microseconds.
    pub period: Option<u64>,
}

/// A `linux.resources` of its own.
#[derive(Debug, Clone)]
pub struct ResourcesDocument {
    pub resources: oci_spec::runtime::LinuxResources,
    /// Fields that nobody knows, by JSON path.
    pub unknown: Vec<String>,
}

impl Changes {
    /// # Arguments
    /// * `path` - below `linux.resources`, such as `cpu.quota`
    pub fn set(&mut self, path: &'static str, value: Option<impl Into<Value>>) {
        self.0.extend(value.map(|value| (path, value.into())));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Puts document, options and what is in force together.
///
/// # Arguments
/// * `text` - the document, if there is one; `name` stands for it in messages
///
/// # Errors
/// The document is no JSON, or not of the specification's form.
pub fn document(
    text: Option<&[u8]>,
    name: &Path,
    changes: &Changes,
    in_force: &InForce,
) -> Result<ResourcesDocument, Problem> {
    if let Some(text) = text {
        // Line and column are told of the document as it was written.
        oci::parse::<oci_spec::runtime::LinuxResources>(text, name)?;
    }
    let mut whole: Value = text
        .map_or_else(|| Ok(json!({})), serde_json::from_slice)
        .map_err(|error| Problem::ours(format!("{}: {error}", name.display())))?;
    for (path, value) in &changes.0 {
        *place(&mut whole, path) = value.clone();
    }
    complete(&mut whole, in_force);
    let (resources, unknown) = oci::parse(whole.to_string().as_bytes(), name)?;
    Ok(ResourcesDocument { resources, unknown })
}

fn place<'a>(whole: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').fold(whole, |at, key| &mut at[key])
}

/// The number at `path`; 0 and none ask for nothing.
fn number(whole: &Value, path: &str) -> Option<i64> {
    let found = path.split('.').fold(whole, |at, key| &at[key]);
    found.as_i64().filter(|number| *number != 0)
}

/// Two limits are about one thing in each of these pairs: one that is not
/// named stays as it is, unless it would limit what is to have no limit.
///
/// No process is a limit too (OCI config-linux.md, "PIDs"), of which runc and
/// denovo make one: in a group that may have none nothing could be started.
fn complete(whole: &mut Value, in_force: &InForce) {
    if whole["pids"]["limit"] == 0 {
        *place(whole, "pids.limit") = json!(1);
    }
    let memory = (number(whole, "memory.limit"), number(whole, "memory.swap"));
    let cpu = (number(whole, "cpu.quota"), number(whole, "cpu.period"));
    let mut keep = |path: &str, value: Option<Value>| {
        if let Some(value) = value {
            *place(whole, path) = value;
        }
    };
    match memory {
        (None, Some(_)) => keep("memory.limit", in_force.memory.map(Value::from)),
        (Some(limit), None) if limit < 0 => keep("memory.swap", Some(json!(-1))),
        (Some(_), None) if in_force.together => {
            let follows = in_force.memory_and_swap == in_force.memory;
            let swap = match in_force.memory_and_swap {
                // As at the start: what is over its limit is told so.
                _ if follows => None,
                kept => Some(kept.unwrap_or(-1)),
            };
            keep("memory.swap", swap.map(Value::from));
        }
        _ => {}
    }
    match cpu {
        (Some(_), None) => keep("cpu.period", in_force.period.map(Value::from)),
        (None, Some(_)) => keep("cpu.quota", in_force.quota.map(Value::from)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str, changes: &Changes, in_force: &InForce) -> Value {
        let made = document(Some(text.as_bytes()), Path::new("x"), changes, in_force).unwrap();
        serde_json::to_value(made.resources).unwrap()
    }

    #[test]
    fn an_option_stands_over_the_document() {
        let mut changes = Changes::default();
        changes.set("cpu.shares", Some(7));
        changes.set("pids.limit", None::<i64>);
        let text = r#"{"cpu": {"shares": 5, "cpus": "0"}, "pids": {"limit": 9}}"#;
        let found = whole(text, &changes, &InForce::default());
        assert_eq!(found["cpu"], json!({"shares": 7, "cpus": "0"}));
        assert_eq!(found["pids"]["limit"], 9);
    }

    #[test]
    fn what_is_not_named_stays() {
        let now = InForce {
            memory: Some(100),
            memory_and_swap: Some(300),
            together: true,
            quota: Some(5000),
            period: Some(9000),
        };
        let follows = InForce { memory_and_swap: Some(100), ..now };
        let free = InForce { memory_and_swap: None, ..now };
        let v2 = InForce { memory_and_swap: None, together: false, ..now };
        for (text, now, limit, swap) in [
            (r#"{"memory": {"limit": 50}}"#, now, json!(50), json!(300)),
            (r#"{"memory": {"limit": 50}}"#, follows, json!(50), json!(null)),
            (r#"{"memory": {"limit": 50}}"#, free, json!(50), json!(-1)),
            (r#"{"memory": {"limit": 50}}"#, v2, json!(50), json!(null)),
            (r#"{"memory": {"limit": -1}}"#, now, json!(-1), json!(-1)),
            (r#"{"memory": {"limit": -1}}"#, v2, json!(-1), json!(-1)),
            (r#"{"memory": {"limit": -1, "swap": 9}}"#, v2, json!(-1), json!(9)),
            (r#"{"memory": {"swap": 400}}"#, now, json!(100), json!(400)),
            (r#"{"memory": {"limit": 50, "swap": 60}}"#, now, json!(50), json!(60)),
        ] {
            let found = whole(text, &Changes::default(), &now);
            assert_eq!(
                (&found["memory"]["limit"], &found["memory"]["swap"]),
                (&limit, &swap),
                "{text}"
            );
        }
        let found = whole(r#"{"cpu": {"quota": 2000}}"#, &Changes::default(), &now);
        assert_eq!(found["cpu"], json!({"quota": 2000, "period": 9000}));
        let found = whole(r#"{"cpu": {"period": 2000}}"#, &Changes::default(), &now);
        assert_eq!(found["cpu"], json!({"quota": 5000, "period": 2000}));
        for (text, pids) in
            [(r#"{"pids": {"limit": 0}}"#, json!({"limit": 1})), ("{}", json!(null))]
        {
            assert_eq!(whole(text, &Changes::default(), &now)["pids"], pids, "{text}");
        }
    }

    #[test]
    fn a_broken_document_is_named_with_its_place() {
        for text in ["", "[]", "{\"cpu\": 1}", "{", "nonsense"] {
            let refused = document(
                Some(text.as_bytes()),
                Path::new("new.json"),
                &Changes::default(),
                &InForce::default(),
            );
            let problem = refused.unwrap_err();
            assert!(problem.message.starts_with("new.json: line "), "{text:?}: {problem}");
        }
    }
}
