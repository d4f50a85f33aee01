//! Waiting for events, or until a deadline, whichever comes first. Must not: read a
//! clock.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A timer among the descriptors that a poll watches.
///
/// The poll's own timeout is in whole milliseconds, and the kernel sets a timer for it
/// with each wait. This one is exact to the nanosecond, and stays set while deadlines
/// only move later: in lockstep no wait sets it.
#[derive(Debug)]
pub struct WaitTimer {
    descriptor: TimerFd,
    token: Token,
    /// When it ends a wait; `None`: it isn't set.
    set_to: Option<Instant>,
}

impl WaitTimer {
    /// A timer that isn't set. It ends waits of the registry's poll with an event of
    /// `token`, which must have no other use.
    ///
    /// # Errors
    /// No descriptor is left for it, or the poll can't watch any more sources.
    pub fn register(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let descriptor = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let raw = descriptor.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&raw), token, Interest::READABLE)?;
        Ok(Self {
            descriptor,
            token,
            set_to: None,
        })
    }

    /// Looks for events without waiting. The poll must not be called directly between
    /// two waits: that may take this timer's event, and a later wait with an older
    /// `now` would take the timer for set and never end.
    ///
    /// # Errors
    /// As [`WaitTimer::wait`].
    pub fn look(&mut self, poll: &mut Poll, events: &mut Events) -> io::Result<()> {
        self.poll(poll, events, Some(Duration::ZERO))
    }

    /// Forgets what the timer was set to once it has fired.
    fn poll(
        &mut self,
        poll: &mut Poll,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        poll.poll(events, timeout)?;
        if events.iter().any(|event| event.token() == self.token) {
            self.set_to = None;
        }
        Ok(())
    }

    /// Waits for events, but not past `deadline`; without one for as long as it takes.
    /// It may end early, at a deadline given before. `now` is the current time.
    ///
    /// # Errors
    /// When a signal interrupts it, or the kernel refuses.
    pub fn wait(
        &mut self,
        poll: &mut Poll,
        events: &mut Events,
        now: Instant,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let Some(deadline) = deadline else {
            return self.poll(poll, events, None);
        };
        if deadline <= now {
            return self.look(poll, events);
        }
        let is_set = self.set_to.is_some_and(|it| now < it && it <= deadline);
        if !is_set {
            let span = TimeSpec::from_duration(deadline - now);
            let flags = TimerSetTimeFlags::empty();
            self.descriptor.set(Expiration::OneShot(span), flags)?;
            self.set_to = Some(deadline);
        }
        self.poll(poll, events, None)
    }
}

#[cfg(test)]
mod tests {
    use mio::Waker;

    use super::*;
    use crate::host::clock;

    const TIMER: Token = Token(0);
    const WAKER: Token = Token(1);
    const LONG: Duration = Duration::from_secs(100);

    struct Loop {
        poll: Poll,
        events: Events,
        timer: WaitTimer,
        waker: Waker,
    }

    impl Loop {
        fn new() -> Self {
            let poll = Poll::new().unwrap();
            Self {
                events: Events::with_capacity(2),
                timer: WaitTimer::register(poll.registry(), TIMER).unwrap(),
                waker: Waker::new(poll.registry(), WAKER).unwrap(),
                poll,
            }
        }

        /// What ended a wait from `now` until `deadline`.
        fn wait(&mut self, now: Instant, deadline: Option<Instant>) -> Vec<Token> {
            let (poll, events) = (&mut self.poll, &mut self.events);
            self.timer.wait(poll, events, now, deadline).unwrap();
            self.events.iter().map(mio::event::Event::token).collect()
        }

        /// What the kernel's timer was set to.
        fn span(&self) -> Duration {
            match self.timer.descriptor.get().unwrap().unwrap() {
                Expiration::OneShot(span) => span.into(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// A loop that looks for events for 50 µs before it waits may take much longer on a
    /// busy machine.
    #[test]
    fn a_timer_whose_event_was_taken_by_a_look_is_set_again() {
        let mut own = Loop::new();
        let now = clock::now();
        own.waker.wake().unwrap();
        own.wait(now, Some(now + Duration::from_millis(50)));
        while !own.events.iter().any(|it| it.token() == TIMER) {
            own.timer.look(&mut own.poll, &mut own.events).unwrap();
        }
        // As if no time had passed.
        own.waker.wake().unwrap();
        assert_eq!(own.wait(now, Some(now + LONG)), [WAKER]);
        assert!(own.span() > LONG / 2);
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_not_before() {
        let mut own = Loop::new();
        for span in [1, 100, 1000].map(Duration::from_micros) {
            let now = clock::now();
            assert_eq!(own.wait(now, Some(now + span)), [TIMER]);
            assert!(clock::now() - now >= span);
        }
    }

    #[test]
    fn a_wait_is_not_rounded_to_milliseconds() {
        let mut own = Loop::new();
        own.waker.wake().unwrap();
        let now = clock::now();
        let span = LONG + Duration::from_micros(100);
        assert_eq!(own.wait(now, Some(now + span)), [WAKER]);
        let left = own.span();
        assert!(left <= span, "{left:?}");
        let set = own.timer.set_to.unwrap() - now;
        assert_eq!(set, span);
    }

    #[test]
    fn a_deadline_that_moves_away_sets_no_timer() {
        let mut own = Loop::new();
        let now = clock::now();
        for later in 0..3 {
            own.waker.wake().unwrap();
            let deadline = now + LONG * (1 + later);
            assert_eq!(own.wait(now, Some(deadline)), [WAKER]);
            assert_eq!(own.timer.set_to, Some(now + LONG));
        }
    }

    #[test]
    fn an_earlier_deadline_ends_a_wait_and_one_that_has_passed_does_at_once() {
        let mut own = Loop::new();
        own.waker.wake().unwrap();
        let now = clock::now();
        assert_eq!(own.wait(now, Some(now + LONG)), [WAKER]);
        let soon = now + Duration::from_millis(2);
        assert_eq!(own.wait(now, Some(soon)), [TIMER]);
        assert_eq!(own.wait(soon, Some(soon)), [], "an old event came again");
    }

    #[test]
    fn a_deadline_that_was_there_before_ends_the_next_wait_once() {
        let mut own = Loop::new();
        own.waker.wake().unwrap();
        let now = clock::now();
        let first = now + Duration::from_millis(50);
        let ended = own.wait(now, Some(first));
        assert!(ended.contains(&WAKER), "{ended:?}");
        if !ended.contains(&TIMER) {
            assert_eq!(own.wait(now, None), [TIMER]);
        }
        let second = first + Duration::from_millis(2);
        assert_eq!(own.wait(first, Some(second)), [TIMER]);
    }
}
