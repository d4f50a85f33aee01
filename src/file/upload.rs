//! A file being written: seen by nobody before it is whole.
//!
//! The request alone makes nothing: only the directory, the name and the rights are
//! checked. From the first block on, data goes to a file without a name in the target's
//! directory; the file gets its name at the end, in one step (`publish`). Dropped before
//! that, it is gone. It is also gone after a crash or kill -9, since the kernel frees a
//! file without a name; where it takes a temporary name, see `publish`.
//!
//! Two uploads of one name don't know of each other. The first to finish gets the name;
//! the second is then refused (ERROR 6), replaces it, makes it an old version, or gets
//! another name. Must not: show a name before the data is where it belongs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use log::warn;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::libc::dev_t;
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, fstatfs};
use nix::sys::uio::pwrite;
use nix::unistd::{
    AccessFlags, UnlinkatFlags, close, dup, faccessat, fchown, fsync, ftruncate, linkat, unlinkat,
};

use super::error::StorageError;
use super::existing::{Replaced, Taken, look_at_existing};
use super::file_offset;
use super::made_dirs::Held;
use super::policy::Policy;
use super::publish::{self, Publisher};
use super::space::{AHEAD, Reserve, Uploads};
use super::upload_rules::Versions;
use super::version_name;
use super::versions::{self, Kept, size_of};

/// An upload under way. [`Upload::commit`] puts the file in place; dropping the upload
/// removes it. Holds two descriptors: the directory's, and the file's or, before the
/// first data, a spare one.
#[derive(Debug)]
pub struct Upload {
    directory: OwnedFd,
    /// The path of directories to be made below `directory` first, if any.
    missing: Box<[u8]>,
    /// The directories made for uploads that are on its way.
    held: Held,
    device: dev_t,
    name: Box<[u8]>,
    made: Option<Made>,
    /// What happens if a file has the name.
    taken: Taken,
    /// Keeps a descriptor free for the file until it is made: an upload that was
    /// accepted must not fail because others took the last one.
    spare: Option<OwnedFd>,
    /// The file that had the name when the upload began.
    replaced: Option<Replaced>,
    policy: Policy,
    publisher: Publisher,
    /// Bytes that the client said would come.
    announced: u64,
    /// How many of these have no place on the disk yet; 0 before the first block.
    expected: u64,
    length: u64,
    /// What counts towards the total of all uploads, in bytes; 0 before the first block.
    counted: u64,
    uploads: Rc<Uploads>,
}

/// The file that the data goes to.
#[derive(Debug)]
struct Made {
    file: OwnedFd,
    /// The temporary name to remove, if there is one.
    temporary: Option<String>,
    serial: u64,
    reserve: Reserve,
}

impl Upload {
    /// Starts an upload that is to become `name` in `directory`, or in the directories
    /// `missing` below it, which are then to be made. Makes nothing yet.
    pub(super) fn begin(
        directory: OwnedFd,
        missing: &[u8],
        name: &[u8],
        announced: Option<u64>,
        policy: Policy,
        publisher: Publisher,
        uploads: Rc<Uploads>,
    ) -> Result<Self, StorageError> {
        let announced = announced.unwrap_or(0);
        if policy.max_upload.is_some_and(|limit| announced > limit) {
            return Err(StorageError::OVER_LIMIT);
        }
        if let Some(total) = policy.uploads.max_total() {
            uploads.quota.may_fit(total.bytes, announced)?;
        }
        if let Some(Versions { format, .. }) = policy.uploads.versions() {
            let mut to_make = missing.split(|&byte| byte == b'/');
            if to_make.any(|directory| version_name::is_version(directory, format)) {
                return Err(StorageError::VERSION);
            }
        }
        let mut taken = Taken::by(&policy);
        let replaced = if missing.is_empty() {
            look_at_existing(directory.as_fd(), name, &mut taken, &policy)?
        } else {
            None
        };
        let mut rights = AccessFlags::W_OK | AccessFlags::X_OK;
        if policy.uploads.fsync() || policy.uploads.versions().is_some() {
            // The directory is opened or listed at the end: if that can't be done,
            // better to refuse the upload now.
            rights |= AccessFlags::R_OK;
        }
        faccessat(&directory, ".", rights, AtFlags::AT_EACCESS)?;
        let device = fstat(&directory)?.st_dev;
        let min_free = policy.uploads.min_free();
        uploads.ensure_space(&directory, device, announced, 0, min_free)?;
        let spare = Some(dup(&directory)?);
        let held = if policy.uploads.create_dirs() {
            uploads.made_dirs.hold(directory.as_fd())?
        } else {
            Held::default()
        };
        Ok(Self {
            spare,
            directory,
            missing: missing.into(),
            held,
            device,
            name: name.into(),
            made: None,
            taken,
            replaced,
            policy,
            publisher,
            announced,
            expected: 0,
            length: 0,
            counted: 0,
            uploads,
        })
    }

