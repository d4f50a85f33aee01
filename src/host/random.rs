//! Numbers that nobody outside can guess. Must not: be used by the core, which is
//! handed its random numbers.

use std::hash::{BuildHasher, RandomState};

/// A source of such numbers: a counter, hashed with a key that the system's random
/// source chose (`SipHash`).
#[derive(Debug, Default)]
pub struct Random {
    key: RandomState,
    count: u64,
}

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u32 {
        self.seed() as u32
    }

    /// The next one, twice as long.
    pub fn seed(&mut self) -> u64 {
        self.count += 1;
        self.key.hash_one(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_from_source_to_source_and_from_call_to_call() {
        let draw = || {
            let mut random = Random::default();
            [(); 4].map(|()| random.number())
        };
        let (one, other) = (draw(), draw());
        assert_ne!(one, other);
        assert!(one.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
