//! The process and the machine around it: signals, the limit on open files, and
//! what is given up before the first byte is read from the network.
//!
//! Must not: know of requests, sessions or served files.

pub mod calendar;
pub mod clock;
mod inherited;
mod limits;
mod notify;
mod pid_file;
mod privileges;
pub mod random;
mod sandbox;
mod signals;
pub mod usage;
mod wait_timer;

use std::error::Error;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{chroot, fchdir};

use self::privileges::words;

pub use inherited::{Inherited, InheritedStream};
pub use limits::{
    HELPERS_OPEN_FILES, memory, open_files_limit, processors, raise_open_files,
    with_inherited_open_files,
};
pub use notify::{Notifier, hide_manager};
pub use pid_file::PidFile;
pub use privileges::{Identity, is_root, user};
pub use sandbox::Enforcement;
pub use signals::{Command, Interrupts, Signals, with_signals_of_others};
pub use wait_timer::WaitTimer;

/// What the process keeps; everything else it gives up.
#[derive(Debug)]
pub struct Confinement<'a> {
    /// The directory that is served.
    pub root: BorrowedFd<'a>,
    /// Its path, for messages.
    pub root_path: &'a Path,
    /// Where files are created and replaced, if not in `root`.
    pub uploads: Option<BorrowedFd<'a>>,
    /// Whether files may be created and replaced at all.
    pub writable: bool,
    /// Whether directories may be created, too.
    pub makes_directories: bool,
    /// Whether the directories in `root` may be listed.
    pub listable: bool,
    /// Other directories whose files may be read.
    pub linked: &'a [BorrowedFd<'a>],
    /// Whether those may be listed.
    pub linked_listable: bool,
    /// The directory of the log file, which is opened again when it was moved
    /// away.
    pub log_directory: Option<BorrowedFd<'a>>,
    /// Other directories that are served as `root` is.
    pub beside: &'a [BorrowedFd<'a>],
    /// Files that are read again when they were changed or replaced.
    pub read_again: &'a [&'a Path],
    /// Their directories, where their paths won't lead there any more.
    pub read_again_in: &'a [BorrowedFd<'a>],
    /// The pid file, which is removed at the end.
    pub pid_file: Option<&'a Path>,
    /// The file of the status port's socket, which is removed at the end.
    pub status_socket: Option<&'a Path>,
    /// Makes the served directory the only one there is.
    pub chroot: bool,
    /// Forbids what isn't needed, as far as the kernel can.
    pub sandbox: bool,
    /// The user to become; `None` to stay the same.
    pub identity: Option<Identity>,
}

impl Confinement<'_> {
    /// Gives up everything else for good: the other directories, what the sandbox
    /// forbids, user and groups, every capability, and new rights from running a
    /// program. This affects the calling thread only: there must be no other.
    ///
    /// # Errors
    /// One line that says what could not be given up, and the remedy. The
    /// process must end then.
    pub fn enter(&self) -> Result<Enforcement, ConfinementError> {
        if self.chroot {
            fchdir(self.root)
                .and_then(|()| chroot("."))
                .map_err(|errno| ConfinementError::Chroot(self.root_path.to_owned(), errno))?;
        }
        let enforcement = if self.sandbox {
            sandbox::enter(self)?
        } else {
            Enforcement::None
        };
        privileges::give_up(self.identity.as_ref())?;
        Ok(enforcement)
    }
}

/// What could not be given up.
#[derive(Debug)]
pub enum ConfinementError {
    /// The rest of the file system.
    Chroot(PathBuf, Errno),
    /// What the sandbox forbids.
    Sandbox(Box<dyn Error>),
    /// Our user and groups, for these.
    Identity(Identity, Errno),
    /// Capabilities, or the gaining of new ones.
    Privileges(Box<dyn Error>),
}

impl fmt::Display for ConfinementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chroot(path, errno) => {
                let (path, reason) = (path.display(), words(*errno));
                write!(
                    f,
                    "cannot chroot to {path}: {reason}; start as root, or drop --chroot"
                )
            }
            Self::Sandbox(error) => {
                write!(
                    f,
                    "cannot set up the sandbox: {error}; --no-sandbox does without"
                )
            }
            Self::Identity(identity, errno) => {
                let reason = words(*errno);
                write!(
                    f,
                    "cannot become {identity}: {reason}; start as root, or drop -u"
                )
            }
            Self::Privileges(error) => write!(
                f,
                "cannot give up privileges: {error}; allow capset(2) and prctl(2) where system \
                 calls are filtered"
            ),
        }
    }
}

impl Error for ConfinementError {}
