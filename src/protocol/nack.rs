//! What an ACK of the block before the base means; the base is the first block in flight.
//!
//! It can be a NACK: the first block of the window is missing (RFC 7440 §4, as U-Boot,
//! barebox and EDK2 do it; in lockstep, a client whose own timer expired). Or it is an
//! echo, a mere duplicate, and answering echoes doubles every packet to the end (RFC 1123
//! §4.2.3.1, the Sorcerer's Apprentice). An echo comes from
//!
//! - a packet that the network doubled: within a quarter of the fastest round trip (5 ms
//!   if none is known), sooner than any answer to the window;
//! - blocks still in flight when the base moved: within three quarters of a round trip,
//!   and never after a whole round trip without DATA;
//! - a block sent twice: if the base moves sooner after a repeat than an answer can
//!   arrive, the first copy had arrived, and the second will be acknowledged too. The same
//!   holds for a tail probe that crossed the ACK of its window. In both cases, and after
//!   three bases in a row that moved only after a repeat, no such ACK counts as a NACK
//!   until the window times out.
//!
//! In lockstep an ACK counts as a NACK from 0.99 s after the DATA on, or from a round trip
//! after it, if that is longer.
//!
//! An ACK that comes too soon uses nothing up: the next one may still be the NACK. It may
//! even have been the NACK, if the only round trip measured was at a busy moment; so the
//! next timeout comes earlier than a long negotiated wait (`retry`). If no round trip has
//! been measured at all, a proved peer's ACK counts as the NACK, unless the base moves
//! within a quarter of a second.
//!
//! Must not: send anything.

use std::time::{Duration, Instant};

use super::retry::{ADAPTIVE_FLOOR, RetryTimer};

/// In lockstep an ACK is a NACK only this long after the DATA left. Any echo comes sooner;
/// a client asks again a second after its ACK, which it sent a little before the DATA left.
pub(super) const LOCKSTEP_NACK: Duration = Duration::from_millis(990);

/// With no round trip known, an ACK that came too soon was the NACK if nothing answers the
/// window for this long after it left: few networks take longer.
pub(super) const UNMEASURED_NACK: Duration = Duration::from_millis(250);

/// After this many bases in a row that moved only after a repeat the known round trip may be
/// out of date, and no longer tells an echo from a NACK.
const MAX_UNMEASURED: u8 = 3;

/// Whether an ACK at `now` comes too soon to answer what was sent last. True if no round
/// trip is known.
pub(super) fn is_too_soon(now: Instant, retry: &RetryTimer) -> bool {
    match (retry.round_trip(), retry.last_sent()) {
        (Some(round_trip), Some(sent)) => now < sent + round_trip * 3 / 4,
        _ => true,
    }
}

/// Whether an ACK of the block before the base would be a NACK now.
#[derive(Debug, Default)]
pub(super) struct Nacks {
    state: State,
    /// Bases in a row that moved after a repeat.
    unmeasured: u8,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No NACK has come.
    #[default]
    Open,
    /// No NACK has come, but blocks from the base on were in flight when it moved.
    Trailing,
    /// Any ACK that comes may be an echo, however late.
    Echoing,
    /// A NACK was answered.
    Spent,
}

impl Nacks {
    /// The base moves at `now`; `retry` hasn't been told yet. `trailing`: blocks from the
    /// new base on are in flight.
    pub(super) fn base_moves(
        &mut self,
        now: Instant,
        retry: &RetryTimer,
        lockstep: bool,
        trailing: bool,
    ) {
        self.state = if trailing {
            State::Trailing
        } else {
            State::Open
        };
        if !retry.is_repeated() {
            self.unmeasured = 0;
            return;
        }
        self.unmeasured = self.unmeasured.saturating_add(1);
        let too_soon = is_too_soon(now, retry);
        // In lockstep the time tells an echo from a NACK, unless the network is slower.
        let by_time = lockstep && retry.round_trip() < Some(LOCKSTEP_NACK);
        if !by_time && (too_soon || self.unmeasured >= MAX_UNMEASURED) {
            self.state = State::Echoing;
        }
    }

    /// An echo may come as late as any NACK.
    pub(super) const fn expect_echo(&mut self) {
        self.state = State::Echoing;
    }

    /// A pause ended at `now`. If nothing was sent for a round trip, all blocks that were in
    /// flight when the base moved have been answered.
    pub(super) fn after_pause(&mut self, now: Instant, retry: &RetryTimer) {
        if let (State::Trailing, Some(round_trip), Some(sent)) =
            (self.state, retry.round_trip(), retry.last_sent())
            && now >= sent + round_trip
        {
            self.state = State::Open;
        }
    }

    /// The deadline passed without an answer: an ACK that comes from now on is no echo.
    pub(super) const fn after_silence(&mut self) {
        self.state = State::Open;
    }

    /// The block before the base was acknowledged again at `now`. Returns whether that is a
    /// NACK: at most once for each base and each silence.
    pub(super) fn take_nack(&mut self, now: Instant, retry: &RetryTimer, lockstep: bool) -> bool {
        let can_be = matches!(self.state, State::Open | State::Trailing);
        let Some(sent) = retry.last_sent().filter(|_| can_be) else {
            return false;
        };
        let round_trip = retry.round_trip().unwrap_or(ADAPTIVE_FLOOR);
        let fastest = retry.fastest().unwrap_or(ADAPTIVE_FLOOR);
        let answered_after = match (lockstep, self.state) {
            (true, _) => round_trip.max(LOCKSTEP_NACK),
            (false, State::Trailing) => round_trip * 3 / 4,
            // A NACK can answer the second block of a window, long before its last.
            (false, _) => fastest / 4,
        };
        let is_nack = now >= sent + answered_after;
        if is_nack {
            self.state = State::Spent;
        }
        is_nack
    }

    /// Whether an ACK that came too soon is the NACK if silence follows: if no round trip is
    /// known, and no block was sent again before the base moved.
    pub(super) fn needs_silence(&self, retry: &RetryTimer) -> bool {
        self.state == State::Open && retry.round_trip().is_none()
    }

    /// Whether an ACK that isn't taken for the NACK may have been the NACK. Unlikely if
    /// blocks were in flight when the base moved: it answers those.
    pub(super) const fn may_miss_one(&self) -> bool {
        matches!(self.state, State::Open | State::Echoing)
    }
}
