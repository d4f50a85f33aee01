//! Follows a path component by component: where the kernel can't do it in one call,
//! and where a link leads to a directory by that directory's path.
//!
//! As in a chroot, `..` stops at the root and absolute links start there. The
//! exceptions are links to the root's own path, and to the further directories that
//! links may lead to: they go there, and from then on that directory is the root of the
//! walk. Each step starts from a descriptor reached from that root. Must not: open a
//! path by its text.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::directory::Directory;
use super::name::{below, split_first};

/// Where links may lead by an absolute path, or by one that leaves the root.
#[derive(Clone, Copy, Default)]
pub(super) struct Places<'a> {
    /// The root's own paths, the one without links last: people link to
    /// `/srv/tftp/x` from inside `/srv/tftp`.
    pub(super) own_paths: &'a [PathBuf],
    /// Other directories.
    pub(super) linked: &'a [Directory],
    /// Which directories are closed, whatever name or link leads there.
    pub(super) closed: Option<Closed>,
    /// A directory that no name leads to or through.
    pub(super) shut: Option<Id>,
}

/// Whether a directory of this name is a client's own.
pub type OwnName = fn(&[u8]) -> bool;

/// Clients' own directories, which are closed to everybody else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    pub(super) is_own: OwnName,
    /// The directories that they are right in: two, or one twice.
    pub(super) holders: [Id; 2],
}

impl Closed {
    /// Whether what has this name in `directory` is closed.
    pub(super) fn closes(&self, directory: impl AsFd, name: &[u8]) -> Result<bool> {
        Ok((self.is_own)(name) && self.holders.contains(&id_of(directory)?))
    }
}

/// Whether a name with `after` behind it has to be a directory's, if it is opened with
/// `flags`.
fn is_directory(after: &[u8], flags: OFlag) -> bool {
    !after.is_empty() || flags.contains(OFlag::O_DIRECTORY)
}

/// A link that leads out of all directories that may be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Departure {
    /// The link's path below the root, or below the directory of `linked` that it is in.
    pub link: Vec<u8>,
    /// Where it leads: an absolute path without `.` and `..`.
    pub target: Vec<u8>,
    /// The directory that it leads to, or into.
    pub directory: Vec<u8>,
}

impl Places<'_> {
    /// Whether a directory of `path` has such a name that it may be closed.
    pub(super) fn may_close(self, path: &[u8], flags: OFlag) -> bool {
        let Some(closed) = self.closed else {
            return false;
        };
        let (mut name, mut after) = split_first(path);
        while !name.is_empty() {
            if is_directory(after, flags) && (closed.is_own)(name) {
                return true;
            }
            (name, after) = split_first(after);
        }
        false
    }

    /// The link by which `path` leaves `root` and all the other places.
    pub(super) fn departure(self, root: BorrowedFd<'_>, path: &[u8]) -> Option<Departure> {
        let mut walk = Walk::new(root, self);
        // The caller knows whether it leads anywhere.
        let _ = walk.open(path, LOOK);
        walk.departure
    }
}

