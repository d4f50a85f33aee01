//! The old versions of a file: how one is made, and how the oldest are removed.
//!
//! Before a new file takes the name, the old one gets the name of a version as well
//! (a hard link), so that at every moment the name leads to a whole file. A version
//! never replaces another file. Must not: remove a version before the new file is in
//! place.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};

use log::{debug, warn};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, geteuid, linkat, unlinkat};

use super::error::StorageError;
use super::publish::rename_new;
use super::upload_rules::Versions;
use super::version_name::{self, Order, VersionFormat};
use super::walk::kind;

/// The most directory entries searched for versions; takes some tens of milliseconds.
const MAX_LISTED: usize = 65_536;

/// The most names tried for a version, one after the other.
const MAX_TRIES: u64 = 64;

/// The highest number that counts as a version's. Other programs may have used higher
/// ones, and no number would be left after those.
const MAX_COUNT: u64 = 1 << 60;

/// The most versions removed with one upload: after the number to keep was lowered, it
/// may take a few uploads until the surplus is gone.
const MAX_PRUNED: usize = 64;

/// A version of a file.
#[derive(Debug)]
struct Version {
    order: Order,
    name: Vec<u8>,
    inode: u64,
}

/// The versions of a file, the oldest first, and which of them stay.
#[derive(Debug)]
pub(super) struct Kept {
    others: Vec<Version>,
    /// How many of `others` stay.
    keep: usize,
    /// The new version's name, if the old file was renamed to it and has no other.
    moved: Option<Vec<u8>>,
}

impl Versions {
    /// Gives the file `name` in `directory` the name of a version as well; does nothing
    /// if there is no such file. Directory entries that are read are added to `entries`.
    ///
    /// # Errors
    /// Too many files in the directory; a directory that can't be listed or changed.
    pub(super) fn keep(
        self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entries: &Cell<u64>,
    ) -> Result<Kept, StorageError> {
        let mut others = list(directory, name, self.format, entries)?;
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        let all = Kept {
            others: Vec::new(),
            keep: usize::MAX,
            moved: None,
        };
        let mut moved = None;
        let stat = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(all),
            stat => stat?,
        };
        // Something that isn't a file was put there meanwhile. If it is a link, the new
        // file will replace it; if it is a directory, that fails.
        if kind(&stat) != SFlag::S_IFREG {
            return Ok(all);
        }
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // Narrower on 32 bits.
        let inode = stat.st_ino as u64;
        if let Some(place) = others.iter().position(|it| it.inode == inode) {
            // Linked by a server that was killed before its new file was in place.
            others.remove(place);
        } else {
            let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
            let first = next_count(name, self.format, seconds, &others);
            let mut is_moved = false;
            let link = |version: &[u8]| {
                is_moved = link_or_rename(directory, name, &stat, version)?;
                Ok(())
            };
            let version = give(name, self.format, seconds, first, link)?;
            moved = is_moved.then_some(version);
        }
        // Directories and links aren't versions, and must not be removed.
        others.retain(|it| file(directory, &it.name).is_some());
        Ok(Kept {
            others,
            keep: count.saturating_sub(1),
            moved,
        })
    }
}

impl Kept {
    /// Gives the old file its name back: the new one couldn't be put in place.
    pub(super) fn put_back(&self, directory: BorrowedFd<'_>, name: &[u8]) {
        if let Some(version) = &self.moved
            && let Err(errno) = rename_new(directory, version, name)
        {
            warn!(
                "{} is {} now: {errno}",
                name.escape_ascii(),
                version.escape_ascii()
            );
        }
    }

    /// Removes the oldest versions beyond those that stay. If one can't be removed, that
    /// is only logged, since the upload has succeeded.
    ///
    /// Returns the bytes removed if they are `counted`, otherwise 0.
    pub(super) fn prune(&self, directory: BorrowedFd<'_>, counted: bool) -> u64 {
        let surplus = self.others.len().saturating_sub(self.keep).min(MAX_PRUNED);
        let mut bytes = 0;
        for Version { name, .. } in self.others.iter().take(surplus) {
            let size = if counted { size_of(directory, name) } else { 0 };
            match unlinkat(directory, name.as_slice(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) => bytes += size,
                Err(Errno::ENOENT) => {}
                Err(errno) => warn!("old version {} stays: {errno}", name.escape_ascii()),
            }
        }
        bytes
    }
}

/// Bytes of the file `name`, 0 if there is none.
pub(super) fn size_of(directory: BorrowedFd<'_>, name: &[u8]) -> u64 {
    let file = file(directory, name);
    file.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
}

fn file(directory: BorrowedFd<'_>, name: &[u8]) -> Option<FileStat> {
    let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    stat.ok().filter(|stat| kind(stat) == SFlag::S_IFREG)
}

