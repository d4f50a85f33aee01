//! The directory that is served: names in; files, uploads or refusals out.
//!
//! `explain` says more about a refusal. Must not: let a name lead out of the root.

mod explain;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use log::{debug, info};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{AccessFlags, faccessat};

use super::directory::{Directory, RootError};
use super::error::StorageError;
use super::ignore_case::Listings;
use super::name::{self, Name};
use super::open_files::{FOR_READING, OpenFile, OpenFiles};
use super::policy::Policy;
use super::publish::Publisher;
use super::quota::MinFree;
use super::reopen::{ReadFile, Reopen};
use super::resolve::Resolver;
use super::space::{UploadListings, Uploads};
use super::upload::Upload;
use super::upload_rules::UploadRules;
use super::walk::{Closed, Id, LOOK, MAX_DEPTH, OwnName, Places, id_of, kind};
use crate::wire::packet::Direction;

/// How files are found and published here: chosen by [`Root::open`], or forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods {
    /// How paths are resolved.
    pub resolver: Resolver,
    /// How a finished upload gets its name.
    pub publisher: Publisher,
}

impl Methods {
    /// The best methods that this system allows. `root` must have been opened with the
    /// rights that uploads will have, since the kernel compares them. Writes nothing.
    fn probe(root: BorrowedFd<'_>) -> Self {
        Self {
            resolver: Resolver::probe(root),
            publisher: Publisher::probe(root),
        }
    }

    /// A line for each thing that the system lacks: what is done without it.
    fn lacks(self, policy: &Policy) -> impl Iterator<Item = &'static str> {
        let openat2 = (self.resolver == Resolver::Walk)
            .then_some("without openat2 (Linux 5.6): names are resolved directory by directory");
        let proc = (self.publisher == Publisher::Named && !policy.read_only)
            .then_some("without /proc (or Linux 6.10): uploads are written under temporary names");
        openat2.into_iter().chain(proc)
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resolver,
            publisher,
        } = self;
        write!(f, "names are resolved {resolver}, uploads {publisher}")
    }
}

/// The directory that is served.
#[derive(Debug, Clone)]
pub struct Root {
    directory: Rc<Directory>,
    /// The way to it, if it is below another root.
    found_by: Option<Box<Reopen>>,
    /// Which directories are other clients' roots.
    closed: Option<Closed>,
    /// A directory in and below which nothing can be read.
    shut: Option<Id>,
    policy: Policy,
    pub(super) methods: Methods,
    pub(super) common: Rc<Common>,
}

/// What a root shares with those below it.
#[derive(Debug)]
pub(super) struct Common {
    /// The topmost root. Absolute names may begin with its paths.
    top: Rc<Directory>,
    /// The directories that links may lead to when a file is read.
    linked: Rc<[Directory]>,
    pub(super) uploads: Rc<Uploads>,
    listings: Rc<Listings>,
    /// The files that are being read.
    files: Rc<OpenFiles>,
}

impl Root {
    /// [`Root::within`] the directory at `path`.
    ///
    /// # Errors
    /// A directory that is missing, is none, or can't be searched.
    pub fn open(path: &Path, policy: Policy) -> Result<Self, RootError> {
        Self::within(Directory::open(path)?, policy)
    }

    /// Finds out how to resolve and publish in `directory`. Call it after
    /// privileges are dropped and the sandbox is up: both change the answer.
    ///
    /// Needs no right to write: without it, uploads are refused when they come.
    ///
    /// # Errors
    /// A directory that can't be searched.
    pub fn within(directory: Directory, policy: Policy) -> Result<Self, RootError> {
        Self::with_links(directory, Vec::new(), policy)
    }

    /// [`Root::within`]; but when a file is read, links may lead to the directories
    /// `linked` as well. Each of these is then like a root of its own.
    ///
    /// # Errors
    /// A directory that can't be searched.
    pub fn with_links(
        directory: Directory,
        linked: Vec<Directory>,
        policy: Policy,
    ) -> Result<Self, RootError> {
        let methods = Methods::probe(directory.search()?.as_fd());
        debug!("root {}: {methods}", directory.path().display());
        methods.lacks(&policy).for_each(|line| info!("{line}"));
        for directory in &linked {
            directory.search().map_err(RootError::of_links)?;
        }
        Ok(Self::new(directory, linked, policy, methods))
    }

