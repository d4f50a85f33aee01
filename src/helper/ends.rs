//! What the log says about a helper that ends, perhaps again and again, and how often.
//!
//! Must not: start anything.

use std::fmt;
use std::time::{Duration, Instant};

use log::{error, warn};

use crate::log::shown::Name;

/// The time from one log line to the next, while the helper ends again and again.
const SUMMARY: Duration = Duration::from_secs(60);

/// What has been logged.
#[derive(Debug)]
pub(super) struct Ends {
    /// The helper's command, or the path of its socket.
    helper: Box<[u8]>,
    /// When the last line was written.
    told: Option<Instant>,
    /// How often the helper has ended since then.
    times: u64,
    /// The server is ending, and the helper with it.
    pub(super) is_stopping: bool,
}

impl Ends {
    /// Nothing has been logged yet about this `helper`: its command or path.
    pub(super) fn new(helper: &[u8]) -> Self {
        Self {
            helper: helper.into(),
            told: None,
            times: 0,
            is_stopping: false,
        }
    }

    /// Logs that the helper has ended with this exit status and is started again.
    pub(super) fn tell(&mut self, now: Instant, status: u64) {
        if let Some(end) = self.count(now, status) {
            match status {
                126 | 127 => error!("{end}"),
                _ => warn!("{end}"),
            }
        }
    }

    /// Counts an end, and returns what is to be logged now.
    fn count(&mut self, now: Instant, status: u64) -> Option<End<'_>> {
        if self.is_stopping {
            return None;
        }
        self.times += 1;
        if self.told.is_some_and(|told| now < told + SUMMARY) {
            return None;
        }
        self.told = Some(now);
        let times = std::mem::take(&mut self.times);
        Some(End {
            helper: &self.helper,
            status,
            times,
        })
    }
}

/// A line of the log.
#[derive(Debug)]
struct End<'a> {
    helper: &'a [u8],
    /// The exit status as a shell gives it, see sh(1).
    status: u64,
    times: u64,
}

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            helper,
            status,
            times,
        } = self;
        let helper = Name(helper);
        write!(f, "the helper \"{helper}\" ended with exit status {status}")?;
        match status {
            126 => write!(f, ", command not executable; it is tried every 10 s")?,
            127 => write!(f, ", command not found; it is tried every 10 s")?,
            129..=192 => write!(f, ", by signal {}; it is started again", status - 128)?,
            _ => write!(f, "; it is started again")?,
        }
        match times {
            1 => Ok(()),
            _ => write!(f, "; {times} times since this was told last"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    #[test]
    fn a_helper_that_ends_all_the_time_is_told_at_once_and_then_counted() {
        let start = clock::now();
        let mut ends = Ends::new(b"answer-for tftp");
        let mut told = Vec::new();
        for second in 0..=130 {
            let status = if second < 100 { 127 } else { 1 };
            let end = ends.count(start + Duration::from_secs(second), status);
            told.extend(end.map(|end| (second, end.to_string())));
        }
        let not_found = "the helper \"answer-for tftp\" ended with exit status 127, command \
                         not found; it is tried every 10 s";
        let other = "the helper \"answer-for tftp\" ended with exit status 1; it is started \
                     again";
        let again = "; 60 times since this was told last";
        assert_eq!(
            told,
            [
                (0, not_found.to_owned()),
                (60, format!("{not_found}{again}")),
                (120, format!("{other}{again}")),
            ]
        );
        ends.is_stopping = true;
        let later = start + Duration::from_secs(1000);
        assert!(ends.count(later, 143).is_none());
    }

    #[test]
    fn an_exit_status_is_explained() {
        for (status, told) in [
            (0, "exit status 0; it is started again"),
            (
                126,
                "exit status 126, command not executable; it is tried every 10 s",
            ),
            (143, "exit status 143, by signal 15; it is started again"),
            (255, "exit status 255; it is started again"),
        ] {
            let end = End {
                helper: b"sh",
                status,
                times: 1,
            }
            .to_string();
            assert!(end.ends_with(told), "{end}");
        }
    }
}
