//! A server and its clients: the shipped session, table and protocol at both ends, and
//! only those parts of the loops that a session relies on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use tftpd::protocol::retry::Wait;
use tftpd::protocol::transfer::{Config, Failure, Opening, Outcome, Proof};
use tftpd::session::{Context, Queue, Remote, Resources, Turn};
use tftpd::table::{Admission, Fingerprint, MAX_DESCRIPTORS, SessionKey, Sessions, Tracked};
use tftpd::wire::options::{Negotiated, Offer};
use tftpd::wire::packet::{Direction, ErrorCode, Mode, Packet, Request, emit_error};

use super::files::{Stored, Trouble, content};
use super::network::{CLIENT, LISTEN, Net, Network, SERVER};
use super::port::{Ledger, SimPort};
use super::server::{self, FIRST_CLIENT, Link, Paper, Server, client_address};
use super::turn::{Cause, work};
use super::weather::{Kernels, Weather};

/// Several times the longest patience.
const LIFETIME: Duration = Duration::from_secs(3600);

/// What one client wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) direction: Direction,
    pub(crate) mode: Mode,
    /// The number of the file; several clients may want the same.
    pub(crate) file: usize,
    pub(crate) size: usize,
    pub(crate) offer: Offer,
    pub(crate) server_trouble: Trouble,
    pub(crate) client_trouble: Trouble,
    pub(crate) wait: Wait,
}

impl Wish {
    pub(crate) fn block_size(&self) -> u16 {
        self.offer.blksize.unwrap_or(512)
    }

    pub(crate) fn window(&self) -> u16 {
        self.offer.windowsize.unwrap_or(1)
    }
}

/// A session at either end, and its record.
pub(crate) struct End {
    pub(crate) session: Link,
    pub(crate) record: Record,
    unfinished: bool,
}

/// How a transfer went at one end.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) client: usize,
    pub(crate) outcome: Option<Outcome>,
    /// The file that was received.
    pub(crate) stored: Rc<RefCell<Stored>>,
    pub(crate) retransmits: u64,
    /// When it ended.
    pub(crate) ended: Duration,
}

impl Record {
    pub(crate) fn is_committed(&self) -> bool {
        self.stored.borrow().committed
    }
}

pub(crate) struct World {
    pub(crate) net: Net,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) clients: Vec<End>,
    /// The records of each client's sessions at the server.
    pub(crate) served: Vec<Vec<Record>>,
    server: Server,
    records: BTreeMap<usize, Record>,
    /// Sessions that wait for room in the listen port.
    room_queue: Vec<SessionKey>,
    next_tid: u16,
    server_wait: Wait,
    others: Resources,
    /// How much of the time went by in leaps.
    pub(crate) leapt: Duration,
    stop: Option<Stop>,
    /// When the server had stopped.
    pub(crate) stopped: Option<Duration>,
}

