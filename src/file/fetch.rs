//! Bytes of a file that are being fetched into memory while we go on.
//!
//! Must not: read them, or wait for them.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc::off_t;

use super::syscalls::STRETCH;

/// Bytes the kernel is usually willing to read ahead with one call.
const ADVISED: off_t = 128 * 1024;

/// Stretches that are fetched at once. FUSE takes 12 background requests, unless
/// its file system asks for another number; one more waits for a free place, in
/// the kernel, and everyone with it. A fetch is two requests, and a few places are
/// left for others.
const MAX_FETCHES: usize = 4;

/// Fetches under way: the bound is on what the kernel does for this process.
static FETCHES: AtomicUsize = AtomicUsize::new(0);

/// A stretch of a file that is being fetched, for all that wait for it; once none
/// does, another may be.
#[derive(Debug)]
pub(super) struct Fetch {
    from: u64,
}

impl Fetch {
    /// `None` where enough is being fetched already.
    pub(super) fn begin(from: u64) -> Option<Self> {
        FETCHES
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fetches| {
                (fetches < MAX_FETCHES).then_some(fetches + 1)
            })
            .ok()
            .map(|_| Self { from })
    }

    /// Where it begins.
    pub(super) const fn from(&self) -> u64 {
        self.from
    }

    /// Whether the byte at `offset` is among what is fetched.
    pub(super) const fn covers(&self, offset: u64) -> bool {
        offset >= self.from && offset - self.from < STRETCH as u64
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        FETCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Has a stretch of the file fetched. Advice: what becomes of it shows at the next
/// read.
pub(super) fn advise(file: BorrowedFd<'_>, offset: u64) {
    for at in (0..STRETCH).step_by(ADVISED as usize) {
        if let Ok(from) = super::file_offset(offset, at) {
            let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
            let _ = posix_fadvise(file, from, ADVISED, advice);
        }
    }
}
