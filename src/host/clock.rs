//! The one clock. The shells read it and tell the core what time it is. Must not:
//! be read below layer 3.

use std::time::{Instant, SystemTime};

/// What time it is.
#[expect(
    clippy::disallowed_methods,
    reason = "the shells tell the core what time it is"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The earliest of `deadlines`, most of which are usually unset.
pub fn earliest<const N: usize>(deadlines: [Option<Instant>; N]) -> Option<Instant> {
    let mut earliest: Option<Instant> = None;
    for deadline in deadlines {
        if deadline.is_some() && (earliest.is_none() || deadline < earliest) {
            earliest = deadline;
        }
    }
    earliest
}

/// Seconds since 1970, for the log.
#[expect(clippy::disallowed_methods, reason = "the log says when")]
pub fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// Milliseconds since 1970, for the log.
#[expect(clippy::disallowed_methods, reason = "the log says when")]
pub fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_of_the_deadlines_that_are_set_is_found() {
        let first = now();
        let second = first + Duration::from_nanos(1);
        for (deadlines, expected) in [
            ([None, None, None], None),
            ([None, Some(second), None], Some(second)),
            ([Some(second), None, Some(first)], Some(first)),
            ([Some(first), Some(second), None], Some(first)),
            ([None, Some(first), Some(first)], Some(first)),
        ] {
            assert_eq!(earliest(deadlines), expected, "{deadlines:?}");
        }
    }
}
