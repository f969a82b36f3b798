//! Patterns of image names.

use serde::Deserialize;

/// A name of an image without tag and digest, in which `*` stands for any
/// characters but `/`, and `**` for any at all: `registry.example.org/hpc/**`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let known = |c: char| c.is_ascii_alphanumeric() || "./:_-*[]".contains(c);
        match text.chars().find(|c| !known(*c)) {
            _ if text.is_empty() => Err("a pattern of names is empty".to_owned()),
            Some(c) => Err(format!("pattern {text:?}: {c:?} is in no name of an image")),
            None => Ok(Self(text)),
        }
    }
}

impl Pattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }
}

/// Goes back to the last star only: a `**` that has been passed takes what a
/// later star cannot, so both are kept.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on when the text after a star did not match: behind the
    // star, with one more character for it. (pattern, name) of `*` and `**`.
    let (mut one, mut any) = (None::<(usize, usize)>, None::<(usize, usize)>);
    loop {
        match pattern.get(p..).unwrap_or_default() {
            [b'*', b'*', ..] => {
                p += 2;
                (one, any) = (None, Some((p, n)));
            }
            [b'*', ..] => {
                p += 1;
                one = Some((p, n));
            }
            [c, ..] if name.get(n) == Some(c) => (p, n) = (p + 1, n + 1),
            [] if n == name.len() => return true,
            _ => {
                let further = one.filter(|(_, at)| name.get(*at).is_some_and(|c| *c != b'/'));
                if let Some((after, at)) = further {
                    one = Some((after, at + 1));
                    (p, n) = (after, at + 1);
                } else if let Some((after, at)) = any.filter(|(_, at)| *at < name.len()) {
                    (one, any) = (None, Some((after, at + 1)));
                    (p, n) = (after, at + 1);
                } else {
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn stars_stop_at_a_slash_and_double_stars_do_not() {
        let table = [
            ("debian-12", "debian-12", true),
            ("debian-12", "debian-123", false),
            ("debian-*", "debian-12", true),
            ("debian-*", "debian-12/x", false),
            ("r.example/hpc/*", "r.example/hpc/a", true),
            ("r.example/hpc/*", "r.example/hpc/a/b", false),
            ("r.example/hpc/**", "r.example/hpc/a/b", true),
            ("r.example/hpc/**", "r.example/hpcx/a", false),
            ("**/mpi", "r.example:5000/a/b/mpi", true),
            ("**/mpi", "mpi", false),
            ("**/x*/mpi", "r/a/xb/c/xd/mpi", true),
            ("**/x*/mpi", "r/a/xb/c/d/mpi", false),
            ("**", "anything/at/all", true),
            ("*", "", true),
        ];
        for (pattern, name, expected) in table {
            let pattern = Pattern::try_from(pattern.to_owned()).unwrap();
            assert_eq!(pattern.matches(name), expected, "{pattern:?} {name}");
        }
    }

    #[test]
    fn what_no_name_has_is_refused() {
        for text in ["", "a b", "a@b", "ä"] {
            assert!(Pattern::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
