//! The command `tftp`: get, put and probe for scripts, the `tftp>` prompt for people.
//!
//! `cli` says what was asked for; `oneshot` and `prompt` turn it into jobs;
//! `attempts` says which address a job asks and when; `engine` runs its transfers with the
//! same [`Session`] as the server has; `local` holds the files at this end,
//! `target` the names at the other; `report` tells the user how it went. Must
//! not: know what is in a packet, or how a file is stored.
//!
//! [`Session`]: crate::session::Session

mod attempts;
mod clash;
pub mod cli;
mod commands;
mod engine;
mod familiar;
mod job;
mod lines;
mod local;
mod oneshot;
mod port;
mod progress;
mod prompt;
mod report;
mod schedule;
mod settings;
mod stream;
mod target;
mod trace;
mod words;

use std::fmt;
use std::io::{self, Write};

use nix::sys::signal::{SigSet, Signal};

use self::cli::{Action, Args};
use self::prompt::Prompt;

/// How the program ends: what tftp-hpa's client has, and what it doesn't tell
/// apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Everything went well.
    Ok,
    /// The server answered with an ERROR, or with what is no TFTP.
    Server,
    /// A file at this end can't be read or written, no port of the range is free, or the
    /// system refuses what every transfer needs.
    Local,
    /// The command line, or a command, can't be followed (`EX_USAGE`).
    Usage,
    /// The server's name has no address.
    UnknownHost,
    /// The server doesn't answer, or no longer.
    NoAnswer,
    /// A signal ended it; its number.
    Interrupted(u8),
}

impl Status {
    /// The status to exit with.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Server => 1,
            Self::Local => 2,
            Self::Usage => 64,
            Self::UnknownHost => 68,
            Self::NoAnswer => 69,
            // As shells count.
            Self::Interrupted(signal) => 128 + signal,
        }
    }

    /// Of two things done one after the other: the first that went wrong.
    #[must_use]
    pub fn and(self, next: Self) -> Self {
        if self == Self::Ok { next } else { self }
    }
}

/// Does what the command line asks for.
pub fn run(args: Args) -> Status {
    // Blocked and never read: a file larger than the process may write is an error
    // of that one file (EFBIG), not the end of the program.
    let _ = SigSet::from_iter([Signal::SIGXFSZ]).thread_block();
    match args.action {
        Some(Action::Get { files }) => oneshot::get(&args.common, &files),
        Some(Action::Put { files }) => oneshot::put(&args.common, &files),
        Some(Action::Probe { url, within }) => oneshot::probe(&args.common, &url, within),
        None => Prompt::new(&args).run(),
    }
}

/// Where lines for the user go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn tell(self, line: fmt::Arguments<'_>) {
        match self {
            Self::Stdout => say(line),
            Self::Stderr => complain(line),
        }
    }
}

/// Writes a line for the user on standard output. Nobody may be reading it any
/// more: that stops no transfer.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line for the user on standard error.
fn complain(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
