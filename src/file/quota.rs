//! How much disk space all uploads together may take, and how much they leave free.
//!
//! What a client has sent counts, and from its first block on a little of what else it
//! announced; a request alone counts nothing. Files are counted when the first data
//! comes, and again, though not too often, when there seems to be no room: others may
//! have removed some. Only the first count is made at once; the others take a slice of
//! the names in each turn of the loop. Must not: read a file, or trust a count that left
//! something out.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use log::warn;
use nix::dir::{Dir, OwningIter};
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
    /// The last count left something out.
    is_partial: Cell<bool>,
    under_way: Cell<u64>,
    /// The count under way, if there is one.
    count: RefCell<Option<Box<Count>>>,
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
    /// ERROR 3 if all together would be more than `total`, or if that isn't known.
    pub(super) fn ensure(
        &self,
        tops: &[impl AsFd],
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
        self.begin_count(tops, total.is_shared, entries);
        let is_new = from == 0;
        match self.stored.get() {
            // Others may have stored any number of files since.
            Some(_) if total.is_shared && is_new && self.is_partial.get() => {
                Err(StorageError::UNCOUNTED)
            }
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
        self.moves(bytes);
    }

    /// A file of `bytes` is about to get another name, or has one: a count under way may
    /// miss it. It may also see it, or the files that are gone: the sum is then too large
    /// until the next count.
    pub(super) fn moves(&self, bytes: u64) {
        if let Some(count) = &mut *self.count.borrow_mut() {
            count.moved = count.moved.saturating_add(bytes);
        }
    }

    /// Begins to count the files below the directories `tops` again, unless that was done
    /// just before or is being done. The first count is made at once.
    fn begin_count(&self, tops: &[impl AsFd], is_shared: bool, entries: &Cell<u64>) {
        let is_first = self.rested.get().is_zero();
        if self.is_counting() || now() < self.rested.get() {
            return;
        }
        let shortest_rest = if is_shared {
            Duration::ZERO
        } else {
            SHORTEST_REST
        };
        let count = Count::below(tops, shortest_rest);
        *self.count.borrow_mut() = Some(Box::new(count));
        entries.set(entries.get() + self.count_on(tops));
        while is_first && self.is_counting() {
            entries.set(entries.get() + self.count_on(tops));
        }
    }

    /// Whether [`Quota::count_on`] has something to do.
    pub(super) fn is_counting(&self) -> bool {
        self.count.borrow().is_some()
    }

    /// Looks at some more files below `tops`, if a count is under way. Returns how many.
    pub(super) fn count_on(&self, tops: &[impl AsFd]) -> u64 {
        let mut under_way = self.count.borrow_mut();
        let Some(count) = &mut *under_way else {
            return 0;
        };
        let before = count.names;
        let is_over = count.go_on(tops);
        let looked_at = count.names - before;
        if is_over {
            self.finish(count);
            *under_way = None;
        }
        looked_at as u64
    }

    /// Takes over the result of a count. One that left something out never lowers the
    /// known number.
    fn finish(&self, count: &Count) {
        let now = now();
        if let Some(why) = count.missed
            && now >= self.quiet.get()
        {
            self.quiet.set(now + TELL_AGAIN);
            warn!("the files below the directory for uploads can't be counted: {why}");
        }
        self.rested
            .set(now + count.took * REST + count.shortest_rest);
        let stored = match count.missed {
            None => Some(count.bytes.saturating_add(count.moved)),
            Some(_) => self.stored.get().map(|it| it.max(count.bytes)),
        };
        self.stored.set(stored);
        self.is_partial.set(count.missed.is_some());
    }
}

/// A count under way.
#[derive(Debug, Default)]
struct Count {
    /// The directories to count below, and their places in the list that is handed in.
    /// Each is counted once, even if it is below another.
    tops: Vec<(Id, usize)>,
    /// How many of them have been begun.
    begun: usize,
    /// The directories that are being read, the outermost first.
    open: Vec<OpenDirectory>,
    names: usize,
    bytes: u64,
    /// Bytes of files that it may have missed, because they were stored or moved meanwhile.
    moved: u64,
    /// Why some files weren't counted.
    missed: Option<&'static str>,
    took: Duration,
    /// How long no other follows, beyond [`REST`].
    shortest_rest: Duration,
}

/// A directory that is being read.
#[derive(Debug)]
struct OpenDirectory {
    descriptor: OwnedFd,
    entries: OwningIter,
}

impl OpenDirectory {
    fn open(parent: BorrowedFd<'_>, name: &[u8]) -> nix::Result<Self> {
        let descriptor = open(parent, name)?;
        let entries = Dir::from_fd(open(descriptor.as_fd(), b".")?)?.into_iter();
        Ok(Self {
            descriptor,
            entries,
        })
    }
}

impl Count {
    /// A count of the files below these directories.
    fn below(tops: &[impl AsFd], shortest_rest: Duration) -> Self {
        let mut count = Self {
            shortest_rest,
            ..Self::default()
        };
        for (place, top) in tops.iter().enumerate() {
            match id_of(top) {
                // A directory may be named twice.
                Ok(id) if count.is_top(id) => {}
                Ok(id) => count.tops.push((id, place)),
                Err(_) => count.missed = Some(UNREADABLE),
            }
        }
        count
    }

    fn is_top(&self, id: Id) -> bool {
        self.tops.iter().any(|it| it.0 == id)
    }

