//! How a transfer ended, and a hint for the administrator where it is known why it failed
//! or was slow.
//!
//! Must not: look at anything but the session's own figures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::file::StorageError;
use crate::protocol::transfer::{Outcome, Progress};
use crate::session::{Content, Session, Waited};

/// How a transfer ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending<'a> {
    /// By itself.
    Outcome(&'a Outcome),
    /// A new request of its client took its place.
    Replaced,
    /// Its peer had never answered, or had been silent for long, and another request
    /// needed the room.
    Evicted,
    /// Its peer had never answered, and somebody tried many ports in the peer's name.
    Guessed,
}

/// The largest block that fits into an Ethernet frame: 1500 bytes less the headers of
/// IP, UDP and DATA.
const fn largest_unfragmented(peer: SocketAddr) -> u16 {
    let ip = if peer.ip().to_canonical().is_ipv4() {
        20
    } else {
        40
    };
    1500 - ip - 8 - 4
}

/// A transfer is slow if it takes at least this long, at less than this many bytes a
/// second.
const SLOW: Duration = Duration::from_secs(2);
const SLOW_RATE: f64 = 500_000.0;

/// Round trips of this length or more count as long: no network within one building has
/// them.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(5);

/// More than one block in this many sent again is loss.
const LOSS: u64 = 20;

