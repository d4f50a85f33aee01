//! The ACK side of a transfer: the server's WRQ and the client's RRQ.
//!
//! ```text
//!          Plain (server)   OptionAck (server)   Request (client)
//!                └───────────────┬──────┴────────────────┘
//!                                ▼
//!                           ┌─────────┐ OACK we can't accept   ┌─────────┐
//!                           │ Opening ├───────────────────────►│ Failing │
//!                           └────┬──┬─┘                        └─▲──┬────┘
//!         DATA 1, OACK if client │  │                            │  │ ERROR sent
//!                                ▼  │       disk full, abort …   │  │
//!                        ┌───────────┐──────────────────────────►┘  │
//!                        │ Receiving │                              │
//!                        └────┬───┬──┘                              │
//!    last block, sink commits │   │ ERROR · repeats spent           │
//!                             ▼   │                                 ▼
//!                      ┌──────────┐   ERROR · dallied enough   ┌────────┐
//!                      │ Dallying ├───────────────────────────►│ Closed │
//!                      └──────────┘                            └────────┘
//! ```
//!
//! | state | packet | done | answered | expected next |
//! |---|---|---|---|---|
//! | Opening (server) | DATA 1 | peer verified, stored | see below | DATA 2 |
//! | Opening (client) | DATA 1 | no option applies, stored | see below | DATA 2 |
//! | Opening (client) | OACK | options applied | ACK 0 | DATA 1 |
//! | Opening (client) | OACK not as asked | – | ERROR 8 | nothing |
//! | Receiving | the next DATA | stored | ACK, if it fills the window | the DATA behind it |
//! | Receiving | the next DATA, short | stored, committed | ACK | the same again, if the ACK is lost |
//! | Receiving | a DATA further on in the window | nothing | ACK of the last in order, once per gap | the DATA missing |
//! | Receiving | the DATA acknowledged last | nothing | the same ACK | as before |
//! | Receiving (client) | OACK once more, before DATA 1 | nothing | ACK 0 | DATA 1 |
//! | Receiving | DATA larger than agreed | ended | ERROR 4 | nothing |
//! | Dallying | the last DATA | nothing | the final ACK | the same again |
//! | any | ERROR | ended | – | nothing |
//! | Opening, Receiving | deadline | wait doubled, or given up | the opening, or the last ACK | as before |
//! | any | RRQ, WRQ, ACK, other DATA | nothing | – | as before |
//!
//! No ACK before the sink has the data, no final ACK before it has committed.
//! Must not: write the file, touch a socket, ask the time.

use std::time::{Duration, Instant};

use super::block::BlockIndex;
use super::retry::RetryTimer;
use super::transfer::{
    BlockSink, Config, Failure, MAX_CLIENT_DALLY, Opening, Outcome, Progress, REQUEST_MERGE, Role,
    Transmit, UNVERIFIED_REPEATS,
};
use crate::wire::options::{self, Negotiated, Offer};
use crate::wire::packet::{ACK_LEN, BlockNumber, ErrorCode, Packet, emit_ack, emit_error};

#[derive(Debug)]
enum State {
    /// Our OACK, ACK 0 or RRQ is out, or due; nothing has come yet.
    Opening(Opening),
    /// Blocks are coming in.
    Receiving,
    /// The file is in place; the final ACK is repeated if it was lost.
    Dallying,
    /// An ERROR is due.
    Failing(Failure),
    Closed,
}

/// Receives a file block by block, in lockstep or by windows.
#[derive(Debug)]
pub struct Receiver {
    role: Role,
    state: State,
    negotiated: Negotiated,
    /// The next block in order.
    expected: BlockIndex,
    /// The block acknowledged last; the window is counted from here.
    acked: BlockIndex,
    /// An ACK (or the opening) is due.
    due: bool,
    /// The ACK or opening that is due was sent before.
    again: bool,
    /// The gap before the blocks that are coming in has been reported.
    gap_reported: bool,
    retry: RetryTimer,
    request_repeats: u8,
    dally: Duration,
    retransmits: u64,
    verified: bool,
    event: Option<Outcome>,
}

impl Receiver {
    /// A receiver that is about to open: a server with `negotiated` options, a
    /// client (opening with a request) with the defaults until it is answered.
    pub fn new(config: &Config, opening: Opening, negotiated: Negotiated) -> Self {
        let mut receiver = Self {
            role: opening.role(),
            state: State::Opening(opening),
            negotiated: Negotiated::default(),
            expected: BlockIndex::FIRST,
            acked: BlockIndex::HANDSHAKE,
            due: true,
            again: false,
            gap_reported: false,
            retry: RetryTimer::new(config.retry),
            request_repeats: config.request_repeats,
            dally: config.dally,
            retransmits: 0,
            verified: false,
            event: None,
        };
        receiver.agree(negotiated);
        receiver
    }