/// A walk along a path.
pub(super) struct Walk<'a> {
    root: BorrowedFd<'a>,
    places: Places<'a>,
    /// The directory of `places.linked` that a link has led to; `None` for the root.
    linked: Option<&'a Directory>,
    /// The directories gone through: `..` leads back to the one we came from,
    /// wherever it or its child has been moved meanwhile.
    entered: Vec<OwnedFd>,
    /// Their names, each with a slash behind it.
    names: Vec<u8>,
    links: usize,
    departure: Option<Departure>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, places: Places<'a>) -> Self {
        Self {
            root,
            places,
            linked: None,
            entered: Vec::new(),
            names: Vec::new(),
            links: 0,
            departure: None,
        }
    }

    /// Whether there was a symbolic link on the way.
    pub(super) const fn met_links(&self) -> bool {
        self.links > 0
    }

    /// Opens what is at the end of `path`. To be called once.
    ///
    /// What is neither a file nor a directory isn't opened: it is returned as an
    /// `O_PATH` descriptor, which is enough to refuse it.
    pub(super) fn open(&mut self, path: &[u8], flags: OFlag) -> Result<OwnedFd> {
        let mut path = path.to_vec();
        let mut walked = 0;
        loop {
            let (component, after) = split_first(path.get(walked..).unwrap_or_default());
            let next = path.len() - after.len();
            match component {
                b"" => return openat(self.here(), ".", flags, Mode::empty()),
                b"." => {}
                b".." => self.leave(),
                name => {
                    let here = self.here();
                    let found = openat(here, name, LOOK | OFlag::O_NOFOLLOW, Mode::empty())?;
                    match kind(&fstat(&found)?) {
                        SFlag::S_IFLNK => {
                            if is_directory(after, flags) {
                                self.check_closed(name)?;
                            }
                            // Through the link's own descriptor and an empty path:
                            // what was looked at is what is read.
                            let target = readlinkat(&found, "")?.into_vec();
                            path = self.follow(name, &target, after)?;
                            walked = 0;
                            continue;
                        }
                        SFlag::S_IFDIR => self.enter(found, name)?,
                        _ if !split_first(after).0.is_empty() => return Err(Errno::ENOTDIR),
                        _ if flags.contains(OFlag::O_DIRECTORY) => return Err(Errno::ENOTDIR),
                        SFlag::S_IFREG => {
                            return openat(here, name, flags | OFlag::O_NOFOLLOW, Mode::empty());
                        }
                        _ => return Ok(found),
                    }
                }
            }
            walked = next;
        }
    }

    fn here(&self) -> BorrowedFd<'_> {
        let start = self.linked.map_or(self.root, AsFd::as_fd);
        self.entered.last().map_or(start, AsFd::as_fd)
    }

    /// Fails if the directory `name` here is closed, whichever way we came: a directory
    /// that links may lead to can contain the root.
    fn check_closed(&self, name: &[u8]) -> Result<()> {
        match self.places.closed {
            Some(closed) if closed.closes(self.here(), name)? => Err(Errno::EXDEV),
            _ => Ok(()),
        }
    }

    fn enter(&mut self, directory: OwnedFd, name: &[u8]) -> Result<()> {
        if self.entered.len() == MAX_DEPTH {
            return Err(Errno::ENAMETOOLONG);
        }
        self.check_closed(name)?;
        if self
            .places
            .shut
            .is_some_and(|shut| id_of(&directory) == Ok(shut))
        {
            return Err(Errno::EACCES);
        }
        self.entered.push(directory);
        self.names.extend_from_slice(name);
        self.names.push(b'/');
        Ok(())
    }

    fn leave(&mut self) {
        self.entered.pop();
        self.names.pop();
        let slash = self.names.iter().rposition(|&byte| byte == b'/');
        self.names.truncate(slash.map_or(0, |slash| slash + 1));
    }

    fn start_over(&mut self, linked: Option<&'a Directory>) {
        self.linked = linked;
        self.entered.clear();
        self.names.clear();
    }

    /// The path to go on with after the link `name` to `target`.
    fn follow(&mut self, name: &[u8], target: &[u8], after: &[u8]) -> Result<Vec<u8>> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        if target.len() + after.len() >= MAX_PATH {
            return Err(Errno::ENAMETOOLONG);
        }
        let is_absolute = target.first() == Some(&b'/');
        let and_on = |path: &[u8]| Ok([path, b"/", after].concat());
        let Some(outer) = self.outer_path(target) else {
            // As in a chroot.
            if is_absolute {
                self.start_over(self.linked);
            }
            return and_on(target);
        };
        if first_below(&outer, self.places.own_paths).is_some() {
            // Followed as it is written: `..` after a link leads elsewhere than it seems.
            if let Some(rest) = first_below(target, self.places.own_paths)
                && is_absolute
            {
                self.start_over(None);
                return and_on(rest);
            }
            if self.linked.is_none() && !is_absolute {
                return and_on(target);
            }
            let rest = first_below(&outer, self.places.own_paths).unwrap_or_default();
            self.start_over(None);
            return and_on(rest);
        }
        let in_linked = |linked: &'a Directory| Some((linked, first_below(&outer, &linked.paths)?));
        if let Some((linked, rest)) = self.places.linked.iter().find_map(in_linked) {
            if !is_absolute && self.linked.is_some_and(|here| std::ptr::eq(here, linked)) {
                return and_on(target);
            }
            self.start_over(Some(linked));
            // Followed as it is written, here too.
            return and_on(first_below(target, &linked.paths).unwrap_or(rest));
        }
        if self.departure.is_none() {
            let link = [&self.names, name].concat();
            let is_last = split_first(after).0.is_empty();
            let slash = outer.iter().rposition(|&byte| byte == b'/');
            let end = if is_last {
                slash.unwrap_or(0)
            } else {
                outer.len()
            };
            self.departure = Some(Departure {
                link,
                directory: outer.get(..end).unwrap_or_default().to_vec(),
                target: outer.clone(),
            });
        }
        if is_absolute {
            self.start_over(self.linked);
        }
        and_on(target)
    }

    /// The absolute path, as seen from outside the root, that a link here leads to by its
    /// text; `None` if it isn't known where we are. Only ever compared with other paths.
    fn outer_path(&self, target: &[u8]) -> Option<Vec<u8>> {
        let mut path = Vec::new();
        if target.first() != Some(&b'/') {
            let paths = self.linked.map_or(self.places.own_paths, |it| &it.paths);
            push_all(&mut path, paths.last()?.as_os_str().as_bytes());
            push_all(&mut path, &self.names);
        } else if self.places.own_paths.is_empty() {
            return None;
        }
        push_all(&mut path, target);
        Some(path)
    }
}

