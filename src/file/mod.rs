//! Layer 3: the files behind the names.
//!
//! A [`Root`] turns a request's name into a [`ReadFile`] or an [`Upload`], or
//! into the [`StorageError`] to answer with. It holds the two promises of this
//! layer: no name leads out of the root (`resolve`), and no upload is seen
//! before it is whole (`upload`). Knows nothing of sessions or sockets, takes
//! nothing from the wire but the error codes, and blocks on nothing but the
//! file system itself.

mod error;
mod ignore_case;
pub mod local;
mod name;
mod nowait;
mod reading;
mod resolve;
mod sink;
mod source;
mod upload;

use std::cell::Cell;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use log::debug;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc::off_t;
use nix::sys::stat::Mode;

use crate::wire::packet::ErrorCode;

pub use error::StorageError;
pub use reading::ReadFile;
pub use resolve::Resolver;
pub use sink::{BufferedSink, FileSink, Store, WriteBuffer};
pub use source::{FileSource, MAX_RUN, NetasciiSource, ReadAt};
pub use upload::{Publisher, Upload};

/// What clients may do below the root. The default: read everything the
/// server's user may, create files, overwrite none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Refuse every upload.
    pub read_only: bool,
    /// Let uploads replace existing regular files that the server's user may
    /// write.
    pub overwrite: bool,
    /// The most bytes an upload may have.
    pub max_upload: Option<u64>,
    /// Permission bits new files don't get (new files have `0o666 & !umask`);
    /// `None` for the process's own umask.
    pub umask: Option<u32>,
    /// Look for a file that isn't there under names that differ in the case of
    /// their letters.
    pub ignore_case: bool,
}

/// How files are found and published here: chosen by [`Root::open`], or forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods {
    /// How paths are resolved.
    pub resolver: Resolver,
    /// How a finished upload gets its name.
    pub publisher: Publisher,
}

impl Methods {
    /// The best this system allows, for a `root` opened with the rights that
    /// uploads will be made with: the kernel compares them. Writes nothing.
    fn probe(root: BorrowedFd<'_>) -> Self {
        Self {
            resolver: Resolver::probe(root),
            publisher: Publisher::probe(root),
        }
    }
}

/// A directory that is going to be served: opened with all the rights the
/// process was started with, before it gives them up.
#[derive(Debug)]
pub struct Directory {
    descriptor: OwnedFd,
    /// Absolute; only compared with names, never opened again.
    path: Rc<Path>,
}

