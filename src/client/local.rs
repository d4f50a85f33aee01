//! Files at this end: those to be sent, and those to be received.
//!
//! A regular file is put in place whole or not at all; pipes and devices take
//! the bytes as they come. Must not: know the server.

use std::cell::{RefCell, RefMut};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{fstat, makedev};

use super::stream::{InputReader, StreamBuffer};
use crate::file::Store;
use crate::file::local::Place;
use crate::file::{StorageError, Upload, local, reason};
use crate::host::Interrupts;

/// The most bytes that may come beyond twice the announced size. Some servers announce a
/// wrong size, or a file grows while it is sent; but it must have an end.
const LEEWAY: u64 = 1 << 20;

/// Where a received file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// Under this name.
    Path(PathBuf),
    /// To standard output.
    Stdout,
    /// Nowhere: a probe only needs to know that the file comes.
    Discard,
}

impl Output {
    /// The output that the user named: `-` is standard output, and so are its names in
    /// /dev and /proc (which may lead to a file that others write to as well).
    pub(super) fn named(name: &OsStr) -> Self {
        match name.as_bytes() {
            b"-" | b"/dev/stdout" | b"/dev/fd/1" | b"/proc/self/fd/1" => Self::Stdout,
            _ => Self::Path(name.into()),
        }
    }

    /// Where the file is that it would replace, if it is one: in its place, or under its
    /// name where that place can't be told. Two that are equal would be one file.
    pub(super) fn place(&self) -> Option<Result<Place, &Path>> {
        match self {
            Self::Path(path) if path.as_os_str().is_empty() || is_stream(path) => None,
            Self::Path(path) => Some(local::place(path).map_err(|_| path.as_path())),
            Self::Stdout | Self::Discard => None,
        }
    }

    /// Whether the file's bytes go to the user's terminal.
    pub(super) fn is_screen(&self) -> bool {
        *self == Self::Stdout && io::stdout().is_terminal()
    }

    /// Makes ready to receive. A regular file doesn't get its name before it is whole; a
    /// pipe's reader is waited for.
    ///
    /// # Errors
    /// One line that names the file and the reason.
    pub(super) fn open(&self) -> Result<SharedOutput, String> {
        let store = self.open_store()?;
        Ok(SharedOutput(Rc::new(RefCell::new(Shared {
            store: Some(store),
            owner: None,
            stored: 0,
            announced: None,
            is_short: false,
            is_long: false,
        }))))
    }

