//! Decides: what was asked (a request) and what the node is (facts) become a
//! checked [`spec::Spec`], or every reason why not, at once.

pub mod container;
pub mod cpus;
pub mod filter;
pub mod freshness;
pub mod job;
pub mod limits;
pub mod mpi;
pub mod rank;
pub mod spec;
pub mod text;

pub use text::CText;
