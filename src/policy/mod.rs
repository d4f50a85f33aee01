//! What a request may have: from its sender and its name to a root and a name,
//! or to a refusal.
//!
//! Must not: open a file for a client.

pub mod access;
pub mod client_root;
#[cfg(feature = "map")]
pub mod map;
