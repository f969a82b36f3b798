//! What is said to a person when something cannot be done.

use std::fmt;

/// Whose matter a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The request is wrong; the user can mend it.
    User,
    /// The node is set up so that it refuses; the site can mend it.
    Site,
    /// The kernel lacks it or failed.
    Kernel,
    /// denovo is wrong.
    Denovo,
}

/// One thing that is wrong: what, on what, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    pub blame: Blame,
    /// Names the thing and the reason, such as
    /// `process.user.uid: 4294967295 is not a user id (it means "unchanged" to setuid(2))`.
    pub message: String,
    /// The next step, if there is one that we know.
    pub hint: Option<String>,
}

impl Problem {
    pub fn user(message: impl Into<String>) -> Self {
        Self { blame: Blame::User, message: message.into(), hint: None }
    }

    pub fn site(message: impl Into<String>) -> Self {
        Self { blame: Blame::Site, message: message.into(), hint: None }
    }

    pub fn kernel(message: impl Into<String>) -> Self {
        Self { blame: Blame::Kernel, message: message.into(), hint: None }
    }

    pub fn ours(message: impl Into<String>) -> Self {
        Self { blame: Blame::Denovo, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// Everything that is wrong with one request, so that it is mended in one go.
pub type Problems = Vec<Problem>;

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        vec![problem]
    }
}
