//! One session: a transfer with its port and its file, on the server as well as on the
//! client.
//!
//! Turns readiness into `handle_*` and `poll_*` calls, within a budget, so that no
//! session holds up the others. The order of a turn:
//!
//! ```text
//!   receive    all that is there; in lockstep the one answer that counts (inbound)
//!   (transmit) what that brings, where a deadline has come
//!   timeout    if the deadline has come, and nothing that arrived has moved it
//!   transmit   all that the transfer has to send now (outbound)
//!   prefetch   what comes next, while the answer is on its way
//! ```
//!
//! Other sessions may have turns between receiving and transmitting. Must not: admit,
//! remove or time sessions; report their end; read a clock that it wasn't lent.

mod context;
mod file_wait;
mod inbound;
mod outbound;
mod port;
mod prefetch;
pub mod shaper;
pub mod tid;
pub mod unproved;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::debug;
use mio::Interest;

pub(crate) use self::context::{BATCH_BYTES, BATCH_SLOTS};
pub use self::context::{Context, DropCounters, Heading, Ingress, Resources, Trace};
use self::file_wait::FileWait;
pub use self::port::{Port, Watch};
pub use self::prefetch::PrefetchPool;
use self::prefetch::Prefetched;
use crate::file::{FileSink, FileSource, ReadAt, ReadFile, Store, Upload};
use crate::net::{ListenSocket, MAX_SEND, TransferSocket};
use crate::protocol::transfer::{Failure, Outcome, Transfer};
use crate::table::Tracked;
use crate::wire::packet::Direction;

/// Bytes a session may send before the others have their turn.
pub const SEND_BUDGET: usize = 256 * 1024;

/// Answers a second to nonsense: malformed requests and strangers.
pub const NONSENSE_ANSWERS: u32 = 100;

/// The text of an ERROR 5.
pub(crate) const UNKNOWN_TRANSFER: &str = "Unknown transfer ID";

/// A budget for the bytes of a session, beside its place in the table, so that it
/// doesn't grow unnoticed.
const _: () = assert!(size_of::<Session>() <= 344);

/// The file of a transfer.
#[derive(Debug)]
pub enum Content<S = Upload, R = ReadFile> {
    /// It is being sent.
    Source(FileSource<R>),
    /// It is being received.
    Sink(Box<FileSink<S>>),
}

/// Whether a session has more to do without waiting for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It waits for a datagram, for room in its port, for the file, or for its
    /// deadline.
    Waiting,
    /// More has arrived than it may take in at once.
    Unfinished,
    /// It has more to send than it may at once.
    Spent,
}

/// Descriptors of an upload: its directory's and, once data has come, its own.
const OF_UPLOAD: usize = 2;

/// The queue of the loop in which a session waits for another turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Nowhere.
    None,
    /// Among the sessions whose turn ended before their work did.
    Turn,
    /// For room in a shared socket.
    Room,
}

/// How long a transfer has waited, in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waited {
    /// Before it began, where that is told: its peer may have given up.
    pub before: Duration,
    /// For its file.
    pub file: Duration,
    /// For its peer, where that took much longer than a round trip.
    pub peer: Duration,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// The peer and its TID.
    Known(SocketAddr),
    /// A server that was sent a request: the port of its first answer is its
    /// TID (RFC 1350 §4).
    Asked(SocketAddr),
}

impl Remote {
    /// Where to send to.
    pub const fn address(self) -> SocketAddr {
        match self {
            Self::Known(address) | Self::Asked(address) => address,
        }
    }
}

impl Turn {
    /// The result of two steps: whether there is more to do after either.
    const fn and(self, other: Self) -> Self {
        match self {
            Self::Unfinished | Self::Spent => self,
            Self::Waiting => other,
        }
    }
}

/// What the network said about the peer. Only a client's socket asks for ICMP errors; a
/// server's learns only of local trouble (no route, a firewall).
#[derive(Debug, Clone, Copy)]
enum Reach {
    Unknown,
    /// Nobody is there.
    Unreachable(io::ErrorKind),
    /// Strangers were sent an ERROR, and it may be a stranger that isn't there: the
    /// kernel doesn't say.
    Ambiguous,
}

