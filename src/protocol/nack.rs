//! What it means when the block before the base (the first one in flight) is
//! acknowledged once more.
//!
//! It is a receiver's NACK: the first block of the window is missing (RFC 7440
//! §4 by way of U-Boot, barebox, EDK2; in lockstep a client that asks again by
//! its own timer). Or it is an echo, and answering echoes doubles every packet from
//! there to the end (RFC 1123 §4.2.3.1, the Sorcerer's Apprentice). Echoes come
//!
//! - from the network, doubled: sooner than any answer to the window can come: within
//!   a quarter of the fastest round trip (5 ms where none is known);
//! - of blocks that were in flight when the base moved: sooner than three quarters
//!   of a round trip, and none once nothing was sent for a whole one;
//! - of blocks that we sent twice: an ACK that comes sooner after a repeat than
//!   an answer can shows that the first copy had arrived, and that the second
//!   will be acknowledged as well. An echo also follows a tail probe whose window was
//!   acknowledged meanwhile. In both cases the base has no NACK. Neither has it after
//!   three bases in a row that moved after a repeat: the round trip isn't known any more.
//!
//! In lockstep a NACK comes 0.99 s after the DATA, or a round trip, if that is longer.
//!
//! An ACK that comes too soon spends nothing: the next one may still be the NACK. And the
//! one that came too soon may have been it, if the only round trip known is that of a busy
//! moment: so silence after it ends sooner than a long negotiated wait (`retry`). Where none
//! is known at all it was the NACK, unless something else comes within a quarter of a second.
//!
//! Must not: send anything.

use std::time::{Duration, Instant};

use super::retry::{ADAPTIVE_FLOOR, RetryTimer};

/// In lockstep an ACK is a NACK only this long after the DATA left: later than
/// any echo, and as early as clients ask again: a second after their ACK, which
/// was a moment before the DATA left.
pub(super) const LOCKSTEP_NACK: Duration = Duration::from_millis(990);

/// Where no round trip is known an ACK that came too soon was the NACK, if the window that
/// left before it is met with silence for so long: few networks take longer.
pub(super) const UNMEASURED_NACK: Duration = Duration::from_millis(250);

/// After so many repeats in a row what is known of the round trip may be out of
/// date, so that echoes can't be told apart any more.
const MAX_UNMEASURED: u8 = 3;

/// Whether an ACK at `now` comes too soon to answer what was sent last; true where no
/// round trip is known.
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
    /// None has come.
    #[default]
    Open,
    /// None has come, but blocks from the base on were in flight when it moved.
    Trailing,
    /// Any that comes may be an echo, however late.
    Echoing,
    /// One was answered.
    Spent,
}

impl Nacks {
    /// The base moves at `now`; `retry` still knows what that answers. `trailing`:
    /// blocks from the new base on are in flight.
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
        // In lockstep echoes are told apart by their time, unless the network takes longer.
        let by_time = lockstep && retry.round_trip() < Some(LOCKSTEP_NACK);
        if !by_time && (too_soon || self.unmeasured >= MAX_UNMEASURED) {
            self.state = State::Echoing;
        }
    }

    /// An echo may come as late as any NACK.
    pub(super) const fn expect_echo(&mut self) {
        self.state = State::Echoing;
    }

    /// Nothing was sent for a while until `now`: if for a round trip, then what was in
    /// flight when the base moved has been answered.
    pub(super) fn after_pause(&mut self, now: Instant, retry: &RetryTimer) {
        if let (State::Trailing, Some(round_trip), Some(sent)) =
            (self.state, retry.round_trip(), retry.last_sent())
            && now >= sent + round_trip
        {
            self.state = State::Open;
        }
    }

    /// The window was silent until its deadline: what comes now, or next, is no echo.
    pub(super) const fn after_silence(&mut self) {
        self.state = State::Open;
    }

    /// The block before the base was acknowledged once more at `now`. Returns
    /// whether that is a NACK, which it is once.
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
            // The second block of a window can be answered long before its last.
            (false, _) => fastest / 4,
        };
        let is_nack = now >= sent + answered_after;
        if is_nack {
            self.state = State::Spent;
        }
        is_nack
    }

    /// Whether an ACK that came too soon is the NACK if silence follows: where no round trip
    /// is known, and no block was sent again before the base moved.
    pub(super) fn needs_silence(&self, retry: &RetryTimer) -> bool {
        self.state == State::Open && retry.round_trip().is_none()
    }

    /// Whether an ACK that isn't taken for the NACK may have been it: hardly one that
    /// blocks in flight when the base moved are answered with.
    pub(super) const fn may_miss_one(&self) -> bool {
        matches!(self.state, State::Open | State::Echoing)
    }
}
