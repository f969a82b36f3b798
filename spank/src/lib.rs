//! Slurm plugin (SPANK): puts every task of a job into the environment that
//! denovo's prolog made on the node, before its program runs and without a
//! process in between.

mod abi;
mod enter;
mod monitor;
mod plugin;
