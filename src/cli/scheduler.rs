//! What a batch scheduler calls, and what its administrator needs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::Context;
use super::say::out;
use crate::policy::text::CText;
use crate::problem::{Problem, Problems};
use crate::request::freshness::Prolog;
use crate::request::job::JobRequest;
use crate::request::scheduler::site::Scheduler;
use crate::request::scheduler::{slurm, slurm_config, slurm_container};
use crate::request::site::{self, Site};
use crate::supervise::container::Refusal;
use crate::supervise::job;
use crate::supervise::scheduler::{self, sentence};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Slurm
    #[command(subcommand)]
    Slurm(Slurm),
}

#[derive(Debug, Subcommand)]
pub enum Slurm {
    /// Print the configuration that lets Slurm use denovo
    PrintConfig(PrintConfig),
    /// Run a task that Slurm wrote into a bundle (oci.conf, RunTimeRun)
    Task(Task),
}

#[derive(Debug, Args)]
pub struct PrintConfig {
    /// Version of Slurm, such as 22.05 [default: the one installed here]
    #[arg(long, value_name = "VERSION")]
    slurm: Option<String>,
    /// The file to print
    #[arg(value_name = "FILE", default_value = "slurm.conf",
          value_parser = ["slurm.conf", "plugstack.conf", "oci.conf", "denovo.toml"])]
    file: String,
}

#[derive(Debug, Args)]
pub struct Task {
    /// Number of the job, whose tasks on this node share an environment
    #[arg(long, value_name = "JOB")]
    job: u32,
    /// The bundle that Slurm wrote
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn only_root() -> Result<(), Problem> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Problem::user("prolog and epilog are for root").hint("slurmd calls them (slurm.conf)"))
}

pub fn prolog(context: &Context) -> Result<i32, Refusal> {
    if !context.explain {
        only_root()?;
    }
    let whole = settings(context, "prolog")?;
    let site = &whole.scheduler;
    let call = slurm::call(variable).map_err(|p| unread(context, site, "prolog", p))?;
    let wishes = slurm::wishes(variable, site.comment);
    if context.explain {
        let facts = context.facts()?;
        let lines = scheduler::explain(&context.base(), site, &call, &wishes?, &facts)?;
        let lines = with_audit(&whole, lines);
        context.print_plan(&lines);
        return Ok(0);
    }
    let warn = |text: &str| context.voice.warn(text);
    let work = || {
        let tables = (site, &whole.freshness);
        scheduler::prolog(&context.base(), tables, &call, wishes.clone(), &warn)
    };
    // A wish has three quarters of the budget: in the rest it turns out whether
    // the node can do without.
    let wished = wishes.as_ref().is_ok_and(|wishes| !wishes.is_empty());
    let seconds = if wished { site.budget - site.budget / 4 } else { site.budget };
    let late = || scheduler::too_late(&context.base(), site, &call, seconds, &warn);
    let late: Option<Work> = if wished { Some(&late) } else { None };
    carried_out(context, (site, &call.node), ("prolog", seconds), &work, late)
}

pub fn epilog(context: &Context) -> Result<i32, Refusal> {
    if !context.explain {
        only_root()?;
    }
    let whole = settings(context, "epilog")?;
    let site = &whole.scheduler;
    let call = slurm::ending(variable).map_err(|p| unread(context, site, "epilog", p))?;
    if context.explain {
        let mut lines =
            vec![format!("end the environment of job {} with everything in it", call.id())];
        if whole.freshness.audit {
            let baseline = whole.freshness.baseline.display();
            lines.push(format!("compare the node with {baseline}"));
            if !whole.freshness.clean.is_empty() {
                lines.push(format!(
                    "remove what uid {} has left, if it has no other job here",
                    call.uid
                ));
            }
        }
        lines.push(format!("write its receipt below {}", site.receipts.display()));
        context.print_plan(&lines);
        return Ok(0);
    }
    let warn = |text: &str| context.voice.warn(text);
    let work = || scheduler::epilog(&context.base(), (site, &whole.freshness), &call, &warn);
    carried_out(context, (site, &call.node), ("epilog", site.budget), &work, None)
}

/// A prolog's lines, with the look at the node that comes first.
fn with_audit(site: &Site, mut lines: Vec<String>) -> Vec<String> {
    let baseline = site.freshness.baseline.display();
    let then = match site.freshness.prolog {
        Prolog::Off => return lines,
        Prolog::Refuse => "fail if it differs",
        Prolog::Repair => "put right what can be, fail if it still differs",
    };
    lines.insert(0, format!("compare the node with {baseline}; {then}"));
    lines
}

/// What the site says; a file that is wrong drains the node with that reason.
fn settings(context: &Context, what: &str) -> Result<Site, Refusal> {
    site::load()
        .map_err(|problem| unread(context, &Scheduler::default(), what, vec![problem]).into())
}

/// Nothing can be done without what could not be read; the node is drained for that,
/// unless somebody only wants to know what would be done.
fn unread(context: &Context, site: &Scheduler, what: &str, problems: Problems) -> Problems {
    if nix::unistd::geteuid().is_root()
        && !context.explain
        && let Some(node) = slurm::node(variable)
    {
        drain(site, &node, &format!("denovo {what}: {}", sentence(&problems)));
    }
    problems
}

type Work<'a> = &'a dyn Fn() -> Result<(), Refusal>;

