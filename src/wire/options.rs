//! Options: what a request asks for and what both ends agree on (RFC 2347;
//! blksize 2348, timeout and tsize 2349, windowsize 7440; and three without an
//! RFC: utimeout and blksize2 as tftp-hpa has them, rollover).
//!
//! The server uses [`negotiate`], the client [`accept`]. An option that makes no sense to
//! the server is left out of its answer, never refused.
//!
//! Must not: allocate in these two, know a file, or fail on anything that arrives.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::packet::{Direction, Mode, Opcode, Request};
pub use super::raw_options::RawOptions;
use super::writer::Writer;

/// The block size without negotiation, in bytes (RFC 1350 §2).
pub const DEFAULT_BLKSIZE: u16 = 512;
/// The smallest block size that can be agreed on, in bytes (RFC 2348).
pub const MIN_BLKSIZE: u16 = 8;
/// The largest block size that can be agreed on, in bytes (RFC 2348).
pub const MAX_BLKSIZE: u16 = 65_464;
/// Blocks in flight without negotiation: lockstep (RFC 1350 §2).
pub const DEFAULT_WINDOWSIZE: u16 = 1;
/// The most blocks in flight, though RFC 7440 allows 65535: with more, a late ACK couldn't be
/// told from an ACK of a block ahead.
pub const MAX_IN_FLIGHT: u16 = 32_767;
/// The largest window a server grants unless told otherwise, in blocks.
pub const DEFAULT_MAX_WINDOWSIZE: u16 = 64;

/// The options we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionName {
    /// Block size in bytes (RFC 2348).
    Blksize,
    /// Block size in bytes, rounded down to a power of two (tftp-hpa, atftpd).
    Blksize2,
    /// Retransmission timeout in seconds (RFC 2349).
    Timeout,
    /// Retransmission timeout in microseconds (tftp-hpa).
    Utimeout,
    /// Size of the file in bytes (RFC 2349).
    Tsize,
    /// Blocks sent before an ACK is awaited (RFC 7440).
    Windowsize,
    /// The number after block 65535: 0 or 1.
    Rollover,
}

impl OptionName {
    /// Every option we know.
    pub const ALL: [Self; 7] = [
        Self::Blksize,
        Self::Blksize2,
        Self::Timeout,
        Self::Utimeout,
        Self::Tsize,
        Self::Windowsize,
        Self::Rollover,
    ];

    /// The option a name stands for, in any case (RFC 2347).
    pub fn from_wire(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|option| option.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// The option's name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blksize => "blksize",
            Self::Blksize2 => "blksize2",
            Self::Timeout => "timeout",
            Self::Utimeout => "utimeout",
            Self::Tsize => "tsize",
            Self::Windowsize => "windowsize",
            Self::Rollover => "rollover",
        }
    }

    /// The one option that stands for all options with the same effect.
    const fn setting(self) -> Self {
        match self {
            Self::Blksize2 => Self::Blksize,
            Self::Utimeout => Self::Timeout,
            other => other,
        }
    }
}

/// A set of [`OptionName`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OptionSet(u8);

impl OptionSet {
    /// Adds an option. Returns whether it was new.
    pub const fn insert(&mut self, option: OptionName) -> bool {
        let new = !self.contains(option);
        self.0 |= 1 << option as u8;
        new
    }

    /// Whether the option is in the set.
    pub const fn contains(self, option: OptionName) -> bool {
        self.0 & (1 << option as u8) != 0
    }

    /// The options that are in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Which number follows block 65535 on the wire.
///
/// RFC 1350 doesn't say; nearly all implementations wrap to 0, a few to 1, and
/// the `rollover` option lets a client choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rollover {
    /// 65535 is followed by 0 (a period of 65536).
    #[default]
    ToZero,
    /// 65535 is followed by 1 (a period of 65535; 0 is the handshake alone).
    ToOne,
}

impl Rollover {
    const fn from_number(number: u128) -> Option<Self> {
        match number {
            0 => Some(Self::ToZero),
            1 => Some(Self::ToOne),
            _ => None,
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::ToZero => 0,
            Self::ToOne => 1,
        }
    }
}

/// What a server grants at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest block size, in bytes: [`MIN_BLKSIZE`]…[`MAX_BLKSIZE`].
    pub max_blksize: u16,
    /// Largest window, in blocks: 1…65535.
    pub max_windowsize: u16,
    /// Options to be treated as unknown.
    pub refused: OptionSet,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_blksize: MAX_BLKSIZE,
            max_windowsize: DEFAULT_MAX_WINDOWSIZE,
            refused: OptionSet::default(),
        }
    }
}

