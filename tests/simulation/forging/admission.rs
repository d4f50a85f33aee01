//! The server of the forged world: what `server::requests` and `server::front` decide
//! about a datagram, without policy and files; and the turn of a session, watched by
//! [`Track`].

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tftpd::protocol::retry::Wait;
use tftpd::protocol::transfer::{Failure, Opening};
use tftpd::session::tid::{self, Sharing};
use tftpd::session::{Context, Remote, SEND_BUDGET, Session, Turn};
use tftpd::table::rate::network;
use tftpd::table::{Admission, AfterTurn, Endpoint, Fingerprint, SessionKey};
use tftpd::wire::packet::{Direction, ErrorCode, Mode, Packet, Request, emit_error};

use super::super::files::{Stored, Trouble, content};
use super::super::network::{LISTEN, Network, SERVER};
use super::super::port::SimPort;
use super::super::server::{self, End, Link, Paper, Server};
use super::promise::{Before, Cause, Happened, LONGEST_ERROR, Left, Track};
use super::{Forging, Ports, UNPROVED_RATE, honest};

impl Forging {
    /// Takes a batch from the listen port or from another port that transfers share.
    pub(super) fn listen(&mut self, port: SocketAddr) {
        for index in 0..self.server.receive(&self.net, port) {
            let Some((endpoint, bytes)) = self.server.datagram(index) else {
                continue;
            };
            let bytes = bytes.to_vec();
            match self.server.owner(index, port) {
                Some(key) => self.turn(key, Cause::Arrived, &[bytes], |session, context| {
                    session.run_shared(index..index + 1, context)
                }),
                None if port == LISTEN => self.foreign(&endpoint, &bytes),
                None => self.stranger(port, endpoint.peer, &bytes),
            }
        }
    }

    /// A datagram on a shared port that belongs to no session there.
    fn stranger(&mut self, port: SocketAddr, peer: SocketAddr, bytes: &[u8]) {
        if let Ok(Packet::Data { .. }) = Packet::parse(bytes) {
            let text = "Unknown transfer ID";
            self.answer_nonsense(port, peer, ErrorCode::UnknownTransferId, text);
        }
        let left = self.left();
        self.count(&left);
    }

    /// A datagram that belongs to no session.
    fn foreign(&mut self, endpoint: &Endpoint, bytes: &[u8]) {
        let is_single = self.ports == Ports::Single;
        let peer = endpoint.peer;
        match Packet::parse(bytes) {
            Ok(Packet::Request(_)) if is_single && tid::is_server(peer, LISTEN.port()) => {}
            Ok(Packet::Request(request)) => {
                self.admit(endpoint, &request, bytes);
            }
            Ok(Packet::Data { .. }) if is_single => {
                let text = "Unknown transfer ID";
                self.answer_nonsense(LISTEN, peer, ErrorCode::UnknownTransferId, text);
            }
            Ok(_) => {}
            Err(error) => {
                if let Some(text) = error.reply() {
                    self.answer_nonsense(LISTEN, peer, ErrorCode::IllegalOperation, text);
                }
            }
        }
        let left = self.left();
        self.count(&left);
    }

    fn answer_nonsense(&mut self, from: SocketAddr, peer: SocketAddr, code: ErrorCode, text: &str) {
        if self
            .server
            .resources
            .ingress
            .nonsense
            .take(self.net.instant(), peer.ip())
        {
            let now = self.net.with(|network| network.now);
            self.nonsense.push((now, network(peer.ip())));
            self.answer(from, peer, code, text);
        }
    }

    fn answer(&mut self, from: SocketAddr, peer: SocketAddr, code: ErrorCode, text: &str) {
        let mut packet = [0; 128];
        let len = emit_error(code, text, &mut packet);
        // If the socket doesn't take it, it is lost.
        let _ = self
            .net
            .with(|network| network.send(from, peer, &packet[..len]));
    }

