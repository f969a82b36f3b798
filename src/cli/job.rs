//! Environments of jobs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Context;
use super::say::{out, rfc3339};
use crate::policy::text::CText;
use crate::problem::{Problem, Problems};
use crate::record::receipt::Receipts;
use crate::request::bind::{self, Bind};
use crate::request::job::JobRequest;
use crate::request::{env, id, size};
use crate::supervise::container::Refusal;
use crate::supervise::job::{self, Command, Seen};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a command in the job's environment, which the first one makes
    Run(Run),
    /// Make an environment that stays until `job end`
    Start(Start),
    /// Run a command in an environment that is there
    Exec(Exec),
    /// End an environment with everything in it
    End(End),
    /// List environments
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one environment
    Show(Show),
    /// Print what a job command would do, without doing it
    Explain(super::Explain),
}

/// What the environment is to be.
#[derive(Debug, Args)]
pub struct Options {
    /// Name of the job; processes with the same one share one environment
    /// [default: the scheduler's job id, else one for each launcher]
    #[arg(long, value_name = "ID", value_parser = id::container_id)]
    id: Option<String>,
    /// `host` (this node's own distribution, fresh), a directory, or a name
    #[arg(long, value_name = "DIR|NAME")]
    bundle: Option<String>,
    /// An image of the stores, by name or digest
    #[arg(long, value_name = "IMAGE", conflicts_with = "bundle")]
    image: Option<String>,
    /// CPUs, for this job alone
    #[arg(long, value_name = "N")]
    cpus: Option<usize>,
    /// Other environments may use these CPUs as well
    #[arg(long)]
    share_cpus: bool,
    /// Memory, such as 4G
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    /// Most processes and threads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pids: Option<u64>,
    /// Bring a directory or file of the node in
    #[arg(long, value_name = "SRC[:DST[:ro]]", value_parser = bind::parse)]
    bind: Vec<Bind>,
    /// `none`: no network but loopback; `node`: the node's, as MPI needs it
    #[arg(long, value_name = "WHICH", default_value = "node", value_parser = ["node", "none"])]
    network: String,
    /// Keep what the job writes on this disk instead of in memory
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Most that the job may write into its root [default: half the memory]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    root_size: Option<u64>,
    /// Size of /dev/shm [default: all the memory]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    shm_size: Option<u64>,
    /// Leave the home directory out
    #[arg(long)]
    no_home: bool,
    /// Name of the machine inside [default: made from the id]
    #[arg(long, value_name = "NAME", value_parser = crate::policy::job::check_hostname)]
    hostname: Option<String>,
    /// For whom; root only
    #[arg(long, value_name = "USER|UID[:GID]")]
    user: Option<String>,
}