/// What both ends of a transfer agreed on. The default is RFC 1350 without options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// Bytes a block: [`MIN_BLKSIZE`]…[`MAX_BLKSIZE`].
    pub blksize: u16,
    /// Blocks in flight: 1…[`MAX_IN_FLIGHT`].
    pub windowsize: u16,
    /// Retransmission timeout, if one was agreed on.
    pub timeout: Option<Duration>,
    /// Size of the file in bytes as stated by the *other* end: for the server in the WRQ, for
    /// the client in the OACK.
    pub tsize: Option<u64>,
    /// The number after block 65535.
    pub rollover: Rollover,
}

impl Default for Negotiated {
    fn default() -> Self {
        Self {
            blksize: DEFAULT_BLKSIZE,
            windowsize: DEFAULT_WINDOWSIZE,
            timeout: None,
            tsize: None,
            rollover: Rollover::default(),
        }
    }
}

/// The server's side: decides on a request's options and writes the OACK.
///
/// `file_size` is the size in bytes of the file to be read, if known. The whole packet,
/// opcode included, is written to `oack`, and its length is returned. Length 0 means that
/// nothing was accepted and no OACK is to be sent (RFC 2347). Options are answered in the
/// request's order and spelling (U-Boot's comparison is case-sensitive), and never with more
/// than was asked for (EDK2 refuses that). Of several options for the same setting the first
/// acceptable one counts. An option whose answer doesn't fit into `oack` is left out.
pub fn negotiate(
    request: &Request<'_>,
    limits: &Limits,
    file_size: Option<u64>,
    oack: &mut [u8],
) -> (Negotiated, usize) {
    let mut agreed = Negotiated::default();
    let mut settled = OptionSet::default();
    let mut writer = Writer::new(oack);
    if writer.bytes(&Opcode::Oack.to_wire()).is_err() {
        return (agreed, 0);
    }
    for (spelling, value) in request.options.pairs() {
        let Some(option) = OptionName::from_wire(spelling) else {
            continue;
        };
        if limits.refused.contains(option) || settled.contains(option.setting()) {
            continue;
        }
        let mut proposal = agreed;
        let answer = decimal(value)
            .and_then(|asked| grant(option, asked, request, *limits, file_size, &mut proposal));
        let Some(answer) = answer else {
            continue;
        };
        if writer.option(spelling, answer).is_ok() {
            agreed = proposal;
            settled.insert(option.setting());
        }
    }
    let len = if settled.is_empty() { 0 } else { writer.len() };
    (agreed, len)
}

/// Puts one option into `agreed`. Returns the number to answer, or `None` to leave the option
/// out.
fn grant(
    option: OptionName,
    asked: u128,
    request: &Request<'_>,
    limits: Limits,
    file_size: Option<u64>,
    agreed: &mut Negotiated,
) -> Option<u64> {
    let max_blksize = limits.max_blksize.min(MAX_BLKSIZE);
    match option {
        OptionName::Blksize => {
            agreed.blksize = at_most(asked, MIN_BLKSIZE, max_blksize)?;
            Some(agreed.blksize.into())
        }
        OptionName::Blksize2 => {
            agreed.blksize = 1 << at_most(asked, MIN_BLKSIZE, max_blksize)?.ilog2();
            Some(agreed.blksize.into())
        }
        OptionName::Timeout => {
            let seconds = within(asked, TIMEOUT_SECONDS)?;
            agreed.timeout = Some(Duration::from_secs(seconds));
            Some(seconds)
        }
        OptionName::Utimeout => {
            let microseconds = within(asked, UTIMEOUT_MICROSECONDS)?;
            agreed.timeout = Some(Duration::from_micros(microseconds));
            Some(microseconds)
        }
        OptionName::Tsize => match (request.direction, request.mode) {
            // curl gives up on a tsize of 0, so an empty file has none.
            (Direction::Read, Mode::Octet) => file_size.filter(|&size| size > 0),
            // The size in netascii isn't known before the file has been sent.
            (Direction::Read, Mode::Netascii) => None,
            (Direction::Write, _) => {
                agreed.tsize = Some(u64::try_from(asked).ok()?);
                agreed.tsize
            }
        },
        OptionName::Windowsize => {
            let max = limits.max_windowsize.min(MAX_IN_FLIGHT);
            agreed.windowsize = at_most(asked, 1, max)?;
            Some(agreed.windowsize.into())
        }
        OptionName::Rollover => {
            agreed.rollover = Rollover::from_number(asked)?;
            Some(agreed.rollover.number())
        }
    }
}

