//! One session: the slot that ties a transfer to its socket and its file, the
//! server's as well as the client's.
//!
//! Turns readiness into `handle_*` and `poll_*` calls in the order the protocol
//! core asks for, within a budget, so that no session holds up the others. May
//! not: admit, remove or time sessions; report their end.

mod disk;
mod prefetch;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use log::debug;
use mio::{Interest, Registry, Token};

use self::disk::DiskWait;
pub use self::prefetch::PrefetchPool;
use self::prefetch::Prefetched;
use crate::file::content::{FileSink, FileSource, MAX_RUN, Store};
use crate::file::{Upload, WriteBuffer};
use crate::host::clock;
use crate::net::{
    Batch, ListenSocket, MAX_COALESCED, MAX_DATA_PACKET, MAX_SEGMENTS, MAX_SEND, RunSent,
    TransferSocket,
};
use crate::protocol::transfer::{
    BlockSource, Failure, Filled, NoSink, Outcome, Run, Sent, Transfer, Transmit,
};
use crate::table::Tracked;
use crate::table::rate::RateLimit;
use crate::wire::packet::{DATA_HEADER_LEN, ErrorCode, MAX_ERROR_LEN, Packet, emit_error};

/// Datagrams a session may take in before the others have their turn.
const RECEIVE_BUDGET: usize = 64;

/// Datagrams that a failed receive counts for: a few tries, then the others.
const ERROR_COST: usize = RECEIVE_BUDGET / 4;

/// Bytes a session may send before the others have their turn.
pub const SEND_BUDGET: usize = 256 * 1024;

/// Bytes of the longest datagram that means anything to a sender: an OACK or an
/// ERROR. What is longer is cut, which an ACK (Windows appends a byte) doesn't
/// mind.
const ANSWER_LEN: usize = 516;

/// Answers a second to nonsense: malformed requests and strangers.
pub const NONSENSE_ANSWERS: u32 = 100;

/// Datagrams received with one call at most.
const BATCH_SLOTS: usize = 64;

/// Bytes that a batch of received datagrams takes: 64 requests of up to 4 KiB,
/// or a few of the largest blocks.
const BATCH_BYTES: usize = 256 * 1024;

// The buffers hold the largest of what they are for, and one call sends a run.
const _: () = assert!(BATCH_BYTES > MAX_DATA_PACKET && MAX_DATA_PACKET <= MAX_SEND);
const _: () = assert!(MAX_RUN <= MAX_SEGMENTS);

/// What a session costs in memory, in bytes, beside its place in the table: a
/// budget, so that it doesn't grow unnoticed.
const _: () = assert!(size_of::<Session>() <= 376);

/// The file behind a transfer.
#[derive(Debug)]
pub enum Content<S> {
    /// It is being sent.
    Source(FileSource),
    /// It is being received.
    Sink(Box<FileSink<S>>),
}

/// Never seen by anyone: a sender stores nothing, a receiver reads nothing.
const WRONG_WAY: Failure = Failure::new(ErrorCode::IllegalOperation, "Illegal TFTP operation");

/// Whether a session has more to do without waiting for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It waits for a datagram, for room in its socket, for the disk, or for its
    /// deadline.
    Waiting,
    /// Its budget is spent, its work isn't.
    Unfinished,
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
    /// Of two things tried: whether there is more to do.
    const fn and(self, other: Self) -> Self {
        match self {
            Self::Unfinished => self,
            Self::Waiting => other,
        }
    }
}

/// What the network said about the peer. A client's socket learns what became of
/// its requests.
#[derive(Debug, Clone, Copy)]
enum Reach {
    Unknown,
    /// Nobody is there.
    Unreachable(io::ErrorKind),
    /// Strangers were sent an ERROR, and one of them may be who isn't there: the
    /// kernel doesn't say.
    Ambiguous,
}

/// A transfer with its socket and its file. `S` is where a received file goes.
#[derive(Debug)]
pub struct Session<S = Upload> {
    transfer: Transfer,
    content: Content<S>,
    /// What is expected to be sent next.
    prefetched: Option<Box<Prefetched>>,
    /// The file wasn't ready when the next run was due.
    disk: Option<Box<DiskWait>>,
    socket: TransferSocket,
    remote: Remote,
    /// The socket was full; its being writable is awaited.
    blocked: bool,
    /// Already on the list of sessions that want another turn.
    pub queued: bool,
    ended: bool,
    reach: Reach,
    /// When it began.
    pub started: Instant,
    /// The file's name as the request has it.
    pub name: Box<[u8]>,
}

