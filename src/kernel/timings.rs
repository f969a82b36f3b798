//! Where the time of a start goes, when `--timings` asks.
//!
//! The times stand in memory that the child of the clone shares, so that it
//! need not talk while it is measured. Not asked for, a mark is one look at a
//! word that is zero. The one state of this program that is no value handed
//! on: every stage would have to carry it, for the sake of a measurement.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use super::sys;
use crate::plan::inside::Inside;

/// What is done on the way to a first process, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Arguments,
    Facts,
    Config,
    Plan,
    Record,
    Groups,
    /// Of a job: two forks, and its answer.
    Monitor,
    /// Of a process that joins: until the ways in are open.
    Join,
    Clone,
    /// The ids of a user namespace, and the process's name in the record.
    Release,
    /// From there until the child has taken its last step.
    Inside,
    Finish,
}

const STAGES: [(Stage, &str); 12] = [
    (Stage::Arguments, "arguments"),
    (Stage::Facts, "what the node is"),
    (Stage::Config, "what is asked, read and checked"),
    (Stage::Plan, "plan"),
    (Stage::Record, "record"),
    (Stage::Groups, "control groups"),
    (Stage::Monitor, "the job's monitor"),
    (Stage::Join, "ask to be let in"),
    (Stage::Clone, "clone and namespaces"),
    (Stage::Release, "maps of ids, record of the process"),
    (Stage::Inside, "wait for the steps inside"),
    (Stage::Finish, "pid file, record"),
];

// Words of the shared memory: moments, a sum, each stage, each step.
const BEGUN: usize = 0;
const LAST: usize = 1;
const CHILD: usize = 2;
/// When the wait for the steps inside was over.
const ENDED: usize = 3;
const WAITED: usize = 4;
const STAGE: usize = 5;
const STEP: usize = STAGE + STAGES.len();

/// What was asked for.
struct Timings {
    /// Nanoseconds.
    words: &'static [AtomicU64],
    say: fn(&str),
}

static ASKED: OnceLock<Timings> = OnceLock::new();

/// Nanoseconds of the one clock that a time namespace leaves as it is
/// (time_namespaces(7)).
fn nanoseconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(0))
}

impl Timings {
    /// What has passed since the moment in `from`, which is now from here on.
    fn lap(&self, from: usize) -> u64 {
        let now = nanoseconds(SystemTime::now());
        now.saturating_sub(self.words[from].swap(now, Relaxed)).max(1)
    }
}

/// Measures from here on.
///
/// # Arguments
/// * `begun` - when the program was entered
/// * `say` - takes a report, of several lines
///
/// # Errors
/// As mmap(2).
pub fn ask(begun: SystemTime, say: fn(&str)) -> Result<(), nix::errno::Errno> {
    let words = sys::shared_words()?;
    words[BEGUN].store(nanoseconds(begun), Relaxed);
    words[LAST].store(nanoseconds(begun), Relaxed);
    // Once in a program; a second time nothing would be wrong either.
    let _ = ASKED.set(Timings { words, say });
    done(Stage::Arguments);
    Ok(())
}

/// What has passed since the last stage was done belongs to this one.
pub fn done(stage: Stage) {
    if let Some(asked) = ASKED.get() {
        let passed = asked.lap(LAST);
        asked.words[STAGE + stage as usize].fetch_add(passed, Relaxed);
        if stage == Stage::Inside {
            asked.words[ENDED].store(asked.words[LAST].load(Relaxed), Relaxed);
        }
    }
}

/// In the child: it is there.
pub fn born() {
    if let Some(asked) = ASKED.get() {
        asked.lap(CHILD);
    }
}

/// In the child: what has passed since the last step was a wait for the parent.
pub fn waited() {
    if let Some(asked) = ASKED.get() {
        let passed = asked.lap(CHILD);
        asked.words[WAITED].fetch_add(passed, Relaxed);
    }
}

/// In the child: the step with this index is taken.
pub fn taken(step: usize) {
    if let Some(asked) = ASKED.get()
        && let Some(word) = asked.words.get(STEP + step)
    {
        word.store(asked.lap(CHILD), Relaxed);
    }
}

/// Says where the time went since the last report, and forgets it.
///
/// # Arguments
/// * `what` - was started
/// * `steps` - those that the child has taken
pub fn report(what: &str, steps: &[Inside]) {
    let Some(asked) = ASKED.get() else { return };
    let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    // The child's last step ended with the wait for it: by exec, or a wait
    // for its turn, neither of which comes back to be measured.
    let ended = asked.words[ENDED].load(Relaxed);
    let begun = asked.words[BEGUN].load(Relaxed);
    let last = asked.words[LAST].load(Relaxed);
    let mut text = format!("{:11.1}  {what}, in microseconds\n", microseconds(last - begun));
    for (stage, name) in STAGES {
        let passed = asked.words[STAGE + stage as usize].swap(0, Relaxed);
        if passed > 0 {
            let _ = writeln!(text, "{:11.1}  {name}", microseconds(passed));
        }
    }
    let _ = writeln!(text, "             inside, from the clone on:");
    let child = asked.words[CHILD].swap(0, Relaxed);
    let mut open = Some(ended.saturating_sub(child));
    for (index, step) in steps.iter().enumerate() {
        let Some(word) = asked.words.get(STEP + index) else { break };
        let passed = match word.swap(0, Relaxed) {
            0 => open.take(),
            passed => Some(passed),
        };
        if let Some(passed) = passed {
            let _ = writeln!(text, "{:11.1}    {:2}  {step}", microseconds(passed), index + 1);
        }
    }
    let waited = asked.words[WAITED].swap(0, Relaxed);
    let _ = write!(text, "{:11.1}        wait for the parent", microseconds(waited));
    (asked.say)(&text);
    let now = nanoseconds(SystemTime::now());
    asked.words[BEGUN].store(now, Relaxed);
    asked.words[LAST].store(now, Relaxed);
}
