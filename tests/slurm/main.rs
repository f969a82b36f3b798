//! A real Slurm of three nodes on this machine, with denovo as its Prolog,
//! its Epilog and its plugin.

#[path = "../common/mod.rs"]
mod common;

mod container;
mod crash;
mod end;
mod freshness;
mod grant;
mod help;
mod mpi;
mod scripts;
mod ssh;
mod steps;
mod unified;