    /// Another directory, served beside this one in the same way. Call it after
    /// privileges are dropped and the sandbox is up.
    ///
    /// # Errors
    /// A directory that can't be searched.
    pub fn beside(&self, directory: Directory) -> Result<Self, RootError> {
        let methods = Methods::probe(directory.search()?.as_fd());
        debug!("root {}: {methods}", directory.path().display());
        let directory = Rc::new(directory);
        self.common.uploads.count_as_well(&directory);
        let common = Common {
            top: Rc::clone(&directory),
            linked: Rc::clone(&self.common.linked),
            uploads: Rc::clone(&self.common.uploads),
            listings: Rc::clone(&self.common.listings),
            files: Rc::clone(&self.common.files),
        };
        Ok(Self {
            directory,
            found_by: None,
            closed: self.closed,
            shut: self.shut,
            policy: self.policy,
            methods,
            common: Rc::new(common),
        })
    }

    /// Checks that a file can be made right in it, with the rights that are left.
    ///
    /// # Errors
    /// Why the kernel doesn't allow it.
    pub fn check_writable(&self) -> nix::Result<()> {
        let mode = AccessFlags::W_OK | AccessFlags::X_OK;
        faccessat(&*self.directory, ".", mode, AtFlags::empty())
    }

    /// [`Root::open`] with the methods given instead of found out.
    ///
    /// # Errors
    /// As there; methods that don't work fail request by request.
    pub fn open_with(path: &Path, policy: Policy, methods: Methods) -> Result<Self, RootError> {
        let directory = Directory::open(path)?;
        Ok(Self::new(directory, Vec::new(), policy, methods))
    }

    fn new(directory: Directory, linked: Vec<Directory>, policy: Policy, methods: Methods) -> Self {
        let directory = Rc::new(directory);
        let uploads = Uploads::below(&directory);
        if policy.uploads != UploadRules::NONE {
            uploads.set_spares_aside();
        }
        let common = Common {
            top: Rc::clone(&directory),
            linked: linked.into(),
            uploads: Rc::new(uploads),
            listings: Rc::default(),
            files: Rc::default(),
        };
        Self {
            directory,
            found_by: None,
            closed: None,
            shut: None,
            policy,
            methods,
            common: Rc::new(common),
        }
    }

    /// Its path, as it was named. Only to be shown.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// How much uploads leave free on the disk.
    pub const fn min_free(&self) -> Option<MinFree> {
        self.policy.uploads.min_free()
    }

    /// The same root, but no name or link leads to a client's own directory right in it or
    /// right in `other`, and no upload gets the name of one there.
    ///
    /// # Errors
    /// One of the two directories can't be looked at.
    pub fn closing(self, is_own: OwnName, other: Option<&Self>) -> Result<Self, RootError> {
        let id = |root: &Self| {
            let directory = &root.directory;
            id_of(&**directory).map_err(|errno| directory.error(errno))
        };
        let holders = [id(&self)?, id(other.unwrap_or(&self))?];
        let closed = Some(Closed { is_own, holders });
        Ok(Self { closed, ..self })
    }

    /// The same root, but nothing in or below `directory` can be read.
    ///
    /// # Errors
    /// `directory` can't be searched.
    pub fn shutting(self, directory: &Directory) -> Result<Self, RootError> {
        let shut = id_of(directory.search()?).map_err(|errno| directory.error(errno))?;
        Ok(Self {
            shut: Some(shut),
            ..self
        })
    }

