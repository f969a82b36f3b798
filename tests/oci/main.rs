//! The OCI runtime on the real kernel: what a container is like from inside,
//! and how its life goes.

#[path = "../common/mod.rs"]
mod common;

mod capabilities;
mod devices;
mod exec;
mod hooks;
mod life;
mod limits;
mod mounts;
mod namespaces;
mod process;
mod seccomp;
mod signals;
mod systemd;
mod terminal;
