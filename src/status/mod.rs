//! The status port (`--status`): tells over HTTP what the server does, from the same loop.
//!
//! It has a poll of its own, which is one event source in the server's poll, so it costs
//! nothing while nobody asks. In a turn of the loop it runs after the transfers, and
//! writes 16 KiB at most. Read-only: no request changes anything. Must not: know a served
//! file, or keep anything for a client that has gone.

mod address;
pub mod command;
mod connection;
mod history;
mod json;
mod listener;
mod metrics;
mod page;
mod process;
mod rates;
mod table;
mod value;
mod view;

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::mem;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::{debug, info};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;

use self::address::Hosts;
pub use self::address::StatusAddress;
use self::connection::{Body, Connection, HttpRequest, Reply, Resource};
pub(crate) use self::history::History;
use self::json::Cursor;
pub(crate) use self::listener::Listener;
use self::listener::Stream;
#[cfg(test)]
pub(crate) use self::metrics::tells;
use self::process::ProcessFiles;
use self::rates::Rates;
pub(crate) use self::view::View;
use crate::host::{InheritedStream, clock};

/// The most connections at once. A new one takes the place of one that doesn't send its
/// request or doesn't read its answer; if there is none, the new one waits.
const MAX_CONNECTIONS: usize = 32;

/// The most connections accepted in a turn. Accepting and writing take some hundred
/// microseconds: that is how long a crowd may keep a transfer waiting.
const ACCEPTED: usize = 4;

/// Bytes written in a turn, to all connections together, and how many of these are kept
/// for new ones.
const TURN_BYTES: usize = 16 * 1024;
const NEW_BYTES: usize = TURN_BYTES / 4;

/// Reads from a connection in a turn.
const READS: usize = 2;

/// How often deadlines are checked, while there are connections.
const SWEEP: Duration = Duration::from_secs(1);

/// Readiness events taken at a time: all that there can be.
const EVENTS: usize = 64;

/// Tokens of listeners begin here, those of connections at 0.
const FIRST_LISTENER: usize = MAX_CONNECTIONS;

/// The most sockets that listen.
const MAX_STATUS_LISTENERS: usize = EVENTS - MAX_CONNECTIONS;

/// The status port.
#[derive(Debug)]
pub(crate) struct Status {
    poll: Poll,
    events: Events,
    listeners: Vec<Listener>,
    /// A listener may have more connections.
    accepting: bool,
    /// The listener that has its turn first.
    first_listener: usize,
    open: Slab<Open>,
    /// The place of the connection that has its turn first.
    first: usize,
    /// Some connection has more to do without a new event.
    has_work: bool,
    /// When deadlines are checked next.
    sweep_at: Option<Instant>,
    rates: Rates,
    started: Instant,
    /// The same in seconds since 1970.
    started_unix: f64,
    longest_turn: Duration,
    files: ProcessFiles,
}

#[derive(Debug)]
struct Open {
    stream: Stream,
    connection: Connection,
    /// The names of the listener that it came in on.
    hosts: Rc<Hosts>,
    /// Something may be read or written.
    ready: bool,
}

impl Status {
    /// Listens at `address`, and on the inherited `streams`. `None` if there is neither.
    /// If it `is_bound`, the socket for the address is among the streams.
    ///
    /// # Errors
    /// One line that says what is in the way, and the remedy.
    pub(crate) fn open(
        address: Option<&StatusAddress>,
        is_bound: bool,
        streams: Vec<InheritedStream>,
        now: Instant,
    ) -> Result<Option<Self>, String> {
        let mut listeners = Vec::new();
        let name = address.and_then(StatusAddress::host);
        for stream in streams.into_iter().take(MAX_STATUS_LISTENERS - 1) {
            let listener = Listener::inherit(stream, name);
            listeners.push(listener.map_err(|error| {
                let remedy = "use ListenStream=";
                cannot("take over an inherited socket", &error, remedy)
            })?);
        }
        if let Some(address) = address.filter(|_| !is_bound) {
            listeners.push(Listener::bind(address)?);
        }
        if listeners.is_empty() {
            return match address {
                Some(address) => Err(format!("the status port {address} is lost: restart tftpd")),
                None => Ok(None),
            };
        }
        let watched = Self::watch(listeners, now);
        watched
            .map(Some)
            .map_err(|error| cannot("watch its socket", &error, "leave out --status"))
    }

