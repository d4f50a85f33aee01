//! The process and the machine around it: signals, the limit on open files, and
//! what is given up before the first byte is read from the network.
//!
//! Must not: know of requests, sessions or served files.

pub mod calendar;
pub mod clock;
mod inherited;
mod notify;
mod pid_file;
mod privileges;
pub mod random;
mod sandbox;
pub mod usage;
mod wait_timer;

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::sysinfo::sysinfo;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{SysconfVar, chroot, fchdir, sysconf};

pub use inherited::{Inherited, InheritedStream};
pub use notify::{Notifier, hide_manager};
pub use pid_file::PidFile;
pub use privileges::{Identity, is_root, user};
pub use sandbox::Enforcement;
pub use wait_timer::WaitTimer;

/// A command that an administrator gives the server with a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// SIGTERM, SIGINT: stop, but let running transfers finish.
    Stop,
    /// SIGUSR1: log the counters.
    Report,
    /// SIGHUP: open the log file and read the map file again.
    Reopen,
}

/// Signals as a descriptor to poll, so that they never interrupt anything.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Blocks the signals we answer to and turns them into a descriptor.
    ///
    /// # Errors
    /// No descriptor is left (`EMFILE`, `ENFILE`).
    pub fn take_over() -> io::Result<Self> {
        let mut signals = SigSet::from_iter([
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGUSR1,
            Signal::SIGHUP,
        ]);
        if is_first() {
            signals.add(Signal::SIGCHLD);
        }
        signals.thread_block()?;
        // Blocked and never read: a file larger than the process may write is an error
        // of that one upload (EFBIG), not the end of the server. SIGUSR2 is for the
        // process that starts the workers, and may reach the workers as well.
        SigSet::from_iter([Signal::SIGXFSZ, Signal::SIGUSR2]).thread_block()?;
        let descriptor =
            SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { descriptor })
    }

    /// The next command, if there is one.
    pub fn next_command(&mut self) -> Option<Command> {
        loop {
            let signal = self.descriptor.read_signal().ok()??;
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGTERM | Signal::SIGINT) => return Some(Command::Stop),
                Ok(Signal::SIGUSR1) => return Some(Command::Report),
                Ok(Signal::SIGHUP) => return Some(Command::Reopen),
                Ok(Signal::SIGCHLD) => reap(),
                _ => {}
            }
        }
    }
}

/// Runs `start`, which starts a program, without the signals blocked that a process of
/// several begins with (SIGPIPE only where it failed to become another program), and that
/// programs of others don't expect to be: a mask is inherited. One that has come while it
/// was blocked is dropped; one that comes just now is obeyed as by any process.
pub fn with_signals_of_others<T>(start: impl FnOnce() -> T) -> T {
    let ours = SigSet::from_iter([Signal::SIGUSR2, Signal::SIGPIPE]);
    if let Ok(before) = SigSet::thread_get_mask() {
        drop_pending(ours.iter().filter(|it| before.contains(*it)).collect());
    }
    let before = ours.thread_swap_mask(SigmaskHow::SIG_UNBLOCK);
    let started = start();
    if let Ok(before) = before {
        // It was there before.
        let _ = before.thread_set_mask();
    }
    started
}

/// Takes these signals, all blocked, that have come, without obeying them.
fn drop_pending(signals: SigSet) {
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    if let Ok(pending) = SignalFd::with_flags(&signals, flags) {
        while let Ok(Some(_)) = pending.read_signal() {}
    }
}

/// Whether this is the first process of a container: orphans become its children.
fn is_first() -> bool {
    std::process::id() == 1
}

/// Reaps the children that have ended.
fn reap() {
    let ended = || waitpid(None, Some(WaitPidFlag::WNOHANG));
    while !matches!(ended(), Ok(WaitStatus::StillAlive) | Err(_)) {}
}

/// While this lives, SIGINT, SIGTERM and SIGHUP can be polled by a client that has a
/// transfer to end first.
#[derive(Debug)]
pub struct Interrupts {
    signals: SigSet,
    descriptor: SignalFd,
}

impl Interrupts {
    /// Blocks these signals, until dropped, except those that the process that started us
    /// wants ignored, as a shell does for what it runs in the background, and nohup(1).
    /// Where nothing tells (no `/proc`), SIGHUP does what it always does.
    ///
    /// # Errors
    /// No descriptor is left (`EMFILE`, `ENFILE`).
    pub fn hold() -> io::Result<Self> {
        let ignored = ignored_signals();
        let obeyed = |signal: &Signal| match ignored {
            Some(ignored) => ignored & 1 << (*signal as u32 - 1) == 0,
            None => *signal != Signal::SIGHUP,
        };
        let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
        let signals: SigSet = signals.into_iter().filter(obeyed).collect();
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&signals, flags)?;
        signals.thread_block()?;
        Ok(Self {
            signals,
            descriptor,
        })
    }

    /// The signal that came, if one did.
    pub fn take(&mut self) -> Option<Signal> {
        let signal = self.descriptor.read_signal().ok()??;
        Signal::try_from(signal.ssi_signo.cast_signed()).ok()
    }
}

