//! Limits the bytes a second to client networks that nothing proves to be there.
//!
//! With a port of its own a transfer's first answer proves its peer. With a single port
//! an ACK may come from a forger, who doesn't see what is sent and has it sent to
//! somebody else. A forger can acknowledge every block in time, and can pretend to have
//! lost one. It can't know when a block leaves after a pause of random length:
//!
//! - an ACK that is too early is for a block that wasn't sent, and ends the transfer;
//! - one that is too late proves nothing;
//! - a real client acknowledges within a round trip.
//!
//! So the bytes to a network are bounded, and a session that would exceed the bound is
//! paused. A session whose ACKs come right after enough pauses (`PROOF_BITS`) is
//! proved: by chance that happens once in a million times. The bytes sent to it are
//! given back to its network, and it is bounded no longer. Hundreds of clients that
//! start at once on a busy machine must be proved too. So half of a network's bytes are
//! kept for sessions that come out of a pause, and after a late ACK the next ones may
//! be later, after longer pauses. Must not: read the clock, make a random number.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::protocol::compact::Micros;
use crate::table::rate::{network, place};

/// Bits that prove a client: an ACK right after a pause is worth those of the pause
/// ([`pause_bits`]).
const PROOF_BITS: u8 = 20;

/// Bits that a late ACK costs. More than a prompt one is worth, so that a forger, who
/// is wrong most of the time, gets nowhere; a client that is late now and then is still
/// proved.
const MISS_BITS: u8 = 8;

/// What a prompt ACK after a pause is worth, in bits. A pause is drawn from a range of
/// 2^bits times the time an ACK may take, so a guess is right once in 2^bits. Where
/// ACKs take long the range is smaller, because clients give up, and more pauses are
/// needed; where they take longer still, nothing is proved.
const fn pause_bits(within: Duration) -> u8 {
    match within.as_millis() {
        0..=125 => 4,
        126..=500 => 2,
        501..=1250 => 1,
        _ => 0,
    }
}

/// How much later than usual an ACK may come, or a quarter of the usual time if that is
/// longer. Doubled with each ACK that was later, at most [`MOST_DOUBLINGS`] times.
const TOLERANCE: Duration = Duration::from_millis(4);
const MOST_DOUBLINGS: u8 = 5;

/// The doubled tolerance lets an ACK take at most this long.
const LONGEST: Duration = Duration::from_millis(1250);

/// Client networks told apart; some share a bucket, and with it a bound.
const NETWORKS: usize = 1024;

/// A token bucket for each network, which holds at most what may be sent in a second.
#[derive(Debug)]
pub struct UnprovedRate {
    per_second: i64,
    seed: u64,
    /// Where times are counted from.
    origin: Instant,
    /// Allocated with the first bytes sent; all are full until then.
    buckets: Vec<Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Bytes; below zero where more went out than there was.
    tokens: i64,
    /// When they were counted last.
    at: Instant,
}

/// What a session has shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Evidence {
    state: State,
    /// Earned by its ACKs right after a pause, less what late ones cost.
    bits: u8,
    /// How many of its ACKs were too late, up to [`MOST_DOUBLINGS`].
    late: u8,
    /// Bytes sent so far at the network's expense, to be given back once it is proved.
    sent: u32,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Open,
    /// Nothing is sent before `until`. An ACK may then take `within`, and is worth
    /// `bits`.
    Paused {
        until: Nanos,
        within: Micros,
        bits: u8,
    },
    /// The pause ended at `at`, when a block was sent.
    Resumed {
        at: Nanos,
        within: Micros,
        bits: u8,
    },
    Proved,
}

/// A point in time in half the bytes: nanoseconds after an origin, up to 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Nanos(u64);

impl Nanos {
    fn of(time: Instant, origin: Instant) -> Self {
        let since = time.saturating_duration_since(origin).as_nanos();
        Self(u64::try_from(since).unwrap_or(u64::MAX))
    }

    fn time(self, origin: Instant) -> Instant {
        origin + Duration::from_nanos(self.0)
    }
}

