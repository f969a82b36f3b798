//! The neighbour: a process of the same user that does what others do on a
//! node, much of it and all at once, when it is told to.

mod dead;
mod tasks;
mod things;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::channel::Look;
use crate::kernel::sys;
pub use dead::sweep;
use tasks::Tasks;
use things::{Held, Left};

/// One order a line, as JSON; the first is the look, with its paths as they
/// are on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Be there, in every way.
    Come,
    /// Do a fixed amount of everything that is counted.
    Work,
    /// Go, and take everything along.
    Go,
    /// Go, and leave behind what a process can leave.
    Leave,
    /// Take away what was left.
    Clean,
}

/// What a channel's lines call the neighbour's things by, beside the tag.
pub type Marks = BTreeMap<String, Vec<String>>;

/// Carries out orders until nobody gives any; gives the exit code.
pub fn serve(mut input: impl BufRead, mut output: impl Write) -> i32 {
    // An interrupted command closes our input, and then we clear away first.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        sys::ignore_signal(signal);
    }
    sweep();
    let mut line = String::new();
    let Some(look) = next::<Look>(&mut input, &mut line) else { return 125 };
    leave(&look.granted);
    let mut neighbour = Neighbour { look, tasks: None, held: None, left: Left::default() };
    while let Some(order) = next::<Order>(&mut input, &mut line) {
        let marks = neighbour.obey(order);
        let answer = serde_json::to_string(&marks).unwrap_or_default();
        if writeln!(output, "{answer}").and_then(|()| output.flush()).is_err() {
            break;
        }
    }
    neighbour.go();
    0
}

/// Runs, with all that it starts, on no CPU of these, if there is any other: as a
/// scheduler places those who share a node.
fn leave(granted: &[u32]) {
    let own = Pid::from_raw(0);
    let Ok(mut set) = sched_getaffinity(own) else { return };
    for cpu in granted {
        let _ = set.unset(*cpu as usize);
    }
    // Refused when nothing is left.
    let _ = sched_setaffinity(own, &set);
}

fn next<T: for<'a> Deserialize<'a>>(input: &mut impl BufRead, line: &mut String) -> Option<T> {
    line.clear();
    input.read_line(line).ok().filter(|read| *read > 0)?;
    serde_json::from_str(line).ok()
}

struct Neighbour {
    look: Look,
    tasks: Option<Tasks>,
    /// What goes when it is closed.
    held: Option<Held>,
    /// What stays until it is removed.
    left: Left,
}

impl Neighbour {
    fn obey(&mut self, order: Order) -> Marks {
        let mut marks = Marks::new();
        match order {
            Order::Come => {
                // First, so that no task inherits a descriptor of what follows.
                self.tasks = Some(Tasks::start(&self.look.tag));
                self.left = Left::make(&self.look, &mut marks);
                self.held = Some(Held::take(&self.look, &mut marks));
            }
            Order::Work => {
                if let Some(held) = &self.held {
                    held.work();
                }
                tasks::work();
                things::write_and_read(&self.look);
            }
            Order::Go => self.go(),
            Order::Leave => {
                self.tasks = None;
                self.held = None;
            }
            Order::Clean => self.left.remove(&self.look),
        }
        marks
    }

    fn go(&mut self) {
        self.tasks = None;
        self.held = None;
        self.left.remove(&self.look);
    }
}
