//! Reading ahead: the next blocks are read while the ACK of the last ones is on its
//! way.
//!
//! Large windows are read one at a time. Small windows, and single blocks, are read
//! several at a time, as many as fit in 8 KiB, since the call costs more than reading a
//! few bytes.
//!
//! The buffers belong to a small pool and are held by transfers that are moving; one
//! that stalls gives its buffer back soon. A transfer that gets no buffer, or is too
//! slow to be worth one, reads its blocks as it sends them; so does one that has just
//! started, unless others read the same file. Transfers of the same file share what was
//! read for any of them a moment ago: when a hundred machines boot together, each block
//! is read once. Must not: send, or change what is sent.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::file::{FileSource, MAX_RUN, ReadAt};
use crate::net::MAX_SEND;
use crate::protocol::transfer::{BlockSource, Filled, Progress, Run};

/// A transfer that hasn't moved for this long gives its buffer back, and what was read
/// this long ago is read again for other transfers.
const HOLD: Duration = Duration::from_millis(50);

/// Bytes of a buffer for small windows, several of which are read with one call.
const SHORT_LEN: usize = 8 * 1024;

/// The most buffers for small windows: a megabyte of memory, kept once allocated.
const SHORT_COUNT: usize = 128;

/// The most buffers for larger windows, of [`MAX_SEND`] bytes each: they pay off only
/// while few transfers share the processor.
const LONG_COUNT: usize = 8;

/// Bytes that must have arrived before anything is read ahead for one transfer alone,
/// or into a buffer for a large window: thousands of peers that stall at the first
/// block cost no buffer.
const WARMED_UP: u64 = 16 * 1024;

/// Whether a transfer moves fast enough to use a buffer within [`HOLD`] (what was
/// acknowledged at `now` was sent at `asked`), and enough has arrived. Where other
/// transfers read the same file, which then has a `sharing_key`, any answer is enough
/// for small windows.
pub(super) fn is_worthwhile(
    progress: Progress,
    sharing_key: Option<u64>,
    asked: Option<Instant>,
    now: Instant,
) -> bool {
    let arrived = progress.blocks.saturating_mul(progress.block_size.into());
    let window = usize::from(progress.window_size) * usize::from(progress.block_size);
    let shares = sharing_key.is_some() && progress.verified && window < SHORT_LEN;
    (shares || arrived >= WARMED_UP)
        && asked.is_none_or(|asked| now.saturating_duration_since(asked) < HOLD)
}

/// A buffer with a run of blocks in it, ready to be sent.
#[derive(Debug)]
pub struct Prefetched {
    buffer: Box<[u8]>,
    run: Run,
    filled: Filled,
    /// When it was read.
    since: Instant,
}

impl Prefetched {
    /// When a transfer gives it back. `asked`: since when the peer has had something to
    /// answer; `None` if it has nothing.
    pub fn held_until(&self, asked: Option<Instant>) -> Instant {
        asked.unwrap_or(self.since) + HOLD
    }

    /// How many of its blocks come before the first of `run`, if that one is here.
    fn skipped(&self, run: &Run) -> Option<u64> {
        let skipped = run.first.0.checked_sub(self.run.first.0)?;
        let is_here = skipped < self.filled.blocks.into();
        (is_here && self.run.block_size == run.block_size).then_some(skipped)
    }

    /// The blocks of `run`, or as many of its first as are here; `None` if the first
    /// isn't.
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

    /// Whether any transfer that needs `window` finds as much of it here as a read
    /// would bring.
    fn serves(&self, window: &Run) -> bool {
        let most = (self.buffer.len() / window.segment_size()).min(MAX_RUN);
        let wanted = u64::from(window.count).min(most as u64);
        self.run.rollover == window.rollover
            && self.skipped(window).is_some_and(|skipped| {
                self.filled.end || u64::from(self.filled.blocks) - skipped >= wanted
            })
    }

    /// Whether it was read a moment ago.
    fn is_new(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < HOLD
    }
}

