//! From readings to a verdict. Pure: what it knows is in its arguments.

use std::collections::BTreeMap;

use nix::errno::Errno;
use serde::Serialize;

use super::channel::{Channel, Likeness, Moves, Reading};

pub type Readings = BTreeMap<String, Reading>;

/// Inside, and on the node just before and just after.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    pub before: Readings,
    pub inside: Readings,
    pub after: Readings,
}

/// A stretch of time with the neighbour busy, or not there.
#[derive(Debug, Clone, Default)]
pub struct Phase {
    pub busy: bool,
    /// Inside, before anybody works.
    pub start: Readings,
    pub end: Moment,
    /// Beside its tag, what the neighbour's things are called in a channel.
    pub marks: BTreeMap<String, Vec<String>>,
}

/// Idle, busy, idle, busy …; the last is idle, after a neighbour that left
/// behind what a process can leave.
#[derive(Debug, Clone, Default)]
pub struct Course {
    pub tag: String,
    /// The inside has the node's network namespace.
    pub same_network: bool,
    pub phases: Vec<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// It moves with the neighbour.
    Tells,
    /// It outlives the neighbour.
    Left,
    /// It equals the host's.
    Host,
    /// It shows a path or a thing of the host's.
    Shows,
    /// It is the next of a sequence that the whole host counts.
    Sequence,
    /// It cannot be read, for no reason that keeps it closed.
    Fails,
}

impl Why {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tells => "tells",
            Self::Left => "left",
            Self::Host => "host",
            Self::Shows => "shows",
            Self::Sequence => "seq",
            Self::Fails => "fails",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to be read of it on the node nor inside.
    Absent,
    Closed {
        /// What is read instead.
        evidence: String,
    },
    Open {
        why: Vec<Why>,
        /// The readings that say so.
        evidence: String,
    },
}

/// What a channel's readings come to.
pub fn judge(channel: &Channel, course: &Course) -> Verdict {
    let case = Case { channel, course };
    let mut found = Vec::new();
    case.moves(&mut found);
    case.likeness(&mut found);
    if let Some(shown) = case.shown() {
        found.push((Why::Shows, shown));
    }
    if !case.is_there() && found.is_empty() {
        return Verdict::Absent;
    }
    if let Some(error) = case.fails() {
        found.push((Why::Fails, error));
    }
    if !found.is_empty() {
        // What moves says more than that it is the host's.
        let says = |why: Why| matches!(why, Why::Tells | Why::Left | Why::Shows);
        let all_alike = !found.iter().any(|(why, _)| says(*why));
        let told = found.iter().filter(|(why, _)| all_alike || says(*why));
        let evidence = told.map(|(_, e)| e.as_str()).collect::<Vec<_>>().join("; ");
        return Verdict::Open { why: found.into_iter().map(|(why, _)| why).collect(), evidence };
    }
    Verdict::Closed { evidence: case.instead() }
}

/// Errors by which an environment keeps something closed, or that say that it
/// is not in it.
const REFUSED: [Errno; 8] = [
    Errno::ENOENT,
    Errno::ENOTDIR,
    Errno::EACCES,
    Errno::EPERM,
    Errno::ENOSYS,
    Errno::ENODEV,
    Errno::ENXIO,
    Errno::EOPNOTSUPP,
];

type Found = Vec<(Why, String)>;

struct Case<'a> {
    channel: &'a Channel,
    course: &'a Course,
}

