//! What a transfer waits for, and until when.
//!
//! A transfer has one deadline at a time, and the deadline says what it is for. So no
//! deadline is mistaken for another, and the log can tell why a session woke up.
//!
//! Must not: read a clock.

use std::time::Instant;

/// Why [`Transfer::handle_timeout`](super::transfer::Transfer::handle_timeout)
/// wants to be called, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// Nothing is awaited.
    Idle,
    /// The peer's answer. If none has come by then, what it would answer is sent again,
    /// or the transfer is given up.
    Answer {
        /// The end of the wait.
        at: Instant,
    },
    /// A pause. Then the next burst of a window goes out, or a tail probe, or a window that
    /// a NACK may have asked for.
    Burst {
        /// The end of the pause.
        until: Instant,
    },
    /// A repeat of the last DATA, in case our final ACK was lost. Then the transfer is
    /// over.
    Dally {
        /// The end of dallying.
        until: Instant,
    },
}

impl Timer {
    /// When the timer expires, if it runs.
    pub const fn deadline(self) -> Option<Instant> {
        match self {
            Self::Idle => None,
            Self::Answer { at: deadline }
            | Self::Burst { until: deadline }
            | Self::Dally { until: deadline } => Some(deadline),
        }
    }
}
