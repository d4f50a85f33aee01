//! One rule of a map file: when it applies, what it makes of a name, what
//! happens next.
//!
//! Must not: know about other rules, or how a rule is written.

use std::fmt::Write as _;
use std::net::IpAddr;

use regex_lite::{Captures, Regex};

use super::{MAX_NAME, MapRequest, to_text};
use crate::wire::packet::Direction;

/// A line of the map file.
#[derive(Debug)]
pub(super) struct Rule {
    /// Its number, counted from 1.
    pub(super) line: u32,
    pub(super) matcher: Matcher,
    /// Whether the rule applies if the expression does not match (`~`).
    pub(super) inverted: bool,
    /// `G` or `P`.
    pub(super) direction: Option<Direction>,
    /// `4` or `6`.
    pub(super) family: Option<Family>,
    /// `r`, and the replacement.
    pub(super) rewrite: Option<(Repeat, Vec<Piece>)>,
    pub(super) then: Then,
}

/// An expression, and what a name must contain to match it.
#[derive(Debug)]
pub(super) struct Matcher {
    regex: Regex,
    /// Bytes the compiled expression takes, rounded up.
    pub(super) program: usize,
    /// A text that is in all names that match, in lower case, and its bytes.
    literal: String,
    bytes: Bytes,
}

impl Matcher {
    pub(super) fn new(regex: Regex, program: usize, literal: &[u8]) -> Self {
        let literal = to_text(literal).to_ascii_lowercase();
        Self {
            regex,
            program,
            bytes: Bytes::of(&literal),
            literal,
        }
    }

    /// Whether the expression may match; found out without running it.
    fn can_match(&self, name: &Subject, meter: &mut Meter) -> Result<bool, Stop> {
        meter.spend(1)?;
        if self.literal.is_empty() {
            return Ok(true);
        }
        if !self.bytes.are_in(name.bytes) {
            return Ok(false);
        }
        meter.spend(name.lower.len() as u64 / 16)?;
        Ok(name.lower.contains(&self.literal))
    }

    /// What it costs to run the expression over `bytes` bytes.
    fn cost(&self, bytes: usize) -> u64 {
        (bytes * (self.program / 2048).max(1)) as u64
    }
}

/// The set of the bytes in a text; the highest bit of each is ignored.
#[derive(Debug, Clone, Copy, Default)]
struct Bytes(u128);

impl Bytes {
    fn of(text: &str) -> Self {
        let bits = text.bytes().map(|byte| 1 << (byte & 0x7f));
        Self(bits.fold(0, |all, bit: u128| all | bit))
    }

    const fn are_in(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

/// A name on its way through the rules.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) text: String,
    lower: String,
    bytes: Bytes,
}

impl Subject {
    pub(super) fn new(text: String) -> Self {
        let lower = text.to_ascii_lowercase();
        Self {
            bytes: Bytes::of(&lower),
            lower,
            text,
        }
    }
}

/// A client's kind of address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// How often a rule rewrites a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The first match.
    Once,
    /// `g`: the first match, until there is none.
    WhileMatching,
    /// `gg`: every match, but not within replacements.
    EachMatch,
}

/// What happens after a rule that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The next rule.
    Continue,
    /// `e`: the name is settled.
    End,
    /// `E`: the name is settled if it leads to a file; else this rule is undone.
    EndIfFound,
    /// `s`: the first rule.
    Restart,
    /// `a`: the request is refused.
    Refuse,
    /// `j`: the rule with this index, or the end after the last.
    Jump(usize),
}

/// A part of a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    /// What matched: 0 is the whole match, 1 to 9 are its parentheses.
    Group(usize),
    /// The client's address as people write it.
    Client,
    /// The client's address in hexadecimal digits.
    ClientHex,
    /// Letters from here on in upper case.
    Upper,
    /// Letters from here on in lower case.
    Lower,
    /// Letters from here on as they are.
    AsItIs,
}

/// Why a rule can't be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The name has become longer than [`MAX_NAME`].
    TooLong,
    /// It would take longer than a request may.
    Costly,
}