    fn open_store(&self) -> Result<LocalStore, String> {
        match self {
            Self::Path(path) if is_stream(path) => {
                let opened = OpenOptions::new().write(true).open(path);
                opened
                    .map(LocalStore::stream)
                    .map_err(|error| describe(path, &reason(&error)))
            }
            Self::Path(path) => match local::replace(path) {
                Ok(upload) => Ok(LocalStore::File(Box::new(upload))),
                Err(error) => Err(describe(path, &error.reason())),
            },
            Self::Stdout => {
                let copy = io::stdout().as_fd().try_clone_to_owned();
                copy.map(|descriptor| LocalStore::stream(descriptor.into()))
                    .map_err(|error| format!("{self}: {}", reason(&error)))
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

/// A pipe, a terminal or a device. A signal ends the wait for a slow reader.
#[derive(Debug)]
pub(super) struct Stream {
    file: File,
    /// Readable when a signal came; `None` while signals have their usual effect.
    interrupts: Option<OwnedFd>,
}

impl Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A pipe that is ready takes this much without blocking.
        for part in bytes.chunks(PIPE_BUF) {
            self.wait()?;
            self.file.write_all(part)?;
        }
        Ok(())
    }

    /// Waits until the stream takes more, or a signal comes.
    fn wait(&self) -> io::Result<()> {
        let Some(interrupts) = &self.interrupts else {
            return Ok(());
        };
        let mut polled = [
            PollFd::new(self.file.as_fd(), PollFlags::POLLOUT),
            PollFd::new(interrupts.as_fd(), PollFlags::POLLIN),
        ];
        // A signal that doesn't concern us, such as for a window's new size.
        while poll(&mut polled, PollTimeout::NONE) == Err(Errno::EINTR) {}
        // Devices that can't be polled are always ready.
        match polled[1].any() {
            Some(true) => Err(Errno::EINTR.into()),
            _ => Ok(()),
        }
    }
}

/// Whether it is a pipe or a device, which is written to and not replaced.
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
    File(Box<Upload>),
    /// Takes the bytes as they come.
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

    /// Lets `interrupts` end a wait for a pipe's reader.
    fn watch(&mut self, interrupts: &Interrupts) -> io::Result<()> {
        if let Self::Stream(stream) = self {
            stream.interrupts = Some(interrupts.as_fd().try_clone_to_owned()?);
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        match self {
            Self::File(upload) => upload.write_at(offset, bytes),
            Self::Stream(stream) => {
                let written = stream.write(bytes);
                written.map_err(|error| StorageError::of_io(&error))
            }
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

/// The output of a job, shared by its attempts; at most one of them owns it.
#[derive(Debug)]
pub(super) struct SharedOutput(Rc<RefCell<Shared>>);

#[derive(Debug)]
struct Shared {
    /// `None` once the file is in place.
    store: Option<LocalStore>,
    /// The attempt that owns the output.
    owner: Option<usize>,
    /// Bytes that came.
    stored: u64,
    /// Bytes that the server said would come.
    announced: Option<u64>,
    /// The file ended with fewer.
    is_short: bool,
    /// Far more came, and were not taken.
    is_long: bool,
}

impl SharedOutput {
    /// What `attempt` writes to.
    pub(super) fn writer(&self, attempt: usize) -> OutputWriter {
        OutputWriter {
            shared: Rc::clone(&self.0),
            attempt,
        }
    }

    /// The attempt that owns the output.
    pub(super) fn owner(&self) -> Option<usize> {
        self.0.borrow().owner
    }

    /// Gives the output to `attempt`, unless another owns it.
    pub(super) fn claim(&self, attempt: usize) {
        self.0.borrow_mut().owner.get_or_insert(attempt);
    }

    /// Takes the output back from an attempt that has stored nothing.
    pub(super) fn release(&self) {
        let mut shared = self.0.borrow_mut();
        shared.owner = None;
        shared.announced = None;
    }

    /// Takes note of the size that the server announced: with fewer bytes the file isn't
    /// whole.
    pub(super) fn announce(&self, bytes: u64) {
        self.0.borrow_mut().announced = Some(bytes);
    }

    /// The bytes that were announced, if more came.
    pub(super) fn exceeded(&self) -> Option<u64> {
        let shared = self.0.borrow();
        shared
            .announced
            .filter(|&announced| announced < shared.stored)
    }

    /// The bytes that came and those that were announced, if the file was not put
    /// in place because it is short.
    pub(super) fn short(&self) -> Option<(u64, u64)> {
        let shared = self.0.borrow();
        shared
            .announced
            .filter(|_| shared.is_short)
            .map(|announced| (shared.stored, announced))
    }

    /// The bytes that came and those that were announced, if the transfer was ended
    /// because they are far too many.
    pub(super) fn long(&self) -> Option<(u64, u64)> {
        let shared = self.0.borrow();
        shared
            .announced
            .filter(|_| shared.is_long)
            .map(|announced| (shared.stored, announced))
    }

    /// Lets `interrupts` end a wait for a pipe's reader.
    ///
    /// # Errors
    /// No descriptor is left for watching the signals.
    pub(super) fn watch(&self, interrupts: &Interrupts) -> io::Result<()> {
        match &mut self.0.borrow_mut().store {
            Some(store) => store.watch(interrupts),
            None => Ok(()),
        }
    }
}

/// What one attempt writes to: the job's output, which it claims with its first write.
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
        let mut shared = self.claim()?;
        let end = offset + bytes.len() as u64;
        let most = |announced: u64| announced.saturating_mul(2).saturating_add(LEEWAY);
        if shared.announced.is_some_and(|it| end > most(it)) {
            shared.is_long = true;
            shared.stored = end;
            return Err(StorageError::TOO_LONG);
        }
        match &mut shared.store {
            Some(store) => store.write_at(offset, bytes)?,
            None => return Err(Errno::EBADF.into()),
        }
        shared.stored = end;
        Ok(())
    }

    fn commit(self) -> Result<(), StorageError> {
        let mut shared = self.claim()?;
        let announced = shared.announced.unwrap_or(0);
        if shared.stored < announced {
            shared.is_short = true;
            return Err(StorageError::TOO_SHORT);
        }
        let store = shared.store.take();
        store.map_or(Ok(()), LocalStore::commit)
    }
}

/// A file to be sent, opened once and read by every attempt.
#[derive(Debug)]
pub(super) struct Input {
    content: InputContent,
    name: PathBuf,
}

#[derive(Debug)]
enum InputContent {
    /// A regular file that can be read at any offset.
    File(File),
    /// A pipe or a device.
    Stream(Rc<RefCell<StreamBuffer>>),
}

impl Input {
    /// Opens `name`; `-` is standard input. Pipes and devices are sent as they
    /// come.
    ///
    /// # Errors
    /// One line that names the file and the reason.
    pub(super) fn open(name: &OsStr) -> Result<Self, String> {
        let path = Path::new(name);
        let stdin = io::stdin();
        let opened = match name == "-" {
            true if may_be_closed(stdin.as_fd()) => {
                return Err("standard input is closed, or is /dev/null".to_owned());
            }
            true => stdin.as_fd().try_clone_to_owned().map(File::from),
            false => File::open(path),
        };
        let content = opened
            .and_then(content)
            .map_err(|error| describe(path, &reason(&error)))?;
        let input = Self {
            content,
            name: path.to_owned(),
        };
        input.reader(0).map(|_| input)
    }

    /// A reader of its bytes, from the first one on, to be sent in windows of at most
    /// `window` bytes.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub(super) fn reader(&self, window: usize) -> Result<InputReader, String> {
        match &self.content {
            InputContent::Stream(stream) => {
                stream.borrow_mut().keep_windows_of(window);
                Ok(InputReader::Stream(Rc::clone(stream)))
            }
            InputContent::File(file) => {
                let copy = file.try_clone().map_err(|error| reason(&error));
                copy.and_then(|file| local::read(file.into()).map_err(|error| error.reason()))
                    .map(InputReader::File)
                    .map_err(|reason| describe(&self.name, &reason))
            }
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.display().fmt(f)
    }
}

/// A regular file is read at any offset, if nothing of it was read before and it knows
/// its size (files of /proc don't). Everything else is a stream.
fn content(mut file: File) -> io::Result<InputContent> {
    let metadata = file.metadata()?;
    let is_whole = metadata.is_file() && file.stream_position()? == 0;
    if metadata.is_dir() || (is_whole && metadata.size() > 0) {
        return Ok(InputContent::File(file));
    }
    let stream = StreamBuffer::open(file)?;
    Ok(InputContent::Stream(Rc::new(RefCell::new(stream))))
}

/// Whether a standard stream may have been closed when the program was started: the
/// runtime opens /dev/null in its place, for reading and writing. Programs that discard
/// output (Python, Node.js) open it the same way, and nothing tells the two apart. So a
/// download to it is no error; but sending it is one, since a closed stream would empty
/// the file on the server.
fn may_be_closed(stream: BorrowedFd<'_>) -> bool {
    let is_null = fstat(stream).is_ok_and(|stat| stat.st_rdev == makedev(1, 3));
    let flags = fcntl(stream, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    is_null && flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

fn describe(path: &Path, reason: &str) -> String {
    format!("{}: {reason}", path.display())
}
