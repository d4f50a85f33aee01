//! Signals as descriptors to poll: what an administrator tells the server, and what ends
//! the client.
//!
//! Must not: act on a signal.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// A command that an administrator gives the server with a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// SIGTERM, SIGINT: stop, but let running transfers finish.
    Stop,
    /// SIGUSR1: log the counters.
    Report,
    /// SIGHUP: open the log file and read the map file again.
    Reopen,
    /// SIGUSR2: let a new program take over.
    Upgrade,
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
            Signal::SIGUSR2,
            Signal::SIGHUP,
        ]);
        if is_first() {
            signals.add(Signal::SIGCHLD);
        }
        signals.thread_block()?;
        // Blocked and never read: a file larger than the process may write is an error
        // of that one upload (EFBIG), not the end of the server.
        SigSet::from(Signal::SIGXFSZ).thread_block()?;
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
                Ok(Signal::SIGUSR2) => return Some(Command::Upgrade),
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
