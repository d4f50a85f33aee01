//! The server of the forged world: what `server::requests` and `server::front` decide
//! about a datagram, without policy and files, and the turn of a session under the
//! eyes of [`Track`].

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tftpd::protocol::retry::Wait;
use tftpd::protocol::transfer::{Opening, Proof};
use tftpd::session::{Context, Remote, Session, Turn};
use tftpd::table::rate::network;
use tftpd::table::{Admission, Endpoint, Fingerprint, SessionKey};
use tftpd::wire::packet::{Direction, ErrorCode, Mode, Packet, Request, emit_error};

use super::super::files::{Stored, Trouble, content};
use super::super::network::{LISTEN, Network, SERVER};
use super::super::port::SimPort;
use super::super::server::{self, End, Link, Paper, Server};
use super::promise::{Before, Cause, Happened, LONGEST_ERROR, Left, Track};
use super::{Forging, Ports, honest};

impl Forging {
    pub(super) fn listen(&mut self) {
        for index in 0..self.server.receive(&self.net) {
            let Some((endpoint, bytes)) = self.server.datagram(index) else {
                continue;
            };
            let bytes = bytes.to_vec();
            match self.server.owner(index) {
                Some(key) => self.turn(key, Cause::Arrived, &[bytes], |session, context| {
                    session.run_shared(index..index + 1, context)
                }),
                None => self.foreign(&endpoint, &bytes),
            }
        }
    }

    /// A datagram that belongs to no session.
    fn foreign(&mut self, endpoint: &Endpoint, bytes: &[u8]) {
        let is_single = self.ports == Ports::Single;
        let peer = endpoint.peer;
        match Packet::parse(bytes) {
            Ok(Packet::Request(_)) if is_single && [69, LISTEN.port()].contains(&peer.port()) => {}
            Ok(Packet::Request(request)) => {
                self.admit(endpoint, &request, bytes);
            }
            Ok(Packet::Data { .. }) if is_single => {
                self.answer_nonsense(peer, ErrorCode::UnknownTransferId, "Unknown transfer ID");
            }
            Ok(_) => {}
            Err(error) => {
                if let Some(text) = error.reply() {
                    self.answer_nonsense(peer, ErrorCode::IllegalOperation, text);
                }
            }
        }
        let left = self.left();
        self.count(&left);
    }

    fn answer_nonsense(&mut self, peer: SocketAddr, code: ErrorCode, text: &str) {
        if self
            .server
            .resources
            .ingress
            .nonsense
            .take(self.net.instant(), peer.ip())
        {
            let now = self.net.with(|network| network.now);
            self.nonsense.push((now, network(peer.ip())));
            self.answer(peer, code, text);
        }
    }

    fn answer(&mut self, peer: SocketAddr, code: ErrorCode, text: &str) {
        let mut packet = [0; 128];
        let len = emit_error(code, text, &mut packet);
        // What isn't taken is lost.
        let _ = self
            .net
            .with(|network| network.send(LISTEN, peer, &packet[..len]));
    }

    fn admit(&mut self, endpoint: &Endpoint, request: &Request<'_>, bytes: &[u8]) {
        let fingerprint = Fingerprint::of(bytes);
        let (now, random) = (self.net.instant(), self.random.next() as u32);
        let gives_way = match self
            .server
            .sessions
            .admit(endpoint, fingerprint, now, random)
        {
            Admission::New => None,
            Admission::StartsOver(key) | Admission::Replaces(key) => Some(key),
            Admission::Evicts(key) => {
                self.displace(key);
                Some(key)
            }
            Admission::Repeated(key) => {
                self.turn(key, Cause::Repeated, &[], |session, context| {
                    session.handle_repeated_request(context.now);
                    session.transmit(context)
                });
                return;
            }
            Admission::Moving(_) | Admission::Full | Admission::Crowded => return,
        };
        let Some((file, size)) = file(request.filename) else {
            self.answer(endpoint.peer, ErrorCode::FileNotFound, "File not found");
            return;
        };
        let Some(tid) = self.port().or_else(|| {
            let key = gives_way.or_else(|| self.server.sessions.gives_way(now, random))?;
            self.displace(key);
            self.end(key);
            self.port()
        }) else {
            return;
        };
        if let Some(key) = gives_way {
            self.end(key);
        }
        let (negotiated, opening) = server::answering(request, size);
        let opens_with_oack = matches!(opening, Opening::OptionAck(_));
        let port = SimPort::new(&self.net, tid, false, negotiated.windowsize > 1);
        let stored = Rc::new(RefCell::new(Stored::default()));
        if let Some(client) = honest(endpoint.peer) {
            self.uploads.push((client, Rc::clone(&stored)));
        }
        let proof = match self.ports {
            Ports::Single => Proof::Never,
            _ => Proof::OwnPort,
        };
        let end = End {
            config: server::config(Wait::Adaptive, proof),
            opening,
            negotiated,
            paper: match request.direction {
                Direction::Read => Paper::Sends(content(file, size)),
                Direction::Write => Paper::Receives(stored),
            },
            mode: Mode::Octet,
            trouble: Trouble::None,
            remote: Remote::Known(endpoint.peer),
        };
        let session = end.session(&self.net, port, "file");
        let key = self.server.insert(*endpoint, fingerprint, session);
        let track = Track {
            request_len: bytes.len(),
            opens_with_oack,
            ..Track::default()
        };
        self.tracks.insert(key.to_token(), track);
        self.turn(key, Cause::Begin, &[], Session::transmit);
    }

