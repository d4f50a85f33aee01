//! Deadlines: a hierarchical timer wheel over dense keys.
//!
//! The wheel knows keys and ticks of an eighth of a millisecond, nothing of what a
//! key stands for. Must not: read a clock (it is told the time), allocate except to
//! make room for a key higher than any before.

use std::time::{Duration, Instant};

/// Fine enough for the pauses between two bursts, which last a round trip.
const TICKS_PER_SECOND: u32 = 8_000;

const NANOS_PER_TICK: u32 = 1_000_000_000 / TICKS_PER_SECOND;

/// Bits of the tick that one level tells apart: 64 slots, one machine word of
/// occupancy.
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;

/// Enough levels for every bit of a tick, so no deadline lies beyond the top
/// level's revolution. That costs 2.8 KiB a wheel and saves a case.
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;

/// Stands in [`Node::tick`] for "no entry".
const UNSCHEDULED: u64 = u64::MAX;

/// The last tick, some 73 million years on; later deadlines end here.
const LAST_TICK: u64 = u64::MAX - 1;

/// What a key costs, scheduled or not.
const _: () = assert!(size_of::<Node>() == 16);

/// Deadlines by key, the nearest found at once.
///
/// A deadline is rounded up to a whole tick (125 µs since the origin), so an
/// entry is never early and less than one tick late. Each key has at most one
/// entry. Keys are expected to be dense, as a slab gives them: memory is 16
/// bytes for each key up to the highest ever scheduled.
///
/// ```text
/// level 0   64 slots of 125 µs   exact
/// level 1   64 slots of 8 ms     spread over level 0 when their time comes
/// level 2   64 slots of 512 ms   spread over levels 1 and 0
/// …         each 64 times as wide as the one before
/// ```
///
/// Write the reached tick and an entry's tick in base 64: the highest digit in
/// which they differ is the entry's level, the entry's digit there its slot.
/// So an entry's place follows from the two numbers and isn't stored, every
/// entry of a level is due before any entry of the levels above, and the slots
/// of a level are in order: the first occupied slot of the lowest occupied
/// level is the next one to look at. The reached tick moves only to the start
/// of that slot, or stops short of it, and so changes the place of nothing but
/// what that slot holds.
#[derive(Debug)]
pub struct TimerWheel {
    /// Where tick 0 lies.
    origin: Instant,
    /// The tick reached. Entries at or before it share the slot it lies in.
    reached: u64,
    /// One node a key; the nodes of a slot form a ring.
    nodes: Vec<Node>,
    /// The oldest entry of each slot; meaningless where the slot is empty.
    heads: [[u32; SLOTS]; LEVELS],
    /// A bit for each slot of a level that is not empty.
    occupied: [u64; LEVELS],
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// When the entry is due, or [`UNSCHEDULED`].
    tick: u64,
    next: u32,
    prev: u32,
}

/// Where an entry is linked.
#[derive(Clone, Copy)]
struct Link {
    level: usize,
    slot: usize,
}

impl TimerWheel {
    /// An empty wheel whose ticks count from `origin`.
    ///
    /// Deadlines before `origin` are due at once.
    pub fn new(origin: Instant) -> Self {
        Self {
            origin,
            reached: 0,
            nodes: Vec::new(),
            heads: [[0; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            len: 0,
        }
    }

    /// How many keys have an entry.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no key has an entry.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes `key` due at `deadline`, in place of any entry it has.
    ///
    /// A deadline in the past is due at once, even in the middle of a run of
    /// [`TimerWheel::pop_expired`].
    pub fn schedule(&mut self, key: u32, deadline: Instant) {
        self.cancel(key);
        let index = key as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, Node::VACANT);
        }
        self.nodes[index].tick = self.tick_at_or_after(deadline);
        self.link(key);
        self.len += 1;
    }

