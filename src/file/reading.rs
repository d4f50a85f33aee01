//! A file being read: the bytes now, or "not yet".
//!
//! Reads go by offset, so that any block can be produced again, and keep no
//! position. A file's content may change during a transfer, but its promised size
//! can't: fewer bytes than asked for mean that the file has shrunk.
//!
//! If the file system can tell beforehand that a read would wait for the disk, the
//! caller has the missing data fetched, and comes back later. There are three ways to
//! read, and the first that works is kept for the file: `preadv2` with `RWF_NOWAIT`
//! (disks); a look at which pages are in memory, then `preadv` (FUSE, NFS,
//! overlayfs); `preadv` alone (all others, which wait, or never have to).
//!
//! The session decides when to come back, and when to wait after all. Must not:
//! sleep, read the clock.

use std::io::IoSliceMut;
use std::os::fd::AsFd as _;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, fstatfs};
use nix::sys::uio::{pread, preadv};

use super::error::StorageError;
use super::fetch::{Fetch, advise};
use super::open_files::{OpenFile, Way};
use super::syscalls::{self, STRETCH};

/// What a file's bytes are read from: [`ReadFile`](super::ReadFile), or a stand-in for it.
pub trait ReadAt {
    /// The promised size, in bytes.
    fn size(&self) -> u64;

    /// Fills `slices`, one after the other, with the bytes from `offset` on. Returns the
    /// number of bytes, fewer than the slices hold only at the file's end. Takes at most
    /// 1024 slices (`IOV_MAX`), and uses them up.
    ///
    /// `Ok(None)`: not yet; see [`ReadAt::fetch`].
    ///
    /// # Errors
    /// Those of `read`, such as `EIO`; `EFBIG` beyond the largest offset.
    fn read_run(
        &mut self,
        offset: u64,
        slices: &mut [IoSliceMut<'_>],
    ) -> Result<Option<usize>, StorageError>;

    /// [`ReadAt::read_run`] into a single buffer.
    ///
    /// # Errors
    /// As there.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>, StorageError> {
        self.read_run(offset, &mut [IoSliceMut::new(buffer)])
    }

    /// Has the data that the last read missed fetched into memory in the background.
    /// `false` if it isn't this file's turn: try again after the next read that isn't
    /// ready.
    fn fetch(&mut self) -> bool;

    /// Makes the next read wait for the disk.
    fn block(&mut self);

    /// Closes the file until it is read again, if it is closable.
    fn close(&mut self) {}

    /// Whether the file is open.
    fn is_open(&self) -> bool {
        true
    }

    /// A key that stands for this file and never for another one, if other transfers have
    /// it open as well: then data read for one is good for all, and the descriptor stays
    /// open if this reader goes.
    fn sharing_key(&self) -> Option<u64> {
        None
    }
}

/// One transfer's place in a file that is open, perhaps for others as well.
#[derive(Debug)]
pub(super) struct Reader {
    file: Rc<OpenFile>,
    /// The next read waits for the disk.
    blocking: bool,
    /// The fetch that this transfer waits for.
    fetch: Option<Rc<Fetch>>,
    /// The offset, in bytes, of the first byte that wasn't in memory; everything
    /// looked for before it was.
    missing: u64,
}

impl Reader {
    pub(super) const fn new(file: Rc<OpenFile>) -> Self {
        Self {
            file,
            blocking: false,
            fetch: None,
            missing: 0,
        }
    }

    /// Whether the file was written to since it was opened: what was read may be
    /// part old, part new.
    pub(super) fn has_changed(&self) -> bool {
        self.file.has_changed()
    }

    /// The way for a file system without `RWF_NOWAIT`: a look at the pages in memory,
    /// if reads are served from the same pages that can be mapped and fetched.
    /// Elsewhere (ZFS) a look would tell nothing; tmpfs never waits.
    fn other_way(&self) -> Way {
        match fstatfs(&*self.file).map(|stat| stat.filesystem_type()) {
            // Opening a file there may drop its pages from memory.
            Ok(FUSE_SUPER_MAGIC) => Way::Look { again: true },
            Ok(NFS_SUPER_MAGIC | OVERLAYFS_SUPER_MAGIC) => Way::Look { again: false },
            _ => Way::Wait,
        }
    }

