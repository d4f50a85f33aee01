//! Anything at all in anybody's name: a script of datagrams from forged addresses
//! is played to the shipped session, table and protocol, with ports of their own,
//! with a few ports, or with a single one. Each datagram that leaves is held
//! against what is promised to an address that never answered, and the honest
//! clients beside it have to finish.
//!
//! The script is bytes, whoever made them: a seed or a fuzzer. Who forges knows
//! what an attacker can work out, the blocks that were sent and acknowledged, but
//! no port that only the victim was told.

mod forger;
mod promise;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tftpd::file::{FileSink, FileSource};
use tftpd::protocol::receiver::Receiver;
use tftpd::protocol::retry::{RetryPolicy, Wait};
use tftpd::protocol::sender::Sender;
use tftpd::protocol::transfer::{Config, Opening, Outcome, Proof, Transfer, UNVERIFIED_REPEATS};
use tftpd::session::{
    Content, Context, NONSENSE_ANSWERS, Remote, Resources, SEND_BUDGET, Session, Turn,
};
use tftpd::table::{Admission, Endpoint, Fingerprint, SessionKey, Sessions, Tracked as _};
use tftpd::wire::options::{self, Limits, Negotiated, Offer};
use tftpd::wire::packet::{Direction, ErrorCode, Mode, Packet, Request, emit_error, emit_request};

use super::files::{Keeper, Reader, Stored, Trouble, content};
use super::network::{CLIENT, LISTEN, Net, Network, SERVER};
use super::port::{SimPort, receive};
use super::weather::{FAIR, Kernels, Random, Weather};
use forger::delay;
use promise::{Before, Cause, Happened, LARGEST, LONGEST_ERROR, Left, Tap, Tapped, Track};

/// How long after the last forged datagram all of it is forgotten.
const AFTERMATH: Duration = Duration::from_secs(150);

const FIRST_CLIENT: u16 = 2000;
const FIRST_VICTIM: u16 = 3000;
const SLOT_LEN: usize = 65_469;

type Link = Session<Tapped, Keeper, Reader>;

// --- the world -------------------------------------------------------------------------

/// What one address was made to get.
#[derive(Debug, Default)]
struct Victim {
    requests: u64,
    others: u64,
    forged_bytes: u64,
    packets: u64,
    bytes: u64,
    last_request: Vec<u8>,
}

/// What a script came to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) forged: u64,
    pub(crate) forged_bytes: u64,
    pub(crate) reflected: u64,
    pub(crate) reflected_bytes: u64,
    pub(crate) honest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    Any,
    /// So many.
    Range(u16),
    Single,
}

/// The bytes of a script, one after the other; zeros behind its end.
struct Script<'s>(&'s [u8]);

impl Script<'_> {
    fn next(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }
}

/// An honest client.
struct Honest {
    session: Link,
    direction: Direction,
    expected: Vec<u8>,
    stored: Rc<RefCell<Stored>>,
    outcome: Option<Outcome>,
    unfinished: bool,
}

struct Forging {
    net: Net,
    ports: Ports,
    sessions: Sessions<Link>,
    tracks: BTreeMap<usize, Track>,
    by_tid: BTreeMap<SocketAddr, SessionKey>,
    unfinished: Vec<SessionKey>,
    listen_again: bool,
    server: Resources,
    others: Resources,
    clients: Vec<Honest>,
    /// What the honest uploads came to, by the client's port.
    uploads: Vec<(usize, Rc<RefCell<Stored>>)>,
    victims: BTreeMap<SocketAddr, Victim>,
    /// Who sent to which port of a transfer: right by chance where another's
    /// transfer has just ended there.
    guesses: BTreeSet<(SocketAddr, SocketAddr)>,
    /// When nonsense was answered.
    nonsense: Vec<Duration>,
    tap: Tap,
    random: Random,
    tally: Tally,
}

/// Plays a script to its end and judges it.
pub(crate) fn play(script: &[u8]) -> Tally {
    let mut script = Script(script);
    let head: [u8; 4] = std::array::from_fn(|_| script.next());
    let mut world = Forging::new(head);
    world.play(&mut script);
    world.judge();
    world.tally
}

