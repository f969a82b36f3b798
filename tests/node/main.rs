//! A node between jobs: what each kind of residue looks like to an audit,
//! whose it is, and that it goes; that a neighbour's job is never taken for
//! residue; receipts that tell.

#[path = "../common/mod.rs"]
mod common;

mod help;
mod job;
mod plant;
mod residue;
