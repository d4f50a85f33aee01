//! The file that already has an upload's name: what becomes of it, and what the new file
//! takes over from it.
//!
//! Must not: change anything on the disk.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, SFlag, fstatat};
use nix::unistd::{AccessFlags, Gid, Uid, faccessat};

use super::error::StorageError;
use super::policy::Policy;
use super::upload_rules::{OtherName, Versions};
use super::version_name;
use super::walk::kind;

/// What happens if a file already has an upload's name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Taken {
    /// It stays, and the upload is refused.
    Refused,
    /// The new one takes its place.
    Replaced,
    /// The same, and the old one is kept under another name.
    Kept(Versions),
    /// It stays, and the new one gets another name.
    Beside(OtherName),
}

impl Taken {
    /// What the policy wants.
    pub(super) fn by(policy: &Policy) -> Self {
        let rules = &policy.uploads;
        match (rules.versions(), policy.overwrite, rules.other_name()) {
            (Some(versions), _, _) => Self::Kept(versions),
            (None, true, _) => Self::Replaced,
            (None, false, Some(other)) => Self::Beside(other),
            (None, false, None) => Self::Refused,
        }
    }
}

/// What a new file takes over from the one that it replaces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Replaced {
    pub(super) permissions: u32,
    pub(super) owner: Uid,
    pub(super) group: Gid,
}

/// The file to be replaced; `None` if there is none. In a drop box, where nobody may
/// learn what is there, a file that can't be replaced stays, and the upload gets another
/// name.
pub(super) fn look_at_existing(
    directory: BorrowedFd<'_>,
    name: &[u8],
    taken: &mut Taken,
    policy: &Policy,
) -> Result<Option<Replaced>, StorageError> {
    let other_name = policy.uploads.other_name();
    let is_secret = other_name.is_some();
    let versions = policy.uploads.versions();
    let is_one = |format| version_name::is_version(name, format);
    if versions.is_some_and(|it| is_one(it.format)) || is_secret && is_one(None) {
        return Err(StorageError::VERSION);
    }
    // In a drop box this must not depend on whether the name is taken.
    if (versions.is_some() || is_secret) && version_name::is_too_long(name) {
        return Err(StorageError::LONG_NAME);
    }
    let replaces = matches!(taken, Taken::Replaced | Taken::Kept(_));
    match (existing(directory, name, replaces), other_name) {
        (Err(_), Some(other)) => {
            *taken = Taken::Beside(other);
            Ok(None)
        }
        (found, _) => found,
    }
}

/// The file to be replaced; `None` if there is none.
fn existing(
    directory: BorrowedFd<'_>,
    name: &[u8],
    overwrite: bool,
) -> Result<Option<Replaced>, StorageError> {
    let stat: FileStat = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
        Ok(stat) => stat,
    };
    match kind(&stat) {
        SFlag::S_IFDIR => Err(StorageError::IS_DIRECTORY),
        _ if !overwrite => Err(StorageError::EXISTS),
        SFlag::S_IFLNK => Err(StorageError::IS_LINK),
        SFlag::S_IFREG => {
            // Replacing needs rights on the directory only. But a file that its owner
            // made read-only is to stay, as if the upload were written in place.
            faccessat(directory, name, AccessFlags::W_OK, AtFlags::AT_EACCESS)?;
            Ok(Some(Replaced {
                permissions: stat.st_mode & 0o777,
                owner: Uid::from_raw(stat.st_uid),
                group: Gid::from_raw(stat.st_gid),
            }))
        }
        _ => Err(StorageError::NOT_REGULAR),
    }
}
