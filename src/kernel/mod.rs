//! The only code that changes the system.

pub mod acting;
pub mod cgroup;
pub mod channel;
pub mod clocks;
pub mod failure;
pub mod files;
pub mod hook;
pub mod id_mapped;
pub mod image_mount;
pub mod inside;
pub mod launch;
pub mod maps;
pub mod net_device;
mod netlink;
pub mod procfs;
pub mod residue;
pub mod sys;
pub mod system_v;
pub mod timings;
