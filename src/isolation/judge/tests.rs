//! Verdicts over readings made up for them.

use super::*;

fn read(_: &crate::isolation::channel::Look) -> Option<Reading> {
    None
}

const PLAIN: Channel = Channel::new("c", "/c", "things", read);

fn readings(reading: Option<Reading>) -> Readings {
    reading.into_iter().map(|reading| ("c".to_owned(), reading)).collect()
}

/// A course over (inside, host) at the end of each phase, the first idle;
/// at its start the inside was at `start`.
fn course(start: f64, all: &[(f64, f64)]) -> Course {
    let number = |n: f64| readings(Some(Reading::Number(n)));
    let moment = |inside: f64, host: f64| Moment {
        before: number(host),
        inside: number(inside),
        after: number(host),
    };
    let phase = |(turn, (inside, host)): (usize, &(f64, f64))| Phase {
        busy: turn % 2 == 1,
        start: number(start),
        end: moment(*inside, *host),
        marks: BTreeMap::new(),
    };
    Course {
        tag: "tag7".into(),
        same_network: false,
        phases: all.iter().enumerate().map(phase).collect(),
    }
}

/// One of texts or lists, the same on the host where `host` gives it.
fn of(all: &[Reading], host: Option<Reading>) -> Course {
    let moment = |inside: &Reading| Moment {
        before: readings(host.clone()),
        inside: readings(Some(inside.clone())),
        after: readings(host.clone()),
    };
    let phase = |(turn, inside): (usize, &Reading)| Phase {
        busy: turn % 2 == 1,
        start: readings(Some(inside.clone())),
        end: moment(inside),
        marks: BTreeMap::from([("c".to_owned(), vec![":77 ".to_owned()])]),
    };
    Course {
        tag: "tag7".into(),
        same_network: false,
        phases: all.iter().enumerate().map(phase).collect(),
    }
}

fn why(channel: Channel, course: &Course) -> Vec<Why> {
    match judge(&channel, course) {
        Verdict::Open { why, evidence } => {
            assert!(!evidence.is_empty());
            why
        }
        Verdict::Closed { .. } => Vec::new(),
        Verdict::Absent => panic!("absent"),
    }
}

fn alone(all: &[f64]) -> Course {
    course(0.0, &all.iter().map(|n| (*n, 1e12)).collect::<Vec<_>>())
}

#[test]
fn a_level_that_comes_and_goes_with_the_neighbour_tells() {
    let level = PLAIN.level(10.0);
    for (all, expected) in [
        (&[5.0, 25.0, 5.0, 26.0, 5.0, 25.0, 5.0][..], &[Why::Tells][..]),
        // Downwards as well, as of what is left of a limit.
        (&[128.0, 108.0, 128.0, 108.0, 128.0, 108.0, 128.0], &[Why::Tells]),
        // By too little.
        (&[5.0, 9.0, 5.0, 9.0, 5.0, 9.0, 5.0], &[]),
        // A drift of its own.
        (&[0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0], &[]),
        // Once by chance.
        (&[5.0, 25.0, 5.0, 5.0, 5.0, 5.0, 5.0], &[]),
        // Somebody else came at the end of the first stretch.
        (&[22.0, 25.0, 5.0, 26.0, 5.0, 25.0, 5.0], &[Why::Tells]),
        // What the last neighbour left.
        (&[5.0, 25.0, 5.0, 25.0, 5.0, 25.0, 24.0], &[Why::Tells, Why::Left]),
        (&[3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0], &[]),
    ] {
        assert_eq!(why(level, &alone(all)), expected, "{all:?}");
    }
}

#[test]
fn a_counter_is_compared_by_its_growth() {
    let rate = PLAIN.rate(100.0);
    assert_eq!(why(rate, &alone(&[5.0, 300.0, 6.0, 280.0, 5.0, 300.0, 5.0])), [Why::Tells]);
    assert!(why(rate, &alone(&[5.0, 50.0, 6.0, 40.0, 5.0, 60.0, 5.0])).is_empty());
    // It only ever grows; less of one's own is no news.
    assert!(why(rate, &alone(&[300.0, 5.0, 300.0, 5.0, 300.0, 5.0, 300.0])).is_empty());
}

#[test]
fn what_is_the_hosts_is_open_if_it_says_something() {
    let near = PLAIN.within(10.0);
    let many = |pair: (f64, f64)| course(pair.0, &[pair; 5]);
    assert_eq!(why(near, &many((995.0, 1000.0))), [Why::Host]);
    assert!(why(near, &many((900.0, 1000.0))).is_empty());
    // Near nothing is like everybody's.
    assert!(why(near, &many((3.0, 5.0))).is_empty());
    let next = PLAIN.sequence(10.0);
    assert_eq!(why(next, &many((1001.0, 1000.0))), [Why::Sequence]);
    assert_eq!(why(next, &many((1000.0, 1000.0))), [Why::Host]);
    assert!(why(next, &many((7.0, 1000.0))).is_empty());
}

