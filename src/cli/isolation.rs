//! What a job can notice of others: `denovo check isolation`, and the hidden
//! verb that it runs inside.

use std::ffi::OsString;
use std::io::{stdin, stdout};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Context;
use super::job::Options;
use super::say::out;
use crate::host::Facts;
use crate::isolation::channel::Channel;
use crate::isolation::judge::{Course, Verdict, judge};
use crate::isolation::residual::{self, Shared};
use crate::isolation::run::{Subject, Who, course};
use crate::isolation::{channels, neighbour, probe};
use crate::policy::text::CText;
use crate::problem::Problem;
use crate::request::job::JobRequest;
use crate::supervise::container::Refusal;
use crate::supervise::job;

#[derive(Debug, Args)]
pub struct Isolation {
    #[command(flatten)]
    options: Options,
    /// Nothing of the caller's variables but those of an MPI launcher
    #[arg(long)]
    clean_env: bool,
    /// Look from where a command of another runtime's leads, which has to run
    /// `denovo probe` there
    #[arg(long, requires = "command")]
    with: bool,
    /// With `--with`: where the root of its inside is on this node
    #[arg(long, value_name = "DIR", requires = "with")]
    rootfs: Option<PathBuf>,
    /// `node`: the neighbour runs bare on the node; `other-cpus`: the same, but not on the CPUs
    /// of the environment; `job`: in an environment of its own
    #[arg(long, value_name = "WHERE", default_value = "node", value_parser = ["node", "other-cpus", "job"])]
    neighbour: String,
    /// How often the neighbour comes and goes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Channels that may be open beside those that always are
    #[arg(long, value_name = "CHANNEL", value_delimiter = ',')]
    allow: Vec<String>,
    /// Exit code 1 for more open channels than this, whichever they are
    #[arg(long, value_name = "N")]
    at_most_open: Option<usize>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The command of `--with`
    #[arg(last = true, value_name = "COMMAND", requires = "with")]
    command: Vec<OsString>,
}

/// What runs inside, beside and outside.
#[derive(Debug, Args)]
pub struct Probe {
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Be there, to be noticed
    Neighbour,
    /// Run one of them in an environment of its own
    Job {
        /// What is asked of the environment, as JSON
        request: String,
        #[arg(long)]
        clean_env: bool,
        #[arg(long)]
        neighbour: bool,
    },
}

pub fn probe(context: &Context, args: Probe) -> Result<i32, Refusal> {
    let (input, output) = (stdin().lock(), stdout().lock());
    match args.role {
        None => Ok(probe::serve(input, output)),
        Some(Role::Neighbour) => Ok(neighbour::serve(input, output)),
        Some(Role::Job { request, clean_env, neighbour }) => {
            drop((input, output));
            let words: &[&str] = if neighbour { &["probe", "neighbour"] } else { &["probe"] };
            inside(context, &request, words, clean_env)
        }
    }
}

/// The environment is made as by `job run`. The probe goes in as an open
/// descriptor: whatever the root inside is, nothing is mounted for it.
fn inside(
    context: &Context,
    request: &str,
    words: &[&str],
    clean_env: bool,
) -> Result<i32, Refusal> {
    let request: JobRequest =
        serde_json::from_str(request).map_err(|e| Problem::ours(format!("the request: {e}")))?;
    let program = std::fs::File::open("/proc/self/exe")
        .map_err(|e| Problem::kernel(format!("/proc/self/exe: {e}")))?;
    let kept =
        nix::unistd::dup(&program).map_err(|e| Problem::kernel(format!("dup: {}", e.desc())))?;
    let path = format!("/proc/self/fd/{}", kept.as_raw_fd());
    let args =
        std::iter::once(path.as_str()).chain(words.iter().copied()).map(CText::lossy).collect();
    let command = job::Command { args, clean_env, ..job::Command::default() };
    job::run(&context.base(), &request, &command, &|text| context.voice.warn(text))
}

