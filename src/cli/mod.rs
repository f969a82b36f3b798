//! The command line: from argv to an exit code.

mod check;
mod control;
mod image;
mod inspect;
mod isolation;
mod job;
mod node;
mod oci;
mod receipt;
pub mod say;
mod scheduler;
mod usage;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, FromArgMatches, Parser, Subcommand};

use crate::host::Facts;
use crate::kernel::timings;
use crate::problem::Problem;
use crate::record::base;
use crate::record::container::Store;
use crate::supervise::container::Refusal;
use say::{Voice, out};

/// One fresh machine per job on a shared compute node.
#[derive(Debug, Parser)]
#[command(
    name = "denovo",
    version,
    about,
    disable_help_subcommand = true,
    disable_version_flag = true
)]
struct Cli {
    /// Print versions
    #[arg(short = 'V', short_alias = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Options before the verb, as callers of OCI runtimes give them.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where records are kept [default: /run/denovo, for a user $XDG_RUNTIME_DIR/denovo]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Also write messages to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Form of the messages in that file
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// Accepted for callers of runc; denovo has no more to tell
    #[arg(long, hide = true)]
    debug: bool,
    /// Accepted for callers of runc; denovo finds out by itself
    #[arg(long, hide = true, value_name = "BOOL", value_parser = ["true", "false", "auto"])]
    rootless: Option<String>,
    /// Have systemd make a container's control group, as a transient scope
    #[arg(long)]
    systemd_cgroup: bool,
    /// Tell on standard error where the time of a start went
    #[arg(long)]
    timings: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a container; its process waits for start
    Create(oci::Create),
    /// Let a created container's process go
    Start(oci::Id),
    /// Print a container's state as JSON
    State(oci::Id),
    /// Send a signal to a container
    Kill(oci::Kill),
    /// Remove a container that has ended
    Delete(oci::Delete),
    /// Create and start a container
    Run(oci::Run),
    /// Execute a process in a running container
    Exec(oci::Exec),
    /// Stop every process of a container where it is
    Pause(oci::Id),
    /// Let a paused container go on
    Resume(oci::Id),
    /// Change the limits of a container that runs
    Update(Box<control::Update>),
    /// List the processes of a container
    Ps(inspect::Ps),
    /// Print statistics of a container at intervals, and when memory runs out
    Events(inspect::Events),
    /// Print what a config.json may ask for, as JSON
    Features,
    #[command(hide = true)]
    Checkpoint(inspect::Foreign),
    #[command(hide = true)]
    Restore(inspect::Foreign),
    /// List containers
    #[command(visible_alias = "ls")]
    List(oci::List),
    /// Write a default config.json
    Spec(oci::SpecVerb),
    /// Environments of jobs: one per job and node, joined by every rank
    #[command(subcommand)]
    Job(job::Verb),
    /// Images: a store of them, in from files and out to other tools
    #[command(subcommand)]
    Image(image::Verb),
    /// The node: facts, whether it is fresh, and cleaning up after crashes
    #[command(subcommand)]
    Node(node::Verb),
    /// Make a scheduler's job its environment on this node: Slurm's Prolog
    Prolog,
    /// End it: Slurm's Epilog
    Epilog,
    /// Receipts of ended jobs: whether they are as they were written
    #[command(subcommand)]
    Receipt(receipt::Verb),
    /// What will work on this node, and what mends what will not
    #[command(subcommand)]
    Check(check::Verb),
    /// For a scheduler's administrator
    #[command(subcommand)]
    Scheduler(scheduler::Verb),
    #[command(hide = true)]
    Probe(isolation::Probe),
    /// Print what a command would do, step by step, without doing it
    Explain(Explain),
}

#[derive(Debug, Args)]
pub struct Explain {
    /// Explain for the node that this file describes, as `denovo node facts` prints it
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// The command, without `denovo`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

/// What every verb gets beside its own arguments.
pub struct Context {
    pub global: Global,
    pub voice: Voice,
    /// Print the plan, do nothing.
    pub explain: bool,
    /// Where another node's facts are, to explain what would be done there.
    facts: Option<PathBuf>,
}

impl Context {
    /// The containers of `--root` or of the caller.
    pub fn containers(&self) -> Store {
        let own = || base::base(nix::unistd::geteuid().as_raw()).join("containers");
        Store::new(self.root().unwrap_or_else(own))
    }

    /// `--root`, for processes in other directories as well.
    fn root(&self) -> Option<PathBuf> {
        let given = self.global.root.as_ref()?;
        Some(std::path::absolute(given).unwrap_or_else(|_| given.clone()))
    }

