//! Names of containers and jobs.

use crate::problem::Problem;

/// Most characters of an id.
const MAX: usize = 1024;

/// Checks the container id `text`: 1 to 1024 of `A-Z a-z 0-9 _ + - .`, but
/// not `.` or `..`, so that it can stand as a file name (runc's rule).
///
/// # Errors
/// A [`Problem`] that names the id.
pub fn container_id(text: &str) -> Result<String, Problem> {
    let known = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    let reason = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX {
        "is longer than 1024 characters"
    } else if text == "." || text == ".." {
        "names a directory"
    } else if !text.chars().all(known) {
        "holds a character that an id cannot have"
    } else {
        return Ok(text.to_owned());
    };
    let shown: String = text.chars().take(80).collect();
    Err(Problem::user(format!("container id {shown:?} {reason}"))
        .hint("use letters, digits and the characters _ + - ."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_names_pass_and_others_do_not() {
        let longest = "a".repeat(MAX);
        for good in ["a", "job-17", "A_b+c.d", "...", ".hidden", "-x", &longest] {
            assert_eq!(container_id(good).as_deref(), Ok(good));
        }
        let too_long = "a".repeat(MAX + 1);
        for bad in ["", ".", "..", "a/b", "../x", "/", "a b", "ä", "a\n", "a\0", "a:b", &too_long]
        {
            assert!(container_id(bad).is_err(), "{bad:?}");
        }
    }
}
