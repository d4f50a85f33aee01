//! Reading ahead: what comes next is read while the ACK of this is on its way.
//!
//! Of large windows that is one; of small ones, and of single blocks, as many as
//! a page or two hold, since the call costs more than what it brings.
//!
//! The buffers belong to a small pool and are held by transfers that are moving;
//! one that stalls gives its buffer back soon. A transfer that gets no buffer, has
//! just started, or is too slow to be worth one reads its blocks as it sends them.
//! Must not: send, or change what is sent.

use std::time::{Duration, Instant};

use crate::file::{FileSource, MAX_RUN, ReadAt};
use crate::net::MAX_SEND;
use crate::protocol::transfer::{BlockSource, Filled, Progress, Run};

/// A transfer that hasn't moved for so long gives its buffer back.
const HOLD: Duration = Duration::from_millis(50);

/// Bytes of several small windows that are read with one call.
const SHORT_LEN: usize = 8 * 1024;

/// Buffers for them there are at most: a megabyte of memory, kept once made.
const SHORT_COUNT: usize = 128;

/// Buffers for larger windows, of [`MAX_SEND`] bytes: what a transfer gains by
/// one is worth it only while few of them share the processor.
const LONG_COUNT: usize = 8;

/// Bytes that must have arrived before anything is read ahead: peers that stall at
/// the first block, by the thousand, cost no buffer.
const WARMED_UP: u64 = 16 * 1024;

/// Whether a transfer moves fast enough to use a buffer while it is held: it has
/// come so far, and what it acknowledged at `now` was sent at `asked`.
pub(super) fn is_worthwhile(progress: Progress, asked: Option<Instant>, now: Instant) -> bool {
    let arrived = progress.blocks.saturating_mul(progress.block_size.into());
    arrived >= WARMED_UP && asked.is_none_or(|asked| now.saturating_duration_since(asked) < HOLD)
}

/// A buffer with a run of blocks in it, ready to be sent.
#[derive(Debug)]
pub struct Prefetched {
    buffer: Box<[u8]>,
    run: Run,
    filled: Filled,
    until: Instant,
}

impl Prefetched {
    /// When it is to be given back.
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// How many of its blocks come before the first of `run`, if that is here.
    fn skipped(&self, run: &Run) -> Option<u64> {
        let skipped = run.first.0.checked_sub(self.run.first.0)?;
        let is_here = skipped < self.filled.blocks.into();
        (is_here && self.run.block_size == run.block_size).then_some(skipped)
    }

    /// What `run` asks for, or the front of it, if that is here.
    pub fn get(&self, run: &Run) -> Option<(&[u8], Filled)> {
        let skipped = self.skipped(run)?;
        let left = u64::from(self.filled.blocks) - skipped;
        let start = skipped as usize * run.segment_size();
        let (blocks, stop) = if left <= run.count.into() {
            (left as u16, self.filled.bytes)
        } else {
            let bytes = usize::from(run.count) * run.segment_size();
            (run.count, start + bytes)
        };
        let filled = Filled {
            blocks,
            bytes: stop - start,
            end: self.filled.end && u64::from(blocks) == left,
        };
        Some((self.buffer.get(start..stop)?, filled))
    }
}

/// Buffers of one length.
#[derive(Debug)]
struct Stock {
    #[expect(
        clippy::vec_box,
        reason = "they change hands without another allocation"
    )]
    free: Vec<Box<Prefetched>>,
    /// How many more may be made.
    unmade: usize,
    /// Bytes of each.
    len: usize,
}

impl Stock {
    const fn of(count: usize, len: usize) -> Self {
        Self {
            free: Vec::new(),
            unmade: count,
            len,
        }
    }

