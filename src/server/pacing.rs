//! The limits that the rules set by client for running transfers: the bytes a second
//! that one moves, and how many a section has at once.
//!
//! One account serves both directions. A download pays for the DATA that it sends; an
//! upload pays for the DATA that an ACK asks for, and its ACKs wait until it can. What
//! asks for nothing (the opening, the final ACK, an ERROR) never waits.
//!
//! Only sessions with such a limit are known here; without rules there are none. Must
//! not: send, or read the clock.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::file::{ReadAt, Store};
use crate::policy::rules::Section;
use crate::protocol::transfer::MAX_DATAGRAM;
use crate::session::shaper::Done;
use crate::session::{Port, SEND_BUDGET, Session};
use crate::table::{SessionKey, Tracked};
use crate::wire::options::{self, DEFAULT_BLKSIZE, DEFAULT_WINDOWSIZE, Limits, MAX_BLKSIZE};
use crate::wire::packet::{DATA_HEADER_LEN, Direction, Request};

/// The shortest pause. After it a transfer may move at once what comes in that time.
const QUANTUM: Duration = Duration::from_millis(10);

/// A transfer that moves nothing may save up the bytes of this time.
const SAVED: Duration = Duration::from_millis(100);

/// How long an upload's window may take. Clients send DATA again after a second or
/// more, or after the timeout that they ask for; a window takes at most half of that.
const LONGEST: Duration = Duration::from_millis(500);

/// The sessions that have a limit.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    sessions: HashMap<SessionKey, Account>,
}

#[derive(Debug)]
struct Account {
    section: Rc<Section>,
    /// Its client has answered, and it isn't over.
    counted: Option<Counted>,
    bucket: Option<TokenBucket>,
}

/// A session counts among those of its section while this exists.
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
struct TokenBucket {
    /// Bytes a second.
    rate: u64,
    /// Bytes that may be moved.
    bytes: u64,
    /// The time that `bytes` is from.
    at: Instant,
}

impl Pacing {
    /// A session begins that keeps to `section`.
    pub(super) fn begin(&mut self, key: SessionKey, section: Rc<Section>, now: Instant) {
        let settings = section.settings;
        if settings.needs_account() {
            let account = Account {
                counted: None,
                bucket: settings.rate.map(|rate| TokenBucket::new(rate, now)),
                section,
            };
            self.sessions.insert(key, account);
        }
    }

    /// The session's turn is over. It counts from its client's first answer on, until it
    /// is over: one that only dallies must keep no other out.
    pub(super) fn count(&mut self, key: SessionKey, session: &impl Tracked) {
        if self.sessions.is_empty() {
            return;
        }
        let Some(account) = self.sessions.get_mut(&key) else {
            return;
        };
        if session.is_over() {
            account.counted = None;
        } else if session.unverified_since().is_none() {
            let section = &account.section;
            account
                .counted
                .get_or_insert_with(|| Counted::among(section));
        }
    }

    /// Whether the session's section now has more sessions than it may.
    pub(super) fn is_overfull(&self, key: SessionKey) -> bool {
        let account = self.sessions.get(&key);
        account.is_some_and(|it| it.counted.is_some() && it.section.is_overfull())
    }

    /// Whether the session counts among those of this section.
    pub(super) fn counts_in(&self, key: SessionKey, section: &Section) -> bool {
        let account = self.sessions.get(&key);
        account.is_some_and(|it| it.counted.is_some() && it.section.is_same(section))
    }

    /// Whether both sessions count among those of one section.
    pub(super) fn are_alike(&self, key: SessionKey, other: SessionKey) -> bool {
        let other = self.sessions.get(&other);
        other.is_some_and(|it| it.counted.is_some() && self.counts_in(key, &it.section))
    }

    /// The session has ended.
    pub(super) fn end(&mut self, key: SessionKey) {
        if !self.sessions.is_empty() {
            self.sessions.remove(&key);
        }
    }

    /// Bytes of DATA that the session may send now, or ask for; `None`: nothing paces it.
    pub(super) fn lend<P: Port, S: Store, R: ReadAt>(
        &mut self,
        key: SessionKey,
        session: &Session<P, S, R>,
        now: Instant,
    ) -> Option<usize> {
        if self.sessions.is_empty() {
            return None;
        }
        let bucket = self.sessions.get_mut(&key)?.bucket.as_mut()?;
        Some(bucket.lend(at_once(session), now))
    }

