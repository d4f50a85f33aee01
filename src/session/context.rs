//! What a loop lends to the session whose turn it is, and what all its sessions
//! share: buffers, bounds and counts.
//!
//! Must not: know a single session.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use super::port::Port;
use super::prefetch::PrefetchPool;
use super::{MAX_SEND, NONSENSE_ANSWERS};
use crate::file::{MAX_RUN, WriteBuffer};
use crate::net::{Batch, MAX_COALESCED, MAX_DATA_PACKET, MAX_SEGMENTS, TransferSocket};
use crate::table::guesses::PortGuesses;
use crate::table::rate::NetworkRateLimit;

/// Datagrams received with one call at most.
pub(crate) const BATCH_SLOTS: usize = 64;

/// Bytes that a batch of received datagrams takes: 64 requests of up to 4 KiB,
/// or a few of the largest blocks.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;

/// Bytes of a slot where several datagrams may come as one. The few beyond what one can
/// take keep the begins of the slots, which is all that single datagrams fill, from
/// lying in the same places of the processor's caches.
pub(crate) const COALESCED_SLOT: usize = MAX_COALESCED.next_multiple_of(4096) + 1536;

/// Slots for windows: two calls receive 64 blocks, and show that there are no more.
const WINDOW_SLOTS: usize = 33;

/// Bytes that they take: address space, of which as much is memory as windows have
/// filled.
const WINDOW_BYTES: usize = WINDOW_SLOTS * COALESCED_SLOT;

/// Bytes of the longest datagram that means anything to a sender: an OACK or an
/// ERROR. What is longer is cut, which an ACK (Windows appends a byte) doesn't
/// mind.
pub(super) const ANSWER_LEN: usize = 516;

/// Networks told apart where nonsense is answered.
const NETWORKS: usize = 64;

// The buffers hold the largest of what they are for, and one call sends a run.
const _: () = assert!(BATCH_BYTES > MAX_DATA_PACKET && MAX_DATA_PACKET < MAX_SEND);
const _: () = assert!(WINDOW_SLOTS <= BATCH_SLOTS);
const _: () = assert!(MAX_RUN <= MAX_SEGMENTS);

/// What the loop lends to the session whose turn it is.
pub struct Context<'a, P: Port = TransferSocket> {
    /// What time it is for this session's turn: read when it, or this half of it, began, so
    /// that a wait counted from here never ends early.
    pub now: Instant,
    /// What time it is when a datagram has just gone out: a turn takes its time. A
    /// wait must not begin before what it waits for was sent, and a round trip must
    /// not be measured longer than it was.
    pub clock: &'a dyn Fn() -> Instant,
    /// What sessions share.
    pub resources: &'a mut Resources,
    /// Where the session's port is watched.
    pub poll: P::Poll<'a>,
    /// Bytes of DATA that may still be sent in this turn, or asked for with an ACK.
    pub send_budget: usize,
}

impl<P: Port> fmt::Debug for Context<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("now", &self.now)
            .field("send_budget", &self.send_budget)
            .finish_non_exhaustive()
    }
}

/// Buffers and bounds that one loop has for all its sessions.
#[derive(Debug)]
pub struct Resources {
    /// What was received together.
    pub batch: Batch,
    /// What is being sent, or a datagram that was received by itself.
    pub buffer: PacketBuffer,
    /// What was read ahead.
    pub pool: PrefetchPool,
    /// What was received and is not yet written.
    pub write_buffer: WriteBuffer,
    /// What keeps an eye on what arrives.
    pub ingress: Ingress,
}

/// Holds the longest run, and the longest block. It is made for the first packet: until
/// then a server has as much less to fill.
#[derive(Debug, Default)]
pub struct PacketBuffer(Box<[u8]>);

impl PacketBuffer {
    pub(super) fn all(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; MAX_SEND].into_boxed_slice();
        }
        &mut self.0
    }

    /// The first `len` bytes, which have been written.
    pub(super) fn written(&self, len: usize) -> &[u8] {
        &self.0[..len]
    }
}

impl Resources {
    /// Everything that a loop needs, from `now` on; `trace` is shown every packet,
    /// strangers' and answers to them included.
    pub fn new(now: Instant, trace: Option<Trace>) -> Self {
        Self {
            batch: Batch::new(BATCH_SLOTS, WINDOW_BYTES),
            buffer: PacketBuffer::default(),
            pool: PrefetchPool::default(),
            write_buffer: WriteBuffer::default(),
            ingress: Ingress {
                nonsense: nonsense_limit(0, now),
                drops: DropCounters::default(),
                trace,
                guesses: PortGuesses::default(),
                guessed: false,
            },
        }
    }

    /// The same for a server: no stranger knows the `seed`, so that none chooses
    /// whose share of the answers to take.
    #[must_use]
    pub fn with_seed(mut self, seed: u64, now: Instant) -> Self {
        self.ingress.nonsense = nonsense_limit(seed, now);
        self.ingress.guesses = PortGuesses::new(seed);
        self
    }
}

fn nonsense_limit(seed: u64, now: Instant) -> NetworkRateLimit {
    NetworkRateLimit::new(NONSENSE_ANSWERS, NETWORKS, seed, now)
}

/// Bounds, counts and shows what comes from outside.
#[derive(Debug)]
pub struct Ingress {
    /// How much nonsense may still be answered this second.
    pub nonsense: NetworkRateLimit,
    /// What went wrong beside the transfers.
    pub drops: DropCounters,
    /// Is shown every packet, if there is anyone to show them to.
    pub trace: Option<Trace>,
    /// Blocks that came to the wrong port.
    pub guesses: PortGuesses,
    /// The session whose turn it is may have been begun by somebody who found its port:
    /// the caller is to end it.
    pub guessed: bool,
}

/// Is shown the peer, the way it goes and the datagram.
pub type Trace = fn(SocketAddr, Heading, &[u8]);

/// Which way a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    /// From us.
    Sent,
    /// To us.
    Received,
}

impl fmt::Display for Heading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "sent",
            Self::Received => "received",
        })
    }
}

/// What sessions met that was no part of their transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DropCounters {
    /// Datagrams from someone else on a transfer's port.
    pub strangers: u64,
    /// Answers to nonsense left out because there was too much of it.
    pub unanswered: u64,
    /// Datagrams on a transfer's port that were no TFTP, dropped.
    pub garbage: u64,
    /// Errors from the kernel while sending or receiving.
    pub socket_errors: u64,
}
