//! The search for a free port in a range.
//!
//! Must not: make a socket.

use std::io;
use std::ops::RangeInclusive;

/// The most ports of a range that are tried to find a free one.
const MAX_PORT_TRIES: u32 = 64;

/// The ports of `range` to try, one after the other. A small range is tried in full, once
/// around from where `random` points. Of a larger one only [`MAX_PORT_TRIES`] ports are
/// tried, scattered, so that a range that is nearly full costs no more than a small one.
pub(super) fn candidates(range: &RangeInclusive<u16>, random: u16) -> impl Iterator<Item = u16> {
    /// Odd, so that no 16-bit number comes twice.
    const SCATTERED: u16 = 40_503;
    let (low, span) = (
        *range.start(),
        u32::from(range.end().saturating_sub(*range.start())) + 1,
    );
    let step = if span <= MAX_PORT_TRIES { 1 } else { SCATTERED };
    (0..span.min(MAX_PORT_TRIES) as u16).map(move |attempt| {
        let place = if step == 1 {
            u32::from(random) + u32::from(attempt)
        } else {
            random.wrapping_add(attempt.wrapping_mul(step)).into()
        };
        low + (place % span) as u16
    })
}

/// Binds to the first of `ports` that is free.
///
/// # Errors
/// `AddrInUse` if none is; any other error of `bind`, at once.
pub(super) fn bind_one_of(
    ports: impl Iterator<Item = u16>,
    mut bind: impl FnMut(u16) -> io::Result<()>,
) -> io::Result<()> {
    for port in ports {
        match bind(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            done => return done,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_of_a_range_are_tried_at_random_and_not_too_many() {
        for (range, tries) in [
            (5000..=5000, 1),
            (5000..=5009, 10),
            (50_000..=50_063, 64),
            (50_000..=50_999, 64),
            (1024..=u16::MAX, 64),
            (1..=u16::MAX, 64),
        ] {
            let mut first: BTreeSet<u16> = BTreeSet::new();
            for random in (0..u16::MAX).step_by(997) {
                let ports: Vec<_> = candidates(&range, random).collect();
                assert!(ports.iter().all(|port| range.contains(port)), "{range:?}");
                let different: BTreeSet<_> = ports.iter().copied().collect();
                assert_eq!(ports.len(), tries, "{range:?}");
                assert!(different.len() > tries * 9 / 10, "{range:?}: {ports:?}");
                if range.len() <= 64 {
                    assert_eq!(different.len(), range.len(), "all of {range:?}");
                }
                first.extend(ports.first());
            }
            assert!(
                first.len() > range.len().min(60) / 2,
                "{range:?}: {first:?}"
            );
        }
    }
}
