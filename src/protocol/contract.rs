//! The words that a transfer and its caller share: how it is to behave, what it
//! is told, what it says.
//!
//! Must not: keep state.

use std::time::Duration;

use super::block::{BlockIndex, Rollover};
use super::retry::RetryPolicy;
use crate::wire::options::{OackProblem, Offer};
use crate::wire::packet::{DATA_HEADER_LEN, ErrorCode, emit_data_header};

/// What an unverified peer gets beyond our first answer: at most this many
/// repeats by our own timer. A peer that never answered may be the victim of a
/// forged request.
pub const UNVERIFIED_REPEATS: u8 = 3;

/// A repeated request that comes this soon after our answer crossed that on the way, and
/// is not answered again (the Raspberry Pi's boot ROM asks twice within 9 ms and
/// breaks on two OACKs). Any other is, until the client has answered.
pub const REQUEST_MERGE: Duration = Duration::from_millis(100);

/// How long a server repeats the final ACK of an upload if it was lost: longer than
/// the first wait of the usual clients (tftp-hpa 5 s, curl 6 s).
pub const SERVER_DALLY: Duration = Duration::from_secs(10);

/// The longest a server dallies, whatever the other side's `timeout`.
pub const MAX_SERVER_DALLY: Duration = Duration::from_secs(60);

/// The longest a client dallies.
pub const MAX_CLIENT_DALLY: Duration = Duration::from_secs(2);

/// How a transfer behaves, apart from what its options settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// When to send again and when to give up.
    pub retry: RetryPolicy,
    /// Client: repeats of a request that nobody answers, at most, even if the policy
    /// allows more.
    pub request_repeats: u8,
    /// How long a receiver dallies after its final ACK, to repeat it (RFC 1350 §6);
    /// never shorter than the first retransmission wait, but for a client, whose
    /// user is waiting: that long only if a packet was lost, and at most
    /// [`MAX_CLIENT_DALLY`]. A server's at most [`MAX_SERVER_DALLY`].
    pub dally: Duration,
    /// What an answer proves.
    pub proof: Proof,
}

/// Whether an answer proves that the peer gets what we send. Its address proves
/// nothing, for that can be forged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proof {
    /// The transfer has a port of its own, which only the peer was told: an
    /// answer to it is proof.
    #[default]
    OwnPort,
    /// Nothing is: the transfer's port is known to all (single port), to the peers of
    /// other transfers (a shared port), or one of few (a small range). Such a transfer
    /// is called unproved. A window opens with one block and doubles as blocks
    /// are acknowledged; until it is whole, the last block of each part is sent
    /// twice, to ask for its ACK. Silence brings one block (the first time two), a NACK
    /// after it no more than two, and an ACK of a block that wasn't sent ends it, unless it
    /// may be of the transfer before.
    Never,
}

/// How a transfer opens, and so what the first datagram is.
#[derive(Debug)]
pub enum Opening {
    /// Server: the request carried no option we accept; answer it directly.
    Plain,
    /// Server: answer with this OACK packet and wait for its acknowledgement.
    OptionAck(Box<[u8]>),
    /// Client: this RRQ or WRQ packet, and the options it offers.
    Request {
        /// The packet as it goes out.
        packet: Box<[u8]>,
        /// What the OACK is held against.
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
    /// Who opens like this.
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
    /// We ended it. The peer is told, unless it is taken for a forgery.
    Failed(Failure),
    /// The peer fell silent and all repeats are spent.
    TimedOut,
}

impl Outcome {
    /// Whether the file (or the answer to the probe) arrived, as far as we know.
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
    /// The first block not yet acknowledged: none before it will be asked for
    /// again.
    pub base: BlockIndex,
    /// How the blocks are numbered on the wire.
    pub rollover: Rollover,
}

impl Run {
    /// The bytes a full block takes in the datagram: header and payload.
    pub fn segment_size(&self) -> usize {
        DATA_HEADER_LEN + usize::from(self.block_size)
    }

    /// The header of the run's block number `position`, counted from 0.
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
    /// One datagram: the first so many bytes of the caller's buffer.
    Datagram(usize),
    /// DATA: these blocks, or as many of them from the front as the caller
    /// likes to send at once.
    Blocks(Run),
}

/// What was sent, as told to [`Transfer::handle_sent`](super::transfer::Transfer::handle_sent).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The datagram that `poll_transmit` wrote.
    Datagram,
    /// So many blocks from the front of the run.
    Blocks {
        /// At least 1, at most the run's count.
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
    /// Bytes that they take in the buffer.
    pub bytes: usize,
    /// The file ended in the last of them.
    pub end: bool,
}

/// Where a sender's blocks come from. Must be able to produce any run again
/// that doesn't reach back before the run's `base`.
pub trait BlockSource {
    /// Fills `buf` with the DATA packets of `run`, or of as many blocks from its
    /// front as fit.
    ///
    /// `Ok(None)`: not ready yet, ask again later; nothing is lost.
    ///
    /// # Errors
    /// When the file can't be read any more, or isn't what it was: the
    /// transfer is then to be [aborted](super::transfer::Transfer::abort) with this failure.
    fn read_run(&mut self, run: Run, buf: &mut [u8]) -> Result<Option<Filled>, Failure>;
}

/// All that a [`BlockSink`] was given is where it belongs: only this makes an
/// ACK. Made by sinks alone, but for the handshake, which has nothing to write.
#[derive(Debug)]
pub struct Written;

/// The file, all of which is written, has its final name: only this makes a
/// final ACK. Made by sinks alone.
#[derive(Debug)]
pub struct Committed(pub Written);

/// Where a receiver's blocks go: each exactly once, in order.
pub trait BlockSink {
    /// Takes the payload of the next block; may keep it until
    /// [`BlockSink::flush`].
    ///
    /// # Errors
    /// When the data can't be stored; the peer is told so.
    fn write(&mut self, payload: &[u8]) -> Result<(), Failure>;

    /// Stores all that was taken: before an ACK of it, but for the final one.
    ///
    /// # Errors
    /// When the data can't be stored; the peer is told so.
    fn flush(&mut self) -> Result<Written, Failure>;

    /// The file is complete: stores what is left and gives it its final name.
    ///
    /// # Errors
    /// When the file can't be put in place; the peer is told so.
    fn commit(&mut self) -> Result<Committed, Failure>;
}

/// The sink of a sender, which stores nothing.
#[derive(Debug)]
pub struct NoSink;

/// Never seen by anyone: a sender stores nothing, a receiver reads nothing.
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
    /// Datagrams sent again, DATA blocks counted one by one.
    pub retransmits: u64,
    /// A valid answer has come from the peer's TID.
    pub verified: bool,
}

/// Bytes that the largest datagram other than DATA can take: an RRQ, WRQ or
/// OACK (RFC 2347: 512) or an ERROR.
pub const MAX_DATAGRAM: usize = 512;
