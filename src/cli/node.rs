//! The node.

use clap::Subcommand;

use super::Context;
use super::say::out;
use crate::host::Facts;
use crate::problem::Problem;
use crate::supervise::container::Refusal;
use crate::supervise::{scheduler, stage};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Remove what crashed or killed denovo processes have left
    Gc,
    /// Print what denovo knows of this node and its caller, as JSON
    Facts,
}

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
                "remove every environment and container whose keeper is gone".to_owned()
            ]);
            Ok(0)
        }
        Verb::Gc => collect(context),
    }
}

fn collect(context: &Context) -> Result<i32, Refusal> {
    let mut found = stage::collect(&context.base(), &context.containers());
    let jobs = scheduler::collect(&context.base());
    found.removed.extend(jobs.removed);
    found.left.extend(jobs.left);
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
