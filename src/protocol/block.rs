//! Block arithmetic: the one place where wire numbers and absolute indices meet.
//!
//! On the wire block numbers have 16 bits and wrap; a file has any number of blocks.
//! Everything inside counts with [`BlockIndex`]; [`Rollover`] converts between the two.
//! Must not: keep state.

pub use crate::wire::options::Rollover;
use crate::wire::packet::BlockNumber;

/// A block's absolute position in the transfer: the first block of a file is 1,
/// 0 stands for the handshake (the ACK of a WRQ or of an OACK). Never wraps:
/// 2^64 blocks are more than any file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    /// The handshake, before the first block.
    pub const HANDSHAKE: Self = Self(0);
    /// The first block of a file.
    pub const FIRST: Self = Self(1);
    /// After every block that a file can have.
    pub const NEVER: Self = Self(u64::MAX);

    /// The index `blocks` further on.
    #[must_use]
    pub const fn plus(self, blocks: u64) -> Self {
        Self(self.0.saturating_add(blocks))
    }

    /// Where the block's first byte lies in the file, in bytes.
    ///
    /// Saturates for the handshake (0) and beyond 2^64 bytes.
    pub const fn offset(self, block_size: usize) -> u64 {
        self.0.saturating_sub(1).saturating_mul(block_size as u64)
    }
}

impl Rollover {
    /// The number that stands for a block on the wire.
    pub const fn number_of(self, index: BlockIndex) -> BlockNumber {
        match self {
            Self::ToZero => BlockNumber(index.0 as u16),
            Self::ToOne if index.0 == 0 => BlockNumber(0),
            Self::ToOne => BlockNumber(((index.0 - 1) % 65_535 + 1) as u16),
        }
    }

    /// The block a wire number stands for: the first one at or after `from` that has this
    /// number. `None` if there is none (with [`Rollover::ToOne`] the number 0 occurs only
    /// once).
    pub const fn index_from(self, number: BlockNumber, from: BlockIndex) -> Option<BlockIndex> {
        let here = self.number_of(from).0;
        let distance = match self {
            Self::ToZero => number.0.wrapping_sub(here) as u64,
            Self::ToOne if number.0 == 0 => {
                return if from.0 == 0 { Some(from) } else { None };
            }
            Self::ToOne if from.0 == 0 => number.0 as u64,
            Self::ToOne if number.0 >= here => (number.0 - here) as u64,
            Self::ToOne => number.0 as u64 + 65_535 - here as u64,
        };
        match from.0.checked_add(distance) {
            Some(index) => Some(BlockIndex(index)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wrap_to_zero_or_one() {
        for (index, zero, one) in [
            (0, 0, 0),
            (1, 1, 1),
            (65_535, 65_535, 65_535),
            (65_536, 0, 1),
            (65_537, 1, 2),
            (131_070, 65_534, 65_535),
            (131_071, 65_535, 1),
            (131_072, 0, 2),
        ] {
            assert_eq!(
                Rollover::ToZero.number_of(BlockIndex(index)),
                BlockNumber(zero),
                "{index}"
            );
            assert_eq!(
                Rollover::ToOne.number_of(BlockIndex(index)),
                BlockNumber(one),
                "{index}"
            );
        }
    }

    #[test]
    fn every_index_comes_back_from_its_number() {
        for rollover in [Rollover::ToZero, Rollover::ToOne] {
            for from in [
                0u64,
                1,
                2,
                65_530,
                65_535,
                65_536,
                131_070,
                131_071,
                1 << 33,
            ] {
                for ahead in [0u64, 1, 2, 16, 65_533, 65_534] {
                    let index = BlockIndex(from + ahead);
                    let number = rollover.number_of(index);
                    assert_eq!(
                        rollover.index_from(number, BlockIndex(from)),
                        Some(index),
                        "{rollover:?} {from} + {ahead}"
                    );
                }
            }
        }
    }

    #[test]
    fn zero_is_only_the_handshake_when_rolling_over_to_one() {
        assert_eq!(
            Rollover::ToOne.index_from(BlockNumber(0), BlockIndex(0)),
            Some(BlockIndex(0))
        );
        assert_eq!(
            Rollover::ToOne.index_from(BlockNumber(0), BlockIndex(1)),
            None
        );
        assert_eq!(
            Rollover::ToOne.index_from(BlockNumber(0), BlockIndex(70_000)),
            None
        );
    }

    #[test]
    fn offsets_are_in_bytes_and_do_not_overflow() {
        assert_eq!(BlockIndex::FIRST.offset(512), 0);
        assert_eq!(BlockIndex(3).offset(1428), 2856);
        assert_eq!(BlockIndex::HANDSHAKE.offset(512), 0);
        assert_eq!(BlockIndex(u64::MAX).offset(65_464), u64::MAX);
    }
}
