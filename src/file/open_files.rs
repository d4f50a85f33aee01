//! The files that are being read: each is open once, however many transfers read it.
//!
//! After its name has been resolved, a file is found by its device and inode, its size
//! and its times. So a file that was replaced or written to counts as a different one,
//! and transfers that began earlier go on with what they have. In one batch of requests,
//! a name that is asked for several times in a row is resolved once.
//!
//! A transfer that joins others opens nothing, except on NFS, where only opening a file
//! tells whether the server has changed it. That saves descriptors, and time: opening a
//! file may wait for the reads of it that are under way (FUSE).
//! Must not: resolve names, or keep a file open that nobody reads.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};

use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::sys::statfs::{NFS_SUPER_MAGIC, fstatfs};

use super::directory::Directory;
use super::error::StorageError;
use super::fetch::Fetch;
use super::name::Name;
use super::walk::{Id, Timestamp, id, kind};

/// How files are opened: without waiting for a FIFO or a terminal.
pub(super) const FOR_READING: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_LARGEFILE);

/// Tells a file from others, and from what it was before it was written to. The inode
/// number of a deleted file is soon reused: hence size and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    id: Id,
    size: i64,
    modified: Timestamp,
}

impl Identity {
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // Narrower on 32-bit systems.
    pub(super) fn of(stat: &FileStat) -> Self {
        Self {
            id: id(stat),
            size: stat.st_size as i64,
            modified: Timestamp::modified(stat),
        }
    }
}

/// What an open file is found by: its [`Identity`], and when anything about it changed
/// last. So a file whose permissions were changed is opened again, which may no longer
/// be allowed.
type Key = (Identity, Timestamp);

fn key(stat: &FileStat) -> Key {
    (Identity::of(stat), Timestamp::changed(stat))
}

/// Refuses what isn't a regular file.
pub(super) fn check_kind(stat: &FileStat) -> Result<(), StorageError> {
    match kind(stat) {
        SFlag::S_IFREG => Ok(()),
        SFlag::S_IFDIR => Err(StorageError::IS_DIRECTORY),
        _ => Err(StorageError::NOT_REGULAR),
    }
}

/// How a file is read without waiting for its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The read itself says that it would have to wait.
    NoWait,
    /// The read can't; each read first looks which pages are in memory. Pages that
    /// were there once are taken to be there still, unless it is to look `again`.
    Look { again: bool },
    /// The read waits, or never has to.
    Wait,
}

/// A regular file that is open for reading, for all transfers that read it.
#[derive(Debug)]
pub(super) struct OpenFile {
    descriptor: OwnedFd,
    key: Key,
    /// The way of reading that was found to work.
    pub(super) way: Cell<Way>,
    /// What is being fetched into memory for some of these transfers.
    pub(super) fetch: RefCell<Weak<Fetch>>,
    /// The list that counts it.
    counted_in: Weak<OpenFiles>,
    /// A serial number that is never used again, if other transfers find it in the list.
    number: Option<u64>,
    /// Whether another host may change it before our kernel notices.
    is_remote: OnceCell<bool>,
}

impl OpenFile {
    /// Takes over a regular file's descriptor; no other transfer finds it.
    pub(super) fn alone(descriptor: OwnedFd) -> Result<Rc<Self>, StorageError> {
        Self::unlisted(descriptor, Weak::new())
    }

    fn unlisted(
        descriptor: OwnedFd,
        counted_in: Weak<OpenFiles>,
    ) -> Result<Rc<Self>, StorageError> {
        let stat = fstat(&descriptor)?;
        check_kind(&stat)?;
        let file = Self::new(descriptor, key(&stat), counted_in, None);
        Ok(Rc::new(file))
    }

    fn new(
        descriptor: OwnedFd,
        key: Key,
        counted_in: Weak<OpenFiles>,
        number: Option<u64>,
    ) -> Self {
        Self {
            descriptor,
            key,
            way: Cell::new(Way::NoWait),
            fetch: RefCell::default(),
            counted_in,
            number,
            is_remote: OnceCell::new(),
        }
    }

    /// The file's size when it was opened, in bytes.
    pub(super) fn size(&self) -> u64 {
        u64::try_from(self.identity().size).unwrap_or(0)
    }

    pub(super) const fn identity(&self) -> Identity {
        self.key.0
    }

    /// Its number, if other transfers have it open as well.
    pub(super) fn sharing_key(self: &Rc<Self>) -> Option<u64> {
        self.number.filter(|_| Rc::strong_count(self) > 1)
    }