/// What a session is doing, for the log and the status port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has come back yet.
    Opening,
    /// Its file is on the way.
    Moving,
    /// Its peer hasn't answered for longer than usual.
    WaitsForClient,
    /// What it has to send next isn't read yet.
    WaitsForDisk,
    /// It has ended: it repeats its last ACK if that was lost, or still has an ERROR to
    /// send.
    Dallying,
}

impl Phase {
    /// In the log's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Moving => "moving",
            Self::WaitsForClient => "waiting_for_client",
            Self::WaitsForDisk => "waiting_for_disk",
            Self::Dallying => "dallying",
        }
    }
}

/// A peer whose answer takes longer than this, and than [`USUAL`] round trips, has
/// paused.
const PAUSE: Duration = Duration::from_millis(500);
const USUAL: u32 = 4;

/// What the peer still owes an answer to.
#[derive(Clone, Copy)]
struct Pending {
    /// When it was sent.
    since: Option<Instant>,
    /// How long ago that was, if the peer has paused.
    paused: Option<Duration>,
}

/// The result of taking in what had arrived; the answer is still to be sent.
#[derive(Debug)]
pub struct TakenIn {
    received: Turn,
    /// When the packet that the peer may just have answered was sent.
    asked: Option<Instant>,
}

/// Whether the outcome has been told.
#[derive(Debug, Clone, Copy)]
enum End {
    None,
    /// It has; the transfer may go on dallying.
    Told,
    /// It has, and only an ERROR is left to be sent.
    Failed,
}

/// A transfer with its port and its file: `S` is where a received file goes, `R`
/// what a sent one is read from.
#[derive(Debug)]
pub struct Session<P = TransferSocket, S = Upload, R = ReadFile> {
    transfer: Transfer,
    content: Content<S, R>,
    /// Blocks read ahead: those expected to be sent next.
    prefetched: Option<Rc<Prefetched>>,
    file_wait: FileWait,
    port: P,
    remote: Remote,
    /// The port was full; the session waits for room in it.
    blocked: bool,
    /// The queue in which it waits; never more than one.
    pub queue: Queue,
    end: End,
    reach: Reach,
    /// When it began.
    pub started: Instant,
    /// The file's name as requested and, after a NUL, its name here if that differs and
    /// is kept. Sessions for the same file may share them.
    names: Rc<[u8]>,
}

impl<P: Port, S: Store, R: ReadAt> Tracked for Session<P, S, R> {
    fn deadline(&self) -> Option<Instant> {
        // While the session waits for its file, or is paced, the peer has nothing to
        // answer.
        let own = if self.file_wait.is_on() {
            self.file_wait.until()
        } else {
            self.transfer.poll_timeout()
        };
        [own, self.held_until()].into_iter().flatten().min()
    }

    fn is_over(&self) -> bool {
        // A full port may still hold back the final ACK.
        self.transfer.is_over() && (!self.blocked || self.is_closed())
    }

    fn lacks_last_ack(&self) -> bool {
        self.transfer.lacks_last_ack()
    }

    fn unverified_since(&self) -> Option<Instant> {
        (!self.transfer.progress().verified).then_some(self.started)
    }

    fn descriptors(&self) -> usize {
        let of_file = match &self.content {
            Content::Sink(sink) if sink.is_open() => OF_UPLOAD,
            Content::Sink(_) | Content::Source(_) => 0,
        };
        usize::from(!self.port.is_shared()) + of_file
    }

    fn frees_descriptor(&self) -> bool {
        let of_file = match &self.content {
            Content::Source(source) => source.is_open() && !source.has_other_readers(),
            Content::Sink(_) => true,
        };
        !self.port.is_shared() || of_file
    }

    fn quiet_since(&self) -> Option<Instant> {
        // While we wait for the file, or for room in the port, the peer has nothing to
        // answer.
        let waits = !self.file_wait.is_on() && !self.blocked;
        self.transfer.waiting_since().filter(|_| waits)
    }