impl UnprovedRate {
    /// A limit of `per_second` bytes. No stranger knows the `seed`, so none can choose
    /// whose bucket to share.
    pub fn new(per_second: NonZeroU64, seed: u64, now: Instant) -> Self {
        let per_second = i64::try_from(per_second.get()).unwrap_or(i64::MAX);
        let per_second = per_second.min(i64::MAX / 4);
        Self {
            per_second,
            seed,
            origin: now,
            buckets: Vec::new(),
        }
    }

    /// Whether `evidence` has shown that its client is there.
    pub(super) const fn is_proved(evidence: &Evidence) -> bool {
        matches!(evidence.state, State::Proved)
    }

    /// Whether a session may send to `client`; `evidence` is `None` while there is
    /// none.
    pub(super) fn may_send(
        &self,
        evidence: Option<&Evidence>,
        client: IpAddr,
        now: Instant,
    ) -> bool {
        let evidence = evidence.copied().unwrap_or_default();
        match evidence.state {
            State::Proved => true,
            State::Paused { until, .. } if self.nanos(now) < until => false,
            _ => self.tokens(client, now) > self.least(&evidence),
        }
    }

    /// The level down to which a session may draw tokens. Half of them are kept for
    /// sessions that come out of a pause: what is spent without a pause proves nobody.
    /// A session that has earned bits may draw more than one that hasn't.
    fn least(&self, evidence: &Evidence) -> i64 {
        match evidence.state {
            State::Paused { bits, .. } | State::Resumed { bits, .. } => {
                self.least_behind_a_pause(evidence, bits)
            }
            State::Open | State::Proved => self.per_second / 2,
        }
    }

    /// The same after a pause that is worth `bits`. A pause worth none proves nobody
    /// either.
    fn least_behind_a_pause(&self, evidence: &Evidence, bits: u8) -> i64 {
        match bits {
            0 => self.per_second / 2,
            _ => -(self.per_second / i64::from(PROOF_BITS)) * i64::from(evidence.bits),
        }
    }

    fn tokens(&self, client: IpAddr, now: Instant) -> i64 {
        let bucket = self.buckets.get(self.bucket_of(client)).copied();
        let Bucket { tokens, at } = bucket.unwrap_or(self.full());
        let passed = now.saturating_duration_since(at).as_micros();
        let gained = i64::try_from(passed)
            .ok()
            .and_then(|passed| passed.checked_mul(self.per_second))
            .map_or(i64::MAX / 2, |gained| gained / 1_000_000);
        tokens.saturating_add(gained).min(self.per_second)
    }

    fn add(&mut self, client: IpAddr, bytes: i64, now: Instant) {
        let tokens = self.tokens(client, now).saturating_add(bytes);
        let tokens = tokens.min(self.per_second);
        if self.buckets.is_empty() {
            self.buckets = vec![self.full(); NETWORKS];
        }
        let index = self.bucket_of(client);
        self.buckets[index] = Bucket { tokens, at: now };
    }

    const fn full(&self) -> Bucket {
        Bucket {
            tokens: self.per_second,
            at: self.origin,
        }
    }

    fn nanos(&self, time: Instant) -> Nanos {
        Nanos::of(time, self.origin)
    }

    fn bucket_of(&self, client: IpAddr) -> usize {
        place(self.seed, network(client), NETWORKS)
    }

