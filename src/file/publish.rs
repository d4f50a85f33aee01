//! How a finished upload gets its name, and the temporary names it may need on
//! the way.
//!
//! An upload is written to a file without a name, which is then linked by its descriptor.
//! Where there are no unnamed files (NFS, FAT, some FUSE), or where they can't be linked
//! (neither `/proc` nor the right to link a descriptor), it is written under a temporary
//! name. No request can use that name, and aborting the upload removes it. Replacing a
//! file takes a temporary name everywhere, for a moment.
//!
//! A temporary file is left behind only if the program ends at once (kill -9, SIGQUIT, a
//! crash). The first upload into a directory sweeps such files, and so does a later one
//! now and then. Temporary files are locked while their program lives; where hosts share
//! files but not locks, only old ones are swept. Must not: look at what is in a file.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::debug;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl, openat, renameat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::sys::statfs::fstatfs;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::name::TEMP_PREFIX;
use super::syscalls;
use super::walk::{id, id_of, kind};

/// How a finished upload gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publisher {
    /// An unnamed file, linked by its descriptor (`AT_EMPTY_PATH`: needs
    /// `CAP_DAC_READ_SEARCH`, or Linux 6.10).
    LinkDescriptor,
    /// An unnamed file, linked through `/proc/self/fd`.
    LinkProc,
    /// A temporary name in the same directory, linked or renamed. The other ways
    /// fall back to it if a file system has no unnamed files.
    Named,
}

impl fmt::Display for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkDescriptor => "linked by descriptor",
            Self::LinkProc => "linked through /proc",
            Self::Named => "written under a temporary name",
        })
    }
}

impl Publisher {
    /// The first way that works here. Writes nothing: linking over `.` always fails,
    /// but with `EEXIST` only if the kernel accepts what is to be linked.
    pub(super) fn probe(root: BorrowedFd<'_>) -> Self {
        let works = |it: &Self| it.link(root, root, b".") == Err(Errno::EEXIST);
        [Self::LinkDescriptor, Self::LinkProc]
            .into_iter()
            .find(works)
            .unwrap_or(Self::Named)
    }

    /// Gives an unnamed file its name.
    pub(super) fn link(
        self,
        file: BorrowedFd<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> nix::Result<()> {
        match self {
            Self::LinkDescriptor => linkat(file, "", directory, name, AtFlags::AT_EMPTY_PATH),
            Self::LinkProc => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                linkat(AT_FDCWD, path.as_str(), directory, name, follow)
            }
            Self::Named => Err(Errno::EINVAL),
        }
    }
}

/// A new file in `directory`: without a name if possible, otherwise with the temporary
/// name returned. `serial` tells the temporary files of this server apart.
pub(super) fn open_new(
    directory: BorrowedFd<'_>,
    publisher: Publisher,
    serial: u64,
    mode: Mode,
) -> nix::Result<(OwnedFd, Option<String>)> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_LARGEFILE;
    if publisher != Publisher::Named {
        match openat(directory, ".", flags | OFlag::O_TMPFILE, mode) {
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => {
                debug!("no unnamed files in this directory: using a temporary name");
            }
            opened => return Ok((opened?, None)),
        }
    }
    let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let (temporary, file) = with_temporary_name(directory, serial, |temporary| {
        let file = openat(directory, temporary, flags, mode)?;
        // Another server may already be sweeping it as left behind.
        let taken = lock(&file) == Err(Errno::EAGAIN) || fstat(&file)?.st_nlink == 0;
        if taken { Err(Errno::EEXIST) } else { Ok(file) }
    })?;
    Ok((file, Some(temporary)))
}

/// Links an unnamed file under a temporary name, and returns that name.
pub(super) fn link_temporary(
    file: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    publisher: Publisher,
    serial: u64,
) -> nix::Result<String> {
    let (temporary, ()) = with_temporary_name(directory, serial, |temporary| {
        let _ = lock(file);
        publisher.link(file, directory, temporary.as_bytes())
    })?;
    Ok(temporary)
}

/// Calls `make` with temporary names until one is free. Removes those on the way that
/// were left behind.
fn with_temporary_name<T>(
    directory: BorrowedFd<'_>,
    serial: u64,
    make: impl Fn(&str) -> nix::Result<T>,
) -> nix::Result<(String, T)> {
    for attempt in 0..TEMPORARY_NAMES {
        let name = format!("{TEMP_PREFIX}{serial}-{attempt}");
        match make(&name) {
            Err(Errno::EEXIST) => remove_left_behind(directory, name.as_bytes()),
            result => return result.map(|it| (name, it)),
        }
    }
    // Not EEXIST, which would tell the client that its file exists.
    Err(Errno::EBUSY)
}

/// Removes the temporary files that earlier servers left behind in `directory`, if it
/// can be listed.
pub(super) fn sweep(directory: BorrowedFd<'_>) {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let listed = openat(directory, ".", flags, Mode::empty()).and_then(Dir::from_fd);
    let mut entries = match listed {
        Ok(entries) => entries,
        Err(errno) => return debug!("cannot look for files left behind: {errno}"),
    };
    for entry in entries.iter().take(MAX_SWEPT).flatten() {
        let name = entry.file_name().to_bytes();
        if is_ours(name) {
            remove_left_behind(directory, name);
        }
    }
}

