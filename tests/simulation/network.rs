//! The network between the two ends, and the sockets of the kernels at both: queues,
//! readiness as epoll reports it, full ports.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tftpd::wire::packet::Packet;

use super::faults::{Fate, Faults};
use super::weather::{Kernels, Random, Weather};

pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
pub(crate) const STRANGER: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3)), 4711);
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(SERVER, 69);

/// The least time that a datagram is on its way.
const LATENCY: Duration = Duration::from_micros(100);

/// The time that a sending call takes.
const SEND_TIME: Duration = Duration::from_micros(1);

/// Losses of the same datagram in a row that are too many for a transfer: the number of
/// retries of both ends.
const UNLUCKY: u32 = 5;

/// The number of datagrams that a socket queues; more are lost.
const QUEUE: usize = 400;

#[derive(Clone)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// What a scripted peer is told.
pub(crate) enum Cue<'d> {
    /// This datagram arrived.
    Came(&'d Datagram),
    /// The time that the peer asked for has come, or it is the beginning.
    Clock,
}

/// What a scripted peer does.
pub(crate) enum Act {
    /// Sends this datagram after a delay, on a network that loses nothing.
    Says(Duration, SocketAddr, Vec<u8>),
    /// Wants to be told when this much time has passed.
    Waits(Duration),
}

/// A scripted peer; it is also told the time.
pub(crate) type Peer = Box<dyn FnMut(Duration, Cue<'_>) -> Vec<Act>>;

/// Something that will happen by itself.
enum Event {
    Arrives(Datagram),
    /// There is room in this socket again.
    Room(SocketAddr),
    /// ICMP: what this socket sent could not be delivered.
    Undeliverable(SocketAddr),
    /// The scripted peer wanted to be told the time.
    Clock,
}

/// The kernel's side of a socket.
#[derive(Default)]
pub(crate) struct Socket {
    pub(crate) queue: VecDeque<Datagram>,
    error: Option<io::ErrorKind>,
    wants_room: bool,
    full_until: Duration,
    /// Whether it learns of undeliverable datagrams (`IP_RECVERR`).
    hears_icmp: bool,
    /// The number of datagrams sent, except to strangers.
    sent: u64,
    /// The headers of the DATA and ACKs sent in this turn.
    in_turn: Vec<[u8; 4]>,
}

pub(crate) struct Network {
    pub(crate) weather: Weather,
    pub(crate) kernels: Kernels,
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    /// Loses the datagram with this number among those to this machine, counted from 1.
    pub(crate) loses: Option<(IpAddr, u64)>,
    carried: u64,
    pub(crate) now: Duration,
    origin: Instant,
    coming: BTreeMap<(Duration, u64), Event>,
    counter: u64,
    sockets: BTreeMap<SocketAddr, Socket>,
    /// The sockets with a report for the loop. Edge-triggered: raised when something comes,
    /// and not for what is already there.
    raised: BTreeSet<SocketAddr>,
    /// The scripted peer and its address.
    peer: Option<(SocketAddr, Peer)>,
    /// What the server has sent, if it is tapped.
    pub(crate) tap: Option<Vec<Datagram>>,
    /// How many times in a row each datagram has been lost, by its ends and its header, if
    /// the network is tapped.
    losses: BTreeMap<(SocketAddr, SocketAddr, [u8; 4]), u32>,
    /// The ends of datagrams that were lost [`UNLUCKY`] times in a row.
    pub(crate) unlucky: BTreeSet<SocketAddr>,
    pub(crate) sent: u64,
    /// DATA that a session has taken in, and no ACK of its number has left since: by the
    /// socket, who sent it, and its number.
    owed: BTreeSet<(SocketAddr, SocketAddr, u16)>,
    /// A hash of every datagram sent.
    pub(crate) trace: u64,
}

/// The network, shared by all that use it.
#[derive(Clone)]
pub(crate) struct Net(Rc<RefCell<Network>>);

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Net")
    }
}