    fn admit(&mut self, endpoint: &Endpoint, request: &Request<'_>, bytes: &[u8]) {
        let fingerprint = Fingerprint::of(bytes);
        let (now, random) = (self.net.instant(), self.random.next() as u32);
        self.server.count_files();
        let sessions = &self.server.sessions;
        let admission = match request.direction {
            Direction::Read => sessions.admit_read(endpoint, fingerprint, now, random),
            Direction::Write => sessions.admit(endpoint, fingerprint, now, random),
        };
        let gives_way = match admission {
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
            self.answer(
                LISTEN,
                endpoint.peer,
                ErrorCode::FileNotFound,
                "File not found",
            );
            return;
        };
        let is_read = request.direction == Direction::Read;
        let is_server = tid::is_server(endpoint.peer, LISTEN.port());
        let is_short = is_read && !is_server && self.server.sessions.is_short();
        let ports = self.ports.kind();
        let sharing = ports.sharing(request.direction, is_short, is_server);
        let (negotiated, opening) = server::answering(request, size);
        let windows = negotiated.windowsize > 1;
        let Some(port) = self.port(sharing, windows).or_else(|| {
            let has_own = |session: &Link| !session.port().is_shared();
            let chosen = gives_way.filter(|&key| {
                let session = self.server.sessions.get(key);
                session.is_some_and(has_own)
            });
            let sessions = &self.server.sessions;
            let key = chosen.or_else(|| sessions.gives_way_among(now, random, has_own))?;
            self.displace(key);
            self.end(key);
            self.port(sharing, windows)
        }) else {
            return;
        };
        if let Some(key) = gives_way {
            self.end(key);
        }
        let opens_with_oack = matches!(opening, Opening::OptionAck(_));
        let stored = Rc::new(RefCell::new(Stored::default()));
        if let Some(client) = honest(endpoint.peer) {
            self.uploads.push((client, Rc::clone(&stored)));
        }
        if port.is_shared() && self.ports != Ports::Single {
            self.tally.shared += 1;
            self.tally.closable += u64::from(is_short);
        }
        let proof = ports.proof(port.is_shared());
        let end = End {
            config: server::config(Wait::Adaptive, proof),
            opening,
            negotiated,
            paper: match request.direction {
                Direction::Read if is_short => Paper::SendsClosable(content(file, size)),
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

    /// A port for a transfer, if one is free or may be shared.
    fn port(&mut self, sharing: Sharing, windows: bool) -> Option<SimPort> {
        let net = self.net.clone();
        if self.ports == Ports::Single {
            return Some(SimPort::share(&net, LISTEN));
        }
        if self.ports != Ports::Any && self.server.shared.is_empty() {
            self.open_shared();
        }
        let own = (sharing != Sharing::Always)
            .then(|| self.free_port())
            .flatten();
        match own {
            Some(own) => Some(SimPort::new(&net, own, false, windows)),
            None if sharing == Sharing::Never => None,
            None => self.share(),
        }
    }

    /// A share of a shared port.
    fn share(&mut self) -> Option<SimPort> {
        if self.server.shared.len() < self.ports.kind().spread() {
            self.open_shared();
        }
        let there = self.server.shared.len();
        let nth = self.random.below(there as u64) as usize;
        let port = self.server.shared.get(nth)?;
        Some(SimPort::share(&self.net, *port))
    }

    fn open_shared(&mut self) {
        if let Some(port) = self.free_port() {
            self.net.with(|network| network.open(port, false));
            self.server.shared.push(port);
        }
    }

    /// A port that isn't in use.
    fn free_port(&mut self) -> Option<SocketAddr> {
        let (first, count) = match self.ports {
            Ports::Single => return None,
            Ports::Any => (1024, u64::from(u16::MAX) - 1023),
            Ports::Range(count) => (50_000, count.into()),
        };
        let start = self.random.below(count);
        let mut ports =
            (0..count).map(|nth| SocketAddr::new(SERVER, first + ((start + nth) % count) as u16));
        let server = &self.server;
        ports.find(|tid| !server.by_tid.contains_key(tid) && !server.is_known(*tid))
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
        let net = &self.net;
        let mut context = Context {
            now: net.instant(),
            clock: &|| net.instant(),
            resources,
            poll: (),
            send_budget: SEND_BUDGET,
        };
        let random = || self.random.next() as u32;
        let done = self.shaper.turn(key, session, &mut context, random, work);
        let left = self.net.with(take_tapped);
        let (peer, own) = (session.peer(), session.port().own);
        let is_shared = session.port().is_shared();
        let is_verified = session.transfer().progress().verified;
        let to_peer: Vec<_> = left.iter().filter(|it| it.to == peer).collect();
        // Right by chance: an answer that counts, or one that ends the transfer with an
        // ERROR.
        let hit = is_verified && !before.verified || cause == Cause::Arrived && !to_peer.is_empty();
        if hit && self.guesses.contains(&(peer, own)) {
            self.victims.remove(&peer);
        }
        if let Some(victim) = self.victims.get_mut(&peer)
            && let Some(track) = self.tracks.get_mut(&key.to_token())
        {
            victim.acknowledged |= is_shared && is_verified;
            let happened = Happened {
                cause,
                arrived,
                sent: to_peer,
                now,
                is_shared,
            };
            track.check(&before, session, &happened);
        }
        let is_bounded = session.transfer().may_be_forged() && is_verified;
        // Strangers get an ERROR, at a limited rate.
        for stranger in left.iter().filter(|it| it.to != peer) {
            assert!(stranger.is_error() && stranger.len <= LONGEST_ERROR);
            self.nonsense.push((now, network(stranger.to.ip())));
        }
        let is_closed = session.is_closed();
        let was_guessed = std::mem::take(&mut resources.ingress.guessed);
        if is_bounded && honest(peer).is_none() {
            self.check_rate(key, peer, &left);
        }
        self.count(&left);
        if is_closed || was_guessed {
            self.suspected.extend(honest(peer).filter(|_| was_guessed));
            self.end(key);
            return;
        }
        if done.is_unfinished {
            self.server.postpone(key);
        }
        self.make_way(key, !before.verified);
    }

    fn make_way(&mut self, key: SessionKey, is_newly_verified: bool) {
        self.server.count_files();
        let now = self.net.instant();
        let random = || self.random.next() as u32;
        let sessions = &mut self.server.sessions;
        match sessions.after_turn(key, is_newly_verified, || now, random) {
            AfterTurn::Stays => {}
            AfterTurn::Crowded => {
                if let Some(session) = self.server.sessions.get_mut(key) {
                    session.abort(Failure::new(ErrorCode::NotDefined, "Too many"));
                }
                self.turn(key, Cause::Resumed, &[], Session::transmit);
            }
            AfterTurn::Concludes(sent) => {
                self.end(sent);
                self.make_way(key, is_newly_verified);
            }
            AfterTurn::Evicts(key) => {
                self.displace(key);
                self.end(key);
            }
        }
    }

    /// Checks that what forged ACKs bring a network stays below the rate, unless its client
    /// was taken to be there.
    fn check_rate(&mut self, key: SessionKey, peer: SocketAddr, left: &[Left]) {
        /// A window that had begun before the bytes were used up.
        const WINDOW: u64 = 64 * 1432;
        if self.shaper.has_proved(key) {
            if self.proved.insert(key.to_token()) {
                self.tally.lucky += 1;
            }
            return;
        }
        let data = left.iter().filter(|it| it.to == peer && it.is_data());
        let bytes: u64 = data.map(|it| it.len as u64).sum();
        let sent = self.unproved.entry(network(peer.ip())).or_default();
        *sent += bytes;
        // The initial credit, the current second, and the credit that a client that has
        // answered right may draw in advance.
        let seconds = self.net.with(|network| network.now.as_secs()) + 3;
        let most = UNPROVED_RATE.get() * seconds + WINDOW;
        assert!(
            *sent <= most || self.tally.lucky > 0,
            "{sent} bytes to the network of {peer}"
        );
    }

    /// Records an evicted session if it belongs to an honest client that hasn't answered
    /// yet.
    fn displace(&mut self, key: SessionKey) {
        let session = self.server.sessions.get(key);
        let session = session.filter(|it| !it.transfer().progress().verified);
        self.displaced
            .extend(session.and_then(|it| honest(it.peer())));
    }

    fn end(&mut self, key: SessionKey) {
        if self.server.remove(key) {
            self.shaper.forget(key);
            self.tracks.remove(&key.to_token());
        }
    }

    /// What has been sent since the last call.
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

/// The owner of the file with this name, and the file's size.
fn file(name: &[u8]) -> Option<(usize, usize)> {
    let name = std::str::from_utf8(name).ok()?.strip_prefix("file-")?;
    let (whose, size) = name.split_once('-')?;
    let (whose, size): (usize, usize) = (whose.parse().ok()?, size.parse().ok()?);
    (whose < 10 && size <= 1 << 16).then_some((whose, size))
}
