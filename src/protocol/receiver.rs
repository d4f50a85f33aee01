//! The ACK side of a transfer: the server's WRQ and the client's RRQ.
//!
//! ```text
//!          Plain (server)   OptionAck (server)   Request (client)
//!                └───────────────┬──────┴────────────────┘
//!                                │        OACK we can't accept
//!                           ┌────▼────┐   disk full, abort …       ┌─────────┐
//!        ┌──────────────────┤ Opening ├───────────────────────────►│ Failing │
//!        │                  └────┬────┘                            └──▲───┬──┘
//!        │  DATA, OACK if client │                                    │   │ ERROR sent
//!        │                 ┌─────▼─────┐   disk full, abort …         │   │
//!        │                 │ Receiving ├──────────────────────────────┘   │
//!        │                 └─────┬───┬─┘                                  │
//!        │                       │   │ ERROR · repeats spent              │
//!        │                       │   └──────────────────────────────┐     │
//!        │ sink commits the last │                                  │     │
//!        │                  ┌────▼─────┐   ERROR · dallied enough  ┌▼─────▼─┐
//!        │                  │ Dallying ├──────────────────────────►│ Closed │
//!        │                  └──────────┘                           └───▲────┘
//!        └─────────────────── ERROR · repeats spent ───────────────────┘
//! ```
//!
//! | state | packet | done | answered | expected next |
//! |---|---|---|---|---|
//! | Opening (server) | DATA 1 | peer verified, stored | as in Receiving | DATA 2 |
//! | Opening (client) | DATA 1 | no option applies, stored | as in Receiving | DATA 2 |
//! | Opening (client) | OACK | options applied | ACK 0 | DATA 1 |
//! | Opening (client) | OACK not as asked | – | ERROR 8 | nothing (`client/attempts` asks again without options, if there were any) |
//! | Receiving | the next DATA | stored | ACK, if it fills the window | the DATA after it |
//! | Receiving | the next DATA, short | stored, committed | ACK | the same again, if the ACK is lost |
//! | Opening (server), Receiving | a DATA ahead of the one expected, by less than a window | peer verified | ACK of the last in order (in Opening: ACK 0) | the DATA missing |
//! | Receiving, with that gap | a DATA further ahead than any before | nothing | – | the DATA missing |
//! | Receiving, with that gap | the same, two round trips after our last ACK, once | our ACK was lost | the same ACK | the DATA missing |
//! | Receiving, with that gap | a DATA no further ahead than one before, a round trip and at least 3 ms after our last ACK | our ACK, or its answer, was lost | the same ACK | the DATA missing |
//! | Receiving | the DATA acknowledged last | nothing | the same ACK | as before |
//! | Receiving | the last DATA in order again, in the middle of a window, 3 ms after the transfer last moved | nothing | its ACK: this is a tail probe | the DATA after it |
//! | Receiving | the OACK again, before DATA 1 | nothing | ACK 0 | DATA 1 |
//! | Opening, Receiving | DATA larger than agreed (unproved: of a block in the window) | ended | ERROR 4 | nothing |
//! | Dallying | the last DATA | nothing | the final ACK | the same again |
//! | Dallying | ERROR | the dallying ends | – | nothing |
//! | Opening (server, OACK) | ERROR 8 | a probe, ended (ERROR 0 isn't a probe: a client that can't read its file sends that) | – | nothing |
//! | Opening, Receiving | any other ERROR | ended | – | nothing |
//! | Opening (client) | ACK, DATA other than 1 | nothing: this doesn't answer an RRQ, so `session/inbound` treats it as a stranger's | ERROR 5 | as before |
//! | Opening, unverified | the request again, 100 ms or more after our answer | – | the answer | as before |
//! | Opening, unverified | the request again, sooner | nothing: the two crossed ([`REQUEST_MERGE`](super::transfer::REQUEST_MERGE)) | – | as before |
//! | Dallying | the request again | a new transfer takes this one's place (`table/repeat`) | – | as before |
//! | Receiving | the request again | nothing; once it has been quiet for a second and for 4 round trips, a new transfer takes this one's place (`table/repeat`) | – | as before |
//! | any | ACK, other DATA, other OACK | nothing | – | as before |
//! | any | RRQ or WRQ on the transfer's own port (on a shared port it is a request: see above) | nothing | – | as before |
//! | Opening, Receiving, Dallying | any, while the socket is full | as in the rows above | whatever is due once there is room (an ERROR doesn't wait: `session`) | as there |
//! | Failing, Closed | any | nothing | – | nothing |
//!
//! | state | timer | done | sent |
//! |---|---|---|---|
//! | Opening (server), Receiving | answer | wait doubled, or given up | the opening, or an ACK of the last in order |
//! | Opening (client) | see `client/attempts` | | |
//! | Opening, Receiving, Dallying | answer, while the socket is full and an ACK is due | waits on, within the patience (then closed: timed out, or completed if it was dallying); until the opening has left there is no deadline | that ACK, once there is room |
//! | Dallying | dally, counted from the final ACK; or the slot is needed (`table`) | over | – |
//!
//! Without `-t`, and if nothing was lost lately, an ACK is repeated after 500 ms at the
//! earliest: the sender has a timer of its own. If 2 s or more were agreed and a round trip
//! has been measured, `retry` says when an ACK may be repeated earlier; after a gap 0.75 s
//! later at the earliest. Packets that don't move the transfer forward don't prolong the
//! patience, however many the peer sends.
//!
//! No ACK before the sink has the data (`Written`), no final ACK before it has
//! committed (`Committed`).
//! Must not: write the file, touch a socket, read the clock.