/// What follows the first of `own_paths` that `path` begins with.
fn first_below<'p>(path: &'p [u8], own_paths: &[PathBuf]) -> Option<&'p [u8]> {
    let mut own_paths = own_paths.iter();
    own_paths.find_map(|own| below(path, own.as_os_str().as_bytes()))
}

/// Appends each component of `more` to an absolute path; `..` takes one away.
fn push_all(path: &mut Vec<u8>, more: &[u8]) {
    for component in more.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                let slash = path.iter().rposition(|&byte| byte == b'/');
                path.truncate(slash.unwrap_or(0));
            }
            name => {
                path.push(b'/');
                path.extend_from_slice(name);
            }
        }
    }
}

/// Device and inode: what tells a file or a directory from all others.
pub(super) type Id = (u64, u64);

/// The device and inode of an open file.
pub(super) fn id_of(file: impl AsFd) -> Result<Id> {
    Ok(id(&fstat(file)?))
}

/// The device and inode of a `stat`.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // Narrower on 32-bit systems.
pub(super) fn id(stat: &FileStat) -> Id {
    (stat.st_dev as u64, stat.st_ino as u64)
}

/// A file's time: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timestamp(i64, i64);

#[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // Narrower on 32-bit systems.
impl Timestamp {
    /// When the content was last written.
    pub(super) fn modified(stat: &FileStat) -> Self {
        Self(stat.st_mtime as i64, stat.st_mtime_nsec as i64)
    }

    /// When anything about the file last changed.
    pub(super) fn changed(stat: &FileStat) -> Self {
        Self(stat.st_ctime as i64, stat.st_ctime_nsec as i64)
    }
}

/// What kind of file a `stat` is about.
pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Reaches a file without opening it: needs no permission on it, and has no effect on
/// a device or a FIFO.
pub(super) const LOOK: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// The longest path, in bytes: Linux's `PATH_MAX` less the final NUL.
const MAX_PATH: usize = 4095;

/// Symbolic links followed in one path, the kernel's own limit.
pub(super) const MAX_LINKS: usize = 40;