pub fn check(context: &Context, args: &Isolation) -> Result<i32, Refusal> {
    let asked = args.clean_env || args.options.request() != JobRequest::default();
    if args.with && asked && args.neighbour != "job" {
        return Err(Problem::user("--with: the command makes what is looked at, no other option")
            .hint("leave out what describes an environment of denovo's")
            .into());
    }
    for name in &args.allow {
        if !channels().any(|channel| channel.name == name) {
            return Err(Problem::user(format!("--allow {name:?}: is no channel"))
                .hint("docs/isolation.md lists them")
                .into());
        }
    }
    let subject = subject(context, args)?;
    if context.explain {
        let command: Vec<_> = subject.command.iter().map(|w| w.to_string_lossy()).collect();
        context.print_plan(&[
            format!("start the probe inside: {}", command.join(" ")),
            "start it on this node as well, and a neighbour of the same user".to_owned(),
            format!("read every channel in both, {} times with the neighbour busy", args.rounds),
            "remove what the neighbour left".to_owned(),
        ]);
        return Ok(0);
    }
    let report = Report::new(&course(&subject)?, args);
    if args.json {
        let text =
            serde_json::to_string_pretty(&report).map_err(|e| Problem::ours(e.to_string()))?;
        out(format_args!("{text}"));
    } else {
        report.print();
    }
    Ok(i32::from(report.refused(&args.allow, args.at_most_open)))
}

fn subject(context: &Context, args: &Isolation) -> Result<Subject, Refusal> {
    let rounds = usize::from(args.rounds);
    let request = args.options.request();
    let beside = (args.neighbour == "job").then(|| {
        let (network_none, user) = (request.network_none, request.user.clone());
        // Else a scheduler's job would have both in one.
        let id = Some(format!("neighbour-{}", std::process::id()));
        JobRequest { id, network_none, user, no_home: true, ..JobRequest::default() }
    });
    let neighbour =
        beside.map(|request| in_job(context, &request, &["--neighbour"])).transpose()?;
    let apart = args.neighbour == "other-cpus";
    if args.with {
        let files = args.rootfs.clone();
        let command = args.command.clone();
        return Ok(Subject { command, neighbour, apart, who: None, files, rounds });
    }
    let files = match (&request.image, &request.bundle) {
        // Its files are in no directory of the node's.
        (Some(_), _) => None,
        (None, bundle) => match crate::image::resolve(bundle.as_deref())? {
            crate::image::Found::Host => Some(PathBuf::from("/")),
            crate::image::Found::Bundle(bundle) => Some(bundle.root),
        },
    };
    let person = job::person(&request, &Facts::read()?)?;
    let other = person.uid != nix::unistd::geteuid().as_raw();
    let who = other.then(|| Who { uid: person.uid, gid: person.gid, home: person.home.clone() });
    let options: &[&str] = if args.clean_env { &["--clean-env"] } else { &[] };
    let command = in_job(context, &request, options)?;
    Ok(Subject { command, neighbour, apart, who, files, rounds })
}

/// This very program, to run the probe or the neighbour in an environment.
fn in_job(
    context: &Context,
    request: &JobRequest,
    options: &[&str],
) -> Result<Vec<OsString>, Problem> {
    let request = serde_json::to_string(request).map_err(|e| Problem::ours(e.to_string()))?;
    let mut command: Vec<OsString> = vec!["/proc/self/exe".into(), "--root".into()];
    command.push(context.base().into_os_string());
    command.extend(["probe", "job"].iter().chain(options).map(OsString::from));
    command.push(request.into());
    Ok(command)
}

/// One channel's line.
#[derive(Debug, Serialize)]
struct Line {
    channel: &'static str,
    path: &'static str,
    reveals: &'static str,
    #[serde(flatten)]
    verdict: Verdict,
    /// Why it stays open.
    #[serde(skip_serializing_if = "Option::is_none")]
    residual: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Report {
    closed: usize,
    /// Channels that can be read here at all.
    present: usize,
    open: usize,
    /// Of those, how many are not among the documented residuals.
    unexplained: usize,
    channels: Vec<Line>,
}

impl Report {
    fn new(course: &Course, args: &Isolation) -> Self {
        let shared = shared(course, args);
        let line = |channel: &'static Channel| {
            let verdict = judge(channel, course);
            let residual = match &verdict {
                Verdict::Open { why, .. } => residual::reason(channel.name, shared, why),
                _ => None,
            };
            let (path, reveals) = (channel.path, channel.reveals);
            Line { channel: channel.name, path, reveals, verdict, residual }
        };
        let channels: Vec<Line> = channels().map(line).collect();
        let count = |holds: &dyn Fn(&Line) -> bool| channels.iter().filter(|l| holds(l)).count();
        let open = count(&|l| matches!(l.verdict, Verdict::Open { .. }));
        let closed = count(&|l| matches!(l.verdict, Verdict::Closed { .. }));
        let explained = count(&|l| l.residual.is_some());
        Self { closed, present: open + closed, open, unexplained: open - explained, channels }
    }