    /// Writes `data` at `offset` (bytes). The first call makes the file.
    ///
    /// # Errors
    /// ERROR 3 beyond a limit, or if the disk is full.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), StorageError> {
        let end = offset.saturating_add(data.len() as u64);
        if self.policy.max_upload.is_some_and(|limit| end > limit) {
            return Err(StorageError::OVER_LIMIT);
        }
        file_offset(end, 0)?;
        self.make()?;
        self.ensure_room(end)?;
        let made = self.make()?;
        made.reserve.extend(&made.file, end)?;
        let mut done = 0;
        while done < data.len() {
            match pwrite(&made.file, &data[done..], file_offset(offset, done)?) {
                Ok(0) => return Err(StorageError::NO_SPACE),
                Ok(written) => done += written,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let placed = made.reserve.bytes();
        self.length = self.length.max(end);
        self.expect(self.announced.saturating_sub(placed.max(self.length)));
        Ok(())
    }

    /// Puts the file in place, in one step, and returns its length in bytes.
    ///
    /// # Errors
    /// ERROR 6 if the name was taken meanwhile and overwriting isn't allowed; ERROR 3
    /// if the disk is full; the code of any other failure to write or link it. The
    /// upload is then gone.
    pub fn commit(mut self) -> Result<u64, StorageError> {
        let uploads = Rc::clone(&self.uploads);
        uploads.with_spares(|| self.put_in_place())
    }

    fn put_in_place(&mut self) -> Result<u64, StorageError> {
        let length = self.length;
        if let Some(total) = self.policy.uploads.max_total().filter(|it| it.is_shared) {
            // Other processes may have put theirs in place meanwhile.
            self.uploads.ensure_total(total, self.counted, length)?;
        }
        let made = self.make()?;
        if made.reserve.bytes() > length {
            // Gives back the blocks reserved beyond the end.
            ftruncate(&made.file, file_offset(length, 0)?)?;
        }
        let fsync = self.policy.uploads.fsync();
        settle(&self.make()?.file, fsync)?;
        let (freed, old) = self.publish()?;
        // The file is in place, whatever fails from here on.
        let is_counted = self.policy.uploads.max_total().is_some();
        if is_counted {
            self.uploads.quota.store(length, freed);
        }
        let levels = self.held.len();
        if self.policy.uploads.create_dirs() {
            self.uploads.made_dirs.keep(&self.held);
            self.held = Held::default();
        }
        if fsync {
            self.sync_directories(levels)?;
        }
        if let Some(old) = old {
            let pruned = old.prune(self.directory.as_fd(), is_counted);
            self.uploads.quota.store(0, pruned);
        }
        Ok(length)
    }

    /// Makes sure that there is room for all bytes before `end`: within the total of all
    /// uploads and on the disk, if limits were set.
    fn ensure_room(&mut self, end: u64) -> Result<(), StorageError> {
        let rules = self.policy.uploads;
        if let Some(total) = rules.max_total()
            && end > self.counted
        {
            self.uploads.ensure_total(total, self.counted, end)?;
            self.count(self.to_count(end));
        }
        if let (Some(_), Some(made)) = (rules.min_free(), &self.made) {
            let new = end.saturating_sub(made.reserve.bytes().max(self.length));
            if new > 0 {
                let (device, own) = (self.device, self.expected);
                self.uploads
                    .ensure_space(&made.file, device, new, own, rules.min_free())?;
            }
        }
        Ok(())
    }

    /// The file, which is made now if it isn't there yet.
    fn make(&mut self) -> Result<&mut Made, StorageError> {
        if self.made.is_none() {
            if let Some(total) = self.policy.uploads.max_total() {
                self.uploads.ensure_total(total, 0, self.announced)?;
            }
            self.spare = None;
            let uploads = Rc::clone(&self.uploads);
            let made = uploads.with_spares(|| {
                self.make_directories()?;
                self.make_file()
            });
            self.made = Some(made?);
            self.expect(self.announced);
            self.count(self.to_count(0));
        }
        // Just made, if it wasn't.
        self.made.as_mut().ok_or(StorageError::NO_SPACE)
    }

    /// Makes the directories that are missing.
    fn make_directories(&mut self) -> Result<(), StorageError> {
        if !self.policy.uploads.create_dirs() || self.missing.is_empty() {
            return Ok(());
        }
        let permissions = self.policy.umask.map(|umask| 0o777 & !umask);
        let (here, made_dirs) = (self.directory.as_fd(), &self.uploads.made_dirs);
        let made = made_dirs.make(here, &self.missing, permissions, &mut self.held);
        self.directory = made.map_err(StorageError::of_directory)?;
        self.missing = Box::default();
        // Others may have made them meanwhile, and a file of this name.
        let (directory, taken) = (self.directory.as_fd(), &mut self.taken);
        self.replaced = look_at_existing(directory, &self.name, taken, &self.policy)?;
        Ok(())
    }

    fn make_file(&self) -> Result<Made, StorageError> {
        // Other uploads may have begun meanwhile.
        let (device, min_free) = (self.device, self.policy.uploads.min_free());
        self.uploads
            .ensure_space(&self.directory, device, self.announced, 0, min_free)?;
        let directory = fstat(&self.directory)?;
        if directory.st_nlink == 0 {
            return Err(StorageError::of_directory(Errno::ENOENT));
        }
        if self.uploads.is_unswept(&directory) {
            publish::sweep(self.directory.as_fd());
        }
        let permissions = match (self.replaced, self.policy.umask) {
            (Some(replaced), _) => Some(replaced.permissions),
            (None, Some(umask)) => Some(0o666 & !umask),
            (None, None) => None,
        };
        let mode = Mode::from_bits_truncate(permissions.unwrap_or(0o666));
        let serial = self.uploads.next_serial();
        let directory = self.directory.as_fd();
        let (file, temporary) = publish::open_new(directory, self.publisher, serial, mode)?;
        if let Some(Replaced { owner, group, .. }) = self.replaced {
            // As if it had been written in place. Only root may give a file away.
            let _ = fchown(&file, Some(owner), Some(group));
        }
        if permissions.is_some() {
            // It was created with these bits, less the process's umask. If that
            // can't be undone (FAT has no bits), the file is only stricter.
            let _ = fchmod(&file, mode);
        }
        Ok(Made {
            reserve: Reserve::new(&file, self.announced),
            file,
            temporary,
            serial,
        })
    }

    fn expect(&mut self, bytes: u64) {
        self.uploads.expect(self.device, self.expected, bytes);
        self.expected = bytes;
    }

    /// What counts of an upload that has come up to `end`: a little of what was announced
    /// as well, but not all of it, or two datagrams could take up the whole total.
    fn to_count(&self, end: u64) -> u64 {
        self.announced.min(end.saturating_add(AHEAD)).max(end)
    }

    /// Sets how many bytes of it count towards the total of all uploads.
    fn count(&mut self, bytes: u64) {
        self.uploads.quota.expect(self.counted, bytes);
        self.counted = bytes;
    }

    /// Gives the file its name. Returns the bytes of the replaced file, if those are
    /// counted, and the old versions, some of which may have to be removed.
    fn publish(&mut self) -> Result<(u64, Option<Kept>), StorageError> {
        let is_counted = self.policy.uploads.max_total().is_some();
        let name = std::mem::take(&mut self.name);
        let has_temporary = self.made.as_ref().is_some_and(|it| it.temporary.is_some());
        let size = |it: &Self| {
            let directory = it.directory.as_fd();
            if is_counted {
                size_of(directory, &name)
            } else {
                0
            }
        };
        match self.taken {
            Taken::Refused => self.place(&name)?,
            Taken::Replaced => {
                let freed = size(self);
                if has_temporary || !self.place_new(&name)? {
                    self.replace(&name)?;
                }
                return Ok((freed, None));
            }
            Taken::Kept(versions) => {
                if !self.place_new(&name)? {
                    self.uploads.quota.moves(size(self));
                    let entries = &self.uploads.entries_listed;
                    let kept = versions.keep(self.directory.as_fd(), &name, entries)?;
                    if let Err(errno) = self.replace(&name) {
                        kept.put_back(self.directory.as_fd(), &name);
                        return Err(errno.into());
                    }
                    return Ok((0, Some(kept)));
                }
            }
            Taken::Beside(_) => {
                if !self.place_new(&name)? {
                    let first = versions::next_beside(self.directory.as_fd(), &name);
                    versions::beside(&name, first, |other| self.place(other))?;
                }
            }
        }
        Ok((0, None))
    }

    /// Gives the file this name, if it is free; otherwise returns `false`.
    fn place_new(&mut self, name: &[u8]) -> nix::Result<bool> {
        match self.place(name) {
            Err(Errno::EEXIST) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Gives the file this name.
    ///
    /// # Errors
    /// `EEXIST` if something has the name; others of `linkat`, or of the rename in its
    /// place.
    fn place(&mut self, name: &[u8]) -> nix::Result<()> {
        let directory = self.directory.as_fd();
        let Some(made) = &mut self.made else {
            return Ok(());
        };
        let Some(temporary) = &made.temporary else {
            return self.publisher.link(made.file.as_fd(), directory, name);
        };
        made.check_temporary(directory)?;
        let no_flags = AtFlags::empty();
        match linkat(directory, temporary.as_str(), directory, name, no_flags) {
            // A file system without hard links, such as FAT.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                publish::rename_new(directory, temporary.as_bytes(), name)?;
                made.temporary = None;
                Ok(())
            }
            // Linked or not, dropping `self` removes the temporary name.
            done => done,
        }
    }

    /// Gives the file this name, and replaces whatever has it.
    fn replace(&mut self, name: &[u8]) -> nix::Result<()> {
        let directory = self.directory.as_fd();
        let Some(made) = &mut self.made else {
            return Ok(());
        };
        if made.temporary.is_some() {
            made.check_temporary(directory)?;
        } else {
            // No system call gives a name that is taken to an unnamed file.
            let (file, serial) = (made.file.as_fd(), made.serial);
            let temporary = publish::link_temporary(file, directory, self.publisher, serial)?;
            made.temporary = Some(temporary);
        }
        let temporary = made.temporary.as_deref().unwrap_or_default();
        renameat(directory, temporary, directory, name)?;
        made.temporary = None;
        Ok(())
    }

    /// Removes the temporary name, if there is one.
    fn remove_temporary(&self) {
        let Some(made) = &self.made else {
            return;
        };
        let Some(temporary) = &made.temporary else {
            return;
        };
        let directory = self.directory.as_fd();
        let removed = match publish::is_named(&made.file, directory, temporary.as_bytes()) {
            Ok(true) => unlinkat(directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir),
            Ok(false) => Err(Errno::ESTALE),
            Err(errno) => Err(errno),
        };
        if let Err(errno) = removed {
            warn!("temporary file {temporary} stays behind: {errno}");
        }
    }

    /// Waits until the new name, and the `levels` directories that were made for it, are
    /// on the disk.
    fn sync_directories(&self, levels: usize) -> nix::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut here = openat(&self.directory, ".", flags, Mode::empty())?;
        sync(&here)?;
        for _ in 0..levels {
            here = openat(&here, "..", flags, Mode::empty())?;
            sync(&here)?;
        }
        Ok(())
    }
}

impl Made {
    /// Checks that the temporary name is still this file's.
    ///
    /// # Errors
    /// `ESTALE` if it is another file's by now.
    fn check_temporary(&self, directory: BorrowedFd<'_>) -> nix::Result<()> {
        match &self.temporary {
            Some(it) if !publish::is_named(&self.file, directory, it.as_bytes())? => {
                Err(Errno::ESTALE)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.expect(0);
        self.count(0);
        self.remove_temporary();
        if self.policy.uploads.create_dirs() && self.held.is_any() {
            let made_dirs = &self.uploads.made_dirs;
            made_dirs.release(self.directory.as_fd(), &self.held);
        }
    }
}

/// Gets the errors that a file system reports only when a file is closed (NFS, FUSE,
/// quotas), before anyone is told that the file is there. With `fsync`, first waits until
/// the file is on the disk.
fn settle(file: &OwnedFd, fsync: bool) -> nix::Result<()> {
    let tells_late = || {
        let magic = fstatfs(file).map(|it| it.filesystem_type());
        matches!(magic, Ok(FUSE_SUPER_MAGIC | NFS_SUPER_MAGIC))
    };
    if fsync || tells_late() {
        sync(file)?;
    }
    // Closing any of its descriptors reports them, and closing a copy leaves us the file.
    // Without a descriptor for a copy, the above must do.
    match dup(file).and_then(close) {
        Err(Errno::EINTR | Errno::EMFILE | Errno::ENFILE) => Ok(()),
        done => done,
    }
}

/// Waits until a file or a directory is on the disk.
fn sync(file: &OwnedFd) -> nix::Result<()> {
    match fsync(file) {
        // Not supported here.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::super::publish::{TEMPORARY_NAMES, rename_new};
    use super::super::{Methods, Root};
    use super::*;
    use crate::file::reading::ReadAt;
    use crate::file::skipped::skip;
    use crate::wire::packet::ErrorCode;
    use std::cell::Cell;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use nix::unistd::Uid;

    const OVERWRITE: Policy = Policy {
        read_only: false,
        overwrite: true,
        max_upload: None,
        umask: None,
        ignore_case: false,
        uploads: crate::file::UploadRules::NONE,
    };

    /// Runs `test` with a fresh directory and its root for each way to publish that works
    /// here.
    fn for_each_publisher(policy: Policy, test: impl Fn(&Path, &Root)) {
        let base = tempfile::tempdir().unwrap();
        for_each_publisher_below(base.path(), policy, test);
    }

    fn for_each_publisher_below(base: &Path, policy: Policy, test: impl Fn(&Path, &Root)) {
        let publishers = [
            Publisher::LinkDescriptor,
            Publisher::LinkProc,
            Publisher::Named,
        ];
        for publisher in publishers {
            let path = base.join(format!("{publisher:?}"));
            fs::create_dir(&path).unwrap();
            let root = root(&path, policy, publisher);
            let directory = File::open(&path).unwrap();
            let linked = publisher.link(directory.as_fd(), directory.as_fd(), b".");
            if publisher != Publisher::Named && linked != Err(Errno::EEXIST) {
                skip(format_args!("{publisher:?} is not available here"));
                continue;
            }
            eprintln!("{publisher:?}");
            test(&path, &root);
            fs::remove_dir_all(&path).unwrap();
        }
    }

    fn root(path: &Path, policy: Policy, publisher: Publisher) -> Root {
        let best = Root::open(path, policy).unwrap().methods;
        Root::open_with(path, policy, Methods { publisher, ..best }).unwrap()
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn code<T>(result: Result<T, StorageError>) -> Option<ErrorCode> {
        result.err().map(|error| error.code())
    }

    #[test]
    fn the_publisher_found_works() {
        let base = tempfile::tempdir().unwrap();
        let root = Root::open(base.path(), Policy::default()).unwrap();
        let mut upload = root.create(b"new", None).unwrap();
        upload.write_at(0, b"x").unwrap();
        // The other ways need no temporary name here.
        if root.methods.publisher != Publisher::Named {
            assert_eq!(upload.made.as_ref().unwrap().temporary, None);
        }
        assert_eq!(upload.commit(), Ok(1));
        assert_eq!(names(base.path()), ["new"]);
    }

    #[test]
    fn a_file_appears_whole_and_at_the_end() {
        for_each_publisher(Policy::default(), |path, root| {
            let mut upload = root.create(b"new", Some(10)).unwrap();
            upload.write_at(0, b"01234").unwrap();
            upload.write_at(5, b"56789").unwrap();
            assert!(!path.join("new").exists());
            assert_eq!(code(root.open_read(b"new")), Some(ErrorCode::FileNotFound));
            assert_eq!(upload.commit(), Ok(10));
            assert_eq!(fs::read(path.join("new")).unwrap(), b"0123456789");
            assert_eq!(names(path), ["new"]);
        });
    }

    #[test]
    fn an_empty_file_is_a_file() {
        for_each_publisher(Policy::default(), |path, root| {
            assert_eq!(root.create(b"new", Some(0)).unwrap().commit(), Ok(0));
            assert_eq!(fs::read(path.join("new")).unwrap(), b"");
        });
    }

    #[test]
    fn a_dropped_upload_leaves_nothing() {
        for_each_publisher(Policy::default(), |path, root| {
            let mut upload = root.create(b"new", None).unwrap();
            upload.write_at(0, b"half").unwrap();
            let seen_meanwhile = names(path);
            let expected = usize::from(root.methods.publisher == Publisher::Named);
            assert_eq!(seen_meanwhile.len(), expected, "{seen_meanwhile:?}");
            for name in seen_meanwhile {
                let refused = Some(ErrorCode::AccessViolation);
                assert_eq!(code(root.open_read(name.as_bytes())), refused);
                assert_eq!(code(root.create(name.as_bytes(), None)), refused);
            }
            drop(upload);
            assert_eq!(names(path), [""; 0]);
        });
    }

    #[test]
    fn of_two_writers_the_first_wins_where_nothing_is_overwritten() {
        for_each_publisher(Policy::default(), |path, root| {
            let mut first = root.create(b"new", None).unwrap();
            let mut second = root.create(b"new", None).unwrap();
            first.write_at(0, b"first").unwrap();
            second.write_at(0, b"second, longer").unwrap();
            assert_eq!(first.commit(), Ok(5));
            assert_eq!(code(second.commit()), Some(ErrorCode::FileExists));
            assert_eq!(fs::read(path.join("new")).unwrap(), b"first");
            assert_eq!(names(path), ["new"]);
        });
    }

    #[test]
    fn of_two_writers_the_later_wins_where_files_are_overwritten() {
        for_each_publisher(OVERWRITE, |path, root| {
            let mut first = root.create(b"new", None).unwrap();
            let mut second = root.create(b"new", None).unwrap();
            first.write_at(0, b"first, longer").unwrap();
            second.write_at(0, b"second").unwrap();
            assert_eq!(second.commit(), Ok(6));
            assert_eq!(first.commit(), Ok(13));
            assert_eq!(fs::read(path.join("new")).unwrap(), b"first, longer");
            assert_eq!(names(path), ["new"]);
        });
    }

    #[test]
    fn a_replaced_file_stays_whole_until_the_end_and_keeps_its_mode() {
        for_each_publisher(OVERWRITE, |path, root| {
            let file = path.join("file");
            fs::write(&file, "the old content").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o4647)).unwrap();
            let mut reader = root.open_read(b"file").unwrap();
            let mut dropped = root.create(b"file", None).unwrap();
            dropped.write_at(0, b"half").unwrap();
            drop(dropped);
            let mut upload = root.create(b"file", Some(3)).unwrap();
            upload.write_at(0, b"new").unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"the old content");
            assert_eq!(upload.commit(), Ok(3));
            assert_eq!(fs::read(&file).unwrap(), b"new");
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o647);
            // A download that runs meanwhile gets what it began with.
            let mut old = [0; 15];
            assert_eq!(reader.read_at(0, &mut old), Ok(Some(15)));
            assert_eq!(&old, b"the old content");
            assert_eq!(names(path), ["file"]);
        });
    }

