//! Anything at all in anybody's name: a script of datagrams from forged addresses
//! is played to the shipped session, table and protocol, with ports of their own,
//! with a few ports, or with a single one. Each datagram that leaves is held
//! against what is promised to an address that never answered, and the honest
//! clients beside it have to finish.
//!
//! The script is bytes, whoever made them: a seed or a fuzzer. Who forges knows
//! what an attacker can work out, the blocks that were sent and acknowledged, but
//! no port that only the victim was told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mio::Interest;
use tftpd::file::{FileSink, FileSource};
use tftpd::net::{Batch, RunSent};
use tftpd::protocol::receiver::Receiver;
use tftpd::protocol::retry::{RetryPolicy, Wait};
use tftpd::protocol::sender::Sender;
use tftpd::protocol::timer::Timer;
use tftpd::protocol::transfer::{
    Config, Opening, Outcome, Proof, REQUEST_MERGE, Transfer, UNVERIFIED_REPEATS,
};
use tftpd::session::{
    Content, Context, NONSENSE_ANSWERS, Port, Remote, Resources, SEND_BUDGET, Session, Turn,
};
use tftpd::table::{Admission, Endpoint, Fingerprint, SessionKey, Sessions, Tracked as _};
use tftpd::wire::options::{self, Limits, Negotiated, Offer};
use tftpd::wire::packet::{Direction, ErrorCode, Mode, Packet, Request, emit_error, emit_request};

use super::files::{Keeper, Reader, Stored, Trouble, content};
use super::network::{CLIENT, LISTEN, Net, Network, SERVER};
use super::port::{SimPort, receive};
use super::weather::{FAIR, Kernels, Random, Weather};

/// The header of a DATA and a block that nobody asked to be larger: the largest
/// datagram that an address gets that never answered.
const LARGEST: usize = 516;

/// What an OACK may be longer than its request: the digits of the file's size.
const SIZE_DIGITS: usize = 20;

/// The longest ERROR that answers nonsense.
const LONGEST_ERROR: usize = 60;

/// How long after the last forged datagram all of it is forgotten.
const AFTERMATH: Duration = Duration::from_secs(150);

/// Blocks that the window may be ahead before an ACK is taken for an old one.
const OLD: u64 = 1 << 15;

const FIRST_CLIENT: u16 = 2000;
const FIRST_VICTIM: u16 = 3000;
const SLOT_LEN: usize = 65_469;

type Link = Session<Tapped, Keeper, Reader>;

// --- what leaves ---------------------------------------------------------------------

/// A datagram that the server sent.
struct Left {
    to: SocketAddr,
    head: [u8; 4],
    len: usize,
}

impl Left {
    fn new(to: SocketAddr, datagram: &[u8]) -> Self {
        let mut head = [0; 4];
        let len = datagram.len().min(4);
        head[..len].copy_from_slice(&datagram[..len]);
        let len = datagram.len();
        Self { to, head, len }
    }

    const fn data_block(&self) -> Option<u64> {
        match self.head {
            [0, 3, high, low] => Some(u16::from_be_bytes([high, low]) as u64),
            _ => None,
        }
    }

    const fn is_error(&self) -> bool {
        matches!(self.head, [0, 5, ..])
    }
}

/// A port that keeps what was sent from it.
#[derive(Debug)]
struct Tapped {
    port: SimPort,
    tap: Tap,
}

#[derive(Clone, Default)]
struct Tap(Rc<RefCell<Vec<Left>>>);

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tap")
    }
}

impl Tap {
    fn push(&self, left: Left) {
        self.0.borrow_mut().push(left);
    }

    fn take(&self) -> Vec<Left> {
        self.0.take()
    }
}

impl Port for Tapped {
    type Poll<'p> = ();

    fn watch(&mut self, poll: &(), interest: Interest) -> io::Result<()> {
        self.port.watch(poll, interest)
    }

    fn coalesces(&self) -> bool {
        self.port.coalesces()
    }

    fn receive_one(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.port.receive_one(buffer)
    }

    fn receive(&mut self, batch: &mut Batch, slot_len: usize, limit: usize) -> io::Result<usize> {
        self.port.receive(batch, slot_len, limit)
    }

    fn send_to(&mut self, datagram: &[u8], peer: SocketAddr) -> io::Result<()> {
        self.port.send_to(datagram, peer)?;
        self.tap.push(Left::new(peer, datagram));
        Ok(())
    }