impl<'a> Case<'a> {
    fn of(&self, readings: &'a Readings) -> Option<&'a Reading> {
        readings.get(self.channel.name).filter(|r| !matches!(r, Reading::Failed { .. }))
    }

    /// The errors of reading it inside.
    fn errors(&self) -> impl Iterator<Item = Errno> {
        self.moments().filter_map(|moment| match moment.inside.get(self.channel.name) {
            Some(Reading::Failed { errno }) => Some(Errno::from_raw(*errno)),
            _ => None,
        })
    }

    fn fails(&self) -> Option<String> {
        self.errors().find(|errno| !REFUSED.contains(errno)).map(|errno| errno.desc().to_owned())
    }

    /// What is read inside of a channel that is closed.
    fn instead(&self) -> String {
        let last = self.course.phases.last();
        let Some(inside) = last.and_then(|phase| self.inside(phase)) else {
            let error = self.errors().last();
            return error.map_or("nothing to read inside", Errno::desc).to_owned();
        };
        if inside.is_nothing() {
            return "says nothing inside".to_owned();
        }
        let host = last.and_then(|phase| self.of(&phase.end.before));
        match (self.channel.likeness, host) {
            (Likeness::Never, _) | (_, None) => match number(inside) {
                Some(_) => self.idle_and_busy(&|phase| number(self.inside(phase)?)),
                None => show(inside),
            },
            (_, Some(host)) => format!("{} inside, {} on the node", show(inside), show(host)),
        }
    }

    fn idle_and_busy(&self, of: &dyn Fn(&'a Phase) -> Option<f64>) -> String {
        let all = |busy| self.phases(busy).filter_map(of).collect::<Vec<_>>();
        format!("{} idle, {} busy", middle(all(false)), middle(all(true)))
    }

    fn inside(&self, phase: &'a Phase) -> Option<&'a Reading> {
        self.of(&phase.end.inside)
    }

    fn moments(&self) -> impl Iterator<Item = &'a Moment> {
        self.course.phases.iter().map(|phase| &phase.end)
    }

    /// Whether anybody could read anything of it, here and now.
    fn is_there(&self) -> bool {
        let tells = |reading: Option<&Reading>| reading.is_some_and(|r| !r.is_nothing());
        self.moments().any(|m| [&m.before, &m.inside, &m.after].iter().any(|r| tells(self.of(r))))
    }

    fn moves(&self, found: &mut Found) {
        match self.channel.moves {
            Moves::Never => {}
            Moves::Level(least) => self.level(least, found),
            Moves::Rate(least) => {
                let grown = |phase: &'a Phase| {
                    number(self.inside(phase)?)
                        .zip(number(self.of(&phase.start)?))
                        .map(|(end, start)| end - start)
                };
                if let Some(said) = self.follows(least, true, &grown) {
                    found.push((Why::Tells, format!("grows by {said}")));
                }
            }
            Moves::Mark => self.marked(found),
            Moves::Changes => self.changes(found),
            Moves::Contention(least) => self.contention(least, found),
        }
    }

    fn level(&self, least: f64, found: &mut Found) {
        let at = |phase: &'a Phase| number(self.inside(phase)?);
        let Some(said) = self.follows(least, false, &at) else { return };
        found.push((Why::Tells, said));
        // What stays after the last neighbour, and did not after the others.
        let idle: Vec<f64> = self.phases(false).filter_map(at).collect();
        let ([first, between @ .., last], Some(busy)) =
            (&idle[..], self.phases(true).filter_map(at).last())
        else {
            return;
        };
        let shift = last - first;
        let drift = between.iter().map(|v| (v - first).abs()).fold(0.0, f64::max);
        if shift * (busy - first) > 0.0 && shift.abs() >= least.max(2.0 * drift) {
            found.push((Why::Left, format!("{} afterwards", short(*last))));
        }
    }

    fn phases(&self, busy: bool) -> impl Iterator<Item = &'a Phase> {
        self.course.phases.iter().filter(move |phase| phase.busy == busy)
    }

    /// Whether a value goes one way each time the neighbour comes, and back
    /// each time it goes, by `least`. Neighbouring phases are compared, so that
    /// what drifts by itself does not count; one pair may differ, since others
    /// are on the node as well.
    fn follows(
        &self,
        least: f64,
        up_only: bool,
        of: &dyn Fn(&'a Phase) -> Option<f64>,
    ) -> Option<String> {
        let steps: Vec<f64> = self
            .course
            .phases
            .windows(2)
            .filter_map(|pair| {
                let (busy, idle) =
                    if pair[0].busy { (&pair[0], &pair[1]) } else { (&pair[1], &pair[0]) };
                Some(of(busy)? - of(idle)?)
            })
            .collect();
        let up = steps.iter().filter(|step| **step >= least).count();
        let down = steps.iter().filter(|step| **step <= -least).count();
        let enough = steps.len().saturating_sub(steps.len() / 4).max(2);
        let follows = up >= enough || (!up_only && down >= enough);
        follows.then(|| self.idle_and_busy(of))
    }

    fn marks(&self) -> Vec<&'a str> {
        let named = |phase: &'a Phase| phase.marks.get(self.channel.name).into_iter().flatten();
        let named = self.course.phases.iter().flat_map(named).map(String::as_str);
        named.chain(std::iter::once(self.course.tag.as_str())).collect()
    }

