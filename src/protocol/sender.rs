//! The DATA side of a transfer: the server's RRQ and the client's WRQ.
//!
//! ```text
//!            Plain (server)                     Request (client)   OptionAck (server)
//!                 │                                    └───────┬─────────┘
//!                 │                                            ▼
//!                 │             ACK 0 (OACK, if client)    ┌─────────┐
//!                 │   ┌────────────────────────────────────┤ Opening │
//!                 ▼   ▼                                    └──┬───┬──┘
//!             ┌─────────┐                                     │   │
//!             │ Sending ├──────── source failed, abort ───────┼─┐ │ OACK we can't accept
//!             └────┬────┘                                     │ ▼ ▼
//!                  │ last block acknowledged                  │ ┌─────────┐
//!                  │ ERROR · repeats spent · forged ACK       │ │ Failing │
//!                  ▼                                          │ └────┬────┘
//!             ┌────────┐   ERROR · repeats spent              │      │ ERROR sent
//!             │ Closed │◄─────────────────────────────────────┴──────┘
//!             └────────┘
//! ```
//!
//! | state | packet | done | answered | expected next |
//! |---|---|---|---|---|
//! | Opening (server) | ACK 0 | peer verified | DATA 1…w (unproved: DATA 1) | an ACK within it |
//! | Opening (client) | ACK 0 | no option applies | DATA 1 | ACK 1 |
//! | Opening (client) | OACK | options applied | DATA 1…w | an ACK within 1…w |
//! | Opening (client) | OACK not as asked | – | ERROR 8 | nothing (`client/attempts` asks again without options) |
//! | Opening (server) | ACK other than 0 | nothing | – | as before |
//! | Opening (client) | ACK other than 0, DATA | nothing: this doesn't answer a WRQ, so `session/inbound` treats it as a stranger's | ERROR 5 | as before |
//! | Sending | ACK of a block in flight | peer verified, base moves past it | DATA from there on, a full window (unproved: as much of it as is open, see `pace`) | an ACK within it |
//! | Sending, windows | an ACK of exactly the blocks that were out before the last rewind, the second in a row (bursts: see `note_echo`) | an echo: those blocks arrived twice; the base moves past them | the rest of the window; blocks in flight aren't sent again | an ACK within it |
//! | Sending | ACK of the last block | completed | – | nothing |
//! | Sending, windows | ACK of the block before the base, a quarter of the fastest round trip after the last DATA left | a NACK, once per base and silence (`nack`) | the window from its base | an ACK within it |
//! | the same, blocks were in flight when the base moved, and no round trip without DATA has passed since | that ACK, three quarters of the usual round trip after the last DATA left | the same | the same | the same |
//! | the same | that ACK, sooner | an echo: nothing | – | as before |
//! | Sending, windows, nothing was in flight when the base moved | that ACK, too soon for a NACK, before any of the window is out, or while echoes of a repeat are expected | a NACK or an echo: a negotiated wait of 2 s or more now ends 0.75 s after the last DATA, or after the measured wait if that is longer | nothing | as before |
//! | the same, proved, no round trip known, no echoes of a repeat expected | that ACK, less than 5 ms after the window left | a NACK, unless the base moves within 250 ms; once per base | then the window from its base | as before |
//! | Sending, windows | that ACK, when the deadline has passed | the same, and the next wait is twice as long | what the timeout sends: the window from its base, if nothing was sent again since the base moved | as before |
//! | Sending, lockstep, verified | the same, 0.99 s or a round trip after the DATA left, whichever is longer | a NACK, once per DATA | the DATA | its ACK |
//! | Sending, unproved | ACK of a block not yet sent, fewer than 32,768 ahead (unverified: within the window) | ended: forged | – | nothing |
//! | Sending | any other ACK | nothing: RFC 1123 §4.2.3.1 | – | as before |
//! | Sending (server) | ERROR 0, all blocks sent and one acknowledged | the last ACK counts as lost: a success | – | nothing |
//! | Opening, Sending (server) | any other ERROR 0, or ERROR 8, before the first window is acknowledged | a probe, ended | – | nothing |
//! | Opening, Sending | any other ERROR | ended | – | nothing |
//! | Opening or Sending, unverified | the request again, 100 ms or more after our answer | – | the answer | as before |
//! | Opening or Sending, unverified | the request again, sooner | nothing: the two crossed ([`REQUEST_MERGE`](super::transfer::REQUEST_MERGE)) | – | as before |
//! | Sending, verified | the request again | nothing; once it has been quiet for a second and for 4 round trips, a new transfer takes this one's place (`table/repeat`) | – | as before |
//! | any | DATA, any other OACK | nothing | – | as before |
//! | any | RRQ or WRQ on the transfer's own port (on a shared port it is a request: see above) | nothing | – | as before |
//! | Opening, Sending | any, while the socket is full | as in the rows above | whatever is due once there is room (an ERROR doesn't wait: `session`) | as there |
//! | Failing, Closed | any | nothing | – | nothing |
//!
//! Unproved: an answer proves nothing, since others know or can guess the port: with
//! `--single-port`, on a shared port, or with a range of fewer than 1,024 ports
//! ([`Proof::Never`]). Proved: any other transfer.
//!
//! | state | timer | done | sent |
//! |---|---|---|---|
//! | Opening (server) | answer | wait doubled, or given up: timed out | the opening |
//! | Opening (client) | see `client/attempts` | | |
//! | Sending, proved | answer, 1st, 3rd … silence, several blocks are out | wait doubled, or given up: timed out, but if all was sent (server, verified) the last ACK counts as lost | a tail probe of the last block; if the base may have been named (above) and nothing was sent again since it moved, the window, and at the next silence the tail probe |
//! | Sending, proved | answer, 2nd, 4th … silence; any if only one block is out | the same | the window from its base; in bursts first another tail probe, and a round trip later the window |
//! | Sending, unproved | answer, 1st silence, several blocks are out | the same | the base, and after a pause the base again, or the last block if the whole file is out |
//! | Sending, unproved | answer, any later silence; any if only one block is out | the same | the base |
//! | Opening, Sending | answer, while the socket is full and something is due | waits on, within the patience; until the opening has left there is no deadline | whatever is due, once there is room |
//! | Sending | burst | – | the next burst; after the second tail probe, or the 250 ms above, the window from its base (`pace`) |
//! | Sending, unproved | burst, and all that may be out is out | – | a tail probe of the last block in flight; after silence one of the base, or of the last block if the whole file is out |
//!
//! Must not: read the file, touch a socket, read the clock.

