//! The process and the machine around it: signals and the limit on open files.
//!
//! May not: know of sockets, sessions or files.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{SysconfVar, sysconf};

/// What an administrator tells the server by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// SIGTERM, SIGINT: stop, but let running transfers finish.
    Stop,
    /// SIGUSR1: log the counters.
    Report,
    /// SIGHUP: open the log file anew, read the map file again.
    Reopen,
}

/// Signals as something to poll: they never interrupt anything.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Blocks the signals we answer to and turns them into a descriptor.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn take_over() -> io::Result<Self> {
        let signals = SigSet::from_iter([
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGUSR1,
            Signal::SIGHUP,
        ]);
        signals.thread_block()?;
        // Blocked and never read: a file larger than the process may write is an
        // error of that one upload (EFBIG), not the end of the server.
        SigSet::from_iter([Signal::SIGXFSZ]).thread_block()?;
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
                _ => {}
            }
        }
    }
}

/// While it lives, SIGINT and SIGTERM are something to poll for a client that
/// has a transfer to end first.
#[derive(Debug)]
pub struct Interrupts {
    signals: SigSet,
    descriptor: SignalFd,
}

impl Interrupts {
    /// Blocks the two signals, until dropped.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn hold() -> io::Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
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

impl Drop for Interrupts {
    fn drop(&mut self) {
        // It was blocked by the same call; that works in reverse.
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
/// Whatever the kernel says to being asked for the limit; not being allowed to
/// raise it is no error.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(hard);
    }
    Ok(soft)
}

/// How many processors the machine has; 1 if it won't say.
pub fn processors() -> usize {
    let count = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    count
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(1)
}