    fn marked(&self, found: &mut Found) {
        let marks = self.marks();
        let marked = |phase: &'a Phase| match self.inside(phase) {
            Some(Reading::List(all)) => {
                all.iter().find(|line| marks.iter().any(|mark| line.contains(mark)))
            }
            _ => None,
        };
        if let Some(line) = self.phases(true).find_map(marked) {
            found.push((Why::Tells, clip(line)));
        }
        if let Some(line) = self.course.phases.last().filter(|p| !p.busy).and_then(marked) {
            found.push((Why::Left, format!("{} afterwards", clip(line))));
        }
    }

    fn changes(&self, found: &mut Found) {
        let mut idle = self.phases(false).filter_map(|phase| self.inside(phase));
        if let (Some(first), Some(last)) = (idle.next(), idle.last())
            && first != last
        {
            found.push((Why::Tells, format!("{} before, {} after", show(first), show(last))));
        }
    }

    fn contention(&self, least: f64, found: &mut Found) {
        let grown =
            |phase: &'a Phase| Some(number(self.inside(phase)?)? - number(self.of(&phase.start)?)?);
        let most = self.course.phases.iter().filter_map(grown).fold(0.0, f64::max);
        if most >= least {
            found.push((Why::Tells, format!("{} µs waited at most", short(most))));
        }
    }

    fn shown(&self) -> Option<String> {
        if !self.channel.shows {
            return None;
        }
        let readings = self.course.phases.iter().filter_map(|phase| self.inside(phase));
        readings.filter(|reading| !reading.is_nothing()).map(show).next()
    }

    /// Compared at every moment at which both could be read; it has to be like
    /// the host's at two of three at least, and to say something at one.
    fn likeness(&self, found: &mut Found) {
        let (mut alike, mut compared, mut same, mut says) = (0, 0, 0, None);
        for moment in self.moments() {
            let [before, inside, after] =
                [&moment.before, &moment.inside, &moment.after].map(|r| self.of(r));
            let (Some(inside), Some(host)) = (inside, before.or(after)) else { continue };
            compared += 1;
            let other = after.unwrap_or(host);
            same += i32::from(inside == host || inside == other);
            if self.is_like(inside, host, other) {
                alike += 1;
                if self.says_something(host) {
                    says = Some(inside);
                }
            }
        }
        let (Some(reading), true) = (says, compared > 0 && alike * 3 >= compared * 2) else {
            return;
        };
        match self.channel.likeness {
            Likeness::Sequence(_) if same != compared => {
                found.push((Why::Sequence, show(reading)));
            }
            _ => found.push((Why::Host, show(reading))),
        }
    }

    fn is_like(&self, inside: &Reading, before: &Reading, after: &Reading) -> bool {
        let slack = match self.channel.likeness {
            Likeness::Never => return false,
            Likeness::Same => return inside == before || inside == after,
            Likeness::Within(slack) | Likeness::Sequence(slack) => slack,
        };
        let (Some(inside), Some(before), Some(after)) =
            (number(inside), number(before), number(after))
        else {
            return false;
        };
        before.min(after) - slack <= inside && inside <= before.max(after) + slack
    }

    /// A small number is like any other.
    fn says_something(&self, host: &Reading) -> bool {
        match (self.channel.likeness, host) {
            (Likeness::Within(slack), Reading::Number(n)) => n.abs() > 2.0 * slack,
            _ => !host.is_nothing(),
        }
    }
}

fn number(reading: &Reading) -> Option<f64> {
    match reading {
        Reading::Number(n) => Some(*n),
        _ => None,
    }
}

fn middle(mut all: Vec<f64>) -> String {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).map_or_else(|| "-".to_owned(), |n| short(*n))
}

fn short(n: f64) -> String {
    if n.fract() == 0.0 { format!("{n:.0}") } else { format!("{n:.2}") }
}

/// A reading in a few words, for a table.
fn show(reading: &Reading) -> String {
    match reading {
        Reading::Number(n) => short(*n),
        Reading::Text(text) => clip(text),
        Reading::List(all) => match &all[..] {
            [one] => clip(one),
            [first, ..] => format!("{} and {} more", clip(first), all.len() - 1),
            [] => "nothing".to_owned(),
        },
        Reading::Failed { errno } => Errno::from_raw(*errno).desc().to_owned(),
    }
}

fn clip(text: &str) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    let line = line.join(" ");
    let plain = |c: char| if c.is_control() { '?' } else { c };
    let mut short: String = line.chars().map(plain).take(48).collect();
    if line.chars().count() > 48 {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
