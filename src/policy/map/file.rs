//! The map file: read at the start and on SIGHUP.
//!
//! Must not: answer a request.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;

use log::{error, info};

use super::Rules;
use crate::policy::text_file::TextFile;

/// A map file and the rules last read from it.
#[derive(Debug)]
pub struct MapFile {
    file: TextFile,
    ignore_case: bool,
    rules: Rules,
}

impl MapFile {
    /// Reads the rules; with `ignore_case`, for a server that looks for names in
    /// another case.
    ///
    /// # Errors
    /// One line that names the file, and the place in it if there is one.
    pub fn open(path: &Path, ignore_case: bool) -> Result<Self, String> {
        let (file, text) = TextFile::open("map file", path)?;
        Ok(Self {
            rules: parse(&text, path, ignore_case)?,
            file,
            ignore_case,
        })
    }

    /// Keeps the file's directory open, so that the file can be read again from a chroot.
    ///
    /// # Errors
    /// One line that says why the directory can't be opened.
    pub fn keep_directory(&mut self) -> Result<(), String> {
        self.file.keep_directory()
    }

    /// The directory that was kept.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.file.directory()
    }

    /// Reads the file again. The old rules stay if that fails, or if the file
    /// looks as if it were being written, and the log says so.
    pub(crate) fn reload(&mut self) {
        let text = self.file.read_again();
        let rules = text.and_then(|text| parse(&text, self.file.path(), self.ignore_case));
        match rules {
            Ok(rules) => {
                self.rules = rules;
                info!("read the map file again: {self}");
            }
            Err(error) => error!("{error}; going on with the old rules"),
        }
    }

    /// The rules last read from the file.
    pub(crate) const fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// As the log shows it.
impl fmt::Display for MapFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.file.path().display();
        match self.rules.len() {
            1 => write!(f, "1 rule of {path}"),
            count => write!(f, "{count} rules of {path}"),
        }
    }
}

fn parse(text: &[u8], path: &Path, ignore_case: bool) -> Result<Rules, String> {
    let rules = if ignore_case {
        Rules::parse_ignoring_case(text)
    } else {
        Rules::parse(text)
    };
    rules.map_err(|error| format!("map file {}, {error}", path.display()))
}
