//! From a map file's text to rules: lines, fields, letters, labels.
//!
//! Must not: apply a rule, or open the file.

use std::collections::BTreeMap;
use std::fmt;

use regex_lite::RegexBuilder;

use super::ere::Translated;
use super::rule::{Family, Matcher, Piece, Repeat, Rule, Then};
use super::{ere, to_text};
use crate::wire::escape::escape;
use crate::wire::packet::Direction;

/// The most bytes that one compiled expression may take.
const MAX_REGEX: usize = 64 * 1024;

/// The most bytes that all compiled expressions may take.
const MAX_PROGRAMS: usize = 4 << 20;

/// The most rules a file may have.
const MAX_RULES: usize = 4096;

/// Bytes that the smallest expressions count as.
const SMALL_REGEX: usize = 1024;

/// The most mistakes that are told.
const MAX_TOLD: usize = 20;

/// A mistake in a map file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapError {
    /// Counted from 1.
    pub line: u32,
    /// In bytes, counted from 1.
    pub column: usize,
    /// What is wrong, and what to do about it.
    pub reason: String,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            reason,
        } = self;
        write!(f, "line {line}, column {column}: {reason}")
    }
}

/// What is wrong with a map file: one mistake for each wrong line, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapErrors {
    /// The first mistakes, at most 20.
    pub told: Vec<MapError>,
    /// How many more there are.
    pub more: usize,
}

impl MapErrors {
    /// Inserts a mistake in the order of the lines.
    fn push(&mut self, error: MapError) {
        let place = self.told.partition_point(|it| it.line <= error.line);
        self.told.insert(place, error);
        if self.told.len() > MAX_TOLD {
            self.told.pop();
            self.more += 1;
        }
    }

    fn has_none(&self) -> bool {
        self.told.is_empty()
    }
}

/// All in one line.
impl fmt::Display for MapErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.told.iter().enumerate() {
            let semicolon = if index > 0 { "; " } else { "" };
            write!(f, "{semicolon}{error}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for MapErrors {}

/// Reads all rules of a file.
///
/// With `ignore_case`, rules that refuse names do so whatever the case of letters.
pub(super) fn parse(file: &[u8], ignore_case: bool) -> Result<Vec<Rule>, MapErrors> {
    let mut rules = Vec::new();
    let mut mistakes = MapErrors::default();
    let (mut count, mut programs) = (0, 0);
    let mut labels = BTreeMap::new();
    let mut jumps = Vec::new();
    let mut slashes = Slashes::default();
    for (number, text) in (1..).zip(file.split(|&byte| byte == b'\n')) {
        let mut line = Line {
            number,
            text,
            at: 0,
        };
        let Some(first) = line.field() else {
            continue;
        };
        if let Some(label) = first.text.strip_prefix(b":") {
            if label.is_empty() {
                mistakes.push(line.error(first.at, "a label needs a name, such as :done"));
            } else if labels.insert(label, rules.len()).is_some() {
                let reason = "this label is already taken; choose another";
                mistakes.push(line.error(first.at, reason));
            }
            continue;
        }
        if count == MAX_RULES {
            let reason = format!("more than {MAX_RULES} rules; use fewer, such as one for all");
            mistakes.push(line.error(first.at, reason));
            return Err(mistakes);
        }
        count += 1;
        let read = read_rule(&mut line, &first, ignore_case, &mut programs);
        if programs > MAX_PROGRAMS {
            let reason = "the rules up to here take more than 4 MiB; use fewer or simpler ones";
            mistakes.push(line.error(first.at, reason));
            return Err(mistakes);
        }
        slashes.look_at(&line, &first, read.is_ok());
        let (rule, target) = match read {
            Ok(read) => read,
            Err(mistake) => {
                mistakes.push(mistake);
                continue;
            }
        };
        if let Some(target) = target {
            jumps.push((rules.len(), target, line));
        }
        rules.push(rule);
    }
    set_targets(&mut rules, jumps, &labels, &mut mistakes);
    slashes.told().for_each(|mistake| mistakes.push(mistake));
    if mistakes.has_none() {
        Ok(rules)
    } else {
        Err(mistakes)
    }
}

/// Sets where the rules that jump go on. `jumps`: each by its index, with the label that it
/// names and its line.
fn set_targets(
    rules: &mut [Rule],
    jumps: Vec<(usize, Field<'_>, Line<'_>)>,
    labels: &BTreeMap<&[u8], usize>,
    mistakes: &mut MapErrors,
) {
    for (index, target, line) in jumps {
        let Some(&place) = labels.get(target.text) else {
            let name = escape(target.text);
            mistakes.push(line.error(target.at, format!("no line is the label :{name}")));
            continue;
        };
        if let Some(rule) = rules.get_mut(index) {
            rule.then = Then::Jump(place);
        }
    }
}

/// Finds rules that look for a slash at the start of a name, although no name has one.
#[derive(Default)]
struct Slashes {
    mistakes: Vec<MapError>,
    /// An earlier rule may have made one.
    is_rewritten: bool,
    /// A rule restarts or jumps, so a later rule may have made one.
    comes_back: bool,
}

impl Slashes {
    /// Looks at the next rule, whose letters are the `first` word. A rule that isn't
    /// `whole` has another mistake already.
    fn look_at(&mut self, line: &Line<'_>, first: &Field<'_>, whole: bool) {
        let has = |letter| first.text.contains(&letter);
        if whole && !self.is_rewritten && !has(b'~') {
            self.mistakes.extend(line.leading_slash());
        }
        self.is_rewritten |= has(b'r');
        self.comes_back |= has(b's') || has(b'j');
    }

    fn told(self) -> impl Iterator<Item = MapError> {
        self.mistakes.into_iter().filter(move |_| !self.comes_back)
    }
}

/// A line of the file, and how far it has been read.
struct Line<'a> {
    number: u32,
    text: &'a [u8],
    at: usize,
}

/// A word of a line; its backslashes are still in it.
struct Field<'a> {
    at: usize,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    /// The next word: up to white space, or to the `#` of a comment. Neither
    /// ends it after a backslash.
    fn field(&mut self) -> Option<Field<'a>> {
        let rest = self.text.get(self.at..)?;
        let blanks = rest.iter().take_while(|&&byte| is_space(byte)).count();
        let at = self.at + blanks;
        let rest = self.text.get(at..)?;
        let mut escaped = false;
        let ends = |&byte: &u8| {
            let end = !escaped && (is_space(byte) || byte == b'#');
            escaped = !escaped && byte == b'\\';
            end
        };
        let len = rest.iter().position(ends).unwrap_or(rest.len());
        self.at = at + len;
        let text = rest.get(..len).filter(|text| !text.is_empty())?;
        Some(Field { at, text })
    }

    /// A mistake if the rule's expression wants a slash first: no name that clients ask
    /// for has one when rules see it, so a rule that refuses would refuse nothing.
    fn leading_slash(&self) -> Option<MapError> {
        let mut line = Self { at: 0, ..*self };
        let (_, pattern) = (line.field()?, line.field()?);
        let reason = "no name begins with a slash when rules see it: leave the / out";
        (pattern.text.starts_with(b"^/") || pattern.text.starts_with(b"^\\/"))
            .then(|| self.error(pattern.at, reason))
    }

    /// `at` in bytes from the line's start.
    fn error(&self, at: usize, reason: impl Into<String>) -> MapError {
        MapError {
            line: self.number,
            column: at + 1,
            reason: reason.into(),
        }
    }
}