use std::time::{Duration, Instant};

use super::block::BlockIndex;
use super::contract::{Config, Failure, Opening, Outcome, Proof, Run, Sent, Transmit};
use super::exchange::Exchange;
use super::nack::{Nacks, UNMEASURED_NACK, is_too_soon};
use super::pace::{Pace, ProbeBlock};
use super::timer::Timer;
use crate::wire::options::{self, Negotiated, Offer};
use crate::wire::packet::{BlockNumber, ErrorCode, Packet, emit_error};

#[derive(Debug)]
enum State {
    /// Our OACK or WRQ is in flight, or due; no block may be sent yet.
    Opening {
        packet: Box<[u8]>,
        /// What we asked for (client).
        asked: Option<Box<Asked>>,
        due: bool,
    },
    /// Blocks from the base on are in flight, or due.
    Sending,
    /// An ERROR is due.
    Failing(Failure),
    Closed,
}

/// What a client's request asks for.
#[derive(Debug)]
struct Asked {
    offer: Offer,
    /// The file's length in bytes: which block is the last depends on the answer.
    length: Option<u64>,
}

/// ACKs this many blocks or more from the base are taken for old ones: no window is as
/// large.
const OLD: u64 = 1 << 15;

/// This many ACKs in a row of exactly what was out before a rewind are echoes.
const ECHOES: u8 = 2;

/// For the log only, never sent: whoever forges ACKs doesn't see our packets.
const FORGED: Failure = Failure::new(
    ErrorCode::IllegalOperation,
    "Acknowledged a block that was not sent",
);

/// Sends a file block by block, in lockstep or by windows.
#[derive(Debug)]
pub struct Sender {
    state: State,
    exchange: Exchange,
    /// The last block of the file, shorter than the others; [`BlockIndex::NEVER`]
    /// until it is known.
    end: BlockIndex,
    /// The first block that isn't acknowledged.
    base: BlockIndex,
    /// Blocks from the base on that have gone out since the last rewind, or since the base
    /// moved.
    out: u16,
    /// Blocks from the base on that ever went out.
    reached: u16,
    /// Blocks from the base on that had gone out before the last rewind; 0 once all of them
    /// are acknowledged.
    resumed: u16,
    /// ACKs in a row of exactly those blocks.
    echoes: u8,
    /// The ACK of the last block in flight measures the round trip.
    timed: bool,
    pace: Pace,
    nacks: Nacks,
}