    /// By the site's wish, else when something is open without a reason.
    fn refused(&self, allow: &[String], at_most_open: Option<usize>) -> bool {
        let counts = |l: &&Line| {
            matches!(l.verdict, Verdict::Open { .. }) && !allow.iter().any(|a| a == l.channel)
        };
        let open = self.channels.iter().filter(counts);
        match at_most_open {
            Some(most) => open.count() > most,
            None => open.filter(|l| l.residual.is_none()).count() > 0,
        }
    }

    fn print(&self) {
        for line in &self.channels {
            let head = format!("{:<17} {:<22}", line.channel, line.reveals);
            match &line.verdict {
                Verdict::Absent => out(format_args!("{:<8} {}", "absent", head.trim_end())),
                Verdict::Closed { evidence } => {
                    out(format_args!("{:<8} {head} {evidence}", "closed"));
                }
                Verdict::Open { why, evidence } => {
                    let why: Vec<&str> = why.iter().map(|w| w.name()).collect();
                    out(format_args!("{:<8} {head} {}: {evidence}", "open", why.join("+")));
                }
            }
            if let Some(reason) = line.residual {
                out(format_args!("{:<49} stays open: {reason}", ""));
            }
        }
        out(format_args!("{} of {} channels present here are closed", self.closed, self.present));
        out(format_args!(
            "{} are open, {} of them for no reason given above",
            self.open, self.unexplained
        ));
    }
}

/// What the inside has in common with the node, by what both say.
fn shared(course: &Course, args: &Isolation) -> Shared {
    let every_cpu = course
        .phases
        .first()
        .is_some_and(|phase| phase.end.inside.get("affinity") == phase.end.before.get("affinity"));
    let request = args.options.request();
    let is_host = |name: &String| name == "host";
    let distribution =
        !args.with && request.image.is_none() && request.bundle.as_ref().is_none_or(is_host);
    Shared {
        network: course.same_network,
        every_cpu,
        all_memory: args.with || request.memory.is_none(),
        distribution,
        directories: distribution
            || (!args.with && (!request.no_home || !request.binds.is_empty())),
        users_own: !args.with && !nix::unistd::geteuid().is_root(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_sites_wish() {
        let line = |channel, residual, open| {
            let evidence = String::new();
            let verdict = match open {
                true => Verdict::Open { why: Vec::new(), evidence },
                false => Verdict::Closed { evidence },
            };
            Line { channel, path: "", reveals: "", verdict, residual }
        };
        let channels = vec![
            line("kernel", Some("one for all"), true),
            line("uptime", None, true),
            line("tmp", None, true),
            line("locks", None, false),
        ];
        let report = Report { closed: 1, present: 4, open: 3, unexplained: 2, channels };
        for (allow, at_most_open, refused) in [
            (&[][..], None, true),
            (&["uptime"][..], None, true),
            (&["uptime", "tmp"][..], None, false),
            (&[][..], Some(2), true),
            (&[][..], Some(3), false),
            (&["tmp"][..], Some(2), false),
            (&["tmp"][..], Some(1), true),
            (&["uptime", "tmp", "kernel"][..], Some(0), false),
        ] {
            let names: Vec<String> = allow.iter().map(|name| (*name).to_owned()).collect();
            let said = report.refused(&names, at_most_open);
            assert_eq!(said, refused, "{allow:?} {at_most_open:?}");
        }
    }
}
