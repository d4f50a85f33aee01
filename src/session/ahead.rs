//! Reading ahead: the next run of blocks is read while the ACK of this one is on
//! its way.
//!
//! The buffers belong to a small pool and are held by transfers that are moving;
//! one that stalls gives its buffer back soon, and one that finds none reads when
//! it sends. May not: send, or change what is sent.

use std::time::{Duration, Instant};

use crate::content::FileSource;
use crate::protocol::transfer::{BlockSource, Filled, Run};
use crate::socket::MAX_SEND;

/// Buffers there are at most: what a transfer gains by one is worth it only
/// while few of them share the processor. Their memory is [`MAX_SEND`] each.
const MAX_BUFFERS: usize = 8;

/// A transfer that hasn't moved for so long gives its buffer back.
const HOLD: Duration = Duration::from_millis(50);

/// Shorter runs, in bytes, are as quickly read as remembered.
const WORTHWHILE: usize = 8 * 1024;

/// A buffer with a run of blocks in it, ready to be sent.
#[derive(Debug)]
pub struct Ahead {
    buffer: Box<[u8]>,
    run: Run,
    filled: Filled,
    until: Instant,
}

impl Ahead {
    /// When it is to be given back.
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// The blocks, if they are what `run` asks for, or the front of it.
    pub fn get(&self, run: &Run) -> Option<(&[u8], Filled)> {
        let fits = self.run.first == run.first
            && self.run.block_size == run.block_size
            && self.filled.blocks <= run.count;
        fits.then(|| (&self.buffer[..self.filled.bytes], self.filled))
    }
}

/// The buffers that no transfer holds.
#[derive(Debug, Default)]
pub struct Pool {
    #[expect(clippy::vec_box, reason = "they change hands without being made anew")]
    free: Vec<Box<Ahead>>,
    made: usize,
}

impl Pool {
    /// Reads `run` into a buffer of the pool, if that is worthwhile, one is free
    /// and the file is ready. An error is left for the read that matters.
    pub fn read(&mut self, now: Instant, source: &mut FileSource, run: Run) -> Option<Box<Ahead>> {
        if run.segment_size() * usize::from(run.count) < WORTHWHILE {
            return None;
        }
        let mut ahead = self.take(now, run)?;
        let Ok(Some(filled)) = source.read_run(run, &mut ahead.buffer) else {
            self.free.push(ahead);
            return None;
        };
        ahead.filled = filled;
        Some(ahead)
    }

    /// Takes the buffer back.
    pub fn give_back(&mut self, ahead: Box<Ahead>) {
        self.free.push(ahead);
    }

    fn take(&mut self, now: Instant, run: Run) -> Option<Box<Ahead>> {
        let until = now + HOLD;
        if let Some(mut ahead) = self.free.pop() {
            ahead.run = run;
            ahead.until = until;
            return Some(ahead);
        }
        if self.made == MAX_BUFFERS {
            return None;
        }
        self.made += 1;
        Some(Box::new(Ahead {
            buffer: vec![0; MAX_SEND].into_boxed_slice(),
            run,
            filled: Filled {
                blocks: 0,
                bytes: 0,
                end: false,
            },
            until,
        }))
    }
}