    fn round_trip(&self) -> Option<Duration> {
        self.transfer.round_trip()
    }
}

impl<P: Port, S: Store, R: ReadAt> Session<P, S, R> {
    /// A session that isn't registered yet. `names`: the file's name as requested and,
    /// after a NUL, its name here if that differs and is kept.
    pub fn new(
        transfer: Transfer,
        content: Content<S, R>,
        port: P,
        remote: Remote,
        names: impl Into<Rc<[u8]>>,
        now: Instant,
    ) -> Self {
        Self {
            transfer,
            content,
            prefetched: None,
            file_wait: FileWait::default(),
            port,
            remote,
            blocked: false,
            queue: Queue::None,
            end: End::None,
            reach: Reach::Unknown,
            started: now,
            names: names.into(),
        }
    }

    /// Registers with `poll`, to hear of what arrives.
    ///
    /// # Errors
    /// As [`Port::watch`].
    pub fn register(&mut self, poll: &P::Poll<'_>) -> io::Result<()> {
        self.port.watch(poll, Interest::READABLE)
    }

    /// Whether its port is full and it has something to send. While it waits for its
    /// file it has nothing.
    pub fn waits_for_room(&self) -> bool {
        self.blocked && !self.file_wait.is_on()
    }

    /// The port it sends from.
    pub const fn port(&self) -> &P {
        &self.port
    }

    /// Its port, when the session is over.
    pub fn into_port(self) -> P {
        self.port
    }

    /// The other end, as far as it is known.
    pub const fn peer(&self) -> SocketAddr {
        self.remote.address()
    }

    /// Why the network thinks that nobody is there, if it does.
    pub const fn unreachable(&self) -> Option<io::ErrorKind> {
        match self.reach {
            Reach::Unreachable(kind) => Some(kind),
            Reach::Unknown | Reach::Ambiguous => None,
        }
    }

    /// The transfer's state.
    pub const fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// The file's name as requested.
    pub fn name(&self) -> &[u8] {
        self.names
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
    }

    /// The file's name here, if that differs and is kept.
    pub fn served(&self) -> Option<&[u8]> {
        self.names.split(|byte| *byte == 0).nth(1)
    }

    /// Where a file that is being received goes, until it is in place.
    pub fn store(&mut self) -> Option<&mut S> {
        match &mut self.content {
            Content::Source(_) => None,
            Content::Sink(sink) => sink.store(),
        }
    }

    /// The file.
    pub const fn content(&self) -> &Content<S, R> {
        &self.content
    }

