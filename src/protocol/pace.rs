//! How much of a window goes out at once.
//!
//! The receiver drops whatever follows a lost block, so it was sent for nothing. If much is
//! lost, the window therefore goes out in bursts with a pause of about a round trip between
//! them (20 ms at most), in which the receiver can say what is missing.
//!
//! For an unproved peer the window opens slowly: it begins with one block, and grows by one
//! with each block acknowledged. A receiver doesn't acknowledge a part of a window by
//! itself, so the last block is sent again after a round trip: a block out of order is
//! answered at once (RFC 7440 §4; U-Boot and EDK2 do so).
//!
//! After a timeout only the last block goes out again: a receiver that has everything
//! repeats its ACK, and one with a gap reports it. The whole window follows a second
//! timeout, or the first if the receiver may already have reported the gap; or a pause, if
//! an ACK may have been the report of one and no round trip is known (`nack`). In bursts the
//! second timeout sends the last block again, since it or its answer may be lost, and the
//! window follows a round trip later. One block sent again alone, after a round trip or
//! after a timeout, is a tail probe.
//!
//! For an unproved peer the first timeout sends the base, and after a pause the base again.
//! A receiver that reports each gap only once (U-Boot) may have done so already: the first
//! copy fills the gap, the second is out of order and makes it answer. If the whole file is
//! out, the second is the last block, the only one that a receiver with the whole file
//! answers.
//!
//! Must not: know which blocks these are.

use std::time::Duration;

use ProbeBlock::{Base, Last};
use Turn::{First, Second};

/// Smaller windows, in blocks, waste too little to be worth sending in bursts.
const LARGE_WINDOW: u16 = 8;

/// The spacing is an average over this many losses at most.
const MEMORY: u8 = 4;

/// The most bursts in a window: each pause costs a round trip, and no ACK comes in between
/// that would let the bursts grow.
const MAX_BURSTS: u16 = 32;

/// The value of `open` for a proved peer. An unproved one never reaches it: its window closes
/// again after a second silence, however much it has acknowledged.
const OPEN: u16 = u16::MAX;

/// The pause between two bursts: a round trip, within these bounds.
const MIN_PAUSE: Duration = Duration::from_micros(200);
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Pauses shorter than this cost little time, so there may be more of them.
const SHORT_PAUSE: Duration = Duration::from_millis(1);

/// The pause if no round trip has been measured, since every answered packet had been sent
/// twice.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(5);

fn pause(round_trip: Option<Duration>) -> Duration {
    round_trip.map_or(UNKNOWN_PAUSE, |it| it.clamp(MIN_PAUSE, MAX_PAUSE))
}

/// The least pause before the last block of a window that isn't fully open is sent again:
/// longer than the time between the two copies of a packet that the network doubled.
const MIN_BEFORE_PROBE: Duration = Duration::from_millis(5);

/// The pause before the last block of a window that isn't fully open is sent again.
fn before_probe(round_trip: Duration) -> Duration {
    round_trip.clamp(MIN_BEFORE_PROBE, MAX_PAUSE)
}

/// The bursts in which a window goes out.
#[derive(Debug)]
pub(super) struct Pace {
    /// Blocks in a burst; the whole window as long as nothing is lost.
    burst: u16,
    /// Blocks of the burst that have gone out.
    gone: u16,
    /// Losses so far, up to [`MEMORY`].
    losses: u8,
    /// Moving average of the number of blocks between two losses.
    spacing: u16,
    /// Blocks acknowledged since the last loss.
    since_loss: u16,
    /// Blocks that may be in flight; [`OPEN`] for a proved peer.
    open: u16,
    probe: TailProbe,
}

/// One block in flight that is sent again, alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TailProbe {
    /// There was no probe since the base moved.
    None,
    /// A probe is no use: the receiver may already have named the base as missing.
    Needless,
    /// A probe is due.
    Due(ProbeBlock, Turn),
    /// A probe was sent.
    Sent(ProbeBlock, Turn),
    /// No probe was answered, and the window was sent again.
    Unanswered,
}

/// Which block a tail probe sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeBlock {
    Base,
    /// The last block in flight.
    Last,
}

/// A probe may be lost, so there can be two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Second,
}

impl Pace {
    /// `opens_slowly`: the peer is unproved.
    pub(super) const fn new(opens_slowly: bool) -> Self {
        Self {
            open: if opens_slowly { 1 } else { OPEN },
            burst: u16::MAX,
            gone: 0,
            losses: 0,
            spacing: 0,
            since_loss: 0,
            probe: TailProbe::None,
        }
    }

