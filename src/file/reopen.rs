//! A file that is served: open all the time, or closable while it isn't read.
//!
//! A file that is opened again must be the same as before: the same device and inode,
//! and, since the inode number of a deleted file is soon reused, the same size and time
//! of the last write. Must not: keep a descriptor for a closed file, except the served
//! root's, which all share.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use nix::fcntl::OFlag;
use nix::sys::stat::fstat;

use super::directory::Directory;
use super::error::StorageError;
use super::open_files::{FOR_READING, Identity, OpenFile, OpenFiles};
use super::reading::{ReadAt, Reader};
use super::resolve::Resolver;
use super::walk::Places;

/// The names that lead from the served root to a file.
#[derive(Debug, Clone)]
pub(super) struct Reopen {
    resolver: Resolver,
    root: Rc<Directory>,
    linked: Rc<[Directory]>,
    files: Rc<OpenFiles>,
    /// First a client's own root, if the file is in one, then the file.
    steps: Vec<Step>,
}

/// A name, and the paths of the directory where it is looked up.
#[derive(Debug, Clone)]
struct Step {
    own_paths: Rc<[PathBuf]>,
    name: Box<[u8]>,
}

impl Reopen {
    /// The way that begins at `root`. A link to a file may lead to the directories
    /// `linked` as well. A file that is already open is found in `files`.
    pub(super) const fn new(
        resolver: Resolver,
        root: Rc<Directory>,
        linked: Rc<[Directory]>,
        files: Rc<OpenFiles>,
    ) -> Self {
        Self {
            resolver,
            root,
            linked,
            files,
            steps: Vec::new(),
        }
    }

    /// The way that goes on to `name` in the directory that this one leads to.
    pub(super) fn then(mut self, name: &[u8], own_paths: Rc<[PathBuf]>) -> Self {
        let name = name.into();
        self.steps.push(Step { own_paths, name });
        self
    }

    /// Opens what is there now for reading, after a look at it: opening a FIFO would let
    /// its writer go on, and opening a device may set something off.
    ///
    /// # Errors
    /// The file isn't there, can't be opened, or isn't the `wanted` one.
    fn open(&self, wanted: Identity) -> Result<Rc<OpenFile>, StorageError> {
        let Some((file, above)) = self.steps.split_last() else {
            return Err(StorageError::NOT_FOUND);
        };
        let mut directory: Option<OwnedFd> = None;
        let look_up = |directory: &Option<OwnedFd>, step: &Step, flags, linked| {
            let at = directory.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let own_paths = &step.own_paths;
            let places = Places {
                own_paths,
                linked,
                // Checked when it was opened first, and it must be the same file.
                closed: None,
                shut: None,
            };
            self.resolver.find(at, &step.name, flags, places)
        };
        for step in above {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
            directory = Some(look_up(&directory, step, flags, &[])?);
        }
        let found = fstat(look_up(&directory, file, OFlag::O_PATH, &self.linked)?)?;
        if Identity::of(&found) != wanted {
            return Err(StorageError::CHANGED);
        }
        let opened = self.files.get(&found, || {
            Ok(look_up(&directory, file, FOR_READING, &self.linked)?)
        })?;
        if opened.identity() != wanted {
            return Err(StorageError::CHANGED);
        }
        Ok(opened)
    }
}

/// A regular file to be read.
#[derive(Debug)]
pub struct ReadFile(Descriptor);

#[derive(Debug)]
enum Descriptor {
    Kept(Reader),
    /// Boxed, since few files are closable.
    Closable(Box<Closable>),
}

#[derive(Debug)]
struct Closable {
    /// `None` while it is closed.
    file: Option<Reader>,
    size: u64,
    way: Reopen,
    identity: Identity,
    /// There was no descriptor for too long: if the next read gets none, it fails.
    blocking: bool,
}

impl ReadFile {
    /// A file that stays open as long as it is read.
    pub(super) const fn kept(file: Rc<OpenFile>) -> Self {
        Self(Descriptor::Kept(Reader::new(file)))
    }

    /// Takes over a regular file's descriptor; no other transfer finds the file.
    pub(super) fn alone(file: OwnedFd) -> Result<Self, StorageError> {
        OpenFile::alone(file).map(Self::kept)
    }

    /// A file that may be closed while it isn't read; `way` is how it was found.
    pub(super) fn closable(file: Rc<OpenFile>, way: Reopen) -> Self {
        Self(Descriptor::Closable(Box::new(Closable {
            size: file.size(),
            identity: file.identity(),
            file: Some(Reader::new(file)),
            way,
            blocking: false,
        })))
    }

    /// The file's size when it was opened, in bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Descriptor::Kept(file) => file.size(),
            Descriptor::Closable(file) => file.size,
        }
    }

    /// Whether the file was written to since it was opened: what was read may be
    /// part old, part new.
    pub fn has_changed(&self) -> bool {
        self.open().is_some_and(Reader::has_changed)
    }

    fn open(&self) -> Option<&Reader> {
        match &self.0 {
            Descriptor::Kept(file) => Some(file),
            Descriptor::Closable(closable) => closable.file.as_ref(),
        }
    }
}

