//! Requests about jobs' environments, each from its options to its end.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::container::Refusal;
use super::monitor::{self, Orders};
use super::protocol::{self, Entry, Parting, Reply, Request};
use super::proxy::{Proxy, Signals};
use super::sockets::connect;
use super::stage;
use super::terminal::Relay;
use crate::host::distribution::Distribution;
use crate::host::{Facts, accounts, hardware};
use crate::image;
use crate::kernel::cgroup::Doors;
use crate::kernel::channel::Heard;
use crate::kernel::failure;
use crate::kernel::launch::{Born, Extra, Failure, NotLaunched, launch_placed};
use crate::plan::build::{self, Options};
use crate::plan::inside::{Inside, Join};
use crate::plan::{self, Plan};
use crate::policy::cpus::{self, Reservation};
use crate::policy::job::{Case, Decided, Person, Source, decide};
use crate::policy::rank::{self, Rank};
use crate::policy::text::CText;
use crate::problem::{Problem, Problems};
use crate::record::base;
use crate::record::job::{JobRecord, Jobs};
use crate::request::job::JobRequest;

/// A command to run in an environment.
#[derive(Debug, Clone, Default)]
pub struct Command {
    pub args: Vec<CText>,
    pub cwd: Option<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    pub clean_env: bool,
    /// Where to write what was used, as JSON.
    pub receipt: Option<PathBuf>,
}

/// An open way into an environment.
struct Joined {
    jobs: Jobs,
    id: String,
    socket: OwnedFd,
    entry: Entry,
    /// Namespaces, then doors.
    fds: Vec<OwnedFd>,
}

/// Where environments of this caller can be: its own, and those that root
/// made for it.
fn places(base: &Path) -> Vec<Jobs> {
    let mut all = vec![Jobs::new(base)];
    if base != base::site_base() {
        all.insert(0, Jobs::new(base::site_base()));
    }
    all
}

/// `job run`: makes the environment or joins it, runs the command.
///
/// # Errors
/// Nothing of an environment that could not be made is left.
pub fn run(
    base: &Path,
    request: &JobRequest,
    command: &Command,
    warn: &dyn Fn(&str),
) -> Result<i32, Refusal> {
    let id = request.id.clone().unwrap_or_else(rank::default_id);
    let signals = hold_signals()?;
    for jobs in places(base) {
        if let Some(joined) = try_join(&jobs, &id)? {
            check_same(&id, request, &joined.entry, warn)?;
            return execute(joined, command, &signals, warn);
        }
    }
    let jobs = Jobs::new(base);
    let lock = jobs.lock(&id)?;
    let joined = match join_when_ready(&jobs, &id)? {
        Some(joined) => {
            check_same(&id, request, &joined.entry, warn)?;
            joined
        }
        None => {
            make(&jobs, &id, request, false, warn)?;
            try_join(&jobs, &id)?.ok_or_else(|| vanished(&id))?
        }
    };
    drop(lock);
    execute(joined, command, &signals, warn)
}

/// `job start`: makes an environment that stays until `job end`.
///
/// # Errors
/// It exists already, or cannot be made.
pub fn start(base: &Path, request: &JobRequest, warn: &dyn Fn(&str)) -> Result<String, Refusal> {
    let id = request.id.clone().unwrap_or_else(rank::default_id);
    let jobs = Jobs::new(base);
    let _lock = jobs.lock(&id)?;
    if join_when_ready(&jobs, &id)?.is_some() {
        return Err(Problem::user(format!("job {id:?} has an environment on this node already"))
            .hint(format!(
                "use it with: denovo job exec {id} COMMAND, or end it with: denovo job end {id}"
            ))
            .into());
    }
    make(&jobs, &id, request, true, warn)?;
    Ok(id)
}

