//! Where a job's root comes from: the built-in bundle `host`, an OCI runtime
//! bundle by directory or by name, or an image in a store.

pub mod bundle;
pub mod care;
pub mod child;
pub mod decompress;
pub mod digest;
pub mod export;
pub mod flatten;
pub mod import;
pub mod manifest;
pub mod merge;
pub mod reference;
pub mod registry;
pub mod site;
pub mod store;
pub mod tar;
pub mod trust;
pub mod unpack;

pub use bundle::{Found, Image, name_of, resolve};
pub use digest::Digest;
pub use reference::Reference;
pub use store::Store;