/// An order to the server to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) at: Duration,
    /// How much time running transfers get to end.
    pub(crate) grace: Duration,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        weather: Weather,
        kernels: Kernels,
        server_wait: Wait,
        wishes: Vec<Wish>,
    ) -> Self {
        let net = Net::new(seed, weather, kernels);
        let origin = net.instant();
        Self {
            served: wishes.iter().map(|_| Vec::new()).collect(),
            wishes,
            clients: Vec::new(),
            server: Server::new(Sessions::new(64 * MAX_DESCRIPTORS, origin), origin),
            records: BTreeMap::new(),
            room_queue: Vec::new(),
            next_tid: 10_000,
            server_wait,
            others: Resources::new(origin, None),
            leapt: Duration::ZERO,
            stop: None,
            stopped: None,
            net,
        }
    }

    /// Limits the number of the server's sessions.
    #[must_use]
    pub(crate) fn with_limit(mut self, sessions: usize) -> Self {
        let table = Sessions::new(64 * MAX_DESCRIPTORS, self.net.instant());
        self.server.sessions = table.with_limit(sessions);
        self
    }

    /// Makes the server stop.
    #[must_use]
    pub(crate) const fn with_stop(mut self, stop: Stop) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Starts the clients, and runs until nothing happens any more.
    pub(crate) fn run(&mut self) {
        for client in 0..self.wishes.len() {
            self.start_client(client);
        }
        self.go_on();
    }

    /// Runs until nothing happens any more.
    pub(crate) fn go_on(&mut self) {
        while let Some(next) = self.next_event() {
            let now = self.net.with(|network| {
                network.now = network.now.max(next);
                network.advance();
                network.now
            });
            let lived = now.saturating_sub(self.leapt);
            assert!(lived < LIFETIME, "something lives forever");
            self.ready();
            self.leap();
            self.server_deadlines();
            if self.is_to_end() {
                self.cut_off();
            }
            self.leap();
            self.client_deadlines();
        }
        self.server.sessions.check_invariants();
        assert!(self.server.sessions.is_empty(), "sessions are left");
    }

    /// The machines were suspended, or their clock was set.
    fn leap(&mut self) {
        if let Some(by) = self.net.with(|network| network.faults.leap()) {
            self.net.with(|network| network.now += by);
            self.leapt += by;
        }
    }

    fn next_event(&self) -> Option<Duration> {
        let is_busy = self.server.is_busy() || self.clients.iter().any(|end| end.unfinished);
        let open = self.clients.iter().filter(|end| !end.session.is_closed());
        let deadlines = open.filter_map(|end| end.session.deadline());
        let deadlines = deadlines.chain(self.server.sessions.next_deadline());
        let stop = self.stop.filter(|_| self.stopped.is_none());
        let deadlines = deadlines.chain(stop.map(|it| {
            self.net.with(|network| {
                let is_told = it.at <= network.now;
                network.at(if is_told { it.at + it.grace } else { it.at })
            })
        }));
        server::next_event(&self.net, is_busy, deadlines)
    }

    /// Whether the server was told to stop, and nothing runs or the grace time is over.
    fn is_to_end(&self) -> bool {
        let now = self.net.with(|network| network.now);
        let is_to_stop = |stop: Stop| {
            let waits = self.server.sessions.running() > 0 && now < stop.at + stop.grace;
            stop.at <= now && !waits
        };
        self.stopped.is_none() && self.stop.is_some_and(is_to_stop)
    }

    /// Tells every remaining peer that its transfer is over.
    fn cut_off(&mut self) {
        self.stopped = Some(self.net.with(|network| network.now));
        let keys: Vec<_> = self.server.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(session) = self.server.sessions.get_mut(key) {
                session.abort(Failure::new(ErrorCode::NotDefined, "Shutting down"));
            }
            self.with_session(key, Cause::Told, Link::transmit);
            self.end_session(key);
        }
    }

    // --- the client's end ------------------------------------------------------------

    pub(crate) fn start_client(&mut self, client: usize) {
        let wish = &self.wishes[client];
        let name = format!("file-{client}");
        let packet = server::request(wish.direction, name.as_bytes(), wish.mode, &wish.offer);
        let opening = server::asking(packet, &wish.offer);
        let port = SimPort::new(&self.net, client_address(client), true, wish.window() > 1);
        let (direction, trouble) = (wish.direction, wish.client_trouble);
        let ending = self.end(
            client,
            direction == Direction::Write,
            opening,
            Negotiated::default(),
            server::config(wish.wait, Proof::OwnPort),
            trouble,
            port,
            Remote::Asked(LISTEN),
        );
        self.clients.push(ending);
        let end = &mut self.clients[client];
        end.session.register(&()).expect("a simulated port");
        self.with_client(client, Cause::Told, Link::transmit);
    }

    /// One end of a client's transfer.
    #[expect(clippy::too_many_arguments, reason = "what the two ends differ in")]
    fn end(
        &self,
        client: usize,
        sends: bool,
        opening: Opening,
        negotiated: Negotiated,
        config: Config,
        trouble: Trouble,
        port: SimPort,
        remote: Remote,
    ) -> End {
        let wish = &self.wishes[client];
        let stored = Rc::new(RefCell::new(Stored::default()));
        let paper = if sends {
            Paper::Sends(content(wish.file, wish.size))
        } else {
            Paper::Receives(Rc::clone(&stored))
        };
        // With netascii, the number of bytes to be stored depends on the text.
        let port = if sends || wish.mode == Mode::Netascii {
            port
        } else {
            port.with_ledger(Ledger {
                stored: Rc::clone(&stored),
                block_size: wish.block_size().into(),
            })
        };
        let end = server::End {
            config,
            opening,
            negotiated,
            paper,
            mode: wish.mode,
            trouble,
            remote,
        };
        End {
            session: end.session(&self.net, port, &format!("file-{client}")),
            record: Record {
                client,
                outcome: None,
                stored,
                retransmits: 0,
                ended: Duration::ZERO,
            },
            unfinished: false,
        }
    }

    fn with_client(
        &mut self,
        client: usize,
        cause: Cause,
        turn: impl FnOnce(&mut Link, &mut Context<'_, SimPort>) -> Turn,
    ) {
        let end = &mut self.clients[client];
        if end.session.is_closed() {
            end.unfinished = false;
            return;
        }
        let turn = work(&self.net, &mut self.others, &mut end.session, cause, turn);
        end.unfinished = turn != Turn::Waiting;
        end.record.retransmits = end.session.transfer().progress().retransmits;
        if let Some(outcome) = end.session.poll_outcome() {
            end.record.ended = self.net.with(|network| network.now);
            let before = end.record.outcome.replace(outcome);
            assert!(before.is_none(), "a transfer ended twice");
        }
        if end.session.is_closed() {
            end.session.drop_prefetched(&mut self.others.pool);
        }
    }

    fn client_deadlines(&mut self) {
        let now = self.net.instant();
        for client in 0..self.clients.len() {
            let session = &self.clients[client].session;
            if session.deadline().is_some_and(|at| at <= now) {
                self.with_client(client, Cause::Deadline, Link::run_deadline);
            }
        }
    }

    // --- the server's end ------------------------------------------------------------

    /// Gives a turn to everything that is ready.
    fn ready(&mut self) {
        let leftovers = std::mem::take(&mut self.server.unfinished);
        let mut listen = !std::mem::take(&mut self.server.again).is_empty();
        for address in self.net.with(Network::harvest) {
            if address == LISTEN {
                listen = true;
                self.resume();
            } else if let Some(&key) = self.server.by_tid.get(&address) {
                self.with_session(key, Cause::Ready, Link::run);
            } else if address.ip() == CLIENT {
                let client = usize::from(address.port() - FIRST_CLIENT);
                self.with_client(client, Cause::Ready, Link::run);
            }
        }
        for client in 0..self.clients.len() {
            if self.clients[client].unfinished {
                self.with_client(client, Cause::Ready, Link::run);
            }
        }
        for key in leftovers {
            self.server.resume(key);
            self.with_session(key, Cause::Ready, Link::run);
        }
        if listen {
            self.listen();
        }
    }

    /// Resumes sessions after the listen port has room again.
    fn resume(&mut self) {
        let mut waiting = std::mem::take(&mut self.room_queue).into_iter();
        self.net.with(|network| network.watch(LISTEN, false));
        while let Some(key) = waiting.next() {
            self.server.resume(key);
            self.with_session(key, Cause::Ready, Link::run);
            if !self.room_queue.is_empty() {
                self.room_queue.splice(0..0, waiting);
                return;
            }
        }
    }

    fn listen(&mut self) {
        let received = self.server.receive(&self.net, LISTEN);
        let mut index = 0;
        while index < received {
            let Some(key) = self.server.owner(index, LISTEN) else {
                self.request(index);
                index += 1;
                continue;
            };
            let more = index + 1..received;
            let more = more.take_while(|&next| self.server.owner(next, LISTEN) == Some(key));
            let end = index + 1 + more.count();
            for (endpoint, bytes) in (index..end).filter_map(|it| self.server.datagram(it)) {
                self.net
                    .with(|network| network.taken(LISTEN, endpoint.peer, bytes));
            }
            self.with_session(key, Cause::Shared, |session, context| {
                session.run_shared(Range { start: index, end }, context)
            });
            index = end;
        }
    }

    fn request(&mut self, index: usize) {
        let Some((endpoint, bytes)) = self.server.datagram(index) else {
            return;
        };
        let (peer, bytes) = (endpoint.peer, bytes.to_vec());
        let now = self.net.with(|network| network.now);
        let is_closing = self.stop.is_some_and(|it| it.at <= now);
        let request = match Packet::parse(&bytes) {
            Ok(Packet::Request(_)) if is_closing => return,
            Ok(Packet::Request(request)) => request,
            Ok(Packet::Data { .. }) => {
                let mut packet = [0; 64];
                let text = "Unknown transfer ID";
                let len = emit_error(ErrorCode::UnknownTransferId, text, &mut packet);
                let _ = self
                    .net
                    .with(|network| network.send(LISTEN, peer, &packet[..len]));
                return;
            }
            _ => return,
        };
        let fingerprint = Fingerprint::of(&bytes);
        let random = self.net.with(|network| network.random.next() as u32);
        let now = self.net.instant();
        self.server.count_files();
        let sessions = &self.server.sessions;
        let gives_way = match sessions.admit(&endpoint, fingerprint, now, random) {
            Admission::New => None,
            Admission::StartsOver(key) | Admission::Replaces(key) | Admission::Evicts(key) => {
                Some(key)
            }
            Admission::Repeated(key) => {
                self.with_session(key, Cause::Told, |session, context| {
                    session.handle_repeated_request(context.now);
                    session.transmit(context)
                });
                return;
            }
            Admission::Moving(_) | Admission::Full | Admission::Crowded => return,
        };
        let admits = self.net.with(|network| network.faults.admits(network.now));
        let Some(end) = admits.then(|| self.open(&request, peer)).flatten() else {
            return;
        };
        if let Some(key) = gives_way {
            self.end_session(key);
        }
        let key = self.server.insert(endpoint, fingerprint, end.session);
        self.records.insert(key.to_token(), end.record);
        self.with_session(key, Cause::Told, Link::transmit);
    }

    fn open(&mut self, request: &Request<'_>, peer: SocketAddr) -> Option<End> {
        let name = std::str::from_utf8(request.filename).ok()?;
        let client: usize = name.strip_prefix("file-")?.parse().ok()?;
        let wish = self.wishes.get(client)?;
        let reads = request.direction == Direction::Read;
        let (negotiated, opening) = server::answering(request, wish.size);
        let trouble = wish.server_trouble;
        let tid = if self.net.with(|network| network.kernels.single_port) {
            LISTEN
        } else {
            SocketAddr::new(SERVER, self.next_tid)
        };
        let port = SimPort::new(&self.net, tid, false, negotiated.windowsize > 1);
        self.next_tid = self.next_tid.checked_add(1).expect("few enough sessions");
        let proof = match tid {
            LISTEN => Proof::Never,
            _ => Proof::OwnPort,
        };
        let config = server::config(self.server_wait, proof);
        let remote = Remote::Known(peer);
        Some(self.end(
            client, reads, opening, negotiated, config, trouble, port, remote,
        ))
    }

    fn with_session(
        &mut self,
        key: SessionKey,
        cause: Cause,
        turn: impl FnOnce(&mut Link, &mut Context<'_, SimPort>) -> Turn,
    ) {
        let Server {
            sessions,
            resources,
            ..
        } = &mut self.server;
        let Some(session) = sessions.get_mut(key) else {
            return;
        };
        let turn = work(&self.net, resources, session, cause, turn);
        if let Some(record) = self.records.get_mut(&key.to_token()) {
            record.retransmits = session.transfer().progress().retransmits;
            if let Some(outcome) = session.poll_outcome() {
                let before = record.outcome.replace(outcome);
                assert!(before.is_none(), "a transfer ended twice");
            }
        }
        if session.is_closed() {
            self.end_session(key);
            return;
        }
        if session.port().is_shared() && session.waits_for_room() && session.queue == Queue::None {
            session.queue = Queue::Room;
            self.room_queue.push(key);
            self.net.with(|network| network.watch(LISTEN, true));
        }
        if turn != Turn::Waiting {
            self.server.postpone(key);
        }
        self.server.sessions.rearm(key);
    }

    fn end_session(&mut self, key: SessionKey) {
        if self.server.remove(key)
            && let Some(record) = self.records.remove(&key.to_token())
        {
            self.served[record.client].push(record);
        }
    }

    fn server_deadlines(&mut self) {
        while let Some(key) = self.server.pop_due(self.net.instant()) {
            self.with_session(key, Cause::Deadline, Link::run_deadline);
        }
    }
}