    /// Pauses a session that may not send, and returns until when. `answer_time` is how
    /// long the answer to what it sends next takes; `random` is any number that nobody
    /// can guess.
    pub(super) fn pause(
        &self,
        evidence: &mut Evidence,
        client: IpAddr,
        answer_time: Duration,
        random: u32,
        now: Instant,
    ) -> Instant {
        if let State::Paused { until, .. } = evidence.state
            && self.nanos(now) < until
        {
            return until.time(self.origin);
        }
        let tolerance = TOLERANCE.max(answer_time / 4);
        let latest = (answer_time + tolerance * (1 << evidence.late)).min(LONGEST);
        let within = latest.max(answer_time + tolerance);
        let bits = pause_bits(within);
        let within = if bits > 0 { within } else { Duration::ZERO };
        let least = self.least_behind_a_pause(evidence, bits);
        let missing = least.saturating_sub(self.tokens(client, now)) + 1;
        let wait = missing.max(0).saturating_mul(1_000_000) / self.per_second;
        let wait = Duration::from_micros(wait.unsigned_abs());
        // The part `random` / 2^32 of the range.
        let range = (within * (1 << bits)).as_nanos() as u64;
        let drawn = ((u128::from(range) * u128::from(random)) >> 32) as u64;
        let until = now + wait + Duration::from_nanos(drawn) + Duration::from_micros(1);
        evidence.state = State::Paused {
            until: self.nanos(until),
            within: within.into(),
            bits,
        };
        until
    }

