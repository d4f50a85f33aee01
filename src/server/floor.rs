//! The transfers that are being served: the session table, the poll that wakes
//! them, and what they share.
//!
//! Every turn of a session and every end of one goes through here. Must not:
//! know what a request asks for, or who may ask.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::time::Instant;

use log::{Level, debug, log_enabled};
use mio::{Poll, Registry, Token};

use super::counters::Counters;
use super::report::{self, Ending, Reporter};
use super::shaper::{Lent, Shaper, Used};
use super::shared::{self, SharedPorts};
use super::unproved::UnprovedRate;
use super::{MAX_LISTENERS, MAX_SOCKETS, REQUEST_LEN};
use crate::host::clock;
use crate::host::random::Random;
use crate::log::event::Event;
use crate::net::pool::{STORM, SocketPool};
use crate::net::{Binding, ListenSocket, TransferSocket, bind_one_of, candidates};
use crate::protocol::transfer::{Failure, Outcome};
use crate::session::{Content, Context, Resources, Session, Trace, Turn, Watch};
use crate::table::{Client, Endpoint, Fingerprint, SessionKey, Sessions, Tracked as _};
use crate::wire::options::Negotiated;
use crate::wire::packet::ErrorCode;

/// Ports of transfers, unless others are asked for: a peer that answers from one
/// has seen what we sent, since there are too many to guess.
const ANY_PORT: RangeInclusive<u16> = 1024..=u16::MAX;

/// Whether a transfer may share its port with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// It does, since slots are short.
    Always,
    /// Where none of its own is free.
    Instead,
    /// Never: whoever knows the port could store a file in the peer's name.
    Never,
}

/// The sessions and all that serving them takes.
#[derive(Debug)]
pub(super) struct Floor {
    pub(super) poll: Poll,
    pub(super) sessions: Sessions<Session>,
    pub(super) resources: Resources,
    pub(super) reporter: Reporter,
    pub(super) counters: Counters,
    /// Sessions that have more to do without waiting.
    unfinished: VecDeque<SessionKey>,
    /// The sockets that sessions share: the listen sockets where all do, else ports
    /// for those that get none of their own.
    shared: SharedPorts,
    single_port: bool,
    /// How much DATA goes to clients that nothing proves.
    shaper: Shaper,
    socket_pool: SocketPool,
    /// Ports for transfer sockets.
    ports: RangeInclusive<u16>,
    /// They are few.
    has_range: bool,
    pub(super) random: Random,
}

impl Floor {
    /// Nothing is served yet. `shared` are the listen sockets that transfers
    /// send from, if they do. A network whose clients nothing proves is sent
    /// `unproved_rate` bytes a second.
    ///
    /// # Errors
    /// Whatever the kernel says to being asked for an epoll instance.
    pub(super) fn new(
        sessions: Sessions<Session>,
        ports: Option<RangeInclusive<u16>>,
        shared: Option<&[ListenSocket]>,
        unproved_rate: Option<NonZeroU64>,
        now: Instant,
    ) -> io::Result<Self> {
        let mut random = Random::default();
        let unproved = unproved_rate.map(|rate| UnprovedRate::new(rate, random.seed(), now));
        let trace = log_enabled!(Level::Trace).then_some(report::packet as Trace);
        Ok(Self {
            poll: Poll::new()?,
            resources: Resources::new(now, trace).with_seed(random.seed(), now),
            reporter: Reporter::new(now),
            counters: Counters::default(),
            unfinished: VecDeque::new(),
            single_port: shared.is_some(),
            shaper: Shaper::new(
                shared.map(shared::send_buffer),
                unproved,
                random.seed(),
                now,
            ),
            shared: match shared {
                Some(listeners) => SharedPorts::new(listeners, 0, random.seed(), now),
                None => SharedPorts::new(&[], MAX_LISTENERS, random.seed(), now),
            },
            socket_pool: match ports {
                // The ports of a range are few.
                Some(_) => SocketPool::beside(0),
                None => SocketPool::beside(sessions.capacity()),
            },
            sessions,
            has_range: ports.is_some(),
            ports: ports.unwrap_or(ANY_PORT),
            random,
        })
    }

