//! The pid file.
//!
//! Locked while we run, so that a second server leaves it alone; a process that becomes
//! another program loses the lock, and takes it again there. Must not: outlive a process
//! that ends by itself with a number that may be another's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{ELOOP, O_NOFOLLOW, O_NONBLOCK};

/// Our pid file. Removed when dropped, or emptied where removing it is not allowed any
/// more.
#[derive(Debug)]
pub struct PidFile {
    file: Flock<File>,
    /// `None` once it is out of reach.
    path: Option<PathBuf>,
}

impl PidFile {
    /// Makes an empty file, in place of one that another process left behind.
    ///
    /// # Errors
    /// `ResourceBusy` if that process is alive; otherwise why no file can be created
    /// there.
    pub fn reserve(path: &Path) -> io::Result<Self> {
        // Held until ours is there, so that of two servers that start now one fails.
        let left_behind = loop {
            let old = match open(path).map(lock) {
                Ok(locked) => locked?,
                Err(error) if error.kind() == ErrorKind::NotFound => break None,
                // Never through a link: we are still root, and whoever can write to the
                // directory must not choose which file we overwrite.
                Err(error) if error.raw_os_error() == Some(ELOOP) => break None,
                Err(error) => return Err(error),
            };
            if leads_to(path, &old) {
                break Some(old);
            }
        };
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let file = lock(file)?;
        drop(left_behind);
        let path = Some(std::path::absolute(path)?);
        Ok(Self { file, path })
    }

    /// The file that this process wrote before it became the program that it is now;
    /// `None` if it isn't there any more, or another process has it.
    pub fn keep(path: &Path) -> Option<Self> {
        let mut options = OpenOptions::new();
        // Never through a link, as above.
        options.read(true).write(true).custom_flags(FLAGS);
        let file = lock(options.open(path).ok()?).ok()?;
        let ours = line();
        let mut there = String::new();
        // One byte more shows that there is more.
        let mut start = (&*file).take(ours.len() as u64 + 1);
        start.read_to_string(&mut there).ok()?;
        let path = std::path::absolute(path).ok()?;
        // Dropped, it would be removed.
        (there == ours && leads_to(&path, &file)).then(|| Self {
            file,
            path: Some(path),
        })
    }

    /// Writes the process ID, once everything else is set up.
    ///
    /// # Errors
    /// The disk is full, or the file system fails.
    pub fn write(&mut self) -> io::Result<()> {
        self.file.write_all(line().as_bytes())
    }

    /// Gives up the path, which leads elsewhere in a chroot.
    pub fn lose_path(&mut self) {
        self.path = None;
    }
}

/// What a pid file of ours says.
fn line() -> String {
    format!("{}\n", std::process::id())
}

/// A FIFO would wait for its writer.
const FLAGS: i32 = O_NOFOLLOW | O_NONBLOCK;

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(FLAGS).open(path)
}

fn lock(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EAGAIN => ErrorKind::ResourceBusy.into(),
        errno => errno.into(),
    })
}

/// Whether `path` still leads to `file`.
fn leads_to(path: &Path, file: &File) -> bool {
    let identity = |it: fs::Metadata| (it.dev(), it.ino());
    let there = path.symlink_metadata().map(identity).ok();
    there.is_some() && there == file.metadata().map(identity).ok()
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let path = self.path.take();
        let path = path.filter(|path| leads_to(path, &self.file));
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
    fn a_pid_file_lasts_as_long_as_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        fs::write(&path, "1234567\nand more").unwrap();
        let mut ours = PidFile::reserve(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "", "not yet");
        ours.write().unwrap();
        let pid = format!("{}\n", std::process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), pid);
        drop(ours);
        assert!(!path.exists());
    }

    #[test]
    fn a_program_keeps_the_file_that_the_one_before_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        assert!(PidFile::keep(&path).is_none());
        for other in ["", "1", &line().repeat(2)] {
            fs::write(&path, other).unwrap();
            assert!(PidFile::keep(&path).is_none(), "{other}");
            assert_eq!(fs::read_to_string(&path).unwrap(), other);
        }
        fs::write(&path, line()).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(PidFile::keep(&link).is_none());
        let ours = PidFile::keep(&path).unwrap();
        assert!(PidFile::keep(&path).is_none(), "locked");
        let second = PidFile::reserve(&path).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::ResourceBusy);
        assert_eq!(fs::read_to_string(&path).unwrap(), line());
        drop(ours);
        assert!(!path.exists());
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("pid"), dir.path().join("other"));
        fs::write(&other, "other").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let ours = PidFile::reserve(&path).unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"other");
        drop(ours);
        assert_eq!(fs::read(&other).unwrap(), b"other");
    }

    #[test]
    fn another_file_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let first = PidFile::reserve(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = PidFile::reserve(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_out_of_reach_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let mut ours = PidFile::reserve(&path).unwrap();
        ours.write().unwrap();
        ours.lose_path();
        drop(ours);
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_locked_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let mut first = PidFile::reserve(&path).unwrap();
        first.write().unwrap();
        let second = PidFile::reserve(&path).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::ResourceBusy);
        let pid = format!("{}\n", std::process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), pid);
        drop(first);
        assert!(PidFile::reserve(&path).is_ok());
    }
}