impl Directory {
    /// Opens the directory at `path`. It is found once; moved or replaced, it
    /// stays the one that is served.
    ///
    /// # Errors
    /// A directory that is missing, is none, or can't be reached.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let descriptor =
            open(path, flags, Mode::empty()).map_err(|errno| RootError::new(path, errno))?;
        Ok(Self {
            descriptor,
            path: std::path::absolute(path)
                .unwrap_or_else(|_| path.to_owned())
                .into(),
        })
    }

    /// The directory once more, with the rights the process has by now.
    fn search(&self) -> Result<OwnedFd, RootError> {
        // The root itself opens without the right to search it; `.` doesn't.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        Resolver::Walk
            .open(self.descriptor.as_fd(), b".", flags)
            .map_err(|errno| RootError::new(&self.path, errno))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A file that a request led to.
#[derive(Debug)]
pub struct Found {
    /// The file.
    pub file: ReadFile,
    /// What it was found as, where that isn't what the request says: worth a
    /// log line.
    pub served_as: Option<Box<[u8]>>,
}

/// The directory that is served.
#[derive(Debug)]
pub struct Root {
    directory: Directory,
    policy: Policy,
    methods: Methods,
    /// Numbers the temporary files.
    uploads: Cell<u64>,
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
        let methods = Methods::probe(directory.search()?.as_fd());
        debug!("root {}: {methods:?}", directory.path.display());
        Ok(Self::new(directory, policy, methods))
    }

    /// [`Root::open`] with the methods given instead of found out.
    ///
    /// # Errors
    /// As there; methods that don't work fail request by request.
    pub fn open_with(path: &Path, policy: Policy, methods: Methods) -> Result<Self, RootError> {
        Ok(Self::new(Directory::open(path)?, policy, methods))
    }

    const fn new(directory: Directory, policy: Policy, methods: Methods) -> Self {
        Self {
            directory,
            policy,
            methods,
            uploads: Cell::new(0),
        }
    }

    /// The directory `name` below this one as a root of its own: `..` and links
    /// end there. Names that begin with the path of this root are taken as here.
    /// `None` if there is no such directory.
    ///
    /// Good for one request: its one upload has a number taken from here.
    pub fn below(&self, name: &[u8]) -> Option<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let directory = self.directory.as_fd();
        let descriptor = self.methods.resolver.open(directory, name, flags).ok()?;
        let serial = self.uploads.get();
        self.uploads.set(serial.wrapping_add(1));
        let path = Rc::clone(&self.directory.path);
        Some(Self {
            uploads: Cell::new(serial),
            ..Self::new(Directory { descriptor, path }, self.policy, self.methods)
        })
    }

    /// Opens the regular file a request names. Never blocks on a FIFO or device.
    ///
    /// A name not found is tried again without what can't be text at its end,
    /// and then, if the policy says so, in any case.
    ///
    /// # Errors
    /// 1 no such file, 2 not a regular file or not allowed.
    pub fn open_read(&self, request: &[u8]) -> Result<ReadFile, StorageError> {
        self.find(request).map(|found| found.file)
    }

    /// [`Root::open_read`], and the name under which the file was found.
    ///
    /// # Errors
    /// As there.
    pub fn find(&self, request: &[u8]) -> Result<Found, StorageError> {
        let found = |file, name: Option<&[u8]>| {
            let served_as = name.map(Into::into);
            ReadFile::new(file).map(|file| Found { file, served_as })
        };
        let is_miss = |error: &StorageError| error.code() == ErrorCode::FileNotFound;
        let missing = match self.open_exactly(request) {
            Ok(file) => return found(file, None),
            Err(error) if is_miss(&error) => error,
            Err(error) => return Err(error),
        };
        let text = name::without_garbage(request);
        if text.is_empty() {
            return Err(missing);
        }
        if text.len() < request.len() {
            match self.open_exactly(text) {
                Err(error) if is_miss(&error) => {}
                result => return found(result?, Some(text)),
            }
        }
        if self.policy.ignore_case {
            let mut space = [0; name::MAX_PATH];
            let len = self.path_of(text, &mut space)?.len();
            let path = space.get_mut(..len).unwrap_or_default();
            if ignore_case::find(self.methods.resolver, self.directory.as_fd(), path).is_some() {
                return found(self.open_path(path)?, Some(path));
            }
        }
        Err(missing)
    }

    /// A name in small or in capital letters that is there while the one of the
    /// request isn't. Lists no directory: that may be forbidden.
    pub fn similar(&self, request: &[u8]) -> Option<Vec<u8>> {
        let request = name::without_garbage(request);
        [request.to_ascii_lowercase(), request.to_ascii_uppercase()]
            .into_iter()
            .find(|name| name != request && self.open_exactly(name).is_ok())
    }

    /// Starts the upload a request names. Nothing is seen of it before
    /// [`Upload::commit`]. `announced` is the size in bytes, if the client told
    /// it (`tsize`): the space is reserved then.
    ///
    /// A symbolic link as the last component is not followed: it counts as an
    /// existing file that is not regular. Directories are never created.
    ///
    /// # Errors
    /// 1 no such directory, 2 not allowed, 3 announced more than the
    /// limit or the free space, 6 exists already.
    pub fn create(&self, request: &[u8], announced: Option<u64>) -> Result<Upload, StorageError> {
        if self.policy.read_only {
            return Err(StorageError::READ_ONLY);
        }
        let mut space = [0; name::MAX_PATH];
        let path = self.path_of(request, &mut space)?;
        let (parent, name) = name::split_last(path);
        if matches!(name, b"." | b"..") {
            return Err(StorageError::IS_DIRECTORY);
        }
        let parent = self.methods.resolver.open(
            self.directory.as_fd(),
            parent,
            OFlag::O_PATH | OFlag::O_DIRECTORY,
        )?;
        let serial = self.uploads.get();
        self.uploads.set(serial.wrapping_add(1));
        Upload::begin(
            parent,
            name,
            announced,
            self.policy,
            self.methods.publisher,
            serial,
        )
    }

    fn open_exactly(&self, request: &[u8]) -> Result<OwnedFd, StorageError> {
        let mut space = [0; name::MAX_PATH];
        self.open_path(self.path_of(request, &mut space)?)
    }

    fn open_path(&self, path: &[u8]) -> Result<OwnedFd, StorageError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_LARGEFILE;
        let directory = self.directory.as_fd();
        Ok(self.methods.resolver.open(directory, path, flags)?)
    }

    fn path_of<'a>(
        &self,
        request: &[u8],
        space: &'a mut [u8; name::MAX_PATH],
    ) -> Result<&'a [u8], StorageError> {
        let path = name::normalise(request, self.directory.path.as_os_str().as_bytes(), space)?;
        if name::is_temporary(path) {
            return Err(StorageError::RESERVED_NAME);
        }
        Ok(path)
    }
}

