//! Makes an environment: everything that is decided, then the monitor.

use super::{connect_to, places};
use crate::host::distribution::{self, Distribution};
use crate::host::{Facts, accounts, hardware, shares};
use crate::image;
use crate::kernel::acting::Acting;
use crate::kernel::inside;
use crate::kernel::timings::{self, Stage};
use crate::plan::Plan;
use crate::plan::build::{self, Options};
use crate::plan::inside::Inside;
use crate::policy::cpus::{self, Reservation};
use crate::policy::job::{Case, Decided, Person, Source, decide};
use crate::policy::rank::{self};
use crate::policy::text::CText;
use crate::problem::{Problem, Problems};
use crate::record::job::{JobRecord, Jobs};
use crate::request::job::JobRequest;
use crate::supervise::container::Refusal;
use crate::supervise::image as from_store;
use crate::supervise::monitor::{self, Orders};
use crate::supervise::stage;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything that is decided before an environment is made.
struct Prepared {
    person: Person,
    decided: Decided,
    plan: Plan,
    env: Vec<String>,
    bundle: String,
    digest: Option<String>,
    scratch: Option<PathBuf>,
    cpus: Vec<u32>,
    image: FromImage,
}

/// What a start from an image holds on to.
#[derive(Default)]
struct FromImage {
    handed: Option<OwnedFd>,
    held: Option<OwnedFd>,
    mount: Option<PathBuf>,
    root: Option<PathBuf>,
    /// For an explanation.
    lines: Vec<String>,
}

fn from_image(
    jobs: &Jobs,
    id: &str,
    (wanted, fetch): (&str, bool),
    dry: bool,
    warn: &dyn Fn(&str),
) -> Result<(image::Found, FromImage), Problems> {
    if dry {
        let (image, lines) = from_store::explain(wanted)?;
        return Ok((image::Found::Bundle(image), FromImage { lines, ..FromImage::default() }));
    }
    let base = jobs.root().parent().unwrap_or(jobs.root());
    let ready = from_store::acquire(base, id, wanted, fetch, warn)?;
    let (handed, held) = (ready.handed, ready.held);
    let root = Some(ready.image.root.clone());
    let kept = FromImage { handed, held, mount: ready.mount, root, lines: Vec::new() };
    Ok((image::Found::Bundle(ready.image), kept))
}

/// What a job's user names, root looks up with no more rights than that user.
fn bundle_of(request: &JobRequest, person: &Person) -> Result<image::Found, Problems> {
    let acting = (request.granted.is_some() && person.uid != 0)
        .then(|| Acting::as_user(person.uid, person.gid, &person.groups))
        .transpose()
        .map_err(|e| {
            vec![Problem::kernel(format!("acting as uid {}: {}", person.uid, e.desc()))]
        })?;
    let wanted = request.bundle.as_deref().map(|wanted| where_it_was_said(wanted, request));
    let found = image::resolve(wanted.as_deref())?;
    drop(acting);
    Ok(found)
}

/// A directory that the user of a scheduler's job named from where the job was
/// submitted: a prolog is somewhere else.
fn where_it_was_said(wanted: &str, request: &JobRequest) -> String {
    match request.granted.as_ref().and_then(|granted| granted.work_dir.as_ref()) {
        Some(dir) if wanted.contains('/') && !wanted.starts_with('/') => format!("{dir}/{wanted}"),
        _ => wanted.to_owned(),
    }
}

