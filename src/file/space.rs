//! Room on the disk for uploads.
//!
//! The sizes that clients announce (`tsize`), those of all uploads under way together,
//! are checked against the free space; only a little more than what has come is set
//! aside. Must not: hold back disk space for a client that has only sent a request.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::dev_t;
use nix::sys::stat::FileStat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::dup;

use super::directory::Directory;
use super::error::StorageError;
use super::file_offset;
use super::made_dirs::MadeDirs;
use super::quota::{MinFree, Quota, Total};
use super::walk::{Id, id};

/// What the uploads of one server share.
#[derive(Debug)]
pub(super) struct Uploads {
    /// The number for the next temporary file. Begins at random, since servers on several
    /// hosts may share a directory.
    serials: Cell<u64>,
    /// Directories that were swept; the latest last.
    swept: RefCell<Vec<Swept>>,
    /// Counts uploads to directories that `swept` has no room for.
    elsewhere: Cell<u32>,
    /// By device: bytes that running uploads announced and that have no place on
    /// the disk yet.
    expected: RefCell<Vec<(dev_t, u64)>>,
    /// The directories below which all uploads go; the first is the root's own.
    tops: RefCell<Vec<Rc<Directory>>>,
    /// Directory entries that were read for uploads and aren't charged to anyone yet.
    pub(super) entries_listed: Cell<u64>,
    /// Spare descriptors, so that an upload can finish even if other transfers took the
    /// last ones: how many to keep, and those held now.
    spare: Cell<usize>,
    spares: RefCell<Vec<OwnedFd>>,
    /// What all uploads take together.
    pub(super) quota: Quota,
    /// Directories made for uploads.
    pub(super) made_dirs: MadeDirs,
}

/// A directory that was swept.
#[derive(Debug)]
struct Swept {
    id: Id,
    /// Uploads to it since then.
    uploads: u32,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            serials: Cell::new(RandomState::new().hash_one(())),
            swept: RefCell::default(),
            elsewhere: Cell::default(),
            expected: RefCell::default(),
            tops: RefCell::default(),
            entries_listed: Cell::default(),
            spare: Cell::default(),
            spares: RefCell::default(),
            quota: Quota::default(),
            made_dirs: MadeDirs::default(),
        }
    }
}

impl Uploads {
    /// What all uploads that go below `top` share.
    pub(super) fn below(top: &Rc<Directory>) -> Self {
        Self {
            tops: RefCell::new(vec![Rc::clone(top)]),
            ..Self::default()
        }
    }

    /// Makes sure that all files and uploads together take no more than `total`, when one
    /// upload takes `to` bytes instead of `from`.
    ///
    /// # Errors
    /// ERROR 3 if they would take more.
    pub(super) fn ensure_total(
        &self,
        total: Total,
        from: u64,
        to: u64,
    ) -> Result<(), StorageError> {
        let tops = self.tops.borrow();
        self.quota
            .ensure(&tops, total, from, to, &self.entries_listed)
    }

    /// Uploads go below this directory as well.
    pub(super) fn count_as_well(&self, top: &Rc<Directory>) {
        self.tops.borrow_mut().push(Rc::clone(top));
    }

    /// Keeps descriptors for [`Uploads::with_spares`].
    pub(super) fn set_spares_aside(&self) {
        self.spare.set(SPARES);
        self.refill();
    }

    /// Releases the spare descriptors while `work` runs: it can open two files even if all
    /// others are taken.
    pub(super) fn with_spares<T>(&self, work: impl FnOnce() -> T) -> T {
        self.spares.take();
        let done = work();
        self.refill();
        done
    }

    fn refill(&self) {
        let tops = self.tops.borrow();
        let Some(top) = tops.first() else {
            return;
        };
        let mut spares = self.spares.borrow_mut();
        while spares.len() < self.spare.get()
            && let Ok(spare) = dup(top.as_fd())
        {
            spares.push(spare);
        }
    }

    /// A number that no other upload of this server has.
    pub(super) fn next_serial(&self) -> u64 {
        let serial = self.serials.get();
        self.serials.set(serial.wrapping_add(1));
        serial
    }

