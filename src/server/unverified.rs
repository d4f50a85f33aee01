//! How many answers may be on their way to peers that have never answered, where
//! they all take room in the send buffer that transfers share.
//!
//! An answer to an address where nobody is stays in that buffer until the kernel
//! gives up looking, some three seconds. So this many are let go within
//! [`SECONDS`], and those whose peer answers don't count any more; the rest of the
//! buffer is left to transfers that are under way. Must not: read the clock.

use std::time::Instant;

/// Longer than the kernel looks for a neighbour (three probes, a second each).
const SECONDS: usize = 4;

/// Bytes of the send buffer that a small datagram takes, for one that is sent and
/// repeated while its neighbour is looked for.
const COST: usize = 2 * 1280;

/// Answers on their way that are always allowed.
const MIN_ANSWERS: u32 = 2048;

/// The answers of the last [`SECONDS`].
#[derive(Debug)]
pub(super) struct UnverifiedAnswers {
    limit: u32,
    origin: Instant,
    /// The second that was counted last, from `origin`.
    second: u64,
    /// How many were sent in each second.
    counts: [u32; SECONDS],
}

impl UnverifiedAnswers {
    /// As many as take a quarter of a buffer of `bytes`; [`MIN_ANSWERS`] in any case:
    /// where the buffer is small, a room of machines that are switched on at once
    /// comes first.
    pub(super) fn within(bytes: usize, now: Instant) -> Self {
        let quarter = u32::try_from(bytes / 4 / COST).unwrap_or(u32::MAX);
        Self::new(quarter.max(MIN_ANSWERS), now)
    }

    fn new(limit: u32, now: Instant) -> Self {
        Self {
            limit,
            origin: now,
            second: 0,
            counts: [0; SECONDS],
        }
    }

    /// Whether one more may be sent.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.advance(now);
        let fits = self.counts.iter().sum::<u32>() < self.limit;
        self.counts[second_index(self.second)] += u32::from(fits);
        fits
    }

    /// The one that was sent at `sent` has been answered.
    pub(super) fn verified(&mut self, now: Instant, sent: Instant) {
        self.advance(now);
        let second = self.second_of(sent);
        if second <= self.second && second + SECONDS as u64 > self.second {
            let count = &mut self.counts[second_index(second)];
            *count = count.saturating_sub(1);
        }
    }

    fn second_of(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.origin).as_secs()
    }

    fn advance(&mut self, now: Instant) {
        let second = self.second_of(now).max(self.second);
        let passed = second - self.second;
        for later in 1..=passed.min(SECONDS as u64) {
            self.counts[second_index(self.second + later)] = 0;
        }
        self.second = second;
    }
}

/// Where a second is counted.
const fn second_index(second: u64) -> usize {
    second as usize % SECONDS
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::clock;

    #[test]
    fn unverified_peers_take_their_share_and_no_more() {
        let start = clock::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut answers = UnverifiedAnswers::new(3, start);
        assert!([0, 10, 900].iter().all(|&sent| answers.take(at(sent))));
        assert!(!answers.take(at(1000)), "three are on their way");
        // One is answered: it isn't any more.
        answers.verified(at(1001), at(10));
        assert!(answers.take(at(1002)));
        assert!(!answers.take(at(3999)));
        // Those of the first second are given up by the kernel.
        assert!(answers.take(at(4000)) && answers.take(at(4001)));
        assert!(!answers.take(at(4999)));
        // An answer that comes late sets nothing free.
        answers.verified(at(4999), at(900));
        assert!(!answers.take(at(4999)));
        // A long pause.
        assert!((0..3).all(|_| answers.take(at(1_000_000))));
        assert!(!answers.take(at(1_000_000)));
    }
}
