//! What a transfer waits for, and until when.
//!
//! A transfer has one deadline at a time, and the deadline says what it is for:
//! so none is taken for another, and the log can tell why a session woke up. Must
//! not: read a clock.

use std::time::Instant;

/// Why [`Transfer::handle_timeout`](super::transfer::Transfer::handle_timeout)
/// wants to be called, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// Nothing is awaited.
    Idle,
    /// An answer of the peer's. What it answers is then sent again, or the
    /// transfer is given up.
    Answer {
        /// When.
        at: Instant,
    },
    /// The pause before the next burst of a window, or before a tail probe, or before a window
    /// that may have been asked for. Then that goes out.
    Burst {
        /// The end of the pause.
        until: Instant,
    },
    /// A repeat of the last DATA, should our final ACK be lost. Then the
    /// transfer is over.
    Dally {
        /// The end of dallying.
        until: Instant,
    },
}

impl Timer {
    /// When it strikes, if it runs.
    pub const fn deadline(self) -> Option<Instant> {
        match self {
            Self::Idle => None,
            Self::Answer { at: deadline }
            | Self::Burst { until: deadline }
            | Self::Dally { until: deadline } => Some(deadline),
        }
    }
}
