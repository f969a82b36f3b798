//! A command line that cannot be read, told as every other problem; and the
//! version, as callers of OCI runtimes read it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;

use super::TAKES_VALUE;
use super::say::{Voice, out};
use crate::problem::Problem;
use crate::record::container::OCI_VERSION;

/// Prints help or a version that was asked for, or says what is wrong with
/// the command line `argv`; gives the exit code.
pub fn answer(error: &clap::Error, argv: &[OsString]) -> i32 {
    match error.kind() {
        ErrorKind::DisplayVersion => version(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return 125;
        }
        _ if !error.use_stderr() => drop(error.print()),
        _ => {
            voice(argv).problems(&[problem(error, argv)]);
            return 125;
        }
    }
    0
}

/// The lines of `runc --version`, which Docker and containerd look at: name
/// and version, then one `key: value` a line.
fn version() {
    let library = libseccomp::ScmpVersion::current();
    out(format_args!("denovo version {}", env!("CARGO_PKG_VERSION")));
    out(format_args!("spec: {OCI_VERSION}"));
    if let Ok(library) = library {
        out(format_args!("libseccomp: {}.{}.{}", library.major, library.minor, library.micro));
    }
}

/// Where messages go, as far as it can be told from a command line that is
/// wrong somewhere.
fn voice(argv: &[OsString]) -> Voice {
    let value = |option: &str| {
        let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
        let joined = format!("{option}=");
        words.iter().enumerate().find_map(|(at, word)| {
            let next = words.get(at + 1).filter(|_| *word == option);
            word.strip_prefix(&joined).map(str::to_owned).or(next.map(|next| next.to_string()))
        })
    };
    Voice {
        file: value("--log").map(PathBuf::from),
        json: value("--log-format").as_deref() == Some("json"),
    }
}

/// clap's words: what is wrong first, then tips, then how the verb is used.
fn problem(error: &clap::Error, argv: &[OsString]) -> Problem {
    let text = error.render().to_string();
    let (message, tip) = split(&text);
    let problem = Problem::user(message);
    let own = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<Problem>())
        .and_then(|problem| problem.hint.clone());
    // "to pass '--foo' as a value" is hardly what was meant.
    let tip = tip.filter(|tip| !tip.starts_with("to pass "));
    let hint = own.or(tip).unwrap_or_else(|| {
        let verb = verb(argv).map(|verb| format!("{verb} ")).unwrap_or_default();
        format!("denovo {verb}--help lists what there is")
    });
    problem.hint(hint)
}

/// The first word that is no option, nor the value of one.
fn verb(argv: &[OsString]) -> Option<&str> {
    let mut words = argv.iter().skip(1).map(|word| word.to_str().unwrap_or("-"));
    while let Some(word) = words.next() {
        match word {
            _ if TAKES_VALUE.contains(&word) => drop(words.next()),
            _ if word.starts_with('-') => {}
            _ => return Some(word),
        }
    }
    None
}

/// Message and tip out of clap's text.
fn split(text: &str) -> (String, Option<String>) {
    let mut message: Vec<&str> = Vec::new();
    let mut tip = None;
    for line in text.lines() {
        if line.starts_with("Usage: ") || line.starts_with("For more information") {
            break;
        }
        let line = line.trim();
        if let Some(words) = line.strip_prefix("tip: ") {
            tip.get_or_insert_with(|| words.to_owned());
        } else if !line.is_empty() {
            message.push(line.strip_prefix("error: ").unwrap_or(line));
        }
    }
    (message.join(" "), tip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claps_words_become_a_message_and_a_tip() {
        for (text, message, tip) in [
            (
                "error: unrecognized subcommand 'paus'\n\n  tip: a similar subcommand exists: 'pause'\n\nUsage: x\n",
                "unrecognized subcommand 'paus'",
                Some("a similar subcommand exists: 'pause'"),
            ),
            (
                "error: the following required arguments were not provided:\n  <ID>\n\nUsage: denovo state <ID>\n\nFor more information, try '--help'.\n",
                "the following required arguments were not provided: <ID>",
                None,
            ),
            (
                "error: invalid value 'x' for '--format <FORMAT>'\n  [possible values: table, json]\n\nFor more information, try '--help'.\n",
                "invalid value 'x' for '--format <FORMAT>' [possible values: table, json]",
                None,
            ),
        ] {
            assert_eq!(split(text), (message.to_owned(), tip.map(str::to_owned)));
        }
    }

    #[test]
    fn a_log_is_found_on_a_wrong_command_line() {
        for words in [
            &["denovo", "--log", "/l", "--log-format", "json", "nonsense"][..],
            &["denovo", "--log=/l", "--log-format=json", "x"],
        ] {
            let argv: Vec<OsString> = words.iter().map(OsString::from).collect();
            let voice = voice(&argv);
            assert_eq!((voice.file, voice.json), (Some(PathBuf::from("/l")), true));
        }
    }
}
