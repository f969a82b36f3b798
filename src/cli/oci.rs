//! The verbs of an OCI runtime, with runc's options.

use std::path::PathBuf;

use clap::Args;

use super::Context;
use super::say::{out, rfc3339};
use crate::policy::container::further::{self, Further};
use crate::problem::Problem;
use crate::record::container::{Record, State, Status, Store};
use crate::request::default_config::{For, default_config};
use crate::request::user::UserIds;
use crate::supervise::container::{self, Refusal, StartOptions};
use crate::supervise::control;
use crate::supervise::exec::{self, ExecOptions};

/// A verb that takes a container's id only.
#[derive(Debug, Args)]
pub struct Id {
    /// The container's id
    #[arg(value_name = "ID", value_parser = crate::request::id::container_id)]
    pub id: String,
}

/// What create and run have in common.
#[derive(Debug, Args)]
pub struct Making {
    #[command(flatten)]
    id: Id,
    /// The bundle's directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Socket that takes the terminal
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// File to write the process's pid to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that takes a pidfd of the process
    #[arg(long, value_name = "PATH")]
    pidfd_socket: Option<PathBuf>,
    /// Number of descriptors from 3 on that the process inherits
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Use chroot(2) where pivot_root(2) cannot work (root on a ramdisk)
    #[arg(long)]
    no_pivot: bool,
    /// Leave the process in the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
}

impl Making {
    fn options(&self, context: &Context, detach: bool, keep: bool) -> StartOptions {
        StartOptions {
            bundle: self.bundle.clone(),
            console_socket: self.console_socket.clone(),
            pid_file: self.pid_file.clone(),
            pidfd_socket: self.pidfd_socket.clone(),
            preserve_fds: self.preserve_fds,
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            systemd_cgroup: context.global.systemd_cgroup,
            detach,
            keep,
        }
    }
}

#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    making: Making,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    making: Making,
    /// Come back once the process runs
    #[arg(short, long)]
    detach: bool,
    /// Keep the record when the container ends
    #[arg(long)]
    keep: bool,
    /// Accepted for callers of runc; denovo never becomes a subreaper
    #[arg(long, hide = true)]
    no_subreaper: bool,
}

pub fn create(context: &Context, args: &Create) -> Result<i32, Refusal> {
    let options = args.making.options(context, true, false);
    let warn = |text: &str| context.voice.warn(text);
    if context.explain {
        context.print_plan(&container::explain(
            &args.making.id.id,
            &options,
            &context.facts()?,
            true,
            &warn,
        )?);
        return Ok(0);
    }
    container::create(&context.containers(), &args.making.id.id, &options, &warn)?;
    Ok(0)
}

pub fn run(context: &Context, args: &Run) -> Result<i32, Refusal> {
    let options = args.making.options(context, args.detach, args.keep);
    let warn = |text: &str| context.voice.warn(text);
    if context.explain {
        context.print_plan(&container::explain(
            &args.making.id.id,
            &options,
            &context.facts()?,
            false,
            &warn,
        )?);
        return Ok(0);
    }
    container::run(&context.containers(), &args.making.id.id, &options, &warn)
}

pub fn start(context: &Context, args: &Id) -> Result<i32, Refusal> {
    if context.explain {
        context.print_plan(&[format!("let the waiting process of container {} go", args.id)]);
        return Ok(0);
    }
    container::start(&context.containers(), &args.id)?;
    Ok(0)
}

/// The state of the specification, and what runc adds to it.
#[derive(serde::Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    state: State<'a>,
    rootfs: &'a std::path::Path,
    created: String,
    /// The name of who made it, or the number where there is no name.
    owner: String,
}

impl<'a> Told<'a> {
    fn of(store: &Store, record: &'a Record) -> Self {
        let name = crate::host::accounts::user_by_uid(record.uid).map(|user| user.name);
        Self {
            state: record.state(store.status(record)),
            rootfs: &record.rootfs,
            created: rfc3339(record.created),
            owner: name.unwrap_or_else(|| record.uid.to_string()),
        }
    }
}

