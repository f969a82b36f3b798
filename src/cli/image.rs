//! Images: the store, and what goes into it and out of it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Context;
use super::registry;
use crate::image::Store;
use crate::image::site::Site;
use crate::problem::Problem;
use crate::supervise::container::Refusal;

#[derive(Debug, Args)]
pub struct Image {
    /// Another store [default: ~/.local/share/denovo/images, for root /var/lib/denovo/images]
    #[arg(long, value_name = "DIR", global = true)]
    store: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Fetch an image from a registry
    Pull(registry::Pull),
    /// Send an image to a registry
    Push(registry::Push),
    /// Hash images again, and check who signed them
    Verify(registry::Verify),
}

pub fn run(context: &Context, image: Image) -> Result<i32, Refusal> {
    let store = open(image.store)?;
    match image.verb {
        Verb::Pull(args) => registry::pull(context, &store, &args),
        Verb::Push(args) => registry::push(context, &store, &args),
        Verb::Verify(args) => registry::verify(context, &store, &args),
    }
}

fn open(named: Option<PathBuf>) -> Result<Store, Problem> {
    let site = Site::read()?;
    match named {
        Some(dir) => Ok(Store::open(dir)?.over(site.stores())),
        None => Store::of_caller(&site),
    }
}
