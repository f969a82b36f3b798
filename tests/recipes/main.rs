//! Images made by recipes: the same again gives the same digest, commands run
//! inside, and one MPI program runs in three releases of Debian at once.

#[path = "../common/mod.rs"]
mod common;

mod busybox;
mod debian;
