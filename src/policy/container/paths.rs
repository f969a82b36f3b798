//! Paths inside the root, compared and cleaned as text.

/// The absolute `path` without `.`, doubled and trailing slashes.
///
/// # Errors
/// Why it is no path inside the root. `..` is refused rather than resolved:
/// what it means depends on symlinks that somebody else may own.
pub(super) fn normalise(path: &str) -> Result<String, &'static str> {
    if path.is_empty() {
        return Err("is empty");
    }
    if !path.starts_with('/') {
        return Err("is not an absolute path");
    }
    let mut clean = String::with_capacity(path.len());
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => return Err("goes up with \"..\""),
            name => {
                clean.push('/');
                clean.push_str(name);
            }
        }
    }
    if clean.is_empty() {
        clean.push('/');
    }
    Ok(clean)
}

/// Whether the clean `path` lies below the clean directory `dir`.
pub(super) fn below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_text() {
        for (path, clean) in [
            ("/", "/"),
            ("//", "/"),
            ("/a", "/a"),
            ("//a/./b//", "/a/b"),
            ("/a/...", "/a/..."),
            ("/..a", "/..a"),
        ] {
            assert_eq!(normalise(path), Ok(clean.to_owned()));
        }
        for path in ["", "a", "./a", "/..", "/a/..", "/a/../b"] {
            assert!(normalise(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn below_compares_whole_names() {
        assert!(below("/proc/sys", "/proc"));
        assert!(!below("/proc", "/proc"));
        assert!(!below("/process", "/proc"));
    }
}
