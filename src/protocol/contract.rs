//! The types that a transfer and its caller share: how the transfer is to behave, what
//! goes in, what comes out.
//!
//! Must not: keep state.

use std::time::Duration;

use super::block::{BlockIndex, Rollover};
use super::retry::RetryPolicy;
use crate::wire::options::{OackProblem, Offer};
use crate::wire::packet::{DATA_HEADER_LEN, ErrorCode, emit_data_header};

/// The most repeats of our first answer that our own timer sends to an unverified peer: it
/// may be the victim of a forged request.
pub const UNVERIFIED_REPEATS: u8 = 3;

/// A repeated request that comes this soon after our answer has crossed the answer, and is
/// not answered again (the Raspberry Pi's boot ROM asks twice within 9 ms and breaks on
/// two OACKs). Later ones are answered, until the client has answered us.
pub const REQUEST_MERGE: Duration = Duration::from_millis(100);

/// How long a server dallies to repeat the final ACK of an upload: longer than the first
/// wait of the usual clients (tftp-hpa 5 s, curl 6 s).
pub const SERVER_DALLY: Duration = Duration::from_secs(10);

/// The longest a server dallies, whatever `timeout` was agreed.
pub const MAX_SERVER_DALLY: Duration = Duration::from_secs(60);

/// The longest a client dallies.
pub const MAX_CLIENT_DALLY: Duration = Duration::from_secs(2);

/// How a transfer behaves, apart from what the options settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// When to send again and when to give up.
    pub retry: RetryPolicy,
    /// Client: the most repeats of an unanswered request, even if the policy allows more.
    pub request_repeats: u8,
    /// How long a receiver dallies after its final ACK, to repeat it (RFC 1350 §6). A
    /// server dallies at least as long as the first retransmission wait, and at most
    /// [`MAX_SERVER_DALLY`]. So does a client if a packet was lost, with
    /// [`MAX_CLIENT_DALLY`]; if none was, it keeps to this time, since its user is waiting.
    pub dally: Duration,
    /// Whether an answer proves that the peer is there.
    pub proof: Proof,
}

/// Whether an answer proves that the peer gets what we send. The source address alone
/// proves nothing, since it can be forged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proof {
    /// The transfer has a port of its own, which only the peer knows: an answer that
    /// comes to this port is proof.
    #[default]
    OwnPort,
    /// No answer is proof: the transfer's port is known to all (single port) or to the
    /// peers of other transfers (a shared port), or is easy to guess (a small range). Such
    /// a transfer is called unproved. Its window opens with one block and grows by one for
    /// each block acknowledged; until it is fully open, the last block of each part is sent
    /// twice, to ask for its ACK. Silence brings one block (the first time two), a NACK
    /// after silence two at most. An ACK of a block that wasn't sent ends the transfer,
    /// unless it may belong to the client's transfer before.
    Never,
}

/// How a transfer opens, and so what the first datagram is.
#[derive(Debug)]
pub enum Opening {
    /// Server: we accept none of the request's options, if any; answer with DATA 1 or ACK 0.
    Plain,
    /// Server: answer with this OACK packet and wait for its acknowledgement.
    OptionAck(Box<[u8]>),
    /// Client: send this RRQ or WRQ packet, which offers these options.
    Request {
        /// The packet as it goes out.
        packet: Box<[u8]>,
        /// The options that the OACK is checked against.
        offer: Box<Offer>,
    },
}

/// Which end of the transfer this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

impl Opening {
    /// Which end opens like this.
    pub(super) const fn role(&self) -> Role {
        match self {
            Self::Plain | Self::OptionAck(_) => Role::Server,
            Self::Request { .. } => Role::Client,
        }
    }
}

/// A reason to end a transfer from our side, as the peer will read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The code of the ERROR packet.
    pub code: ErrorCode,
    /// Its text. Never an absolute path.
    pub message: &'static str,
}

impl Failure {
    /// A failure with this code and text.
    pub const fn new(code: ErrorCode, message: &'static str) -> Self {
        Self { code, message }
    }
}

impl From<OackProblem> for Failure {
    fn from(problem: OackProblem) -> Self {
        Self::new(ErrorCode::OptionRefused, problem.message())
    }
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The whole file was moved and acknowledged.
    Completed,
    /// Everything was sent, but the last ACK never came; many clients don't
    /// send it. The peer most likely has the file.
    LastAckMissing,
    /// The peer hung up before the first window was acknowledged: it only wanted
    /// to know the options, most often `tsize` (PXE ROMs, EDK2).
    Probed,
    /// The peer sent an ERROR.
    PeerError {
        /// Its code.
        code: ErrorCode,
        /// Its text: bytes from the network, to be escaped before printing.
        message: Box<[u8]>,
    },
    /// We ended it. The peer gets an ERROR, unless its ACK was taken for forged.
    Failed(Failure),
    /// The peer fell silent and all repeats are spent.
    TimedOut,
}

impl Outcome {
    /// Whether the file (or what a probe asked for) arrived, as far as we know.
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Completed | Self::LastAckMissing | Self::Probed)
    }
}

