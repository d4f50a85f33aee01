//! How much of the server's time goes to uploads that anybody could have forged: those on
//! a listen socket, or on one of few ports.
//!
//! There two packets, a WRQ and a block, look like a whole small upload, and to put its
//! file in place takes as long as a hundred packets. So such uploads may take half of the
//! time to begin and to end, and more for a second: a storm of honest ones is over by
//! then. Past that a WRQ is dropped as if the network had lost it, and its client asks
//! again. Blocks between the first and the last aren't counted. Must not: read the clock,
//! or end an upload that has begun.

use std::time::{Duration, Instant};

/// Uploads may take one part in this many of the time.
const PART: u32 = 2;

/// What they may take at once after a rest: time for thousands of small uploads.
const BURST: Duration = Duration::from_secs(1);

/// However long they took, the next may begin after this: what has begun isn't held up, and
/// may end all at once.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The time that such uploads may still take.
#[derive(Debug)]
pub(super) struct UploadTime {
    /// When the time that they took is made up for.
    made_up_at: Instant,
}

impl UploadTime {
    /// No upload before `now`.
    pub(super) const fn new(now: Instant) -> Self {
        Self { made_up_at: now }
    }

    /// Whether one may begin. What it takes shows only afterwards.
    pub(super) fn may_begin(&self, now: Instant) -> bool {
        self.made_up_at <= now + BURST * PART
    }

    /// One has taken this long, until `now`, to begin or to end.
    pub(super) fn spend(&mut self, now: Instant, took: Duration) {
        let made_up_at = self.made_up_at.max(now) + took * PART;
        self.made_up_at = made_up_at.min(now + BURST * PART + LONGEST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// What uploads take in each of these milliseconds, in microseconds, if there are always
    /// more.
    fn flood(milliseconds: u32) -> Vec<u128> {
        let took = Duration::from_micros(250);
        let start = clock::now();
        let mut time = UploadTime::new(start);
        let spent_in = |millisecond| {
            let (mut now, end) = (
                start + MILLISECOND * millisecond,
                start + MILLISECOND * (millisecond + 1),
            );
            let mut spent = Duration::ZERO;
            while now < end && time.may_begin(now) {
                now += took;
                time.spend(now, took);
                spent += took;
            }
            spent.as_micros()
        };
        (0..milliseconds).map(spent_in).collect()
    }

    #[test]
    fn a_flood_of_forged_uploads_gets_all_of_two_seconds_and_half_of_the_rest() {
        let spent = flood(5000);
        assert!(spent[..1990].iter().all(|&it| it == 1000));
        for hundred in spent[2010..].chunks_exact(100) {
            let all = hundred.iter().sum::<u128>();
            assert!((49_000..=51_000).contains(&all), "{all}");
        }
    }

    #[test]
    fn uploads_that_end_all_at_once_keep_none_out_for_long() {
        let start = clock::now();
        let mut time = UploadTime::new(start);
        time.spend(start, Duration::from_secs(240));
        assert!(!time.may_begin(start + LONGEST_WAIT / 2));
        assert!(time.may_begin(start + LONGEST_WAIT));
    }
}
