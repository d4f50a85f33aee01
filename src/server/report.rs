//! What the log says about requests (refused, or led to another name) and transfers
//! (started, running, ended).
//!
//! One line each, `key=value`, everything from the network escaped; the lines that a
//! stranger can cause are bounded. Must not: change anything but the counters.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use log::{Level, log_enabled, trace};

use super::counters::Counters;
use super::ending::{self, Ending};
use crate::helper::Events;
use crate::host::clock;
use crate::log::bounds::{Bounds, Kind};
use crate::log::event::{Event, Figures};
use crate::log::repeats::{RefusedRequest, Repeats};
use crate::log::searches::{Search, Searches};
use crate::log::short::Short;
use crate::log::shown::{Cut, Name};
use crate::policy::map::Lines;
use crate::policy::{Granted, Origin};
use crate::protocol::timer::Timer;
use crate::protocol::transfer::Outcome;
use crate::session::{Content, Heading, Session};
use crate::status::History;
use crate::table::Tracked as _;
use crate::wire::packet::{Direction, ErrorCode, Packet, Request};

/// A packet of a transfer.
pub(super) fn packet(peer: SocketAddr, heading: Heading, datagram: &[u8]) {
    if let Ok(packet) = Packet::parse(datagram) {
        trace!("{peer} {heading} {packet}");
    }
}

/// Traces what a session whose deadline may have come is waiting for.
pub(super) fn woken(session: &Session) {
    let waits_for = match session.transfer().timer() {
        Timer::Idle => "nothing",
        Timer::Answer { .. } => "an answer",
        Timer::Burst { .. } => "the next burst of a window",
        Timer::Dally { .. } => "a repeat of the last block",
    };
    trace!("{} deadline: waits for {waits_for}", session.peer());
}

/// The most transfers that are listed on a signal: their lines fit into a pipe.
const MAX_LISTED: usize = 200;

/// Writes the lines, as long as there aren't too many.
#[derive(Debug)]
pub(super) struct Reporter {
    bounds: Bounds,
    repeats: Repeats,
    searches: Searches,
    /// What the status port shows, if there is one.
    pub(super) history: Option<Box<History>>,
    /// The helper that is told of events, if there is one, even of those the log leaves
    /// out.
    pub(super) events: Option<Events>,
}

