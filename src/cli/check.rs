//! What will work on this node, told before a launch.

use std::path::Path;

use clap::{Args, Subcommand};

use super::Context;
use super::say::out;
use crate::host::mpi::{Libraries, Node};
use crate::image;
use crate::policy::mpi::{State, checks};
use crate::problem::Problem;
use crate::request::site;
use crate::supervise::container::Refusal;
use crate::supervise::image::file_names;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Whether MPI jobs will work, and what mends what does not
    Mpi(Mpi),
    /// What a job can notice of its neighbours, its predecessors and the host
    Isolation(Box<super::isolation::Isolation>),
}

#[derive(Debug, Args)]
pub struct Mpi {
    /// An image of the stores, by name or digest [default: the site's for jobs]
    #[arg(long, value_name = "IMAGE", conflicts_with = "bundle")]
    image: Option<String>,
    /// `host` (this node's own distribution), a directory, or a name
    #[arg(long, value_name = "DIR|NAME")]
    bundle: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Exit code 1 says that something is missing without which ranks do not run.
pub fn run(context: &Context, verb: Verb) -> Result<i32, Refusal> {
    let args = match verb {
        Verb::Mpi(args) => args,
        Verb::Isolation(args) => return super::isolation::check(context, &args),
    };
    if context.explain {
        context.print_plan(&["read this node's settings and the names of files".to_owned()]);
        return Ok(0);
    }
    let image = match (&args.image, &args.bundle) {
        (None, None) => site::load()?.scheduler.image.filter(|name| name != "host"),
        (image, _) => image.clone(),
    };
    let (place, libraries) = match &image {
        Some(wanted) => (format!("image {wanted}"), Libraries::of(file_names(wanted)?)),
        None => match image::resolve(args.bundle.as_deref())? {
            image::Found::Host => {
                ("this node's distribution".to_owned(), Libraries::below(Path::new("/")))
            }
            image::Found::Bundle(found) => {
                (format!("bundle {}", found.name), Libraries::below(&found.root))
            }
        },
    };
    let all = checks(&Node::read(), nix::unistd::geteuid().as_raw(), &place, &libraries);
    if args.json {
        let text = serde_json::to_string_pretty(&all).map_err(|e| Problem::ours(e.to_string()))?;
        out(format_args!("{text}"));
    } else {
        for check in &all {
            let state = match check.state {
                State::Ok => "ok",
                State::Note => "note",
                State::Missing => "missing",
            };
            out(format_args!("{state:<8} {:<18} {}", check.name, check.found));
            if let Some(fix) = &check.fix {
                out(format_args!("{:<27} fix: {fix}", ""));
            }
        }
    }
    Ok(i32::from(all.iter().any(|check| check.state == State::Missing)))
}
