//! How much disk space all uploads together may take, and how much they leave free.
//!
//! What a client has sent counts, and from its first block on a little of what else it
//! announced; a request alone counts nothing. Files are counted when the first data
//! comes, and again, though not too often, when there seems to be no room: others may
//! have removed some. Must not: read a file, or trust a count that left something out.

use std::cell::Cell;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use log::warn;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{AccessFlags, faccessat};

use super::error::StorageError;
use super::publish::{is_ours, now};
use super::walk::{Id, MAX_DEPTH, id, id_of, kind};

/// How much stays free on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinFree {
    /// Bytes.
    Bytes(u64),
    /// Hundredths of the disk's size.
    Percent(u8),
}

/// As on the command line.
impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => Size(bytes).fmt(f),
        }
    }
}

/// A number of bytes, shown with the largest unit that leaves it whole.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        let whole = |(shift, _): &(u32, _)| bytes > 0 && bytes.trailing_zeros() >= *shift;
        let (shift, unit) = units.into_iter().find(whole).unwrap_or((0, ""));
        write!(f, "{}{unit}", bytes >> shift)
    }
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

/// The most that all uploads together may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// Bytes of all files where uploads go.
    pub bytes: u64,
    /// Other processes store files there too: a count doesn't hold for long.
    pub is_shared: bool,
}

/// The bytes of all files where uploads go, and of this process's uploads under way.
#[derive(Debug, Default)]
pub(super) struct Quota {
    /// Bytes of the files; `None` before they were counted.
    stored: Cell<Option<u64>>,
    under_way: Cell<u64>,
    /// The time since 1970 before which files aren't counted again.
    rested: Cell<Duration>,
    /// The time since 1970 before which the log isn't told again what was left out.
    quiet: Cell<Duration>,
}