    /// The base directory for everything else.
    pub fn base(&self) -> PathBuf {
        self.root().unwrap_or_else(|| base::base(nix::unistd::geteuid().as_raw()))
    }

    /// This node's facts, or those of `explain --facts`.
    ///
    /// # Errors
    /// They cannot be read, or are none.
    pub fn facts(&self) -> Result<Facts, Problem> {
        let Some(file) = &self.facts else { return Facts::read() };
        let refused = |why: String| {
            Problem::user(format!("--facts {}: {why}", file.display()))
                .hint("the file is what `denovo node facts` prints on that node")
        };
        let text = std::fs::read(file).map_err(|e| refused(e.to_string()))?;
        serde_json::from_slice(&text).map_err(|e| refused(e.to_string()))
    }

    pub fn print_plan(&self, lines: &[String]) {
        for (number, line) in lines.iter().enumerate() {
            out(format_args!("{:3}  {line}", number + 1));
        }
    }
}

/// Runs the command line; gives the exit code.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> i32 {
    // A hook or a log reader that is gone is an error to handle, not our end.
    crate::kernel::sys::prefault();
    crate::kernel::sys::ignore_signal(libc::SIGPIPE);
    let argv: Vec<OsString> = argv.into_iter().collect();
    let begun = argv.iter().any(|word| word == "--timings").then(SystemTime::now);
    match parse(&argv) {
        Ok(cli) => {
            if let (true, Some(begun)) = (cli.global.timings, begun) {
                // Nothing depends on it.
                let _ = timings::ask(begun, say::timings);
            }
            dispatch(cli, None)
        }
        Err(error) => usage::answer(&error, &argv),
    }
}

/// Parses with only the verb that is called; with all of them where it is
/// not plain which that is, or where help or an error speaks of all.
///
/// Describing every verb to clap costs 0.2 ms, a tenth of a start.
fn parse(argv: &[OsString]) -> Result<Cli, clap::Error> {
    if let Some((name, verb)) = called(argv) {
        let all = Global::augment_args(clap::Command::new("denovo"));
        let one = (verb.describe)(clap::Command::new(name));
        if let Ok(matches) = all.subcommand(one).try_get_matches_from(argv)
            && let Some((_, inner)) = matches.subcommand()
        {
            let global = Global::from_arg_matches(&matches)?;
            return Ok(Cli { version: None, global, verb: (verb.read)(inner)? });
        }
    }
    Cli::try_parse_from(argv)
}

/// A verb on the path of somebody who waits for it: a container engine, a
/// launcher that starts ranks.
struct Quick {
    name: &'static str,
    describe: fn(clap::Command) -> clap::Command,
    read: fn(&clap::ArgMatches) -> Result<Verb, clap::Error>,
}

const QUICK: [Quick; 7] = [
    Quick {
        name: "create",
        describe: oci::Create::augment_args,
        read: |m| oci::Create::from_arg_matches(m).map(Verb::Create),
    },
    Quick {
        name: "start",
        describe: oci::Id::augment_args,
        read: |m| oci::Id::from_arg_matches(m).map(Verb::Start),
    },
    Quick {
        name: "state",
        describe: oci::Id::augment_args,
        read: |m| oci::Id::from_arg_matches(m).map(Verb::State),
    },
    Quick {
        name: "kill",
        describe: oci::Kill::augment_args,
        read: |m| oci::Kill::from_arg_matches(m).map(Verb::Kill),
    },
    Quick {
        name: "delete",
        describe: oci::Delete::augment_args,
        read: |m| oci::Delete::from_arg_matches(m).map(Verb::Delete),
    },
    Quick {
        name: "run",
        describe: oci::Run::augment_args,
        read: |m| oci::Run::from_arg_matches(m).map(Verb::Run),
    },
    Quick {
        name: "exec",
        describe: oci::Exec::augment_args,
        read: |m| oci::Exec::from_arg_matches(m).map(Verb::Exec),
    },
];

/// The same for the verbs of `job`.
const QUICK_JOB: [Quick; 2] = [
    Quick {
        name: "run",
        describe: |job| job.subcommand(job::Run::augment_args(clap::Command::new("run"))),
        read: |m| inner(m, |m| job::Run::from_arg_matches(m).map(job::Verb::Run)),
    },
    Quick {
        name: "exec",
        describe: |job| job.subcommand(job::Exec::augment_args(clap::Command::new("exec"))),
        read: |m| inner(m, |m| job::Exec::from_arg_matches(m).map(job::Verb::Exec)),
    },
];

