//! When a window that is on its way is looked at: a few times, not with each block.
//!
//! Each look costs as much as a few blocks. So where windows come whole, and their time
//! is known, the next one is left alone for half of that after our ACK: to take in what
//! has come by then takes about as long as the rest needs to come. What is still missing
//! is left alone for half of the time that it takes by the pace of what has come, and so
//! on. Where that makes our ACKs later than they were, windows are left alone for less.
//!
//! Where something is lost, or a peer takes its time, nothing is waited for. Must not:
//! know which blocks these are.

use std::time::{Duration, Instant};

/// Windows that must have come whole, in a row, before one is left alone.
const KNOWN: u8 = 4;

/// After so many more in a row one is looked at as it comes, to see how they do.
const MEASURE_AGAIN: u8 = 64;

/// Looks that a window must take as it comes: where the network hands it over in fewer
/// pieces there is nothing to be won.
const SCATTERED: u8 = 3;

/// Half of a window that takes less isn't worth going to sleep for.
const MIN_WINDOW: Duration = Duration::from_micros(80);

/// A window that takes longer is looked at as it comes: the peer, or the path, is slow
/// enough that looking costs little.
const MAX_WINDOW: Duration = Duration::from_millis(2);

/// The shortest wait for what is missing of a window.
const MIN_REST: Duration = Duration::from_micros(10);

/// The shortest time that a window is left alone for.
const MIN_FIRST: Micros = 20;

/// A window that takes longer than usual by more than this part was looked at too late.
const LATE: u32 = 16;

/// Looks at a window before it is looked at as it comes.
const MAX_LOOKS: u8 = 6;

/// How much the latest window counts: one part in so many.
const WEIGHT: u32 = 2;

/// How long windows take, and the one on its way.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// When our last ACK left, unless something came between.
    began: Option<Instant>,
    /// From ACK to ACK, where windows are looked at as they come; zero: not known.
    usual: Micros,
    /// How long after our ACK a window is looked at first.
    first: Micros,
    /// How long after our ACK this one is looked at next; zero: as it comes.
    wait: Micros,
    /// Blocks of it that had come at the last look.
    seen: u16,
    /// Looks at it so far, or turns that it has come in.
    looks: u8,
    /// It was left alone.
    gathers: bool,
    /// All of it has come.
    is_whole: bool,
    /// As they come, windows take several turns.
    is_scattered: bool,
    /// Windows that came whole, in a row.
    clean: u8,
}

/// Kept small: up to 71 minutes.
type Micros = u32;

