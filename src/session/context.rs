//! What a loop lends to the session whose turn it is, and what all its sessions
//! share: buffers, bounds and counts.
//!
//! Must not: know any session.

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

/// The most datagrams received with one call.
pub(crate) const BATCH_SLOTS: usize = 64;

/// Bytes of the buffer for a batch of received datagrams: 64 requests of up to 4 KiB,
/// or a few of the largest blocks.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;

/// Bytes of a slot where several datagrams may come as one. A little more than they can
/// fill: single datagrams touch only the start of each slot, and the starts must not
/// all fall on the same lines of the processor's caches.
pub(crate) const COALESCED_SLOT: usize = MAX_COALESCED.next_multiple_of(4096) + 1536;

/// Slots for windows: two calls receive 64 blocks, and show that there are no more.
const WINDOW_SLOTS: usize = 33;

/// Bytes of these slots. They are address space: only what windows have filled is
/// memory.
const WINDOW_BYTES: usize = WINDOW_SLOTS * COALESCED_SLOT;

/// Bytes of the longest datagram that means anything to a sender: an OACK or an ERROR.
/// What is longer is cut, which does no harm to an ACK (Windows appends a byte).
pub(super) const ANSWER_LEN: usize = 516;

/// Client networks told apart when nonsense is answered.
const NETWORKS: usize = 64;

// Each buffer holds the largest thing that it is for, and one call sends a run.
const _: () = assert!(BATCH_BYTES > MAX_DATA_PACKET && MAX_DATA_PACKET < MAX_SEND);
const _: () = assert!(WINDOW_SLOTS <= BATCH_SLOTS);
const _: () = assert!(MAX_RUN <= MAX_SEGMENTS);

/// What the loop lends to the session whose turn it is.
pub struct Context<'a, P: Port = TransferSocket> {
    /// The time of this session's turn: read when the turn, or this half of it, began,
    /// so that a wait counted from it never ends early.
    pub now: Instant,
    /// Tells the time when a datagram has just gone out, since a turn takes time. A
    /// wait must not begin before the packet it is for was sent, and a round trip must
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
    /// Datagrams received with one call.
    pub batch: Batch,
    /// What is being sent, or a datagram that was received on its own.
    pub buffer: PacketBuffer,
    /// Buffers for what is read ahead.
    pub pool: PrefetchPool,
    /// What was received and is not yet written.
    pub write_buffer: WriteBuffer,
    /// Bounds, counters and the trace of what arrives.
    pub ingress: Ingress,
}

/// Holds the longest run, and the longest block. Allocated with the first packet: until
/// then a server saves that memory.
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
    /// Everything that a loop needs, from `now` on; `trace` is called with every
    /// packet, including those of strangers and the answers to them.
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

    /// The same for a server. No stranger knows the `seed`, so none can choose whose
    /// share of the answers to use up.
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

/// Bounds, counts and traces what comes from outside.
#[derive(Debug)]
pub struct Ingress {
    /// How much nonsense may still be answered this second.
    pub nonsense: NetworkRateLimit,
    /// Counts what went wrong outside the transfers.
    pub drops: DropCounters,
    /// Called with every packet, if packets are traced.
    pub trace: Option<Trace>,
    /// DATA that came to the wrong port.
    pub guesses: PortGuesses,
    /// The first DATA of the session whose turn it is may come from somebody who
    /// guessed its port: the caller is to end it.
    pub guessed: bool,
}

/// Called with the peer, the direction and the datagram.
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

/// Counts of what sessions met outside their transfers.
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
