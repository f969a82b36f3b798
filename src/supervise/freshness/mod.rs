//! A node between jobs: its baseline, how it stands against that, and putting
//! it right.

mod jobs;
mod scheduler;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::host::accounts;
use crate::host::node::{Handle, Kind, NodeState, Scope, Thing, keys};
use crate::kernel::residue;
use crate::policy::freshness::{
    Audit, Baseline, Difference, Jobs, Outcome, Owners, Verdict, compare,
};
use crate::problem::Problem;
use crate::record::freshness as record;
use crate::request::freshness::Freshness;

pub use jobs::{Ending, jobs};
pub use scheduler::{epilog, prolog};

/// Whether a difference is to be removed.
type Chosen<'a> = &'a dyn Fn(&Difference) -> bool;

/// What an audit may put right.
#[derive(Clone, Copy)]
pub struct Repair<'a> {
    /// Which of what users left is removed.
    pub clean: Chosen<'a>,
    pub reset_settings: bool,
    pub drop_page_cache: bool,
    pub compact_memory: bool,
}

impl Repair<'_> {
    /// Nothing.
    pub const NONE: Repair<'static> = Repair {
        clean: &|_| false,
        reset_settings: false,
        drop_page_cache: false,
        compact_memory: false,
    };
}

/// What an ended job of the node is certain to have left.
pub fn of_ended_jobs(difference: &Difference) -> bool {
    difference.user && difference.certain && difference.job.is_some()
}

/// Records what the node is now, and gives it with what of users there is:
/// a freshly prepared node has none.
///
/// # Errors
/// It cannot be written.
pub fn baseline(site: &Freshness, file: &Path) -> Result<(Baseline, Vec<String>), Problem> {
    let state = read(site, true, &|_, _| true);
    let baseline = Baseline::of(&state);
    let theirs = |t: &Thing| {
        let uid = t.owner.filter(|uid| site.is_user(*uid))?;
        Some(format!("{} {} (uid {uid})", t.kind.name(), t.what))
    };
    let users = state.things.iter().filter_map(theirs).collect();
    record::save(file, &baseline)?;
    Ok((baseline, users))
}

/// `all`: files that are expected as well.
fn read(site: &Freshness, all: bool, known: &dyn Fn(Kind, &str) -> bool) -> NodeState {
    let (queues, connections) = (residue::see(c"mqueue"), residue::see(c"fusectl"));
    NodeState::read(&Scope {
        known,
        all,
        is_user: &|uid| site.is_user(uid),
        directories: &site.directories,
        queues: queues.as_ref().map(|seen| seen.path.clone()),
        connections: connections.as_ref().map(|seen| seen.path.clone()),
        clock: residue::clock(),
    })
}

/// What an audit goes by.
pub struct Asked<'a> {
    pub base: &'a Path,
    pub site: &'a Freshness,
    /// Where receipts are, which tell of ended jobs.
    pub receipts: &'a Path,
    /// The job whose end this is.
    pub ending: Option<&'a Ending>,
    /// Whether a scheduler says which jobs there are; otherwise users' own
    /// environments are jobs too.
    pub scheduled: bool,
    /// The user whose lock the caller holds.
    pub held: Option<u32>,
}