    /// Removes the entry of `key`, if it has one.
    pub fn cancel(&mut self, key: u32) {
        if self.tick_of(key).is_some() {
            self.unlink(key);
        }
    }

    /// Whether `key` has an entry that is due no later than one scheduled for
    /// `deadline` would be.
    pub fn covers(&self, key: u32, deadline: Instant) -> bool {
        // `tick` is no later than the deadline's if the tick before it lies before the
        // deadline. Comparing times is cheaper than converting the deadline to ticks.
        let is_due_by_then = |tick: u64| match tick.checked_sub(1) {
            Some(last) => self.time_of(last).is_some_and(|time| time < deadline),
            None => true,
        };
        self.tick_of(key).is_some_and(is_due_by_then)
    }

    /// When to call [`TimerWheel::pop_expired`] next, or `None` if the wheel is
    /// empty.
    ///
    /// Never later than the earliest entry. It may be earlier, where entries
    /// have yet to be spread over finer levels; but each call at the time given
    /// moves them down by at least one, so there is no busy loop: an entry less
    /// than 8 ms away costs at most one wake-up before its own, less than 512 ms
    /// two, less than 32 s three, and neighbours share them.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (_, start) = self.first_slot()?;
        self.time_of(start)
    }

    /// Removes an entry that is due at `now` and returns its key; call until
    /// `None`.
    ///
    /// Keys come in the order of their ticks, a tick already passed counting as the one
    /// reached, and no key comes twice before the others of its tick have come. `now`
    /// may jump ahead by any amount: the work depends on the entries alone, not on the
    /// ticks passed over. A `now` that goes back is taken for the latest one given.
    pub fn pop_expired(&mut self, now: Instant) -> Option<u32> {
        let target = self.tick_at_or_before(now).max(self.reached);
        while let Some((place, start)) = self.first_slot() {
            if start > target {
                break;
            }
            if place.level == 0 {
                self.reached = start;
                let key = self.heads[0][place.slot];
                self.unlink(key);
                return Some(key);
            }
            self.spread(place, start);
        }
        self.reached = target;
        None
    }

    /// The next slot to look at and the tick it begins with.
    fn first_slot(&self) -> Option<(Link, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = level as u32 * DIGIT_BITS;
        // The top level has no digits above it.
        let above = self.reached.checked_shr(shift + DIGIT_BITS).unwrap_or(0);
        let start = ((above << DIGIT_BITS) | u64::from(slot)) << shift;
        let slot = slot as usize;
        Some((Link { level, slot }, start))
    }

    /// Moves the reached tick to `start`, where the slot at `place` begins, and
    /// that slot's entries to the levels below.
    fn spread(&mut self, place: Link, start: u64) {
        let first = self.heads[place.level][place.slot];
        self.occupied[place.level] &= !place.bit();
        self.reached = start;
        let mut key = first;
        loop {
            let next = self.nodes[key as usize].next;
            self.link(key);
            if next == first {
                break;
            }
            key = next;
        }
    }

    /// Links the node of `key`, which has its tick already, after the others
    /// of its slot.
    fn link(&mut self, key: u32) {
        let place = self.place(self.nodes[key as usize].tick);
        let head = &mut self.heads[place.level][place.slot];
        let (prev, next) = if self.occupied[place.level] & place.bit() == 0 {
            self.occupied[place.level] |= place.bit();
            *head = key;
            (key, key)
        } else {
            (self.nodes[*head as usize].prev, *head)
        };
        // In a ring of one both neighbours are the node itself, so its own
        // links are written first and the neighbours' agree with them.
        let node = &mut self.nodes[key as usize];
        node.prev = prev;
        node.next = next;
        self.nodes[prev as usize].next = key;
        self.nodes[next as usize].prev = key;
    }

    /// Unlinks the node of `key`, which must have an entry.
    fn unlink(&mut self, key: u32) {
        let Node { tick, next, prev } = self.nodes[key as usize];
        let place = self.place(tick);
        if next == key {
            self.occupied[place.level] &= !place.bit();
        } else {
            self.nodes[prev as usize].next = next;
            self.nodes[next as usize].prev = prev;
            let head = &mut self.heads[place.level][place.slot];
            if *head == key {
                *head = next;
            }
        }
        self.nodes[key as usize] = Node::VACANT;
        self.len -= 1;
    }

    /// Where an entry due at `tick` is linked, given the tick reached.
    fn place(&self, tick: u64) -> Link {
        let tick = tick.max(self.reached);
        let highest_difference = ((tick ^ self.reached) | 1).ilog2();
        let level = highest_difference / DIGIT_BITS;
        let digit = (tick >> (level * DIGIT_BITS)) % SLOTS as u64;
        Link {
            level: level as usize,
            slot: digit as usize,
        }
    }

    fn tick_of(&self, key: u32) -> Option<u64> {
        let tick = self.nodes.get(key as usize)?.tick;
        (tick != UNSCHEDULED).then_some(tick)
    }

    fn time_of(&self, tick: u64) -> Option<Instant> {
        let per_second = u64::from(TICKS_PER_SECOND);
        // Less than a second.
        let nanos = (tick % per_second) as u32 * NANOS_PER_TICK;
        self.origin
            .checked_add(Duration::new(tick / per_second, nanos))
    }

    /// The first tick not before `instant`.
    fn tick_at_or_after(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.origin);
        whole_seconds(since)
            .saturating_add(since.subsec_nanos().div_ceil(NANOS_PER_TICK).into())
            .min(LAST_TICK)
    }

    /// The last tick not after `instant`.
    fn tick_at_or_before(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.origin);
        whole_seconds(since)
            .saturating_add((since.subsec_nanos() / NANOS_PER_TICK).into())
            .min(LAST_TICK)
    }
}

