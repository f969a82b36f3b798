//! denovo: one fresh machine per job on a shared compute node.
//!
//! Modules in reading order; each may use only those above it, and the test
//! `tests/direction.rs` holds them to it.

pub mod problem;

pub mod host;
pub mod request;

pub mod policy;

pub mod image;

pub mod plan;

pub mod kernel;

pub mod record;

pub mod supervise;

pub mod isolation;

pub mod cli;
