//! The server's shell: one event loop that owns every socket, every session and
//! the clock.
//!
//! Each turn waits for readiness or the nearest deadline, reads the clock, and then
//! handles in this order: session sockets, signals, the supervisor's orders, sessions
//! with work left over, a few of the files that are being counted, datagrams relayed by
//! an older process, listen sockets and shared ports, deadlines, the helper, the
//! watchdog's sign, the status port. Sockets come before deadlines, since an ACK that is
//! already in the kernel beats its timeout. Without sessions the loop sleeps until a request or a signal comes, or until
//! something rare is due: closing sockets of the pool, writing log lines that were held
//! back, a sign for the watchdog, the idle exit.
//!
//! Two halves: `front` takes in what arrives on the listen sockets and has `requests`
//! turn requests into sessions; `floor` runs the sessions. `report` logs what becomes
//! of both. Must not (this file): know a packet or a served file.

pub mod address;
mod answers;
mod busy_poll;
mod channel;
pub mod cli;
mod counters;
mod drops;
mod ending;
mod exposure;
#[cfg_attr(not(feature = "familiar"), path = "no_familiar.rs")]
pub mod familiar;
mod floor;
mod front;
mod handover;
mod hints;
mod listen;
mod logging;
mod opened;
mod opening;
mod pacing;
mod ports;
mod relay;
mod report;
mod requests;
mod shared;
mod slot;
mod socket_set;
mod start;
mod supervisor;
mod terms;
mod unverified;
mod upgrade;
#[cfg_attr(not(feature = "uploads"), path = "no_upload_args.rs")]
mod upload_args;
mod upload_time;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use log::{error, info, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Token, event};

use self::busy_poll::BusyPoll;
use self::floor::Floor;
use self::front::Front;
use self::socket_set::SocketSet;
pub use self::start::{in_words, test_map, test_rules};
pub use self::supervisor::supervise;
pub use self::upgrade::try_out;
use self::worker::{Order, Worker};
use crate::host::clock;
use crate::host::{Command, Notifier, PidFile, Signals, WaitTimer};
use crate::log::LogFile;
use crate::log::event::Event;
use crate::net::MAX_DESCRIPTORS;
use crate::status::{Status, View};
use crate::table::{RESERVED, SessionKey};

/// Readiness events taken from the kernel at a time.
const EVENTS: usize = 256;

/// Bytes of the longest request we read; RFC 2347 allows 512.
const REQUEST_LEN: usize = 1024;

/// The signal descriptor's token; listen sockets, then shared ports, count down from
/// below it.
const SIGNALS: Token = Token(*RESERVED.end());

/// The status port's token.
const STATUS: Token = Token(*RESERVED.start());

/// The helper's token.
const HELPER: Token = Token(STATUS.0 + 1);

/// The token of the supervisor's orders, and of what other workers relay.
const WORKER: Token = Token(HELPER.0 + 1);

/// The token of the timer that ends a wait.
const TIMER: Token = Token(WORKER.0 + 1);

/// The most listen sockets there are tokens for.
pub const MAX_LISTENERS: usize = 15;

/// The most listen sockets and shared ports together.
const MAX_SOCKETS: usize = SIGNALS.0 - TIMER.0 - 1;

const _: () = assert!(MAX_LISTENERS < MAX_SOCKETS);
// A worker is sent all listen sockets and a status port at once.
const _: () = assert!(MAX_LISTENERS < MAX_DESCRIPTORS);

/// How long a replaced process may take to finish its transfers, unless `--grace` is
/// longer. That is long, since nobody waits for the process.
const LONGEST_DRAIN: Duration = Duration::from_secs(600);

/// The program's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The answer to SIGUSR2 where nothing can take over.
const NO_UPGRADE: &str = if cfg!(feature = "workers") {
    "SIGUSR2 upgrades only a server started with --workers (1 is enough); restart this one to run \
     another program"
} else {
    "SIGUSR2 upgrades only a server with --workers, which this build lacks; restart this one to \
     run another program"
};

/// When the server ends.
#[derive(Debug)]
struct Lifetime {
    /// How long running transfers may take to finish after the signal to stop.
    grace: Duration,
    /// How long to run without a session or a request; `None`: forever.
    idle_exit: Option<Duration>,
}

