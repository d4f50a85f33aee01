//! The transfers that are being served: the session table, the poll that wakes
//! them, and what they share.
//!
//! Every turn of a session and every end of one goes through here. Must not:
//! know what a request asks for, or who may ask.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::{Level, debug, log_enabled};
use mio::{Poll, Registry, Token};

use super::REQUEST_LEN;
use super::counters::Counters;
use super::ending::Ending;
use super::pacing::Pacing;
use super::ports::{Ports, Via};
use super::report::{self, Reporter};
use super::shared;
use crate::file::{OpenFiles, UploadListings};
use crate::host::clock;
use crate::host::random::Random;
use crate::log::event::Event;
use crate::net::ListenSocket;
use crate::net::pool::STORM;
use crate::policy::rules::Section;
use crate::protocol::transfer::{Failure, Outcome};
use crate::session::shaper::Shaper;
use crate::session::unproved::UnprovedRate;
use crate::session::{
    Content, Context, Queue, Resources, SEND_BUDGET, Session, TakenIn, Trace, Turn, Watch,
};
use crate::table::rate::network;
use crate::table::{
    Admission, AfterTurn, Client, Endpoint, Fingerprint, SessionKey, Sessions, Tracked as _,
};
use crate::wire::packet::{Direction, ErrorCode};

/// The ERROR for a client that has as many transfers as it may.
const CROWDED: Failure = Failure::new(ErrorCode::NotDefined, "Too many transfers at once");

/// How a transfer ends that gives way to the next of a client that never sent its last
/// ACK.
const LAST_ACK_MISSING: Ending<'_> = Ending::Outcome(&Outcome::LastAckMissing);

/// The most due sessions that have their turn before sockets are read again. After a
/// network was away for a second all sessions are due, and answers come in meanwhile.
const DEADLINES: usize = 1024;

/// The most sessions that take in what has arrived before the first of them answers:
/// with more, their own data would be out of the caches by then.
const TOGETHER: usize = 32;

/// How long the first of these sessions may wait for the others: a disk may be slow.
const LONGEST_TOGETHER: Duration = Duration::from_millis(1);

/// What a new session lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needed {
    /// A port of the range.
    Port,
    Descriptor,
}