/// Consecutive blocks to be read and sent, with what their headers need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first block.
    pub first: BlockIndex,
    /// How many blocks, at least 1.
    pub count: u16,
    /// How many bytes a block has; the last of the file is shorter.
    pub block_size: u16,
    /// The first block not yet acknowledged: no block before it is needed again.
    pub base: BlockIndex,
    /// How the blocks are numbered on the wire.
    pub rollover: Rollover,
}

impl Run {
    /// Bytes of a full block's datagram: header and payload.
    pub fn segment_size(&self) -> usize {
        DATA_HEADER_LEN + usize::from(self.block_size)
    }

    /// The header of the block at `position` in the run, counted from 0.
    pub fn header(&self, position: u16) -> [u8; DATA_HEADER_LEN] {
        emit_data_header(self.rollover.number_of(self.first.plus(position.into())))
    }

    /// The same run, at most `count` blocks long.
    #[must_use]
    pub fn shortened(self, count: u16) -> Self {
        Self {
            count: self.count.min(count.max(1)),
            ..self
        }
    }
}

/// What to send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// One datagram: this many bytes from the front of the caller's buffer.
    Datagram(usize),
    /// DATA: these blocks, or as many from the front as the caller wants to send at once.
    Blocks(Run),
}

/// What was sent, as told to [`Transfer::handle_sent`](super::transfer::Transfer::handle_sent).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The datagram that `poll_transmit` wrote.
    Datagram,
    /// Blocks from the front of the run.
    Blocks {
        /// How many: at least 1, at most the run's count.
        count: u16,
        /// The file ended in the last of them.
        end: bool,
    },
}

/// What a [`BlockSource`] put into the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// Blocks, headers included, one after the other; all but the last full.
    pub blocks: u16,
    /// Bytes that the blocks take in the buffer.
    pub bytes: usize,
    /// The file ended in the last of them.
    pub end: bool,
}

/// Where a sender's blocks come from. Must be able to produce again any block from the
/// latest run's `base` on.
pub trait BlockSource {
    /// Fills `buf` with the DATA packets of `run`, or of as many blocks from its
    /// front as fit.
    ///
    /// `Ok(None)`: not ready yet, ask again later.
    ///
    /// # Errors
    /// When the file can't be read any more, or has changed. The caller must then
    /// [abort](super::transfer::Transfer::abort) the transfer with this failure.
    fn read_run(&mut self, run: Run, buf: &mut [u8]) -> Result<Option<Filled>, Failure>;
}

/// Proof that everything a [`BlockSink`] was given is stored: without it no ACK is made.
/// Only sinks make it, except for the handshake, which has nothing to store.
#[derive(Debug)]
pub struct Written;

/// Proof that the whole file is stored and has its final name: without it no final ACK is
/// made. Only sinks make it.
#[derive(Debug)]
pub struct Committed(pub Written);

/// Where a receiver's blocks go: each exactly once, in order.
pub trait BlockSink {
    /// Takes the payload of the next block; may keep it until
    /// [`BlockSink::flush`].
    ///
    /// # Errors
    /// When the data can't be stored; the peer gets this failure.
    fn write(&mut self, payload: &[u8]) -> Result<(), Failure>;

    /// Stores all that was taken. Called before each ACK but the final one.
    ///
    /// # Errors
    /// When the data can't be stored; the peer gets this failure.
    fn flush(&mut self) -> Result<Written, Failure>;

    /// The file is complete: stores what is left and gives it its final name.
    ///
    /// # Errors
    /// When the file can't be put in place; the peer gets this failure.
    fn commit(&mut self) -> Result<Committed, Failure>;
}

/// The sink of a sender, which stores nothing.
#[derive(Debug)]
pub struct NoSink;

/// Nobody ever sees this: a sender stores nothing, a receiver reads nothing.
pub(crate) const WRONG_WAY: Failure =
    Failure::new(ErrorCode::IllegalOperation, "Illegal TFTP operation");

impl BlockSink for NoSink {
    fn write(&mut self, _: &[u8]) -> Result<(), Failure> {
        Err(WRONG_WAY)
    }

    fn flush(&mut self) -> Result<Written, Failure> {
        Err(WRONG_WAY)
    }

    fn commit(&mut self) -> Result<Committed, Failure> {
        Err(WRONG_WAY)
    }
}

/// The figures of a transfer, for logs and progress bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Blocks acknowledged (sender) or stored (receiver).
    pub blocks: u64,
    /// Payload bytes of a full block.
    pub block_size: u16,
    /// Blocks per acknowledgement (RFC 7440).
    pub window_size: u16,
    /// Datagrams sent again; each DATA block counts as one.
    pub retransmits: u64,
    /// A valid answer has come from the peer's TID.
    pub verified: bool,
}

/// Bytes of the largest datagram we send other than DATA: an RRQ, WRQ or OACK (RFC 2347:
/// 512) or an ERROR.
pub const MAX_DATAGRAM: usize = 512;
