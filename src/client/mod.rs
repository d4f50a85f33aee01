//! The command `tftp`: get, put and probe for scripts, the `tftp>` prompt for people.
//!
//! `cli` reads the command line; `oneshot` and `prompt` turn it into jobs; `attempts`
//! decides which address a job asks and when; `engine` runs the transfers, with the same
//! [`Session`] as the server; `local` has the files at this end, `target` the names of
//! those on the server; `report` tells the user how it went. Must not: know what is in a
//! packet, or how a file is stored.
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

/// How the program ends: the cases of tftp-hpa's client, and more that it doesn't tell
/// apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Everything went well.
    Ok,
    /// The server answered with an ERROR, broke the protocol, or sent fewer bytes than
    /// it announced.
    Server,
    /// A file at this end can't be read or written, no port of the range is free, or the
    /// system refuses what every transfer needs.
    Local,
    /// The command line or a command is wrong (`EX_USAGE`).
    Usage,
    /// The server's name has no address.
    UnknownHost,
    /// The server didn't answer, fell silent, or took longer than it may.
    NoAnswer,
    /// The signal with this number ended it.
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
            // As shells report it.
            Self::Interrupted(signal) => 128 + signal,
        }
    }

    /// The status of two steps in a row: that of the first to fail.
    #[must_use]
    pub fn and(self, next: Self) -> Self {
        if self == Self::Ok { next } else { self }
    }
}

/// Does what the command line asks for.
pub fn run(args: Args) -> Status {
    // Blocked and never read: a file larger than the process may write then fails alone
    // (EFBIG), and the program goes on.
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

/// Writes a line for the user on standard output. If nobody reads that any more, a
/// transfer goes on all the same.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line for the user on standard error.
fn complain(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
