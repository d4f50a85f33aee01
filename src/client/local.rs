//! Files at this end: what is sent, and where what is received goes.
//!
//! A regular file is put in place whole or not at all; pipes and devices take
//! the bytes as they come. Must not: know who is at the other end.

use std::cell::{RefCell, RefMut};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::file::Store;
use crate::file::{ReadFile, StorageError, Upload, local};
use crate::host::Interrupts;

/// Where a received file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// Under this name.
    Path(PathBuf),
    /// To standard output.
    Stdout,
    /// Nowhere: only whether it comes is of interest.
    Discard,
}

impl Output {
    /// What the user called it: `-` is standard output, and so is the name that
    /// it has among the devices (which may lead to a file that others write to
    /// as well).
    pub(super) fn named(name: &OsStr) -> Self {
        match name.as_bytes() {
            b"-" | b"/dev/stdout" | b"/dev/fd/1" | b"/proc/self/fd/1" => Self::Stdout,
            _ => Self::Path(name.into()),
        }
    }

    /// Whether it is what the user is looking at.
    pub(super) fn is_screen(&self) -> bool {
        *self == Self::Stdout && io::stdout().is_terminal()
    }

    /// Makes ready to receive. Nothing can be seen of it yet. Waits for whoever
    /// is to read a pipe.
    ///
    /// # Errors
    /// One line that names the file and the reason.
    pub(super) fn open(&self) -> Result<SharedOutput, String> {
        let store = self.open_store()?;
        Ok(SharedOutput(Rc::new(RefCell::new(Shared {
            store: Some(store),
            owner: None,
        }))))
    }

    fn open_store(&self) -> Result<LocalStore, String> {
        match self {
            Self::Path(path) if is_stream(path) => {
                let opened = OpenOptions::new().write(true).open(path);
                opened
                    .map(LocalStore::stream)
                    .map_err(|error| describe(path, &words(&error)))
            }
            Self::Path(path) => match local::replace(path) {
                Ok(upload) => Ok(LocalStore::File(upload)),
                Err(error) => Err(describe(path, error.reason())),
            },
            Self::Stdout => {
                let copy = io::stdout().as_fd().try_clone_to_owned();
                copy.map(|descriptor| LocalStore::stream(descriptor.into()))
                    .map_err(|error| format!("{self}: {}", words(&error)))
            }
            Self::Discard => Ok(LocalStore::Discard),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Stdout => f.write_str("standard output"),
            Self::Discard => f.write_str("nowhere"),
        }
    }
}

/// A pipe, a terminal or a device. Whoever reads it may take their time: a
/// signal ends the wait.
#[derive(Debug)]
pub(super) struct Stream {
    file: File,
    /// Readable when a signal came; `None` while signals do what they always do.
    interrupts: Option<OwnedFd>,
}

impl Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // As much as a pipe that is ready takes without making us wait.
        for part in bytes.chunks(PIPE_BUF) {
            self.wait()?;
            self.file.write_all(part)?;
        }
        Ok(())
    }

    /// Waits until it takes something more, or a signal comes.
    fn wait(&self) -> io::Result<()> {
        let Some(interrupts) = &self.interrupts else {
            return Ok(());
        };
        let mut polled = [
            PollFd::new(self.file.as_fd(), PollFlags::POLLOUT),
            PollFd::new(interrupts.as_fd(), PollFlags::POLLIN),
        ];
        // A signal that isn't ours, such as of a window that changed its size.
        while poll(&mut polled, PollTimeout::NONE) == Err(Errno::EINTR) {}
        // Devices that can't be polled are always ready.
        match polled[1].any() {
            Some(true) => Err(Errno::EINTR.into()),
            _ => Ok(()),
        }
    }
}

/// A pipe or a device, which is written to and not replaced.
fn is_stream(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| {
        let kind = metadata.file_type();
        kind.is_char_device() || kind.is_fifo() || kind.is_block_device()
    })
}

/// What receives a file's bytes.
#[derive(Debug)]
enum LocalStore {
    /// A regular file that has yet to get its name.
    File(Upload),
    /// It takes the bytes as they come.
    Stream(Stream),
    Discard,
}

impl LocalStore {
    const fn stream(file: File) -> Self {
        Self::Stream(Stream {
            file,
            interrupts: None,
        })
    }

    /// Lets `interrupts` end a wait for whoever reads a pipe.
    fn watch(&mut self, interrupts: &Interrupts) -> io::Result<()> {
        if let Self::Stream(stream) = self {
            stream.interrupts = Some(interrupts.as_fd().try_clone_to_owned()?);
        }
        Ok(())
    }
}

