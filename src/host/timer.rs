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
/// The poll's own timeout is in whole milliseconds, and the kernel sets a timer for it at
/// each wait. This one is to the nanosecond, and stays set while deadlines only move
/// away: in lockstep no wait sets one.
#[derive(Debug)]
pub struct Timer {
    descriptor: TimerFd,
    /// When it ends a wait, or has ended one; `None`: it was never set.
    set_to: Option<Instant>,
}

impl Timer {
    /// A timer that isn't set. It ends waits of the registry's poll by an event of
    /// `token`, which means nothing else.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn register(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let descriptor = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let raw = descriptor.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&raw), token, Interest::READABLE)?;
        Ok(Self {
            descriptor,
            set_to: None,
        })
    }

    /// Waits for events, but not past `deadline`; without one for as long as it takes. It
    /// may be ended too early: by a deadline that was there before. `now` is what time
    /// it is.
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
            return poll.poll(events, None);
        };
        if deadline <= now {
            return poll.poll(events, Some(Duration::ZERO));
        }
        let is_set = self.set_to.is_some_and(|it| now < it && it <= deadline);
        if !is_set {
            let span = TimeSpec::from_duration(deadline - now);
            let flags = TimerSetTimeFlags::empty();
            self.descriptor.set(Expiration::OneShot(span), flags)?;
            self.set_to = Some(deadline);
        }
        poll.poll(events, None)
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
        timer: Timer,
        waker: Waker,
    }

    impl Loop {
        fn new() -> Self {
            let poll = Poll::new().unwrap();
            Self {
                events: Events::with_capacity(2),
                timer: Timer::register(poll.registry(), TIMER).unwrap(),
                waker: Waker::new(poll.registry(), WAKER).unwrap(),
                poll,
            }
        }

        /// What ended a wait until `deadline`.
        fn wait(&mut self, deadline: Option<Instant>) -> Vec<Token> {
            let (poll, events) = (&mut self.poll, &mut self.events);
            let done = self.timer.wait(poll, events, clock::now(), deadline);
            done.unwrap();
            self.events.iter().map(mio::event::Event::token).collect()
        }
    }

    #[test]
    fn a_wait_of_less_than_a_millisecond_is_not_rounded_up() {
        let mut own = Loop::new();
        let span = Duration::from_micros(100);
        let waits = [(); 50].map(|()| {
            let began = clock::now();
            assert_eq!(own.wait(Some(began + span)), [TIMER]);
            clock::now() - began
        });
        let shortest = waits.iter().min().unwrap();
        assert!(*shortest >= span, "{shortest:?}");
        assert!(*shortest < Duration::from_millis(1), "{shortest:?}");
    }

    #[test]
    fn a_deadline_that_moves_away_sets_no_timer() {
        let mut own = Loop::new();
        let first = clock::now() + LONG;
        for later in 0..3 {
            own.waker.wake().unwrap();
            assert_eq!(own.wait(Some(first + LONG * later)), [WAKER]);
            assert_eq!(own.timer.set_to, Some(first));
        }
    }

    #[test]
    fn an_earlier_deadline_ends_a_wait_and_one_that_has_passed_does_at_once() {
        let mut own = Loop::new();
        own.waker.wake().unwrap();
        assert_eq!(own.wait(Some(clock::now() + LONG)), [WAKER]);
        let soon = clock::now() + Duration::from_millis(2);
        assert_eq!(own.wait(Some(soon)), [TIMER]);
        assert!(clock::now() >= soon);
        assert_eq!(own.wait(Some(soon)), [], "an old event is told again");
    }

    #[test]
    fn a_deadline_that_was_there_before_ends_the_next_wait_once() {
        let mut own = Loop::new();
        own.waker.wake().unwrap();
        let first = clock::now() + Duration::from_millis(2);
        assert_eq!(own.wait(Some(first)), [WAKER]);
        assert_eq!(own.wait(None), [TIMER]);
        let second = clock::now() + Duration::from_millis(2);
        assert_eq!(own.wait(Some(second)), [TIMER]);
        assert!(clock::now() >= second);
    }
}
