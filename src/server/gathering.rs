//! Sessions whose port is left alone while a window gathers there, and until when: to the
//! microsecond, where the table's wheel counts in milliseconds.
//!
//! A hint like the wheel, which has the same deadlines. Must not: run a session.

use std::time::Instant;

use crate::table::SessionKey;

/// Sessions that there is room for; windows of more come so slowly that a millisecond
/// makes no difference.
const MAX_SESSIONS: usize = 64;

/// When which session's window should be there, in no order.
#[derive(Debug)]
pub(super) struct Gathering {
    sessions: Vec<(Instant, SessionKey)>,
}

impl Default for Gathering {
    fn default() -> Self {
        Self {
            sessions: Vec::with_capacity(MAX_SESSIONS),
        }
    }
}

impl Gathering {
    /// When the next window should be there.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.sessions.iter().map(|&(until, _)| until).min()
    }

    /// A session whose window should be there; call until `None`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<SessionKey> {
        let due = self.sessions.iter().position(|&(until, _)| until <= now)?;
        Some(self.sessions.swap_remove(due).1)
    }

    /// After a turn of the session: until when its port is left alone, if it is.
    pub(super) fn note(&mut self, key: SessionKey, until: Option<Instant>) {
        if until.is_none() && self.sessions.is_empty() {
            return;
        }
        let known = self.sessions.iter().position(|&(_, it)| it == key);
        match (until, known) {
            (Some(until), Some(index)) => self.sessions[index].0 = until,
            (Some(until), None) if self.sessions.len() < MAX_SESSIONS => {
                self.sessions.push((until, key));
            }
            (None, Some(index)) => drop(self.sessions.swap_remove(index)),
            (_, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::clock;

    #[test]
    fn each_session_has_one_place_until_its_window_is_there() {
        let now = clock::now();
        let at = |microseconds| now + Duration::from_micros(microseconds);
        let key = SessionKey::from_token;
        let mut gathering = Gathering::default();
        assert_eq!(gathering.next_deadline(), None);
        gathering.note(key(1), None);
        gathering.note(key(1), Some(at(300)));
        gathering.note(key(2), Some(at(200)));
        gathering.note(key(1), Some(at(100)));
        assert_eq!(gathering.next_deadline(), Some(at(100)));
        assert_eq!(gathering.pop_due(at(99)), None);
        assert_eq!(gathering.pop_due(at(150)), Some(key(1)));
        assert_eq!(gathering.pop_due(at(150)), None);
        gathering.note(key(2), None);
        assert_eq!(gathering.next_deadline(), None);
        for index in 0..2 * MAX_SESSIONS {
            gathering.note(key(index), Some(at(1)));
        }
        assert_eq!(gathering.sessions.len(), MAX_SESSIONS);
    }
}
