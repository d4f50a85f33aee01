//! Anything at all in anybody's name: a script of datagrams from forged addresses is
//! played to the shipped session, table and protocol, with ports of their own, with a few
//! ports, or with a single one. Each datagram that the server sends is checked against
//! what is promised to an address that never answered, and the honest clients beside it
//! must finish.
//!
//! The script is bytes, from a seed or a fuzzer. The forger knows what an attacker can
//! work out, the blocks that were sent and acknowledged, but no port that only the victim
//! was told.

mod admission;
mod forger;
mod judge;
mod promise;
pub(crate) mod seeds;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::Duration;

use tftpd::protocol::retry::Wait;
use tftpd::protocol::transfer::{Outcome, Proof};
use tftpd::session::shaper::Shaper;
use tftpd::session::tid;
use tftpd::session::unproved::UnprovedRate;
use tftpd::session::{Context, Remote, Resources, Session, Turn};
use tftpd::table::{MAX_DESCRIPTORS, Sessions, Tracked as _};
use tftpd::wire::options::{Negotiated, Offer};
use tftpd::wire::packet::{Direction, Mode};

use super::files::{Stored, Trouble, content};
use super::network::{CLIENT, LISTEN, Net, Network};
use super::port::SimPort;
use super::server::{self, End, FIRST_CLIENT, Link, Paper, Server, client_address};
use super::weather::{FAIR, Kernels, Random, Weather};
use forger::delay;
use promise::{Cause, Track};

/// How long after the last forged datagram all its effects are over.
const AFTERMATH: Duration = Duration::from_secs(150);

const FIRST_VICTIM: u16 = 3000;

/// The most sessions of one address, where that is limited.
const CLIENT_LIMIT: usize = 4;

/// The bytes per second that unproved clients of one network are sent.
const UNPROVED_RATE: NonZeroU64 = NonZeroU64::new(128 * 1024).unwrap();

// --- the world -------------------------------------------------------------------------

/// What was forged in an address's name, and what it got.
#[derive(Debug, Default)]
struct Victim {
    requests: u64,
    others: u64,
    forged_bytes: u64,
    packets: u64,
    bytes: u64,
    last_request: Vec<u8>,
    /// Whether somebody acknowledged in its name, on a port that everybody knows.
    acknowledged: bool,
}

/// The totals of a script.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) forged: u64,
    pub(crate) forged_bytes: u64,
    pub(crate) reflected: u64,
    pub(crate) reflected_bytes: u64,
    pub(crate) honest: u64,
    /// Transfers on shared ports other than the listen port, and those of them whose file
    /// was closed until their peer answered.
    pub(crate) shared: u64,
    pub(crate) closable: u64,
    /// Honest transfers that failed because the network lost too much.
    pub(crate) unlucky: u64,
    /// Honest uploads that ended because ports had been tried in their client's name.
    pub(crate) suspected: u64,
    /// Forged transfers whose client was taken to be there.
    pub(crate) lucky: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    Any,
    /// This many.
    Range(u16),
    Single,
}

impl Ports {
    fn kind(self) -> tid::Ports {
        match self {
            Self::Any => tid::Ports::Of(64_512),
            Self::Range(count) => tid::Ports::Of(count.into()),
            Self::Single => tid::Ports::Single,
        }
    }
}