pub fn state(context: &Context, args: &Id) -> Result<i32, Refusal> {
    let store = context.containers();
    let record = store.load(&args.id)?;
    let text = serde_json::to_string_pretty(&Told::of(&store, &record))
        .map_err(|e| Problem::ours(e.to_string()))?;
    out(format_args!("{text}"));
    Ok(0)
}

#[derive(Debug, Args)]
pub struct Kill {
    #[command(flatten)]
    id: Id,
    /// Signal by name or number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM", value_parser = signal)]
    signal: i32,
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
}

/// `KILL`, `SIGKILL`, `9` or `SIGRTMIN+2`.
fn signal(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err("signals have the numbers 1 to 64".into())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() {
            Some(0)
        } else {
            offset.strip_prefix('+').and_then(|n| n.parse().ok())
        };
        return match offset {
            Some(n @ 0..=30) => Ok(libc::SIGRTMIN() + n),
            _ => Err("real-time signals are SIGRTMIN to SIGRTMIN+30".into()),
        };
    }
    format!("SIG{name}")
        .parse::<nix::sys::signal::Signal>()
        .map(|s| s as i32)
        .map_err(|_| "no such signal; kill -l lists them".into())
}

pub fn kill(context: &Context, args: &Kill) -> Result<i32, Refusal> {
    if context.explain {
        let whom = if args.all { "every process" } else { "the first process" };
        context.print_plan(&[format!(
            "send signal {} to {whom} of container {}",
            args.signal, args.id.id
        )]);
        return Ok(0);
    }
    control::kill(&context.containers(), &args.id.id, args.signal, args.all)?;
    Ok(0)
}

#[derive(Debug, Args)]
pub struct Delete {
    #[command(flatten)]
    id: Id,
    /// End the container first if it still runs
    #[arg(short, long)]
    force: bool,
}

pub fn delete(context: &Context, args: &Delete) -> Result<i32, Refusal> {
    let store = context.containers();
    if context.explain {
        let record = store.load(&args.id.id)?;
        let undo = record.cgroup.steps.iter().rev().filter_map(|step| step.undo());
        let mut lines: Vec<String> = undo.map(|step| step.to_string()).collect();
        lines.push(format!("remove {}", store.directory(&args.id.id).display()));
        context.print_plan(&lines);
        return Ok(0);
    }
    container::delete(&store, &args.id.id, args.force, &|text| context.voice.warn(text))?;
    Ok(0)
}

