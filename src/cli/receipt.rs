//! Receipts of ended jobs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Context;
use super::say::out;
use crate::problem::Problem;
use crate::record::receipt::{Flaw, Key, Public, Verified, verify};
use crate::request::site;
use crate::supervise::container::Refusal;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Check that no receipt was changed, removed or added, and who signed them
    Verify(Verify),
    /// Make a key by which a node signs its receipts, and print its public half
    Key(Make),
}

#[derive(Debug, Args)]
pub struct Verify {
    /// A directory of receipts, or one of them [default: the site's]
    #[arg(value_name = "DIR|FILE")]
    place: Option<PathBuf>,
    /// Public key of the node (PEM) [default: of the site's receipt-key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Make {
    /// Where the private key goes
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub fn run(context: &Context, verb: Verb) -> Result<i32, Refusal> {
    match verb {
        Verb::Verify(args) if context.explain => {
            let place =
                args.place.map_or("the site's receipts".to_owned(), |p| p.display().to_string());
            context.print_plan(&[format!("read {place}; check their digests and signatures")]);
            Ok(0)
        }
        Verb::Verify(args) => verified(&args),
        Verb::Key(args) if context.explain => {
            context.print_plan(&[format!("write a new private key to {}", args.file.display())]);
            Ok(0)
        }
        Verb::Key(args) => {
            out(format_args!("{}", Key::make(&args.file)?.public_pem().trim_end()));
            Ok(0)
        }
    }
}

/// Exit code 1 says that something is wrong with them.
fn verified(args: &Verify) -> Result<i32, Refusal> {
    let site = site::load()?.scheduler;
    let place = args.place.clone().unwrap_or(site.receipts);
    let key = match (&args.key, &site.receipt_key) {
        (Some(file), _) => Some(Public::read(file)?),
        (None, Some(file)) if nix::unistd::geteuid().is_root() => Some(Key::read(file)?.public()),
        (None, _) => None,
    };
    let (dir, file) = match place.parent() {
        Some(dir) if place.is_file() => (dir.to_owned(), place.file_name()),
        _ => (place.clone(), None),
    };
    let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir };
    let seen = verify(&dir, key.as_ref())?;
    let strange = |file: &str| !seen.files.iter().any(|seen| seen == file);
    if let Some(file) = file.map(|f| f.to_string_lossy()).filter(|f| strange(f))
        && seen.flaw.is_none()
    {
        let why = format!("{file}: is no receipt of the chain in {}", dir.display());
        return Err(Problem::user(why).hint("those are called ID.SECOND.json").into());
    }
    if args.json {
        let text = serde_json::to_string_pretty(&seen).map_err(|e| Problem::ours(e.to_string()))?;
        out(format_args!("{text}"));
        return Ok(i32::from(seen.flaw.is_some()));
    }
    if let Some(flaw) = &seen.flaw {
        return Err(refused(flaw));
    }
    tell(&seen, file.map(|f| f.to_string_lossy()).as_deref());
    Ok(0)
}

/// That nothing is wrong, and how far that was looked at.
fn tell(seen: &Verified, file: Option<&str>) {
    let signed = if seen.signed { "signed" } else { "no signature checked" };
    let (first, last) = (seen.first, seen.last);
    if let Some(file) = file {
        out(format_args!("{file}: as it was written, {signed}"));
    } else if seen.chained == 0 {
        out(format_args!("no receipts in a chain"));
    } else {
        out(format_args!(
            "{} receipts, {first} to {last}, as they were written, {signed}",
            seen.chained
        ));
    }
    if seen.unchained > 0 {
        out(format_args!("{} from before the chain, as they were when it began", seen.unchained));
    }
    if seen.last > 0 {
        out(format_args!("the last is {last}, sha256 {}", seen.digest));
    }
}

fn refused(flaw: &Flaw) -> Refusal {
    let problem = Problem::site(flaw.to_string())
        .hint("who can write there is root and, for its own receipt, the job's user");
    Refusal { problems: vec![problem], code: 1 }
}
