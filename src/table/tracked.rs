//! What the table asks of the sessions it holds. Must not: let it see more.

use std::time::{Duration, Instant};

/// A transfer as the table sees it.
pub trait Tracked {
    /// When it wants to be woken next; `None` while it waits for nothing.
    fn deadline(&self) -> Option<Instant>;

    /// Whether it is finished or only dallying, with nothing left to send, so that any
    /// request of its endpoint may take its place.
    fn is_over(&self) -> bool;

    /// Whether all has been sent and only the last answer is missing, which many clients
    /// never send.
    fn lacks_last_ack(&self) -> bool;

    /// Since when its peer has owed its first answer; `None` once it has come.
    /// Until then the peer may be somebody else's forgery.
    fn unverified_since(&self) -> Option<Instant>;

    /// Descriptors that only this transfer uses: of its port, and of a file that it
    /// writes. A file that it reads is counted once for all transfers that read it: see
    /// [`Sessions::set_open_files`](super::Sessions::set_open_files).
    fn descriptors(&self) -> usize;

    /// Whether its end frees a descriptor: one of its own, or that of an open file
    /// which no other transfer reads.
    fn frees_descriptor(&self) -> bool;

    /// Since when its peer has had something to answer and has not moved the
    /// transfer on, whatever else it sent; `None` while it is our turn (the disk
    /// is slow, the socket full).
    fn quiet_since(&self) -> Option<Instant>;

    /// How long its peer usually takes to answer, once that has been measured.
    fn round_trip(&self) -> Option<Duration>;
}