    #[test]
    fn root_keeps_the_owner_of_a_replaced_file() {
        if !Uid::effective().is_root() {
            skip("only root may give files away");
            return;
        }
        for_each_publisher(OVERWRITE, |path, root| {
            let file = path.join("file");
            fs::write(&file, "x").unwrap();
            std::os::unix::fs::chown(&file, Some(1), Some(2)).unwrap();
            root.create(b"file", None).unwrap().commit().unwrap();
            let metadata = fs::metadata(&file).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1, 2));
        });
    }

    #[test]
    fn what_is_not_a_writable_regular_file_is_not_replaced() {
        for_each_publisher(OVERWRITE, |path, root| {
            fs::create_dir(path.join("directory")).unwrap();
            fs::write(path.join("file"), "x").unwrap();
            fs::write(path.join("protected"), "x").unwrap();
            fs::set_permissions(path.join("protected"), Permissions::from_mode(0o444)).unwrap();
            symlink("file", path.join("link")).unwrap();
            symlink("nowhere", path.join("dangling")).unwrap();
            nix::unistd::mkfifo(&path.join("fifo"), Mode::S_IRWXU).unwrap();
            let before = names(path);
            for name in ["directory", "link", "dangling", "fifo", "protected"] {
                if name == "protected" && Uid::effective().is_root() {
                    skip("root may write everything");
                    continue;
                }
                let refused = code(root.create(name.as_bytes(), None));
                assert_eq!(refused, Some(ErrorCode::AccessViolation), "{name}");
            }
            let refused = root.create(b"link", None).err();
            assert_eq!(refused, Some(StorageError::IS_LINK));
            // The same holds if it appeared meanwhile; but a link itself is replaced.
            let (one, other) = (root.create(b"a", None), root.create(b"b", None));
            fs::create_dir(path.join("a")).unwrap();
            symlink("file", path.join("b")).unwrap();
            assert_eq!(
                code(one.unwrap().commit()),
                Some(ErrorCode::AccessViolation)
            );
            assert_eq!(other.unwrap().commit(), Ok(0));
            assert!(path.join("b").symlink_metadata().unwrap().is_file());
            assert_eq!(fs::read(path.join("file")).unwrap(), b"x");
            assert_eq!(names(path).len(), before.len() + 2);
        });
    }

    #[test]
    fn a_read_only_server_takes_nothing() {
        let policy = Policy {
            read_only: true,
            ..OVERWRITE
        };
        for_each_publisher(policy, |_, root| {
            assert_eq!(
                root.create(b"new", None).err(),
                Some(StorageError::READ_ONLY)
            );
        });
    }

    #[test]
    fn an_upload_ends_at_the_limit() {
        let policy = Policy {
            max_upload: Some(1000),
            ..Policy::default()
        };
        for_each_publisher(policy, |path, root| {
            assert_eq!(
                root.create(b"new", Some(1001)).err(),
                Some(StorageError::OVER_LIMIT)
            );
            let mut upload = root.create(b"new", Some(1000)).unwrap();
            upload.write_at(0, &[1; 600]).unwrap();
            assert_eq!(
                upload.write_at(600, &[1; 401]),
                Err(StorageError::OVER_LIMIT)
            );
            assert_eq!(upload.write_at(600, &[1; 400]), Ok(()));
            assert_eq!(
                upload.write_at(u64::MAX, &[1]),
                Err(StorageError::OVER_LIMIT)
            );
            assert_eq!(upload.commit(), Ok(1000));
            assert_eq!(names(path), ["new"]);
        });
    }

    #[test]
    fn no_offset_panics() {
        for_each_publisher(Policy::default(), |_, root| {
            let mut upload = root.create(b"new", None).unwrap();
            for offset in [1 << 63, u64::MAX] {
                let result = upload.write_at(offset, &[1]);
                assert_eq!(code(result), Some(ErrorCode::DiskFull), "{offset}");
            }
        });
    }

    #[test]
    fn more_than_the_free_space_is_refused_at_once() {
        for_each_publisher(Policy::default(), |path, root| {
            for size in [u64::MAX, 1 << 62] {
                let refused = root.create(b"new", Some(size)).err();
                assert_eq!(refused, Some(StorageError::NO_SPACE), "{size}");
            }
            assert_eq!(names(path), [""; 0]);
        });
    }

    #[test]
    fn space_reserved_and_not_used_is_given_back() {
        for_each_publisher(Policy::default(), |path, root| {
            let mut upload = root.create(b"new", Some(1 << 20)).unwrap();
            upload.write_at(0, b"short").unwrap();
            let made = upload.made.as_ref().unwrap();
            if made.reserve.bytes() == 0 {
                skip("no reserving in this file system");
                return;
            }
            assert!(fstat(&made.file).unwrap().st_blocks >= (1 << 20) / 512);
            assert_eq!(upload.commit(), Ok(5));
            let metadata = fs::metadata(path.join("new")).unwrap();
            assert_eq!(metadata.len(), 5);
            assert!(metadata.blocks() <= 128, "{}", metadata.blocks());
        });
    }

    /// An announcement holds back no more of the disk than a few MiB.
    #[test]
    fn space_is_set_aside_as_data_comes() {
        const MIB: u64 = 1 << 20;
        for_each_publisher(Policy::default(), |_, root| {
            let Ok(mut upload) = root.create(b"new", Some(1 << 30)) else {
                skip("the disk is too small");
                return;
            };
            for offset in [0, 2 * MIB, 5 * MIB] {
                upload.write_at(offset, b"data").unwrap();
                let made = upload.made.as_ref().unwrap();
                let blocks = fstat(&made.file).unwrap().st_blocks.unsigned_abs();
                assert!(blocks * 512 <= offset + 5 * MIB, "{offset}: {blocks}");
            }
        });
    }

    /// A forged request costs no inode.
    #[test]
    fn a_request_alone_makes_no_file() {
        for_each_publisher(OVERWRITE, |path, root| {
            fs::write(path.join("old"), "old").unwrap();
            let inodes = |path: &Path| nix::sys::statvfs::statvfs(path).unwrap().files_free();
            let before = (names(path), inodes(path));
            let uploads: Vec<_> = (0..200)
                .map(|number| {
                    root.create(format!("{number}").as_bytes(), Some(100))
                        .unwrap()
                })
                .chain([root.create(b"old", Some(1 << 20)).unwrap()])
                .collect();
            assert_eq!(names(path), before.0);
            // Other programs use the disk as well, so look several times.
            let takes_none = (0..50).any(|_| {
                let is_so = inodes(path) + 100 > before.1;
                if !is_so {
                    std::thread::park_timeout(std::time::Duration::from_millis(100));
                }
                is_so
            });
            assert!(takes_none);
            drop(uploads);
            assert_eq!(fs::read(path.join("old")).unwrap(), b"old");
        });
    }

    #[test]
    fn a_directory_without_the_right_to_write_is_told_at_once() {
        if Uid::effective().is_root() {
            skip("root may write everywhere");
            return;
        }
        for_each_publisher(Policy::default(), |path, root| {
            fs::create_dir(path.join("sub")).unwrap();
            fs::set_permissions(path.join("sub"), Permissions::from_mode(0o555)).unwrap();
            let refused = code(root.create(b"sub/new", None));
            fs::set_permissions(path.join("sub"), Permissions::from_mode(0o755)).unwrap();
            assert_eq!(refused, Some(ErrorCode::AccessViolation));
        });
    }

    #[test]
    fn new_files_have_the_mode_asked_for() {
        let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
        for umask in [None, Some(0), Some(0o022), Some(0o077), Some(0o177_027)] {
            let policy = Policy {
                umask,
                ..Policy::default()
            };
            for_each_publisher(policy, |path, root| {
                root.create(b"new", None).unwrap().commit().unwrap();
                let expected = if let Some(umask) = umask {
                    0o666 & !umask
                } else {
                    fs::write(path.join("usual"), "").unwrap();
                    mode(path.join("usual"))
                };
                assert_eq!(mode(path.join("new")), expected, "{umask:?}");
            });
        }
    }

    /// Whatever its serial number was, and however the next upload is published.
    #[test]
    fn what_a_killed_server_left_behind_is_swept_by_the_first_upload() {
        for policy in [OVERWRITE, Policy::default()] {
            for_each_publisher(policy, |path, root| {
                for left in [".tftpd-0-0", ".tftpd-4711-0", ".tftpd-5-15"] {
                    fs::write(path.join(left), "half").unwrap();
                }
                // Not ours, although some names begin like ours.
                let others = [".tftpd-1-", ".tftpd-1-x", ".tftpd-notes.txt", "other"];
                for other in others {
                    fs::write(path.join(other), "other").unwrap();
                }
                let mut upload = root.create(b"file", None).unwrap();
                upload.write_at(0, b"new").unwrap();
                upload.commit().unwrap();
                let [a, b, c, d] = others;
                assert_eq!(names(path), [a, b, c, "file", d]);
            });
        }
    }

    /// Where [`uploads_until_killed`] puts its files, and how.
    const UPLOADS: &str = "TFTPD_TEST_UPLOADS";

    /// The content of the nth upload, which begins with its number.
    fn numbered(number: u32) -> Vec<u8> {
        let mut content = number.to_be_bytes().to_vec();
        content.resize(1000 + number as usize % 5000, number as u8);
        content
    }

    /// At any moment the name leads to the whole old file or the whole new one, and after
    /// the next server's first upload nothing else is left.
    #[test]
    fn kill_9_at_any_moment_leaves_a_whole_file_and_nothing_else() {
        let (left, kills) = (Cell::new(0), Cell::new(0));
        for_each_publisher(OVERWRITE, |path, first| {
            let publisher = first.methods.publisher;
            for delay in 0..12 {
                let mut child = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "file::upload::tests::uploads_until_killed"])
                    .arg("--ignored")
                    .env(UPLOADS, path)
                    .env("PUBLISHER", format!("{publisher:?}"))
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .unwrap();
                let stored = || fs::read(path.join("file")).unwrap_or_default();
                let number = || stored().first_chunk().map(|it| u32::from_be_bytes(*it));
                while number() < Some(delay * 3) {
                    assert_eq!(child.try_wait().unwrap(), None, "it ended");
                    std::thread::yield_now();
                }
                child.kill().unwrap();
                child.wait().unwrap();
                let number = number().unwrap();
                assert!(
                    stored() == numbered(number),
                    "{publisher:?}: {number} is not whole"
                );
                left.set(left.get() + names(path).len() - 1);
                kills.set(kills.get() + 1);
                let next = root(path, OVERWRITE, publisher);
                next.create(b"next", None).unwrap().commit().unwrap();
                assert_eq!(names(path), ["file", "next"], "{publisher:?}");
                fs::remove_file(path.join("file")).unwrap();
            }
        });
        eprintln!("{} files left behind by {} kills", left.get(), kills.get());
    }

    #[test]
    #[ignore = "runs until it is killed: run by kill_9_at_any_moment_leaves_a_whole_file_and_nothing_else"]
    fn uploads_until_killed() {
        let path = PathBuf::from(std::env::var_os(UPLOADS).unwrap());
        let publisher = match std::env::var("PUBLISHER").unwrap().as_str() {
            "LinkDescriptor" => Publisher::LinkDescriptor,
            "LinkProc" => Publisher::LinkProc,
            _ => Publisher::Named,
        };
        let root = root(&path, OVERWRITE, publisher);
        for number in 0..1_000_000 {
            let content = numbered(number);
            let mut upload = root.create(b"file", Some(content.len() as u64)).unwrap();
            let (start, end) = content.split_at(500);
            upload.write_at(0, start).unwrap();
            upload.write_at(500, end).unwrap();
            upload.commit().unwrap();
        }
    }

    /// Of two servers in one directory, the one that lives on sweeps what the other
    /// left behind, and nothing that is being written.
    #[test]
    fn a_server_that_lives_on_sweeps_after_another_that_was_killed() {
        for_each_publisher(OVERWRITE, |path, first| {
            fs::write(path.join("busy"), "old").unwrap();
            first.create(b"file", None).unwrap().commit().unwrap();
            let second = root(path, OVERWRITE, first.methods.publisher);
            let mut busy = second.create(b"busy", None).unwrap();
            busy.write_at(0, b"new").unwrap();
            let being_written = names(path).len();
            fs::write(path.join(".tftpd-4711-0"), "left").unwrap();
            nix::unistd::mkfifo(&path.join(".tftpd-4711-1"), Mode::S_IRWXU).unwrap();
            for _ in 0..100 {
                first.create(b"file", None).unwrap().commit().unwrap();
            }
            assert_eq!(names(path).len(), being_written + 1, "{:?}", names(path));
            assert!(!path.join(".tftpd-4711-0").exists());
            assert!(path.join(".tftpd-4711-1").exists(), "no file");
            assert_eq!(busy.commit(), Ok(3));
            assert_eq!(fs::read(path.join("busy")).unwrap(), b"new");
        });
    }

    #[test]
    fn what_another_server_is_writing_stays() {
        for_each_publisher(OVERWRITE, |path, first| {
            fs::write(path.join("a"), "old").unwrap();
            fs::write(path.join("b"), "old").unwrap();
            let second = root(path, OVERWRITE, first.methods.publisher);
            let mut one = first.create(b"a", None).unwrap();
            let mut other = second.create(b"b", None).unwrap();
            one.write_at(0, b"one").unwrap();
            other.write_at(0, b"other").unwrap();
            assert_eq!(one.commit(), Ok(3));
            assert_eq!(other.commit(), Ok(5));
            assert_eq!(fs::read(path.join("a")).unwrap(), b"one");
            assert_eq!(fs::read(path.join("b")).unwrap(), b"other");
            assert_eq!(names(path), ["a", "b"]);
        });
    }

    /// A server on another host, which can't see our locks, may sweep our temporary file
    /// as left behind, and then make its own of that name.
    #[test]
    fn a_temporary_name_that_is_another_servers_by_now_is_left_alone() {
        for (policy, commits) in [
            (OVERWRITE, true),
            (OVERWRITE, false),
            (Policy::default(), true),
            (Policy::default(), false),
        ] {
            let base = tempfile::tempdir().unwrap();
            let root = root(base.path(), policy, Publisher::Named);
            let mut upload = root.create(b"file", None).unwrap();
            upload.write_at(0, b"ours").unwrap();
            let written = names(base.path());
            let [temporary] = &written[..] else {
                panic!("{written:?}");
            };
            fs::remove_file(base.path().join(temporary)).unwrap();
            fs::write(base.path().join(temporary), "theirs").unwrap();
            if commits {
                assert!(upload.commit().is_err());
            } else {
                drop(upload);
            }
            assert_eq!(names(base.path()), written, "{policy:?} {commits}");
            let left = fs::read(base.path().join(temporary)).unwrap();
            assert_eq!(left, b"theirs");
        }
    }

    #[test]
    fn when_temporary_names_run_out_no_client_hears_that_its_file_exists() {
        let base = tempfile::tempdir().unwrap();
        let root = root(base.path(), OVERWRITE, Publisher::Named);
        let last = root.common.uploads.next_serial();
        for attempt in 0..TEMPORARY_NAMES {
            let name = format!(".tftpd-{}-{attempt}", last.wrapping_add(1));
            fs::create_dir(base.path().join(name)).unwrap();
        }
        let committed = root.create(b"new", None).unwrap().commit();
        assert_eq!(committed.unwrap_err().errno(), Some(Errno::EBUSY));
        assert!(root.create(b"new", None).unwrap().commit().is_ok());
    }

    #[test]
    fn a_directory_removed_meanwhile_ends_the_upload() {
        for_each_publisher(Policy::default(), |path, root| {
            fs::create_dir(path.join("sub")).unwrap();
            let mut begun = root.create(b"sub/new", None).unwrap();
            let asked = root.create(b"sub/other", None).unwrap();
            begun.write_at(0, b"x").unwrap();
            fs::remove_dir_all(path.join("sub")).unwrap();
            assert_eq!(code(begun.commit()), Some(ErrorCode::FileNotFound));
            assert!(asked.commit().is_err());
        });
    }

    #[test]
    fn without_hard_links_renaming_replaces_nothing_either() {
        let base = tempfile::tempdir().unwrap();
        let directory = File::open(base.path()).unwrap();
        for name in ["one", "other"] {
            fs::write(base.path().join(name), name).unwrap();
        }
        let directory = directory.as_fd();
        assert_eq!(rename_new(directory, b"one", b"new"), Ok(()));
        assert_eq!(rename_new(directory, b"other", b"new"), Err(Errno::EEXIST));
        assert_eq!(names(base.path()), ["new", "other"]);
        assert_eq!(fs::read(base.path().join("new")).unwrap(), b"one");
    }

    /// Where `a_disk_can_be_full` finds its small disk.
    const SMALL_DISK: &str = "TFTPD_TEST_SMALL_DISK";

    /// Runs [`a_disk_can_be_full`] in a mount namespace of its own, with a disk
    /// of 256 KiB that vanishes with it.
    #[test]
    fn a_full_disk_is_told_and_left_clean() {
        let base = tempfile::tempdir().unwrap();
        let mount = "mount -t tmpfs -o size=256k tmpfs \"$0\"";
        let in_namespace = |script: String| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
            command.arg(base.path()).env(SMALL_DISK, base.path());
            command
        };
        match in_namespace(mount.to_owned()).output() {
            Ok(output) if output.status.success() => {}
            other => {
                skip(format_args!("can't mount a small disk: {other:?}"));
                return;
            }
        }
        let run = "exec \"$1\" --exact file::upload::tests::a_disk_can_be_full --ignored";
        let output = in_namespace(format!("{mount} && {run}"))
            .arg(std::env::current_exe().unwrap())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
    }

    #[test]
    #[ignore = "needs a small disk: run by a_full_disk_is_told_and_left_clean"]
    fn a_disk_can_be_full() {
        let disk = PathBuf::from(std::env::var_os(SMALL_DISK).unwrap());
        for_each_publisher_below(&disk, Policy::default(), |path, root| {
            assert_eq!(
                code(root.create(b"big", Some(1 << 20))),
                Some(ErrorCode::DiskFull)
            );
            let mut upload = root.create(b"big", None).unwrap();
            let block = [1; 10_000];
            let failed = (0..100)
                .find_map(|index| upload.write_at(index * 10_000, &block).err())
                .unwrap();
            assert_eq!(failed.code(), ErrorCode::DiskFull);
            drop(upload);
            assert_eq!(names(path), [""; 0]);
            // The space is there again.
            let mut upload = root.create(b"small", Some(100_000)).unwrap();
            upload.write_at(90_000, &block).unwrap();
            assert_eq!(upload.commit(), Ok(100_000));
        });
    }
}