/// `job exec`: runs a command in an environment that is there.
///
/// # Errors
/// There is none of this id for the caller.
pub fn exec(base: &Path, id: &str, command: &Command, warn: &dyn Fn(&str)) -> Result<i32, Refusal> {
    let signals = hold_signals()?;
    for jobs in places(base) {
        if let Some(joined) = try_join(&jobs, id)? {
            return execute(joined, command, &signals, warn);
        }
    }
    Err(absent(id).into())
}

/// `job end`: ends everything in an environment and waits until nothing of
/// it is left.
///
/// # Errors
/// There is none of this id, or something of it cannot be removed.
pub fn end(
    base: &Path,
    id: &str,
    receipt: Option<&Path>,
    warn: &dyn Fn(&str),
) -> Result<(), Refusal> {
    let mut found = false;
    for jobs in places_of_everybody(base) {
        let Some(socket) = connect_to(&jobs, id) else { continue };
        found = true;
        match ask(&socket, &Request::End)? {
            Reply::Ending(parting) => {
                wait_closed(&socket);
                tell(&parting, warn);
                write_receipt(receipt, id, &parting)?;
            }
            Reply::Refused { why } => {
                return Err(Problem::user(format!("job {id:?}: {why}")).into());
            }
            _ => return Err(confused().into()),
        }
        if jobs.load(id).is_some_and(|r| !r.kept()) {
            return Err(Problem::kernel(format!(
                "job {id:?}: something of it could not be removed"
            ))
            .hint("denovo node gc tries again and names what is in the way")
            .into());
        }
    }
    if found { Ok(()) } else { Err(absent(id).into()) }
}

/// One environment as `job list` and `job show` see it.
#[derive(Debug, serde::Serialize)]
pub struct Seen {
    pub record: JobRecord,
    pub processes: usize,
    pub usage: crate::kernel::cgroup::Usage,
}

/// The caller's environments; root's view has everybody's.
pub fn list(base: &Path) -> Vec<Seen> {
    let mut all = Vec::new();
    for jobs in places_of_everybody(base) {
        all.extend(jobs.ids().iter().filter_map(|id| look(&jobs, id)));
    }
    all
}

/// # Errors
/// There is no environment of this id for the caller.
pub fn show(base: &Path, id: &str) -> Result<Seen, Refusal> {
    let places = places_of_everybody(base);
    places.iter().find_map(|jobs| look(jobs, id)).ok_or_else(|| absent(id).into())
}

fn look(jobs: &Jobs, id: &str) -> Option<Seen> {
    let socket = connect_to(jobs, id)?;
    match ask(&socket, &Request::Show).ok()? {
        Reply::Shown { record, processes, usage } => {
            Some(Seen { record: *record, processes, usage })
        }
        _ => None,
    }
}

/// For root also what users made without privilege.
fn places_of_everybody(base: &Path) -> Vec<Jobs> {
    let mut all = places(base);
    if nix::unistd::geteuid().is_root() {
        let users = std::fs::read_dir("/tmp").into_iter().flatten().flatten().map(|e| e.path());
        let users = users
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("denovo-")));
        let runtime = std::fs::read_dir("/run/user")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path().join("denovo"));
        all.extend(users.chain(runtime).filter(|p| p.join("jobs").is_dir()).map(|p| Jobs::new(&p)));
    }
    all
}

fn hold_signals() -> Result<Signals, Problem> {
    Signals::hold().map_err(|e| Problem::kernel(format!("signalfd: {}", e.desc())))
}

fn absent(id: &str) -> Problem {
    Problem::user(format!("job {id:?} has no environment on this node"))
        .hint("denovo job list shows those there are")
}

fn vanished(id: &str) -> Problem {
    Problem::kernel(format!("job {id:?}: its environment ended as soon as it was made"))
        .hint("look for the kernel's out-of-memory killer in its log")
}

fn confused() -> Problem {
    Problem::ours("the monitor of the environment gave an answer that does not fit")
        .hint("another version of denovo may have made it; end it with that one")
}