    /// The directory `name` right below this one as a root of its own: `..` and links
    /// end there. Absolute names are read as they are in this root. `None` if there is
    /// neither a directory nor a link of that name.
    ///
    /// # Errors
    /// A directory that can't be opened: above all a link that leads out of this root, or
    /// nowhere.
    pub fn below(&self, name: &[u8]) -> Result<Option<Self>, StorageError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let places = Places {
            closed: None,
            ..self.own()
        };
        let descriptor = match self.resolve(name, flags, places) {
            Ok(descriptor) => descriptor,
            Err(Errno::ENOENT | Errno::ENOTDIR) if !self.has_link(name)? => return Ok(None),
            Err(errno) => return Err(StorageError::of_own_root(errno)),
        };
        let found_by = Box::new(self.reopen(name));
        let name = Path::new(std::ffi::OsStr::from_bytes(name));
        let paths = self.directory.paths.iter().map(|path| path.join(name));
        let directory = Directory {
            descriptor,
            paths: paths.collect(),
        };
        Ok(Some(Self {
            directory: Rc::new(directory),
            found_by: Some(found_by),
            closed: self.closed,
            shut: self.shut,
            policy: self.policy,
            methods: self.methods,
            common: Rc::clone(&self.common),
        }))
    }

    /// Whether there is a symbolic link of this name right below.
    fn has_link(&self, name: &[u8]) -> Result<bool, StorageError> {
        let flags = LOOK | OFlag::O_NOFOLLOW;
        match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(found) => Ok(kind(&fstat(&found)?) == SFlag::S_IFLNK),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(StorageError::of_own_root(errno)),
        }
    }

    /// Whether the name alone shows that it is closed here: it is below another client's
    /// root, or a write could put something in that root's place. Links are checked when
    /// the name is opened.
    pub fn closes(&self, name: &Name, direction: Direction) -> bool {
        let (first, after) = name::split_first(name);
        let is_below = !after.is_empty();
        let is_meant = is_below || direction == Direction::Write;
        is_meant && self.closes_in(&*self.directory, first)
    }

    /// Whether what has this name in `directory` is another client's root, or would be in
    /// the place of one. If that can't be found out, it counts as one.
    fn closes_in(&self, directory: impl AsFd, name: &[u8]) -> bool {
        let closed = self.closed.as_ref();
        closed.is_some_and(|closed| closed.closes(directory, name).unwrap_or(true))
    }

    /// Whether a name that isn't there may stand for one that differs in the case
    /// of its letters.
    pub const fn ignores_case(&self) -> bool {
        self.policy.ignore_case
    }

    /// The name that a client, or a map rule, spells this way.
    ///
    /// # Errors
    /// As [`Name`] says. ERROR 1: too long. ERROR 2: a directory's or not allowed.
    pub fn name(&self, spelled: &[u8], direction: Direction) -> Result<Name, StorageError> {
        let prefixes = self
            .common
            .top
            .paths
            .iter()
            .map(|path| path.as_os_str().as_bytes());
        Name::read(spelled, direction, prefixes)
    }

    /// Opens the regular file with this name. Looks at it first, and opens nothing else:
    /// opening a FIFO would let its writer go on, and opening a device may set something
    /// off.
    ///
    /// # Errors
    /// ERROR 1: no such file. ERROR 2: not a regular file or not allowed.
    pub fn open_file(&self, name: &Name) -> Result<ReadFile, StorageError> {
        self.open_shared(name).map(ReadFile::kept)
    }

    /// The same for a file that may be closed while it isn't read.
    ///
    /// # Errors
    /// As there.
    pub fn open_closable(&self, name: &Name) -> Result<ReadFile, StorageError> {
        let file = self.open_shared(name)?;
        Ok(ReadFile::closable(file, self.reopen(name)))
    }

    /// A file that somebody else has opened, to be served as it is now.
    ///
    /// # Errors
    /// ERROR 2: not a regular file (a memfd is one), or nothing can be read.
    pub fn given(&self, file: &OwnedFd) -> Result<ReadFile, StorageError> {
        if self.policy.uploads.write_only() {
            return Err(StorageError::WRITE_ONLY);
        }
        // Unlisted: requests for its name may have other rights, and must not find it.
        let own = file.try_clone();
        let own = own.map_err(|error| StorageError::of_io(&error))?;
        self.common.files.unlisted(own).map(ReadFile::kept)
    }

    fn open_shared(&self, name: &Name) -> Result<Rc<OpenFile>, StorageError> {
        if self.policy.uploads.write_only() {
            return Err(StorageError::WRITE_ONLY);
        }
        let files = &self.common.files;
        if let Some(file) = files.latest(&self.directory, name) {
            return Ok(file);
        }
        let found = fstat(self.resolve(name, OFlag::O_PATH, self.all())?)?;
        let open = || Ok(self.resolve(name, FOR_READING, self.all())?);
        let file = files.get(&found, open)?;
        files.found(&self.directory, name, &file);
        Ok(file)
    }

    /// The files that are open for reading, from this root or from those beside it.
    pub fn open_files(&self) -> Rc<OpenFiles> {
        Rc::clone(&self.common.files)
    }

    /// A batch of requests begins: a name that several of them ask for in a row is
    /// resolved once.
    pub fn begin_batch(&self) {
        self.common.files.begin_batch();
    }

    /// The batch ends.
    pub fn end_batch(&self) {
        self.common.files.end_batch();
    }

    /// The way to the file with this name. If this root is below another one, it doesn't
    /// need this root's descriptor.
    fn reopen(&self, name: &[u8]) -> Reopen {
        let own_paths = Rc::clone(&self.directory.paths);
        if let Some(way) = &self.found_by {
            // This root's descriptor is closed after the request.
            return Reopen::clone(way).then(name, own_paths);
        }
        let linked = Rc::clone(&self.common.linked);
        let (directory, files) = (Rc::clone(&self.directory), Rc::clone(&self.common.files));
        Reopen::new(self.methods.resolver, directory, linked, files).then(name, own_paths)
    }

    /// [`Root::open_file`] by a name as a client spells it.
    ///
    /// # Errors
    /// As there.
    pub fn open_read(&self, spelled: &[u8]) -> Result<ReadFile, StorageError> {
        self.open_file(&self.name(spelled, Direction::Read)?)
    }

    /// The name under which something is there: this one, or, if the policy says so, one
    /// that differs in the case of its letters.
    pub fn find(&self, name: &Name) -> Option<Name> {
        match self.resolve(name, OFlag::O_PATH, self.all()) {
            Ok(_) => return Some(*name),
            Err(Errno::ENOENT) if self.policy.ignore_case => {}
            Err(_) => return None,
        }
        let mut path = name.to_vec();
        let open = |path: &[u8], flags| self.resolve(path, flags, self.all());
        self.common.listings.find(open, &mut path)?;
        Name::from_spelled(&path).ok()
    }

    /// Directory entries that were read to find names in another case, since the
    /// last time this was asked.
    pub fn take_entries_read(&self) -> u64 {
        self.common.listings.take_entries()
    }

    /// The directories that are listed for uploads, if uploads have any listed.
    pub fn upload_listings(&self) -> Option<UploadListings> {
        let rules = self.policy.uploads;
        let lists = rules.versions().is_some() || rules.max_total().is_some();
        lists.then(|| UploadListings(Rc::clone(&self.common.uploads)))
    }

    /// Whether a file could be transferred under this name.
    pub fn leads_to_file(&self, name: &Name, direction: Direction) -> bool {
        match direction {
            Direction::Read => self.open_file(name).is_ok(),
            // Nothing is left of an upload that isn't committed.
            Direction::Write => self.begin(name, None).is_ok(),
        }
    }

    /// Starts the upload of a file with this name. Nobody sees it before
    /// [`Upload::commit`]. `announced` is the size in bytes, if the client sent it
    /// (`tsize`).
    ///
    /// A symbolic link as the last component is not followed: it counts as an existing
    /// file that is not regular. No link leads out of the root. Missing directories are
    /// made only if the policy says so, when the first data comes.
    ///
    /// # Errors
    /// ERROR 1: no such directory. ERROR 2: not allowed, or a directory. ERROR 3: announced
    /// more than the limit or the free space. ERROR 6: exists already.
    pub fn begin(&self, name: &Name, announced: Option<u64>) -> Result<Upload, StorageError> {
        if self.policy.read_only {
            return Err(StorageError::READ_ONLY);
        }
        // In a drop box nobody is told that a name is taken.
        let is_secret = self.policy.uploads.write_only();
        let in_another_case = self.policy.ignore_case && !is_secret && {
            let found = self.find(name);
            found.is_some_and(|found| found != *name)
        };
        // Otherwise some clients would get one file, and some the other.
        if in_another_case {
            return Err(StorageError::EXISTS);
        }
        let (path, name) = name::split_last(name);
        let (parent, missing) = self.directory_for(path)?;
        let first = if missing.is_empty() {
            name
        } else {
            self.check_case(path, missing)?;
            name::split_first(missing).0
        };
        if self.closes_in(&parent, first) {
            return Err(StorageError::NOT_YOURS);
        }
        Upload::begin(
            parent,
            missing,
            name,
            announced,
            self.policy,
            self.methods.publisher,
            Rc::clone(&self.common.uploads),
        )
    }

    /// The directory at `path`; if missing ones may be made, the last one that is there,
    /// and the path of those missing below it.
    fn directory_for<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), StorageError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let find = |path: &[u8]| self.resolve(path, flags, self.own());
        let found = find(path).map_err(StorageError::of_directory);
        if !self.policy.uploads.create_dirs() {
            return Ok((found?, b""));
        }
        let (mut found, mut there) = (found, path);
        let mut missing: &[u8] = b"";
        for _ in 0..MAX_DEPTH {
            let is_missing = |error: &StorageError| error.errno() == Some(Errno::ENOENT);
            if !found.as_ref().is_err_and(is_missing) {
                break;
            }
            let first;
            (there, first) = name::split_last(there);
            missing = match there {
                b"." => path,
                _ => path.get(there.len() + 1..).unwrap_or_default(),
            };
            found = find(there).map_err(StorageError::of_directory);
            // It is a link that leads nowhere, or out of the root.
            if let Ok(directory) = &found
                && fstatat(directory, first, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
            {
                return Err(StorageError::of_directory(Errno::ENOENT));
            }
        }
        Ok((found?, missing))
    }

    /// Makes sure that the first directory to be made, of those `missing` at the end of
    /// `path`, isn't there in another case: the new one would hide what is in the old.
    fn check_case(&self, path: &[u8], missing: &[u8]) -> Result<(), StorageError> {
        if !self.policy.ignore_case {
            return Ok(());
        }
        let first = name::split_first(missing).0.len();
        let end = path.len() - missing.len() + first;
        let mut path = path.get(..end).unwrap_or_default().to_vec();
        let open = |path: &[u8], flags| self.resolve(path, flags, self.own());
        match self.common.listings.find(open, &mut path) {
            Some(()) => Err(StorageError::IN_ANOTHER_CASE),
            None => Ok(()),
        }
    }

    /// [`Root::begin`] by a name as a client spells it.
    ///
    /// # Errors
    /// As there.
    pub fn create(&self, spelled: &[u8], announced: Option<u64>) -> Result<Upload, StorageError> {
        self.begin(&self.name(spelled, Direction::Write)?, announced)
    }

    fn resolve(&self, path: &[u8], flags: OFlag, places: Places<'_>) -> nix::Result<OwnedFd> {
        let root = self.directory.as_fd();
        self.methods.resolver.find(root, path, flags, places)
    }

    /// Where links may lead: to this root alone.
    fn own(&self) -> Places<'_> {
        Places {
            own_paths: &self.directory.paths,
            linked: &[],
            closed: self.closed,
            shut: self.shut,
        }
    }

    /// Where links may lead: to this root and the directories named for that.
    fn all(&self) -> Places<'_> {
        Places {
            linked: &self.common.linked,
            ..self.own()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::reading::ReadAt;
    use crate::file::skipped::skip;
    use std::ffi::OsStr;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use crate::wire::packet::ErrorCode;
    use nix::fcntl::open;
    use nix::sys::stat::{makedev, mknod};
    use nix::unistd::{Uid, mkfifo};

    #[test]
    fn what_the_system_lacks_is_told_in_a_line_each() {
        let lines = |resolver, publisher, read_only| {
            let methods = Methods {
                resolver,
                publisher,
            };
            let policy = Policy {
                read_only,
                ..Policy::default()
            };
            methods.lacks(&policy).collect::<Vec<_>>().join("; ")
        };
        for (resolver, publisher, read_only, said) in [
            (Resolver::Openat2, Publisher::LinkDescriptor, false, vec![]),
            (Resolver::Openat2, Publisher::LinkProc, false, vec![]),
            (Resolver::Openat2, Publisher::Named, true, vec![]),
            (Resolver::Openat2, Publisher::Named, false, vec!["/proc"]),
            (Resolver::Walk, Publisher::Named, true, vec!["openat2"]),
            (
                Resolver::Walk,
                Publisher::Named,
                false,
                vec!["openat2", "/proc"],
            ),
        ] {
            let lines = lines(resolver, publisher, read_only);
            assert_eq!(
                lines.matches("without").count(),
                said.len(),
                "{resolver}, {publisher}: {lines}"
            );
            assert!(said.iter().all(|word| lines.contains(word)), "{lines}");
        }
    }

    /// A root for each way of resolving names that works here.
    fn roots(path: &Path, policy: Policy) -> Vec<Root> {
        let best = Root::open(path, policy).unwrap();
        if best.methods.resolver == Resolver::Walk {
            skip("openat2 is not available here");
            return vec![best];
        }
        let methods = Methods {
            resolver: Resolver::Walk,
            ..best.methods
        };
        vec![best, Root::open_with(path, policy, methods).unwrap()]
    }

    fn read(root: &Root, request: &[u8]) -> Result<Vec<u8>, ErrorCode> {
        let mut file = root.open_read(request).map_err(|error| error.code())?;
        let mut content = vec![0; usize::try_from(file.size()).unwrap()];
        assert_eq!(file.read_at(0, &mut content), Ok(Some(content.len())));
        Ok(content)
    }

    /// A root with everything in it, and a secret next to it.
    fn tree(base: &Path) -> PathBuf {
        let root = base.join("root");
        fs::create_dir_all(root.join("sub/deep")).unwrap();
        fs::create_dir(base.join("outside")).unwrap();
        fs::write(base.join("outside/secret"), "outside").unwrap();
        for (path, content) in [("file", "top"), ("sub/file", "sub"), ("empty", "")] {
            fs::write(root.join(path), content).unwrap();
        }
        fs::write(root.join("n".repeat(255)), "longest").unwrap();
        fs::write(root.join(OsStr::from_bytes(b"\xe4\xff.bin")), "bytes").unwrap();
        fs::write(root.join(".tftpd-7-0"), "half").unwrap();
        let outside = base.join("outside");
        for (link, target) in [
            ("inside", Path::new("sub/file")),
            ("absolute", Path::new("/sub/file")),
            ("sub/absolute", Path::new("/file")),
            ("sub/upwards", Path::new("../file")),
            ("too_far_up", Path::new("../../../file")),
            ("sub_link", Path::new("sub")),
            ("deep_link", Path::new("sub/deep")),
            ("out", Path::new("../outside/secret")),
            ("out_absolute", &outside.join("secret")),
            ("out_directory", &outside),
            ("out_up", Path::new("..")),
            ("host_etc", Path::new("/etc")),
            ("dangling", Path::new("nowhere")),
            ("self", Path::new("self")),
            ("ping", Path::new("pong")),
            ("pong", Path::new("ping")),
            ("magic", Path::new("/proc/self/fd/0")),
            ("to_fifo", Path::new("fifo")),
            ("own", &root.join("sub/file")),
            ("own_directory", &root.join("sub")),
            ("own_out", &root.join("../outside/secret")),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
        UnixListener::bind(root.join("socket")).unwrap();
        root
    }

    #[test]
    fn names_find_what_a_chroot_would_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let path = tree(base.path());
        let (missing, refused) = (ErrorCode::FileNotFound, ErrorCode::AccessViolation);
        let own = path.to_str().unwrap();
        let secret = base.path().join("outside/secret");
        let prefixed = format!("{own}/sub/file");
        let (longest, too_long) = ("n".repeat(255), "n".repeat(256));
        let too_deep = "d/".repeat(3000) + "f";
        let cases: &[(&[u8], Result<&[u8], _>)] = &[
            (b"file", Ok(b"top")),
            (b"/file", Ok(b"top")),
            (b"sub\\file", Ok(b"sub")),
            (b"./sub//file", Ok(b"sub")),
            (b"file/", Err(refused)),
            (b"file\\", Err(refused)),
            (b"sub/file/.", Err(refused)),
            (b"empty", Ok(b"")),
            (prefixed.as_bytes(), Ok(b"sub")),
            (b"\xe4\xff.bin", Ok(b"bytes")),
            (longest.as_bytes(), Ok(b"longest")),
            (b"file\xff\xff", Ok(b"top")),
            (b"", Err(refused)),
            (b"/", Err(refused)),
            (b"sub", Err(refused)),
            (b"..", Err(refused)),
            (own.as_bytes(), Err(refused)),
            (b"nothing", Err(missing)),
            (b"nothing\xff", Err(missing)),
            (b"\xff", Err(refused)),
            (b"nothing/file", Err(missing)),
            (b"file/file", Err(missing)),
            (b"file/..", Err(refused)),
            (b"fifo/file", Err(missing)),
            (too_long.as_bytes(), Err(missing)),
            (too_deep.as_bytes(), Err(missing)),
            // Upwards stops at the root.
            (b"../file", Ok(b"top")),
            (b"sub/../file", Ok(b"top")),
            (b"sub/../../../file", Ok(b"top")),
            (b"deep_link/../file", Ok(b"top")),
            (b"nothing/../file", Ok(b"top")),
            (b"../outside/secret", Err(missing)),
            (b"sub/../../outside/secret", Err(missing)),
            (b"..\\outside\\secret", Err(missing)),
            (b"../../../../../../etc/passwd", Err(missing)),
            (b"/etc/passwd", Err(missing)),
            (secret.as_os_str().as_bytes(), Err(missing)),
            // Links lead where they would in a chroot.
            (b"inside", Ok(b"sub")),
            (b"absolute", Ok(b"sub")),
            (b"sub/absolute", Ok(b"top")),
            (b"sub/upwards", Ok(b"top")),
            (b"too_far_up", Ok(b"top")),
            (b"sub_link/file", Ok(b"sub")),
            (b"sub_link", Err(refused)),
            (b"out", Err(missing)),
            (b"out_absolute", Err(missing)),
            (b"out_directory/secret", Err(missing)),
            (b"out_up/outside/secret", Err(missing)),
            (b"host_etc/passwd", Err(missing)),
            (b"dangling", Err(missing)),
            // But a link to the root's own path leads into the root.
            (b"own", Ok(b"sub")),
            (b"own_directory/file", Ok(b"sub")),
            (b"own_out", Err(missing)),
            (b"self", Err(refused)),
            (b"ping/file", Err(refused)),
            (b"magic", Err(missing)),
            // No regular files, and no waiting for a writer.
            (b"fifo", Err(refused)),
            (b"to_fifo", Err(refused)),
            (b"socket", Err(refused)),
            (b".tftpd-7-0", Err(refused)),
        ];
        for root in roots(&path, Policy::default()) {
            for (request, expected) in cases {
                assert_eq!(
                    read(&root, request).as_deref(),
                    expected.as_ref().copied(),
                    "{} by {:?}",
                    request.escape_ascii(),
                    root.methods.resolver,
                );
            }
        }
    }

    #[test]
    fn a_device_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let device = base.path().join("null");
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        if let Err(errno) = mknod(&device, SFlag::S_IFCHR, mode, makedev(1, 3)) {
            skip(format_args!("can't make a device: {errno}"));
            return;
        }
        let policy = Policy {
            overwrite: true,
            ..Policy::default()
        };
        for root in roots(base.path(), policy) {
            assert_eq!(
                root.open_read(b"null").unwrap_err(),
                StorageError::NOT_REGULAR
            );
            assert_eq!(
                root.create(b"null", None).unwrap_err(),
                StorageError::NOT_REGULAR
            );
        }
    }

    #[test]
    fn what_the_user_may_not_read_is_refused() {
        if Uid::effective().is_root() {
            skip("root may read everything");
            return;
        }
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("file"), "x").unwrap();
        fs::create_dir(base.path().join("sub")).unwrap();
        let set_modes = |mode| {
            for path in ["file", "sub"] {
                fs::set_permissions(base.path().join(path), Permissions::from_mode(mode)).unwrap();
            }
        };
        set_modes(0o000);
        for root in roots(base.path(), Policy::default()) {
            for request in [&b"file"[..], b"sub/file"] {
                assert_eq!(read(&root, request), Err(ErrorCode::AccessViolation));
            }
        }
        set_modes(0o700);
    }

    /// Opening a FIFO lets its writer go on, and what it writes is lost.
    #[test]
    fn a_fifos_blocked_producer_is_not_let_go() {
        let base = tempfile::tempdir().unwrap();
        let fifo = base.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for root in roots(base.path(), Policy::default()) {
            assert_eq!(
                root.open_read(b"fifo").unwrap_err(),
                StorageError::NOT_REGULAR
            );
            let opened = open(&fifo, OFlag::O_WRONLY | OFlag::O_NONBLOCK, Mode::empty());
            assert_eq!(opened.err(), Some(Errno::ENXIO), "somebody reads it");
        }
    }

    #[test]
    fn a_missing_directory_is_told_apart_from_a_missing_file() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("file"), "x").unwrap();
        for root in roots(base.path(), Policy::default()) {
            for request in [&b"missing/x"[..], b"file/x"] {
                let error = root.create(request, None).unwrap_err();
                assert_eq!(error.code(), ErrorCode::FileNotFound);
                assert_eq!(error.message(), "No such directory");
                assert!(error.hint().is_some());
            }
            assert_eq!(root.open_read(b"missing/x").unwrap_err().hint(), None);
        }
    }

    #[test]
    fn uploads_stay_inside_too() {
        let base = tempfile::tempdir().unwrap();
        let path = tree(base.path());
        let missing = Err(ErrorCode::FileNotFound);
        let refused = Err(ErrorCode::AccessViolation);
        let exists = Err(ErrorCode::FileExists);
        let too_long = "n".repeat(256);
        // The file each request makes, or the error.
        let cases: &[(&[u8], Result<&str, ErrorCode>)] = &[
            (b"/new", Ok("new")),
            (b"../new", Ok("new")),
            (b"sub\\new", Ok("sub/new")),
            (b"sub_link/new", Ok("sub/new")),
            (b"deep_link/../new", Ok("new")),
            (b"out_directory/new", missing),
            (b"../outside/new", missing),
            (b"host_etc/new", missing),
            (b"nothing/new", missing),
            (b"file/new", missing),
            (b"self/new", refused),
            (b"", refused),
            (b"sub/..", refused),
            (b"new/", refused),
            (b"new\\", refused),
            (b"new/.", refused),
            (b"new\xff", refused),
            (b"sub/ne\x07w", refused),
            (b"own_directory/new", Ok("sub/new")),
            (b".tftpd-9-0", refused),
            (too_long.as_bytes(), missing),
            (b"file", exists),
            (b"sub", refused),
            (b"out", exists),
            (b"dangling", exists),
            (b"fifo", exists),
        ];
        for root in roots(&path, Policy::default()) {
            for (request, expected) in cases {
                let upload = root.create(request, None);
                let context = format!("{} {:?}", request.escape_ascii(), root.methods.resolver);
                match (upload, expected) {
                    (Ok(upload), Ok(made)) => {
                        assert_eq!(upload.commit(), Ok(0), "{context}");
                        fs::remove_file(path.join(made)).expect(&context);
                    }
                    (upload, expected) => assert_eq!(
                        upload.err().map(|error| error.code()),
                        expected.err(),
                        "{context}"
                    ),
                }
            }
        }
        let outside: Vec<_> = fs::read_dir(base.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1, "{outside:?}");
    }

    #[test]
    fn a_directory_that_can_not_be_served_is_named_with_the_remedy() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path();
        fs::write(path.join("file"), "x").unwrap();
        fs::create_dir(path.join("closed")).unwrap();
        let set_mode = |mode| {
            fs::set_permissions(path.join("closed"), Permissions::from_mode(mode)).unwrap();
        };
        set_mode(0o000);
        for (name, hint) in [
            ("missing", "create it"),
            ("file", "not a directory"),
            ("closed", "chmod o+x"),
        ] {
            if name == "closed" && Uid::effective().is_root() {
                skip("root may search everything");
                continue;
            }
            let error = Root::open(&path.join(name), Policy::default()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(hint) && text.contains(name), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
        set_mode(0o700);
        let error = Root::open(Path::new("box"), Policy::default()).unwrap_err();
        let text = error.of_uploads().to_string();
        assert!(text.contains("name it from here, not from ROOT"), "{text}");
    }

    #[test]
    fn finding_out_the_methods_changes_nothing() {
        let base = tempfile::tempdir().unwrap();
        let before = fs::metadata(base.path()).unwrap().modified().unwrap();
        drop(Root::open(base.path(), Policy::default()).unwrap());
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
        let after = fs::metadata(base.path()).unwrap().modified().unwrap();
        assert_eq!(before, after);
        // A file system nobody can write to.
        let root = Root::open(Path::new("/proc"), Policy::default()).unwrap();
        assert!(root.open_read(b"version").is_ok());
        let new = root.create(b"new", None);
        assert!(new.and_then(Upload::commit).is_err());
    }

    #[test]
    fn moved_or_replaced_the_root_stays_the_same_directory() {
        let base = tempfile::tempdir().unwrap();
        let (path, aside) = (base.path().join("root"), base.path().join("aside"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), "first").unwrap();
        let roots = roots(&path, Policy::default());
        fs::rename(&path, &aside).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), "second").unwrap();
        for root in roots {
            assert_eq!(read(&root, b"file").as_deref(), Ok(&b"first"[..]));
        }
    }
}
