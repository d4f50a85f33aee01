//! The old versions of a file: how one comes to be, and how the oldest go.
//!
//! Before a new file takes the name, the old one gets the name of a version as well
//! (a hard link): at every moment both are whole. A version's name is never taken
//! from another file. Must not: remove a version before the new file is in place.

use std::os::fd::{AsFd, BorrowedFd};

use log::{debug, warn};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

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

/// The versions of a file that are there.
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
}

impl Versions {
    /// Gives the file `name` in `directory` the name of a version as well; if there is
    /// no such file, nothing.
    ///
    /// # Errors
    /// What the file system says; too many files in the directory.
    pub(super) fn keep(self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<Kept, StorageError> {
        let mut others = list(directory, name, self.format)?;
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        let all = Kept {
            others: Vec::new(),
            keep: usize::MAX,
        };
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
            let link = |version: &[u8]| link_or_rename(directory, name, version);
            give(name, self.format, seconds, &others, link)?;
        }
        // A directory, or a link, is none to be removed.
        others.retain(|it| file(directory, &it.name).is_some());
        Ok(Kept {
            others,
            keep: count.saturating_sub(1),
        })
    }
}

impl Kept {
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

/// Has `place` put a file beside `name`, which is taken, under the next number.
///
/// # Errors
/// What `place` says; too many files in the directory.
pub(super) fn beside(
    directory: BorrowedFd<'_>,
    name: &[u8],
    place: impl FnMut(&[u8]) -> nix::Result<()>,
) -> Result<(), StorageError> {
    let others = list(directory, name, None)?;
    give(name, None, 0, &others, place)
}

/// Has `place` give a file the name of the next version of `name` that is free.
fn give(
    name: &[u8],
    format: Option<VersionFormat>,
    seconds: u64,
    others: &[Version],
    mut place: impl FnMut(&[u8]) -> nix::Result<()>,
) -> Result<(), StorageError> {
    let first = next_count(name, format, seconds, others);
    for count in first..first.saturating_add(MAX_TRIES) {
        let version = version_name::version(name, format, seconds, count);
        match place(&version) {
            // Another server was faster.
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
            Ok(()) => {
                debug!(
                    "{} is there: kept {}",
                    name.escape_ascii(),
                    version.escape_ascii()
                );
                return Ok(());
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
) -> Result<Vec<Version>, StorageError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut entries = openat(directory, ".", flags, Mode::empty()).and_then(Dir::from_fd)?;
    let mut versions = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
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
/// links, such as FAT, instead of it.
fn link_or_rename(directory: BorrowedFd<'_>, name: &[u8], other: &[u8]) -> nix::Result<()> {
    match linkat(directory.as_fd(), name, directory, other, AtFlags::empty()) {
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => rename_new(directory, name, other),
        done => done,
    }
}