    fn send_run(
        &mut self,
        run: &[u8],
        segment_size: usize,
        peer: SocketAddr,
    ) -> io::Result<RunSent> {
        let sent = self.port.send_run(run, segment_size, peer)?;
        for datagram in run.chunks(segment_size) {
            self.tap.push(Left::new(peer, datagram));
        }
        Ok(sent)
    }
}

// --- what is promised ------------------------------------------------------------------

/// What a turn of a session was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Begin,
    Repeated,
    Arrived,
    Deadline,
}

/// What is known of a session with a victim.
#[derive(Debug, Default)]
struct Track {
    request_len: usize,
    opens_with_oack: bool,
    last_sent: Option<Duration>,
    timer_repeats: u8,
    /// The highest block that was sent.
    highest: u64,
    /// Times that the blocks from this base on were sent again without silence.
    rewinds: (u64, u32),
    silences: u32,
}

/// A session before its turn.
struct Before {
    verified: bool,
    blocks: u64,
    timer: Timer,
}

impl Before {
    fn of(session: &Link) -> Self {
        let progress = session.transfer().progress();
        Self {
            verified: progress.verified,
            blocks: progress.blocks,
            timer: session.transfer().timer(),
        }
    }
}

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

impl Track {
    /// Holds what a turn sent to the victim of a session against the promise.
    fn check(
        &mut self,
        cause: Cause,
        before: &Before,
        session: &Link,
        arrived: &[Vec<u8>],
        sent: &[&Left],
        now: Duration,
        is_single: bool,
    ) {
        let progress = session.transfer().progress();
        let is_read = matches!(session.transfer(), Transfer::Sender(_));
        if !is_single {
            assert!(!progress.verified, "an answer that nobody could give");
        }
        if !progress.verified {
            assert!(sent.len() <= 1, "{} for one {cause:?}", sent.len());
            let longest = LARGEST.max(self.request_len + SIZE_DIGITS);
            assert!(sent.iter().all(|it| it.len <= longest), "more than a block");
        }
        match cause {
            Cause::Begin => assert!(sent.len() <= 1),
            Cause::Repeated if !sent.is_empty() => {
                let since = now - self.last_sent.expect("an answer before");
                assert!(since >= REQUEST_MERGE, "answered again after {since:?}");
            }
            Cause::Deadline if !progress.verified => {
                self.timer_repeats += sent.len() as u8;
                assert!(
                    self.timer_repeats <= UNVERIFIED_REPEATS,
                    "a repeat too many"
                );
            }
            Cause::Deadline if matches!(before.timer, Timer::Answer { .. }) => {
                assert!(sent.len() <= 1, "{} after silence", sent.len());
                self.silences += 1;
            }
            Cause::Arrived if !is_single => assert!(sent.is_empty(), "to a stranger's datagram"),
            Cause::Arrived if !is_read => assert!(sent.len() <= 1, "an ACK for each"),
            _ => {}
        }
        if is_single && is_read && progress.verified {
            self.check_window(cause, before, session, arrived, sent);
        }
        let errors = sent.iter().filter(|it| it.is_error());
        assert!(
            errors.count() <= 1 && (session.has_ended() || !sent.iter().any(|it| it.is_error()))
        );
        if !sent.is_empty() {
            self.last_sent = Some(now);
        }
        let blocks = sent.iter().filter_map(|it| it.data_block());
        self.highest = blocks.fold(self.highest, u64::max);
    }