/// What was read of a file for one transfer, and may be used by all that read it.
#[derive(Debug)]
struct Shared {
    /// Of which file: see [`ReadAt::sharing_key`].
    key: u64,
    prefetched: Rc<Prefetched>,
}

/// Buffers of one length.
#[derive(Debug)]
struct Stock {
    /// Those that nobody holds.
    free: Vec<Rc<Prefetched>>,
    /// Buffers with what was read of shared files, the newest last. Transfers may hold
    /// them as well.
    shared: VecDeque<Shared>,
    /// How many more may be made.
    unmade: usize,
    /// Bytes of each.
    len: usize,
}

impl Stock {
    const fn of(count: usize, len: usize) -> Self {
        Self {
            free: Vec::new(),
            shared: VecDeque::new(),
            unmade: count,
            len,
        }
    }

    /// What was read for another transfer of the same file.
    fn find(&self, now: Instant, key: u64, window: &Run) -> Option<Rc<Prefetched>> {
        let new = self.shared.iter().rev();
        let new = new.take_while(|it| it.prefetched.is_new(now));
        let mut of_file = new.filter(|it| it.key == key).map(|it| &it.prefetched);
        of_file.find(|it| it.serves(window)).map(Rc::clone)
    }

    /// A buffer that nobody holds, to be read into.
    fn take(&mut self, now: Instant, run: Run) -> Option<Rc<Prefetched>> {
        let free = self.free.pop();
        let mut prefetched = free
            .or_else(|| self.take_shared(|it| !it.is_new(now)))
            .or_else(|| self.make(now, run))
            .or_else(|| self.take_shared(|_| true))?;
        let taken = Rc::get_mut(&mut prefetched)?;
        taken.run = run;
        taken.since = now;
        Some(prefetched)
    }

    fn make(&mut self, now: Instant, run: Run) -> Option<Rc<Prefetched>> {
        self.unmade = self.unmade.checked_sub(1)?;
        Some(Rc::new(Prefetched {
            buffer: vec![0; self.len].into_boxed_slice(),
            run,
            filled: Filled {
                blocks: 0,
                bytes: 0,
                end: false,
            },
            since: now,
        }))
    }

    /// The oldest shared buffer that no transfer holds, if it `may_go`.
    fn take_shared(&mut self, may_go: impl Fn(&Prefetched) -> bool) -> Option<Rc<Prefetched>> {
        let is_idle = |it: &Shared| Rc::strong_count(&it.prefetched) == 1;
        let oldest = self.shared.iter().position(is_idle)?;
        if !may_go(&self.shared[oldest].prefetched) {
            return None;
        }
        Some(self.shared.remove(oldest)?.prefetched)
    }
}