    /// Notes that `bytes` have just been sent.
    pub(super) fn sent(
        &mut self,
        evidence: &mut Evidence,
        client: IpAddr,
        bytes: usize,
        now: Instant,
    ) {
        match evidence.state {
            State::Proved => return,
            State::Paused { within, bits, .. } => {
                let at = self.nanos(now);
                evidence.state = State::Resumed { at, within, bits };
            }
            // What is sent again proves nothing: a forger can ask for it at any time
            // with a NACK.
            State::Open | State::Resumed { .. } => {}
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        evidence.sent = evidence.sent.saturating_add(bytes);
        self.add(client, -i64::from(bytes), now);
    }

    /// Notes that a block was acknowledged for the first time.
    pub(super) fn answered(&mut self, evidence: &mut Evidence, client: IpAddr, now: Instant) {
        match evidence.state {
            State::Proved | State::Open => {}
            // The ACK is for a block that went out before the pause.
            State::Paused { .. } => evidence.bits = 0,
            State::Resumed { at, within, bits } => {
                let at = at.time(self.origin);
                if now.saturating_duration_since(at) <= Duration::from(within) {
                    evidence.bits += bits;
                } else {
                    evidence.bits = evidence.bits.saturating_sub(MISS_BITS);
                    evidence.late = MOST_DOUBLINGS.min(evidence.late + 1);
                }
                evidence.state = State::Open;
                if evidence.bits >= PROOF_BITS {
                    evidence.state = State::Proved;
                    self.add(client, evidence.sent.into(), now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;
    use crate::host::clock;
    use crate::host::random::Random;

    const RATE: u64 = 1 << 20;
    const BLOCK: usize = 1432;
    /// A window of large blocks.
    const WINDOW: usize = 64 * 4096;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn client() -> IpAddr {
        [192, 0, 2, 1].into()
    }

    /// What one session with round trips of a millisecond sends.
    fn run(
        bytes: usize,
        seconds: u64,
        answer: impl FnMut(Instant, Instant) -> Option<Instant>,
    ) -> (u64, bool) {
        run_over(ms(1), bytes, seconds, answer)
    }

    /// What one session sends within `seconds`, `bytes` at a time. `answer` is given
    /// when they were asked for and when they left, and returns when they are
    /// acknowledged.
    fn run_over(
        round_trip: Duration,
        bytes: usize,
        seconds: u64,
        mut answer: impl FnMut(Instant, Instant) -> Option<Instant>,
    ) -> (u64, bool) {
        let start = clock::now();
        let mut rate = UnprovedRate::new(NonZeroU64::new(RATE).unwrap(), 7, start);
        let (mut evidence, mut random) = (Evidence::default(), Random::default());
        let (mut now, mut sent) = (start, 0);
        while now < start + Duration::from_secs(seconds) {
            let asked = now;
            while !rate.may_send(Some(&evidence), client(), now) {
                let drawn = random.number();
                now = rate.pause(&mut evidence, client(), round_trip, drawn, now);
            }
            rate.sent(&mut evidence, client(), bytes, now);
            sent += bytes as u64;
            let Some(answered) = answer(asked, now) else {
                break;
            };
            now = answered;
            rate.answered(&mut evidence, client(), now);
        }
        (sent, matches!(evidence.state, State::Proved))
    }

    #[test]
    fn a_client_that_answers_right_behind_the_pauses_is_bounded_no_longer() {
        let (sent, is_proved) = run(BLOCK, 10, |_, left| Some(left + ms(1)));
        assert!(is_proved);
        // A block each millisecond, but for five pauses of at most 80 ms.
        assert!(sent > 9_500 * BLOCK as u64, "{sent}");
    }

    /// Where round trips are long, pauses are worth fewer bits and more are needed; the
    /// longest are satellite paths.
    #[test]
    fn a_client_on_a_slow_path_is_proved_too() {
        for (round_trip, most) in [(90, 20), (101, 20), (400, 40), (600, 120), (1000, 120)] {
            let answer = |_, left| Some(left + ms(round_trip));
            let window = 8 * WINDOW;
            let (sent, is_proved) = run_over(ms(round_trip), window, most, answer);
            assert!(is_proved, "{round_trip}: {sent}");
        }
        let answer = |_, left| Some(left + ms(1001));
        let (sent, is_proved) = run_over(ms(1001), WINDOW, 1000, answer);
        assert!(!is_proved && sent < 1002 * RATE, "{sent}");
    }

    /// The best that a forger can do is to answer when the longest pause is over.
    #[test]
    fn a_forger_that_pretends_a_slow_path_gains_nothing() {
        for (round_trip, range) in [(100, 16), (300, 4), (900, 2)] {
            let longest = range * (round_trip + round_trip / 4);
            let answer = |asked, left| forged(asked + ms(longest), left);
            let (sent, is_proved) = run_over(ms(round_trip), WINDOW, 1000, answer);
            assert!(!is_proved && sent < 1002 * RATE, "{round_trip}: {sent}");
        }
    }

    /// An ACK that comes before its block was sent ends the transfer.
    fn forged(answered: Instant, left: Instant) -> Option<Instant> {
        (answered > left).then_some(answered)
    }

    #[test]
    fn reflection_by_a_forger_that_answers_late_stays_within_the_rate() {
        // It knows all but how long the pauses are, and answers after the longest.
        for late in [85, 170, 240, 255, 340] {
            let answer = |asked, left| forged(asked + ms(late), left);
            let (sent, is_proved) = run(WINDOW, 100, answer);
            assert!(!is_proved, "{late}");
            assert!(sent < 102 * RATE, "{late}: {sent}");
        }
    }

    /// A server whose ports prove its peers needs no memory for them.
    #[test]
    fn the_buckets_are_made_for_the_first_that_is_sent_something() {
        let now = clock::now();
        let mut rate = UnprovedRate::new(NonZeroU64::new(1000).unwrap(), 7, now);
        assert!(rate.may_send(None, client(), now));
        assert_eq!(rate.buckets.capacity(), 0);
        rate.sent(&mut Evidence::default(), client(), 400, now);
        assert_eq!(rate.buckets.len(), NETWORKS);
        // The others are as full as they were.
        assert_eq!(
            rate.buckets.iter().map(|it| it.tokens).sum::<i64>(),
            1000 * 1024 - 400
        );
    }

    /// With a NACK in the client's name a forger has the block sent again when it
    /// likes, if the block has left by then: right before its ACK.
    #[test]
    fn a_forger_that_has_the_block_sent_again_gains_nothing() {
        let start = clock::now();
        let mut random = Random::default();
        for late in (5..90).step_by(5) {
            for _ in 0..100 {
                let mut rate = UnprovedRate::new(NonZeroU64::new(1).unwrap(), 7, start);
                let (mut evidence, mut now) = (Evidence::default(), start);
                rate.sent(&mut evidence, client(), 1, start);
                for _ in 0..1000 {
                    let drawn = random.number();
                    let until = rate.pause(&mut evidence, client(), ms(1), drawn, now);
                    // As if nobody else had been sent anything.
                    rate.buckets.fill(Bucket {
                        tokens: 1,
                        at: until,
                    });
                    rate.sent(&mut evidence, client(), 0, until);
                    now = (now + ms(late)).max(until);
                    rate.sent(&mut evidence, client(), 0, now);
                    if now == until {
                        break;
                    }
                    rate.answered(&mut evidence, client(), now);
                    assert!(!UnprovedRate::is_proved(&evidence), "{late}");
                }
            }
        }
    }

    #[test]
    fn a_forger_that_answers_at_random_is_found_out() {
        let mut random = Random::default();
        for _ in 0..100 {
            let mut after = || Duration::from_micros(u64::from(random.number() % 80_000));
            let answer = |asked, left| forged(asked + after(), left);
            let (sent, is_proved) = run(WINDOW, 100, answer);
            assert!(!is_proved && sent < 5 * RATE, "{sent}");
        }
    }

    /// A crowd of `count` clients in one network, which ask at once for a file of
    /// `blocks` blocks. Each acknowledges after one to two `round_trip`s, one time in
    /// four up to 40 ms later. Returns the longest time that a client waited for a
    /// block, and when the last one was served.
    fn crowd(count: usize, blocks: u32, round_trip: Duration) -> (Duration, Duration) {
        let start = clock::now();
        let mut rate = UnprovedRate::new(NonZeroU64::new(RATE).unwrap(), 7, start);
        let mut random = Random::default();
        let mut shown = vec![Evidence::default(); count];
        let mut left = vec![blocks; count];
        let mut asked = vec![start; count];
        // When a client's session has a turn, and whether an ACK has come by then.
        let mut turns: BinaryHeap<_> = (0..count).map(|it| Reverse((start, it, false))).collect();
        let (mut longest, mut end) = (Duration::ZERO, start);
        while let Some(Reverse((now, client_index, is_acknowledged))) = turns.pop() {
            let evidence = &mut shown[client_index];
            if is_acknowledged {
                rate.answered(evidence, client(), now);
                asked[client_index] = now;
                left[client_index] -= 1;
                if left[client_index] == 0 {
                    end = now;
                    continue;
                }
            }
            if rate.may_send(Some(evidence), client(), now) {
                rate.sent(evidence, client(), BLOCK, now);
                longest = longest.max(now - asked[client_index]);
                let late = if random.number().is_multiple_of(4) {
                    40_000
                } else {
                    1
                };
                let late = Duration::from_micros(u64::from(random.number() % late));
                let within = round_trip + round_trip * (random.number() % 100) / 100 + late;
                turns.push(Reverse((now + within, client_index, true)));
            } else {
                let number = random.number();
                let until = rate.pause(evidence, client(), round_trip, number, now);
                turns.push(Reverse((until, client_index, false)));
            }
        }
        (longest, end - start)
    }

    /// Rooms full of machines that are switched on at once, also where both ends are busy.
    #[test]
    fn a_crowd_of_one_network_is_proved_without_starvation() {
        for round_trip in [1, 20, 80] {
            let (longest, end) = crowd(400, 700, ms(round_trip));
            assert!(longest < ms(8000), "{round_trip}: {longest:?}, {end:?}");
            // At the rate alone it would take 400 s.
            assert!(end < ms(120_000), "{round_trip}: {longest:?}, {end:?}");
        }
    }

    #[test]
    fn nothing_is_proved_by_a_block_from_before_the_pause() {
        let now = clock::now();
        let mut rate = UnprovedRate::new(NonZeroU64::new(RATE).unwrap(), 7, now);
        let mut evidence = Evidence::default();
        rate.sent(&mut evidence, client(), 2 * RATE as usize, now);
        for _ in 0..10 {
            rate.pause(&mut evidence, client(), ms(1), 1 << 31, now);
            rate.answered(&mut evidence, client(), now);
        }
        assert_eq!(evidence.bits, 0);
        assert!(!rate.may_send(Some(&evidence), client(), now));
        // The budget is spent for the whole network, and for no other.
        let [near, far] = [[192, 0, 2, 200], [198, 51, 100, 1]].map(IpAddr::from);
        assert!(!rate.may_send(None, near, now) && rate.may_send(None, far, now));
        assert!(rate.may_send(None, near, now + ms(1600)));
    }
}