impl Reporter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bounds: Bounds::new(now),
            repeats: Repeats::default(),
            searches: Searches::default(),
            history: None,
            events: None,
        }
    }

    /// When [`Reporter::handle_timeout`] has something to log.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        clock::earliest([
            self.bounds.poll_timeout(),
            self.repeats.poll_timeout(),
            self.searches.poll_timeout(),
        ])
    }

    /// Logs what was held back and is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            self.tell(now, false);
        }
    }

    /// Logs all that was held back.
    pub(super) fn flush(&mut self, now: Instant) {
        self.tell(now, true);
    }

    fn tell(&mut self, now: Instant, hurry: bool) {
        let Self {
            bounds,
            repeats,
            searches,
            history,
            ..
        } = self;
        searches.tell(now, hurry, |search| {
            let refusal = RefusedRequest {
                peer: search.peer,
                op: Direction::Read.name(),
                file: search.directory,
                code: ErrorCode::FileNotFound,
                reason: Short::of(b"no configuration found in it"),
            };
            if repeats.count(now, refusal).is_some() {
                let missed = Err(Name(search.missed.bytes()));
                searched(bounds, history, now, search, missed);
            }
        });
        repeats.tell(now, hurry, |refusal, times| {
            if bounds.admit(now, Kind::Refused, refusal.peer.ip()) {
                let event = Event::Refused {
                    peer: refusal.peer,
                    op: refusal.op,
                    file: Name(refusal.file.bytes()),
                    code: refusal.code,
                    reason: Cut(&refusal.reason),
                    times: Some(times),
                    hint: None,
                };
                tell(history, &event);
            }
        });
        bounds.tell(now, hurry, |kind, lines| {
            let of = kind.name();
            Event::LeftOut { of, lines }.write();
        });
    }

    /// A request that was answered with an ERROR. `hint` says what can be
    /// done about it.
    pub(super) fn refusal(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        peer: SocketAddr,
        code: ErrorCode,
        reason: &impl fmt::Display,
        hint: impl Fn() -> Option<String>,
    ) {
        if let Some(history) = &mut self.history {
            history.refuse(code);
        }
        if let Some(events) = &self.events {
            events.borrow_mut().tell(&Event::Refused {
                peer,
                op: request.direction.name(),
                file: Name(request.filename),
                code,
                reason: Cut(reason),
                times: None,
                hint: None,
            });
        }
        let is_miss = request.direction == Direction::Read && code == ErrorCode::FileNotFound;
        if is_miss && self.searches.miss(now, peer, request.filename, &hint) {
            return;
        }
        let op = request.direction.name();
        let refusal = RefusedRequest {
            peer,
            op,
            file: Short::of(request.filename),
            code,
            reason: Short::shown(reason),
        };
        let Some(times) = self.repeats.count(now, refusal) else {
            return;
        };
        if !self.bounds.admit(now, Kind::Refused, peer.ip()) {
            return;
        }
        let hint = hint();
        let event = Event::Refused {
            peer,
            op,
            file: Name(request.filename),
            code,
            reason: Cut(reason),
            times: (times > 1).then_some(times),
            hint: hint.as_ref().map(|hint| Cut(hint)),
        };
        tell(&mut self.history, &event);
    }

    /// A request that leads to another name than it asks for.
    pub(super) fn granted(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        peer: SocketAddr,
        granted: &Granted<'_>,
    ) {
        if granted.origin == Origin::Asked || !self.bounds.admit(now, Kind::Mapped, peer.ip()) {
            return;
        }
        let (file, to) = (Name(request.filename), Name(&granted.name));
        let op = request.direction.name();
        match granted.origin {
            Origin::Asked => {}
            Origin::Found => Event::OtherName { peer, file, to }.write(),
            Origin::Rules => Event::Mapped {
                peer,
                op,
                file,
                to,
                lines: Cut(&Lines(&granted.lines)),
            }
            .write(),
        }
    }

    /// A session that has begun.
    pub(super) fn begin(&mut self, session: &Session, now: Instant) {
        let (peer, name) = (session.peer(), session.name());
        if session.direction() == Direction::Read
            && let Some((search, found)) = self.searches.found(peer, name)
        {
            searched(
                &mut self.bounds,
                &mut self.history,
                now,
                &search,
                Ok(Name(found)),
            );
        }
        let is_logged =
            log_enabled!(Level::Debug) && self.bounds.admit(now, Kind::Started, peer.ip());
        if !is_logged && self.events.is_none() {
            return;
        }
        let progress = session.transfer().progress();
        let event = Event::Started {
            peer,
            op: session.direction().name(),
            file: Name(name),
            blksize: progress.block_size,
            windowsize: progress.window_size,
            size: session.size(),
        };
        if let Some(events) = &self.events {
            events.borrow_mut().tell(&event);
        }
        if is_logged {
            event.write();
        }
    }

    /// Where a session stands before its turn, if there is a status port.
    pub(super) fn measure(&self, session: &Session) -> Option<Measured> {
        self.history.is_some().then(|| Measured::of(session))
    }

    /// The turn of a session is over.
    pub(super) fn moved(&mut self, session: &Session, before: Option<Measured>) {
        if let (Some(history), Some(before)) = (&mut self.history, before) {
            let after = Measured::of(session);
            let bytes = after.bytes.saturating_sub(before.bytes);
            let again = after.retransmits.saturating_sub(before.retransmits);
            history.moved(session.direction(), bytes, again);
            // If it waits for nothing, no answer was sent: the peer answered too early,
            // or has gone.
            let is_answered = session.transfer().waiting_since().is_some();
            if before.owes_answer && is_answered {
                history.answer(clock::now().saturating_duration_since(session.started));
            }
        }
    }

    /// A session that has ended.
    pub(super) fn end(
        &mut self,
        session: &Session,
        ending: Ending<'_>,
        now: Instant,
        counters: &mut Counters,
    ) {
        count(ending, counters);
        let has_changed = has_changed(session, ending);
        let (outcome, error) = match outcome(ending) {
            (_, error) if has_changed => ("changed", error),
            as_it_is => as_it_is,
        };
        if let Some(history) = &mut self.history {
            let took = now.saturating_duration_since(session.started);
            history.end(session.direction(), outcome, took);
        }
        let progress = session.transfer().progress();
        // With a port of its own, a peer that answered is real, and each of its
        // transfers has its line.
        let kind = match (progress.verified, session.shares_its_port()) {
            (false, _) => Some(Kind::Unanswered),
            (true, true) => Some(Kind::Ended),
            (true, false) => None,
        };
        let client = session.peer().ip();
        let is_logged = kind.is_none_or(|kind| self.bounds.admit(now, kind, client));
        if !is_logged && self.events.is_none() {
            return;
        }
        let level = match ending {
            _ if has_changed => Level::Warn,
            Ending::Outcome(outcome) if outcome.is_success() => Level::Info,
            Ending::Replaced => Level::Info,
            Ending::Outcome(_) | Ending::Evicted | Ending::Guessed => Level::Warn,
        };
        let hint = ending::hint(session, ending, has_changed, now);
        let event = Event::Ended {
            level,
            figures: figures(session, now),
            outcome,
            lacks_last_ack: matches!(ending, Ending::Outcome(Outcome::LastAckMissing)),
            error,
            hint: hint.as_ref().map(|hint| Cut(hint)),
        };
        if let Some(events) = &self.events {
            events.borrow_mut().tell(&event);
        }
        if is_logged {
            tell(&mut self.history, &event);
        }
    }
}