impl Forging {
    fn new(head: [u8; 4]) -> Self {
        let [mode, clients, room, ports] = head;
        let ports = match mode % 3 {
            0 => Ports::Any,
            1 => Ports::Range(16 + u16::from(ports % 64)),
            _ => Ports::Single,
        };
        let kernels = Kernels {
            single_port: ports == Ports::Single,
            coalesces: mode & 0x40 != 0,
            offloads: mode & 0x80 != 0,
            fullness: 0,
        };
        let weather = Weather {
            loss: if clients & 0x40 != 0 { 5 } else { 0 },
            ..FAIR
        };
        let seed = u64::from(u32::from_le_bytes(head));
        let net = Net::new(seed, weather, kernels);
        let origin = net.instant();
        // Whoever acknowledges in a victim's name keeps a slot of a single port.
        let capacity = match ports {
            Ports::Single => 64,
            _ => 8 + usize::from(room % 56),
        };
        let mut world = Self {
            sessions: Sessions::new(capacity, origin),
            server: Resources::new(origin, None),
            others: Resources::new(origin, None),
            net,
            ports,
            tracks: BTreeMap::new(),
            by_tid: BTreeMap::new(),
            unfinished: Vec::new(),
            listen_again: false,
            clients: Vec::new(),
            uploads: Vec::new(),
            victims: BTreeMap::new(),
            guesses: BTreeSet::new(),
            nonsense: Vec::new(),
            tap: Tap::default(),
            random: Random(!seed),
            tally: Tally::default(),
        };
        let count = match ports {
            Ports::Single => 24,
            _ => 48,
        };
        for victim in 0..count {
            let address = victim_address(victim);
            world.net.with(|network| network.open(address, false));
            world.victims.insert(address, Victim::default());
        }
        for client in 0..=usize::from(clients % 3) {
            world.start_client(client);
        }
        world
    }

    fn config(&self, is_client: bool) -> Config {
        let is_single = self.ports == Ports::Single && !is_client;
        Config {
            retry: RetryPolicy {
                wait: Wait::Adaptive,
                retries: 5,
            },
            request_repeats: u8::MAX,
            dally: Duration::from_secs(10),
            proof: if is_single {
                Proof::Never
            } else {
                Proof::OwnPort
            },
        }
    }

    // --- honest clients ---------------------------------------------------------------

    fn start_client(&mut self, client: usize) {
        let direction = self.random.choose(&[Direction::Read, Direction::Write]);
        let size = self.random.below(20_000) as usize;
        let offer = Offer {
            blksize: self.random.choose(&[None, Some(100), Some(1428)]),
            windowsize: self.random.choose(&[None, Some(4), Some(16)]),
            ..Offer::default()
        };
        let packet = request(direction, &format!("file-{client}-{size}"), &offer);
        let opening = Opening::Request {
            packet: packet.into(),
            offer: Box::new(offer.clone()),
        };
        let own = SocketAddr::new(CLIENT, FIRST_CLIENT + client as u16);
        let port = SimPort::new(&self.net, own, true, offer.windowsize.is_some());
        let stored = Rc::new(RefCell::new(Stored::default()));
        let mut session = self.session(
            direction == Direction::Write,
            opening,
            Negotiated::default(),
            (client, size),
            &stored,
            (port, Tap::default()),
            Remote::Asked(LISTEN),
        );
        session.register(&()).expect("a simulated port");
        self.clients.push(Honest {
            session,
            direction,
            expected: content(client, size),
            stored,
            outcome: None,
            unfinished: false,
        });
        self.client_turn(client, Session::transmit);
    }

    #[expect(clippy::too_many_arguments, reason = "what the two ends differ in")]
    fn session(
        &self,
        sends: bool,
        opening: Opening,
        negotiated: Negotiated,
        (file, size): (usize, usize),
        stored: &Rc<RefCell<Stored>>,
        (port, tap): (SimPort, Tap),
        remote: Remote,
    ) -> Link {
        let config = self.config(matches!(remote, Remote::Asked(_)));
        let (transfer, file) = if sends {
            let reader = Reader::new(content(file, size), Trouble::None, &self.net);
            let source = FileSource::new(reader, Mode::Octet);
            let sender = Sender::new(&config, opening, negotiated, source.length());
            (Transfer::Sender(sender), Content::Source(source))
        } else {
            let keeper = Keeper {
                stored: Rc::clone(stored),
                trouble: Trouble::None,
            };
            let sink = Box::new(FileSink::new(keeper, Mode::Octet));
            let receiver = Receiver::new(&config, opening, negotiated);
            (Transfer::Receiver(receiver), Content::Sink(sink))
        };
        let port = Tapped { port, tap };
        Session::new(transfer, file, port, remote, b"file", self.net.instant())
    }

