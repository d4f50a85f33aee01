//! How long a peer takes to answer: the round trip, and the slowest of its recent answers.
//!
//! Must not: decide when to send again.

use std::num::NonZeroU32;
use std::time::Duration;

use super::compact::Micros;

/// Answers until repeats may come earlier than a negotiated wait: the OACK and the first
/// three DATA or windows keep it. Few, since each of these costs a boot loader that wait if
/// it is lost, and a wrong guess costs only a few needless DATA. Not fewer, since a test of
/// whether `timeout` is kept looks at the first packets.
pub(super) const KNOWN_ANSWERS: u8 = 4;

/// An answer that comes this late may be a repeat: the first was lost, and the peer's own
/// timer, which expires after a second or more, sent it again.
const PEERS_OWN_TIMER: Duration = Duration::from_millis(990);

/// The slowest of at least this many of the last answers is remembered, and of at most twice
/// as many.
pub(super) const SLOW_MEMORY: u8 = 64;

/// Answers as late as [`PEERS_OWN_TIMER`] are put down to lost packets while they are rare:
/// at most one in this many of those counted now (but always the first), and at most
/// [`MOST_LATE_BY_LOSS`]. A peer that is busy for a second just as rarely gets a few needless
/// repeats each time.
const LATE_BY_LOSS: u8 = 16;
const MOST_LATE_BY_LOSS: u8 = 3;

/// Smoothed round trip and its variation (RFC 6298 §2), in microseconds. Small, since every
/// session has both.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoundTrip {
    pub(super) smoothed: NonZeroU32,
    variation: u32,
}

impl RoundTrip {
    /// §2.2: the first measurement.
    pub(super) fn first(sample: u32) -> Self {
        Self {
            smoothed: NonZeroU32::new(sample).unwrap_or(NonZeroU32::MIN),
            variation: sample / 2,
        }
    }

    /// §2.3: alpha = 1/8, beta = 1/4.
    pub(super) fn update(self, sample: u32) -> Self {
        let smoothed = self.smoothed.get();
        let difference = smoothed.abs_diff(sample);
        Self {
            smoothed: NonZeroU32::new(smoothed - smoothed / 8 + sample / 8)
                .unwrap_or(NonZeroU32::MIN),
            variation: self.variation - self.variation / 4 + difference / 4,
        }
    }

    pub(super) fn timeout(self) -> Micros {
        let variation = self.variation.saturating_mul(4);
        Micros(self.smoothed.get().saturating_add(variation))
    }
}

/// The slowest recent answer. A peer that was busy now and then (writing flash) will be
/// again, and earlier repeats would be needless.
#[derive(Debug)]
pub(super) struct Slowest {
    /// The slowest of the answers counted now.
    current: Micros,
    /// The slowest of the [`SLOW_MEMORY`] answers before those.
    previous: Micros,
    count: u8,
    /// All answers, also those to a repeat; up to [`KNOWN_ANSWERS`].
    pub(super) seen: u8,
    /// Answers among those counted now that were put down to lost packets.
    late: u8,
}

impl Slowest {
    pub(super) const fn none() -> Self {
        Self {
            current: Micros(0),
            previous: Micros(0),
            count: 0,
            seen: 0,
            late: 0,
        }
    }

    pub(super) const fn see(&mut self) {
        if self.seen < KNOWN_ANSWERS {
            self.seen += 1;
        }
    }

    /// Returns whether the peer itself took that long, as far as we can tell.
    pub(super) fn learn(&mut self, answer: Micros) -> bool {
        if self.count == SLOW_MEMORY {
            self.previous = self.current;
            self.current = Micros(0);
            self.count = 0;
            self.late = 0;
        }
        self.count += 1;
        let is_rare = self.late < MOST_LATE_BY_LOSS && self.late * LATE_BY_LOSS < self.count;
        if answer >= Micros::of(PEERS_OWN_TIMER) && is_rare {
            self.late += 1;
            return false;
        }
        self.current = self.current.max(answer);
        true
    }

    /// The wait within which an answer as slow as the slowest still comes.
    pub(super) fn wait(&self) -> Micros {
        let slowest = self.current.max(self.previous).0;
        Micros(slowest.saturating_add(slowest / 4))
    }
}
