//! What the simulated worlds share: both ends of a transfer as the loops of `tftpd` and
//! `tftp` create them, and the server's table with what its loop keeps beside it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tftpd::file::{FileSink, FileSource};
use tftpd::protocol::receiver::Receiver;
use tftpd::protocol::retry::{RetryPolicy, Wait};
use tftpd::protocol::sender::Sender;
use tftpd::protocol::transfer::{Config, Opening, Proof, SERVER_DALLY, Transfer};
use tftpd::session::{Content, Context, Queue, Remote, Resources, SEND_BUDGET, Session, Turn};
use tftpd::table::{Endpoint, Fingerprint, SessionKey, Sessions};
use tftpd::wire::options::{self, Limits, Negotiated, Offer};
use tftpd::wire::packet::{Direction, Mode, Request, emit_request};

use super::files::{Keeper, Reader, Stored, Trouble};
use super::network::{CLIENT, LISTEN, Net, SERVER};
use super::port::{SimPort, receive};

/// The port of the first client.
pub(crate) const FIRST_CLIENT: u16 = 2000;

/// The bytes of a listen socket's slots: no block is longer.
const SLOT_LEN: usize = 65_469;

pub(crate) type Link = Session<SimPort, Keeper, Reader>;

// --- both ends of a transfer -----------------------------------------------------------

/// How an end waits, and what it accepts as proof of its peer.
pub(crate) const fn config(wait: Wait, proof: Proof) -> Config {
    Config {
        retry: RetryPolicy { wait, retries: 5 },
        request_repeats: u8::MAX,
        dally: SERVER_DALLY,
        proof,
    }
}

/// An RRQ or a WRQ.
pub(crate) fn request(direction: Direction, name: &[u8], mode: Mode, offer: &Offer) -> Vec<u8> {
    let mut packet = vec![0; 512];
    let len = emit_request(direction, name, mode, offer.options(), &mut packet);
    packet.truncate(len.expect("a short request"));
    packet
}

/// The opening of a client.
pub(crate) fn asking(packet: Vec<u8>, offer: &Offer) -> Opening {
    Opening::Request {
        packet: packet.into(),
        offer: Box::new(offer.clone()),
    }
}

/// What a server grants to a request for a file of `size` bytes, and its opening.
pub(crate) fn answering(request: &Request<'_>, size: usize) -> (Negotiated, Opening) {
    let size = (request.direction == Direction::Read).then_some(size as u64);
    let mut oack = [0; 512];
    let (negotiated, len) = options::negotiate(request, &Limits::default(), size, &mut oack);
    match len {
        0 => (negotiated, Opening::Plain),
        len => (negotiated, Opening::OptionAck(oack[..len].into())),
    }
}

/// The address of a client's socket.
pub(crate) fn client_address(client: usize) -> SocketAddr {
    SocketAddr::new(CLIENT, FIRST_CLIENT + client as u16)
}

/// The file at one end of a transfer.
pub(crate) enum Paper {
    /// These bytes are sent.
    Sends(Vec<u8>),
    /// The same, from a file that may be closed until the peer answers.
    SendsClosable(Vec<u8>),
    /// Received bytes are stored here.
    Receives(Rc<RefCell<Stored>>),
}

/// What one end of a transfer is made of.
pub(crate) struct End {
    pub(crate) config: Config,
    pub(crate) opening: Opening,
    pub(crate) negotiated: Negotiated,
    pub(crate) paper: Paper,
    pub(crate) mode: Mode,
    pub(crate) trouble: Trouble,
    pub(crate) remote: Remote,
}

impl End {
    pub(crate) fn session(self, net: &Net, port: SimPort, name: &str) -> Link {
        let Self {
            config,
            opening,
            negotiated,
            paper,
            mode,
            trouble,
            remote,
        } = self;
        let is_closable = matches!(paper, Paper::SendsClosable(_));
        let (transfer, file) = match paper {
            Paper::Sends(bytes) | Paper::SendsClosable(bytes) => {
                let reader = Reader::new(bytes, trouble, net).closable(is_closable);
                let source = FileSource::new(reader, mode);
                let sender = Sender::new(&config, opening, negotiated, source.length());
                (Transfer::Sender(sender), Content::Source(source))
            }
            Paper::Receives(stored) => {
                let sink = Box::new(FileSink::new(Keeper { stored, trouble }, mode));
                let receiver = Receiver::new(&config, opening, negotiated);
                (Transfer::Receiver(receiver), Content::Sink(sink))
            }
        };
        let now = net.instant();
        Session::new(transfer, file, port, remote, name.as_bytes(), now)
    }
}

