//! What denovo keeps on the node about the environments it made.
//!
//! A record is written before the first step that the node can see, and
//! holds what is needed to take that step back, so that cleaning up after a
//! crash is a replay.

pub mod base;
pub mod container;
pub mod filters;
pub mod freshness;
pub mod job;
pub mod process;
pub mod receipt;
pub mod scheduler;
pub mod time;
