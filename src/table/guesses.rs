//! Somebody who sends blocks to one of our ports after the other in a client's name
//! looks for the port of an upload that was asked for in that name. Told from
//! accidents by the number of ports in a second. Must not: read the clock.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::rate::place;

/// Within so long ports are counted.
const SPAN: Duration = Duration::from_secs(1);

/// Wrong ports that are no accident. A client that moved on to another transfer may
/// send a last block to the port of the one before.
const MANY: usize = 8;

/// Addresses that are told apart.
const PLACES: usize = 256;

/// Which of our ports were tried in whose name. Takes no memory before the first.
#[derive(Debug, Default)]
pub struct PortGuesses {
    seed: u64,
    places: Vec<Option<Tried>>,
}

/// What was tried in one name.
#[derive(Debug, Clone, Copy)]
struct Tried {
    by: IpAddr,
    since: Instant,
    /// Hashes of the wrong ports.
    ports: [u32; MANY - 1],
    count: usize,
}

impl PortGuesses {
    /// A `seed` that no stranger knows keeps them from choosing whose place to share.
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            places: Vec::new(),
        }
    }

    /// A block came from `by` to the wrong `port`. Whether it is one of many within a
    /// second; the count begins again then.
    pub fn are_many(&mut self, now: Instant, by: IpAddr, port: &impl Hash) -> bool {
        if self.places.is_empty() {
            self.places.resize(PLACES, None);
        }
        let slot = &mut self.places[place(self.seed, by, PLACES)];
        let is_current = |it: &Tried| now.saturating_duration_since(it.since) < SPAN;
        let mut tried = match slot.filter(is_current) {
            Some(tried) if tried.by == by => tried,
            // Whoever came first keeps the place, for its second.
            Some(_) => return false,
            None => Tried {
                by,
                since: now,
                ports: [0; MANY - 1],
                count: 0,
            },
        };
        let port = hash_of(port);
        if tried.ports[..tried.count].contains(&port) {
            return false;
        }
        let is_one_too_many = tried.count == tried.ports.len();
        if !is_one_too_many {
            tried.ports[tried.count] = port;
            tried.count += 1;
        }
        *slot = Some(tried).filter(|_| !is_one_too_many);
        is_one_too_many
    }
}

fn hash_of(port: &impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    port.hash(&mut hasher);
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an Instant has no other source")]
    fn a_port_scan_is_told_from_a_stray_block() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let client = |host: u8| IpAddr::from([192, 0, 2, host]);
        let mut guesses = PortGuesses::new(7);
        let mut many = |time, host, port: u16| guesses.are_many(at(time), client(host), &port);
        // One port, however often.
        assert!(!(0..100).any(|time| many(time, 1, 50_000)));
        // Seven ports, and again in the next second.
        for second in 1..4 {
            let mut ports = 0..7;
            assert!(!ports.any(|port| many(second * 1000, 1, port)), "{second}");
        }
        // The eighth within a second; after that it counts from one.
        assert!(!(0..7).any(|port| many(5000, 1, port)));
        assert!(!many(5400, 1, 3));
        assert!(many(5999, 1, 7));
        assert!(!(8..15).any(|port| many(5999, 1, port)));
        assert!(many(5999, 1, 15));
        // Each address by itself.
        let mut one_each = (1..=255).map(|host| many(9000, host, host.into()));
        assert!(!one_each.any(|it| it));
    }
}