/// Within so many seconds; a failure drains the node with its reason.
///
/// # Arguments
/// * `late` - what to do with the rest of the budget when they are over
fn carried_out(
    context: &Context,
    (site, node): (&Scheduler, &str),
    (what, seconds): (&str, u64),
    work: Work,
    late: Option<Work>,
) -> Result<i32, Refusal> {
    let told = |refusal: Refusal| {
        // Before Slurm does it with a reason that says nothing.
        drain(site, node, &format!("denovo {what}: {}", sentence(&refusal.problems)));
        refusal
    };
    let run = |seconds, work: Work| {
        scheduler::within(seconds, what, || match work() {
            Ok(()) => 0,
            Err(refusal) => {
                let refusal = told(refusal);
                context.voice.problems(&refusal.problems);
                1
            }
        })
    };
    match (run(seconds, work), late) {
        (Err(_), Some(late)) => run(site.budget / 4, late),
        (done, _) => done,
    }
    .map_err(|problem| told(problem.into()))
}

/// Tells Slurm why the node is not to be used. Its own words for a failed
/// prolog are "Prolog error"; it keeps a reason that is there already.
fn drain(site: &Scheduler, node: &str, reason: &str) {
    let places = ["/usr/bin", "/usr/local/bin", "/opt/slurm/bin", "/usr/local/slurm/bin"];
    let known = places.iter().map(|dir| Path::new(dir).join("scontrol"));
    let Some(scontrol) = site.scontrol.clone().into_iter().chain(known).find(|p| p.is_file())
    else {
        return;
    };
    let plain = |c: char| if c.is_ascii_graphic() && !"\"'\\`".contains(c) { c } else { ' ' };
    let reason: String = reason.chars().map(plain).take(200).collect();
    let mut command = Command::new(scontrol);
    command
        .args(["update", &format!("NodeName={node}"), "State=DRAIN", &format!("Reason={reason}")])
        .env_clear()
        .envs(variable("SLURM_CONF").map(|path| ("SLURM_CONF", path)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // What the node cannot tell, slurmd still does by the exit code.
    let _ = command.spawn().and_then(|child| patiently(child, TO_DRAIN));
}

/// How long scontrol may try to reach its controller: the job waits for that.
const TO_DRAIN: Duration = Duration::from_secs(15);

fn patiently(mut child: Child, limit: Duration) -> std::io::Result<ExitStatus> {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()
}

pub fn run(context: &Context, verb: Verb) -> Result<i32, Refusal> {
    match verb {
        Verb::Slurm(Slurm::PrintConfig(args)) => print_config(args),
        Verb::Slurm(Slurm::Task(args)) => task(context, &args),
    }
}

/// The first task of a job on this node makes the environment, the others
/// join it; the last one to leave ends it.
fn task(context: &Context, args: &Task) -> Result<i32, Refusal> {
    let task = slurm_container::task(&args.bundle)?;
    let request = JobRequest {
        // Beside the one that a prolog may have made for the job.
        id: Some(format!("slurm-{}-container", args.job)),
        bundle: Some(task.bundle.display().to_string()),
        binds: task.binds,
        ..JobRequest::default()
    };
    if context.explain {
        let lines = job::explain(&context.base(), &request, &context.facts()?)?;
        context.print_plan(&lines);
        return Ok(0);
    }
    let command = job::Command {
        args: task.args.iter().map(|arg| CText::lossy(arg.as_bytes())).collect(),
        cwd: task.cwd,
        env: task.env,
        // Slurm's variables for the task are in its bundle, not in ours.
        clean_env: true,
        receipt: None,
    };
    job::run(&context.base(), &request, &command, &|text| context.voice.warn(text))
}

fn print_config(args: PrintConfig) -> Result<i32, Refusal> {
    let version = match args.slurm {
        Some(text) => parse_version(&text).ok_or_else(|| {
            Problem::user(format!("--slurm {text:?}: is no version of Slurm"))
                .hint("such as 22.05 or 24.11.5")
        })?,
        None => installed().ok_or_else(|| {
            Problem::user("no Slurm is installed here: slurmd -V gives no version")
                .hint("name one with --slurm VERSION")
        })?,
    };
    let binary = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/local/bin/denovo"));
    out(format_args!("{}", slurm_config::config(&args.file, version, &binary).trim_end()));
    Ok(0)
}

/// `22.05.8` or `slurm-wlm 22.05.8` as (22, 5).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let word = text.split_ascii_whitespace().last()?;
    let mut parts = word.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn installed() -> Option<(u32, u32)> {
    let ask = |program: &str| Command::new(program).arg("-V").stderr(Stdio::null()).output().ok();
    ["slurmd", "/usr/sbin/slurmd", "srun"].iter().find_map(|program| {
        let output = ask(program).filter(|o| o.status.success())?;
        parse_version(&String::from_utf8_lossy(&output.stdout))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_end_is_not_waited_for() {
        let start = |words: &[&str]| Command::new(words[0]).args(&words[1..]).spawn().unwrap();
        let patience = Duration::from_millis(100);
        assert_eq!(patiently(start(&["sleep", "1000"]), patience).unwrap().code(), None);
        let quick = patiently(start(&["sh", "-c", "exit 3"]), Duration::from_secs(60));
        assert_eq!(quick.unwrap().code(), Some(3));
    }

    #[test]
    fn versions() {
        for (text, expected) in [
            ("slurm-wlm 22.05.8\n", Some((22, 5))),
            ("slurm 24.11.5", Some((24, 11))),
            ("22.05", Some((22, 5))),
            ("22", None),
            ("", None),
            ("slurm x.y", None),
        ] {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }
}
