//! The rule for a request from an endpoint that already has a transfer: what it means
//! for that transfer is decided only here. The transfer decides whether a repeat is
//! answered once more (after 100 ms, if nothing came back): `REQUEST_MERGE` in
//! `protocol::contract`, and `protocol::exchange`. A complete upload isn't over while a
//! full port holds back its final ACK.
//!
//! ```text
//!                      the same request            another request
//!   over or dallying   Replaces                    Replaces
//!   never answered     Repeated                    Moving, then Replaces after a moment
//!   moves              Repeated                    Moving
//!   quiet              StartsOver after 1 s, and   Replaces after a moment
//!                      at least a moment
//! ```
//!
//! A moment: 200 ms, or 4 round trips if that is longer. `Repeated`: our answer may be
//! sent once more, while the client hasn't answered it; a transfer that moves isn't
//! changed. `StartsOver` and `Replaces`: the request is settled as any other is, and a
//! refusal leaves the old transfer alone. The old one ends when the new one is ready to
//! start, or earlier if its descriptor or port is needed for that. `Moving`: dropped,
//! so that nobody ends a running transfer by guessing its port; a client that means it
//! asks again.
//!
//! Some clients use one port for everything: tftp-hpa's prompt, lPXELINUX, boards that
//! were reset. Must not: know what a transfer does.

use std::time::{Duration, Instant};

use super::tracked::Tracked;

/// A client that repeats the request of a transfer that has been quiet for this long
/// has started over (a board that was reset, whose boot ROM always uses the same port).
pub const RESTART: Duration = Duration::from_secs(1);

/// A transfer that hasn't moved for this long, and for [`MOMENT_ROUND_TRIPS`],
/// gives way to another request of its client.
pub const MOMENT: Duration = Duration::from_millis(200);

/// See [`MOMENT`].
pub const MOMENT_ROUND_TRIPS: u32 = 4;

/// What a request means for the transfer that its endpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Repeated,
    StartsOver,
    Replaces,
    Moving,
}

/// The rule: `is_same` tells whether it is the request that the transfer was
/// started with.
pub(super) fn judge(transfer: &impl Tracked, is_same: bool, now: Instant) -> Repeat {
    let quiet = transfer
        .quiet_since()
        .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
    let round_trip = transfer.round_trip().unwrap_or_default();
    let moment = MOMENT.max(round_trip * MOMENT_ROUND_TRIPS);
    let is_verified = transfer.unverified_since().is_none();
    match is_same {
        _ if transfer.is_over() => Repeat::Replaces,
        true if is_verified && quiet >= RESTART.max(moment) => Repeat::StartsOver,
        true => Repeat::Repeated,
        false if quiet >= moment => Repeat::Replaces,
        false => Repeat::Moving,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Transfer {
        over: bool,
        verified: bool,
        quiet_since: Option<Instant>,
        round_trip: Option<Duration>,
    }

    impl Tracked for Transfer {
        fn deadline(&self) -> Option<Instant> {
            None
        }

        fn is_over(&self) -> bool {
            self.over
        }

        fn lacks_last_ack(&self) -> bool {
            false
        }

        fn unverified_since(&self) -> Option<Instant> {
            if self.verified {
                None
            } else {
                self.quiet_since
            }
        }

        fn descriptors(&self) -> usize {
            1
        }

        fn frees_descriptor(&self) -> bool {
            true
        }

        fn quiet_since(&self) -> Option<Instant> {
            self.quiet_since
        }

        fn round_trip(&self) -> Option<Duration> {
            self.round_trip
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an Instant has no other source")]
    fn a_duplicate_request_changes_nothing_while_the_transfer_moves() {
        use Repeat::{Moving, Repeated, Replaces, StartsOver};

        const NO: bool = false;
        let start = Instant::now();
        for (over, verified, round_trip, quiet, same, another) in [
            // A transfer that moves.
            (NO, true, None, 0, Repeated, Moving),
            (NO, true, None, 199, Repeated, Moving),
            // It hasn't moved for a moment.
            (NO, true, None, 200, Repeated, Replaces),
            (NO, true, Some(20), 200, Repeated, Replaces),
            (NO, true, None, 999, Repeated, Replaces),
            // A slow path: a moment is longer.
            (NO, true, Some(100), 399, Repeated, Moving),
            (NO, true, Some(100), 400, Repeated, Replaces),
            (NO, true, Some(600), 2399, Repeated, Moving),
            (NO, true, Some(600), 2400, StartsOver, Replaces),
            // A board that was reset.
            (NO, true, None, 1000, StartsOver, Replaces),
            // Its first answer has not come: the opening is only repeated.
            (NO, NO, None, 0, Repeated, Moving),
            (NO, NO, None, 199, Repeated, Moving),
            (NO, NO, None, 5000, Repeated, Replaces),
            // Dallying.
            (true, true, None, 0, Replaces, Replaces),
        ] {
            let transfer = Transfer {
                over,
                verified,
                quiet_since: Some(start),
                round_trip: round_trip.map(Duration::from_millis),
            };
            let now = start + Duration::from_millis(quiet);
            let context =
                format!("over {over}, verified {verified}, {round_trip:?}, quiet {quiet}");
            assert_eq!(judge(&transfer, true, now), same, "the same: {context}");
            assert_eq!(judge(&transfer, false, now), another, "another: {context}");
        }
        let waits_for_us = Transfer {
            over: false,
            verified: true,
            quiet_since: None,
            round_trip: None,
        };
        let late = start + Duration::from_secs(100);
        assert_eq!(judge(&waits_for_us, true, late), Repeated, "the disk");
        assert_eq!(judge(&waits_for_us, false, late), Moving, "the disk");
    }
}
