//! Files as the user of a client names them: no root, no confinement, nothing
//! but the promises of [`ReadFile`] and [`Upload`].
//!
//! A path is taken as it is typed: relative or absolute, with `..` and `\`,
//! through symbolic links. Regular files only; pipes and devices are the
//! client's own business. Must not: know a request.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{Policy, Publisher, ReadFile, StorageError, Upload};

/// Takes a descriptor that is open for reading.
///
/// # Errors
/// Where it isn't a regular file's.
pub fn read(file: OwnedFd) -> Result<ReadFile, StorageError> {
    ReadFile::alone(file)
}

/// Starts a file that takes the place of whatever regular file is at `path`,
/// when it is whole and not before.
///
/// # Errors
/// Whatever the system says of the directory, in which it must be allowed to
/// create files; a directory, a pipe or a device at `path`.
pub fn replace(path: &Path) -> Result<Upload, StorageError> {
    // Where a link leads, there the file is replaced; the link stays.
    let target = match path.canonicalize() {
        Ok(target) => target,
        Err(_) => path.to_owned(),
    };
    let name = target.file_name().ok_or(StorageError::IS_DIRECTORY)?;
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(StorageError::IS_DIRECTORY);
    }
    let parent = match target.parent().map(Path::as_os_str) {
        None => OsStr::new("/"),
        Some(parent) if parent.is_empty() => OsStr::new("."),
        Some(parent) => parent,
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(parent, flags, Mode::empty())?;
    let publisher = Publisher::probe(directory.as_fd());
    let policy = Policy {
        overwrite: true,
        ..Policy::default()
    };
    Upload::begin(
        directory,
        b"",
        name.as_bytes(),
        None,
        policy,
        publisher,
        Rc::default(),
    )
}

impl StorageError {
    /// The reason in words for the user whose own file it is.
    pub fn reason(&self) -> &'static str {
        match self.errno() {
            Some(errno) => errno.desc(),
            None if *self == Self::IS_DIRECTORY => Errno::EISDIR.desc(),
            None => self.message(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_takes_its_place_only_when_it_is_whole() {
        let base = tempfile::tempdir().unwrap();
        for name in ["new", "sub/../old", "a\\b", ".tftpd-1", "to_old"] {
            fs::create_dir_all(base.path().join("sub")).unwrap();
            fs::write(base.path().join("old"), "old").unwrap();
            let _ = symlink("old", base.path().join("to_old"));
            let path = base.path().join(name);
            let before = fs::read(&path).ok();

            let mut upload = replace(&path).unwrap();
            upload.write_at(0, b"half").unwrap();
            assert_eq!(fs::read(&path).ok(), before, "{name}");
            drop(upload);
            assert_eq!(fs::read(&path).ok(), before, "{name}");

            let mut upload = replace(&path).unwrap();
            upload.write_at(0, b"whole").unwrap();
            upload.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"whole", "{name}");
        }
        assert!(base.path().join("to_old").is_symlink());
        assert_eq!(fs::read(base.path().join("old")).unwrap(), b"whole");
    }

    #[test]
    fn what_is_no_regular_file_is_neither_read_nor_replaced() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("sub")).unwrap();
        for (path, reason) in [
            (base.path().join("sub"), "Is a directory"),
            (base.path().join("sub/"), "Is a directory"),
            ("/".into(), "Is a directory"),
            ("/dev/null".into(), "Access violation: not a regular file"),
            (
                base.path().join("nothing/file"),
                "No such file or directory",
            ),
        ] {
            assert_eq!(
                replace(&path).map(|_| ()).unwrap_err().reason(),
                reason,
                "{}",
                path.display()
            );
        }
    }
}
