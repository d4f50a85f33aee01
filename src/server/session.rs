//! One session: the slot that ties a transfer to its socket and its file.
//!
//! Turns readiness into `handle_*` and `poll_*` calls in the order the protocol
//! core asks for, within a budget, so that no session holds up the others. May
//! not: admit, remove or time sessions; log their end.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::{debug, trace};
use mio::{Interest, Registry, Token};

use super::ahead::{Ahead, Pool};
use super::counters::Counters;
use super::gather::Gather;
use super::{Allowance, clock};
use crate::content::{FileSink, FileSource};
use crate::protocol::transfer::{
    BlockSink, BlockSource, Failure, Filled, Outcome, Run, Sent, Transfer, Transmit,
};
use crate::sessions::Tenant;
use crate::socket::{Batch, RunSent, TransferSocket};
use crate::wire::packet::{DATA_HEADER_LEN, Direction, ErrorCode, Packet, emit_error};

/// Datagrams a session may take in before the others have their turn.
const RECEIVE_BUDGET: usize = 64;

/// Datagrams that a failed receive counts for: a few tries, then the others.
const ERROR_COST: usize = RECEIVE_BUDGET / 4;

/// Answers that a sender finds waiting at once, as a rule.
const EXPECTED_ANSWERS: usize = 3;

/// Bytes a session may send before the others have their turn.
pub(super) const SEND_BUDGET: usize = 256 * 1024;

/// Bytes of the longest datagram that means anything to a sender: an ERROR.
/// What is longer is cut, which an ACK (Windows appends a byte) doesn't mind.
const ANSWER_LEN: usize = 516;

/// The file behind a transfer.
#[derive(Debug)]
pub(super) enum Content {
    Source(FileSource),
    Sink(Box<FileSink>),
}

/// What a sender is given: it has nothing to store.
struct NoSink;

impl BlockSink for NoSink {
    fn write(&mut self, _: &[u8]) -> Result<(), Failure> {
        Err(WRONG_WAY)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        Err(WRONG_WAY)
    }
}

/// Never seen by anyone: a sender stores nothing, a receiver reads nothing.
const WRONG_WAY: Failure = Failure::new(ErrorCode::IllegalOperation, "Illegal TFTP operation");

/// Whether a session has more to do without waiting for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It waits for a datagram, for room in its socket, or for its deadline.
    Waiting,
    /// Its budget is spent, its work isn't.
    Unfinished,
}

/// A transfer with its socket and its file.
#[derive(Debug)]
pub(super) struct Session {
    transfer: Transfer,
    content: Content,
    /// The run that is expected to be sent next.
    ahead: Option<Box<Ahead>>,
    socket: TransferSocket,
    peer: SocketAddr,
    /// The socket was full; its being writable is awaited.
    blocked: bool,
    /// Already on the list of sessions that want another turn.
    pub(super) queued: bool,
    ended: bool,
    pub(super) started: Instant,
    /// The file's name as the client wrote it.
    pub(super) name: Box<[u8]>,
}

impl Tenant for Session {
    fn deadline(&self) -> Option<Instant> {
        let held = self.ahead.as_ref().map(|ahead| ahead.until());
        [self.transfer.poll_timeout(), held]
            .into_iter()
            .flatten()
            .min()
    }

    fn is_over(&self) -> bool {
        self.transfer.is_over()
    }

    fn unverified_since(&self) -> Option<Instant> {
        (!self.transfer.progress().verified).then_some(self.started)
    }
}

