//! What requests may cost before anyone has proved that they come from where
//! they say: an allowance a second, for all of them together. Must not: read the
//! clock.

use std::time::{Duration, Instant};

/// Work that a request has caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Bytes that the map file's expressions looked at.
    pub scanned: u64,
    /// Directory entries read to find a name in another case.
    pub entries: u64,
    /// Bytes read of the neighbour table.
    pub table: u64,
}

impl Work {
    /// In the time that a byte takes an expression, some 0.1 µs.
    const fn units(self) -> u64 {
        self.scanned + 3 * self.entries + self.table / 8
    }
}

/// How much work may still be done in this second.
#[derive(Debug)]
pub struct WorkAllowance {
    left: u64,
    since: Instant,
}

impl WorkAllowance {
    /// All of it, from `now` on.
    pub const fn new(now: Instant) -> Self {
        Self {
            left: UNITS_PER_SECOND,
            since: now,
        }
    }

    /// Whether more may be begun: what it costs shows behind.
    pub fn may_begin(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.left > 0
    }

    /// Takes off what was done.
    pub const fn spend(&mut self, work: Work) {
        self.left = self.left.saturating_sub(work.units());
    }
}

/// A fifth of a second each second: thousands of usual requests through dozens of
/// rules.
const UNITS_PER_SECOND: u64 = 2_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    #[test]
    fn work_ends_with_the_allowance_and_goes_on_with_the_next_second() {
        let start = clock::now();
        let mut allowance = WorkAllowance::new(start);
        let request = Work {
            scanned: 30_000,
            entries: 4096,
            table: 1 << 20,
        };
        let mut done = 0;
        while allowance.may_begin(start + Duration::from_millis(999)) {
            allowance.spend(request);
            done += 1;
        }
        assert_eq!(done, 12);
        assert!(allowance.may_begin(start + Duration::from_secs(1)));
        // What costs nothing goes on for ever.
        for _ in 0..1_000_000 {
            allowance.spend(Work::default());
        }
        assert!(allowance.may_begin(start + Duration::from_secs(1)));
    }
}