/// Whether a file of this name is a temporary one of ours: `.tftpd-SERIAL-ATTEMPT`.
pub(super) fn is_ours(name: &[u8]) -> bool {
    let is_number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    name.strip_prefix(TEMP_PREFIX.as_bytes())
        .and_then(|rest| {
            let dash = rest.iter().position(|&byte| byte == b'-')?;
            Some(is_number(&rest[..dash]) && is_number(&rest[dash + 1..]))
        })
        .unwrap_or(false)
}

/// Removes a temporary file whose server is gone: one that isn't locked.
///
/// While the lock is held, nobody else removes or renames that name: what is removed
/// is what was locked.
fn remove_left_behind(directory: BorrowedFd<'_>, name: &[u8]) {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let remove = || -> nix::Result<()> {
        // Anything but a regular file isn't ours, and must not be opened.
        let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind(&stat) != SFlag::S_IFREG {
            return Err(Errno::EBUSY);
        }
        let file = openat(directory, name, flags, Mode::empty())?;
        lock(&file)?;
        #[allow(clippy::cast_sign_loss, reason = "32 bits, whatever the type")]
        let filesystem = fstatfs(&file)?.filesystem_type().0 as u32;
        if may_be_another_hosts(filesystem, &fstat(&file)?, now()) {
            return Err(Errno::EBUSY);
        }
        if is_named(&file, directory, name)? {
            unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    };
    if let Err(errno) = remove() {
        debug!("temporary file {} is in use: {errno}", name.escape_ascii());
    }
}

/// Whether a server on another host, whose lock can't be seen here, may be writing this
/// file: it was last written to less than [`ABANDONED`] before `now`.
fn may_be_another_hosts(filesystem: u32, file: &FileStat, now: Duration) -> bool {
    let written = u64::try_from(file.st_mtime).unwrap_or(0);
    let age = now.saturating_sub(Duration::from_secs(written));
    SHARED_BY_HOSTS.contains(&filesystem) && age < ABANDONED
}

/// The time since 1970.
#[allow(
    clippy::disallowed_methods,
    reason = "the age of a file, not the time of a transfer"
)]
pub(super) fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

/// Whether `name` in `directory` is still this file's: another server may have swept it
/// as left behind and made its own of that name.
pub(super) fn is_named(
    file: impl AsFd,
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> nix::Result<bool> {
    let named = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(id_of(file)? == id(&named))
}

/// Locks a file for as long as it is open; `EAGAIN` if someone else has locked it.
fn lock(file: impl AsFd) -> nix::Result<()> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).map(drop)
}

/// Renames, but not onto an existing name. Where the file system can't check and rename
/// in one step, a file that another process makes in between is replaced.
pub(super) fn rename_new(directory: BorrowedFd<'_>, from: &[u8], to: &[u8]) -> nix::Result<()> {
    match syscalls::rename_new(directory, from, to) {
        Err(Errno::EINVAL | Errno::ENOSYS) => {}
        done => return done,
    }
    match fstatat(directory, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => renameat(directory, from, directory, to),
        Ok(_) => Err(Errno::EEXIST),
        Err(errno) => Err(errno),
    }
}

/// Temporary names tried for one upload. More than one is needed only where
/// several servers share a directory, or after a kill -9.
pub(super) const TEMPORARY_NAMES: u32 = 16;

/// After this long without a write a temporary file is abandoned. It is far longer than
/// a server waits for a client, and than the clocks of hosts differ.
const ABANDONED: Duration = Duration::from_secs(600);

/// File systems that other hosts may write to, but where only the locks of this host may
/// be seen (`mount(8)`: `nolock`); the numbers are those of `statfs(2)` and
/// `linux/magic.h`.
const SHARED_BY_HOSTS: [u32; 9] = [
    0x6969,      // NFS
    0x6573_5546, // FUSE, virtiofs
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x7375_7245, // Coda
    0x7461_636f, // OCFS2
];

/// The most directory entries searched for files left behind; takes some milliseconds.
const MAX_SWEPT: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// Locks of other hosts can't be seen there.
    #[test]
    fn where_hosts_share_no_locks_only_old_files_are_swept() {
        const EXT4: u32 = 0xef53;
        const NFS: u32 = 0x6969;
        const FUSE: u32 = 0x6573_5546;
        let mut file = fstat(File::open("/").unwrap()).unwrap();
        file.st_mtime = 1_700_000_000;
        for (filesystem, age, may_be) in [
            (EXT4, 0, false),
            (NFS, 0, true),
            (NFS, 599, true),
            (NFS, 600, false),
            (FUSE, 599, true),
            (FUSE, 1_000_000, false),
            // Its clock is ahead of ours.
            (NFS, -300, true),
            (EXT4, -300, false),
        ] {
            let now = Duration::from_secs(1_700_000_000_u64.saturating_add_signed(age));
            let told = may_be_another_hosts(filesystem, &file, now);
            assert_eq!(told, may_be, "{filesystem:x} {age}");
        }
    }
}
