//! What there is to use: open files, memory, processors.
//!
//! Must not: decide how much of it to use.

use std::fs;
use std::io;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::sysinfo::sysinfo;
use nix::unistd::{SysconfVar, sysconf};

/// Raises the limit on open files as far as it goes and returns it.
///
/// # Errors
/// The limit can't be read. Not being allowed to raise it is no error.
#[allow(clippy::useless_conversion, reason = "32 bits on some machines")]
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(hard.into());
    }
    Ok(soft.into())
}

/// The soft limit on open files.
///
/// # Errors
/// The limit can't be read.
pub fn open_files_limit() -> io::Result<rlim_t> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// The environment variable with the limit on open files that a helper is to have, where
/// the worker that starts it couldn't be started with that limit. The helper's shell sets
/// it, and removes the variable.
pub const HELPERS_OPEN_FILES: &str = "TFTPD_OPEN_FILES";

/// Runs `start`, which starts a program, with the limit on open files that was `inherited`:
/// some programs can't cope with a higher one, and each passes its own on. Files that are
/// open stay open.
pub fn with_inherited_open_files<T>(inherited: rlim_t, start: impl FnOnce() -> T) -> T {
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    if let Ok((_, hard)) = limits {
        // To lower it is always allowed, and so is to raise it again.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, inherited, hard);
    }
    let started = start();
    if let Ok((soft, hard)) = limits {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
    started
}

/// Bytes of memory that the machine has, or the container, if that is known.
pub fn memory() -> Option<u64> {
    let machine = sysinfo().ok().map(|info| info.ram_total());
    [machine, group_memory()].into_iter().flatten().min()
}

/// The lowest memory limit of our control group and its ancestors, as far as we can see
/// them.
fn group_memory() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let all = Path::new(own.unwrap_or_default()).ancestors();
    let limits = all.filter_map(|group| {
        let path = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    });
    limits.min()
}

/// How many processors the machine has; 1 if it won't say.
pub fn processors() -> usize {
    let count = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    count
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(1)
}
