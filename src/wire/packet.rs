//! Packets: the six datagrams of TFTP, parsed without copying and emitted into
//! the caller's buffer (RFC 1350 §5, RFC 2347).
//!
//! Parsing is lenient where real clients need it, each leniency named with the
//! client it is for; emitting is strict. May not: allocate, keep state, or
//! decide what a packet means for a transfer.

use std::fmt;

use super::options::RawOptions;

/// Bytes in front of the payload of a DATA packet: opcode and block number.
pub const DATA_HEADER_LEN: usize = 4;

/// Bytes of an ACK packet.
pub const ACK_LEN: usize = 4;

/// The longest text we put into an ERROR packet, in bytes; longer texts are cut.
pub const MAX_ERROR_TEXT: usize = 255;

/// The first two bytes of every packet (RFC 1350 §5, RFC 2347 for OACK).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Opcode {
    /// Read request.
    Rrq = 1,
    /// Write request.
    Wrq = 2,
    /// A block of the file.
    Data = 3,
    /// Acknowledgement of a block (of a window of blocks, RFC 7440).
    Ack = 4,
    /// The end of a transfer, with a code and a text.
    Error = 5,
    /// Acknowledgement of options.
    Oack = 6,
}

impl Opcode {
    /// The opcode a number stands for, if TFTP knows it.
    pub const fn from_wire(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Rrq),
            2 => Some(Self::Wrq),
            3 => Some(Self::Data),
            4 => Some(Self::Ack),
            5 => Some(Self::Error),
            6 => Some(Self::Oack),
            _ => None,
        }
    }

    /// The two bytes that stand for this opcode.
    pub const fn to_wire(self) -> [u8; 2] {
        (self as u16).to_be_bytes()
    }
}

/// The code of an ERROR packet (RFC 1350 §5, table; 8 from RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// 0: see the text.
    NotDefined,
    /// 1: file not found.
    FileNotFound,
    /// 2: access violation.
    AccessViolation,
    /// 3: disk full or allocation exceeded.
    DiskFull,
    /// 4: illegal TFTP operation.
    IllegalOperation,
    /// 5: unknown transfer ID.
    UnknownTransferId,
    /// 6: file already exists.
    FileExists,
    /// 7: no such user.
    NoSuchUser,
    /// 8: option negotiation refused (RFC 2347).
    OptionRefused,
    /// Any other code, kept as it came.
    Unknown(u16),
}

impl ErrorCode {
    /// The code a number stands for; every number stands for one.
    pub const fn from_wire(number: u16) -> Self {
        match number {
            0 => Self::NotDefined,
            1 => Self::FileNotFound,
            2 => Self::AccessViolation,
            3 => Self::DiskFull,
            4 => Self::IllegalOperation,
            5 => Self::UnknownTransferId,
            6 => Self::FileExists,
            7 => Self::NoSuchUser,
            8 => Self::OptionRefused,
            other => Self::Unknown(other),
        }
    }

    /// The number that stands for this code.
    pub const fn to_wire(self) -> u16 {
        match self {
            Self::NotDefined => 0,
            Self::FileNotFound => 1,
            Self::AccessViolation => 2,
            Self::DiskFull => 3,
            Self::IllegalOperation => 4,
            Self::UnknownTransferId => 5,
            Self::FileExists => 6,
            Self::NoSuchUser => 7,
            Self::OptionRefused => 8,
            Self::Unknown(number) => number,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_wire())
    }
}

/// The block number as it stands in DATA and ACK packets.
///
/// It wraps and therefore has no order; everything inside counts blocks with
/// [`BlockIndex`](crate::protocol::block::BlockIndex).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockNumber(pub u16);

impl fmt::Display for BlockNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The transfer mode of a request (RFC 1350 §1). `mail` is obsolete and refused
/// while parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Text with CR LF line ends on the wire.
    Netascii,
    /// Bytes as they are.
    Octet,
}

impl Mode {
    /// The mode's name as it stands in a request.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Netascii => "netascii",
            Self::Octet => "octet",
        }
    }
}

/// Which way a request asks the file to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// RRQ: from the server to the client.
    Read,
    /// WRQ: from the client to the server.
    Write,
}

impl Direction {
    /// The opcode that asks for this direction.
    pub const fn opcode(self) -> Opcode {
        match self {
            Self::Read => Opcode::Rrq,
            Self::Write => Opcode::Wrq,
        }
    }

    /// The word for logs: `read` or `write`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// An RRQ or WRQ: the first datagram of every transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Which way the file goes.
    pub direction: Direction,
    /// The name as the client wrote it: bytes, not necessarily text, never empty.
    pub filename: &'a [u8],
    /// Netascii or octet.
    pub mode: Mode,
    /// The options asked for, unjudged (RFC 2347).
    pub options: RawOptions<'a>,
}

/// One TFTP datagram, borrowing from the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ or WRQ.
    Request(Request<'a>),
    /// DATA: a block of the file.
    Data {
        /// The block's number on the wire.
        block: BlockNumber,
        /// The block's bytes; shorter than blksize in the last block.
        payload: &'a [u8],
    },
    /// ACK of a block.
    Ack(BlockNumber),
    /// OACK: the options the server accepted.
    Oack(RawOptions<'a>),
    /// ERROR: the transfer is over.
    Error {
        /// What went wrong, as a number.
        code: ErrorCode,
        /// What went wrong, in words: bytes from the network, to be escaped.
        message: &'a [u8],
    },
}
