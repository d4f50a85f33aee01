//! Whether to busy-poll for the next datagram instead of sleeping.
//!
//! In lockstep the answer to what was just sent is often only some ten microseconds
//! away, and half of that is the time it takes to wake up. So while recent waits were
//! shorter than the bound, the loop polls without sleeping, for no longer than the
//! bound; if clients take their time, or there are none, it sleeps at once. Must not:
//! read the clock, or sleep itself.
//!
//! If only one session is at work, its socket is looked at before the poll is asked:
//! that saves a system call for each answer.

use std::time::{Duration, Instant};

use crate::table::SessionKey;

/// How much the latest wait counts in the moving average: one part in this many.
const WEIGHT: u64 = 8;

/// A wait counts as at most this many times the bound: one long pause must not outweigh
/// a thousand short ones.
const CAP: u64 = 16;

/// How often one session's socket is looked at before the poll is asked again, which
/// knows of all the others.
const LOOKS: u8 = 8;

/// The moving average of the waits, and the wait that is going on.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// The longest time to stay awake, in nanoseconds; zero never does.
    bound: u64,
    /// The moving average of the waits, in nanoseconds.
    average: u64,
    waiting_since: Option<Instant>,
    /// The one session that the last event was for.
    alone: Option<SessionKey>,
    /// Looks since the poll was asked; it is asked again after [`LOOKS`].
    looks: u8,
}

impl BusyPoll {
    pub(super) fn new(bound: Duration) -> Self {
        let bound = nanos(bound);
        Self {
            bound,
            average: bound.saturating_mul(CAP),
            waiting_since: None,
            alone: None,
            looks: 0,
        }
    }

    /// There is nothing to do at `now`: whether to look again rather than sleep.
    pub(super) fn stay_awake(&mut self, now: Instant) -> bool {
        if self.bound == 0 {
            return false;
        }
        let since = *self.waiting_since.get_or_insert(now);
        self.average < self.bound && nanos(now.saturating_duration_since(since)) < self.bound
    }

    /// The one session that the last events were for; `None`: there were others.
    pub(super) const fn came_for(&mut self, alone: Option<SessionKey>) {
        self.alone = alone;
    }

    /// The session whose answer may be there by now; `None`: it is time to ask the poll.
    pub(super) fn next_look(&mut self) -> Option<SessionKey> {
        self.looks = (self.looks + 1) % (LOOKS + 1);
        self.alone.filter(|_| self.looks > 0)
    }

    /// Something came at `now`: the wait is over.
    pub(super) fn over(&mut self, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            let longest = self.bound.saturating_mul(CAP);
            let wait = nanos(now.saturating_duration_since(since)).min(longest);
            self.average = self.average - self.average / WEIGHT + wait / WEIGHT;
        }
    }
}

/// A duration in nanoseconds, up to 584 years.
const fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(duration.subsec_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// Datagrams that come `gap` microseconds after the loop ran out of work.
    fn waits(spin: &mut BusyPoll, gap: u32, count: usize) -> Instant {
        let mut now = clock::now();
        for _ in 0..count {
            spin.stay_awake(now);
            now += MICROSECOND * gap;
            spin.over(now);
        }
        now
    }

    #[test]
    fn only_short_waits_are_spent_awake() {
        for (bound, gap, awake) in [
            (50, 10, true),
            (50, 200, false),
            (50, 1000, false),
            (0, 10, false),
        ] {
            let mut spin = BusyPoll::new(MICROSECOND * bound);
            let now = waits(&mut spin, gap, 100);
            assert_eq!(spin.stay_awake(now), awake, "bound {bound}, gap {gap}");
        }
    }

    #[test]
    fn no_wait_is_spent_awake_for_longer_than_the_bound() {
        let mut spin = BusyPoll::new(MICROSECOND * 50);
        let now = waits(&mut spin, 10, 100);
        assert!(spin.stay_awake(now));
        assert!(spin.stay_awake(now + MICROSECOND * 49));
        assert!(!spin.stay_awake(now + MICROSECOND * 50));
    }

    #[test]
    fn the_poll_is_asked_between_looks_at_one_session() {
        let mut spin = BusyPoll::new(MICROSECOND * 50);
        // How many looks there are in a row, and whether the poll was asked at all.
        let longest = |spin: &mut BusyPoll| {
            let looks = [(); 100].map(|()| spin.next_look().is_some());
            let rows = looks.split(|is_look| !is_look).map(<[bool]>::len);
            (rows.max(), looks.contains(&false))
        };
        assert_eq!(longest(&mut spin), (Some(0), true), "nothing came");
        spin.came_for(Some(SessionKey::from_token(0)));
        assert_eq!(longest(&mut spin), (Some(usize::from(LOOKS)), true));
        spin.came_for(None);
        assert_eq!(longest(&mut spin), (Some(0), true), "others are at work");
    }

    #[test]
    fn it_begins_asleep_and_learns_in_both_directions() {
        let mut spin = BusyPoll::new(MICROSECOND * 50);
        assert!(!spin.stay_awake(clock::now()));
        let now = waits(&mut spin, 10, 100);
        assert!(spin.stay_awake(now));
        let now = waits(&mut spin, 400, 20);
        assert!(!spin.stay_awake(now));
        let now = waits(&mut spin, 10, 100);
        assert!(spin.stay_awake(now));
    }
}