impl Quota {
    /// Makes sure that there is room for an upload of `to` bytes, of which `from` are
    /// counted already, below the directories `tops`. Directory entries that are read are
    /// added to `entries`.
    ///
    /// # Errors
    /// ERROR 3 if all together would be more than `total`.
    pub(super) fn ensure(
        &self,
        tops: &[BorrowedFd<'_>],
        total: Total,
        from: u64,
        to: u64,
        entries: &Cell<u64>,
    ) -> Result<(), StorageError> {
        let others = self.under_way.get().saturating_sub(from);
        let fits = |stored: u64| stored.saturating_add(others).saturating_add(to) <= total.bytes;
        if !total.is_shared && self.stored.get().is_some_and(fits) {
            return Ok(());
        }
        let shortest_rest = if total.is_shared {
            Duration::ZERO
        } else {
            SHORTEST_REST
        };
        match self.count(tops, shortest_rest, entries) {
            Some(stored) if fits(stored) => Ok(()),
            Some(_) => Err(StorageError::OVER_TOTAL),
            None => Err(StorageError::UNCOUNTED),
        }
    }

    /// Refuses an upload of `announced` bytes if they are known not to fit. Counts no
    /// files, which takes long: requests can be forged.
    ///
    /// # Errors
    /// ERROR 3 if they don't fit.
    pub(super) fn may_fit(&self, limit: u64, announced: u64) -> Result<(), StorageError> {
        // After `rested`, files are counted again with the first data.
        let stored = self.stored.get().filter(|_| now() < self.rested.get());
        let others = stored.map_or(0, |it| it.saturating_add(self.under_way.get()));
        if others.saturating_add(announced) > limit {
            return Err(StorageError::OVER_TOTAL);
        }
        Ok(())
    }

    /// One upload's part of the bytes under way is now `to` instead of `from`.
    pub(super) fn expect(&self, from: u64, to: u64) {
        let others = self.under_way.get().saturating_sub(from);
        self.under_way.set(others.saturating_add(to));
    }

    /// An upload of `bytes` is in place, and `freed` bytes of other files are gone.
    pub(super) fn store(&self, bytes: u64, freed: u64) {
        let stored = self.stored.get();
        let stored = stored.map(|it| it.saturating_add(bytes).saturating_sub(freed));
        self.stored.set(stored);
    }

    /// The bytes of all files below the directories `tops`, counted again unless that was
    /// done just before; `None` if they couldn't be counted. A count that left something
    /// out never lowers the known number.
    fn count(
        &self,
        tops: &[BorrowedFd<'_>],
        shortest_rest: Duration,
        entries: &Cell<u64>,
    ) -> Option<u64> {
        let start = now();
        let known = self.stored.get();
        if start < self.rested.get() {
            return known;
        }
        let mut counted = Counted::default();
        counted.add_all(tops);
        entries.set(entries.get() + counted.entries as u64);
        if let Some(why) = counted.missed
            && start >= self.quiet.get()
        {
            self.quiet.set(start + TELL_AGAIN);
            warn!("the files below the directory for uploads can't be counted: {why}");
        }
        let end = now();
        self.rested
            .set(end + end.saturating_sub(start) * REST + shortest_rest);
        let stored = match counted.missed {
            None => Some(counted.bytes),
            Some(_) => known.map(|it| it.max(counted.bytes)),
        };
        self.stored.set(stored);
        stored
    }
}

#[derive(Debug, Default)]
struct Counted {
    /// The directories to count below. Each is counted once, even if it is below another.
    tops: Vec<Id>,
    entries: usize,
    bytes: u64,
    /// Why some files weren't counted.
    missed: Option<&'static str>,
}

impl Counted {
    /// Adds what is below these directories.
    fn add_all(&mut self, tops: &[BorrowedFd<'_>]) {
        for top in tops {
            let Ok(id) = id_of(top) else {
                self.missed = Some("a directory can't be read");
                return;
            };
            if !self.tops.contains(&id) {
                self.tops.push(id);
            }
        }
        let mut added = Vec::new();
        for top in tops {
            // A directory may be named twice.
            if let Ok(id) = id_of(top)
                && !added.contains(&id)
            {
                added.push(id);
                self.add(*top, 0);
            }
        }
    }

    /// Adds what is below `directory`, which is `depth` directories deep.
    fn add(&mut self, directory: BorrowedFd<'_>, depth: usize) {
        let Ok(mut entries) = open(directory, b".").and_then(Dir::from_fd) else {
            self.missed = Some("a directory can't be read");
            return;
        };
        for entry in entries.iter() {
            let Ok(entry) = entry else {
                self.missed = Some("a directory can't be read");
                return;
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if self.entries >= MAX_ENTRIES {
                self.missed = Some("there are more than 100,000 names");
                return;
            }
            self.entries += 1;
            self.add_entry(directory, name, depth);
        }
    }

    fn add_entry(&mut self, directory: BorrowedFd<'_>, name: &[u8], depth: usize) {
        let stat = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return,
            Err(_) => {
                self.missed = Some("a file can't be looked at");
                return;
            }
        };
        match kind(&stat) {
            // Uploads under way are counted elsewhere.
            SFlag::S_IFREG if !is_ours(name) => {
                self.bytes += u64::try_from(stat.st_size).unwrap_or(0);
            }
            SFlag::S_IFDIR if self.tops.contains(&id(&stat)) => {}
            SFlag::S_IFDIR if depth == MAX_DEPTH => {
                self.missed = Some("directories are too deep");
            }
            SFlag::S_IFDIR => match open(directory, name) {
                Ok(directory) => self.add(directory.as_fd(), depth + 1),
                Err(Errno::ENOENT) => {}
                // No upload goes where we can't enter, such as lost+found.
                Err(Errno::EACCES) if !can_enter(directory, name) => {}
                Err(_) => self.missed = Some("a directory can't be read"),
            },
            _ => {}
        }
    }
}

fn open(directory: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

fn can_enter(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    faccessat(directory, name, AccessFlags::X_OK, AtFlags::AT_EACCESS).is_ok()
}

/// The most names looked at to count files; takes some tenths of a second.
const MAX_ENTRIES: usize = 100_000;

/// After a count, none follows for this many times as long as it took and, if only this
/// process stores files, for the shortest rest on top.
const REST: u32 = 20;
const SHORTEST_REST: Duration = Duration::from_millis(100);

/// The log hears at most this often that files can't be counted: where other processes
/// store some, each block may have them counted.
const TELL_AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    const OWN: Total = Total {
        bytes: 100,
        is_shared: false,
    };

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
        let entries = Cell::default();
        let ensure = |from, to| quota.ensure(&[directory.as_fd()], OWN, from, to, &entries);
        assert_eq!(ensure(0, 40), Ok(()));
        assert_eq!(ensure(0, 41), Err(StorageError::OVER_TOTAL));
        quota.expect(0, 30);
        assert_eq!(ensure(0, 10), Ok(()));
        assert_eq!(ensure(0, 11), Err(StorageError::OVER_TOTAL));
        assert_eq!(ensure(30, 40), Ok(()));
        quota.expect(30, 0);
        quota.store(30, 20);
        assert_eq!(ensure(0, 31), Err(StorageError::OVER_TOTAL));
        // Removing a file makes room, with the next count.
        fs::remove_file(path.join("a/b/three")).unwrap();
        quota.rested.set(Duration::ZERO);
        assert_eq!(ensure(0, 70), Ok(()));
        assert!(entries.get() > 6);
    }

    /// Such as the directories of per-client rules.
    #[test]
    fn files_of_several_directories_count_and_each_once() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path();
        fs::create_dir_all(path.join("root/below")).unwrap();
        fs::create_dir_all(path.join("beside")).unwrap();
        for (name, bytes) in [("root/one", 10), ("root/below/two", 20), ("beside/f", 30)] {
            fs::write(path.join(name), vec![0; bytes]).unwrap();
        }
        let open = |name: &str| File::open(path.join(name)).unwrap();
        let directories = ["root", "root/below", "beside", "root"].map(open);
        let tops = directories.each_ref().map(AsFd::as_fd);
        let quota = Quota::default();
        let entries = Cell::default();
        assert_eq!(quota.ensure(&tops, OWN, 0, 40, &entries), Ok(()));
        let over = quota.ensure(&tops, OWN, 0, 41, &entries);
        assert_eq!(over, Err(StorageError::OVER_TOTAL));
    }

    /// A file of another process is seen although there seems to be room.
    #[test]
    fn where_others_store_files_a_count_does_not_hold_for_long() {
        let base = tempfile::tempdir().unwrap();
        let directory = File::open(base.path()).unwrap();
        for is_shared in [false, true] {
            let quota = Quota::default();
            let total = Total { is_shared, ..OWN };
            let ensure = |to| {
                quota.rested.set(Duration::ZERO);
                quota.ensure(&[directory.as_fd()], total, 0, to, &Cell::default())
            };
            fs::write(base.path().join("theirs"), [0; 10]).unwrap();
            assert_eq!(ensure(90), Ok(()));
            fs::write(base.path().join("theirs"), [0; 60]).unwrap();
            assert_eq!(ensure(41).is_err(), is_shared);
            assert_eq!(ensure(40), Ok(()));
        }
    }

    /// Here because a directory is too deep.
    #[test]
    fn a_count_that_misses_something_makes_no_room() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path();
        let deep = path.join("d/".repeat(MAX_DEPTH + 1));
        let directory = File::open(path).unwrap();
        for (is_known, first) in [(true, Ok(())), (false, Err(StorageError::UNCOUNTED))] {
            let quota = Quota::default();
            let ensure = |to| {
                quota.rested.set(Duration::ZERO);
                quota.ensure(&[directory.as_fd()], OWN, 0, to, &Cell::default())
            };
            if is_known {
                fs::write(path.join("f"), [0; 60]).unwrap();
                assert_eq!(ensure(40), Ok(()));
                fs::remove_file(path.join("f")).unwrap();
            }
            fs::create_dir_all(&deep).unwrap();
            assert_eq!(ensure(40), first);
            assert!(ensure(41).is_err());
            quota.store(0, 20);
            assert_eq!(ensure(60), first);
            // Once everything can be counted again, there is room.
            fs::remove_dir_all(path.join("d")).unwrap();
            assert_eq!(ensure(100), Ok(()));
        }
    }

    /// Requests can be forged: they must cost little.
    #[test]
    fn a_request_alone_counts_no_files() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("f"), [0; 60]).unwrap();
        let directory = File::open(base.path()).unwrap();
        let quota = Quota::default();
        assert_eq!(quota.may_fit(100, 101), Err(StorageError::OVER_TOTAL));
        assert_eq!(quota.may_fit(100, 100), Ok(()));
        assert_eq!(quota.stored.get(), None);
        let ensured = quota.ensure(&[directory.as_fd()], OWN, 0, 1, &Cell::default());
        assert_eq!(ensured, Ok(()));
        quota.rested.set(now() + Duration::from_secs(60));
        assert_eq!(quota.may_fit(100, 41), Err(StorageError::OVER_TOTAL));
        quota.rested.set(Duration::ZERO);
        assert_eq!(quota.may_fit(100, 41), Ok(()));
    }

    #[test]
    fn a_part_of_the_disk_is_a_number_of_bytes() {
        assert_eq!(MinFree::Bytes(5).of(1000), 5);
        assert_eq!(MinFree::Percent(5).of(1000), 50);
        assert_eq!(MinFree::Percent(100).of(u64::MAX), u64::MAX / 100 * 100);
    }
}