/// What is ready in a turn, beside sessions.
#[derive(Debug, Default)]
struct Ready {
    /// Listen sockets and shared ports.
    sockets: SocketSet,
    signals: bool,
    status: bool,
    helper: bool,
    worker: bool,
}

/// A TFTP server, bound and ready to run.
#[derive(Debug)]
pub struct Server {
    /// Where requests come in.
    front: Front,
    /// Where they are served.
    floor: Floor,
    busy_poll: BusyPoll,
    timer: WaitTimer,
    lifetime: Lifetime,
    signals: Signals,
    log_file: Option<LogFile>,
    /// When there was last something to do.
    last_busy: Instant,
    /// The service manager, if there is one.
    notifier: Option<Notifier>,
    /// The pid file, if there is one.
    pid_file: Option<PidFile>,
    /// The status port, if there is one.
    status: Option<Box<Status>>,
    /// Once told to stop: when the last transfers are cut off.
    stop_at: Option<Instant>,
    /// Once another process has taken over: when the last transfers are cut off.
    drained_at: Option<Instant>,
    /// The supervisor, if this process is one of several.
    worker: Option<Box<Worker>>,
}

impl Server {
    /// Puts the halves together and registers everything with the poll. `signals` must
    /// have been taken over before; there are at most [`MAX_LISTENERS`] listen sockets.
    ///
    /// # Errors
    /// No descriptor is left for the timer, or the poll can't watch any more sources.
    fn new(
        mut front: Front,
        mut floor: Floor,
        busy_poll: Duration,
        lifetime: Lifetime,
        signals: Signals,
        log_file: Option<LogFile>,
    ) -> io::Result<Self> {
        front.register(floor.registry())?;
        if let Some(helper) = &mut front.requests.helper {
            helper.register(floor.registry())?;
            floor.reporter.events = Some(helper.events());
        }
        let descriptor = signals.as_raw_fd();
        let source = &mut SourceFd(&descriptor);
        floor
            .registry()
            .register(source, SIGNALS, Interest::READABLE)?;
        let timer = WaitTimer::register(floor.registry(), TIMER)?;
        Ok(Self {
            front,
            floor,
            busy_poll: BusyPoll::new(busy_poll),
            timer,
            lifetime,
            signals,
            log_file,
            last_busy: clock::now(),
            notifier: None,
            pid_file: None,
            status: None,
            stop_at: None,
            drained_at: None,
            worker: None,
        })
    }

