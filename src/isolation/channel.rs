//! What a channel is: data.

use serde::{Deserialize, Serialize};

/// What one look at a channel gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reading {
    Number(f64),
    Text(String),
    List(Vec<String>),
    /// There was none: the error of the attempt.
    Failed {
        errno: i32,
    },
}

impl Reading {
    /// Nothing to be learned from: zero, or empty.
    pub fn is_nothing(&self) -> bool {
        match self {
            Self::Number(n) => *n == 0.0,
            Self::Text(text) => text.is_empty(),
            Self::List(all) => all.is_empty(),
            Self::Failed { .. } => true,
        }
    }
}

/// What a look needs to know beside the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Part of every name that the neighbour gives.
    pub tag: String,
    /// A file of the distribution that the neighbour reads.
    pub watched: Option<String>,
    /// One that nobody has read for a day.
    pub unread: Option<String>,
    /// The file systems that are mounted on the node, by `MAJOR:MINOR`.
    #[serde(default)]
    pub mounted: Vec<String>,
    /// CPUs on which the neighbour does not run.
    #[serde(default)]
    pub granted: Vec<u32>,
}

/// How a reading is compared with the host's at the same moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Likeness {
    Never,
    Same,
    /// Between the host's readings before and after, give or take.
    Within(f64),
    /// In one sequence with the host's: near it, as the next of many.
    Sequence(f64),
}

/// How a reading can follow the neighbour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Moves {
    Never,
    /// Higher or lower by at least this much while the neighbour is there.
    Level(f64),
    /// Grows by at least this much more while the neighbour works.
    Rate(f64),
    /// Names something of the neighbour's.
    Mark,
    /// Is another after the neighbour than before, for good.
    Changes,
    /// At least this much between two readings of a process that is alone.
    Contention(f64),
}

/// One way to notice somebody.
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    pub name: &'static str,
    /// What is read.
    pub path: &'static str,
    pub reveals: &'static str,
    pub read: fn(&Look) -> Option<Reading>,
    pub likeness: Likeness,
    pub moves: Moves,
    /// Any reading is too much.
    pub shows: bool,
}

impl Channel {
    pub const fn new(
        name: &'static str,
        path: &'static str,
        reveals: &'static str,
        read: fn(&Look) -> Option<Reading>,
    ) -> Self {
        let (likeness, moves) = (Likeness::Never, Moves::Never);
        Self { name, path, reveals, read, likeness, moves, shows: false }
    }

    /// Open when it equals the host's.
    pub const fn same(mut self) -> Self {
        self.likeness = Likeness::Same;
        self
    }

    /// Open when it is the host's but for this much.
    pub const fn within(mut self, slack: f64) -> Self {
        self.likeness = Likeness::Within(slack);
        self
    }

    /// Open when it is one of the host's sequence.
    pub const fn sequence(mut self, slack: f64) -> Self {
        self.likeness = Likeness::Sequence(slack);
        self
    }

    pub const fn level(mut self, least: f64) -> Self {
        self.moves = Moves::Level(least);
        self
    }

    pub const fn rate(mut self, least: f64) -> Self {
        self.moves = Moves::Rate(least);
        self
    }

    pub const fn marked(mut self) -> Self {
        self.moves = Moves::Mark;
        self
    }

    pub const fn changes(mut self) -> Self {
        self.moves = Moves::Changes;
        self
    }

    pub const fn contention(mut self, least: f64) -> Self {
        self.moves = Moves::Contention(least);
        self
    }

    /// Open when there is anything to read.
    pub const fn showing(mut self) -> Self {
        self.shows = true;
        self
    }
}