/// What a request may still cost, in bytes that expressions look at.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) left: u64,
}

impl Meter {
    fn spend(&mut self, bytes: u64) -> Result<(), Stop> {
        self.left = self.left.checked_sub(bytes).ok_or(Stop::Costly)?;
        Ok(())
    }
}

impl Rule {
    /// Whether this rule is for such a request.
    pub(super) fn is_for(&self, request: &MapRequest<'_>) -> bool {
        let family = match request.client.to_canonical() {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        self.direction.is_none_or(|own| own == request.direction)
            && self.family.is_none_or(|own| own == family)
    }

    /// Whether the rule is to be executed for this name.
    pub(super) fn matches(&self, name: &Subject, meter: &mut Meter) -> Result<bool, Stop> {
        let is_match = self.matcher.can_match(name, meter)? && {
            meter.spend(self.matcher.cost(name.text.len()))?;
            self.matcher.regex.is_match(&name.text)
        };
        Ok(is_match != self.inverted)
    }

    /// The name with its first match replaced, or with every match (`gg`);
    /// `None` without a match.
    pub(super) fn rewrite(
        &self,
        name: &Subject,
        (repeat, pieces): (Repeat, &[Piece]),
        client: IpAddr,
        meter: &mut Meter,
    ) -> Result<Option<String>, Stop> {
        if !self.matcher.can_match(name, meter)? {
            return Ok(None);
        }
        let name = name.text.as_str();
        let matches = match repeat {
            Repeat::EachMatch => usize::MAX,
            Repeat::Once | Repeat::WhileMatching => 1,
        };
        let mut result = Bounded::default();
        let mut behind = None;
        meter.spend(self.matcher.cost(name.len()))?;
        for groups in self.matcher.regex.captures_iter(name).take(matches) {
            let Some(whole) = groups.get(0) else {
                continue;
            };
            result.push(&name[behind.unwrap_or(0)..whole.start()])?;
            expand(pieces, &groups, client, &mut result)?;
            behind = Some(whole.end());
            // The search for the next match may go to the very end.
            if matches > 1 {
                meter.spend(self.matcher.cost(name.len() - whole.end()))?;
            }
        }
        let Some(behind) = behind else {
            return Ok(None);
        };
        result.push(&name[behind..])?;
        Ok(Some(result.text))
    }
}

/// Appends a replacement.
fn expand(
    pieces: &[Piece],
    groups: &Captures<'_>,
    client: IpAddr,
    result: &mut Bounded,
) -> Result<(), Stop> {
    let mut case: fn(&mut str) = |_| ();
    for piece in pieces {
        let from = result.text.len();
        match piece {
            Piece::Text(text) => result.push(text)?,
            Piece::Group(number) => {
                result.push(groups.get(*number).map_or("", |group| group.as_str()))?;
            }
            Piece::Client => result.push(&client.to_canonical().to_string())?,
            Piece::ClientHex => result.push(&hexadecimal(client))?,
            Piece::Upper => case = str::make_ascii_uppercase,
            Piece::Lower => case = str::make_ascii_lowercase,
            Piece::AsItIs => case = |_| (),
        }
        case(&mut result.text[from..]);
    }
    Ok(())
}

/// 8 digits for IPv4, 32 for IPv6.
fn hexadecimal(client: IpAddr) -> String {
    let mut digits = String::new();
    // Writing to a String cannot fail.
    let _ = match client.to_canonical() {
        IpAddr::V4(ip) => write!(digits, "{:08X}", ip.to_bits()),
        IpAddr::V6(ip) => write!(digits, "{:032X}", ip.to_bits()),
    };
    digits
}

/// A name that can't grow beyond [`MAX_NAME`].
#[derive(Default)]
struct Bounded {
    text: String,
    /// Bytes of the name: characters of `text`.
    len: usize,
}

impl Bounded {
    fn push(&mut self, part: &str) -> Result<(), Stop> {
        self.len += part.chars().count();
        if self.len > MAX_NAME {
            return Err(Stop::TooLong);
        }
        self.text.push_str(part);
        Ok(())
    }
}
