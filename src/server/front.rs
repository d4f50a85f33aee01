//! The listen sockets, and the ports that transfers share. What arrives there is
//! received a batch at a time; each datagram goes to the session it belongs to, is a
//! request, or is a stranger's.
//!
//! If several processes follow each other on the sockets, only one of them reads, and
//! `relay` takes the rest to the others. Must not: decide what becomes of a request.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::{Interest, Registry};

use super::answers::{endpoint_of, turn_stranger_away};
use super::floor::Floor;
use super::relay::{Incoming, MAX_RELAYED, Successor};
use super::requests::Requests;
use super::socket_set::SocketSet;
use super::{MAX_LISTENERS, MAX_SOCKETS, socket_token};
use crate::host::clock;
use crate::log::event::Event;
use crate::net::{Batch, ListenSocket};
use crate::session::{BATCH_BYTES, BATCH_SLOTS, Session};
use crate::table::Endpoint;
use crate::wire::packet::is_request;

/// How long after an error from the kernel a listener is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// How long a session's deadline is put off while its socket isn't empty: longer than
/// it takes to read all that a socket holds.
pub(super) const LONGEST_BACKLOG: Duration = Duration::from_millis(500);

/// How often at most the log tells of datagrams that the kernel dropped.
const TELL_DROPS: Duration = Duration::from_secs(60);

/// How often at most it is looked up whether there are any.
const LOOK_FOR_DROPS: Duration = Duration::from_secs(1);

/// A socket that held more than was read from it.
#[derive(Debug)]
struct Backlog {
    index: usize,
    socket: ListenSocket,
    /// It has not been empty since.
    since: Instant,
}

/// The side where requests come in.
#[derive(Debug)]
pub(super) struct Front {
    listeners: Rc<[ListenSocket]>,
    /// Where they listen, or listened.
    addresses: Vec<SocketAddr>,
    /// Datagrams that the kernel had no room for, on listen sockets that are closed
    /// now.
    drops_before: Option<u64>,
    /// How many of them the log has told of.
    drops_told: u64,
    /// Since they were last looked at, when a socket first held a whole batch: only one
    /// that fills up loses any.
    full_since: Option<Instant>,
    /// When they may be looked at again.
    look_for_drops: Option<Instant>,
    /// Sockets that may have more without a new event.
    unfinished: SocketSet,
    /// Those of them that sessions share.
    backlogs: Vec<Backlog>,
    /// Sockets that failed to receive and may hold more.
    failed: SocketSet,
    /// When those are tried again.
    retry_at: Option<Instant>,
    batch: Batch,
    pub(super) requests: Requests,
    /// What older processes relay; `None` without a supervisor.
    incoming: Option<Box<Incoming>>,
    /// The process that takes over, once there is one.
    successor: Option<Successor>,
}

impl Front {
    pub(super) fn new(listeners: Rc<[ListenSocket]>, requests: Requests) -> Self {
        Self {
            addresses: listeners.iter().map(ListenSocket::address).collect(),
            drops_before: Some(0),
            drops_told: 0,
            full_since: None,
            look_for_drops: None,
            listeners,
            unfinished: SocketSet::default(),
            backlogs: Vec::with_capacity(MAX_SOCKETS),
            failed: SocketSet::default(),
            retry_at: None,
            batch: Batch::new(BATCH_SLOTS, BATCH_BYTES),
            requests,
            incoming: None,
            successor: None,
        }
    }

    /// The listen sockets aren't to be read until [`Front::listen`] says so.
    pub(super) fn wait_turn(&mut self) {
        self.incoming = Some(Box::new(Incoming::new()));
    }

    /// The listen sockets are ours to read from now on.
    pub(super) fn listen(&mut self) {
        if let Some(incoming) = self.incoming.as_mut().filter(|it| it.waits) {
            incoming.waits = false;
            // What has come before raises no event.
            (0..self.listeners.len()).for_each(|index| self.unfinished.insert(index));
        }
    }

