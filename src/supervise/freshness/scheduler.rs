//! The part of a prolog and an epilog.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use nix::fcntl::Flock;

use super::{Asked, Ending, Repair, audit, of_ended_jobs};
use crate::policy::freshness::{Audit, Difference, Outcome, Verdict};
use crate::problem::Problem;
use crate::record::freshness as record;
use crate::record::receipt;
use crate::request::freshness::{Freshness, Prolog};

/// Lines of other users' residue in the log of one epilog.
const MOST_TOLD: usize = 20;

/// Looks at the node before a job starts. What it gives is held until the job
/// is noted: no epilog may remove what this user makes from now on.
///
/// # Errors
/// The node is not as its baseline says, and the site wants it to be.
pub fn prolog(
    base: &Path,
    site: &Freshness,
    receipts: &Path,
    (id, uid): (&str, u32),
    begun: bool,
) -> Result<Option<Flock<File>>, Problem> {
    if !site.wanted() {
        return Ok(None);
    }
    let held = record::lock(base, uid)?;
    // A prolog that comes twice finds the job's own processes.
    if site.prolog == Prolog::Off || begun {
        return Ok(Some(held));
    }
    let asked = Asked { base, site, receipts, ending: None, scheduled: true, held: Some(uid) };
    let repair = Repair {
        clean: &of_ended_jobs,
        reset_settings: site.reset_settings,
        drop_page_cache: site.drop_page_cache,
        compact_memory: site.compact_memory,
    };
    let seen = audit(&asked, if site.prolog == Prolog::Repair { repair } else { Repair::NONE })?;
    // Only an epilog that audits reads it, and takes it away.
    if site.audit {
        record::save_audit(base, id, &seen)?;
    }
    match seen.reason() {
        None => Ok(Some(held)),
        Some(why) => Err(Problem::site(why).hint("denovo node audit shows all of it")),
    }
}

/// Looks at the node after a job's end, and removes what its user left if the
/// site says so and the user has no other job here. Gives what the receipt
/// shall say, and why the node is to be drained.
///
/// # Errors
/// The baseline is none.
pub fn epilog(
    base: &Path,
    site: &Freshness,
    receipts: &Path,
    job: &Ending,
    warn: &dyn Fn(&str),
) -> Result<Option<(receipt::Freshness, Option<Problem>)>, Problem> {
    if !site.audit {
        return Ok(None);
    }
    let begun = Instant::now();
    let _held = record::lock(base, job.uid)?;
    let asked =
        Asked { base, site, receipts, ending: Some(job), scheduled: true, held: Some(job.uid) };
    let theirs = |d: &Difference| d.owner == Some(job.uid) && d.among(&site.clean);
    let seen = audit(
        &asked,
        Repair {
            clean: &theirs,
            reset_settings: site.reset_settings,
            drop_page_cache: site.drop_page_cache,
            compact_memory: site.compact_memory,
        },
    )?;
    tell(&seen, job, warn);
    let before = record::take_audit(base, &job.id);
    let had = |d: &Difference| {
        let then = before.iter().flat_map(|audit| &audit.differences);
        then.into_iter().any(|b| (b.kind, &b.what) == (d.kind, &d.what))
    };
    let mine = |d: &&Difference| d.owner == Some(job.uid) || (d.owner.is_none() && !had(d));
    let entry = receipt::Freshness {
        before: before.as_ref().map(|audit| audit.verdict),
        after: seen.verdict,
        differences: seen.differences.iter().filter(mine).cloned().collect(),
        took: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
    };
    let reason = seen.reason().filter(|_| site.drain && seen.verdict == Verdict::Dirty);
    let problem = reason.map(|why| Problem::site(why).hint("denovo node audit shows all of it"));
    Ok(Some((entry, problem)))
}

/// What is not in the receipt, since it is not its user's business.
fn tell(seen: &Audit, job: &Ending, warn: &dyn Fn(&str)) {
    let others = seen.differences.iter().filter(|d| d.owner != Some(job.uid) && !d.tolerated);
    for difference in others.filter(|d| d.outcome != Outcome::Cleaned).take(MOST_TOLD) {
        warn(&format!("left on the node: {}", difference.brief()));
    }
}
