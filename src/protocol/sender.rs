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
//!                  │ ERROR · repeats spent                    │ │ Failing │
//!                  ▼                                          │ └────┬────┘
//!             ┌────────┐   ERROR · repeats spent              │      │ ERROR sent
//!             │ Closed │◄─────────────────────────────────────┴──────┘
//!             └────────┘
//! ```
//!
//! | state | packet | done | answered | expected next |
//! |---|---|---|---|---|
//! | Opening (server) | ACK 0 | peer verified | DATA 1…w | an ACK within 1…w |
//! | Opening (client) | ACK 0 | no option applies | DATA 1 | ACK 1 |
//! | Opening (client) | OACK | options applied | DATA 1…w | an ACK within 1…w |
//! | Opening (client) | OACK not as asked | – | ERROR 8 | nothing |
//! | Sending | ACK of a block in flight | base moves behind it | DATA from there on, a full window | an ACK within it |
//! | Sending | ACK of the last block | completed | – | nothing |
//! | Sending | any other ACK | nothing: RFC 1123 §4.2.3.1 | – | as before |
//! | any | ERROR | ended | – | nothing |
//! | any | deadline | wait doubled, or given up | the opening, or the window from base | as before |
//! | any | RRQ, WRQ, DATA, late OACK | nothing | – | as before |
//!
//! A duplicate ACK never sends anything: not in lockstep (the Sorcerer's
//! Apprentice), and not with windows, where each ACK moves the base at most once.
//! Must not: read the file, touch a socket, ask the time.

use std::time::{Duration, Instant};

use super::block::BlockIndex;
use super::retry::RetryTimer;
use super::transfer::{
    Config, Failure, Opening, Outcome, Progress, REQUEST_MERGE, Role, Run, Sent, Transmit,
    UNVERIFIED_REPEATS,
};
use crate::wire::options::{self, Negotiated, Offer};
use crate::wire::packet::{BlockNumber, ErrorCode, Packet, emit_error};

#[derive(Debug)]
enum State {
    /// Our OACK or WRQ is out, or due; no block may be sent yet.
    Opening {
        packet: Box<[u8]>,
        /// What we asked for (client).
        offer: Option<Box<Offer>>,
        due: bool,
    },
    /// Blocks `base..next` are in flight.
    Sending,
    /// An ERROR is due.
    Failing(Failure),
    Closed,
}

/// No file is as long. Not an `Option`, which takes twice the room in each
/// session.
const UNKNOWN_LENGTH: u64 = u64::MAX;

/// Sends a file block by block, in lockstep or by windows.
#[derive(Debug)]
pub struct Sender {
    role: Role,
    state: State,
    negotiated: Negotiated,
    /// The file's length in bytes; [`UNKNOWN_LENGTH`] if only reading it will
    /// tell.
    length: u64,
    /// The last block of the file, shorter than the others; [`BlockIndex::NEVER`]
    /// until it is known.
    end: BlockIndex,
    /// The first block that isn't acknowledged.
    base: BlockIndex,
    /// The block to send next; `base` after a rewind.
    next: BlockIndex,
    /// The first block that was never sent.
    fresh: BlockIndex,
    /// The block whose ACK measures the round trip; [`BlockIndex::NEVER`] if none
    /// does.
    timed: BlockIndex,
    retry: RetryTimer,
    request_repeats: u8,
    pace: Pace,
    retransmits: u32,
    verified: bool,
    event: Option<Outcome>,
}

/// How much of a window goes out at once.
///
/// What is sent behind a lost block is sent for nothing: the receiver drops it.
/// So where blocks are lost again and again, the window goes out in bursts with
/// a round trip between them, in which the receiver can tell what is missing.
#[derive(Debug)]
struct Pace {
    /// Blocks in a burst; the whole window where nothing is lost.
    burst: u16,
    /// Blocks of the burst that have gone out.
    gone: u16,
    /// Windows since the last loss.
    clean: u8,
    /// The next burst waits for the deadline, or for an ACK.
    paused: bool,
}

impl Pace {
    const fn new() -> Self {
        Self {
            burst: u16::MAX,
            gone: 0,
            clean: u8::MAX,
            paused: false,
        }
    }

    /// The next block begins a burst.
    const fn restart(&mut self) {
        self.gone = 0;
        self.paused = false;
    }

    /// A whole window arrived.
    fn window_arrived(&mut self, windowsize: u16) {
        self.clean = self.clean.saturating_add(1);
        if self.clean >= LOSS_MEMORY {
            self.burst = match self.burst.saturating_mul(2) {
                burst if burst < windowsize => burst,
                _ => u16::MAX,
            };
        }
    }

    /// Something of a window was lost. Once is no pattern.
    fn window_lost(&mut self, windowsize: u16) {
        if self.clean < LOSS_MEMORY && windowsize >= LARGE_WINDOW {
            self.burst = (self.burst.min(windowsize) / 2).max(MIN_BURST);
        }
        self.clean = 0;
    }
}