/// Compares the node with its baseline, and puts right what it may.
///
/// # Errors
/// The baseline is none.
pub fn audit(asked: &Asked<'_>, repair: Repair<'_>) -> Result<Audit, Problem> {
    let baseline = record::load(&asked.site.baseline)?;
    let ranges = accounts::subordinate_owners();
    let ranges = ranges.into_iter().map(|(r, uid)| (r.start, r.count, uid)).collect();
    let owners = Owners { ranges };
    let look = || match &baseline {
        Some(baseline) => read(asked.site, false, &|kind, key| baseline.knows(kind, key)),
        // Groups are all looked into: those of jobs are below others.
        None => read(asked.site, false, &|kind, _| kind == Kind::Cgroup),
    };
    let judge = |state: &NodeState| {
        let jobs = jobs(asked, state);
        (compare(state, baseline.as_ref(), &jobs, &owners, asked.site), jobs)
    };
    let mut state = look();
    let (mut before, mut jobs) = judge(&state);
    let theirs = keyrings(before.differences.iter().filter(|d| d.user));
    if asked.ending.is_some() && until_keys(&theirs, KEYS_GO, |left| left < theirs.len()) {
        state.read_keys_again();
        (before, jobs) = judge(&state);
    }
    // A job of theirs may start meanwhile, so jobs are looked at again once
    // none can; whose prolog or epilog is at work is left to that.
    let chosen = before.differences.iter().filter(|d| d.user && (repair.clean)(d));
    let others: BTreeSet<u32> =
        chosen.filter_map(|d| d.owner).filter(|uid| asked.held != Some(*uid)).collect();
    let locks: BTreeMap<u32, _> =
        others.into_iter().map(|uid| (uid, record::try_lock(asked.base, uid))).collect();
    if locks.values().any(Result::is_ok) {
        (before, jobs) = judge(&state);
    }
    for difference in before.differences.iter_mut().filter(|d| d.user && (repair.clean)(d)) {
        if let Some(Err(why)) = difference.owner.and_then(|uid| locks.get(&uid)) {
            difference.outcome = Outcome::Failed(why.clone());
        }
    }
    let safe = |d: &Difference| {
        let locked = |uid| asked.held == Some(uid) || locks.get(&uid).is_some_and(Result::is_ok);
        d.owner.is_some_and(locked) && (repair.clean)(d)
    };
    let repair = Repair { clean: &safe, ..repair };
    let mut acted = put_right(&before, &jobs, &owners, repair);
    if acted.is_empty() && !repair.drop_page_cache && !repair.compact_memory {
        return Ok(before);
    }
    let cleaned = acted.iter().filter(|(_, failed)| failed.is_none()).map(|(d, _)| d);
    until_keys(&keyrings(cleaned), KEYS_CLEANED, |left| left == 0);
    let more = Repair { clean: &safe, ..Repair::NONE };
    let right = |audit: &Audit, jobs: &Jobs| put_right(audit, jobs, &owners, more);
    let after = to_the_end(&mut before, &mut acted, &|| judge(&look()), &right);
    Ok(joined(before, after, acted))
}

/// How often what was behind the most that one look takes in is gone for.
const MOST_LOOKS: usize = 20;

/// Looks again, and where the look before had not seen all, puts right what
/// comes to light, until there is no more of it.
fn to_the_end(
    before: &mut Audit,
    acted: &mut Acted,
    look: &dyn Fn() -> (Audit, Jobs),
    put_right: &dyn Fn(&Audit, &Jobs) -> Acted,
) -> Audit {
    let in_part = |audit: &Audit| audit.differences.iter().any(|d| d.kind == Kind::Unseen);
    let (mut part, (mut after, mut jobs)) = (in_part(before), look());
    for _ in 0..MOST_LOOKS {
        if !part {
            break;
        }
        let mut more = put_right(&after, &jobs);
        more.retain(|(d, _)| !still(before, d));
        if more.is_empty() {
            break;
        }
        before.differences.extend(more.iter().map(|(d, _)| d.clone()));
        acted.extend(more);
        part = in_part(&after);
        (after, jobs) = look();
    }
    after
}

/// How long the keys of an environment that has just ended may take to go with
/// its last process, and those that were cleaned: the kernel drops them in its
/// own time.
const KEYS_GO: Duration = Duration::from_millis(100);
const KEYS_CLEANED: Duration = Duration::from_millis(500);

/// The uids of keyrings.
fn keyrings<'a>(differences: impl Iterator<Item = &'a Difference>) -> Vec<u32> {
    differences
        .filter_map(|d| match d.handle {
            Handle::Keys { uid } => Some(uid),
            _ => None,
        })
        .collect()
}

