//! A directory held by its descriptor: the one that is served, or one that links may
//! lead to.
//!
//! Must not: open it by its path a second time.

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
    /// Its absolute paths: as it was named, then without links, if that differs. Only
    /// compared with names and links, and looked at for a hint; never opened again.
    pub(super) paths: Rc<[PathBuf]>,
}

impl Directory {
    /// Opens the directory at `path`. The path is looked up once: even if the directory
    /// is moved or replaced later, it stays the one that is served.
    ///
    /// # Errors
    /// No such directory; not a directory; or out of reach.
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

    /// Opens the directory again, with the rights that the process has now.
    pub(super) fn search(&self) -> Result<OwnedFd, RootError> {
        // Unlike the directory itself, `.` can't be opened without the right to search.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(&self.descriptor, ".", flags, Mode::empty()).map_err(|errno| self.error(errno))
    }

    /// Why it can't be served.
    pub(super) fn error(&self, errno: Errno) -> RootError {
        RootError::new(self.path(), errno)
    }

    /// Its absolute path without links.
    pub fn real_path(&self) -> &Path {
        self.paths.last().map_or(Path::new("."), PathBuf::as_path)
    }

    /// Its absolute path as it was named.
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
    /// What the directory was for.
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

    /// The same error for a directory that uploads are to go to.
    #[must_use]
    pub fn of_uploads(self) -> Self {
        let purpose = UPLOADS;
        Self { purpose, ..self }
    }

    /// The same error for a directory that links may lead to.
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
        // Absolute: it shows where a relative path was looked for.
        let path = std::path::absolute(&self.path);
        let path = path.as_ref().unwrap_or(&self.path).display();
        write!(f, "cannot {} {path}: {reason}", self.purpose)
    }
}

impl std::error::Error for RootError {}
