//! How many answers may be on their way to peers that have never answered, when all of
//! them take room in a send buffer that transfers share.
//!
//! An answer to an address where nobody is stays in that buffer until the kernel gives
//! up looking for it, some three seconds. So a limited number is sent within
//! [`SECONDS`], not counting those whose peer has answered; the rest of the buffer is
//! left to transfers that are under way. (While less than a quarter of the buffer is
//! taken, more may be sent: see `shared`.) Must not: read the clock.

use std::net::IpAddr;
use std::time::Instant;

use crate::table::rate::{has_part, network, place};

/// Longer than the kernel looks for a neighbour (three probes, a second each).
const SECONDS: usize = 4;

/// Bytes of the send buffer that an answer takes: a small datagram, sent and repeated
/// while its neighbour is looked for.
const COST: usize = 2 * 1280;

/// At least this many answers may be on their way, unless they take more than half of the
/// buffer: a room of machines that are switched on at once comes first.
const MIN_ANSWERS: u32 = 2048;

/// Client networks told apart; some share a place, and with it a bound.
const NETWORKS: usize = 256;

/// The answers of the last [`SECONDS`].
#[derive(Debug)]
pub(super) struct UnverifiedAnswers {
    limit: u32,
    origin: Instant,
    seed: u64,
    all: Counts,
    /// By network; empty until the first answer.
    networks: Vec<Counts>,
}

/// How many were sent in each second.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// The latest second that was counted, from the origin.
    second: u64,
    counts: [u32; SECONDS],
}

impl UnverifiedAnswers {
    /// As many as take a quarter of a buffer of `bytes`, or up to [`MIN_ANSWERS`]. No
    /// stranger knows the `seed`, so none can choose whose share to use up.
    pub(super) fn within(bytes: usize, seed: u64, now: Instant) -> Self {
        let [quarter, half] = [4, 2].map(|part| u32::try_from(bytes / part / COST));
        let [quarter, half] = [quarter, half].map(|it| it.unwrap_or(u32::MAX));
        Self::new(quarter.max(half.min(MIN_ANSWERS)), seed, now)
    }

    fn new(limit: u32, seed: u64, now: Instant) -> Self {
        Self {
            limit,
            origin: now,
            seed,
            all: Counts::default(),
            networks: Vec::new(),
        }
    }

    /// Whether one more may be sent to `client`. Its network may have at most as many
    /// on their way as are left for everyone.
    pub(super) fn take(&mut self, now: Instant, client: IpAddr) -> bool {
        let second = self.second_of(now);
        let left = self.limit.saturating_sub(self.all.sum(second));
        let own = self.of_network(client);
        let fits = has_part(own.sum(second), left);
        if fits {
            own.add(second);
            self.all.add(second);
        }
        fits
    }

    /// The one that was sent to `client` at `sent` has been answered.
    pub(super) fn verified(&mut self, now: Instant, sent: Instant, client: IpAddr) {
        let (now, sent) = (self.second_of(now), self.second_of(sent));
        self.all.take_off(now, sent);
        self.of_network(client).take_off(now, sent);
    }

    fn of_network(&mut self, client: IpAddr) -> &mut Counts {
        if self.networks.is_empty() {
            self.networks = vec![Counts::default(); NETWORKS];
        }
        &mut self.networks[place(self.seed, network(client), NETWORKS)]
    }

    fn second_of(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.origin).as_secs()
    }
}

impl Counts {
    fn sum(&mut self, now: u64) -> u32 {
        self.advance(now);
        self.counts.iter().sum()
    }

    fn add(&mut self, now: u64) {
        self.advance(now);
        self.counts[index_of(self.second)] += 1;
    }

    fn take_off(&mut self, now: u64, sent: u64) {
        self.advance(now);
        if sent <= self.second && sent + SECONDS as u64 > self.second {
            let count = &mut self.counts[index_of(sent)];
            *count = count.saturating_sub(1);
        }
    }

    fn advance(&mut self, now: u64) {
        let second = now.max(self.second);
        let passed = second - self.second;
        for later in 1..=passed.min(SECONDS as u64) {
            self.counts[index_of(self.second + later)] = 0;
        }
        self.second = second;
    }
}

/// Where a second is counted.
const fn index_of(second: u64) -> usize {
    second as usize % SECONDS
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::clock;

    #[test]
    fn unverified_peers_take_their_share_and_no_more() {
        let start = clock::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let client = IpAddr::from([192, 0, 2, 1]);
        let mut answers = UnverifiedAnswers::new(6, 7, start);
        let takes = |answers: &mut UnverifiedAnswers, time| answers.take(at(time), client);
        assert!([0, 10, 900].iter().all(|&sent| takes(&mut answers, sent)));
        assert!(!takes(&mut answers, 1000), "three are on their way");
        // One is answered, and no longer counts.
        answers.verified(at(1001), at(10), client);
        assert!(takes(&mut answers, 1002));
        assert!(!takes(&mut answers, 3999));
        // The kernel has given up on those of the first second.
        assert!(takes(&mut answers, 4000) && takes(&mut answers, 4001));
        assert!(!takes(&mut answers, 4999));
        // An answer that comes late sets nothing free.
        answers.verified(at(4999), at(900), client);
        assert!(!takes(&mut answers, 4999));
        // A long pause.
        assert!((0..3).all(|_| takes(&mut answers, 1_000_000)));
        assert!(!takes(&mut answers, 1_000_000));
    }

    /// What an unprivileged server may have (`net.core.wmem_max`), twice that, and what
    /// a privileged one has.
    #[test]
    fn answers_to_nobody_never_fill_a_small_send_buffer() {
        for bytes in [425_984, 851_968, 16 << 20, 1 << 30] {
            let start = clock::now();
            let mut answers = UnverifiedAnswers::within(bytes, 7, start);
            let mut taken = 0;
            for network in 0..=u16::MAX {
                let [high, low] = network.to_be_bytes();
                for host in 0..8 {
                    taken += usize::from(answers.take(start, [10, high, low, host].into()));
                }
            }
            assert!(taken * COST <= bytes / 2, "{taken} in {bytes} bytes");
            assert!(taken * COST >= bytes / 5, "{taken} in {bytes} bytes");
        }
    }

    #[test]
    fn a_flood_in_the_name_of_one_network_leaves_as_much_to_all_others() {
        let start = clock::now();
        let mut answers = UnverifiedAnswers::new(MIN_ANSWERS, 7, start);
        let mut taken = |network: u8, requests: u32| {
            let client = |host: u32| [192, 0, network, host as u8].into();
            let fits = (0..requests).filter(|&host| answers.take(start, client(host)));
            fits.count()
        };
        assert_eq!(taken(1, 100_000), MIN_ANSWERS as usize / 2);
        assert_eq!(taken(2, 500), 500, "an honest network");
        assert_eq!(taken(1, 1), 0);
    }
}
