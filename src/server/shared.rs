//! What goes with a socket that sessions share: a listen socket (`--single-port`), or a
//! port beside those, when ports or descriptors are short.
//!
//! The sessions that wait for room to send; how many bytes are worth receiving; how
//! many answers may be on their way to unverified peers. Must not: run a session, or
//! know what comes in.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use log::debug;
use mio::{Interest, Registry};

use super::unverified::UnverifiedAnswers;
use super::{REQUEST_LEN, socket_token};
use crate::net::{ListenSocket, MAX_DATA_PACKET};
use crate::session::shaper::FREE_PART;
use crate::session::{Queue, Session};
use crate::table::SessionKey;
use crate::wire::packet::DATA_HEADER_LEN;

/// Bytes of the largest block.
const MAX_BLOCK: usize = MAX_DATA_PACKET - DATA_HEADER_LEN;

/// The sockets that transfers share.
#[derive(Debug)]
pub(super) struct SharedPorts {
    ports: Vec<SharedPort>,
    /// The index of the first, among all sockets that several peers send to.
    first: usize,
    seed: u64,
    /// Uploads under way, counted by the bits that their block size takes.
    uploads: [u32; 1 + u16::BITS as usize],
}

/// A socket that transfers share.
#[derive(Debug)]
pub(super) struct SharedPort {
    pub(super) socket: ListenSocket,
    /// Sessions that wait for room in it.
    waiting: VecDeque<SessionKey>,
    /// The last session that had its turn found no room.
    is_full: bool,
    /// Bytes of its send buffer.
    send_buffer: usize,
    /// First answers that may be on their way to peers that have never answered.
    unverified: UnverifiedAnswers,
    /// ERRORs that may be on their way, counted apart: misses must not keep requests
    /// out.
    errors: UnverifiedAnswers,
}

impl SharedPort {
    fn new(socket: ListenSocket, seed: u64, now: Instant) -> Self {
        let send_buffer = socket.send_buffer();
        Self {
            unverified: UnverifiedAnswers::within(send_buffer, seed, now),
            errors: UnverifiedAnswers::within(send_buffer, seed, now),
            waiting: VecDeque::new(),
            is_full: false,
            send_buffer,
            socket,
        }
    }

    /// Whether there is room for an answer to a peer that has never answered: a limited
    /// number may be on their way, and more while little of the buffer is taken.
    pub(super) fn may_answer(&mut self, now: Instant, client: IpAddr) -> bool {
        self.unverified.take(now, client) || self.has_room()
    }

    /// The same for an ERROR without a transfer.
    pub(super) fn may_send_error(&mut self, now: Instant, client: IpAddr) -> bool {
        self.errors.take(now, client) || self.has_room()
    }

    /// The answer that was sent to `client` at `sent` has been answered.
    pub(super) fn verified(&mut self, now: Instant, sent: Instant, client: IpAddr) {
        self.unverified.verified(now, sent, client);
    }

    fn has_room(&self) -> bool {
        self.socket.unsent() < self.send_buffer / FREE_PART
    }
}

impl SharedPorts {
    /// The sockets must have been prepared to carry transfers as well.
    pub(super) fn new(sockets: &[ListenSocket], first: usize, seed: u64, now: Instant) -> Self {
        let ports = sockets.iter().cloned();
        Self {
            ports: ports.map(|it| SharedPort::new(it, seed, now)).collect(),
            first,
            seed,
            uploads: [0; 1 + u16::BITS as usize],
        }
    }