#[test]
fn texts_and_lists_are_the_hosts_when_they_are_equal() {
    let text = |t: &str| Reading::Text(t.to_owned());
    let list = |all: &[&str]| Reading::List(all.iter().map(|s| (*s).to_owned()).collect());
    let same = PLAIN.same();
    assert_eq!(why(same, &of(&[text("x"), text("x"), text("x")], Some(text("x")))), [Why::Host]);
    assert!(why(same, &of(&[text("y"), text("y"), text("y")], Some(text("x")))).is_empty());
    assert_eq!(judge(&same, &of(&[list(&[])], Some(list(&[])))), Verdict::Absent);
    assert_eq!(judge(&same, &of(&[], None)), Verdict::Absent);
}

#[test]
fn a_name_of_the_neighbours_tells_and_stays() {
    let list = |all: &[&str]| Reading::List(all.iter().map(|s| (*s).to_owned()).collect());
    let marked = PLAIN.marked();
    let none = list(&["a"]);
    let tagged = list(&["a", "tag7.sock"]);
    let named = list(&["1: OFDLCK 0:5:77 0 EOF"]);
    let like = list(&["1: OFDLCK 0:5:771 0 EOF"]);
    let why = |all: &[&Reading]| {
        why(marked, &of(&all.iter().map(|r| (*r).clone()).collect::<Vec<_>>(), None))
    };
    assert_eq!(why(&[&none, &tagged, &none]), [Why::Tells]);
    assert_eq!(why(&[&none, &named, &none]), [Why::Tells]);
    assert_eq!(why(&[&none, &tagged, &tagged]), [Why::Tells, Why::Left]);
    assert!(why(&[&none, &like, &none]).is_empty());
}

#[test]
fn what_shows_anything_is_open() {
    let list = |all: &[&str]| Reading::List(all.iter().map(|s| (*s).to_owned()).collect());
    let shows = PLAIN.showing();
    assert_eq!(why(shows, &of(&[list(&["/disk"]), list(&["/disk"])], None)), [Why::Shows]);
    // On the host there is something, inside there is not.
    assert!(why(shows, &of(&[list(&[]), list(&[])], Some(list(&["/disk"])))).is_empty());
}

#[test]
fn what_changes_for_good_and_what_waits() {
    let text = |t: &str| Reading::Text(t.to_owned());
    let changes = PLAIN.changes();
    assert_eq!(why(changes, &of(&[text("1"), text("2"), text("2")], None)), [Why::Tells]);
    assert!(why(changes, &of(&[text("1"), text("1"), text("1")], None)).is_empty());
    let waits = PLAIN.contention(1000.0);
    assert_eq!(why(waits, &alone(&[10.0, 5000.0, 10.0])), [Why::Tells]);
    assert!(why(waits, &alone(&[10.0, 50.0, 10.0])).is_empty());
}

#[test]
fn what_cannot_be_read_is_closed_if_it_is_refused() {
    let host = Some(Reading::Text("x".to_owned()));
    let failed = |errno| Reading::Failed { errno };
    let same = PLAIN.same();
    for (errno, word) in
        [(libc::EACCES, "denied"), (libc::ENOENT, "No such"), (libc::ENOSYS, "not")]
    {
        match judge(&same, &of(&[failed(errno)], host.clone())) {
            Verdict::Closed { evidence } => assert!(evidence.contains(word), "{evidence}"),
            other => panic!("{errno}: {other:?}"),
        }
    }
    // The process that answers is gone, at the end or for a while.
    let gone = failed(libc::ENOTCONN);
    assert_eq!(why(same, &of(std::slice::from_ref(&gone), host.clone())), [Why::Fails]);
    let (own, other) = (Reading::Text("y".to_owned()), Some(Reading::Text("x".to_owned())));
    assert_eq!(why(same, &of(&[own.clone(), gone.clone(), own], other)), [Why::Fails]);
    // Not on the node either.
    assert_eq!(judge(&same, &of(&[gone], None)), Verdict::Absent);
}

#[test]
fn a_closed_channel_says_what_is_read_instead() {
    let text = |t: &str| Reading::Text(t.to_owned());
    let says = |channel: Channel, course: &Course| match judge(&channel, course) {
        Verdict::Closed { evidence } => evidence,
        other => panic!("{other:?}"),
    };
    let same = PLAIN.same();
    assert_eq!(says(same, &of(&[text("y")], Some(text("x")))), "y inside, x on the node");
    assert_eq!(says(same, &of(&[text("")], Some(text("x")))), "says nothing inside");
    assert_eq!(says(PLAIN.level(5.0), &alone(&[3.0, 4.0, 3.0])), "3 idle, 4 busy");
}
