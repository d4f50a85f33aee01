//! The client's event loop, a small version of the server's: one `mio::Poll`, the
//! sessions of the current job, and finished ones that dally.
//!
//! Before its first answer a session has no deadline here: `attempts` decides
//! when a request is sent again. Must not: print anything, choose which server to ask.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::job::{Job, JobError, LocalFile};
use super::local::{OutputWriter, SharedOutput};
use super::port::ClientPort;
use super::stream::InputReader;
use crate::file::{FileSink, FileSource, StorageError, reason};
use crate::host::{self, Interrupts};
use crate::host::{WaitTimer, clock};
use crate::net::TransferSocket;
use crate::protocol::receiver::Receiver;
use crate::protocol::sender::Sender;
use crate::protocol::transfer::{Config, Failure, MAX_DATAGRAM, Opening, Proof, Transfer};
use crate::session::{Content, Context, Remote, Resources, SEND_BUDGET, Session, Turn, Watch};
use crate::table::Tracked;
use crate::wire::options::{DEFAULT_BLKSIZE, DEFAULT_WINDOWSIZE, Negotiated, Offer};
use crate::wire::packet::{Direction, ErrorCode, emit_request};

/// How long a finished transfer waits to repeat its final ACK if that was lost, on a
/// network that has lost nothing else. The next file doesn't wait for this; only the end
/// of the program does.
pub(super) const DALLY: Duration = Duration::from_millis(100);

/// Finished transfers that may dally beside the next one.
const MAX_DALLYING: usize = 16;

/// The most sessions of one job.
pub(super) const MAX_ATTEMPTS: usize = 32;

const MAX_SESSIONS: usize = MAX_DALLYING + MAX_ATTEMPTS;

/// Token of the signal descriptor: no slab's key is as large.
const SIGNALS: Token = Token(usize::MAX - 1);

/// The token of the timer that ends a wait.
const TIMER: Token = Token(usize::MAX - 2);

/// How long to busy-poll.
const BUSY_POLL: Duration = Duration::from_micros(50);

/// Readiness events taken from the kernel at a time.
const EVENTS: usize = 32;

/// A session of the client.
pub(super) type ClientSession = Session<ClientPort, OutputWriter, InputReader>;

/// A session, and whether it has more to do.
#[derive(Debug)]
struct Slot {
    session: ClientSession,
    turn: Turn,
}

impl Slot {
    fn deadline(&self) -> Option<Instant> {
        if is_answered(&self.session) {
            self.session.deadline()
        } else {
            None
        }
    }
}

/// Whether the server has answered, if only with an ERROR.
pub(super) fn is_answered(session: &ClientSession) -> bool {
    session.transfer().progress().verified || session.is_over()
}

/// One request as it is sent, again and again.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) server: SocketAddr,
    pub(super) offer: &'a Offer,
    /// Where a received file goes.
    pub(super) output: Option<&'a SharedOutput>,
}

/// The loop, with what its transfers share.
#[derive(Debug)]
pub(super) struct Engine {
    poll: Poll,
    timer: WaitTimer,
    events: Events,
    resources: Resources,
    /// The sessions of the current job, and those that dally.
    sessions: Slab<Slot>,
    next_port: u16,
    /// How many processors the machine has.
    processors: usize,
    /// The length of the last wait that ended because something came.
    last_wait: Duration,
}

impl Engine {
    /// A loop without transfers.
    ///
    /// # Errors
    /// [`JobError::System`] if no descriptor is left for the poll or its timer.
    pub(super) fn new() -> Result<Self, JobError> {
        let poll = Poll::new().map_err(|error| kernel(&error))?;
        let timer = WaitTimer::register(poll.registry(), TIMER);
        Ok(Self {
            timer: timer.map_err(|error| kernel(&error))?,
            poll,
            events: Events::with_capacity(EVENTS),
            resources: Resources::new(clock::now(), None),
            sessions: Slab::new(),
            next_port: std::process::id() as u16,
            processors: host::processors(),
            last_wait: Duration::MAX,
        })
    }

    /// Shows every packet to `trace` from now on, or none.
    pub(super) const fn set_trace(&mut self, trace: Option<crate::session::Trace>) {
        self.resources.ingress.trace = trace;
    }

    /// Lets signals end a wait, until [`Engine::ignore_signals`].
    ///
    /// # Errors
    /// [`JobError::System`] if the poll can't watch any more sources.
    pub(super) fn watch_signals(&self, interrupts: &Interrupts) -> Result<(), JobError> {
        let descriptor = interrupts.as_fd().as_raw_fd();
        let registry = self.poll.registry();
        registry
            .register(&mut SourceFd(&descriptor), SIGNALS, Interest::READABLE)
            .map_err(|error| kernel(&error))
    }

