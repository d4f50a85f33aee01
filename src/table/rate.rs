//! A bounded number of something each second. Must not: read the clock.

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
