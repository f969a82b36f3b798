//! What happens at each hook.
//!
//! In srun, sbatch and salloc the options become variables of the prolog. In
//! slurmstepd the tasks enter the environment that the prolog made:
//!
//! | hook | who | what |
//! |---|---|---|
//! | init_post_opt | root | asks the monitor for descriptors |
//! | user_init | root behind the user | the tasks' pid namespace |
//! | task_init_privileged | the task, root | control groups |
//! | task_init | the task, the user | all other namespaces, root, variables |
//! | task_post_fork | root | slurmstepd's own pid namespace again |
//! | task_exit | root | has the monitor look at what Slurm's groups counted |
//!
//! The user owns the environment's user namespace, so that entering it takes
//! no privilege, and nothing here runs as root inside.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::abi::{self, Context, Item, Spank};
use crate::enter;
use crate::monitor::{self, Prolog, Step};

/// Number of the step that a batch script is.
const BATCH_STEP: u64 = 0xffff_fffb;

/// Number of the step that only holds a job's place on a node.
const EXTERN_STEP: u64 = 0xffff_fffc;

#[derive(Default)]
struct State {
    image: Option<String>,
    bundle: Option<String>,
    binds: Vec<String>,
    none: bool,
    base: PathBuf,
    job: u64,
    step: Option<Box<Step>>,
    /// Why no task may run.
    refused: Option<String>,
    own_pids: Option<OwnedFd>,
    /// The directory of a batch job's script, and a detached mount of it.
    script: Option<(String, OwnedFd)>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn state() -> MutexGuard<'static, Option<State>> {
    let mut guard = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    guard.get_or_insert_default();
    guard
}

/// One of the options in abi.rs, by its number.
pub fn option(number: i32, value: String) -> Result<(), String> {
    if value.contains(|c: char| c.is_control()) {
        return Err("denovo: an option holds control characters".to_owned());
    }
    let mut guard = state();
    let Some(state) = guard.as_mut() else { return Ok(()) };
    match number {
        1 if value.is_empty() => return Err("--image: the name is missing".to_owned()),
        1 => state.image = Some(value),
        2 if value.is_empty() => return Err("--bundle: the name is missing".to_owned()),
        2 => state.bundle = Some(value),
        3 if !value.starts_with('/') => return Err(format!("--bind {value:?}: begin it with /")),
        3 => state.binds.push(value),
        _ => state.none = true,
    }
    if state.image.is_some() && state.bundle.is_some() {
        return Err("--image and --bundle: give one of them".to_owned());
    }
    Ok(())
}

pub fn options_are_known(spank: Spank, words: &[String]) -> Result<(), String> {
    let mut guard = state();
    let Some(state) = guard.as_mut() else { return Ok(()) };
    match abi::context() {
        Context::Local | Context::Allocator => submit(spank, state),
        Context::Remote => arrive(spank, words, state),
        Context::Other => Ok(()),
    }
}

/// In srun, sbatch, salloc; for each component of a heterogeneous job, whose options
/// are its own.
fn submit(spank: Spank, state: &mut State) -> Result<(), String> {
    let asked = std::mem::take(state);
    let binds = Some(asked.binds.join("\n")).filter(|all| !all.is_empty());
    let all = [
        ("DENOVO_IMAGE", asked.image),
        ("DENOVO_BUNDLE", asked.bundle),
        ("DENOVO_BIND", binds),
        ("DENOVO_NONE", asked.none.then(|| "1".to_owned())),
    ];
    for (name, value) in all {
        match value {
            Some(value) if !spank.set_for_prolog(name, &value) => {
                return Err("denovo: Slurm does not take the options for the prolog".to_owned());
            }
            Some(_) => {}
            None => spank.unset_for_prolog(name),
        }
    }
    Ok(())
}

/// In slurmstepd, as root, before anything of the user's runs.
fn arrive(spank: Spank, words: &[String], state: &mut State) -> Result<(), String> {
    let is = |wanted: &str| words.iter().any(|w| w == wanted);
    let base = words.iter().find_map(|w| w.strip_prefix("root=")).unwrap_or("/run/denovo");
    state.base = PathBuf::from(base);
    state.job = spank.number(Item::Job).ok_or("denovo: Slurm tells no job id")?;
    // To each component of a heterogeneous job Slurm brings the options of the last;
    // those that were for its prolog count.
    if spank.get("SLURM_HET_SIZE").is_some() {
        (state.image, state.bundle, state.none) = (None, None, false);
    }
    if state.none && !is("enforce") {
        return Ok(());
    }
    // Mebibytes; 0 where memory is not handed out.
    let memory = spank.number(Item::AllocatedMemory).filter(|m| *m > 0).map(|m| m << 20);
    let found = monitor::step(&state.base, state.job, memory);
    // Not an error here: Slurm would hold a batch job and drain the node. The
    // tasks say it, and fail.
    match found {
        Ok(Prolog::Step(step)) => {
            let asked = state.image.as_ref().or(state.bundle.as_ref());
            if let Some(asked) = asked.filter(|a| **a != step.bundle) {
                state.refused = Some(format!(
                    "denovo: job {} runs in {} on this node, not in {asked}: --image and --bundle \
                     are for the job, not for a step of it",
                    state.job, step.bundle
                ));
            }
            state.step = Some(step);
        }
        Ok(Prolog::None) if !is("enforce") => {}
        Ok(Prolog::None) => {
            state.refused = Some("denovo: this site has no jobs without an environment".to_owned());
        }
        Ok(Prolog::Refused(why)) => state.refused = Some(format!("denovo: {why}")),
        Ok(Prolog::Lost) => {
            state.refused = Some(format!(
                "denovo: the environment of job {} on this node has ended before the job",
                state.job
            ));
        }
        Ok(Prolog::Absent) if is("optional") => {}
        Ok(Prolog::Absent) => {
            state.refused = Some(format!(
                "denovo: job {} has no environment on this node; is Prolog=…denovo prolog in \
                 slurm.conf, with PrologFlags=Alloc? (`optional` after the plugin's name in \
                 plugstack.conf lets such jobs run on the bare node)",
                state.job
            ));
        }
        Err(why) => state.refused = Some(format!("denovo: {why}")),
    }
    if let Some(why) = &state.refused
        && spank.number(Item::StepId) == Some(EXTERN_STEP)
    {
        abi::log(why);
    }
    Ok(())
}

