//! Detects a port scan: DATA sent in one client's name to many of our ports, to find
//! the port of an upload requested in that name. It is told from stray blocks by the
//! number of different ports in a second.
//!
//! The ports of any one other client's transfers count as one, since an attacker knows
//! the ports of its own. Must not: read the clock, do more for a block than count it.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::key::Client;
use super::rate::place;

/// Ports are counted over this long, and for this long after they were [`MANY`] nobody
/// can begin an upload in that name.
const SPAN: Duration = Duration::from_secs(1);

/// This many wrong ports are no accident. A client that has moved on to another
/// transfer may send a last block to the port of the one before.
const MANY: usize = 8;

/// Addresses that are told apart, by a hash. Those that share a place are counted
/// together, so that no flood in other names hides a scan in one.
const PLACES: usize = 256;

/// Which of our ports were tried in whose name. Takes no memory before the first.
#[derive(Debug, Default)]
pub struct PortGuesses {
    seed: u64,
    places: Vec<Option<Tried>>,
}

/// What was tried in the names that share a place.
#[derive(Debug, Clone, Copy)]
struct Tried {
    since: Instant,
    /// A hash for each port tried: of the transfer's peer if that has the name's own
    /// address, else of its client.
    ports: [u32; MANY],
    count: usize,
    /// When they were last found to be many.
    many: Option<Instant>,
}

impl PortGuesses {
    /// A `seed` that no stranger knows keeps strangers from choosing whose place to
    /// share.
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            places: Vec::new(),
        }
    }

    /// Takes note of DATA that came from `by` to the port of a transfer of `owner`'s.
    pub fn record(&mut self, now: Instant, by: IpAddr, owner: SocketAddr) {
        if self.places.is_empty() {
            self.places.resize(PLACES, None);
        }
        let is_over = |since: Instant| now.saturating_duration_since(since) >= SPAN;
        let tried = self.places[place(self.seed, by, PLACES)].get_or_insert(Tried {
            since: now,
            ports: [0; MANY],
            count: 0,
            many: None,
        });
        if is_over(tried.since) {
            (tried.since, tried.count) = (now, 0);
        }
        let port = if owner.ip() == by {
            hash_of(owner)
        } else {
            hash_of(Client::of(owner.ip()))
        };
        // Once `MANY` were tried, the array stays full until the second is over.
        if tried.count == MANY || tried.ports[..tried.count].contains(&port) {
            return;
        }
        tried.ports[tried.count] = port;
        tried.count += 1;
        if tried.count == MANY {
            (tried.since, tried.many) = (now, Some(now));
        }
    }

    /// Whether many ports have been tried in the name of `by` since an upload was
    /// `asked` for, or less than a second before.
    pub fn suspects(&self, asked: Instant, by: IpAddr) -> bool {
        let tried = self.places.get(place(self.seed, by, PLACES));
        let many = tried.and_then(|it| it.as_ref()?.many);
        many.is_some_and(|many| asked < many + SPAN)
    }
}

fn hash_of(port: impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    port.hash(&mut hasher);
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "an Instant has no other source")]
    fn start() -> Instant {
        Instant::now()
    }

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn client(host: u8) -> IpAddr {
        [192, 0, 2, host].into()
    }

    /// Ports of transfers of the same client.
    #[test]
    fn a_port_scan_is_told_from_a_stray_block() {
        let start = start();
        let mut guesses = PortGuesses::new(7);
        let mut tried = |at, ports: std::ops::Range<u16>| {
            for port in ports {
                guesses.record(start + millis(at), client(1), (client(1), port).into());
            }
            guesses.suspects(start, client(1))
        };
        // One port, however often; seven in each second.
        assert!(!(0..100).any(|at| tried(at, 1..2)));
        assert!(!(1..4).any(|second| tried(second * 1000, 0..7)));
        // The eighth within a second.
        assert!(!tried(5000, 0..7));
        assert!(!tried(5400, 3..4));
        assert!(tried(5999, 7..8));
        // It is remembered when the second is over, whatever comes then.
        assert!(tried(8000, 0..1));
        // Uploads asked for before the scan or soon after it are suspected.
        for (asked, suspected) in [(0, true), (5999, true), (6998, true), (6999, false)] {
            let told = guesses.suspects(start + millis(asked), client(1));
            assert_eq!(told, suspected, "{asked}");
        }
        assert!(!guesses.suspects(start, client(2)));
    }

    /// Once a second is enough to keep uploads from beginning, and costs nothing.
    #[test]
    fn a_port_scan_that_goes_on_is_found_once_a_second() {
        let start = start();
        let mut guesses = PortGuesses::new(7);
        let mut found = Vec::new();
        for at in 0..3000 {
            let owner = (client(1), at as u16).into();
            guesses.record(start + millis(at), client(1), owner);
            let before = start + millis(at + 999);
            if guesses.suspects(before, client(1)) {
                found.push(at);
            }
        }
        assert_eq!(found, [7, 1014, 2021]);
    }

    /// An attacker knows the ports of its own transfers.
    #[test]
    fn ports_of_another_client_count_as_one() {
        let start = start();
        let own_network: Vec<IpAddr> = (0..100)
            .map(|host| format!("2001:db8::{host:x}").parse().unwrap())
            .collect();
        for (owners, many) in [
            (vec![client(2)], false),
            (own_network, false),
            ((2..9).map(client).collect(), false),
            ((2..10).map(client).collect(), true),
        ] {
            let mut guesses = PortGuesses::new(7);
            for port in 0..100 {
                for &owner in &owners {
                    guesses.record(start, client(1), (owner, port).into());
                }
            }
            assert_eq!(guesses.suspects(start, client(1)), many, "{owners:?}");
        }
    }

    /// Blocks in more names than there are places for.
    #[test]
    fn decoys_hide_no_port_scan() {
        let start = start();
        let mut guesses = PortGuesses::new(7);
        let decoy = (0..5000_u32).map(|host| IpAddr::from((0x0a00_0000 + host).to_be_bytes()));
        let record_decoys = |guesses: &mut PortGuesses| {
            for by in decoy.clone() {
                guesses.record(start, by, (client(99), 1).into());
            }
        };
        record_decoys(&mut guesses);
        assert!(!guesses.suspects(start, client(1)));
        for host in 2..10 {
            guesses.record(start, client(1), (client(host), 1).into());
            record_decoys(&mut guesses);
        }
        assert!(guesses.suspects(start, client(1)));
    }
}