    /// Bytes of the file that have been acknowledged or stored.
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Sink(sink) => sink.stored(),
            Content::Source(source) => {
                let progress = self.transfer.progress();
                let sent = progress.blocks * u64::from(progress.block_size);
                sent.min(source.length().unwrap_or(u64::MAX))
            }
        }
    }

    /// What the client asked for.
    pub const fn direction(&self) -> Direction {
        match &self.content {
            Content::Source(_) => Direction::Read,
            Content::Sink(_) => Direction::Write,
        }
    }

    /// Bytes to be moved in all, where that is known.
    pub fn size(&self) -> Option<u64> {
        match &self.content {
            Content::Source(source) => source.length(),
            Content::Sink(_) => self.transfer.negotiated().tsize,
        }
    }

    /// How long an answer takes at most, unless the peer has paused.
    fn longest_answer(&self) -> Duration {
        let usual = self.transfer.round_trip().unwrap_or_default() * USUAL;
        usual.max(PAUSE)
    }

    /// Notes that its request waited so long before it began.
    pub fn note_wait_before(&mut self, took: Duration) {
        self.file_wait.waited_before(took);
    }

    /// How long it has waited so far, and for what.
    pub fn waited(&self) -> Waited {
        self.file_wait.waited()
    }

    /// How long the peer has paused, if it has: at `now` it still owes the answer to
    /// what was sent at `asked`.
    #[cold]
    fn pause_since(&self, asked: Instant, now: Instant) -> Option<Duration> {
        let took = now.saturating_duration_since(asked);
        (took > self.longest_answer()).then_some(took)
    }

    /// What it is doing.
    pub fn phase(&self, now: Instant) -> Phase {
        let longest = self.longest_answer();
        let is_late = |since| now.saturating_duration_since(since) > longest;
        let progress = self.transfer.progress();
        if self.has_ended() {
            Phase::Dallying
        } else if self.file_wait.is_for_file() {
            Phase::WaitsForDisk
        } else if !progress.verified && progress.blocks == 0 {
            Phase::Opening
        } else if !self.file_wait.is_on() && self.transfer.waiting_since().is_some_and(is_late) {
            Phase::WaitsForClient
        } else {
            Phase::Moving
        }
    }

    /// Whether it waits for its file.
    pub fn waits_for_file(&self) -> bool {
        self.file_wait.is_for_file()
    }

    /// How the transfer ended; told once. It may go on dallying.
    pub fn poll_outcome(&mut self) -> Option<Outcome> {
        let outcome = self.transfer.poll_event();
        match outcome {
            None => {}
            Some(Outcome::Failed(_)) => self.end = End::Failed,
            Some(_) => self.end = End::Told,
        }
        outcome
    }

    /// The transfer has ended, and its outcome has been told.
    pub const fn has_ended(&self) -> bool {
        !matches!(self.end, End::None)
    }

    /// Nothing is left to do for this session.
    pub fn is_closed(&self) -> bool {
        // An ERROR that the port won't take is not worth waiting for.
        self.transfer.is_closed() || (self.blocked && matches!(self.end, End::Failed))
    }

    /// Whether the client's request would be answered again if it came again at `now`.
    pub fn answers_repeated_request(&self, now: Instant) -> bool {
        self.transfer.answers_repeated_request(now)
    }

    /// The client sent its request once more.
    pub fn handle_repeated_request(&mut self, now: Instant) {
        self.transfer.handle_repeated_request(now);
    }

    /// Ends the transfer from our side; the peer is told why.
    pub fn abort(&mut self, failure: Failure) {
        self.transfer.abort(failure);
    }

    /// Does what there is to do: takes in what has arrived, answers, reads ahead.
    pub fn run(&mut self, context: &mut Context<'_, P>) -> Turn {
        let taken = self.take_in(context);
        self.answer(&taken, context)
    }

    /// The first half of [`Session::run`]: takes in what has arrived, and writes it. Other
    /// sessions may have turns before the second.
    pub fn take_in(&mut self, context: &mut Context<'_, P>) -> TakenIn {
        let pending = self.pending(context.now);
        let received = self.receive(context);
        self.finish_taking_in(received, pending, context)
    }

    /// [`Session::run`] for datagrams that came on a shared port: those in the slots
    /// `received` of the batch.
    pub fn run_shared(&mut self, received: Range<usize>, context: &mut Context<'_, P>) -> Turn {
        let pending = self.pending(context.now);
        self.take(received, context);
        let taken = self.finish_taking_in(Turn::Waiting, pending, context);
        self.answer(&taken, context)
    }

    /// What the peer has to answer at `now`; asked before looking whether it has.
    fn pending(&self, now: Instant) -> Pending {
        let since = self.transfer.waiting_since();
        // Nearly all answers come sooner, and cost no more than this comparison.
        let paused = match since {
            Some(since) if now > since + PAUSE => self.pause_since(since, now),
            _ => None,
        };
        Pending { since, paused }
    }

    /// Writes what has been taken in, and notes whether the peer paused before sending
    /// it.
    fn finish_taking_in(
        &mut self,
        received: Turn,
        pending: Pending,
        context: &mut Context<'_, P>,
    ) -> TakenIn {
        if let Some(took) = pending.paused
            && self.transfer.waiting_since() != pending.since
        {
            self.file_wait.paused(took);
        }
        // At once: a failure has to be reported, and other sessions use the buffer.
        self.flush(context);
        TakenIn {
            received,
            asked: pending.since,
        }
    }

    /// The second half of [`Session::run`]: answers, and reads ahead.
    pub fn answer(&mut self, taken: &TakenIn, context: &mut Context<'_, P>) -> Turn {
        let sent = self.transmit(context);
        if !self.blocked && !self.file_wait.is_on() && self.prefetched.is_none() {
            self.prefetch(taken.asked, context);
        }
        taken.received.and(sent)
    }

    /// [`Session::run`] when the deadline may have come: an answer that has already
    /// arrived comes first.
    pub fn run_deadline(&mut self, context: &mut Context<'_, P>) -> Turn {
        let taken = self.take_in(context);
        // The time that the disk takes isn't charged to the peer: its wait begins when
        // the blocks are sent.
        if self.misses_answer(context.now) {
            // What arrived is answered first, and the wait for more begins then.
            self.transmit(context);
            self.transfer.handle_timeout(context.now);
        }
        if self.held_until().is_some_and(|until| until <= context.now) {
            self.drop_prefetched(&mut context.resources.pool);
        }
        self.answer(&taken, context)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.transfer.poll_timeout().is_some_and(|at| at <= now)
    }

    /// Whether its peer's answer is late. The answer may have arrived where the loop
    /// hasn't looked yet.
    pub fn misses_answer(&self, now: Instant) -> bool {
        !self.file_wait.is_on() && self.is_due(now)
    }

    /// Reads what comes next while the answer is on its way. `asked`: when the packet
    /// that has just been answered was sent.
    #[inline(never)] // Rare: one read serves several turns.
    fn prefetch(&mut self, asked: Option<Instant>, context: &mut Context<'_, P>) {
        if let Content::Source(source) = &mut self.content
            && prefetch::is_worthwhile(
                self.transfer.progress(),
                source.sharing_key(),
                asked,
                context.now,
            )
            && let Some(run) = self.transfer.upcoming()
        {
            self.prefetched = context.resources.pool.read(context.now, source, run);
        }
    }

    /// Closes its file until it is read again, if that was allowed. For a peer that has
    /// never answered.
    pub fn close_file(&mut self) {
        if let Content::Source(source) = &mut self.content
            && !self.file_wait.is_on()
        {
            source.close();
        }
    }

    /// Holds back a session that moves too fast: it goes on at `until`. The peer has
    /// nothing to answer meanwhile.
    pub fn pause(&mut self, until: Instant) {
        self.file_wait.pause(until);
    }

    /// Whether its file was closed and there is no descriptor to open it again.
    pub fn lacks_descriptor(&self) -> bool {
        self.file_wait.is_for_file()
            && matches!(&self.content, Content::Source(it) if !it.is_open())
    }

    /// When it gives back what was read ahead, if it doesn't move before then.
    fn held_until(&self) -> Option<Instant> {
        let prefetched = self.prefetched.as_ref()?;
        Some(prefetched.held_until(self.transfer.waiting_since()))
    }

    /// Gives back what was read ahead: the transfer isn't moving.
    pub fn drop_prefetched(&mut self, pool: &mut PrefetchPool) {
        if let Some(prefetched) = self.prefetched.take() {
            pool.give_back(prefetched);
        }
    }

    /// A socket error, ICMP's included, costs this one datagram; the retransmission
    /// timer decides whether the peer can be reached at all.
    fn trouble(&mut self, verb: &str, error: &io::Error, drops: &mut DropCounters) {
        drops.socket_errors += 1;
        if is_unreachable(error) && !matches!(self.reach, Reach::Ambiguous) {
            self.reach = Reach::Unreachable(error.kind());
        }
        debug!("{}: cannot {verb}: {error}", self.peer());
    }
}

impl<S: Store, R: ReadAt> Session<TransferSocket, S, R> {
    /// Whether it shares its port with other sessions.
    pub const fn shares_its_port(&self) -> bool {
        self.port.is_shared()
    }

    /// Whether it waits for room in a socket that is a share of `listener`.
    pub fn is_blocked_by(&self, listener: &ListenSocket) -> bool {
        self.waits_for_room() && self.port.shares(listener)
    }
}

/// Whether the network said that nobody is there.
fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}
