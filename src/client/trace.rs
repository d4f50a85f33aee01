//! Packets as TFTP clients have always shown them. Must not: change any.

use std::net::SocketAddr;

use super::{complain, say};
use crate::session::Heading;
use crate::wire::packet::Packet;

/// On standard output, as the prompt does.
pub(super) fn on_stdout(_: SocketAddr, heading: Heading, datagram: &[u8]) {
    match Packet::parse(datagram) {
        Ok(packet) => say(format_args!("{heading} {packet}")),
        Err(error) => say(format_args!("{heading} {error}")),
    }
}

/// On standard error, where standard output is the file's.
pub(super) fn on_stderr(_: SocketAddr, heading: Heading, datagram: &[u8]) {
    match Packet::parse(datagram) {
        Ok(packet) => complain(format_args!("{heading} {packet}")),
        Err(error) => complain(format_args!("{heading} {error}")),
    }
}