/// What a session does in its turn. Not a type parameter, which would compile the code
/// of a turn once for each.
pub(super) type Work<'a> = &'a mut dyn FnMut(&mut Session, &mut Context<'_>) -> Turn;

/// The sessions and everything needed to serve them.
#[derive(Debug)]
pub(super) struct Floor {
    pub(super) poll: Poll,
    pub(super) sessions: Sessions<Session>,
    pub(super) resources: Resources,
    pub(super) reporter: Reporter,
    pub(super) counters: Counters,
    /// Sessions that have more to do without waiting.
    unfinished: VecDeque<SessionKey>,
    /// Sessions that have taken in what had arrived and haven't answered it yet.
    taken_in: Vec<(SessionKey, TakenIn)>,
    /// When the first of them began its turn.
    taken_since: Instant,
    /// Where transfers send from.
    pub(super) ports: Ports,
    /// How much DATA goes to unproved clients.
    shaper: Shaper,
    /// The limits that the rules set by client.
    pacing: Pacing,
    /// The open files that sessions share.
    files: Rc<OpenFiles>,
    /// The names of the session that began last.
    names: Rc<[u8]>,
    pub(super) random: Random,
    /// The directories that are listed for uploads.
    pub(super) listings: Vec<UploadListings>,
    /// Directory entries yet to be charged, with one client of each network.
    pub(super) listed: Vec<(IpAddr, u64)>,
}

impl Floor {
    /// A floor without sessions; files come from `files`. `shared` are the listen
    /// sockets, if all transfers send from them. The unproved clients of a network are
    /// sent at most `unproved_rate` bytes a second.
    ///
    /// # Errors
    /// No descriptor is left for the poll.
    pub(super) fn new(
        sessions: Sessions<Session>,
        files: Rc<OpenFiles>,
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
            taken_in: Vec::new(),
            taken_since: now,
            shaper: Shaper::new(
                shared.map(shared::send_buffer),
                unproved,
                random.seed(),
                now,
            ),
            pacing: Pacing::default(),
            files,
            names: Rc::default(),
            ports: Ports::new(ports, shared, sessions.own_ports(), random.seed(), now),
            sessions,
            random,
            listings: Vec::new(),
            listed: Vec::new(),
        })
    }

    /// A session's `names`, shared with the session before if they are the same: in a
    /// storm all ask for one file.
    pub(super) fn keep_names(&mut self, names: &[u8]) -> Rc<[u8]> {
        if *self.names != *names {
            self.names = names.into();
        }
        Rc::clone(&self.names)
    }

    pub(super) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// All transfers share the listen sockets.
    pub(super) const fn single_port(&self) -> bool {
        self.ports.single_port
    }

    /// Some transfers share the listen sockets, or all do.
    pub(super) const fn listeners_carry_transfers(&self) -> bool {
        self.ports.listeners_carry_transfers()
    }

    /// Lets some transfers share the `listeners`, as the rules say; the listeners must
    /// have been prepared for that.
    pub(super) fn share_listeners(&mut self, listeners: &[ListenSocket], now: Instant) {
        let seed = self.random.seed();
        self.ports.share_listeners(listeners, seed, now);
        self.shaper.share_buffer(shared::send_buffer(listeners));
    }

    /// The session of `endpoint`, if it sends from `socket`.
    pub(super) fn owner_of(
        &self,
        endpoint: &Endpoint,
        socket: &ListenSocket,
    ) -> Option<SessionKey> {
        let key = self.sessions.key_of(endpoint)?;
        let session = self.sessions.get(key)?;
        session.port().shares(socket).then_some(key)
    }

    /// Some session has more to do without waiting, or files are being counted.
    pub(super) fn has_work(&self) -> bool {
        !self.unfinished.is_empty() || self.listings.iter().any(UploadListings::is_counting)
    }

    /// Goes on to count files for the limit of all uploads, for a small part of a turn.
    pub(super) fn count_files(&self) {
        for listing in self.listings.iter().filter(|it| it.is_counting()) {
            listing.count_on();
        }
    }

    /// When [`Floor::run_deadlines`] is to be called next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        clock::earliest([
            self.shaper.next_deadline(),
            self.sessions.next_deadline(),
            self.ports.pool.poll_timeout(),
            self.reporter.poll_timeout(),
        ])
    }

    /// What to do with a request: see [`Sessions::admit`].
    pub(super) fn admit(
        &mut self,
        direction: Direction,
        endpoint: &Endpoint,
        fingerprint: Fingerprint,
        now: Instant,
    ) -> Admission {
        self.sessions.set_open_files(self.files.count());
        let random = self.random.number();
        match direction {
            Direction::Read => self.sessions.admit_read(endpoint, fingerprint, now, random),
            Direction::Write => self.sessions.admit(endpoint, fingerprint, now, random),
        }
    }

    /// How many transfers have not ended yet.
    pub(super) fn running(&self) -> usize {
        self.sessions.running()
    }

    /// A session's socket is ready.
    pub(super) fn run_session(&mut self, key: SessionKey) {
        self.with_session(key, &mut Session::run);
    }

    /// Like [`Floor::run_session`], when several are ready: it may only receive now,
    /// and answer with the next ones or in [`Floor::answer_together`]. Receiving and
    /// sending are both much kernel code; alternating per packet, each evicts the other
    /// from the caches.
    pub(super) fn run_together(&mut self, key: SessionKey) {
        let now = clock::now();
        if self.taken_in.is_empty() {
            self.taken_since = now;
        } else if now.saturating_duration_since(self.taken_since) > LONGEST_TOGETHER {
            self.answer_together();
            self.taken_since = now;
        }
        let Some(session) = self.sessions.get_mut(key).filter(|it| may_wait(it)) else {
            // A full turn may evict another session: those with an answer to send go
            // first.
            self.answer_together();
            self.run_session(key);
            return;
        };
        let before = self.reporter.measure(session);
        // This half of the turn sends nothing.
        let mut context = lend(&mut self.resources, self.poll.registry(), key, now, 0);
        let taken = session.take_in(&mut context);
        self.reporter.moved(session, before);
        note_listed(session.peer().ip(), &self.listings, &mut self.listed);
        if session.is_over() {
            // Report its end before another takes its place. Finishing the file may
            // have taken long, so the others answer now.
            self.with_session(key, &mut |session, context| session.answer(&taken, context));
            self.answer_together();
            return;
        }
        self.sessions.rearm(key);
        self.taken_in.push((key, taken));
        if self.taken_in.len() >= TOGETHER {
            self.answer_together();
        }
    }

    /// Lets the sessions answer that have taken in what arrived.
    pub(super) fn answer_together(&mut self) {
        let mut taken_in = mem::take(&mut self.taken_in);
        for (key, taken) in taken_in.drain(..) {
            self.with_session(key, &mut |session, context| session.answer(&taken, context));
        }
        self.taken_in = taken_in;
    }

    /// Checks whether the answer to a session is there; true if it was.
    pub(super) fn look(&mut self, key: SessionKey) -> bool {
        // Opening a file again may evict another session: that is left to events of the
        // poll.
        if self.sessions.get(key).is_none_or(Session::waits_for_file) {
            return false;
        }
        let mut has_come = false;
        self.with_session(key, &mut |session, context| {
            let before = session.transfer().progress();
            let turn = session.run(context);
            has_come = session.transfer().progress() != before;
            turn
        });
        has_come
    }

    /// How many sessions have more to do from the turn before: to be given to
    /// [`Floor::run_unfinished`] once everything new has had its turn.
    pub(super) fn count_unfinished(&self) -> usize {
        self.unfinished.len()
    }

    /// Gives `count` of these their turn.
    pub(super) fn run_unfinished(&mut self, count: usize) {
        for _ in 0..count {
            let Some(key) = self.unfinished.pop_front() else {
                return;
            };
            self.run_queued(key);
        }
    }

    /// Runs a session that was taken out of its queue.
    fn run_queued(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.queue = Queue::None;
        }
        self.run_session(key);
    }

    /// Gives the sessions that are due their turn. An answer of the peer that may still
    /// be unread in a socket (`may_lie`) beats the deadline: such a session is looked
    /// at again in the next turn.
    pub(super) fn run_deadlines(&mut self, now: Instant, may_lie: impl Fn(&Session) -> bool) {
        let mut left = DEADLINES;
        while left > 0
            && let Some(key) = self.sessions.pop_due(now)
        {
            left -= 1;
            if let Some(session) = self.sessions.get(key) {
                if session.misses_answer(now) && may_lie(session) {
                    self.sessions.rearm(key);
                    continue;
                }
                report::woken(session);
            }
            self.with_session(key, &mut Session::run_deadline);
        }
        while left > 0
            && let Some(key) = self.shaper.pop_due(now)
        {
            left -= 1;
            self.with_session(key, &mut Session::transmit);
        }
        self.ports.pool.handle_timeout(now);
        self.reporter.handle_timeout(now);
    }

    /// There is room in the shared socket with this index: sessions that waited for it
    /// go on until it is full again. The session that fills it waits behind those that
    /// had no turn.
    pub(super) fn resume(&mut self, index: usize) {
        self.answer_together();
        let registry = self.poll.registry();
        let waiting = self.ports.sharing(index).open(index, registry);
        for _ in 0..waiting {
            let Some(key) = self.ports.sharing(index).next(index) else {
                return;
            };
            self.run_queued(key);
        }
    }

    /// Lets a session work and does what its state asks for afterwards: another
    /// turn, its end, a new deadline. Stale keys are normal: events of a turn
    /// may name a session that ended earlier in it.
    pub(super) fn with_session(&mut self, key: SessionKey, work: Work<'_>) {
        self.take_turn(key, work);
        if self.lacks_descriptor(key) && self.make_room(clock::now(), Needed::Descriptor, None) {
            self.take_turn(key, &mut Session::transmit);
        }
        if mem::take(&mut self.resources.ingress.guessed) {
            self.end_session(key, Ending::Guessed);
        }
    }

    /// The session waits for a descriptor, and its peer has proved to be there.
    fn lacks_descriptor(&self, key: SessionKey) -> bool {
        let session = self.sessions.get(key);
        session.is_some_and(|it| it.lacks_descriptor() && it.unverified_since().is_none())
    }

    fn take_turn(&mut self, key: SessionKey, work: Work<'_>) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let now = clock::now();
        let paced = self.pacing.lend(key, session, now);
        let (registry, budget) = (self.poll.registry(), paced.unwrap_or(SEND_BUDGET));
        let mut context = lend(&mut self.resources, registry, key, now, budget);
        let before = self.reporter.measure(session);
        let random = || self.random.number();
        let done = self.shaper.turn(key, session, &mut context, random, work);
        if paced.is_some() {
            self.pacing.settle(key, session, &done);
        }
        self.reporter.moved(session, before);
        note_listed(session.peer().ip(), &self.listings, &mut self.listed);
        let was_unverified = done.was_unverified;
        if was_unverified
            && done.is_answered
            && let Some(port) = self.ports.port_of(session)
        {
            port.verified(clock::now(), session.started, session.peer().ip());
        }
        if let Some(outcome) = &done.outcome {
            let ending = Ending::Outcome(outcome);
            self.reporter
                .end(session, ending, clock::now(), &mut self.counters);
        }
        if (was_unverified || done.outcome.is_some()) && is_forgeable_upload(session) {
            let end = clock::now();
            let took = end.saturating_duration_since(now);
            self.ports.upload_time.spend(end, took);
        }
        if session.is_closed() {
            self.free(key);
            return;
        }
        if session.shares_its_port() {
            let registry = self.poll.registry();
            self.ports.wait_if_blocked(key, session, registry);
        }
        if done.is_unfinished && session.queue == Queue::None {
            session.queue = Queue::Turn;
            self.unfinished.push_back(key);
        }
        self.pacing.count(key, session);
        // A transfer that has ended has its whole file: at most its final ACK waits for
        // room.
        let is_newly_verified = was_unverified && !session.has_ended();
        self.make_way_after_turn(key, is_newly_verified);
    }

    /// Ends a session if there are too many, now that the peer of this one may have
    /// answered for the first time.
    fn make_way_after_turn(&mut self, key: SessionKey, is_newly_verified: bool) {
        let random = || self.random.number();
        let sessions = &mut self.sessions;
        sessions.set_open_files(self.files.count());
        match sessions.after_turn(key, is_newly_verified, clock::now, random) {
            AfterTurn::Stays => {}
            AfterTurn::Crowded => {
                self.turn_away(key);
                return;
            }
            AfterTurn::Concludes(sent) => {
                self.end_session(sent, LAST_ACK_MISSING);
                // There may still be too many of all clients.
                self.make_way_after_turn(key, is_newly_verified);
                return;
            }
            AfterTurn::Evicts(key) => self.end_session(key, Ending::Evicted),
        }
        if is_newly_verified && self.pacing.is_overfull(key) {
            self.make_way_in_section(key);
        }
    }

    /// The same where the session's section has too many.
    fn make_way_in_section(&mut self, key: SessionKey) {
        let client = self.sessions.endpoint(key).map(|it| it.peer.ip());
        let pacing = &self.pacing;
        let sent = client.and_then(|client| {
            let may_end = |sent| sent != key && pacing.are_alike(sent, key);
            let random = self.random.number();
            self.sessions.all_sent(Client::of(client), random, may_end)
        });
        match sent {
            Some(sent) => self.end_session(sent, LAST_ACK_MISSING),
            None => self.turn_away(key),
        }
    }

    /// Whether a client may have another session that keeps to `section`: there is room,
    /// or one of its own there `gives_way` to it, or lacks only its last ACK.
    pub(super) fn has_room_in(
        &mut self,
        section: &Section,
        client: IpAddr,
        gives_way: Option<SessionKey>,
    ) -> bool {
        let may_end = |key| self.pacing.counts_in(key, section);
        if !section.is_full() || gives_way.is_some_and(may_end) {
            return true;
        }
        let (client, random) = (Client::of(client), self.random.number());
        self.sessions.all_sent(client, random, may_end).is_some()
    }

    /// Ends a session whose client has proved to be there and has as many sessions as
    /// it may, and tells the client.
    fn turn_away(&mut self, key: SessionKey) {
        self.counters.crowded += 1;
        if let Some(session) = self.sessions.get_mut(key) {
            session.abort(CROWDED);
        }
        self.take_turn(key, &mut Session::transmit);
    }

    /// Ends a session. If its transfer hasn't ended, that is reported now, with
    /// `ending`: each transfer has one outcome, one line, one counter.
    pub(super) fn end_session(&mut self, key: SessionKey, ending: Ending<'_>) {
        if let Some(session) = self.sessions.get(key)
            && !session.has_ended()
        {
            self.reporter
                .end(session, ending, clock::now(), &mut self.counters);
        }
        self.free(key);
    }

    /// The only place where a session is removed. The end of its transfer has been
    /// reported, or it never began.
    fn free(&mut self, key: SessionKey) {
        let Some(&endpoint) = self.sessions.endpoint(key) else {
            return;
        };
        self.shaper.forget(key);
        self.pacing.end(key);
        // Closing a socket removes it from the poll.
        if let Some(mut session) = self.sessions.remove(key) {
            if let Some(block_size) = shared_upload(&session) {
                self.ports.shared.expect_no_more(block_size);
            }
            session.drop_prefetched(&mut self.resources.pool);
            if self.sessions.len() >= STORM {
                self.ports
                    .pool
                    .put(clock::now(), session.into_port(), endpoint);
            }
        }
    }

    /// A port or a descriptor is needed: closes the idle sockets of the pool, or else
    /// ends a session that has what is needed, `chosen` if it does; false if there is
    /// none.
    pub(super) fn make_room(
        &mut self,
        now: Instant,
        needed: Needed,
        chosen: Option<(SessionKey, Ending<'_>)>,
    ) -> bool {
        if self.ports.pool.poll_timeout().is_some() {
            self.ports.pool.clear();
            return true;
        }
        let has = |session: &Session| match needed {
            Needed::Port => !session.shares_its_port(),
            Needed::Descriptor => session.frees_descriptor(),
        };
        let chosen = chosen.filter(|&(key, _)| self.sessions.get(key).is_some_and(has));
        let any = || {
            let random = self.random.number();
            let key = self.sessions.gives_way_among(now, random, has)?;
            Some((key, Ending::Evicted))
        };
        let Some((key, ending)) = chosen.or_else(any) else {
            return false;
        };
        self.end_session(key, ending);
        self.ports.freed();
        true
    }

    /// Stores an admitted session that keeps to `section`, and sends its first answer.
    ///
    /// # Errors
    /// The poll can't watch any more sources. The session is removed then.
    pub(super) fn start_session(
        &mut self,
        endpoint: Endpoint,
        fingerprint: Fingerprint,
        session: Session,
        section: Option<Rc<Section>>,
    ) -> io::Result<()> {
        if let Some(block_size) = shared_upload(&session) {
            self.ports.shared.expect(block_size);
        }
        let now = session.started;
        let key = self.sessions.insert(endpoint, fingerprint, session);
        if let Some(section) = section {
            self.pacing.begin(key, section, now);
        }
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
        self.with_session(key, &mut Session::transmit);
        Ok(())
    }

    /// Whether the first answer may be sent, if it takes room in a send buffer that
    /// transfers share.
    pub(super) fn may_answer(&mut self, now: Instant, session: &Session) -> bool {
        let client = session.peer().ip();
        let port = self.ports.port_of(session);
        port.is_none_or(|port| port.may_answer(now, client))
    }

    /// The same for an ERROR without a transfer, from `socket`.
    pub(super) fn may_send_error(
        &mut self,
        now: Instant,
        socket: &ListenSocket,
        client: IpAddr,
    ) -> bool {
        let port = self.ports.with(socket);
        port.is_none_or(|port| port.may_send_error(now, client))
    }

    /// The same when the client of a session repeats its request; true if that brings
    /// no answer.
    pub(super) fn may_answer_again(&mut self, now: Instant, key: SessionKey) -> bool {
        let answered = self.sessions.get(key);
        let Some(session) = answered.filter(|it| it.answers_repeated_request(now)) else {
            return true;
        };
        let port = self.ports.port_of(session);
        port.is_none_or(|port| port.may_answer(now, session.peer().ip()))
    }

    /// Sends one datagram from a socket of its own, for when the listen socket's buffer
    /// is full of answers to addresses where nobody is: the kernel keeps those while it
    /// looks for the addresses.
    ///
    /// # Errors
    /// No socket can be had, or it can't send: no route, or a firewall.
    pub(super) fn answer_apart(
        &mut self,
        datagram: &[u8],
        endpoint: &Endpoint,
        via: Via<'_>,
    ) -> io::Result<()> {
        let socket = self.ports.bind(endpoint, via)?;
        socket.send_to(datagram, endpoint.peer)
    }

    /// Bytes of the longest datagram that means anything on a socket that several peers
    /// send to; `is_shared`: transfers send from it as well.
    pub(super) fn slot_len(&self, is_shared: bool) -> usize {
        if is_shared {
            self.ports.shared.slot_len()
        } else {
            REQUEST_LEN
        }
    }

    /// Ends every session, and tells its peer.
    pub(super) fn cut_off(&mut self) {
        let keys: Vec<_> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(session) = self.sessions.get_mut(key) {
                session.abort(Failure::new(
                    ErrorCode::NotDefined,
                    "Server is shutting down",
                ));
            }
            self.with_session(key, &mut Session::transmit);
            self.free(key);
        }
    }

    /// Logs what was held back, what is running, and the counters; `kernel_dropped` is how
    /// many datagrams the kernel had no room for, if it tells.
    pub(super) fn report(&mut self, kernel_dropped: Option<u64>) {
        self.reporter.flush(clock::now());
        report::running(self.sessions.iter().map(|(_, it)| it), clock::now());
        let mut counts = vec![
            ("sessions", self.sessions.len() as u64),
            ("timer_operations", self.sessions.wheel_ops()),
        ];
        let kernel_dropped = kernel_dropped.filter(|&it| it > 0);
        counts.extend(kernel_dropped.map(|it| ("kernel_dropped", it)));
        counts.extend(self.counted().happened());
        Event::Counters(&counts).write();
    }

    fn counted(&self) -> Counters {
        self.counters.with(self.resources.ingress.drops)
    }

    /// All counters by name.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.counted().all().collect()
    }

    /// Counts an error from the kernel on a listen socket.
    pub(super) fn count_socket_error(&mut self, verb: &str, at: SocketAddr, error: &io::Error) {
        self.counters.socket_errors += 1;
        debug!("{at}: cannot {verb}: {error}");
    }
}

