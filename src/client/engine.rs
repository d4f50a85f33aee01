//! One file from or to a server: request, transfer, and what to try next where
//! a server doesn't know options.
//!
//! The loop is the server's in small: one `mio::Poll`, the session being waited
//! for, and those that dally after it. Must not: print anything, or ask a name
//! for its address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::job::{Completed, Job, JobError, LocalFile};
use super::local::LocalStore;
use super::progress::TransferProgress;
use crate::file::content::{FileSink, FileSource};
use crate::host::Interrupts;
use crate::host::clock;
use crate::net::TransferSocket;
use crate::protocol::receiver::Receiver;
use crate::protocol::sender::Sender;
use crate::protocol::transfer::{Config, Failure, MAX_DATAGRAM, Opening, Outcome, Proof, Transfer};
use crate::session::{Content, Context, Remote, Resources, SEND_BUDGET, Session, Turn};
use crate::table::Tracked;
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

/// The loop, with what its transfers share.
#[derive(Debug)]
pub(super) struct Engine {
    poll: Poll,
    events: Events,
    resources: Resources,
    /// The session that is waited for, and those that dally.
    sessions: Slab<Session<LocalStore>>,
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
    pub(super) fn run(
        &mut self,
        job: &Job<'_>,
        progress: &mut TransferProgress,
    ) -> Result<Completed, JobError> {
        let mut error = JobError::NoAnswer("the host has no address".to_owned());
        for &server in job.servers {
            match self.ask(job, server, progress) {
                Ok(done) => return Ok(done),
                // Nobody is there: another address may do.
                Err((failed @ (JobError::NoAnswer(_) | JobError::Unreachable(_)), true)) => {
                    error = failed;
                }
                Err((failed, _)) => return Err(failed),
            }
        }
        Err(error)
    }

    /// Asks one address, with options first. With the error comes whether the
    /// server never took up the transfer.
    fn ask(
        &mut self,
        job: &Job<'_>,
        server: SocketAddr,
        progress: &mut TransferProgress,
    ) -> Result<Completed, (JobError, bool)> {
        let offer = with_size(job).map_err(|error| (error, true))?;
        let retries = job.retry.retries;
        if offer == Offer::default() {
            return self.attempt(job, offer, server, retries, progress);
        }
        let cautious = retries.min(OPTIONED_REPEATS);
        let (first, unanswered) = match self.attempt(job, offer, server, cautious, progress) {
            Ok(done) => return Ok(done),
            Err(failed) => failed,
        };
        let (reason, repeats) = match &first {
            JobError::ServerError {
                code: ErrorCode::OptionRefused | ErrorCode::IllegalOperation,
                ..
            } if unanswered => (format!("the server refused them ({first})"), cautious),
            // What was spent on the first request is not spent twice.
            JobError::NoAnswer(_) if unanswered => {
                ("the server kept silent".to_owned(), retries - cautious)
            }
            _ => return Err((first, unanswered)),
        };
        match self.attempt(job, Offer::default(), server, repeats, progress) {
            Ok(done) => Ok(Completed {
                fallback: Some(reason),
                ..done
            }),
            // What it said the first time is all we know.
            Err((JobError::NoAnswer(_), true)) if matches!(first, JobError::ServerError { .. }) => {
                Err((first, false))
            }
            failed => failed,
        }
    }

