//! A bound on debug lines that aren't events: about dropped datagrams and failed calls.
//! Anyone can cause as many of them as they like.
//!
//! Lines left out are counted, and the next line tells how many. Must not: hold back an
//! event, or a packet that is traced.

use std::sync::{Mutex, PoisonError};

use log::kv::Key;
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::event::{Event, KIND};
use crate::host::clock;
use crate::table::rate::RateLimit;

/// Debug lines a second.
const LINES: u32 = 500;

/// A logger that leaves out debug lines beyond their bound.
pub(super) struct Bounded<L> {
    logger: L,
    state: Mutex<State>,
}

struct State {
    lines: RateLimit,
    left_out: u64,
}

impl<L: Log> Bounded<L> {
    pub(super) fn new(logger: L) -> Self {
        let state = State {
            lines: RateLimit::new(LINES, clock::now()),
            left_out: 0,
        };
        Self {
            logger,
            state: Mutex::new(state),
        }
    }

    /// Whether there may be one more line, and how many were left out before it.
    fn admit(&self) -> (bool, u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lines.take(clock::now()) {
            return (true, std::mem::take(&mut state.left_out));
        }
        state.left_out += 1;
        (false, 0)
    }
}

impl<L: Log> Log for Bounded<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let is_event = || record.key_values().get(Key::from_str(KIND)).is_some();
        if record.level() == Level::Debug && !is_event() {
            let (is_admitted, lines) = self.admit();
            if lines > 0 {
                Event::LeftOut { of: "debug", lines }.write_to(&self.logger);
            }
            if !is_admitted {
                return;
            }
        }
        self.logger.log(record);
    }

    fn flush(&self) {
        self.logger.flush();
    }
}

/// Wraps `logger` if it writes debug lines at all.
pub(super) fn bounded(level: LevelFilter, logger: impl Log + 'static) -> Box<dyn Log> {
    if level >= LevelFilter::Debug {
        Box::new(Bounded::new(logger))
    } else {
        Box::new(logger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counting([AtomicUsize; 2]);

    impl Log for &Counting {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            let is_debug = usize::from(record.level() == Level::Debug);
            self.0[is_debug].fetch_add(1, Ordering::Relaxed);
        }

        fn flush(&self) {}
    }

    #[test]
    fn debug_lines_are_bounded_and_others_are_not() {
        let counting = Counting::default();
        let logger = Bounded::new(&counting);
        for level in [Level::Debug, Level::Trace] {
            let record = |number: u32| {
                let mut record = Record::builder();
                record.level(level);
                logger.log(&record.args(format_args!("{number}")).build());
            };
            (0..20 * LINES).for_each(record);
        }
        let [others, debug] = counting.0.map(AtomicUsize::into_inner);
        // Enough for the few seconds that a slow machine takes.
        assert!(
            (LINES as usize..10 * LINES as usize).contains(&debug),
            "{debug}"
        );
        assert!(others >= 20 * LINES as usize, "{others}");
    }
}
