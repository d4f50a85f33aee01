//! The rate of each session in the last second or so, from two looks at it. Nothing is
//! measured while nobody asks.
//!
//! Must not: keep anything for long once nobody asks any more.

use std::time::{Duration, Instant};

use crate::table::SessionKey;

/// A look is kept for at least this long.
const SECOND: Duration = Duration::from_millis(950);

/// All looks are forgotten after this long without a question.
const KEPT: Duration = Duration::from_secs(10);

/// The latest look at each session, by its place in the table.
#[derive(Debug, Default)]
pub(super) struct Rates {
    looks: Vec<Option<Look>>,
    asked: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    key: SessionKey,
    at: Instant,
    bytes: u64,
    /// The rate before that, in bytes a second.
    rate: u64,
}

impl Rates {
    /// The rate of the session at `place` in bytes a second; it has moved `bytes` since it
    /// `started`. The rate is that since the last look if that was a second ago, or else
    /// the rate that was found then.
    pub(super) fn rate(
        &mut self,
        now: Instant,
        place: usize,
        key: SessionKey,
        started: Instant,
        bytes: u64,
    ) -> u64 {
        self.asked = Some(now);
        if self.looks.len() <= place {
            self.looks.resize(place + 1, None);
        }
        let look = &mut self.looks[place];
        let (since, before) = match look.filter(|look| look.key == key) {
            Some(look) if now.saturating_duration_since(look.at) < SECOND => return look.rate,
            Some(look) => (look.at, look.bytes),
            None => (started, 0),
        };
        let rate = per_second(
            bytes.saturating_sub(before),
            now.saturating_duration_since(since),
        );
        *look = Some(Look {
            key,
            at: now,
            bytes,
            rate,
        });
        rate
    }

    /// When [`Rates::handle_timeout`] has something to forget.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        Some(self.asked? + KEPT)
    }

    /// Forgets all looks if nobody has asked lately.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            *self = Self::default();
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a rate that is shown"
)]
fn per_second(bytes: u64, time: Duration) -> u64 {
    (bytes as f64 / time.as_secs_f64().max(0.001)).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let start = clock::now();
        let at = |millis| start + Duration::from_millis(millis);
        let key = SessionKey::from_token(7);
        let mut rates = Rates::default();
        for (millis, key, bytes, expected) in [
            // Since it began.
            (2000, key, 1000, 500),
            // Another reader, or an impatient one.
            (2100, key, 5000, 500),
            (3000, key, 3000, 2000),
            (5000, key, 3000, 0),
            // Another session in its place.
            (6000, SessionKey::from_token(8), 6000, 1000),
        ] {
            assert_eq!(
                rates.rate(at(millis), 3, key, start, bytes),
                expected,
                "{millis}"
            );
        }
        rates.handle_timeout(at(15_999));
        assert!(rates.poll_timeout().is_some());
        rates.handle_timeout(at(16_000));
        assert!(rates.poll_timeout().is_none() && rates.looks.is_empty());
    }
}
