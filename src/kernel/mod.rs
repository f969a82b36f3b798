//! The only code that changes the system.

pub mod acting;
pub mod cgroup;
pub mod channel;
pub mod clocks;
pub mod failure;
pub mod files;
pub mod hook;
pub mod inside;
pub mod launch;
pub mod maps;
pub mod sys;
