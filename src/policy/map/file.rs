//! The map file: read at the start and on SIGHUP.
//!
//! Must not: answer a request.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
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
    rules: Rules,
}

impl MapFile {
    /// Reads the rules.
    ///
    /// # Errors
    /// One line that names the file, and the place in it if there is one.
    pub fn open(path: &Path) -> Result<Self, String> {
        Ok(Self {
            rules: read(path)?,
            // In a chroot, a relative one would lie among the served files.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        })
    }

    /// Reads the file again. The old rules stay if that fails, and the log says
    /// so.
    pub(crate) fn reload(&mut self) {
        match read(&self.path) {
            Ok(rules) => {
                self.rules = rules;
                info!("read the map file again: {self}");
            }
            Err(error) => error!("{error}; going on with the old rules"),
        }
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

fn read(path: &Path) -> Result<Rules, String> {
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
    let mut file = File::open(path).map_err(cannot)?.take(MAX_FILE + 1);
    file.read_to_end(&mut text).map_err(cannot)?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("the map file {shown} is larger than 1 MiB"));
    }
    Rules::parse(&text).map_err(|error| format!("map file {shown}, {error}"))
}
