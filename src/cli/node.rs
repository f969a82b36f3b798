//! The node.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Context;
use super::say::out;
use crate::host::Facts;
use crate::policy::freshness::{Audit, Difference, Outcome, Verdict};
use crate::problem::Problem;
use crate::request::site;
use crate::supervise::container::Refusal;
use crate::supervise::freshness::{self, Asked, Repair};
use crate::supervise::{scheduler, stage};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Remove what crashed or killed denovo processes have left
    Gc,
    /// Print what denovo knows of this node and its caller, as JSON
    Facts,
    /// Record what this freshly prepared node is
    Baseline(File),
    /// Compare the node with its baseline: what is there that was not, whose it
    /// is, what can be done
    Audit(AuditArgs),
}

#[derive(Debug, Args)]
pub struct File {
    /// Where the baseline is [default: /var/lib/denovo/baseline.json]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    file: File,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Remove what is certain to be an ended job's
    #[arg(long)]
    clean: bool,
    /// Put the kernel's settings back, if no job runs
    #[arg(long)]
    reset_settings: bool,
    /// Forget what of files is in memory, if no job runs
    #[arg(long)]
    drop_page_cache: bool,
    /// Move free memory together, if no job runs
    #[arg(long)]
    compact_memory: bool,
}

/// Lines of users' things when a baseline is taken.
const MOST_TOLD: usize = 20;

pub fn run(context: &Context, verb: Verb) -> Result<i32, Refusal> {
    match verb {
        Verb::Facts => {
            let facts = Facts::read()?;
            let text =
                serde_json::to_string_pretty(&facts).map_err(|e| Problem::ours(e.to_string()))?;
            out(format_args!("{text}"));
            Ok(0)
        }
        Verb::Gc if context.explain => {
            context.print_plan(&[
                "remove every environment and container whose keeper is gone".to_owned(),
                "remove what the neighbours of killed checks have left".to_owned(),
            ]);
            Ok(0)
        }
        Verb::Gc => collect(context),
        Verb::Baseline(args) => baseline(context, &args),
        Verb::Audit(args) => audit(context, &args),
    }
}

fn only_root() -> Result<(), Problem> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Problem::user("node baseline and node audit are for root: others do not see all of a node"))
}

fn baseline(context: &Context, args: &File) -> Result<i32, Refusal> {
    let site = site::load()?.freshness;
    let file = args.file.as_ref().unwrap_or(&site.baseline);
    if context.explain {
        context.print_plan(&[format!("read what this node is; write it to {}", file.display())]);
        return Ok(0);
    }
    only_root()?;
    let (baseline, users) = freshness::baseline(&site, file)?;
    for what in users.iter().take(MOST_TOLD) {
        context.voice.warn(&format!("a user's, so this is no fresh node: {what}"));
    }
    if let Some(more) = users.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        context.voice.warn(&format!("and {more} more of users'"));
    }
    let things: usize = baseline.things.values().map(std::collections::BTreeSet::len).sum();
    let settings = baseline.settings.len();
    out(format_args!("{}: {things} things, {settings} settings", file.display()));
    Ok(0)
}

/// Exit code 1 says that the node is dirty.
fn audit(context: &Context, args: &AuditArgs) -> Result<i32, Refusal> {
    let site = site::load()?;
    let mut table = site.freshness;
    if let Some(file) = &args.file.file {
        table.baseline.clone_from(file);
    }
    if context.explain {
        context.print_plan(&explained(args, &table.baseline));
        return Ok(0);
    }
    only_root()?;
    let never = |_: &Difference| false;
    let repair = Repair {
        clean: if args.clean { &freshness::of_ended_jobs } else { &never },
        reset_settings: args.reset_settings,
        drop_page_cache: args.drop_page_cache,
        compact_memory: args.compact_memory,
    };
    let asked = Asked {
        base: &context.base(),
        site: &table,
        receipts: &site.scheduler.receipts,
        ending: None,
        scheduled: false,
        held: None,
    };
    let seen = freshness::audit(&asked, repair)?;
    if args.json {
        let text = serde_json::to_string_pretty(&seen).map_err(|e| Problem::ours(e.to_string()))?;
        out(format_args!("{text}"));
    } else {
        print(&seen);
    }
    Ok(i32::from(seen.verdict == Verdict::Dirty))
}

fn explained(args: &AuditArgs, baseline: &std::path::Path) -> Vec<String> {
    let steps = [
        (true, format!("compare the node with {}", baseline.display())),
        (args.clean, "remove what is certain to be an ended job's".to_owned()),
        (args.reset_settings, "put settings back, if no job runs".to_owned()),
        (args.drop_page_cache, "forget what of files is in memory, if no job runs".to_owned()),
        (args.compact_memory, "move free memory together, if no job runs".to_owned()),
        (args.clean || args.reset_settings, "compare again".to_owned()),
    ];
    steps.into_iter().filter(|(wanted, _)| *wanted).map(|(_, line)| line).collect()
}

fn print(seen: &Audit) {
    let verdict = match seen.verdict {
        Verdict::Fresh => "fresh",
        Verdict::Cleaned => "cleaned",
        Verdict::Dirty => "dirty",
    };
    let tolerated = seen.differences.iter().filter(|d| d.tolerated).count();
    let found = seen.differences.len();
    let running = match seen.of_running_jobs {
        0 => String::new(),
        n => format!("; {n} things of running jobs are none"),
    };
    out(format_args!("{verdict}: {found} differences, {tolerated} tolerated{running}"));
    for difference in &seen.differences {
        let what = difference.brief();
        match &difference.outcome {
            Outcome::Cleaned => out(format_args!("  cleaned    {what}")),
            Outcome::Failed(why) => out(format_args!("  failed     {what}: {why}")),
            Outcome::Left if difference.tolerated => out(format_args!("  tolerated  {what}")),
            Outcome::Left => {
                out(format_args!("  left       {what}"));
                out(format_args!("             {}", difference.remedy));
            }
        }
    }
}

fn collect(context: &Context) -> Result<i32, Refusal> {
    let mut found = stage::collect(&context.base(), &context.containers());
    let jobs = scheduler::collect(&context.base());
    found.removed.extend(jobs.removed);
    found.left.extend(jobs.left);
    let neighbours = crate::isolation::neighbour::sweep();
    let left_by = |tag| format!("what the neighbour {tag} of a killed check had left");
    found.removed.extend(neighbours.into_iter().map(left_by));
    found.removed.iter().for_each(|what| out(format_args!("removed {what}")));
    if found.left.is_empty() {
        return Ok(0);
    }
    let problems = found.left.iter().map(|what| {
        Problem::kernel(format!("{what}: something of it cannot be removed"))
            .hint("a process that waits in the kernel (state D) holds it; ps -eo pid,stat,wchan,args shows it")
    });
    Err(problems.collect::<Vec<_>>().into())
}
