//! Users and groups on a command line.

use crate::problem::Problem;

/// What `exec --user UID[:GID]` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserIds {
    pub uid: u32,
    pub gid: Option<u32>,
}

/// Parses `UID[:GID]`, both decimal and exact: no sign, no blank, no rest.
///
/// A lenient reading here has made user 0 out of `+1` and `4294967296`
/// elsewhere; names are not looked up, since a static binary has no NSS.
///
/// # Errors
/// A [`Problem`] that names the text.
pub fn parse_uid_gid(text: &str) -> Result<UserIds, Problem> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (id(uid), Some(id(gid))),
        None => (id(text), None),
    };
    let parsed = match (uid, gid) {
        (Ok(uid), None) => Ok(UserIds { uid, gid: None }),
        (Ok(uid), Some(Ok(gid))) => Ok(UserIds { uid, gid: Some(gid) }),
        (Err(reason), _) | (_, Some(Err(reason))) => Err(reason),
    };
    parsed.map_err(|reason| {
        Problem::user(format!("user {text:?}: {reason}"))
            .hint("write UID or UID:GID in decimal, such as 1000:1000")
    })
}

fn id(text: &str) -> Result<u32, &'static str> {
    if text.is_empty() {
        return Err("an id is missing");
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("an id has digits only");
    }
    match text.parse() {
        // (uid_t)-1 means "leave unchanged" to setresuid(2).
        Ok(u32::MAX) => Err("4294967295 is no id, it means \"unchanged\" to the kernel"),
        Ok(id) => Ok(id),
        Err(_) => Err("an id is at most 4294967294"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_numbers_only() {
        for (text, uid, gid) in [
            ("0", 0, None),
            ("1000", 1000, None),
            ("0001", 1, None),
            ("1:2", 1, Some(2)),
            ("4294967294:4294967294", u32::MAX - 1, Some(u32::MAX - 1)),
        ] {
            assert_eq!(parse_uid_gid(text), Ok(UserIds { uid, gid }), "{text:?}");
        }
        for bad in [
            "",
            ":",
            ":1",
            "1:",
            "-1",
            "+1",
            "1abc",
            "abc",
            "root",
            " 1",
            "1 ",
            "1\n",
            "0x1",
            "1:-1",
            "1:+1",
            "1:2:3",
            "1:a",
            "4294967295",
            "4294967296",
            "1:4294967295",
            "1:4294967296",
            "18446744073709551616",
            "٣",
        ] {
            assert!(parse_uid_gid(bad).is_err(), "{bad:?}");
        }
    }
}
