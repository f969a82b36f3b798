//! Lists of CPUs and memory nodes, such as `0-3,8` (cpuset(7), "List format").

use crate::problem::Problem;

/// The highest number that the kernel can be built for (`CONFIG_NR_CPUS` is
/// at most 8192 on the machines that denovo knows); also what keeps
/// `0-4294967295` from filling the memory.
const HIGHEST: u32 = 8191;

/// Parses `text` into ascending numbers, each once.
///
/// # Errors
/// A [`Problem`] that names the text, when it is empty, no such list, has a
/// range that runs backwards, or a number above 8191.
pub fn parse(text: &str) -> Result<Vec<u32>, Problem> {
    numbers(text).map_err(|reason| {
        Problem::user(format!("list {text:?}: {reason}"))
            .hint("write numbers and ranges, such as 0-3,8")
    })
}

fn numbers(text: &str) -> Result<Vec<u32>, &'static str> {
    let mut found = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => found.push(number(part)?),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return Err("a range runs backwards");
                }
                found.extend(first..=last);
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn number(text: &str) -> Result<u32, &'static str> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("between the commas stand numbers or ranges");
    }
    match text.parse() {
        Ok(number) if number <= HIGHEST => Ok(number),
        _ => Err("a number is above 8191"),
    }
}

/// The shortest list that says `numbers`, which are ascending.
pub fn format(numbers: &[u32]) -> String {
    let mut list = String::new();
    let mut rest = numbers;
    while let Some(&first) = rest.first() {
        let run = rest.iter().zip(first..).take_while(|(have, want)| **have == *want).count();
        let last = rest[run - 1];
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&first.to_string());
        if last > first {
            list.push('-');
            list.push_str(&last.to_string());
        }
        rest = &rest[run..];
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists() {
        for (text, numbers, shortest) in [
            ("0", vec![0], "0"),
            ("0-3,8", vec![0, 1, 2, 3, 8], "0-3,8"),
            ("8,1,0,1", vec![0, 1, 8], "0-1,8"),
            ("5-5", vec![5], "5"),
            ("0-2,1-4", vec![0, 1, 2, 3, 4], "0-4"),
            ("8191", vec![8191], "8191"),
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&numbers), "{text:?}");
            assert_eq!(format(&numbers), shortest);
        }
        for bad in [
            "",
            ",",
            "0,",
            ",0",
            "-",
            "1-",
            "-1",
            "3-1",
            "0-3-5",
            "a",
            "0x1",
            " 0",
            "0 ",
            "0\n",
            "8192",
            "0-8192",
            "4294967296",
            "0-7:1/2",
            "all",
            "+1",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(format(&[]), "");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(set in proptest::collection::btree_set(0u32..=HIGHEST, 1..60)) {
            let numbers: Vec<u32> = set.into_iter().collect();
            prop_assert_eq!(parse(&format(&numbers)), Ok(numbers));
        }

        #[test]
        fn no_text_panics(text in "[0-9,\\-]{0,30}|\\PC*") {
            let _ = parse(&text);
        }
    }
}
