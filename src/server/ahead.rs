//! Reading ahead: the next run of blocks is read while the ACK of this one is on
//! its way.
//!
//! The buffers belong to a small pool and are held by transfers that are moving;
//! one that stalls gives its buffer back, and one that finds none reads when it
//! sends. May not: send, or change what is sent.

use crate::content::FileSource;
use crate::protocol::transfer::{BlockSource, Filled, Run};
use crate::socket::MAX_SEND;

/// Buffers there are at most: what a transfer gains by one is worth it only
/// while few of them share the processor. Their memory is [`MAX_SEND`] each.
const MAX_BUFFERS: usize = 32;

/// Shorter runs, in bytes, are as quickly read as remembered.
const WORTHWHILE: usize = 8 * 1024;

/// A buffer with a run of blocks in it, ready to be sent.
#[derive(Debug)]
pub(super) struct Ahead {
    buffer: Box<[u8]>,
    run: Run,
    filled: Filled,
}

impl Ahead {
    /// The blocks, if they are what `run` asks for, or the front of it.
    pub(super) fn get(&self, run: &Run) -> Option<(&[u8], Filled)> {
        let fits = self.run.first == run.first
            && self.run.block_size == run.block_size
            && self.filled.blocks <= run.count;
        fits.then(|| (&self.buffer[..self.filled.bytes], self.filled))
    }
}

/// The buffers that no transfer holds.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Vec<Box<[u8]>>,
    made: usize,
}

impl Pool {
    /// Reads `run` into a buffer of the pool, if that is worthwhile, one is free
    /// and the file is ready. An error is left for the read that matters.
    pub(super) fn read(&mut self, source: &mut FileSource, run: Run) -> Option<Ahead> {
        if run.segment_size() * usize::from(run.count) < WORTHWHILE {
            return None;
        }
        let mut buffer = self.take()?;
        if let Ok(Some(filled)) = source.read_run(run, &mut buffer) {
            Some(Ahead {
                buffer,
                run,
                filled,
            })
        } else {
            self.free.push(buffer);
            None
        }
    }

    /// Takes the buffer back.
    pub(super) fn give_back(&mut self, ahead: Ahead) {
        self.free.push(ahead.buffer);
    }

    fn take(&mut self) -> Option<Box<[u8]>> {
        self.free.pop().or_else(|| {
            (self.made < MAX_BUFFERS).then(|| {
                self.made += 1;
                vec![0; MAX_SEND].into_boxed_slice()
            })
        })
    }
}