/// White space as the C locale has it.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// A rule, and the label that it jumps to. Adds to `programs` the bytes that its
/// expression takes; one that is too large counts as the largest possible, since
/// compiling it took as long.
fn read_rule<'a>(
    line: &mut Line<'a>,
    first: &Field<'a>,
    ignore_case: bool,
    programs: &mut usize,
) -> Result<(Rule, Option<Field<'a>>), MapError> {
    let letters = Letters::read(line, first)?;
    let Some(pattern) = line.field() else {
        let reason = "a regular expression is missing; ^ matches every name";
        return Err(line.error(line.at, reason));
    };
    let translated = ere::translate(pattern.text)
        .map_err(|fault| line.error(pattern.at + fault.at, fault.reason))?;
    let inverted = letters.has(b'~');
    let refuses = letters.then() == Then::Refuse && !inverted;
    let matcher = compile(&translated, letters.has(b'i') || (refuses && ignore_case));
    *programs += matcher.as_ref().map_or(MAX_REGEX, |it| it.program);
    let matcher = matcher.map_err(|reason| line.error(pattern.at, reason))?;
    let replacement = line.field();
    let mut target = None;
    let then = letters.then();
    if matches!(then, Then::Jump(_)) {
        let missing = || line.error(line.at, "the label to jump to is missing; write it last");
        target = Some(replacement.as_ref().ok_or_else(missing)?).map(|field| Field {
            at: field.at,
            text: field.text,
        });
    }
    let rule = Rule {
        line: line.number,
        matcher,
        inverted,
        direction: letters.direction(),
        family: letters.family(),
        rewrite: letters.repeat().map(|repeat| {
            let text = replacement.map_or(&[][..], |field| field.text);
            (repeat, pieces(text))
        }),
        then,
    };
    Ok((rule, target))
}

