//! How much of a window goes out at once.
//!
//! What is sent behind a lost block is sent for nothing: the receiver drops it.
//! So where blocks are lost again and again, the window goes out in bursts with
//! a round trip between them, in which the receiver can tell what is missing.
//! Must not: know which blocks these are.

use std::time::Duration;

/// Smaller windows, in blocks, waste too little to be sent in bursts.
const LARGE_WINDOW: u16 = 8;

/// The smallest burst, in blocks: the pauses between smaller ones would cost more
/// time than the blocks they save.
const MIN_BURST: u16 = 4;

/// Two losses within this many windows are a pattern.
const LOSS_MEMORY: u8 = 8;

/// The pause between two bursts: a round trip, within these bounds.
const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// The bursts in which a window goes out.
#[derive(Debug)]
pub(super) struct Pace {
    /// Blocks in a burst; the whole window where nothing is lost.
    burst: u16,
    /// Blocks of the burst that have gone out.
    gone: u16,
    /// Windows since the last loss.
    clean: u8,
    /// The next burst waits for the end of the pause, or for an ACK.
    paused: bool,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self {
            burst: u16::MAX,
            gone: 0,
            clean: u8::MAX,
            paused: false,
        }
    }

    /// How many blocks may go out now.
    pub(super) const fn room(&self) -> u16 {
        if self.paused {
            0
        } else {
            self.burst - self.gone
        }
    }

    /// The next block begins a burst.
    pub(super) const fn restart(&mut self) {
        self.gone = 0;
        self.paused = false;
    }

    /// Blocks went out, and the window has more. Returns how long to pause
    /// before those, if at all; `round_trip` is the one measured.
    pub(super) fn sent(
        &mut self,
        blocks: u16,
        more: bool,
        round_trip: Option<Duration>,
    ) -> Option<Duration> {
        self.gone = self.gone.saturating_add(blocks);
        if self.gone < self.burst || !more {
            return None;
        }
        self.paused = true;
        Some(round_trip.unwrap_or_default().clamp(MIN_PAUSE, MAX_PAUSE))
    }

    /// A whole window arrived.
    pub(super) const fn window_arrived(&mut self, windowsize: u16) {
        self.clean = self.clean.saturating_add(1);
        if self.clean >= LOSS_MEMORY {
            self.burst = match self.burst.saturating_mul(2) {
                burst if burst < windowsize => burst,
                _ => u16::MAX,
            };
        }
    }

    /// Something of a window was lost. Once is no pattern.
    pub(super) fn window_lost(&mut self, windowsize: u16) {
        if self.clean < LOSS_MEMORY && windowsize >= LARGE_WINDOW {
            self.burst = (self.burst.min(windowsize) / 2).max(MIN_BURST);
        }
        self.clean = 0;
    }
}
