//! A TFTP server and client.

pub mod protocol;
pub mod storage;
pub mod wire;
