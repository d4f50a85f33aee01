//! A TFTP server and client.

pub mod daemon;
pub mod protocol;
pub mod storage;
pub mod wire;
