//! The node.

use clap::Subcommand;

use super::Context;
use crate::supervise::container::Refusal;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Remove what crashed or killed denovo processes have left
    Gc,
    /// Print what denovo knows of this node, as JSON
    Facts,
}

pub fn run(context: &Context, verb: Verb) -> Result<i32, Refusal> {
    let _ = (context, verb);
    Ok(0)
}