impl Net {
    #[expect(
        clippy::disallowed_methods,
        reason = "an arbitrary instant to count from"
    )]
    pub(crate) fn new(seed: u64, weather: Weather, kernels: Kernels) -> Self {
        let mut network = Network {
            weather,
            kernels,
            random: Random(seed),
            faults: Faults::NONE,
            loses: None,
            carried: 0,
            now: Duration::ZERO,
            origin: Instant::now(),
            coming: BTreeMap::new(),
            counter: 0,
            sockets: BTreeMap::new(),
            raised: BTreeSet::new(),
            peer: None,
            tap: None,
            losses: BTreeMap::new(),
            unlucky: BTreeSet::new(),
            sent: 0,
            owed: BTreeSet::new(),
            trace: 0,
        };
        network.open(LISTEN, false);
        Self(Rc::new(RefCell::new(network)))
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Network) -> T) -> T {
        work(&mut self.0.borrow_mut())
    }

    pub(crate) fn instant(&self) -> Instant {
        self.with(|network| network.instant())
    }
}

impl Network {
    pub(crate) fn instant(&self) -> Instant {
        self.at(self.now)
    }

    pub(crate) fn at(&self, time: Duration) -> Instant {
        self.origin + time
    }

    pub(crate) fn since_origin(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.origin)
    }

    pub(crate) fn open(&mut self, address: SocketAddr, hears_icmp: bool) {
        let socket = Socket {
            hears_icmp,
            ..Socket::default()
        };
        let before = self.sockets.insert(address, socket);
        assert!(before.is_none(), "{address} is in use");
    }

    pub(crate) fn close(&mut self, address: SocketAddr) {
        self.sockets.remove(&address);
        self.raised.remove(&address);
    }

    pub(crate) fn socket(&mut self, address: SocketAddr) -> &mut Socket {
        self.sockets.get_mut(&address).expect("an open socket")
    }

    /// Whether the socket holds something that no report will mention.
    pub(crate) fn is_overlooked(&mut self, address: SocketAddr) -> bool {
        !self.socket(address).queue.is_empty() && !self.raised.contains(&address)
    }

    /// Whether the socket holds datagrams, all of them from strangers.
    pub(crate) fn holds_only_strangers(&mut self, address: SocketAddr) -> bool {
        let socket = self.socket(address);
        let mut queue = socket.queue.iter();
        !socket.queue.is_empty()
            && socket.error.is_none()
            && queue.all(|datagram| datagram.from == STRANGER)
    }

    /// Begins a turn of the session that sends from this address.
    pub(crate) fn begin_turn(&mut self, address: SocketAddr) {
        self.socket(address).in_turn.clear();
    }

    /// A DATA or an ACK that was sent twice in this turn.
    pub(crate) fn doubled_in_turn(&mut self, address: SocketAddr) -> Option<[u8; 4]> {
        let sent = &mut self.socket(address).in_turn;
        sent.sort_unstable();
        let doubled = sent.windows(2).find(|pair| pair[0] == pair[1]);
        doubled.map(|pair| pair[0])
    }

    /// Whether DATA `number` from this peer was taken in and has yet to be acknowledged.
    pub(crate) fn owes_ack(&self, address: SocketAddr, peer: SocketAddr, number: u16) -> bool {
        self.owed.contains(&(address, peer, number))
    }

    /// A session gets what came out of this socket.
    pub(crate) fn taken(&mut self, own: SocketAddr, peer: SocketAddr, bytes: &[u8]) {
        if let Ok(Packet::Data { block, .. }) = Packet::parse(bytes) {
            self.owed.insert((own, peer, block.0));
        }
    }

    /// Records that a datagram has left the socket, or was lost on leaving it.
    pub(crate) fn gone(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Ok(Packet::Ack(number)) = Packet::parse(bytes) {
            self.owed.remove(&(from, to, number.0));
        }
    }

    /// Puts a scripted peer at this address.
    pub(crate) fn play(&mut self, address: SocketAddr, peer: Peer) {
        self.peer = Some((address, peer));
        self.schedule(Duration::ZERO, Event::Clock);
    }

    fn cue(&mut self, cue: Cue<'_>) {
        let Some((address, mut peer)) = self.peer.take() else {
            return;
        };
        for act in peer(self.now, cue) {
            match act {
                Act::Says(after, to, bytes) => {
                    let from = address;
                    let datagram = Datagram { from, to, bytes };
                    self.schedule(LATENCY + after, Event::Arrives(datagram));
                }
                Act::Waits(after) => self.schedule(after, Event::Clock),
            }
        }
        self.peer = Some((address, peer));
    }

    /// The number of datagrams sent, except to strangers.
    pub(crate) fn sent_by(&mut self, address: SocketAddr) -> u64 {
        self.socket(address).sent
    }

    pub(crate) fn is_empty(&mut self, address: SocketAddr) -> bool {
        let socket = self.socket(address);
        socket.queue.is_empty() && socket.error.is_none()
    }

    /// Asks for reports; what is already there is reported at once.
    pub(crate) fn watch(&mut self, address: SocketAddr, for_room: bool) {
        let now = self.now;
        let socket = self.socket(address);
        socket.wants_room = for_room;
        let has_room = for_room && now >= socket.full_until;
        if has_room || !socket.queue.is_empty() {
            self.raised.insert(address);
        }
    }

    /// The result of `epoll_wait`: the sockets that something has happened to.
    pub(crate) fn harvest(&mut self) -> BTreeSet<SocketAddr> {
        std::mem::take(&mut self.raised)
    }

    pub(crate) fn has_reports(&self) -> bool {
        !self.raised.is_empty()
    }

    pub(crate) fn next_event(&self) -> Option<Duration> {
        self.coming.keys().next().map(|&(time, _)| time)
    }

    /// Carries out what is due.
    pub(crate) fn advance(&mut self) {
        while let Some(entry) = self.coming.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            match entry.remove() {
                Event::Arrives(datagram) => self.arrive(datagram),
                Event::Room(address) => {
                    if self.sockets.get(&address).is_some_and(|it| it.wants_room) {
                        self.raised.insert(address);
                    }
                }
                Event::Undeliverable(address) => {
                    if let Some(socket) = self.sockets.get_mut(&address)
                        && socket.hears_icmp
                    {
                        socket.error = Some(io::ErrorKind::ConnectionRefused);
                        self.raised.insert(address);
                    }
                }
                Event::Clock => self.cue(Cue::Clock),
            }
        }
    }

    fn arrive(&mut self, datagram: Datagram) {
        if self.peer.as_ref().is_some_and(|it| it.0 == datagram.to) {
            self.cue(Cue::Came(&datagram));
            return;
        }
        match self.sockets.get_mut(&datagram.to) {
            Some(socket) if socket.queue.len() < QUEUE => {
                self.raised.insert(datagram.to);
                socket.queue.push_back(datagram);
            }
            Some(_) => {}
            None => self.schedule(LATENCY, Event::Undeliverable(datagram.from)),
        }
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.counter += 1;
        let order = if self.weather.jitter.is_zero() {
            // In fair weather datagrams keep their order.
            self.counter
        } else {
            self.random.next()
        };
        self.coming.insert((self.now + after, order), event);
    }

    /// The kernel's answer to a datagram that is to be sent.
    pub(crate) fn send(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.room_for_one(from)?;
        self.send_with_room(from, to, bytes);
        Ok(())
    }

    /// The same for a run, which is taken whole or not at all.
    pub(crate) fn send_offloaded<'d>(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        run: impl Iterator<Item = &'d [u8]>,
    ) -> io::Result<()> {
        self.room_for_one(from)?;
        for bytes in run {
            self.send_with_room(from, to, bytes);
        }
        Ok(())
    }

    fn room_for_one(&mut self, from: SocketAddr) -> io::Result<()> {
        if let Some(kind) = self.socket(from).error.take() {
            return Err(kind.into());
        }
        let spell = match self.faults.send(self.now, from) {
            Fate::Refused(until) => Some(until),
            Fate::Lost => return Err(io::Error::from_raw_os_error(nix::libc::ENOBUFS)),
            Fate::Taken => None,
        };
        let now = self.now;
        let fills_up = now >= self.socket(from).full_until
            && (spell.is_some() || self.random.percent(self.kernels.fullness));
        if fills_up {
            let pause = Duration::from_micros(200 + self.random.below(15_000));
            let until = spell.unwrap_or(now + pause);
            self.socket(from).full_until = until;
            self.schedule(until.saturating_sub(now), Event::Room(from));
        }
        if now < self.socket(from).full_until {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }

    fn send_with_room(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.now += SEND_TIME;
        self.sent += 1;
        self.socket(from).sent += u64::from(to != STRANGER);
        let datagram = Datagram {
            from,
            to,
            bytes: bytes.to_vec(),
        };
        if let Some(tap) = self.tap.as_mut().filter(|_| from.ip() == SERVER) {
            tap.push(datagram.clone());
        }
        let mut header = [0; 8];
        let len = bytes.len().min(4);
        header[..len].copy_from_slice(&bytes[..len]);
        if to != STRANGER
            && let [head @ .., _, _, _, _] = header
            && matches!(head, [0, 3 | 4, ..])
        {
            self.socket(from).in_turn.push(head);
        }
        for word in [
            self.now.as_nanos() as u64,
            u64::from(from.port()) << 16 | u64::from(to.port()),
            (bytes.len() as u64) << 32 ^ u64::from_le_bytes(header),
        ] {
            self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        self.carry(datagram);
    }

    fn carry(&mut self, mut datagram: Datagram) {
        let weather = self.weather;
        if self.random.percent(weather.strangers) {
            let bytes = (0..self.random.below(8))
                .map(|_| self.random.next() as u8 & 7)
                .collect();
            let (from, to) = (STRANGER, datagram.to);
            self.deliver(Datagram { from, to, bytes });
        }
        if self.random.percent(weather.icmp) {
            self.schedule(LATENCY, Event::Undeliverable(datagram.from));
        }
        if let Some((to, number)) = self.loses
            && datagram.to.ip() == to
        {
            self.carried += 1;
            if self.carried == number {
                return;
            }
        }
        let is_lost = self.random.percent(weather.loss);
        if weather.loss > 0 && self.tap.is_some() {
            self.count_loss(&datagram, is_lost);
        }
        if is_lost {
            return;
        }
        if self.random.percent(weather.forgery) && !datagram.bytes.is_empty() {
            // Only in the opcode: payloads are covered by checksums, and a forged payload
            // can't be recognized.
            let place = self.random.below(datagram.bytes.len().min(2) as u64) as usize;
            datagram.bytes[place] ^= 0x80;
        }
        if self.random.percent(weather.duplication) {
            self.deliver(datagram.clone());
        }
        self.deliver(datagram);
    }

    fn count_loss(&mut self, datagram: &Datagram, is_lost: bool) {
        let (from, to) = (datagram.from, datagram.to);
        let mut head = [0; 4];
        let len = datagram.bytes.len().min(4);
        head[..len].copy_from_slice(&datagram.bytes[..len]);
        let in_a_row = self.losses.entry((from, to, head)).or_default();
        *in_a_row = if is_lost { *in_a_row + 1 } else { 0 };
        if *in_a_row >= UNLUCKY {
            self.unlucky.extend([from, to]);
        }
    }

    fn deliver(&mut self, datagram: Datagram) {
        let jitter = self.weather.jitter.as_micros() as u64;
        let jitter = Duration::from_micros(self.random.below(jitter + 1));
        self.schedule(LATENCY + jitter, Event::Arrives(datagram));
    }

    /// Takes an error, or else a datagram, out of a socket.
    pub(crate) fn receive(&mut self, address: SocketAddr) -> io::Result<Datagram> {
        let socket = self.socket(address);
        if let Some(kind) = socket.error.take() {
            return Err(kind.into());
        }
        let datagram = socket.queue.pop_front();
        let datagram = datagram.ok_or(io::ErrorKind::WouldBlock)?;
        // Those of a batch out of the listen port have their turns one after another.
        if address != LISTEN {
            self.taken(address, datagram.from, &datagram.bytes);
        }
        Ok(datagram)
    }

    /// Takes one more datagram if it may be received as one with those before it, all of
    /// them of `len` bytes and together of `total`.
    pub(crate) fn coalesce(
        &mut self,
        address: SocketAddr,
        from: SocketAddr,
        len: usize,
        total: usize,
    ) -> Option<Datagram> {
        let next = self.socket(address).queue.front()?;
        let fits = next.from == from
            && (1..=len).contains(&next.bytes.len())
            && total + next.bytes.len() <= tftpd::net::MAX_COALESCED;
        if !fits || self.random.percent(20) {
            return None;
        }
        let datagram = self.socket(address).queue.pop_front()?;
        self.taken(address, from, &datagram.bytes);
        Some(datagram)
    }
}
