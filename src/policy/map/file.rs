//! The map file: read at the start and on SIGHUP.
//!
//! Must not: answer a request.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use log::{error, info};

use super::Rules;
use crate::file::reason;

/// Bytes of the longest map file that is read.
const MAX_FILE: u64 = 1 << 20;

/// A map file and the rules last read from it.
#[derive(Debug)]
pub struct MapFile {
    path: PathBuf,
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
        let text = read(path)?;
        Ok(Self {
            rules: parse(&text, path, ignore_case)?,
            may_be_empty: text.is_empty(),
            ignore_case,
            // In a chroot, a relative one would lie among the served files.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        })
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
        let text = read(&self.path)?;
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

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let cannot = |error: io::Error| {
        let reason = reason(&error);
        format!("cannot read the map file {shown}: {reason}; name a readable one")
    };
    // Asked before it is opened: opening a FIFO would wait for its writer.
    if !path.metadata().map_err(cannot)?.is_file() {
        return Err(format!("the map file {shown} is not a regular file"));
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    let before = file.metadata().map_err(cannot)?;
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