use std::time::{Duration, Instant};

use super::block::BlockIndex;
use super::compact::Millis;
use super::contract::{
    BlockSink, Committed, Config, Failure, MAX_CLIENT_DALLY, MAX_SERVER_DALLY, Opening, Outcome,
    Transmit, Written,
};
use super::exchange::Exchange;
use super::retry::ADAPTIVE_FLOOR;
use super::timer::Timer;
use crate::wire::options::{self, Negotiated, Offer};
use crate::wire::packet::{
    ACK_LEN, BlockNumber, DATA_HEADER_LEN, ErrorCode, Packet, emit_ack, emit_error,
};

#[derive(Debug)]
enum State {
    /// Our OACK, ACK 0 or RRQ is in flight, or due; nothing has come yet.
    Opening(Opening),
    /// Blocks are coming in.
    Receiving,
    /// The file is in place; the final ACK is sent, and repeated if it is lost.
    Dallying(Committed),
    /// An ERROR is due.
    Failing(Failure),
    Closed,
}

/// Whether an ACK of the last block in order (or the opening) is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    New,
    /// The peer asked for it in the middle of a window. Nothing was lost, but the answer
    /// doesn't measure the round trip.
    Asked,
    /// A packet was lost, or the peer missed our last ACK: this one counts as a retransmit.
    Again,
}

/// A block that comes again within this time was doubled by the network.
const DOUBLED: Duration = Duration::from_millis(3);

/// Receives a file block by block, in lockstep or by windows.
#[derive(Debug)]
pub struct Receiver {
    state: State,
    exchange: Exchange,
    /// The next block in order.
    expected: BlockIndex,
    /// The block acknowledged last; the window is counted from here.
    acked: BlockIndex,
    due: Due,
    /// How far the furthest block that has come is ahead of the expected one: the gap before
    /// it has been reported. 0: there is no gap.
    ahead: u16,
    /// The gap was reported a second time.
    told_again: bool,
    /// Proof that every block before the expected one is in the file. Without it no ACK can
    /// be sent.
    written: Option<Written>,
    dally: Millis,
}

