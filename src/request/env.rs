//! `--env NAME=value` and `--env NAME`.

use crate::problem::Problem;

/// Parses `NAME=value`, or `NAME` alone, whose value `lookup` gives from the
/// caller's environment. `None`: the caller has no such variable.
///
/// Only the user's own words are read this way; an entry without `=` in an
/// image or a config.json must never copy from the caller.
///
/// # Errors
/// A [`Problem`] that names the variable; not its value, which may be secret.
pub fn parse(
    text: &str,
    lookup: impl FnOnce(&str) -> Option<String>,
) -> Result<Option<String>, Problem> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let reason = if name.is_empty() {
        "the name is missing"
    } else if name.contains(['*', '\0', ' ', '\t', '\n']) {
        "the name holds a character that no variable has"
    } else {
        match value.or_else(|| lookup(name)) {
            None => return Ok(None),
            Some(value) if value.contains('\0') => "the value holds a NUL byte",
            Some(value) => return Ok(Some(format!("{name}={value}"))),
        }
    };
    Err(Problem::user(format!("environment variable {name:?}: {reason}"))
        .hint("write NAME=value, or NAME to take the caller's value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let lookup = |name: &str| match name {
            "HOME" => Some("/home/x".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("A=b", Some("A=b")),
            ("A=", Some("A=")),
            ("A=b=c", Some("A=b=c")),
            ("a.b-c=ä\n", Some("a.b-c=ä\n")),
            ("HOME", Some("HOME=/home/x")),
            ("HOME=", Some("HOME=")),
            ("EMPTY", Some("EMPTY=")),
            ("NONE", None),
        ] {
            assert_eq!(parse(text, lookup).unwrap().as_deref(), expected, "{text:?}");
        }
        for bad in ["", "=", "=x", "*", "OMPI_*", "A B=c", "A\0", "A=b\0c"] {
            assert!(parse(bad, lookup).is_err(), "{bad:?}");
        }
        let secret = parse("KEY=abc\0", lookup).unwrap_err();
        assert!(!secret.message.contains("abc"));
    }
}