    /// A port for a transfer, if one is free.
    fn port(&mut self) -> Option<SocketAddr> {
        let (first, count) = match self.ports {
            Ports::Single => return Some(LISTEN),
            Ports::Any => (1024, u64::from(u16::MAX) - 1023),
            Ports::Range(count) => (50_000, count.into()),
        };
        let start = self.random.below(count);
        (0..count)
            .map(|nth| SocketAddr::new(SERVER, first + ((start + nth) % count) as u16))
            .find(|tid| !self.server.by_tid.contains_key(tid))
    }

    pub(super) fn turn(
        &mut self,
        key: SessionKey,
        cause: Cause,
        arrived: &[Vec<u8>],
        work: impl FnOnce(&mut Link, &mut Context<'_, SimPort>) -> Turn,
    ) {
        let Server {
            sessions,
            resources,
            ..
        } = &mut self.server;
        let Some(session) = sessions.get_mut(key) else {
            return;
        };
        let before = Before::of(session);
        let now = self.net.with(|network| network.now);
        let turn = server::lend(&self.net, resources, session, work);
        let left = self.net.with(take_tapped);
        let _ = session.poll_outcome();
        let peer = session.peer();
        let to_peer: Vec<_> = left.iter().filter(|it| it.to == peer).collect();
        let verified = session.transfer().progress().verified && !before.verified;
        // Right by chance: an answer, or what ends the transfer with an ERROR.
        let hit = verified || cause == Cause::Arrived && !to_peer.is_empty();
        if hit && self.guesses.contains(&(peer, session.port().own)) {
            self.victims.remove(&peer);
        }
        if self.victims.contains_key(&peer)
            && let Some(track) = self.tracks.get_mut(&key.to_token())
        {
            let is_single = self.ports == Ports::Single;
            let happened = Happened {
                cause,
                arrived,
                sent: to_peer,
                now,
                is_single,
            };
            track.check(&before, session, &happened);
        }
        // Strangers are turned away, and only so many.
        for stranger in left.iter().filter(|it| it.to != peer) {
            assert!(stranger.is_error() && stranger.len <= LONGEST_ERROR);
            self.nonsense.push((now, network(stranger.to.ip())));
        }
        let is_closed = session.is_closed();
        self.count(&left);
        if is_closed {
            self.end(key);
            return;
        }
        if turn == Turn::Unfinished {
            self.server.postpone(key);
        }
        self.server.sessions.rearm(key);
    }

    /// Makes a note if a session that gives way is an honest client's that hasn't
    /// answered yet.
    fn displace(&mut self, key: SessionKey) {
        let session = self.server.sessions.get(key);
        let session = session.filter(|it| !it.transfer().progress().verified);
        self.displaced
            .extend(session.and_then(|it| honest(it.peer())));
    }

    fn end(&mut self, key: SessionKey) {
        if self.server.remove(key) {
            self.tracks.remove(&key.to_token());
        }
    }

    /// What was sent since this was asked last.
    fn left(&self) -> Vec<Left> {
        self.net.with(take_tapped)
    }

    fn count(&mut self, left: &[Left]) {
        for datagram in left {
            if let Some(victim) = self.victims.get_mut(&datagram.to) {
                victim.packets += 1;
                victim.bytes += datagram.len as u64;
            }
        }
    }
}

fn take_tapped(network: &mut Network) -> Vec<Left> {
    let tapped = network.tap.as_mut().map(std::mem::take);
    let tapped = tapped.unwrap_or_default();
    tapped
        .iter()
        .map(|it| Left::new(it.to, &it.bytes))
        .collect()
}

/// Whose file a name stands for, and its size.
fn file(name: &[u8]) -> Option<(usize, usize)> {
    let name = std::str::from_utf8(name).ok()?.strip_prefix("file-")?;
    let (whose, size) = name.split_once('-')?;
    let (whose, size): (usize, usize) = (whose.parse().ok()?, size.parse().ok()?);
    (whose < 10 && size <= 1 << 16).then_some((whose, size))
}