    /// The session's turn is over: charges it for what it has used, and lets it pause
    /// if it was lent too little.
    pub(super) fn settle<P: Port, S: Store, R: ReadAt>(
        &mut self,
        key: SessionKey,
        session: &mut Session<P, S, R>,
        done: &Done,
    ) {
        let account = self.sessions.get_mut(&key);
        if let Some(bucket) = account.and_then(|it| it.bucket.as_mut()) {
            bucket.bytes = bucket.bytes.saturating_sub(done.sent as u64);
            if done.is_held {
                session.pause(bucket.until_more(at_once(session)));
            }
        }
    }
}

/// The least DATA, in bytes, that moves at once: a datagram of a download, or the
/// window that an ACK asks for in an upload.
fn at_once<P: Port, S: Store, R: ReadAt>(session: &Session<P, S, R>) -> u64 {
    let progress = session.transfer().progress();
    let datagrams = match session.direction() {
        Direction::Read => 1,
        Direction::Write => progress.window_size,
    };
    (DATA_HEADER_LEN as u64 + u64::from(progress.block_size)) * u64::from(datagrams)
}

/// The limits for `request`, an upload at `rate` bytes a second: no ACK may have to
/// wait so long that the client takes its DATA for lost. Acknowledging only part of a
/// window would have the rest sent again (RFC 7440 §4), so the windows themselves are
/// made smaller.
pub(super) fn upload_limits(rate: NonZeroU64, request: &Request<'_>, limits: Limits) -> Limits {
    let (agreed, _) = options::negotiate(request, &limits, None, &mut [0; MAX_DATAGRAM]);
    let longest = agreed
        .timeout
        .map_or(LONGEST, |timeout| LONGEST.min(timeout / 2));
    let most = in_time(rate.get(), longest).min(SEND_BUDGET as u64);
    let block = most.saturating_sub(DATA_HEADER_LEN as u64);
    let block = u16::try_from(block).unwrap_or(MAX_BLKSIZE);
    let max_blksize = limits.max_blksize.min(block.max(DEFAULT_BLKSIZE));
    // `blksize2` may make it less.
    let blksize = agreed.blksize.min(max_blksize);
    let window = most / (DATA_HEADER_LEN as u64 + u64::from(blksize));
    let window = u16::try_from(window).unwrap_or(u16::MAX);
    Limits {
        max_blksize,
        max_windowsize: limits.max_windowsize.min(window.max(DEFAULT_WINDOWSIZE)),
        ..limits
    }
}

/// Bytes that come in `time` at `rate` bytes a second.
fn in_time(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate) * time.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl TokenBucket {
    fn new(rate: NonZeroU64, now: Instant) -> Self {
        let mut bucket = Self {
            rate: rate.get(),
            bytes: 0,
            at: now,
        };
        bucket.bytes = bucket.in_time(QUANTUM);
        bucket
    }

    fn in_time(&self, time: Duration) -> u64 {
        in_time(self.rate, time)
    }

    /// How long `bytes` take at this rate.
    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The bytes that may be moved, as a multiple of `at_once`: nothing is lent on
    /// credit.
    fn lend(&mut self, at_once: u64, now: Instant) -> usize {
        let more = self.in_time(now.saturating_duration_since(self.at));
        let most = self.in_time(SAVED).max(at_once);
        self.bytes = self.bytes.saturating_add(more).min(most);
        // The fraction of a byte isn't lost: its time still counts.
        self.at += self.time_of(more);
        let lent = self.bytes - self.bytes % at_once.max(1);
        usize::try_from(lent).unwrap_or(usize::MAX)
    }

    /// When there will be another quantum, and at least `at_once` bytes.
    fn until_more(&self, at_once: u64) -> Instant {
        let lacking = at_once.saturating_sub(self.bytes);
        self.at + self.time_of(lacking.max(self.in_time(QUANTUM)))
    }
}

#[cfg(all(test, feature = "rules"))]
mod tests;
