//! Whether to wait for the next datagram awake.
//!
//! In lockstep the answer to what was just sent is often some ten microseconds
//! away, and half of that is being woken up. So while the waits measured lately
//! are shorter than the bound, the loop polls without sleeping, for as long as
//! the bound; where clients take their time, or there are none, it sleeps at
//! once.
//!
//! And it has to pay: the processor time that a block takes is measured both ways, now
//! and then again, and where it is more awake than asleep the loop sleeps. Must not:
//! read the clock, or sleep itself.

use std::time::{Duration, Instant};

/// How much the latest wait counts in the moving average: one part in this many.
const WEIGHT: u32 = 8;

/// A wait longer than this many bounds counts as no more: one long pause must
/// not outweigh a thousand short ones forever.
const CAP: u32 = 16;

/// Waits in a stretch, which is measured as a whole.
const STRETCH: u32 = 128;

/// Stretches from one that is spent the other way to the next.
const PROBE_EVERY: u8 = 32;

/// How much the latest stretch counts: one part in this many.
const STRETCH_WEIGHT: u64 = 4;

/// What awake may cost more, since it is quicker: one part in this many.
const ALLOWANCE: u64 = 20;

/// The moving average of the waits, and the wait that is going on.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// The longest time to stay awake; zero never does.
    bound: Duration,
    average: Duration,
    waiting_since: Option<Instant>,
    trial: Trial,
}

impl BusyPoll {
    pub(super) fn new(bound: Duration) -> Self {
        Self {
            bound,
            average: bound * CAP,
            waiting_since: None,
            trial: Trial::default(),
        }
    }

    /// There is nothing to do at `now`: whether to look again rather than sleep.
    pub(super) fn stay_awake(&mut self, now: Instant) -> bool {
        let since = *self.waiting_since.get_or_insert(now);
        let is_near = now.saturating_duration_since(since) < self.bound;
        self.average < self.bound && is_near && self.trial.is_awake
    }

    /// Something came at `now`: the wait is over.
    pub(super) fn over(&mut self, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            let wait = now.saturating_duration_since(since).min(self.bound * CAP);
            self.average = (self.average * (WEIGHT - 1) + wait) / WEIGHT;
            self.trial.waits += 1;
        }
    }

    /// So many blocks were moved since the last call. `processor_time` tells what this
    /// process has taken, and is seldom asked.
    pub(super) fn moved(&mut self, blocks: u64, processor_time: impl FnOnce() -> Duration) {
        if self.average < self.bound {
            self.trial.moved(blocks, processor_time);
        } else {
            self.trial.began = None;
        }
    }
}

/// What waiting costs both ways.
#[derive(Debug)]
struct Trial {
    is_awake: bool,
    /// The processor time when this stretch began.
    began: Option<Duration>,
    waits: u32,
    blocks: u64,
    /// Nanoseconds of processor time for a block, asleep and awake; 0: not known.
    costs: [u64; 2],
    /// Stretches until one is spent the other way.
    left: u8,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            is_awake: true,
            began: None,
            waits: 0,
            blocks: 0,
            costs: [0; 2],
            left: PROBE_EVERY,
        }
    }
}

impl Trial {
    fn moved(&mut self, blocks: u64, processor_time: impl FnOnce() -> Duration) {
        let Some(began) = self.began else {
            self.begin(processor_time());
            return;
        };
        self.blocks += blocks;
        if self.waits < STRETCH || self.blocks == 0 {
            return;
        }
        let now = processor_time();
        let took = u64::try_from(now.saturating_sub(began).as_nanos()).unwrap_or(u64::MAX);
        let cost = (took / self.blocks).max(1);
        let known = &mut self.costs[usize::from(self.is_awake)];
        *known = match *known {
            0 => cost,
            known => known - known / STRETCH_WEIGHT + cost / STRETCH_WEIGHT,
        };
        self.choose();
        self.begin(now);
    }

    fn begin(&mut self, now: Duration) {
        self.began = Some(now);
        self.waits = 0;
        self.blocks = 0;
    }

    /// How the next stretch is spent.
    fn choose(&mut self) {
        let is_awake_better = match self.costs {
            [_, 0] => true,
            [0, _] => false,
            [asleep, awake] => awake <= asleep + asleep / ALLOWANCE,
        };
        let probes = self.left == 0;
        self.left = if probes { PROBE_EVERY } else { self.left - 1 };
        self.is_awake = is_awake_better != probes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// Datagrams that come `gap` microseconds after the loop ran out of work.
    fn waits(spin: &mut BusyPoll, gap: u32, count: usize) -> Instant {
        let mut now = clock::now();
        for _ in 0..count {
            spin.stay_awake(now);
            now += MICROSECOND * gap;
            spin.over(now);
        }
        now
    }

    #[test]
    fn only_short_waits_are_spent_awake() {
        for (bound, gap, awake) in [
            (50, 10, true),
            (50, 200, false),
            (50, 1000, false),
            (0, 10, false),
        ] {
            let mut spin = BusyPoll::new(MICROSECOND * bound);
            let now = waits(&mut spin, gap, 100);
            assert_eq!(spin.stay_awake(now), awake, "bound {bound}, gap {gap}");
        }
    }

    #[test]
    fn no_wait_is_spent_awake_for_longer_than_the_bound() {
        let mut spin = BusyPoll::new(MICROSECOND * 50);
        let now = waits(&mut spin, 10, 100);
        assert!(spin.stay_awake(now));
        assert!(spin.stay_awake(now + MICROSECOND * 49));
        assert!(!spin.stay_awake(now + MICROSECOND * 50));
    }

    #[test]
    fn it_begins_asleep_and_learns_in_both_directions() {
        let mut spin = BusyPoll::new(MICROSECOND * 50);
        assert!(!spin.stay_awake(clock::now()));
        let now = waits(&mut spin, 10, 100);
        assert!(spin.stay_awake(now));
        let now = waits(&mut spin, 400, 20);
        assert!(!spin.stay_awake(now));
        let now = waits(&mut spin, 10, 100);
        assert!(spin.stay_awake(now));
    }

    /// How many of the last thousand waits were spent awake, where a block takes so many
    /// microseconds of processor time asleep and awake.
    fn awake_of_thousand(asleep: u32, awake: u32) -> usize {
        let mut spin = BusyPoll::new(MICROSECOND * 50);
        let mut now = waits(&mut spin, 10, 100);
        let mut processor_time = Duration::ZERO;
        let mut spent_awake = 0;
        for wait in 0..11_000 {
            let is_awake = spin.stay_awake(now);
            now += MICROSECOND * 10;
            spin.over(now);
            processor_time += MICROSECOND * if is_awake { awake } else { asleep };
            spin.moved(1, || processor_time);
            spent_awake += usize::from(is_awake && wait >= 10_000);
        }
        spent_awake
    }

    #[test]
    fn time_awake_has_to_pay() {
        for (asleep, awake, expected) in [
            (20, 10, 800..=1000),
            (20, 20, 800..=1000),
            (20, 23, 0..=200),
            (20, 60, 0..=200),
        ] {
            let spent = awake_of_thousand(asleep, awake);
            assert!(expected.contains(&spent), "{asleep} {awake}: {spent}");
        }
    }
}
