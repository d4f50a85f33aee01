//! From a datagram on the listen port to a session, or to an answer without
//! one, or to nothing.
//!
//! Nothing is allocated for a request that is refused. Must not: run sessions.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use log::debug;
use mio::Token;

use super::mapping::MapFile;
use super::report::Ending;
use super::{Server, listener_token};
use crate::file::content::{FileSink, FileSource};
use crate::file::{Found, Root, StorageError};
use crate::host::clock;
use crate::log::event::Event;
use crate::net::{Destination, TransferSocket};
use crate::policy::map;
use crate::protocol::receiver::Receiver;
use crate::protocol::sender::Sender;
use crate::protocol::transfer::{MAX_DATAGRAM, Opening, Transfer};
use crate::session::{Content, Remote, Session};
use crate::table::{Admission, Endpoint, Fingerprint, SessionKey};
use crate::wire::options::{self, Negotiated};
use crate::wire::packet::{Direction, ErrorCode, Mode, Packet, ParseError, Request, emit_error};

/// Bytes of the longest request we read; RFC 2347 allows 512.
pub(super) const REQUEST_LEN: usize = 1024;

/// Why there is no session.
enum Refusal {
    /// The peer is told, and the log.
    Answer(StorageError),
    /// The map file's rules are against it: the peer is told, and the log.
    ByRules(map::MapRefusal),
    /// We are full: silence, so that a boot ROM asks again instead of failing.
    Overload(&'static str),
}

impl Server {
    /// Takes a batch of requests from a listen socket. Each costs as much as a
    /// few dozen packets of a session: after a batch, those have their turn.
    pub(super) fn take_requests(&mut self, listener: usize) {
        let received = self.receive(listener, REQUEST_LEN);
        let now = clock::now();
        for index in 0..received {
            self.take_request(now, listener, index);
        }
    }

    /// Receives a batch, in slots of so many bytes; returns how many datagrams.
    /// If there may be more, the listener gets another turn.
    pub(super) fn receive(&mut self, listener: usize, slot_len: usize) -> usize {
        let capacity = self.resources.batch.capacity(slot_len, usize::MAX);
        let socket = &self.listeners[listener];
        match socket.receive(&mut self.resources.batch, slot_len, usize::MAX) {
            Ok(received) => {
                if received == capacity {
                    self.unfinished.push_back(listener_token(listener));
                }
                received
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                self.counters.socket_errors += 1;
                debug!("{}: cannot receive: {error}", socket.address());
                0
            }
        }
    }

    pub(super) fn take_request(&mut self, now: Instant, listener: usize, index: usize) {
        let Some(datagram) = self.resources.batch.get(index) else {
            return;
        };
        let peer = datagram.peer;
        let local = match datagram.destination {
            Some(Destination::Local(ip)) => ip,
            None => self.listeners[listener].address().ip(),
            // RFC 1123 §4.2.3.4: no answer to a broadcast.
            Some(Destination::Group) => {
                self.counters.group += 1;
                return;
            }
        };
        if !self.settings.access.serves(peer.ip()) {
            self.counters.denied += 1;
            let dropped = self.counters.denied;
            self.report_drop(now, peer, "this address is not served", dropped);
            return;
        }
        // Small enough to leave the batch, so that everything of ours is free.
        let mut copy = [0; REQUEST_LEN];
        let len = datagram.payload.len().min(REQUEST_LEN);
        let copy = &mut copy[..len];
        copy.copy_from_slice(&datagram.payload[..len]);
        match Packet::parse(copy) {
            Ok(Packet::Request(_)) if self.stop_at.is_some() => self.counters.shed += 1,
            Ok(Packet::Request(request)) if peer.port() != 0 => {
                let endpoint = Endpoint { peer, local };
                self.admit(now, listener, endpoint, copy, &request);
            }
            // Not so an ACK: tftp-hpa acknowledges ERRORs, from the port that its
            // next request comes from as well.
            Ok(Packet::Data { .. }) if self.settings.single_port => {
                self.turn_away(now, listener, peer, local);
            }
            Ok(_) => self.counters.foreign += 1,
            Err(error) => self.answer_malformed(now, listener, peer, local, error),
        }
    }

    fn answer_malformed(
        &mut self,
        now: Instant,
        listener: usize,
        peer: SocketAddr,
        local: IpAddr,
        error: ParseError,
    ) {
        let Some(text) = error.reply() else {
            self.counters.foreign += 1;
            debug!("{peer}: dropped a datagram: {error}");
            return;
        };
        self.counters.malformed += 1;
        debug!("{peer}: malformed request: {error}");
        if self.resources.ingress.nonsense.take(now) {
            self.answer(listener, peer, local, ErrorCode::IllegalOperation, text);
        } else {
            self.counters.unanswered += 1;
        }
    }

