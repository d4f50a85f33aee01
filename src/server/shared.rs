//! `--single-port`: transfers that go through the listen sockets.
//!
//! What arrives there is handed to the session of its endpoint, whatever isn't a
//! request; sessions that find the socket full wait for it in a line. Must not:
//! decide what becomes of a request.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use log::debug;
use mio::{Interest, Registry};

use super::admission::REQUEST_LEN;
use super::{Server, listener_token};
use crate::host::clock;
use crate::net::{Destination, ListenSocket};
use crate::session::{Context, Session};
use crate::table::{Endpoint, SessionKey};
use crate::wire::packet::{DATA_HEADER_LEN, ErrorCode, Opcode};

/// What sharing the listen sockets takes.
#[derive(Debug)]
pub(super) struct Sharing {
    /// Bytes of the longest datagram that means anything now.
    slot_len: usize,
    /// For each listen socket those that wait for room in it.
    waiting: Vec<Vec<SessionKey>>,
}

impl Sharing {
    /// Makes the sockets fit for it.
    pub(super) fn among(listeners: &[ListenSocket]) -> Self {
        listeners.iter().for_each(ListenSocket::prepare_sharing);
        Self {
            slot_len: REQUEST_LEN,
            waiting: vec![Vec::new(); listeners.len()],
        }
    }

    /// Blocks of so many bytes will come.
    pub(super) fn expect(&mut self, block_size: u16) {
        // One byte more shows a block that is larger than agreed.
        self.slot_len = self
            .slot_len
            .max(DATA_HEADER_LEN + usize::from(block_size) + 1);
    }

    /// Puts a session into the line of its socket, if that is full.
    pub(super) fn wait_if_blocked(
        &mut self,
        key: SessionKey,
        session: &mut Session,
        listeners: &[ListenSocket],
        registry: &Registry,
    ) {
        let blocking = |listener: &ListenSocket| session.is_blocked_by(listener);
        let Some(index) = listeners.iter().position(blocking) else {
            return;
        };
        if std::mem::replace(&mut session.queued, true) {
            return;
        }
        let waiting = &mut self.waiting[index];
        waiting.push(key);
        if waiting.len() == 1 {
            let interest = Interest::READABLE | Interest::WRITABLE;
            watch(&listeners[index], index, interest, registry);
        }
    }
}

impl Server {
    /// There is room in a listen socket: who waited for it goes on, until it is
    /// full again. Who filled it waits behind those who had no turn.
    pub(super) fn resume(&mut self, listener: usize) {
        let Some(sharing) = &mut self.sharing else {
            return;
        };
        let mut waiting = std::mem::take(&mut sharing.waiting[listener]).into_iter();
        let registry = self.poll.registry();
        watch(
            &self.listeners[listener],
            listener,
            Interest::READABLE,
            registry,
        );
        while let Some(key) = waiting.next() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.queued = false;
            }
            self.run_session(key);
            match &mut self.sharing {
                Some(sharing) if !sharing.waiting[listener].is_empty() => {
                    sharing.waiting[listener].splice(0..0, waiting);
                    return;
                }
                _ => {}
            }
        }
    }

    /// Takes a batch of datagrams from a listen socket that transfers share:
    /// those of one endpoint that came one behind the other are one session's
    /// turn.
    pub(super) fn take_anything(&mut self, listener: usize) {
        let Some(sharing) = &mut self.sharing else {
            return;
        };
        if self.sessions.is_empty() {
            sharing.slot_len = REQUEST_LEN;
        }
        let slot_len = sharing.slot_len;
        let received = self.receive(listener, slot_len);
        let mut index = 0;
        while index < received {
            match self.owner_of(index, listener) {
                None => {
                    // A batch takes its time: each request is looked at by itself.
                    self.take_request(clock::now(), listener, index);
                    index += 1;
                }
                Some((endpoint, key)) => {
                    let more = (index + 1..received)
                        .take_while(|&next| self.endpoint_of(next, listener) == Some(endpoint));
                    let end = index + 1 + more.count();
                    let turn = |session: &mut Session, context: &mut Context<'_>| {
                        session.run_shared(index..end, context)
                    };
                    self.with_session(key, turn);
                    index = end;
                }
            }
        }
    }

    /// Whose datagram lies in a slot of the batch.
    fn owner_of(&self, index: usize, listener: usize) -> Option<(Endpoint, SessionKey)> {
        let endpoint = self.endpoint_of(index, listener)?;
        Some((endpoint, self.sessions.key_of(&endpoint)?))
    }

    /// The endpoint of a datagram in the batch, unless it is a request's.
    fn endpoint_of(&self, index: usize, listener: usize) -> Option<Endpoint> {
        let datagram = self.resources.batch.get(index)?;
        let opcode = datagram.payload.first_chunk().copied();
        let opcode = opcode.map(u16::from_be_bytes).and_then(Opcode::from_wire);
        if matches!(opcode, Some(Opcode::Rrq | Opcode::Wrq)) {
            return None;
        }
        let local = match datagram.destination {
            Some(Destination::Local(ip)) => ip,
            None => self.listeners.get(listener)?.address().ip(),
            Some(Destination::Group) => return None,
        };
        let peer = datagram.peer;
        Some(Endpoint { peer, local })
    }

    /// RFC 1350 §4: who sends blocks of a transfer that isn't here is told so.
    pub(super) fn turn_away(
        &mut self,
        now: Instant,
        listener: usize,
        peer: SocketAddr,
        local: IpAddr,
    ) {
        self.counters.strangers += 1;
        if self.resources.ingress.nonsense.take(now) {
            let code = ErrorCode::UnknownTransferId;
            self.answer(listener, peer, local, code, "Unknown transfer ID");
        } else {
            self.counters.unanswered += 1;
        }
    }
}

fn watch(listener: &ListenSocket, index: usize, interest: Interest, registry: &Registry) {
    if let Err(error) = listener.reregister(registry, listener_token(index), interest) {
        debug!("{}: cannot watch it: {error}", listener.address());
    }
}
