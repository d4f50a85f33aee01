//! The log: its formats and where its lines go.
//!
//! Must not: decide what is logged.

pub(crate) mod json;
pub(crate) mod repeats;
pub mod syslog;
