//! What goes wrong with a registry, and who can mend it.

use std::time::Duration;

use crate::problem::Problem;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nobody answered, or the answer broke off.
    #[error("{registry}: {what}: {why}")]
    Unreachable {
        registry: String,
        what: String,
        why: String,
        secure: bool,
        /// Nothing will change that by waiting.
        for_good: bool,
    },
    /// It answered with an error.
    #[error("{registry} answered {status} to {what}{words}")]
    Answered {
        registry: String,
        what: String,
        status: u16,
        /// Its own words, after a colon; may be empty.
        words: String,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// It answered something that the protocol does not know, or content that
    /// is not what was asked for.
    #[error("{registry}: {what}: {why}")]
    Wrong { registry: String, what: String, why: String },
    /// Not the registry's doing.
    #[error("{0}")]
    Here(Problem),
}

impl Error {
    /// Asking again may help.
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable { for_good, .. } => !for_good,
            Self::Answered { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::Wrong { .. } | Self::Here(_) => false,
        }
    }

    /// It knows nothing of what was asked for, or does not say that it does.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Answered { status: 404, .. })
    }

    /// Nobody answered.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable { secure: true, .. } => {
                "check the registry's name and the network; for one that speaks http only, say --plain-http or plain-http in denovo.toml"
            }
            Self::Unreachable { .. } => "check the registry's name and the network",
            Self::Answered { status: 401 | 403, .. } => {
                "check the name; if it is not public, log in first (podman login or skopeo login): denovo reads their auth.json"
            }
            Self::Answered { status: 404, .. } => "check the name and the tag",
            Self::Answered { status: 429, .. } => {
                "it limits how much is fetched: wait, log in, or let the site set up a mirror"
            }
            Self::Answered { .. } => "try again later, or ask who runs the registry",
            Self::Wrong { .. } => {
                "what was fetched is not used; ask who runs the registry or what is between it and here"
            }
            Self::Here(_) => "",
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Here(problem)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Here(problem) => problem,
            other => Self::user(other.to_string()).hint(other.hint()),
        }
    }
}

/// The most characters of a registry's own words that are passed on.
const LONGEST: usize = 400;

/// The messages of an error document (distribution-spec, "Error Codes"), else
/// nothing: a page of HTML helps nobody.
pub fn words(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(document) = serde_json::from_slice::<Document>(body) else { return String::new() };
    let said: Vec<String> = document
        .errors
        .iter()
        .map(|e| if e.message.is_empty() { e.code.clone() } else { e.message.clone() })
        .collect();
    printable(&said.join("; "))
}

/// Fit for a terminal: it may hold anything.
pub fn printable(text: &str) -> String {
    let fit = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(fit).take(LONGEST).collect();
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_registrys_words_are_passed_on_without_what_a_terminal_obeys() {
        let table = [
            (r#"{"errors":[{"code":"DENIED","message":"no\u001b[2J access"}]}"#, ": no [2J access"),
            (r#"{"errors":[{"code":"A"},{"code":"B","message":"b","detail":{"x":1}}]}"#, ": A; b"),
            (r#"{"errors":[]}"#, ""),
            ("<html>gateway</html>", ""),
        ];
        for (body, said) in table {
            assert_eq!(words(body.as_bytes()), said);
        }
    }
}