/// Buffers that are free, and those whose content other transfers may use.
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
    /// Reads `window`, the blocks that will be sent next, and as many windows after it
    /// as a short buffer holds, unless they were read a moment ago for another transfer
    /// of the file. `None` if that isn't worthwhile, no buffer is free or the file
    /// isn't ready. An error is left for the read that matters.
    pub fn read<R: ReadAt>(
        &mut self,
        now: Instant,
        source: &mut FileSource<R>,
        window: Run,
    ) -> Option<Rc<Prefetched>> {
        let bytes = window.segment_size() * usize::from(window.count);
        let windows = (SHORT_LEN / bytes).min(MAX_RUN / usize::from(window.count));
        let (stock, count) = match (windows, &*source) {
            _ if bytes > SHORT_LEN => (&mut self.long, window.count),
            // Text is encoded again from the first block that may be asked for again:
            // the more is read ahead, the more is encoded twice.
            (0, _) | (_, FileSource::Netascii(_)) => return None,
            _ => (&mut self.short, window.count * windows as u16),
        };
        let sharing_key = source.sharing_key();
        if let Some(found) = sharing_key.and_then(|key| stock.find(now, key, &window)) {
            return Some(found);
        }
        let run = Run { count, ..window };
        let mut prefetched = stock.take(now, run)?;
        let taken = Rc::get_mut(&mut prefetched)?;
        let Ok(Some(filled)) = source.read_run(run, &mut taken.buffer) else {
            stock.free.push(prefetched);
            return None;
        };
        taken.filled = filled;
        if let Some(key) = sharing_key {
            let prefetched = Rc::clone(&prefetched);
            stock.shared.push_back(Shared { key, prefetched });
        }
        Some(prefetched)
    }

    /// Keeps the buffer if what is sent `next` is in it; else gives it back.
    pub fn keep(
        &mut self,
        prefetched: Rc<Prefetched>,
        next: Option<Run>,
    ) -> Option<Rc<Prefetched>> {
        if next.is_some_and(|next| prefetched.skipped(&next).is_some()) {
            return Some(prefetched);
        }
        self.give_back(prefetched);
        None
    }

    /// Takes the buffer back.
    pub fn give_back(&mut self, prefetched: Rc<Prefetched>) {
        let stock = if prefetched.buffer.len() == SHORT_LEN {
            &mut self.short
        } else {
            &mut self.long
        };
        // Nobody else holds it, and it isn't shared.
        if Rc::strong_count(&prefetched) == 1 {
            stock.free.push(prefetched);
        }
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
            // More blocks than one call reads, but few bytes.
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
        let prefetched = pool.keep(prefetched, Some(window(1, 1))).unwrap();
        let prefetched = pool.keep(prefetched, Some(window(8, 1))).unwrap();
        let behind = Some(window(9, 1));
        assert!(pool.keep(prefetched, behind).is_none());
        assert_eq!(pool.short.free.len(), 1);
        let prefetched = pool.read(now, &mut source, window(9, 1)).unwrap();
        assert!(pool.short.free.is_empty());
        let (asked, later) = (now + HOLD / 2, now + 20 * HOLD);
        for (since, until) in [
            (None, now + HOLD),
            (Some(asked), asked + HOLD),
            // Whatever others do that have the same buffer.
            (Some(later), later + HOLD),
        ] {
            assert_eq!(prefetched.held_until(since), until);
        }
        assert!(pool.keep(prefetched, None).is_none());
        assert_eq!(pool.short.unmade, SHORT_COUNT - 1);
    }

    #[test]
    fn a_transfer_that_stalls_early_or_answers_slowly_is_worth_no_buffer() {
        let before = clock::now();
        let now = before + HOLD;
        for (blocks, block_size, window_size, verified, is_shared, asked, expected) in [
            (11, 1428, 1, true, false, Some(now), false),
            (12, 1428, 1, true, false, Some(now), true),
            (12, 1428, 1, true, false, None, true),
            (12, 1428, 1, true, false, Some(before), false),
            (1, 65_464, 1, true, false, Some(now), true),
            (0, 65_464, 1, true, false, Some(now), false),
            (u64::MAX, 65_464, 1, true, false, Some(now), true),
            // Others read the same file.
            (0, 512, 1, true, true, Some(now), true),
            (0, 512, 1, false, true, Some(now), false),
            (12, 1428, 1, true, true, Some(before), false),
            (0, 1428, 5, true, true, Some(now), true),
            (0, 1428, 16, true, true, Some(now), false),
            (16, 1428, 16, true, true, Some(now), true),
        ] {
            let progress = Progress {
                blocks,
                block_size,
                window_size,
                retransmits: 0,
                verified,
            };
            let is_worthwhile = is_worthwhile(progress, is_shared.then_some(1), asked, now);
            assert_eq!(
                is_worthwhile, expected,
                "{progress:?}, shared: {is_shared}, {asked:?}"
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

    /// A root with two files, which are `size` bytes long.
    fn root_with_files(size: usize) -> (tempfile::TempDir, Root) {
        let home = tempfile::tempdir().unwrap();
        for name in ["file", "other"] {
            fs::write(home.path().join(name), vec![1; size]).unwrap();
        }
        let root = Root::open(home.path(), Policy::default()).unwrap();
        (home, root)
    }

    fn source_of(root: &Root, name: &str, mode: Mode) -> FileSource {
        FileSource::new(root.open_read(name.as_bytes()).unwrap(), mode)
    }

    #[test]
    fn what_was_read_for_one_is_read_for_all_transfers_of_the_file() {
        let (home, root) = root_with_files(100 * BLOCK);
        let [mut first, mut second, mut text] =
            [Mode::Octet, Mode::Octet, Mode::Netascii].map(|mode| source_of(&root, "file", mode));
        let mut pool = PrefetchPool::default();
        let now = clock::now();
        let held = pool.read(now, &mut first, window(3, 1)).unwrap();
        let octets = pool.read(now, &mut first, window(3, 9)).unwrap();
        // As much of it as one call reads.
        let most = pool.read(now, &mut first, window(20, 80)).unwrap();
        let found = pool.read(now, &mut second, window(20, 80)).unwrap();
        assert!(Rc::ptr_eq(&most, &found));
        let as_text = pool.read(now, &mut text, window(3, 9)).unwrap();
        assert!(!Rc::ptr_eq(&octets, &as_text));
        // From here on the file has nothing to read.
        fs::write(home.path().join("file"), "").unwrap();
        let numbered_otherwise = Run {
            rollover: Rollover::ToOne,
            ..window(4, 1)
        };
        let smaller = Run {
            block_size: 512,
            ..window(4, 1)
        };
        for (what, at, run, is_found) in [
            ("the first block", now, window(3, 1), true),
            ("the last one", now, window(10, 1), true),
            ("a window", now, window(7, 4), true),
            ("half a window", now, window(8, 4), false),
            ("what comes before", now, window(2, 1), false),
            ("what comes behind", now, window(11, 1), false),
            ("blocks of another size", now, smaller, false),
            ("other headers", now, numbered_otherwise, false),
            ("what is old", now + HOLD, window(3, 1), false),
            ("what isn't old", now + HOLD * 9 / 10, window(3, 1), true),
        ] {
            let found = pool.read(at, &mut second, run);
            assert_eq!(found.is_some(), is_found, "{what}");
            if let Some(found) = found {
                assert!(Rc::ptr_eq(&found, &held), "{what}");
                pool.give_back(found);
            }
        }
        let mut others = ["other"; 2].map(|name| source_of(&root, name, Mode::Octet));
        let other = pool.read(now, &mut others[0], window(3, 1)).unwrap();
        assert!(!Rc::ptr_eq(&other, &held));
    }

    #[test]
    fn a_shared_buffer_is_used_again_once_nobody_holds_it() {
        let (_home, root) = root_with_files(2000 * BLOCK);
        let [mut first, mut second] = ["file"; 2].map(|name| source_of(&root, name, Mode::Octet));
        let mut pool = PrefetchPool::default();
        let now = clock::now();
        let read = pool.read(now, &mut first, window(1, 1)).unwrap();
        let found = pool.read(now, &mut second, window(1, 1)).unwrap();
        pool.give_back(read);
        let later = now + HOLD;
        let _next = pool.read(later, &mut first, window(9, 1)).unwrap();
        assert_eq!(pool.short.unmade, SHORT_COUNT - 2, "one is held");
        pool.give_back(found);
        let _next = pool.read(later, &mut first, window(17, 1)).unwrap();
        assert_eq!(pool.short.unmade, SHORT_COUNT - 2, "none is");
        // What was read a moment ago is given up only when no more can be made.
        for at in 0..2 * SHORT_COUNT as u64 {
            let read = pool.read(later, &mut first, window(25 + 8 * at, 1));
            pool.give_back(read.expect("a buffer"));
        }
        assert_eq!((pool.short.unmade, pool.short.free.len()), (0, 0));
        assert_eq!(pool.short.shared.len(), SHORT_COUNT);
    }
}
