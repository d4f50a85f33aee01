//! Layer 0: what TFTP looks like on the wire.
//!
//! Bytes in, values out, and back again. Nothing here keeps state between datagrams
//! (except for [`netascii`], whose state the caller owns), performs I/O, reads a clock or
//! allocates on the receive path.

pub mod escape;
pub mod netascii;
pub mod options;
pub mod packet;
mod raw_options;
mod writer;
