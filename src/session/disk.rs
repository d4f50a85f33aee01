//! Waiting for the disk: when a session whose file isn't ready looks again.
//!
//! What it waits for is in the kernel's hands, and nothing tells when it is
//! there. So it looks again, soon at first, then less often; or it waits its turn
//! to have anything fetched at all. Must not: read the file or the clock.

use std::time::{Duration, Instant};

/// The shortest wait between two looks; what a disk takes to find a block.
const SHORTEST: Duration = Duration::from_millis(1);

/// The longest: what a download from a slow disk loses at most for each wait.
const LONGEST: Duration = Duration::from_millis(10);

/// Between two tries to have its turn.
const TURN: Duration = Duration::from_millis(20);

/// After so long the file is read in earnest, though everyone waits with it:
/// where a read failed in the background, or nothing is ever kept in memory,
/// only that brings the error or the data.
const PATIENCE: Duration = Duration::from_secs(3);

/// A wait for the disk. In a box of its own: most sessions never have one.
#[derive(Debug, Default)]
pub(super) struct DiskWait {
    /// Since when it is being fetched.
    since: Option<Instant>,
    /// When to look again.
    until: Option<Instant>,
}

impl DiskWait {
    /// The file isn't ready at `now`; whether it is being `fetched`. Each wait is
    /// as long as all before it, within bounds.
    pub(super) fn go_on(&mut self, now: Instant, fetched: bool) {
        self.since = fetched.then_some(self.since.unwrap_or(now));
        let wait = self.since.map_or(TURN, |since| {
            let waited = now.saturating_duration_since(since);
            waited.clamp(SHORTEST, LONGEST)
        });
        self.until = Some(now + wait);
    }

    /// When to look again.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// It has taken too long.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.since
            .is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    #[test]
    fn the_waits_double_from_one_millisecond_to_ten() {
        let start = clock::now();
        let mut wait = DiskWait::default();
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..7 {
            wait.go_on(now, true);
            let until = wait.until().unwrap();
            waits.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(waits, [1, 1, 2, 4, 8, 10, 10]);
        assert!(!wait.is_spent(start + PATIENCE.saturating_sub(SHORTEST)));
        assert!(wait.is_spent(start + PATIENCE));
    }

    #[test]
    fn waiting_for_its_turn_spends_no_patience() {
        let start = clock::now();
        let mut wait = DiskWait::default();
        for waited in [Duration::ZERO, PATIENCE] {
            wait.go_on(start + waited, false);
            assert_eq!(wait.until(), Some(start + waited + TURN));
            assert!(!wait.is_spent(start + 2 * PATIENCE));
        }
        wait.go_on(start + PATIENCE, true);
        assert_eq!(wait.until(), Some(start + PATIENCE + SHORTEST));
        assert!(!wait.is_spent(start + PATIENCE));
        assert!(wait.is_spent(start + 2 * PATIENCE));
    }
}
