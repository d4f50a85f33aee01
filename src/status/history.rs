//! What the status port remembers: counts that the log's counters don't have, and the
//! latest ended transfers and refused requests, as logged.
//!
//! Kept only if there is a status port. Must not: decide, or know a socket.

use std::collections::VecDeque;
use std::time::Duration;

use crate::log::event::Event;
use crate::log::json_object;
use crate::wire::packet::{Direction, ErrorCode};

/// How many ended transfers and refused requests are kept, at most 4 KiB each.
const RECENT: usize = 200;

/// The outcomes of transfers, as the log calls them.
pub(super) const OUTCOMES: [&str; 9] = [
    "completed",
    "changed",
    "probed",
    "peer_error",
    "failed",
    "timed_out",
    "replaced",
    "evicted",
    "guessed",
];

/// The codes that requests are refused with (RFC 1350 §5, RFC 2347).
const CODES: usize = 9;

/// What has happened since the start.
#[derive(Debug)]
pub(crate) struct History {
    recent: VecDeque<Box<str>>,
    /// How many there were since the start, forgotten ones included.
    told: u64,
    /// Transfers by direction and outcome.
    ended: [[u64; OUTCOMES.len()]; 2],
    refused: [u64; CODES],
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) retransmits: u64,
    /// Seconds that completed transfers took.
    pub(super) seconds: Histogram<12>,
    /// Seconds from a request to its answer.
    pub(super) first_answer: Histogram<10>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            recent: VecDeque::new(),
            told: 0,
            ended: [[0; OUTCOMES.len()]; 2],
            refused: [0; CODES],
            bytes_sent: 0,
            bytes_received: 0,
            retransmits: 0,
            seconds: Histogram::new([
                0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0,
            ]),
            first_answer: Histogram::new([
                0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0,
            ]),
        }
    }
}

impl History {
    /// Takes in what the log tells of an ended transfer or a refused request.
    pub(crate) fn tell(&mut self, event: &Event<'_>) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(json_object(event).into_boxed_str());
        self.told += 1;
    }

    /// A transfer has ended; `outcome` as the log calls it.
    pub(crate) fn end(&mut self, direction: Direction, outcome: &str, took: Duration) {
        let place = OUTCOMES.iter().position(|it| *it == outcome);
        debug_assert!(place.is_some(), "{outcome} has no place");
        if let Some(place) = place {
            self.ended[row(direction)][place] += 1;
        }
        if outcome == "completed" {
            self.seconds.add(took);
        }
    }

    /// A request was refused.
    pub(crate) fn refuse(&mut self, code: ErrorCode) {
        let place = usize::from(code.to_wire());
        self.refused[if place < CODES { place } else { 0 }] += 1;
    }

    /// A session's first answer was sent; it `took` this long from taking in the request.
    pub(crate) fn answer(&mut self, took: Duration) {
        self.first_answer.add(took);
    }

    /// A turn of a session has moved this many `bytes` of its file, and sent this many
    /// blocks again.
    pub(crate) fn moved(&mut self, direction: Direction, bytes: u64, retransmits: u64) {
        match direction {
            Direction::Read => self.bytes_sent += bytes,
            Direction::Write => self.bytes_received += bytes,
        }
        self.retransmits += retransmits;
    }

    /// Transfers of a direction with each outcome.
    pub(super) fn ended(&self, direction: Direction) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES.into_iter().zip(self.ended[row(direction)])
    }

    /// Requests refused with each code.
    pub(super) fn refused(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        (0..).map(ErrorCode::from_wire).zip(self.refused)
    }

    /// The number that the next one will have.
    pub(super) const fn next(&self) -> u64 {
        self.told
    }

    /// The one before that number, if it is still kept: its own number, and the JSON
    /// object as logged.
    pub(super) fn before(&self, number: u64) -> Option<(u64, &str)> {
        let number = number.checked_sub(1)?;
        let first = self.told - self.recent.len() as u64;
        let place = usize::try_from(number.checked_sub(first)?).ok()?;
        Some((number, self.recent.get(place)?))
    }
}

const fn row(direction: Direction) -> usize {
    match direction {
        Direction::Read => 0,
        Direction::Write => 1,
    }
}

/// Counts durations by upper bounds.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    /// Seconds.
    bounds: [f64; N],
    counts: [u64; N],
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl<const N: usize> Histogram<N> {
    const fn new(bounds: [f64; N]) -> Self {
        Self {
            bounds,
            counts: [0; N],
            count: 0,
            sum: 0.0,
        }
    }

    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = self.bounds.iter().position(|bound| seconds <= *bound);
        if let Some(place) = place {
            self.counts[place] += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }

    /// Each bound, and how many durations were no longer.
    pub(super) fn cumulated(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut total = 0;
        self.bounds
            .into_iter()
            .zip(self.counts)
            .map(move |(bound, count)| {
                total += count;
                (bound, total)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_and_the_ones_before_forgotten() {
        let mut history = History::default();
        assert_eq!(history.before(history.next()), None);
        for lines in 0..RECENT as u64 + 5 {
            history.tell(&Event::LeftOut { of: "ended", lines });
        }
        let mut number = history.next();
        let mut seen = 0;
        while let Some((before, object)) = history.before(number) {
            assert!(
                object.contains(&format!("\"lines\":{before}}}")),
                "{object}"
            );
            (number, seen) = (before, seen + 1);
        }
        assert_eq!((number, seen), (5, RECENT));
        // A slow reader misses what was forgotten meanwhile.
        assert_eq!(history.before(5), None);
    }

    #[test]
    fn histograms_count_up_to_each_bound() {
        let mut histogram = Histogram::new([0.1, 1.0]);
        for millis in [50, 100, 500, 5000] {
            histogram.add(Duration::from_millis(millis));
        }
        assert!(histogram.cumulated().eq([(0.1, 2), (1.0, 3)]));
        assert_eq!(histogram.count, 4);
        assert!((histogram.sum - 5.65).abs() < 1e-9);
    }
}