fn prepare(
    jobs: &Jobs,
    id: &str,
    request: &JobRequest,
    facts: &Facts,
    dry: bool,
    warn: &dyn Fn(&str),
) -> Result<Prepared, Problems> {
    let person = person(request, facts).map_err(|p| vec![p])?;
    let memory = hardware::memory_total().unwrap_or(1 << 30);
    let cpus = choose_cpus(jobs, request, facts).map_err(|p| vec![p])?;
    let (found, from_image) = match &request.image {
        Some(wanted) => from_image(jobs, id, (wanted, !request.no_fetch), dry, warn)?,
        None => (bundle_of(request, &person)?, FromImage::default()),
    };
    let (source, env, bundle, digest) = match found {
        image::Found::Host => {
            (Source::Host(Distribution::read()), Vec::new(), "host".to_owned(), None)
        }
        image::Found::Bundle(b) => {
            let (root, handed) = (b.root, from_image.handed.is_some());
            let source = Source::Bundle { root, handed, passwd: b.passwd, group: b.group, memory };
            (source, b.env, b.name, b.digest)
        }
    };
    // Root's own directory is none of the job's user's business.
    let own = person.uid == facts.caller.uid && request.granted.is_none();
    let here = || std::env::current_dir().ok().map(|p| p.display().to_string());
    let cwd = if own { here() } else { request.granted.as_ref().and_then(|g| g.work_dir.clone()) };
    let scratch = match &request.scratch {
        Some(dir) if dry => Some(dir.join(format!("denovo-{id}-PID"))),
        Some(dir) => {
            let made = stage::make_scratch(dir, id, (person.uid, person.gid));
            Some(made.map_err(|p| {
                if let Some(mount) = &from_image.mount {
                    from_store::release(mount, id);
                }
                vec![p]
            })?)
        }
        None => None,
    };
    let resolver = if request.network_none { None } else { distribution::resolver() };
    let text = scratch.as_ref().map(|p| p.display().to_string());
    let case = Case {
        id,
        request,
        facts,
        person: &person,
        source: &source,
        cpus: cpus.as_deref(),
        cwd: cwd.as_deref(),
        launcher: &rank::launcher_directories(person.uid),
        scratch: text.as_deref(),
        views: facts.kernel >= (4, 18) && inside::fuse_usable(),
        resolver: resolver.as_deref(),
        instances: shares::inotify_instances(),
        seed: seed(),
    };
    let made = decide(&case).and_then(|decided| {
        timings::done(Stage::Config);
        let anchor = jobs.directory(id).join("root");
        let options = Options {
            id: id.to_owned(),
            anchor: CText::lossy(anchor.as_os_str().as_encoded_bytes()),
            no_pivot: false,
            no_new_keyring: false,
            await_start: false,
        };
        let mut plan = build::plan(&decided.spec, facts, &options)?;
        if let Some(cpus) = &decided.affinity {
            plan.inside.insert(0, Inside::Affinity(cpus.clone()));
        }
        Ok((decided, plan))
    });
    match made {
        Ok((decided, plan)) => Ok(Prepared {
            person,
            decided,
            plan,
            env,
            bundle,
            digest,
            scratch,
            cpus: cpus.unwrap_or_default(),
            image: from_image,
        }),
        Err(problems) => {
            if let Some(mount) = from_image.mount {
                from_store::release(&mount, id);
            }
            if let Some(dir) = scratch.filter(|_| !dry) {
                let _ = std::fs::remove_dir(dir);
            }
            Err(problems)
        }
    }
}

/// The lines of `denovo explain job run|start`, on the node of `facts`.
///
/// # Errors
/// As `job run`.
pub fn explain(base: &Path, request: &JobRequest, facts: &Facts) -> Result<Vec<String>, Refusal> {
    let id = request.id.clone().unwrap_or_else(rank::default_id);
    let jobs = Jobs::new(base);
    if places(base).iter().any(|jobs| connect_to(jobs, &id).is_some()) {
        return Ok(vec![format!("join the environment of job {id}, which is there")]);
    }
    let prepared = prepare(&jobs, &id, request, facts, true, &|_| {})?;
    let mut lines =
        vec![format!("make directory {}; undone by removing it", jobs.directory(&id).display())];
    lines.extend(
        prepared
            .scratch
            .iter()
            .map(|d| format!("make directory {}; undone by removing it", d.display())),
    );
    lines.extend(prepared.image.lines);
    lines.extend(prepared.plan.lines());
    lines.extend(prepared.decided.warnings.iter().map(|w| format!("not held: {w}")));
    Ok(lines)
}

/// With the lock of the id held.
///
/// # Arguments
/// * `first` - the program that will run in it first, if one is known
pub(super) fn make(
    jobs: &Jobs,
    id: &str,
    request: &JobRequest,
    persistent: bool,
    first: Option<&CText>,
    warn: &dyn Fn(&str),
) -> Result<(), Refusal> {
    // CPUs are chosen and written down under one lock for the whole node.
    let reserving = request.cpus.is_some().then(|| jobs.lock_cpus()).transpose()?;
    // What others left when they crashed; who holds a lock is not waited for.
    let _ = stage::collect_jobs(jobs, |other| other != id);
    let facts = Facts::read()?;
    timings::done(Stage::Facts);
    let prepared = prepare(jobs, id, request, &facts, false, warn)?;
    timings::done(Stage::Plan);
    prepared.decided.warnings.iter().for_each(|w| warn(w));
    prepared.plan.cgroup.left_out.iter().for_each(|w| warn(w));
    let scratch = prepared.scratch.clone();
    if let Err(problem) = jobs.make(id) {
        if let Some(mount) = &prepared.image.mount {
            from_store::release(mount, id);
        }
        if let Some(dir) = scratch {
            let _ = std::fs::remove_dir(dir);
        }
        return Err(problem.into());
    }
    let record = JobRecord {
        id: id.to_owned(),
        uid: prepared.person.uid,
        gid: prepared.person.gid,
        bundle: prepared.bundle,
        image: prepared.digest,
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        monitor: crate::record::process::ProcessName::own(),
        init: None,
        cgroup: prepared.plan.cgroup.clone(),
        reserved_cpus: if request.share_cpus { Vec::new() } else { prepared.cpus },
        memory: request.memory,
        node_network: !request.network_none,
        persistent,
        scratch: prepared.scratch,
        image_mount: prepared.image.mount,
        granted: request.granted.clone(),
    };
    let orders = Orders {
        jobs: jobs.clone(),
        record,
        plan: prepared.plan,
        groups: prepared.person.groups,
        env: prepared.env,
        affinity: prepared.decided.affinity,
        image: prepared.image.handed,
        held: prepared.image.held,
        kernel: facts.kernel,
        asked: request.clone(),
        image_root: prepared.image.root,
    };
    jobs.save(&orders.record).inspect_err(|_| drop(jobs.forget(id)))?;
    timings::done(Stage::Record);
    drop(reserving);
    monitor::spawn(orders, first).map_err(Refusal::from)
}