    /// How many blocks of a window may be in flight.
    pub(super) fn window(&self, windowsize: u16) -> u16 {
        windowsize.min(self.open)
    }

    /// Blocks were acknowledged: the base moves.
    pub(super) fn acknowledged(
        &mut self,
        windowsize: u16,
        blocks: u16,
        round_trip: Option<Duration>,
    ) {
        self.since_loss = self.since_loss.saturating_add(blocks);
        self.choose_burst(windowsize, round_trip);
        if self.open < OPEN {
            self.open += blocks.min(OPEN - 1 - self.open);
        }
        self.probe = TailProbe::None;
        self.restart();
    }

    /// No answer came. Returns true if a tail probe is due, and false if the window is to be
    /// sent again. `in_flight`: the number of blocks.
    pub(super) const fn starts_probe(&mut self, in_flight: u16, windowsize: u16) -> bool {
        let opens_slowly = self.open < OPEN;
        self.probe = match self.probe {
            _ if in_flight <= 1 => TailProbe::Unanswered,
            TailProbe::None | TailProbe::Sent(Last, First) if opens_slowly => {
                TailProbe::Due(Base, First)
            }
            TailProbe::Sent(Last, First) if !self.is_whole(windowsize) => {
                TailProbe::Due(Last, Second)
            }
            TailProbe::Needless | TailProbe::Sent(Last, First) | TailProbe::Sent(Base, Second) => {
                TailProbe::Unanswered
            }
            _ => TailProbe::Due(Last, First),
        };
        let is_due = matches!(self.probe, TailProbe::Due(..));
        // A window that opens slowly starts with one block again.
        if !is_due && opens_slowly {
            self.open = 1;
        }
        is_due
    }

    /// The peer may have named the base as missing, and then may not name it again. Returns
    /// whether the window may follow a pause: once for each base, and not if it opens slowly.
    pub(super) fn gap_suspected(&mut self) -> bool {
        if self.probe == TailProbe::None && self.open == OPEN {
            self.probe = TailProbe::Needless;
        }
        self.probe == TailProbe::Needless
    }

    /// The pause is over: the next burst is due, or a tail probe if all that may be in flight
    /// `is_out`. Returns whether to send the window again instead, since no tail probe was
    /// answered, or none would be.
    pub(super) fn end_pause(&mut self, is_out: bool) -> bool {
        let sends_window = match self.probe {
            TailProbe::Sent(Last, Second) => true,
            TailProbe::Needless => is_out,
            _ => false,
        };
        self.probe = match self.probe {
            _ if sends_window => TailProbe::Unanswered,
            TailProbe::Sent(Base, First) => TailProbe::Due(Base, Second),
            _ if is_out => TailProbe::Due(Last, First),
            other => other,
        };
        self.restart();
        sends_window
    }

    /// The block that a due tail probe sends. `all_sent`: the whole file is out.
    pub(super) const fn due_probe(&self, all_sent: bool) -> Option<ProbeBlock> {
        match self.probe {
            TailProbe::Due(Base, Second) if all_sent => Some(Last),
            TailProbe::Due(block, _) => Some(block),
            _ => None,
        }
    }

    /// Blocks went out. Returns whether that was a tail probe.
    pub(super) const fn take_probe(&mut self) -> bool {
        let TailProbe::Due(block, turn) = self.probe else {
            return false;
        };
        self.probe = TailProbe::Sent(block, turn);
        true
    }

    /// How long to pause after a tail probe, until its answer can be there; then the window
    /// follows, or the base again. `None` if nothing follows.
    pub(super) fn after_probe(&self, round_trip: Option<Duration>) -> Option<Duration> {
        let round_trip = round_trip.unwrap_or_default();
        match self.probe {
            TailProbe::Sent(Last, Second) => Some(round_trip.max(MIN_PAUSE)),
            TailProbe::Sent(Base, First) => Some(before_probe(round_trip)),
            _ => None,
        }
    }

    /// Whether a tail probe has gone out since the base moved.
    pub(super) const fn has_probed(&self) -> bool {
        matches!(self.probe, TailProbe::Sent(..) | TailProbe::Due(_, Second))
    }

    /// How many blocks of the burst may go out now.
    pub(super) const fn room(&self) -> u16 {
        self.burst.saturating_sub(self.gone)
    }