fn connect_to(jobs: &Jobs, id: &str) -> Option<OwnedFd> {
    connect(&jobs.socket(id)).ok()
}

fn ask(socket: &OwnedFd, request: &Request) -> Result<Reply, Problem> {
    let lost =
        |e: nix::errno::Errno| Problem::kernel(format!("the environment's monitor: {}", e.desc()));
    protocol::say(socket, request, &[]).map_err(lost)?;
    match protocol::hear::<Reply>(socket).map_err(lost)? {
        Some((reply, _)) => Ok(reply),
        None => Err(Problem::kernel("the environment ended while it was asked")),
    }
}

/// Counted in, or `None` when there is no environment (any more).
fn try_join(jobs: &Jobs, id: &str) -> Result<Option<Joined>, Problem> {
    let Some(socket) = connect_to(jobs, id) else { return Ok(None) };
    if protocol::say(&socket, &Request::Join, &[]).is_err() {
        return Ok(None);
    }
    match protocol::hear::<Reply>(&socket) {
        Ok(Some((Reply::Joined(entry), fds))) => {
            let expected = entry.namespaces.len() + entry.v1_doors + usize::from(entry.v2_door);
            if fds.len() == expected {
                Ok(Some(Joined { jobs: jobs.clone(), id: id.to_owned(), socket, entry, fds }))
            } else {
                Err(confused())
            }
        }
        Ok(Some((Reply::Refused { why }, _))) => Err(Problem::user(format!("job {id:?}: {why}"))),
        Ok(Some(_)) => Err(confused()),
        // It ended between the connection and the answer.
        Ok(None) | Err(_) => Ok(None),
    }
}

/// With the lock held: joins what stands, waits for what is ending, clears
/// away what a crash left.
fn join_when_ready(jobs: &Jobs, id: &str) -> Result<Option<Joined>, Problem> {
    loop {
        if let Some(joined) = try_join(jobs, id)? {
            return Ok(Some(joined));
        }
        match jobs.load(id) {
            Some(record) if record.kept() => {
                // On its way out, which takes milliseconds.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Some(record) if !stage::take_back(jobs, &record) => {
                return Err(Problem::kernel(format!(
                    "job {id:?}: what an earlier environment left cannot be removed"
                ))
                .hint("denovo node gc names what is in the way"));
            }
            Some(_) => return Ok(None),
            None => {
                if jobs.directory(id).exists() {
                    jobs.forget(id)?;
                }
                return Ok(None);
            }
        }
    }
}

/// Who joins with another bundle would be surprised by what is inside; what
/// else comes too late is said.
fn check_same(
    id: &str,
    request: &JobRequest,
    entry: &Entry,
    warn: &dyn Fn(&str),
) -> Result<(), Problem> {
    match &request.bundle {
        Some(wanted) if image::name_of(wanted) != entry.bundle => Err(Problem::user(format!(
            "job {id:?} runs bundle {:?} on this node, not {wanted:?}",
            entry.bundle
        ))
        .hint("leave --bundle out to join it, or choose another --id")),
        _ => {
            let late = request.differing(&entry.asked);
            if !late.is_empty() {
                warn(&format!(
                    "job {id} has its environment already, made without this: {} has no effect",
                    late.join(", ")
                ));
            }
            Ok(())
        }
    }
}

/// Everything that is decided before an environment is made.
struct Prepared {
    person: Person,
    decided: Decided,
    plan: Plan,
    env: Vec<String>,
    bundle: String,
    scratch: Option<PathBuf>,
    cpus: Vec<u32>,
}

