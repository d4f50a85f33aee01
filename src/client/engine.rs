//! One file from or to a server: request, transfer, and what to try next where
//! a server doesn't know options.
//!
//! The loop is the server's in small: one `mio::Poll`, the session being waited
//! for, and those that dally after it. Must not: print anything, or ask a name
//! for its address.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::Signal;
use slab::Slab;

use super::Status;
use super::local::{Destination, Local, Source};
use super::progress::TransferProgress;
use crate::file::{FileSink, FileSource};
use crate::host::Interrupts;
use crate::host::clock;
use crate::net::TransferSocket;
use crate::protocol::receiver::Receiver;
use crate::protocol::retry::RetryPolicy;
use crate::protocol::sender::Sender;
use crate::protocol::transfer::{Config, Failure, MAX_DATAGRAM, Opening, Outcome, Transfer};
use crate::session::{Content, Context, Remote, Resources, SEND_BUDGET, Session, Turn, Watch};
use crate::table::Tracked;
use crate::wire::escape::escape;
use crate::wire::options::{Negotiated, Offer};
use crate::wire::packet::{Direction, ErrorCode, Mode, emit_request};

/// How long the final ACK is repeated if it was lost, on a network that has
/// lost nothing else: the next file doesn't wait for it, only the end of the
/// program does.
const DALLY: Duration = Duration::from_millis(100);

/// Repeats of a request with options before one without is tried: some old
/// servers keep silent to what they don't know.
const OPTIONED_REPEATS: u8 = 2;

/// Finished transfers that may dally beside the next one.
const MAX_DALLYING: usize = 16;

/// Token of the signal descriptor: no slab grows so far.
const SIGNALS: Token = Token(usize::MAX - 1);

/// Readiness events taken from the kernel at a time.
const EVENTS: usize = 32;

/// One file to be moved.
#[derive(Debug)]
pub(super) struct Order<'a> {
    /// Where the server may be: tried one after the other.
    pub(super) servers: &'a [SocketAddr],
    /// The file's name for the request.
    pub(super) name: &'a [u8],
    pub(super) mode: Mode,
    pub(super) file: End<'a>,
    /// What to ask for, apart from the size.
    pub(super) offer: &'a Offer,
    /// Whether to ask for or tell the size (RFC 2349).
    pub(super) with_size: bool,
    pub(super) retry: RetryPolicy,
    /// Ports to use, one each; `None`: any.
    pub(super) ports: Option<&'a RangeInclusive<u16>>,
    /// When it is too late.
    pub(super) until: Option<Instant>,
}

/// The file at this end, and so which way it goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum End<'a> {
    /// Received: an RRQ.
    Get(&'a Destination),
    /// Sent: a WRQ.
    Put(&'a Source),
}

impl End<'_> {
    /// Whether the bytes appear where progress would.
    pub(super) fn is_screen(&self) -> bool {
        matches!(self, Self::Get(destination) if destination.is_screen())
    }
}

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get(destination) => destination.fmt(f),
            Self::Put(source) => source.fmt(f),
        }
    }
}

/// A file that was moved.
#[derive(Debug)]
pub(super) struct Done {
    /// Its bytes at this end.
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    /// What the two ends agreed on.
    pub(super) negotiated: Negotiated,
    /// Packets of ours that were sent again.
    pub(super) retransmits: u64,
    /// Why it was moved without options, though some were asked for.
    pub(super) fallback: Option<String>,
}

/// A file that was not moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server sent an ERROR.
    Refused { code: ErrorCode, message: Box<[u8]> },
    /// The server sent what can't be accepted, and was told so.
    Violated(Failure),
    /// The file at this end.
    Local(String),
    /// The request can't be made.
    Unspeakable(String),
    /// Nobody answered, or no longer.
    Silence(String),
    /// The network says that nobody is there.
    Unreachable(String),
    /// It took longer than it may.
    TooLate,
    /// A signal came.
    Interrupted(Signal),
}

impl Trouble {
    /// What to exit with.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Refused { .. } | Self::Violated(_) => Status::Server,
            Self::Local(_) => Status::Local,
            Self::Unspeakable(_) => Status::Usage,
            Self::Silence(_) | Self::Unreachable(_) | Self::TooLate => Status::NoAnswer,
            Self::Interrupted(signal) => {
                Status::Interrupted(u8::try_from(*signal as i32).unwrap_or_default())
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, message } => {
                write!(f, "Error code {code}: {}", escape(message))
            }
            Self::Violated(failure) => {
                write!(f, "the server broke the protocol: {}", failure.message)
            }
            Self::Local(text)
            | Self::Unspeakable(text)
            | Self::Silence(text)
            | Self::Unreachable(text) => f.write_str(text),
            Self::TooLate => f.write_str("it took too long"),
            Self::Interrupted(signal) => write!(f, "interrupted by {signal}"),
        }
    }
}

