//! When to send again: the retransmission timer of one transfer.
//!
//! Two policies. [`Wait::Fixed`] is a promise, made with `-t`: the first repeat by
//! the timer comes exactly that long after the packet. (The peer can bring one earlier, by
//! a NACK or by sending its request again.) [`Wait::Adaptive`] follows the
//! measured round trip (RFC 6298 with Karn's rule) and the slowest recent answers.
//! Both back off exponentially (RFC 1123 §4.2.3.2) and give up in the end.
//!
//! A negotiated `timeout` takes the place of both. It is kept exactly, with one exception:
//! boot loaders ask for 5 s, and then sit silent that long for each lost packet. So if 2 s
//! or more were agreed, and the peer has answered four times or has named a gap, up to
//! three repeats go out earlier, at the adaptive wait (0.75 s if nothing was measured), and
//! the negotiated wait begins after them. After an ACK that may be a NACK or an echo, and
//! after we have reported a gap, the first of these repeats goes out after 0.75 s or the
//! measured wait, whichever is longer, or at once if its deadline has passed. An ACK is
//! never repeated early before a round trip has been measured.
//!
//! Must not: read the clock; callers pass the time in.

use std::time::{Duration, Instant};

use super::answer_time::{KNOWN_ANSWERS, RoundTrip, Slowest};
use super::compact::{Micros, Millis};
use super::timer::Timer;

/// The wait doubles up to this, unless the first wait is longer already.
pub const MAX_BACK_OFF: Duration = Duration::from_secs(8);

/// The adaptive wait before anything was measured, and its ceiling. A wait this
/// long is also where adaptive repeats begin to count against the limit.
pub const ADAPTIVE_CEILING: Duration = Duration::from_secs(1);

/// The adaptive wait never falls below this: the peer's scheduling varies by milliseconds,
/// and a repeat that is too early costs more than one that is a little late.
pub const ADAPTIVE_FLOOR: Duration = Duration::from_millis(20);

/// The same for ACKs, if nothing was lost lately. The peer has its own timer for its DATA,
/// and a peer that answers each ACK (RFC 1123 §4.2.3.1 forbids it) sends everything twice
/// after a needless repeat.
pub const ACK_FLOOR: Duration = Duration::from_millis(500);

/// The most patience that a negotiated `timeout` gives a peer.
pub const MAX_NEGOTIATED_PATIENCE: Duration = Duration::from_secs(60);

/// A negotiated wait shorter than this is kept exactly: it costs nobody much time.
pub const LONG_NEGOTIATED: Duration = Duration::from_secs(2);

/// Repeats of one packet that may come earlier than a negotiated wait. If a NACK was lost, a
/// window takes three:
///
/// 1. the last block alone; a receiver that names each gap only once doesn't answer it;
/// 2. the window; a receiver that counts its own window from its NACK waits for more;
/// 3. the last block alone, which it answers.
pub const EARLY_REPEATS: u8 = 3;

/// The least wait after an ACK that may be a NACK or an echo; and the wait for a known peer
/// while no round trip is known. Echoes are over by then, and a client that waits for us
/// loses less than a second.
const CAUTIOUS: Duration = Duration::from_millis(750);

/// The factor by which the early repeats lengthen the wait: each doubles it.
const BACKED_OFF: u32 = 1 << EARLY_REPEATS;

/// An answer that comes this soon after a repeat answers the repeat, however short the
/// round trip: scheduling is no more exact.
const PROMPT: Duration = Duration::from_millis(5);

/// Answers after a loss until the loss is forgotten.
const LOSS_MEMORY: u8 = 64;

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
    /// Repeats of one packet before the transfer is given up; with 0 nothing is
    /// ever sent again by the timer. Adaptive repeats that come faster than
    /// [`ADAPTIVE_CEILING`] are not counted, so that a short round trip doesn't
    /// mean little patience.
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

    /// How long to wait in all for the answer to a packet, before anything was measured:
    /// 31 s with five retries.
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

    /// How long a transfer goes on without a step forward, whatever the peer sends meanwhile.
    /// A tenth more than the patience, for the quick adaptive repeats that aren't counted.
    /// 34 s with five retries.
    fn longest_patience(&self) -> Duration {
        let patience = self.patience();
        patience + patience / 10
    }

    /// This policy with the fewest repeats that last for `patience`.
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

/// The bounds of an adaptive wait; the upper one prevails.
#[derive(Debug, Clone, Copy)]
struct Adaptive {
    least: Micros,
    most: Micros,
}

