//! When to send again: the retransmission timer of one transfer.
//!
//! Two policies. [`Wait::Fixed`] is a promise, made with `-t` or by a negotiated
//! `timeout` option: the first repeat comes exactly that long after the packet,
//! never earlier. [`Wait::Adaptive`] follows the measured round trip (RFC 6298
//! with Karn's rule). Both back off exponentially (RFC 1123 §4.2.3.2) and give
//! up in the end. The timer is told the time; it may not ask for it.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::timer::Timer;

/// Back-off stops here, unless the first wait is longer already.
pub const MAX_BACK_OFF: Duration = Duration::from_secs(8);

/// The adaptive wait before anything was measured, and its ceiling. A wait this
/// long is also where adaptive repeats begin to count against the limit.
pub const ADAPTIVE_CEILING: Duration = Duration::from_secs(1);

/// The adaptive wait never falls below this: scheduling noise on the peer's side
/// is milliseconds, and a repeat too early costs more than one a little late.
pub const ADAPTIVE_FLOOR: Duration = Duration::from_millis(20);

/// How long to wait for an answer before sending again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Exactly this long, doubling with each repeat up to [`MAX_BACK_OFF`].
    Fixed(Duration),
    /// As long as the measured round trip suggests.
    Adaptive,
}

/// How patient a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The wait before the first repeat of a packet.
    pub wait: Wait,
    /// Repeats of one packet before the transfer is given up. Adaptive repeats
    /// that come faster than [`ADAPTIVE_CEILING`] are not counted, so that a
    /// short round trip doesn't mean little patience.
    pub retries: u8,
}

impl RetryPolicy {
    /// The first wait of a packet before anything was measured.
    pub const fn initial_wait(&self) -> Duration {
        match self.wait {
            Wait::Fixed(wait) => wait,
            Wait::Adaptive => ADAPTIVE_CEILING,
        }
    }
}

impl RetryPolicy {
    /// How long a packet is waited for in all, before anything was measured.
    pub fn patience(&self) -> Duration {
        let longest = MAX_BACK_OFF.max(self.initial_wait());
        let mut wait = self.initial_wait();
        let mut total = wait;
        for _ in 0..self.retries {
            wait = (wait * 2).min(longest);
            total += wait;
        }
        total
    }

    /// The same, with as few repeats as last for `patience`.
    #[must_use]
    pub fn lasting(self, patience: Duration) -> Self {
        (0..=u8::MAX)
            .map(|retries| Self { retries, ..self })
            .find(|policy| policy.patience() >= patience)
            .unwrap_or(Self {
                retries: u8::MAX,
                ..self
            })
    }
}

/// Smoothed round trip and its variation (RFC 6298 §2), in microseconds: both
/// are kept for every session, so they are kept small.
#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    smoothed: NonZeroU32,
    variation: u32,
}

impl RoundTrip {
    /// §2.2: the first measurement.
    fn first(sample: u32) -> Self {
        Self {
            smoothed: NonZeroU32::new(sample).unwrap_or(NonZeroU32::MIN),
            variation: sample / 2,
        }
    }

    /// §2.3: alpha = 1/8, beta = 1/4.
    fn update(self, sample: u32) -> Self {
        let smoothed = self.smoothed.get();
        let difference = smoothed.abs_diff(sample);
        Self {
            smoothed: NonZeroU32::new(smoothed - smoothed / 8 + sample / 8)
                .unwrap_or(NonZeroU32::MIN),
            variation: self.variation - self.variation / 4 + difference / 4,
        }
    }

    fn timeout(self) -> Duration {
        let variation = self.variation.saturating_mul(4);
        Duration::from_micros(self.smoothed.get().saturating_add(variation).into())
    }
}

/// A wait, kept small: every session has some. Up to 71 minutes, which is more
/// than `-t` and the options allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Micros(u32);

impl From<Duration> for Micros {
    fn from(duration: Duration) -> Self {
        Self(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX))
    }
}

impl From<Micros> for Duration {
    fn from(micros: Micros) -> Self {
        Self::from_micros(micros.0.into())
    }
}

/// Whether the wait follows the round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adapts {
    Never,
    Closely,
    /// The peer was seen to pause: the wait stays at its ceiling.
    AtLeisure,
}

/// The deadline of the packet that is waiting for its answer, and what is known
/// about how long answers take.
#[derive(Debug)]
pub(crate) struct RetryTimer {
    /// The policy: the first wait, whether it adapts, and the repeats.
    initial: Micros,
    adapts: Adapts,
    retries: u8,
    /// How long a packet is waited for in all.
    patience: Micros,
    round_trip: Option<RoundTrip>,
    /// No repeat since the packet was sent, so that its answer measures the
    /// round trip (Karn).
    measurable: bool,
    /// Counted repeats since the last step forward.
    repeats: u8,
    /// The wait that the next packet gets.
    wait: Micros,
    /// When the first copy of the packet that waits for its answer went out.
    first_sent: Option<Instant>,
    /// How long after that its latest copy went out.
    repeated_after: Micros,
    timer: Timer,
}