impl Closable {
    /// The file, opened again if it was closed; `None` if there is no descriptor for it
    /// now.
    fn open(&mut self) -> Result<Option<&mut Reader>, StorageError> {
        if self.file.is_none() {
            match self.way.open(self.identity) {
                Ok(file) => {
                    self.file = Some(Reader::new(file));
                    self.blocking = false;
                }
                Err(error) if error.is_exhausted() && !self.blocking => return Ok(None),
                Err(error) if error.is_exhausted() => return Err(error),
                // Replaced, removed, or out of reach.
                Err(_) => return Err(StorageError::CHANGED),
            }
        }
        Ok(self.file.as_mut())
    }
}

impl ReadAt for ReadFile {
    fn size(&self) -> u64 {
        self.size()
    }

    fn read_run(
        &mut self,
        offset: u64,
        slices: &mut [IoSliceMut<'_>],
    ) -> Result<Option<usize>, StorageError> {
        let file = match &mut self.0 {
            Descriptor::Kept(file) => file,
            Descriptor::Closable(closable) => match closable.open()? {
                Some(file) => file,
                None => return Ok(None),
            },
        };
        file.read_run(offset, slices)
    }

    fn fetch(&mut self) -> bool {
        match &mut self.0 {
            Descriptor::Kept(file) => file.fetch(),
            // A closed file waits for a descriptor, and has nothing to fetch.
            Descriptor::Closable(closable) => closable.file.as_mut().is_none_or(ReadAt::fetch),
        }
    }

    fn block(&mut self) {
        match &mut self.0 {
            Descriptor::Kept(file) => file.block(),
            Descriptor::Closable(closable) => match &mut closable.file {
                Some(file) => file.block(),
                None => closable.blocking = true,
            },
        }
    }

    fn close(&mut self) {
        if let Descriptor::Closable(closable) = &mut self.0 {
            closable.file = None;
        }
    }

    fn is_open(&self) -> bool {
        self.open().is_some()
    }

    fn sharing_key(&self) -> Option<u64> {
        self.open()?.sharing_key()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, Root};
    use super::*;
    use crate::wire::packet::{Direction, ErrorCode};
    use std::fs::{self, FileTimes, OpenOptions};
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::SystemTime;

    fn open(root: &Root, name: &[u8]) -> ReadFile {
        let name = root.name(name, Direction::Read).unwrap();
        root.open_closable(&name).unwrap()
    }

    fn read(file: &mut ReadFile) -> Result<Vec<u8>, StorageError> {
        let mut buffer = [0; 100];
        let read = file.read_at(0, &mut buffer)?.unwrap();
        Ok(buffer[..read].to_vec())
    }

    #[test]
    fn a_closed_file_is_opened_again_where_it_was() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("own")).unwrap();
        symlink("file", base.path().join("link")).unwrap();
        fs::write(base.path().join("file"), "top").unwrap();
        fs::write(base.path().join("own/file"), "own").unwrap();
        let root = Root::open(base.path(), Policy::default()).unwrap();
        let own = root.below(b"own").unwrap().unwrap();
        let mut files = [
            (open(&root, b"file"), "top"),
            (open(&root, b"link"), "top"),
            (open(&own, b"file"), "own"),
            (open(&own, b"../file"), "own"),
        ];
        drop(own);
        for (file, content) in &mut files {
            for _ in 0..2 {
                assert!(file.is_open());
                assert_eq!(read(file).unwrap(), content.as_bytes());
                file.close();
                assert!(!file.is_open());
                assert_eq!(file.size(), 3);
                assert_eq!(read(file).unwrap(), content.as_bytes());
            }
        }
        // After one long wait for a descriptor, a later read may wait again.
        let (file, _) = &mut files[0];
        file.close();
        file.block();
        read(file).unwrap();
        assert!(matches!(&file.0, Descriptor::Closable(it) if !it.blocking));
        // A file that isn't closable stays open.
        let mut kept = root.open_read(b"file").unwrap();
        kept.close();
        assert!(kept.is_open());
    }

    #[test]
    fn a_closed_file_that_was_changed_or_replaced_is_not_read() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 5] = [
            ("removed", |file| fs::remove_file(file).unwrap()),
            ("replaced", |file| {
                fs::write(file.with_extension("new"), "old").unwrap();
                fs::rename(file.with_extension("new"), file).unwrap();
            }),
            ("longer", |file| fs::write(file, "longer").unwrap()),
            ("written to", |file| {
                fs::write(file, "new").unwrap();
                let long_ago = SystemTime::UNIX_EPOCH;
                let file = OpenOptions::new().write(true).open(file).unwrap();
                file.set_times(FileTimes::new().set_modified(long_ago))
                    .unwrap();
            }),
            ("a directory", |file| {
                fs::remove_file(file).unwrap();
                fs::create_dir(file).unwrap();
            }),
        ];
        for (what, change) in changes {
            let base = tempfile::tempdir().unwrap();
            let path = base.path().join("file");
            fs::write(&path, "old").unwrap();
            let root = Root::open(base.path(), Policy::default()).unwrap();
            let (mut closed, mut open) = (open(&root, b"file"), open(&root, b"file"));
            closed.close();
            change(&path);
            let error = read(&mut closed).unwrap_err();
            assert_eq!(error, StorageError::CHANGED, "{what}");
            assert_eq!(error.code(), ErrorCode::NotDefined);
            assert!(read(&mut open).is_ok(), "{what}");
        }
    }
}
