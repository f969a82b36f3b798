//! The OCI runtime on the real kernel: what a container is like from inside,
//! and how its life goes.

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod capabilities;
mod devices;
mod exec;
mod hooks;
mod id_mapped;
mod life;
mod limits;
mod looking;
mod mounts;
mod mounts_below;
mod namespaces;
mod net_devices;
mod pause;
mod process;
mod resources;
mod seccomp;
mod seccomp_agent;
mod security;
mod signals;
mod systemd;
mod terminal;
mod timings;
mod update;
