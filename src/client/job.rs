//! One file to move, and what became of it. Must not: move it.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Status;
use super::local::{Input, Output};
use crate::protocol::retry::RetryPolicy;
use crate::protocol::transfer::Failure;
use crate::wire::escape::printable;
use crate::wire::options::{Negotiated, Offer};
use crate::wire::packet::{ErrorCode, Mode};

/// One file to be moved.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// The server's addresses.
    pub(super) servers: &'a [SocketAddr],
    /// The file's name for the request.
    pub(super) name: &'a [u8],
    pub(super) mode: Mode,
    pub(super) file: LocalFile<'a>,
    /// What to ask for, apart from the size.
    pub(super) offer: &'a Offer,
    /// Whether to ask for or tell the size (RFC 2349).
    pub(super) with_size: bool,
    pub(super) retry: RetryPolicy,
    /// Local ports to choose from, one for each attempt; `None`: any.
    pub(super) ports: Option<&'a RangeInclusive<u16>>,
    /// How long to keep asking, at least once a second, if the user set it; otherwise
    /// `retry` decides.
    pub(super) wait: Option<Duration>,
    /// The deadline of the whole job.
    pub(super) limit: Option<Limit>,
}

/// How long a job may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// When that time is over.
    pub(super) until: Instant,
    /// How long that is, as the user gave it.
    pub(super) within: Duration,
}

/// The file at this end, which tells the direction of the transfer.
#[derive(Debug, Clone, Copy)]
pub(super) enum LocalFile<'a> {
    /// Received: an RRQ.
    Get(&'a Output),
    /// Sent: a WRQ.
    Put(&'a Input),
}

impl LocalFile<'_> {
    /// Whether the file's bytes go to the terminal, where progress would be shown.
    pub(super) fn is_screen(&self) -> bool {
        matches!(self, Self::Get(destination) if destination.is_screen())
    }
}

impl fmt::Display for LocalFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get(destination) => destination.fmt(f),
            Self::Put(source) => source.fmt(f),
        }
    }
}

/// A file that was moved.
#[derive(Debug)]
pub(super) struct Completed {
    /// Its bytes at this end.
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    /// What the two ends agreed on.
    pub(super) negotiated: Negotiated,
    /// How many of our packets were sent again.
    pub(super) retransmits: u64,
    /// Why it was moved without options, though some were asked for.
    pub(super) fallback: Option<String>,
    /// Bytes that the server announced, if fewer than came.
    pub(super) announced: Option<u64>,
}

/// A file that was not moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobError {
    /// The host's name has no address; one line.
    UnknownHost(String),
    /// The server sent an ERROR.
    ServerError { code: ErrorCode, message: Box<[u8]> },
    /// The server broke the protocol, and was told so.
    ProtocolError(Failure),
    /// Fewer bytes came than the server announced.
    Short { received: u64, announced: u64 },
    /// Far more bytes came than the server announced; it was told so.
    Long { received: u64, announced: u64 },
    /// The file at this end can't be read or written.
    LocalFile(String),
    /// The request can't be made.
    BadRequest(String),
    /// No local port is left.
    NoPort(String),
    /// The system refuses what every transfer needs, such as a socket.
    System(String),
    /// No answer, or no more answers.
    NoAnswer(String),
    /// The job took longer than it may; says how far it came.
    Late(String),
    /// A signal came.
    Interrupted(Signal),
}

impl JobError {
    /// The status to exit with.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::ServerError { .. }
            | Self::ProtocolError(_)
            | Self::Short { .. }
            | Self::Long { .. } => Status::Server,
            Self::UnknownHost(_) => Status::UnknownHost,
            Self::LocalFile(_) | Self::NoPort(_) | Self::System(_) => Status::Local,
            Self::BadRequest(_) => Status::Usage,
            Self::NoAnswer(_) | Self::Late(_) => Status::NoAnswer,
            Self::Interrupted(signal) => {
                Status::Interrupted(u8::try_from(*signal as i32).unwrap_or_default())
            }
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerError { code, message } => {
                write!(f, "Error code {code}: {}", printable(message))
            }
            Self::ProtocolError(failure) => {
                write!(f, "the server broke the protocol: {}", failure.message)
            }
            Self::Short {
                received,
                announced,
            } => write!(
                f,
                "only {received} of {announced} bytes that were announced came"
            ),
            Self::Long {
                received,
                announced,
            } => write!(
                f,
                "{received} bytes came, far more than the {announced} bytes that were announced; \
                 with --no-options no size is announced"
            ),
            Self::UnknownHost(text)
            | Self::LocalFile(text)
            | Self::NoPort(text)
            | Self::System(text)
            | Self::BadRequest(text)
            | Self::NoAnswer(text)
            | Self::Late(text) => f.write_str(text),
            Self::Interrupted(signal) => write!(f, "interrupted by {signal}"),
        }
    }
}
