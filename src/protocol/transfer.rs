//! The public face of the protocol machines: what goes in, what comes out.
//!
//! A [`Transfer`] is either a [`Sender`] or a [`Receiver`]; server and client
//! use the same two, told apart by how they open. The caller drives it:
//!
//! ```text
//!   handle_packet(now, packet, sink)  a datagram from the peer's TID
//!   handle_timeout(now)               the deadline has come (harmless if early)
//!   handle_repeated_request(now)      the client sent its RRQ or WRQ again
//!   abort(failure)                    the caller can't go on: tell the peer
//!        │
//!        ▼
//!   poll_transmit(sink, buf) → Datagram(len) | Blocks(run) | None
//!        │                 send it, then say so: handle_sent(now, …)
//!        ▼                 a full socket: don't, and poll again later
//!   poll_timeout()     → when to call handle_timeout; timer() says what for
//!   poll_event()       → how it ended, once
//!   is_closed()        → nothing left to do: drop it
//! ```
//!
//! After any `handle_*`, drain `poll_transmit`, read `poll_timeout`, then
//! `poll_event`; only then the next input. `poll_transmit` queues nothing: what
//! to send follows from the state alone, so a datagram that wasn't sent is
//! offered again. File data never passes through: the sender names a [`Run`] of
//! blocks, and the caller reads and sends it; the receiver hands payloads to a
//! [`BlockSink`], and makes no ACK before the sink returns [`Written`].
//!
//! Must not: decide anything itself.

use std::time::{Duration, Instant};

pub use super::contract::*;
use super::exchange::Exchange;
use super::receiver::Receiver;
use super::sender::Sender;
use super::timer::Timer;
use crate::wire::options::Negotiated;
use crate::wire::packet::Packet;

/// One file on its way in one direction.
#[derive(Debug)]
pub enum Transfer {
    /// The DATA side: a server's RRQ, a client's WRQ.
    Sender(Sender),
    /// The ACK side: a server's WRQ, a client's RRQ.
    Receiver(Receiver),
}

impl Transfer {
    /// A datagram from the peer's TID (the caller has checked whose it is).
    /// `sink` is used by receivers only.
    #[inline]
    pub fn handle_packet(&mut self, now: Instant, packet: &Packet<'_>, sink: &mut impl BlockSink) {
        match self {
            Self::Sender(sender) => sender.handle_packet(now, packet),
            Self::Receiver(receiver) => receiver.handle_packet(now, packet, sink),
        }
    }

