//! How much of a window goes out at once.
//!
//! What is sent after a lost block is sent for nothing: the receiver drops it.
//! So where too much would be wasted, the window goes out in bursts with a round
//! trip between them, in which the receiver can tell what is missing.
//!
//! And where nothing proves the peer the window opens slowly: with one block,
//! and by one more with each block acknowledged. A receiver acknowledges no part
//! of a window by itself, so the last block is sent again after a round trip: a
//! block out of order is answered at once (RFC 7440 §4, and U-Boot and EDK2 do).
//!
//! After silence the last block goes out alone: a receiver that has all
//! acknowledges again, and one with a gap names it. The whole window only follows
//! a second silence. One block sent again like this, after a round trip or after
//! silence, is a nudge.
//!
//! Must not: know which blocks these are.

use std::time::Duration;

/// Smaller windows, in blocks, waste too little to be sent in bursts.
const LARGE_WINDOW: u16 = 8;

/// The smallest burst, in blocks: the pauses between smaller ones would cost more
/// time than the blocks they save.
const MIN_BURST: u16 = 4;

/// Credit for wasted blocks, in eighths of a window: each window that arrives whole earns
/// one, up to this many. Half of it is there from the start, and lets bursts grow again:
/// a loss now and then costs less time than bursts.
const MAX_CREDIT: u8 = 16;
const EIGHTHS: u16 = 8;

/// What is open towards a peer that an answer proves. No other gets there: its window
/// closes again after silence, however much it has acknowledged.
const OPEN: u16 = u16::MAX;

/// The pause between two bursts: a round trip, within these bounds.
const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// The least pause before the last block of a window that isn't open yet is sent again:
/// longer than a network takes to deliver a packet twice.
const MIN_NUDGE: Duration = Duration::from_millis(5);

/// How long the last block of a window that isn't open yet waits before it is sent again.
fn before_nudge(round_trip: Duration) -> Duration {
    round_trip.clamp(MIN_NUDGE, MAX_PAUSE)
}

/// The bursts in which a window goes out.
#[derive(Debug)]
pub(super) struct Pace {
    /// Blocks in a burst; the whole window where nothing is lost.
    burst: u16,
    /// Blocks of the burst that have gone out.
    gone: u16,
    /// What may yet be sent for nothing, see [`MAX_CREDIT`].
    credit: u8,
    /// Blocks that may be in flight; [`OPEN`] where an answer is proof.
    open: u16,
    nudge: Nudge,
}

/// The last block that went out, to be sent again alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nudge {
    /// There was none since the base moved.
    None,
    Due,
    Sent,
    /// It brought nothing, and the window was sent again.
    InVain,
}

impl Pace {
    /// The pace towards a peer whose answers prove nothing, or any other.
    pub(super) const fn new(opens_slowly: bool) -> Self {
        Self {
            open: if opens_slowly { 1 } else { OPEN },
            burst: u16::MAX,
            gone: 0,
            credit: MAX_CREDIT / 2,
            nudge: Nudge::None,
        }
    }

    /// How much of a window may be in flight.
    pub(super) fn window(&self, windowsize: u16) -> u16 {
        windowsize.min(self.open)
    }

    /// Blocks were acknowledged, so that the base moved.
    pub(super) fn acknowledged(&mut self, blocks: u16) {
        if self.open < OPEN {
            self.open += blocks.min(OPEN - 1 - self.open);
        }
        self.nudge = Nudge::None;
        self.restart();
    }

    /// No answer came. Returns whether the last of the blocks `in_flight` is to
    /// be sent again, and not the window.
    pub(super) const fn nudges(&mut self, in_flight: u16) -> bool {
        let nudges = in_flight > 1 && !matches!(self.nudge, Nudge::Sent);
        self.nudge = if nudges { Nudge::Due } else { Nudge::InVain };
        // Where it opens slowly it does so from the start again.
        if !nudges && self.open < OPEN {
            self.open = 1;
        }
        nudges
    }

    /// The pause is over: the next burst is due, or the last block again, if all
    /// that is open `is_out`.
    pub(super) const fn end_pause(&mut self, is_out: bool) {
        if is_out {
            self.nudge = Nudge::Due;
        }
        self.restart();
    }

    /// The last block is due, alone.
    pub(super) const fn nudge_is_due(&self) -> bool {
        matches!(self.nudge, Nudge::Due)
    }

    /// It went out, if it was due.
    pub(super) const fn take_nudge(&mut self) -> bool {
        let was_due = self.nudge_is_due();
        if was_due {
            self.nudge = Nudge::Sent;
        }
        was_due
    }

    /// The last block has gone out again, alone, since the base moved.
    pub(super) const fn has_nudged(&self) -> bool {
        matches!(self.nudge, Nudge::Sent)
    }

    /// How many blocks of the burst may go out now.
    pub(super) const fn room(&self) -> u16 {
        self.burst.saturating_sub(self.gone)
    }

    /// The peer named the base as missing: it isn't silent.
    pub(super) const fn nacked(&mut self) {
        self.nudge = Nudge::None;
    }

    /// The next block begins a burst.
    pub(super) const fn restart(&mut self) {
        self.gone = 0;
    }

    /// Blocks went out, and the window has more. Returns how long to pause before
    /// those, if at all: for the next burst, or, if all that is open `is_out`,
    /// before the last block is sent again.
    pub(super) fn sent(
        &mut self,
        blocks: u16,
        is_out: bool,
        round_trip: Option<Duration>,
    ) -> Option<Duration> {
        self.gone = self.gone.saturating_add(blocks);
        let round_trip = round_trip.unwrap_or_default();
        if is_out {
            return (self.nudge == Nudge::None).then(|| before_nudge(round_trip));
        }
        (self.gone >= self.burst).then(|| round_trip.clamp(MIN_PAUSE, MAX_PAUSE))
    }

    /// How long the answer to what goes out next takes, where a `round_trip` is that long:
    /// a window that isn't open yet is answered behind its nudge.
    pub(super) fn answer_time(&self, windowsize: u16, round_trip: Duration) -> Duration {
        if self.window(windowsize) < windowsize {
            before_nudge(round_trip) + round_trip
        } else {
            round_trip
        }
    }

    /// All that was out arrived.
    pub(super) const fn window_arrived(&mut self, windowsize: u16) {
        if self.credit < MAX_CREDIT {
            self.credit += 1;
        }
        if self.credit >= MAX_CREDIT / 2 {
            self.burst = match self.burst.saturating_mul(2) {
                burst if burst < windowsize => burst,
                _ => u16::MAX,
            };
        }
    }

    /// Something of a window was lost, so that so many blocks are sent again.
    pub(super) fn window_lost(&mut self, windowsize: u16, again: u16) {
        if windowsize < LARGE_WINDOW {
            return;
        }
        let cost = (u32::from(again) * u32::from(EIGHTHS)).div_ceil(windowsize.into());
        let cost = u8::try_from(cost).unwrap_or(u8::MAX);
        if self.credit < cost {
            self.burst = (self.burst.min(windowsize) / 2).max(MIN_BURST);
        }
        self.credit = self.credit.saturating_sub(cost);
    }
}
