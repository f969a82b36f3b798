//! Waits for what was started: the foreground, the terminal, a job's monitor
//! and its init.

pub mod container;
pub mod exec;
pub mod groups;
pub mod init;
pub mod job;
pub mod making;
pub mod monitor;
pub mod protocol;
pub mod proxy;
pub mod scheduler;
pub mod sockets;
pub mod stage;
mod steps;
pub mod terminal;
