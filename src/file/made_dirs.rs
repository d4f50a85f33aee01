//! Directories that are made for uploads, and removed again if no upload succeeds.
//!
//! A directory made here is remembered until an upload in or below it is in place. If
//! the last upload on its way there fails, the directory is removed, if it is empty.
//! Must not: follow a link, or remove what others made.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use log::debug;
use nix::Result;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::walk::{Id, LOOK, id, id_of};

/// How directories on the way are opened.
const DIRECTORY: OFlag = LOOK.union(OFlag::O_DIRECTORY);

/// The directories that were made, and in or below which no upload is in place yet.
#[derive(Debug, Default)]
pub(super) struct MadeDirs {
    all: RefCell<Vec<MadeDir>>,
}

#[derive(Debug)]
struct MadeDir {
    id: Id,
    name: Box<[u8]>,
    /// Uploads on their way into or below it.
    uploads: u32,
}

/// The made directories that an upload holds: those on the way to its place, the
/// innermost first.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<Id>);

impl MadeDirs {
    /// Counts one more upload on its way to `directory`, and returns what it holds.
    ///
    /// # Errors
    /// A directory above it can't be opened.
    pub(super) fn hold(&self, directory: BorrowedFd<'_>) -> Result<Held> {
        let mut held = Held::default();
        if self.all.borrow().is_empty() {
            return Ok(held);
        }
        let mut id = id_of(directory)?;
        let mut above: Option<OwnedFd> = None;
        while self.change(id, |made| made.uploads += 1) {
            held.0.push(id);
            let here = above.as_ref().map_or(directory, AsFd::as_fd);
            let parent = openat(here, "..", DIRECTORY, Mode::empty());
            match parent.and_then(|parent| Ok((id_of(&parent)?, parent))) {
                Ok((its, parent)) => (id, above) = (its, Some(parent)),
                Err(errno) => {
                    self.release(directory, &held);
                    return Err(errno);
                }
            }
        }
        Ok(held)
    }

    /// Makes the directories of `path` below `directory` that are missing, with these
    /// `permissions`, or, if `None`, those that the process's umask leaves. Returns the
    /// last one, and adds to `held` those that were made for uploads.
    ///
    /// # Errors
    /// Those of `mkdir` and `open`, `ENOTDIR` for a link. Directories already made are
    /// removed again.
    pub(super) fn make(
        &self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        permissions: Option<u32>,
        held: &mut Held,
    ) -> Result<OwnedFd> {
        let mut here = openat(directory, ".", DIRECTORY, Mode::empty())?;
        let mut new = Held::default();
        let made = self.make_all(&mut here, path, permissions, &mut new);
        if let Err(errno) = made {
            self.release(here.as_fd(), &new);
            return Err(errno);
        }
        held.0.splice(..0, new.0);
        Ok(here)
    }

    /// The same, from `here` on, which moves down with each step.
    fn make_all(
        &self,
        here: &mut OwnedFd,
        path: &[u8],
        permissions: Option<u32>,
        held: &mut Held,
    ) -> Result<()> {
        for name in path.split(|&byte| byte == b'/') {
            let mode = Mode::from_bits_truncate(permissions.unwrap_or(0o777));
            let is_new = match mkdirat(&*here, name, mode) {
                Ok(()) => true,
                Err(Errno::EEXIST) => false,
                Err(errno) => return Err(errno),
            };
            let opened = openat(&*here, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty());
            let looked_at = opened.and_then(|below| Ok((fstat(&below)?, below)));
            let (stat, below) = match looked_at {
                Ok(found) => found,
                Err(errno) => {
                    if is_new {
                        let _ = unlinkat(&*here, name, UnlinkatFlags::RemoveDir);
                    }
                    return Err(errno);
                }
            };
            if is_new {
                self.all.borrow_mut().push(MadeDir {
                    id: id(&stat),
                    name: name.into(),
                    uploads: 0,
                });
                if permissions.is_some() {
                    // If that fails, the directory is only stricter.
                    let _ = permit(here, name, &stat, mode);
                }
            }
            if self.change(id(&stat), |made| made.uploads += 1) {
                held.0.insert(0, id(&stat));
            }
            *here = below;
        }
        Ok(())
    }

    /// An upload is in place: the directories that it `held` stay.
    pub(super) fn keep(&self, held: &Held) {
        self.all
            .borrow_mut()
            .retain(|made| !held.0.contains(&made.id));
    }

    /// An upload to `directory` has failed: removes the directories that it `held`, if
    /// they are empty and no other upload holds them.
    pub(super) fn release(&self, directory: BorrowedFd<'_>, held: &Held) {
        let mut here: Option<OwnedFd> = None;
        let mut removing = true;
        for &id in &held.0 {
            self.change(id, |made| made.uploads = made.uploads.saturating_sub(1));
            let mut all = self.all.borrow_mut();
            let place = all
                .iter()
                .position(|made| made.id == id && made.uploads == 0);
            let Some(place) = place else {
                removing = false;
                continue;
            };
            let made = all.swap_remove(place);
            if !removing {
                continue;
            }
            let child = here.as_ref().map_or(directory, AsFd::as_fd);
            match remove(child, &made) {
                Ok(parent) => here = Some(parent),
                Err(errno) => {
                    debug!("directory {} stays: {errno}", made.name.escape_ascii());
                    removing = false;
                }
            }
        }
    }

    /// Changes the entry of the directory with this id; `false` if there is none.
    fn change(&self, id: Id, change: impl FnOnce(&mut MadeDir)) -> bool {
        let mut all = self.all.borrow_mut();
        let made = all.iter_mut().find(|made| made.id == id);
        made.map(change).is_some()
    }
}

impl Held {
    /// Whether it holds any directory.
    pub(super) const fn is_any(&self) -> bool {
        !self.0.is_empty()
    }

    /// How many directories it holds.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }
}

/// Removes an empty directory, and returns its parent.
fn remove(directory: BorrowedFd<'_>, made: &MadeDir) -> Result<OwnedFd> {
    let parent = openat(directory, "..", DIRECTORY, Mode::empty())?;
    let named = fstatat(&parent, &*made.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if id(&named) != made.id {
        return Err(Errno::ESTALE);
    }
    unlinkat(&parent, &*made.name, UnlinkatFlags::RemoveDir)?;
    Ok(parent)
}

/// Gives a directory its permissions, whatever the process's umask is. Keeps the setgid
/// bit, which it has from its parent.
fn permit(parent: &OwnedFd, name: &[u8], stat: &FileStat, mode: Mode) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = openat(parent, name, flags, Mode::empty())?;
    fchmod(
        &opened,
        mode | Mode::from_bits_truncate(stat.st_mode & 0o7000),
    )
}
