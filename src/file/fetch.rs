//! How much may be fetched in the background at a time.
//!
//! FUSE takes 12 background requests, unless its file system asks for another
//! number; whoever has one more read ahead waits for a free place, in the kernel
//! and with everyone else. So only so many files are fetched from at once. May
//! not: touch a file.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Files that are fetched from at once: two requests each, and a few places left
/// for others.
const MAX_FETCHES: usize = 4;

/// Fetches under way. The bound is on what the kernel does for this process, so
/// the process counts.
static FETCHES: AtomicUsize = AtomicUsize::new(0);

/// Leave to have a stretch of one file fetched; dropped, the next may.
#[derive(Debug)]
pub(super) struct Permit(());

impl Permit {
    /// `None` where enough is being fetched already.
    pub(super) fn take() -> Option<Self> {
        FETCHES
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fetches| {
                (fetches < MAX_FETCHES).then_some(fetches + 1)
            })
            .ok()
            .map(|_| Self(()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        FETCHES.fetch_sub(1, Ordering::Relaxed);
    }
}