/// What a client asks for. `None` leaves the option out of the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// Bytes a block: [`MIN_BLKSIZE`]…[`MAX_BLKSIZE`].
    pub blksize: Option<u16>,
    /// Blocks in flight: 1…65535, of which at most [`MAX_IN_FLIGHT`] are asked for.
    pub windowsize: Option<u16>,
    /// Retransmission timeout in seconds: 1…255.
    pub timeout: Option<u8>,
    /// Size of the file in bytes; 0 in a read request asks for it.
    pub tsize: Option<u64>,
    /// The number after block 65535.
    pub rollover: Option<Rollover>,
    /// Further options, name and value, that [`OptionName`] doesn't know. The server's answer
    /// to them is ignored.
    pub extra: Vec<(String, String)>,
}

impl Offer {
    /// Names and values for the request, in a fixed order.
    pub fn options(&self) -> impl Iterator<Item = (&str, String)> {
        let known = [
            (OptionName::Tsize, self.tsize),
            (OptionName::Blksize, self.blksize.map(u64::from)),
            (OptionName::Timeout, self.timeout.map(u64::from)),
            (OptionName::Windowsize, self.windowsize().map(u64::from)),
            (OptionName::Rollover, self.rollover.map(Rollover::number)),
        ];
        known
            .into_iter()
            .filter_map(|(option, value)| Some((option.name(), value?.to_string())))
            .chain(
                self.extra
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.clone())),
            )
    }

    fn windowsize(&self) -> Option<u16> {
        let max = MAX_IN_FLIGHT;
        self.windowsize.map(|asked| asked.min(max))
    }

    fn asks_extra(&self, name: &[u8]) -> bool {
        self.extra
            .iter()
            .any(|(asked, _)| asked.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Puts one option of the OACK into `agreed`.
    fn confirm(
        &self,
        option: OptionName,
        value: &[u8],
        agreed: &mut Negotiated,
    ) -> Result<(), OackProblem> {
        use OackProblem::{DiffersFromAsked, InvalidNumber, NotAsked};
        let told = decimal(value);
        match option {
            OptionName::Blksize => {
                let asked = self.blksize.ok_or(NotAsked)?;
                agreed.blksize = confirm_size(told, MIN_BLKSIZE, asked)?;
            }
            OptionName::Windowsize => {
                let asked = self.windowsize().ok_or(NotAsked)?;
                agreed.windowsize = confirm_size(told, 1, asked)?;
            }
            OptionName::Timeout => {
                let asked = self.timeout.ok_or(NotAsked)?;
                if told.ok_or(InvalidNumber)? != asked.into() {
                    return Err(DiffersFromAsked);
                }
                agreed.timeout = Some(Duration::from_secs(asked.into()));
            }
            OptionName::Tsize => {
                self.tsize.ok_or(NotAsked)?;
                let size = told.and_then(|size| u64::try_from(size).ok());
                agreed.tsize = Some(size.ok_or(InvalidNumber)?);
            }
            OptionName::Rollover => {
                let asked = self.rollover.ok_or(NotAsked)?;
                if told.ok_or(InvalidNumber)? != asked.number().into() {
                    return Err(DiffersFromAsked);
                }
                agreed.rollover = asked;
            }
            OptionName::Blksize2 | OptionName::Utimeout => return Err(NotAsked),
        }
        Ok(())
    }
}

/// The client's side: checks the server's OACK.
///
/// # Errors
/// If an option wasn't asked for, came twice, isn't a number, is too small, is larger than
/// asked for (blksize, windowsize), or differs from what was asked for (timeout, rollover).
/// Tells the problem of the first such option. The client answers with ERROR 8 (RFC 2347).
pub fn accept(offer: &Offer, oack: RawOptions<'_>) -> Result<Negotiated, OackProblem> {
    let mut agreed = Negotiated::default();
    let mut seen = OptionSet::default();
    for (name, value) in oack.pairs() {
        match OptionName::from_wire(name) {
            Some(option) if !seen.insert(option) => return Err(OackProblem::Repeated),
            Some(option) => offer.confirm(option, value, &mut agreed)?,
            None if offer.asks_extra(name) => {}
            None => return Err(OackProblem::NotAsked),
        }
    }
    Ok(agreed)
}

/// What can be wrong with an option of an OACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OackProblem {
    /// The request did not ask for this option.
    NotAsked,
    /// The option is in the OACK twice.
    Repeated,
    /// The value isn't a plain decimal number, or it is a size of 2^64 bytes or more.
    InvalidNumber,
    /// A block size below [`MIN_BLKSIZE`], or a window of 0 blocks.
    TooSmall,
    /// The server may answer less, but not more.
    LargerThanAsked,
    /// The server must answer exactly what was asked, or leave the option out.
    DiffersFromAsked,
}

