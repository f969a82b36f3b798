//! Registries: Debian's docker-registry with images that other tools put
//! there, a server that misbehaves, and what a site demands.

#[path = "../common/mod.rs"]
mod common;

mod distribution;
mod faults;
mod login;
mod mirrors;
mod server;
mod site;
mod trust;
