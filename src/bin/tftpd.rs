//! The TFTP server.

fn main() {}