    /// The peer named the base as missing: it isn't silent. But a window that opens slowly
    /// closes again if the peer was silent before, or a forger's NACK before each deadline
    /// would bring all that is open.
    pub(super) const fn nacked(&mut self) {
        if self.open < OPEN && self.has_probed_base() {
            self.open = 1;
        }
        self.probe = TailProbe::None;
    }

    const fn has_probed_base(&self) -> bool {
        matches!(
            self.probe,
            TailProbe::Sent(Base, _) | TailProbe::Due(Base, Second)
        )
    }

    /// The next block begins a burst.
    pub(super) const fn restart(&mut self) {
        self.gone = 0;
    }

    /// Blocks went out, and the window has more. Returns how long to pause, if at all: before
    /// the next burst, or before a tail probe if all that may be in flight `is_out`.
    pub(super) fn sent(
        &mut self,
        blocks: u16,
        is_out: bool,
        round_trip: Option<Duration>,
    ) -> Option<Duration> {
        self.gone = self.gone.saturating_add(blocks);
        if is_out {
            let wait = || before_probe(round_trip.unwrap_or_default());
            return (self.probe == TailProbe::None).then(wait);
        }
        (self.gone >= self.burst).then(|| pause(round_trip))
    }

    /// How long the answer to the next blocks takes if a round trip takes `round_trip`: a
    /// window that isn't fully open is answered only after its tail probe.
    pub(super) fn answer_time(&self, windowsize: u16, round_trip: Duration) -> Duration {
        if self.window(windowsize) < windowsize {
            before_probe(round_trip) + round_trip
        } else {
            round_trip
        }
    }

    /// A window is sent again, since the peer named what is missing (`is_named`) or was
    /// silent. If nothing was acknowledged since the last loss this is the same loss; and
    /// silence alone may be no loss: the peer may be pausing.
    pub(super) fn lost(&mut self, windowsize: u16, round_trip: Option<Duration>, is_named: bool) {
        if self.since_loss == 0 && (self.losses > 0 || !is_named) {
            return;
        }
        let before = u32::from(self.losses.min(MEMORY - 1));
        let sum = u32::from(self.spacing) * before + u32::from(self.since_loss);
        // An average of `u16`s fits in a `u16`.
        self.spacing = (sum / (before + 1)) as u16;
        self.losses = before as u8 + 1;
        self.since_loss = 0;
        self.choose_burst(windowsize, round_trip);
    }

    /// The whole window if it is small enough, or else equal parts of it.
    fn choose_burst(&mut self, windowsize: u16, round_trip: Option<Duration>) {
        if windowsize < LARGE_WINDOW || self.losses == 0 {
            return;
        }
        // Blocks per loss, including those since the last loss. Those alone would say
        // little: long gaps happen by luck, however much is lost.
        let spacing = self
            .spacing
            .saturating_add(self.since_loss / u16::from(self.losses));
        let most = most_at_once(spacing, pause(round_trip) < SHORT_PAUSE);
        // So many blocks without a loss that the count has reached its end.
        let is_clean = self.since_loss == u16::MAX;
        let fits = is_clean || windowsize <= most.saturating_add(most / 2);
        let bursts = if fits {
            1
        } else {
            windowsize.div_ceil(most).min(MAX_BURSTS)
        };
        self.burst = windowsize.div_ceil(bursts);
    }

    /// Blocks that went out since the last pause.
    pub(super) const fn in_last_burst(&self) -> u16 {
        self.gone
    }

    /// The window goes out without a pause.
    pub(super) const fn is_whole(&self, windowsize: u16) -> bool {
        self.burst >= windowsize
    }
}

/// Blocks to send between two pauses, if there are `spacing` blocks between two losses. Each
/// loss wastes half a burst (if the burst's last block is lost, all of the next one), and
/// that should be a tenth of the blocks needed. If much is lost, repeated blocks and NACKs
/// are lost as well, and take up more and more of that tenth. So the burst falls with the
/// square of the spacing, from 16 blocks if one in 80 is lost to two if one in 34 is. One at
/// a time would save little, and take twice as long.
///
/// Short pauses (`is_short`) take little time anyway, so bursts are smaller: down to a single
/// block if one in 39 is lost.
fn most_at_once(spacing: u16, is_short: bool) -> u16 {
    let spacing = u32::from(spacing);
    let (divisor, least) = if is_short { (800, 1) } else { (400, 2) };
    let most = (spacing / 5).min(spacing * spacing / divisor);
    // A fifth of a `u16` fits in a `u16`.
    (most as u16).max(least)
}
