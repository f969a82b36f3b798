//! What was asked: config.json, process documents and the words of a command
//! line, parsed strictly but not yet held against the node.
//!
//! The types of oci-spec stay in here and in `policy::container`.

pub mod bind;
pub mod cpu_list;
pub mod default_config;
pub mod env;
pub mod freshness;
pub mod id;
pub mod job;
pub mod oci;
pub mod recipe;
pub mod resources;
pub mod root;
pub mod scheduler;
pub mod site;
pub mod size;
pub mod user;
