//! How much uploads may take, all together, and what they leave free.
//!
//! What a client announces counts from its first block on, or what it has sent, if
//! that is more; a request alone counts nothing. Files are counted when the first
//! upload comes, and again, but not all the time, when there seems to be no room: others
//! may have removed some. Must not: read a file.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use log::warn;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::error::StorageError;
use super::publish::{is_ours, now};
use super::walk::{MAX_DEPTH, kind};

/// What stays free on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinFree {
    /// Bytes.
    Bytes(u64),
    /// Hundredths of the disk's size.
    Percent(u8),
}

impl MinFree {
    /// In bytes, on a disk of `size` bytes.
    pub(super) const fn of(self, size: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => size / 100 * percent as u64,
        }
    }
}

/// The bytes of all files where uploads go, and of those on their way.
#[derive(Debug, Default)]
pub(super) struct Quota {
    /// Files; `None` before they were counted.
    stored: Cell<Option<u64>>,
    under_way: Cell<u64>,
    /// The time since 1970 before which files aren't counted again.
    rested: Cell<Duration>,
}

impl Quota {
    /// Makes sure that there is room for an upload of `to` bytes, of which `from` are
    /// counted already, below `directory`.
    ///
    /// # Errors
    /// 3 if all together would be more than `limit` bytes.
    pub(super) fn ensure(
        &self,
        directory: BorrowedFd<'_>,
        limit: u64,
        from: u64,
        to: u64,
    ) -> Result<(), StorageError> {
        let others = self.under_way.get().saturating_sub(from);
        let fits = |stored: u64| stored.saturating_add(others).saturating_add(to) <= limit;
        if self.stored.get().is_some_and(fits) || fits(self.count(directory)) {
            return Ok(());
        }
        Err(StorageError::OVER_TOTAL)
    }

    /// Of what is under way, one upload's part is now `to` bytes instead of `from`.
    pub(super) fn expect(&self, from: u64, to: u64) {
        let others = self.under_way.get().saturating_sub(from);
        self.under_way.set(others.saturating_add(to));
    }

    /// An upload of `bytes` is in place, and `freed` bytes of others are gone.
    pub(super) fn store(&self, bytes: u64, freed: u64) {
        let stored = self.stored.get();
        let stored = stored.map(|it| it.saturating_add(bytes).saturating_sub(freed));
        self.stored.set(stored);
    }

    /// The bytes of all files below `directory`, counted anew if that wasn't done just
    /// before.
    fn count(&self, directory: BorrowedFd<'_>) -> u64 {
        let start = now();
        if let Some(stored) = self.stored.get()
            && start < self.rested.get()
        {
            return stored;
        }
        let mut counted = Counted::default();
        counted.add(directory, 0);
        if counted.entries >= MAX_ENTRIES {
            warn!("more than {MAX_ENTRIES} names below the directory for uploads: not all count");
        }
        let end = now();
        self.rested
            .set(end + end.saturating_sub(start) * REST + SHORTEST_REST);
        self.stored.set(Some(counted.bytes));
        counted.bytes
    }
}

#[derive(Debug, Default)]
struct Counted {
    entries: usize,
    bytes: u64,
}

impl Counted {
    /// Adds what is below `directory`, which is `depth` directories deep.
    fn add(&mut self, directory: BorrowedFd<'_>, depth: usize) {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = |name: &[u8]| openat(directory, name, flags, Mode::empty());
        let Ok(mut entries) = open(b".").and_then(Dir::from_fd) else {
            return;
        };
        for entry in entries.iter().flatten() {
            let name = entry.file_name().to_bytes();
            if self.entries >= MAX_ENTRIES || matches!(name, b"." | b"..") {
                continue;
            }
            self.entries += 1;
            // Uploads on their way are counted apart.
            let Ok(stat) = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) else {
                continue;
            };
            match kind(&stat) {
                SFlag::S_IFREG if !is_ours(name) => {
                    self.bytes += u64::try_from(stat.st_size).unwrap_or(0);
                }
                SFlag::S_IFDIR if depth < MAX_DEPTH => {
                    let opened: nix::Result<OwnedFd> = open(name);
                    if let Ok(directory) = opened {
                        self.add(directory.as_fd(), depth + 1);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Names that are looked at to count files: some tenths of a second.
const MAX_ENTRIES: usize = 100_000;

/// How many times as long as counting took it isn't done again, and how long at least.
const REST: u32 = 20;
const SHORTEST_REST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn files_count_wherever_they_are_and_links_do_not() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path();
        fs::create_dir_all(path.join("a/b")).unwrap();
        for (name, bytes) in [
            ("one", 10),
            ("a/two", 20),
            ("a/b/three", 30),
            (".tftpd-1-0", 500),
        ] {
            fs::write(path.join(name), vec![0; bytes]).unwrap();
        }
        std::os::unix::fs::symlink("one", path.join("link")).unwrap();
        let directory = File::open(path).unwrap();
        let quota = Quota::default();
        let ensure = |from, to| quota.ensure(directory.as_fd(), 100, from, to);
        assert_eq!(ensure(0, 40), Ok(()));
        assert_eq!(ensure(0, 41), Err(StorageError::OVER_TOTAL));
        quota.expect(0, 30);
        assert_eq!(ensure(0, 10), Ok(()));
        assert_eq!(ensure(0, 11), Err(StorageError::OVER_TOTAL));
        assert_eq!(ensure(30, 40), Ok(()));
        quota.expect(30, 0);
        quota.store(30, 20);
        assert_eq!(ensure(0, 31), Err(StorageError::OVER_TOTAL));
        // What was removed gives room, sooner or later.
        fs::remove_file(path.join("a/b/three")).unwrap();
        quota.rested.set(Duration::ZERO);
        assert_eq!(ensure(0, 70), Ok(()));
    }

    #[test]
    fn a_part_of_the_disk_is_a_number_of_bytes() {
        assert_eq!(MinFree::Bytes(5).of(1000), 5);
        assert_eq!(MinFree::Percent(5).of(1000), 50);
        assert_eq!(MinFree::Percent(100).of(u64::MAX), u64::MAX / 100 * 100);
    }
}
