//! A TFTP server and client.

pub mod content;
pub mod daemon;
pub mod protocol;
pub mod server;
pub mod sessions;
pub mod socket;
pub mod storage;
pub mod timer;
pub mod wire;