/// What to look at; `has_changed`: the file changed while it was sent.
pub(super) fn hint(
    session: &Session,
    ending: Ending<'_>,
    has_changed: bool,
    now: Instant,
) -> Option<String> {
    let progress = session.transfer().progress();
    let nothing_arrived = progress.verified && progress.blocks == 0;
    let text = match ending {
        Ending::Outcome(Outcome::PeerError { .. } | Outcome::Probed | Outcome::TimedOut)
        | Ending::Replaced
            if session.waits_for_file() =>
        {
            "the client gave up while the disk was waited for"
        }
        Ending::Outcome(Outcome::TimedOut) => silence(session, progress)?,
        Ending::Outcome(Outcome::LastAckMissing) if nothing_arrived => silence(session, progress)?,
        Ending::Outcome(Outcome::Failed(failure)) if !has_changed => {
            StorageError::of_failure(*failure).hint()?
        }
        Ending::Outcome(_) if has_changed => {
            "the file was written to while it was sent: it may have come mixed"
        }
        Ending::Outcome(Outcome::Completed) if is_truncated(session) => {
            "less came than the client announced: compare the files"
        }
        Ending::Outcome(outcome @ (Outcome::Completed | Outcome::LastAckMissing)) => {
            let mut took = now.saturating_duration_since(session.started);
            if *outcome == Outcome::LastAckMissing {
                // The wait for the last ACK isn't the transfer's.
                let waited = session.transfer().waiting_since();
                took = waited.map_or(took, |it| it.saturating_duration_since(session.started));
            }
            return slow(&Speed {
                bytes: session.bytes(),
                took,
                waited: session.waited(),
                round_trip: session.transfer().round_trip(),
                progress,
            });
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// The peer fell silent.
fn silence(session: &Session, progress: Progress) -> Option<&'static str> {
    if !progress.verified {
        return Some(if session.waited().before > Duration::ZERO {
            "no answer ever came: the client gave up, or asked again from another port, while \
             the helper was waited for"
        } else if session.shares_its_port() {
            "no answer ever came: does a firewall drop what we send?"
        } else {
            "no answer ever came: does a firewall or NAT drop packets from our new port? \
             try --single-port"
        });
    }
    match progress.blocks {
        0 if progress.block_size > largest_unfragmented(session.peer()) => {
            Some("large blocks never arrive: are fragments lost? try -B 1428")
        }
        32_767 | 65_535 => Some("the client stops where block numbers wrap: use a larger blksize"),
        _ => None,
    }
}

/// How fast a transfer went.
struct Speed {
    bytes: u64,
    took: Duration,
    waited: Waited,
    round_trip: Option<Duration>,
    progress: Progress,
}

/// What a slow transfer waited for during half of its time; `None` if that isn't known:
/// it may have been held back, or have waited for the disk to store.
#[expect(clippy::cast_precision_loss, reason = "a comparison of rates")]
fn slow(speed: &Speed) -> Option<String> {
    let Speed {
        bytes,
        took,
        waited,
        round_trip,
        progress,
    } = speed;
    let rate = *bytes as f64 / took.as_secs_f64().max(0.001);
    if *took < SLOW || rate >= SLOW_RATE {
        return None;
    }
    let half = *took / 2;
    if waited.file >= half {
        return Some("slow because of the disk: it was waited for".to_owned());
    }
    let (blocks, again) = (progress.blocks, progress.retransmits);
    if again * LOSS > blocks {
        return Some(format!(
            "slow because of loss: {again} packets were sent again for {blocks} blocks; look at the \
             network, or at a client that is too slow for its windows"
        ));
    }
    let turns = blocks.div_ceil(u64::from(progress.window_size.max(1)));
    let waits = round_trip
        .filter(|it| *it >= LONG_ROUND_TRIP)
        .map(|it| (it, it.as_secs_f64() * turns as f64));
    match waits {
        Some((time, waits)) if waits >= half.as_secs_f64() => {
            let millis = time.as_millis();
            let one = match progress.window_size {
                0 | 1 => "each block".to_owned(),
                blocks => format!("each window of {blocks} blocks"),
            };
            Some(format!(
                "slow because of the round trip: {one} waits {millis} ms for its answer; larger \
                 blocks (blksize) or windows (windowsize) on the client help"
            ))
        }
        _ if waited.peer >= half => {
            Some("slow because of the client: it paused between its answers".to_owned())
        }
        _ => None,
    }
}

/// Whether fewer bytes came than the client announced. Some clients announce a wrong
/// size, so that is no failure; but curl leaves out a block if an OACK reaches it
/// twice.
fn is_truncated(session: &Session) -> bool {
    match session.content() {
        Content::Sink(file) if file.is_octet() => {
            let announced = session.transfer().negotiated().tsize;
            announced.is_some_and(|bytes| file.stored() < bytes)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_transfers_have_a_cause_lockstep_loss_pauses_or_the_disk() {
        let each = Some("each block waits 95 ms");
        let window = Some("each window of 4 blocks waits 38 ms");
        let loss = Some("loss: 6 packets were sent again for 100 blocks");
        let paused = Some("of the client: it paused");
        let disk = Some("of the disk: ");
        for (bytes, seconds, (disk_waited, client_waited), round_trip, window_size, again, told) in [
            // Not slow.
            (10_000, 1, (1, 0), Some(100), 1, 0, None),
            (10_000_000, 10, (9, 0), Some(100), 1, 0, None),
            (51_200, 10, (0, 0), Some(95), 1, 0, each),
            (512_000, 10, (0, 0), Some(38), 4, 0, window),
            (51_200, 10, (0, 5), Some(95), 1, 6, loss),
            (51_200, 10, (0, 5), Some(20), 1, 0, paused),
            (51_200, 10, (0, 9), Some(1), 1, 0, paused),
            (51_200, 10, (0, 9), None, 1, 5, paused),
            (0, 10, (4, 6), None, 1, 0, paused),
            (51_200, 10, (5, 4), Some(1), 1, 0, disk),
            (51_200, 10, (8, 0), Some(95), 1, 6, disk),
            // Held back, say, or stored slowly: nobody has measured it.
            (51_200, 10, (4, 4), Some(1), 1, 0, None),
            (51_200, 10, (0, 0), Some(20), 1, 0, None),
            (0, 10, (0, 0), None, 1, 0, None),
        ] {
            let progress = Progress {
                blocks: bytes / 512,
                block_size: 512,
                window_size,
                retransmits: again,
                verified: true,
            };
            let hint = slow(&Speed {
                bytes,
                took: Duration::from_secs(seconds),
                waited: Waited {
                    before: Duration::ZERO,
                    file: Duration::from_secs(disk_waited),
                    peer: Duration::from_secs(client_waited),
                },
                round_trip: round_trip.map(Duration::from_millis),
                progress,
            });
            match told {
                Some(told) => assert!(
                    hint.as_ref().is_some_and(|it| it.contains(told)),
                    "{hint:?}"
                ),
                None => assert_eq!(hint, None, "{bytes} {seconds}"),
            }
        }
    }
}