    fn admit(
        &mut self,
        now: Instant,
        listener: usize,
        endpoint: Endpoint,
        datagram: &[u8],
        request: &Request<'_>,
    ) {
        self.counters.requests += 1;
        let fingerprint = Fingerprint::of(datagram);
        let mut evicted = None;
        match self.sessions.admit(&endpoint, fingerprint, now) {
            Admission::New => {}
            Admission::Evicts(key) => evicted = Some(key),
            Admission::Duplicate(key) if self.is_abandoned(now, key) => {
                self.end_session(key, Ending::Replaced);
            }
            Admission::Duplicate(key) => {
                self.counters.repeated += 1;
                self.with_session(key, |session, context| {
                    session.handle_repeated_request(context.now);
                    session.transmit(context)
                });
                return;
            }
            Admission::Replaces(key) => self.end_session(key, Ending::Replaced),
            Admission::Crowded => {
                self.counters.crowded += 1;
                let dropped = self.counters.crowded;
                let reason = "the limit of sessions of one client is reached";
                self.report_drop(now, endpoint.peer, reason, dropped);
                return;
            }
            Admission::Full => {
                self.shed(now, endpoint.peer, "the limit of sessions is reached");
                return;
            }
        }
        let own_root = self
            .client_roots
            .as_ref()
            .and_then(|roots| roots.of(endpoint.peer.ip(), &self.root));
        let session = match self.open(now, listener, &endpoint, own_root.as_ref(), request) {
            Ok(session) => session,
            Err(Refusal::Overload(reason)) => {
                self.socket_pool.clear();
                self.shed(now, endpoint.peer, reason);
                return;
            }
            Err(Refusal::Answer(error)) => {
                let code = error.code();
                let root = own_root.as_ref().unwrap_or(&self.root);
                let similar = || match (request.direction, code) {
                    (Direction::Read, ErrorCode::FileNotFound) => root.similar(request.filename),
                    _ => None,
                };
                self.reporter
                    .refusal(now, request, endpoint.peer, code, &error, similar);
                self.refuse(now, listener, &endpoint, code, error.message());
                return;
            }
            Err(Refusal::ByRules(refusal)) => {
                let code = ErrorCode::AccessViolation;
                self.reporter
                    .refusal(now, request, endpoint.peer, code, &refusal, || None);
                self.refuse(now, listener, &endpoint, code, refusal.message());
                return;
            }
        };
        if let Some(key) = evicted {
            self.end_session(key, Ending::Evicted);
        }
        let key = self.sessions.insert(endpoint, fingerprint, session);
        let token = Token(key.to_token());
        let watched = self
            .sessions
            .get_mut(key)
            .map(|session| session.register(self.poll.registry(), token));
        if let Some(Err(error)) = watched {
            debug!("{}: cannot watch its socket: {error}", endpoint.peer);
            self.sessions.remove(key);
            self.shed(now, endpoint.peer, "no socket can be watched");
            return;
        }
        self.counters.admitted += 1;
        if let Some(session) = self.sessions.get(key) {
            self.reporter.begin(session, now);
        }
        self.with_session(key, Session::transmit);
    }

    /// Tells that there will be no session, if not too many are told.
    fn refuse(
        &mut self,
        now: Instant,
        listener: usize,
        endpoint: &Endpoint,
        code: ErrorCode,
        text: &str,
    ) {
        self.counters.refused += 1;
        if self.refusals.take(now) {
            self.answer(listener, endpoint.peer, endpoint.local, code, text);
        } else {
            self.counters.unanswered += 1;
        }
    }

    fn is_abandoned(&self, now: Instant, key: SessionKey) -> bool {
        let session = self.sessions.get(key);
        session.is_some_and(|session| session.is_abandoned(now))
    }

