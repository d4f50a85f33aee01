//! Files as the user of a client names them: no root, no confinement, nothing
//! but the promises of [`ReadFile`] and [`Upload`].
//!
//! A path is taken as it is typed: relative or absolute, with `..` and `\`,
//! through symbolic links, unless another user may have planted one. Regular
//! files only; pipes and devices are the client's own business. Must not: know a
//! request.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::geteuid;

use super::walk::{Id, LOOK, MAX_LINKS, id_of, kind};
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
/// No such directory, or no right to create files in it; a link that can't be followed;
/// a directory, a pipe or a device at `path`.
pub fn replace(path: &Path) -> Result<Upload, StorageError> {
    let (directory, name) = target(path)?;
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

/// Where a file is, whatever it is called and whether or not it is there yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    directory: Id,
    name: OsString,
}

/// The place of the file that [`replace`] would replace or create for `path`.
///
/// # Errors
/// As [`replace`], as far as it concerns the directory or a link.
pub fn place(path: &Path) -> Result<Place, StorageError> {
    let (directory, name) = target(path)?;
    let directory = id_of(directory)?;
    Ok(Place { directory, name })
}

/// Where a link leads, there the file is replaced or created; the link stays. Returns
/// the directory and the name in it.
fn target(path: &Path) -> Result<(OwnedFd, OsString), StorageError> {
    let mut path = path.to_owned();
    let mut here: Option<OwnedFd> = None;
    for _ in 0..=MAX_LINKS {
        let (parent, name) = split(&path)?;
        let from = here.as_ref().map_or(AT_FDCWD, AsFd::as_fd);
        let directory = openat(from, parent, LOOK | OFlag::O_DIRECTORY, Mode::empty())?;
        let found = match openat(&directory, name, LOOK | OFlag::O_NOFOLLOW, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok((directory, name.to_owned())),
            found => found?,
        };
        let stat = fstat(&found)?;
        if kind(&stat) != SFlag::S_IFLNK {
            return Ok((directory, name.to_owned()));
        }
        may_follow(directory.as_fd(), &stat)?;
        // Through the link's own descriptor: what was judged is what is read.
        path = PathBuf::from(readlinkat(&found, "")?);
        here = Some(directory);
    }
    Err(Errno::ELOOP.into())
}

/// The directory that a path leads to, and the name in it.
fn split(path: &Path) -> Result<(&OsStr, &OsStr), StorageError> {
    let bytes = path.as_os_str().as_bytes();
    let is_directory = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
    let name = path.file_name().filter(|_| !is_directory);
    let parent = match path.parent().map(Path::as_os_str) {
        Some(parent) if !parent.is_empty() => parent,
        _ => OsStr::new("."),
    };
    Ok((parent, name.ok_or(StorageError::IS_DIRECTORY)?))
}

/// Whether the kernel would follow `link` in `directory` where `fs.protected_symlinks`
/// is set: in a directory such as `/tmp` anybody can plant one. It is not asked to
/// follow any, so the rule is kept here.
fn may_follow(directory: BorrowedFd<'_>, link: &FileStat) -> Result<(), StorageError> {
    let stat = fstat(directory)?;
    let open_to_all = Mode::S_ISVTX | Mode::S_IWOTH;
    let is_open_to_all = Mode::from_bits_truncate(stat.st_mode).contains(open_to_all);
    if is_open_to_all && link.st_uid != geteuid().as_raw() && link.st_uid != stat.st_uid {
        return Err(Errno::EACCES.into());
    }
    Ok(())
}

