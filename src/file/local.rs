//! Files as the user of a client names them: no root, no confinement, nothing
//! but the promises of [`ReadFile`] and [`Upload`].
//!
//! A path is taken as it is typed: relative or absolute, with `..` and `\`,
//! through symbolic links. Regular files only; pipes and devices are the
//! client's own business. Must not: know a request.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{Policy, Publisher, ReadFile, StorageError, Upload};

/// Takes a descriptor that is open for reading.
///
/// # Errors
/// If it isn't a regular file's.
pub fn read(file: OwnedFd) -> Result<ReadFile, StorageError> {
    ReadFile::alone(file)
}

/// Starts a file that, once it is whole, takes its place at `path`, and replaces a
/// regular file that is there.
///
/// # Errors
/// Whatever the system says about the directory, where creating files must be allowed,
/// or about a link; a directory, a pipe or a device at `path`.
pub fn replace(path: &Path) -> Result<Upload, StorageError> {
    let target = target(path)?;
    let name = target.file_name().ok_or(StorageError::IS_DIRECTORY)?;
    let is_directory = |path: &Path| path.as_os_str().as_bytes().ends_with(b"/");
    if is_directory(path) || is_directory(&target) {
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

/// The path to replace or create. A link is followed, and stays.
fn target(path: &Path) -> Result<PathBuf, StorageError> {
    match path.metadata() {
        Ok(_) => Ok(path.canonicalize().unwrap_or_else(|_| path.to_owned())),
        // A link to what isn't there yet. If it leads to another link, that one isn't
        // followed.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(match path.read_link() {
            Ok(link) => path.parent().unwrap_or(path).join(link),
            Err(_) => path.to_owned(),
        }),
        // The system may refuse to follow it (`fs.protected_symlinks`): then so do we.
        Err(error) => Err(StorageError::of_io(&error)),
    }
}

/// An ERROR's text for the user, who needs nobody's permission for their own file.
pub fn plain(message: &'static str) -> &'static str {
    message
        .strip_prefix("Access violation: ")
        .unwrap_or(message)
}

impl StorageError {
    /// The reason, for the user whose own file it is.
    pub fn reason(&self) -> &'static str {
        match self.errno() {
            Some(errno) => errno.desc(),
            None if *self == Self::IS_DIRECTORY => Errno::EISDIR.desc(),
            None => plain(self.message()),
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

    /// As with `open`, which creates the file that a link names.
    #[test]
    fn a_link_that_leads_nowhere_leads_to_the_new_file() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        let absolute = at("absolute");
        for (link, leads, new) in [
            ("to_new", "new", "new"),
            ("to_sub", "sub/new", "sub/new"),
            ("sub/to_upper", "../upper", "upper"),
            ("to_absolute", absolute.to_str().unwrap(), "absolute"),
        ] {
            symlink(leads, at(link)).unwrap();
            let mut upload = replace(&at(link)).unwrap();
            upload.write_at(0, b"whole").unwrap();
            assert!(!at(new).exists(), "{link}");
            upload.commit().unwrap();
            assert_eq!(fs::read(at(new)).unwrap(), b"whole", "{link}");
            assert!(at(link).is_symlink(), "{link}");
        }
        symlink("three", at("two")).unwrap();
        for (link, leads, reason) in [
            ("to_dir", "nothing/", "Is a directory"),
            ("to_nothing", "nothing/new", "No such file or directory"),
            // Only the first link is followed.
            ("one", "two", "not a regular file"),
            ("loop", "loop", "Too many symbolic links encountered"),
        ] {
            symlink(leads, at(link)).unwrap();
            let refused = replace(&at(link)).map(|_| ()).unwrap_err();
            assert_eq!(refused.reason(), reason, "{link}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_neither_read_nor_replaced() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("sub")).unwrap();
        for (path, reason) in [
            (base.path().join("sub"), "Is a directory"),
            (base.path().join("sub/"), "Is a directory"),
            ("/".into(), "Is a directory"),
            ("/dev/null".into(), "not a regular file"),
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
