//! What the log says about a request that was refused and a transfer that ended.
//!
//! One line each, `key=value`, everything from the network escaped; those that a
//! stranger can cause are bounded. Must not: change anything but the counters.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use log::{Level, info, log, trace, warn};

use super::counters::Counters;
use crate::log::repeats::Repeats;
use crate::policy::map::Lines;
use crate::policy::{Granted, Origin};
use crate::protocol::transfer::Outcome;
use crate::session::{Content, Heading, Session};
use crate::table::rate::RateLimit;
use crate::wire::escape::escape;
use crate::wire::packet::{Direction, ErrorCode, Packet, Request};

/// A packet of a transfer.
pub(super) fn packet(peer: SocketAddr, heading: Heading, datagram: &[u8]) {
    if let Ok(packet) = Packet::parse(datagram) {
        trace!("{peer} {heading} {packet}");
    }
}

/// Lines a second about peers that have proved nothing: anyone can cause them,
/// under any address.
const UNPROVED_LINES: u32 = 100;

/// How a transfer ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending<'a> {
    /// By itself.
    Outcome(&'a Outcome),
    /// A new request of its client's took its place.
    Replaced,
    /// Its peer had never answered, and another needed the room.
    Evicted,
}

/// Writes the lines, as long as there aren't too many.
#[derive(Debug)]
pub(super) struct Reporter {
    lines: RateLimit,
    left_out: u64,
    repeats: Repeats,
}

impl Reporter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            lines: RateLimit::new(UNPROVED_LINES, now),
            left_out: 0,
            repeats: Repeats::new(),
        }
    }

    /// Whether there may be one more line about a peer that has proved nothing.
    fn may_go_on(&mut self, now: Instant) -> bool {
        if !self.lines.take(now) {
            self.left_out += 1;
            return false;
        }
        match std::mem::take(&mut self.left_out) {
            0 => {}
            left_out => warn!("left out {left_out} lines about refusals and unanswered transfers"),
        }
        true
    }

    /// A request that was answered with an ERROR. `similar` looks for a file that
    /// may have been meant.
    pub(super) fn refusal(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        peer: SocketAddr,
        code: ErrorCode,
        reason: &impl fmt::Display,
        similar: impl FnOnce() -> Option<Vec<u8>>,
    ) {
        let op = request.direction.name();
        let refusal = (peer.ip(), op, request.filename, code.to_wire());
        let Some(times) = self.repeats.count(now, refusal) else {
            return;
        };
        if !self.may_go_on(now) {
            self.repeats.uncount(refusal);
            return;
        }
        let file = escape(request.filename);
        let times = match times {
            1 => String::new(),
            more => format!(" times={more}"),
        };
        let hint = similar().map_or(String::new(), |name| {
            format!(
                " hint=\"did you mean {}? try --ignore-case\"",
                escape(&name)
            )
        });
        warn!(
            "refused peer={peer} op={op} file=\"{file}\" code={code} reason=\"{reason}\"{times}{hint}"
        );
    }

    /// A request that leads to another name than it asks for.
    pub(super) fn granted(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        peer: SocketAddr,
        granted: &Granted<'_>,
    ) {
        if granted.origin == Origin::Asked || !self.may_go_on(now) {
            return;
        }
        let (op, file) = (request.direction.name(), escape(request.filename));
        let to = escape(&granted.name);
        match granted.origin {
            Origin::Asked => {}
            Origin::Found => info!("peer={peer} asked for \"{file}\", which is served as \"{to}\""),
            Origin::Rules => info!(
                "mapped peer={peer} op={op} file=\"{file}\" to=\"{to}\" lines={}",
                Lines(&granted.lines)
            ),
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
        let progress = session.transfer().progress();
        if !progress.verified && !self.may_go_on(now) {
            return;
        }
        let level = match ending {
            Ending::Outcome(Outcome::Probed) => Level::Debug,
            Ending::Outcome(outcome) if outcome.is_success() => Level::Info,
            Ending::Replaced => Level::Info,
            Ending::Outcome(_) | Ending::Evicted => Level::Warn,
        };
        let seconds = now.saturating_duration_since(session.started).as_secs_f64();
        let bytes = session.bytes();
        log!(
            level,
            "ended peer={} op={} file=\"{}\" bytes={bytes} seconds={seconds:.3} rate={:.0} \
             blksize={} windowsize={} retransmits={} outcome={}{}",
            session.peer(),
            direction(session).name(),
            escape(&session.name),
            rate(bytes, seconds),
            progress.block_size,
            progress.window_size,
            progress.retransmits,
            Words(ending),
            hint(session, ending).unwrap_or_default(),
        );
    }
}

