//! The kernel's list format for CPUs and memory nodes.

/// The text is no list in the format of cpuset(7).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{list:?} is no CPU list ({part:?} is neither a number nor a range)")]
pub struct BadList {
    pub list: String,
    pub part: String,
}

/// More CPUs than any kernel is built for (`NR_CPUS` is at most 8192); a
/// guard against `0-4294967295`.
const MOST: u32 = 1 << 16;

/// Numbers out of a list such as `0-3,8` (cpuset(7), "List format"),
/// ascending and each once. An empty text is an empty list.
///
/// # Errors
/// [`BadList`] when a part is neither a number below 65536 nor an ascending
/// range of such.
pub fn parse_list(list: &str) -> Result<Vec<u32>, BadList> {
    let mut found = Vec::new();
    for part in list.trim().split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) if first <= last && last < MOST => found.extend(first..=last),
            _ => return Err(BadList { list: list.to_owned(), part: part.to_owned() }),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// `numbers` in list format: `[0, 1, 2, 3, 8]` as `0-3,8`. Order and
/// repetitions do not matter.
pub fn format_list(numbers: &[u32]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut parts = Vec::new();
    for run in sorted.chunk_by(|a, b| a + 1 == *b) {
        match run {
            [one] => parts.push(one.to_string()),
            [first, .., last] => parts.push(format!("{first}-{last}")),
            [] => {}
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        let table: &[(&str, &[u32], &str)] = &[
            ("", &[], ""),
            ("0\n", &[0], "0"),
            ("0-3,8", &[0, 1, 2, 3, 8], "0-3,8"),
            ("8,0-3", &[0, 1, 2, 3, 8], "0-3,8"),
            ("0-1,1-2", &[0, 1, 2], "0-2"),
            ("0,2,4", &[0, 2, 4], "0,2,4"),
        ];
        for (text, numbers, canonical) in table {
            assert_eq!(parse_list(text).as_deref(), Ok(*numbers), "{text:?}");
            assert_eq!(format_list(numbers), *canonical);
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["a", "3-1", "0-", "-1", "0-4294967295", "1;2"] {
            assert!(parse_list(text).is_err(), "{text:?}");
        }
    }
}
