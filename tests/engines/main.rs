//! Container engines with denovo as their runtime: Podman, containerd,
//! Docker. Each has its directories, sockets and control groups to itself.

#[path = "../common/mod.rs"]
mod common;

mod containerd;
mod docker;
mod place;
mod podman;
