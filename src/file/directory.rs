//! A directory by its descriptor: the one that is served, or one that links may
//! lead to.
//!
//! Must not: be found by its path twice.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::error::with_remedy;

/// A directory that is going to be served, or that links may lead to: opened with
/// all the rights the process was started with, before it gives them up.
#[derive(Debug)]
pub struct Directory {
    pub(super) descriptor: OwnedFd,
    /// Absolute, as it was named and, behind that, as it is without links; only
    /// compared with names and links, never opened again.
    pub(super) paths: Rc<[PathBuf]>,
}

impl Directory {
    /// Opens the directory at `path`. It is found once; moved or replaced, it
    /// stays the one that is served.
    ///
    /// # Errors
    /// A directory that is missing, is none, or can't be reached.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let descriptor =
            open(path, flags, Mode::empty()).map_err(|errno| RootError::new(path, errno))?;
        let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let real = path.canonicalize().ok().filter(|real| *real != named);
        Ok(Self {
            descriptor,
            paths: [named].into_iter().chain(real).collect(),
        })
    }

    /// The directory once more, with the rights the process has by now.
    pub(super) fn search(&self) -> Result<OwnedFd, RootError> {
        // The directory itself opens without the right to search it; `.` doesn't.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(&self.descriptor, ".", flags, Mode::empty()).map_err(|errno| self.error(errno))
    }

    /// Why it can't be served.
    pub(super) fn error(&self, errno: Errno) -> RootError {
        RootError::new(self.path(), errno)
    }

    /// As it is without links, absolute.
    pub fn real_path(&self) -> &Path {
        self.paths.last().map_or(Path::new("."), PathBuf::as_path)
    }

    /// As it was named.
    pub(super) fn path(&self) -> &Path {
        self.paths.first().map_or(Path::new("."), PathBuf::as_path)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Why a directory can't be served: one line with the remedy.
#[derive(Debug)]
pub struct RootError {
    /// What can't be done with it.
    purpose: &'static str,
    path: PathBuf,
    errno: Errno,
}

const UPLOADS: &str = "take uploads to";

impl RootError {
    fn new(path: &Path, errno: Errno) -> Self {
        Self {
            purpose: "serve",
            path: path.to_owned(),
            errno,
        }
    }

    /// The same about a directory that uploads are to go to.
    #[must_use]
    pub fn of_uploads(self) -> Self {
        let purpose = UPLOADS;
        Self { purpose, ..self }
    }

    /// The same about a directory that links are to lead to.
    #[must_use]
    pub fn of_links(self) -> Self {
        let purpose = "follow links to";
        Self { purpose, ..self }
    }
}

impl fmt::Display for RootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other;
        let reason = match self.errno {
            Errno::ENOENT if self.purpose == UPLOADS && self.path.is_relative() => {
                "no such directory; create it, or name it from here, not from ROOT"
            }
            Errno::ENOENT => "no such directory; create it or name another",
            Errno::ENOTDIR => "not a directory; name the directory that holds the files",
            Errno::EACCES | Errno::EPERM => {
                "permission denied; let the server's user search it and the directories above \
                 (chmod o+x)"
            }
            errno => {
                other = with_remedy(&errno.into(), "name another directory");
                &other
            }
        };
        // Whoever names it from elsewhere sees where it was looked for.
        let path = std::path::absolute(&self.path);
        let path = path.as_ref().unwrap_or(&self.path).display();
        write!(f, "cannot {} {path}: {reason}", self.purpose)
    }
}

impl std::error::Error for RootError {}
