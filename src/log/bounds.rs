//! How many lines of each kind there may be a second, in all and about the clients of
//! one network. Lines left out are counted, and the log tells how many there were.
//!
//! The noise of one network leaves room for lines about others, and one kind of line
//! leaves room for the other kinds. Must not: write a line.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::table::rate::NetworkRateLimit;

/// Networks told apart; some share a place, and with it a bound.
const NETWORKS: usize = 256;

/// How long lines are left out before the log tells how many.
const SUMMARY_AFTER: Duration = Duration::from_secs(1);

/// Lines that clients cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request was refused.
    Refused,
    /// A boot loader looked for its configuration.
    Searched,
    /// A request leads to another name.
    Mapped,
    /// A transfer has begun.
    Started,
    /// A transfer has ended whose peer never answered.
    Unanswered,
    /// A transfer has ended whose peer answered: with a port of its own, its
    /// address is real.
    Ended,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Refused,
        Self::Searched,
        Self::Mapped,
        Self::Started,
        Self::Unanswered,
        Self::Ended,
    ];

    /// Lines a second.
    const fn bound(self) -> u32 {
        match self {
            Self::Ended => 1000,
            _ => 100,
        }
    }

    /// Its name in the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Searched => "searched",
            Self::Mapped => "mapped",
            Self::Started => "started",
            Self::Unanswered => "unanswered",
            Self::Ended => "ended",
        }
    }
}

/// The bounds of all kinds.
#[derive(Debug)]
pub(crate) struct Bounds {
    kinds: [Bound; Kind::ALL.len()],
    /// The earliest `due` of them, kept since every turn of the loop asks for it.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Bound {
    lines: NetworkRateLimit,
    left_out: u64,
    /// When to tell how many lines were left out.
    due: Option<Instant>,
}

impl Bounds {
    pub(crate) fn new(now: Instant) -> Self {
        // A random seed: no stranger may choose whose place to share.
        let hasher = RandomState::new();
        Self::seeded(now, |kind| hasher.hash_one(kind.name()))
    }

    fn seeded(now: Instant, seed: impl Fn(Kind) -> u64) -> Self {
        let kinds = Kind::ALL.map(|kind| Bound {
            lines: NetworkRateLimit::new(kind.bound(), NETWORKS, seed(kind), now),
            left_out: 0,
            due: None,
        });
        Self { kinds, due: None }
    }

    /// Whether there may be one more line of this kind about a client; if not, it
    /// is counted.
    pub(crate) fn admit(&mut self, now: Instant, kind: Kind, client: IpAddr) -> bool {
        let bound = &mut self.kinds[kind as usize];
        let admitted = bound.lines.take(now, client);
        if !admitted {
            bound.left_out += 1;
            let due = *bound.due.get_or_insert(now + SUMMARY_AFTER);
            self.due = Some(self.due.map_or(due, |first| first.min(due)));
        }
        admitted
    }

    /// When [`Bounds::tell`] has something to tell.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Hands over how many lines were left out of each kind that is due, or, if `hurry`, of
    /// each kind that left any out.
    pub(crate) fn tell(&mut self, now: Instant, hurry: bool, mut tell: impl FnMut(Kind, u64)) {
        for (bound, kind) in self.kinds.iter_mut().zip(Kind::ALL) {
            if bound.due.is_some_and(|due| hurry || due <= now) {
                bound.due = None;
                tell(kind, std::mem::take(&mut bound.left_out));
            }
        }
        self.due = self.kinds.iter().filter_map(|bound| bound.due).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_kind_has_its_bound_and_its_summary() {
        let now = clock::now();
        // A seed with which the two networks have different places.
        let mut bounds = Bounds::seeded(now, |_| 1);
        for kind in Kind::ALL {
            let mut admit = |client| bounds.admit(now, kind, address(client));
            let noisy = (0..24_000).filter(|_| admit("192.0.2.1")).count();
            assert_eq!(noisy, kind.bound() as usize / 2, "{kind:?}");
            assert!(admit("198.51.100.1"), "{kind:?}: one network's noise");
        }
        assert_eq!(bounds.poll_timeout(), Some(now + SUMMARY_AFTER));
        let mut told = Vec::new();
        bounds.tell(now, false, |kind, lines| told.push((kind, lines)));
        assert_eq!(told, [], "too early");
        bounds.tell(now + SUMMARY_AFTER, false, |kind, lines| {
            told.push((kind, lines));
        });
        let of = |kind: Kind| (kind, 24_000 - u64::from(kind.bound() / 2));
        assert_eq!(told, Kind::ALL.map(of));
        assert_eq!(bounds.poll_timeout(), None);
    }
}
