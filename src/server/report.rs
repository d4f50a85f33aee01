//! What the log says about a request that was refused and a transfer that ended.
//!
//! One line each, `key=value`, everything from the network escaped. May not:
//! change anything but the counters.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use log::{Level, info, log, trace, warn};

use super::counters::Counters;
use crate::protocol::transfer::Outcome;
use crate::session::{Content, Heading, Session};
use crate::wire::packet::{Direction, ErrorCode, Packet, Request};
use crate::wire::text::escape;

/// A packet of a transfer.
pub(super) fn packet(peer: SocketAddr, heading: Heading, datagram: &[u8]) {
    if let Ok(packet) = Packet::parse(datagram) {
        trace!("{peer} {heading} {packet}");
    }
}

/// A request that was answered with an ERROR.
pub(super) fn refusal(
    request: &Request<'_>,
    peer: SocketAddr,
    code: ErrorCode,
    reason: &impl fmt::Display,
) {
    warn!(
        "refused peer={peer} op={} file=\"{}\" code={code} reason=\"{reason}\"",
        request.direction.name(),
        escape(request.filename),
    );
}

/// A file that was found only without the last bytes of its name.
pub(super) fn ignored_tail(name: &[u8], peer: SocketAddr, bytes: usize) {
    if bytes > 0 {
        let served = &name[..name.len().saturating_sub(bytes)];
        info!(
            "peer={peer} asked for \"{}\", which is served as \"{}\"",
            escape(name),
            escape(served),
        );
    }
}

/// A session that has ended, or (without an outcome) was replaced.
pub(super) fn end(
    session: &Session,
    outcome: Option<&Outcome>,
    now: Instant,
    counters: &mut Counters,
) {
    count(outcome, counters);
    let level = match outcome {
        Some(Outcome::Probed) => Level::Debug,
        Some(outcome) if outcome.is_success() => Level::Info,
        None => Level::Info,
        Some(_) => Level::Warn,
    };
    let seconds = now.saturating_duration_since(session.started).as_secs_f64();
    let bytes = session.bytes();
    let progress = session.transfer().progress();
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
        Words(outcome),
        hint(session, outcome).unwrap_or_default(),
    );
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

fn count(outcome: Option<&Outcome>, counters: &mut Counters) {
    let counter = match outcome {
        Some(Outcome::Completed) => &mut counters.completed,
        Some(Outcome::LastAckMissing) => {
            counters.last_ack_missing += 1;
            &mut counters.completed
        }
        Some(Outcome::Probed) => &mut counters.probed,
        Some(Outcome::PeerError { .. }) => &mut counters.peer_errors,
        Some(Outcome::Failed(_)) => &mut counters.failed,
        Some(Outcome::TimedOut) => &mut counters.timed_out,
        None => &mut counters.replaced,
    };
    *counter += 1;
}

/// An outcome as it stands in the log.
struct Words<'a>(Option<&'a Outcome>);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Outcome::Completed) => f.write_str("completed"),
            Some(Outcome::LastAckMissing) => f.write_str("completed last_ack=missing"),
            Some(Outcome::Probed) => f.write_str("probed"),
            Some(Outcome::PeerError { code, message }) => {
                write!(f, "peer_error code={code} message=\"{}\"", escape(message))
            }
            Some(Outcome::Failed(failure)) => {
                write!(
                    f,
                    "failed code={} message=\"{}\"",
                    failure.code, failure.message
                )
            }
            Some(Outcome::TimedOut) => f.write_str("timed_out"),
            None => f.write_str("replaced"),
        }
    }
}

/// Where the pattern is known: what to look at.
fn hint(session: &Session, outcome: Option<&Outcome>) -> Option<&'static str> {
    let progress = session.transfer().progress();
    let nothing_arrived = progress.verified && progress.blocks == 0;
    match outcome {
        Some(Outcome::TimedOut) => {}
        Some(Outcome::LastAckMissing) if nothing_arrived => {}
        _ => return None,
    }
    if !progress.verified {
        return Some(
            " hint=\"no answer ever came: does a firewall or NAT drop packets from our new port?\"",
        );
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

/// The largest block that fits into an Ethernet frame: 1500 bytes less the
/// headers of IPv4, UDP and DATA.
const LARGEST_UNFRAGMENTED: u16 = 1468;
