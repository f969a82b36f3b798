//! What a process inside can notice of its neighbours, of its predecessors and
//! of the host, read channel by channel: `denovo check isolation`.
//!
//! - `read/`: the channels by subject, each with how it is read and judged
//! - `probe`: the process that reads them all when it is asked to
//! - `neighbour`: the process that is there to be noticed
//! - `run`: both beside each other in turns, inside and on the bare node
//! - `judge`: from the readings to a verdict; pure
//!
//! A channel is open when its reading moves with the neighbour (tells), when
//! the neighbour's trace outlives it (left), when it equals the host's (host),
//! when it shows a host path or a thing of the host's (shows), or when it is
//! the next of a sequence that the whole host counts (sequence).

pub mod channel;
pub mod judge;
pub mod neighbour;
pub mod probe;
mod read;
pub mod residual;
pub mod run;

pub use read::channels;
