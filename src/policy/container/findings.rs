//! What the checks of one configuration find.

use std::fmt::Display;

use crate::policy::CText;
use crate::problem::{Problem, Problems};

/// Collects problems and warnings, so that one run shows them all.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Problems,
    warnings: Vec<String>,
}

impl Findings {
    pub(super) fn refuse(&mut self, field: impl Display, reason: impl Display) {
        self.push(Problem::user(format!("{field}: {reason}")));
    }

    pub(super) fn refuse_with(
        &mut self,
        field: impl Display,
        reason: impl Display,
        hint: impl Into<String>,
    ) {
        self.push(Problem::user(format!("{field}: {reason}")).hint(hint));
    }

    pub(super) fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub(super) fn warn(&mut self, field: impl Display, reason: impl Display) {
        self.warnings.push(format!("{field}: {reason}"));
    }

    /// `text` for the kernel; one with a NUL byte is refused.
    pub(super) fn text(&mut self, field: impl Display, text: &str) -> CText {
        CText::new(text).unwrap_or_else(|error| {
            self.refuse(field, error);
            CText::default()
        })
    }

    /// `value` with the warnings, unless there are problems.
    pub(super) fn conclude<T>(self, value: T) -> Result<(T, Vec<String>), Problems> {
        if self.problems.is_empty() { Ok((value, self.warnings)) } else { Err(self.problems) }
    }
}
