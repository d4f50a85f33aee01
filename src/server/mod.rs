//! The server's shell: one event loop that owns every socket, every session and
//! the clock.
//!
//! Each turn: wait for readiness or the nearest deadline, read the clock,
//! signals, session sockets, listen sockets, deadlines. Sockets come before
//! deadlines, since an ACK that is already in the kernel beats its timeout.
//! Without sessions nothing wakes the loop but a request or a signal.
//!
//! `admission` turns a request into a session, `session` runs it, `report`
//! says in the log how it ended. Must not: know what is in a packet beyond its
//! kind, or how a file is stored.

mod admission;
pub mod cli;
mod counters;
mod logging;
pub mod mapping;
mod report;

mod busy_poll;
mod shared;
mod start;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use log::{Level, error, info, log_enabled};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use self::busy_poll::BusyPoll;
use self::counters::Counters;
use self::mapping::MapFile;
use self::report::{Ending, Reporter};
use self::shared::Sharing;
use crate::file::Root;
use crate::host::clock;
use crate::host::{Command, Notifier, PidFile, Signals};
use crate::log::LogFile;
use crate::log::event::Event;
use crate::net::ListenSocket;
use crate::net::pool::{STORM, SocketPool};
use crate::policy::access::Access;
use crate::policy::client_root::ClientRoots;
use crate::protocol::transfer::{Config, Failure, MAX_DATAGRAM};
use crate::session::{Context, Resources, SEND_BUDGET, Session, Turn};
use crate::table::rate::RateLimit;
use crate::table::{RESERVED, SessionKey, Sessions};
use crate::wire::options::Limits;
use crate::wire::packet::{ErrorCode, MAX_ERROR_LEN};

/// Readiness events taken from the kernel at a time.
const EVENTS: usize = 256;

/// ERRORs a second in answer to requests that are refused: above what a room of
/// machines that look for their configuration asks, below what makes us worth
/// forging requests for.
const REFUSALS: u32 = 10_000;

/// The signal descriptor's token; listen sockets count down from below it.
const SIGNALS: Token = Token(*RESERVED.end());

/// The most listen sockets there are tokens for.
pub const MAX_LISTENERS: usize = *RESERVED.end() - *RESERVED.start();

// An answer without a session fits where an OACK does.
const _: () = assert!(MAX_DATAGRAM >= MAX_ERROR_LEN);

/// What the server is to do, once the command line has been understood.
#[derive(Debug)]
pub struct Settings {
    /// How transfers behave.
    pub config: Config,
    /// What options are granted.
    pub limits: Limits,
    /// Transfers at once.
    pub max_sessions: usize,
    /// Transfers at once with one client; `usize::MAX` for no limit.
    pub max_sessions_per_client: usize,
    /// Who is served.
    pub access: Access,
    /// Transfers share the listen sockets.
    pub single_port: bool,
    /// Ports for transfer sockets; `None` leaves the choice to the kernel.
    pub ports: Option<RangeInclusive<u16>>,
    /// What running transfers get to finish after the signal to stop.
    pub grace: Duration,
    /// How long to stay without a session or a request; `None` for ever.
    pub idle_exit: Option<Duration>,
    /// The longest wait that is spent awake; zero: none.
    pub busy_poll: Duration,
}

/// A TFTP server, bound and ready to run.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    root: Root,
    map_file: Option<MapFile>,
    client_roots: Option<ClientRoots>,
    poll: Poll,
    signals: Signals,
    log_file: Option<LogFile>,
    listeners: Vec<ListenSocket>,
    sessions: Sessions<Session>,
    /// Sessions and listeners that have more to do without waiting.
    unfinished: VecDeque<Token>,
    /// What sharing the listen sockets takes; `None` where nobody does.
    sharing: Option<Sharing>,
    resources: Resources,
    socket_pool: SocketPool,
    busy_poll: BusyPoll,
    counters: Counters,
    /// How many requests may still be refused with an ERROR this second.
    refusals: RateLimit,
    /// At most one line a second about dropped requests.
    drop_lines: RateLimit,
    reporter: Reporter,
    /// Where in the port range the next transfer looks first.
    next_port: u16,
    /// When something was done last, or asked for.
    last_busy: Instant,
    /// The service manager, if one wants to know.
    notifier: Option<Notifier>,
    /// What says which process we are.
    pid_file: Option<PidFile>,
    /// Once told to stop: when the last transfers are cut off.
    stop_at: Option<Instant>,
}

