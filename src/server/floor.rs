//! The transfers that are being served: the session table, the poll that wakes
//! them, and what they share.
//!
//! Every turn of a session and every end of one goes through here. Must not:
//! know what a request asks for, or who may ask.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Instant;

use log::{Level, debug, log_enabled};
use mio::{Poll, Registry, Token};

use super::REQUEST_LEN;
use super::counters::Counters;
use super::report::{self, Ending, Reporter};
use super::shaper::{Lent, Shaper, Used};
use super::shared::{self, SharedPorts};
use super::unproved::UnprovedRate;
use crate::host::clock;
use crate::host::random::Random;
use crate::log::event::Event;
use crate::net::pool::{STORM, SocketPool};
use crate::net::{ListenSocket, TransferSocket};
use crate::protocol::transfer::{Failure, Outcome, Transfer};
use crate::session::{Context, Resources, Session, Trace, Turn, Watch};
use crate::table::{Endpoint, Fingerprint, SessionKey, Sessions, Tracked as _};
use crate::wire::packet::ErrorCode;

/// Ports of transfers, unless others are asked for: a peer that answers from one
/// has seen what we sent, since there are too many to guess.
const ANY_PORT: RangeInclusive<u16> = 1024..=u16::MAX;

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
    /// Sessions that wait for room in a listen socket, where they share those.
    shared: Option<SharedPorts>,
    /// How much DATA goes to whom, where ports are shared or few.
    shaper: Option<Shaper>,
    socket_pool: SocketPool,
    /// Ports for transfer sockets.
    ports: RangeInclusive<u16>,
    pub(super) random: Random,
}

impl Floor {
    /// Nothing is served yet. `shared` are the listen sockets that transfers
    /// send from, if they do. Where nothing proves a client, its network is sent
    /// `unproved_rate` bytes a second.
    ///
    /// # Errors
    /// Whatever the kernel says to being asked for an epoll instance.
    pub(super) fn new(
        sessions: Sessions<Session>,
        ports: Option<RangeInclusive<u16>>,
        shared: Option<Rc<[ListenSocket]>>,
        unproved_rate: Option<NonZeroU64>,
        now: Instant,
    ) -> io::Result<Self> {
        let mut random = Random::default();
        let unproved = unproved_rate.map(|rate| UnprovedRate::new(rate.get(), random.seed(), now));
        let buffer = shared.as_deref().map(shared::send_buffer);
        let is_shaped = unproved.is_some() || buffer.is_some();
        let shaper = is_shaped.then(|| Shaper::new(buffer, unproved, random.seed(), now));
        let shared = shared.map(|listeners| SharedPorts::new(listeners, random.seed(), now));
        let trace = log_enabled!(Level::Trace).then_some(report::packet as Trace);
        Ok(Self {
            poll: Poll::new()?,
            resources: Resources::new(now, trace).with_seed(random.seed(), now),
            reporter: Reporter::new(now),
            counters: Counters::default(),
            unfinished: VecDeque::new(),
            shared,
            shaper,
            socket_pool: match ports {
                // The ports of a range are few.
                Some(_) => SocketPool::beside(0),
                None => SocketPool::beside(sessions.capacity()),
            },
            sessions,
            ports: ports.unwrap_or(ANY_PORT),
            random,
        })
    }

    pub(super) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Transfers share the listen sockets.
    pub(super) const fn single_port(&self) -> bool {
        self.shared.is_some()
    }

    /// Some session has more to do without waiting.
    pub(super) fn has_work(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// When [`Floor::run_deadlines`] is to be called next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.shaper.as_ref().and_then(Shaper::next_deadline),
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
        while let Some(shaper) = &mut self.shaper
            && let Some(key) = shaper.pop_due(now)
        {
            self.with_session(key, Session::transmit);
        }
        self.socket_pool.handle_timeout(now);
        self.reporter.handle_timeout(now);
    }

    /// There is room in a shared listen socket: sessions that waited for it go
    /// on, until it is full again. The one that filled it waits after those that
    /// had no turn.
    pub(super) fn resume(&mut self, listener: usize) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        let mut waiting = shared.take(listener, self.poll.registry()).into_iter();
        while let Some(key) = waiting.next() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.queued = false;
            }
            self.run_session(key);
            if let Some(shared) = &mut self.shared
                && shared.is_full(listener)
            {
                shared.put_first(listener, waiting);
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
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let now = clock::now();
        let lent = match &mut self.shaper {
            Some(shaper) => shaper.lend(key, session, now),
            None => Lent::All,
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
        if let (Some(shared), Some(since), true) =
            (&mut self.shared, unverified_since, has_answered)
        {
            shared
                .unverified
                .verified(clock::now(), since, session.peer().ip());
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
        if let Some(shared) = &mut self.shared {
            shared.wait_if_blocked(key, session, self.poll.registry());
        }
        let is_asleep = self
            .shaper
            .as_mut()
            .is_some_and(|it| it.settle(key, session, &used, clock::now(), &mut self.random));
        if turn == Turn::Unfinished && !is_asleep && !session.queued {
            session.queued = true;
            self.unfinished.push_back(key);
        }
        self.sessions.rearm(key);
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
        if let Some(shaper) = &mut self.shaper {
            shaper.forget(key);
        }
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
        match &mut self.shared {
            Some(shared) => shared.unverified.take(now, client),
            None => true,
        }
    }

    /// The same for an ERROR without a transfer.
    pub(super) fn may_send_error(&mut self, now: Instant, client: IpAddr) -> bool {
        match &mut self.shared {
            Some(shared) => shared.errors.take(now, client),
            None => true,
        }
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

    /// A socket for `transfer`, on the address that was asked: its own, or a share
    /// of `listener`.
    ///
    /// # Errors
    /// `AddrInUse` if no port of the range is free; whatever else the kernel says.
    pub(super) fn socket(
        &mut self,
        endpoint: &Endpoint,
        listener: &ListenSocket,
        transfer: &Transfer,
    ) -> io::Result<TransferSocket> {
        // Blocks that the client sends without waiting for an answer.
        let window = match transfer {
            Transfer::Sender(_) => None,
            Transfer::Receiver(_) => Some(transfer.negotiated()),
        };
        if let Some(shared) = &mut self.shared {
            if let Some(window) = window {
                shared.expect(window.blksize);
            }
            return Ok(TransferSocket::share(listener, endpoint.local));
        }
        let mut socket = self.bind(endpoint, listener)?;
        if let Some(window) = window {
            socket.expect_windows(window.windowsize, window.blksize);
        }
        Ok(socket)
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
        let first_try = self.random.number() as u16;
        TransferSocket::bind(endpoint.local, scope, Some(&self.ports), first_try)
    }

    /// Bytes of the longest datagram that means anything on a listen socket.
    pub(super) fn slot_len(&mut self) -> usize {
        match &mut self.shared {
            None => REQUEST_LEN,
            Some(shared) if self.sessions.is_empty() => shared.expect_requests(),
            Some(shared) => shared.slot_len(),
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