impl Adaptive {
    /// `wait`, which the round trip suggests, within these bounds.
    fn wait(self, wait: Micros) -> Micros {
        wait.max(self.least).min(self.most)
    }
}

/// What the wait for an answer follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    /// The promised wait: `-t`, or a negotiated `timeout` that is kept exactly.
    Promise,
    /// The measured round trip.
    RoundTrip,
    /// A long negotiated wait; for the first repeats the round trip, once the peer is known
    /// well enough, or a gap was named or suspected.
    PromiseAndRoundTrip,
}

/// The deadline of the packet that is waiting for its answer, and what is known
/// about how long answers take.
#[derive(Debug)]
pub(crate) struct RetryTimer {
    /// The policy: the first wait, what it follows, and the repeats.
    initial: Micros,
    follows: Follows,
    retries: u8,
    /// The longest time without a step forward, see
    /// [`RetryPolicy::longest_patience`].
    patience: Millis,
    /// The packets that wait for an answer are ACKs.
    for_acks: bool,
    /// Answers until the last loss is forgotten.
    lossy: u8,
    round_trip: Option<RoundTrip>,
    /// The shortest round trip measured.
    fastest: Micros,
    slowest: Slowest,
    /// The answer to what was sent measures the round trip.
    measurable: bool,
    /// The packet was sent again, so its answer measures nothing (Karn).
    repeated: bool,
    /// Counted repeats since the last step forward.
    repeats: u8,
    /// Repeats earlier than the negotiated wait, which are counted apart.
    early_repeats: u8,
    /// The wait that the next packet gets.
    wait: Micros,
    /// Since when an answer is awaited: when the first copy of the packet went
    /// out, or the peer was last seen at work.
    since: Option<Instant>,
    /// How long after `since` the last packet was sent.
    sent_after: Micros,
    timer: Timer,
}

impl RetryTimer {
    /// A timer for DATA, or for ACKs.
    pub(crate) fn new(policy: RetryPolicy, for_acks: bool) -> Self {
        Self {
            initial: policy.initial_wait().into(),
            follows: match policy.wait {
                Wait::Fixed(_) => Follows::Promise,
                Wait::Adaptive => Follows::RoundTrip,
            },
            retries: policy.retries,
            patience: policy.longest_patience().into(),
            for_acks,
            lossy: 0,
            round_trip: None,
            fastest: Micros(u32::MAX),
            slowest: Slowest::none(),
            wait: policy.initial_wait().into(),
            measurable: false,
            repeated: false,
            repeats: 0,
            early_repeats: 0,
            since: None,
            sent_after: Micros(0),
            timer: Timer::Idle,
        }
    }

    /// A negotiated timeout takes the place of the wait configured so far.
    pub(crate) fn negotiated(&mut self, wait: Duration) {
        let policy = RetryPolicy {
            wait: Wait::Fixed(wait),
            retries: self.retries,
        };
        // With no retries nothing may be repeated, early or not.
        self.follows = if wait >= LONG_NEGOTIATED && self.retries > 0 {
            Follows::PromiseAndRoundTrip
        } else {
            Follows::Promise
        };
        self.initial = wait.into();
        self.wait = self.initial;
        self.patience = policy
            .longest_patience()
            .min(MAX_NEGOTIATED_PATIENCE)
            .into();
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

    /// When the packet that waits for an answer was last sent; on the receiving side also
    /// when the last block of a window came, if that was later.
    pub(crate) fn last_sent(&self) -> Option<Instant> {
        Some(self.since? + Duration::from(self.sent_after))
    }

    /// Since when the transfer hasn't moved: when the first copy of the packet that now
    /// waits for an answer went out, or the peer was last seen at work.
    pub(crate) const fn waiting_since(&self) -> Option<Instant> {
        self.since
    }

    /// The packet that waits for an answer was sent more than once.
    pub(crate) const fn is_repeated(&self) -> bool {
        self.repeated
    }

    /// How long an answer usually takes, if that has been measured.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
            .map(|known| Duration::from_micros(known.smoothed.get().into()))
    }

    /// How long the fastest answer took, if that has been measured.
    pub(crate) fn fastest(&self) -> Option<Duration> {
        self.round_trip.map(|_| self.fastest.into())
    }

    /// Whether a packet that comes at `now` comes as soon as an answer to what was sent last
    /// would. `None` if no round trip is known.
    pub(crate) fn is_prompt(&self, now: Instant) -> Option<bool> {
        let round_trip = self.round_trip?;
        let elapsed = now.saturating_duration_since(self.last_sent()?);
        let smoothed = Duration::from_micros(round_trip.smoothed.get().into());
        // On a steady network the timeout is barely longer than the round trip.
        let timeout = Duration::from(round_trip.timeout());
        Some(elapsed <= (timeout + smoothed / 2).max(PROMPT))
    }

