//! The one clock. The shells read it and tell the core what time it is.

use std::time::Instant;

/// What time it is.
#[expect(
    clippy::disallowed_methods,
    reason = "the shells tell the core what time it is"
)]
pub fn now() -> Instant {
    Instant::now()
}
