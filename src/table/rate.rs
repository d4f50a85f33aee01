//! Rate limits: a bounded number of something each second. Must not: read the clock.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// How many more are allowed this second.
#[derive(Debug)]
pub struct RateLimit {
    per_second: u32,
    left: u32,
    since: Instant,
}

impl RateLimit {
    /// Allows `per_second`, from `now` on.
    pub const fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_second,
            left: per_second,
            since: now,
        }
    }

    /// Whether one more is allowed now.
    pub fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= SECOND {
            self.since = now;
            self.left = self.per_second;
        }
        let allowed = self.left > 0;
        self.left -= u32::from(allowed);
        allowed
    }
}

/// The same, shared out among client networks, each an IPv4 /24 or an IPv6 /64: no
/// network takes more than it leaves to all others.
///
/// So one network alone gets half, a second one half of the rest, and where a few have
/// had much there is still something for one that has had nothing. Where many take
/// some, as with forged addresses, all is spent until the second is over. Networks are
/// told apart by a hash, and some share a bucket: the memory doesn't grow with the
/// number of addresses.
#[derive(Debug)]
pub struct NetworkRateLimit {
    per_second: u32,
    left: u32,
    since: Instant,
    seed: u64,
    /// The number of this second, as in each [`Bucket`] that was used in it.
    second: u32,
    buckets: Box<[Bucket]>,
}

/// What was `taken` in that `second`.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    second: u32,
    taken: u32,
}

impl NetworkRateLimit {
    /// Allows `per_second` in all, from `now` on, with this many `buckets`, at least
    /// one. A `seed` that no stranger knows keeps strangers from choosing whose bucket
    /// to share.
    pub fn new(per_second: u32, buckets: usize, seed: u64, now: Instant) -> Self {
        Self {
            per_second,
            left: per_second,
            since: now,
            seed,
            second: 0,
            buckets: vec![Bucket::default(); buckets.max(1)].into_boxed_slice(),
        }
    }

    /// Whether one more is allowed now for the network of `client`; if so, it is taken.
    pub fn take(&mut self, now: Instant, client: IpAddr) -> bool {
        let allowed = self.leaves(now, client) > 0;
        self.spend(u32::from(allowed), client);
        allowed
    }

    /// How much is left in all, if the network of `client` may have more; else 0.
    pub fn leaves(&mut self, now: Instant, client: IpAddr) -> u32 {
        if now.saturating_duration_since(self.since) >= SECOND {
            self.since = now;
            self.left = self.per_second;
            self.second = self.second.wrapping_add(1);
        }
        let left = self.left;
        if has_part(self.bucket_of(client).taken, left) {
            left
        } else {
            0
        }
    }

    /// Deducts what was spent for `client`, however much it was.
    pub fn spend(&mut self, amount: u32, client: IpAddr) {
        self.left = self.left.saturating_sub(amount);
        let bucket = self.bucket_of(client);
        bucket.taken = bucket.taken.saturating_add(amount);
    }

    fn bucket_of(&mut self, client: IpAddr) -> &mut Bucket {
        let second = self.second;
        let bucket = &mut self.buckets[place(self.seed, network(client), self.buckets.len())];
        if bucket.second != second {
            *bucket = Bucket { second, taken: 0 };
        }
        bucket
    }
}

/// The rule for sharing something out: whoever has `taken` some may have more while
/// that is less than what is `left` to all.
pub const fn has_part(taken: u32, left: u32) -> bool {
    taken < left
}

/// The place of `key` in a table of `len` places.
pub fn place(seed: u64, key: impl Hash, len: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (seed, key).hash(&mut hasher);
    hasher.finish() as usize % len.max(1)
}

/// The network that a client is taken to be in: the first address of its IPv4 /24
/// or IPv6 /64.
pub const fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits() & !0xff;
            IpAddr::V4(Ipv4Addr::from_bits(bits))
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits() & !(u64::MAX as u128);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    #[test]
    fn a_network_is_a_v4_24_or_a_v6_64() {
        for (client, first) in [
            ("192.0.2.77", "192.0.2.0"),
            ("::ffff:192.0.2.77", "192.0.2.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            let [client, first]: [IpAddr; 2] = [client, first].map(|it| it.parse().unwrap());
            assert_eq!(network(client), first);
        }
    }

    #[test]
    fn no_network_takes_more_than_is_left_after_it() {
        let now = clock::now();
        let mut limit = NetworkRateLimit::new(100, 4096, 7, now);
        let mut taken = |now, network: u8| {
            let client = |host: u8| [192, 0, network, host].into();
            (0..200)
                .filter(|&host| limit.take(now, client(host)))
                .count()
        };
        assert_eq!(taken(now, 1), 50);
        assert_eq!(taken(now, 1), 0);
        assert_eq!(taken(now, 2), 25);
        assert_eq!(taken(now, 3), 13);
        // Many together take all there is.
        let rest = (4..=20).map(|network| taken(now, network)).sum::<usize>();
        assert_eq!((rest, taken(now, 21)), (12, 0));
        let later = now + Duration::from_secs(1);
        assert_eq!(taken(later, 1), 50, "each second");
    }

    #[test]
    fn a_flood_of_one_network_leaves_all_that_a_quiet_one_asks_for() {
        let start = clock::now();
        let mut limit = NetworkRateLimit::new(10_000, 256, 7, start);
        let [noisy, quiet] = [[192, 0, 2, 1], [198, 51, 100, 1]].map(IpAddr::from);
        // 34,000 a second, for three seconds; 1,000 a second beside it.
        for number in 0..102_000_u64 {
            let now = start + Duration::from_nanos(number * 29_411);
            limit.take(now, noisy);
            if number % 34 == 0 {
                assert!(limit.take(now, quiet), "{number}");
            }
        }
    }
}