    /// Something new was sent and needs an answer.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.restart(now);
        self.measurable = true;
    }

    /// Something was sent again.
    pub(crate) fn sent_again(&mut self, now: Instant) {
        self.repeated = true;
        self.forgive_lateness(now);
        let since = *self.since.get_or_insert(now);
        self.sent_after = now.saturating_duration_since(since).into();
        self.arm(now);
    }

    /// The peer is at work, though it answered nothing (on the receiving side: the blocks
    /// within a window).
    pub(crate) fn heard(&mut self, now: Instant) {
        self.restart(now);
    }

    /// The wait for an answer begins at `now`.
    fn restart(&mut self, now: Instant) {
        self.since = Some(now);
        self.sent_after = Micros(0);
        self.measurable = false;
        self.repeated = false;
        // Patience starts again now, too.
        let wait = Duration::from(self.wait.min(self.patience.into()));
        self.timer = Timer::Answer { at: now + wait };
    }

    /// Whether [`RetryTimer::heard`] was already called at `now`.
    pub(crate) fn was_heard_at(&self, now: Instant) -> bool {
        self.since == Some(now) && !self.measurable && !self.repeated
    }

    /// One more answer since the last loss.
    pub(crate) const fn one_came_through(&mut self) {
        self.lossy = self.lossy.saturating_sub(1);
    }

    /// Waits for an answer for a full wait from `now` on, but no longer than patience lasts.
    pub(crate) fn arm(&mut self, now: Instant) {
        self.arm_at(now + self.wait());
    }

    fn arm_at(&mut self, at: Instant) {
        let at = self.end_of_patience().map_or(at, |end| at.min(end));
        self.timer = Timer::Answer { at };
    }

    fn end_of_patience(&self) -> Option<Instant> {
        Some(self.since? + Duration::from(self.patience))
    }

    /// The packet that is due can't be sent, since the socket is full. The peer isn't silent,
    /// so there is no back-off. Returns whether to wait on: a socket that takes nothing must
    /// not keep a transfer alive.
    pub(crate) fn hold(&mut self, now: Instant) -> bool {
        self.forgive_lateness(now);
        self.since.get_or_insert(now);
        self.arm_at(now + self.wait().max(ADAPTIVE_CEILING));
        self.end_of_patience().is_some_and(|end| now < end)
    }

    /// If we are late for the deadline, since the process was held up, that time doesn't
    /// count as the peer's silence.
    fn forgive_lateness(&mut self, now: Instant) {
        if let (Some(since), Some(due)) = (self.since, self.timer.deadline()) {
            self.since = Some(since + now.saturating_duration_since(due));
        }
    }

    /// We send nothing until `until`.
    pub(crate) const fn pause(&mut self, until: Instant) {
        self.timer = Timer::Burst { until };
    }

    /// A pause of this length, from the last packet sent on, if it ends before the deadline.
    pub(crate) fn pause_before_deadline(&mut self, pause: Duration) {
        if let (Timer::Answer { at }, Some(sent)) = (self.timer, self.last_sent())
            && sent + pause < at
        {
            self.pause(sent + pause);
        }
    }

    /// Ends the pause, if there is one.
    #[inline]
    pub(crate) fn end_pause(&mut self, now: Instant) {
        if let Timer::Burst { .. } = self.timer {
            self.forgive_lateness(now);
            self.arm(now);
        }
    }

    /// Dallies until `until`.
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

    /// A packet was lost: ACKs are worth repeating early.
    pub(crate) const fn something_lost(&mut self) {
        self.lossy = LOSS_MEMORY;
    }

    /// The peer named a gap: a packet was lost, and the peer wants it at once. So a long
    /// negotiated wait is cut short from now on.
    pub(crate) fn gap_named(&mut self) {
        self.slowest.seen = KNOWN_ANSWERS;
        if let Some(wait) = self.early_wait() {
            self.wait = self.wait.min(wait);
        }
    }

    /// An ACK came that may be a NACK or an echo; or we have reported a gap to the peer. A
    /// long negotiated wait is cut short for this one answer, but not below [`CAUTIOUS`].
    pub(crate) fn gap_suspected(&mut self, now: Instant) {
        let Some(wait) = self.early_wait() else {
            return;
        };
        self.wait = self.wait.min(wait.max(Micros::of(CAUTIOUS)));
        if let (Timer::Answer { at }, Some(sent)) = (self.timer, self.last_sent()) {
            // A deadline that has come already stays where it is.
            let at = at.min((sent + self.wait()).max(now));
            self.timer = Timer::Answer { at };
        }
    }

    /// The wait of an early repeat, if one may come before a long negotiated wait.
    fn early_wait(&self) -> Option<Micros> {
        let measured = match self.round_trip {
            Some(known) => known.timeout(),
            None if self.for_acks => return None,
            None => Micros::of(CAUTIOUS),
        };
        let is_due =
            self.follows == Follows::PromiseAndRoundTrip && self.early_repeats < EARLY_REPEATS;
        is_due.then(|| self.adaptive().wait(measured))
    }

    /// The transfer moved a step forward: the count of repeats starts again.
    ///
    /// `measured`: the answer belongs to the packet sent last, so the time between the two is
    /// a round trip, if nothing was repeated.
    pub(crate) fn answered(&mut self, now: Instant, measured: bool) {
        let was_early = self.early_repeats > 0;
        self.repeats = 0;
        self.early_repeats = 0;
        self.one_came_through();
        // If a packet was lost, the answer comes as soon after the repeat as answers do. A
        // busy peer's answer comes late.
        let was_lost = self.repeated && self.is_prompt(now).unwrap_or(true);
        if was_lost {
            self.something_lost();
        }
        let mut suggested = None;
        if let Some(since) = self.since.take() {
            // Blocks in the middle of a window, on the receiving side, answer nothing.
            if measured || self.repeated {
                self.slowest.see();
            }
            let elapsed = Micros::of(now.saturating_duration_since(since));
            let is_peers = !was_lost && self.slowest.learn(elapsed);
            if is_peers && measured && self.measurable && !self.repeated {
                suggested = Some(self.measure(elapsed).timeout());
            }
        }
        self.wait = match self.follows {
            Follows::Promise => self.initial,
            Follows::PromiseAndRoundTrip if !self.is_well_known() => self.initial,
            // Without a sample the backed-off wait stays (RFC 6298 §5.7), but for a new
            // packet only up to a few doublings of the measured wait: if one packet was
            // lost for a second, the next needn't take as long.
            Follows::RoundTrip | Follows::PromiseAndRoundTrip => {
                let adaptive = self.adaptive();
                let wait = suggested.unwrap_or_else(|| match self.round_trip {
                    Some(known) => {
                        let most = adaptive.wait(known.timeout()).times(BACKED_OFF);
                        self.wait.min(most)
                    }
                    // Keep it, or a peer that always takes longer is never measured.
                    None if was_early => self.wait,
                    None if self.follows == Follows::PromiseAndRoundTrip => Micros::of(CAUTIOUS),
                    None => self.wait,
                });
                adaptive.wait(wait)
            }
        };
    }

    /// Whether the peer has answered often enough, or named a gap, so that repeats may come
    /// early. A needless ACK makes old writers send everything twice, so early ACKs also need
    /// a measured round trip.
    const fn is_well_known(&self) -> bool {
        self.slowest.seen == KNOWN_ANSWERS && (!self.for_acks || self.round_trip.is_some())
    }

    /// The bounds of an adaptive wait.
    fn adaptive(&self) -> Adaptive {
        let ceiling = Micros::of(ADAPTIVE_CEILING);
        let (slowest, floor) = match (self.for_acks, self.lossy) {
            (false, _) => (self.slowest.wait(), Micros::of(ADAPTIVE_FLOOR)),
            (true, 0) => (self.slowest.wait(), Micros::of(ACK_FLOOR)),
            // After losses the gaps between DATA are the peer's own waits. If we learned
            // from those, and the peer from ours, both would wait longer and longer.
            (true, _) => (Micros(0), Micros::of(ADAPTIVE_FLOOR)),
        };
        Adaptive {
            // If the timer repeats nothing, the only wait is the patience.
            least: slowest.max(if self.retries == 0 { ceiling } else { floor }),
            most: match self.follows {
                Follows::PromiseAndRoundTrip => self.initial,
                Follows::Promise | Follows::RoundTrip => ceiling,
            },
        }
    }

    fn measure(&mut self, sample: Micros) -> RoundTrip {
        self.fastest = self.fastest.min(sample);
        let round_trip = match self.round_trip {
            None => RoundTrip::first(sample.0),
            Some(known) => known.update(sample.0),
        };
        *self.round_trip.insert(round_trip)
    }

    /// The deadline passed without an answer. If the packet may be sent again, doubles the
    /// wait and returns true. Returns false if patience has run out, after `max_repeats` (or
    /// the policy's, if fewer) or by time.
    ///
    /// Until the repeat is sent, the next deadline counts from `now`: a socket that takes
    /// nothing must not keep a transfer alive.
    pub(crate) fn back_off(&mut self, now: Instant, max_repeats: u8) -> bool {
        self.forgive_lateness(now);
        if self.end_of_patience().is_some_and(|end| end <= now) {
            return false;
        }
        if self.follows == Follows::PromiseAndRoundTrip && self.wait < self.initial {
            self.early_repeats += 1;
            self.wait = (self.wait() * 2).into();
            if self.early_repeats >= EARLY_REPEATS || self.wait >= self.initial {
                self.wait = self.initial;
            }
            self.arm(now);
            return true;
        }
        let counts = self.follows != Follows::RoundTrip || self.wait() >= ADAPTIVE_CEILING;
        if counts {
            if self.repeats >= max_repeats.min(self.retries) {
                return false;
            }
            self.repeats += 1;
        }
        let longest = MAX_BACK_OFF.max(self.initial_wait());
        self.wait = (self.wait() * 2).min(longest).into();
        self.arm(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer_time::SLOW_MEMORY;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The waits, in milliseconds, of a packet that is never answered.
    fn schedule(policy: RetryPolicy) -> Vec<u128> {
        let mut timer = RetryTimer::new(policy, false);
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

    /// A timer with a negotiated wait, after this many answers that each took 3 ms.
    fn negotiated(seconds: u64, retries: u8, answers: u8) -> (RetryTimer, Instant) {
        let policy = RetryPolicy {
            wait: Wait::Adaptive,
            retries,
        };
        let mut timer = RetryTimer::new(policy, false);
        timer.negotiated(Duration::from_secs(seconds));
        let mut now = test_epoch();
        for _ in 0..answers {
            timer.sent(now);
            now += MS * 3;
            timer.answered(now, true);
        }
        (timer, now)
    }

    #[test]
    fn a_long_negotiated_wait_is_cut_short_three_times_where_the_peer_answers_promptly() {
        for (seconds, retries, answers, expected) in [
            (5, 5, KNOWN_ANSWERS, vec![20, 40, 80, 5000, 8000, 8000]),
            (2, 5, KNOWN_ANSWERS, vec![20, 40, 80, 2000, 4000, 8000]),
            // The peer isn't known yet.
            (5, 5, KNOWN_ANSWERS - 1, vec![5000, 8000, 8000]),
            // A wait below 2 s is kept exactly.
            (1, 5, KNOWN_ANSWERS, vec![1000, 2000, 4000]),
            // Nothing is ever repeated.
            (5, 0, KNOWN_ANSWERS, vec![5000]),
        ] {
            let (mut timer, mut now) = negotiated(seconds, retries, answers);
            timer.sent(now);
            let mut waits = Vec::new();
            for _ in &expected {
                let deadline = timer.timer().deadline().unwrap();
                waits.push((deadline - now).as_millis());
                now = deadline;
                if timer.back_off(now, u8::MAX) {
                    timer.sent_again(now);
                }
            }
            assert_eq!(waits, expected, "timeout={seconds} --retries {retries}");
        }
    }

    #[test]
    fn a_gap_that_is_named_cuts_the_negotiated_wait_short() {
        for (answers, repeats, expected) in [
            // Nothing was measured.
            (0, 0, 750),
            (1, 0, 20),
            // After silence as well.
            (1, 1, 20),
        ] {
            let (mut timer, mut now) = negotiated(5, 5, answers);
            timer.sent(now);
            for _ in 0..repeats {
                now = timer.timer().deadline().unwrap();
                assert!(timer.back_off(now, u8::MAX));
            }
            timer.gap_named();
            timer.sent_again(now);
            assert_eq!(
                timer.timer().deadline(),
                Some(now + MS * expected),
                "{answers}"
            );
        }
        // A short one is kept.
        let (mut timer, now) = negotiated(1, 5, 3);
        timer.sent(now);
        timer.gap_named();
        timer.sent_again(now);
        assert_eq!(timer.timer().deadline(), Some(now + MS * 1000));
    }

    #[test]
    fn an_ack_that_was_lost_once_does_not_make_the_peer_slow() {
        let (mut timer, mut now) = negotiated(5, 5, 2);
        // The peer's own timer sends it again.
        timer.sent(now);
        now += MS * 1001;
        timer.answered(now, true);
        for _ in 0..KNOWN_ANSWERS {
            timer.sent(now);
            now += MS * 3;
            timer.answered(now, true);
        }
        timer.sent(now);
        assert!(timer.expired(now + MS * 500));
    }

    /// A boot loader that asks again each second and ignores duplicates; one in thirty of its
    /// ACKs is lost.
    #[test]
    fn acks_that_are_lost_now_and_then_do_not_make_the_peer_slow() {
        let mut timer = RetryTimer::new(ADAPTIVE, false);
        let mut now = test_epoch();
        for block in 1..=500 {
            let took = if block % 30 == 0 { 1001 } else { 1 };
            let wait = answer(&mut timer, &mut now, took).0;
            assert!(block < 3 || wait < MS * 500, "{wait:?}");
        }
    }

    #[test]
    fn answers_to_repeats_make_a_peer_known_too() {
        let (mut timer, mut now) = negotiated(5, 5, 1);
        for _ in 1..KNOWN_ANSWERS {
            timer.sent(now);
            timer.sent_again(now + MS);
            now += MS * 4;
            timer.answered(now, false);
        }
        timer.sent(now);
        assert!(timer.expired(now + ADAPTIVE_FLOOR * BACKED_OFF));

        // But if no answer was measured, the round trip isn't known.
        let (mut timer, mut now) = negotiated(5, 5, 0);
        for _ in 0..KNOWN_ANSWERS {
            timer.sent(now);
            timer.sent_again(now + MS);
            now += MS * 4;
            timer.answered(now, false);
        }
        timer.sent(now);
        assert_eq!(timer.timer().deadline(), Some(now + CAUTIOUS));
    }

    /// RFC 6298 §5.5 to 5.7: without a sample the backed-off wait stays, or a peer that
    /// has become a little slower than the wait would be sent everything twice.
    #[test]
    fn the_wait_soon_adapts_to_answers_that_come_later_than_before() {
        let changes = [(3, 22), (3, 60), (3, 700), (100, 140), (100, 275)];
        for ((before, after), is_negotiated) in changes
            .into_iter()
            .flat_map(|change| [(change, true), (change, false)])
        {
            let (mut timer, mut now) = negotiated(5, 5, 0);
            if !is_negotiated {
                timer = RetryTimer::new(ADAPTIVE, false);
            }
            let mut sent = 0;
            for packet in 0..40 {
                timer.sent(now);
                let answer = now + MS * if packet < 20 { before } else { after };
                while timer.expired(answer) {
                    let deadline = timer.timer().deadline().unwrap();
                    assert!(timer.back_off(deadline, u8::MAX));
                    timer.sent_again(deadline);
                    sent += 1;
                }
                now = answer;
                timer.answered(now, true);
            }
            let case = format!("from {before} to {after} ms, negotiated: {is_negotiated}");
            // A wait of 20 ms doubles five times until it is longer than 700 ms.
            let most = if is_negotiated { 4 } else { 5 };
            assert!(sent <= most, "{case}: {sent} repeats");
        }
    }

    #[test]
    fn a_packet_that_was_lost_for_a_second_does_not_make_the_next_wait_as_long() {
        let mut timer = RetryTimer::new(ADAPTIVE, false);
        let mut now = test_epoch();
        for _ in 0..8 {
            answer(&mut timer, &mut now, 3);
        }
        timer.sent(now);
        for _ in 0..6 {
            now = timer.timer().deadline().unwrap();
            assert!(timer.back_off(now, u8::MAX));
            timer.sent_again(now);
        }
        assert_eq!(timer.wait(), ADAPTIVE_CEILING + MS * 280);
        timer.answered(now + MS * 3, true);
        assert_eq!(timer.wait(), ADAPTIVE_FLOOR * BACKED_OFF);
    }

    #[test]
    fn a_peer_that_pauses_now_and_then_is_given_its_negotiated_wait() {
        let (mut timer, mut now) = negotiated(5, 5, KNOWN_ANSWERS);
        // It writes flash for two seconds, twice; repeats go out meanwhile.
        for _ in 0..2 {
            timer.sent(now);
            let deadline = timer.timer().deadline().unwrap();
            assert!(deadline < now + MS * 100);
            assert!(timer.back_off(deadline, u8::MAX));
            timer.sent_again(deadline);
            now += MS * 2000;
            timer.answered(now, true);
        }
        timer.sent(now);
        assert_eq!(timer.timer().deadline(), Some(now + MS * 2500));
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

        let mut timer = RetryTimer::new(policy, false);
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
        for (round_trip_ms, expected_ms) in [(0, 20), (1, 20), (100, 125), (300, 375), (5000, 1000)]
        {
            let mut timer = RetryTimer::new(
                RetryPolicy {
                    wait: Wait::Adaptive,
                    retries: 5,
                },
                false,
            );
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
        let mut timer = RetryTimer::new(
            RetryPolicy {
                wait: Wait::Adaptive,
                retries: 5,
            },
            false,
        );
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

    /// Feeds answers that each took `milliseconds`; returns the wait after them
    /// and the repeats that went out before them.
    fn answer(timer: &mut RetryTimer, now: &mut Instant, milliseconds: u32) -> (Duration, u32) {
        timer.sent(*now);
        let answered = *now + MS * milliseconds;
        let mut repeats = 0;
        while timer.timer().deadline().unwrap() < answered {
            let deadline = timer.timer().deadline().unwrap();
            assert!(timer.back_off(deadline, u8::MAX));
            timer.sent_again(deadline);
            repeats += 1;
        }
        *now = answered;
        timer.answered(*now, true);
        (timer.wait(), repeats)
    }

    const ADAPTIVE: RetryPolicy = RetryPolicy {
        wait: Wait::Adaptive,
        retries: 5,
    };

    #[test]
    fn the_wait_learns_from_the_slowest_recent_answers() {
        // A client that writes flash: 150 ms for every eighth block.
        let mut timer = RetryTimer::new(ADAPTIVE, false);
        let mut now = test_epoch();
        let mut repeats = 0;
        for block in 1..=121 {
            let took = if block % 8 == 0 { 150 } else { 1 };
            repeats += answer(&mut timer, &mut now, took).1;
        }
        assert!(repeats <= 5, "{repeats} doubles");
    }

    /// The repeats that go out, for each of eight packets, to a peer that answers after `took`
    /// milliseconds. Its first answers followed repeats, so its round trip isn't known.
    fn repeats_to_unmeasured(took: u32, for_acks: bool) -> Vec<u32> {
        let mut timer = RetryTimer::new(ADAPTIVE, for_acks);
        timer.negotiated(MS * 5000);
        let mut now = test_epoch();
        for _ in 0..KNOWN_ANSWERS {
            timer.sent(now);
            timer.sent_again(now + MS * 5000);
            now += MS * 6000;
            timer.answered(now, false);
        }
        let repeats = (0..8).map(|_| answer(&mut timer, &mut now, took).1);
        repeats.collect()
    }

    #[test]
    fn a_slow_peer_that_was_never_measured_is_measured_soon() {
        for (took, most) in [(1000, 2), (1500, 2), (4000, 6)] {
            let repeats = repeats_to_unmeasured(took, false);
            let all: u32 = repeats.iter().sum();
            assert!(all <= most, "{took} ms: {repeats:?}");
            assert_eq!(repeats[6..], [0, 0], "{took} ms: {repeats:?}");
        }
        // For ACKs the agreed wait is kept.
        for took in [1000, 4000] {
            assert_eq!(repeats_to_unmeasured(took, true), [0; 8], "{took} ms");
        }
    }

    #[test]
    fn a_long_pause_is_forgotten_after_enough_prompt_answers() {
        let mut timer = RetryTimer::new(ADAPTIVE, false);
        let mut now = test_epoch();
        answer(&mut timer, &mut now, 1);
        // The first time may have been a lost packet.
        answer(&mut timer, &mut now, 3000);
        assert_eq!(answer(&mut timer, &mut now, 3000).0, ADAPTIVE_CEILING);
        for _ in 0..SLOW_MEMORY - 3 {
            assert_eq!(answer(&mut timer, &mut now, 1).0, ADAPTIVE_CEILING);
        }
        for _ in 0..2 * SLOW_MEMORY {
            answer(&mut timer, &mut now, 1);
        }
        assert_eq!(timer.wait(), ADAPTIVE_FLOOR);
    }

    #[test]
    fn an_ack_is_repeated_late_unless_something_was_lost() {
        let mut timer = RetryTimer::new(ADAPTIVE, true);
        let mut now = test_epoch();
        for _ in 0..8 {
            assert_eq!(answer(&mut timer, &mut now, 1).0, ACK_FLOOR);
        }
        // But always later than the slowest answer.
        assert_eq!(answer(&mut timer, &mut now, 480).0, MS * 600);
        for _ in 0..2 * SLOW_MEMORY {
            answer(&mut timer, &mut now, 1);
        }
        assert_eq!(timer.wait(), ACK_FLOOR);
        timer.something_lost();
        for _ in 1..LOSS_MEMORY {
            assert_eq!(answer(&mut timer, &mut now, 1).0, ADAPTIVE_FLOOR);
        }
        assert_eq!(answer(&mut timer, &mut now, 1).0, ACK_FLOOR);
    }

    #[test]
    fn without_retries_nothing_is_repeated() {
        let mut timer = RetryTimer::new(
            RetryPolicy {
                wait: Wait::Adaptive,
                retries: 0,
            },
            false,
        );
        let mut now = test_epoch();
        for _ in 0..8 {
            answer(&mut timer, &mut now, 1);
        }
        timer.sent(now);
        assert_eq!(
            timer.timer().deadline(),
            Some(now + ADAPTIVE_CEILING),
            "the patience"
        );
        assert!(!timer.back_off(now + ADAPTIVE_CEILING, u8::MAX));
    }

    #[test]
    fn patience_has_an_end_in_time() {
        for (policy, negotiated, seconds) in [
            (ADAPTIVE, None, 34),
            (ADAPTIVE, Some(1), 34),
            (ADAPTIVE, Some(5), 49),
            (ADAPTIVE, Some(10), 60),
            (ADAPTIVE, Some(50), 60),
            (ADAPTIVE, Some(255), 60),
        ] {
            let mut timer = RetryTimer::new(policy, true);
            if let Some(timeout) = negotiated {
                timer.negotiated(Duration::from_secs(timeout));
            }
            let start = test_epoch();
            let mut now = start;
            timer.sent(now);
            // The peer keeps repeating one packet, and gets an answer each time.
            while !timer.expired(now) {
                timer.sent_again(now);
                now += MS * 100;
            }
            assert!(!timer.back_off(now, u8::MAX), "{negotiated:?}");
            assert_eq!((now - start).as_secs(), seconds, "{negotiated:?}");

            // The peer is silent.
            let mut timer = RetryTimer::new(policy, true);
            if let Some(timeout) = negotiated {
                timer.negotiated(Duration::from_secs(timeout));
            }
            timer.sent(start);
            loop {
                now = timer.timer().deadline().unwrap();
                if !timer.back_off(now, u8::MAX) {
                    break;
                }
                timer.sent_again(now);
            }
            assert!((now - start).as_secs() <= seconds, "{negotiated:?}");
        }
    }

    #[test]
    fn a_process_held_up_costs_no_patience() {
        let mut timer = RetryTimer::new(ADAPTIVE, false);
        let start = test_epoch();
        timer.sent(start);
        let late = start + MS * 600_000;
        assert!(timer.back_off(late, u8::MAX));
        timer.sent_again(late);
        assert_eq!(timer.timer().deadline(), Some(late + MS * 2000));
    }

    /// Simulation, faults, seed 402: the clock jumped in a pause.
    #[test]
    fn a_process_held_up_in_a_pause_costs_no_patience() {
        let mut timer = RetryTimer::new(ADAPTIVE, false);
        let start = test_epoch();
        timer.sent(start);
        timer.pause(start + MS * 5);
        let late = start + MS * 600_000;
        timer.end_pause(late);
        assert_eq!(timer.timer().deadline(), Some(late + MS * 1000));
        timer.sent_again(late);
        assert_eq!(timer.timer().deadline(), Some(late + MS * 1000));
        assert!(timer.back_off(late + MS * 1000, u8::MAX));
    }

    #[test]
    fn a_lost_packet_is_no_pause() {
        let mut timer = RetryTimer::new(
            RetryPolicy {
                wait: Wait::Adaptive,
                retries: 5,
            },
            false,
        );
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
        let mut timer = RetryTimer::new(
            RetryPolicy {
                wait: Wait::Fixed(MS * 500),
                retries: 1,
            },
            false,
        );
        let now = test_epoch();
        timer.sent(now);
        assert!(timer.back_off(now, u8::MAX));
        assert!(!timer.back_off(now, u8::MAX));
        timer.answered(now, true);
        timer.sent(now);
        assert_eq!(timer.timer().deadline(), Some(now + MS * 500));
        assert!(timer.back_off(now, u8::MAX));
    }

    /// Found by simulation, seed 735: one repeated request too many left a session without a
    /// deadline.
    #[test]
    fn there_is_a_deadline_until_the_caller_takes_it_away() {
        let mut timer = RetryTimer::new(
            RetryPolicy {
                wait: Wait::Fixed(MS * 500),
                retries: 1,
            },
            false,
        );
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