/// Why a directory can't be served: one line with the remedy.
#[derive(Debug)]
pub struct RootError {
    path: PathBuf,
    errno: Errno,
}

impl RootError {
    fn new(path: &Path, errno: Errno) -> Self {
        Self {
            path: path.to_owned(),
            errno,
        }
    }
}

impl fmt::Display for RootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.errno {
            Errno::ENOENT => "no such directory; create it or name another",
            Errno::ENOTDIR => "not a directory; name the directory that holds the files",
            Errno::EACCES | Errno::EPERM => {
                "permission denied; let the server's user search it and the directories above \
                 (chmod o+x)"
            }
            other => other.desc(),
        };
        write!(f, "cannot serve {}: {reason}", self.path.display())
    }
}

impl std::error::Error for RootError {}

/// Where byte `done` of a run at `offset` lies, as the system counts.
fn file_offset(offset: u64, done: usize) -> nix::Result<off_t> {
    off_t::try_from(offset.saturating_add(done as u64)).map_err(|_| Errno::EFBIG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::source::ReadAt;
    use std::ffi::OsStr;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::{SFlag, makedev, mknod};
    use nix::unistd::{Uid, mkfifo};

    /// Roots that resolve in each way possible here.
    fn roots(path: &Path, policy: Policy) -> Vec<Root> {
        let best = Root::open(path, policy).unwrap();
        if best.methods.resolver == Resolver::Walk {
            eprintln!("skipped: openat2 is not available here");
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
        let too_deep = "d/".repeat(3000);
        let cases: &[(&[u8], Result<&[u8], _>)] = &[
            (b"file", Ok(b"top")),
            (b"/file", Ok(b"top")),
            (b"sub\\file", Ok(b"sub")),
            (b"./sub//file/", Ok(b"sub")),
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
            (b"\xff", Err(missing)),
            (b"nothing/file", Err(missing)),
            (b"file/file", Err(missing)),
            (b"file/..", Err(missing)),
            (b"fifo/file", Err(missing)),
            (too_long.as_bytes(), Err(missing)),
            (too_deep.as_bytes(), Err(missing)),
            // Upwards stops at the root.
            (b"../file", Ok(b"top")),
            (b"sub/../file", Ok(b"top")),
            (b"sub/../../../file", Ok(b"top")),
            (b"deep_link/../file", Ok(b"sub")),
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
            eprintln!("skipped: can't make a device: {errno}");
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
            eprintln!("skipped: root may read everything");
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

    #[test]
    fn garbage_after_a_name_is_told() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("file"), "x").unwrap();
        fs::write(base.path().join(OsStr::from_bytes(b"odd\xff")), "odd").unwrap();
        fs::write(base.path().join("odd"), "plain").unwrap();
        for root in roots(base.path(), Policy::default()) {
            let served_as = |request| root.find(request).unwrap().served_as;
            assert_eq!(served_as(b"file"), None);
            let file = served_as(b"file\xff\xff\x01");
            assert_eq!(file.as_deref(), Some(&b"file"[..]));
            // The name as it was sent comes first.
            assert_eq!(served_as(b"odd\xff"), None);
            assert_eq!(read(&root, b"odd\xff").as_deref(), Ok(&b"odd"[..]));
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
            (b"deep_link/../new", Ok("sub/new")),
            (b"out_directory/new", missing),
            (b"../outside/new", missing),
            (b"host_etc/new", missing),
            (b"nothing/new", missing),
            (b"file/new", missing),
            (b"self/new", refused),
            (b"", refused),
            (b"sub/..", refused),
            (b".tftpd-9-0", refused),
            (too_long.as_bytes(), missing),
            (b"file", exists),
            (b"sub", exists),
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
                eprintln!("skipped: root may search everything");
                continue;
            }
            let error = Root::open(&path.join(name), Policy::default()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(hint) && text.contains(name), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
        set_mode(0o700);
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
        assert!(root.create(b"new", None).is_err());
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