    /// Opens the file and the socket and settles the options.
    fn open(
        &mut self,
        now: Instant,
        listener: usize,
        endpoint: &Endpoint,
        own_root: Option<&Root>,
        request: &Request<'_>,
    ) -> Result<Session, Refusal> {
        let settings = &self.settings;
        let root = own_root.unwrap_or(&self.root);
        let map = |map_file: &MapFile| map_file.map(root, request, endpoint.peer);
        let mapped = self.map_file.as_ref().map(map).transpose();
        let mapped = mapped.map_err(Refusal::ByRules)?;
        let name = mapped.as_deref().unwrap_or(request.filename);
        let mut oack = [0; MAX_DATAGRAM];
        // Blocks that the client sends without waiting for an answer, and their
        // size.
        let mut window = None;
        let (transfer, content) = match request.direction {
            Direction::Read => {
                let Found { file, served_as } = root.find(name).map_err(Refusal::from)?;
                if let Some(served_as) = served_as {
                    self.reporter
                        .other_name(now, name, endpoint.peer, &served_as);
                }
                let size = Some(file.size());
                let (negotiated, len) =
                    options::negotiate(request, &settings.limits, size, &mut oack);
                let opening = opening(&oack[..len]);
                let source = FileSource::new(file, request.mode);
                let sender = Sender::new(&settings.config, opening, negotiated, source.length());
                (Transfer::Sender(sender), Content::Source(source))
            }
            Direction::Write => {
                let (negotiated, len) =
                    options::negotiate(request, &settings.limits, None, &mut oack);
                window = Some((negotiated.windowsize, negotiated.blksize));
                let announced = announced_size(request, &negotiated);
                let upload = root.create(name, announced).map_err(Refusal::from)?;
                let opening = opening(&oack[..len]);
                let receiver = Receiver::new(&settings.config, opening, negotiated);
                let sink = FileSink::new(upload, request.mode);
                (Transfer::Receiver(receiver), Content::Sink(Box::new(sink)))
            }
        };
        let mut socket = match (&mut self.sharing, self.listeners.get(listener)) {
            (Some(sharing), Some(listener)) => {
                if let Some((_, block_size)) = window {
                    sharing.expect(block_size);
                }
                TransferSocket::share(listener, endpoint.local)
            }
            _ => self.bind_transfer(endpoint)?,
        };
        if let Some((blocks, block_size)) = window {
            socket.expect_windows(blocks, block_size);
        }
        Ok(Session::new(
            transfer,
            content,
            socket,
            Remote::Known(endpoint.peer),
            request.filename,
            now,
        ))
    }

    fn bind_transfer(&mut self, endpoint: &Endpoint) -> Result<TransferSocket, Refusal> {
        if let Some(socket) = self.socket_pool.take(endpoint) {
            return Ok(socket);
        }
        let scope = match endpoint.peer {
            SocketAddr::V6(peer) => peer.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        self.next_port = self.next_port.wrapping_add(1);
        let ports = self.settings.ports.as_ref();
        TransferSocket::bind(endpoint.local, scope, ports, self.next_port).map_err(|error| {
            debug!(
                "{}: cannot open a socket on {}: {error}",
                endpoint.peer, endpoint.local
            );
            match error.kind() {
                io::ErrorKind::AddrInUse => Refusal::Overload("no port of the range is free"),
                _ => Refusal::Overload("no socket can be had"),
            }
        })
    }

    fn shed(&mut self, now: Instant, peer: SocketAddr, reason: &str) {
        self.counters.shed += 1;
        self.report_drop(now, peer, reason, self.counters.shed);
    }

    /// Says, but not too often, that requests are dropped: `count` so far for
    /// this reason.
    fn report_drop(&mut self, now: Instant, peer: SocketAddr, reason: &str, count: u64) {
        if self.drop_lines.take(now) {
            Event::Dropped {
                peer,
                reason,
                dropped: count,
                sessions: self.sessions.len() as u64,
            }
            .write();
        }
    }

    /// One ERROR from the listen port, without a transfer, lost if it can't be
    /// sent at once: the client asks again.
    pub(super) fn answer(
        &mut self,
        listener: usize,
        peer: SocketAddr,
        local: IpAddr,
        code: ErrorCode,
        text: &str,
    ) {
        let mut packet = [0; MAX_DATAGRAM];
        let len = emit_error(code, text, &mut packet);
        let Some(listener) = self.listeners.get(listener) else {
            return;
        };
        if let Err(error) = listener.answer(&packet[..len], peer, local) {
            self.counters.socket_errors += 1;
            debug!("{peer}: cannot send: {error}");
        }
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        if error.is_exhausted() {
            Self::Overload("the limit of open files is reached")
        } else {
            Self::Answer(error)
        }
    }
}

fn opening(oack: &[u8]) -> Opening {
    if oack.is_empty() {
        Opening::Plain
    } else {
        Opening::OptionAck(oack.into())
    }
}

/// The bytes that the file will take on disk, if the client told.
fn announced_size(request: &Request<'_>, negotiated: &Negotiated) -> Option<u64> {
    // What netascii shrinks to is not known before it has come.
    negotiated.tsize.filter(|_| request.mode == Mode::Octet)
}