fn choose_cpus(
    jobs: &Jobs,
    request: &JobRequest,
    facts: &Facts,
) -> Result<Option<Vec<u32>>, Problem> {
    let Some(count) = request.cpus else { return Ok(None) };
    let mut reserved: Vec<Reservation> = Vec::new();
    if !request.share_cpus {
        for (cpu, holder) in jobs.reserved() {
            reserved.push(Reservation { holder: format!("job {holder}"), cpus: vec![cpu] });
        }
    }
    cpus::choose(count, &facts.caller.cpus, &reserved, &hardware::numa_nodes()).map(Some).map_err(
        |p| {
            if p.hint.is_some() {
                p
            } else {
                p.hint("--share-cpus lets several environments use the same CPUs")
            }
        },
    )
}

/// For whom the environment is.
///
/// # Errors
/// There is no such user, or the caller may not make one for somebody else.
pub fn person(request: &JobRequest, facts: &Facts) -> Result<Person, Problem> {
    let caller = &facts.caller;
    let Some(text) = &request.user else {
        return Ok(described(caller.uid, Some((caller.gid, &caller.groups))));
    };
    let by_number = crate::request::user::parse_uid_gid(text).ok();
    let Some(uid) = uid_of(text) else {
        return Err(Problem::user(format!("--user {text:?}: no such user on this node"))
            .hint("give a name that getent passwd knows, or a uid"));
    };
    if uid != caller.uid && caller.uid != 0 {
        return Err(Problem::user(format!(
            "--user {text:?}: only root can make an environment for somebody else"
        ))
        .hint("leave --user out"));
    }
    let mut person = described(uid, None);
    if let Some(gid) = by_number.and_then(|ids| ids.gid) {
        if accounts::user_by_uid(uid).is_none() {
            person.groups = vec![gid];
        }
        if person.gid != gid {
            person.group_names.extend(accounts::group_names(&[gid], true));
        }
        person.gid = gid;
    }
    Ok(person)
}

/// The uid that `--user` means, if there is one.
pub(super) fn uid_of(text: &str) -> Option<u32> {
    let by_number = crate::request::user::parse_uid_gid(text).ok();
    by_number.map(|ids| ids.uid).or_else(|| accounts::user_by_name(text).map(|u| u.uid))
}

fn described(uid: u32, own: Option<(u32, &[u32])>) -> Person {
    let account = accounts::user_by_uid(uid);
    let (gid, groups) = match (own, &account) {
        (Some((gid, groups)), _) => (gid, groups.to_vec()),
        (None, Some(user)) => (user.gid, accounts::groups_of(user)),
        (None, None) => (uid, vec![uid]),
    };
    let variable = |name: &str| own.and_then(|_| std::env::var(name).ok());
    // Programs go by HOME, so it counts for more than the account, but only
    // where it is the user's own.
    let owned = |dir: &PathBuf| {
        dir.metadata().is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == uid)
    };
    let named = variable("HOME").map(PathBuf::from).filter(owned);
    let home = named.or_else(|| account.as_ref().map(|u| PathBuf::from(&u.home)));
    // One who makes an environment for itself waits for no name service.
    let all: Vec<u32> = std::iter::once(gid).chain(groups.iter().copied()).collect();
    let group_names = accounts::group_names(&all, own.is_none());
    Person {
        uid,
        gid,
        groups,
        group_names,
        name: account.map_or_else(|| format!("u{uid}"), |u| u.name),
        home: home.filter(|h| h.is_absolute() && h.is_dir() && fits_account(h)),
    }
}

/// Whether a directory can stand in passwd(5), which the environment has.
fn fits_account(home: &Path) -> bool {
    home.to_str().is_some_and(|text| !text.contains([':', '\n']))
}

fn seed() -> [u8; 32] {
    use std::io::Read;
    let mut seed = [0; 32];
    // Never empty and never short for 32 bytes (random(4)); without it the
    // ids would only be less random.
    let _ = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut seed));
    seed
}