/// The signals that are ignored, the first in the lowest bit; `None` where there
/// is no `/proc` to tell.
fn ignored_signals() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .map(str::trim);
    u64::from_str_radix(mask?, 16).ok()
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // Blocking them worked, and so does unblocking.
        let _ = self.signals.thread_unblock();
    }
}

impl AsFd for Interrupts {
    /// Readable while a signal waits to be taken.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

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

/// What the process keeps; everything else it gives up.
#[derive(Debug)]
pub struct Confinement<'a> {
    /// The directory that is served.
    pub root: BorrowedFd<'a>,
    /// Its path, for messages.
    pub root_path: &'a Path,
    /// Where files are created and replaced, if not in `root`.
    pub uploads: Option<BorrowedFd<'a>>,
    /// Whether files may be created and replaced at all.
    pub writable: bool,
    /// Whether directories may be created, too.
    pub makes_directories: bool,
    /// Whether the directories in `root` may be listed.
    pub listable: bool,
    /// Other directories whose files may be read.
    pub linked: &'a [BorrowedFd<'a>],
    /// Whether those may be listed.
    pub linked_listable: bool,
    /// The directory of the log file, which is opened again when it was moved
    /// away.
    pub log_directory: Option<BorrowedFd<'a>>,
    /// Other directories that are served as `root` is.
    pub beside: &'a [BorrowedFd<'a>],
    /// Files that are read again when they were changed or replaced.
    pub read_again: &'a [&'a Path],
    /// Their directories, where their paths won't lead there any more.
    pub read_again_in: &'a [BorrowedFd<'a>],
    /// The pid file, which is removed at the end.
    pub pid_file: Option<&'a Path>,
    /// The file of the status port's socket, which is removed at the end.
    pub status_socket: Option<&'a Path>,
    /// Makes the served directory the only one there is.
    pub chroot: bool,
    /// Forbids what isn't needed, as far as the kernel can.
    pub sandbox: bool,
    /// The user to become; `None` to stay the same.
    pub identity: Option<Identity>,
}

impl Confinement<'_> {
    /// Gives up everything else for good: the other directories, what the sandbox
    /// forbids, user and groups, every capability, and new rights from running a
    /// program. This affects the calling thread only: there must be no other.
    ///
    /// # Errors
    /// One line that says what could not be given up, and the remedy. The
    /// process must end then.
    pub fn enter(&self) -> Result<Enforcement, ConfinementError> {
        if self.chroot {
            fchdir(self.root)
                .and_then(|()| chroot("."))
                .map_err(|errno| ConfinementError::Chroot(self.root_path.to_owned(), errno))?;
        }
        let enforcement = if self.sandbox {
            sandbox::enter(self)?
        } else {
            Enforcement::None
        };
        privileges::give_up(self.identity.as_ref())?;
        Ok(enforcement)
    }
}

/// What could not be given up.
#[derive(Debug)]
pub enum ConfinementError {
    /// The rest of the file system.
    Chroot(PathBuf, Errno),
    /// What the sandbox forbids.
    Sandbox(Box<dyn Error>),
    /// Our user and groups, for these.
    Identity(Identity, Errno),
    /// Capabilities, or the gaining of new ones.
    Privileges(Box<dyn Error>),
}

impl fmt::Display for ConfinementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = |errno: &Errno| errno.desc().to_ascii_lowercase();
        match self {
            Self::Chroot(path, errno) => {
                let (path, reason) = (path.display(), reason(errno));
                write!(
                    f,
                    "cannot chroot to {path}: {reason}; start as root, or drop --chroot"
                )
            }
            Self::Sandbox(error) => {
                write!(
                    f,
                    "cannot set up the sandbox: {error}; --no-sandbox does without"
                )
            }
            Self::Identity(identity, errno) => {
                let reason = reason(errno);
                write!(
                    f,
                    "cannot become {identity}: {reason}; start as root, or drop -u"
                )
            }
            Self::Privileges(error) => write!(
                f,
                "cannot give up privileges: {error}; allow capset(2) and prctl(2) where system \
                 calls are filtered"
            ),
        }
    }
}

impl Error for ConfinementError {}

#[cfg(test)]
mod tests {
    use std::process;

    use nix::sys::signal::raise;

    use super::*;

    /// One that is sent to the whole process group may come before we obey any.
    #[test]
    fn a_signal_that_was_blocked_when_it_came_does_not_end_us() {
        let ours = SigSet::from(Signal::SIGUSR2);
        ours.thread_block().unwrap();
        raise(Signal::SIGUSR2).unwrap();
        raise(Signal::SIGUSR2).unwrap();
        with_signals_of_others(|| ());
        assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGUSR2));
    }

    #[test]
    fn a_started_program_inherits_no_signal_that_we_block() {
        let mask = || {
            let mut grep = process::Command::new("grep");
            let output = grep.args(["SigBlk:", "/proc/self/status"]).output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        let none = "SigBlk:\t0000000000000000\n";
        let ours = SigSet::from_iter([Signal::SIGUSR2, Signal::SIGPIPE]);
        ours.thread_block().unwrap();
        assert_eq!(mask(), "SigBlk:\t0000000000001800\n");
        assert_eq!(with_signals_of_others(mask), none);
        let after = SigSet::thread_get_mask().unwrap();
        assert!(ours.iter().all(|signal| after.contains(signal)));
    }
}
