//! Packets: the six datagrams of TFTP, parsed without copying and emitted into
//! the caller's buffer (RFC 1350 §5, RFC 2347).
//!
//! Parsing is lenient where real clients need it, and the comments name these clients;
//! emitting is strict. Must not: allocate, keep state, or decide what a packet means for
//! a transfer.

use std::fmt;

use super::escape::escape;
use super::raw_options::{RawOptions, split_string};
use super::writer::Writer;

/// Bytes in front of the payload of a DATA packet: opcode and block number.
pub const DATA_HEADER_LEN: usize = 4;

/// Bytes of an ACK packet.
pub const ACK_LEN: usize = 4;

/// The longest text we put into an ERROR packet, in bytes; longer texts are cut.
pub const MAX_ERROR_TEXT: usize = 255;

/// The longest ERROR packet we send, in bytes.
pub const MAX_ERROR_LEN: usize = 4 + MAX_ERROR_TEXT + 1;

/// The longest request that RFC 2347 allows, in bytes. Longer ones are accepted, but not
/// sent.
pub const MAX_REQUEST_LEN: usize = 512;

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

/// Whether a datagram has the opcode of an RRQ or WRQ, whatever follows.
pub fn is_request(datagram: &[u8]) -> bool {
    let opcode = datagram.first_chunk().copied().map(u16::from_be_bytes);
    matches!(
        opcode.and_then(Opcode::from_wire),
        Some(Opcode::Rrq | Opcode::Wrq)
    )
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
    /// The code that a number stands for. Every number stands for a code.
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
/// It wraps, so it has no order; everything inside counts blocks with
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
    /// The mode a name stands for, in any case (RFC 1350 §5).
    fn from_wire(name: &[u8]) -> Result<Self, ParseError> {
        if name.eq_ignore_ascii_case(b"octet") {
            Ok(Self::Octet)
        } else if name.eq_ignore_ascii_case(b"netascii") {
            Ok(Self::Netascii)
        } else if name.eq_ignore_ascii_case(b"mail") {
            Err(ParseError::MailMode)
        } else {
            Err(ParseError::UnknownMode)
        }
    }

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
    /// The options asked for, not yet checked (RFC 2347).
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

impl fmt::Display for Packet<'_> {
    /// The way TFTP clients have always traced packets; safe for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(request) => {
                let word = match request.direction {
                    Direction::Read => "RRQ",
                    Direction::Write => "WRQ",
                };
                let (name, mode) = (escape(request.filename), request.mode.name());
                write!(f, "{word} <file={name}, mode={mode}")?;
                for (name, value) in request.options.pairs() {
                    write!(f, ", {}={}", escape(name), escape(value))?;
                }
                f.write_str(">")
            }
            Self::Data { block, payload } => {
                write!(f, "DATA <block={block}, {} bytes>", payload.len())
            }
            Self::Ack(block) => write!(f, "ACK <block={block}>"),
            Self::Oack(options) => {
                f.write_str("OACK <")?;
                for (position, (name, value)) in options.pairs().enumerate() {
                    let comma = if position == 0 { "" } else { ", " };
                    write!(f, "{comma}{}={}", escape(name), escape(value))?;
                }
                f.write_str(">")
            }
            Self::Error { code, message } => {
                write!(f, "ERROR <code={code}, msg={}>", escape(message))
            }
        }
    }
}

impl<'a> Packet<'a> {
    /// Parses a datagram.
    ///
    /// # Errors
    /// See [`ParseError`]; [`ParseError::reply`] says what to answer.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        let (&number, body) = datagram
            .split_first_chunk::<2>()
            .ok_or(ParseError::TooShort)?;
        let number = u16::from_be_bytes(number);
        match Opcode::from_wire(number).ok_or(ParseError::UnknownOpcode(number))? {
            Opcode::Rrq => Request::parse(Direction::Read, body).map(Self::Request),
            Opcode::Wrq => Request::parse(Direction::Write, body).map(Self::Request),
            Opcode::Oack => Ok(Self::Oack(RawOptions::new(body))),
            Opcode::Data => {
                let (block, payload) = split_number(body)?;
                Ok(Self::Data {
                    block: BlockNumber(block),
                    payload,
                })
            }
            Opcode::Ack => {
                // The Windows boot manager's ACKs are one byte too long.
                let (block, _excess) = split_number(body)?;
                Ok(Self::Ack(BlockNumber(block)))
            }
            Opcode::Error => {
                // The text may lack its NUL, or be missing altogether.
                let (code, text) = split_number(body)?;
                Ok(Self::Error {
                    code: ErrorCode::from_wire(code),
                    message: split_string(text).0,
                })
            }
        }
    }
}

