//! The map file: read at the start and on SIGHUP.
//!
//! Must not: answer a request.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use log::{error, info};
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::libc::{O_DIRECTORY, O_PATH};
use nix::sys::stat::Mode;

use super::Rules;
use crate::file::reason;

/// Bytes of the longest map file that is read.
const MAX_FILE: u64 = 1 << 20;

/// A map file and the rules last read from it.
#[derive(Debug)]
pub struct MapFile {
    path: PathBuf,
    /// The file's directory, where its path is going to lead elsewhere.
    directory: Option<File>,
    ignore_case: bool,
    rules: Rules,
    /// There was nothing in it at the start, so there may be nothing again.
    may_be_empty: bool,
}

impl MapFile {
    /// Reads the rules; with `ignore_case`, for a server that looks for names in
    /// another case.
    ///
    /// # Errors
    /// One line that names the file, and the place in it if there is one.
    pub fn open(path: &Path, ignore_case: bool) -> Result<Self, String> {
        let text = read(path, None)?;
        Ok(Self {
            directory: None,
            rules: parse(&text, path, ignore_case)?,
            may_be_empty: text.is_empty(),
            ignore_case,
            // In a chroot, a relative one would lie among the served files.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        })
    }

    /// Keeps the file's directory open, for a server that won't find it by its path any
    /// more: in a chroot, that would be one of the served directories. The file must
    /// then be no link.
    ///
    /// # Errors
    /// One line that says why that can't be.
    pub fn keep_directory(&mut self) -> Result<(), String> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let flags = O_PATH | O_DIRECTORY;
        let kept = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(parent);
        let kept = kept.map_err(|error| cannot_read(&self.path, &error))?;
        self.directory = Some(kept);
        Ok(())
    }

    /// The directory that was kept.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    /// Reads the file again. The old rules stay if that fails, or if the file
    /// looks as if it were being written, and the log says so.
    pub(crate) fn reload(&mut self) {
        match self.read_again() {
            Ok(rules) => {
                self.rules = rules;
                info!("read the map file again: {self}");
            }
            Err(error) => error!("{error}; going on with the old rules"),
        }
    }

    fn read_again(&self) -> Result<Rules, String> {
        let text = read(&self.path, self.directory.as_ref())?;
        let shown = self.path.display();
        // A refusal that is still to be written must not be missing.
        if text.is_empty() && !self.may_be_empty {
            return Err(format!("the map file {shown} is empty"));
        }
        if !text.is_empty() && !text.ends_with(b"\n") {
            return Err(format!(
                "the map file {shown} ends in the middle of a line; end it with a newline"
            ));
        }
        parse(&text, &self.path, self.ignore_case)
    }

    /// The rules last read from it.
    pub(crate) const fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// What the start tells about it.
impl fmt::Display for MapFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules of {}", self.rules.len(), self.path.display())
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    let (shown, reason) = (path.display(), reason(error));
    format!("cannot read the map file {shown}: {reason}; name a readable one")
}

/// Opens the file by its path, or by its name in the `directory` that was kept.
fn open(path: &Path, directory: Option<&File>) -> io::Result<File> {
    // A FIFO would wait for its writer.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let opened = match (directory, path.file_name()) {
        (Some(directory), Some(name)) => {
            openat(directory, name, flags | OFlag::O_NOFOLLOW, Mode::empty())
        }
        _ => openat(AT_FDCWD, path, flags, Mode::empty()),
    };
    Ok(opened?.into())
}

/// The file's text, if it is whole.
fn read(path: &Path, directory: Option<&File>) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let cannot = |error: io::Error| cannot_read(path, &error);
    let mut text = Vec::new();
    let file = open(path, directory).map_err(cannot)?;
    let before = file.metadata().map_err(cannot)?;
    if !before.is_file() {
        return Err(format!("the map file {shown} is not a regular file"));
    }
    (&file)
        .take(MAX_FILE + 1)
        .read_to_end(&mut text)
        .map_err(cannot)?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("the map file {shown} is larger than 1 MiB"));
    }
    let after = file.metadata().map_err(cannot)?;
    let stamp = |it: &Metadata| (it.len(), it.mtime(), it.mtime_nsec());
    if stamp(&before) != stamp(&after) || after.len() != text.len() as u64 {
        return Err(format!("the map file {shown} changed while it was read"));
    }
    Ok(text)
}

fn parse(text: &[u8], path: &Path, ignore_case: bool) -> Result<Rules, String> {
    let rules = if ignore_case {
        Rules::parse_ignoring_case(text)
    } else {
        Rules::parse(text)
    };
    rules.map_err(|error| format!("map file {}, {error}", path.display()))
}
