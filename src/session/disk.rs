//! Waiting for the disk: when a session whose file isn't ready looks again.
//!
//! What it waits for is in the kernel's hands, and nothing tells when it is
//! there. So it looks again, soon at first, then less often. May not: read the
//! file or the clock.

use std::time::{Duration, Instant};

/// The shortest wait between two looks; what a disk takes to find a block.
const SHORTEST: Duration = Duration::from_millis(1);

/// The longest: what a download from a slow disk loses at most for each wait.
const LONGEST: Duration = Duration::from_millis(10);

/// After so long the file is read in earnest, though everyone waits with it:
/// where a read failed in the background, or nothing is ever kept in memory,
/// only that brings the error or the data.
const PATIENCE: Duration = Duration::from_secs(10);

/// A wait for the disk, kept small: every session has room for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DiskWait {
    since: Instant,
    /// When to look again, in microseconds since then.
    until_micros: u32,
}

impl DiskWait {
    /// The file isn't ready at `now`; `before` is the wait that has just ended,
    /// if it was not ready then either. Each wait is as long as all before it,
    /// within bounds.
    pub(super) fn new(before: Option<Self>, now: Instant) -> Self {
        let since = before.map_or(now, |wait| wait.since);
        let waited = now.saturating_duration_since(since);
        let until = waited + waited.clamp(SHORTEST, LONGEST);
        Self {
            since,
            until_micros: u32::try_from(until.as_micros()).unwrap_or(u32::MAX),
        }
    }

    /// When to look again.
    pub(super) fn until(&self) -> Instant {
        self.since + Duration::from_micros(self.until_micros.into())
    }

    /// It has taken too long.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "an arbitrary instant to count from"
    )]
    fn the_waits_double_from_one_millisecond_to_ten() {
        let start = Instant::now();
        let mut wait = DiskWait::new(None, start);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..7 {
            waits.push((wait.until() - now).as_millis());
            now = wait.until();
            wait = DiskWait::new(Some(wait), now);
        }
        assert_eq!(waits, [1, 1, 2, 4, 8, 10, 10]);
        assert!(!wait.is_spent(start + PATIENCE.saturating_sub(SHORTEST)));
        assert!(wait.is_spent(start + PATIENCE));
    }
}
