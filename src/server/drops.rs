//! How often it is said that requests are dropped: once a second for each reason and
//! client network, and a few times for each reason.
//!
//! So one client's drops don't hide those of another network, nor one reason
//! another. Each line has the count so far. Must not: drop anything.

use std::net::IpAddr;
use std::time::Instant;

use crate::table::rate::{network, place};

/// Lines a second about one reason.
const LINES: u8 = 10;

/// Reasons and networks told apart; some share a place, and with it a line.
const PLACES: usize = 512;

/// Reasons told apart, likewise.
const REASONS: usize = 64;

/// What was said in the second that is running.
#[derive(Debug)]
pub(super) struct DropLines {
    seed: u64,
    start: Instant,
    /// The second in which there was a line last, counted from 1.
    said: Box<[u32; PLACES]>,
    /// The same, and how many lines there were in it.
    of_reason: Box<[(u32, u8); REASONS]>,
}

impl DropLines {
    /// With a `seed` that no stranger knows nobody chooses whose line to take.
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        Self {
            seed,
            start: now,
            said: Box::new([0; PLACES]),
            of_reason: Box::new([(0, 0); REASONS]),
        }
    }

    /// Whether it is said now that a request of `client` is dropped.
    pub(super) fn take(&mut self, now: Instant, reason: &str, client: IpAddr) -> bool {
        let seconds = now.saturating_duration_since(self.start).as_secs();
        let second = (seconds as u32).wrapping_add(1);
        let said = &mut self.said[place(self.seed, (reason, network(client)), PLACES)];
        if *said == second {
            return false;
        }
        let (last, lines) = &mut self.of_reason[place(self.seed, reason, REASONS)];
        if *last != second {
            (*last, *lines) = (second, 0);
        }
        let allowed = *lines < LINES;
        if allowed {
            *said = second;
            *lines += 1;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::clock;

    #[test]
    fn one_clients_drops_hide_no_other_network_and_no_other_reason() {
        let now = clock::now();
        let mut lines = DropLines::new(7, now);
        let mut said = |now, reason, network: u8| {
            let client = |host: u8| [192, 0, network, host].into();
            let told = (0..=255).filter(|&host| lines.take(now, reason, client(host)));
            told.count()
        };
        assert_eq!(said(now, "full", 1), 1);
        assert_eq!(said(now, "full", 1), 0);
        assert_eq!(said(now, "full", 2), 1, "another network");
        assert_eq!(said(now, "not served", 1), 1, "another reason");
        let later = now + Duration::from_secs(1);
        assert_eq!(said(later, "full", 1), 1, "each second");
        // From everywhere at once.
        let many: usize = (0..=255).map(|it| said(later, "full", it)).sum();
        assert_eq!(many, usize::from(LINES) - 1);
    }
}