fn inner(
    matches: &clap::ArgMatches,
    read: fn(&clap::ArgMatches) -> Result<job::Verb, clap::Error>,
) -> Result<Verb, clap::Error> {
    let (_, inner) = matches
        .subcommand()
        .ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingSubcommand))?;
    read(inner).map(Verb::Job)
}

/// Options before the verb whose value may be the next word.
const TAKES_VALUE: [&str; 4] = ["--root", "--log", "--log-format", "--rootless"];

/// The verb of a command line, past the options before it, with the first
/// word that names it.
fn called(argv: &[OsString]) -> Option<(&'static str, &'static Quick)> {
    let mut words = argv.iter().skip(1);
    while let Some(word) = words.next() {
        let word = word.to_str()?;
        match word {
            _ if TAKES_VALUE.contains(&word) => drop(words.next()?),
            _ if word.starts_with('-') => {}
            "job" => {
                let word = words.next()?.to_str()?;
                return QUICK_JOB.iter().find(|verb| verb.name == word).map(|verb| ("job", verb));
            }
            _ => return QUICK.iter().find(|verb| verb.name == word).map(|verb| (verb.name, verb)),
        }
    }
    None
}

/// What `explain` asks for beside the command.
#[derive(Default)]
struct Explaining {
    facts: Option<PathBuf>,
}

fn dispatch(cli: Cli, explaining: Option<Explaining>) -> i32 {
    let voice = Voice { file: cli.global.log.clone(), json: cli.global.log_format == "json" };
    let explain = explaining.is_some();
    let facts = explaining.unwrap_or_default().facts;
    let context = Context { global: cli.global, voice, explain, facts };
    if context.global.systemd_cgroup && matches!(cli.verb, Verb::Job(_)) {
        let problem = Problem::user("--systemd-cgroup: is for containers, not jobs")
            .hint("leave it out: a job's control group is below the caller's, or root's own");
        context.voice.problems(&[problem]);
        return 125;
    }
    let result = match cli.verb {
        Verb::Create(args) => oci::create(&context, &args),
        Verb::Start(args) => oci::start(&context, &args),
        Verb::State(args) => oci::state(&context, &args),
        Verb::Kill(args) => oci::kill(&context, &args),
        Verb::Delete(args) => oci::delete(&context, &args),
        Verb::Run(args) => oci::run(&context, &args),
        Verb::Exec(args) => oci::exec(&context, &args),
        Verb::Pause(args) => control::pause(&context, &args),
        Verb::Resume(args) => control::resume(&context, &args),
        Verb::Update(args) => control::update(&context, &args),
        Verb::Ps(args) => inspect::ps(&context, &args),
        Verb::Events(args) => inspect::events(&context, &args),
        Verb::Features => inspect::features(),
        Verb::Checkpoint(_) => inspect::not_supported("checkpoint"),
        Verb::Restore(_) => inspect::not_supported("restore"),
        Verb::List(args) => oci::list(&context, &args),
        Verb::Spec(args) => oci::spec(&context, &args),
        Verb::Job(job::Verb::Explain(mut args)) => {
            args.command.insert(0, OsString::from("job"));
            return explained(&context, args);
        }
        Verb::Job(verb) => job::run(&context, verb),
        Verb::Image(verb) => image::run(&context, verb),
        Verb::Node(verb) => node::run(&context, verb),
        Verb::Prolog => scheduler::prolog(&context),
        Verb::Epilog => scheduler::epilog(&context),
        Verb::Receipt(verb) => receipt::run(&context, verb),
        Verb::Check(verb) => check::run(&context, verb),
        Verb::Probe(args) => isolation::probe(&context, args),
        Verb::Scheduler(verb) => scheduler::run(&context, verb),
        Verb::Explain(args) => return explained(&context, args),
    };
    match result {
        Ok(code) => code,
        Err(Refusal { problems, code }) => {
            context.voice.problems(&problems);
            code
        }
    }
}

/// Parses the rest as a command line of its own, to be explained.
fn explained(context: &Context, args: Explain) -> i32 {
    let argv = std::iter::once(OsString::from("denovo")).chain(args.command);
    let argv: Vec<OsString> = argv.collect();
    match parse(&argv) {
        Ok(mut cli) => {
            cli.global.root = cli.global.root.or_else(|| context.global.root.clone());
            cli.global.systemd_cgroup |= context.global.systemd_cgroup;
            dispatch(cli, Some(Explaining { facts: args.facts }))
        }
        Err(error) => usage::answer(&error, &argv),
    }
}