/// What a session is lent for its turn.
fn lend<'a>(
    resources: &'a mut Resources,
    registry: &'a Registry,
    key: SessionKey,
    now: Instant,
    send_budget: usize,
) -> Context<'a> {
    Context {
        now,
        clock: &clock::now,
        resources,
        poll: Watch {
            registry,
            token: Token(key.to_token()),
        },
        send_budget,
    }
}

/// Whether a session may wait with its answer until others have taken in what has
/// arrived: only in lockstep, since windows take longer, and only if what it may send
/// doesn't depend on what has come.
fn may_wait(session: &Session) -> bool {
    let transfer = session.transfer();
    let is_lockstep = transfer.progress().window_size == 1;
    is_lockstep && session.unverified_since().is_none() && !transfer.may_be_forged()
}

/// Adds the directory entries read in this turn to what the client's network is
/// charged.
fn note_listed(client: IpAddr, listings: &[UploadListings], listed: &mut Vec<(IpAddr, u64)>) {
    let entries: u64 = listings.iter().map(UploadListings::take_entries).sum();
    if entries > 0 {
        let is_own = |it: &&mut (IpAddr, u64)| network(it.0) == network(client);
        match listed.iter_mut().find(is_own) {
            Some((_, all)) => *all += entries,
            None => listed.push((client, entries)),
        }
    }
}

/// Whether it is an upload that anybody could have forged.
fn is_forgeable_upload(session: &Session) -> bool {
    matches!(session.content(), Content::Sink(_)) && session.transfer().may_be_forged()
}

/// The block size that was agreed on for an upload over a shared port; `None` for
/// anything else.
fn shared_upload(session: &Session) -> Option<u16> {
    let is_one = session.shares_its_port() && matches!(session.content(), Content::Sink(_));
    is_one.then(|| session.transfer().negotiated().blksize)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::Binding;

    #[test]
    fn the_send_buffer_of_listeners_that_some_transfers_share_is_known_to_the_shaper() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = ListenSocket::bind(any, Binding::default()).unwrap();
        let now = clock::now();
        let (sessions, files) = (Sessions::new(8, now), Rc::default());
        let mut floor = Floor::new(sessions, files, None, None, None, now).unwrap();
        assert_eq!(floor.shaper.shared_buffer(), None);
        let buffer = listener.send_buffer();
        floor.share_listeners(&[listener], now);
        assert_eq!(floor.shaper.shared_buffer(), Some(buffer));
    }
}