impl Session {
    pub(super) fn new(
        transfer: Transfer,
        content: Content,
        socket: TransferSocket,
        peer: SocketAddr,
        name: &[u8],
        now: Instant,
    ) -> Self {
        Self {
            transfer,
            content,
            ahead: None,
            socket,
            peer,
            blocked: false,
            queued: false,
            ended: false,
            started: now,
            name: name.into(),
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(self.socket.source(), token, Interest::READABLE)
    }

    pub(super) const fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(super) const fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    pub(super) const fn direction(&self) -> Direction {
        match self.content {
            Content::Source(_) => Direction::Read,
            Content::Sink(_) => Direction::Write,
        }
    }

    /// Bytes of the file that have been acknowledged (read) or stored (write).
    pub(super) fn bytes(&self) -> u64 {
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
    pub(super) fn poll_outcome(&mut self) -> Option<Outcome> {
        let outcome = self.transfer.poll_event();
        self.ended |= outcome.is_some();
        outcome
    }

    /// The transfer has ended, and its outcome has been told.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Nothing is left to do for this session.
    pub(super) fn is_closed(&self) -> bool {
        // An ERROR that the socket won't take is not worth waiting for.
        self.transfer.is_closed() || (self.blocked && self.ended && !self.is_dallying())
    }

    fn is_dallying(&self) -> bool {
        self.transfer.is_over() && self.transfer.poll_timeout().is_some()
    }

    /// The client sent its request once more.
    pub(super) fn handle_repeated_request(&mut self, now: Instant) {
        self.transfer.handle_repeated_request(now);
    }

    /// The deadline may have come.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.transfer.handle_timeout(now);
    }

    /// We can't go on.
    pub(super) fn abort(&mut self, failure: Failure) {
        self.transfer.abort(failure);
    }

    /// Takes in what has arrived, answering each datagram before the next.
    pub(super) fn receive(&mut self, shop: &mut Workshop<'_>) -> Turn {
        let (slot_len, slots) = self.slots();
        let mut taken = 0;
        let turn = loop {
            let received = match self.socket.receive(shop.batch, slot_len, slots) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Turn::Waiting,
                // Of the moment (no memory) or of an earlier datagram: what has
                // arrived since raises no new event.
                Err(error) => {
                    shop.counters.socket_errors += 1;
                    debug!("{}: cannot receive: {error}", self.peer);
                    taken += ERROR_COST;
                    if taken >= RECEIVE_BUDGET {
                        break Turn::Waiting;
                    }
                    continue;
                }
            };
            for index in 0..received {
                self.handle_datagram(index, shop);
            }
            taken += received;
            if received < shop.batch.capacity(slot_len, slots) {
                break Turn::Waiting;
            }
            if taken >= RECEIVE_BUDGET || shop.send_budget == 0 {
                break Turn::Unfinished;
            }
        };
        self.flush(shop);
        turn
    }

    /// How long the datagrams are that may come, and how many are expected at
    /// once: one more, so that a call can find the socket empty.
    fn slots(&self) -> (usize, usize) {
        match self.content {
            Content::Source(_) => (ANSWER_LEN, EXPECTED_ANSWERS + 1),
            // One byte more shows a block that is larger than agreed.
            Content::Sink(_) => {
                let progress = self.transfer.progress();
                let packet = DATA_HEADER_LEN + usize::from(progress.block_size);
                (packet + 1, usize::from(progress.window_size) + 1)
            }
        }
    }

    /// Writes out what was gathered; what can't be written ends the transfer.
    fn flush(&mut self, shop: &mut Workshop<'_>) {
        if let Content::Sink(file) = &mut self.content
            && let Err(failure) = shop.gather.flush(file)
        {
            self.transfer.abort(failure);
        }
    }

    fn handle_datagram(&mut self, index: usize, shop: &mut Workshop<'_>) {
        let Some(datagram) = shop.batch.get(index) else {
            return;
        };
        if datagram.peer != self.peer {
            shop.counters.strangers += 1;
            if is_error(datagram.payload) {
                return;
            }
            if shop.nonsense.take(shop.now) {
                let mut packet = [0; 64];
                let len = emit_error(
                    ErrorCode::UnknownTransferId,
                    "Unknown transfer ID",
                    &mut packet,
                );
                let _ = self.socket.send_to(&packet[..len], datagram.peer);
            } else {
                shop.counters.unanswered += 1;
            }
            return;
        }
        match Packet::parse(datagram.payload) {
            Ok(packet) => {
                trace!("{} received {packet}", self.peer);
                match &mut self.content {
                    Content::Source(_) => {
                        self.transfer.handle_packet(shop.now, &packet, &mut NoSink);
                    }
                    Content::Sink(file) => {
                        let sink = &mut shop.gather.into(file);
                        self.transfer.handle_packet(shop.now, &packet, sink);
                    }
                }
            }
            Err(error) => {
                shop.counters.garbage += 1;
                debug!("{}: dropped a datagram: {error}", self.peer);
                return;
            }
        }
        self.transmit(shop);
    }

    /// Sends what is due, until the budget, the socket or the work is spent.
    pub(super) fn transmit(&mut self, shop: &mut Workshop<'_>) -> Turn {
        loop {
            match self.transfer.poll_transmit(shop.buffer) {
                None => {
                    if std::mem::take(&mut self.blocked) {
                        self.watch(Interest::READABLE, shop);
                    }
                    return Turn::Waiting;
                }
                // No ACK before the data is in the file.
                Some(Transmit::Datagram(_)) if !shop.gather.is_empty() => self.flush(shop),
                Some(Transmit::Datagram(len)) => {
                    if !self.send_datagram(len, shop) {
                        return Turn::Waiting;
                    }
                }
                Some(Transmit::Blocks(_)) if shop.send_budget == 0 => return Turn::Unfinished,
                Some(Transmit::Blocks(run)) => match self.send_blocks(run, shop) {
                    None => return Turn::Waiting,
                    Some(bytes) => shop.send_budget = shop.send_budget.saturating_sub(bytes),
                },
            }
        }
    }

