//! The same refusal again and again: the first is told at once, the others are counted
//! and told in summaries.
//!
//! Boot firmware may ask for a file that isn't there every few seconds, for years. The
//! first summary comes within a minute, later ones less and less often. Must not: write a
//! line.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::short::Short;
use crate::wire::packet::ErrorCode;

/// The most refusals that are remembered; beyond these, a new one takes an old one's
/// place. A hash table of 512 slots holds as many.
const MAX_REMEMBERED: usize = 448;

/// A refusal that didn't come for this long counts as a new one.
const MEMORY: Duration = Duration::from_secs(600);

/// How long after a refusal was told its repeats are told; each later wait is ten times
/// as long.
const FIRST_WAIT: Duration = Duration::from_secs(60);

/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What is kept of a name, in bytes.
const NAME_LEN: usize = 96;

/// A refusal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefusedRequest {
    /// Where the latest such request came from.
    pub(crate) peer: SocketAddr,
    pub(crate) op: &'static str,
    pub(crate) file: Short<NAME_LEN>,
    pub(crate) code: ErrorCode,
    pub(crate) reason: Short<64>,
}

#[derive(Debug)]
struct Seen {
    refusal: RefusedRequest,
    times: u64,
    last: Instant,
    /// When repeats are told next.
    due: Instant,
    wait: Duration,
    /// There were repeats since they were told last.
    is_repeated: bool,
}

/// What was refused lately.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// By a hash of what makes two refusals the same.
    seen: HashMap<u64, Seen>,
    /// When the first of them is to be told, or earlier.
    due: Option<Instant>,
}

impl Repeats {
    /// Counts a refusal; returns how often it came, if that is to be told now.
    pub(crate) fn count(&mut self, now: Instant, refusal: RefusedRequest) -> Option<u64> {
        // The same refusal to another port is a repeat.
        let client = refusal.peer.ip();
        let same = (client, refusal.op, refusal.file, refusal.code.to_wire());
        let key = self.seen.hasher().hash_one(same);
        if let Some(seen) = self.seen.get_mut(&key)
            && now.saturating_duration_since(seen.last) < MEMORY
        {
            seen.refusal = refusal;
            seen.times += 1;
            seen.last = now;
            if seen.due <= now {
                seen.told(now);
                return Some(seen.times);
            }
            seen.is_repeated = true;
            let due = self.due.map_or(seen.due, |due| due.min(seen.due));
            self.due = Some(due);
            return None;
        }
        if self.seen.len() >= MAX_REMEMBERED
            && let Some(&any) = self.seen.keys().next()
        {
            self.seen.remove(&any);
        }
        let seen = Seen {
            refusal,
            times: 1,
            last: now,
            due: now + FIRST_WAIT,
            wait: FIRST_WAIT,
            is_repeated: false,
        };
        self.seen.insert(key, seen);
        Some(1)
    }

    /// When [`Repeats::tell`] may have something to tell.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Hands over the refusals whose repeats are to be told, and how often each came; if
    /// `hurry`, all that have repeats not told yet.
    pub(crate) fn tell(
        &mut self,
        now: Instant,
        hurry: bool,
        mut tell: impl FnMut(&RefusedRequest, u64),
    ) {
        if !hurry && self.due.is_none_or(|due| due > now) {
            return;
        }
        for seen in self.seen.values_mut().filter(|seen| seen.is_repeated) {
            if hurry || seen.due <= now {
                seen.told(now);
                tell(&seen.refusal, seen.times);
            }
        }
        let repeated = self.seen.values().filter(|seen| seen.is_repeated);
        self.due = repeated.map(|seen| seen.due).min();
    }
}

impl Seen {
    fn told(&mut self, now: Instant) {
        self.is_repeated = false;
        self.wait = (self.wait * 10).min(LONGEST_WAIT);
        self.due = now + self.wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    fn refusal(name: &str, port: u16) -> RefusedRequest {
        RefusedRequest {
            peer: ([192, 0, 2, 1], port).into(),
            op: "read",
            file: Short::of(name.as_bytes()),
            code: ErrorCode::FileNotFound,
            reason: Short::shown(&"File not found"),
        }
    }

    fn told(repeats: &mut Repeats, now: Instant) -> Vec<u64> {
        let mut told = Vec::new();
        repeats.tell(now, false, |_, times| told.push(times));
        told
    }

    #[test]
    fn five_at_once_are_the_first_and_a_summary_within_a_minute() {
        let mut repeats = Repeats::default();
        let start = clock::now();
        let counts: Vec<_> = (0..5)
            .map(|second| {
                let now = start + Duration::from_secs(second);
                repeats.count(now, refusal("a", second as u16))
            })
            .collect();
        assert_eq!(counts, [Some(1), None, None, None, None]);
        let due = repeats.poll_timeout().unwrap();
        assert!(due <= start + Duration::from_secs(61));
        assert_eq!(told(&mut repeats, due), [5]);
        assert_eq!(repeats.poll_timeout(), None);
        // It goes on: told less often.
        assert_eq!(repeats.count(due, refusal("a", 9)), None);
        let next = repeats.poll_timeout().unwrap();
        assert_eq!(next, due + 10 * FIRST_WAIT);
        assert_eq!(told(&mut repeats, next), [6]);
    }

    #[test]
    fn one_each_hundred_seconds_is_told_as_it_comes_and_then_counted() {
        let mut repeats = Repeats::default();
        let start = clock::now();
        let mut lines = Vec::new();
        for round in 0..40 {
            let now = start + round * Duration::from_secs(100);
            lines.extend(told(&mut repeats, now));
            lines.extend(repeats.count(now, refusal("a", 1)));
        }
        assert_eq!(lines[..3], [1, 2, 7], "{lines:?}");
        assert!(lines.len() <= 5, "{lines:?}");
    }

    #[test]
    fn another_refusal_is_told_and_the_memory_is_bounded() {
        let mut repeats = Repeats::default();
        let now = clock::now();
        for number in 0..2 * MAX_REMEMBERED {
            let name = number.to_string();
            assert_eq!(repeats.count(now, refusal(&name, 1)), Some(1), "{number}");
        }
        assert_eq!(repeats.seen.len(), MAX_REMEMBERED);
        // After a long time the same refusal is a new one.
        let mut repeats = Repeats::default();
        assert_eq!(repeats.count(now, refusal("a", 1)), Some(1));
        assert_eq!(repeats.count(now + MEMORY, refusal("a", 1)), Some(1));
    }

    #[test]
    fn in_a_hurry_all_is_told() {
        let mut repeats = Repeats::default();
        let now = clock::now();
        for name in ["a", "a", "b"] {
            repeats.count(now, refusal(name, 1));
        }
        let mut told = Vec::new();
        repeats.tell(now, true, |refusal, times| {
            told.push((refusal.file.to_string(), times));
        });
        assert_eq!(told, [("a".to_owned(), 2)]);
    }
}