    /// Adds a socket that was prepared to carry transfers, and watches it.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub(super) fn add(
        &mut self,
        socket: ListenSocket,
        registry: &Registry,
        now: Instant,
    ) -> io::Result<()> {
        let token = socket_token(self.first + self.ports.len());
        socket.register(registry, token, Interest::READABLE)?;
        self.ports.push(SharedPort::new(socket, self.seed, now));
        Ok(())
    }

    /// The port that the session shares.
    pub(super) fn of(&mut self, session: &Session) -> Option<&mut SharedPort> {
        let mut ports = self.ports.iter_mut();
        ports.find(|it| session.port().shares(&it.socket))
    }

    /// The port of this socket.
    pub(super) fn with(&mut self, socket: &ListenSocket) -> Option<&mut SharedPort> {
        self.ports.iter_mut().find(|it| it.socket.is(socket))
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.ports.len()
    }

    /// The socket with this index, among all that several peers send to.
    pub(super) fn get(&self, index: usize) -> Option<&ListenSocket> {
        Some(&self.ports.get(index.checked_sub(self.first)?)?.socket)
    }

    /// The sockets that are bound to this address, on any port.
    pub(super) fn bound_to(&self, address: SocketAddr) -> impl Iterator<Item = &ListenSocket> {
        let sockets = self.ports.iter().map(|it| &it.socket);
        sockets.filter(move |socket| {
            let mut bound = socket.address();
            bound.set_port(address.port());
            bound == address
        })
    }

    /// An upload in blocks of `block_size` bytes begins.
    pub(super) fn expect(&mut self, block_size: u16) {
        self.uploads[bits_of(block_size)] += 1;
    }

    /// Such an upload is over.
    pub(super) fn expect_no_more(&mut self, block_size: u16) {
        let count = &mut self.uploads[bits_of(block_size)];
        *count = count.saturating_sub(1);
    }

    /// Bytes of the longest datagram that means anything now.
    pub(super) fn slot_len(&self) -> usize {
        let largest = self.uploads.iter().rposition(|&count| count > 0);
        let block = largest.map_or(0, |bits| MAX_BLOCK.min((1 << bits) - 1));
        // One byte more shows a block that is larger than agreed.
        REQUEST_LEN.max(DATA_HEADER_LEN + block + 1)
    }

    /// Queues a session for its socket, if that is full.
    pub(super) fn wait_if_blocked(
        &mut self,
        key: SessionKey,
        session: &mut Session,
        registry: &Registry,
    ) {
        let blocking = |port: &SharedPort| session.is_blocked_by(&port.socket);
        let Some(index) = self.ports.iter().position(blocking) else {
            return;
        };
        if session.queue != Queue::None {
            return;
        }
        session.queue = Queue::Room;
        self.ports[index].waiting.push_back(key);
        if !std::mem::replace(&mut self.ports[index].is_full, true) {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.watch(index, interest, registry);
        }
    }

    /// There is room in the socket with this index. Returns how many sessions wait for
    /// it.
    pub(super) fn open(&mut self, index: usize, registry: &Registry) -> usize {
        let Some(place) = self.place(index) else {
            return 0;
        };
        self.watch(place, Interest::READABLE, registry);
        self.ports[place].is_full = false;
        self.ports[place].waiting.len()
    }

    /// The next session that waits, until the socket is full again.
    pub(super) fn next(&mut self, index: usize) -> Option<SessionKey> {
        let place = self.place(index)?;
        let port = &mut self.ports[place];
        if port.is_full {
            return None;
        }
        port.waiting.pop_front()
    }

    fn place(&self, index: usize) -> Option<usize> {
        let place = index.checked_sub(self.first)?;
        (place < self.ports.len()).then_some(place)
    }

    fn watch(&self, place: usize, interest: Interest, registry: &Registry) {
        let socket = &self.ports[place].socket;
        let token = socket_token(self.first + place);
        if let Err(error) = socket.reregister(registry, token, interest) {
            debug!("{}: cannot watch it: {error}", socket.address());
        }
    }
}

/// The bits that a block size takes.
const fn bits_of(block_size: u16) -> usize {
    (u16::BITS - block_size.leading_zeros()) as usize
}

/// Bytes of the smallest send buffer among them.
pub(super) fn send_buffer(sockets: &[ListenSocket]) -> usize {
    let buffers = sockets.iter().map(ListenSocket::send_buffer);
    buffers.min().unwrap_or(0)
}
