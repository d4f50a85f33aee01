//! The file that says which process we are.
//!
//! Must not: be left behind with a number that will be another's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A pid file of ours; removed when dropped, or emptied where that is not
/// allowed any more.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    /// `None` once it is out of reach.
    path: Option<PathBuf>,
}

impl PidFile {
    /// Writes a file anew, in place of one that another process left.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(path: &Path) -> io::Result<Self> {
        // Never through a link: who may write to the directory may not tell us,
        // still root, which file to overwrite.
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        writeln!(file, "{}", std::process::id())?;
        let path = Some(std::path::absolute(path)?);
        Ok(Self { file, path })
    }

    /// Gives up the path, which leads elsewhere in a chroot.
    pub fn lose_path(&mut self) {
        self.path = None;
    }

    /// Whether the file under that path is still ours.
    fn is_ours(&self, path: &Path) -> bool {
        let identity = |it: fs::Metadata| (it.dev(), it.ino());
        let there = path.symlink_metadata().map(identity).ok();
        there.is_some() && there == self.file.metadata().map(identity).ok()
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let path = self.path.take().filter(|path| self.is_ours(path));
        if path.is_none_or(|path| fs::remove_file(path).is_err()) {
            // There is nobody left to tell.
            let _ = self.file.set_len(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_as_long_as_we_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        fs::write(&path, "1234567\nand more").unwrap();
        let ours = PidFile::write(&path).unwrap();
        let pid = format!("{}\n", std::process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), pid);
        drop(ours);
        assert!(!path.exists());
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("pid"), dir.path().join("other"));
        fs::write(&other, "other").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let ours = PidFile::write(&path).unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"other");
        drop(ours);
        assert_eq!(fs::read(&other).unwrap(), b"other");
    }

    #[test]
    fn what_took_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let first = PidFile::write(&path).unwrap();
        let second = PidFile::write(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn out_of_reach_it_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let mut ours = PidFile::write(&path).unwrap();
        ours.lose_path();
        drop(ours);
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
}
