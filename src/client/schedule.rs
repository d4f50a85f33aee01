//! When a request is sent again. Must not: read the clock, send anything.

use std::time::{Duration, Instant};

use crate::protocol::retry::MAX_BACK_OFF;

/// The longest gap between two requests to a device that has yet to start: a boot
/// loader listens for one to five seconds.
const LONGEST_STEADY: Duration = Duration::from_secs(1);

/// The times at which one request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    /// How long to wait after the last request.
    gap: Duration,
    /// The longest gap.
    longest: Duration,
    /// Requests that may still be sent; `None`: as many as there is time for.
    left: Option<u8>,
    /// When the wait after the last request is over.
    next: Instant,
}

impl Schedule {
    /// At most `repeats` repeats of a request sent at `now`, the first after
    /// `initial`, each gap twice the last (RFC 1123 §4.2.3.2).
    pub(super) fn backing_off(initial: Duration, repeats: u8, now: Instant) -> Self {
        Self {
            gap: initial,
            longest: initial.max(MAX_BACK_OFF),
            left: Some(repeats),
            next: now + initial,
        }
    }

    /// Repeats without end, a second apart, or `initial` where that is less.
    pub(super) fn steady(initial: Duration, now: Instant) -> Self {
        let gap = initial.min(LONGEST_STEADY);
        Self {
            gap,
            longest: gap,
            left: None,
            next: now + gap,
        }
    }

    /// Whether the request is to be sent again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next <= now && self.left != Some(0)
    }

    /// Whether the last request has been sent and its time is up.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.next <= now && self.left == Some(0)
    }

    pub(super) fn sent_again(&mut self, now: Instant) {
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.gap = (self.gap * 2).min(self.longest);
        self.next = now + self.gap;
    }

    /// Sends no more requests; the wait after the last one goes on.
    pub(super) fn stop(&mut self) {
        self.left = Some(0);
    }

    /// When something is due next; `None` if nothing is.
    pub(super) fn next_step(&self, now: Instant) -> Option<Instant> {
        (!self.is_spent(now)).then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    /// When requests go out, in milliseconds, within `end` milliseconds, and when
    /// the schedule is spent.
    fn times(mut schedule: Schedule, start: Instant, end: u64) -> (Vec<u128>, Option<u128>) {
        let mut times = vec![0];
        loop {
            let now = schedule.next;
            let at = (now - start).as_millis();
            if at > end.into() {
                return (times, None);
            }
            if schedule.is_spent(now) {
                assert_eq!(schedule.next_step(now), None);
                return (times, Some(at));
            }
            assert!(schedule.is_due(now));
            times.push(at);
            schedule.sent_again(now);
        }
    }

    #[test]
    fn requests_back_off_or_keep_their_pace() {
        let now = clock::now();
        let ms = Duration::from_millis;
        for (schedule, expected, spent) in [
            (
                Schedule::backing_off(ms(1000), 5, now),
                &[0, 1000, 3000, 7000, 15_000, 23_000][..],
                Some(31_000),
            ),
            (Schedule::backing_off(ms(10), 0, now), &[0], Some(10)),
            (
                Schedule::backing_off(ms(20_000), 1, now),
                &[0, 20_000],
                Some(40_000),
            ),
            (
                Schedule::steady(ms(1000), now),
                &[0, 1000, 2000, 3000, 4000],
                None,
            ),
            (
                Schedule::steady(ms(20_000), now),
                &[0, 1000, 2000, 3000, 4000],
                None,
            ),
        ] {
            let end = if spent.is_some() { 100_000 } else { 4500 };
            let (found, end) = times(schedule, now, end);
            assert_eq!((&found[..], end), (expected, spent), "{schedule:?}");
        }
    }
}
