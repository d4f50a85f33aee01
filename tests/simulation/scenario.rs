//! A server and its clients: the shipped session, table and protocol at both ends,
//! and of the loops no more than what they owe to a session.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use tftpd::file::{FileSink, FileSource};
use tftpd::protocol::receiver::Receiver;
use tftpd::protocol::retry::{RetryPolicy, Wait};
use tftpd::protocol::sender::Sender;
use tftpd::protocol::transfer::{Config, Opening, Outcome, Proof, Transfer};
use tftpd::session::{Content, Context, Remote, Resources, Session, Turn};
use tftpd::table::{Admission, Endpoint, Fingerprint, SessionKey, Sessions, Tracked};
use tftpd::wire::options::{self, Limits, Negotiated, Offer};
use tftpd::wire::packet::{Direction, ErrorCode, Mode, Packet, Request, emit_error, emit_request};

use super::files::{Keeper, Reader, Stored, Trouble, content};
use super::network::{CLIENT, LISTEN, Net, Network, SERVER};
use super::port::{Ledger, SimPort, receive};
use super::turn::{Cause, work};
use super::weather::{Kernels, Weather};

/// Longer than the longest patience there is, several times over.
const LIFETIME: Duration = Duration::from_secs(3600);

/// The port of the first client.
const FIRST_CLIENT: u16 = 2000;

/// The bytes of a listen socket's slots: no block is longer.
const SLOT_LEN: usize = 65_469;

pub(crate) type Link = Session<SimPort, Keeper, Reader>;

/// What one client wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) direction: Direction,
    pub(crate) mode: Mode,
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

/// A session of either end, and what is to be known when it is over.
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
    /// What was received.
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
    /// What became of each client's sessions at the server.
    pub(crate) served: Vec<Vec<Record>>,
    sessions: Sessions<Link>,
    records: BTreeMap<usize, Record>,
    by_tid: BTreeMap<SocketAddr, SessionKey>,
    unfinished: Vec<SessionKey>,
    /// Sessions that wait for room in the listen port.
    line: Vec<SessionKey>,
    listen_again: bool,
    next_tid: u16,
    server_wait: Wait,
    server: Resources,
    others: Resources,
    /// How much of the time passed in leaps.
    pub(crate) leapt: Duration,
}