impl<S: Store> Tracked for Session<S> {
    fn deadline(&self) -> Option<Instant> {
        // While the disk is waited for the peer has nothing to answer.
        let own = match &self.disk {
            Some(wait) => wait.until(),
            None => self.transfer.poll_timeout(),
        };
        let held = self
            .prefetched
            .as_ref()
            .map(|prefetched| prefetched.until());
        [own, held].into_iter().flatten().min()
    }

    fn is_over(&self) -> bool {
        self.transfer.is_over()
    }

    fn unverified_since(&self) -> Option<Instant> {
        (!self.transfer.progress().verified).then_some(self.started)
    }
}

impl<S: Store> Session<S> {
    /// A session that has yet to be registered.
    pub fn new(
        transfer: Transfer,
        content: Content<S>,
        socket: TransferSocket,
        remote: Remote,
        name: &[u8],
        now: Instant,
    ) -> Self {
        Self {
            transfer,
            content,
            prefetched: None,
            disk: None,
            socket,
            remote,
            blocked: false,
            queued: false,
            ended: false,
            reach: Reach::Unknown,
            started: now,
            name: name.into(),
        }
    }

    /// Has `registry` report under `token` that something arrived.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.watch(registry, token, Interest::READABLE)
    }

    /// Its TID is the listen port.
    pub const fn shares_its_port(&self) -> bool {
        self.socket.is_shared()
    }

    /// Waits for room in a socket that is a share of `listener`.
    pub fn is_blocked_by(&self, listener: &ListenSocket) -> bool {
        // Who waits for the disk meanwhile doesn't want the room.
        self.blocked && self.disk.is_none() && self.socket.shares(listener)
    }

    /// Its socket, when the session is over.
    pub fn into_socket(self) -> TransferSocket {
        self.socket
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

    /// Where a file that is being received goes, until it is in place.
    pub fn store(&mut self) -> Option<&mut S> {
        match &mut self.content {
            Content::Source(_) => None,
            Content::Sink(sink) => sink.store(),
        }
    }

    /// The file.
    pub const fn content(&self) -> &Content<S> {
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

    /// How the transfer ended; told once. It may go on dallying.
    pub fn poll_outcome(&mut self) -> Option<Outcome> {
        let outcome = self.transfer.poll_event();
        self.ended |= outcome.is_some();
        outcome
    }

    /// The transfer has ended, and its outcome has been told.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Nothing is left to do for this session.
    pub fn is_closed(&self) -> bool {
        // An ERROR that the socket won't take is not worth waiting for.
        self.transfer.is_closed() || (self.blocked && self.ended && !self.is_dallying())
    }

    fn is_dallying(&self) -> bool {
        self.transfer.is_over() && self.transfer.poll_timeout().is_some()
    }

    /// The client sent its request once more.
    pub fn handle_repeated_request(&mut self, now: Instant) {
        self.transfer.handle_repeated_request(now);
    }

    /// Whether the client, if it repeats its request at `now`, has started over;
    /// one that we keep waiting for the disk is only impatient.
    pub fn is_abandoned(&self, now: Instant) -> bool {
        self.disk.is_none() && self.transfer.is_abandoned(now)
    }

    /// We can't go on.
    pub fn abort(&mut self, failure: Failure) {
        self.transfer.abort(failure);
    }

    /// Does what there is to do: takes in what has arrived, answers, reads ahead.
    pub fn run(&mut self, context: &mut Context<'_>) -> Turn {
        let asked = self.transfer.waiting_since();
        let received = self.receive(context);
        let sent = self.transmit(context);
        self.prefetch(asked, context);
        received.and(sent)
    }

    /// The same when the deadline may have come: an answer that is there already
    /// beats it.
    pub fn run_deadline(&mut self, context: &mut Context<'_>) -> Turn {
        let received = self.receive(context);
        // The time that the disk takes is not the peer's: its wait begins anew with
        // what is sent then.
        if self.disk.is_none() {
            self.transfer.handle_timeout(context.now);
        }
        if self
            .prefetched
            .as_ref()
            .is_some_and(|prefetched| prefetched.until() <= context.now)
        {
            self.drop_prefetched(&mut context.resources.pool);
        }
        received.and(self.transmit(context))
    }

    /// Takes in what has arrived, answering each datagram before the next.
    fn receive(&mut self, context: &mut Context<'_>) -> Turn {
        match self.content {
            Content::Source(_) => self.receive_answers(context),
            Content::Sink(_) => self.receive_blocks(context),
        }
    }

    /// Receives until an answer moves the transfer on. What may lie behind that
    /// one is next to never of use: it is looked at with the next event, which
    /// goes on to the one that is, or before the deadline strikes. So in lockstep
    /// no call is spent on learning that there is nothing more.
    fn receive_answers(&mut self, context: &mut Context<'_>) -> Turn {
        let mut answer = [0; ANSWER_LEN];
        let mut taken = 0;
        while taken < RECEIVE_BUDGET {
            let (len, sender) = match self.socket.receive_one(&mut answer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Waiting,
                Err(error) => {
                    self.trouble("receive", &error, &mut context.resources.ingress.drops);
                    taken += ERROR_COST;
                    if taken >= RECEIVE_BUDGET {
                        return Turn::Waiting;
                    }
                    continue;
                }
            };
            taken += 1;
            let budget = context.send_budget;
            if let Some(packet) = self.accept(
                context.now,
                sender,
                &answer[..len],
                &mut context.resources.ingress,
            ) {
                self.transfer
                    .handle_packet(context.now, &packet, &mut NoSink);
                self.transmit(context);
            }
            if context.send_budget < budget || self.transfer.is_over() {
                return Turn::Waiting;
            }
        }
        Turn::Unfinished
    }

    /// Receives blocks by the window; they are written by the run.
    fn receive_blocks(&mut self, context: &mut Context<'_>) -> Turn {
        let mut taken = 0;
        let turn = loop {
            // What the OACK before settled holds for what comes behind it.
            let progress = self.transfer.progress();
            // One byte more shows a block that is larger than agreed.
            let slot_len = DATA_HEADER_LEN + usize::from(progress.block_size) + 1;
            let (slot_len, slots) = match progress.window_size {
                _ if self.socket.coalesces() => (MAX_COALESCED, BATCH_BYTES / MAX_COALESCED),
                // Nothing comes behind it before it is acknowledged.
                1 => (slot_len, 1),
                // One slot more shows that the socket is empty.
                window_size => (slot_len, usize::from(window_size) + 1),
            };
            let resources = &mut *context.resources;
            let received = match self.socket.receive(&mut resources.batch, slot_len, slots) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Turn::Waiting,
                // Of the moment (no memory) or of an earlier datagram: what has
                // arrived since raises no new event.
                Err(error) => {
                    self.trouble("receive", &error, &mut resources.ingress.drops);
                    taken += ERROR_COST;
                    if taken >= RECEIVE_BUDGET {
                        break Turn::Waiting;
                    }
                    continue;
                }
            };
            for index in 0..received {
                taken += self.handle_blocks(index, context);
            }
            let has_moved = self.transfer.progress().blocks > progress.blocks;
            if received < context.resources.batch.capacity(slot_len, slots)
                || (slots == 1 && has_moved)
            {
                break Turn::Waiting;
            }
            if taken >= RECEIVE_BUDGET {
                break Turn::Unfinished;
            }
        };
        self.flush(context);
        turn
    }

    /// [`Session::run`] with what was received for it on a shared socket and lies
    /// in the batch in the slots `received`: each is answered before the next.
    pub fn run_shared(&mut self, received: Range<usize>, context: &mut Context<'_>) -> Turn {
        let asked = self.transfer.waiting_since();
        for index in received {
            match self.content {
                Content::Source(_) => self.handle_answer(index, context),
                Content::Sink(_) => {
                    self.handle_blocks(index, context);
                }
            }
        }
        self.flush(context);
        let sent = self.transmit(context);
        self.prefetch(asked, context);
        sent
    }

    fn handle_answer(&mut self, index: usize, context: &mut Context<'_>) {
        let Resources { batch, ingress, .. } = &mut *context.resources;
        if let Some(datagram) = batch.get(index)
            && let Some(packet) = self.accept(context.now, datagram.peer, datagram.payload, ingress)
        {
            self.transfer
                .handle_packet(context.now, &packet, &mut NoSink);
            self.transmit(context);
        }
    }

    /// Handles what was received as one, and may be several datagrams; returns
    /// how many.
    fn handle_blocks(&mut self, index: usize, context: &mut Context<'_>) -> usize {
        let (mut taken, mut next) = (0, Some(0));
        while let Some(from) = next {
            taken += 1;
            next = self.handle_block(index, from, context);
        }
        taken
    }

    /// Handles the datagram that starts `from` bytes into what was received as
    /// one; tells where the next one starts.
    fn handle_block(
        &mut self,
        index: usize,
        from: usize,
        context: &mut Context<'_>,
    ) -> Option<usize> {
        let Resources {
            batch,
            write_buffer,
            ingress,
            ..
        } = &mut *context.resources;
        let received = batch.get(index)?;
        let rest = received.payload.get(from..)?;
        let len = received
            .segment
            .map_or(rest.len(), |segment| rest.len().min(segment.into()));
        let next = (len < rest.len()).then_some(from + len);
        let packet = self.accept(context.now, received.peer, &rest[..len], ingress);
        if let (Some(packet), Content::Sink(file)) = (packet, &mut self.content) {
            let sink = &mut write_buffer.sink_for(file);
            self.transfer.handle_packet(context.now, &packet, sink);
            self.transmit(context);
        }
        next
    }

    /// Writes out what was gathered; what can't be written ends the transfer.
    fn flush(&mut self, context: &mut Context<'_>) {
        if let Content::Sink(file) = &mut self.content {
            let sink = &mut context.resources.write_buffer.sink_for(file);
            self.transfer.flush(sink);
        }
    }

    /// The packet in a datagram, if it is the peer's and makes sense. Strangers
    /// are turned away, the rest is counted.
    fn accept<'d>(
        &mut self,
        now: Instant,
        sender: SocketAddr,
        datagram: &'d [u8],
        ingress: &mut Ingress,
    ) -> Option<Packet<'d>> {
        let packet = Packet::parse(datagram);
        if !self.is_from_peer(sender, packet.as_ref().ok()) {
            ingress.drops.strangers += 1;
            if matches!(packet, Ok(Packet::Error { .. })) {
                // Never answered (RFC 1350 §7).
            } else if ingress.nonsense.take(now) {
                self.turn_away(sender);
            } else {
                ingress.drops.unanswered += 1;
            }
            return None;
        }
        if let Some(trace) = ingress.trace {
            trace(sender, Heading::Received, datagram);
        }
        match packet {
            Ok(packet) => Some(packet),
            Err(error) => {
                ingress.drops.garbage += 1;
                debug!("{sender}: dropped a datagram: {error}");
                None
            }
        }
    }

    /// Whether a datagram is the peer's. The first that answers the request, from
    /// the address that was asked, tells whose port to listen to from then on.
    fn is_from_peer(&mut self, sender: SocketAddr, packet: Option<&Packet<'_>>) -> bool {
        match self.remote {
            Remote::Known(peer) => sender == peer,
            Remote::Asked(server) => {
                let is_answer = match (packet, &self.content) {
                    (Some(Packet::Oack(_) | Packet::Error { .. }), _) => true,
                    (Some(Packet::Data { block, .. }), Content::Sink(_)) => block.0 == 1,
                    (Some(Packet::Ack(block)), Content::Source(_)) => block.0 == 0,
                    _ => false,
                };
                let answers = sender.ip() == server.ip() && is_answer;
                if answers {
                    self.remote = Remote::Known(sender);
                }
                answers
            }
        }
    }

    /// RFC 1350 §4: a stranger is told so, and nothing else changes.
    fn turn_away(&mut self, stranger: SocketAddr) {
        self.reach = Reach::Ambiguous;
        let mut packet = [0; MAX_ERROR_LEN];
        let text = "Unknown transfer ID";
        let len = emit_error(ErrorCode::UnknownTransferId, text, &mut packet);
        let _ = self.socket.send_to(&packet[..len], stranger);
    }

    /// Sends what is due, until the budget, the socket or the work is spent.
    pub fn transmit(&mut self, context: &mut Context<'_>) -> Turn {
        loop {
            match self.poll_transmit(context.resources) {
                None => {
                    self.disk = None;
                    if std::mem::take(&mut self.blocked) {
                        self.watch(Interest::READABLE, context);
                    }
                    return Turn::Waiting;
                }
                Some(Transmit::Datagram(len)) => {
                    self.disk = None;
                    if !self.send_datagram(len, context) {
                        return Turn::Waiting;
                    }
                }
                Some(Transmit::Blocks(_)) if context.send_budget == 0 => return Turn::Unfinished,
                Some(Transmit::Blocks(run)) => match self.send_blocks(run, context) {
                    None => return Turn::Waiting,
                    Some(bytes) => context.send_budget = context.send_budget.saturating_sub(bytes),
                },
            }
        }
    }

    fn poll_transmit(&mut self, resources: &mut Resources) -> Option<Transmit> {
        let buffer = &mut resources.buffer;
        match &mut self.content {
            Content::Source(_) => self.transfer.poll_transmit(&mut NoSink, buffer),
            Content::Sink(file) => {
                let sink = &mut resources.write_buffer.sink_for(file);
                self.transfer.poll_transmit(sink, buffer)
            }
        }
    }

    /// Sends the datagram that lies in the buffer; false if the socket is full.
    fn send_datagram(&mut self, len: usize, context: &mut Context<'_>) -> bool {
        let datagram = &context.resources.buffer[..len];
        if let Some(trace) = context.resources.ingress.trace {
            trace(self.peer(), Heading::Sent, datagram);
        }
        match self.socket.send_to(datagram, self.peer()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait_for_room(context);
                return false;
            }
            Err(error) => self.trouble("send", &error, &mut context.resources.ingress.drops),
            Ok(()) => {}
        }
        self.transfer.handle_sent(clock::now(), Sent::Datagram);
        true
    }

    /// Sends a run of blocks, read ahead or read now; returns the bytes sent, or
    /// `None` if the socket is full or the file isn't ready.
    fn send_blocks(&mut self, run: Run, context: &mut Context<'_>) -> Option<usize> {
        let prefetched = self.prefetched.take();
        let bytes = self.send_run(run, prefetched.as_deref(), context);
        if let Some(prefetched) = prefetched {
            let next = self.transfer.upcoming();
            self.prefetched = context
                .resources
                .pool
                .keep(context.now, prefetched, &run, next);
        }
        bytes
    }

    fn send_run(
        &mut self,
        run: Run,
        prefetched: Option<&Prefetched>,
        context: &mut Context<'_>,
    ) -> Option<usize> {
        let Content::Source(source) = &mut self.content else {
            self.transfer.abort(WRONG_WAY);
            return Some(0);
        };
        if self
            .disk
            .as_ref()
            .is_some_and(|wait| wait.is_spent(context.now))
        {
            source.wait();
        }
        let buffer = &mut context.resources.buffer;
        let ready = match prefetched.and_then(|prefetched| prefetched.get(&run)) {
            Some(found) => Ok(Some(found)),
            None => source
                .read_run(run, buffer)
                .map(|filled| filled.map(|filled| (&buffer[..filled.bytes], filled))),
        };
        let (bytes, filled) = match ready {
            Ok(Some(ready)) => ready,
            Ok(None) => {
                let fetched = source.fetch();
                self.disk
                    .get_or_insert_default()
                    .go_on(context.now, fetched);
                return None;
            }
            Err(failure) => {
                self.transfer.abort(failure);
                return Some(0);
            }
        };
        self.disk = None;
        let Filled { blocks, end, .. } = filled;
        let peer = self.remote.address();
        if let Some(trace) = context.resources.ingress.trace {
            bytes
                .chunks(run.segment_size())
                .for_each(|block| trace(peer, Heading::Sent, block));
        }
        match self.socket.send_run(bytes, run.segment_size(), peer) {
            Ok(RunSent::Blocked { segments }) => {
                if segments > 0 {
                    let sent = Sent::Blocks {
                        count: segments,
                        end: false,
                    };
                    self.transfer.handle_sent(clock::now(), sent);
                }
                self.wait_for_room(context);
                return None;
            }
            Ok(RunSent::All) => {}
            Err(error) => self.trouble("send", &error, &mut context.resources.ingress.drops),
        }
        self.transfer
            .handle_sent(clock::now(), Sent::Blocks { count: blocks, end });
        Some(filled.bytes)
    }

    /// Reads what comes next while the answer is on its way; `asked` is when what
    /// has just been answered was sent.
    fn prefetch(&mut self, asked: Option<Instant>, context: &mut Context<'_>) {
        if !prefetch::is_worthwhile(self.transfer.progress(), asked, context.now) {
            return;
        }
        if let (Content::Source(source), None, None, false) = (
            &mut self.content,
            &self.prefetched,
            &self.disk,
            self.blocked,
        ) && let Some(run) = self.transfer.upcoming()
        {
            self.prefetched = context.resources.pool.read(context.now, source, run);
        }
    }

    /// Gives back what was read ahead: the transfer isn't moving.
    pub fn drop_prefetched(&mut self, pool: &mut PrefetchPool) {
        if let Some(prefetched) = self.prefetched.take() {
            pool.give_back(prefetched);
        }
    }

    /// A socket's error costs this one datagram; the retransmission timer
    /// decides whether the peer can be reached at all.
    fn trouble(&mut self, verb: &str, error: &io::Error, drops: &mut DropCounters) {
        drops.socket_errors += 1;
        if is_unreachable(error) && !matches!(self.reach, Reach::Ambiguous) {
            self.reach = Reach::Unreachable(error.kind());
        }
        debug!("{}: cannot {verb}: {error}", self.peer());
    }

    fn wait_for_room(&mut self, context: &Context<'_>) {
        if !std::mem::replace(&mut self.blocked, true) {
            self.watch(Interest::READABLE | Interest::WRITABLE, context);
        }
    }

    fn watch(&mut self, interest: Interest, context: &Context<'_>) {
        if let Err(error) = self.socket.watch(context.registry, context.token, interest) {
            debug!("{}: cannot watch its socket: {error}", self.peer());
        }
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

/// What the loop lends to the session whose turn it is.
#[derive(Debug)]
pub struct Context<'a> {
    /// What time it is for this session's turn: read when the turn began, so
    /// that a wait counted from here never ends early.
    pub now: Instant,
    /// What sessions share.
    pub resources: &'a mut Resources,
    /// Where the session's socket is watched.
    pub registry: &'a Registry,
    /// The session's token there.
    pub token: Token,
    /// Bytes of DATA that may still be sent in this turn.
    pub send_budget: usize,
}