pub fn before_the_tasks(_: Spank, _: &[String]) -> Result<(), String> {
    let mut guard = state();
    let Some(state) = guard.as_mut().filter(|s| s.refused.is_none()) else { return Ok(()) };
    let Some(step) = &state.step else { return Ok(()) };
    match enter::lead_into_pids(step) {
        Ok(own) => state.own_pids = own,
        Err(why) => state.refused = Some(format!("denovo: {why}")),
    }
    Ok(())
}

/// Slurm has made every task of the step by now.
pub fn after_the_tasks(_: Spank, _: &[String]) -> Result<(), String> {
    let mut guard = state();
    match guard.as_mut().and_then(|s| s.own_pids.take()) {
        Some(own) => enter::come_back_to_pids(&own),
        None => Ok(()),
    }
}

pub fn task_as_root(spank: Spank, _: &[String]) -> Result<(), String> {
    let mut guard = state();
    let Some(state) = guard.as_mut().filter(|s| s.refused.is_none()) else { return Ok(()) };
    let Some(step) = &state.step else { return Ok(()) };
    if let Err(why) = enter::groups(step, &state.base, state.job) {
        state.refused = Some(format!("denovo: {why}"));
        return Ok(());
    }
    // The script of a batch job is in a directory of root's in the spool.
    let batch = spank.number(Item::StepId) == Some(BATCH_STEP);
    let script = batch.then(|| spank.program()).flatten();
    if let Some((dir, _)) = script.as_ref().and_then(|path| path.rsplit_once('/')) {
        match enter::copy_of_mount(dir) {
            Ok(mount) => state.script = Some((dir.to_owned(), mount)),
            Err(why) => state.refused = Some(format!("denovo: {why}")),
        }
    }
    Ok(())
}

/// In slurmstepd, when a task has ended: Slurm's groups go with the last one, before
/// the epilog could tell what the job has used.
pub fn after_a_task(_: Spank, _: &[String]) -> Result<(), String> {
    let guard = state();
    if let Some(state) = guard.as_ref().filter(|s| s.step.is_some()) {
        // Without it the receipt tells less, and that is all.
        let _ = monitor::count(&state.base, state.job);
    }
    Ok(())
}

pub fn task(spank: Spank, _: &[String]) -> Result<(), String> {
    let mut guard = state();
    let Some(state) = guard.as_mut() else { return Ok(()) };
    if let Some(why) = &state.refused {
        return Err(why.clone());
    }
    let Some(step) = &state.step else { return Ok(()) };
    let uid = spank.number(Item::Uid).ok_or("denovo: Slurm tells no uid")?;
    let mut brought: Vec<(String, OwnedFd)> = state.script.take().into_iter().collect();
    for path in launchers_directories(spank, uid) {
        match monitor::bring(&state.base, state.job, &path) {
            Ok(mount) => brought.push((path, mount)),
            Err(why) => abi::tell(&format!("denovo: {why}")),
        }
    }
    let terminal = enter::terminal()
        .and_then(|path| Some((path.clone(), monitor::bring(&state.base, state.job, &path).ok()?)));
    let home = spank.get("HOME");
    let missed = enter::environment(step, home.as_deref(), &brought, terminal.as_ref())
        .map_err(|why| format!("denovo: {why}"))?;
    // Once for a step of many tasks.
    if let Some(what) = missed.filter(|_| spank.get("SLURM_PROCID").is_none_or(|n| n == "0")) {
        abi::tell(&format!("denovo: {what}"));
    }
    for name in &step.unset {
        spank.unset(name);
    }
    for (name, inside) in &step.moved {
        if spank.get(name).is_some() {
            spank.set(name, inside);
        }
    }
    for (name, value) in step.set.iter().filter_map(|entry| entry.split_once('=')) {
        spank.set(name, value);
    }
    Ok(())
}

/// Directories of the user's own that an MPI launcher made outside for its
/// ranks, below those that are private inside.
fn launchers_directories(spank: Spank, uid: u64) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let private = ["/tmp/", "/var/", "/run/", "/dev/shm/"];
    let names = ["PMIX_SERVER_TMPDIR", "PMIX_SYSTEM_TMPDIR"];
    // Slurm's mpi/pmix keeps what PMIx's shared memory needs in a directory
    // of the step's, which it names to nobody (src/plugins/mpi/pmix, pmixp_info.c).
    let step = spank.number(Item::Job).zip(spank.number(Item::StepId));
    let shared = spank.get("PMIX_SYSTEM_TMPDIR").zip(step).map(|(top, (job, step))| {
        format!("{}/spmix_appdir_{uid}_{job}.{step}", top.trim_end_matches('/'))
    });
    let mut found: Vec<String> = names
        .iter()
        .filter_map(|name| spank.get(name))
        .chain(shared)
        .map(|path| path.trim_end_matches('/').to_owned())
        .filter(|path| private.iter().any(|above| path.starts_with(above)))
        .filter(|path| {
            std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir() && u64::from(m.uid()) == uid)
        })
        .collect();
    found.sort();
    found.dedup();
    found
}