pub(crate) fn config(wait: Wait) -> Config {
    Config {
        retry: RetryPolicy { wait, retries: 5 },
        request_repeats: u8::MAX,
        dally: Duration::from_secs(10),
        proof: Proof::OwnPort,
    }
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
            sessions: Sessions::new(64, origin),
            records: BTreeMap::new(),
            by_tid: BTreeMap::new(),
            unfinished: Vec::new(),
            line: Vec::new(),
            listen_again: false,
            next_tid: 10_000,
            server_wait,
            server: Resources::new(origin, None),
            others: Resources::new(origin, None),
            leapt: Duration::ZERO,
            net,
        }
    }

    /// Runs until nothing happens any more.
    pub(crate) fn run(&mut self) {
        for client in 0..self.wishes.len() {
            self.start_client(client);
        }
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
            self.leap();
            self.client_deadlines();
        }
        self.sessions.check_invariants();
        assert!(self.sessions.is_empty(), "sessions are left");
    }

    /// The machines were asleep, or their clock was set.
    fn leap(&mut self) {
        if let Some(by) = self.net.with(|network| network.faults.leap()) {
            self.net.with(|network| network.now += by);
            self.leapt += by;
        }
    }

    fn next_event(&self) -> Option<Duration> {
        let is_busy = self.listen_again
            || !self.unfinished.is_empty()
            || self.clients.iter().any(|end| end.unfinished);
        self.net.with(|network| {
            if is_busy || network.has_reports() {
                return Some(network.now);
            }
            let clients = self
                .clients
                .iter()
                .filter(|end| !end.session.is_closed())
                .filter_map(|end| end.session.deadline());
            let deadline = clients.chain(self.sessions.next_deadline()).min();
            let deadline = deadline.map(|at| network.since_origin(at));
            [deadline, network.next_event()].into_iter().flatten().min()
        })
    }

    // --- the client's end ------------------------------------------------------------

    fn start_client(&mut self, client: usize) {
        let wish = &self.wishes[client];
        let mut packet = vec![0; 512];
        let name = format!("file-{client}");
        let options = wish.offer.options();
        let len = emit_request(
            wish.direction,
            name.as_bytes(),
            wish.mode,
            options,
            &mut packet,
        );
        packet.truncate(len.expect("a short request"));
        let opening = Opening::Request {
            packet: packet.into(),
            offer: Box::new(wish.offer.clone()),
        };
        let own = SocketAddr::new(CLIENT, FIRST_CLIENT + client as u16);
        let port = SimPort::new(&self.net, own, true, wish.window() > 1);
        let (direction, trouble) = (wish.direction, wish.client_trouble);
        let ending = self.end(
            client,
            direction == Direction::Write,
            opening,
            Negotiated::default(),
            config(wish.wait),
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
        let (transfer, file, port) = if sends {
            let bytes = content(client, wish.size);
            let source = FileSource::new(Reader::new(bytes, trouble, &self.net), wish.mode);
            let sender = Sender::new(&config, opening, negotiated, source.length());
            (Transfer::Sender(sender), Content::Source(source), port)
        } else {
            let keeper = Keeper {
                stored: Rc::clone(&stored),
                trouble,
            };
            let sink = Box::new(FileSink::new(keeper, wish.mode));
            let ledger = Ledger {
                stored: Rc::clone(&stored),
                block_size: wish.block_size().into(),
            };
            let port = match wish.mode {
                Mode::Octet => port.with_ledger(ledger),
                // How much of it is stored depends on the text.
                Mode::Netascii => port,
            };
            let receiver = Receiver::new(&config, opening, negotiated);
            (Transfer::Receiver(receiver), Content::Sink(sink), port)
        };
        let name = format!("file-{client}");
        let now = self.net.instant();
        End {
            session: Session::new(transfer, file, port, remote, name.as_bytes(), now),
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
        end.unfinished = turn == Turn::Unfinished;
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

    /// Everything that is ready has its turn.
    fn ready(&mut self) {
        let leftovers = std::mem::take(&mut self.unfinished);
        let mut listen = std::mem::take(&mut self.listen_again);
        for address in self.net.with(Network::harvest) {
            if address == LISTEN {
                listen = true;
                self.resume();
            } else if let Some(&key) = self.by_tid.get(&address) {
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
            if let Some(session) = self.sessions.get_mut(key) {
                session.queued = false;
                self.sessions.rearm(key);
            }
            self.with_session(key, Cause::Ready, Link::run);
        }
        if listen {
            self.listen();
        }
    }

    /// There is room in the listen port.
    fn resume(&mut self) {
        let mut waiting = std::mem::take(&mut self.line).into_iter();
        self.net.with(|network| network.watch(LISTEN, false));
        while let Some(key) = waiting.next() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.queued = false;
                self.sessions.rearm(key);
            }
            self.with_session(key, Cause::Ready, Link::run);
            if !self.line.is_empty() {
                self.line.splice(0..0, waiting);
                return;
            }
        }
    }

    fn listen(&mut self) {
        let batch = &mut self.server.batch;
        let capacity = batch.capacity(SLOT_LEN, usize::MAX);
        let received = receive(&self.net, LISTEN, false, batch, SLOT_LEN, usize::MAX);
        let received = received.unwrap_or(0);
        self.listen_again = received == capacity;
        let mut index = 0;
        while index < received {
            let Some(key) = self.owner(index) else {
                self.request(index);
                index += 1;
                continue;
            };
            let more = (index + 1..received).take_while(|&next| self.owner(next) == Some(key));
            let end = index + 1 + more.count();
            self.with_session(key, Cause::Shared, |session, context| {
                session.run_shared(Range { start: index, end }, context)
            });
            index = end;
        }
    }

    /// The session that a datagram in the batch is for.
    fn owner(&self, index: usize) -> Option<SessionKey> {
        let datagram = self.server.batch.get(index)?;
        let is_request = matches!(datagram.payload, [0, 1 | 2, ..]);
        let endpoint = Endpoint {
            peer: datagram.peer,
            local: SERVER,
        };
        let key = self.sessions.key_of(&endpoint)?;
        let is_shared = self.sessions.get(key)?.port().is_shared();
        (is_shared && !is_request).then_some(key)
    }

    fn request(&mut self, index: usize) {
        let Some(datagram) = self.server.batch.get(index) else {
            return;
        };
        let (peer, bytes) = (datagram.peer, datagram.payload.to_vec());
        let request = match Packet::parse(&bytes) {
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
        let endpoint = Endpoint {
            peer,
            local: SERVER,
        };
        let fingerprint = Fingerprint::of(&bytes);
        let random = self.net.with(|network| network.random.next() as u32);
        let now = self.net.instant();
        let gives_way = match self.sessions.admit(&endpoint, fingerprint, now, random) {
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
        let tid = end.session.port().own;
        let key = self.sessions.insert(endpoint, fingerprint, end.session);
        self.records.insert(key.to_token(), end.record);
        if tid != LISTEN {
            self.by_tid.insert(tid, key);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.register(&()).expect("a simulated port");
        }
        self.with_session(key, Cause::Told, Link::transmit);
    }

    fn open(&mut self, request: &Request<'_>, peer: SocketAddr) -> Option<End> {
        let name = std::str::from_utf8(request.filename).ok()?;
        let client: usize = name.strip_prefix("file-")?.parse().ok()?;
        let wish = self.wishes.get(client)?;
        let reads = request.direction == Direction::Read;
        let size = reads.then_some(wish.size as u64);
        let mut oack = [0; 512];
        let (negotiated, len) = options::negotiate(request, &Limits::default(), size, &mut oack);
        let opening = match len {
            0 => Opening::Plain,
            len => Opening::OptionAck(oack[..len].into()),
        };
        let trouble = wish.server_trouble;
        let tid = if self.net.with(|network| network.kernels.single_port) {
            LISTEN
        } else {
            SocketAddr::new(SERVER, self.next_tid)
        };
        let port = SimPort::new(&self.net, tid, false, negotiated.windowsize > 1);
        self.next_tid = self.next_tid.checked_add(1).expect("few enough sessions");
        let config = Config {
            proof: match tid {
                LISTEN => Proof::Never,
                _ => Proof::OwnPort,
            },
            ..config(self.server_wait)
        };
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
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let turn = work(&self.net, &mut self.server, session, cause, turn);
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
        if session.port().is_shared() && session.waits_for_room() && !session.queued {
            session.queued = true;
            self.line.push(key);
            self.net.with(|network| network.watch(LISTEN, true));
        }
        if turn == Turn::Unfinished && !session.queued {
            session.queued = true;
            self.unfinished.push(key);
        }
        self.sessions.rearm(key);
    }

    fn end_session(&mut self, key: SessionKey) {
        if let Some(mut session) = self.sessions.remove(key) {
            session.drop_prefetched(&mut self.server.pool);
            self.by_tid.remove(&session.port().own);
            if let Some(record) = self.records.remove(&key.to_token()) {
                self.served[record.client].push(record);
            }
        }
    }

    fn server_deadlines(&mut self) {
        while let Some(key) = self.sessions.pop_due(self.net.instant()) {
            self.with_session(key, Cause::Deadline, Link::run_deadline);
        }
    }
}