impl Sender {
    /// A sender that is about to open. `negotiated`: a server's options; for a client (which
    /// opens with a request) the defaults, until the answer comes.
    ///
    /// `length` is the number of bytes that will go over the wire; `None` if it isn't known
    /// before the end has been read (netascii, standard input).
    pub fn new(
        config: &Config,
        opening: Opening,
        negotiated: Negotiated,
        length: Option<u64>,
    ) -> Self {
        let role = opening.role();
        let state = match opening {
            Opening::Plain => State::Sending,
            Opening::OptionAck(packet) => State::Opening {
                packet,
                asked: None,
                due: true,
            },
            Opening::Request { packet, offer } => State::Opening {
                packet,
                asked: Some(Box::new(Asked {
                    offer: *offer,
                    length,
                })),
                due: true,
            },
        };
        Self {
            state,
            exchange: Exchange::new(config, role, negotiated, false),
            end: last_block(length, negotiated.blksize),
            base: BlockIndex::FIRST,
            out: 0,
            reached: 0,
            resumed: 0,
            echoes: 0,
            timed: false,
            pace: Pace::new(config.proof == Proof::Never),
            nacks: Nacks::default(),
        }
    }

    pub(super) const fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub(super) const fn exchange_mut(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    fn windowsize(&self) -> u16 {
        self.exchange.negotiated().windowsize
    }

    #[inline]
    pub(super) fn handle_packet(&mut self, now: Instant, packet: &Packet<'_>) {
        match (packet, &self.state) {
            (Packet::Ack(number), State::Sending) => self.handle_ack(now, *number),
            _ => self.handle_other(now, packet),
        }
    }

    /// Any packet except the usual one, an ACK while sending.
    fn handle_other(&mut self, now: Instant, packet: &Packet<'_>) {
        match (packet, &self.state) {
            (Packet::Error { code, message }, State::Opening { .. } | State::Sending) => {
                let outcome = self.outcome_of_error(*code, message);
                self.close(outcome);
            }
            (Packet::Ack(BlockNumber(0)), State::Opening { .. }) => {
                self.start_sending(now);
            }
            (
                Packet::Oack(options),
                State::Opening {
                    asked: Some(asked), ..
                },
            ) => match options::accept(&asked.offer, *options) {
                Ok(negotiated) => {
                    self.end = last_block(asked.length, negotiated.blksize);
                    self.exchange.agree(&negotiated);
                    self.start_sending(now);
                }
                Err(problem) => self.abort(problem.into()),
            },
            _ => {}
        }
    }

    fn outcome_of_error(&self, code: ErrorCode, message: &[u8]) -> Outcome {
        let acknowledged = self.base > BlockIndex::FIRST;
        let is_server = self.exchange.is_server();
        match code {
            // GRUB sends ERROR 0 "closed" instead of the ACK of the last block.
            ErrorCode::NotDefined if is_server && acknowledged && self.all_sent() => {
                Outcome::LastAckMissing
            }
            // PXE ROMs and EDK2 ask for tsize, then hang up. So do barebox and the Raspberry
            // Pi ("Early terminate", code 0), but only after the first DATA.
            ErrorCode::OptionRefused | ErrorCode::NotDefined
                if is_server && self.base.0 <= self.windowsize().into() =>
            {
                Outcome::Probed
            }
            _ => Outcome::PeerError {
                code,
                message: message.into(),
            },
        }
    }

    fn start_sending(&mut self, now: Instant) {
        self.exchange.verify();
        self.exchange.retry.answered(now, true);
        self.state = State::Sending;
    }

    fn handle_ack(&mut self, now: Instant, number: BlockNumber) {
        let rollover = self.exchange.negotiated().rollover;
        match rollover.index_from(number, self.base) {
            Some(index) if index < self.fresh() => self.blocks_acknowledged(now, index),
            _ if number == rollover.number_of(BlockIndex(self.base.0 - 1)) => {
                self.previous_acknowledged_again(now);
            }
            // From someone who doesn't see what we send.
            Some(index) if self.is_forged(index.0 - self.base.0) => {
                self.close(Outcome::Failed(FORGED));
            }
            // A late duplicate, or nonsense.
            _ => {}
        }
    }

    /// Whether an ACK of a block that wasn't sent, this far `ahead` of the base, is forged and
    /// not just late. Until the client has answered, an ACK beyond the window may belong to
    /// its transfer before this one, on the same port; it is ignored, so a forger gains
    /// nothing.
    fn is_forged(&self, ahead: u64) -> bool {
        let may_be_late_from = if self.exchange.is_verified() {
            OLD
        } else {
            self.windowsize().into()
        };
        self.exchange.may_be_forged() && ahead < may_be_late_from
    }

    fn blocks_acknowledged(&mut self, now: Instant, index: BlockIndex) {
        self.exchange.verify();
        // At most `reached`, which is a `u16`.
        let blocks = (index.0 - self.base.0 + 1) as u16;
        let is_echo = self.note_echo(now, blocks);
        // The ACK of a whole window may have crossed the tail probe, which brings a second.
        let probed = self.pace.has_probed() && blocks == self.windowsize();
        let round_trip = self.exchange.retry.round_trip();
        self.pace
            .acknowledged(self.windowsize(), blocks, round_trip);
        if blocks < self.out && !is_echo {
            self.pace.lost(self.windowsize(), round_trip, true);
            // RFC 7440 §4: the ACK asks for what follows.
            self.exchange.retry.gap_named();
        }
        let trailing = blocks < self.reached;
        let lockstep = self.windowsize() == 1;
        self.nacks
            .base_moves(now, &self.exchange.retry, lockstep, trailing);
        if probed {
            self.nacks.expect_echo();
        }
        self.base = index.plus(1);
        self.reached -= blocks;
        if is_echo {
            self.out = self.out.saturating_sub(blocks);
            self.resumed = 0;
        } else {
            // RFC 7440 §4: an ACK within the window says that what follows was lost.
            self.out = 0;
            self.resumed = self.reached;
        }
        let measured = std::mem::take(&mut self.timed) && !trailing;
        self.exchange.retry.answered(now, measured);
        self.exchange.retry.end_pause(now);
        if self.end <= index {
            self.close(Outcome::Completed);
        }
    }

    /// The first `blocks` in flight are acknowledged. Returns whether that is an echo: it
    /// answers a block that came twice, and nothing is missing.
    ///
    /// If a window was sent again needlessly, since a packet was doubled or late, U-Boot and
    /// EDK2 answer the first block, which they already have, with an ACK of all that had gone
    /// out before. Sending again what follows would bring the next such ACK, and so on to the
    /// end of the file. So the second in a row counts as an echo: what follows is in flight.
    ///
    /// In bursts such an ACK names a gap if another burst followed the blocks it acknowledges,
    /// and it comes late enough to answer that burst.
    fn note_echo(&mut self, now: Instant, blocks: u16) -> bool {
        self.echoes = if blocks == self.resumed {
            self.echoes.saturating_add(1)
        } else {
            0
        };
        let is_gap = !self.pace.is_whole(self.windowsize())
            && blocks <= self.out.saturating_sub(self.pace.in_last_burst())
            && !is_too_soon(now, &self.exchange.retry);
        self.echoes >= ECHOES && !is_gap
    }

    /// The block before the base is acknowledged again.
    fn previous_acknowledged_again(&mut self, now: Instant) {
        if !self.exchange.is_verified() {
            return;
        }
        let lockstep = self.windowsize() == 1;
        // If the deadline has passed, this is no echo, and the repeat is left to the timeout,
        // which counts it. The end of a pause is no deadline: a NACK then must prevent the
        // next burst, which would be sent for nothing.
        let has_come = matches!(self.exchange.retry.timer(), Timer::Answer { at } if at <= now);
        if has_come && !lockstep && self.out > 0 && !self.is_due() {
            self.nacks.after_silence();
        }
        let in_flight = self.out > 0 && !has_come;
        if in_flight && self.nacks.take_nack(now, &self.exchange.retry, lockstep) {
            // In lockstep the peer's own timer may have expired though nothing was lost.
            if !lockstep {
                self.exchange.retry.gap_named();
            }
            self.pace.nacked();
            self.rewind(true);
            self.exchange.retry.end_pause(now);
        } else if !lockstep && self.nacks.may_miss_one() {
            // A receiver that names each gap only once (U-Boot) won't name it again.
            let may_follow = self.pace.gap_suspected();
            self.exchange.retry.gap_suspected(now);
            let is_sure_soon = self.nacks.needs_silence(&self.exchange.retry);
            if may_follow && is_sure_soon && in_flight && self.is_window_out() {
                self.exchange.retry.pause_before_deadline(UNMEASURED_NACK);
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if !self.exchange.retry.expired(now) {
            return;
        }
        let goes_on = match self.exchange.retry.timer() {
            Timer::Burst { .. } => {
                self.nacks.after_pause(now, &self.exchange.retry);
                if self.pace.end_pause(self.is_window_out()) {
                    self.rewind(false);
                }
                self.exchange.retry.end_pause(now);
                return;
            }
            // What hasn't been sent can't have been answered.
            _ if self.is_due() => self.exchange.retry.hold(now),
            _ => {
                let goes_on = self.exchange.may_repeat(now);
                if goes_on {
                    self.repeat();
                }
                goes_on
            }
        };
        if goes_on {
            // Wait for the answer, or until there is room.
        } else if self.exchange.is_verified() && self.exchange.is_server() && self.all_sent() {
            self.close(Outcome::LastAckMissing);
        } else {
            self.close(Outcome::TimedOut);
        }
    }

    /// Something is due as soon as the socket takes it.
    fn is_due(&self) -> bool {
        match &self.state {
            State::Opening { due, .. } => *due,
            State::Sending => self.next_run().is_some(),
            State::Failing(_) => true,
            State::Closed => false,
        }
    }

    /// Sends again what is unanswered; of a window first a tail probe, which is usually
    /// enough: a receiver that has everything repeats its ACK, and one with a gap names it
    /// (RFC 7440 §4). See `pace` for a receiver that may already have named it.
    fn repeat(&mut self) {
        match &mut self.state {
            State::Opening { due, .. } => *due = true,
            State::Sending => {
                if self.windowsize() > 1 {
                    self.nacks.after_silence();
                }
                if !self.pace.starts_probe(self.out, self.windowsize()) {
                    self.rewind(false);
                }
            }
            State::Failing(_) | State::Closed => {}
        }
    }

    /// Everything from the base on is to be sent again: the peer named what is missing
    /// (`is_named`), or was silent.
    fn rewind(&mut self, is_named: bool) {
        let round_trip = self.exchange.retry.round_trip();
        self.pace.lost(self.windowsize(), round_trip, is_named);
        self.out = 0;
        self.resumed = self.reached;
        self.timed = false;
        self.pace.restart();
    }

    pub(super) fn handle_repeated_request(&mut self, now: Instant) {
        if !self.is_over() && self.exchange.answers_repeated_request(now) {
            self.repeat();
        }
    }

    /// The block to send next.
    const fn next(&self) -> BlockIndex {
        self.base.plus(self.out as u64)
    }

    /// The first block that was never sent.
    const fn fresh(&self) -> BlockIndex {
        self.base.plus(self.reached as u64)
    }

    /// Every block has gone out at least once.
    fn all_sent(&self) -> bool {
        self.end < self.fresh()
    }

    /// See [`super::transfer::Transfer::lacks_last_ack`].
    pub(super) fn lacks_last_ack(&self) -> bool {
        matches!(self.state, State::Sending)
            && self.exchange.is_server()
            && self.exchange.is_verified()
            && self.base == self.end
            && self.all_sent()
    }

    pub(super) fn abort(&mut self, failure: Failure) {
        if matches!(self.state, State::Opening { .. } | State::Sending) {
            self.exchange.fail(failure);
            self.state = State::Failing(failure);
        }
    }

    fn close(&mut self, outcome: Outcome) {
        self.exchange.end(outcome);
        self.state = State::Closed;
    }

    #[inline]
    pub(super) fn poll_transmit(&self, buf: &mut [u8]) -> Option<Transmit> {
        match &self.state {
            State::Sending => self.next_run().map(Transmit::Blocks),
            _ => self.poll_datagram(buf),
        }
    }

    fn poll_datagram(&self, buf: &mut [u8]) -> Option<Transmit> {
        match &self.state {
            State::Opening {
                packet, due: true, ..
            } => {
                buf.get_mut(..packet.len())?.copy_from_slice(packet);
                Some(Transmit::Datagram(packet.len()))
            }
            State::Failing(failure) => Some(Transmit::Datagram(emit_error(
                failure.code,
                failure.message,
                buf,
            ))),
            State::Opening { .. } | State::Sending | State::Closed => None,
        }
    }

    fn next_run(&self) -> Option<Run> {
        if let Some(block) = self.pace.due_probe(self.all_sent()) {
            let block = match block {
                ProbeBlock::Base => self.base,
                ProbeBlock::Last => BlockIndex(self.next().0 - 1),
            };
            return Some(self.run(block, 1));
        }
        if self.is_open_part_out() {
            return None;
        }
        let window = self.base.plus(self.pace.window(self.windowsize()).into());
        let burst = self.next().plus(self.pace.room().into());
        self.run_up_to(window.min(burst))
    }

    pub(super) fn upcoming(&self) -> Option<Run> {
        match self.state {
            State::Sending => self.run_up_to(self.next().plus(self.windowsize().into())),
            _ => None,
        }
    }

    /// The blocks from the next one on that lie before `limit`.
    fn run_up_to(&self, limit: BlockIndex) -> Option<Run> {
        let limit = limit.min(self.end.plus(1));
        let count = limit.0.saturating_sub(self.next().0);
        let count = u16::try_from(count).ok().filter(|&count| count > 0)?;
        Some(self.run(self.next(), count))
    }

    fn run(&self, first: BlockIndex, count: u16) -> Run {
        let negotiated = self.exchange.negotiated();
        Run {
            first,
            count,
            block_size: negotiated.blksize,
            base: self.base,
            rollover: negotiated.rollover,
        }
    }

    pub(super) fn handle_sent(&mut self, now: Instant, sent: Sent) {
        match (&mut self.state, sent) {
            (State::Opening { due, .. }, Sent::Datagram) => {
                *due = false;
                if self.exchange.retry.last_sent().is_none() {
                    self.exchange.retry.sent(now);
                } else {
                    self.exchange.count_retransmits(1);
                    self.exchange.retry.sent_again(now);
                }
            }
            (State::Failing(_), Sent::Datagram) => self.state = State::Closed,
            (State::Sending, Sent::Blocks { count, end }) => self.blocks_sent(now, count, end),
            _ => debug_assert!(false, "{sent:?} was not offered"),
        }
    }

    fn blocks_sent(&mut self, now: Instant, count: u16, end: bool) {
        let round_trip = self.exchange.retry.round_trip();
        if self.pace.take_probe() {
            self.exchange.count_retransmits(1);
            self.exchange.retry.sent_again(now);
            if let Some(pause) = self.pace.after_probe(round_trip) {
                self.exchange.retry.pause(now + pause);
            }
            return;
        }
        let repeated = count.min(self.reached - self.out);
        self.out += count;
        self.reached = self.reached.max(self.out);
        if end {
            self.end = BlockIndex(self.next().0 - 1);
        }
        self.timed = repeated == 0;
        if self.timed {
            self.exchange.retry.sent(now);
        } else {
            self.exchange.count_retransmits(repeated.into());
            self.exchange.retry.sent_again(now);
        }
        if self.out < self.windowsize() && self.next() <= self.end {
            let is_out = self.is_open_part_out();
            if let Some(pause) = self.pace.sent(count, is_out, round_trip) {
                self.exchange.retry.pause(now + pause);
            }
        }
    }

    /// Whether all blocks of the window that may be in flight have gone out.
    fn is_open_part_out(&self) -> bool {
        self.out >= self.pace.window(self.windowsize())
    }

    /// The same, or the whole file has gone out.
    fn is_window_out(&self) -> bool {
        self.is_open_part_out() || self.end < self.next()
    }

    /// See [`super::transfer::Transfer::answer_time`].
    pub(super) fn answer_time(&self) -> Duration {
        let round_trip = self.exchange.retry.round_trip().unwrap_or_default();
        self.pace.answer_time(self.windowsize(), round_trip)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Failing(_) | State::Closed)
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Blocks acknowledged.
    pub(super) const fn blocks(&self) -> u64 {
        self.base.0 - 1
    }
}

/// The last block of a file of `length` bytes, if that is known.
fn last_block(length: Option<u64>, block_size: u16) -> BlockIndex {
    // A file that is a multiple of the block size ends with an empty block.
    length.map_or(BlockIndex::NEVER, |length| {
        BlockIndex(length / u64::from(block_size) + 1)
    })
}

#[cfg(test)]
mod tests;