fn prepare(jobs: &Jobs, id: &str, request: &JobRequest, dry: bool) -> Result<Prepared, Problems> {
    let facts = Facts::read().map_err(|p| vec![p])?;
    let person = person(request, &facts).map_err(|p| vec![p])?;
    let memory = hardware::memory_total().unwrap_or(1 << 30);
    let (source, env, bundle) = match image::resolve(request.bundle.as_deref())? {
        image::Found::Host => (Source::Host(Distribution::read()), Vec::new(), "host".to_owned()),
        image::Found::Bundle(b) => {
            let source = Source::Bundle { root: b.root, passwd: b.passwd, group: b.group, memory };
            (source, b.env, b.name)
        }
    };
    let cpus = choose_cpus(jobs, request, &facts).map_err(|p| vec![p])?;
    let cwd = std::env::current_dir().ok().map(|p| p.display().to_string());
    let own = person.uid == facts.caller.uid;
    let scratch = match &request.scratch {
        Some(dir) if dry => Some(dir.join(format!("denovo-{id}-PID"))),
        Some(dir) => {
            Some(stage::make_scratch(dir, id, (person.uid, person.gid)).map_err(|p| vec![p])?)
        }
        None => None,
    };
    let text = scratch.as_ref().map(|p| p.display().to_string());
    let case = Case {
        id,
        request,
        facts: &facts,
        person: &person,
        source: &source,
        cpus: cpus.as_deref(),
        // Root's own directory is none of the job's user's business.
        cwd: cwd.as_deref().filter(|_| own),
        launcher: &rank::launcher_directories(person.uid),
        scratch: text.as_deref(),
        seed: seed(),
    };
    let made = decide(&case).and_then(|decided| {
        let anchor = jobs.directory(id).join("root");
        let options = Options {
            id: id.to_owned(),
            anchor: CText::lossy(anchor.as_os_str().as_encoded_bytes()),
            no_pivot: false,
            no_new_keyring: false,
            await_start: false,
        };
        let mut plan = build::plan(&decided.spec, &facts, &options)?;
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
            scratch,
            cpus: cpus.unwrap_or_default(),
        }),
        Err(problems) => {
            if let Some(dir) = scratch.filter(|_| !dry) {
                let _ = std::fs::remove_dir(dir);
            }
            Err(problems)
        }
    }
}

/// The lines of `denovo explain job run|start`.
///
/// # Errors
/// As `job run`.
pub fn explain(base: &Path, request: &JobRequest) -> Result<Vec<String>, Refusal> {
    let id = request.id.clone().unwrap_or_else(rank::default_id);
    let jobs = Jobs::new(base);
    if places(base).iter().any(|jobs| connect_to(jobs, &id).is_some()) {
        return Ok(vec![format!("join the environment of job {id}, which is there")]);
    }
    let prepared = prepare(&jobs, &id, request, true)?;
    let mut lines =
        vec![format!("make directory {}; undone by removing it", jobs.directory(&id).display())];
    lines.extend(
        prepared
            .scratch
            .iter()
            .map(|d| format!("make directory {}; undone by removing it", d.display())),
    );
    lines.extend(prepared.plan.lines());
    lines.extend(prepared.decided.warnings.iter().map(|w| format!("not held: {w}")));
    Ok(lines)
}

