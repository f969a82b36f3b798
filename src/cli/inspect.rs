//! The verbs that look and change nothing: ps, events, features; and those
//! that runc has and denovo has not.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::Context;
use super::oci::Id;
use super::say::out;
use crate::policy::container::features;
use crate::problem::Problem;
use crate::record::container::OCI_VERSION;
use crate::supervise::container::Refusal;
use crate::supervise::{control, events, ps};

#[derive(Debug, Args)]
pub struct Ps {
    /// table or json
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    #[command(flatten)]
    id: Id,
    /// Options for ps(1) [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

pub fn ps(context: &Context, args: &Ps) -> Result<i32, Refusal> {
    let record = context.containers().load(&args.id.id)?;
    if args.format == "json" {
        out(format_args!("{}", serde_json::json!(control::members(&record)?)));
        return Ok(0);
    }
    for line in ps::table(&record, &args.options)? {
        out(format_args!("{line}"));
    }
    Ok(0)
}

#[derive(Debug, Args)]
pub struct Events {
    /// Time between two statistics, such as 500ms or 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = interval)]
    interval: Duration,
    /// One statistic of now, and no more
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    id: Id,
}

/// A number with `ms`, `s`, `m` or `h`; without, seconds.
fn interval(text: &str) -> Result<Duration, Problem> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let milliseconds = match &text[digits.len()..] {
        "ms" => 1.0,
        "s" | "" => 1e3,
        "m" => 60e3,
        "h" => 3600e3,
        _ => 0.0,
    };
    let number: f64 = digits.parse().unwrap_or(0.0);
    let milliseconds = number * milliseconds;
    if milliseconds.is_finite() && (1.0..=1e12).contains(&milliseconds) {
        return Ok(Duration::from_micros((milliseconds * 1e3) as u64));
    }
    Err(Problem::user(format!("{text:?} is no time of a millisecond or more"))
        .hint("write a number with ms, s, m or h, such as 500ms"))
}

pub fn events(context: &Context, args: &Events) -> Result<i32, Refusal> {
    let (store, id) = (context.containers(), &args.id.id);
    if args.stats {
        out(format_args!("{}", events::once(&store, id)?));
        return Ok(0);
    }
    // Whoever reads may have heard enough.
    let mut emit = |event: &serde_json::Value| writeln!(std::io::stdout(), "{event}").is_ok();
    events::watch(&store, id, args.interval, &mut emit)?;
    Ok(0)
}

pub fn features() -> Result<i32, Refusal> {
    let facts = crate::host::Facts::read()?;
    let text = serde_json::to_string_pretty(&features::document(&facts, OCI_VERSION))
        .map_err(|e| Problem::ours(e.to_string()))?;
    out(format_args!("{text}"));
    Ok(0)
}

/// A verb of runc's with whatever stands after it.
#[derive(Debug, Args)]
pub struct Foreign {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// `checkpoint` and `restore`.
pub fn not_supported(verb: &str) -> Result<i32, Refusal> {
    Err(Problem::user(format!("{verb}: not supported by denovo"))
        .hint("checkpoints are made by runc or crun with CRIU, of containers of their own; many programs can checkpoint themselves")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units() {
        for (text, milliseconds) in
            [("5s", 5000), ("500ms", 500), ("1m", 60_000), ("2", 2000), ("0.5s", 500)]
        {
            assert_eq!(interval(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in ["", "0", "-1s", "x", "5d", "1e99h", "NaN", "infs"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