    /// Where the server listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.front.addresses().to_vec()
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When the kernel refuses to wait for events: nothing can be done then.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_done() {
            let now = clock::now();
            let deadline = if self.has_work() {
                Some(now)
            } else if !self.floor.sessions.is_empty() && self.busy_poll.stay_awake(now) {
                if self.look(now) {
                    continue;
                }
                Some(now)
            } else {
                self.next_deadline()
            };
            let poll = &mut self.floor.poll;
            match self.timer.wait(poll, &mut events, now, deadline) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.turn(&events);
            self.leave_if_idle();
        }
        self.floor.cut_off();
        self.front.requests.run_helper(false, &mut self.floor);
        info!("stopped");
        self.report();
        drop(self.pid_file);
        Ok(())
    }

    /// There is something to do without waiting for anything.
    fn has_work(&self) -> bool {
        self.floor.has_work()
            || self.front.has_work()
            || self.status.as_ref().is_some_and(|it| it.has_work())
    }

    /// Looks for the answer to the one session at work, without asking the poll; false
    /// if the poll is to be asked now.
    fn look(&mut self, now: Instant) -> bool {
        let Some(key) = self.busy_poll.next_look() else {
            return false;
        };
        if self.floor.look(key) {
            self.busy_poll.over(now);
        }
        // The session may have ended: the helper hears of that.
        self.front.requests.run_helper(false, &mut self.floor);
        true
    }

    /// The next time at which something is due.
    fn next_deadline(&self) -> Option<Instant> {
        let sign = self.notifier.as_ref().and_then(Notifier::next_sign);
        let status = self.status.as_ref().and_then(|it| it.next_deadline());
        let idle_end = self.idle_end().filter(|_| self.is_idle());
        clock::earliest([
            self.floor.next_deadline(),
            self.front.next_deadline(),
            self.stop_at,
            self.drained_at,
            sign,
            status,
            idle_end,
        ])
    }

    /// The session that the only event is for, if there is just one and it is for a
    /// session.
    fn only_session(&self, events: &Events) -> Option<SessionKey> {
        let token = only_event(events)?.token().0;
        let is_session = !RESERVED.contains(&token);
        is_session.then(|| self.floor.sessions.key_of_token(token))?
    }

    /// Handles what the poll reports, and what is due.
    fn turn(&mut self, events: &Events) {
        let now = clock::now();
        // A look at the status port doesn't keep an idle server running.
        let mut tokens = events.iter().map(event::Event::token);
        let is_served = tokens.any(|it| it != STATUS && it != TIMER);
        if is_served {
            self.busy_poll.over(now);
            self.busy_poll.came_for(self.only_session(events));
        }
        if is_served || !self.is_idle() {
            self.last_busy = now;
        }
        // What was left over comes after what is new: everyone gets a turn.
        let leftovers = self.floor.count_unfinished();
        let mut ready = Ready {
            sockets: self.front.take_unfinished(now),
            ..Ready::default()
        };
        self.run_sessions(events, &mut ready);
        if ready.signals {
            self.obey_signals();
        }
        if ready.worker {
            self.front.expect_relayed();
            self.obey_orders();
        }
        self.floor.run_unfinished(leftovers);
        self.floor.count_files();
        // Relayed datagrams are older than those in the listen sockets.
        self.front.run_relayed(&mut self.floor);
        for index in ready.sockets {
            self.front.run(index, &mut self.floor);
        }
        self.front.tell_drops(now, &self.floor);
        // `now` is from before the sockets were read: an ACK that has come since hasn't
        // missed its deadline.
        let front = &self.front;
        self.floor
            .run_deadlines(now, |session| front.may_hold_answer(session, now));
        self.front
            .requests
            .run_helper(ready.helper, &mut self.floor);
        if let Some(notifier) = &mut self.notifier {
            notifier.handle_timeout(now);
        }
        self.run_status(now, ready.status);
    }

    /// Gives the sessions that events are for their turn, and notes what else is
    /// `ready`.
    fn run_sessions(&mut self, events: &Events, ready: &mut Ready) {
        let is_alone = only_event(events).is_some();
        for event in events {
            match event.token() {
                SIGNALS => ready.signals = true,
                TIMER => {}
                STATUS => ready.status = true,
                HELPER => ready.helper = true,
                WORKER => ready.worker = true,
                token if socket_index(token) < MAX_SOCKETS => {
                    ready.sockets.insert(socket_index(token));
                    if event.is_writable() {
                        self.floor.resume(socket_index(token));
                    }
                }
                token => {
                    if let Some(key) = self.floor.sessions.key_of_token(token.0) {
                        if is_alone {
                            self.floor.run_session(key);
                        } else {
                            self.floor.run_together(key);
                        }
                    }
                }
            }
        }
        self.floor.answer_together();
    }

    /// Answers requests to the status port.
    fn run_status(&mut self, began: Instant, asked: bool) {
        let Some(status) = &mut self.status else {
            return;
        };
        if status.is_due(began, asked)
            && let Some(history) = &self.floor.reporter.history
        {
            status.run(&View {
                now: clock::now(),
                unix_seconds: clock::unix_seconds(),
                started: status.started(),
                addresses: self.front.addresses(),
                sessions: &self.floor.sessions,
                history,
                counters: &self.floor.counts(),
                is_draining: self.stop_at.is_some(),
                receive_drops: self.front.receive_drops(&self.floor),
            });
        }
        status.turn_took(clock::now().saturating_duration_since(began));
    }

    fn obey_signals(&mut self) {
        while let Some(command) = self.signals.next_command() {
            match command {
                Command::Report => self.report(),
                // A signal to the process group reaches the supervisor too; its order
                // decides.
                Command::Stop if self.worker.is_some() && self.stop_at.is_some() => {}
                Command::Stop => self.stop(clock::now()),
                Command::Reopen => {
                    self.reopen_log();
                    self.front.requests.reload();
                }
                // It is for the supervisor, and may reach the workers as well.
                Command::Upgrade if self.worker.is_some() => {}
                Command::Upgrade => warn!("{NO_UPGRADE}"),
            }
        }
    }

    /// Logs what is running, and the counters.
    fn report(&mut self) {
        let dropped = self.front.receive_drops(&self.floor);
        self.floor.report(dropped);
    }

    fn obey_orders(&mut self) {
        while let Some(order) = self.worker.as_mut().and_then(|it| it.next_order()) {
            match order {
                Order::Listen => self.front.listen(),
                Order::Hear(socket) => {
                    if let Err(error) = self.front.hear(socket, self.floor.registry()) {
                        error!(
                            "cannot receive from the older process: {error}; it serves its \
                             requests itself"
                        );
                    }
                }
                Order::Replaced(socket) => self.drain(socket),
                Order::Stop if self.stop_at.is_some() => {}
                Order::Stop => self.stop(clock::now()),
                Order::End => self.stop_at = Some(clock::now()),
            }
        }
    }

    /// Another process takes over: this one finishes its transfers and relays the rest.
    fn drain(&mut self, successor: OwnedFd) {
        self.front.pass_on_to(successor);
        if let Some(status) = &mut self.status {
            status.stop_accepting();
        }
        if self.drained_at.is_none() {
            let longest = self.lifetime.grace.max(LONGEST_DRAIN);
            self.drained_at = Some(clock::now() + longest);
            let running = self.floor.running();
            info!("another process takes over; transfers to finish: {running}");
        }
    }

    fn reopen_log(&self) {
        if let Some(log_file) = &self.log_file {
            match log_file.reopen() {
                Ok(()) => info!("opened the log file again"),
                Err(error) => error!(
                    "cannot open the log file again, going on with the old one: {}; let what \
                     moves it create the new one for this user (logrotate: create)",
                    crate::file::reason(&error)
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
        let grace = self.lifetime.grace;
        self.stop_at = Some(now + grace);
        self.front.close(self.floor.listeners_carry_transfers());
        if let Some(helper) = &mut self.front.requests.helper {
            helper.stop();
        }
        let running = self.floor.running() as u64;
        let stopping = Event::Stopping { running, grace };
        stopping.write();
        let status = stopping.to_string();
        if let Some(notifier) = &self.notifier {
            notifier.stopping(&status);
        }
    }

    /// There is no session, and no request waits for the helper.
    fn is_idle(&self) -> bool {
        self.floor.sessions.is_empty() && !self.front.requests.has_questions()
    }

    /// When the server has been idle for too long, if nothing comes before.
    fn idle_end(&self) -> Option<Instant> {
        Some(self.last_busy + self.lifetime.idle_exit?)
    }

    /// A service manager that bound the socket for us keeps it: a request that comes
    /// now is for the next server.
    fn leave_if_idle(&mut self) {
        let is_over = self.idle_end().is_some_and(|end| clock::now() >= end);
        if is_over && self.is_idle() && self.stop_at.is_none() {
            let idle = self.lifetime.idle_exit.unwrap_or_default();
            info!("nothing to do for {idle:?}");
            self.stop(clock::now());
        }
    }

    fn is_done(&self) -> bool {
        let has_stopped = self
            .stop_at
            .is_some_and(|deadline| clock::now() >= deadline || self.floor.running() == 0);
        has_stopped || self.drained_at.is_some_and(|it| self.is_drained(it))
    }

    /// Whether this process has nothing left to do, neither for its clients nor for those
    /// who ask about it, or its time is up. A process that an older one still relays to stays.
    fn is_drained(&self, deadline: Instant) -> bool {
        let has_all = self.front.listens() && !self.front.has_relayed();
        let is_told = self.status.as_ref().is_none_or(|it| it.is_idle());
        (self.is_idle() && has_all && is_told) || clock::now() >= deadline
    }
}

/// The only event apart from the timer's; `None` if there are several or none.
fn only_event(events: &Events) -> Option<&event::Event> {
    let mut events = events.iter().filter(|it| it.token() != TIMER);
    events.next().filter(|_| events.next().is_none())
}

/// The token of a listen socket, or from [`MAX_LISTENERS`] on of a shared port.
const fn socket_token(index: usize) -> Token {
    Token(SIGNALS.0 - 1 - index)
}

/// The index that such a token stands for; [`MAX_SOCKETS`] or more for others.
const fn socket_index(token: Token) -> usize {
    (SIGNALS.0 - 1).wrapping_sub(token.0)
}
