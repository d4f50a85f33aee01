//! What the process uses. Descriptors and memory are told by files of `/proc` that were
//! opened before the sandbox hid them. Must not: open any later.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::unistd::{SysconfVar, sysconf};

/// The files, where there is a `/proc`.
#[derive(Debug)]
pub(super) struct ProcessFiles {
    descriptors: Option<File>,
    memory: Option<File>,
}

impl ProcessFiles {
    pub(super) fn open() -> Self {
        Self {
            descriptors: File::open("/proc/self/fd").ok(),
            memory: File::open("/proc/self/statm").ok(),
        }
    }

    /// How many descriptors are open, if the kernel tells (Linux 6.2).
    pub(super) fn open_descriptors(&self) -> Option<u64> {
        let count = self.descriptors.as_ref()?.metadata().ok()?.size();
        (count > 0).then_some(count)
    }

    /// Resident memory, in bytes.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        let mut buffer = [0; 128];
        let bytes = self.memory.as_ref()?.read_at(&mut buffer, 0).ok()?;
        let text = str::from_utf8(&buffer[..bytes]).ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?;
        Some(pages * u64::try_from(page).ok()?)
    }
}

/// How many descriptors may be open.
#[allow(clippy::useless_conversion, reason = "32 bits on some machines")]
pub(super) fn max_descriptors() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    Some(soft.into())
}

/// Processor time used since the start, in seconds.
pub(super) fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    #[expect(clippy::cast_precision_loss, reason = "the format has no integers")]
    Some(micros as f64 / 1e6)
}