/// The bytes of a script, one after the other; zeros after its end.
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
    server: Server,
    shaper: Shaper,
    /// The bytes of DATA that forged ACKs have brought a network.
    unproved: BTreeMap<IpAddr, u64>,
    /// Forged transfers whose client was taken to be there.
    proved: BTreeSet<usize>,
    tracks: BTreeMap<usize, Track>,
    others: Resources,
    clients: Vec<Honest>,
    /// The stored files of the honest uploads, by the client's port.
    uploads: Vec<(usize, Rc<RefCell<Stored>>)>,
    /// Honest clients whose transfer was evicted before their answer came.
    displaced: BTreeSet<usize>,
    /// Honest clients whose upload was taken for one that began with a guess.
    suspected: BTreeSet<usize>,
    victims: BTreeMap<SocketAddr, Victim>,
    /// Senders to a transfer's port. They may be right by chance, if the transfer of
    /// another has just ended there.
    guesses: BTreeSet<(SocketAddr, SocketAddr)>,
    /// When nonsense was answered, and to which network.
    nonsense: Vec<(Duration, IpAddr)>,
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
        let has_limit = room & 0x80 != 0;
        // An ACK in a victim's name to a port that everybody knows keeps the slot.
        let capacity = match ports {
            Ports::Any if has_limit => 8 + usize::from(room % 56),
            _ => 64,
        };
        let per_client = match clients & 0x20 {
            0 => usize::MAX,
            _ => CLIENT_LIMIT,
        };
        let sessions = Sessions::new(capacity * MAX_DESCRIPTORS, origin)
            .with_limit(if has_limit { capacity } else { usize::MAX })
            .with_client_limit(per_client);
        let sessions = match ports {
            Ports::Range(count) => sessions.with_light_sessions(capacity.min(count.into())),
            _ if has_limit => sessions,
            _ => sessions.with_light_sessions(capacity),
        };
        let unproved = UnprovedRate::new(UNPROVED_RATE, seed, origin);
        let mut world = Self {
            server: Server::new(sessions, origin),
            shaper: Shaper::new(None, Some(unproved), seed, origin),
            unproved: BTreeMap::new(),
            proved: BTreeSet::new(),
            others: Resources::new(origin, None),
            net,
            ports,
            tracks: BTreeMap::new(),
            clients: Vec::new(),
            uploads: Vec::new(),
            displaced: BTreeSet::new(),
            suspected: BTreeSet::new(),
            victims: BTreeMap::new(),
            guesses: BTreeSet::new(),
            nonsense: Vec::new(),
            random: Random(!seed),
            tally: Tally::default(),
        };
        world.net.with(|network| network.tap = Some(Vec::new()));
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

    // --- honest clients ---------------------------------------------------------------

    fn start_client(&mut self, client: usize) {
        let direction = self.random.choose(&[Direction::Read, Direction::Write]);
        let size = self.random.below(20_000) as usize;
        let offer = Offer {
            blksize: self.random.choose(&[None, Some(100), Some(1428)]),
            windowsize: self.random.choose(&[None, Some(4), Some(16)]),
            ..Offer::default()
        };
        let name = format!("file-{client}-{size}");
        let packet = server::request(direction, name.as_bytes(), Mode::Octet, &offer);
        let stored = Rc::new(RefCell::new(Stored::default()));
        let end = End {
            config: server::config(Wait::Adaptive, Proof::OwnPort),
            opening: server::asking(packet, &offer),
            negotiated: Negotiated::default(),
            paper: match direction {
                Direction::Write => Paper::Sends(content(client, size)),
                Direction::Read => Paper::Receives(Rc::clone(&stored)),
            },
            mode: Mode::Octet,
            trouble: Trouble::None,
            remote: Remote::Asked(LISTEN),
        };
        let windows = offer.windowsize.is_some();
        let port = SimPort::new(&self.net, client_address(client), true, windows);
        let mut session = end.session(&self.net, port, &name);
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

    fn client_turn(
        &mut self,
        client: usize,
        work: impl FnOnce(&mut Link, &mut Context<'_, SimPort>) -> Turn,
    ) {
        let honest = &mut self.clients[client];
        if honest.session.is_closed() {
            honest.unfinished = false;
            return;
        }
        let turn = server::lend(&self.net, &mut self.others, &mut honest.session, work);
        honest.unfinished = turn != Turn::Waiting;
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
        assert!(self.server.sessions.is_empty(), "sessions are left");
    }

    /// Runs until this time, or until nothing happens any more.
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
            while let Some(key) = self.server.pop_due(self.net.instant()) {
                self.turn(key, Cause::Deadline, &[], Session::run_deadline);
            }
            while let Some(key) = self.shaper.pop_due(self.net.instant()) {
                self.turn(key, Cause::Resumed, &[], Session::transmit);
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
        let is_busy = self.server.is_busy() || self.clients.iter().any(|it| it.unfinished);
        let open = self.clients.iter().filter(|it| !it.session.is_closed());
        let deadlines = open.filter_map(|it| it.session.deadline());
        let deadlines = deadlines.chain(self.server.sessions.next_deadline());
        let deadlines = deadlines.chain(self.shaper.next_deadline());
        server::next_event(&self.net, is_busy, deadlines)
    }

    fn ready(&mut self) {
        let leftovers = std::mem::take(&mut self.server.unfinished);
        let mut known = std::mem::take(&mut self.server.again);
        for address in self.net.with(Network::harvest) {
            if self.server.is_known(address) {
                known.insert(address);
            } else if let Some(&key) = self.server.by_tid.get(&address) {
                self.turn(key, Cause::Arrived, &[], Session::run);
            } else if let Some(client) = honest(address) {
                self.client_turn(client, Session::run);
            } else {
                // A victim's address.
                while self.net.with(|network| network.receive(address)).is_ok() {}
            }
        }
        for client in 0..self.clients.len() {
            if self.clients[client].unfinished {
                self.client_turn(client, Session::run);
            }
        }
        for key in leftovers {
            self.server.resume(key);
            self.turn(key, Cause::Arrived, &[], Session::run);
        }
        for port in known {
            self.listen(port);
        }
    }
}

/// The honest client that has this address.
fn honest(address: SocketAddr) -> Option<usize> {
    let is_one = address.ip() == CLIENT && (FIRST_CLIENT..FIRST_VICTIM).contains(&address.port());
    is_one.then(|| usize::from(address.port() - FIRST_CLIENT))
}

fn victim_address(victim: usize) -> SocketAddr {
    let port = FIRST_VICTIM + victim as u16;
    match victim {
        // Another server.
        1 => SocketAddr::new([10, 0, 0, 9].into(), 69),
        // Ports of the honest clients' machine.
        2..=7 => SocketAddr::new(CLIENT, port),
        _ => SocketAddr::new([10, 0, 1, 1].into(), port),
    }
}
