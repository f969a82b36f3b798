//! The process that reads the channels: it takes one request a line on its
//! standard input and answers with one line of JSON, until its input ends.

use std::io::{BufRead, Write};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use super::channel::Look;
use super::judge::Readings;
use super::read;

/// What it says to one look.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    pub readings: Readings,
    /// The number of its network namespace (namespaces(7)); no channel, since
    /// it is the node's for whoever has the node's network.
    pub network: Option<u64>,
}

impl Answer {
    fn to(look: &Look) -> Self {
        let network = std::fs::metadata("/proc/self/ns/net").ok().map(|meta| meta.ino());
        Self { readings: read::all(look), network }
    }
}

/// Answers until nobody asks any more; gives the exit code.
pub fn serve(input: impl BufRead, mut output: impl Write) -> i32 {
    for line in input.lines() {
        let Ok(line) = line else { break };
        let Ok(look) = serde_json::from_str::<Look>(&line) else {
            eprintln!("denovo: probe: a request is a look as JSON, not {line:?}");
            return 125;
        };
        let answer = serde_json::to_string(&Answer::to(&look)).unwrap_or_default();
        // Whoever asked may be gone.
        if writeln!(output, "{answer}").and_then(|()| output.flush()).is_err() {
            break;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_answered_with_every_channel_that_is_here() {
        let look = serde_json::to_string(&Look { tag: "t0".into(), ..Look::default() }).unwrap();
        let mut said = Vec::new();
        assert_eq!(serve(format!("{look}\n{look}\n").as_bytes(), &mut said), 0);
        let said = String::from_utf8(said).unwrap();
        assert_eq!(said.lines().count(), 2);
        for line in said.lines() {
            let answer: Answer = serde_json::from_str(line).unwrap();
            let all = answer.readings;
            assert!(answer.network.is_some());
            assert!(all.len() > 80 && all.contains_key("uptime"), "{}", all.len());
            for name in all.keys() {
                assert!(super::super::channels().any(|c| c.name == name), "{name}");
            }
        }
    }

    #[test]
    fn what_is_no_request_ends_it() {
        assert_eq!(serve(&b"hello\n"[..], Vec::new()), 125);
    }
}
