//! The old versions of a file: how one comes to be, and how the oldest go.
//!
//! Before a new file takes the name, the old one gets the name of a version as well
//! (a hard link): at every moment both are whole. A version's name is never taken
//! from another file. Must not: remove a version before the new file is in place.

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

/// Directory entries that are looked at for versions: some tens of milliseconds.
const MAX_LISTED: usize = 65_536;

/// Names of versions that are tried, one after the other.
const MAX_TRIES: u64 = 64;

/// The highest number that is taken for a version's: others may have made higher ones,
/// and none would be left.
const MAX_COUNT: u64 = 1 << 60;

/// Versions removed with one upload: after the number to keep was lowered, it takes a
/// few uploads until they are gone.
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
    /// How many of those.
    keep: usize,
    /// The version's name, if that is the only one that the old file has now.
    moved: Option<Vec<u8>>,
}

impl Versions {
    /// Gives the file `name` in `directory` the name of a version as well; if there is
    /// no such file, nothing. Directory entries that are read are added to `entries`.
    ///
    /// # Errors
    /// What the file system says; too many files in the directory.
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
        // What isn't a file was put there meanwhile; renaming replaces a link, and no
        // directory.
        if kind(&stat) != SFlag::S_IFREG {
            return Ok(all);
        }
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // Narrower on 32 bits.
        let inode = stat.st_ino as u64;
        if let Some(place) = others.iter().position(|it| it.inode == inode) {
            // By a server that was killed before the new file was in place.
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
        // A directory, or a link, is none to be removed.
        others.retain(|it| file(directory, &it.name).is_some());
        Ok(Kept {
            others,
            keep: count.saturating_sub(1),
            moved,
        })
    }
}

impl Kept {
    /// The new file didn't get the name: gives it back to the old one.
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

    /// Removes the oldest versions beyond those that are kept. That one can't be
    /// removed is no fault of the upload's.
    ///
    /// Returns their bytes, where it is `counted`.
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

/// A number under which a file can be put beside `name`, which is taken: usually the
/// next one. Lists nothing: that may be forbidden, or take long.
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

/// Has `place` put a file beside `name`, under the number `first` or one behind it.
///
/// # Errors
/// What `place` says.
pub(super) fn beside(
    name: &[u8],
    first: u64,
    place: impl FnMut(&[u8]) -> nix::Result<()>,
) -> Result<(), StorageError> {
    give(name, None, 0, first, place).map(drop)
}

/// Has `place` give a file the name of the first version of `name` that is free, from the
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

/// The number behind the last one: of all, or of those of the same time.
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

/// Gives the file `name` another name beside its own; where the file system has no hard
/// links, such as FAT, instead of it. Returns whether it is instead.
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

/// Whether this is a file that the kernel may let nobody link but its owner
/// (`fs.protected_hardlinks`): then it isn't the file system that has no links.
fn is_protected(directory: BorrowedFd<'_>, name: &[u8], stat: &FileStat) -> bool {
    let special = stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0;
    let rights = AccessFlags::R_OK | AccessFlags::W_OK;
    let is_open = faccessat(directory, name, rights, AtFlags::AT_EACCESS).is_ok();
    stat.st_uid != geteuid().as_raw() && (special || !is_open)
}