    /// Counts for a slice of its time. Returns whether it is over.
    fn go_on(&mut self, tops: &[impl AsFd]) -> bool {
        let start = now();
        let (mut steps, mut is_over, mut took) = (0, false, Duration::ZERO);
        while !is_over && steps < SLICE && took < LONGEST_SLICE {
            steps += 1;
            is_over = !self.step(tops);
            took = now().saturating_sub(start);
        }
        self.took += took;
        is_over
    }

    /// Takes the next name, or goes on to the next directory; `false` if there is none.
    fn step(&mut self, tops: &[impl AsFd]) -> bool {
        let Some(directory) = self.open.last_mut() else {
            let next = self.tops.get(self.begun).and_then(|it| tops.get(it.1));
            let Some(top) = next else {
                return false;
            };
            self.begun += 1;
            match OpenDirectory::open(top.as_fd(), b".") {
                Ok(top) => self.open.push(top),
                Err(_) => self.missed = Some(UNREADABLE),
            }
            return true;
        };
        match directory.entries.next() {
            None => drop(self.open.pop()),
            Some(Err(_)) => {
                self.missed = Some(UNREADABLE);
                self.open.pop();
            }
            Some(Ok(entry)) => {
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    return true;
                }
                if self.names >= MAX_ENTRIES {
                    self.missed = Some("there are more than 100,000 names");
                    return false;
                }
                self.names += 1;
                self.add(name);
            }
        }
        true
    }

    /// Adds what has this name in the innermost of the open directories.
    fn add(&mut self, name: &[u8]) {
        let depth = self.open.len();
        let Some(OpenDirectory { descriptor, .. }) = self.open.last() else {
            return;
        };
        let stat = match fstatat(descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
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
            SFlag::S_IFDIR if self.is_top(id(&stat)) => {}
            SFlag::S_IFDIR if depth > MAX_DEPTH => {
                self.missed = Some("directories are too deep");
            }
            SFlag::S_IFDIR => match OpenDirectory::open(descriptor.as_fd(), name) {
                Ok(directory) => self.open.push(directory),
                Err(Errno::ENOENT) => {}
                // No upload goes where we can't enter, such as lost+found.
                Err(Errno::EACCES) if !can_enter(descriptor.as_fd(), name) => {}
                Err(_) => self.missed = Some(UNREADABLE),
            },
            _ => {}
        }
    }
}

const UNREADABLE: &str = "a directory can't be read";

fn open(directory: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

fn can_enter(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    faccessat(directory, name, AccessFlags::X_OK, AtFlags::AT_EACCESS).is_ok()
}

/// The most names looked at to count files; takes some tenths of a second.
const MAX_ENTRIES: usize = 100_000;

/// Names that are looked at in a turn of the loop, if that doesn't take too long: a disk
/// may be slow.
const SLICE: usize = 256;
const LONGEST_SLICE: Duration = Duration::from_micros(500);

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

    /// However many files there are, nobody waits until all are counted again.
    #[test]
    fn only_the_first_count_is_made_at_once() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path();
        for directory in ["a", "b/c"] {
            let directory = path.join(directory);
            fs::create_dir_all(&directory).unwrap();
            for number in 0..SLICE {
                fs::write(directory.join(number.to_string()), "x").unwrap();
            }
        }
        let all = 2 * SLICE as u64;
        let directory = File::open(path).unwrap();
        let tops = [directory.as_fd()];
        for is_shared in [false, true] {
            let (quota, entries) = (Quota::default(), Cell::default());
            let total = Total {
                bytes: all + 100,
                is_shared,
            };
            let ensure = |to| quota.ensure(&tops, total, 0, to, &entries);
            assert_eq!(ensure(100), Ok(()));
            assert_eq!(entries.take(), all + 3);
            assert!(!quota.is_counting());

            // Of another process.
            fs::write(path.join("theirs"), [0; 50]).unwrap();
            quota.rested.set(Duration::from_nanos(1));
            assert_eq!(ensure(101), Err(StorageError::OVER_TOTAL));
            assert_eq!(ensure(100), Ok(()));
            assert!((1..=SLICE as u64).contains(&entries.take()));
            // Our own files count, whether they were seen or not.
            quota.store(20, 5);
            quota.moves(3);
            let mut turns = 0;
            while quota.is_counting() {
                quota.count_on(&tops);
                turns += 1;
            }
            assert!(turns > 1);
            assert_eq!(quota.stored.get(), Some(all + 50 + 20 + 3));
            assert_eq!(entries.take(), 0);
            assert_eq!(ensure(100), Err(StorageError::OVER_TOTAL));
            fs::remove_file(path.join("theirs")).unwrap();
        }
    }

    /// What others have stored isn't known then.
    #[test]
    fn where_others_store_files_no_upload_begins_while_they_cannot_be_counted() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path();
        let directory = File::open(path).unwrap();
        for (is_shared, refused) in [(true, Err(StorageError::UNCOUNTED)), (false, Ok(()))] {
            let quota = Quota::default();
            let total = Total { is_shared, ..OWN };
            let ensure = |from, to| {
                quota.rested.set(Duration::ZERO);
                quota.ensure(&[directory.as_fd()], total, from, to, &Cell::default())
            };
            assert_eq!(ensure(0, 40), Ok(()));
            quota.expect(0, 40);
            fs::create_dir_all(path.join("d/".repeat(MAX_DEPTH + 1))).unwrap();
            assert_eq!(ensure(0, 40), refused);
            assert_eq!(ensure(40, 50), Ok(()));
            fs::remove_dir_all(path.join("d")).unwrap();
            assert_eq!(ensure(0, 40), Ok(()));
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