    pub(super) fn ignore_signals(&self, interrupts: &Interrupts) {
        let descriptor = interrupts.as_fd().as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&descriptor));
    }

    /// Sends a request from a port of its own; returns its session's key.
    ///
    /// # Errors
    /// The request can't be made, or the local file or the socket fails.
    pub(super) fn ask(&mut self, request: &Request<'_>) -> Result<usize, JobError> {
        let mut socket = self.bind(request.server, request.job.ports)?;
        let is_put = matches!(request.job.file, LocalFile::Put(_));
        if request.server.is_ipv4() {
            socket.allow_fragments(is_put);
        }
        if !is_put {
            let (blocks, block_size) = window(request.offer);
            socket.expect_windows(blocks, block_size);
        }
        self.begin(request, ClientPort::new(socket, request.server))
    }

    /// Sends the request of the session `key` again, from the same port.
    ///
    /// # Errors
    /// As [`Engine::ask`].
    pub(super) fn ask_again(
        &mut self,
        key: usize,
        request: &Request<'_>,
    ) -> Result<usize, JobError> {
        let port = self.sessions.remove(key).session.into_port();
        self.begin(request, port)
    }

    /// Opens a session on `port` and sends its request.
    fn begin(&mut self, request: &Request<'_>, port: ClientPort) -> Result<usize, JobError> {
        let vacant = self.sessions.vacant_entry();
        let key = vacant.key();
        let mut session = open(request, key, port)?;
        let watch = Watch {
            registry: self.poll.registry(),
            token: Token(key),
        };
        session.register(&watch).map_err(|error| kernel(&error))?;
        vacant.insert(Slot {
            session,
            turn: Turn::Waiting,
        });
        self.work(key, Session::transmit);
        Ok(key)
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
        if socket.as_ref().is_err_and(is_used_up) {
            // Transfers that dally free their ports and descriptors when they end.
            self.settle(None);
            socket = TransferSocket::bind(any, scope, ports, self.next_port);
        }
        let socket = socket.and_then(|socket| socket.report_undeliverable().map(|()| socket));
        socket.map_err(|error| match (error.kind(), ports) {
            (io::ErrorKind::AddrInUse, Some(ports)) => {
                let (low, high) = (ports.start(), ports.end());
                JobError::NoPort(format!("no port of the range {low}:{high} is free"))
            }
            _ => JobError::System(format!("cannot open a socket: {}", reason(&error))),
        })
    }

    pub(super) fn session(&self, key: usize) -> &ClientSession {
        &self.sessions[key].session
    }

    pub(super) fn session_mut(&mut self, key: usize) -> &mut ClientSession {
        &mut self.sessions[key].session
    }

    /// Waits for a datagram, a signal, the nearest deadline, or `until`; then runs each
    /// session that has something to do.
    ///
    /// # Errors
    /// [`JobError::System`] if the kernel refuses to wait for events.
    pub(super) fn turn(&mut self, until: Option<Instant>) -> Result<(), JobError> {
        self.wait(until).map_err(|error| kernel(&error))?;
        let now = clock::now();
        for key in 0..MAX_SESSIONS {
            let Some(slot) = self.sessions.get(key) else {
                continue;
            };
            let arrived = self.events.iter().any(|event| event.token().0 == key);
            if arrived || slot.turn != Turn::Waiting {
                self.work(key, Session::run);
            }
            if self.sessions[key].deadline().is_some_and(|at| at <= now) {
                self.work(key, Session::run_deadline);
            }
            let session = self.session(key);
            if session.has_ended() && session.is_closed() {
                self.remove(key);
            }
        }
        Ok(())
    }

    fn work(
        &mut self,
        key: usize,
        work: impl FnOnce(&mut ClientSession, &mut Context<'_, ClientPort>) -> Turn,
    ) {
        let mut context = Context {
            now: clock::now(),
            clock: &clock::now,
            resources: &mut self.resources,
            poll: Watch {
                registry: self.poll.registry(),
                token: Token(key),
            },
            send_budget: SEND_BUDGET,
        };
        let slot = &mut self.sessions[key];
        slot.turn = work(&mut slot.session, &mut context);
    }

    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        let mut slots = self.sessions.iter().map(|(_, slot)| slot);
        let began = clock::now();
        let deadline = if slots.clone().any(|slot| slot.turn != Turn::Waiting) {
            Some(began)
        } else {
            slots.by_ref().filter_map(Slot::deadline).chain(until).min()
        };
        if self.busy_poll(began, deadline)? {
            return Ok(());
        }
        let (poll, events) = (&mut self.poll, &mut self.events);
        // Busy polling took time; on a busy machine the deadline may be over.
        let done = self.timer.wait(poll, events, clock::now(), deadline);
        if self.has_come() {
            self.last_wait = clock::now().saturating_duration_since(began);
        }
        match done {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    /// Whether something other than the timer ended the wait.
    fn has_come(&self) -> bool {
        self.events.iter().any(|it| it.token() != TIMER)
    }

    /// Busy-polls if the last wait was so short that waking up would be half of it.
    /// Returns whether something came.
    fn busy_poll(&mut self, began: Instant, deadline: Option<Instant>) -> io::Result<bool> {
        let is_short = deadline.is_some_and(|it| it < began + BUSY_POLL);
        // With one processor, a server on this machine can't answer while we poll.
        if self.last_wait >= BUSY_POLL || is_short || self.processors < 2 {
            return Ok(false);
        }
        loop {
            match self.timer.look(&mut self.poll, &mut self.events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
                other => other?,
            }
            let waited = clock::now().saturating_duration_since(began);
            if self.has_come() {
                self.last_wait = waited;
                return Ok(true);
            }
            if waited >= BUSY_POLL {
                return Ok(false);
            }
        }
    }

    /// Ends a session and tells its peer why, with an ERROR.
    pub(super) fn abort(&mut self, key: usize, why: &'static str) {
        self.session_mut(key)
            .abort(Failure::new(ErrorCode::NotDefined, why));
        self.work(key, Session::transmit);
    }

    /// Drops a session, if it is still there.
    pub(super) fn remove(&mut self, key: usize) {
        if let Some(mut slot) = self.sessions.try_remove(key) {
            slot.session.drop_prefetched(&mut self.resources.pool);
        }
    }

    /// Lets a completed session dally, if there is room.
    pub(super) fn let_dally(&mut self, key: usize) {
        if self.session(key).is_closed() || self.sessions.len() > MAX_DALLYING {
            self.remove(key);
        }
    }

    /// Runs the loop until no transfer dallies any more, or it is `until`.
    pub(super) fn settle(&mut self, until: Option<Instant>) {
        let is_time = || until.is_none_or(|until| clock::now() < until);
        while self.is_dallying() && is_time() && self.turn(until).is_ok() {}
    }

    /// Whether a finished transfer still holds its port.
    pub(super) fn is_dallying(&self) -> bool {
        let mut slots = self.sessions.iter();
        slots.any(|(_, slot)| slot.session.has_ended())
    }
}

/// Whether it is ports, descriptors or memory that is missing: transfers that dally hold
/// some.
fn is_used_up(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse || StorageError::of_io(error).is_exhausted()
}

/// The largest window that an offer can lead to: blocks, and bytes in a block.
fn window(offer: &Offer) -> (u16, u16) {
    let blocks = offer.windowsize.unwrap_or(DEFAULT_WINDOWSIZE);
    let block_size = offer.blksize.unwrap_or(DEFAULT_BLKSIZE);
    // The server may answer without options.
    (blocks, block_size.max(DEFAULT_BLKSIZE))
}

/// A session that is about to send `request` from `port`.
fn open(request: &Request<'_>, key: usize, port: ClientPort) -> Result<ClientSession, JobError> {
    let job = request.job;
    let config = Config {
        retry: job.retry,
        request_repeats: u8::MAX,
        dally: DALLY,
        proof: Proof::OwnPort,
    };
    let direction = match job.file {
        LocalFile::Get(_) => Direction::Read,
        LocalFile::Put(_) => Direction::Write,
    };
    let mut packet = [0; MAX_DATAGRAM];
    let options = request.offer.options();
    let len = emit_request(direction, job.name, job.mode, options, &mut packet)
        .map_err(|error| JobError::BadRequest(error.to_string()))?;
    let opening = Opening::Request {
        packet: packet[..len].into(),
        offer: Box::new(request.offer.clone()),
    };
    let plain = Negotiated::default();
    let (transfer, content) = match (job.file, request.output) {
        (LocalFile::Put(input), _) => {
            let (blocks, block_size) = window(request.offer);
            let bytes = usize::from(blocks) * usize::from(block_size);
            let reader = input.reader(bytes).map_err(JobError::LocalFile)?;
            let source = FileSource::new(reader, job.mode);
            let sender = Sender::new(&config, opening, plain, source.length());
            (Transfer::Sender(sender), Content::Source(source))
        }
        (LocalFile::Get(_), Some(output)) => {
            let sink = FileSink::new(output.writer(key), job.mode);
            let receiver = Receiver::new(&config, opening, plain);
            (Transfer::Receiver(receiver), Content::Sink(Box::new(sink)))
        }
        (LocalFile::Get(output), None) => {
            return Err(JobError::LocalFile(format!("{output}: not open")));
        }
    };
    let remote = Remote::Asked(request.server);
    Ok(Session::new(
        transfer,
        content,
        port,
        remote,
        job.name,
        clock::now(),
    ))
}

/// The error for what the loop needs and the kernel refuses.
pub(super) fn kernel(error: &io::Error) -> JobError {
    JobError::System(format!("cannot wait for answers: {}", reason(error)))
}
