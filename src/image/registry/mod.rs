//! A client of registries (OCI distribution-spec 1.1): blocking, one thread for
//! each blob that is on its way.
//!
//! `http` sends one request; `session` adds who asks, patience and redirects;
//! `fetch` and `push` are the protocol; `pull` and `sources` decide from where.

mod challenge;
mod credentials;
mod error;
mod fetch;
mod http;
mod progress;
mod pull;
mod push;
mod session;
mod sources;
mod token;

pub use progress::{Line, Progress};
pub use pull::{Pull, Pulled, pull};
pub use push::{Pushed, push};
pub use sources::qualify;
