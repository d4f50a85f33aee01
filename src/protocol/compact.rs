//! Durations of four bytes, where the standard library's take sixteen: every session has
//! several.
//!
//! Must not: know what they are for.

use std::time::Duration;

/// A wait in microseconds: small, since every session has several, and quick to compute
/// with, since every answer is measured. Up to 71 minutes, which is more than `-t` and the
/// options allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Micros(pub(super) u32);

impl Micros {
    /// Rounded down to a microsecond; 4,294 s and more count as the longest.
    pub(super) const fn of(duration: Duration) -> Self {
        if duration.as_secs() < (u32::MAX / 1_000_000) as u64 {
            Self(duration.as_secs() as u32 * 1_000_000 + duration.subsec_micros())
        } else {
            Self(u32::MAX)
        }
    }

    /// `factor` times as long.
    pub(super) const fn times(self, factor: u32) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

impl From<Duration> for Micros {
    fn from(duration: Duration) -> Self {
        Self::of(duration)
    }
}

impl From<Millis> for Micros {
    fn from(millis: Millis) -> Self {
        Self(millis.0).times(1_000)
    }
}

impl From<Micros> for Duration {
    fn from(micros: Micros) -> Self {
        Self::from_micros(micros.0.into())
    }
}

/// A time in milliseconds, for longer ones: up to 49 days.
#[derive(Debug, Clone, Copy)]
pub(super) struct Millis(u32);

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        Self(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX))
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        Self::from_millis(millis.0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_down_and_bounded() {
        for (duration, micros) in [
            (Duration::from_nanos(1_999), 1),
            (Duration::new(4_293, 999_999_999), 4_293_999_999),
            (Duration::from_secs(4_294), u32::MAX),
            (Duration::MAX, u32::MAX),
        ] {
            assert_eq!(Micros::of(duration), Micros(micros), "{duration:?}");
        }
    }
}
