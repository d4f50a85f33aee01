//! What requests may cost before an answer has proved that they come from where
//! they say: an allowance a second, for all of them together. No client network takes
//! more of it than it leaves to all others. Must not: read the clock.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::table::rate::{network, place};

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
    seed: u64,
    /// Which second it is, counted from the start.
    second: u32,
    /// What networks have spent. Some share a place.
    networks: Box<[Spent; NETWORKS]>,
}

/// What was spent in the second that it counts.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    second: u32,
    units: u64,
}

impl WorkAllowance {
    /// All of it, from `now` on. No stranger knows the `seed`: none chooses whose
    /// share to spend.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            left: UNITS_PER_SECOND,
            since: now,
            seed,
            second: 0,
            networks: Box::new([Spent::default(); NETWORKS]),
        }
    }

    /// Whether more may be begun for `client`: what it costs shows afterwards.
    pub fn may_begin(&mut self, now: Instant, client: IpAddr) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.left = UNITS_PER_SECOND;
            self.since = now;
            self.second = self.second.wrapping_add(1);
        }
        let left = self.left;
        left > 0 && self.of_network(client).units < left
    }

    /// Takes off what was done for `client`.
    pub fn spend(&mut self, work: Work, client: IpAddr) {
        let units = work.units();
        self.left = self.left.saturating_sub(units);
        self.of_network(client).units += units;
    }

    fn of_network(&mut self, client: IpAddr) -> &mut Spent {
        let second = self.second;
        let spent = &mut self.networks[place(self.seed, network(client), NETWORKS)];
        if spent.second != second {
            *spent = Spent { second, units: 0 };
        }
        spent
    }
}

/// Client networks told apart.
const NETWORKS: usize = 64;

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
        let mut allowance = WorkAllowance::new(7, start);
        let client = IpAddr::from([192, 0, 2, 1]);
        let request = Work {
            scanned: 30_000,
            entries: 4096,
            table: 1 << 20,
        };
        let mut done = 0;
        while allowance.may_begin(start + Duration::from_millis(999), client) {
            allowance.spend(request, client);
            done += 1;
        }
        assert_eq!(done, 6);
        let other = IpAddr::from([198, 51, 100, 1]);
        assert!(allowance.may_begin(start, other), "another network");
        assert!(allowance.may_begin(start + Duration::from_secs(1), client));
        // What costs nothing goes on forever.
        for _ in 0..1_000_000 {
            allowance.spend(Work::default(), client);
        }
        assert!(allowance.may_begin(start + Duration::from_secs(1), client));
    }
}
