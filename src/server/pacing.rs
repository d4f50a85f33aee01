//! What the rules by client bound while transfers run: the bytes a second that one is
//! sent, and how many a section has at once.
//!
//! Only sessions that are under such a bound are known here; without rules nothing is.
//! Must not: send, or read the clock.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::policy::rules::Section;
use crate::table::SessionKey;

/// What a transfer that has paused may send at once then: pauses are no shorter.
const QUANTUM: Duration = Duration::from_millis(10);

/// What it may save up while it sends nothing.
const SAVED: Duration = Duration::from_millis(100);

/// The sessions that are bounded.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    sessions: HashMap<SessionKey, Account>,
}

#[derive(Debug)]
struct Account {
    section: Rc<Section>,
    /// Its client has answered.
    counted: Option<Counted>,
    pace: Option<Pace>,
}

/// A session counts among those of its section for as long as this is there.
#[derive(Debug)]
struct Counted(Rc<Section>);

impl Counted {
    fn among(section: &Rc<Section>) -> Self {
        section.sessions.set(section.sessions.get() + 1);
        Self(Rc::clone(section))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sessions.set(self.0.sessions.get() - 1);
    }
}

/// A bucket of bytes that is filled at a rate.
#[derive(Debug)]
struct Pace {
    /// Bytes a second.
    rate: u64,
    /// Bytes that may be sent.
    bytes: u64,
    /// When they were that many.
    at: Instant,
}

impl Pacing {
    /// A session begins under what `section` says.
    pub(super) fn begin(&mut self, key: SessionKey, section: Rc<Section>, now: Instant) {
        let settings = section.settings;
        if settings.needs_account() {
            let account = Account {
                counted: None,
                pace: settings.rate.map(|rate| Pace::new(rate, now)),
                section,
            };
            self.sessions.insert(key, account);
        }
    }

    /// Its client has answered for the first time.
    pub(super) fn proved(&mut self, key: SessionKey) {
        if let Some(account) = self.sessions.get_mut(&key) {
            let section = &account.section;
            account
                .counted
                .get_or_insert_with(|| Counted::among(section));
        }
    }

    /// Its section has more sessions now than it may.
    pub(super) fn is_overfull(&self, key: SessionKey) -> bool {
        let account = self.sessions.get(&key);
        account.is_some_and(|it| it.counted.is_some() && it.section.is_overfull())
    }

    /// It has ended.
    pub(super) fn end(&mut self, key: SessionKey) {
        if !self.sessions.is_empty() {
            self.sessions.remove(&key);
        }
    }

    /// Bytes of DATA that the session may send now, in datagrams of `segment` bytes;
    /// `None`: nothing paces it.
    pub(super) fn lend(
        &mut self,
        key: SessionKey,
        segment: impl FnOnce() -> usize,
        now: Instant,
    ) -> Option<usize> {
        if self.sessions.is_empty() {
            return None;
        }
        let pace = self.sessions.get_mut(&key)?.pace.as_mut()?;
        Some(pace.lend(segment() as u64, now))
    }

    /// It has sent so many bytes of what it was lent. Returns when it may send more.
    pub(super) fn sent(
        &mut self,
        key: SessionKey,
        bytes: usize,
        segment: usize,
    ) -> Option<Instant> {
        let pace = self.sessions.get_mut(&key)?.pace.as_mut()?;
        pace.bytes = pace.bytes.saturating_sub(bytes as u64);
        Some(pace.until_more(segment as u64))
    }
}

impl Pace {
    fn new(rate: NonZeroU64, now: Instant) -> Self {
        let mut pace = Self {
            rate: rate.get(),
            bytes: 0,
            at: now,
        };
        pace.bytes = pace.in_time(QUANTUM);
        pace
    }

    /// Bytes that come in so much time.
    fn in_time(&self, time: Duration) -> u64 {
        let bytes = u128::from(self.rate) * time.as_nanos() / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// What there is, in whole datagrams: none is sent on credit.
    fn lend(&mut self, segment: u64, now: Instant) -> usize {
        let more = self.in_time(now.saturating_duration_since(self.at));
        // Less than a byte is not lost: its time still counts.
        if more > 0 {
            let most = self.in_time(SAVED).max(segment);
            self.bytes = self.bytes.saturating_add(more).min(most);
            self.at = now;
        }
        let lent = self.bytes - self.bytes % segment.max(1);
        usize::try_from(lent).unwrap_or(usize::MAX)
    }

    /// When there is a quantum more, and a datagram's worth.
    fn until_more(&self, segment: u64) -> Instant {
        let lacking = segment.saturating_sub(self.bytes);
        let lacking = u128::from(lacking.max(self.in_time(QUANTUM)));
        let nanos = lacking * 1_000_000_000 / u128::from(self.rate) + 1;
        self.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    /// Blocks of any size at any rate: no more than the rate and what may be saved up,
    /// and nearly as much.
    #[test]
    fn a_pace_is_kept_to_whatever_the_block_size() {
        for (rate, block) in [
            (1_000, 512_u64),
            (100_000, 512),
            (100_000, 65_464),
            (10_000_000, 1428),
            (1 << 40, 1428),
        ] {
            let start = clock::now();
            let mut pace = Pace::new(NonZeroU64::new(rate).unwrap(), start);
            let (mut now, mut sent, mut pauses) = (start, 0, 0);
            while now < start + Duration::from_secs(10) && sent < 1 << 34 {
                let bytes = pace.lend(block, now) as u64;
                assert_eq!(bytes % block, 0);
                sent += bytes;
                pace.bytes -= bytes;
                now = now.max(pace.until_more(block));
                pauses += 1;
            }
            let millis = u64::try_from((now - start).as_millis()).unwrap();
            let due = rate * millis / 1000;
            let slack = rate / 10 + 2 * block;
            assert!(sent <= due + slack, "{rate} {block}: {sent} of {due}");
            assert!(sent + slack >= due, "{rate} {block}: {sent} of {due}");
            assert!(pauses <= 1010, "{rate} {block}: {pauses} pauses");
        }
    }
}