impl LocalStore {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        match self {
            Self::File(upload) => upload.write_at(offset, bytes),
            Self::Stream(stream) => stream.write(bytes).map_err(|error| storage_error(&error)),
            Self::Discard => Ok(()),
        }
    }

    fn commit(self) -> Result<(), StorageError> {
        match self {
            Self::File(upload) => upload.commit().map(drop),
            Self::Stream(_) | Self::Discard => Ok(()),
        }
    }
}

/// The output of a job. The first attempt that stores anything in it has it.
#[derive(Debug)]
pub(super) struct SharedOutput(Rc<RefCell<Shared>>);

#[derive(Debug)]
struct Shared {
    /// `None` once the file is in place.
    store: Option<LocalStore>,
    /// The attempt that has it.
    owner: Option<usize>,
}

impl SharedOutput {
    /// The output, as `attempt` writes to it.
    pub(super) fn writer(&self, attempt: usize) -> OutputWriter {
        OutputWriter {
            shared: Rc::clone(&self.0),
            attempt,
        }
    }

    /// The attempt that has stored something.
    pub(super) fn owner(&self) -> Option<usize> {
        self.0.borrow().owner
    }

    /// Lets `interrupts` end a wait for whoever reads a pipe.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub(super) fn watch(&self, interrupts: &Interrupts) -> io::Result<()> {
        match &mut self.0.borrow_mut().store {
            Some(store) => store.watch(interrupts),
            None => Ok(()),
        }
    }
}

/// The output of a job, as one of its attempts has it.
#[derive(Debug)]
pub(super) struct OutputWriter {
    shared: Rc<RefCell<Shared>>,
    attempt: usize,
}

impl OutputWriter {
    /// Claims the output for this attempt.
    fn claim(&self) -> Result<RefMut<'_, Shared>, StorageError> {
        let mut shared = self.shared.borrow_mut();
        if *shared.owner.get_or_insert(self.attempt) == self.attempt {
            Ok(shared)
        } else {
            Err(Errno::EBUSY.into())
        }
    }
}

impl Store for OutputWriter {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        match &mut self.claim()?.store {
            Some(store) => store.write_at(offset, bytes),
            None => Err(Errno::EBADF.into()),
        }
    }

    fn commit(self) -> Result<(), StorageError> {
        let store = self.claim()?.store.take();
        store.map_or(Ok(()), LocalStore::commit)
    }
}

fn storage_error(error: &io::Error) -> StorageError {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)).into()
}

/// A file to be sent, opened once and read by every attempt.
#[derive(Debug)]
pub(super) struct Input {
    file: File,
    name: PathBuf,
}

impl Input {
    /// Opens `name`; `-` is standard input. What comes from a pipe or a device
    /// is read to its end first: blocks may have to be sent again, and the
    /// server wants to know how much will come.
    ///
    /// # Errors
    /// One line that names the file and the reason.
    pub(super) fn open(name: &OsStr) -> Result<Self, String> {
        let path = Path::new(name);
        let opened = if name == "-" {
            io::stdin().as_fd().try_clone_to_owned().map(File::from)
        } else {
            File::open(path)
        };
        let file = opened
            .and_then(seekable)
            .map_err(|error| describe(path, &words(&error)))?;
        let source = Self {
            file,
            name: path.to_owned(),
        };
        source.read().map(|_| source)
    }

    /// Its bytes, from the first one on.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub(super) fn read(&self) -> Result<ReadFile, String> {
        let copy = self.file.try_clone().map_err(|error| words(&error));
        copy.and_then(|file| local::read(file.into()).map_err(|error| error.reason().to_owned()))
            .map_err(|reason| describe(&self.name, &reason))
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.display().fmt(f)
    }
}

/// The file itself where it can be read at any place from its first byte on;
/// else what is left in it, in a file without a name.
fn seekable(mut file: File) -> io::Result<File> {
    let metadata = file.metadata()?;
    let is_whole = metadata.is_file() && file.stream_position()? == 0;
    // Files of /proc tell no size before they are read.
    if metadata.is_dir() || (is_whole && metadata.size() > 0) {
        return Ok(file);
    }
    let mut copy = tempfile::tempfile()?;
    io::copy(&mut file, &mut copy)?;
    Ok(copy)
}

fn describe(path: &Path, reason: &str) -> String {
    format!("{}: {reason}", path.display())
}

/// The system's words, without the number that the library puts behind them.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}
