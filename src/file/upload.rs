//! A file being written: seen by nobody before it is whole.
//!
//! The data goes to a file without a name in the target's directory; the name is
//! given at the end, in one step. Dropped before that, the file is gone, and so
//! it is after a crash or kill -9: the kernel frees what has no name.
//!
//! Where a file without a name can't be had (NFS, FAT, some FUSE) or can't be
//! named (neither `/proc` nor the right to link a descriptor), it is written
//! under a temporary name. Requests can't name that; abort removes it. Only
//! kill -9 can leave it behind (or, everywhere, strike between the two steps of
//! replacing a file), and the next upload to come upon it removes it: temporary
//! files are locked while their server lives.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use log::{debug, warn};
use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, FallocateFlags, FcntlArg, OFlag, fallocate, fcntl, openat, renameat,
};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use nix::sys::uio::pwrite;
use nix::unistd::{
    AccessFlags, Gid, Uid, UnlinkatFlags, faccessat, fchown, ftruncate, linkat, unlinkat,
};

use super::error::StorageError;
use super::name::TEMP_PREFIX;
use super::resolve::kind;
use super::{Policy, file_offset};

/// How a finished upload gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publisher {
    /// An unnamed file, linked by its descriptor (`AT_EMPTY_PATH`: needs
    /// `CAP_DAC_READ_SEARCH`, or Linux 6.10).
    LinkDescriptor,
    /// An unnamed file, linked through `/proc/self/fd`.
    LinkProc,
    /// A temporary name in the same directory, linked or renamed. The others
    /// fall back to it where a file system has no unnamed files.
    Named,
}

impl Publisher {
    /// The first that works here. Writes nothing: linking over `.` fails in any
    /// case, with `EEXIST` once the kernel has accepted what is to be linked.
    pub(super) fn probe(root: BorrowedFd<'_>) -> Self {
        let works = |it: &Self| it.link(root, root, b".") == Err(Errno::EEXIST);
        [Self::LinkDescriptor, Self::LinkProc]
            .into_iter()
            .find(works)
            .unwrap_or(Self::Named)
    }

    /// Gives an unnamed file its name.
    fn link(self, file: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
        match self {
            Self::LinkDescriptor => linkat(file, "", directory, name, AtFlags::AT_EMPTY_PATH),
            Self::LinkProc => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                linkat(AT_FDCWD, path.as_str(), directory, name, follow)
            }
            Self::Named => Err(Errno::EINVAL),
        }
    }
}

/// A file on its way in. Dropped, it is gone; [`Upload::commit`] puts it in
/// place. Holds two descriptors: the file's and its directory's.
#[derive(Debug)]
pub struct Upload {
    file: OwnedFd,
    directory: OwnedFd,
    name: Box<[u8]>,
    /// The temporary name to remove, if there is one.
    temporary: Option<String>,
    publisher: Publisher,
    serial: u64,
    overwrite: bool,
    limit: u64,
    /// Bytes that the client said would come.
    announced: u64,
    /// Bytes set aside for them, once the first came: whoever only asks gets
    /// no disk.
    reserved: Option<u64>,
    length: u64,
}

impl Upload {
    /// Starts an upload that is to become `name` in `directory`. `serial` tells
    /// the temporary files of this server apart.
    pub(super) fn begin(
        directory: OwnedFd,
        name: &[u8],
        announced: Option<u64>,
        policy: Policy,
        publisher: Publisher,
        serial: u64,
    ) -> Result<Self, StorageError> {
        let limit = policy.max_upload.unwrap_or(u64::MAX);
        if announced.is_some_and(|size| size > limit) {
            return Err(StorageError::OVER_LIMIT);
        }
        let replaced = existing(directory.as_fd(), name, policy.overwrite)?;
        let permissions = match (replaced, policy.umask) {
            (Some(stat), _) => Some(stat.st_mode & 0o777),
            (None, Some(umask)) => Some(0o666 & !umask),
            (None, None) => None,
        };
        let mode = Mode::from_bits_truncate(permissions.unwrap_or(0o666));
        let (file, temporary) = open_new(directory.as_fd(), publisher, serial, mode)?;
        let upload = Self {
            file,
            directory,
            name: name.into(),
            temporary,
            publisher,
            serial,
            overwrite: policy.overwrite,
            limit,
            announced: announced.unwrap_or(0),
            reserved: None,
            length: 0,
        };
        if let Some(stat) = replaced {
            // As if it had been written in place; only root may give it away.
            let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            let _ = fchown(&upload.file, Some(owner), Some(group));
        }
        if permissions.is_some() {
            // Created with these bits, less the process's umask. Where that
            // can't be undone (FAT has no bits), the file is only the stricter.
            let _ = fchmod(&upload.file, mode);
        }
        ensure_space(&upload.file, upload.announced)?;
        Ok(upload)
    }

