//! What the log is written to: standard error, or a file that can be moved away.
//!
//! Anything but a regular file is written without waiting for a reader, if possible
//! through an open file description of our own, so that `O_NONBLOCK` affects nobody
//! else. Must not: know a line.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::geteuid;

/// What lines are written to.
#[derive(Debug)]
pub(super) enum Target {
    /// A regular file, or a description of our own that doesn't block.
    Plain(File),
    /// A socket: each call asks not to wait (`MSG_DONTWAIT`).
    Socket(File),
    /// A description that others share: polled before each write. A pipe that is ready
    /// takes a whole line.
    Polled(File),
    /// There was no descriptor left to write with.
    Nowhere,
}

impl Target {
    pub(super) fn standard_error() -> Self {
        Self::inherited(io::stderr())
    }

    /// For a descriptor whose open file description others may share.
    pub(super) fn inherited(descriptor: impl AsFd) -> Self {
        let descriptor = descriptor.as_fd();
        let Ok(copy) = descriptor.try_clone_to_owned().map(File::from) else {
            return Self::Nowhere;
        };
        match copy.metadata().map(|it| it.file_type()) {
            Ok(kind) if kind.is_file() => Self::Plain(copy),
            Ok(kind) if kind.is_socket() => Self::Socket(copy),
            _ => {
                let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
                // This fails if it is another user's, or if there is no /proc.
                match open(&*path, OFlag::O_WRONLY | QUIETLY, Mode::empty()) {
                    Ok(own) => Self::Plain(own.into()),
                    Err(_) => Self::Polled(copy),
                }
            }
        }
    }

    /// Writes some of the bytes, or none of them, without waiting for anyone.
    ///
    /// # Errors
    /// `EAGAIN` if nobody has read what was written before; others of `write` or
    /// `send`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let written = match self {
            Self::Nowhere => return Err(Errno::EBADF),
            Self::Socket(socket) => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                return send(socket.as_raw_fd(), bytes, flags);
            }
            Self::Plain(file) => file.write(bytes),
            Self::Polled(file) => {
                let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                if matches!(poll(&mut polled, PollTimeout::ZERO), Ok(0)) {
                    return Err(Errno::EAGAIN);
                }
                file.write(bytes)
            }
        };
        written.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}

/// Opens without waiting for the other end, or taking over a terminal.
const QUIETLY: OFlag = OFlag::O_NONBLOCK
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// The log file; clones share it.
///
/// Its directory is kept open, so that the file can be opened again in a chroot, or when
/// we may no longer search the directories above.
#[derive(Debug, Clone)]
pub(crate) struct LogFile {
    place: Option<Arc<Place>>,
    target: Arc<Mutex<Target>>,
}

#[derive(Debug)]
struct Place {
    directory: OwnedFd,
    name: OsString,
    is_regular: bool,
    /// Nobody else had written to the file when it was opened: it was created then, or was
    /// root's and empty.
    is_ours: AtomicBool,
}

impl LogFile {
    /// Opens or creates the file. `/dev/stderr` and `/dev/stdout` stand for the streams
    /// that we were started with, even if they are sockets.
    ///
    /// # Errors
    /// The file can't be opened or created; `EISDIR` if the path names none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let inherited = match path.to_str() {
            Some("/dev/stderr") => Some(Target::inherited(io::stderr())),
            Some("/dev/stdout") => Some(Target::inherited(io::stdout())),
            _ => None,
        };
        if let Some(target) = inherited {
            let target = Arc::new(Mutex::new(target));
            return Ok(Self {
                place: None,
                target,
            });
        }
        let Some(Component::Normal(name)) = path.components().next_back() else {
            return Err(Errno::EISDIR.into());
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut place = Place {
            directory: openat(AT_FDCWD, parent, flags, Mode::empty())?,
            name: name.to_owned(),
            is_regular: false,
            is_ours: AtomicBool::new(false),
        };
        let (file, is_new) = place.open()?;
        let found = file.metadata()?;
        place.is_regular = found.is_file();
        let is_unused = found.uid() == 0 && found.len() == 0 && found.nlink() == 1;
        place.is_ours = AtomicBool::new(place.is_regular && (is_new || is_unused));
        let target = Target::Plain(file);
        Ok(Self {
            place: Some(Arc::new(place)),
            target: Arc::new(Mutex::new(target)),
        })
    }

    /// Opens the path again, after something moved the file away (logrotate). The
    /// old file stays in use if that fails.
    ///
    /// # Errors
    /// The file can't be opened or created.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        let (file, is_new) = place.open()?;
        if is_new {
            place.is_ours.store(place.is_regular, Ordering::Relaxed);
        }
        let target = Target::Plain(file);
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
        Ok(())
    }

    /// Calls `act` with the file if it is ours alone, and not a device, a pipe, or a file
    /// that others write to.
    ///
    /// # Errors
    /// Those of `act`.
    pub(crate) fn with_ours(&self, act: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        match &*target {
            Target::Plain(file) if self.place.as_ref().is_some_and(|it| it.is_ours()) => act(file),
            _ => Ok(()),
        }
    }

    pub(super) fn target(&self) -> Arc<Mutex<Target>> {
        Arc::clone(&self.target)
    }

    /// The directory in which another file may take the place of this one. `None` for a
    /// device: nobody moves it away, and its directory has all the other devices in it.
    pub(crate) fn directory(&self) -> Option<BorrowedFd<'_>> {
        let place = self.place.as_ref().filter(|place| place.is_regular)?;
        Some(place.directory.as_fd())
    }
}

impl Place {
    fn is_ours(&self) -> bool {
        self.is_ours.load(Ordering::Relaxed)
    }

    /// Opens or creates the file; tells whether it was created.
    fn open(&self) -> io::Result<(File, bool)> {
        // Others who can write to the directory must not choose the file that root appends
        // to, by a symbolic or a hard link.
        let is_guarded = geteuid().is_root() && !self.is_roots_alone()?;
        let links = if is_guarded {
            OFlag::O_NOFOLLOW
        } else {
            OFlag::empty()
        };
        let flags = QUIETLY | links;
        let open = |how| openat(&self.directory, &*self.name, how | flags, NEW_FILE);
        let append = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT;
        let file: File = match open(append | OFlag::O_EXCL) {
            Err(Errno::EEXIST) => match open(append) {
                // A FIFO without a reader. With O_RDWR we are one, and needn't wait.
                Err(Errno::ENXIO) => open(OFlag::O_RDWR)?.into(),
                opened => opened?.into(),
            },
            made => return Ok((made?.into(), true)),
        };
        let found = file.metadata()?;
        if is_guarded && found.is_file() && found.nlink() > 1 {
            return Err(Errno::ELOOP.into());
        }
        Ok((file, false))
    }

    /// Whether nobody but root can put anything in the directory.
    fn is_roots_alone(&self) -> io::Result<bool> {
        let directory = fstat(&self.directory)?;
        Ok(directory.st_uid == 0 && directory.st_mode & 0o022 == 0)
    }
}

/// The mode of a new file, before the umask.
const NEW_FILE: Mode = Mode::from_bits_truncate(0o666);
