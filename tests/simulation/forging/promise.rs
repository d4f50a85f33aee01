//! What a server may send to an address that never answered, turn by turn.
//!
//! The network taps everything that is sent, and [`Track`] checks each turn of a session
//! with a victim against the promise.

use std::net::SocketAddr;
use std::time::Duration;

use tftpd::protocol::timer::Timer;
use tftpd::protocol::transfer::{REQUEST_MERGE, Transfer, UNVERIFIED_REPEATS};
use tftpd::wire::packet::Packet;

use super::super::server::Link;

/// The header and payload of a DATA packet with the default block size: the largest
/// datagram to an address that never answered.
pub(super) const LARGEST: usize = 516;

/// How much longer than its request an OACK may be: the digits of the file's size.
pub(super) const SIZE_DIGITS: usize = 20;

/// The longest ERROR that answers nonsense.
pub(super) const LONGEST_ERROR: usize = 60;

/// How far ahead of the window a block may be before an ACK of it counts as old.
pub(super) const OLD: u64 = 1 << 15;

/// A datagram that the server sent.
pub(super) struct Left {
    pub(super) to: SocketAddr,
    pub(super) head: [u8; 4],
    pub(super) len: usize,
}

impl Left {
    pub(super) fn new(to: SocketAddr, datagram: &[u8]) -> Self {
        let mut head = [0; 4];
        let len = datagram.len().min(4);
        head[..len].copy_from_slice(&datagram[..len]);
        let len = datagram.len();
        Self { to, head, len }
    }

    const fn data_block(&self) -> Option<u64> {
        match self.head {
            [0, 3, high, low] => Some(u16::from_be_bytes([high, low]) as u64),
            _ => None,
        }
    }

    pub(super) const fn is_data(&self) -> bool {
        self.data_block().is_some()
    }

    pub(super) const fn is_error(&self) -> bool {
        matches!(self.head, [0, 5, ..])
    }
}

/// The reason for a turn of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Begin,
    Repeated,
    Arrived,
    Deadline,
    /// The session was paused, and may send again.
    Resumed,
}

/// What a turn did to the peer.
pub(super) struct Happened<'t> {
    pub(super) cause: Cause,
    /// The datagrams for this session from a shared port.
    pub(super) arrived: &'t [Vec<u8>],
    pub(super) sent: Vec<&'t Left>,
    pub(super) now: Duration,
    /// Whether its port is shared, and so known to others.
    pub(super) is_shared: bool,
}

/// What is known about a session with a victim.
#[derive(Debug, Default)]
pub(super) struct Track {
    pub(super) request_len: usize,
    pub(super) opens_with_oack: bool,
    pub(super) last_sent: Option<Duration>,
    pub(super) timer_repeats: u8,
    /// The highest block that was sent.
    pub(super) highest: u64,
    /// A base, and how many times the blocks from it on were sent again without a timeout.
    pub(super) rewinds: (u64, u32),
    pub(super) silences: u32,
}

/// A session before its turn.
pub(super) struct Before {
    pub(super) verified: bool,
    pub(super) blocks: u64,
    pub(super) timer: Timer,
}

impl Before {
    pub(super) fn of(session: &Link) -> Self {
        let progress = session.transfer().progress();
        Self {
            verified: progress.verified,
            blocks: progress.blocks,
            timer: session.transfer().timer(),
        }
    }
}

impl Track {
    /// Checks what a turn sent to the victim of a session against the promise.
    pub(super) fn check(&mut self, before: &Before, session: &Link, turn: &Happened<'_>) {
        let &Happened {
            cause,
            now,
            is_shared,
            ref sent,
            ..
        } = turn;
        let progress = session.transfer().progress();
        let is_read = matches!(session.transfer(), Transfer::Sender(_));
        if !is_shared {
            assert!(!progress.verified, "an answer that nobody could give");
        }
        if !progress.verified {
            assert!(sent.len() <= 1, "{} for one {cause:?}", sent.len());
            let longest = LARGEST.max(self.request_len + SIZE_DIGITS);
            assert!(sent.iter().all(|it| it.len <= longest), "more than a block");
        }
        match cause {
            Cause::Begin => assert!(sent.len() <= 1),
            Cause::Repeated if !sent.is_empty() => {
                let last = self.last_sent.expect("an answer before");
                let since = now.saturating_sub(last);
                assert!(since >= REQUEST_MERGE, "answered again after {since:?}");
            }
            Cause::Deadline if !progress.verified => {
                self.timer_repeats += sent.len() as u8;
                assert!(
                    self.timer_repeats <= UNVERIFIED_REPEATS,
                    "a repeat too many"
                );
            }
            Cause::Deadline if matches!(before.timer, Timer::Answer { .. }) => {
                assert!(sent.len() <= 1, "{} after silence", sent.len());
                self.silences += 1;
            }
            Cause::Arrived if !is_shared => assert!(sent.is_empty(), "to a stranger's datagram"),
            Cause::Arrived if !is_read => assert!(sent.len() <= 1, "an ACK for each"),
            _ => {}
        }
        if is_shared && is_read && progress.verified {
            self.check_window(before, session, turn);
        }
        let errors = sent.iter().filter(|it| it.is_error());
        assert!(
            errors.count() <= 1 && (session.has_ended() || !sent.iter().any(|it| it.is_error()))
        );
        if !sent.is_empty() {
            self.last_sent = Some(now);
        }
        let blocks = sent.iter().filter_map(|it| it.data_block());
        self.highest = blocks.fold(self.highest, u64::max);
    }

    /// Checks a read over a shared port, whose ACKs may be forged.
    fn check_window(&mut self, before: &Before, session: &Link, turn: &Happened<'_>) {
        let &Happened {
            cause,
            arrived,
            ref sent,
            ..
        } = turn;
        let blocks = session.transfer().progress().blocks;
        let windowsize = u64::from(session.transfer().negotiated().windowsize);
        let window = windowsize.min(1 + blocks);
        let data: Vec<_> = sent.iter().filter_map(|it| it.data_block()).collect();
        assert!(
            data.len() as u64 <= window,
            "{} at once, {blocks} acknowledged",
            data.len()
        );
        assert!(
            data.iter().all(|&it| it > blocks && it <= blocks + window),
            "{data:?}, {blocks} acknowledged of windows of {windowsize}"
        );
        if cause == Cause::Arrived && blocks == before.blocks && before.verified && !data.is_empty()
        {
            if self.rewinds.0 != blocks {
                self.rewinds = (blocks, 0);
                self.silences = 0;
            }
            self.rewinds.1 += 1;
            assert!(self.rewinds.1 <= 1 + self.silences, "a base has one NACK");
        }
        if self.rewinds.0 != blocks {
            self.rewinds = (blocks, 0);
            self.silences = 0;
        }
        // An ACK of a block not sent yet proves that nobody is there.
        let is_sending = before.verified || !self.opens_with_oack;
        if let [datagram] = arrived
            && let Ok(Packet::Ack(number)) = Packet::parse(datagram)
            && is_sending
        {
            let number = u64::from(number.0);
            let limit = before.blocks + windowsize.min(1 + before.blocks);
            if number > limit.max(self.highest) && number < before.blocks + OLD {
                assert!(session.has_ended(), "ACK {number} of {limit} ended nothing");
                assert!(data.is_empty(), "ACK {number} of {limit} brought DATA");
            }
        }
    }
}