/// Lets a session work with what its loop lends it.
pub(crate) fn lend(
    net: &Net,
    resources: &mut Resources,
    session: &mut Link,
    turn: impl FnOnce(&mut Link, &mut Context<'_, SimPort>) -> Turn,
) -> Turn {
    let mut context = Context {
        now: net.instant(),
        clock: &|| net.instant(),
        resources,
        poll: (),
        send_budget: SEND_BUDGET,
    };
    turn(session, &mut context)
}

/// When the next thing happens: at once if a loop `is_busy`, else when the network
/// delivers something or the first deadline comes.
pub(crate) fn next_event(
    net: &Net,
    is_busy: bool,
    deadlines: impl Iterator<Item = Instant>,
) -> Option<Duration> {
    net.with(|network| {
        if is_busy || network.has_reports() {
            return Some(network.now);
        }
        let deadline = deadlines.min().map(|at| network.since_origin(at));
        [deadline, network.next_event()].into_iter().flatten().min()
    })
}

// --- the server ------------------------------------------------------------------------

pub(crate) struct Server {
    pub(crate) sessions: Sessions<Link>,
    pub(crate) by_tid: BTreeMap<SocketAddr, SessionKey>,
    /// Sessions with more to do than fits into one turn.
    pub(crate) unfinished: Vec<SessionKey>,
    /// Ports that sessions share beside the listen port.
    pub(crate) shared: Vec<SocketAddr>,
    /// Ports with several peers that may hold more than a batch takes.
    pub(crate) again: BTreeSet<SocketAddr>,
    pub(crate) resources: Resources,
}

impl Server {
    pub(crate) fn new(sessions: Sessions<Link>, origin: Instant) -> Self {
        Self {
            sessions,
            by_tid: BTreeMap::new(),
            unfinished: Vec::new(),
            shared: Vec::new(),
            again: BTreeSet::new(),
            resources: Resources::new(origin, None),
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.again.is_empty() || !self.unfinished.is_empty()
    }

    /// Whether several peers send to this port.
    pub(crate) fn is_known(&self, port: SocketAddr) -> bool {
        port == LISTEN || self.shared.contains(&port)
    }

    /// Receives a batch on a port with several peers; returns the number of datagrams.
    pub(crate) fn receive(&mut self, net: &Net, port: SocketAddr) -> usize {
        let batch = &mut self.resources.batch;
        let capacity = batch.capacity(SLOT_LEN, usize::MAX);
        let received = receive(net, port, false, batch, SLOT_LEN, usize::MAX).unwrap_or(0);
        if received == capacity {
            self.again.insert(port);
        }
        received
    }

    /// A session whose deadline has come; but not while an answer to it may lie unread in
    /// its port.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<SessionKey> {
        loop {
            let key = self.sessions.pop_due(now)?;
            let session = self.sessions.get(key)?;
            if !(session.misses_answer(now) && self.again.contains(&session.port().own)) {
                return Some(key);
            }
            self.sessions.rearm(key);
        }
    }

    /// A datagram of the batch, with its sender and destination.
    pub(crate) fn datagram(&self, index: usize) -> Option<(Endpoint, &[u8])> {
        let datagram = self.resources.batch.get(index)?;
        let endpoint = Endpoint {
            peer: datagram.peer,
            local: SERVER,
        };
        Some((endpoint, datagram.payload))
    }

    /// The session that a datagram of the batch belongs to, which came in on `port`.
    pub(crate) fn owner(&self, index: usize, port: SocketAddr) -> Option<SessionKey> {
        let (endpoint, payload) = self.datagram(index)?;
        let is_request = matches!(payload, [0, 1 | 2, ..]);
        let key = self.sessions.key_of(&endpoint)?;
        let own = self.sessions.get(key)?.port();
        (own.is_shared() && own.own == port && !is_request).then_some(key)
    }

    /// Tells the table how many files are open.
    pub(crate) fn count_files(&mut self) {
        let is_open = |session: &Link| match session.content() {
            Content::Source(source) => source.is_open(),
            Content::Sink(_) => false,
        };
        let open = self.sessions.iter().filter(|(_, it)| is_open(it)).count();
        self.sessions.set_open_files(open);
    }

    pub(crate) fn insert(
        &mut self,
        endpoint: Endpoint,
        fingerprint: Fingerprint,
        session: Link,
    ) -> SessionKey {
        let (tid, is_shared) = (session.port().own, session.port().is_shared());
        let key = self.sessions.insert(endpoint, fingerprint, session);
        if !is_shared {
            self.by_tid.insert(tid, key);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.register(&()).expect("a simulated port");
        }
        key
    }

    /// A session has waited long enough and gets its turn.
    pub(crate) fn resume(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.queue = Queue::None;
            self.sessions.rearm(key);
        }
    }

    /// The session goes on in another turn.
    pub(crate) fn postpone(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key)
            && session.queue == Queue::None
        {
            session.queue = Queue::Turn;
            self.unfinished.push(key);
        }
    }

    pub(crate) fn remove(&mut self, key: SessionKey) -> bool {
        let Some(mut session) = self.sessions.remove(key) else {
            return false;
        };
        session.drop_prefetched(&mut self.resources.pool);
        if !session.port().is_shared() {
            self.by_tid.remove(&session.port().own);
        }
        true
    }
}
