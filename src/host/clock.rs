//! The one clock. The shells read it and tell the core what time it is. Must not:
//! be read below layer 3.

use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// What time it is.
#[expect(
    clippy::disallowed_methods,
    reason = "the shells tell the core what time it is"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The processor time that this process has taken.
pub fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let microseconds = usage.map_or(0, |usage| {
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
    });
    Duration::from_micros(u64::try_from(microseconds).unwrap_or(0))
}

/// Seconds since 1970, for the log.
#[expect(clippy::disallowed_methods, reason = "the log says when")]
pub fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
