//! How much of a window goes out at once.
//!
//! What is sent after a lost block is sent for nothing: the receiver drops it.
//! So where much is lost the window goes out in bursts with a pause of about a
//! round trip between them (20 ms at most), in which the receiver can tell what is missing.
//!
//! And where nothing proves the peer the window opens slowly: with one block,
//! and by one more with each block acknowledged. A receiver acknowledges no part
//! of a window by itself, so the last block is sent again after a round trip: a
//! block out of order is answered at once (RFC 7440 §4, and U-Boot and EDK2 do).
//!
//! After silence the last block goes out alone: a receiver that has all
//! acknowledges again, and one with a gap names it. The whole window only follows
//! a second silence, or the first where the receiver may have named a gap already. In
//! bursts the last block, which may well have been lost like its answer, goes out once more,
//! and the window after a round trip. One block sent again like this, after a round trip or
//! after silence, is a tail probe.
//!
//! Where nothing proves the peer the first silence brings the base instead, and after a
//! pause the base again. A receiver that names each gap once (U-Boot) may have named this
//! one when a tail probe came. It stays silent until a block is new to it: the first copy fills
//! the gap, the second is out of order and makes it answer. Where the whole file is out the
//! second is the last block: a receiver that has all of it answers no other.
//!
//! Must not: know which blocks these are.

use std::time::Duration;

use ProbeBlock::{Base, Last};
use Turn::{First, Second};

/// Smaller windows, in blocks, waste too little to be sent in bursts.
const LARGE_WINDOW: u16 = 8;

/// The spacing is the average of the last few losses, so many at most.
const MEMORY: u8 = 4;

/// The most bursts in a window: each pause costs a round trip, and nothing is acknowledged
/// in between that would tell that bursts may grow.
const MAX_BURSTS: u16 = 32;

/// What is open towards a peer that an answer proves. No other gets there: its window
/// closes again after a second silence, however much it has acknowledged.
const OPEN: u16 = u16::MAX;

/// The pause between two bursts: a round trip, within these bounds.
const MIN_PAUSE: Duration = Duration::from_micros(200);
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Pauses shorter than this cost little time, so that there may be more of them.
const SHORT_PAUSE: Duration = Duration::from_millis(1);

/// Where none has been measured, since all that was answered had been sent twice.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(5);

fn pause(round_trip: Option<Duration>) -> Duration {
    round_trip.map_or(UNKNOWN_PAUSE, |it| it.clamp(MIN_PAUSE, MAX_PAUSE))
}

/// The least pause before the last block of a window that isn't open yet is sent again:
/// longer than a network takes to deliver a packet twice.
const MIN_BEFORE_PROBE: Duration = Duration::from_millis(5);

/// How long the last block of a window that isn't open yet waits before it is sent again.
fn before_probe(round_trip: Duration) -> Duration {
    round_trip.clamp(MIN_BEFORE_PROBE, MAX_PAUSE)
}

/// The bursts in which a window goes out.
#[derive(Debug)]
pub(super) struct Pace {
    /// Blocks in a burst; the whole window where nothing is lost.
    burst: u16,
    /// Blocks of the burst that have gone out.
    gone: u16,
    /// Losses so far, no more than [`MEMORY`].
    losses: u8,
    /// Moving average of the blocks before each of them.
    spacing: u16,
    /// Blocks acknowledged since the last loss.
    since_loss: u16,
    /// Blocks that may be in flight; [`OPEN`] where an answer is proof.
    open: u16,
    probe: TailProbe,
}

/// One block in flight that goes out again, alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TailProbe {
    /// There was none since the base moved.
    None,
    /// It would be in vain: the base may have been named as missing already.
    Needless,
    /// It is to go out …
    Due(ProbeBlock, Turn),
    /// … or has.
    Sent(ProbeBlock, Turn),
    /// It brought nothing, and the window was sent again.
    InVain,
}

/// Which block that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeBlock {
    Base,
    /// The last one of those out.
    Last,
}

/// It may have been lost, so it goes out once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Second,
}

impl Pace {
    /// The pace towards a peer whose answers prove nothing, or any other.
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

    /// How much of a window may be in flight.
    pub(super) fn window(&self, windowsize: u16) -> u16 {
        windowsize.min(self.open)
    }

    /// Blocks were acknowledged, so that the base moved.
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

    /// No answer came. Returns whether one of the blocks `in_flight` is to be sent again,
    /// and not the window.
    pub(super) const fn starts_probe(&mut self, in_flight: u16, windowsize: u16) -> bool {
        let opens_slowly = self.open < OPEN;
        self.probe = match self.probe {
            _ if in_flight <= 1 => TailProbe::InVain,
            TailProbe::None | TailProbe::Sent(Last, First) if opens_slowly => {
                TailProbe::Due(Base, First)
            }
            TailProbe::Sent(Last, First) if !self.is_whole(windowsize) => {
                TailProbe::Due(Last, Second)
            }
            TailProbe::Needless | TailProbe::Sent(Last, First) | TailProbe::Sent(Base, Second) => {
                TailProbe::InVain
            }
            _ => TailProbe::Due(Last, First),
        };
        let is_due = matches!(self.probe, TailProbe::Due(..));
        // Where it opens slowly it does so from the start again.
        if !is_due && opens_slowly {
            self.open = 1;
        }
        is_due
    }

