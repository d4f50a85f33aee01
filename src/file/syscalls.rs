//! System calls that nix has no safe wrapper for: a read that fails instead of waiting
//! for the disk (`preadv2`), which pages of a file are in memory (`mincore`), and a
//! rename that replaces no other file (`renameat2`, which nix has for glibc only).
//!
//! The second module with `unsafe`. Calls that musl may lack are made by number. The
//! buffers are borrowed for the duration of the call, and the mapping that `mincore`
//! needs is never touched, so a file cut short raises no SIGBUS.
//! Must not: hold a pointer after the call.
#![allow(unsafe_code)]

use std::io::IoSliceMut;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::NixPath as _;
use nix::errno::Errno;
use nix::libc::{self, off_t};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::{SysconfVar, sysconf};

/// Bytes of a file that are fetched, or looked for in memory, at a time.
pub(super) const STRETCH: usize = 256 * 1024;

/// The smallest page there is, in bytes.
const MIN_PAGE: usize = 4096;

/// Pages that a stretch can touch.
const MAX_PAGES: usize = STRETCH / MIN_PAGE + 1;

/// `preadv`, but only up to the first byte that isn't in memory; `EAGAIN` if that is
/// the first of all. `EOPNOTSUPP` from file systems that can't tell: FUSE, NFS,
/// overlayfs.
pub(super) fn read(
    file: BorrowedFd<'_>,
    offset: u64,
    slices: &mut [IoSliceMut<'_>],
) -> nix::Result<usize> {
    // SAFETY: `IoSliceMut` has the layout of `iovec` on Unix, and all of the
    // slices are ours to write to until the call returns. The kernel wants the
    // offset in two registers; where one holds all of it, it ignores the other.
    let read = unsafe {
        libc::syscall(
            libc::SYS_preadv2,
            file.as_raw_fd(),
            slices.as_mut_ptr().cast::<libc::iovec>(),
            slices.len(),
            offset as usize,
            (offset >> 32) as usize,
            libc::RWF_NOWAIT,
        )
    };
    let read = Errno::result(read)?;
    Ok(usize::try_from(read).unwrap_or(0))
}

/// Renames `from` in `directory` to `to`, but never onto an existing name. `EINVAL` from
/// file systems that can't do that, `ENOSYS` from kernels before 3.15.
pub(super) fn rename_new(directory: BorrowedFd<'_>, from: &[u8], to: &[u8]) -> nix::Result<()> {
    let directory = directory.as_raw_fd();
    let renamed = from.with_nix_path(|from| {
        to.with_nix_path(|to| {
            // SAFETY: the kernel only reads the two texts, which end with a NUL.
            unsafe {
                libc::syscall(
                    libc::SYS_renameat2,
                    directory,
                    from.as_ptr(),
                    directory,
                    to.as_ptr(),
                    libc::RENAME_NOREPLACE,
                )
            }
        })
    })??;
    Errno::result(renamed).map(drop)
}

/// How many of the `len` bytes (at most [`STRETCH`]) from `offset` on are in memory
/// without a gap.
///
/// Since Linux 5.2 the kernel tells this only to those who own the file or may write to
/// it. To others it says that everything is in memory.
///
/// # Errors
/// If the file can't be mapped.
pub(super) fn resident(file: BorrowedFd<'_>, offset: u64, len: usize) -> nix::Result<usize> {
    let page_size = sysconf(SysconfVar::PAGE_SIZE)?
        .and_then(|size| usize::try_from(size).ok())
        .filter(|&size| size >= MIN_PAGE)
        .ok_or(Errno::EINVAL)?;
    let before = (offset % page_size as u64) as usize;
    let start = off_t::try_from(offset - before as u64).map_err(|_| Errno::EFBIG)?;
    let len = len.min(STRETCH);
    let mapped = NonZeroUsize::new(before + len).ok_or(Errno::EINVAL)?;
    let mut pages = [0; MAX_PAGES];
    let pages = &mut pages[..mapped.get().div_ceil(page_size)];
    // SAFETY: a new mapping at an address of the kernel's choice; nothing refers
    // to its memory. `mincore` writes a byte for each of its pages, of which
    // there are `pages.len()`.
    let looked = unsafe {
        let mapping = mmap(
            None,
            mapped,
            ProtFlags::PROT_READ,
            MapFlags::MAP_SHARED,
            file,
            start,
        )?;
        let looked = Errno::result(libc::mincore(
            mapping.as_ptr(),
            mapped.get(),
            pages.as_mut_ptr(),
        ));
        munmap(mapping, mapped.get())?;
        looked
    };
    looked?;
    let present = pages.iter().take_while(|&&page| page & 1 == 1).count();
    Ok((present * page_size).saturating_sub(before).min(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::skipped::skip;
    use std::io::Write;
    use std::os::fd::AsFd;

    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

    #[test]
    fn what_was_just_written_is_in_memory() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 3 * STRETCH]).unwrap();
        for (offset, len, expected) in [
            (0, 1, 1),
            (1, 4096, 4096),
            (4095, STRETCH, STRETCH),
            (STRETCH as u64 + 1, 2 * STRETCH, STRETCH),
        ] {
            let found = resident(file.as_fd(), offset, len);
            assert_eq!(found, Ok(expected), "{len} bytes at {offset}");
        }
        assert_eq!(resident(file.as_fd(), 0, 0), Err(Errno::EINVAL));
        assert_eq!(resident(file.as_fd(), u64::MAX, 1), Err(Errno::EFBIG));
    }

    #[test]
    fn what_was_dropped_from_memory_is_not() {
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&[7; 4 * 4096]).unwrap();
        file.as_file().sync_all().unwrap();
        posix_fadvise(
            file.as_file(),
            4096,
            0,
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        )
        .unwrap();
        match resident(file.as_fd(), 100, 2 * 4096) {
            Ok(bytes) if bytes == 4096 - 100 => {}
            // In memory only (tmpfs), from where nothing can be dropped.
            Ok(bytes) if bytes == 2 * 4096 => skip("no disk below"),
            other => panic!("{other:?}"),
        }
    }
}