    pub(super) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Transfers share the listen sockets.
    pub(super) const fn single_port(&self) -> bool {
        self.single_port
    }

    /// The socket with this index, among all that several peers send to.
    pub(super) fn shared_port(&self, index: usize) -> Option<&ListenSocket> {
        self.shared.get(index)
    }

    /// The session of `endpoint`, if it has its port there.
    pub(super) fn owner_of(
        &self,
        endpoint: &Endpoint,
        socket: &ListenSocket,
    ) -> Option<SessionKey> {
        let key = self.sessions.key_of(endpoint)?;
        let session = self.sessions.get(key)?;
        session.port().shares(socket).then_some(key)
    }

    /// Some session has more to do without waiting.
    pub(super) fn has_work(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// When [`Floor::run_deadlines`] is to be called next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.shaper.next_deadline(),
            self.sessions.next_deadline(),
            self.socket_pool.poll_timeout(),
            self.reporter.poll_timeout(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// How many transfers have not ended yet.
    pub(super) fn running(&self) -> usize {
        let running = self.sessions.iter().filter(|(_, it)| !it.has_ended());
        running.count()
    }

    /// A session's socket is ready.
    pub(super) fn run_session(&mut self, key: SessionKey) {
        self.with_session(key, Session::run);
    }

    /// How many sessions have more to do from the turn before: to be given to
    /// [`Floor::run_unfinished`] once everything new has had its turn.
    pub(super) fn count_unfinished(&self) -> usize {
        self.unfinished.len()
    }

    pub(super) fn run_unfinished(&mut self, count: usize) {
        for _ in 0..count {
            let Some(key) = self.unfinished.pop_front() else {
                return;
            };
            if let Some(session) = self.sessions.get_mut(key) {
                session.queued = false;
            }
            self.run_session(key);
        }
    }

    pub(super) fn run_deadlines(&mut self, now: Instant) {
        while let Some(key) = self.sessions.pop_due(now) {
            if let Some(session) = self.sessions.get(key) {
                report::woken(session);
            }
            self.with_session(key, Session::run_deadline);
        }
        while let Some(key) = self.shaper.pop_due(now) {
            self.with_session(key, Session::transmit);
        }
        self.socket_pool.handle_timeout(now);
        self.reporter.handle_timeout(now);
    }

    /// There is room in the shared socket with this index: sessions that waited for it go
    /// on, until it is full again. The one that filled it waits after those that
    /// had no turn.
    pub(super) fn resume(&mut self, index: usize) {
        let registry = self.poll.registry();
        let mut waiting = self.shared.take(index, registry).into_iter();
        while let Some(key) = waiting.next() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.queued = false;
            }
            self.run_session(key);
            if self.shared.is_full(index) {
                self.shared.put_first(index, waiting);
                return;
            }
        }
    }

