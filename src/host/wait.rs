//! Waiting for events, or for a time, whichever comes first. Must not: read a clock.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use mio::{Events, Poll};
use nix::poll::{PollFd, PollFlags, ppoll};

/// The poll rounds what it waits up to milliseconds: longer times than this are long
/// enough for that.
const COARSE: Duration = Duration::from_millis(5);

/// Waits for events, or for `timeout`; a long one is rounded up to a millisecond. Short
/// ones are kept as they are: the pause between two bursts is a round trip.
///
/// # Errors
/// When a signal interrupts it, or the kernel refuses.
pub fn for_events(
    poll: &mut Poll,
    events: &mut Events,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let Some(short) = timeout.filter(|&it| it > Duration::ZERO && it < COARSE) else {
        return poll.poll(events, timeout);
    };
    events.clear();
    let mut polled = [PollFd::new(poll.registry().as_fd(), PollFlags::POLLIN)];
    if ppoll(&mut polled, Some(short.into()), None)? == 0 {
        return Ok(());
    }
    poll.poll(events, Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mio::{Token, Waker};

    use super::*;
    use crate::host::clock;

    fn waits(poll: &mut Poll, events: &mut Events, timeout: Duration) -> Duration {
        let began: Instant = clock::now();
        for_events(poll, events, Some(timeout)).unwrap();
        clock::now() - began
    }

    #[test]
    fn less_than_a_millisecond_is_not_rounded_up() {
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(1);
        let timeout = Duration::from_micros(100);
        let shortest = (0..50)
            .map(|_| waits(&mut poll, &mut events, timeout))
            .min();
        assert!(shortest >= Some(timeout), "{shortest:?}");
        assert!(shortest < Some(Duration::from_millis(1)), "{shortest:?}");
    }

    #[test]
    fn an_event_ends_a_short_wait_and_an_old_one_is_not_told_again() {
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(1);
        let waker = Waker::new(poll.registry(), Token(7)).unwrap();
        waker.wake().unwrap();
        let short = Some(Duration::from_micros(900));
        for_events(&mut poll, &mut events, short).unwrap();
        let tokens: Vec<_> = events.iter().map(mio::event::Event::token).collect();
        assert_eq!(tokens, [Token(7)]);
        for_events(&mut poll, &mut events, short).unwrap();
        assert!(events.is_empty());
    }
}
