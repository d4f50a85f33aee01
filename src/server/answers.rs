//! ERRORs without a transfer: to malformed requests, to strangers, and to requests
//! that are refused. The rules may have them sent twice.
//!
//! Must not: decide what is refused.

use std::io;
use std::time::Instant;

use log::debug;

use super::REQUEST_LEN;
use super::floor::Floor;
use super::ports::Via;
use crate::net::{Destination, ListenSocket, Received};
use crate::policy::Policy;
use crate::protocol::transfer::MAX_DATAGRAM;
use crate::session::{Heading, UNKNOWN_TRANSFER};
use crate::table::Endpoint;
use crate::wire::packet::{ErrorCode, MAX_ERROR_LEN, Packet, ParseError, emit_error};

// An answer without a session fits where an OACK does.
const _: () = assert!(MAX_DATAGRAM >= MAX_ERROR_LEN);

pub(super) fn answer_malformed(
    now: Instant,
    via: Via<'_>,
    endpoint: &Endpoint,
    error: ParseError,
    policy: &Policy,
    floor: &mut Floor,
) {
    let peer = endpoint.peer;
    let Some(text) = error.reply() else {
        floor.counters.foreign += 1;
        debug!("{peer}: dropped a datagram: {error}");
        return;
    };
    floor.counters.malformed += 1;
    debug!("{peer}: malformed request: {error}");
    if floor.resources.ingress.nonsense.take(now, peer.ip()) {
        let code = ErrorCode::IllegalOperation;
        answer(now, via, endpoint, code, text, policy, floor);
    } else {
        floor.counters.unanswered += 1;
    }
}

/// A datagram that came in on a port that transfers share, and belongs to none of
/// them.
pub(super) fn turn_stranger_away(
    now: Instant,
    socket: &ListenSocket,
    datagram: &Received<'_>,
    policy: &Policy,
    floor: &mut Floor,
) {
    let payload = datagram.head(REQUEST_LEN);
    if let Some(trace) = floor.resources.ingress.trace {
        trace(datagram.peer, Heading::Received, payload);
    }
    // As on the listen port, an ACK isn't answered: it may be tftp-hpa's answer to an
    // ERROR of ours.
    match (Packet::parse(payload), endpoint_of(datagram, socket)) {
        (Ok(Packet::Data { .. }), Some(endpoint)) => {
            let via = Via {
                listener: socket,
                interface: datagram.interface,
            };
            turn_away(now, via, &endpoint, policy, floor);
        }
        (Ok(_), _) => floor.counters.strangers += 1,
        (Err(_), _) => floor.counters.garbage += 1,
    }
}

/// RFC 1350 §4: a peer that sends DATA of a transfer that isn't here is told so.
pub(super) fn turn_away(
    now: Instant,
    via: Via<'_>,
    endpoint: &Endpoint,
    policy: &Policy,
    floor: &mut Floor,
) {
    floor.counters.strangers += 1;
    let client = endpoint.peer.ip();
    if floor.resources.ingress.nonsense.take(now, client) {
        let code = ErrorCode::UnknownTransferId;
        answer(now, via, endpoint, code, UNKNOWN_TRANSFER, policy, floor);
    } else {
        floor.counters.unanswered += 1;
    }
}

/// One ERROR without a transfer, from the listen port if there is room, else from a
/// socket of its own. Lost if it can't be sent at once: the client asks again. If the
/// rules say so for this client, it goes out twice.
pub(super) fn answer(
    now: Instant,
    via: Via<'_>,
    endpoint: &Endpoint,
    code: ErrorCode,
    text: &str,
    policy: &Policy,
    floor: &mut Floor,
) {
    let mut packet = [0; MAX_DATAGRAM];
    let len = emit_error(code, text, &mut packet);
    let packet = &packet[..len];
    if let Some(trace) = floor.resources.ingress.trace {
        trace(endpoint.peer, Heading::Sent, packet);
    }
    let peer = endpoint.peer;
    match send(now, via, endpoint, packet, floor) {
        Ok(()) if policy.sends_twice(now, peer, via.interface) => {
            // The loss of the copy does no harm.
            let _ = send(now, via, endpoint, packet, floor);
        }
        Ok(()) => {}
        Err(error) => floor.count_socket_error("send", peer, &error),
    }
}

fn send(
    now: Instant,
    via: Via<'_>,
    endpoint: &Endpoint,
    packet: &[u8],
    floor: &mut Floor,
) -> io::Result<()> {
    let &Endpoint { peer, local } = endpoint;
    let sent = if floor.may_send_error(now, via.listener, peer.ip()) {
        via.listener
            .answer(packet, peer, local, via.scope(endpoint))
    } else {
        Err(io::ErrorKind::WouldBlock.into())
    };
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            floor.answer_apart(packet, endpoint, via)
        }
        other => other,
    }
}

/// Both ends of a datagram that came in on `listener`; `None` if it was sent to a
/// broadcast or multicast address.
pub(super) fn endpoint_of(datagram: &Received<'_>, listener: &ListenSocket) -> Option<Endpoint> {
    let local = match datagram.destination {
        Some(Destination::Local(ip)) => ip,
        None => listener.address().ip(),
        Some(Destination::Group(_)) => return None,
    };
    let peer = datagram.peer;
    Some(Endpoint { peer, local })
}