/// Buffers and bounds that one loop has for all its sessions.
#[derive(Debug)]
pub struct Resources {
    /// What was received.
    pub batch: Batch,
    /// What is being sent; holds the longest run.
    pub buffer: Box<[u8]>,
    /// What was read ahead.
    pub pool: PrefetchPool,
    /// What was received and is not yet written.
    pub write_buffer: WriteBuffer,
    /// What keeps an eye on what arrives.
    pub ingress: Ingress,
}

/// Bounds, counts and shows what comes from outside.
#[derive(Debug)]
pub struct Ingress {
    /// How much nonsense may still be answered this second.
    pub nonsense: RateLimit,
    /// What went wrong beside the transfers.
    pub drops: DropCounters,
    /// Who is shown every packet, if anyone.
    pub trace: Option<Trace>,
}

impl Resources {
    /// Everything that a loop needs, from `now` on; `trace` is shown every packet.
    pub fn new(now: Instant, trace: Option<Trace>) -> Self {
        Self {
            batch: Batch::new(BATCH_SLOTS, BATCH_BYTES),
            buffer: vec![0; MAX_SEND].into_boxed_slice(),
            pool: PrefetchPool::default(),
            write_buffer: WriteBuffer::default(),
            ingress: Ingress {
                nonsense: RateLimit::new(NONSENSE_ANSWERS, now),
                drops: DropCounters::default(),
                trace,
            },
        }
    }
}

/// Is shown the peer, the way it goes and the datagram.
pub type Trace = fn(SocketAddr, Heading, &[u8]);

/// Which way a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    /// From us.
    Sent,
    /// To us.
    Received,
}

impl fmt::Display for Heading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "sent",
            Self::Received => "received",
        })
    }
}

/// What sessions met that was no part of their transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DropCounters {
    /// Datagrams from someone else on a transfer's port.
    pub strangers: u64,
    /// Answers to nonsense left out because there was too much of it.
    pub unanswered: u64,
    /// Datagrams on a transfer's port that were no TFTP, dropped.
    pub garbage: u64,
    /// Errors of the kernel's while sending or receiving.
    pub socket_errors: u64,
}