    fn client_turn(
        &mut self,
        client: usize,
        work: impl FnOnce(&mut Link, &mut Context<'_, Tapped>) -> Turn,
    ) {
        let honest = &mut self.clients[client];
        if honest.session.is_closed() {
            honest.unfinished = false;
            return;
        }
        let net = &self.net;
        let mut context = Context {
            now: net.instant(),
            clock: &|| net.instant(),
            resources: &mut self.others,
            poll: (),
            send_budget: SEND_BUDGET,
        };
        honest.unfinished = work(&mut honest.session, &mut context) == Turn::Unfinished;
        if let Some(outcome) = honest.session.poll_outcome() {
            honest.outcome = Some(outcome);
        }
        if honest.session.is_closed() {
            honest.session.drop_prefetched(&mut self.others.pool);
        }
    }

    // --- time -------------------------------------------------------------------------

    fn play(&mut self, script: &mut Script<'_>) {
        while !script.0.is_empty() {
            let delay = delay(script.next());
            let until = self.net.with(|network| network.now) + delay;
            self.run_until(Some(until));
            self.forge(script);
        }
        let last = self.net.with(|network| network.now);
        self.run_until(None);
        let took = self.net.with(|network| network.now.saturating_sub(last));
        assert!(took < AFTERMATH, "{took:?} after the last forged datagram");
        assert!(self.sessions.is_empty(), "sessions are left");
    }

    /// Lets happen what happens until then, or until nothing does any more.
    fn run_until(&mut self, until: Option<Duration>) {
        loop {
            let next = self.next_event();
            let (Some(next), until) = (next, until) else {
                break;
            };
            if until.is_some_and(|until| next > until) {
                break;
            }
            self.net.with(|network| {
                network.now = network.now.max(next);
                network.advance();
            });
            self.ready();
            while let Some(key) = self.sessions.pop_due(self.net.instant()) {
                self.turn(key, Cause::Deadline, &[], Session::run_deadline);
            }
            let now = self.net.instant();
            for client in 0..self.clients.len() {
                let deadline = self.clients[client].session.deadline();
                if deadline.is_some_and(|at| at <= now) {
                    self.client_turn(client, Session::run_deadline);
                }
            }
        }
        if let Some(until) = until {
            self.net
                .with(|network| network.now = network.now.max(until));
        }
    }

    fn next_event(&self) -> Option<Duration> {
        let is_busy = self.listen_again
            || !self.unfinished.is_empty()
            || self.clients.iter().any(|client| client.unfinished);
        self.net.with(|network| {
            if is_busy || network.has_reports() {
                return Some(network.now);
            }
            let open = self.clients.iter().filter(|it| !it.session.is_closed());
            let deadlines = open.filter_map(|it| it.session.deadline());
            let deadline = deadlines.chain(self.sessions.next_deadline()).min();
            let deadline = deadline.map(|at| network.since_origin(at));
            [deadline, network.next_event()].into_iter().flatten().min()
        })
    }

    fn ready(&mut self) {
        let leftovers = std::mem::take(&mut self.unfinished);
        let mut listen = std::mem::take(&mut self.listen_again);
        for address in self.net.with(Network::harvest) {
            if address == LISTEN {
                listen = true;
            } else if let Some(&key) = self.by_tid.get(&address) {
                self.turn(key, Cause::Arrived, &[], Session::run);
            } else if address.ip() == CLIENT && address.port() < FIRST_VICTIM {
                self.client_turn(usize::from(address.port() - FIRST_CLIENT), Session::run);
            } else {
                // A victim's.
                while self.net.with(|network| network.receive(address)).is_ok() {}
            }
        }
        for client in 0..self.clients.len() {
            if self.clients[client].unfinished {
                self.client_turn(client, Session::run);
            }
        }
        for key in leftovers {
            if let Some(session) = self.sessions.get_mut(key) {
                session.queued = false;
                self.sessions.rearm(key);
            }
            self.turn(key, Cause::Arrived, &[], Session::run);
        }
        if listen {
            self.listen();
        }
    }

    // --- the server --------------------------------------------------------------------

    fn listen(&mut self) {
        let batch = &mut self.server.batch;
        let capacity = batch.capacity(SLOT_LEN, usize::MAX);
        let received = receive(&self.net, LISTEN, false, batch, SLOT_LEN, usize::MAX);
        let received = received.unwrap_or(0);
        self.listen_again = received == capacity;
        for index in 0..received {
            let Some(datagram) = self.server.batch.get(index) else {
                continue;
            };
            let (peer, bytes) = (datagram.peer, datagram.payload.to_vec());
            let endpoint = Endpoint {
                peer,
                local: SERVER,
            };
            let is_request = matches!(bytes[..], [0, 1 | 2, ..]);
            let owner = self.sessions.key_of(&endpoint);
            let owner = owner.filter(|_| self.ports == Ports::Single && !is_request);
            match owner {
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
        let left = self.tap.take();
        self.count(&left);
    }

    fn answer_nonsense(&mut self, peer: SocketAddr, code: ErrorCode, text: &str) {
        if self
            .server
            .ingress
            .nonsense
            .take(self.net.instant(), peer.ip())
        {
            self.nonsense.push(self.net.with(|network| network.now));
            self.answer(peer, code, text);
        }
    }

    fn answer(&mut self, peer: SocketAddr, code: ErrorCode, text: &str) {
        let mut packet = [0; 128];
        let len = emit_error(code, text, &mut packet);
        let packet = &packet[..len];
        if self
            .net
            .with(|network| network.send(LISTEN, peer, packet))
            .is_ok()
        {
            self.tap.push(Left::new(peer, packet));
        }
    }

    fn admit(&mut self, endpoint: &Endpoint, request: &Request<'_>, bytes: &[u8]) {
        let fingerprint = Fingerprint::of(bytes);
        let (now, random) = (self.net.instant(), self.random.next() as u32);
        let gives_way = match self.sessions.admit(endpoint, fingerprint, now, random) {
            Admission::New => None,
            Admission::StartsOver(key) | Admission::Replaces(key) | Admission::Evicts(key) => {
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
            let key = gives_way.or_else(|| self.sessions.gives_way(now, random))?;
            self.end(key);
            self.port()
        }) else {
            return;
        };
        if let Some(key) = gives_way {
            self.end(key);
        }
        let reads = request.direction == Direction::Read;
        let length = reads.then_some(size as u64);
        let mut oack = [0; 512];
        let (negotiated, len) = options::negotiate(request, &Limits::default(), length, &mut oack);
        let opening = match len {
            0 => Opening::Plain,
            len => Opening::OptionAck(oack[..len].into()),
        };
        let port = SimPort::new(&self.net, tid, false, negotiated.windowsize > 1);
        let stored = Rc::new(RefCell::new(Stored::default()));
        if endpoint.peer.port() < FIRST_VICTIM {
            let client = usize::from(endpoint.peer.port().saturating_sub(FIRST_CLIENT));
            self.uploads.push((client, Rc::clone(&stored)));
        }
        let remote = Remote::Known(endpoint.peer);
        let tap = (port, self.tap.clone());
        let file = (file, size);
        let session = self.session(reads, opening, negotiated, file, &stored, tap, remote);
        let key = self.sessions.insert(*endpoint, fingerprint, session);
        if tid != LISTEN {
            self.by_tid.insert(tid, key);
        }
        let track = Track {
            request_len: bytes.len(),
            opens_with_oack: len > 0,
            ..Track::default()
        };
        self.tracks.insert(key.to_token(), track);
        if let Some(session) = self.sessions.get_mut(key) {
            session.register(&()).expect("a simulated port");
        }
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
            .find(|tid| !self.by_tid.contains_key(tid))
    }

    fn turn(
        &mut self,
        key: SessionKey,
        cause: Cause,
        arrived: &[Vec<u8>],
        work: impl FnOnce(&mut Link, &mut Context<'_, Tapped>) -> Turn,
    ) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let before = Before::of(session);
        let net = &self.net;
        let mut context = Context {
            now: net.instant(),
            clock: &|| net.instant(),
            resources: &mut self.server,
            poll: (),
            send_budget: SEND_BUDGET,
        };
        let now = net.with(|network| network.now);
        let turn = work(session, &mut context);
        let left = self.tap.take();
        let _ = session.poll_outcome();
        let peer = session.peer();
        let to_peer: Vec<_> = left.iter().filter(|it| it.to == peer).collect();
        let verified = session.transfer().progress().verified && !before.verified;
        if verified && self.guesses.contains(&(peer, session.port().port.own)) {
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
            self.nonsense.push(now);
        }
        let is_closed = session.is_closed();
        if turn == Turn::Unfinished && !session.queued && !is_closed {
            session.queued = true;
            self.unfinished.push(key);
        }
        self.count(&left);
        if is_closed {
            self.end(key);
        } else {
            self.sessions.rearm(key);
        }
    }

    fn end(&mut self, key: SessionKey) {
        if let Some(mut session) = self.sessions.remove(key) {
            session.drop_prefetched(&mut self.server.pool);
            self.by_tid.remove(&session.port().port.own);
            self.tracks.remove(&key.to_token());
        }
    }

    fn count(&mut self, left: &[Left]) {
        for datagram in left {
            if let Some(victim) = self.victims.get_mut(&datagram.to) {
                victim.packets += 1;
                victim.bytes += datagram.len as u64;
            }
        }
    }

    // --- the judge ----------------------------------------------------------------------

    fn judge(&mut self) {
        self.sessions.check_invariants();
        let is_lossy = self.net.with(|network| network.weather.loss > 0);
        for (client, honest) in self.clients.iter().enumerate() {
            // Where slots are short, an upload that is complete gives way first: if
            // its last ACK was lost, the client isn't told.
            let may_be_untold = is_lossy && honest.direction == Direction::Write;
            let outcome = honest.outcome.as_ref();
            assert!(
                outcome == Some(&Outcome::Completed) || may_be_untold,
                "honest client {client}: {outcome:?}"
            );
            match honest.direction {
                Direction::Read => assert!(
                    honest.stored.borrow().bytes == honest.expected,
                    "client {client} got something else"
                ),
                Direction::Write => {
                    let mut all = self.uploads.iter().filter(|(whose, _)| *whose == client);
                    let is_there = all.any(|(_, stored)| {
                        let stored = stored.borrow();
                        stored.committed && stored.bytes == honest.expected
                    });
                    assert!(is_there, "client {client} uploaded something else");
                }
            }
            self.tally.honest += 1;
        }
        for (address, victim) in &self.victims {
            self.tally.reflected += victim.packets;
            self.tally.reflected_bytes += victim.bytes;
            if self.ports == Ports::Single {
                continue;
            }
            let most = (1 + u64::from(UNVERIFIED_REPEATS)) * victim.requests + victim.others;
            assert!(victim.packets <= most, "{address}: {victim:?}");
            let most = most * LARGEST as u64;
            assert!(victim.bytes <= most, "{address}: {victim:?}");
        }
        // So many in one second, and as many at the start of the next.
        let most = 2 * NONSENSE_ANSWERS as usize;
        for few in self.nonsense.windows(most + 1) {
            let took = few[most].saturating_sub(few[0]);
            assert!(took >= Duration::from_secs(1), "{most} answers to nonsense");
        }
    }
}

fn victim_address(victim: usize) -> SocketAddr {
    match victim {
        // Other servers.
        1 => SocketAddr::new([10, 0, 0, 9].into(), 69),
        _ => SocketAddr::new([10, 0, 1, 1].into(), FIRST_VICTIM + victim as u16),
    }
}

fn request(direction: Direction, name: &str, offer: &Offer) -> Vec<u8> {
    let mut packet = vec![0; 512];
    let options = offer.options();
    let len = emit_request(
        direction,
        name.as_bytes(),
        Mode::Octet,
        options,
        &mut packet,
    );
    packet.truncate(len.expect("a short request"));
    packet
}

/// Whose file a name stands for, and its size.
fn file(name: &[u8]) -> Option<(usize, usize)> {
    let name = std::str::from_utf8(name).ok()?.strip_prefix("file-")?;
    let (whose, size) = name.split_once('-')?;
    let (whose, size): (usize, usize) = (whose.parse().ok()?, size.parse().ok()?);
    (whose < 10 && size <= 1 << 16).then_some((whose, size))
}