/// Smaller windows, in blocks, waste too little to be sent in bursts.
const LARGE_WINDOW: u16 = 8;

/// The smallest burst, in blocks: the pauses between smaller ones would cost more
/// time than the blocks they save.
const MIN_BURST: u16 = 4;

/// Two losses in so many windows are a pattern.
const LOSS_MEMORY: u8 = 8;

/// The pause between two bursts: a round trip, within these bounds.
const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(20);

impl Sender {
    /// A sender that is about to open: a server with `negotiated` options, a
    /// client (opening with a request) with the defaults until it is answered.
    ///
    /// `length` is the number of bytes that will go over the wire, `None` if
    /// only reading to the end will tell (netascii, standard input).
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
                offer: None,
                due: true,
            },
            Opening::Request { packet, offer } => State::Opening {
                packet,
                offer: Some(offer),
                due: true,
            },
        };
        let mut sender = Self {
            role,
            state,
            negotiated: Negotiated::default(),
            length: length.unwrap_or(UNKNOWN_LENGTH),
            end: BlockIndex::NEVER,
            base: BlockIndex::FIRST,
            next: BlockIndex::FIRST,
            fresh: BlockIndex::FIRST,
            timed: BlockIndex::NEVER,
            retry: RetryTimer::new(config.retry),
            request_repeats: config.request_repeats,
            pace: Pace::new(),
            retransmits: 0,
            verified: false,
            event: None,
        };
        sender.agree(negotiated);
        sender
    }

    /// What the two ends agreed on (RFC 1350's values before they did).
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    fn agree(&mut self, negotiated: Negotiated) {
        if let Some(timeout) = negotiated.timeout {
            self.retry.set_fixed(timeout);
        }
        // A file that is a multiple of the block size ends with an empty block.
        if self.length != UNKNOWN_LENGTH {
            self.end = BlockIndex(self.length / u64::from(negotiated.blksize) + 1);
        }
        self.negotiated = negotiated;
    }

    pub(super) fn handle_packet(&mut self, now: Instant, packet: &Packet<'_>) {
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
                    offer: Some(offer), ..
                },
            ) => match options::accept(offer, *options) {
                Ok(negotiated) => {
                    self.agree(negotiated);
                    self.start_sending(now);
                }
                Err(_) => self.abort(Failure::new(
                    ErrorCode::OptionRefused,
                    "Options not as asked for",
                )),
            },
            (Packet::Ack(number), State::Sending) => self.handle_ack(now, *number),
            _ => {}
        }
    }

    fn outcome_of_error(&self, code: ErrorCode, message: &[u8]) -> Outcome {
        let acknowledged = self.base > BlockIndex::FIRST;
        let all_sent = self.all_sent() && acknowledged && self.role == Role::Server;
        match (&self.state, code) {
            // PXE ROMs and EDK2 ask for tsize, then hang up; the Raspberry Pi
            // says "Early terminate" with code 0.
            (
                State::Opening { offer: None, .. },
                ErrorCode::OptionRefused | ErrorCode::NotDefined,
            ) => Outcome::Probed,
            // GRUB says ERROR 0 "closed" where others acknowledge the last block.
            (State::Sending, ErrorCode::NotDefined) if all_sent => Outcome::LastAckMissing,
            _ => Outcome::PeerError {
                code,
                message: message.into(),
            },
        }
    }

    fn start_sending(&mut self, now: Instant) {
        self.verified = true;
        self.retry.answered(now, true);
        self.state = State::Sending;
    }

    fn handle_ack(&mut self, now: Instant, number: BlockNumber) {
        let index = match self.negotiated.rollover.index_from(number, self.base) {
            Some(index) if index < self.fresh => index,
            // Not of a block in flight: a duplicate, or nonsense.
            _ => return,
        };
        self.verified = true;
        if index.plus(1) < self.next {
            self.pace.window_lost(self.negotiated.windowsize);
        } else {
            self.pace.window_arrived(self.negotiated.windowsize);
        }
        self.pace.restart();
        self.base = index.plus(1);
        // RFC 7440 §4: an ACK within the window says that what follows was lost.
        self.next = self.base;
        let measured = self.timed <= index;
        self.timed = BlockIndex::NEVER;
        self.retry.answered(now, measured);
        if self.end <= index {
            self.close(Outcome::Completed);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if !self.retry.expired(now) {
            return;
        }
        if self.pace.paused {
            self.pace.restart();
            self.retry.extend(now);
            return;
        }
        let limit = match self.role {
            _ if self.verified => u8::MAX,
            Role::Server => UNVERIFIED_REPEATS,
            Role::Client => self.request_repeats,
        };
        if self.retry.back_off(now, limit) {
            self.repeat();
        } else if self.verified && self.role == Role::Server && self.all_sent() {
            self.close(Outcome::LastAckMissing);
        } else {
            self.close(Outcome::TimedOut);
        }
    }

    /// Offers what is unanswered once more.
    fn repeat(&mut self) {
        match &mut self.state {
            State::Opening { due, .. } => *due = true,
            State::Sending => {
                self.next = self.base;
                self.timed = BlockIndex::NEVER;
                self.pace.window_lost(self.negotiated.windowsize);
                self.pace.restart();
            }
            State::Failing(_) | State::Closed => {}
        }
    }

    pub(super) fn handle_repeated_request(&mut self, now: Instant) {
        let crossed = self
            .retry
            .last_sent()
            .is_none_or(|sent| now < sent + REQUEST_MERGE);
        let waits = !self.verified && !self.is_over();
        if waits && !crossed && self.retry.back_off(now, UNVERIFIED_REPEATS) {
            self.repeat();
        }
    }

    /// Every block has gone out at least once.
    fn all_sent(&self) -> bool {
        self.end < self.fresh
    }

    pub(super) fn abort(&mut self, failure: Failure) {
        if matches!(self.state, State::Opening { .. } | State::Sending) {
            self.event = Some(Outcome::Failed(failure));
            self.state = State::Failing(failure);
            self.retry.set_deadline(None);
        }
    }

    fn close(&mut self, outcome: Outcome) {
        self.event = Some(outcome);
        self.state = State::Closed;
        self.retry.set_deadline(None);
    }

    pub(super) fn poll_transmit(&self, buf: &mut [u8]) -> Option<Transmit> {
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
            State::Sending => self.next_run().map(Transmit::Blocks),
            State::Opening { .. } | State::Closed => None,
        }
    }

    fn next_run(&self) -> Option<Run> {
        if self.pace.paused {
            return None;
        }
        let burst = self.pace.burst - self.pace.gone;
        let window = self.base.plus(self.negotiated.windowsize.into());
        self.run_up_to(window.min(self.next.plus(burst.into())))
    }

    pub(super) fn upcoming(&self) -> Option<Run> {
        match self.state {
            State::Sending => self.run_up_to(self.next.plus(self.negotiated.windowsize.into())),
            _ => None,
        }
    }

    /// The blocks from the next one on that lie before `limit`.
    fn run_up_to(&self, limit: BlockIndex) -> Option<Run> {
        let limit = limit.min(self.end.plus(1));
        let count = limit.0.saturating_sub(self.next.0);
        let count = u16::try_from(count).ok().filter(|&count| count > 0)?;
        Some(Run {
            first: self.next,
            count,
            block_size: self.negotiated.blksize,
            base: self.base,
            rollover: self.negotiated.rollover,
        })
    }

    pub(super) fn handle_sent(&mut self, now: Instant, sent: Sent) {
        match (&mut self.state, sent) {
            (State::Opening { due, .. }, Sent::Datagram) => {
                *due = false;
                if self.retry.last_sent().is_none() {
                    self.retry.sent(now);
                } else {
                    self.retransmits = self.retransmits.saturating_add(1);
                    self.retry.sent_again(now);
                }
            }
            (State::Failing(_), Sent::Datagram) => self.state = State::Closed,
            (State::Sending, Sent::Blocks { count, end }) => self.blocks_sent(now, count, end),
            _ => debug_assert!(false, "{sent:?} was not offered"),
        }
    }

    fn blocks_sent(&mut self, now: Instant, count: u16, end: bool) {
        let first = self.next;
        self.next = first.plus(count.into());
        let last = BlockIndex(self.next.0 - 1);
        if end {
            self.end = last;
        }
        if first < self.fresh {
            let again = self.fresh.min(self.next).0 - first.0;
            self.retransmits = self.retransmits.saturating_add(again as u32);
            self.timed = BlockIndex::NEVER;
            self.retry.sent_again(now);
        } else {
            self.timed = last;
            self.retry.sent(now);
        }
        self.fresh = self.fresh.max(self.next);
        self.pace.gone = self.pace.gone.saturating_add(count);
        let window = self.base.plus(self.negotiated.windowsize.into());
        if self.pace.gone >= self.pace.burst && self.next < window && self.next <= self.end {
            self.pace.paused = true;
            let pause = self.retry.round_trip().unwrap_or_default();
            let pause = pause.clamp(MIN_PAUSE, MAX_PAUSE);
            self.retry.set_deadline(Some(now + pause));
        }
        debug_assert!(self.base <= self.next && self.next <= self.fresh);
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
        matches!(self.state, State::Failing(_) | State::Closed)
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            blocks: self.base.0 - 1,
            block_size: self.negotiated.blksize,
            window_size: self.negotiated.windowsize,
            retransmits: self.retransmits.into(),
            verified: self.verified,
        }
    }
}

#[cfg(test)]
mod tests;