    /// Lets a session work and does what its state asks for afterwards: another
    /// turn, its end, a new deadline. Stale keys are normal: events of a turn
    /// may name a session that ended earlier in it.
    pub(super) fn with_session(
        &mut self,
        key: SessionKey,
        work: impl FnOnce(&mut Session, &mut Context<'_>) -> Turn,
    ) {
        self.take_turn(key, work);
        if let Some(client) = self.resources.ingress.guessed.take() {
            self.end_guessed(client);
        }
    }

    /// Somebody looks for a port in the name of `client`: ends the uploads that were
    /// asked for in that name and not begun. Those that are under way have a peer that
    /// knows its port.
    fn end_guessed(&mut self, client: IpAddr) {
        let guessed = |session: &Session| {
            session.peer().ip() == client
                && session.unverified_since().is_some()
                && matches!(session.content(), Content::Sink(_))
        };
        let sessions = self.sessions.of_client(Client::of(client));
        let keys = sessions.filter(|(_, session)| guessed(session));
        let keys: Vec<_> = keys.map(|(key, _)| key).collect();
        for key in keys {
            self.end_session(key, Ending::Guessed);
        }
    }

    fn take_turn(
        &mut self,
        key: SessionKey,
        work: impl FnOnce(&mut Session, &mut Context<'_>) -> Turn,
    ) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let now = clock::now();
        let is_shaped = session.transfer().may_be_forged();
        let lent = if is_shaped {
            self.shaper.lend(key, session, now)
        } else {
            Lent::All
        };
        let mut context = Context {
            now,
            clock: &clock::now,
            resources: &mut self.resources,
            poll: Watch {
                registry: self.poll.registry(),
                token: Token(key.to_token()),
            },
            send_budget: lent.bytes(),
        };
        let unverified_since = session.unverified_since();
        let turn = work(session, &mut context);
        let used = Used {
            began: now,
            lent,
            left: context.send_budget,
            has_more: turn == Turn::Unfinished,
        };
        let outcome = session.poll_outcome();
        // An ERROR is an answer too: many only ask for the size.
        let has_answered = session.unverified_since().is_none()
            || matches!(outcome, Some(Outcome::Probed | Outcome::PeerError { .. }));
        if let (true, Some(since), true) = (self.single_port, unverified_since, has_answered) {
            let client = session.peer().ip();
            self.shared.unverified.verified(clock::now(), since, client);
        }
        if let Some(outcome) = outcome {
            let ending = Ending::Outcome(&outcome);
            self.reporter
                .end(session, ending, clock::now(), &mut self.counters);
        }
        if session.is_closed() {
            self.free(key);
            return;
        }
        if session.shares_its_port() {
            let registry = self.poll.registry();
            self.shared.wait_if_blocked(key, session, registry);
        }
        if !has_answered {
            session.close_file();
        }
        let sleeps = is_shaped
            && self
                .shaper
                .settle(key, session, &used, clock::now(), &mut self.random);
        if turn == Turn::Unfinished && !sleeps && !session.queued {
            session.queued = true;
            self.unfinished.push_back(key);
        }
        self.sessions.rearm(key);
        if self.sessions.is_overfull() {
            // A peer that has proved to be there comes before those that are over or
            // silent; if all others are as real as it is, it came last.
            let gives_way = self.sessions.gives_way(clock::now(), self.random.number());
            self.end_session(gives_way.unwrap_or(key), Ending::Evicted);
        }
    }

    /// Ends a session for a new request. Its transfer was reported when it ended,
    /// or is now, with the `ending` that the request means for it: one outcome,
    /// one line, one counter.
    pub(super) fn end_session(&mut self, key: SessionKey, ending: Ending<'_>) {
        if let Some(session) = self.sessions.get(key)
            && !session.has_ended()
        {
            self.reporter
                .end(session, ending, clock::now(), &mut self.counters);
        }
        self.free(key);
    }

    /// The one place where a slot is freed. The end of its transfer has been
    /// reported, or it never began.
    fn free(&mut self, key: SessionKey) {
        let Some(&endpoint) = self.sessions.endpoint(key) else {
            return;
        };
        self.shaper.forget(key);
        // A socket leaves the poll by being closed.
        if let Some(mut session) = self.sessions.remove(key) {
            session.drop_prefetched(&mut self.resources.pool);
            if self.sessions.len() >= STORM {
                self.socket_pool
                    .put(clock::now(), session.into_port(), endpoint);
            }
        }
    }

    /// A port or a descriptor is needed: closes sockets that lie idle, or else ends
    /// the session that gives way, `chosen` or any; false if there is none.
    pub(super) fn make_room(
        &mut self,
        now: Instant,
        chosen: Option<(SessionKey, Ending<'_>)>,
    ) -> bool {
        if self.socket_pool.poll_timeout().is_some() {
            self.socket_pool.clear();
            return true;
        }
        let any = || {
            let key = self.sessions.gives_way(now, self.random.number())?;
            Some((key, Ending::Evicted))
        };
        let Some((key, ending)) = chosen.or_else(any) else {
            return false;
        };
        self.end_session(key, ending);
        true
    }

    /// Stores a session that was admitted, and sends its first answer.
    ///
    /// # Errors
    /// Whatever the kernel says to watching its socket; there is no session then.
    pub(super) fn start_session(
        &mut self,
        endpoint: Endpoint,
        fingerprint: Fingerprint,
        session: Session,
    ) -> io::Result<()> {
        let key = self.sessions.insert(endpoint, fingerprint, session);
        let registry = self.poll.registry();
        let token = Token(key.to_token());
        if let Some(session) = self.sessions.get_mut(key)
            && let Err(error) = session.register(&Watch { registry, token })
        {
            self.free(key);
            return Err(error);
        }
        self.counters.admitted += 1;
        if let Some(session) = self.sessions.get(key) {
            self.reporter.begin(session, session.started);
        }
        self.with_session(key, Session::transmit);
        Ok(())
    }

    /// Whether there is room in the send buffer that transfers share for an answer
    /// to a peer that has never answered.
    pub(super) fn may_answer(&mut self, now: Instant, client: IpAddr) -> bool {
        !self.single_port || self.shared.unverified.take(now, client)
    }

    /// The same for an ERROR without a transfer.
    pub(super) fn may_send_error(&mut self, now: Instant, client: IpAddr) -> bool {
        !self.single_port || self.shared.errors.take(now, client)
    }

    /// The same for the client of a session that repeats its request. Where that
    /// brings no answer there need be no room for one.
    pub(super) fn may_answer_again(&mut self, now: Instant, key: SessionKey) -> bool {
        let answered = self.sessions.get(key);
        let answered = answered.filter(|it| it.answers_repeated_request(now));
        let client = answered.map(|it| it.peer().ip());
        client.is_none_or(|client| self.may_answer(now, client))
    }

    /// Sends one datagram from a socket of its own: answers to addresses where
    /// nobody is, which the kernel keeps while it looks for them, have filled the
    /// listen socket's buffer.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub(super) fn answer_apart(
        &mut self,
        datagram: &[u8],
        endpoint: &Endpoint,
        listener: &ListenSocket,
    ) -> io::Result<()> {
        let socket = self.bind(endpoint, listener)?;
        socket.send_to(datagram, endpoint.peer)
    }

    /// A socket for a transfer, on the address that was asked: its own, a share of
    /// `listener`, or of another port. `window` is what an upload's client sends
    /// without waiting for an answer.
    ///
    /// # Errors
    /// `AddrInUse` if no port of the range is free; whatever else the kernel says.
    pub(super) fn socket(
        &mut self,
        endpoint: &Endpoint,
        listener: &ListenSocket,
        window: Option<&Negotiated>,
        sharing: Sharing,
    ) -> io::Result<TransferSocket> {
        let address = beside(listener.address(), endpoint.local);
        if self.has_range && !self.single_port && self.shared.bound_to(address).is_none() {
            // While a port is free; if none is, there may be one of its own.
            let _ = self.open_shared(address);
        }
        let socket = if self.single_port {
            Ok(TransferSocket::share(listener, endpoint.local))
        } else if sharing == Sharing::Always {
            self.share(endpoint, address)
        } else {
            match self.bind(endpoint, listener) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && sharing != Sharing::Never =>
                {
                    self.share(endpoint, address)
                }
                bound => bound,
            }
        };
        let mut socket = socket?;
        if let Some(window) = window {
            if socket.is_shared() {
                self.shared.expect(window.blksize);
            }
            socket.expect_windows(window.windowsize, window.blksize);
        }
        Ok(socket)
    }