/// With the lock of the id held.
fn make(
    jobs: &Jobs,
    id: &str,
    request: &JobRequest,
    persistent: bool,
    warn: &dyn Fn(&str),
) -> Result<(), Refusal> {
    // CPUs are chosen and written down under one lock for the whole node.
    let reserving = request.cpus.is_some().then(|| jobs.lock_cpus()).transpose()?;
    // What others left when they crashed; who holds a lock is not waited for.
    let _ = stage::collect_jobs(jobs, |other| other != id);
    let prepared = prepare(jobs, id, request, false)?;
    prepared.decided.warnings.iter().for_each(|w| warn(w));
    prepared.plan.cgroup.left_out.iter().for_each(|w| warn(w));
    let scratch = prepared.scratch.clone();
    if let Err(problem) = jobs.make(id) {
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
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        monitor: crate::record::process::ProcessName::own(),
        init: None,
        cgroup: prepared.plan.cgroup.clone(),
        reserved_cpus: if request.share_cpus { Vec::new() } else { prepared.cpus },
        memory: request.memory,
        node_network: !request.network_none,
        persistent,
        scratch: prepared.scratch,
    };
    let orders = Orders {
        jobs: jobs.clone(),
        record,
        plan: prepared.plan,
        groups: prepared.person.groups,
        env: prepared.env,
        affinity: prepared.decided.affinity,
        asked: request.clone(),
    };
    jobs.save(&orders.record).inspect_err(|_| drop(jobs.forget(id)))?;
    drop(reserving);
    monitor::spawn(orders).map_err(Refusal::from)
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
fn person(request: &JobRequest, facts: &Facts) -> Result<Person, Problem> {
    let caller = &facts.caller;
    let Some(text) = &request.user else {
        return Ok(described(caller.uid, Some((caller.gid, &caller.groups))));
    };
    let by_number = crate::request::user::parse_uid_gid(text).ok();
    let found =
        by_number.map(|ids| ids.uid).or_else(|| accounts::user_by_name(text).map(|u| u.uid));
    let Some(uid) = found else {
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
        person.gid = gid;
    }
    Ok(person)
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
    Person {
        uid,
        gid,
        groups,
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

/// Runs the command inside and waits for it.
fn execute(
    joined: Joined,
    command: &Command,
    signals: &Signals,
    warn: &dyn Fn(&str),
) -> Result<i32, Refusal> {
    let Joined { jobs, id, socket, entry, fds } = joined;
    let started = start_inside(&entry, fds, command, signals, &socket);
    let result = started.map(|(born, terminal, shares_group)| {
        let relay = terminal.map(Relay::new);
        Proxy { pid: born.pid, pidfd: &born.pidfd, relay, signals, shares_group }.wait()
    });
    let killed = result.as_ref().is_ok_and(|code| *code == 128 + libc::SIGKILL);
    let last = leave(&socket, (&id, command.receipt.as_deref()), killed, warn)?;
    if last && jobs.load(&id).is_some_and(|r| !r.kept()) {
        warn(&format!(
            "something of job {id} could not be removed; denovo node gc tries again and names it"
        ));
    }
    result
}

/// Tells the monitor; the last one out waits until nothing is left, and
/// hears that it was the last.
fn leave(
    socket: &OwnedFd,
    (id, receipt): (&str, Option<&Path>),
    killed: bool,
    warn: &dyn Fn(&str),
) -> Result<bool, Problem> {
    match ask(socket, &Request::Leave { report: killed || receipt.is_some() }) {
        Ok(Reply::Left(parting)) => {
            if parting.last {
                wait_closed(socket);
            }
            if parting.last || killed {
                tell(&parting, warn);
            }
            write_receipt(receipt, id, &parting)?;
            Ok(parting.last)
        }
        Ok(_) => Err(confused()),
        // Ended meanwhile by `job end`, which was told everything.
        Err(_) => Ok(false),
    }
}

fn wait_closed(socket: &OwnedFd) {
    while let Ok(Some(_)) = protocol::hear::<Reply>(socket) {}
}

/// What the job should know of how it was held.
fn tell(parting: &Parting, warn: &dyn Fn(&str)) {
    let usage = &parting.usage;
    if let Some(kills) = usage.oom_kills.filter(|n| *n > 0) {
        let limit = parting.memory.map_or(String::new(), |b| format!(" of {} MiB", b >> 20));
        let peak =
            usage.memory_peak.map_or(String::new(), |b| format!(", peak use {} MiB", b >> 20));
        warn(&format!(
            "{kills} process(es) were killed because the memory limit{limit} was reached{peak}; give more with --memory"
        ));
    }
    if let Some(periods) = usage.cpu_throttled_periods.filter(|n| *n > 0) {
        let seconds = usage.cpu_throttled_ns.unwrap_or(0) as f64 / 1e9;
        warn(&format!(
            "the CPU quota held the job back in {periods} periods, {seconds:.1} s in all"
        ));
    }
    if let Some(refused) = usage.pids_limit_hits.filter(|n| *n > 0) {
        warn(&format!(
            "{refused} forks were refused because the limit of processes was reached; give more with --pids"
        ));
    }
}

fn write_receipt(path: Option<&Path>, id: &str, parting: &Parting) -> Result<(), Problem> {
    let Some(path) = path else { return Ok(()) };
    let document =
        serde_json::json!({ "job": id, "memoryLimit": parting.memory, "usage": parting.usage });
    std::fs::write(path, format!("{document:#}\n")).map_err(|e| {
        Problem::user(format!("--receipt {}: {e}", path.display()))
            .hint("name a file that you can write")
    })
}

type Started = (Born, Option<OwnedFd>, bool);

fn start_inside(
    entry: &Entry,
    fds: Vec<OwnedFd>,
    command: &Command,
    signals: &Signals,
    socket: &OwnedFd,
) -> Result<Started, Refusal> {
    use std::io::IsTerminal;
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let (mut fds, kinds) = (fds.into_iter(), &entry.namespaces);
    let namespaces: Vec<OwnedFd> = fds.by_ref().take(kinds.len()).collect();
    let v1_tasks: Vec<OwnedFd> = fds.by_ref().take(entry.v1_doors).collect();
    let doors = Doors { v1_tasks, v2_dir: fds.next() };
    let join = kinds
        .iter()
        .zip(&namespaces)
        .map(|(kind, fd)| Join {
            kind: *kind,
            path: CText::lossy(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        })
        .collect();
    let own = std::env::vars_os();
    let rank = Rank {
        uid: entry.uid,
        gid: entry.gid,
        groups: (nix::unistd::geteuid().as_raw() != entry.uid).then(|| entry.groups.clone()),
        args: &command.args,
        env: rank::environment(
            own,
            &entry.env,
            &command.env,
            command.clean_env,
            entry.bundle == "host",
        ),
        cwd: command.cwd.as_deref(),
        here: std::env::current_dir().ok(),
        terminal,
        cpus: entry.cpus.as_deref(),
    };
    let process = rank.process()?;
    let plan = Plan {
        cgroup: plan::cgroup::CgroupPlan::default(),
        launch: plan::Launch::joining(join),
        inside: build::rank_steps(
            &process,
            rank.directories(),
            rank.cpus,
            !doors.v1_tasks.is_empty(),
        ),
        program: Some(build::program(&process)),
        seccomp: None,
        hooks: crate::policy::spec::Hooks::default(),
    };
    let place = |pid: i32| -> Result<(), Problem> {
        if !entry.place {
            return Ok(());
        }
        match ask(socket, &Request::Place { pid })? {
            Reply::Placed => Ok(()),
            Reply::Refused { why } => Err(Problem::kernel(why)),
            _ => Err(confused()),
        }
    };
    let extra = Extra {
        start: None,
        preserve: None,
        mask: signals.before(),
        die_with_parent: true,
        entering: true,
        init: None,
    };
    let refuse = |f: &Failure| Refusal {
        problems: vec![failure::explain(&plan, f)],
        code: failure::exit_code(&plan, f),
    };
    let born = launch_placed(&plan, &doors, &extra, &place).map_err(|e| match e {
        NotLaunched::Failed(f) => refuse(&f),
        NotLaunched::NotPlaced(problem) => problem.into(),
    })?;
    let mut master = None;
    loop {
        match born.next() {
            Err(f) => {
                let _ = super::proxy::exit_code(born.pid);
                return Err(refuse(&f));
            }
            Ok(Heard::Terminal(fd)) => master = Some(fd),
            Ok(Heard::Closed) => return Ok((born, master, !terminal)),
            Ok(_) => {}
        }
    }
}
