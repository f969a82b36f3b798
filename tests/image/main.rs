//! Images on the real kernel: what other tools make comes in, what goes out
//! they read, jobs start from it, and nothing is left.

#[path = "../common/mod.rs"]
mod common;

mod help;
mod hostile;
mod inputs;
mod jobs;
mod mpi;
mod store;
