//! The same refusal again and again: counted, and told less and less often.
//!
//! Boot firmware asks for what isn't there every few seconds, for years. The
//! first time gets a line, then the tenth, the hundredth and so on. Must not:
//! write a line.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::time::{Duration, Instant};

/// Refusals that are remembered, one a slot; another one in its place starts
/// anew.
const SLOTS: usize = 2048;

/// After so long without it a refusal is a new one.
const MEMORY: Duration = Duration::from_secs(600);

/// What was refused lately.
#[derive(Debug)]
pub(crate) struct Repeats {
    /// Seeded, so that no stranger chooses whose place to take.
    hasher: RandomState,
    slots: Box<[Option<Seen>]>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    hash: u64,
    times: u64,
    last: Instant,
}

impl Repeats {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            slots: vec![None; SLOTS].into_boxed_slice(),
        }
    }

    /// Counts a refusal; how often there was this one, if that is to be told.
    pub(crate) fn count(&mut self, now: Instant, refusal: impl Hash) -> Option<u64> {
        let hash = self.hasher.hash_one(refusal);
        let slot = self.slots.get_mut(hash as usize % SLOTS)?;
        let is_same =
            |seen: &Seen| seen.hash == hash && now.saturating_duration_since(seen.last) < MEMORY;
        let times = 1 + slot.filter(is_same).map_or(0, |seen| seen.times);
        let last = now;
        *slot = Some(Seen { hash, times, last });
        is_power_of_ten(times).then_some(times)
    }

    /// Takes back what was counted last: it could not be told.
    pub(crate) fn uncount(&mut self, refusal: impl Hash) {
        let hash = self.hasher.hash_one(refusal);
        if let Some(Some(seen)) = self.slots.get_mut(hash as usize % SLOTS)
            && seen.hash == hash
        {
            seen.times -= 1;
        }
    }
}

const fn is_power_of_ten(number: u64) -> bool {
    10_u64.pow(number.ilog10()) == number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    #[test]
    fn a_repeated_refusal_is_told_at_powers_of_ten() {
        let mut repeats = Repeats::new();
        let start = clock::now();
        let told = |repeats: &mut Repeats, now| -> Vec<u64> {
            (0..1500).filter_map(|_| repeats.count(now, "a")).collect()
        };
        assert_eq!(told(&mut repeats, start), [1, 10, 100, 1000]);
        assert_eq!(repeats.count(start + MEMORY / 2, "a"), None);
        assert_eq!(told(&mut repeats, start + 2 * MEMORY), [1, 10, 100, 1000]);
    }

    #[test]
    fn another_refusal_is_told() {
        let mut repeats = Repeats::new();
        let now = clock::now();
        for number in 0..10 * SLOTS {
            assert_eq!(repeats.count(now, number), Some(1), "{number}");
        }
    }
}