impl<'a> Request<'a> {
    /// Parses what follows the opcode. The last string may lack its NUL, and anything may
    /// follow the mode: what isn't an option is ignored (HP PA-RISC and `OpenFirmware` pad
    /// to 516 bytes).
    fn parse(direction: Direction, body: &'a [u8]) -> Result<Self, ParseError> {
        let (filename, after_name) = split_string(body);
        if filename.is_empty() {
            return Err(ParseError::EmptyFilename);
        }
        let (mode, after_mode) = split_string(after_name.unwrap_or_default());
        if mode.is_empty() {
            return Err(ParseError::MissingMode);
        }
        Ok(Self {
            direction,
            filename,
            mode: Mode::from_wire(mode)?,
            options: RawOptions::new(after_mode.unwrap_or_default()),
        })
    }
}

/// Why a datagram isn't a TFTP packet that we accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Fewer bytes than an opcode, or than the opcode asks for.
    TooShort,
    /// An opcode that TFTP does not have.
    UnknownOpcode(u16),
    /// A request without a file name.
    EmptyFilename,
    /// A request without a mode.
    MissingMode,
    /// A request in mode `mail`, obsolete since RFC 1350.
    MailMode,
    /// A request in a mode that TFTP does not have.
    UnknownMode,
}

impl ParseError {
    /// The text of the ERROR 4 that answers a malformed request. `None`: it isn't a request,
    /// and gets no answer.
    pub const fn reply(self) -> Option<&'static str> {
        match self {
            Self::TooShort | Self::UnknownOpcode(_) => None,
            Self::EmptyFilename => Some("Malformed request: no file name"),
            Self::MissingMode => Some("Malformed request: no transfer mode"),
            Self::MailMode => Some("Mode mail is obsolete: use octet or netascii"),
            Self::UnknownMode => Some("Unknown transfer mode: use octet or netascii"),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("datagram too short"),
            Self::UnknownOpcode(number) => write!(f, "unknown opcode {number}"),
            Self::EmptyFilename => f.write_str("request without a file name"),
            Self::MissingMode => f.write_str("request without a transfer mode"),
            Self::MailMode => f.write_str("request in the obsolete mode mail"),
            Self::UnknownMode => f.write_str("request in an unknown transfer mode"),
        }
    }
}

impl std::error::Error for ParseError {}

/// The header of a DATA packet.
pub const fn emit_data_header(block: BlockNumber) -> [u8; DATA_HEADER_LEN] {
    numbered(Opcode::Data, block.0)
}

/// An ACK packet.
pub const fn emit_ack(block: BlockNumber) -> [u8; ACK_LEN] {
    numbered(Opcode::Ack, block.0)
}

/// Writes an ERROR packet and returns its length in bytes: at most
/// [`MAX_ERROR_LEN`], and 0 if `packet` hasn't even room for an empty text.
///
/// The text ends at a NUL, and is cut to [`MAX_ERROR_TEXT`] bytes and to the
/// room in `packet`, never within a character.
pub fn emit_error(code: ErrorCode, text: &str, packet: &mut [u8]) -> usize {
    let Some((header, rest)) = packet.split_first_chunk_mut() else {
        return 0;
    };
    let Some(room) = rest.len().checked_sub(1) else {
        return 0;
    };
    let text = text.split('\0').next().unwrap_or_default();
    let mut len = text.len().min(MAX_ERROR_TEXT).min(room);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    *header = numbered(Opcode::Error, code.to_wire());
    rest[..len].copy_from_slice(&text.as_bytes()[..len]);
    rest[len] = 0;
    header.len() + len + 1
}