    fn take(&mut self, now: Instant, run: Run) -> Option<Box<Prefetched>> {
        let until = now + HOLD;
        if let Some(mut prefetched) = self.free.pop() {
            prefetched.run = run;
            prefetched.until = until;
            return Some(prefetched);
        }
        self.unmade = self.unmade.checked_sub(1)?;
        Some(Box::new(Prefetched {
            buffer: vec![0; self.len].into_boxed_slice(),
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

/// The buffers that no transfer holds.
#[derive(Debug)]
pub struct PrefetchPool {
    short: Stock,
    long: Stock,
}

impl Default for PrefetchPool {
    fn default() -> Self {
        Self {
            short: Stock::of(SHORT_COUNT, SHORT_LEN),
            long: Stock::of(LONG_COUNT, MAX_SEND),
        }
    }
}

impl PrefetchPool {
    /// Reads `window`, the blocks that will be sent next, and as many like it as
    /// a short buffer holds; `None` if that isn't worthwhile, no buffer is free or
    /// the file isn't ready. An error is left for the read that matters.
    pub fn read<R: ReadAt>(
        &mut self,
        now: Instant,
        source: &mut FileSource<R>,
        window: Run,
    ) -> Option<Box<Prefetched>> {
        let bytes = window.segment_size() * usize::from(window.count);
        let windows = (SHORT_LEN / bytes).min(MAX_RUN / usize::from(window.count));
        let (stock, count) = match (windows, &*source) {
            _ if bytes > SHORT_LEN => (&mut self.long, window.count),
            // Text is encoded again from the first block that may be asked for
            // again: the more is read ahead, the more is done twice.
            (0, _) | (_, FileSource::Netascii(_)) => return None,
            _ => (&mut self.short, window.count * windows as u16),
        };
        let run = Run { count, ..window };
        let mut prefetched = stock.take(now, run)?;
        let Ok(Some(filled)) = source.read_run(run, &mut prefetched.buffer) else {
            self.give_back(prefetched);
            return None;
        };
        prefetched.filled = filled;
        Some(prefetched)
    }

    /// The buffer after `sent` was offered, if what is sent `next` is in it as
    /// well; else it is given back. Where nothing moved it is held no longer.
    pub fn keep(
        &mut self,
        now: Instant,
        mut prefetched: Box<Prefetched>,
        sent: &Run,
        next: Option<Run>,
    ) -> Option<Box<Prefetched>> {
        let Some(next) = next.filter(|next| prefetched.skipped(next).is_some()) else {
            self.give_back(prefetched);
            return None;
        };
        if next.first > sent.first {
            prefetched.until = now + HOLD;
        }
        Some(prefetched)
    }

    /// Takes the buffer back.
    pub fn give_back(&mut self, prefetched: Box<Prefetched>) {
        let stock = if prefetched.buffer.len() == SHORT_LEN {
            &mut self.short
        } else {
            &mut self.long
        };
        stock.free.push(prefetched);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::file::{Policy, Root};
    use crate::host::clock;
    use crate::protocol::block::BlockIndex;
    use crate::wire::options::Rollover;
    use crate::wire::packet::Mode;

    const BLOCK: usize = 1000;

    fn source(size: usize, mode: Mode) -> (tempfile::TempDir, FileSource) {
        let home = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..size).map(|at| (at / BLOCK) as u8).collect();
        fs::write(home.path().join("file"), content).unwrap();
        let root = Root::open(home.path(), Policy::default()).unwrap();
        let file = root.open_read(b"file").unwrap();
        (home, FileSource::new(file, mode))
    }

    fn window(first: u64, count: u16) -> Run {
        Run {
            first: BlockIndex(first),
            count,
            block_size: BLOCK as u16,
            base: BlockIndex(first),
            rollover: Rollover::ToZero,
        }
    }

    #[test]
    fn small_windows_are_read_several_at_a_time() {
        // Block size, window in blocks, and what is read for it: whole windows.
        for (block_size, count, read) in [
            (1000, 1, Some(8)),
            (1000, 2, Some(8)),
            (1000, 3, Some(6)),
            (1000, 8, Some(8)),
            (1000, 9, Some(9)),
            (1000, 20, Some(20)),
            (8, 1, Some(64)),
            (8, 40, Some(40)),
            (8, 64, Some(64)),
            // More than one call reads, and so short.
            (8, 65, None),
        ] {
            let (_home, mut source) = source(100 * BLOCK, Mode::Octet);
            let mut pool = PrefetchPool::default();
            let window = Run {
                block_size,
                ..window(1, count)
            };
            let prefetched = pool.read(clock::now(), &mut source, window);
            let blocks = prefetched.map(|prefetched| prefetched.filled.blocks);
            assert_eq!(blocks, read, "windows of {count} × {block_size}");
        }
    }

    #[test]
    fn text_is_read_ahead_by_large_windows_only() {
        for (count, read) in [(1, None), (8, None), (9, Some(9))] {
            let (_home, mut source) = source(100 * BLOCK, Mode::Netascii);
            let mut pool = PrefetchPool::default();
            let prefetched = pool.read(clock::now(), &mut source, window(1, count));
            let blocks = prefetched.map(|prefetched| prefetched.filled.blocks);
            assert_eq!(blocks, read, "windows of {count}");
        }
    }

    #[test]
    fn any_part_of_what_was_read_can_be_had() {
        let (_home, mut source) = source(6 * BLOCK + 10, Mode::Octet);
        let mut pool = PrefetchPool::default();
        let prefetched = pool.read(clock::now(), &mut source, window(3, 1)).unwrap();
        // First block and count asked for; first byte of the payload, blocks, bytes
        // and whether the file ends there.
        let segment = BLOCK + 4;
        for (first, count, expected) in [
            (2, 1, None),
            (3, 1, Some((2, 1, segment, false))),
            (4, 2, Some((3, 2, 2 * segment, false))),
            (6, 1, Some((5, 1, segment, false))),
            (6, 2, Some((5, 2, segment + 14, true))),
            (6, 9, Some((5, 2, segment + 14, true))),
            (7, 1, Some((6, 1, 14, true))),
            (8, 1, None),
            (u64::MAX, 1, None),
        ] {
            let asked = window(first, count);
            let got = prefetched.get(&asked).map(|(bytes, filled)| {
                assert_eq!(bytes.len(), filled.bytes);
                assert_eq!(bytes[..4], asked.header(0), "{first} {count}");
                (bytes[4], filled.blocks, filled.bytes, filled.end)
            });
            assert_eq!(got, expected, "{first} {count}");
        }
        let other_size = Run {
            block_size: 512,
            ..window(3, 1)
        };
        assert!(prefetched.get(&other_size).is_none());
    }

    #[test]
    fn a_buffer_is_held_while_the_next_window_is_in_it() {
        let (_home, mut source) = source(100 * BLOCK, Mode::Octet);
        let mut pool = PrefetchPool::default();
        let now = clock::now();
        let prefetched = pool.read(now, &mut source, window(1, 1)).unwrap();
        let later = now + HOLD;
        let first = window(1, 1);
        let prefetched = pool.keep(later, prefetched, &first, Some(first)).unwrap();
        assert_eq!(prefetched.until(), now + HOLD, "nothing moved");
        let prefetched = pool
            .keep(later, prefetched, &first, Some(window(2, 1)))
            .unwrap();
        assert_eq!(prefetched.until(), later + HOLD);
        let behind = Some(window(9, 1));
        assert!(
            pool.keep(later, prefetched, &window(8, 1), behind)
                .is_none()
        );
        assert_eq!(pool.short.free.len(), 1);
        let prefetched = pool.read(now, &mut source, window(9, 1)).unwrap();
        assert!(pool.short.free.is_empty());
        assert!(pool.keep(now, prefetched, &window(9, 1), None).is_none());
        assert_eq!(pool.short.unmade, SHORT_COUNT - 1);
    }

    #[test]
    fn a_transfer_that_stalls_early_or_answers_slowly_is_worth_no_buffer() {
        let before = clock::now();
        let now = before + HOLD;
        for (blocks, block_size, asked, expected) in [
            (11, 1428, Some(now), false),
            (12, 1428, Some(now), true),
            (12, 1428, None, true),
            (12, 1428, Some(before), false),
            (1, 65_464, Some(now), true),
            (0, 65_464, Some(now), false),
            (u64::MAX, 65_464, Some(now), true),
        ] {
            let progress = Progress {
                blocks,
                block_size,
                window_size: 1,
                retransmits: 0,
                verified: true,
            };
            let is_worthwhile = is_worthwhile(progress, asked, now);
            assert_eq!(
                is_worthwhile, expected,
                "{blocks} × {block_size}, {asked:?}"
            );
        }
    }

    #[test]
    fn the_number_of_buffers_is_bounded() {
        let (_home, mut source) = source(100 * BLOCK, Mode::Octet);
        let mut pool = PrefetchPool::default();
        for (count, most) in [(1, SHORT_COUNT), (16, LONG_COUNT)] {
            let mut read = || pool.read(clock::now(), &mut source, window(1, count));
            let held: Vec<_> = std::iter::from_fn(&mut read).take(most + 1).collect();
            assert_eq!(held.len(), most);
            for prefetched in held {
                pool.give_back(prefetched);
            }
            assert!(
                pool.read(clock::now(), &mut source, window(1, count))
                    .is_some()
            );
        }
    }
}
