//! How much of the server's time goes to uploads that anybody could have forged: those on
//! a listen socket, or on one of few ports.
//!
//! There two packets, a WRQ and a block, look like a whole small upload, and to put its
//! file in place takes as long as a hundred packets. In a flood of them the receive buffer
//! of the listen socket fills up, and everyone waits. From then on, for a while, such
//! uploads may take half of the time to begin and to end, and no client network more of
//! each second than it leaves to all others. Past that a WRQ is dropped as if the network had lost it, and its client
//! asks again. Blocks between the first and the last aren't counted. Must not: read the
//! clock, or end an upload that has begun.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::table::rate::NetworkRateLimit;

/// It fills up once this part of it is taken, or once it wasn't read empty for this long:
/// a storm of uploads from honest clients is over sooner.
pub(super) const FILLING: u32 = 4;
const LONG: Duration = Duration::from_secs(2);

/// How long the limit holds then.
const LIMITED: Duration = Duration::from_secs(60);

/// One part in this many of the time. Not less of it: with a slow disk and `--fsync` an
/// upload takes a tenth of a second.
const PART: u32 = 2;

/// How much may be spent at once after a rest: time for hundreds of small uploads.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Client networks told apart.
const NETWORKS: usize = 256;

/// The time that such uploads may still take.
#[derive(Debug)]
pub(super) struct UploadTime {
    /// Since when more has come than was read, if it has.
    backlog_since: Option<Instant>,
    /// Until when there is a limit.
    limited_until: Option<Instant>,
    /// When what was spent is made up for: spread over the second, since other transfers
    /// wait meanwhile.
    made_up_at: Instant,
    /// Microseconds of each second, shared out among networks.
    by_network: NetworkRateLimit,
}

impl UploadTime {
    /// No limit yet, from `now` on. No stranger knows the `seed`, so none can choose whose
    /// share to use up.
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        let most = micros(Duration::from_secs(1) / PART + AT_ONCE);
        Self {
            backlog_since: None,
            limited_until: None,
            made_up_at: now,
            by_network: NetworkRateLimit::new(most, NETWORKS, seed, now),
        }
    }

    /// The listen socket holds more than was read from it. `is_filling`: more than the part
    /// [`FILLING`] of its receive buffer is taken.
    pub(super) fn note_backlog(&mut self, now: Instant, is_filling: bool) {
        let since = *self.backlog_since.get_or_insert(now);
        if is_filling || now.saturating_duration_since(since) >= LONG {
            self.limit(now);
        }
    }

    /// The listen socket was read empty.
    pub(super) fn no_backlog(&mut self) {
        self.backlog_since = None;
    }

    fn limit(&mut self, now: Instant) {
        if !self.is_limited(now) {
            // What was spent without a limit needn't be made up for.
            self.made_up_at = now;
        }
        self.limited_until = Some(now + LIMITED);
    }

    fn is_limited(&self, now: Instant) -> bool {
        self.limited_until.is_some_and(|until| now < until)
    }

    /// Whether an upload may begin for `client`. What it takes shows only afterwards.
    pub(super) fn may_begin(&mut self, now: Instant, client: IpAddr) -> bool {
        let has_time = self.made_up_at < now + AT_ONCE * PART;
        !self.is_limited(now) || (has_time && self.by_network.leaves(now, client) > 0)
    }

    /// Deducts the time that an upload of `client` took, until `now`, to begin or to end.
    pub(super) fn spend(&mut self, now: Instant, took: Duration, client: IpAddr) {
        self.made_up_at = self.made_up_at.max(now) + took * PART;
        self.by_network.spend(micros(took), client);
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const TOOK: Duration = Duration::from_micros(250);

    fn client(network: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + (network << 8)).to_be_bytes())
    }

    fn limited(now: Instant) -> UploadTime {
        let mut time = UploadTime::new(7, now);
        time.note_backlog(now, true);
        time
    }

    #[test]
    fn forged_uploads_of_many_networks_take_half_of_the_time_and_never_much_at_once() {
        let start = clock::now();
        let mut time = limited(start);
        let mut all = Duration::ZERO;
        for millisecond in 0..3000 {
            let now = start + MILLISECOND * millisecond;
            let mut spent = Duration::ZERO;
            for number in 0..1000 {
                let client = client(millisecond * 1000 + number);
                if time.may_begin(now, client) {
                    time.spend(now, TOOK, client);
                    spent += TOOK;
                }
            }
            let most = if millisecond == 0 {
                AT_ONCE
            } else {
                MILLISECOND / PART
            };
            // The last one may take more than is left.
            assert!(spent <= most + TOOK, "{millisecond}: {spent:?}");
            all += spent;
        }
        assert!(all > Duration::from_millis(1450), "{all:?}");
    }

    #[test]
    fn a_flood_of_one_network_leaves_time_to_another() {
        let start = clock::now();
        let mut time = limited(start);
        let (noisy, quiet) = (client(1), client(2));
        for millisecond in 0..3000 {
            let now = start + MILLISECOND * millisecond;
            while time.may_begin(now, noisy) {
                time.spend(now, TOOK, noisy);
            }
            if millisecond % 100 == 99 {
                assert!(time.may_begin(now + TOOK * PART, quiet), "{millisecond}");
            }
        }
    }

    #[test]
    fn there_is_a_limit_only_after_the_socket_has_filled_up() {
        let start = clock::now();
        let mut time = UploadTime::new(7, start);
        let storm = |time: &mut UploadTime, now| {
            (0..10_000)
                .filter(|&number| {
                    let begins = time.may_begin(now, client(number % 7));
                    if begins {
                        time.spend(now, TOOK, client(number % 7));
                    }
                    begins
                })
                .count()
        };
        assert_eq!(storm(&mut time, start), 10_000);
        for (seconds, is_read_empty, expected) in [
            (0, false, 10_000),
            (1, false, 10_000),
            (1, true, 10_000),
            (2, false, 10_000),
            (3, false, 10_000),
            (4, false, 400),
        ] {
            let now = start + Duration::from_secs(seconds);
            time.note_backlog(now, false);
            if is_read_empty {
                time.no_backlog();
            }
            assert_eq!(storm(&mut time, now), expected, "{seconds}");
        }
        let end = start + Duration::from_secs(4) + LIMITED;
        assert_eq!(storm(&mut time, end), 10_000);
    }

    #[test]
    fn an_upload_that_takes_very_long_is_made_up_for() {
        let start = clock::now();
        let mut time = limited(start);
        let over = Duration::from_secs(1);
        time.spend(start, AT_ONCE + over, client(1));
        let end = start + over * PART;
        assert!(!time.may_begin(end, client(2)));
        assert!(time.may_begin(end + MILLISECOND, client(2)));
    }
}