    /// Whether to sweep this directory for one more upload: yes for the first, and now
    /// and then for a later one, since another server that shares the directory may have
    /// been killed meanwhile.
    pub(super) fn is_unswept(&self, directory: &FileStat) -> bool {
        let id = id(directory);
        let mut swept = self.swept.borrow_mut();
        if let Some(known) = swept.iter_mut().find(|known| known.id == id) {
            known.uploads = (known.uploads + 1) % SWEEP_EVERY;
            return known.uploads == 0;
        }
        if swept.len() == MAX_SWEPT_KNOWN {
            // Nobody can make us list one directory after another all the time.
            self.elsewhere.set((self.elsewhere.get() + 1) % SWEEP_EVERY);
            if self.elsewhere.get() != 0 {
                return false;
            }
            swept.remove(0);
        }
        swept.push(Swept { id, uploads: 0 });
        true
    }

    /// Makes sure that there is room for `announced` bytes, for what all uploads expect
    /// on this `device`, less the `own` bytes of this one, and for what is to stay free.
    ///
    /// # Errors
    /// ERROR 3 if there isn't.
    pub(super) fn ensure_space(
        &self,
        on: impl AsFd,
        device: dev_t,
        announced: u64,
        own: u64,
        min_free: Option<MinFree>,
    ) -> Result<(), StorageError> {
        if announced == 0 && min_free.is_none() {
            return Ok(());
        }
        let expected = self.expected.borrow();
        let others = expected.iter().find(|(it, _)| *it == device);
        let others = others.map_or(0, |&(_, bytes)| bytes.saturating_sub(own));
        // Some FUSE file systems, and tmpfs without a limit, report no sizes.
        if let Ok(space) = fstatvfs(on)
            && space.blocks() > 0
        {
            #[allow(clippy::unnecessary_cast)] // Narrower on 32-bit systems.
            let (blocks, all, block_size) = (
                space.blocks_available() as u64,
                space.blocks() as u64,
                space.fragment_size() as u64,
            );
            let free = blocks.saturating_mul(block_size);
            let stays = min_free.map_or(0, |it| it.of(all.saturating_mul(block_size)));
            let left = free.saturating_sub(others);
            if announced > left {
                return Err(StorageError::NO_SPACE);
            }
            if left - announced < stays {
                return Err(StorageError::MIN_FREE);
            }
        }
        Ok(())
    }

    /// One upload's part of the bytes expected on `device` is now `to` instead of `from`.
    pub(super) fn expect(&self, device: dev_t, from: u64, to: u64) {
        if from == to {
            return;
        }
        let mut all = self.expected.borrow_mut();
        let at = all.iter().position(|(it, _)| *it == device);
        let at = at.unwrap_or_else(|| {
            all.push((device, 0));
            all.len() - 1
        });
        if let Some((_, bytes)) = all.get_mut(at) {
            *bytes = bytes.saturating_sub(from).saturating_add(to);
        }
        all.retain(|&(_, bytes)| bytes > 0);
    }
}

/// The directories that are listed for uploads: for versions, and to count files.
#[derive(Debug, Clone)]
pub struct UploadListings(pub(super) Rc<Uploads>);

impl UploadListings {
    /// Directory entries that were read for clients, since the last time this was asked.
    pub fn take_entries(&self) -> u64 {
        self.0.entries_listed.take()
    }

    /// Whether [`UploadListings::count_on`] has something to do.
    pub fn is_counting(&self) -> bool {
        cfg!(feature = "uploads") && self.0.quota.is_counting()
    }

    /// Goes on to count files, for about half a millisecond. No client is charged for
    /// that: it is done for all.
    pub fn count_on(&self) {
        self.0.quota.count_on(&self.0.tops.borrow());
    }
}

/// Room set aside in a file, ahead of what is written.
#[derive(Debug)]
pub(super) struct Reserve {
    /// Bytes from the file's start; `None` if the file system can't set room aside.
    bytes: Option<u64>,
    announced: u64,
}