    /// A read over the single port, in answer to what may be forged.
    fn check_window(
        &mut self,
        cause: Cause,
        before: &Before,
        session: &Link,
        arrived: &[Vec<u8>],
        sent: &[&Left],
    ) {
        let blocks = session.transfer().progress().blocks;
        let windowsize = u64::from(session.transfer().negotiated().windowsize);
        let window = windowsize.min(1 + blocks);
        let data: Vec<_> = sent.iter().filter_map(|it| it.data_block()).collect();
        assert!(
            data.len() as u64 <= window,
            "{} at once, {blocks} acknowledged",
            data.len()
        );
        assert!(
            data.iter().all(|&it| it > blocks && it <= blocks + window),
            "{data:?}, {blocks} acknowledged of windows of {windowsize}"
        );
        if cause == Cause::Arrived && blocks == before.blocks && before.verified && !data.is_empty()
        {
            if self.rewinds.0 != blocks {
                self.rewinds = (blocks, 0);
                self.silences = 0;
            }
            self.rewinds.1 += 1;
            assert!(self.rewinds.1 <= 1 + self.silences, "a base has one NACK");
        }
        if self.rewinds.0 != blocks {
            self.rewinds = (blocks, 0);
            self.silences = 0;
        }
        // Acknowledged before it was sent: nobody is there.
        let is_sending = before.verified || !self.opens_with_oack;
        if let [datagram] = arrived
            && let Ok(Packet::Ack(number)) = Packet::parse(datagram)
            && is_sending
        {
            let number = u64::from(number.0);
            let limit = before.blocks + windowsize.min(1 + before.blocks);
            if number > limit.max(self.highest) && number < before.blocks + OLD {
                assert!(session.has_ended(), "ACK {number} of {limit} ended nothing");
                assert!(data.is_empty(), "ACK {number} of {limit} brought DATA");
            }
        }
    }
}

