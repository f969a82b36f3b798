//! `--bind SRC[:DST[:ro]]`.

use crate::problem::Problem;

/// A host path that is to be seen in the environment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bind {
    /// As written; relative to the caller's working directory.
    pub source: String,
    /// Absolute, without `.`, `..`, doubled or trailing slashes.
    pub destination: String,
    pub readonly: bool,
}

/// Parses `SRC[:DST[:ro|rw]]`; without `DST` it appears where it is.
///
/// # Errors
/// A [`Problem`] that names the text.
pub fn parse(text: &str) -> Result<Bind, Problem> {
    bind(text).map_err(|reason| {
        Problem::user(format!("bind {text:?}: {reason}"))
            .hint("write SRC, SRC:DST or SRC:DST:ro, such as /scratch/in:/data:ro")
    })
}

fn bind(text: &str) -> Result<Bind, &'static str> {
    if text.contains('\0') {
        return Err("it holds a NUL byte");
    }
    let mut parts = text.split(':');
    let source = parts.next().unwrap_or_default();
    if source.is_empty() {
        return Err("the source is missing");
    }
    let destination = destination(parts.next().unwrap_or(source))?;
    let readonly = match parts.next() {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(_) => return Err("after the second colon stands ro or rw"),
    };
    if parts.next().is_some() {
        return Err("it has more than three parts");
    }
    Ok(Bind { source: source.to_owned(), destination, readonly })
}

fn destination(text: &str) -> Result<String, &'static str> {
    if !text.starts_with('/') {
        return Err("the destination is not an absolute path");
    }
    let mut path = String::with_capacity(text.len());
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => return Err("the destination goes up with .."),
            name => {
                path.push('/');
                path.push_str(name);
            }
        }
    }
    if path.is_empty() { Err("the destination is the root itself") } else { Ok(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds() {
        for (text, source, destination, readonly) in [
            ("/a", "/a", "/a", false),
            ("/a/", "/a/", "/a", false),
            ("/a:/b", "/a", "/b", false),
            ("/a:/b:ro", "/a", "/b", true),
            ("/a:/b:rw", "/a", "/b", false),
            ("in:/data//./x/:ro", "in", "/data/x", true),
            ("/:/host", "/", "/host", false),
        ] {
            let expected =
                Bind { source: source.into(), destination: destination.into(), readonly };
            assert_eq!(parse(text), Ok(expected), "{text:?}");
        }
        for bad in [
            "",
            ":",
            ":/b",
            "a",
            "/",
            "/a:",
            "/a:b",
            "/a:/",
            "/a:/b/../c",
            "/a:/..",
            "/a:/b:",
            "/a:/b:RO",
            "/a:/b:ro:",
            "/a:/b:ro:x",
            "/a\0",
            "/a:/b\0",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