#[derive(Debug, Args)]
pub struct Exec {
    /// The process as a document of the runtime-spec's `process`
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Working directory inside
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// uid[:gid]
    #[arg(short, long, value_name = "UID[:GID]", value_parser = crate::request::user::parse_uid_gid)]
    user: Option<UserIds>,
    /// Further groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Allocate a terminal
    #[arg(short, long)]
    tty: bool,
    /// Add a capability
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// No gain of privilege by exec(2)
    #[arg(long)]
    no_new_privs: bool,
    /// Socket that takes the terminal
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// File to write the process's pid to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that takes a pidfd of the process
    #[arg(long, value_name = "PATH")]
    pidfd_socket: Option<PathBuf>,
    /// Number of descriptors from 3 on that the process inherits
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Come back once the process runs
    #[arg(short, long)]
    detach: bool,
    /// Also into a paused container, where it waits for the resume
    #[arg(long)]
    ignore_paused: bool,
    /// Control group below the container's to put it in
    #[arg(long, value_name = "[CONTROLLER,…:]PATH")]
    cgroup: Vec<String>,
    /// AppArmor profile to change to
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Accepted for callers of runc; denovo never becomes a subreaper
    #[arg(long, hide = true)]
    no_subreaper: bool,
    #[command(flatten)]
    id: Id,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn exec(context: &Context, args: &Exec) -> Result<i32, Refusal> {
    let store = context.containers();
    let record = store.load(&args.id.id)?;
    let process = match &args.process {
        Some(file) => {
            let (process, warnings) = further::from_document(file)?;
            warnings.iter().for_each(|text| context.voice.warn(text));
            process
        }
        None => further::from_options(
            record.process.as_ref(),
            &Further {
                args: args.command.clone(),
                cwd: args.cwd.clone(),
                env: args.env.clone(),
                user: args.user,
                additional_gids: args.additional_gids.clone(),
                terminal: args.tty,
                capabilities: args.cap.clone(),
                no_new_privileges: args.no_new_privs,
                apparmor_profile: args.apparmor.clone(),
                selinux_label: args.process_label.clone(),
            },
        )?,
    };
    if context.explain {
        let steps = crate::plan::build::entering(&process, None);
        let lines: Vec<String> =
            steps.iter().map(|s| format!("inside {}: {s}", args.id.id)).collect();
        context.print_plan(&lines);
        return Ok(0);
    }
    let options = ExecOptions {
        process,
        pid_file: args.pid_file.clone(),
        pidfd_socket: args.pidfd_socket.clone(),
        console_socket: args.console_socket.clone(),
        preserve_fds: args.preserve_fds,
        detach: args.detach,
        ignore_paused: args.ignore_paused,
        cgroup: args.cgroup.clone(),
    };
    exec::exec(&store, &args.id.id, &options)
}

#[derive(Debug, Args)]
pub struct List {
    /// table or json
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
}

pub fn list(context: &Context, args: &List) -> Result<i32, Refusal> {
    let store = context.containers();
    let records: Vec<_> = store.ids().iter().filter_map(|id| store.load(id).ok()).collect();
    if args.quiet {
        records.iter().for_each(|r| out(format_args!("{}", r.id)));
        return Ok(0);
    }
    if args.format == "json" {
        let all: Vec<_> = records.iter().map(|record| Told::of(&store, record)).collect();
        let text = serde_json::to_string(&all).map_err(|e| Problem::ours(e.to_string()))?;
        out(format_args!("{text}"));
        return Ok(0);
    }
    out(format_args!("{:<24} {:>8}  {:<9} {:<21} BUNDLE", "ID", "PID", "STATUS", "CREATED"));
    for r in &records {
        let status = store.status(r);
        let (pid, created) = (r.state(status).pid, rfc3339(r.created));
        let name = Status::name(status);
        out(format_args!("{:<24} {pid:>8}  {name:<9} {created:<21} {}", r.id, r.bundle.display()));
    }
    Ok(0)
}

#[derive(Debug, Args)]
pub struct SpecVerb {
    /// Where to write config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// For a caller without privilege
    #[arg(long)]
    rootless: bool,
}

pub fn spec(context: &Context, args: &SpecVerb) -> Result<i32, Refusal> {
    let path = args.bundle.join("config.json");
    if context.explain {
        context.print_plan(&[format!("write {}", path.display())]);
        return Ok(0);
    }
    let facts = context.facts()?;
    let text = default_config(For {
        rootless: args.rootless.then_some((facts.caller.uid, facts.caller.gid)),
        unified_cgroups: facts.cgroups.v1.is_empty(),
    });
    let mut options = std::fs::OpenOptions::new();
    // Never over a file that somebody wrote.
    let file = options.write(true).create_new(true).open(&path);
    let written = file.and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()));
    written.map_err(|e| {
        let problem = Problem::user(format!("{}: {e}", path.display()));
        if e.kind() == std::io::ErrorKind::AlreadyExists {
            problem.hint("remove it first, or name another directory with --bundle DIR")
        } else {
            problem.hint("name a directory that you can write with --bundle DIR")
        }
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(signal("KILL"), Ok(9));
        assert_eq!(signal("sigterm"), Ok(15));
        assert_eq!(signal("10"), Ok(10));
        assert_eq!(signal("SIGRTMIN+1"), Ok(libc::SIGRTMIN() + 1));
        for wrong in ["0", "65", "-9", "NOPE", "", "RTMIN+99"] {
            assert!(signal(wrong).is_err(), "{wrong}");
        }
    }
}