    /// Writes `data` at `offset` (bytes).
    ///
    /// # Errors
    /// 3 beyond the limit or the disk's end.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), StorageError> {
        let end = offset.saturating_add(data.len() as u64);
        if end > self.limit {
            return Err(StorageError::OVER_LIMIT);
        }
        if self.reserved.is_none() {
            self.reserved = Some(reserve(&self.file, self.announced)?);
        }
        let mut done = 0;
        while done < data.len() {
            match pwrite(&self.file, &data[done..], file_offset(offset, done)?) {
                Ok(0) => return Err(StorageError::NO_SPACE),
                Ok(written) => done += written,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.length = self.length.max(end);
        Ok(())
    }

    /// Puts the file in place, in one step, and returns its length in bytes.
    ///
    /// # Errors
    /// 6 if the name was taken meanwhile and overwriting isn't allowed;
    /// what else the file system says. The upload is gone then.
    pub fn commit(mut self) -> Result<u64, StorageError> {
        if self.reserved.is_some_and(|reserved| reserved > self.length) {
            // Gives back the blocks reserved beyond the end.
            ftruncate(&self.file, file_offset(self.length, 0)?)?;
        }
        self.publish()?;
        Ok(self.length)
    }

    fn publish(&mut self) -> nix::Result<()> {
        let (file, directory) = (self.file.as_fd(), self.directory.as_fd());
        let temporary = if let Some(temporary) = &self.temporary {
            temporary
        } else {
            match self.publisher.link(file, directory, &self.name) {
                Err(Errno::EEXIST) if self.overwrite => {}
                done => return done,
            }
            // No call replaces a name by an unnamed file.
            let (temporary, ()) = with_temporary_name(directory, self.serial, |temporary| {
                let _ = lock(file);
                self.publisher.link(file, directory, temporary.as_bytes())
            })?;
            self.temporary.insert(temporary)
        };
        if self.overwrite {
            renameat(directory, temporary.as_str(), directory, &*self.name)?;
            self.temporary = None;
            return Ok(());
        }
        let no_flags = AtFlags::empty();
        match linkat(
            directory,
            temporary.as_str(),
            directory,
            &*self.name,
            no_flags,
        ) {
            // A file system without hard links, such as FAT.
            Err(Errno::EPERM | Errno::EOPNOTSUPP) => {
                rename_new(directory, temporary, &self.name)?;
                self.temporary = None;
                Ok(())
            }
            // Linked or not, the temporary name goes when `self` does.
            done => done,
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(temporary) = &self.temporary else {
            return;
        };
        if let Err(errno) = unlinkat(
            &self.directory,
            temporary.as_str(),
            UnlinkatFlags::NoRemoveDir,
        ) {
            warn!("temporary file {temporary} stays behind: {errno}");
        }
    }
}

/// What is there to be replaced, `None` if nothing is.
fn existing(
    directory: BorrowedFd<'_>,
    name: &[u8],
    overwrite: bool,
) -> Result<Option<FileStat>, StorageError> {
    let stat = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
        Ok(_) if !overwrite => return Err(StorageError::EXISTS),
        Ok(stat) => stat,
    };
    match kind(&stat) {
        SFlag::S_IFREG => {
            // Replacing asks for rights on the directory only; a file its owner
            // made read-only is to stay, as if it were written in place.
            faccessat(directory, name, AccessFlags::W_OK, AtFlags::AT_EACCESS)?;
            Ok(Some(stat))
        }
        SFlag::S_IFDIR => Err(StorageError::IS_DIRECTORY),
        _ => Err(StorageError::NOT_REGULAR),
    }
}

/// A new file in `directory`, without a name if possible, and its temporary
/// name if not.
fn open_new(
    directory: BorrowedFd<'_>,
    publisher: Publisher,
    serial: u64,
    mode: Mode,
) -> nix::Result<(OwnedFd, Option<String>)> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_LARGEFILE;
    if publisher != Publisher::Named {
        match openat(directory, ".", flags | OFlag::O_TMPFILE, mode) {
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => {
                debug!("no unnamed files in this directory: using a temporary name");
            }
            opened => return Ok((opened?, None)),
        }
    }
    let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let (temporary, file) = with_temporary_name(directory, serial, |temporary| {
        let file = openat(directory, temporary, flags, mode)?;
        // Someone who took it for left behind may have been faster.
        let taken = lock(&file) == Err(Errno::EAGAIN) || fstat(&file)?.st_nlink == 0;
        if taken { Err(Errno::EEXIST) } else { Ok(file) }
    })?;
    Ok((file, Some(temporary)))
}