impl OackProblem {
    /// The problem in words, for the ERROR packet.
    pub const fn message(self) -> &'static str {
        match self {
            Self::NotAsked => "Option not asked for",
            Self::Repeated => "Option given twice",
            Self::InvalidNumber => "Option value is no number",
            Self::TooSmall => "Option value too small",
            Self::LargerThanAsked => "Option value larger than asked for",
            Self::DiffersFromAsked => "Option value other than asked for",
        }
    }
}

/// The number that an option has as its value: only digits. More than fit count as the
/// largest number.
fn decimal(value: &[u8]) -> Option<u128> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u128, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u128::from(byte - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

/// `asked`, but at most `max`; `None` if that is below `min`.
fn at_most(asked: u128, min: u16, max: u16) -> Option<u16> {
    let granted = u16::try_from(asked).unwrap_or(u16::MAX).min(max);
    (granted >= min).then_some(granted)
}

fn within(asked: u128, range: RangeInclusive<u64>) -> Option<u64> {
    u64::try_from(asked)
        .ok()
        .filter(|number| range.contains(number))
}

fn confirm_size(told: Option<u128>, min: u16, asked: u16) -> Result<u16, OackProblem> {
    let told = told.ok_or(OackProblem::InvalidNumber)?;
    match u16::try_from(told) {
        Ok(size) if size < min => Err(OackProblem::TooSmall),
        Ok(size) if size <= asked => Ok(size),
        _ => Err(OackProblem::LargerThanAsked),
    }
}

/// RFC 2349: "values range between 1 and 255 seconds, inclusive".
const TIMEOUT_SECONDS: RangeInclusive<u64> = 1..=255;

/// The range tftp-hpa grants: 10 ms to 255 s.
const UTIMEOUT_MICROSECONDS: RangeInclusive<u64> = 10_000..=255_000_000;

#[cfg(test)]
mod tests {
    use super::super::escape::escape;
    use super::*;

    /// Options as bytes of a packet, from `name value name value`.
    fn raw(words: &str) -> Vec<u8> {
        words
            .split_whitespace()
            .flat_map(|word| [if word == "\"\"" { "" } else { word }, "\0"])
            .collect::<String>()
            .into_bytes()
    }

    fn request(direction: Direction, mode: Mode, options: &[u8]) -> Request<'_> {
        Request {
            direction,
            filename: b"file",
            mode,
            options: RawOptions::new(options),
        }
    }

    /// Negotiates and returns the OACK as words.
    fn answer(request: &Request<'_>, limits: Limits, size: Option<u64>) -> (Negotiated, String) {
        let mut oack = [0xee; 512];
        let (agreed, len) = negotiate(request, &limits, size, &mut oack);
        let words = match &oack[..len] {
            [] => String::new(),
            [0, 6, options @ ..] => RawOptions::new(options)
                .pairs()
                .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
                .collect::<Vec<_>>()
                .join(" "),
            other => panic!("no OACK: {other:?}"),
        };
        (agreed, words)
    }

    #[test]
    fn names_are_found_in_any_case() {
        for option in OptionName::ALL {
            assert_eq!(
                OptionName::from_wire(option.name().as_bytes()),
                Some(option)
            );
        }
        assert_eq!(OptionName::from_wire(b"BlkSize"), Some(OptionName::Blksize));
        for unknown in [&b""[..], b"blksiz", b"blksize3", b"multicast", b"\xff"] {
            assert_eq!(OptionName::from_wire(unknown), None);
        }
    }

    #[test]
    fn pairs_end_at_the_first_malformed_option() {
        for (bytes, pairs) in [
            (&b""[..], &[][..]),
            (b"a\x001\0b\x002\0", &["a=1", "b=2"]),
            // No final NUL.
            (b"a\x001\0b\x002", &["a=1", "b=2"]),
            // A name alone.
            (b"a\x001\0b\0", &["a=1"]),
            (b"a\x001\0b", &["a=1"]),
            // An empty value.
            (b"a\0\0b\x002\0", &["a=", "b=2"]),
            (b"b\x002\0a\0\0", &["b=2", "a="]),
            // Padding and garbage.
            (b"a\x001\0\0\0b\x002\0", &["a=1"]),
            (b"\0\0\0\0", &[]),
            (b"\xff\xfe\xfd", &[]),
        ] {
            let got: Vec<_> = RawOptions::new(bytes)
                .pairs()
                .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
                .collect();
            assert_eq!(got, pairs, "{}", escape(bytes));
        }
    }

    #[test]
    fn the_server_answers_no_more_than_asked_and_granted() {
        let limits = Limits {
            max_blksize: 8192,
            max_windowsize: 16,
            refused: OptionSet::default(),
        };
        for (asked, answered) in [
            ("", ""),
            // RFC 2348: 8…65464, "less than or equal".
            ("blksize 8", "blksize=8"),
            ("blksize 7", ""),
            ("blksize 0", ""),
            ("blksize 1428", "blksize=1428"),
            ("blksize 8193", "blksize=8192"),
            ("blksize 65465", "blksize=8192"),
            ("blksize 99999999999999999999999", "blksize=8192"),
            ("blksize 00512", "blksize=512"),
            // Not plain decimal.
            ("blksize +512", ""),
            ("blksize -1", ""),
            ("blksize 0x200", ""),
            ("blksize 512k", ""),
            ("blksize \"\"", ""),
            // However many digits there are.
            (
                "blksize 9999999999999999999999999999999999999999",
                "blksize=8192",
            ),
            (
                "windowsize 9999999999999999999999999999999999999999",
                "windowsize=16",
            ),
            (
                "blksize 0000000000000000000000000000000000000000600",
                "blksize=600",
            ),
            // A power of two, rounded down.
            ("blksize2 8", "blksize2=8"),
            ("blksize2 7", ""),
            ("blksize2 1428", "blksize2=1024"),
            ("blksize2 65464", "blksize2=8192"),
            // RFC 7440: 1…65535.
            ("windowsize 1", "windowsize=1"),
            ("windowsize 0", ""),
            ("windowsize 17", "windowsize=16"),
            ("windowsize 65536", "windowsize=16"),
            // RFC 2349: 1…255; npm's client sends 1000.
            ("timeout 1", "timeout=1"),
            ("timeout 255", "timeout=255"),
            ("timeout 0", ""),
            ("timeout 256", ""),
            ("timeout 1000", ""),
            ("utimeout 10000", "utimeout=10000"),
            ("utimeout 255000000", "utimeout=255000000"),
            ("utimeout 9999", ""),
            ("utimeout 255000001", ""),
            ("rollover 0", "rollover=0"),
            ("rollover 1", "rollover=1"),
            ("rollover 2", ""),
            ("tsize 0", "tsize=70000"),
            ("tsize 99999999999999999999", "tsize=70000"),
            ("tsize x", ""),
            // Order and spelling are the client's; unknown options are ignored.
            (
                "TSize 0 multicast \"\" BLKSIZE 512 msftwindow 31416 windowSize 4",
                "TSize=70000 BLKSIZE=512 windowSize=4",
            ),
            // Several options for one setting: the first acceptable one counts.
            ("blksize 512 BLKSIZE 1024", "blksize=512"),
            ("blksize 1 blksize 1024", "blksize=1024"),
            ("blksize2 512 blksize 1024", "blksize2=512"),
            ("blksize 1024 blksize2 512", "blksize=1024"),
            ("timeout 3 utimeout 500000", "timeout=3"),
            ("utimeout 500000 timeout 3", "utimeout=500000"),
            ("timeout 1000 utimeout 500000", "utimeout=500000"),
        ] {
            let options = raw(asked);
            let request = request(Direction::Read, Mode::Octet, &options);
            let (_, words) = answer(&request, limits, Some(70_000));
            assert_eq!(words, answered, "{asked}");
        }
    }

    #[test]
    fn what_is_answered_is_what_is_agreed() {
        let asked = raw("blksize 1428 windowsize 100 utimeout 250000 rollover 1 tsize 12345");
        let write = request(Direction::Write, Mode::Octet, &asked);
        let (agreed, words) = answer(&write, Limits::default(), None);
        assert_eq!(
            words,
            "blksize=1428 windowsize=64 utimeout=250000 rollover=1 tsize=12345"
        );
        assert_eq!(
            agreed,
            Negotiated {
                blksize: 1428,
                windowsize: 64,
                timeout: Some(Duration::from_millis(250)),
                tsize: Some(12_345),
                rollover: Rollover::ToOne,
            }
        );

        let rejected = raw("blksize 1 windowsize 0 timeout 0 rollover 7 tsize -1");
        let write = request(Direction::Write, Mode::Octet, &rejected);
        let (agreed, words) = answer(&write, Limits::default(), None);
        assert_eq!((agreed, &*words), (Negotiated::default(), ""));
    }

    #[test]
    fn tsize_is_the_size_of_a_read_and_the_echo_of_a_write() {
        let (read, write) = (Direction::Read, Direction::Write);
        for (direction, mode, value, size, answered, told) in [
            (read, Mode::Octet, "0", Some(1), "tsize=1", None),
            (
                read,
                Mode::Octet,
                "7",
                Some(u64::MAX),
                "tsize=18446744073709551615",
                None,
            ),
            // curl refuses tsize=0.
            (read, Mode::Octet, "0", Some(0), "", None),
            (read, Mode::Octet, "0", None, "", None),
            (read, Mode::Netascii, "0", Some(1), "", None),
            (write, Mode::Octet, "0", None, "tsize=0", Some(0)),
            (write, Mode::Netascii, "77", Some(1), "tsize=77", Some(77)),
            (
                write,
                Mode::Octet,
                "18446744073709551615",
                None,
                "tsize=18446744073709551615",
                Some(u64::MAX),
            ),
            (write, Mode::Octet, "18446744073709551616", None, "", None),
        ] {
            let options = raw(&format!("tsize {value}"));
            let request = request(direction, mode, &options);
            let (agreed, words) = answer(&request, Limits::default(), size);
            assert_eq!(
                (&*words, agreed.tsize),
                (answered, told),
                "{direction:?} {mode:?} {value} {size:?}"
            );
        }
    }

    #[test]
    fn the_window_is_capped_whatever_the_rollover() {
        let limits = Limits {
            max_windowsize: u16::MAX,
            ..Limits::default()
        };
        for (asked, answered) in [
            ("windowsize 65535", "windowsize=32767"),
            ("rollover 1 windowsize 65535", "rollover=1 windowsize=32767"),
            ("rollover 0 windowsize 65535", "rollover=0 windowsize=32767"),
            ("windowsize 65535 rollover 1", "windowsize=32767 rollover=1"),
            ("windowsize 32767 rollover 1", "windowsize=32767 rollover=1"),
        ] {
            let options = raw(asked);
            let request = request(Direction::Read, Mode::Octet, &options);
            let (agreed, words) = answer(&request, limits, None);
            assert_eq!(words, answered);
            assert!(agreed.windowsize <= MAX_IN_FLIGHT);
        }
    }

    #[test]
    fn refused_options_count_as_unknown() {
        let mut limits = Limits::default();
        assert!(limits.refused.insert(OptionName::Blksize));
        assert!(limits.refused.insert(OptionName::Tsize));
        assert!(!limits.refused.insert(OptionName::Tsize));
        let options = raw("tsize 0 blksize 1428 blksize2 1024 timeout 2");
        let request = request(Direction::Read, Mode::Octet, &options);
        let (agreed, words) = answer(&request, limits, Some(9));
        assert_eq!(words, "blksize2=1024 timeout=2");
        assert_eq!(agreed.blksize, 1024);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_not_agreed_on() {
        let options = raw("blksize 1428 windowsize 4 timeout 9");
        let request = request(Direction::Read, Mode::Octet, &options);
        let whole = b"\0\x06blksize\x001428\0windowsize\x004\0timeout\x009\0";
        let limits = Limits::default();
        for room in 0..=whole.len() {
            let mut oack = vec![0; room];
            let (agreed, len) = negotiate(&request, &limits, None, &mut oack);
            let answered = |name: &str| {
                oack[..len]
                    .windows(name.len())
                    .any(|window| window == name.as_bytes())
            };
            assert_eq!(answered("blksize"), agreed.blksize == 1428, "{room}");
            assert_eq!(answered("windowsize"), agreed.windowsize == 4, "{room}");
            assert_eq!(answered("timeout"), agreed.timeout.is_some(), "{room}");
            assert_eq!(len == 0, agreed == Negotiated::default(), "{room}");
            if room == whole.len() {
                assert_eq!(oack, whole);
            }
        }
    }

    #[test]
    fn each_problem_with_an_oack_has_its_message() {
        let mut told = std::collections::BTreeSet::new();
        for (oack, message) in [
            ("utimeout 1", "Option not asked for"),
            ("x 1", "Option not asked for"),
            ("blksize 8 blksize 8", "Option given twice"),
            ("blksize x", "Option value is no number"),
            ("blksize 7", "Option value too small"),
            ("windowsize 0", "Option value too small"),
            ("blksize 1429", "Option value larger than asked for"),
            ("timeout 4", "Option value other than asked for"),
        ] {
            let problem = accept(&offer(), RawOptions::new(&raw(oack))).unwrap_err();
            assert_eq!(problem.message(), message, "{oack}");
            told.insert(message);
        }
        assert_eq!(told.len(), 6);
    }

    fn offer() -> Offer {
        Offer {
            blksize: Some(1428),
            windowsize: Some(16),
            timeout: Some(3),
            tsize: Some(0),
            rollover: Some(Rollover::ToZero),
            extra: vec![("multicast".into(), String::new())],
        }
    }

    #[test]
    fn an_offer_has_a_fixed_order() {
        let words: Vec<_> = offer()
            .options()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            words,
            [
                "tsize=0",
                "blksize=1428",
                "timeout=3",
                "windowsize=16",
                "rollover=0",
                "multicast=",
            ]
        );
        assert_eq!(Offer::default().options().count(), 0);
        let wide = Offer {
            windowsize: Some(u16::MAX),
            rollover: Some(Rollover::ToOne),
            ..Offer::default()
        };
        assert_eq!(
            wide.options().next(),
            Some(("windowsize", "32767".to_string()))
        );
    }

    #[test]
    fn the_client_takes_what_it_asked_for_or_less() {
        for (oack, agreed) in [
            ("", Negotiated::default()),
            (
                "tsize 123 blksize 1428 timeout 3 windowsize 16 rollover 0 multicast x,y,1",
                Negotiated {
                    blksize: 1428,
                    windowsize: 16,
                    timeout: Some(Duration::from_secs(3)),
                    tsize: Some(123),
                    rollover: Rollover::ToZero,
                },
            ),
            (
                "BLKSIZE 8 WindowSize 1",
                Negotiated {
                    blksize: 8,
                    ..Negotiated::default()
                },
            ),
        ] {
            assert_eq!(
                accept(&offer(), RawOptions::new(&raw(oack))),
                Ok(agreed),
                "{oack}"
            );
        }
    }

    #[test]
    fn the_client_refuses_everything_else() {
        use OackProblem::{
            DiffersFromAsked, InvalidNumber, LargerThanAsked, NotAsked, Repeated, TooSmall,
        };
        let all = offer();
        let none = Offer::default();
        for (offer, oack, problem) in [
            (&all, "blksize 1429", LargerThanAsked),
            (&all, "blksize 99999999", LargerThanAsked),
            (&all, "blksize 7", TooSmall),
            (&all, "blksize x", InvalidNumber),
            (&all, "blksize \"\"", InvalidNumber),
            (&all, "windowsize 17", LargerThanAsked),
            (&all, "windowsize 0", TooSmall),
            (&all, "timeout 2", DiffersFromAsked),
            (&all, "timeout x", InvalidNumber),
            (&all, "rollover 1", DiffersFromAsked),
            (&all, "tsize 18446744073709551616", InvalidNumber),
            (&all, "blksize 1428 Blksize 512", Repeated),
            (&all, "blksize2 1024", NotAsked),
            (&all, "utimeout 3000000", NotAsked),
            (&all, "checksum 1", NotAsked),
            (&none, "blksize 512", NotAsked),
            (&none, "windowsize 1", NotAsked),
            (&none, "timeout 1", NotAsked),
            (&none, "tsize 1", NotAsked),
            (&none, "rollover 0", NotAsked),
            (&none, "multicast \"\"", NotAsked),
        ] {
            let bytes = raw(oack);
            let judged = accept(offer, RawOptions::new(&bytes));
            assert_eq!(judged, Err(problem), "{oack}");
        }
    }
}