/// Directories the walk holds open at once, one descriptor each.
pub(super) const MAX_DEPTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Read as _;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// A root with links out of it, beside two directories.
    fn tree(base: &Path) -> Directory {
        for directory in ["root/sub", "deploy/images", "deploy/builds/42", "other"] {
            fs::create_dir_all(base.join(directory)).unwrap();
        }
        for file in [
            "root/own",
            "deploy/images/kernel",
            "deploy/top",
            "deploy/kernel",
            "deploy/builds/kernel",
            "other/x",
        ] {
            fs::write(base.join(file), file).unwrap();
        }
        let absolute = |path: &str| base.join(path);
        for (link, target) in [
            ("root/kernel", absolute("deploy/images/kernel")),
            ("root/images", absolute("deploy/images")),
            ("root/relative", "../deploy/top".into()),
            ("root/sub/relative", "../../deploy/images/kernel".into()),
            ("root/other", absolute("other")),
            ("root/twice", "sub/../other".into()),
            ("root/chain", "kernel".into()),
            ("deploy/back", absolute("root/own")),
            ("deploy/out", "../other/x".into()),
            ("deploy/images/up", "../top".into()),
            ("deploy/images/far", "../../../../../../etc/passwd".into()),
            ("root/deploy", absolute("deploy")),
            ("root/dots", absolute("root/../deploy/top")),
            ("deploy/current", "builds/42".into()),
            ("root/rolling", absolute("deploy/current/../kernel")),
        ] {
            symlink(target, base.join(link)).unwrap();
        }
        Directory::open(&base.join("root")).unwrap()
    }

    fn content(root: &Directory, places: Places<'_>, path: &str) -> Result<String> {
        let file = Walk::new(root.as_fd(), places).open(path.as_bytes(), OFlag::O_RDONLY)?;
        let mut content = String::new();
        File::from(file).read_to_string(&mut content).unwrap();
        Ok(content)
    }

    #[test]
    fn a_link_leads_to_a_directory_named_for_that_and_to_no_other() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let root = tree(&base);
        let linked = [Directory::open(&base.join("deploy")).unwrap()];
        let own = Places {
            own_paths: &root.paths,
            ..Places::default()
        };
        let all = Places {
            linked: &linked,
            ..own
        };
        for (path, found, departs) in [
            ("own", Some("root/own"), None),
            ("kernel", Some("deploy/images/kernel"), None),
            ("images/kernel", Some("deploy/images/kernel"), None),
            ("relative", Some("deploy/top"), None),
            ("sub/relative", Some("deploy/images/kernel"), None),
            ("chain", Some("deploy/images/kernel"), None),
            ("deploy/back", Some("root/own"), None),
            ("deploy/images/up", Some("deploy/top"), None),
            ("images/up", Some("deploy/top"), None),
            ("dots", Some("deploy/top"), None),
            ("rolling", Some("deploy/builds/kernel"), None),
            ("other/x", None, Some(("other", "other", "other"))),
            ("twice/x", None, Some(("other", "other", "other"))),
            ("deploy/out", None, Some(("out", "other/x", "other"))),
            // `..` stops in the directory that the link has led to.
            ("images/../../other/x", None, None),
            ("missing", None, None),
        ] {
            let content = content(&root, all, path);
            assert_eq!(content.as_deref().ok(), found, "{path}");
            let departure = all.departure(root.as_fd(), path.as_bytes());
            let absolute = |path| base.join(path).into_os_string().into_vec();
            let expected = departs.map(|(link, target, directory)| Departure {
                link: link.into(),
                target: absolute(target),
                directory: absolute(directory),
            });
            assert_eq!(departure, expected, "{path}");
        }
        assert!(content(&root, all, "images/far").is_err());
        for path in ["kernel", "images/kernel", "relative", "deploy/back"] {
            assert!(content(&root, own, path).is_err(), "{path}");
            assert!(own.departure(root.as_fd(), path.as_bytes()).is_some());
        }
    }
}
