//! denovo: one fresh machine per job on a shared compute node.
//!
//! Modules in reading order; each may use only those above it in the table of
//! docs/architecture.md.

pub mod problem;

pub mod host;
pub mod policy;
pub mod request;