/// Writes an RRQ or WRQ and returns its length in bytes.
///
/// # Errors
/// If the file name or an option's name is empty, a string contains a NUL, or the request is
/// longer than `packet`. RFC 2347 allows [`MAX_REQUEST_LEN`].
pub fn emit_request<'o, V: AsRef<str>>(
    direction: Direction,
    filename: &[u8],
    mode: Mode,
    options: impl IntoIterator<Item = (&'o str, V)>,
    packet: &mut [u8],
) -> Result<usize, EmitError> {
    if filename.is_empty() {
        return Err(EmitError::EmptyName);
    }
    if filename.contains(&0) {
        return Err(EmitError::NulByte);
    }
    let mut writer = Writer::new(packet);
    writer.bytes(&direction.opcode().to_wire())?;
    writer.bytes(filename)?;
    writer.bytes(b"\0")?;
    writer.bytes(mode.name().as_bytes())?;
    writer.bytes(b"\0")?;
    for (name, value) in options {
        let value = value.as_ref();
        if name.is_empty() {
            return Err(EmitError::EmptyName);
        }
        if name.contains('\0') || value.contains('\0') {
            return Err(EmitError::NulByte);
        }
        writer.option(name.as_bytes(), value)?;
    }
    Ok(writer.len())
}

/// Why a request cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmitError {
    /// The file name or an option's name is empty.
    EmptyName,
    /// A string contains a NUL, where it would end.
    NulByte,
    /// The request does not fit into the buffer.
    TooLong,
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyName => "the name of the file or of an option is empty",
            Self::NulByte => "the name of the file or an option contains a NUL byte",
            Self::TooLong => "file name and options are too long for one request",
        })
    }
}

impl std::error::Error for EmitError {}

impl From<fmt::Error> for EmitError {
    fn from(_: fmt::Error) -> Self {
        Self::TooLong
    }
}

fn split_number(body: &[u8]) -> Result<(u16, &[u8]), ParseError> {
    body.split_first_chunk::<2>()
        .map(|(number, rest)| (u16::from_be_bytes(*number), rest))
        .ok_or(ParseError::TooShort)
}

