//! Files at this end: what is sent, and where what is received goes.
//!
//! A regular file is put in place whole or not at all; pipes and devices take
//! the bytes as they come. May not: know who is at the other end.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::content::Store;
use crate::storage::{ReadFile, StorageError, Upload, local};

/// Where a received file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// Under this name.
    Path(PathBuf),
    /// To standard output.
    Stdout,
    /// Nowhere: only whether it comes is of interest.
    Nowhere,
}

impl Destination {
    /// What the user called it: `-` is standard output.
    pub(super) fn named(name: &OsStr) -> Self {
        if name == "-" {
            Self::Stdout
        } else {
            Self::Path(name.into())
        }
    }

    /// Makes ready to receive. Nothing can be seen of it yet.
    ///
    /// # Errors
    /// One line that names the file and the reason.
    pub(super) fn open(&self) -> Result<Local, String> {
        match self {
            Self::Path(path) if is_stream(path) => {
                let opened = OpenOptions::new().write(true).open(path);
                let file = opened.map_err(|error| trouble(path, &words(&error)))?;
                Ok(Local::Stream(file))
            }
            Self::Path(path) => match local::replace(path) {
                Ok(upload) => Ok(Local::File(upload)),
                Err(error) => Err(trouble(path, error.reason())),
            },
            Self::Stdout => match io::stdout().as_fd().try_clone_to_owned() {
                Ok(descriptor) => Ok(Local::Stream(descriptor.into())),
                Err(error) => Err(format!("standard output: {}", words(&error))),
            },
            Self::Nowhere => Ok(Local::Nowhere),
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
pub(super) enum Local {
    /// A regular file that has yet to get its name.
    File(Upload),
    /// A pipe, a terminal or a device.
    Stream(File),
    Nowhere,
}

impl Store for Local {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        match self {
            Self::File(upload) => upload.write_at(offset, bytes),
            Self::Stream(file) => file.write_all(bytes).map_err(|error| storage_error(&error)),
            Self::Nowhere => Ok(()),
        }
    }

    fn commit(self) -> Result<(), StorageError> {
        match self {
            Self::File(upload) => upload.commit().map(drop),
            Self::Stream(_) | Self::Nowhere => Ok(()),
        }
    }
}

fn storage_error(error: &io::Error) -> StorageError {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)).into()
}

/// A file to be sent, opened once and read by every attempt.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    name: PathBuf,
}

impl Source {
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
            .map_err(|error| trouble(path, &words(&error)))?;
        let source = Self {
            file,
            name: path.to_owned(),
        };
        source.read().map(|_| source)
    }

    /// Its bytes, from the first one on.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub(super) fn read(&self) -> Result<ReadFile, String> {
        let copy = self.file.try_clone().map_err(|error| words(&error));
        copy.and_then(|file| local::read(file.into()).map_err(|error| error.reason().to_owned()))
            .map_err(|reason| trouble(&self.name, &reason))
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

fn trouble(path: &Path, reason: &str) -> String {
    format!("{}: {reason}", path.display())
}

/// The system's words, without the number that the library puts behind them.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}
