//! A set of the sockets that several peers send to, by index.
//!
//! Every turn of the loop asks for it, so looking must cost nothing when it is empty.
//! Must not: know which sockets these are.

use super::MAX_SOCKETS;

/// One bit for each socket, below [`MAX_SOCKETS`].
#[derive(Debug, Default)]
pub(super) struct SocketSet(u32);

const _: () = assert!(MAX_SOCKETS <= u32::BITS as usize);

impl SocketSet {
    pub(super) const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    pub(super) const fn contains(&self, index: usize) -> bool {
        self.0 & 1 << index != 0
    }

    pub(super) const fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    pub(super) const fn remove(&mut self, index: usize) {
        self.0 &= !(1 << index);
    }

    pub(super) const fn insert_all(&mut self, other: &Self) {
        self.0 |= other.0;
    }
}

/// The indices, from the lowest on.
impl Iterator for SocketSet {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let lowest = self.0.trailing_zeros();
        (lowest < u32::BITS).then(|| {
            self.0 &= self.0 - 1;
            lowest as usize
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = SocketSet::default();
        assert!(set.is_empty());
        for index in [MAX_SOCKETS - 1, 0, 7] {
            set.insert(index);
            assert!(set.contains(index));
        }
        assert!(!set.contains(1));
        set.remove(7);
        let mut other = SocketSet::default();
        other.insert(1);
        other.insert_all(&set);
        assert_eq!(set.collect::<Vec<_>>(), [0, MAX_SOCKETS - 1]);
        assert_eq!(other.collect::<Vec<_>>(), [0, 1, MAX_SOCKETS - 1]);
    }
}