    fn watch(mut listeners: Vec<Listener>, started: Instant) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (index, listener) in listeners.iter_mut().enumerate() {
            listener.register(poll.registry(), Token(FIRST_LISTENER + index))?;
            info!("status on {}", listener.place());
        }
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            listeners,
            accepting: true,
            first_listener: 0,
            open: Slab::new(),
            first: 0,
            has_work: false,
            sweep_at: None,
            rates: Rates::default(),
            started,
            started_unix: clock::unix_seconds(),
            longest_turn: Duration::ZERO,
            files: ProcessFiles::open(),
        })
    }

    /// The most descriptors that it may hold.
    pub(crate) fn descriptors(&self) -> usize {
        // Three are its poll and the files about the process.
        self.listeners.len() + MAX_CONNECTIONS + 3
    }

    /// The file of its socket, which is removed at the end.
    pub(crate) fn socket_path(&self) -> Option<&Path> {
        self.listeners.iter().find_map(Listener::path)
    }

    /// Forgets that path, which leads elsewhere from now on.
    pub(crate) fn lose_path(&mut self) {
        self.listeners.iter_mut().for_each(Listener::lose_path);
    }

    /// Registers with the server's poll, for an event when there is something to do.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub(crate) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let descriptor = self.poll.as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)
    }

    /// Whether there is more to do without a new event.
    pub(crate) const fn has_work(&self) -> bool {
        self.has_work
    }

    /// When [`Status::run`] is to be called next, event or not.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.sweep_at, self.rates.poll_timeout()];
        deadlines.into_iter().flatten().min()
    }

    /// Whether [`Status::run`] has something to do at `now`; `event`: there was an event.
    pub(crate) fn is_due(&self, now: Instant, event: bool) -> bool {
        event || self.has_work || self.next_deadline().is_some_and(|at| at <= now)
    }

    /// Another process accepts from now on. What this one has accepted gets its answer.
    pub(crate) fn stop_accepting(&mut self) {
        for mut listener in self.listeners.drain(..) {
            if let Err(error) = listener.deregister(self.poll.registry()) {
                debug!("status: cannot stop watching: {error}");
            }
        }
    }

    /// Nobody waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes note of how long a turn of the loop took.
    pub(crate) fn turn_took(&mut self, time: Duration) {
        self.longest_turn = self.longest_turn.max(time);
    }

    /// When the server was started.
    pub(crate) const fn started(&self) -> Instant {
        self.started
    }

    /// Accepts, reads and answers, within the bounds of a turn.
    pub(crate) fn run(&mut self, view: &View<'_>) {
        self.take_events();
        self.has_work = false;
        let mut left = TURN_BYTES - NEW_BYTES;
        self.serve(view, &mut left);
        left += NEW_BYTES;
        self.accept(view, &mut left);
        self.sweep(view.now);
    }

    fn take_events(&mut self) {
        if let Err(error) = self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            debug!("status: cannot look for events: {error}");
            return;
        }
        for event in &self.events {
            match event.token().0 {
                place @ ..FIRST_LISTENER => {
                    if let Some(open) = self.open.get_mut(place) {
                        open.ready = true;
                    }
                }
                _ => self.accepting = true,
            }
        }
    }

    /// Lets each connection read and write; each turn begins one place further on.
    fn serve(&mut self, view: &View<'_>, left: &mut usize) {
        let places = self.open.capacity().max(1);
        for offset in 0..places {
            let place = (self.first + offset) % places;
            if self.open.get(place).is_some_and(|it| it.ready) {
                self.serve_one(place, view, left);
            }
        }
        self.first = (self.first + 1) % places;
    }

    fn serve_one(&mut self, place: usize, view: &View<'_>, left: &mut usize) {
        let Some(open) = self.open.get_mut(place) else {
            return;
        };
        if *left == 0 {
            // An answer that can't be sent yet isn't made yet, either.
            self.has_work = true;
            return;
        }
        open.ready = false;
        if let Some(asked) = open.read(view.now) {
            let own = || metrics::Own {
                started: self.started_unix,
                longest_turn: self.longest_turn.as_secs_f64(),
                open_descriptors: self.files.open_descriptors(),
                max_descriptors: process::max_descriptors(),
                cpu_seconds: process::cpu_seconds(),
                resident_bytes: self.files.resident_bytes(),
            };
            let reply = reply(asked, view, own);
            if asked.resource == Resource::Metrics && !asked.head {
                self.longest_turn = Duration::ZERO;
            }
            open.connection.answer(view.now, asked.head, reply);
        }
        open.write(view, &mut self.rates, left);
        self.has_work |= open.ready;
        if open.connection.is_closed() {
            self.open.remove(place);
        }
    }

    /// Accepts new connections and serves each at once, since most have sent their request
    /// by then. Each turn that has room begins with another listener, so that none keeps
    /// the others waiting.
    fn accept(&mut self, view: &View<'_>, left: &mut usize) {
        if !mem::take(&mut self.accepting) {
            return;
        }
        let listeners = self.listeners.len();
        let mut accepted = 0;
        'turn: for offset in 0..listeners {
            let listener = (self.first_listener + offset) % listeners;
            while accepted < ACCEPTED && *left > 0 {
                if !self.has_room(view.now) {
                    // New ones wait in the kernel; the sweep looks for a stuck reader.
                    self.accepting = true;
                    break 'turn;
                }
                accepted += 1;
                match self.listeners[listener].accept() {
                    Ok(stream) => {
                        let hosts = Rc::clone(&self.listeners[listener].hosts);
                        self.begin(stream, hosts, view, left);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // That client has gone again; the next may be there.
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        // No other event comes for it, so the sweep tries again. An error
                        // that stays must not keep the loop awake.
                        debug!("status: cannot accept: {error}");
                        self.accepting = true;
                        self.sweep_at.get_or_insert(view.now + SWEEP);
                        break;
                    }
                }
            }
        }
        if accepted > 0 {
            // Not in a turn without room: the same listener might get the next place, too.
            self.first_listener = (self.first_listener + 1) % listeners;
        }
        if accepted == ACCEPTED || *left == 0 {
            (self.accepting, self.has_work) = (true, true);
        }
    }

    /// Whether there is a free place, or a connection that gives way.
    fn has_room(&self, now: Instant) -> bool {
        self.open.len() < MAX_CONNECTIONS || self.in_the_way(now).is_some()
    }

    /// The place of the connection that gives way; of several, the one idle for longest.
    fn in_the_way(&self, now: Instant) -> Option<usize> {
        let since = |(place, open): (usize, &Open)| Some((open.connection.gives_way(now)?, place));
        let first = self.open.iter().filter_map(since).min();
        first.map(|(_, place)| place)
    }

    fn begin(&mut self, mut stream: Stream, hosts: Rc<Hosts>, view: &View<'_>, left: &mut usize) {
        let now = view.now;
        if self.open.len() == MAX_CONNECTIONS
            && let Some(place) = self.in_the_way(now)
        {
            self.open.remove(place);
        }
        let place = self.open.vacant_key();
        if let Err(error) = stream.register(self.poll.registry(), Token(place)) {
            debug!("status: cannot watch a connection: {error}");
            return;
        }
        let connection = Connection::new(now);
        self.open.insert(Open {
            stream,
            connection,
            hosts,
            ready: true,
        });
        self.sweep_at.get_or_insert(now + SWEEP);
        // Each has its own share, so a flood of connections keeps no request waiting.
        let piece = (TURN_BYTES / ACCEPTED).min(*left);
        let mut unspent = piece;
        self.serve_one(place, view, &mut unspent);
        *left -= piece - unspent;
    }

    fn sweep(&mut self, now: Instant) {
        self.rates.handle_timeout(now);
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.has_work |= self.accepting;
            self.open.retain(|_, open| {
                open.connection.handle_timeout(now);
                !open.connection.is_closed()
            });
            self.sweep_at = None;
        }
        if self.open.is_empty() {
            // Frees the memory: the next connection may not come for days.
            self.open = Slab::new();
        } else {
            self.sweep_at.get_or_insert(now + SWEEP);
        }
    }
}