impl Receiver {
    /// A receiver that is about to open. `negotiated`: a server's options; for a client
    /// (which opens with a request) the defaults, until the answer comes.
    pub fn new(config: &Config, opening: Opening, negotiated: Negotiated) -> Self {
        let role = opening.role();
        Self {
            state: State::Opening(opening),
            exchange: Exchange::new(config, role, negotiated, true),
            expected: BlockIndex::FIRST,
            acked: BlockIndex::HANDSHAKE,
            due: Due::New,
            ahead: 0,
            told_again: false,
            written: Some(Written),
            dally: config.dally.into(),
        }
    }

    pub(super) const fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub(super) const fn exchange_mut(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    /// What the client asked for, until the answer comes.
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
            (Packet::Error { .. }, State::Dallying(_)) => self.finish(),
            (Packet::Error { code, message }, _) => {
                let outcome = self.outcome_of_error(*code, message);
                self.close(outcome);
            }
            (Packet::Data { block, .. }, State::Dallying(_)) => self.acknowledge_again(now, *block),
            (Packet::Data { block, payload }, _) => self.handle_data(now, *block, payload, sink),
            (Packet::Oack(raw), State::Opening(_)) => {
                match self.offer().map(|offer| options::accept(offer, *raw)) {
                    Some(Ok(negotiated)) => self.options_agreed(now, negotiated),
                    Some(Err(problem)) => self.abort(problem.into()),
                    // A server gets no OACK.
                    None => {}
                }
            }
            // Our ACK 0 was lost and the server repeats its OACK.
            (Packet::Oack(_), State::Receiving) if self.expected == BlockIndex::FIRST => {
                self.send_again();
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
        self.exchange.agree(&negotiated);
        self.exchange.verify();
        self.exchange.retry.answered(now, true);
        self.state = State::Receiving;
        self.due = Due::New;
    }

    fn handle_data(
        &mut self,
        now: Instant,
        number: BlockNumber,
        payload: &[u8],
        sink: &mut impl BlockSink,
    ) {
        let Negotiated {
            blksize,
            windowsize,
            rollover,
            ..
        } = self.exchange.negotiated();
        let index = rollover.index_from(number, self.expected);
        let ahead = index.map(|index| index.0 - self.expected.0);
        let in_window = ahead.filter(|ahead| *ahead < windowsize.into());
        // On a shared port any other block may be a late one of the client's transfer before.
        let is_ours = in_window.is_some() || !self.exchange.may_be_forged();
        if payload.len() > usize::from(blksize) && is_ours {
            self.abort(Failure::new(
                ErrorCode::IllegalOperation,
                "Block larger than agreed",
            ));
            return;
        }
        match in_window {
            Some(0) => self.store(now, payload, sink),
            // Less than the window size, which is a `u16`.
            Some(ahead) => self.report_gap(now, ahead as u16),
            None => self.acknowledge_again(now, number),
        }
    }

    /// A block came that is this far `ahead` of the expected one. RFC 7440 §4: the last block
    /// in order is acknowledged at once, but only once, though the rest of the window comes
    /// ahead as well. If blocks come a second time, our ACK was lost, or the base of the
    /// window that answered it. If further blocks beyond the gap still come two round trips
    /// later, our ACK was probably lost. It is sent again, but only once, since a slow link
    /// may still be delivering what was sent before.
    /// Before block 1 the ACK is ACK 0: a peer that sends DATA has received our OACK.
    fn report_gap(&mut self, now: Instant, ahead: u16) {
        if self.offer().is_some() {
            return;
        }
        let retry = &mut self.exchange.retry;
        let round_trip = retry.round_trip().unwrap_or(ADAPTIVE_FLOOR);
        let told_ago = retry
            .last_sent()
            .map_or(Duration::ZERO, |sent| now.saturating_duration_since(sent));
        let comes_again = ahead <= self.ahead && told_ago >= round_trip.max(DOUBLED);
        let goes_on = ahead > self.ahead && !self.told_again && told_ago >= round_trip * 2;
        let is_told = self.due == Due::Nothing;
        if self.ahead == 0 || is_told && (comes_again || goes_on) {
            self.told_again = self.ahead > 0;
            retry.something_lost();
            retry.gap_suspected(now);
            self.exchange.verify();
            self.state = State::Receiving;
            self.send_again();
        }
        self.ahead = self.ahead.max(ahead);
    }

    fn store(&mut self, now: Instant, payload: &[u8], sink: &mut impl BlockSink) {
        self.written = None;
        if let Err(failure) = sink.write(payload) {
            self.abort(failure);
            return;
        }
        // The first block of a window answers our ACK; those after it only
        // show that the peer is at work.
        let answers_ack = self.expected == self.acked.plus(1);
        if answers_ack || !self.exchange.retry.was_heard_at(now) {
            self.exchange.retry.answered(now, answers_ack);
            self.exchange.retry.heard(now);
        } else {
            // It was received together with the one before: the timer is set already.
            self.exchange.retry.one_came_through();
        }
        self.state = State::Receiving;
        self.exchange.verify();
        self.ahead = 0;
        if matches!(self.due, Due::Asked | Due::Again) {
            self.due = Due::New;
        }
        let index = self.expected;
        self.expected = index.plus(1);

        if payload.len() < usize::from(self.exchange.negotiated().blksize) {
            match sink.commit() {
                Ok(committed) => {
                    self.due = Due::New;
                    self.state = State::Dallying(committed);
                    self.exchange.complete();
                }
                Err(failure) => self.abort(failure),
            }
        } else if index.0 - self.acked.0 >= u64::from(self.exchange.negotiated().windowsize) {
            self.due = Due::New;
        }
    }

    /// A block came that we already have. If it is the one acknowledged last, our ACK was
    /// lost, and the sender waits for it (RFC 1350 §2, and §6 for the final one). If it is
    /// the last one in order, in the middle of a window, and not doubled by the network, the
    /// sender wants to know how far we are.
    fn acknowledge_again(&mut self, now: Instant, number: BlockNumber) {
        let last = BlockIndex(self.expected.0 - 1);
        if last == BlockIndex::HANDSHAKE || number != self.number_of(last) {
            return;
        }
        if self.acked == last {
            if self.exchange.retry.is_prompt(now) == Some(false) {
                self.exchange.retry.something_lost();
            }
            self.send_again();
        } else if self.exchange.quiet_for(now) >= DOUBLED && self.due == Due::Nothing {
            self.due = Due::Asked;
        }
    }

    fn number_of(&self, index: BlockIndex) -> BlockNumber {
        self.exchange.negotiated().rollover.number_of(index)
    }

    /// Makes the opening, or an ACK of the last block in order, due, unless one is already.
    fn send_again(&mut self) {
        if self.due == Due::Nothing {
            self.due = Due::Again;
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if !self.exchange.retry.expired(now) {
            return;
        }
        let is_dallying = matches!(self.exchange.retry.timer(), Timer::Dally { .. });
        let goes_on = match self.due {
            Due::Nothing if is_dallying => false,
            Due::Nothing => self.exchange.may_repeat(now),
            // What hasn't been sent can't have been answered.
            Due::New | Due::Asked | Due::Again => self.exchange.retry.hold(now),
        };
        if goes_on {
            self.send_again();
        } else if self.is_over() {
            self.finish();
        } else {
            self.close(Outcome::TimedOut);
        }
    }

    pub(super) fn handle_repeated_request(&mut self, now: Instant) {
        if !self.is_over() && self.exchange.answers_repeated_request(now) {
            self.send_again();
        }
    }

    pub(super) fn abort(&mut self, failure: Failure) {
        if matches!(self.state, State::Opening(_) | State::Receiving) {
            self.exchange.fail(failure);
            self.state = State::Failing(failure);
        }
    }

    fn close(&mut self, outcome: Outcome) {
        self.exchange.end(outcome);
        self.state = State::Closed;
    }

    /// Closes a transfer whose outcome is already set.
    fn finish(&mut self) {
        self.exchange.retry.stop();
        self.state = State::Closed;
    }

    /// Writes out what `sink` still holds.
    pub(super) fn flush(&mut self, sink: &mut impl BlockSink) {
        match sink.flush() {
            Ok(written) => self.written = Some(written),
            Err(failure) => self.abort(failure),
        }
    }

    pub(super) fn poll_transmit(
        &mut self,
        sink: &mut impl BlockSink,
        buf: &mut [u8],
    ) -> Option<Transmit> {
        let is_due = self.due != Due::Nothing;
        if is_due && self.written.is_none() && matches!(self.state, State::Receiving) {
            self.flush(sink);
        }
        let len = match &self.state {
            State::Failing(failure) => emit_error(failure.code, failure.message, buf),
            State::Closed => return None,
            _ if !is_due => return None,
            State::Opening(Opening::OptionAck(packet) | Opening::Request { packet, .. }) => {
                buf.get_mut(..packet.len())?.copy_from_slice(packet);
                packet.len()
            }
            State::Opening(Opening::Plain) | State::Receiving => {
                self.emit_ack(self.written.as_ref()?, buf)?
            }
            State::Dallying(Committed(written)) => self.emit_ack(written, buf)?,
        };
        Some(Transmit::Datagram(len))
    }

    /// Bytes of DATA that the peer sends in answer to the ACK that is due (RFC 7440 §4): a
    /// window, whichever block the ACK names. The final ACK asks for nothing. The opening,
    /// which nobody has answered yet, doesn't count.
    pub(super) fn asks_for(&self) -> usize {
        if !matches!(self.state, State::Receiving) {
            return 0;
        }
        let Negotiated {
            blksize,
            windowsize,
            ..
        } = self.exchange.negotiated();
        (DATA_HEADER_LEN + usize::from(blksize)) * usize::from(windowsize)
    }

    /// The ACK of everything before the expected block, which is in the file.
    fn emit_ack(&self, _: &Written, buf: &mut [u8]) -> Option<usize> {
        let number = self.number_of(BlockIndex(self.expected.0 - 1));
        buf.get_mut(..ACK_LEN)?.copy_from_slice(&emit_ack(number));
        Some(ACK_LEN)
    }

    pub(super) fn handle_sent(&mut self, now: Instant) {
        if matches!(self.state, State::Failing(_)) {
            self.state = State::Closed;
            return;
        }
        let due = std::mem::replace(&mut self.due, Due::Nothing);
        self.acked = BlockIndex(self.expected.0 - 1);
        self.exchange.count_retransmits((due == Due::Again).into());
        match (&self.state, self.exchange.retry.timer()) {
            // Repeats don't prolong dallying: no peer keeps us here forever.
            (State::Dallying(_), Timer::Dally { .. }) => {}
            (State::Dallying(_), _) => self.exchange.retry.dally(now + self.dally()),
            _ if matches!(due, Due::Asked | Due::Again) => self.exchange.retry.sent_again(now),
            _ => self.exchange.retry.sent(now),
        }
    }

    fn dally(&self) -> Duration {
        let wait = self.exchange.retry.initial_wait();
        let dally = Duration::from(self.dally);
        if self.exchange.is_server() {
            dally.max(wait).min(MAX_SERVER_DALLY)
        } else if self.exchange.retransmits() == 0 {
            dally
        } else {
            dally.max(wait).min(MAX_CLIENT_DALLY)
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(
            self.state,
            State::Dallying(_) | State::Failing(_) | State::Closed
        )
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Blocks stored.
    pub(super) const fn blocks(&self) -> u64 {
        self.expected.0 - 1
    }
}

#[cfg(test)]
mod tests;