    /// One request, repeated at most `request_repeats` times, and what comes of
    /// it. With the error comes whether the server never took up the transfer.
    fn attempt(
        &mut self,
        job: &Job<'_>,
        offer: Offer,
        server: SocketAddr,
        request_repeats: u8,
        progress: &mut TransferProgress,
    ) -> Result<Completed, (JobError, bool)> {
        let config = Config {
            retry: job.retry,
            request_repeats,
            dally: DALLY,
            proof: Proof::OwnPort,
        };
        // Opened before signals are held back: a pipe waits for its reader.
        let mut session = self
            .open(job, offer, server, &config)
            .map_err(|error| (error, true))?;
        let mut interrupts = Interrupts::hold().map_err(|error| (kernel(&error), true))?;
        if let Some(local) = session.store() {
            local
                .watch(&interrupts)
                .map_err(|error| (kernel(&error), true))?;
        }
        let slot = self.sessions.vacant_entry();
        let index = slot.key();
        slot.insert(session);
        let ended = self.wait_for(index, job.until, &mut interrupts, progress);
        let session = &self.sessions[index];
        let (state, bytes) = (session.transfer().progress(), session.bytes());
        let done = Completed {
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
        let outcome = ended.map_err(|error| (error, !state.verified))?;
        let error = match outcome {
            Outcome::Completed | Outcome::LastAckMissing | Outcome::Probed => return Ok(done),
            Outcome::PeerError { code, message } => JobError::ServerError { code, message },
            Outcome::Failed(failure) => match failure.code {
                // Codes that no local file causes.
                ErrorCode::IllegalOperation | ErrorCode::OptionRefused => {
                    JobError::ProtocolError(failure)
                }
                _ => JobError::LocalFile(format!("{}: {}", job.file, failure.message)),
            },
            Outcome::TimedOut if state.verified => {
                JobError::NoAnswer(format!("{peer} fell silent after {bytes} bytes"))
            }
            Outcome::TimedOut => JobError::NoAnswer(format!("no answer from {peer}")),
        };
        Err((error, !state.verified))
    }

    fn open(
        &mut self,
        job: &Job<'_>,
        offer: Offer,
        server: SocketAddr,
        config: &Config,
    ) -> Result<Session<LocalStore>, JobError> {
        let (blocks, block_size) = (offer.windowsize.unwrap_or(1), offer.blksize.unwrap_or(512));
        let mut packet = [0; MAX_DATAGRAM];
        let direction = match job.file {
            LocalFile::Get(_) => Direction::Read,
            LocalFile::Put(_) => Direction::Write,
        };
        let len = emit_request(direction, job.name, job.mode, offer.options(), &mut packet)
            .map_err(|error| JobError::BadRequest(error.to_string()))?;
        let opening = Opening::Request {
            packet: packet[..len].into(),
            offer: Box::new(offer),
        };
        let plain = Negotiated::default();
        let (transfer, content) = match job.file {
            LocalFile::Get(destination) => {
                let sink =
                    FileSink::new(destination.open().map_err(JobError::LocalFile)?, job.mode);
                let receiver = Receiver::new(config, opening, plain);
                (Transfer::Receiver(receiver), Content::Sink(Box::new(sink)))
            }
            LocalFile::Put(file) => {
                let source = FileSource::new(file.read().map_err(JobError::LocalFile)?, job.mode);
                let sender = Sender::new(config, opening, plain, source.length());
                (Transfer::Sender(sender), Content::Source(source))
            }
        };
        let mut socket = self.bind(server, job.ports)?;
        if let LocalFile::Get(_) = job.file {
            socket.expect_windows(blocks, block_size);
        }
        Ok(Session::new(
            transfer,
            content,
            socket,
            Remote::Asked(server),
            job.name,
            clock::now(),
        ))
    }

    fn bind(
        &mut self,
        server: SocketAddr,
        ports: Option<&RangeInclusive<u16>>,
    ) -> Result<TransferSocket, JobError> {
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
                JobError::LocalFile(format!("no port of the range {low}:{high} is free"))
            }
            _ => JobError::LocalFile(format!("cannot open a socket: {error}")),
        })
    }

    /// Runs the loop until the session has ended; it may go on dallying.
    fn wait_for(
        &mut self,
        index: usize,
        until: Option<Instant>,
        interrupts: &mut Interrupts,
        progress: &mut TransferProgress,
    ) -> Result<Outcome, JobError> {
        let kernel = |error: io::Error| kernel(&error);
        let descriptor = interrupts.as_fd().as_raw_fd();
        let registry = self.poll.registry();
        let session = &mut self.sessions[index];
        session.register(registry, Token(index)).map_err(kernel)?;
        registry
            .register(&mut SourceFd(&descriptor), SIGNALS, Interest::READABLE)
            .map_err(kernel)?;
        let ended = self.until_outcome(index, until, interrupts, progress);
        let _ = self.poll.registry().deregister(&mut SourceFd(&descriptor));
        progress.over();
        ended
    }

    fn until_outcome(
        &mut self,
        index: usize,
        until: Option<Instant>,
        interrupts: &mut Interrupts,
        progress: &mut TransferProgress,
    ) -> Result<Outcome, JobError> {
        let mut turn = self.work(index, Session::transmit);
        loop {
            if let Some(signal) = interrupts.take() {
                self.give_up(index, "Interrupted by the user");
                return Err(JobError::Interrupted(signal));
            }
            if let Some(outcome) = self.sessions[index].poll_outcome() {
                return Ok(outcome);
            }
            let session = &self.sessions[index];
            if let Some(kind) = session.unreachable()
                && !session.transfer().progress().verified
            {
                let server = session.peer();
                return Err(JobError::Unreachable(format!(
                    "no answer from {server}: {kind}"
                )));
            }
            progress.show(session);
            self.wait(turn, until).map_err(|error| kernel(&error))?;
            let now = clock::now();
            if until.is_some_and(|until| until <= now) {
                self.give_up(index, "It takes too long");
                return Err(JobError::Late);
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
        work: impl FnOnce(&mut Session<LocalStore>, &mut Context<'_>) -> Turn,
    ) -> Turn {
        let mut context = Context {
            now: clock::now(),
            resources: &mut self.resources,
            registry: self.poll.registry(),
            token: Token(index),
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
fn kernel(error: &io::Error) -> JobError {
    JobError::LocalFile(format!("cannot wait for answers: {error}"))
}

/// The offer, with the size in it where that is known or wanted.
fn with_size(job: &Job<'_>) -> Result<Offer, JobError> {
    let mut offer = job.offer.clone();
    if job.with_size {
        offer.tsize = match job.file {
            LocalFile::Get(_) => Some(0),
            // What text comes to on the wire isn't known before it has gone.
            LocalFile::Put(_) if job.mode == Mode::Netascii => None,
            LocalFile::Put(file) => Some(file.read().map_err(JobError::LocalFile)?.size()),
        };
    }
    Ok(offer)
}