/// The loop, with what its transfers share.
#[derive(Debug)]
pub(super) struct Engine {
    poll: Poll,
    events: Events,
    resources: Resources,
    /// The session that is waited for, and those that dally.
    sessions: Slab<Session<TransferSocket, Local>>,
    next_port: u16,
}

impl Engine {
    /// A loop without transfers.
    ///
    /// # Errors
    /// Whatever the kernel says to being asked for an epoll instance.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            resources: Resources::new(clock::now(), None),
            sessions: Slab::new(),
            next_port: std::process::id() as u16,
        })
    }

    /// Has every packet shown to `trace`, or none.
    pub(super) const fn set_trace(&mut self, trace: Option<crate::session::Trace>) {
        self.resources.ingress.trace = trace;
    }

    /// Moves one file: from the first address that answers, without options
    /// where the server doesn't take them.
    ///
    /// # Errors
    /// Why it wasn't moved. A file received in part is gone by then.
    pub(super) fn carry_out(
        &mut self,
        order: &Order<'_>,
        progress: &mut TransferProgress,
    ) -> Result<Done, Trouble> {
        let mut trouble = Trouble::Silence("the host has no address".to_owned());
        for &server in order.servers {
            match self.ask(order, server, progress) {
                Ok(done) => return Ok(done),
                // Nobody is there: another address may do.
                Err((failed @ (Trouble::Silence(_) | Trouble::Unreachable(_)), true)) => {
                    trouble = failed;
                }
                Err((failed, _)) => return Err(failed),
            }
        }
        Err(trouble)
    }

    /// Asks one address, with options first. With the trouble comes whether the
    /// server never took up the transfer.
    fn ask(
        &mut self,
        order: &Order<'_>,
        server: SocketAddr,
        progress: &mut TransferProgress,
    ) -> Result<Done, (Trouble, bool)> {
        let offer = with_size(order).map_err(|trouble| (trouble, true))?;
        let retries = order.retry.retries;
        if offer == Offer::default() {
            return self.attempt(order, offer, server, retries, progress);
        }
        let cautious = retries.min(OPTIONED_REPEATS);
        let (first, unanswered) = match self.attempt(order, offer, server, cautious, progress) {
            Ok(done) => return Ok(done),
            Err(failed) => failed,
        };
        let (reason, repeats) = match &first {
            Trouble::Refused {
                code: ErrorCode::OptionRefused | ErrorCode::IllegalOperation,
                ..
            } if unanswered => (format!("the server refused them ({first})"), cautious),
            // What was spent on the first request is not spent twice.
            Trouble::Silence(_) if unanswered => {
                ("the server kept silent".to_owned(), retries - cautious)
            }
            _ => return Err((first, unanswered)),
        };
        match self.attempt(order, Offer::default(), server, repeats, progress) {
            Ok(done) => Ok(Done {
                fallback: Some(reason),
                ..done
            }),
            // What it said the first time is all we know.
            Err((Trouble::Silence(_), true)) if matches!(first, Trouble::Refused { .. }) => {
                Err((first, false))
            }
            failed => failed,
        }
    }

    /// One request, repeated at most `request_repeats` times, and what comes of
    /// it. With the trouble comes whether the server never took up the transfer.
    fn attempt(
        &mut self,
        order: &Order<'_>,
        offer: Offer,
        server: SocketAddr,
        request_repeats: u8,
        progress: &mut TransferProgress,
    ) -> Result<Done, (Trouble, bool)> {
        let config = Config {
            retry: order.retry,
            request_repeats,
            dally: DALLY,
        };
        // Opened before signals are held back: a pipe waits for its reader.
        let mut session = self
            .open(order, offer, server, &config)
            .map_err(|trouble| (trouble, true))?;
        let mut interrupts = Interrupts::hold().map_err(|error| (kernel(&error), true))?;
        if let Some(local) = session.store() {
            local
                .watch(&interrupts)
                .map_err(|error| (kernel(&error), true))?;
        }
        let slot = self.sessions.vacant_entry();
        let index = slot.key();
        slot.insert(session);
        let ended = self.wait_for(index, order.until, &mut interrupts, progress);
        let session = &self.sessions[index];
        let (state, bytes) = (session.transfer().progress(), session.bytes());
        let done = Done {
            bytes,
            elapsed: clock::now().saturating_duration_since(session.started),
            negotiated: *session.transfer().negotiated(),
            retransmits: state.retransmits,
            fallback: None,
        };
        let peer = session.peer();
        let dallies = matches!(ended, Ok(Outcome::Completed)) && !session.is_closed();
        if !dallies || self.sessions.len() > MAX_DALLYING {
            self.remove(index);
        }
        let outcome = ended.map_err(|trouble| (trouble, !state.verified))?;
        let trouble = match outcome {
            Outcome::Completed | Outcome::LastAckMissing | Outcome::Probed => return Ok(done),
            Outcome::PeerError { code, message } => Trouble::Refused { code, message },
            Outcome::Failed(failure) => match failure.code {
                // Codes that no trouble with a file has.
                ErrorCode::IllegalOperation | ErrorCode::OptionRefused => {
                    Trouble::Violated(failure)
                }
                _ => Trouble::Local(format!("{}: {}", order.file, failure.message)),
            },
            Outcome::TimedOut if state.verified => {
                Trouble::Silence(format!("{peer} fell silent after {bytes} bytes"))
            }
            Outcome::TimedOut => Trouble::Silence(format!("no answer from {peer}")),
        };
        Err((trouble, !state.verified))
    }

    fn open(
        &mut self,
        order: &Order<'_>,
        offer: Offer,
        server: SocketAddr,
        config: &Config,
    ) -> Result<Session<TransferSocket, Local>, Trouble> {
        let (blocks, block_size) = (offer.windowsize.unwrap_or(1), offer.blksize.unwrap_or(512));
        let mut packet = [0; MAX_DATAGRAM];
        let direction = match order.file {
            End::Get(_) => Direction::Read,
            End::Put(_) => Direction::Write,
        };
        let len = emit_request(
            direction,
            order.name,
            order.mode,
            offer.options(),
            &mut packet,
        )
        .map_err(|error| Trouble::Unspeakable(error.to_string()))?;
        let opening = Opening::Request {
            packet: packet[..len].into(),
            offer: Box::new(offer),
        };
        let plain = Negotiated::default();
        let (transfer, content) = match order.file {
            End::Get(destination) => {
                let sink = FileSink::new(destination.open().map_err(Trouble::Local)?, order.mode);
                let receiver = Receiver::new(config, opening, plain);
                (Transfer::Receiver(receiver), Content::Sink(Box::new(sink)))
            }
            End::Put(file) => {
                let source = FileSource::new(file.read().map_err(Trouble::Local)?, order.mode);
                let sender = Sender::new(config, opening, plain, source.length());
                (Transfer::Sender(sender), Content::Source(source))
            }
        };
        let mut socket = self.bind(server, order.ports)?;
        if let End::Get(_) = order.file {
            socket.expect_windows(blocks, block_size);
        }
        Ok(Session::new(
            transfer,
            content,
            socket,
            Remote::Asked(server),
            order.name,
            clock::now(),
        ))
    }

    fn bind(
        &mut self,
        server: SocketAddr,
        ports: Option<&RangeInclusive<u16>>,
    ) -> Result<TransferSocket, Trouble> {
        let (any, scope): (IpAddr, u32) = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 0),
            SocketAddr::V6(server) => (Ipv6Addr::UNSPECIFIED.into(), server.scope_id()),
        };
        self.next_port = self.next_port.wrapping_add(1);
        let mut socket = TransferSocket::bind(any, scope, ports, self.next_port);
        if socket
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
        {
            // Those that dally give their ports back.
            self.settle();
            socket = TransferSocket::bind(any, scope, ports, self.next_port);
        }
        let socket = socket.and_then(|socket| socket.report_undeliverable().map(|()| socket));
        socket.map_err(|error| match (error.kind(), ports) {
            (io::ErrorKind::AddrInUse, Some(ports)) => {
                let (low, high) = (ports.start(), ports.end());
                Trouble::Local(format!("no port of the range {low}:{high} is free"))
            }
            _ => Trouble::Local(format!("cannot open a socket: {error}")),
        })
    }

    /// Runs the loop until the session has ended; it may go on dallying.
    fn wait_for(
        &mut self,
        index: usize,
        until: Option<Instant>,
        interrupts: &mut Interrupts,
        progress: &mut TransferProgress,
    ) -> Result<Outcome, Trouble> {
        let kernel = |error: io::Error| kernel(&error);
        let descriptor = interrupts.as_fd().as_raw_fd();
        let registry = self.poll.registry();
        let session = &mut self.sessions[index];
        let watch = Watch {
            registry,
            token: Token(index),
        };
        session.register(&watch).map_err(kernel)?;
        registry
            .register(&mut SourceFd(&descriptor), SIGNALS, Interest::READABLE)
            .map_err(kernel)?;
        let ended = self.run(index, until, interrupts, progress);
        let _ = self.poll.registry().deregister(&mut SourceFd(&descriptor));
        progress.over();
        ended
    }

    fn run(
        &mut self,
        index: usize,
        until: Option<Instant>,
        interrupts: &mut Interrupts,
        progress: &mut TransferProgress,
    ) -> Result<Outcome, Trouble> {
        let mut turn = self.work(index, Session::transmit);
        loop {
            if let Some(signal) = interrupts.take() {
                self.give_up(index, "Interrupted by the user");
                return Err(Trouble::Interrupted(signal));
            }
            if let Some(outcome) = self.sessions[index].poll_outcome() {
                return Ok(outcome);
            }
            let session = &self.sessions[index];
            if let Some(kind) = session.unreachable()
                && !session.transfer().progress().verified
            {
                let server = session.peer();
                return Err(Trouble::Unreachable(format!(
                    "no answer from {server}: {kind}"
                )));
            }
            progress.show(session);
            self.wait(turn, until).map_err(|error| kernel(&error))?;
            let now = clock::now();
            if until.is_some_and(|until| until <= now) {
                self.give_up(index, "It takes too long");
                return Err(Trouble::TooLate);
            }
            turn = self.turn(index, turn);
        }
    }

    /// Lets each session that something happened to work. Returns whether the
    /// one that is waited for has more to do.
    fn turn(&mut self, awaited: usize, before: Turn) -> Turn {
        let now = clock::now();
        let mut again = Turn::Waiting;
        for index in 0..=MAX_DALLYING {
            if !self.sessions.contains(index) {
                continue;
            }
            let mut turn = Turn::Waiting;
            let ready = self.events.iter().any(|event| event.token().0 == index);
            if ready || (index == awaited && before == Turn::Unfinished) {
                turn = self.work(index, Session::run);
            }
            if self.sessions[index].deadline().is_some_and(|at| at <= now) {
                turn = self.work(index, Session::run_deadline);
            }
            if index == awaited {
                again = turn;
            } else if self.sessions[index].is_closed() {
                self.remove(index);
            }
        }
        again
    }

    fn remove(&mut self, index: usize) {
        let mut session = self.sessions.remove(index);
        session.drop_prefetched(&mut self.resources.pool);
    }

    fn work(
        &mut self,
        index: usize,
        work: impl FnOnce(&mut Session<TransferSocket, Local>, &mut Context<'_>) -> Turn,
    ) -> Turn {
        let mut context = Context {
            now: clock::now(),
            clock: &clock::now,
            resources: &mut self.resources,
            poll: Watch {
                registry: self.poll.registry(),
                token: Token(index),
            },
            send_budget: SEND_BUDGET,
        };
        work(&mut self.sessions[index], &mut context)
    }

    /// Waits for a datagram, a signal, or the nearest deadline.
    fn wait(&mut self, turn: Turn, until: Option<Instant>) -> io::Result<()> {
        let timeout = match turn {
            Turn::Unfinished => Some(Duration::ZERO),
            Turn::Waiting => self
                .sessions
                .iter()
                .filter_map(|(_, session)| session.deadline())
                .chain(until)
                .min()
                .map(|nearest| nearest.saturating_duration_since(clock::now())),
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    /// Tells the peer that nothing more will come of it.
    fn give_up(&mut self, index: usize, why: &'static str) {
        self.sessions[index].abort(Failure::new(ErrorCode::NotDefined, why));
        self.work(index, Session::transmit);
    }

    /// Lets the transfers that dally come to their end.
    pub(super) fn settle(&mut self) {
        // Nothing is at stake: who can't wait doesn't.
        while !self.sessions.is_empty() && self.wait(Turn::Waiting, None).is_ok() {
            self.turn(usize::MAX, Turn::Waiting);
        }
    }
}

/// The kernel refuses what a loop needs.
fn kernel(error: &io::Error) -> Trouble {
    Trouble::Local(format!("cannot wait for answers: {error}"))
}

/// The offer, with the size in it where that is known or wanted.
fn with_size(order: &Order<'_>) -> Result<Offer, Trouble> {
    let mut offer = order.offer.clone();
    if order.with_size {
        offer.tsize = match order.file {
            End::Get(_) => Some(0),
            // What text comes to on the wire isn't known before it has gone.
            End::Put(_) if order.mode == Mode::Netascii => None,
            End::Put(file) => Some(file.read().map_err(Trouble::Local)?.size()),
        };
    }
    Ok(offer)
}
