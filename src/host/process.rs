//! A process as /proc/PID/stat has it (proc_pid_stat(5)).

/// One line of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat<'a> {
    /// As the process calls itself: at most 15 bytes of anything.
    pub name: &'a [u8],
    /// From field 3 on.
    rest: &'a str,
}

impl<'a> Stat<'a> {
    /// The name in parentheses can hold anything, parentheses too, so fields
    /// count from its end. A line that is cut off has fewer of them.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let start = line.iter().position(|byte| *byte == b'(')?;
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let name = line.get(start + 1..end)?;
        Some(Self { name, rest: std::str::from_utf8(&line[end + 1..]).ok()? })
    }

    /// `R`, `S`, `D`, `Z` and so on.
    pub fn state(&self) -> Option<u8> {
        self.field(3)?.bytes().next()
    }

    /// A field that is a number, by the manual page's own count.
    pub fn number(&self, field: usize) -> Option<u64> {
        self.field(field)?.parse().ok()
    }

    /// Start, in clock ticks after boot: with the pid, the name of a process
    /// that no other has.
    pub fn started(&self) -> Option<u64> {
        self.number(22)
    }

    fn field(&self, number: usize) -> Option<&'a str> {
        self.rest.split_ascii_whitespace().nth(number.checked_sub(3)?)
    }
}

/// Start of a process that runs, as [`Stat::started`].
pub fn started(pid: i32) -> Option<u64> {
    Stat::parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)?.started()
}

/// Parent of a process that runs; 0 where it has none that can be seen.
pub fn parent(pid: i32) -> Option<i32> {
    let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    Stat::parse(&line)?.number(4).and_then(|parent| i32::try_from(parent).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_count_from_the_end_of_any_name() {
        let line = b"7 (a) b (c)) S 1 7 7 0 -1 2097152 0 0 0 0 25 5 0 0 20 0 4 0 4242 1 12 9";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.name, stat.state()), (&b"a) b (c)"[..], Some(b'S')));
        assert_eq!(
            (stat.number(4), stat.number(14), stat.number(15)),
            (Some(1), Some(25), Some(5))
        );
        assert_eq!(
            (stat.number(20), stat.started(), stat.number(24)),
            (Some(4), Some(4242), Some(12))
        );
        assert_eq!((stat.number(2), stat.number(99), stat.number(8)), (None, None, None));
    }

    #[test]
    fn what_is_no_such_line_is_none() {
        for line in [&b""[..], b"17", b"17 (cut off", b"17 )(", b"17 (a) \xff"] {
            assert_eq!(Stat::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_process_has_started_once() {
        let own = std::process::id() as i32;
        assert!(started(own).is_some());
        assert_eq!(started(own), started(own));
    }
}
