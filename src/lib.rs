//! A TFTP server and client.

pub mod protocol;
pub mod sessions;
pub mod storage;
pub mod timer;
pub mod wire;