    /// Whether the bytes that `slices` want from `start` on are in memory. Unless each
    /// read is to look `again`, those below `missing` are taken to be there still.
    fn is_in_memory(&mut self, start: u64, slices: &[IoSliceMut<'_>], again: bool) -> bool {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let end = start.saturating_add(wanted as u64).min(self.size());
        if !again && end <= self.missing {
            return true;
        }
        let Ok(wanted) = usize::try_from(end.saturating_sub(start)) else {
            return true;
        };
        if wanted == 0 {
            return true;
        }
        let len = if again { wanted } else { STRETCH };
        let present = match syscalls::resident(self.file.as_fd(), start, len) {
            Ok(present) => present,
            // This will pass: only this read waits.
            Err(Errno::ENOMEM | Errno::EAGAIN) => return true,
            Err(_) => {
                self.file.way.set(Way::Wait);
                return true;
            }
        };
        self.missing = start + present as u64;
        // No caller reads more than a stretch at once; a longer read would wait.
        present >= wanted.min(STRETCH)
    }

    /// Joins the transfers that already wait for the missing data, or begins to fetch
    /// it. `None` if it isn't this file's turn.
    fn join_fetch(&self) -> Option<Rc<Fetch>> {
        let mut under_way = self.file.fetch.borrow_mut();
        let joined = under_way.upgrade().filter(|it| it.covers(self.missing));
        joined.or_else(|| {
            let fetch = Rc::new(Fetch::begin(self.missing)?);
            *under_way = Rc::downgrade(&fetch);
            Some(fetch)
        })
    }
}

impl ReadAt for Reader {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn sharing_key(&self) -> Option<u64> {
        self.file.sharing_key()
    }

    fn block(&mut self) {
        self.blocking = true;
        self.fetch = None;
    }

    fn fetch(&mut self) -> bool {
        if !matches!(self.file.way.get(), Way::Look { .. }) {
            advise(self.file.as_fd(), self.missing);
            return true;
        }
        if let Some(fetch) = self.fetch.take().filter(|it| it.covers(self.missing)) {
            self.fetch = Some(fetch);
        } else {
            self.fetch = self.join_fetch();
        }
        // A reader that joins asks for the same bytes, and no others.
        match &self.fetch {
            Some(fetch) => advise(self.file.as_fd(), fetch.from()),
            None => return false,
        }
        true
    }