impl Open {
    /// If something is expected, reads until there is a request or nothing more comes.
    fn read(&mut self, now: Instant) -> Option<HttpRequest> {
        let mut buffer = [0; connection::MAX_REQUEST];
        for _ in 0..READS {
            if !self.connection.reads() {
                return None;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.connection.handle_end();
                    return None;
                }
                Ok(bytes) => {
                    let asked = &buffer[..bytes];
                    let asked = self.connection.handle_input(now, asked, &self.hosts);
                    if asked.is_some() {
                        return asked;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != ErrorKind::WouldBlock {
                        self.connection.handle_error();
                    }
                    return None;
                }
            }
        }
        self.ready = true;
        None
    }

    /// Writes until the socket is full, all is sent, or `left` is spent. In that last case
    /// it stays ready.
    fn write(&mut self, view: &View<'_>, rates: &mut Rates, left: &mut usize) {
        loop {
            if *left == 0 {
                self.ready = true;
                return;
            }
            let make = |cursor: &mut Cursor, out: &mut String, bytes| {
                cursor.write(view.now, view, rates, out, bytes)
            };
            let next = self.connection.poll_transmit(make);
            if next.is_empty() {
                break;
            }
            let next = &next[..next.len().min(*left)];
            match self.stream.write(next) {
                Ok(0) => return self.connection.handle_error(),
                Ok(bytes) => {
                    self.connection.handle_sent(view.now, bytes);
                    *left -= bytes;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.connection.handle_error(),
            }
        }
        if self.connection.is_answering() {
            // All the places that were looked at were empty. That took as long as writing a
            // piece, and no event will bring the next turn.
            *left = left.saturating_sub(connection::PIECE);
            self.ready = true;
        }
        if self.connection.is_finishing() {
            if self.stream.finish().is_err() {
                return self.connection.handle_error();
            }
            self.connection.handle_finished(view.now);
            // No new event comes for what arrived with the request, or for its end.
            self.ready = true;
        }
    }
}

fn reply(asked: HttpRequest, view: &View<'_>, own: impl FnOnce() -> metrics::Own) -> Reply {
    let (content_type, body) = match asked.resource {
        Resource::Health if view.is_draining => {
            return Reply::plain("503 Service Unavailable", "draining\n");
        }
        Resource::Health => return Reply::plain("200 OK", "serving\n"),
        Resource::Page => ("text/html; charset=utf-8", Body::Static(page::HTML)),
        Resource::Metrics => (
            metrics::CONTENT_TYPE,
            Body::Text(metrics::text(view, &own())),
        ),
        Resource::Json => ("application/json", Body::Pieces(Box::default())),
    };
    Reply {
        status: "200 OK",
        content_type,
        body,
    }
}

fn cannot(what: &str, error: &io::Error, remedy: &str) -> String {
    let told = crate::file::with_remedy(error, remedy);
    format!("cannot {what} for the status port: {told}")
}

#[cfg(test)]
mod tests;