/// Calls `make` with temporary names until one is free, and removes those left
/// behind on the way.
fn with_temporary_name<T>(
    directory: BorrowedFd<'_>,
    serial: u64,
    make: impl Fn(&str) -> nix::Result<T>,
) -> nix::Result<(String, T)> {
    for attempt in 0..TEMPORARY_NAMES {
        let name = format!("{TEMP_PREFIX}{serial}-{attempt}");
        match make(&name) {
            Err(Errno::EEXIST) => remove_left_behind(directory, &name),
            result => return result.map(|it| (name, it)),
        }
    }
    // Not EEXIST, which would tell the client that its file exists.
    Err(Errno::EBUSY)
}

/// Removes a temporary file whose server is gone: one that isn't locked.
///
/// While the lock is held nobody else removes or renames that name, so what is
/// removed is what was locked.
fn remove_left_behind(directory: BorrowedFd<'_>, name: &str) {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let remove = || -> nix::Result<()> {
        let file = openat(directory, name, flags, Mode::empty())?;
        lock(&file)?;
        let (locked, named) = (
            fstat(&file)?,
            fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?,
        );
        if (locked.st_dev, locked.st_ino) == (named.st_dev, named.st_ino) {
            unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    };
    if let Err(errno) = remove() {
        debug!("temporary file {name} is in use: {errno}");
    }
}

/// Locks a file for as long as it is open: `EAGAIN` if someone else has.
fn lock(file: impl AsFd) -> nix::Result<()> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).map(drop)
}

/// Renames, but never onto an existing name.
#[cfg(target_env = "gnu")]
fn rename_new(directory: BorrowedFd<'_>, from: &str, to: &[u8]) -> nix::Result<()> {
    use nix::fcntl::{RenameFlags, renameat2};

    renameat2(
        directory,
        from,
        directory,
        to,
        RenameFlags::RENAME_NOREPLACE,
    )
}

/// Renames, but not onto an existing name: short of a call that does both, only
/// another process could take the name in between.
#[cfg(not(target_env = "gnu"))]
fn rename_new(directory: BorrowedFd<'_>, from: &str, to: &[u8]) -> nix::Result<()> {
    match fstatat(directory, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => renameat(directory, from, directory, to),
        Ok(_) => Err(Errno::EEXIST),
        Err(errno) => Err(errno),
    }
}

/// Makes sure that there is room for `announced` bytes now.
fn ensure_space(file: &OwnedFd, announced: u64) -> Result<(), StorageError> {
    if announced == 0 {
        return Ok(());
    }
    // Some FUSE file systems, and tmpfs without a limit, tell no figures.
    if let Ok(space) = fstatvfs(file)
        && space.blocks() > 0
    {
        #[allow(clippy::unnecessary_cast)] // Narrower on 32-bit systems.
        let (blocks, block_size) = (
            space.blocks_available() as u64,
            space.fragment_size() as u64,
        );
        let free = blocks.saturating_mul(block_size);
        if announced > free {
            return Err(StorageError::NO_SPACE);
        }
    }
    Ok(())
}