/// An ERROR's text for the user, who needs nobody's permission for their own file.
pub fn plain(message: &'static str) -> &'static str {
    message
        .strip_prefix("Access violation: ")
        .unwrap_or(message)
}

impl StorageError {
    /// The reason, for the user whose own file it is.
    pub fn reason(&self) -> String {
        match self.errno() {
            Some(errno) => errno.desc().to_ascii_lowercase(),
            None => plain(self.message()).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::skipped::skip;
    use nix::unistd::Uid;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

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
        symlink("../link", at("sub/link_to_link")).unwrap();
        symlink("sub/last", at("link")).unwrap();
        let absolute = at("absolute");
        for (link, leads, new) in [
            ("to_new", "new", "new"),
            ("to_sub", "sub/new", "sub/new"),
            ("sub/to_upper", "../upper", "upper"),
            ("to_absolute", absolute.to_str().unwrap(), "absolute"),
            ("sub/to_link", "link_to_link", "sub/last"),
        ] {
            symlink(leads, at(link)).unwrap();
            let mut upload = replace(&at(link)).unwrap();
            upload.write_at(0, b"whole").unwrap();
            assert!(!at(new).exists(), "{link}");
            upload.commit().unwrap();
            assert_eq!(fs::read(at(new)).unwrap(), b"whole", "{link}");
            assert!(at(link).is_symlink(), "{link}");
        }
        symlink("round", at("about")).unwrap();
        for (link, leads, reason) in [
            ("to_dir", "nothing/", "is a directory"),
            ("to_here", "nothing/.", "is a directory"),
            ("to_upper_dir", "nothing/..", "is a directory"),
            ("to_nothing", "nothing/new", "no such file or directory"),
            ("loop", "loop", "too many symbolic links encountered"),
            ("round", "about", "too many symbolic links encountered"),
        ] {
            symlink(leads, at(link)).unwrap();
            let refused = replace(&at(link)).map(|_| ()).unwrap_err();
            assert_eq!(refused.reason(), reason, "{link}");
        }
    }

    /// As many as the kernel follows.
    #[test]
    fn a_chain_of_links_is_followed_to_its_end_unless_it_is_too_long() {
        let base = tempfile::tempdir().unwrap();
        symlink("new", base.path().join("1")).unwrap();
        for link in 2..=MAX_LINKS + 1 {
            let to = (link - 1).to_string();
            symlink(to, base.path().join(link.to_string())).unwrap();
        }
        let begun = |link: usize| {
            let upload = replace(&base.path().join(link.to_string()));
            upload.map(|_| ()).map_err(|error| error.errno())
        };
        assert_eq!(begun(MAX_LINKS), Ok(()));
        assert_eq!(begun(MAX_LINKS + 1), Err(Some(Errno::ELOOP)));
    }

    /// In /tmp anybody can plant a link where root is about to write.
    #[test]
    fn a_link_that_another_user_planted_is_not_followed() {
        if !Uid::effective().is_root() {
            skip("needs another user's link");
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        let set_mode = |name: &str, mode| {
            fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
        };
        let (root, one, other) = (0, 4711, 4712);
        for (directory, mode, owner, user, allowed) in [
            ("sticky", 0o1777, root, one, false),
            ("sticky_of_one", 0o1777, one, other, false),
            // What the kernel allows as well.
            ("own_link", 0o1777, one, root, true),
            ("owners_link", 0o1777, one, one, true),
            ("not_sticky", 0o777, root, one, true),
            ("not_for_all", 0o1775, root, one, true),
        ] {
            fs::create_dir(at(directory)).unwrap();
            fs::write(at("old"), "old").unwrap();
            for (link, leads) in [("to_new", "../new"), ("to_old", "../old")] {
                let link = format!("{directory}/{link}");
                symlink(leads, at(&link)).unwrap();
                lchown(at(&link), Some(user), Some(user)).unwrap();
            }
            chown(at(directory), Some(owner), Some(owner)).unwrap();
            set_mode(directory, mode);
            // However it is come to.
            let detour = format!("to_{directory}");
            symlink(format!("{directory}/to_new"), at(&detour)).unwrap();
            for link in ["to_new", "to_old"].map(|link| format!("{directory}/{link}")) {
                for link in [&link, &detour] {
                    let begun = replace(&at(link)).map(|_| ()).map_err(|it| it.errno());
                    let expected = if allowed {
                        Ok(())
                    } else {
                        Err(Some(Errno::EACCES))
                    };
                    assert_eq!(begun, expected, "{link}");
                }
            }
        }
    }

    #[test]
    fn names_of_one_file_have_one_place() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("old"), "old").unwrap();
        symlink("../old", at("sub/to_old")).unwrap();
        symlink(at("new"), at("to_new")).unwrap();
        let place = |name: &str| place(&at(name)).unwrap();
        for same in ["./old", "sub/../old", "sub/to_old"] {
            assert!(place(same) == place("old"), "{same}");
        }
        assert!(place("to_new") == place("new"));
        fs::hard_link(at("old"), at("link")).unwrap();
        for other in ["new", "sub/old", "link"] {
            assert!(place(other) != place("old"), "{other}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_neither_read_nor_replaced() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("sub")).unwrap();
        for (path, reason) in [
            (base.path().join("sub"), "is a directory"),
            (base.path().join("sub/"), "is a directory"),
            (base.path().join("new/."), "is a directory"),
            (base.path().join("sub/.."), "is a directory"),
            ("/".into(), "is a directory"),
            ("/dev/null".into(), "not a regular file"),
            (
                base.path().join("nothing/file"),
                "no such file or directory",
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
