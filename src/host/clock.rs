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

/// Seconds since 1970, for the log.
#[expect(clippy::disallowed_methods, reason = "the log says when")]
pub fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