/// Waits until so few of these users have keys as is `enough`; tells whether
/// that came about.
fn until_keys(uids: &[u32], patience: Duration, enough: impl Fn(usize) -> bool) -> bool {
    let theirs = |t: &Thing| matches!(t.handle, Handle::Keys { uid } if uids.contains(&uid));
    let until = Instant::now() + patience;
    while !uids.is_empty() {
        if enough(keys().into_iter().filter(theirs).count()) {
            return true;
        }
        if Instant::now() >= until {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// What was tried, and why it failed.
type Acted = Vec<(Difference, Option<String>)>;

fn put_right(audit: &Audit, jobs: &Jobs, owners: &Owners, repair: Repair<'_>) -> Acted {
    let mut acted = Acted::new();
    let mut chosen: Vec<&Difference> = audit
        .differences
        .iter()
        .filter(|d| d.user && !matches!(d.handle, Handle::None) && (repair.clean)(d))
        .collect();
    // Processes hold the rest; a group can go when they have gone.
    chosen.sort_by_key(|d| match d.kind {
        Kind::Process => 0,
        Kind::Fuse => 1,
        Kind::Loop => 2,
        Kind::Cgroup => 4,
        _ => 3,
    });
    let processes: Vec<(i32, u64)> = chosen
        .iter()
        .filter_map(|d| match d.handle {
            Handle::Process { pid, started } => Some((pid, started)),
            _ => None,
        })
        .collect();
    let undead = residue::end(&processes);
    for (place, difference) in chosen.into_iter().enumerate() {
        let mine = |uid| difference.owner == Some(owners.user(uid));
        let failed = if undead.contains(&place) {
            Some("cannot be ended: it waits in the kernel".to_owned())
        } else {
            residue::remove(difference.kind, &difference.handle, &mine).err()
        };
        acted.push((difference.clone(), failed));
    }
    // They are the whole node's, and a neighbour would notice.
    if jobs.running.is_empty() {
        acted.extend(whole_node(audit, repair));
    }
    acted
}

fn whole_node(audit: &Audit, repair: Repair<'_>) -> Acted {
    let mut acted = Acted::new();
    if repair.reset_settings {
        // Twice: some change others when they are written (net.ipv4.ip_forward).
        for last in [false, true] {
            for difference in &audit.differences {
                if let Handle::Setting { file, value } = &difference.handle {
                    let failed = residue::reset(file, value).err();
                    acted.extend(last.then(|| (difference.clone(), failed)));
                }
            }
        }
    }
    let mut of_kind = |kind, failed: Option<String>| {
        let found = audit.differences.iter().filter(|d| d.kind == kind);
        acted.extend(found.map(|d| (d.clone(), failed.clone())));
    };
    if repair.drop_page_cache {
        of_kind(Kind::PageCache, residue::drop_page_cache().err());
    }
    if repair.compact_memory {
        of_kind(Kind::Fragmentation, residue::compact_memory().err());
    }
    acted
}

/// Whether something is there still: the very same, or for what is measured
/// and set, its kind and name.
fn still(audit: &Audit, difference: &Difference) -> bool {
    audit.differences.iter().any(|d| same(d, difference))
}

fn same(a: &Difference, b: &Difference) -> bool {
    let measured = matches!(a.kind, Kind::PageCache | Kind::Fragmentation);
    a.kind == b.kind
        && match (&a.handle, &b.handle) {
            (Handle::None, Handle::None) => measured || a.what == b.what,
            (a, b) => a == b,
        }
}

/// What was found before, with what has become of it, and what is new since.
fn joined(before: Audit, after: Audit, acted: Acted) -> Audit {
    let mut all = Vec::new();
    let users: Vec<Option<u32>> = acted.iter().map(|(d, _)| d.owner).collect();
    for mut difference in before.differences {
        let tried = acted.iter().find(|(d, _)| same(d, &difference));
        let there = still(&after, &difference);
        difference.outcome = match tried {
            Some((_, Some(why))) if there => Outcome::Failed(why.clone()),
            Some((_, None)) if there => Outcome::Failed("is still there".to_owned()),
            // A socket goes with its process.
            Some(_) => Outcome::Cleaned,
            // Or why it was not tried.
            None if there => difference.outcome,
            None if difference.user && users.contains(&difference.owner) => Outcome::Cleaned,
            None => continue,
        };
        all.push(difference);
    }
    let new = after.differences.into_iter().filter(|d| !all.iter().any(|seen| same(seen, d)));
    let new: Vec<Difference> = new.collect();
    all.extend(new);
    all.sort_by(|a, b| (a.kind, &a.what).cmp(&(b.kind, &b.what)));
    let mut audit = Audit {
        verdict: Verdict::Dirty,
        differences: all,
        of_running_jobs: after.of_running_jobs,
        baseline: after.baseline,
    };
    audit.judge();
    audit
}