/// A free number for a file beside `name`, which is taken; usually the next one. Doesn't
/// list the directory, which may be forbidden, or take long.
pub(super) fn next_beside(directory: BorrowedFd<'_>, name: &[u8]) -> u64 {
    let is_taken = |count| {
        let beside = version_name::version(name, None, 0, count);
        fstatat(directory, &*beside, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    };
    let (mut taken, mut free) = (0, 1);
    while free < MAX_COUNT && is_taken(free) {
        (taken, free) = (free, free * 2);
    }
    while free - taken > 1 {
        let middle = taken.midpoint(free);
        if is_taken(middle) {
            taken = middle;
        } else {
            free = middle;
        }
    }
    free
}

/// Lets `place` put a file beside `name`, under the number `first` or a later one.
///
/// # Errors
/// Those of `place`; `EBUSY` if no name was free.
pub(super) fn beside(
    name: &[u8],
    first: u64,
    place: impl FnMut(&[u8]) -> nix::Result<()>,
) -> Result<(), StorageError> {
    give(name, None, 0, first, place).map(drop)
}

/// Lets `place` give a file the first version's name of `name` that is free, from the
/// number `first` on, and returns that name.
fn give(
    name: &[u8],
    format: Option<VersionFormat>,
    seconds: u64,
    first: u64,
    mut place: impl FnMut(&[u8]) -> nix::Result<()>,
) -> Result<Vec<u8>, StorageError> {
    for count in first..first.saturating_add(MAX_TRIES) {
        let version = version_name::version(name, format, seconds, count);
        match place(&version) {
            // Another server was faster.
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
            Ok(()) => {
                debug!(
                    "{} is there: {} is beside it",
                    name.escape_ascii(),
                    version.escape_ascii()
                );
                return Ok(version);
            }
        }
    }
    // Not EEXIST, which would tell the client that its file exists.
    Err(Errno::EBUSY.into())
}

/// The number after the last one: of all versions, or of those of the same time.
fn next_count(name: &[u8], format: Option<VersionFormat>, seconds: u64, others: &[Version]) -> u64 {
    let new = version_name::version(name, format, seconds, 0);
    let Some(new) = version_name::order(name, &new, format) else {
        return 0;
    };
    let same = others
        .iter()
        .filter(|it| version_name::same_time(&it.order, &new));
    let last = same.map(|it| version_name::count_of(&it.order)).max();
    match last {
        Some(last) => last.saturating_add(1),
        None => u64::from(format.is_none()),
    }
}

/// The versions of `name`, the oldest first.
fn list(
    directory: BorrowedFd<'_>,
    name: &[u8],
    format: Option<VersionFormat>,
    entries: &Cell<u64>,
) -> Result<Vec<Version>, StorageError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listed = openat(directory, ".", flags, Mode::empty()).and_then(Dir::from_fd)?;
    let mut versions = Vec::new();
    for (number, entry) in listed.iter().enumerate() {
        entries.set(entries.get() + 1);
        if number == MAX_LISTED {
            return Err(StorageError::CROWDED);
        }
        let entry = entry?;
        let found = entry.file_name().to_bytes();
        if let Some(order) = version_name::order(name, found, format)
            && version_name::count_of(&order) <= MAX_COUNT
        {
            versions.push(Version {
                order,
                name: found.to_vec(),
                inode: entry.ino(),
            });
        }
    }
    versions.sort_unstable_by_key(|it| it.order);
    Ok(versions)
}

/// Gives the file `name` a second name. If the file system has no hard links, such as
/// FAT, it is renamed instead. Returns whether it was renamed.
fn link_or_rename(
    directory: BorrowedFd<'_>,
    name: &[u8],
    stat: &FileStat,
    other: &[u8],
) -> nix::Result<bool> {
    match linkat(directory.as_fd(), name, directory, other, AtFlags::empty()) {
        Err(Errno::EPERM) if is_protected(directory, name, stat) => Err(Errno::EPERM),
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            rename_new(directory, name, other).map(|()| true)
        }
        done => done.map(|()| false),
    }
}

/// Whether this is a file that the kernel may let only its owner link
/// (`fs.protected_hardlinks`): then a refusal doesn't mean that the file system has no
/// hard links.
fn is_protected(directory: BorrowedFd<'_>, name: &[u8], stat: &FileStat) -> bool {
    let special = stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0;
    let rights = AccessFlags::R_OK | AccessFlags::W_OK;
    let is_open = faccessat(directory, name, rights, AtFlags::AT_EACCESS).is_ok();
    stat.st_uid != geteuid().as_raw() && (special || !is_open)
}