// --- the world -------------------------------------------------------------------------

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
    nonsense: u64,
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
            nonsense: 0,
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
        for client in 0..1 + usize::from(clients % 3) {
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
        let took = self.net.with(|network| network.now) - last;
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
        if self.server.ingress.nonsense.take(self.net.instant()) {
            self.nonsense += 1;
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
        if self.victims.contains_key(&peer)
            && let Some(track) = self.tracks.get_mut(&key.to_token())
        {
            let is_single = self.ports == Ports::Single;
            track.check(cause, &before, session, arrived, &to_peer, now, is_single);
        }
        // Strangers are turned away, and only so many.
        for stranger in left.iter().filter(|it| it.to != peer) {
            assert!(stranger.is_error() && stranger.len <= LONGEST_ERROR);
            self.nonsense += 1;
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

    // --- the forger --------------------------------------------------------------------

    fn forge(&mut self, script: &mut Script<'_>) {
        let [who, kind, value, extra]: [u8; 4] = std::array::from_fn(|_| script.next());
        let from = self.forged_address(who, kind);
        let datagram = self.forged(from, kind, value, extra);
        let Some(to) = self.target(from, kind, extra) else {
            return;
        };
        if let Some(victim) = self.victims.get_mut(&from) {
            victim.forged_bytes += datagram.len() as u64;
            match datagram[..] {
                [0, 1 | 2, ..] => {
                    victim.requests += 1;
                    victim.last_request.clone_from(&datagram);
                }
                _ if matches!(Packet::parse(&datagram), Ok(Packet::Error { .. })) => {}
                _ => victim.others += 1,
            }
        }
        self.tally.forged += 1;
        self.tally.forged_bytes += datagram.len() as u64;
        let _ = self.net.with(|network| network.send(from, to, &datagram));
    }

    /// A victim; or an honest client whose transfer runs on a port of its own. Not
    /// where datagrams are lost: a transfer that doesn't move for a moment gives way
    /// to another request of its client, as a board that was reset sends it.
    fn forged_address(&self, who: u8, kind: u8) -> SocketAddr {
        let victims = self.victims.len();
        let honest = SocketAddr::new(
            CLIENT,
            FIRST_CLIENT + u16::from(who) % self.clients.len() as u16,
        );
        let endpoint = Endpoint {
            peer: honest,
            local: SERVER,
        };
        let session = self.sessions.key_of(&endpoint);
        let session = session.and_then(|key| self.sessions.get(key));
        let runs = session.is_some_and(|it| it.transfer().progress().verified);
        let is_fair = self.net.with(|network| network.weather.loss == 0);
        if kind >= 0xe0 && runs && is_fair && self.ports != Ports::Single {
            honest
        } else {
            victim_address(usize::from(who) % victims)
        }
    }

    /// Where it is sent: the listen port, or any but that of the sender's own
    /// transfer.
    fn target(&mut self, from: SocketAddr, kind: u8, extra: u8) -> Option<SocketAddr> {
        let is_request = matches!(kind % 16, 0..=4 | 15);
        if self.ports == Ports::Single || is_request || extra & 0x80 != 0 {
            return Some(LISTEN);
        }
        let nth = self.random.below(self.by_tid.len() as u64 + 1) as usize;
        let (&tid, &key) = self.by_tid.iter().nth(nth)?;
        let peer = self.sessions.get(key)?.peer();
        (peer != from).then_some(tid)
    }

    fn forged(&mut self, from: SocketAddr, kind: u8, value: u8, extra: u8) -> Vec<u8> {
        let endpoint = Endpoint {
            peer: from,
            local: SERVER,
        };
        let key = self.sessions.key_of(&endpoint);
        let blocks = key
            .and_then(|key| self.sessions.get(key))
            .map_or(0, |session| session.transfer().progress().blocks);
        let track = key.and_then(|key| self.tracks.get(&key.to_token()));
        let highest = track.map_or(0, |track| track.highest);
        let numbered = |opcode: u8, block: u64| {
            let [high, low] = (block as u16).to_be_bytes();
            vec![0, opcode, high, low]
        };
        let bait = format!("file-9-{}", u64::from(value) * u64::from(extra));
        match kind % 16 {
            0 => request(Direction::Read, &bait, &Offer::default()),
            1 => request(Direction::Read, &bait, &any_offer(value, extra)),
            2 => request(Direction::Write, "file-9-1", &Offer::default()),
            3 => request(Direction::Write, "file-9-1", &any_offer(value, extra)),
            4 => request(Direction::Read, "missing", &any_offer(value, extra)),
            // What an attacker that has the file can work out.
            5..=7 => numbered(4, highest.max(blocks)),
            8 => match extra % 4 {
                0 => numbered(4, blocks),
                1 => numbered(4, blocks + 1 + u64::from(value % 8)),
                2 => numbered(4, highest + 1 + u64::from(value)),
                _ => numbered(4, u64::from(u16::from_le_bytes([value, extra]))),
            },
            9 | 10 => {
                let mut data = numbered(3, blocks + 1 + u64::from(extra % 4 == 3));
                data.resize(4 + if extra & 4 == 0 { 512 } else { value.into() }, value);
                data
            }
            11 => numbered(3, blocks + u64::from(value) % 3),
            12 => vec![0, 5, 0, value % 9, b'x', 0],
            13 => b"\0\x06blksize\x00512\0".to_vec(),
            14 => {
                let mut bytes = vec![0, value % 8];
                bytes.extend((0..extra % 32).map(|_| self.random.next() as u8));
                bytes.truncate(usize::from(extra % 32));
                bytes
            }
            _ => match self.victims.get(&from).map(|it| it.last_request.clone()) {
                Some(last) if !last.is_empty() => last,
                _ => request(Direction::Read, &bait, &any_offer(extra, value)),
            },
        }
    }

    // --- the judge ----------------------------------------------------------------------

    fn judge(&mut self) {
        self.sessions.check_invariants();
        for (client, honest) in self.clients.iter().enumerate() {
            let outcome = honest.outcome.as_ref();
            assert_eq!(outcome, Some(&Outcome::Completed), "honest client {client}");
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
        let seconds = self.net.with(|network| network.now).as_secs() + 1;
        let most = u64::from(NONSENSE_ANSWERS) * seconds;
        assert!(
            self.nonsense <= most,
            "{} answers to nonsense",
            self.nonsense
        );
    }
}

fn victim_address(victim: usize) -> SocketAddr {
    match victim {
        // Other servers.
        1 => SocketAddr::new([10, 0, 0, 9].into(), 69),
        _ => SocketAddr::new([10, 0, 1, 1].into(), FIRST_VICTIM + victim as u16),
    }
}

/// How long the forger waits: mostly not at all, sometimes for a repeat or an end.
fn delay(byte: u8) -> Duration {
    let count = u64::from(byte & 0x1f);
    match byte >> 5 {
        0..=2 => Duration::ZERO,
        3 | 4 => Duration::from_micros(count * 50),
        5 => Duration::from_millis(count),
        6 => Duration::from_millis(count * 20),
        _ => Duration::from_millis(count * 400),
    }
}

fn any_offer(value: u8, extra: u8) -> Offer {
    Offer {
        blksize: [None, Some(8), Some(512), Some(1428)][usize::from(value % 4)],
        windowsize: [None, Some(2), Some(16), Some(64)][usize::from(extra % 4)],
        timeout: [None, None, Some(1), Some(255)][usize::from(value / 4 % 4)],
        tsize: (extra & 4 != 0).then_some(0),
        ..Offer::default()
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
