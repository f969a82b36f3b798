//! What is said to a person, or to a caller's log.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::problem::{Blame, Problem};
pub use crate::record::time::rfc3339;

/// A line on standard output. Whoever reads it may have heard enough and be
/// gone, which is no error of ours.
pub fn out(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// What `--timings` asks for, on standard error, in one piece: by then the
/// program that was started writes there too.
pub fn timings(text: &str) {
    let text = text.replace('\n', "\ndenovo: ");
    let _ = std::io::stderr().write_all(format!("denovo: {text}\n").as_bytes());
}

/// The same on standard error.
fn err(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Where messages go and how they look (`--log`, `--log-format`).
#[derive(Debug, Clone, Default)]
pub struct Voice {
    pub file: Option<PathBuf>,
    pub json: bool,
}

impl Voice {
    /// Every problem, with its hint, on standard error and in the log file.
    pub fn problems(&self, problems: &[Problem]) {
        for problem in problems {
            let whose = match problem.blame {
                Blame::User => "",
                Blame::Site => " (this node's set-up)",
                Blame::Kernel => " (the kernel)",
                Blame::Denovo => " (an error of denovo itself; please report it)",
            };
            err(format_args!("denovo: error: {}{whose}", problem.message));
            if let Some(hint) = &problem.hint {
                err(format_args!("  hint: {hint}"));
            }
            self.log("error", &problem.message);
        }
    }

    pub fn warn(&self, message: &str) {
        err(format_args!("denovo: warning: {message}"));
        self.log("warning", message);
    }

    /// One line in the log file, as containerd and Podman read it.
    fn log(&self, level: &str, message: &str) {
        let Some(path) = &self.file else { return };
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let time = rfc3339(seconds);
        let line = if self.json {
            serde_json::json!({ "level": level, "msg": message, "time": time }).to_string()
        } else {
            format!("time={time:?} level={level} msg={message:?}")
        };
        // The message is on standard error already; a log that cannot be
        // written must not hide it behind a second error.
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
            let _ = writeln!(file, "{line}");
        }
    }
}