    /// NFS asks its server for the file's current state only when the file is opened.
    fn is_remote(&self) -> bool {
        *self.is_remote.get_or_init(|| {
            let system = fstatfs(&self.descriptor).map(|it| it.filesystem_type());
            system == Ok(NFS_SUPER_MAGIC)
        })
    }

    /// Whether the file was written to since it was opened: what was read of it
    /// may be part old, part new.
    pub(super) fn has_changed(&self) -> bool {
        fstat(&self.descriptor).is_ok_and(|now| Identity::of(&now) != self.identity())
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        match self.counted_in.upgrade() {
            Some(files) if self.number.is_some() => {
                files.open.borrow_mut().remove(&self.key);
            }
            Some(files) => files.unlisted.set(files.unlisted.get() - 1),
            None => {}
        }
    }
}

/// All files that are being read.
#[derive(Debug, Default)]
pub struct OpenFiles {
    open: RefCell<BTreeMap<Key, Weak<OpenFile>>>,
    /// How many were ever added to `open`.
    opened: Cell<u64>,
    /// How many more are open that no other transfer finds.
    unlisted: Cell<usize>,
    /// Whether a batch of requests is being handled.
    in_batch: Cell<bool>,
    latest: RefCell<Option<Latest>>,
}

/// The file that was found last, and where.
#[derive(Debug)]
struct Latest {
    directory: Rc<Directory>,
    name: Name,
    file: Weak<OpenFile>,
}

impl OpenFiles {
    /// How many files are open.
    pub fn count(&self) -> usize {
        self.open.borrow().len() + self.unlisted.get()
    }

    /// [`OpenFile::alone`], but counted.
    pub(super) fn unlisted(
        self: &Rc<Self>,
        descriptor: OwnedFd,
    ) -> Result<Rc<OpenFile>, StorageError> {
        let file = OpenFile::unlisted(descriptor, Rc::downgrade(self))?;
        self.unlisted.set(self.unlisted.get() + 1);
        Ok(file)
    }

    /// The file that `found` describes: an open one, or else one opened by `open`, which
    /// may be another one by then.
    ///
    /// # Errors
    /// ERROR 2 for what isn't a regular file; those of `open`.
    pub(super) fn get(
        self: &Rc<Self>,
        found: &FileStat,
        open: impl FnOnce() -> Result<OwnedFd, StorageError>,
    ) -> Result<Rc<OpenFile>, StorageError> {
        check_kind(found)?;
        if let Some(file) = self.known(&key(found))
            && !file.is_remote()
        {
            return Ok(file);
        }
        let descriptor = open()?;
        let stat = fstat(&descriptor)?;
        check_kind(&stat)?;
        let key = key(&stat);
        if let Some(file) = self.known(&key) {
            return Ok(file);
        }
        let number = Some(self.opened.get());
        self.opened.set(self.opened.get() + 1);
        let file = Rc::new(OpenFile::new(descriptor, key, Rc::downgrade(self), number));
        self.open.borrow_mut().insert(key, Rc::downgrade(&file));
        Ok(file)
    }

    fn known(&self, key: &Key) -> Option<Rc<OpenFile>> {
        self.open.borrow().get(key)?.upgrade()
    }

    /// Until [`OpenFiles::end_batch`], a name that is asked for several times in a row is
    /// resolved once.
    pub(super) fn begin_batch(&self) {
        self.in_batch.set(true);
    }

    pub(super) fn end_batch(&self) {
        self.in_batch.set(false);
        *self.latest.borrow_mut() = None;
    }

    /// The file that was found last in this batch, if it was found by this `name` in
    /// this `directory`.
    pub(super) fn latest(&self, directory: &Rc<Directory>, name: &Name) -> Option<Rc<OpenFile>> {
        let latest = self.latest.borrow();
        let latest = latest.as_ref()?;
        let is_same = Rc::ptr_eq(&latest.directory, directory) && *latest.name == **name;
        latest.file.upgrade().filter(|_| is_same)
    }