    /// What the two ends agreed on (RFC 1350's values before they did).
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    fn agree(&mut self, negotiated: Negotiated) {
        if let Some(timeout) = negotiated.timeout {
            self.retry.set_fixed(timeout);
        }
        self.negotiated = negotiated;
    }

    /// What the client asked for, while it waits for the answer.
    fn offer(&self) -> Option<&Offer> {
        match &self.state {
            State::Opening(Opening::Request { offer, .. }) => Some(offer),
            _ => None,
        }
    }

    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        sink: &mut impl BlockSink,
    ) {
        match (packet, &self.state) {
            (_, State::Failing(_) | State::Closed) => {}
            (Packet::Error { .. }, State::Dallying) => self.finish(),
            (Packet::Error { code, message }, _) => {
                let outcome = self.outcome_of_error(*code, message);
                self.close(outcome);
            }
            (Packet::Data { block, .. }, State::Dallying) => self.acknowledge_again(*block),
            (Packet::Data { block, payload }, _) => self.handle_data(now, *block, payload, sink),
            (Packet::Oack(raw), State::Opening(_)) => {
                match self.offer().map(|offer| options::accept(offer, *raw)) {
                    Some(Ok(negotiated)) => self.options_agreed(now, negotiated),
                    Some(Err(_)) => {
                        self.abort(Failure::new(
                            ErrorCode::OptionRefused,
                            "Options not as asked for",
                        ));
                    }
                    // A server gets no OACK.
                    None => {}
                }
            }
            // Our ACK 0 was lost and the server repeats its OACK.
            (Packet::Oack(_), State::Receiving) if self.expected == BlockIndex::FIRST => {
                self.due = true;
                self.again = true;
            }
            _ => {}
        }
    }

    fn outcome_of_error(&self, code: ErrorCode, message: &[u8]) -> Outcome {
        match (&self.state, code) {
            (State::Opening(Opening::OptionAck(_)), ErrorCode::OptionRefused) => Outcome::Probed,
            _ => Outcome::PeerError {
                code,
                message: message.into(),
            },
        }
    }

    fn options_agreed(&mut self, now: Instant, negotiated: Negotiated) {
        self.agree(negotiated);
        self.verified = true;
        self.retry.answered(now, true);
        self.state = State::Receiving;
        self.due = true;
        self.again = false;
    }

    fn handle_data(
        &mut self,
        now: Instant,
        number: BlockNumber,
        payload: &[u8],
        sink: &mut impl BlockSink,
    ) {
        if payload.len() > usize::from(self.negotiated.blksize) {
            self.abort(Failure::new(
                ErrorCode::IllegalOperation,
                "Block larger than agreed",
            ));
            return;
        }
        let Some(index) = self.negotiated.rollover.index_from(number, self.expected) else {
            return;
        };
        if index == self.expected {
            self.store(now, payload, sink);
        } else if index.0 - self.expected.0 < u64::from(self.negotiated.windowsize) {
            // RFC 7440 §4: tell at once what was the last block in order, and
            // only once: what follows within this window is lost as well. Before
            // block 1 that is ACK 0: who sends DATA has had our OACK.
            if !self.gap_reported && self.offer().is_none() {
                self.gap_reported = true;
                self.verified = true;
                self.state = State::Receiving;
                self.due = true;
                self.again = true;
            }
        } else {
            self.acknowledge_again(number);
        }
    }

    fn store(&mut self, now: Instant, payload: &[u8], sink: &mut impl BlockSink) {
        if let Err(failure) = sink.write(payload) {
            self.abort(failure);
            return;
        }
        // The first block of a window answers our ACK; those behind it only
        // show that the peer is at work.
        let answers_ack = self.expected == self.acked.plus(1);
        self.retry.answered(now, answers_ack);
        self.retry.extend(now);
        self.state = State::Receiving;
        self.verified = true;
        self.gap_reported = false;
        self.again = false;
        let index = self.expected;
        self.expected = index.plus(1);

        if payload.len() < usize::from(self.negotiated.blksize) {
            match sink.commit() {
                Ok(()) => {
                    self.due = true;
                    self.state = State::Dallying;
                    self.event = Some(Outcome::Completed);
                }
                Err(failure) => self.abort(failure),
            }
        } else if index.0 - self.acked.0 >= u64::from(self.negotiated.windowsize) {
            self.due = true;
        }
    }

    /// A block came that we have. If it is the one acknowledged last, our ACK
    /// was lost: the sender waits for it (RFC 1350 §2, and §6 for the final one).
    fn acknowledge_again(&mut self, number: BlockNumber) {
        let last = BlockIndex(self.expected.0 - 1);
        let is_last =
            last > BlockIndex::HANDSHAKE && number == self.negotiated.rollover.number_of(last);
        if is_last && self.acked == last {
            self.due = true;
            self.again = true;
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if !self.retry.expired(now) {
            return;
        }
        if matches!(self.state, State::Dallying) {
            self.finish();
            return;
        }
        let limit = match self.role {
            _ if self.verified => u8::MAX,
            Role::Server => UNVERIFIED_REPEATS,
            Role::Client => self.request_repeats,
        };
        if self.retry.back_off(now, limit) {
            self.due = true;
            self.again = true;
        } else {
            self.close(Outcome::TimedOut);
        }
    }

    pub(super) fn handle_repeated_request(&mut self, now: Instant) {
        let crossed = self
            .retry
            .last_sent()
            .is_none_or(|sent| now < sent + REQUEST_MERGE);
        let waits = !self.verified && !self.is_over();
        if waits && !crossed && self.retry.back_off(now, UNVERIFIED_REPEATS) {
            self.due = true;
            self.again = true;
        }
    }

    pub(super) fn abort(&mut self, failure: Failure) {
        if matches!(self.state, State::Opening(_) | State::Receiving) {
            self.event = Some(Outcome::Failed(failure));
            self.state = State::Failing(failure);
            self.retry.set_deadline(None);
        }
    }

    fn close(&mut self, outcome: Outcome) {
        self.event = Some(outcome);
        self.finish();
    }

    fn finish(&mut self) {
        self.state = State::Closed;
        self.retry.set_deadline(None);
    }

    pub(super) fn poll_transmit(&self, buf: &mut [u8]) -> Option<Transmit> {
        let len = match &self.state {
            State::Failing(failure) => emit_error(failure.code, failure.message, buf),
            State::Closed => return None,
            _ if !self.due => return None,
            State::Opening(Opening::OptionAck(packet) | Opening::Request { packet, .. }) => {
                buf.get_mut(..packet.len())?.copy_from_slice(packet);
                packet.len()
            }
            State::Opening(Opening::Plain) | State::Receiving | State::Dallying => {
                let number = self
                    .negotiated
                    .rollover
                    .number_of(BlockIndex(self.expected.0 - 1));
                buf.get_mut(..ACK_LEN)?.copy_from_slice(&emit_ack(number));
                ACK_LEN
            }
        };
        Some(Transmit::Datagram(len))
    }

    pub(super) fn handle_sent(&mut self, now: Instant) {
        if matches!(self.state, State::Failing(_)) {
            self.state = State::Closed;
            return;
        }
        self.due = false;
        self.acked = BlockIndex(self.expected.0 - 1);
        if self.again {
            self.retransmits += 1;
        }
        match (&self.state, self.again) {
            // Repeats don't prolong it: nobody keeps us dallying for ever.
            (State::Dallying, true) => {}
            (State::Dallying, false) => {
                self.retry.set_deadline(Some(now + self.dally()));
            }
            (_, true) => self.retry.sent_again(now),
            (_, false) => self.retry.sent(now),
        }
    }

    fn dally(&self) -> Duration {
        match self.role {
            Role::Client if self.retransmits == 0 => self.dally,
            Role::Client => self
                .dally
                .max(self.retry.initial_wait())
                .min(MAX_CLIENT_DALLY),
            Role::Server => self.dally.max(self.retry.initial_wait()),
        }
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.retry.round_trip()
    }

    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.retry.waiting_since()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.retry.deadline()
    }

    pub(super) fn poll_event(&mut self) -> Option<Outcome> {
        self.event.take()
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(
            self.state,
            State::Dallying | State::Failing(_) | State::Closed
        )
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            blocks: self.expected.0 - 1,
            block_size: self.negotiated.blksize,
            window_size: self.negotiated.windowsize,
            retransmits: self.retransmits,
            verified: self.verified,
        }
    }
}

#[cfg(test)]
mod tests;
