//! How often dropped requests are logged: once a second for each reason and client
//! network, and a few times a second for each reason.
//!
//! So one client's drops don't hide those of another network, nor one reason another.
//! Each line has the count so far. Must not: drop anything.

use std::net::IpAddr;
use std::time::Instant;

use crate::table::rate::{network, place};

/// The most lines a second about one reason.
const LINES: u8 = 10;

/// Reasons and networks told apart; some share a place, and with it a line.
const PLACES: usize = 512;

/// What was dropped, and what was logged in the current second.
#[derive(Debug)]
pub(super) struct DropLines {
    seed: u64,
    start: Instant,
    /// The second of the last line at each place, counted from 1.
    said: Box<[u32; PLACES]>,
    reasons: Vec<Reason>,
}

/// One of the few reasons to drop a request.
#[derive(Debug)]
struct Reason {
    text: &'static str,
    dropped: u64,
    /// The second of the last line, and how many lines it had.
    second: u32,
    lines: u8,
}

impl DropLines {
    /// No stranger knows the `seed`, so none can choose whose line to use up.
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        Self {
            seed,
            start: now,
            said: Box::new([0; PLACES]),
            reasons: Vec::new(),
        }
    }

    /// Counts a dropped request of `client`. If that is to be logged now, returns how
    /// many were dropped so far for this reason.
    pub(super) fn count(
        &mut self,
        now: Instant,
        reason: &'static str,
        client: IpAddr,
    ) -> Option<u64> {
        let seconds = now.saturating_duration_since(self.start).as_secs();
        let second = (seconds as u32).wrapping_add(1);
        let known = self.reasons.iter().position(|it| it.text == reason);
        let index = known.unwrap_or_else(|| {
            self.reasons.push(Reason {
                text: reason,
                dropped: 0,
                second: 0,
                lines: 0,
            });
            self.reasons.len() - 1
        });
        let of_reason = &mut self.reasons[index];
        of_reason.dropped += 1;
        let said = &mut self.said[place(self.seed, (reason, network(client)), PLACES)];
        if *said == second {
            return None;
        }
        if of_reason.second != second {
            (of_reason.second, of_reason.lines) = (second, 0);
        }
        if of_reason.lines == LINES {
            return None;
        }
        *said = second;
        of_reason.lines += 1;
        Some(of_reason.dropped)
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
            let told = (0..=255).filter_map(|host| lines.count(now, reason, client(host)));
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
        // Each line has the count of its own reason.
        let latest = later + Duration::from_secs(1);
        let client = [192, 0, 2, 1].into();
        assert_eq!(lines.count(latest, "not served", client), Some(257));
        assert_eq!(lines.count(latest, "no port", client), Some(1));
    }
}
