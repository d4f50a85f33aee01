//! Bytes of a file that are being fetched into memory in the background.
//!
//! Must not: read them, or wait for them.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc::off_t;

use super::syscalls::STRETCH;

/// Bytes the kernel is usually willing to read ahead with one call.
const ADVISED: off_t = 128 * 1024;

/// The most stretches fetched at once. FUSE takes 12 background requests, unless the
/// file system sets another number; the call that makes one more blocks in the kernel,
/// and all sessions with it. A fetch is two requests, so a few places are left for
/// others.
const MAX_FETCHES: usize = 4;

/// Fetches under way, for the whole process.
static FETCHES: AtomicUsize = AtomicUsize::new(0);

/// A stretch of a file that is being fetched, shared by all transfers that wait for it.
/// Once none waits, another stretch may be fetched.
#[derive(Debug)]
pub(super) struct Fetch {
    from: u64,
}

impl Fetch {
    /// `None` if enough is being fetched already.
    pub(super) fn begin(from: u64) -> Option<Self> {
        FETCHES
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fetches| {
                (fetches < MAX_FETCHES).then_some(fetches + 1)
            })
            .ok()
            .map(|_| Self { from })
    }

    /// Where the stretch begins, in bytes.
    pub(super) const fn from(&self) -> u64 {
        self.from
    }

    /// Whether the byte at `offset` is in the stretch.
    pub(super) const fn covers(&self, offset: u64) -> bool {
        offset >= self.from && offset - self.from < STRETCH as u64
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        FETCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Advises the kernel to fetch a stretch of the file. Whether it does shows at the next
/// read.
pub(super) fn advise(file: BorrowedFd<'_>, offset: u64) {
    for at in (0..STRETCH).step_by(ADVISED as usize) {
        if let Ok(from) = super::file_offset(offset, at) {
            let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
            let _ = posix_fadvise(file, from, ADVISED, advice);
        }
    }
}