impl Reserve {
    /// Sets aside nothing yet of the `announced` bytes.
    pub(super) fn new(file: &OwnedFd, announced: u64) -> Self {
        // On tmpfs this would allocate the memory at once (0.3 s per GiB).
        let is_memory = || fstatfs(file).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC);
        Self {
            bytes: (announced > 0 && !is_memory()).then_some(0),
            announced,
        }
    }

    /// Bytes from the file's start that have room.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.unwrap_or(0)
    }

    /// Sets aside room up to `end` and [`AHEAD`] beyond it, within what was announced.
    ///
    /// # Errors
    /// ERROR 3 if there is none.
    pub(super) fn extend(&mut self, file: &OwnedFd, end: u64) -> Result<(), StorageError> {
        let Some(reserved) = self.bytes.filter(|&it| it < end && it < self.announced) else {
            return Ok(());
        };
        let wanted = end.saturating_add(AHEAD).min(self.announced);
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (from, len) = (
            file_offset(reserved, 0)?,
            file_offset(wanted - reserved, 0)?,
        );
        self.bytes = match fallocate(file, flags, from, len) {
            Ok(()) => Some(wanted),
            Err(errno @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) => return Err(errno.into()),
            // The file system can't (`EOPNOTSUPP`): the check of the space when the
            // upload began must do.
            Err(_) => None,
        };
        Ok(())
    }
}

/// Bytes set aside beyond what has come: this takes few calls, and holds little back.
pub(super) const AHEAD: u64 = 4 << 20;

/// Enough for a directory and the one above it.
const SPARES: usize = 2;

/// How many uploads to a directory there are from one sweep to the next.
const SWEEP_EVERY: u32 = 64;

/// Directories remembered as swept; others are swept again.
const MAX_SWEPT_KNOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::skipped::skip;
    use std::fs::File;

    #[test]
    fn what_is_expected_is_kept_by_device_and_forgotten_at_zero() {
        let uploads = Uploads::default();
        for (device, from, to, all) in [
            (1, 0, 10, &[(1, 10)][..]),
            (2, 0, 5, &[(1, 10), (2, 5)]),
            (1, 0, 7, &[(1, 17), (2, 5)]),
            (1, 10, 4, &[(1, 11), (2, 5)]),
            (2, 5, 0, &[(1, 11)]),
            (1, 7, 0, &[(1, 4)]),
            (1, 4, 0, &[]),
        ] {
            uploads.expect(device, from, to);
            assert_eq!(*uploads.expected.borrow(), all);
        }
    }

    #[test]
    fn servers_on_several_hosts_number_their_temporary_files_apart() {
        let (one, other) = (Uploads::default(), Uploads::default());
        let first = one.next_serial();
        assert_eq!(one.next_serial(), first.wrapping_add(1));
        assert!(first.abs_diff(other.next_serial()) > 1);
    }

    #[test]
    fn the_sum_of_announcements_is_bounded_by_the_free_space() {
        let base = tempfile::tempdir().unwrap();
        let directory = File::open(base.path()).unwrap();
        let space = fstatvfs(&directory).unwrap();
        let free = space.blocks_available() * space.fragment_size();
        if free < 1 << 20 {
            skip("the disk tells no figures");
            return;
        }
        let uploads = Uploads::default();
        assert_eq!(
            uploads.ensure_space(&directory, 1, free / 2, 0, None),
            Ok(())
        );
        uploads.expect(1, 0, free / 4 * 3);
        let refused = uploads.ensure_space(&directory, 1, free / 2, 0, None);
        assert_eq!(refused, Err(StorageError::NO_SPACE));
        let stays = Some(MinFree::Percent(100));
        let refused = uploads.ensure_space(&directory, 1, 0, 0, stays);
        assert_eq!(refused, Err(StorageError::MIN_FREE));
        assert_eq!(
            uploads.ensure_space(&directory, 2, free / 2, 0, None),
            Ok(())
        );
    }

    #[test]
    fn directories_are_swept_at_first_and_now_and_then() {
        let uploads = Uploads::default();
        let base = tempfile::tempdir().unwrap();
        let stat = nix::sys::stat::stat(base.path()).unwrap();
        assert!(uploads.is_unswept(&stat));
        for _ in 1..SWEEP_EVERY {
            assert!(!uploads.is_unswept(&stat));
        }
        assert!(uploads.is_unswept(&stat));
        assert!(!uploads.is_unswept(&stat));
        let mut other = stat;
        for _ in 1..MAX_SWEPT_KNOWN {
            other.st_ino += 1;
            assert!(uploads.is_unswept(&other));
        }
        // Uploads to ever new directories sweep no more often than uploads to one.
        let mut swept = 0;
        for _ in 0..10 * SWEEP_EVERY {
            other.st_ino += 1;
            swept += u32::from(uploads.is_unswept(&other));
        }
        assert_eq!(swept, 10);
    }
}