    /// A share of the port at `address` that is there to be shared.
    fn share(&mut self, endpoint: &Endpoint, address: SocketAddr) -> io::Result<TransferSocket> {
        if self.shared.bound_to(address).is_none() {
            self.open_shared(address)?;
        }
        let socket = self.shared.bound_to(address);
        let socket = socket.ok_or(io::ErrorKind::AddrInUse)?;
        Ok(TransferSocket::share(socket, endpoint.local))
    }

    /// A port to be shared, at `address`.
    fn open_shared(&mut self, address: SocketAddr) -> io::Result<()> {
        if self.shared.len() >= MAX_SOCKETS - MAX_LISTENERS {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let ports = candidates(&self.ports, self.random.number() as u16);
        let socket = bind_one_of(ports, |port| {
            let mut address = address;
            address.set_port(port);
            ListenSocket::bind(address, Binding::default())
        })?;
        socket.prepare_sharing();
        self.shared.add(socket, self.poll.registry())
    }

    fn bind(&mut self, endpoint: &Endpoint, listener: &ListenSocket) -> io::Result<TransferSocket> {
        if let Some(socket) = self.socket_pool.take(endpoint) {
            return Ok(socket);
        }
        // A link-local address is one of an interface.
        let scopes = [endpoint.peer, listener.address()].map(|address| match address {
            SocketAddr::V6(address) => address.scope_id(),
            SocketAddr::V4(_) => 0,
        });
        let scope = scopes.into_iter().find(|&scope| scope != 0).unwrap_or(0);
        let random = self.random.number() as u16;
        TransferSocket::bind(endpoint.local, scope, Some(&self.ports), random)
    }

    /// Bytes of the longest datagram that means anything on a socket that several
    /// peers send to; `is_shared`: not only requests.
    pub(super) fn slot_len(&mut self, is_shared: bool) -> usize {
        match is_shared {
            false => REQUEST_LEN,
            true if self.sessions.is_empty() => self.shared.expect_requests(),
            true => self.shared.slot_len(),
        }
    }

    /// Tells every peer that is still here that it's over.
    pub(super) fn cut_off(&mut self) {
        let keys: Vec<_> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(session) = self.sessions.get_mut(key) {
                session.abort(Failure::new(
                    ErrorCode::NotDefined,
                    "Server is shutting down",
                ));
            }
            self.with_session(key, Session::transmit);
            self.free(key);
        }
    }

