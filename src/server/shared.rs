//! What goes with a socket that sessions share: a listen socket (`--single-port`), or
//! a port beside those, where ports or descriptors are short.
//!
//! The line of sessions that wait for room to send, one for each socket; how many
//! bytes are worth receiving; how many answers may be on their way to unverified
//! peers. Must not: run a session, or know what comes in.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::debug;
use mio::{Interest, Registry};

use super::unverified::UnverifiedAnswers;
use super::{REQUEST_LEN, socket_token};
use crate::net::ListenSocket;
use crate::session::{Line, Session};
use crate::table::SessionKey;
use crate::wire::packet::DATA_HEADER_LEN;

/// While less of the send buffer than this part is taken, nobody waits.
pub(super) const FREE_PART: usize = 4;

/// The sockets that transfers share, and the line before each.
#[derive(Debug)]
pub(super) struct SharedPorts {
    sockets: Vec<ListenSocket>,
    /// The index of the first, among all sockets that several peers send to.
    first: usize,
    waiting: Vec<Vec<SessionKey>>,
    /// Bytes of the smallest send buffer.
    send_buffer: usize,
    /// Bytes of the longest datagram that means anything now.
    slot_len: usize,
    /// First answers that may be on their way to peers that have never answered.
    pub(super) unverified: UnverifiedAnswers,
    /// ERRORs that may be on their way: misses must not keep requests out.
    pub(super) errors: UnverifiedAnswers,
}

impl SharedPorts {
    /// The sockets must have been made fit to carry transfers as well.
    pub(super) fn new(sockets: &[ListenSocket], first: usize, seed: u64, now: Instant) -> Self {
        let buffer = send_buffer(sockets);
        Self {
            unverified: UnverifiedAnswers::within(buffer, seed, now),
            errors: UnverifiedAnswers::within(buffer, seed, now),
            waiting: vec![Vec::new(); sockets.len()],
            sockets: sockets.to_vec(),
            send_buffer: buffer,
            first,
            slot_len: REQUEST_LEN,
        }
    }

    /// One more, fit to carry transfers; watched from now on.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub(super) fn add(&mut self, socket: ListenSocket, registry: &Registry) -> io::Result<()> {
        let token = socket_token(self.first + self.sockets.len());
        socket.register(registry, token, Interest::READABLE)?;
        self.sockets.push(socket);
        self.waiting.push(Vec::new());
        Ok(())
    }

    /// Whether what was sent has left: then nothing is in the way of an answer to a
    /// peer that has never answered, however many there were.
    pub(super) fn has_room(&self) -> bool {
        let free_part = self.send_buffer / FREE_PART;
        self.sockets.iter().all(|it| it.unsent() < free_part)
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.sockets.len()
    }

    /// The socket with this index, among all that several peers send to.
    pub(super) fn get(&self, index: usize) -> Option<&ListenSocket> {
        self.sockets.get(index.checked_sub(self.first)?)
    }

    /// Those that are bound to this address, on whatever port.
    pub(super) fn bound_to(&self, address: SocketAddr) -> impl Iterator<Item = &ListenSocket> {
        self.sockets.iter().filter(move |socket| {
            let mut bound = socket.address();
            bound.set_port(address.port());
            bound == address
        })
    }

    /// Blocks of `block_size` bytes will come.
    pub(super) fn expect(&mut self, block_size: u16) {
        // One byte more shows a block that is larger than agreed.
        let needed = DATA_HEADER_LEN + usize::from(block_size) + 1;
        self.slot_len = self.slot_len.max(needed);
    }

    /// No blocks will come; returns what does mean anything.
    pub(super) fn expect_requests(&mut self) -> usize {
        self.slot_len = REQUEST_LEN;
        self.slot_len
    }

    /// Bytes of the longest datagram that means anything now.
    pub(super) const fn slot_len(&self) -> usize {
        self.slot_len
    }

    /// Puts a session into the line of its socket, if that is full.
    pub(super) fn wait_if_blocked(
        &mut self,
        key: SessionKey,
        session: &mut Session,
        registry: &Registry,
    ) {
        let blocking = |socket: &ListenSocket| session.is_blocked_by(socket);
        let Some(index) = self.sockets.iter().position(blocking) else {
            return;
        };
        if session.line != Line::None {
            return;
        }
        session.line = Line::Room;
        self.waiting[index].push(key);
        if self.waiting[index].len() == 1 {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.watch(index, interest, registry);
        }
    }

    /// There is room in the socket with this index: takes the sessions out of the
    /// line.
    pub(super) fn take(&mut self, index: usize, registry: &Registry) -> Vec<SessionKey> {
        let Some(place) = self.place(index) else {
            return Vec::new();
        };
        self.watch(place, Interest::READABLE, registry);
        std::mem::take(&mut self.waiting[place])
    }

    /// A session waits for room.
    pub(super) fn is_full(&self, index: usize) -> bool {
        self.place(index)
            .is_some_and(|place| !self.waiting[place].is_empty())
    }

    /// These had no turn: they stand before all others.
    pub(super) fn put_first(&mut self, index: usize, keys: impl Iterator<Item = SessionKey>) {
        if let Some(place) = self.place(index) {
            self.waiting[place].splice(0..0, keys);
        }
    }

    fn place(&self, index: usize) -> Option<usize> {
        let place = index.checked_sub(self.first)?;
        (place < self.sockets.len()).then_some(place)
    }

    fn watch(&self, place: usize, interest: Interest, registry: &Registry) {
        let socket = &self.sockets[place];
        let token = socket_token(self.first + place);
        if let Err(error) = socket.reregister(registry, token, interest) {
            debug!("{}: cannot watch it: {error}", socket.address());
        }
    }
}

/// Bytes of the smallest send buffer among them.
pub(super) fn send_buffer(sockets: &[ListenSocket]) -> usize {
    let buffers = sockets.iter().map(ListenSocket::send_buffer);
    buffers.min().unwrap_or(0)
}
