//! Environments of jobs on the real kernel: what a job is like from inside,
//! how its processes meet, and that nothing of it is left.

#[path = "../common/mod.rs"]
mod common;

mod bundles;
mod help;
mod limits;
mod mpi;
mod plans;
mod pristine;
mod recovery;
mod refusals;
mod root;
mod run;
mod terminal;
mod together;
mod views;