    /// Whether the listen sockets are ours to read.
    pub(super) fn listens(&self) -> bool {
        self.incoming.as_ref().is_none_or(|it| !it.waits)
    }

    /// An older process relays over `socket` what isn't its own.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub(super) fn hear(&mut self, socket: OwnedFd, registry: &Registry) -> io::Result<()> {
        // The older process has told of these.
        let drops = self
            .listeners
            .iter()
            .filter_map(ListenSocket::receive_drops);
        self.drops_told = drops.map(u64::from).sum();
        let incoming = self.incoming.as_mut();
        incoming.map_or(Ok(()), |it| it.add(socket, registry))
    }

    /// A newer process takes over: what isn't ours is relayed to it.
    pub(super) fn pass_on_to(&mut self, socket: OwnedFd) {
        self.successor = Some(Successor::new(socket));
    }

    /// Something may have been relayed to us.
    pub(super) fn expect_relayed(&mut self) {
        if let Some(incoming) = &mut self.incoming {
            incoming.has_more = true;
        }
    }

    /// There may be more that was relayed to us.
    pub(super) fn has_relayed(&self) -> bool {
        self.incoming.as_ref().is_some_and(|it| it.has_more)
    }

    /// Registers the listen sockets.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub(super) fn register(&self, registry: &Registry) -> io::Result<()> {
        for (index, listener) in self.listeners.iter().enumerate() {
            listener.register(registry, socket_token(index), Interest::READABLE)?;
        }
        Ok(())
    }

    /// Where the server listens, or listened until it was told to stop.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Datagrams that the kernel had no room for, on all sockets that several peers
    /// send to; `None` if it doesn't tell.
    pub(super) fn receive_drops(&self, floor: &Floor) -> Option<u64> {
        let own = self.listeners.iter();
        let shared = (MAX_LISTENERS..MAX_SOCKETS).map_while(|it| floor.ports.shared.get(it));
        let drops = own.chain(shared).map(ListenSocket::receive_drops);
        let drops: Option<u64> = drops.map(|it| it.map(u64::from)).sum();
        Some(self.drops_before? + drops?)
    }

    /// Warns that the kernel had no room for datagrams, once a backlog has been read or has
    /// lasted for a while, at most once a minute. Wakes nobody up for that: what comes later
    /// is told in the first turn after the minute.
    #[inline]
    pub(super) fn tell_drops(&mut self, now: Instant, floor: &Floor) {
        if let Some(since) = self.full_since
            && (self.unfinished.is_empty()
                || now.saturating_duration_since(since) >= LOOK_FOR_DROPS)
        {
            self.look_for_drops(now, floor);
        }
    }

    fn look_for_drops(&mut self, now: Instant, floor: &Floor) {
        if self.look_for_drops.is_some_and(|at| now < at) {
            return;
        }
        self.full_since = None;
        let dropped = self.receive_drops(floor).unwrap_or_default();
        let is_news = dropped > self.drops_told;
        self.look_for_drops = Some(now + if is_news { TELL_DROPS } else { LOOK_FOR_DROPS });
        if is_news {
            self.drops_told = dropped;
            Event::KernelDropped { dropped }.write();
        }
    }

    /// Some socket may have more without a new event.
    pub(super) fn has_work(&self) -> bool {
        !self.unfinished.is_empty() || self.requests.helper_has_work() || self.has_relayed()
    }

    /// When a socket that failed is tried again, or the helper is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let helper = self.requests.helper.as_ref();
        clock::earliest([self.retry_at, helper.and_then(|it| it.next_deadline())])
    }

    /// Takes the sockets that may have more.
    pub(super) fn take_unfinished(&mut self, now: Instant) -> SocketSet {
        let mut unfinished = std::mem::take(&mut self.unfinished);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            unfinished.insert_all(&std::mem::take(&mut self.failed));
        }
        unfinished
    }

    /// No request is admitted from now on. With `carry` the listen sockets stay open,
    /// for running transfers that share them.
    pub(super) fn close(&mut self, carry: bool) {
        self.requests.is_closing = true;
        if !carry && self.successor.is_none() {
            let drops = self.listeners.iter().map(ListenSocket::receive_drops);
            self.drops_before = drops.map(|it| it.map(u64::from)).sum();
            // Closing them removes them from the poll.
            self.listeners = Rc::new([]);
        }
    }

    /// Takes a batch of datagrams from a listen socket, or from a port that transfers
    /// share. A request costs as much as a few dozen packets of a session: after one
    /// batch the sessions have their turn.
    pub(super) fn run(&mut self, index: usize, floor: &mut Floor) {
        let is_listener = index < MAX_LISTENERS;
        let socket = if is_listener {
            self.listeners.get(index)
        } else {
            floor.ports.shared.get(index)
        };
        let Some(socket) = &socket.cloned() else {
            return;
        };
        if is_listener && !self.listens() {
            self.unfinished.remove(index);
            return;
        }
        if is_listener && self.has_relayed() {
            // What was relayed comes first.
            self.unfinished.insert(index);
            if is_shared(index, floor) {
                self.note_backlog(index, socket);
            }
            return;
        }
        let is_relayed = is_listener && self.successor.is_some();
        if is_relayed {
            // Slots are large then, and this batch has room for more of them.
            std::mem::swap(&mut self.batch, &mut floor.resources.batch);
        }
        self.run_batch(index, socket, floor);
        if is_relayed {
            std::mem::swap(&mut self.batch, &mut floor.resources.batch);
        }
    }

    /// Takes a batch from this socket.
    fn run_batch(&mut self, index: usize, socket: &ListenSocket, floor: &mut Floor) {
        let slot_len = self.slot_len(index, floor);
        let capacity = self.batch.capacity(slot_len, usize::MAX);
        let received = match socket.receive(&mut self.batch, slot_len, usize::MAX) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                floor.count_socket_error("receive", socket.address(), &error);
                // No event reports what was there before. An error that persists must
                // not keep the loop awake.
                self.failed.insert(index);
                self.retry_at.get_or_insert(clock::now() + RETRY);
                return;
            }
        };
        if received == capacity {
            self.unfinished.insert(index);
            self.full_since.get_or_insert_with(clock::now);
        } else {
            self.unfinished.remove(index);
        }
        self.requests.policy().root.begin_batch();
        if is_shared(index, floor) {
            self.note_backlog(index, socket);
        }
        self.dispatch(received, index, socket, floor);
        self.requests.policy().root.end_batch();
    }

    /// Handles what was relayed to us as if it had come in on the listen sockets now.
    pub(super) fn run_relayed(&mut self, floor: &mut Floor) {
        let Some(mut incoming) = self.incoming.take_if(|it| it.has_more) else {
            return;
        };
        self.requests.policy().root.begin_batch();
        for _ in 0..BATCH_SLOTS {
            let Some(len) = incoming.receive() else {
                incoming.has_more = false;
                break;
            };
            if let Some((index, datagram)) = incoming.datagram(len)
                && let Some(socket) = &self.listeners.get(index).cloned()
            {
                let slot_len = self.slot_len(index, floor);
                self.batch.put(0, slot_len, &datagram);
                self.dispatch(1, index, socket, floor);
            }
        }
        self.requests.policy().root.end_batch();
        incoming.note_backlog();
        self.incoming = Some(incoming);
    }

    /// The most bytes that are received of a datagram: as many as a successor may want,
    /// if there is one.
    fn slot_len(&self, index: usize, floor: &Floor) -> usize {
        match self.successor {
            // The successor may have other rules.
            Some(_) if index < MAX_LISTENERS => MAX_RELAYED,
            _ => floor.slot_len(is_shared(index, floor)),
        }
    }

    /// Hands what was received on the socket with this index to sessions, `requests` or
    /// the successor.
    fn dispatch(
        &mut self,
        received: usize,
        index: usize,
        socket: &ListenSocket,
        floor: &mut Floor,
    ) {
        if is_shared(index, floor) {
            self.sort(received, index, socket, floor);
            return;
        }
        let now = clock::now();
        for datagram in (0..received).filter_map(|slot| self.batch.get(slot)) {
            if let Some(successor) = &self.successor
                && successor.takes(index, socket, &datagram, &mut self.requests, floor)
            {
                continue;
            }
            self.requests.handle(now, socket, &datagram, floor);
        }
    }

    /// Notes since when the socket has held more than was read from it, if it does.
    fn note_backlog(&mut self, index: usize, socket: &ListenSocket) {
        if !self.unfinished.contains(index) {
            self.backlogs.retain(|it| it.index != index);
        } else if self.backlogs.iter().all(|it| it.index != index) {
            self.backlogs.push(Backlog {
                index,
                socket: socket.clone(),
                since: clock::now(),
            });
        }
    }

    /// Whether an answer to the session may lie unread in the socket that it shares, or
    /// in what was relayed to us.
    pub(super) fn may_hold_answer(&self, session: &Session, now: Instant) -> bool {
        let is_recent = |since| now.saturating_duration_since(since) < LONGEST_BACKLOG;
        let mut recent = self.backlogs.iter().filter(|it| is_recent(it.since));
        let relayed_since = self.incoming.as_ref().and_then(|it| it.unread_since);
        recent.any(|it| session.port().shares(&it.socket))
            || relayed_since.is_some_and(is_recent)
                && self.listeners.iter().any(|it| session.port().shares(it))
    }

    /// Consecutive datagrams of one endpoint are one session's turn; the rest are
    /// requests, on a listen socket, or strangers'.
    fn sort(&mut self, received: usize, index: usize, socket: &ListenSocket, floor: &mut Floor) {
        let is_listener = index < MAX_LISTENERS;
        let (mut slot, mut next) = (0, self.session_endpoint_of(0, received, socket));
        while slot < received {
            let endpoint = next;
            let owner = endpoint.and_then(|endpoint| floor.owner_of(&endpoint, socket));
            let Some(key) = owner else {
                if let Some(datagram) = self.batch.get(slot) {
                    // A batch takes time: the clock is read for each request.
                    let now = clock::now();
                    let successor = self.successor.as_ref().filter(|_| is_listener);
                    let requests = &mut self.requests;
                    if successor
                        .is_some_and(|it| it.takes(index, socket, &datagram, requests, floor))
                    {
                        // The successor has it.
                    } else if is_listener {
                        self.requests.handle(now, socket, &datagram, floor);
                    } else {
                        turn_stranger_away(now, socket, &datagram, self.requests.policy(), floor);
                    }
                }
                slot += 1;
                next = self.session_endpoint_of(slot, received, socket);
                continue;
            };
            let mut end = slot;
            while next == endpoint {
                end += 1;
                next = self.session_endpoint_of(end, received, socket);
            }
            // Sessions read from the batch that their own sockets receive into.
            std::mem::swap(&mut self.batch, &mut floor.resources.batch);
            floor.with_session(key, &mut |session, context| {
                session.run_shared(slot..end, context)
            });
            std::mem::swap(&mut self.batch, &mut floor.resources.batch);
            slot = end;
        }
    }

    /// The endpoint of the datagram in this slot of the batch; `None` beyond `received`, and
    /// for a request.
    fn session_endpoint_of(
        &self,
        slot: usize,
        received: usize,
        socket: &ListenSocket,
    ) -> Option<Endpoint> {
        let datagram = (slot < received).then(|| self.batch.get(slot))??;
        if is_request(datagram.payload) {
            return None;
        }
        endpoint_of(&datagram, socket)
    }
}

/// Whether transfers send from the socket with this index.
const fn is_shared(index: usize, floor: &Floor) -> bool {
    index >= MAX_LISTENERS || floor.listeners_carry_transfers()
}
