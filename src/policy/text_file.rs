//! A text file of the administrator's: read at the start and again on SIGHUP, whole or
//! not at all.
//!
//! Must not: know what the file says.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::libc::{O_DIRECTORY, O_PATH};
use nix::sys::stat::Mode;

use crate::file::with_remedy;

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where the file is, and what it is called in messages.
#[derive(Debug)]
pub(super) struct TextFile {
    /// `map file`, for example.
    kind: &'static str,
    path: PathBuf,
    /// The file's directory, if the path won't lead to it later.
    directory: Option<File>,
    /// The file was empty at the start, so it may be empty again.
    may_be_empty: bool,
}

impl TextFile {
    /// Reads the file; `kind` is what messages call it.
    ///
    /// # Errors
    /// One line that names the file.
    pub(super) fn open(kind: &'static str, path: &Path) -> Result<(Self, Vec<u8>), String> {
        let mut file = Self {
            kind,
            directory: None,
            // In a chroot, a relative path would lead to the served files.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            may_be_empty: false,
        };
        let text = file.read()?;
        file.may_be_empty = text.is_empty();
        Ok((file, text))
    }

    /// Keeps the file's directory open, for a server that soon can't find it by its path:
    /// in a chroot, the path would lead to a served directory. The file must not be a
    /// link then.
    ///
    /// # Errors
    /// One line that says why the directory can't be opened.
    pub(super) fn keep_directory(&mut self) -> Result<(), String> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let flags = O_PATH | O_DIRECTORY;
        let kept = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(parent);
        let kept = kept.map_err(|error| self.cannot_read(&error))?;
        self.directory = Some(kept);
        Ok(())
    }

    /// The directory that was kept.
    pub(super) fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    /// The file's absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// One line: the file can't be read, or looks as if it were being written.
    pub(super) fn read_again(&self) -> Result<Vec<u8>, String> {
        let text = self.read()?;
        let (kind, shown) = (self.kind, self.path.display());
        // The file may be half written: no refusal in it must get lost.
        if text.is_empty() && !self.may_be_empty {
            return Err(format!("the {kind} {shown} is empty"));
        }
        if !text.is_empty() && !text.ends_with(b"\n") {
            return Err(format!(
                "the {kind} {shown} ends in the middle of a line; end it with a newline"
            ));
        }
        Ok(text)
    }

    fn cannot_read(&self, error: &io::Error) -> String {
        let told = with_remedy(error, "name a readable one");
        let (kind, shown) = (self.kind, self.path.display());
        format!("cannot read the {kind} {shown}: {told}")
    }

    /// Opens the file by its path, or by its name in the directory that was kept.
    fn open_it(&self) -> io::Result<File> {
        // Otherwise opening a FIFO would wait for its writer.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let opened = match (&self.directory, self.path.file_name()) {
            (Some(directory), Some(name)) => {
                openat(directory, name, flags | OFlag::O_NOFOLLOW, Mode::empty())
            }
            _ => openat(AT_FDCWD, &self.path, flags, Mode::empty()),
        };
        Ok(opened?.into())
    }

    /// The file's text, if it is whole.
    fn read(&self) -> Result<Vec<u8>, String> {
        let (kind, shown) = (self.kind, self.path.display());
        let cannot = |error: io::Error| self.cannot_read(&error);
        let mut text = Vec::new();
        let file = self.open_it().map_err(cannot)?;
        let before = file.metadata().map_err(cannot)?;
        if !before.is_file() {
            return Err(format!(
                "the {kind} {shown} is not a regular file; name a file with the rules in it"
            ));
        }
        (&file)
            .take(MAX_FILE + 1)
            .read_to_end(&mut text)
            .map_err(cannot)?;
        if text.len() as u64 > MAX_FILE {
            return Err(format!(
                "the {kind} {shown} is larger than 1 MiB; remove what is too much, or name another"
            ));
        }
        let after = file.metadata().map_err(cannot)?;
        let stamp = |it: &Metadata| (it.len(), it.mtime(), it.mtime_nsec());
        if stamp(&before) != stamp(&after) || after.len() != text.len() as u64 {
            return Err(format!(
                "the {kind} {shown} changed while it was read; try again once it is written"
            ));
        }
        Ok(text)
    }
}