/// Sets room for `announced` bytes aside, and returns for how many.
fn reserve(file: &OwnedFd, announced: u64) -> Result<u64, StorageError> {
    if announced == 0 {
        return Ok(0);
    }
    // There it means to fill memory, 0.3 s a GiB.
    if fstatfs(file).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC) {
        return Ok(0);
    }
    let bytes = announced.min(MAX_RESERVED);
    let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, 0, file_offset(bytes, 0)?) {
        Ok(()) => Ok(bytes),
        Err(errno @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) => Err(errno.into()),
        // The file system can't (`EOPNOTSUPP`): the check above has to do.
        Err(_) => Ok(0),
    }
}

/// The most bytes set aside for one upload: 2 ms of work on ext4. What is
/// announced beyond is only checked against the free space.
const MAX_RESERVED: u64 = 1 << 30;

/// Temporary names tried for one upload. More than one is needed only where
/// several servers share a directory, or after a kill -9.
const TEMPORARY_NAMES: u32 = 16;

#[cfg(test)]
mod tests {
    use super::super::{Methods, Root};
    use super::*;
    use crate::file::source::ReadAt;
    use crate::wire::packet::ErrorCode;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    const OVERWRITE: Policy = Policy {
        read_only: false,
        overwrite: true,
        max_upload: None,
        umask: None,
        ignore_case: false,
    };

    /// A fresh directory and its root for each way to publish possible here.
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
                eprintln!("skipped: {publisher:?} is not available here");
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
        // Found by itself, a temporary name is used only where nothing else works.
        if root.methods.publisher != Publisher::Named {
            assert_eq!(upload.temporary, None);
        }
        upload.write_at(0, b"x").unwrap();
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
            eprintln!("skipped: only root may give files away");
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
                    eprintln!("skipped: root may write everything");
                    continue;
                }
                let refused = code(root.create(name.as_bytes(), None));
                assert_eq!(refused, Some(ErrorCode::AccessViolation), "{name}");
            }
            // Nor if it came to be there meanwhile; a link is replaced itself.
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
    fn no_offset_makes_a_panic() {
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
            // Whoever only asks gets no disk.
            assert_eq!(fstat(&upload.file).unwrap().st_blocks, 0);
            upload.write_at(0, b"short").unwrap();
            if upload.reserved == Some(0) {
                eprintln!("skipped: no reserving in this file system");
                return;
            }
            assert!(fstat(&upload.file).unwrap().st_blocks >= (1 << 20) / 512);
            assert_eq!(upload.commit(), Ok(5));
            let metadata = fs::metadata(path.join("new")).unwrap();
            assert_eq!(metadata.len(), 5);
            assert!(metadata.blocks() <= 128, "{}", metadata.blocks());
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

    #[test]
    fn what_a_killed_server_left_behind_is_removed() {
        for_each_publisher(OVERWRITE, |path, root| {
            fs::write(path.join("file"), "old").unwrap();
            fs::write(path.join(".tftpd-0-0"), "half").unwrap();
            root.create(b"file", None).unwrap().commit().unwrap();
            assert_eq!(names(path), ["file"]);
            assert_eq!(fs::read(path.join("file")).unwrap(), b"");
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

    #[test]
    fn temporary_names_run_out_without_a_lie() {
        let base = tempfile::tempdir().unwrap();
        for attempt in 0..TEMPORARY_NAMES {
            fs::create_dir(base.path().join(format!(".tftpd-0-{attempt}"))).unwrap();
        }
        let root = root(base.path(), OVERWRITE, Publisher::Named);
        assert_eq!(
            root.create(b"new", None).unwrap_err().errno(),
            Some(Errno::EBUSY)
        );
        assert!(root.create(b"new", None).unwrap().commit().is_ok());
    }

    #[test]
    fn a_directory_removed_meanwhile_ends_the_upload() {
        for_each_publisher(Policy::default(), |path, root| {
            fs::create_dir(path.join("sub")).unwrap();
            let upload = root.create(b"sub/new", None).unwrap();
            fs::remove_dir_all(path.join("sub")).unwrap();
            assert_eq!(code(upload.commit()), Some(ErrorCode::FileNotFound));
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
        assert_eq!(rename_new(directory, "one", b"new"), Ok(()));
        assert_eq!(rename_new(directory, "other", b"new"), Err(Errno::EEXIST));
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
                eprintln!("skipped: can't mount a small disk: {other:?}");
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