    fn read_run(
        &mut self,
        offset: u64,
        mut slices: &mut [IoSliceMut<'_>],
    ) -> Result<Option<usize>, StorageError> {
        let mut done = 0;
        IoSliceMut::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let at = offset.saturating_add(done as u64);
            let from = super::file_offset(offset, done)?;
            if let Way::Look { again } = self.file.way.get()
                && !self.blocking
                && !self.is_in_memory(at, slices, again)
            {
                return Ok(None);
            }
            let way = self.file.way.get();
            let read = match (way, &mut *slices) {
                (Way::NoWait, slices) if !self.blocking => {
                    syscalls::read(self.file.as_fd(), at, slices)
                }
                // Cheaper than a vector of one.
                (_, [slice]) => pread(&*self.file, slice, from),
                (_, slices) => preadv(&*self.file, slices, from),
            };
            match (read, way) {
                // Linux 5.9 and 5.10 also return 0 before the end.
                (Ok(0), Way::NoWait) if !self.blocking && at < self.size() => {
                    self.blocking = true;
                }
                (Ok(0), _) => break,
                (Ok(bytes), _) => {
                    done += bytes;
                    IoSliceMut::advance_slices(&mut slices, bytes);
                }
                (Err(Errno::EINTR), _) => {}
                (Err(Errno::EAGAIN), Way::NoWait) => {
                    self.missing = at;
                    return Ok(None);
                }
                // The file system, the kernel or a container's filter doesn't
                // know the call.
                (
                    Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS | Errno::EPERM),
                    Way::NoWait,
                ) => self.file.way.set(self.other_way()),
                (Err(errno), _) => return Err(errno.into()),
            }
        }
        self.fetch = None;
        self.blocking = false;
        Ok(Some(done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::skipped::skip;
    use std::fs;

    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

    const LOOK: Way = Way::Look { again: true };
    const LOOK_ONCE: Way = Way::Look { again: false };

    fn open(path: &tempfile::NamedTempFile) -> Reader {
        let file = fs::File::open(path).unwrap();
        Reader::new(OpenFile::alone(file.into()).unwrap())
    }

    fn file_with(content: &[u8]) -> (tempfile::NamedTempFile, Reader) {
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(&path, content).unwrap();
        let file = open(&path);
        (path, file)
    }

    #[test]
    fn a_run_fills_its_slices_in_order() {
        let (_path, mut file) = file_with(b"0123456789");
        assert_eq!(file.size(), 10);
        for (offset, expected) in [
            (0, &b"012345"[..]),
            (3, b"345678"),
            (6, b"6789"),
            (10, b""),
            (11, b""),
        ] {
            let (mut first, mut second) = ([0; 4], [0; 2]);
            let read = file
                .read_run(
                    offset,
                    &mut [
                        IoSliceMut::new(&mut first),
                        IoSliceMut::new(&mut []),
                        IoSliceMut::new(&mut second),
                    ],
                )
                .unwrap()
                .unwrap();
            assert_eq!(read, expected.len(), "at {offset}");
            assert_eq!(&[&first[..], &second].concat()[..read], expected);
        }
        assert_eq!(file.read_run(0, &mut []), Ok(Some(0)));
    }

    #[test]
    fn an_offset_beyond_any_file_is_an_error_and_no_panic() {
        let (_path, mut file) = file_with(b"x");
        for offset in [u64::MAX, 1 << 63] {
            assert!(file.read_at(offset, &mut [0]).is_err(), "{offset}");
        }
    }

    #[test]
    fn a_shrunk_file_reads_short_of_its_promise() {
        let (path, mut file) = file_with(&[7; 1000]);
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(600)
            .unwrap();
        let mut buffer = [0; 512];
        assert_eq!(file.size(), 1000);
        assert_eq!(file.read_at(0, &mut buffer), Ok(Some(512)));
        assert_eq!(file.read_at(512, &mut buffer), Ok(Some(88)));
        assert_eq!(file.read_at(600, &mut buffer), Ok(Some(0)));
    }

    #[test]
    fn a_file_that_is_written_to_has_changed() {
        let (path, file) = file_with(b"short");
        assert!(!file.has_changed());
        let writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
        // Further back than one tick of any file system's clock.
        let past = std::time::SystemTime::UNIX_EPOCH;
        writer.set_modified(past).unwrap();
        assert!(file.has_changed());
        let (path, file) = file_with(b"short");
        fs::write(&path, b"longer").unwrap();
        assert!(file.has_changed());
        // Removing a file doesn't change it.
        let (path, file) = file_with(b"short");
        path.close().unwrap();
        assert!(!file.has_changed());
    }

    #[test]
    fn a_grown_file_keeps_its_promised_size() {
        let (path, file) = file_with(b"short");
        fs::write(&path, b"much longer").unwrap();
        assert_eq!(file.size(), 5);
    }

    #[test]
    fn every_way_reads_the_same() {
        let content: Vec<u8> = (0..3 * STRETCH + 100)
            .map(|at| at as u8 ^ (at >> 8) as u8)
            .collect();
        let (_path, mut file) = file_with(&content);
        let mut buffer = vec![0; 70_000];
        for way in [Way::NoWait, LOOK, LOOK_ONCE, Way::Wait] {
            file.file.way.set(way);
            for offset in [
                0,
                5000,
                STRETCH - 30_000,
                3 * STRETCH - 40_000,
                3 * STRETCH + 99,
            ] {
                let expected = &content[offset..content.len().min(offset + buffer.len())];
                let read = file.read_at(offset as u64, &mut buffer);
                assert_eq!(read, Ok(Some(expected.len())), "{way:?} at {offset}");
                assert!(buffer[..expected.len()] == *expected, "{way:?} at {offset}");
            }
            let past_the_end = file.read_at(content.len() as u64, &mut buffer);
            assert_eq!(past_the_end, Ok(Some(0)), "{way:?}");
        }
    }

    #[test]
    fn what_is_on_disk_only_is_not_ready_and_then_it_is() {
        const LEN: usize = 2 * STRETCH;
        let disk = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::write(&disk, vec![7; LEN]).unwrap();
        disk.as_file().sync_all().unwrap();
        let drop_pages = || {
            let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            posix_fadvise(disk.as_file(), 0, 0, advice).unwrap();
        };
        let mut buffer = vec![0; 1000];
        for way in [Way::NoWait, LOOK, LOOK_ONCE] {
            let mut file = open(&disk);
            file.file.way.set(way);
            drop_pages();
            let first = file.read_at(0, &mut buffer);
            if first.is_ok_and(|read| read.is_some()) {
                skip("no disk below");
                return;
            }
            assert_eq!(first, Ok(None), "{way:?}");
            assert!(file.fetch(), "{way:?}");
            assert_eq!(file.fetch.is_some(), way != Way::NoWait);
            let mut tries = 0;
            while file.read_at(0, &mut buffer) == Ok(None) {
                tries += 1;
                assert!(tries < 10_000_000, "{way:?} never comes");
                std::thread::yield_now();
            }
            assert_eq!(buffer, [7; 1000], "{way:?}");
            assert!(file.fetch.is_none(), "{way:?}");
            drop_pages();
            file.block();
            assert_eq!(file.read_at(0, &mut buffer), Ok(Some(1000)));
        }
    }
}
