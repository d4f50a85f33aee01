//! A session's wait for its file, or for the end of a pause: until when, and how long the
//! waits took.
//!
//! The kernel fetches the data, and nothing tells when it is there. So the session
//! looks again, soon at first, then less often; or it waits for its turn to have data
//! fetched at all. Must not: read the file or the clock.

use std::time::{Duration, Instant};

use super::Waited;
use crate::file::{FileSource, ReadAt};

/// The shortest wait between two looks; what a disk takes to find a block.
const SHORTEST: Duration = Duration::from_millis(1);

/// The longest wait between two looks: what a download from a slow disk loses at most
/// with each wait.
const LONGEST: Duration = Duration::from_millis(10);

/// The wait between two tries to get its turn.
const TURN: Duration = Duration::from_millis(20);

/// After this long the file is read with a blocking call, although all sessions wait
/// for it: where a read failed in the background, or nothing is ever kept in memory,
/// only that call brings the error or the data.
const PATIENCE: Duration = Duration::from_secs(3);

/// The current wait for the file, if there is one, and how long the earlier waits took.
/// Boxed, since most sessions never wait.
#[derive(Debug, Default)]
pub(super) struct FileWait(Option<Box<Wait>>);

#[derive(Debug, Default)]
struct Wait {
    is_on: bool,
    /// How long the finished waits took.
    waited: Waited,
    /// When the wait for the file began, including that for its turn.
    began: Option<Instant>,
    /// When the missing data began to be fetched.
    since: Option<Instant>,
    /// When to look again.
    until: Option<Instant>,
    /// The transfer moved too fast: it pauses, and doesn't wait for its file.
    is_pause: bool,
}

impl FileWait {
    /// Whether the session waits for its file, or pauses.
    pub(super) fn is_on(&self) -> bool {
        self.0.as_ref().is_some_and(|wait| wait.is_on)
    }

    /// Whether the session waits for its file; a pause doesn't count.
    pub(super) fn is_for_file(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|wait| wait.is_on && !wait.is_pause)
    }

    /// Lets nothing be sent before `until`, although the file may be ready.
    pub(super) fn pause(&mut self, until: Instant) {
        let wait = self.0.get_or_insert_default();
        **wait = Wait {
            is_on: true,
            waited: wait.waited,
            began: None,
            since: None,
            until: Some(until),
            is_pause: true,
        };
    }

    /// When to look again, if the session waits.
    pub(super) fn until(&self) -> Option<Instant> {
        self.0.as_ref().filter(|wait| wait.is_on)?.until
    }

    /// Before the file is read: makes the read block if the session has waited too
    /// long.
    pub(super) fn before_read<R: ReadAt>(&self, now: Instant, source: &mut FileSource<R>) {
        if self.is_spent(now) {
            source.block();
        }
    }

    /// After the file wasn't ready: has it fetched, and sets when to look again.
    pub(super) fn look_again_later<R: ReadAt>(&mut self, now: Instant, source: &mut FileSource<R>) {
        self.go_on(now, source.fetch());
    }

    /// Ends the wait, if there is one.
    #[inline]
    pub(super) fn over(&mut self, now: Instant) {
        if self.is_on() {
            self.end(now);
        }
    }

    #[cold] // Only after a wait; every packet calls `over`.
    fn end(&mut self, now: Instant) {
        let Some(wait) = &mut self.0 else {
            return;
        };
        let (mut waited, was_pause) = (wait.waited, wait.is_pause);
        if let Some(began) = wait.began {
            waited.file += now.saturating_duration_since(began);
        }
        **wait = Wait {
            waited,
            ..Wait::default()
        };
        // A paced transfer will pause again, and no packet may allocate: it keeps its
        // box.
        if waited == Waited::default() && !was_pause {
            self.0 = None;
        }
    }

    /// Notes that the request waited for this long before the transfer began.
    pub(super) fn waited_before(&mut self, took: Duration) {
        self.0.get_or_insert_default().waited.before = took;
    }

    /// Notes that the peer paused for this long.
    pub(super) fn paused(&mut self, took: Duration) {
        self.0.get_or_insert_default().waited.peer += took;
    }

    /// How long the finished waits took.
    pub(super) fn waited(&self) -> Waited {
        self.0.as_ref().map(|wait| wait.waited).unwrap_or_default()
    }

    /// Each wait equals the time waited so far, between `SHORTEST` and `LONGEST`,
    /// counted from when the data began to be `fetched`. Until then each is [`TURN`].
    fn go_on(&mut self, now: Instant, fetched: bool) {
        let wait = self.0.get_or_insert_default();
        (wait.is_on, wait.is_pause) = (true, false);
        wait.began.get_or_insert(now);
        wait.since = fetched.then_some(wait.since.unwrap_or(now));
        let pause = wait.since.map_or(TURN, |since| {
            let waited = now.saturating_duration_since(since);
            waited.clamp(SHORTEST, LONGEST)
        });
        wait.until = Some(now + pause);
    }

    fn is_spent(&self, now: Instant) -> bool {
        self.0
            .as_ref()
            .filter(|wait| wait.is_on)
            .and_then(|wait| wait.since)
            .is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    #[test]
    fn the_waits_double_from_one_millisecond_to_ten() {
        let start = clock::now();
        let mut wait = FileWait::default();
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..7 {
            wait.go_on(now, true);
            let until = wait.until().unwrap();
            waits.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(waits, [1, 1, 2, 4, 8, 10, 10]);
        assert!(!wait.is_spent(start + PATIENCE.saturating_sub(SHORTEST)));
        assert!(wait.is_spent(start + PATIENCE));
        wait.over(now);
        let waited = now - start;
        assert!(!wait.is_on() && wait.until().is_none());
        assert_eq!(wait.waited().file, waited);
        wait.pause(now);
        wait.over(now + PATIENCE);
        assert_eq!(wait.waited().file, waited, "a pause isn't counted");
        wait.paused(PATIENCE);
        assert!(!wait.is_on() && wait.until().is_none());
        assert_eq!(wait.waited().peer, PATIENCE);
    }

    #[test]
    fn waiting_for_its_turn_spends_no_patience() {
        let start = clock::now();
        let mut wait = FileWait::default();
        for waited in [Duration::ZERO, PATIENCE] {
            wait.go_on(start + waited, false);
            assert_eq!(wait.until(), Some(start + waited + TURN));
            assert!(!wait.is_spent(start + 2 * PATIENCE));
        }
        wait.go_on(start + PATIENCE, true);
        assert_eq!(wait.until(), Some(start + PATIENCE + SHORTEST));
        assert!(!wait.is_spent(start + PATIENCE));
        assert!(wait.is_spent(start + 2 * PATIENCE));
    }
}