impl Node {
    const VACANT: Self = Self {
        tick: UNSCHEDULED,
        next: 0,
        prev: 0,
    };
}

impl Link {
    const fn bit(self) -> u64 {
        1 << self.slot
    }
}

/// The whole seconds of a duration, in ticks.
const fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(TICKS_PER_SECOND as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "an Instant has no other source")]
    fn origin() -> Instant {
        Instant::now()
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// A thousandth of a tick, in nanoseconds.
    const PART: u64 = NANOS_PER_TICK as u64 / 1_000;

    fn parts(parts: u64) -> Duration {
        Duration::from_nanos(parts * PART)
    }

    fn ticks(ticks: u64) -> Duration {
        let per_second = u64::from(TICKS_PER_SECOND);
        let rest = u32::try_from(ticks % per_second).unwrap();
        Duration::from_secs(ticks / per_second) + SECOND / TICKS_PER_SECOND * rest
    }

    fn expired(wheel: &mut TimerWheel, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| wheel.pop_expired(now)).collect()
    }

    #[test]
    fn a_deadline_is_rounded_up_to_a_whole_tick() {
        let origin = origin();
        for (deadline, too_early, due) in [
            (0, None, 0),
            (1, Some(0), 1_000),
            (999, Some(999), 1_000),
            (1_000, Some(999), 1_000),
            (1_001, Some(1_999), 2_000),
            (63_001, Some(63_999), 64_000),
            (500_000, Some(499_999), 500_000),
        ] {
            let mut wheel = TimerWheel::new(origin);
            wheel.schedule(3, origin + parts(deadline));
            if let Some(now) = too_early {
                assert_eq!(wheel.pop_expired(origin + parts(now)), None, "{deadline}");
            }
            assert_eq!(
                wheel.pop_expired(origin + parts(due)),
                Some(3),
                "{deadline}"
            );
            assert_eq!(wheel.pop_expired(origin + parts(due)), None, "{deadline}");
            assert!(wheel.is_empty(), "{deadline}");
        }
    }

    #[test]
    fn a_tick_is_an_eighth_of_a_millisecond() {
        let origin = origin();
        let mut wheel = TimerWheel::new(origin);
        let deadline = origin + Duration::from_micros(240);
        wheel.schedule(0, deadline);
        let due = origin + Duration::from_micros(250);
        assert_eq!(wheel.next_deadline(), Some(due));
        assert_eq!(wheel.pop_expired(deadline), None);
        assert_eq!(wheel.pop_expired(due), Some(0));
    }

    #[test]
    fn the_past_is_due_at_once() {
        let earlier = origin();
        let origin = earlier + ticks(10);
        let mut wheel = TimerWheel::new(origin);
        wheel.schedule(0, earlier);
        assert_eq!(wheel.next_deadline(), Some(origin));
        assert_eq!(expired(&mut wheel, origin), [0]);

        let now = origin + ticks(1_000);
        assert_eq!(wheel.pop_expired(now), None);
        wheel.schedule(1, origin + ticks(7));
        assert_eq!(wheel.next_deadline(), Some(now));
        assert_eq!(expired(&mut wheel, now), [1]);
    }

    #[test]
    fn keys_come_by_tick_then_by_age() {
        let origin = origin();
        let mut wheel = TimerWheel::new(origin);
        for (key, deadline) in [(5, 70), (1, 3), (4, 70), (2, 5_000), (0, 3), (3, 70)] {
            wheel.schedule(key, origin + ticks(deadline));
        }
        wheel.cancel(4);
        assert_eq!(
            expired(&mut wheel, origin + ticks(9_000)),
            [1, 0, 5, 3, 2],
            "one jump over all of them"
        );
    }

    #[test]
    fn a_key_has_one_entry() {
        let origin = origin();
        let mut wheel = TimerWheel::new(origin);
        wheel.schedule(0, origin + ticks(10));
        wheel.schedule(0, origin + ticks(5_000));
        assert_eq!(wheel.len(), 1);
        assert!(expired(&mut wheel, origin + ticks(4_999)).is_empty());
        wheel.schedule(0, origin + ticks(5_001));
        wheel.schedule(0, origin + ticks(5_000));
        assert_eq!(expired(&mut wheel, origin + ticks(5_000)), [0]);
        wheel.schedule(0, origin + ticks(6_000));
        wheel.cancel(0);
        wheel.cancel(0);
        wheel.cancel(77);
        assert_eq!(wheel.len(), 0);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn covers_compares_ticks() {
        let origin = origin();
        let mut wheel = TimerWheel::new(origin);
        assert!(!wheel.covers(0, origin + ticks(10)));
        wheel.schedule(0, origin + parts(9_001));
        for (deadline, covered) in [
            (9_000, false),
            (9_001, true),
            (9_500, true),
            (10_000, true),
            (60_000, true),
        ] {
            assert_eq!(
                wheel.covers(0, origin + parts(deadline)),
                covered,
                "{deadline}"
            );
        }
        assert!(!wheel.covers(1, origin + ticks(60)));
    }

    #[test]
    fn hints_lead_to_the_deadline_in_a_few_wake_ups() {
        for (deadline, most) in [
            (1, 1),
            (63, 1),
            (64, 1),
            (500, 2),
            (4_095, 2),
            (262_143, 3),
            (1 << 36, 7),
            ((1 << 60) + 1, LEVELS),
            (u64::MAX / 1_024, LEVELS),
        ] {
            let origin = origin();
            let mut wheel = TimerWheel::new(origin);
            wheel.schedule(0, origin + ticks(deadline));
            let mut wake_ups = 0;
            let mut last = None;
            while let Some(hint) = wheel.next_deadline() {
                assert!(last < Some(hint), "{deadline}: hint {hint:?} again");
                last = Some(hint);
                wake_ups += 1;
                if let Some(key) = wheel.pop_expired(hint) {
                    assert_eq!((key, hint), (0, origin + ticks(deadline)));
                }
            }
            assert_eq!(last, Some(origin + ticks(deadline)));
            assert!(wake_ups <= most, "{deadline}: {wake_ups} wake-ups");
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        /// Thousandths of a tick after the time reached.
        Schedule(u32, u64),
        /// Thousandths of a tick before the time reached.
        SchedulePast(u32, u64),
        Cancel(u32),
        /// Thousandths of a tick.
        Advance(u64),
        /// To the time `next_deadline` gives.
        Follow,
    }

    /// Any order of magnitude is as likely as any other.
    fn span() -> impl Strategy<Value = u64> {
        (0_u32..50, any::<u64>()).prop_map(|(bits, value)| value & ((1 << bits) - 1))
    }

    fn op() -> impl Strategy<Value = Op> {
        let key = || 0_u32..24;
        prop_oneof![
            6 => (key(), span()).prop_map(|(key, span)| Op::Schedule(key, span)),
            6 => (key(), 0_u64..10_000_000).prop_map(|(key, span)| Op::Schedule(key, span)),
            1 => (key(), span()).prop_map(|(key, span)| Op::SchedulePast(key, span)),
            2 => key().prop_map(Op::Cancel),
            1 => span().prop_map(Op::Advance),
            3 => (0_u64..1_000_000).prop_map(Op::Advance),
            3 => Just(Op::Follow),
        ]
    }

    /// The wheel beside an ordered map from key to rounded deadline, in
    /// thousandths of a tick since the origin.
    fn check_against_map(ops: Vec<Op>) -> Result<(), TestCaseError> {
        let origin = origin();
        let mut wheel = TimerWheel::new(origin);
        let mut map = BTreeMap::<u32, u64>::new();
        let mut now = 0_u64;
        for op in ops {
            let target = match op {
                Op::Schedule(key, after) => {
                    wheel.schedule(key, origin + parts(now + after));
                    map.insert(key, (now + after).next_multiple_of(1_000));
                    None
                }
                Op::SchedulePast(key, before) => {
                    let deadline = now.saturating_sub(before);
                    wheel.schedule(key, origin + parts(deadline));
                    map.insert(key, deadline.next_multiple_of(1_000));
                    None
                }
                Op::Cancel(key) => {
                    wheel.cancel(key);
                    map.remove(&key);
                    None
                }
                Op::Advance(by) => Some(now + by),
                Op::Follow => wheel.next_deadline().map(|hint| {
                    u64::try_from(hint.duration_since(origin).as_nanos()).unwrap_or(u64::MAX) / PART
                }),
            };
            if let Some(target) = target {
                let passed = now - now % 1_000;
                now = now.max(target);
                let mut last = 0;
                while let Some(key) = wheel.pop_expired(origin + parts(now)) {
                    let Some(due) = map.remove(&key) else {
                        return Err(TestCaseError::fail(format!("{key} has no entry")));
                    };
                    prop_assert!(due <= now, "{key} early: {due} at {now}");
                    prop_assert!(due.max(passed) >= last, "{key} out of order");
                    last = due.max(passed);
                }
                prop_assert!(map.values().all(|&due| due > now), "late at {now}: {map:?}");
            }
            prop_assert_eq!(wheel.len(), map.len());
            let hint = wheel.next_deadline();
            prop_assert_eq!(hint.is_none(), map.is_empty());
            if let (Some(hint), Some(&earliest)) = (hint, map.values().min()) {
                let reached = now - now % 1_000;
                prop_assert!(hint <= origin + parts(earliest.max(reached)));
                prop_assert!(target.is_none() || hint > origin + parts(now), "busy loop");
            }
        }
        Ok(())
    }

    proptest! {
        /// Never early, never late, never lost; the hint is good for a sleep.
        #[test]
        fn agrees_with_an_ordered_map(ops in prop::collection::vec(op(), 1..200)) {
            check_against_map(ops)?;
        }
    }
}
