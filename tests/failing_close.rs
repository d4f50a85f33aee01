//! Some file systems tell only at `close` or `fsync` that what was written is lost
//! (NFS, FUSE). An upload isn't acknowledged, and doesn't get its name, before they
//! were asked. They have no unnamed files either: what the client wrote there goes with
//! the client.
//!
//! The test mounts a FUSE file system of its own, so it needs root and `/dev/fuse`;
//! otherwise it is skipped with a message.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: the file system answers from a thread"
)]

mod common;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyEmpty,
    ReplyEntry, ReplyWrite, Request, WriteFlags,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use common::*;

/// The call that reports that data is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fails {
    Nothing,
    Close,
    Sync,
}

/// The names in the only directory, with inode number and size.
type Files = Arc<Mutex<BTreeMap<OsString, (u64, u64)>>>;

/// A file system that loses all written data.
struct LossyDisk {
    fails: Fails,
    files: Files,
}

impl LossyDisk {
    fn files(&self) -> MutexGuard<'_, BTreeMap<OsString, (u64, u64)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let is_root = ino == INodeNo::ROOT;
        let size = if is_root {
            0
        } else {
            self.files().values().find(|(it, _)| *it == ino.0)?.1
        };
        let epoch = SystemTime::UNIX_EPOCH;
        Some(FileAttr {
            ino,
            size,
            blocks: 0,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind: if is_root {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if is_root { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn done(&self, reply: ReplyEmpty, what: Fails) {
        if self.fails == what {
            reply.error(Errno::EIO);
        } else {
            reply.ok();
        }
    }
}

impl Filesystem for LossyDisk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files().get(name).copied();
        match found.and_then(|(ino, _)| self.attributes(INodeNo(ino))) {
            Some(attributes) => reply.entry(&PATIENCE, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&PATIENCE, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let ino = INodeNo(self.files().len() as u64 + 100);
        self.files().insert(name.to_owned(), (ino.0, 0));
        let attributes = self.attributes(ino).expect("just made");
        let (generation, flags) = (Generation(0), FopenFlags::empty());
        reply.created(&PATIENCE, &attributes, generation, FileHandle(0), flags);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        for (number, size) in self.files().values_mut() {
            if *number == ino.0 {
                *size = offset + data.len() as u64;
            }
        }
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.done(reply, Fails::Close);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.done(reply, Fails::Sync);
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.files().remove(name);
        reply.ok();
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        from: &OsStr,
        _: INodeNo,
        to: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut files = self.files();
        if let Some(file) = files.remove(from) {
            files.insert(to.to_owned(), file);
        }
        reply.ok();
    }
}

/// Mounts such a disk; `None`, with the reason printed, if that isn't possible.
fn mount(at: &Path, fails: Fails) -> Option<(BackgroundSession, Files)> {
    if !geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        skip("a FUSE file system needs root and /dev/fuse");
        return None;
    }
    std::fs::create_dir(at).expect("a mount point");
    let files = Files::default();
    let disk = LossyDisk {
        fails,
        files: Arc::clone(&files),
    };
    match fuser::spawn_mount(disk, at, &Config::default()) {
        Ok(mounted) => Some((mounted, files)),
        Err(error) => {
            let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!ci, "no FUSE file system can be mounted: {error}");
            skip(format_args!("no FUSE file system can be mounted: {error}"));
            None
        }
    }
}

#[test]
fn an_upload_whose_close_fails_is_not_acknowledged() {
    for overwrite in [false, true] {
        for fails in [Fails::Nothing, Fails::Close, Fails::Sync] {
            let args = if overwrite { &["--overwrite"][..] } else { &[] };
            let server = Server::start(args);
            let Some((_mounted, files)) = mount(&server.root().join("lossy"), fails) else {
                return;
            };
            let written = RawClient::new(&server).write("lossy/file", &content(3, 1000));
            let names: Vec<_> = files.lock().unwrap().keys().cloned().collect();
            if fails == Fails::Nothing {
                assert_eq!(written, Ok(()));
                assert_eq!(names, ["file"]);
            } else {
                let code = written.map_err(|(code, _)| code);
                assert_eq!(code, Err(0), "{fails:?} overwrite={overwrite}");
                assert!(names.is_empty(), "{fails:?}: {names:?}");
            }
        }
    }
}

/// A terminal that is closed hangs up on what runs on it.
#[test]
fn a_get_that_is_interrupted_leaves_no_temporary_file() {
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        let dir = tempfile::tempdir().expect("a directory");
        let Some((_mounted, files)) = mount(&dir.path().join("lossy"), Fails::Nothing) else {
            return;
        };
        let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
        server.set_read_timeout(Some(PATIENCE)).expect("a time");
        let url = format!("tftp://{}/file", server.local_addr().expect("an address"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_tftp"))
            .args(["get", &url, "lossy/file"])
            .current_dir(dir.path())
            .spawn()
            .expect("the client starts");
        let mut buffer = [0; 600];
        let (_, client) = server.recv_from(&mut buffer).expect("a request");
        // Until it has written something.
        for block in 1..4096 {
            server
                .send_to(&data(block, &[0; 512]), client)
                .expect("a block");
            assert_eq!(server.recv(&mut buffer).expect("an ACK"), 4);
            if !files.lock().expect("files").is_empty() {
                break;
            }
        }
        assert_eq!(files.lock().expect("files").len(), 1, "a temporary file");
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("a child of ours");
        let status = child.wait().expect("a child of ours");
        assert_eq!(status.code(), Some(128 + signal as i32), "{status}");
        assert!(files.lock().expect("files").is_empty(), "{signal}");
    }
}
