//! `--single-port`: what goes with a listen socket that sessions share.
//!
//! The line of sessions that wait for room to send, one for each socket; how many
//! bytes are worth receiving; how many answers may be on their way to unverified
//! peers. Must not: run a session, or know what comes in.

use std::rc::Rc;
use std::time::Instant;

use log::debug;
use mio::{Interest, Registry};

use super::unverified::UnverifiedAnswers;
use super::{REQUEST_LEN, listener_token};
use crate::net::ListenSocket;
use crate::session::Session;
use crate::table::SessionKey;
use crate::wire::packet::DATA_HEADER_LEN;

/// The listen sockets that transfers share, and the line before each.
#[derive(Debug)]
pub(super) struct SharedPorts {
    listeners: Rc<[ListenSocket]>,
    waiting: Vec<Vec<SessionKey>>,
    /// Bytes of the longest datagram that means anything now.
    slot_len: usize,
    /// First answers that may be on their way to peers that have never answered.
    pub(super) unverified: UnverifiedAnswers,
    /// ERRORs that may be on their way: misses must not keep requests out.
    pub(super) errors: UnverifiedAnswers,
}

impl SharedPorts {
    /// The sockets must have been made fit to carry transfers as well.
    pub(super) fn new(listeners: Rc<[ListenSocket]>, seed: u64, now: Instant) -> Self {
        let buffer = send_buffer(&listeners);
        Self {
            unverified: UnverifiedAnswers::within(buffer, seed, now),
            errors: UnverifiedAnswers::within(buffer, seed, now),
            waiting: vec![Vec::new(); listeners.len()],
            listeners,
            slot_len: REQUEST_LEN,
        }
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
        let blocking = |listener: &ListenSocket| session.is_blocked_by(listener);
        let Some(index) = self.listeners.iter().position(blocking) else {
            return;
        };
        if std::mem::replace(&mut session.queued, true) {
            return;
        }
        self.waiting[index].push(key);
        if self.waiting[index].len() == 1 {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.watch(index, interest, registry);
        }
    }

    /// There is room: takes the sessions out of the line.
    pub(super) fn take(&mut self, index: usize, registry: &Registry) -> Vec<SessionKey> {
        self.watch(index, Interest::READABLE, registry);
        std::mem::take(&mut self.waiting[index])
    }

    /// A session waits for room.
    pub(super) fn is_full(&self, index: usize) -> bool {
        !self.waiting[index].is_empty()
    }

    /// These had no turn: they stand before all others.
    pub(super) fn put_first(&mut self, index: usize, keys: impl Iterator<Item = SessionKey>) {
        self.waiting[index].splice(0..0, keys);
    }

    fn watch(&self, index: usize, interest: Interest, registry: &Registry) {
        let listener = &self.listeners[index];
        if let Err(error) = listener.reregister(registry, listener_token(index), interest) {
            debug!("{}: cannot watch it: {error}", listener.address());
        }
    }
}

/// Bytes of the smallest send buffer among them.
pub(super) fn send_buffer(listeners: &[ListenSocket]) -> usize {
    let buffers = listeners.iter().map(ListenSocket::send_buffer);
    buffers.min().unwrap_or(0)
}
