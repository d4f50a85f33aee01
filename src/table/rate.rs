//! A bounded number of something each second. Must not: read the clock.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How much of it is still allowed.
#[derive(Debug)]
pub struct RateLimit {
    per_second: u32,
    left: u32,
    since: Instant,
}

impl RateLimit {
    /// `per_second` of it, from `now` on.
    pub const fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_second,
            left: per_second,
            since: now,
        }
    }

    /// Whether one more is allowed now.
    pub fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.left = self.per_second;
        }
        let allowed = self.left > 0;
        self.left -= u32::from(allowed);
        allowed
    }
}

/// The same for each client network, an IPv4 /24 or an IPv6 /64, as well.
///
/// Networks are told apart by a hash, and some share a bucket and with it the
/// bound: the memory doesn't grow with the number of addresses that are forged.
#[derive(Debug)]
pub struct NetworkRateLimit {
    per_second: u32,
    seed: u64,
    start: Instant,
    buckets: Box<[Bucket]>,
}

/// What was taken in the second that it counts.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    second: u32,
    taken: u32,
}

impl NetworkRateLimit {
    /// `per_second` of it for each network, with so many buckets. A `seed` that
    /// no stranger knows keeps him from choosing whose bucket to share.
    pub fn new(per_second: u32, buckets: usize, seed: u64, now: Instant) -> Self {
        Self {
            per_second,
            seed,
            start: now,
            buckets: vec![Bucket::default(); buckets].into_boxed_slice(),
        }
    }

    /// Whether one more is allowed now for the network of `client`.
    pub fn take(&mut self, now: Instant, client: IpAddr) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.seed, network(client)).hash(&mut hasher);
        let index = hasher.finish() as usize % self.buckets.len().max(1);
        let Some(bucket) = self.buckets.get_mut(index) else {
            return false;
        };
        let second = now.saturating_duration_since(self.start).as_secs() as u32;
        if bucket.second != second {
            *bucket = Bucket { second, taken: 0 };
        }
        let allowed = bucket.taken < self.per_second;
        bucket.taken += u32::from(allowed);
        allowed
    }
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
    fn each_network_has_its_rate_each_second() {
        let now = clock::now();
        let mut limit = NetworkRateLimit::new(10, 64, 7, now);
        let mut taken = |now, network: u8| {
            let client = |host: u8| [192, 0, network, host].into();
            (0..200)
                .filter(|&host| limit.take(now, client(host)))
                .count()
        };
        assert_eq!(taken(now, 1), 10);
        assert_eq!(taken(now, 1), 0);
        assert_eq!(taken(now, 2), 10);
        let later = now + Duration::from_secs(1);
        assert_eq!(taken(later, 1), 10);
    }
}