/// Where a session stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    bytes: u64,
    retransmits: u64,
    /// No answer to its request has been sent: it waits for the file, or for room to
    /// send.
    owes_answer: bool,
}

impl Measured {
    fn of(session: &Session) -> Self {
        let transfer = session.transfer();
        Self {
            bytes: session.bytes(),
            retransmits: transfer.progress().retransmits,
            owes_answer: session.unverified_since().is_some() && transfer.waiting_since().is_none(),
        }
    }
}

/// Writes a line, and keeps it for the status port.
fn tell(history: &mut Option<Box<History>>, event: &Event<'_>) {
    if let Some(history) = history {
        history.tell(event);
    }
    event.write();
}

/// Logs that a boot loader's search is over.
fn searched(
    bounds: &mut Bounds,
    history: &mut Option<Box<History>>,
    now: Instant,
    search: &Search,
    name: Result<Name<'_>, Name<'_>>,
) {
    if bounds.admit(now, Kind::Searched, search.peer.ip()) {
        let event = Event::Searched {
            peer: search.peer,
            directory: Name(search.directory.bytes()),
            misses: search.misses,
            name,
            hint: search
                .hint
                .as_ref()
                .filter(|_| name.is_err())
                .map(|it| Cut(it)),
        };
        match name {
            Ok(_) => event.write(),
            Err(_) => tell(history, &event),
        }
    }
}

/// Lists what is under way.
pub(super) fn running<'a>(sessions: impl Iterator<Item = &'a Session>, now: Instant) {
    let mut running = sessions.filter(|session| !session.has_ended());
    for session in running.by_ref().take(MAX_LISTED) {
        Event::Running {
            figures: figures(session, now),
            size: session.size(),
            state: session.phase(now).name(),
        }
        .write();
    }
    let lines = running.count() as u64;
    if lines > 0 {
        Event::LeftOut {
            of: "running",
            lines,
        }
        .write();
    }
}

/// Where a transfer stands.
fn figures(session: &Session, now: Instant) -> Figures<'_> {
    let progress = session.transfer().progress();
    Figures {
        peer: session.peer(),
        op: session.direction().name(),
        file: Name(session.name()),
        served: session.served().map(Name),
        bytes: session.bytes(),
        seconds: now.saturating_duration_since(session.started).as_secs_f64(),
        blksize: progress.block_size,
        windowsize: progress.window_size,
        retransmits: progress.retransmits,
    }
}

fn count(ending: Ending<'_>, counters: &mut Counters) {
    let counter = match ending {
        Ending::Outcome(Outcome::Completed) => &mut counters.completed,
        Ending::Outcome(Outcome::LastAckMissing) => {
            counters.last_ack_missing += 1;
            &mut counters.completed
        }
        Ending::Outcome(Outcome::Probed) => &mut counters.probed,
        Ending::Outcome(Outcome::PeerError { .. }) => &mut counters.peer_errors,
        Ending::Outcome(Outcome::Failed(_)) => &mut counters.failed,
        Ending::Outcome(Outcome::TimedOut) => &mut counters.timed_out,
        Ending::Replaced => &mut counters.replaced,
        Ending::Evicted => &mut counters.evicted,
        Ending::Guessed => &mut counters.guessed,
    };
    *counter += 1;
}

/// An ending as it stands in the log, and the ERROR that brought it about.
fn outcome(ending: Ending<'_>) -> (&'static str, Option<(ErrorCode, Name<'_>)>) {
    let word = match ending {
        Ending::Outcome(Outcome::Completed | Outcome::LastAckMissing) => "completed",
        Ending::Outcome(Outcome::Probed) => "probed",
        Ending::Outcome(Outcome::PeerError { code, message }) => {
            return ("peer_error", Some((*code, Name(message))));
        }
        Ending::Outcome(Outcome::Failed(failure)) => {
            let message = Name(failure.message.as_bytes());
            return ("failed", Some((failure.code, message)));
        }
        Ending::Outcome(Outcome::TimedOut) => "timed_out",
        Ending::Replaced => "replaced",
        Ending::Evicted => "evicted",
        Ending::Guessed => "guessed",
    };
    (word, None)
}

/// Whether the file that was sent has been written to meanwhile.
fn has_changed(session: &Session, ending: Ending<'_>) -> bool {
    let is_success = matches!(ending, Ending::Outcome(outcome) if outcome.is_success());
    let has_moved = session.transfer().progress().blocks > 0;
    match session.content() {
        Content::Source(source) => is_success && has_moved && source.has_changed(),
        Content::Sink(_) => false,
    }
}
