//! Sizes on a command line.

use crate::problem::Problem;

/// Parses a size such as `64M`, `1.5GiB`, `512MiB` or `1048576` into bytes.
///
/// K, M, G and T are powers of 1024, with or without `B` or `iB`, in either
/// case. A fraction is rounded down to whole bytes.
///
/// # Errors
/// A [`Problem`] that names the text, when it is no size, 0, or 2^64 and more.
pub fn parse(text: &str) -> Result<u64, Problem> {
    bytes(text).map_err(|reason| {
        Problem::user(format!("size {text:?}: {reason}"))
            .hint("write bytes or a number with K, M, G or T, such as 512M or 1.5GiB")
    })
}

fn bytes(text: &str) -> Result<u64, &'static str> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = shift(unit)?;
    let (whole, fraction) = match number.split_once('.') {
        None => (number, ""),
        Some((_, "")) => return Err("digits are missing after the point"),
        Some(parts) => parts,
    };
    if whole.is_empty() {
        return Err("it does not begin with a digit");
    }
    if !fraction.is_empty() && shift == 0 {
        return Err("there is no part of a byte");
    }
    let whole: u64 = whole.parse().map_err(|_| "it is too large")?;
    let whole = whole.checked_mul(1 << shift).ok_or("it is too large")?;
    match whole.checked_add(part(fraction, shift)?).ok_or("it is too large")? {
        0 => Err("it is 0"),
        bytes => Ok(bytes),
    }
}

/// Whole bytes in `0.<fraction> * 2^shift`.
fn part(fraction: &str, shift: u32) -> Result<u64, &'static str> {
    if fraction.is_empty() {
        return Ok(0);
    }
    if fraction.len() > 15 {
        return Err("it has more than 15 digits after the point");
    }
    let digits: u128 = fraction.parse().map_err(|_| "it has two points")?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(15));
    // Below 2^shift, which is at most 2^40.
    Ok(u64::try_from((digits << shift) / scale).unwrap_or(0))
}

fn shift(unit: &str) -> Result<u32, &'static str> {
    let unit = unit.to_ascii_lowercase();
    let letter = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    match (letter, unit.as_str()) {
        ("", "ib") => Err("its unit is unknown"),
        ("", _) => Ok(0),
        ("k", _) => Ok(10),
        ("m", _) => Ok(20),
        ("g", _) => Ok(30),
        ("t", _) => Ok(40),
        _ => Err("its unit is unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1", 1),
            ("1b", 1),
            ("1048576", 1 << 20),
            ("64M", 64 << 20),
            ("64m", 64 << 20),
            ("512MiB", 512 << 20),
            ("512MB", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("0.5k", 512),
            ("2T", 2 << 40),
            ("0.001K", 1),
            ("18446744073709551615", u64::MAX),
            ("16777215T", 16_777_215 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text:?}");
        }
        for bad in [
            "",
            "0",
            "0G",
            "0.0G",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1 G",
            "G",
            ".5G",
            "1.",
            "1.G",
            "1.5",
            "1.5B",
            "1.2.3G",
            "1e3",
            "0x10",
            "1X",
            "1ib",
            "1GiBs",
            "1KK",
            "18446744073709551616",
            "16777216T",
            "16777215.9999999999999999T",
            "0.0001K",
            "1ſ",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn plain_bytes_are_themselves(bytes in 1u64..) {
            prop_assert_eq!(parse(&bytes.to_string()), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC*|[0-9.]{0,40}[kKmMgGtTiB]{0,3}") {
            let _ = parse(&text);
        }
    }
}