fn micros(duration: Duration) -> Micros {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

const fn duration(micros: Micros) -> Duration {
    Duration::from_micros(micros as u64)
}

impl Gather {
    /// Until when the window is left alone, if it is.
    pub(super) fn until(&self) -> Option<Instant> {
        let began = self.began.filter(|_| self.wait > 0)?;
        Some(began + duration(self.wait))
    }

    /// An ACK left at `now`: a window follows.
    pub(super) fn begin(&mut self, now: Instant) {
        if let Some(began) = self.began.filter(|_| self.is_whole) {
            self.learn(micros(now.saturating_duration_since(began)));
        }
        let is_fit = (MIN_WINDOW..=MAX_WINDOW).contains(&duration(self.usual));
        self.began = Some(now);
        self.gathers = self.clean >= KNOWN && self.is_scattered && is_fit;
        self.wait = if self.gathers { self.first } else { 0 };
        self.is_whole = false;
        self.seen = 0;
        self.looks = 0;
    }

    /// A window that came whole `took` so long, from ACK to ACK.
    fn learn(&mut self, took: Micros) {
        if !self.gathers {
            self.is_scattered = self.looks >= SCATTERED;
            self.usual = match self.usual {
                0 => took,
                usual => usual - usual / WEIGHT + took / WEIGHT,
            };
            self.first = match self.first {
                0 => self.usual / 2,
                first => first.min(self.usual / 2),
            };
        } else if took > self.usual + self.usual / LATE {
            self.first -= self.first / 8;
        } else {
            self.first = (self.first + self.first / 16 + 1).min(self.usual / 2);
        }
        self.first = self.first.max(MIN_FIRST);
        self.clean = match self.clean + 1 {
            clean if clean > KNOWN + MEASURE_AGAIN => KNOWN - 1,
            clean => clean,
        };
    }

    /// One or more blocks came, in a turn of their own.
    pub(super) const fn came(&mut self) {
        if !self.gathers {
            self.looks = self.looks.saturating_add(1);
        }
    }

    /// All of the window has come.
    pub(super) const fn complete(&mut self) {
        self.is_whole = true;
        self.wait = 0;
    }

    /// The time is over at `now`, and `come` of `window` blocks have come.
    pub(super) fn look(&mut self, now: Instant, come: u16, window: u16) {
        let Some(began) = self.began.filter(|_| self.wait > 0) else {
            return;
        };
        self.looks += 1;
        if come == 0 {
            self.clean = 0;
        }
        if come <= self.seen || self.looks >= MAX_LOOKS {
            self.wait = 0;
            return;
        }
        self.seen = come;
        let elapsed = now.saturating_duration_since(began);
        let missing = u32::from(window.saturating_sub(come));
        let rest = elapsed / u32::from(come) * missing / 2;
        self.wait = micros(elapsed + rest.clamp(MIN_REST, MAX_WINDOW));
    }

    /// Something was lost, or repeated: the next windows are looked at as they come.
    pub(super) const fn lost(&mut self) {
        self.began = None;
        self.is_whole = false;
        self.wait = 0;
        self.clean = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// Windows of 16 that each take `took` microseconds, looked at as they come or when
    /// the time is over; returns the waits.
    fn windows(gather: &mut Gather, now: &mut Instant, took: u32, count: usize) -> Vec<u32> {
        windows_in(16, gather, now, took, count)
    }

    fn windows_in(
        pieces: u8,
        gather: &mut Gather,
        now: &mut Instant,
        took: u32,
        count: usize,
    ) -> Vec<u32> {
        (0..count)
            .map(|_| {
                gather.begin(*now);
                let (began, first) = (*now, gather.wait);
                let whole = began + MICROSECOND * took;
                (0..pieces).for_each(|_| gather.came());
                while let Some(until) = gather.until().filter(|&until| until < whole) {
                    let come = (until - began).as_micros() as u32 * 16 / took;
                    gather.look(until, come as u16, 16);
                }
                *now = gather.until().map_or(whole, |until| until.max(whole));
                gather.complete();
                first
            })
            .collect()
    }

    fn gather() -> (Gather, Instant) {
        (Gather::default(), clock::now())
    }

    #[test]
    fn a_window_is_left_alone_for_half_as_long_as_those_before_it_took() {
        for (took, waits) in [(10, false), (100, true), (1500, true), (5000, false)] {
            let (mut gather, mut now) = gather();
            let first = windows(&mut gather, &mut now, took, KNOWN.into());
            assert!(first.iter().all(|&wait| wait == 0), "{took}: {first:?}");
            let later = windows(&mut gather, &mut now, took, 100);
            assert_eq!(later.iter().any(|&wait| wait > 0), waits, "{took}");
            let near = took / 8..=took * 5 / 8;
            let left_alone = later.iter().filter(|&&wait| wait > 0);
            assert!(
                left_alone.clone().all(|wait| near.contains(wait)),
                "{took}: {later:?}"
            );
        }
    }

    #[test]
    fn the_wait_follows_windows_that_come_faster_or_slower() {
        let (mut gather, mut now) = gather();
        windows(&mut gather, &mut now, 400, 50);
        for took in [100, 800, 90] {
            windows(&mut gather, &mut now, took, 400);
            gather.clean = KNOWN;
            let wait = windows(&mut gather, &mut now, took, 1)[0];
            assert!((took / 8..=took * 5 / 8).contains(&wait), "{took} {wait}");
        }
    }

    #[test]
    fn what_is_missing_is_waited_for_by_its_pace_and_not_often() {
        let (mut gather, mut now) = gather();
        windows(&mut gather, &mut now, 160, 8);
        gather.begin(now);
        let first = gather.until().unwrap();
        // Half of it has come.
        gather.look(first, 8, 16);
        let second = gather.until().unwrap();
        assert_eq!(second - first, (first - now) / 2);
        let mut looks = 1;
        for come in 10.. {
            let Some(until) = gather.until() else {
                break;
            };
            gather.look(until, come, 32);
            looks += 1;
        }
        assert_eq!(looks, MAX_LOOKS);
    }

    #[test]
    fn where_nothing_comes_or_something_is_lost_no_window_is_left_alone() {
        let (mut gather, mut now) = gather();
        windows(&mut gather, &mut now, 160, 8);
        gather.begin(now);
        gather.look(gather.until().unwrap(), 0, 16);
        assert_eq!(gather.until(), None);
        gather.complete();
        gather.begin(now + MICROSECOND * 5000);
        assert_eq!(gather.until(), None);

        windows(&mut gather, &mut now, 160, 60);
        gather.begin(now);
        assert!(gather.until().is_some());
        gather.lost();
        assert_eq!(gather.until(), None);
        let next = windows(&mut gather, &mut now, 160, KNOWN.into());
        assert!(next.iter().all(|&wait| wait == 0), "{next:?}");
    }

    #[test]
    fn where_our_acks_come_late_windows_are_left_alone_for_less() {
        let (mut gather, mut now) = gather();
        windows(&mut gather, &mut now, 400, 8);
        let first = gather.first;
        let mut takes = |gather: &mut Gather, took| {
            for _ in 0..20 {
                gather.begin(now);
                gather.complete();
                now += MICROSECOND * took;
            }
        };
        takes(&mut gather, 500);
        assert!(gather.first < first / 4, "{}", gather.first);
        takes(&mut gather, 400);
        assert!(gather.first > MIN_FIRST * 2, "{}", gather.first);
    }

    #[test]
    fn what_comes_in_few_pieces_is_looked_at_as_it_comes() {
        for (pieces, expected) in [(1, 0), (2, 0), (4, 2)] {
            let (mut gather, mut now) = gather();
            let waits = windows_in(pieces, &mut gather, &mut now, 200, 140);
            let left_alone = waits.iter().filter(|&&wait| wait > 0).count();
            assert_eq!(left_alone / 60, expected, "{pieces}: {waits:?}");
        }
    }
}