/// What a process in it is to be.
#[derive(Debug, Args)]
pub struct Running {
    /// Set a variable, or hand one of the caller's over
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Nothing of the caller's variables but those of an MPI launcher
    #[arg(long)]
    clean_env: bool,
    /// Working directory inside
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Write what the job used to this file, as JSON
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    running: Running,
    /// The command and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "COMMAND"
    )]
    command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub struct Start {
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// The job
    #[arg(value_name = "ID", value_parser = id::container_id)]
    id: String,
    #[command(flatten)]
    running: Running,
    /// The command and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "COMMAND"
    )]
    command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub struct End {
    /// The job
    #[arg(value_name = "ID", value_parser = id::container_id)]
    id: String,
    /// Write what the job used to this file, as JSON
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct List {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The job
    #[arg(value_name = "ID", value_parser = id::container_id)]
    id: String,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The receipt of one that a scheduler's job had here and that has ended
    #[arg(long)]
    receipt: bool,
}

impl Options {
    pub fn request(&self) -> JobRequest {
        JobRequest {
            no_fetch: false,
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            image: self.image.clone(),
            cpus: self.cpus,
            share_cpus: self.share_cpus,
            memory: self.memory,
            pids: self.pids,
            binds: self.bind.clone(),
            network_none: self.network == "none",
            scratch: self.scratch.clone(),
            root_size: self.root_size,
            shm_size: self.shm_size,
            no_home: self.no_home,
            hostname: self.hostname.clone(),
            user: self.user.clone(),
            granted: None,
        }
    }
}

fn command(running: &Running, argv: &[std::ffi::OsString]) -> Result<Command, Problems> {
    let mut problems = Problems::new();
    let mut variables = Vec::new();
    for text in &running.env {
        match env::parse(text, |name| std::env::var(name).ok()) {
            Ok(entry) => variables.extend(entry),
            Err(problem) => problems.push(problem),
        }
    }
    if let Some(cwd) = running.cwd.as_ref().filter(|cwd| !cwd.starts_with('/')) {
        problems
            .push(Problem::user(format!("--cwd {cwd:?}: is not absolute")).hint("begin it with /"));
    }
    // Else a slip in an option would be looked for in PATH.
    if let Some(word) = argv.first().filter(|word| word.as_encoded_bytes().starts_with(b"-")) {
        problems.push(
            Problem::user(format!("{}: is no option here", word.display()))
                .hint("denovo job run --help lists them; the command comes after --"),
        );
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Command {
        args: argv.iter().map(|a| CText::lossy(a.as_encoded_bytes())).collect(),
        cwd: running.cwd.clone(),
        env: variables,
        clean_env: running.clean_env,
        receipt: running.receipt.clone(),
    })
}

pub fn run(context: &Context, verb: Verb) -> Result<i32, Refusal> {
    let base = context.base();
    let warn = |text: &str| context.voice.warn(text);
    match verb {
        Verb::Explain(_) => unreachable!("dispatch takes it for `explain job`"),
        Verb::Run(args) => {
            let (request, command) =
                (args.options.request(), command(&args.running, &args.command)?);
            if context.explain {
                return explain(context, &request);
            }
            job::run(&base, &request, &command, &warn)
        }
        Verb::Start(args) => {
            let request = args.options.request();
            if context.explain {
                return explain(context, &request);
            }
            out(format_args!("{}", job::start(&base, &request, &warn)?));
            Ok(0)
        }
        Verb::Exec(args) => {
            let command = command(&args.running, &args.command)?;
            if context.explain {
                job::show(&base, &args.id)?;
                context.print_plan(&[format!(
                    "join the environment of job {}, run the command in it",
                    args.id
                )]);
                return Ok(0);
            }
            job::exec(&base, &args.id, &command, &warn)
        }
        Verb::End(args) => {
            if context.explain {
                return explain_end(context, &args.id);
            }
            job::end(&base, &args.id, args.receipt.as_deref(), &warn)?;
            Ok(0)
        }
        Verb::List(args) => list(&job::list(&base), args.json),
        Verb::Show(args) if args.receipt => receipt(&args.id, args.json),
        Verb::Show(args) => show(&job::show(&base, &args.id)?, args.json),
    }
}

fn explain(context: &Context, request: &JobRequest) -> Result<i32, Refusal> {
    context.print_plan(&job::explain(&context.base(), request, &context.facts()?)?);
    Ok(0)
}

fn explain_end(context: &Context, id: &str) -> Result<i32, Refusal> {
    let seen = job::show(&context.base(), id)?;
    let mut lines = vec![format!("kill the init of job {id}, and with it every process inside")];
    let undo = seen.record.cgroup.steps.iter().rev().filter_map(|step| step.undo());
    lines.extend(undo.map(|step| step.to_string()));
    lines.extend(seen.record.scratch.iter().map(|dir| format!("remove {}", dir.display())));
    lines.push("remove its record".to_owned());
    context.print_plan(&lines);
    Ok(0)
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, Problem> {
    serde_json::to_string_pretty(value).map_err(|e| Problem::ours(e.to_string()))
}

fn list(all: &[Seen], as_json: bool) -> Result<i32, Refusal> {
    if as_json {
        out(format_args!("{}", json(all)?));
        return Ok(0);
    }
    out(format_args!(
        "{:<28} {:>6} {:>5}  {:<21} {:<9} BUNDLE",
        "JOB", "UID", "PROCS", "SINCE", "KEPT"
    ));
    for seen in all {
        let r = &seen.record;
        let kept = if r.persistent { "until end" } else { "while used" };
        out(format_args!(
            "{:<28} {:>6} {:>5}  {:<21} {kept:<9} {}",
            r.id,
            r.uid,
            seen.processes,
            rfc3339(r.created),
            printable(&r.bundle)
        ));
    }
    Ok(0)
}

/// A user's words must not give orders to root's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn receipt(id: &str, as_json: bool) -> Result<i32, Refusal> {
    let site = crate::request::site::load()?.scheduler;
    let place = &site.receipts;
    let found = Receipts::new(place).load(id).ok_or_else(|| {
        Problem::user(format!("job {id:?}: no receipt of it in {} is yours", place.display()))
            .hint("a site keeps them for some time, each for its job's user")
    })?;
    if as_json {
        out(format_args!("{}", json(&found)?));
        return Ok(0);
    }
    let mib = |bytes: Option<u64>| bytes.map_or("-".into(), |b| format!("{} MiB", b >> 20));
    let seconds = |ns: Option<u64>| ns.map_or("-".into(), |n| format!("{:.3} s", n as f64 / 1e9));
    let count = |n: Option<u64>| n.map_or("-".into(), |n| n.to_string());
    let micros = |us: Option<u64>| us.map_or("-".into(), |n| format!("{:.1} ms", n as f64 / 1e3));
    let (given, used, time) = (&found.given, &found.used, &found.time);
    let cpus = match &given.cpus[..] {
        [] => "shared".into(),
        all => crate::policy::cpus::format_list(all),
    };
    let rows = [
        ("job", found.id.clone()),
        ("node", found.node.clone()),
        ("user", found.uid.to_string()),
        ("bundle", found.bundle.clone()),
        ("image", found.image.clone().unwrap_or_else(|| "-".into())),
        ("from, to", format!("{}, {}", rfc3339(time.started), rfc3339(time.ended))),
        ("to start, to end", format!("{}, {}", micros(time.to_start), micros(Some(time.to_end)))),
        ("CPUs of its own", cpus),
        ("CPU time", seconds(used.cpu_ns)),
        ("memory limit, peak", format!("{}, {}", mib(given.memory), mib(used.memory_peak))),
        ("processes at most", count(given.pids)),
        ("namespaces", given.namespaces.join(" ")),
        ("read, written", format!("{}, {}", mib(used.io_read), mib(used.io_written))),
        ("held back by quota", seconds(used.cpu_throttled_ns)),
        ("stalled: CPU, memory, I/O", {
            let all = [used.stalled_cpu_ns, used.stalled_memory_ns, used.stalled_io_ns];
            all.map(seconds).join(", ")
        }),
        ("killed for memory", count(used.oom_kills)),
        ("killed at the end", found.cleaned.processes.to_string()),
        ("left in /dev/shm, root", {
            format!("{}, {}", mib(found.cleaned.shm), mib(found.cleaned.tmp))
        }),
        ("left IPC objects", {
            let of = (found.cleaned.system_v, found.cleaned.message_queues);
            format!("{}, {}", count(of.0), count(of.1))
        }),
        ("exit code, signal", {
            let text = |n: Option<i32>| n.map_or("-".into(), |n| n.to_string());
            format!("{}, {}", text(found.exit_code), text(found.signal))
        }),
    ];
    for (name, value) in rows {
        out(format_args!("{name:<26} {value}"));
    }
    found.problems.iter().for_each(|p| out(format_args!("{:<26} {p}", "not as asked")));
    Ok(0)
}

fn show(seen: &Seen, as_json: bool) -> Result<i32, Refusal> {
    if as_json {
        out(format_args!("{}", json(seen)?));
        return Ok(0);
    }
    let r = &seen.record;
    let mib =
        |bytes: Option<u64>| bytes.map_or("not counted".into(), |b| format!("{} MiB", b >> 20));
    let network = if r.node_network { "the node's" } else { "none" };
    let cpus = if r.reserved_cpus.is_empty() {
        "shared".into()
    } else {
        crate::policy::cpus::format_list(&r.reserved_cpus)
    };
    let rows = [
        ("job", r.id.clone()),
        ("user", r.uid.to_string()),
        ("bundle", printable(&r.bundle)),
        ("since", rfc3339(r.created)),
        ("processes that joined", seen.processes.to_string()),
        ("network", network.into()),
        ("CPUs of its own", cpus),
        ("memory limit", r.memory.map_or("none".into(), |b| format!("{} MiB", b >> 20))),
        (
            "memory now, at most",
            format!("{}, {}", mib(seen.usage.memory), mib(seen.usage.memory_peak)),
        ),
        (
            "CPU time",
            seen.usage
                .cpu_ns
                .map_or("not counted".into(), |ns| format!("{:.1} s", ns as f64 / 1e9)),
        ),
    ];
    for (name, value) in rows {
        out(format_args!("{name:<22} {value}"));
    }
    Ok(0)
}