impl Server {
    /// Registers everything with a new poll. `signals` must have been taken
    /// over before, `listeners` be at most [`MAX_LISTENERS`].
    ///
    /// # Errors
    /// Whatever the kernel says to being asked for an epoll instance.
    fn new(
        settings: Settings,
        root: Root,
        map_file: Option<MapFile>,
        client_roots: Option<ClientRoots>,
        listeners: Vec<ListenSocket>,
        signals: Signals,
        log_file: Option<LogFile>,
    ) -> io::Result<Self> {
        let now = clock::now();
        let poll = Poll::new()?;
        for (index, listener) in listeners.iter().enumerate() {
            listener.register(poll.registry(), listener_token(index), Interest::READABLE)?;
        }
        let sharing = settings.single_port.then(|| Sharing::among(&listeners));
        let descriptor = signals.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&descriptor), SIGNALS, Interest::READABLE)?;
        Ok(Self {
            sessions: Sessions::new(settings.max_sessions, now)
                .with_client_limit(settings.max_sessions_per_client),
            socket_pool: match settings.ports {
                // The ports of a range are few.
                Some(_) => SocketPool::beside(0),
                None => SocketPool::beside(settings.max_sessions),
            },
            busy_poll: BusyPoll::new(settings.busy_poll),
            settings,
            root,
            map_file,
            client_roots,
            poll,
            signals,
            log_file,
            listeners,
            unfinished: VecDeque::new(),
            sharing,
            resources: Resources::new(now, log_enabled!(Level::Trace).then_some(report::packet)),
            counters: Counters::default(),
            refusals: RateLimit::new(REFUSALS, now),
            drop_lines: RateLimit::new(1, now),
            reporter: Reporter::new(now),
            next_port: std::process::id() as u16,
            last_busy: now,
            notifier: None,
            pid_file: None,
            stop_at: None,
        })
    }

    /// Where the server listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(ListenSocket::address).collect()
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When the kernel refuses to wait for events: nothing can be done then.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_done() {
            let timeout = self.wait(clock::now());
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.turn(&events);
            self.leave_if_idle();
        }
        self.cut_off();
        info!("stopped");
        self.report();
        drop(self.pid_file);
        Ok(())
    }

    /// How long nothing can happen by itself.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let has_work = !self.unfinished.is_empty();
        if has_work || (!self.sessions.is_empty() && self.busy_poll.stay_awake(now)) {
            return Some(Duration::ZERO);
        }
        let sign = self.notifier.as_ref().and_then(Notifier::next_sign);
        let idle = self.idle_end().filter(|_| self.sessions.is_empty());
        let nearest = [
            self.sessions.next_deadline(),
            self.socket_pool.poll_timeout(),
            self.stop_at,
            sign,
            idle,
        ]
        .into_iter()
        .flatten()
        .min()?;
        Some(nearest.saturating_duration_since(now))
    }

    fn turn(&mut self, events: &Events) {
        let now = clock::now();
        if !events.is_empty() {
            self.busy_poll.over(now);
        }
        if !events.is_empty() || !self.sessions.is_empty() {
            self.last_busy = now;
        }
        // What was left over comes behind what is new: everyone gets a turn.
        let mut leftovers = std::mem::take(&mut self.unfinished);
        let mut listen_ready = [false; MAX_LISTENERS];
        let mut signalled = false;
        for event in events {
            match event.token() {
                SIGNALS => signalled = true,
                token if listener_index(token) < MAX_LISTENERS => {
                    listen_ready[listener_index(token)] = true;
                    if event.is_writable() {
                        self.resume(listener_index(token));
                    }
                }
                token => self.run_session(SessionKey::from_token(token.0)),
            }
        }
        if signalled {
            self.obey_signals();
        }
        for token in leftovers.drain(..) {
            match listener_index(token) {
                index if index < MAX_LISTENERS => listen_ready[index] = true,
                _ => {
                    let key = SessionKey::from_token(token.0);
                    if let Some(session) = self.sessions.get_mut(key) {
                        session.queued = false;
                    }
                    self.run_session(key);
                }
            }
        }
        for index in (0..self.listeners.len()).filter(|&index| listen_ready[index]) {
            if self.settings.single_port {
                self.take_anything(index);
            } else {
                self.take_requests(index);
            }
        }
        // What time it was when the sockets were looked at: an ACK that came
        // since hasn't missed its deadline.
        self.run_deadlines(now);
        self.socket_pool.handle_timeout(now);
        if let Some(notifier) = &mut self.notifier {
            notifier.handle_timeout(now);
        }
    }

    fn obey_signals(&mut self) {
        while let Some(command) = self.signals.next_command() {
            match command {
                Command::Report => self.report(),
                Command::Stop => self.stop(clock::now()),
                Command::Reopen => {
                    self.reopen_log();
                    if let Some(map_file) = &mut self.map_file {
                        map_file.reload();
                    }
                }
            }
        }
    }

    fn report(&self) {
        let mut counts = vec![
            ("sessions", self.sessions.len() as u64),
            ("timer_operations", self.sessions.wheel_ops()),
        ];
        counts.extend(self.counters.with(self.resources.ingress.drops).happened());
        Event::Counters(&counts).write();
        report::running(self.sessions.iter().map(|(_, it)| it), clock::now());
    }

    fn reopen_log(&self) {
        if let Some(log_file) = &self.log_file {
            match log_file.reopen() {
                Ok(()) => info!("opened the log file again"),
                Err(error) => error!(
                    "cannot open the log file again, going on with the old one: {}; let what \
                     moves it create the new one for this user (logrotate: create)",
                    start::reason(&error)
                ),
            }
        }
    }

    /// The first call stops admitting, the second ends everything.
    fn stop(&mut self, now: Instant) {
        if self.stop_at.is_some() {
            self.stop_at = Some(now);
            return;
        }
        self.stop_at = Some(now + self.settings.grace);
        if !self.settings.single_port {
            // Closed, they leave the poll. Shared ones turn requests away.
            self.listeners.clear();
        }
        let running = self
            .sessions
            .iter()
            .filter(|(_, session)| !session.has_ended())
            .count();
        let stopping = Event::Stopping {
            running: running as u64,
            grace: self.settings.grace,
        };
        stopping.write();
        let status = stopping.to_string();
        if let Some(notifier) = &self.notifier {
            notifier.stopping(&status);
        }
    }

    /// When there has been nothing to do for too long, if it stays so.
    fn idle_end(&self) -> Option<Instant> {
        Some(self.last_busy + self.settings.idle_exit?)
    }

    /// Whoever bound the socket for us keeps it: a request that comes now is for
    /// the next server.
    fn leave_if_idle(&mut self) {
        let is_over = self.idle_end().is_some_and(|end| clock::now() >= end);
        if is_over && self.sessions.is_empty() && self.stop_at.is_none() {
            let idle = self.settings.idle_exit.unwrap_or_default();
            info!("nothing to do for {idle:?}");
            self.stop(clock::now());
        }
    }

    fn is_done(&self) -> bool {
        self.stop_at.is_some_and(|deadline| {
            clock::now() >= deadline || self.sessions.iter().all(|(_, session)| session.has_ended())
        })
    }

    /// Tells every peer that is still here that it's over.
    fn cut_off(&mut self) {
        let keys: Vec<_> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(session) = self.sessions.get_mut(key) {
                session.abort(Failure::new(
                    ErrorCode::NotDefined,
                    "Server is shutting down",
                ));
            }
            self.with_session(key, Session::transmit);
            self.end_session(key, Ending::Replaced);
        }
    }

    /// A session's socket is ready, or it has work left.
    fn run_session(&mut self, key: SessionKey) {
        self.with_session(key, Session::run);
    }

    fn run_deadlines(&mut self, now: Instant) {
        while let Some(key) = self.sessions.pop_due(now) {
            self.with_session(key, Session::run_deadline);
        }
    }

    /// Lets a session work and does what its state asks for afterwards: another
    /// turn, its end, a new deadline. Stale keys are normal: events of a turn
    /// may name a session that ended earlier in it.
    fn with_session(
        &mut self,
        key: SessionKey,
        work: impl FnOnce(&mut Session, &mut Context<'_>) -> Turn,
    ) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let mut context = Context {
            now: clock::now(),
            resources: &mut self.resources,
            registry: self.poll.registry(),
            token: Token(key.to_token()),
            send_budget: SEND_BUDGET,
        };
        let turn = work(session, &mut context);
        if let Some(outcome) = session.poll_outcome() {
            let ending = Ending::Outcome(&outcome);
            self.reporter
                .end(session, ending, clock::now(), &mut self.counters);
        }
        if session.is_closed() {
            self.end_session(key, Ending::Replaced);
            return;
        }
        if let Some(sharing) = &mut self.sharing {
            sharing.wait_if_blocked(key, session, &self.listeners, self.poll.registry());
        }
        if turn == Turn::Unfinished && !session.queued {
            session.queued = true;
            self.unfinished.push_back(Token(key.to_token()));
        }
        self.sessions.rearm(key);
    }

    /// The one place where a slot is freed. Its transfer was reported when it
    /// ended, or is now, with the `ending` that a new request means for it: one
    /// outcome, one line, one counter.
    fn end_session(&mut self, key: SessionKey, ending: Ending<'_>) {
        let Some(&endpoint) = self.sessions.endpoint(key) else {
            return;
        };
        // A socket leaves the poll by being closed.
        let now = clock::now();
        if let Some(mut session) = self.sessions.remove(key) {
            session.drop_prefetched(&mut self.resources.pool);
            if !session.has_ended() {
                self.reporter.end(&session, ending, now, &mut self.counters);
            }
            if self.sessions.len() >= STORM {
                self.socket_pool.put(now, session.into_socket(), endpoint);
            }
        }
    }
}

const fn listener_token(index: usize) -> Token {
    Token(SIGNALS.0 - 1 - index)
}

/// The index behind a listener's token; [`MAX_LISTENERS`] or more for others.
const fn listener_index(token: Token) -> usize {
    (SIGNALS.0 - 1).wrapping_sub(token.0)
}