    /// Notes that this `name` in this `directory` leads to `file`.
    pub(super) fn found(&self, directory: &Rc<Directory>, name: &Name, file: &Rc<OpenFile>) {
        if self.in_batch.get() {
            *self.latest.borrow_mut() = Some(Latest {
                directory: Rc::clone(directory),
                name: *name,
                file: Rc::downgrade(file),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, ReadAt as _, ReadFile, Root};
    use crate::wire::packet::Direction;
    use std::fs::{self, OpenOptions, Permissions};
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn read(file: &mut ReadFile) -> Vec<u8> {
        let mut buffer = [0; 100];
        let read = file.read_at(0, &mut buffer).unwrap().unwrap();
        buffer[..read].to_vec()
    }

    #[test]
    fn a_file_is_open_once_while_it_is_read_and_no_longer() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        fs::write(path("f"), "f").unwrap();
        fs::create_dir(path("own")).unwrap();
        fs::hard_link(path("f"), path("own/same")).unwrap();
        fs::write(path("other"), "other").unwrap();
        let root = Root::open(base.path(), Policy::default()).unwrap();
        let own = root.below(b"own").unwrap().unwrap();
        let name = root.name(b"f", Direction::Read).unwrap();
        let mut files = vec![
            root.open_read(b"f").unwrap(),
            root.open_read(b"/own/../f").unwrap(),
            root.open_closable(&name).unwrap(),
            own.open_read(b"same").unwrap(),
        ];
        assert_eq!(root.open_files().count(), 1);
        let number = files[0].sharing_key();
        assert!(number.is_some());
        assert!(files.iter().all(|it| it.sharing_key() == number));
        files.push(root.open_read(b"other").unwrap());
        assert_eq!(root.open_files().count(), 2);
        assert!(files[4].sharing_key().is_none());
        for file in &mut files {
            let size = file.size();
            assert_eq!(read(file).len() as u64, size);
        }
        files.truncate(1);
        assert_eq!(root.open_files().count(), 1);
        assert!(files[0].sharing_key().is_none());
        drop(files);
        assert_eq!(root.open_files().count(), 0);
    }

    #[test]
    fn a_file_that_a_helper_opened_is_found_by_nobody() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("f");
        fs::write(&path, "f").unwrap();
        let root = Root::open(base.path(), Policy::default()).unwrap();
        let writing = OpenOptions::new().write(true).open(&path).unwrap();
        let given = root.given(&writing.into()).unwrap();
        assert_eq!(root.open_files().count(), 1);
        let mut named = root.open_read(b"f").unwrap();
        assert_eq!(read(&mut named), b"f");
        assert!(named.sharing_key().is_none() && given.sharing_key().is_none());
        assert_eq!(root.open_files().count(), 2);
        drop((given, named));
        assert_eq!(root.open_files().count(), 0);
    }

    #[test]
    fn a_file_that_is_opened_again_joins_its_other_readers() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("f"), "f").unwrap();
        let root = Root::open(base.path(), Policy::default()).unwrap();
        let name = root.name(b"f", Direction::Read).unwrap();
        let mut closed = root.open_closable(&name).unwrap();
        closed.close();
        assert_eq!(root.open_files().count(), 0);
        let other = root.open_read(b"f").unwrap();
        assert_eq!(read(&mut closed), b"f");
        assert_eq!(root.open_files().count(), 1);
        drop(other);
        assert_eq!(read(&mut closed), b"f");
        closed.close();
        assert_eq!(root.open_files().count(), 0);
    }

    #[test]
    fn a_file_that_was_replaced_written_to_or_made_private_is_opened_again() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("f");
        fs::write(&path, "old").unwrap();
        let root = Root::open(base.path(), Policy::default()).unwrap();
        let mut old = root.open_read(b"f").unwrap();
        let new = base.path().join("new");
        fs::write(&new, "new").unwrap();
        fs::rename(&new, &path).unwrap();
        let mut replaced = root.open_read(b"f").unwrap();
        assert_eq!(root.open_files().count(), 2);
        let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
        writer.write_all(b"er").unwrap();
        let mut longer = root.open_read(b"f").unwrap();
        assert_eq!(root.open_files().count(), 3);
        assert_eq!(read(&mut old), b"old");
        assert_eq!(read(&mut longer), b"newer");
        // The promised size.
        assert_eq!(replaced.size(), 3);
        assert!(replaced.has_changed() && !longer.has_changed());
        assert_eq!(read(&mut replaced), b"newer");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let _again = root.open_read(b"f").unwrap();
        assert_eq!(root.open_files().count(), 4);
    }

    #[test]
    fn a_name_is_resolved_once_in_a_batch() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("f");
        let (aside, new) = (base.path().join("aside"), base.path().join("new"));
        fs::write(&path, "old").unwrap();
        fs::write(&new, "new").unwrap();
        let root = Root::open(base.path(), Policy::default()).unwrap();
        let now = || read(&mut root.open_read(b"f").unwrap());
        root.begin_batch();
        let _reader = root.open_read(b"f").unwrap();
        // In the same batch.
        fs::rename(&path, &aside).unwrap();
        assert_eq!(now(), b"old");
        assert!(root.open_read(b"missing").is_err());
        assert_eq!(now(), b"old");
        assert_eq!(root.open_files().count(), 1);
        root.end_batch();
        assert!(root.open_read(b"f").is_err());
        fs::rename(&new, &path).unwrap();
        assert_eq!(now(), b"new");
    }
}
