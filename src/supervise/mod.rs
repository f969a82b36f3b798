//! Waits for what was started: the foreground, the terminal, a job's monitor
//! and its init.

mod apart;
pub mod build;
pub mod container;
pub mod control;
pub mod events;
pub mod exec;
pub mod freshness;
pub mod groups;
pub mod image;
pub mod init;
pub mod interrupt;
pub mod job;
pub mod listener;
pub mod making;
pub mod monitor;
pub mod protocol;
mod provisions;
pub mod proxy;
pub mod ps;
mod scheduled;
pub mod scheduler;
pub mod scope;
pub mod sockets;
pub mod stage;
mod steps;
pub mod terminal;
pub mod update;
mod views;