const fn numbered(opcode: Opcode, number: u16) -> [u8; 4] {
    let [a, b] = opcode.to_wire();
    let [c, d] = number.to_be_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(datagram: &[u8]) -> Result<Request<'_>, ParseError> {
        match Packet::parse(datagram)? {
            Packet::Request(request) => Ok(request),
            other => panic!("no request: {other:?}"),
        }
    }

    #[test]
    fn packets_are_traced_the_classic_way() {
        for (bytes, shown) in [
            (
                &b"\0\x01a\nb\0OCTET\0blksize\x008\0"[..],
                r"RRQ <file=a\x0ab, mode=octet, blksize=8>",
            ),
            (b"\0\x02f\0netascii\0", "WRQ <file=f, mode=netascii>"),
            (b"\0\x03\0\x07data", "DATA <block=7, 4 bytes>"),
            (b"\0\x04\xff\xff", "ACK <block=65535>"),
            (b"\0\x05\0\x01gone\0", "ERROR <code=1, msg=gone>"),
            (
                b"\0\x06tsize\x009\0blksize\x008\0",
                "OACK <tsize=9, blksize=8>",
            ),
        ] {
            assert_eq!(Packet::parse(bytes).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn numbers_that_tftp_does_not_know_stay_numbers() {
        for number in 0..=u16::MAX {
            assert_eq!(ErrorCode::from_wire(number).to_wire(), number);
            match Opcode::from_wire(number) {
                Some(opcode) => assert_eq!(opcode.to_wire(), number.to_be_bytes()),
                None => assert!(!(1..=6).contains(&number)),
            }
        }
    }

    #[test]
    fn every_kind_of_packet_is_told_apart() {
        for (datagram, packet) in [
            (
                &b"\0\x03\xff\xfe"[..],
                Packet::Data {
                    block: BlockNumber(65_534),
                    payload: b"",
                },
            ),
            (
                b"\0\x03\0\x01\0x",
                Packet::Data {
                    block: BlockNumber(1),
                    payload: b"\0x",
                },
            ),
            (b"\0\x04\x01\x02", Packet::Ack(BlockNumber(258))),
            // Windows boot manager: one byte too many.
            (b"\0\x04\x01\x02\0", Packet::Ack(BlockNumber(258))),
            (
                b"\0\x05\0\x01gone\0",
                Packet::Error {
                    code: ErrorCode::FileNotFound,
                    message: b"gone",
                },
            ),
            // No NUL; no text; something after the NUL.
            (
                b"\0\x05\0\x08no",
                Packet::Error {
                    code: ErrorCode::OptionRefused,
                    message: b"no",
                },
            ),
            (
                b"\0\x05\x01\0",
                Packet::Error {
                    code: ErrorCode::Unknown(256),
                    message: b"",
                },
            ),
            (
                b"\0\x05\0\0a\0b",
                Packet::Error {
                    code: ErrorCode::NotDefined,
                    message: b"a",
                },
            ),
            (b"\0\x06", Packet::Oack(RawOptions::new(b""))),
            (
                b"\0\x06tsize\x001\0",
                Packet::Oack(RawOptions::new(b"tsize\x001\0")),
            ),
        ] {
            assert_eq!(Packet::parse(datagram), Ok(packet), "{datagram:?}");
        }
    }

    #[test]
    fn requests_are_read_as_leniently_as_clients_need() {
        for (datagram, filename, mode, options) in [
            (
                &b"\0\x01a/b\0octet\0"[..],
                &b"a/b"[..],
                Mode::Octet,
                &b""[..],
            ),
            (b"\0\x01a\0OcTeT\0", b"a", Mode::Octet, b""),
            (b"\0\x01a\0NETASCII\0", b"a", Mode::Netascii, b""),
            // The last NUL is missing.
            (b"\0\x01a\0octet", b"a", Mode::Octet, b""),
            (b"\0\x01a\0octet\0x\x001", b"a", Mode::Octet, b"x\x001"),
            // HP PA-RISC, OpenFirmware: padding or garbage.
            (b"\0\x01a\0octet\0\0\0\0", b"a", Mode::Octet, b"\0\0\0"),
            (b"\0\x01a\0octet\0\xff\x80", b"a", Mode::Octet, b"\xff\x80"),
            // Names are bytes: Windows boot manager, Lenovo firmware.
            (
                b"\0\x01\\Boot\\BCD\0octet\0",
                b"\\Boot\\BCD",
                Mode::Octet,
                b"",
            ),
            (b"\0\x01a\xff\xff\0octet\0", b"a\xff\xff", Mode::Octet, b""),
        ] {
            let expected = Request {
                direction: Direction::Read,
                filename,
                mode,
                options: RawOptions::new(options),
            };
            assert_eq!(request(datagram), Ok(expected), "{datagram:?}");
        }

        let long = [b"\0\x02", &[b'n'; 600][..], b"\0octet\0"].concat();
        let parsed = request(&long).unwrap();
        assert_eq!(
            (parsed.direction, parsed.filename.len()),
            (Direction::Write, 600)
        );
    }

    #[test]
    fn malformed_requests_get_an_answer_and_the_rest_none() {
        for (datagram, error, answered) in [
            (&b""[..], ParseError::TooShort, false),
            (b"\0", ParseError::TooShort, false),
            (b"\0\x03\0", ParseError::TooShort, false),
            (b"\0\x04\0", ParseError::TooShort, false),
            (b"\0\x05", ParseError::TooShort, false),
            (b"\0\0", ParseError::UnknownOpcode(0), false),
            (b"\0\x07abc", ParseError::UnknownOpcode(7), false),
            (b"\x01\0abc", ParseError::UnknownOpcode(256), false),
            (b"\0\x01", ParseError::EmptyFilename, true),
            (b"\0\x02\0octet\0", ParseError::EmptyFilename, true),
            (b"\0\x01name", ParseError::MissingMode, true),
            (b"\0\x01name\0", ParseError::MissingMode, true),
            (b"\0\x01name\0\0octet\0", ParseError::MissingMode, true),
            (b"\0\x02user\0Mail\0", ParseError::MailMode, true),
            (b"\0\x01name\0binary\0", ParseError::UnknownMode, true),
            (b"\0\x01name\0octet\xff", ParseError::UnknownMode, true),
        ] {
            assert_eq!(Packet::parse(datagram), Err(error), "{datagram:?}");
            assert_eq!(error.reply().is_some(), answered, "{datagram:?}");
        }
    }

    #[test]
    fn an_error_text_is_cut_between_characters() {
        let mut packet = [0xee; MAX_ERROR_LEN + 9];
        assert_eq!(emit_error(ErrorCode::DiskFull, "full", &mut packet), 9);
        assert_eq!(&packet[..10], b"\0\x05\0\x03full\0\xee");

        // 127 characters of two bytes are 254 bytes; one more would be 256.
        let len = emit_error(ErrorCode::NotDefined, &"ä".repeat(200), &mut packet);
        assert_eq!(len, 4 + 254 + 1);
        let len = emit_error(ErrorCode::NotDefined, &"a".repeat(300), &mut packet);
        assert_eq!((len, packet[len - 1]), (MAX_ERROR_LEN, 0));

        for (room, len) in [
            (0, 0),
            (3, 0),
            (4, 0),
            (5, 5),
            (6, 5),
            (7, 7),
            (8, 8),
            (9, 8),
        ] {
            let written = emit_error(ErrorCode::NotDefined, "äa\0b", &mut packet[..room]);
            assert_eq!(written, len, "{room}");
        }
    }

    #[test]
    fn a_request_that_would_be_misread_is_not_written() {
        let mut packet = [0; MAX_REQUEST_LEN];
        let mut emit = |name: &[u8], options: &[(&str, &str)]| {
            emit_request(
                Direction::Read,
                name,
                Mode::Octet,
                options.iter().copied(),
                &mut packet,
            )
        };
        assert_eq!(emit(b"", &[]), Err(EmitError::EmptyName));
        assert_eq!(emit(b"a\0b", &[]), Err(EmitError::NulByte));
        assert_eq!(emit(b"a", &[("", "1")]), Err(EmitError::EmptyName));
        assert_eq!(emit(b"a", &[("b\0", "1")]), Err(EmitError::NulByte));
        assert_eq!(emit(b"a", &[("b", "\0")]), Err(EmitError::NulByte));
        // 2 + name + 1 + "octet" + 1
        assert_eq!(emit(&[b'a'; 503], &[]), Ok(512));
        assert_eq!(emit(&[b'a'; 504], &[]), Err(EmitError::TooLong));
        assert_eq!(emit(&[b'a'; 499], &[("b", "1")]), Ok(512));
        assert_eq!(emit(&[b'a'; 500], &[("b", "1")]), Err(EmitError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_to_the_same(
            number: u16,
            payload: Vec<u8>,
            text in "[^\0]{0,60}",
            write: bool,
            netascii: bool,
            filename in prop::collection::vec(1u8.., 1..80),
            options in prop::collection::vec(("[^\0]{1,12}", "[^\0]{0,12}"), 0..4),
        ) {
            let block = BlockNumber(number);
            let data = [&emit_data_header(block)[..], &payload].concat();
            prop_assert_eq!(
                Packet::parse(&data),
                Ok(Packet::Data { block, payload: &payload })
            );
            let ack = emit_ack(block);
            prop_assert_eq!(Packet::parse(&ack), Ok(Packet::Ack(block)));

            let code = ErrorCode::from_wire(number);
            let mut packet = [0; MAX_REQUEST_LEN];
            let len = emit_error(code, &text, &mut packet);
            prop_assert_eq!(
                Packet::parse(&packet[..len]),
                Ok(Packet::Error { code, message: text.as_bytes() })
            );

            let direction = if write { Direction::Write } else { Direction::Read };
            let mode = if netascii { Mode::Netascii } else { Mode::Octet };
            let pairs = options.iter().map(|(name, value)| (name.as_str(), value));
            let len = emit_request(direction, &filename, mode, pairs, &mut packet).unwrap();
            let parsed = request(&packet[..len]).unwrap();
            prop_assert_eq!(
                (parsed.direction, parsed.filename, parsed.mode),
                (direction, &filename[..], mode)
            );
            let expected = options
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            prop_assert!(parsed.options.pairs().eq(expected));
        }
    }
}
