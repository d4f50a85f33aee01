//! Packets as TFTP clients have always shown them. Must not: change any.

use super::Stream;
use crate::session::{Heading, Trace};
use crate::wire::packet::Packet;

/// Shows packets on `stream`; a file on standard output must stay free of them.
pub(super) fn on(stream: Stream) -> Trace {
    match stream {
        Stream::Stdout => |_, heading, datagram| show(Stream::Stdout, heading, datagram),
        Stream::Stderr => |_, heading, datagram| show(Stream::Stderr, heading, datagram),
    }
}

fn show(stream: Stream, heading: Heading, datagram: &[u8]) {
    match Packet::parse(datagram) {
        Ok(packet) => stream.tell(format_args!("{heading} {packet}")),
        Err(error) => stream.tell(format_args!("{heading} {error}")),
    }
}