    /// Logs what was held back, what is running, and the counters.
    pub(super) fn report(&mut self) {
        self.reporter.flush(clock::now());
        report::running(self.sessions.iter().map(|(_, it)| it), clock::now());
        let mut counts = vec![
            ("sessions", self.sessions.len() as u64),
            ("timer_operations", self.sessions.wheel_ops()),
        ];
        let counters = self.counters.with(self.resources.ingress.drops);
        counts.extend(counters.happened());
        Event::Counters(&counts).write();
    }

    /// Counts an error of the kernel's on a listen socket.
    pub(super) fn count_socket_error(&mut self, verb: &str, at: SocketAddr, error: &io::Error) {
        self.counters.socket_errors += 1;
        debug!("{at}: cannot {verb}: {error}");
    }
}

/// Where a port is bound that transfers share, on any port yet: as `listener` is, for
/// those that came to `local`.
fn beside(listener: SocketAddr, local: IpAddr) -> SocketAddr {
    let mut address = listener;
    address.set_port(0);
    match local {
        IpAddr::V4(_) if listener.ip().is_unspecified() => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) if listener.ip().is_unspecified() => (Ipv6Addr::UNSPECIFIED, 0).into(),
        _ if listener.is_ipv4() == local.is_ipv4() => address,
        // An inherited socket of both families.
        _ => (local, 0).into(),
    }
}