/// Compiles an expression, and finds out how many bytes that takes: only within a factor
/// of two, since the compiler just tells whether a limit is exceeded.
fn compile(translated: &Translated, ignore_case: bool) -> Result<Matcher, String> {
    let mut program = SMALL_REGEX;
    loop {
        let built = RegexBuilder::new(&translated.text)
            .case_insensitive(ignore_case)
            .size_limit(program)
            .build();
        match built {
            Ok(regex) => return Ok(Matcher::new(regex, program, &translated.literal)),
            Err(_) if program < MAX_REGEX => program *= 2,
            Err(error) => {
                return Err(format!(
                    "too large ({error}); use fewer or smaller repetitions"
                ));
            }
        }
    }
}

/// The letters at the start of a rule, checked for sense.
struct Letters<'a>(&'a [u8]);

/// Letters that contradict each other, or need the same place.
const EXCLUSIVE: &[(&[u8], &str)] = &[
    (
        b"r~",
        "r needs a match, ~ wants none; they cannot go together",
    ),
    (
        b"ra",
        "r rewrites the name, a refuses it; they cannot go together",
    ),
    (
        b"rj",
        "what follows r is the replacement, what follows j a label; write two rules",
    ),
    (
        b"eEsaj",
        "only one of e, E, s, a and j can be what happens next",
    ),
    (
        b"GP",
        "G is for reads alone, P for writes alone; leave both out to mean both",
    ),
    (
        b"46",
        "4 is for IPv4 alone, 6 for IPv6 alone; leave both out to mean both",
    ),
];

impl<'a> Letters<'a> {
    fn read(line: &Line<'_>, field: &Field<'a>) -> Result<Self, MapError> {
        let letters = Self(field.text);
        let known = |byte: &u8| b"rgieEsajGP46~".contains(byte);
        if let Some(at) = field.text.iter().position(|byte| !known(byte)) {
            let unknown = escape(field.text.get(at..=at).unwrap_or_default());
            return Err(line.error(
                field.at + at,
                format!("\"{unknown}\" is no operation; there are r g i e E s a j G P 4 6 and ~"),
            ));
        }
        for (group, reason) in EXCLUSIVE {
            let in_group = |byte: &&u8| group.contains(byte);
            let first = field.text.iter().find(in_group);
            let other = |byte: &u8| group.contains(byte) && Some(byte) != first;
            if let Some(at) = field.text.iter().position(other) {
                return Err(line.error(field.at + at, *reason));
            }
        }
        let repeats = |byte: &u8| *byte == b'g';
        if let Some(at) = field.text.iter().position(repeats)
            && !letters.has(b'r')
        {
            return Err(line.error(field.at + at, "g repeats a rewrite; write rg"));
        }
        Ok(letters)
    }

    fn has(&self, letter: u8) -> bool {
        self.0.contains(&letter)
    }

    fn repeat(&self) -> Option<Repeat> {
        let is_g = |letter: &u8| *letter == b'g';
        let first = self.0.iter().position(is_g);
        let last = self.0.iter().rposition(is_g);
        self.has(b'r').then_some(match first {
            None => Repeat::Once,
            _ if first == last => Repeat::WhileMatching,
            _ => Repeat::EachMatch,
        })
    }

    fn direction(&self) -> Option<Direction> {
        match (self.has(b'G'), self.has(b'P')) {
            (true, _) => Some(Direction::Read),
            (_, true) => Some(Direction::Write),
            _ => None,
        }
    }

    fn family(&self) -> Option<Family> {
        match (self.has(b'4'), self.has(b'6')) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            _ => None,
        }
    }

    fn then(&self) -> Then {
        match self.0.iter().find(|letter| b"eEsaj".contains(letter)) {
            Some(b'e') => Then::End,
            Some(b'E') => Then::EndIfFound,
            Some(b's') => Then::Restart,
            Some(b'a') => Then::Refuse,
            Some(b'j') => Then::Jump(0),
            _ => Then::Continue,
        }
    }
}

/// Splits a replacement into its pieces.
fn pieces(text: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut plain = Vec::new();
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        let escaped = if byte == b'\\' { bytes.next() } else { None };
        let piece = match escaped {
            Some(digit @ b'0'..=b'9') => Piece::Group(usize::from(digit - b'0')),
            Some(b'i') => Piece::Client,
            Some(b'x') => Piece::ClientHex,
            Some(b'U') => Piece::Upper,
            Some(b'L') => Piece::Lower,
            Some(b'E') => Piece::AsItIs,
            // A backslash at the very end means itself.
            other => {
                plain.push(other.unwrap_or(byte));
                continue;
            }
        };
        if !plain.is_empty() {
            pieces.push(Piece::Text(to_text(&plain)));
            plain.clear();
        }
        pieces.push(piece);
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(to_text(&plain)));
    }
    pieces
}