    /// The deadline of [`Transfer::poll_timeout`] may have come. Harmless if
    /// called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Sender(sender) => sender.handle_timeout(now),
            Self::Receiver(receiver) => receiver.handle_timeout(now),
        }
    }

    /// The client sent the request of this transfer again. Our answer is repeated if it
    /// went out at least [`REQUEST_MERGE`] ago and the peer hasn't answered.
    pub fn handle_repeated_request(&mut self, now: Instant) {
        match self {
            Self::Sender(sender) => sender.handle_repeated_request(now),
            Self::Receiver(receiver) => receiver.handle_repeated_request(now),
        }
    }

    /// Whether [`Transfer::handle_repeated_request`] would repeat our answer at
    /// `now`: never once the peer is verified. A pure getter.
    pub fn answers_repeated_request(&self, now: Instant) -> bool {
        !self.is_over() && self.exchange().answers_repeated_request(now)
    }

    /// When the packet that now waits for an answer was first sent; on the receiving side
    /// also when the last block of a window came, if that was later. A pure getter.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.exchange().retry.waiting_since()
    }

    /// How long an answer usually takes, if that has been measured. A pure getter.
    pub fn round_trip(&self) -> Option<Duration> {
        self.exchange().retry.round_trip()
    }

    /// How long the answer to the next packet usually takes: a round trip, or longer if the
    /// window isn't fully open yet. The round trip is 0 if none has been measured. A pure
    /// getter.
    pub fn answer_time(&self) -> Duration {
        match self {
            Self::Sender(sender) => sender.answer_time(),
            Self::Receiver(_) => self.round_trip().unwrap_or_default(),
        }
    }

    /// Whether an answer proves nothing, since someone who sees none of our packets can
    /// send one. A pure getter.
    pub const fn may_be_forged(&self) -> bool {
        self.exchange().may_be_forged()
    }

    /// Ends the transfer from our side. The peer gets the failure as an ERROR, once.
    pub fn abort(&mut self, failure: Failure) {
        match self {
            Self::Sender(sender) => sender.abort(failure),
            Self::Receiver(receiver) => receiver.abort(failure),
        }
    }

    /// Makes a receiver's `sink` store what it still holds, as before each ACK. A failure
    /// ends the transfer.
    pub fn flush(&mut self, sink: &mut impl BlockSink) {
        match self {
            Self::Sender(_) => {}
            Self::Receiver(receiver) => receiver.flush(sink),
        }
    }

    /// What to send next. A datagram is written into `buf`, which must hold the
    /// opening packet or an ERROR ([`MAX_DATAGRAM`] bytes are always enough).
    /// Before an ACK, a receiver's `sink` stores what it was given. Returns the same until
    /// [`Transfer::handle_sent`] is called.
    pub fn poll_transmit(&mut self, sink: &mut impl BlockSink, buf: &mut [u8]) -> Option<Transmit> {
        match self {
            Self::Sender(sender) => sender.poll_transmit(buf),
            Self::Receiver(receiver) => receiver.poll_transmit(sink, buf),
        }
    }

    /// Bytes of DATA, headers included, that the peer sends in answer to the datagram that
    /// [`Transfer::poll_transmit`] offers: a window for an ACK in the middle of the file,
    /// 0 for anything else. A pure getter.
    pub fn asks_for(&self) -> usize {
        match self {
            Self::Sender(_) => 0,
            Self::Receiver(receiver) => receiver.asks_for(),
        }
    }

    /// What [`Transfer::poll_transmit`] offered has gone out, at `now`.
    pub fn handle_sent(&mut self, now: Instant, sent: Sent) {
        match self {
            Self::Sender(sender) => sender.handle_sent(now, sent),
            Self::Receiver(receiver) => receiver.handle_sent(now),
        }
    }

    /// When [`Transfer::handle_timeout`] wants to be called, if at all.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timer().deadline()
    }

    /// The deadline of [`Transfer::poll_timeout`], and what it is for.
    pub fn timer(&self) -> Timer {
        self.exchange().retry.timer()
    }

    /// The blocks that a sender will send next if all it has sent arrives. They are worth
    /// reading while the answer is on its way. A pure getter.
    pub fn upcoming(&self) -> Option<Run> {
        match self {
            Self::Sender(sender) => sender.upcoming(),
            Self::Receiver(_) => None,
        }
    }

    /// How the transfer ended; returned once. A receiver that has completed goes on
    /// dallying until [`Transfer::is_closed`].
    pub fn poll_event(&mut self) -> Option<Outcome> {
        match self {
            Self::Sender(sender) => sender.exchange_mut().poll_event(),
            Self::Receiver(receiver) => receiver.exchange_mut().poll_event(),
        }
    }

    /// The transfer is over, though it may still be dallying or have an ERROR to send. A new
    /// request from this TID may take its place.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Sender(sender) => sender.is_over(),
            Self::Receiver(receiver) => receiver.is_over(),
        }
    }

    /// A server has sent all of its file, and only the ACK of the last block is missing,
    /// which many clients never send. A pure getter.
    pub fn lacks_last_ack(&self) -> bool {
        match self {
            Self::Sender(sender) => sender.lacks_last_ack(),
            Self::Receiver(_) => false,
        }
    }

    /// Nothing will be sent or awaited any more.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Sender(sender) => sender.is_closed(),
            Self::Receiver(receiver) => receiver.is_closed(),
        }
    }

    /// What both ends agreed on; before that, RFC 1350's values.
    pub fn negotiated(&self) -> Negotiated {
        self.exchange().negotiated()
    }

    /// What has been moved and repeated so far.
    pub fn progress(&self) -> Progress {
        match self {
            Self::Sender(sender) => sender.exchange().progress(sender.blocks()),
            Self::Receiver(receiver) => receiver.exchange().progress(receiver.blocks()),
        }
    }

    const fn exchange(&self) -> &Exchange {
        match self {
            Self::Sender(sender) => sender.exchange(),
            Self::Receiver(receiver) => receiver.exchange(),
        }
    }
}
