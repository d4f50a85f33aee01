//! How much work requests may cause before an answer proves their sender: a budget per
//! second, shared by all. A client network may spend only while it has taken less than is
//! left for everyone. Requests with long names may spend only the first half of the
//! budget: they are expensive, and no boot loader sends them. Must not: read the clock.

use std::net::IpAddr;
use std::time::Instant;

use crate::table::rate::NetworkRateLimit;

/// Work that a request has caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Bytes that the map file's expressions and the rules' patterns looked at.
    pub scanned: u64,
    /// Directory entries read to find a name in another case.
    pub entries: u64,
    /// Bytes read of the neighbour table.
    pub table: u64,
}

impl Work {
    /// The work in units of the time that an expression takes for a byte, some 0.1 µs.
    fn units(self) -> u32 {
        let units = self.scanned + 3 * self.entries + self.table / 8;
        u32::try_from(units).unwrap_or(u32::MAX)
    }
}

/// How much work may still be done in this second.
#[derive(Debug)]
pub struct WorkAllowance(NetworkRateLimit);

impl WorkAllowance {
    /// The whole allowance, from `now` on. No stranger knows the `seed`, so none can
    /// choose whose share to use up.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self(NetworkRateLimit::new(UNITS_PER_SECOND, NETWORKS, seed, now))
    }

    /// Whether work on a name of `name_len` bytes may begin for `client`. Its cost shows
    /// only afterwards.
    pub fn may_begin(&mut self, now: Instant, client: IpAddr, name_len: usize) -> bool {
        let reserved = if name_len > LONG_NAME {
            UNITS_PER_SECOND / 2
        } else {
            0
        };
        self.0.leaves(now, client) > reserved
    }

    /// Charges `client` for work that was done.
    pub fn spend(&mut self, work: Work, client: IpAddr) {
        self.0.spend(work.units(), client);
    }
}

/// Client networks told apart.
const NETWORKS: usize = 256;

/// Names of more bytes than this are long: a path with a MAC address or a UUID in it has
/// fewer.
const LONG_NAME: usize = 128;

/// A fifth of a second in each second: enough for thousands of usual requests through
/// dozens of rules.
const UNITS_PER_SECOND: u32 = 2_000_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        while allowance.may_begin(start + Duration::from_millis(999), client, 9) {
            allowance.spend(request, client);
            done += 1;
        }
        assert_eq!(done, 6);
        let other = IpAddr::from([198, 51, 100, 1]);
        assert!(allowance.may_begin(start, other, 9), "another network");
        assert!(allowance.may_begin(start + Duration::from_secs(1), client, 9));
        // What costs nothing goes on forever.
        for _ in 0..1_000_000 {
            allowance.spend(Work::default(), client);
        }
        assert!(allowance.may_begin(start + Duration::from_secs(1), client, 9));
    }

    /// Each rule costs at least the length of the name, and some cost more.
    #[test]
    fn long_names_of_many_networks_leave_half_for_short_ones() {
        let start = clock::now();
        let mut allowance = WorkAllowance::new(7, start);
        let dear = Work {
            scanned: 32_768,
            ..Work::default()
        };
        for number in 0..100_000_u32 {
            let client = IpAddr::from((0x0a00_0000 + number * 256).to_be_bytes());
            if allowance.may_begin(start, client, 400) {
                allowance.spend(dear, client);
            }
        }
        let honest = IpAddr::from([198, 51, 100, 1]);
        let usual = Work {
            scanned: 1_500,
            ..Work::default()
        };
        for number in 0..500_u32 {
            assert!(allowance.may_begin(start, honest, 40), "{number}");
            let client = IpAddr::from((0xc633_0000 + number * 256).to_be_bytes());
            allowance.spend(usual, client);
        }
    }
}