    /// Sends the datagram that lies in the buffer; false if the socket is full.
    fn send_datagram(&mut self, len: usize, shop: &mut Workshop<'_>) -> bool {
        if let Ok(packet) = Packet::parse(&shop.buffer[..len]) {
            trace!("{} sent {packet}", self.peer);
        }
        match self.socket.send_to(&shop.buffer[..len], self.peer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait_for_room(shop);
                return false;
            }
            Err(error) => self.lost(&error, shop.counters),
            Ok(()) => {}
        }
        self.transfer.handle_sent(clock(), Sent::Datagram);
        true
    }

    /// Sends a run of blocks, read ahead or read now; returns the bytes sent, or
    /// `None` if the socket is full or the file isn't ready.
    fn send_blocks(&mut self, run: Run, shop: &mut Workshop<'_>) -> Option<usize> {
        let ahead = self.ahead.take();
        let bytes = self.send_run(run, ahead.as_deref(), shop);
        if let Some(ahead) = ahead {
            shop.pool.give_back(ahead);
        }
        bytes
    }

    fn send_run(
        &mut self,
        run: Run,
        ahead: Option<&Ahead>,
        shop: &mut Workshop<'_>,
    ) -> Option<usize> {
        let Content::Source(source) = &mut self.content else {
            self.transfer.abort(WRONG_WAY);
            return Some(0);
        };
        let (bytes, filled) = match ahead.and_then(|ahead| ahead.get(&run)) {
            Some(found) => found,
            None => match source.read_run(run, shop.buffer) {
                Ok(filled) => filled.map(|filled| (&shop.buffer[..filled.bytes], filled))?,
                Err(failure) => {
                    self.transfer.abort(failure);
                    return Some(0);
                }
            },
        };
        let Filled { blocks, end, .. } = filled;
        trace!(
            "{} sent DATA <block={}, {blocks} in a run>",
            self.peer, run.first.0
        );
        match self.socket.send_run(bytes, run.segment_size(), self.peer) {
            Ok(RunSent::Blocked { segments }) => {
                if segments > 0 {
                    let sent = Sent::Blocks {
                        count: segments,
                        end: false,
                    };
                    self.transfer.handle_sent(clock(), sent);
                }
                self.wait_for_room(shop);
                return None;
            }
            Ok(RunSent::All) => {}
            Err(error) => self.lost(&error, shop.counters),
        }
        self.transfer
            .handle_sent(clock(), Sent::Blocks { count: blocks, end });
        Some(filled.bytes)
    }

    /// Reads what comes next while the answer is on its way.
    pub(super) fn read_ahead(&mut self, shop: &mut Workshop<'_>) {
        if let (Content::Source(source), None, false) =
            (&mut self.content, &self.ahead, self.blocked)
            && let Some(run) = self.transfer.upcoming()
        {
            self.ahead = shop.pool.read(shop.now, source, run);
        }
    }

    /// Gives back what was read ahead: the transfer isn't moving.
    pub(super) fn forget_ahead(&mut self, pool: &mut Pool) {
        if let Some(ahead) = self.ahead.take() {
            pool.give_back(ahead);
        }
    }

    /// A send error costs this one datagram; the retransmission timer decides
    /// whether the peer can be reached at all.
    fn lost(&self, error: &io::Error, counters: &mut Counters) {
        counters.socket_errors += 1;
        debug!("{}: cannot send: {error}", self.peer);
    }

    fn wait_for_room(&mut self, shop: &Workshop<'_>) {
        if !std::mem::replace(&mut self.blocked, true) {
            self.watch(Interest::READABLE | Interest::WRITABLE, shop);
        }
    }

    fn watch(&mut self, interest: Interest, shop: &Workshop<'_>) {
        let socket = self.socket.source();
        if let Err(error) = shop.registry.reregister(socket, shop.token, interest) {
            debug!("{}: cannot watch its socket: {error}", self.peer);
        }
    }
}

/// An ERROR is never answered (RFC 1350 §7).
fn is_error(datagram: &[u8]) -> bool {
    matches!(Packet::parse(datagram), Ok(Packet::Error { .. }))
}

/// What the loop lends to the session whose turn it is.
#[derive(Debug)]
pub(super) struct Workshop<'a> {
    /// What time it is for this session's turn: read when the turn began, so
    /// that a wait counted from here never ends early.
    pub(super) now: Instant,
    pub(super) batch: &'a mut Batch,
    /// At least `MAX_SEND` bytes.
    pub(super) buffer: &'a mut [u8],
    pub(super) registry: &'a Registry,
    pub(super) token: Token,
    pub(super) counters: &'a mut Counters,
    /// Bytes of DATA that may still be sent in this turn.
    pub(super) send_budget: usize,
    pub(super) pool: &'a mut Pool,
    pub(super) gather: &'a mut Gather,
    /// How much nonsense may still be answered.
    pub(super) nonsense: &'a mut Allowance,
}