/// What the client asked for.
const fn direction(session: &Session) -> Direction {
    match session.content() {
        Content::Source(_) => Direction::Read,
        Content::Sink(_) => Direction::Write,
    }
}

/// Bytes a second; what took no measurable time counts as a microsecond.
#[expect(clippy::cast_precision_loss, reason = "a rate in a log line")]
fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / seconds.max(0.000_001)
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
    };
    *counter += 1;
}

/// An ending as it stands in the log.
struct Words<'a>(Ending<'a>);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ending::Outcome(Outcome::Completed) => f.write_str("completed"),
            Ending::Outcome(Outcome::LastAckMissing) => f.write_str("completed last_ack=missing"),
            Ending::Outcome(Outcome::Probed) => f.write_str("probed"),
            Ending::Outcome(Outcome::PeerError { code, message }) => {
                write!(f, "peer_error code={code} message=\"{}\"", escape(message))
            }
            Ending::Outcome(Outcome::Failed(failure)) => {
                let (code, message) = (failure.code, failure.message);
                write!(f, "failed code={code} message=\"{message}\"")
            }
            Ending::Outcome(Outcome::TimedOut) => f.write_str("timed_out"),
            Ending::Replaced => f.write_str("replaced"),
            Ending::Evicted => f.write_str("evicted"),
        }
    }
}

/// Where the pattern is known: what to look at.
fn hint(session: &Session, ending: Ending<'_>) -> Option<&'static str> {
    let progress = session.transfer().progress();
    let nothing_arrived = progress.verified && progress.blocks == 0;
    match ending {
        Ending::Outcome(Outcome::TimedOut) => {}
        Ending::Outcome(Outcome::LastAckMissing) if nothing_arrived => {}
        Ending::Outcome(Outcome::Completed) if is_short(session) => {
            return Some(" hint=\"less came than the client announced: compare the files\"");
        }
        _ => return None,
    }
    if !progress.verified {
        return Some(if session.shares_its_port() {
            " hint=\"no answer ever came: does a firewall drop what we send?\""
        } else {
            " hint=\"no answer ever came: does a firewall or NAT drop packets from our new port? \
             try --single-port\""
        });
    }
    match progress.blocks {
        0 if progress.block_size > LARGEST_UNFRAGMENTED => {
            Some(" hint=\"large blocks never arrive: are fragments lost? try -B 1428\"")
        }
        32_767 | 65_535 => {
            Some(" hint=\"the client stops where block numbers wrap: use a larger blksize\"")
        }
        _ => None,
    }
}

/// Whether fewer bytes came than the client said it would send. Some say what
/// isn't true, so it is no failure; but curl leaves out a block if an OACK reaches
/// it twice.
fn is_short(session: &Session) -> bool {
    match session.content() {
        Content::Sink(file) if file.is_octet() => {
            let announced = session.transfer().negotiated().tsize;
            announced.is_some_and(|bytes| file.stored() < bytes)
        }
        _ => false,
    }
}

/// The largest block that fits into an Ethernet frame: 1500 bytes less the
/// headers of IPv4, UDP and DATA.
const LARGEST_UNFRAGMENTED: u16 = 1468;
