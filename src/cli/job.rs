use super::Context;
use crate::supervise::container::Refusal;
use clap::Subcommand;
#[derive(Debug, Subcommand)]
pub enum Verb {
    Run,
}
pub fn run(context: &Context, verb: Verb) -> Result<i32, Refusal> {
    let _ = (context, verb);
    Ok(0)
}