    /// The peer may have named the base as missing, and if so may not name it again. Returns
    /// whether the window may follow a pause: once for each base, and not where it opens
    /// slowly.
    pub(super) fn gap_suspected(&mut self) -> bool {
        if self.probe == TailProbe::None && self.open == OPEN {
            self.probe = TailProbe::Needless;
        }
        self.probe == TailProbe::Needless
    }

    /// The pause is over: the next burst is due, or the last block again, if all
    /// that is open `is_out`. Returns whether it is the window that is to be sent again,
    /// since no tail probe was answered, or none would be.
    pub(super) fn end_pause(&mut self, is_out: bool) -> bool {
        let is_in_vain = match self.probe {
            TailProbe::Sent(Last, Second) => true,
            TailProbe::Needless => is_out,
            _ => false,
        };
        self.probe = match self.probe {
            _ if is_in_vain => TailProbe::InVain,
            TailProbe::Sent(Base, First) => TailProbe::Due(Base, Second),
            _ if is_out => TailProbe::Due(Last, First),
            other => other,
        };
        self.restart();
        is_in_vain
    }

    /// Which block is due, alone; `all_sent`: the whole file is out.
    pub(super) const fn due_probe(&self, all_sent: bool) -> Option<ProbeBlock> {
        match self.probe {
            TailProbe::Due(Base, Second) if all_sent => Some(Last),
            TailProbe::Due(block, _) => Some(block),
            _ => None,
        }
    }

    /// It went out, if it was due.
    pub(super) const fn take_probe(&mut self) -> bool {
        let TailProbe::Due(block, turn) = self.probe else {
            return false;
        };
        self.probe = TailProbe::Sent(block, turn);
        true
    }

    /// How long to pause before the window follows the tail probe, or the base once more, if
    /// anything does: until the answer may be there.
    pub(super) fn after_probe(&self, round_trip: Option<Duration>) -> Option<Duration> {
        let round_trip = round_trip.unwrap_or_default();
        match self.probe {
            TailProbe::Sent(Last, Second) => Some(round_trip.max(MIN_PAUSE)),
            TailProbe::Sent(Base, First) => Some(before_probe(round_trip)),
            _ => None,
        }
    }

    /// A block has gone out again, alone, since the base moved.
    pub(super) const fn has_probed(&self) -> bool {
        matches!(self.probe, TailProbe::Sent(..) | TailProbe::Due(_, Second))
    }

    /// How many blocks of the burst may go out now.
    pub(super) const fn room(&self) -> u16 {
        self.burst.saturating_sub(self.gone)
    }

    /// The peer named the base as missing: it isn't silent. But what opens slowly closes
    /// if it was, or a NACK before each deadline would bring all that is open.
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
        if is_out {
            let wait = || before_probe(round_trip.unwrap_or_default());
            return (self.probe == TailProbe::None).then(wait);
        }
        (self.gone >= self.burst).then(|| pause(round_trip))
    }

    /// How long the answer to what goes out next takes, where a `round_trip` is that long:
    /// a window that isn't open yet is answered behind its tail probe.
    pub(super) fn answer_time(&self, windowsize: u16, round_trip: Duration) -> Duration {
        if self.window(windowsize) < windowsize {
            before_probe(round_trip) + round_trip
        } else {
            round_trip
        }
    }

    /// A window is sent again, since the peer named what is missing (`is_named`) or was
    /// silent. Where nothing was acknowledged since the last loss it is the same one; and
    /// silence alone may be none: a peer that pauses is silent for long.
    pub(super) fn lost(&mut self, windowsize: u16, round_trip: Option<Duration>, is_named: bool) {
        if self.since_loss == 0 && (self.losses > 0 || !is_named) {
            return;
        }
        let before = u32::from(self.losses.min(MEMORY - 1));
        let sum = u32::from(self.spacing) * before + u32::from(self.since_loss);
        // An average of `u16`s fits in one.
        self.spacing = (sum / (before + 1)) as u16;
        self.losses = before as u8 + 1;
        self.since_loss = 0;
        self.choose_burst(windowsize, round_trip);
    }

    /// The whole window if it fits, or else equal parts of it.
    fn choose_burst(&mut self, windowsize: u16, round_trip: Option<Duration>) {
        if windowsize < LARGE_WINDOW || self.losses == 0 {
            return;
        }
        // Blocks for each loss, those since the last one among them. To go by the latter
        // alone would mean to trust in luck: however much is lost, there are long gaps.
        let spacing = self
            .spacing
            .saturating_add(self.since_loss / u16::from(self.losses));
        let most = most_at_once(spacing, pause(round_trip) < SHORT_PAUSE);
        // So many blocks without a loss that they aren't counted any further.
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

/// Blocks to send between two pauses, where so many lie between two losses. Each loss
/// wastes half a burst (if its last block is lost, all of the next one), and that is to
/// be a tenth of what is needed. Where much is lost, blocks sent again and NACKs
/// are lost as well, which takes up more and more of that tenth: so the burst falls
/// with the square, from 16 blocks where one in 80 is lost to two where one in 34 is. One
/// at a time would save little, and take twice as long.
///
/// Where pauses are short they take little time anyway: bursts are smaller, down to a
/// single block where one in 39 is lost.
fn most_at_once(spacing: u16, is_short: bool) -> u16 {
    let spacing = u32::from(spacing);
    let (divisor, least) = if is_short { (800, 1) } else { (400, 2) };
    let most = (spacing / 5).min(spacing * spacing / divisor);
    // A fifth of a `u16`.
    (most as u16).max(least)
}