impl RetryTimer {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self {
            initial: policy.initial_wait().into(),
            adapts: match policy.wait {
                Wait::Adaptive => Adapts::Closely,
                Wait::Fixed(_) => Adapts::Never,
            },
            retries: policy.retries,
            patience: policy.patience().into(),
            round_trip: None,
            wait: policy.initial_wait().into(),
            measurable: false,
            repeats: 0,
            first_sent: None,
            repeated_after: Micros(0),
            timer: Timer::Idle,
        }
    }

    /// A negotiated timeout takes the place of the wait configured so far.
    pub(crate) fn set_fixed(&mut self, wait: Duration) {
        self.adapts = Adapts::Never;
        self.initial = wait.into();
        self.wait = self.initial;
        let policy = RetryPolicy {
            wait: Wait::Fixed(wait),
            retries: self.retries,
        };
        self.patience = policy.patience().into();
    }

    /// The first wait of a packet before anything was measured.
    pub(crate) fn initial_wait(&self) -> Duration {
        self.initial.into()
    }

    /// The wait that the next packet gets.
    fn wait(&self) -> Duration {
        self.wait.into()
    }

    pub(crate) const fn timer(&self) -> Timer {
        self.timer
    }

    /// When the packet that waits for its answer was sent last.
    pub(crate) fn last_sent(&self) -> Option<Instant> {
        let first = self.first_sent?;
        Some(first + Duration::from(self.repeated_after))
    }

    /// Since when the packet sent last has been waiting for its answer.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.first_sent
    }

    /// How long an answer takes as a rule, if that has been measured.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
            .map(|known| Duration::from_micros(known.smoothed.get().into()))
    }

    /// Something new was sent that wants an answer.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.first_sent = Some(now);
        self.repeated_after = Micros(0);
        self.measurable = true;
        self.await_answer(now);
    }

    /// Something was sent again.
    pub(crate) fn sent_again(&mut self, now: Instant) {
        self.measurable = false;
        let first = *self.first_sent.get_or_insert(now);
        self.repeated_after = now.saturating_duration_since(first).into();
        self.await_answer(now);
    }

    /// From `now` on an answer is awaited for a full wait: something was sent, or
    /// the peer is at work though nothing of ours was answered (the blocks within
    /// a window on the receiving side).
    pub(crate) fn await_answer(&mut self, now: Instant) {
        self.forgive_lateness(now);
        self.timer = Timer::Answer {
            at: now + self.wait(),
        };
    }

    /// What is due can't be sent, since the socket is full: no silence of the
    /// peer's, so nothing is backed off. Returns whether to wait on: a socket
    /// that takes nothing must not keep a transfer alive.
    pub(crate) fn hold(&mut self, now: Instant) -> bool {
        self.forgive_lateness(now);
        let since = *self.first_sent.get_or_insert(now);
        let at = now + self.wait().max(ADAPTIVE_CEILING);
        self.timer = Timer::Answer { at };
        now < since + Duration::from(self.patience)
    }

    /// The time by which we are late, since the process was held up, is no
    /// silence of the peer's.
    fn forgive_lateness(&mut self, now: Instant) {
        if let (Some(since), Timer::Answer { at }) = (self.first_sent, self.timer) {
            self.first_sent = Some(since + now.saturating_duration_since(at));
        }
    }

    /// The next burst of the window goes out at `until`.
    pub(crate) const fn pause(&mut self, until: Instant) {
        self.timer = Timer::Burst { until };
    }

    /// The final ACK is repeated until `until`.
    pub(crate) const fn dally(&mut self, until: Instant) {
        self.timer = Timer::Dally { until };
    }

    /// Nothing is awaited any more.
    pub(crate) const fn stop(&mut self) {
        self.timer = Timer::Idle;
    }

    pub(crate) fn expired(&self, now: Instant) -> bool {
        self.timer
            .deadline()
            .is_some_and(|deadline| deadline <= now)
    }

    /// The transfer moved a step forward: the count of repeats starts anew.
    ///
    /// `measured` says that the answer belongs to the packet sent last, so that
    /// the time between the two is a round trip, if nothing was repeated.
    pub(crate) fn answered(&mut self, now: Instant, measured: bool) {
        self.repeats = 0;
        let last_sent = self.last_sent();
        let elapsed = self
            .first_sent
            .take()
            .map(|sent| now.saturating_duration_since(sent));
        if self.adapts == Adapts::Never {
            self.wait = self.initial;
            return;
        }
        if self.paused(now, elapsed, last_sent) {
            self.adapts = Adapts::AtLeisure;
        }
        // Without a sample the backed-off wait stays (RFC 6298 §5.7), but a new
        // packet never waits longer than the ceiling.
        let mut wait = self.wait().min(ADAPTIVE_CEILING);
        if let Some(sample) = elapsed.filter(|_| measured && self.measurable) {
            let sample = Micros::from(sample).0;
            let round_trip = self
                .round_trip
                .map_or_else(|| RoundTrip::first(sample), |known| known.update(sample));
            self.round_trip = Some(round_trip);
            let floor = match self.adapts {
                Adapts::AtLeisure => ADAPTIVE_CEILING,
                _ => ADAPTIVE_FLOOR,
            };
            wait = round_trip.timeout().clamp(floor, ADAPTIVE_CEILING);
        }
        self.wait = wait.into();
    }

    /// Whether an answer that took `elapsed` came from a peer that was busy
    /// (writing flash) and will be again: repeats before the ceiling would only
    /// annoy it. An answer that comes as promptly after a repeat as answers do
    /// tells of a lost packet instead.
    fn paused(&self, now: Instant, elapsed: Option<Duration>, last_sent: Option<Instant>) -> bool {
        let is_long = elapsed.is_some_and(|elapsed| elapsed >= ADAPTIVE_CEILING);
        let promptly = |round_trip: RoundTrip| round_trip.timeout().max(ADAPTIVE_FLOOR);
        let since_last = last_sent.map(|sent| now.saturating_duration_since(sent));
        is_long
            && match (self.round_trip, since_last) {
                (Some(round_trip), Some(since)) => since > promptly(round_trip),
                _ => false,
            }
    }

    /// The deadline passed without an answer. Doubles the wait and returns
    /// true if the packet may be sent again, false if patience has run out
    /// after `limit` (at most the policy's) repeats.
    ///
    /// The next deadline counts from `now` until the repeat is sent: a socket
    /// that takes nothing must not keep a transfer alive.
    pub(crate) fn back_off(&mut self, now: Instant, limit: u8) -> bool {
        let counts = self.adapts == Adapts::Never || self.wait() >= ADAPTIVE_CEILING;
        if counts {
            if self.repeats >= limit.min(self.retries) {
                return false;
            }
            self.repeats += 1;
        }
        let longest = MAX_BACK_OFF.max(self.initial_wait());
        self.wait = (self.wait() * 2).min(longest).into();
        self.await_answer(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The waits, in milliseconds, of a packet that is never answered.
    fn schedule(policy: RetryPolicy) -> Vec<u128> {
        let mut timer = RetryTimer::new(policy);
        let mut now = test_epoch();
        let mut waits = Vec::new();
        timer.sent(now);
        loop {
            let deadline = timer.timer().deadline().unwrap();
            waits.push((deadline - now).as_millis());
            now = deadline;
            assert!(timer.expired(now));
            if !timer.back_off(now, u8::MAX) {
                return waits;
            }
            timer.sent_again(now);
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "an arbitrary instant to count from"
    )]
    fn test_epoch() -> Instant {
        Instant::now()
    }

    #[test]
    fn fixed_waits_double_up_to_the_maximum() {
        for (wait, retries, expected) in [
            (500, 5, vec![500, 1000, 2000, 4000, 8000, 8000]),
            (5000, 5, vec![5000, 8000, 8000, 8000, 8000, 8000]),
            (10_000, 2, vec![10_000, 10_000, 10_000]),
            (100, 0, vec![100]),
        ] {
            let policy = RetryPolicy {
                wait: Wait::Fixed(MS * wait),
                retries,
            };
            assert_eq!(schedule(policy), expected, "-t {wait} --retries {retries}");
        }
    }

    #[test]
    fn patience_is_the_sum_of_the_waits() {
        for (wait, patience_seconds, retries) in [(1000, 1, 0), (1000, 2, 1), (5000, 25, 3)] {
            let policy = RetryPolicy {
                wait: Wait::Fixed(MS * wait),
                retries: 5,
            };
            let policy = policy.lasting(Duration::from_secs(patience_seconds));
            assert_eq!(policy.retries, retries, "{wait} ms");
            let waits: u128 = schedule(policy).iter().sum();
            assert_eq!(policy.patience().as_millis(), waits, "{wait} ms");
        }
    }

    #[test]
    fn adaptive_patience_is_half_a_minute_however_short_the_round_trip() {
        let policy = RetryPolicy {
            wait: Wait::Adaptive,
            retries: 5,
        };
        assert_eq!(schedule(policy), [1000, 2000, 4000, 8000, 8000, 8000]);

        let mut timer = RetryTimer::new(policy);
        let mut now = test_epoch();
        for _ in 0..32 {
            timer.sent(now);
            now += MS / 10;
            timer.answered(now, true);
        }
        timer.sent(now);
        let start = now;
        loop {
            now = timer.timer().deadline().unwrap();
            if !timer.back_off(now, u8::MAX) {
                break;
            }
            timer.sent_again(now);
        }
        assert!(
            now - start >= MS * 30_000,
            "gave up after {:?}",
            now - start
        );
    }

    #[test]
    fn the_adaptive_wait_follows_the_round_trip_within_its_bounds() {
        for (round_trip_ms, expected_ms) in [(0, 20), (1, 20), (100, 100), (300, 300), (5000, 1000)]
        {
            let mut timer = RetryTimer::new(RetryPolicy {
                wait: Wait::Adaptive,
                retries: 5,
            });
            let mut now = test_epoch();
            for _ in 0..64 {
                timer.sent(now);
                now += MS * round_trip_ms;
                timer.answered(now, true);
            }
            assert_eq!(
                timer.wait().as_millis(),
                expected_ms,
                "round trip {round_trip_ms} ms"
            );
        }
    }

    #[test]
    fn an_answer_to_a_repeat_measures_nothing_and_keeps_the_back_off() {
        let mut timer = RetryTimer::new(RetryPolicy {
            wait: Wait::Adaptive,
            retries: 5,
        });
        let mut now = test_epoch();
        timer.sent(now);
        now += MS;
        timer.answered(now, true);
        assert_eq!(timer.wait(), ADAPTIVE_FLOOR);

        timer.sent(now);
        now = timer.timer().deadline().unwrap();
        assert!(timer.back_off(now, u8::MAX));
        timer.sent_again(now);
        timer.answered(now + MS, true);
        assert_eq!(
            timer.wait(),
            ADAPTIVE_FLOOR * 2,
            "Karn: the backed-off wait stays"
        );

        timer.sent(now);
        timer.answered(now + MS, true);
        assert_eq!(
            timer.wait(),
            ADAPTIVE_FLOOR,
            "until an unambiguous answer comes"
        );
    }

    #[test]
    fn a_long_pause_teaches_patience_for_the_rest_of_the_transfer() {
        let mut timer = RetryTimer::new(RetryPolicy {
            wait: Wait::Adaptive,
            retries: 5,
        });
        let mut now = test_epoch();
        timer.sent(now);
        now += MS;
        timer.answered(now, true);
        timer.sent(now);
        timer.sent_again(now + MS * 1000);
        now += MS * 3000;
        timer.answered(now, true);
        for _ in 0..64 {
            timer.sent(now);
            now += MS;
            timer.answered(now, true);
        }
        assert_eq!(timer.wait(), ADAPTIVE_CEILING);
    }

    #[test]
    fn a_lost_packet_is_no_pause() {
        let mut timer = RetryTimer::new(RetryPolicy {
            wait: Wait::Adaptive,
            retries: 5,
        });
        let mut now = test_epoch();
        // The first packet is lost, before anything was measured.
        timer.sent(now);
        now += MS * 1000;
        timer.sent_again(now);
        now += MS;
        timer.answered(now, true);
        timer.sent(now);
        now += MS;
        timer.answered(now, true);
        assert_eq!(timer.wait(), ADAPTIVE_FLOOR);
        // Lost so often that it takes a second, and answered at once.
        timer.sent(now);
        now += MS * 1200;
        timer.sent_again(now);
        now += MS;
        timer.answered(now, true);
        timer.sent(now);
        now += MS;
        timer.answered(now, true);
        assert_eq!(timer.wait(), ADAPTIVE_FLOOR);
    }

    #[test]
    fn progress_restores_the_fixed_wait_and_the_count() {
        let mut timer = RetryTimer::new(RetryPolicy {
            wait: Wait::Fixed(MS * 500),
            retries: 1,
        });
        let now = test_epoch();
        timer.sent(now);
        assert!(timer.back_off(now, u8::MAX));
        assert!(!timer.back_off(now, u8::MAX));
        timer.answered(now, true);
        timer.sent(now);
        assert_eq!(timer.timer().deadline(), Some(now + MS * 500));
        assert!(timer.back_off(now, u8::MAX));
    }

    /// A request repeated once too often (simulation, seed 735) left a session
    /// without a deadline.
    #[test]
    fn there_is_a_deadline_until_the_caller_takes_it_away() {
        let mut timer = RetryTimer::new(RetryPolicy {
            wait: Wait::Fixed(MS * 500),
            retries: 1,
        });
        let now = test_epoch();
        timer.sent(now);
        assert!(timer.back_off(now, u8::MAX));
        assert_eq!(
            timer.timer().deadline(),
            Some(now + MS * 1000),
            "though nothing was sent"
        );
        assert!(!timer.back_off(now, u8::MAX));
        assert!(timer.timer().deadline().is_some());
    }
}
