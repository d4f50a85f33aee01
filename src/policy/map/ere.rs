//! Translates POSIX extended regular expressions, as `regcomp` reads them, to the syntax
//! of `regex-lite`.
//!
//! tftp-hpa hands its expressions to the C library in the C locale: a character
//! is a byte. So patterns and names are read as Latin-1 here, one `char` a byte,
//! and a translation deals with nothing but bytes. Must not: match anything.

use std::fmt::Write as _;

/// The deepest nesting of parentheses; the translation is recursive.
const MAX_DEPTH: usize = 32;

/// The most repetitions that `{n,m}` can ask for, which is glibc's limit.
const MAX_REPETITIONS: u32 = 32_767;

/// What is wrong with an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// Where, in bytes from the expression's start.
    pub(super) at: usize,
    /// What, and what to do about it.
    pub(super) reason: &'static str,
}

type Result<T> = std::result::Result<T, Fault>;

/// An expression in the syntax of `regex-lite`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Translated {
    pub(super) text: String,
    /// Bytes that are in every text that it matches, in a row; maybe none. If case is
    /// ignored, they are there in some case.
    pub(super) literal: Vec<u8>,
}

/// Translates an expression.
///
/// If alternatives are plain text, the longer ones are put first: POSIX takes the
/// longest match, `regex-lite` the first alternative that matches.
///
/// # Errors
/// What `regcomp` refuses as well, and back-references, which `regex-lite` lacks.
pub(super) fn translate(pattern: &[u8]) -> Result<Translated> {
    let mut translator = Translator {
        pattern,
        at: 0,
        literal: Vec::new(),
    };
    Ok(Translated {
        text: translator.alternatives(0)?,
        literal: translator.literal,
    })
}

struct Translator<'a> {
    pattern: &'a [u8],
    at: usize,
    /// The longest run of plain text outside of all parentheses.
    literal: Vec<u8>,
}

/// A part of an expression, translated.
#[derive(Default)]
struct Part {
    text: String,
    /// How many bytes it matches, if it is plain text.
    literal: Option<usize>,
}

/// What can stand between operators.
struct Atom {
    text: String,
    kind: Kind,
    /// The byte that it matches, if there is just one.
    byte: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Matches itself.
    Literal,
    /// Matches a place and can't be repeated.
    Anchor,
    Other,
}

impl Translator<'_> {
    fn peek(&self) -> Option<u8> {
        self.pattern.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Everything up to the end, or up to the `)` that closes this depth.
    fn alternatives(&mut self, depth: usize) -> Result<String> {
        let mut parts = vec![self.sequence(depth)?];
        while self.take(b'|') {
            parts.push(self.sequence(depth)?);
        }
        if depth == 0 && parts.len() > 1 {
            // No alternative's text is in every match.
            self.literal.clear();
        }
        if parts.iter().all(|part| part.literal.is_some()) {
            parts.sort_by_key(|part| std::cmp::Reverse(part.literal));
        }
        let texts: Vec<_> = parts.into_iter().map(|part| part.text).collect();
        Ok(texts.join("|"))
    }

    fn sequence(&mut self, depth: usize) -> Result<Part> {
        let mut whole = Part {
            literal: Some(0),
            ..Part::default()
        };
        let mut run = Vec::new();
        while let Some(byte) = self.peek() {
            if byte == b'|' || (byte == b')' && depth > 0) {
                break;
            }
            let mut atom = self.atom(depth)?;
            let behind = self.at;
            while let Some(operator) = self.repetition()? {
                if atom.kind == Kind::Anchor {
                    return Err(Fault {
                        at: behind,
                        reason: "a place in the name cannot be repeated",
                    });
                }
                atom.text = format!("(?:{}{operator})", atom.text);
                atom.kind = Kind::Other;
            }
            match (atom.kind, atom.byte) {
                (Kind::Literal, Some(byte)) => run.push(byte),
                // An anchor matches no bytes.
                (Kind::Anchor, _) => {}
                _ => self.keep_longest(depth, &mut run),
            }
            whole.text += &atom.text;
            whole.literal = match atom.kind {
                Kind::Literal => whole.literal.map(|len| len + 1),
                _ => None,
            };
        }
        self.keep_longest(depth, &mut run);
        Ok(whole)
    }

    fn keep_longest(&mut self, depth: usize, run: &mut Vec<u8>) {
        if depth == 0 && run.len() > self.literal.len() {
            self.literal.clone_from(run);
        }
        run.clear();
    }

    fn atom(&mut self, depth: usize) -> Result<Atom> {
        let start = self.at;
        let (text, kind) = match self.next() {
            Some(b'(') => (self.group(start, depth)?, Kind::Other),
            Some(b'[') => (self.bracket(start)?, Kind::Other),
            Some(b'.') => ("(?s:.)".to_owned(), Kind::Other),
            Some(b'^') => (r"\A".to_owned(), Kind::Anchor),
            Some(b'$') => (r"\z".to_owned(), Kind::Anchor),
            Some(b'*' | b'+' | b'?' | b'{') => {
                return Err(Fault {
                    at: start,
                    reason: "there is nothing to repeat; put a \\ before it to mean the character",
                });
            }
            Some(b'\\') => return self.escape(start),
            Some(byte) => {
                return Ok(Atom {
                    text: literal(byte),
                    kind: Kind::Literal,
                    byte: Some(byte),
                });
            }
            None => (String::new(), Kind::Other),
        };
        Ok(Atom {
            text,
            kind,
            byte: None,
        })
    }

    fn group(&mut self, start: usize, depth: usize) -> Result<String> {
        let fault = |reason| Fault { at: start, reason };
        if depth == MAX_DEPTH {
            return Err(fault(
                "parentheses are nested too deeply; 32 levels are possible",
            ));
        }
        let inner = self.alternatives(depth + 1)?;
        if !self.take(b')') {
            return Err(fault(
                "this ( is never closed; put a \\ before it to mean the character",
            ));
        }
        Ok(format!("({inner})"))
    }

    /// What glibc makes of a backslash: its own operators, or the character.
    fn escape(&mut self, start: usize) -> Result<Atom> {
        let fault = |reason| Fault { at: start, reason };
        let byte = self
            .next()
            .ok_or(fault("a \\ at the end; write \\\\ to mean the character"))?;
        let (text, kind) = match byte {
            b'1'..=b'9' => {
                return Err(fault(
                    "back-references are not supported; write out what may be repeated",
                ));
            }
            b'w' => ("[0-9A-Za-z_]", Kind::Other),
            b'W' => ("[^0-9A-Za-z_]", Kind::Other),
            b's' => (r"[\t-\r ]", Kind::Other),
            b'S' => (r"[^\t-\r ]", Kind::Other),
            b'b' => (r"\b", Kind::Anchor),
            b'B' => (r"\B", Kind::Anchor),
            b'<' => (r"\b{start}", Kind::Anchor),
            b'>' => (r"\b{end}", Kind::Anchor),
            b'`' => (r"\A", Kind::Anchor),
            b'\'' => (r"\z", Kind::Anchor),
            other => (&*literal(other), Kind::Literal),
        };
        Ok(Atom {
            text: text.to_owned(),
            kind,
            byte: (kind == Kind::Literal).then_some(byte),
        })
    }

    /// The next `*`, `+`, `?` or `{n,m}`, if one comes.
    fn repetition(&mut self) -> Result<Option<String>> {
        let start = self.at;
        match self.peek() {
            Some(byte @ (b'*' | b'+' | b'?')) => {
                self.at += 1;
                Ok(Some(char::from(byte).to_string()))
            }
            Some(b'{') => {
                self.at += 1;
                let (low, high) = self.bounds(start)?;
                let mut operator = format!("{{{low},");
                if let Some(high) = high {
                    // Writing to a String cannot fail.
                    let _ = write!(operator, "{high}");
                }
                operator.push('}');
                Ok(Some(operator))
            }
            _ => Ok(None),
        }
    }

    /// The bounds in braces: `n`, `n,`, `,m`, `n,m` or `,`.
    fn bounds(&mut self, start: usize) -> Result<(u32, Option<u32>)> {
        let low = self.number()?;
        let (low, high) = if self.take(b',') {
            (low.unwrap_or(0), self.number()?)
        } else {
            (low.unwrap_or(1), low)
        };
        let is_number = self.at > start + 1;
        let in_order = high.is_none_or(|high| low <= high);
        if !self.take(b'}') || !is_number || !in_order {
            return Err(Fault {
                at: start,
                reason: "expected {n}, {n,} or {n,m} with n <= m; put a \\ before { to mean the character",
            });
        }
        Ok((low, high))
    }

    fn number(&mut self) -> Result<Option<u32>> {
        let mut number = None;
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            let value = number.unwrap_or(0) * 10 + u32::from(digit - b'0');
            if value > MAX_REPETITIONS {
                return Err(Fault {
                    at: self.at,
                    reason: "more than 32767 repetitions are not possible",
                });
            }
            number = Some(value);
            self.at += 1;
        }
        Ok(number)
    }

    /// A set of bytes, after its `[`. A backslash stands for itself in it.
    fn bracket(&mut self, start: usize) -> Result<String> {
        let mut text = String::from(if self.take(b'^') { "[^" } else { "[" });
        let first = self.at;
        loop {
            let at = self.at;
            match self.peek() {
                None => return Err(unclosed(start)),
                Some(b']') if at > first => break,
                _ => {}
            }
            match self.member(start)? {
                Member::Class(ranges) => text += ranges,
                Member::Byte(low) => {
                    let high = if self.is_range() {
                        self.at += 1;
                        let Member::Byte(high) = self.member(start)? else {
                            return Err(out_of_order(at));
                        };
                        high
                    } else {
                        low
                    };
                    if low > high {
                        return Err(out_of_order(at));
                    }
                    let _ = write!(text, "{}-{}", literal(low), literal(high));
                }
            }
            if self.is_range() {
                return Err(out_of_order(at));
            }
        }
        self.at += 1;
        text.push(']');
        Ok(text)
    }

    /// Whether a `-` follows that is not the set's last character.
    fn is_range(&self) -> bool {
        self.peek() == Some(b'-') && self.pattern.get(self.at + 1).is_some_and(|&b| b != b']')
    }

    /// One byte of a set, or a class with a name.
    fn member(&mut self, start: usize) -> Result<Member> {
        let at = self.at;
        let rest = self.pattern.get(at..).unwrap_or_default();
        let &[b'[', mark @ (b':' | b'.' | b'='), ..] = rest else {
            return self.next().map(Member::Byte).ok_or(unclosed(start));
        };
        let inner = rest.get(2..).unwrap_or_default();
        let len = inner
            .windows(2)
            .position(|pair| pair == [mark, b']'])
            .ok_or(unclosed(start))?;
        self.at += 2 + len + 2;
        let name = inner.get(..len).unwrap_or_default();
        match (mark, name) {
            (b':', name) => class(name).map(Member::Class).ok_or(Fault {
                at,
                reason: "no such class; there are alnum, alpha, blank, cntrl, digit, graph, \
                         lower, print, punct, space, upper and xdigit",
            }),
            (_, &[byte]) => Ok(Member::Byte(byte)),
            _ => Err(Fault {
                at,
                reason: "no such character; write the character itself",
            }),
        }
    }
}

enum Member {
    Byte(u8),
    Class(&'static str),
}

const fn unclosed(at: usize) -> Fault {
    Fault {
        at,
        reason: "this [ is never closed; a blank or # in it needs a \\ before it, or it ends the expression",
    }
}

const fn out_of_order(at: usize) -> Fault {
    Fault {
        at,
        reason: "this range is out of order; to mean the character -, put it last",
    }
}

/// The POSIX classes in the C locale, as ranges for a set.
fn class(name: &[u8]) -> Option<&'static str> {
    Some(match name {
        b"alnum" => "0-9A-Za-z",
        b"alpha" => "A-Za-z",
        b"blank" => r"\t ",
        b"cntrl" => r"\x00-\x1f\x7f",
        b"digit" => "0-9",
        b"graph" => "!-~",
        b"lower" => "a-z",
        b"print" => " -~",
        b"punct" => r"!-/:-@\[-`\{-~",
        b"space" => r"\t-\r ",
        b"upper" => "A-Z",
        b"xdigit" => "0-9A-Fa-f",
        _ => return None,
    })
}

/// A byte that means itself, as a pattern.
fn literal(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() {
        char::from(byte).to_string()
    } else {
        format!(r"\x{{{byte:02x}}}")
    }
}

#[cfg(test)]
mod tests {
    use regex_lite::{Regex, RegexBuilder};

    use super::*;

    /// A name that has something for every expression.
    const NAME: &str = "aab aaa{2} d a{x} a{,2} n]\\";

    /// Compared with what glibc 2.36 matches in [`NAME`]; `None`: nothing.
    #[test]
    fn expressions_match_where_glibc_does() {
        for (pattern, matched) in [
            ("a{,2}", Some("aa")),
            ("a{,}", Some("aa")),
            ("a||b", Some("a")),
            ("|a", Some("a")),
            ("(|a)", Some("a")),
            ("a|aab", Some("aab")),
            ("()", Some("")),
            ("a**", Some("aa")),
            ("a+?", Some("aa")),
            ("a*?", Some("aa")),
            ("a{1}{2}", Some("aa")),
            ("a)", None),
            (r"\{", Some("{")),
            (r"a\{2\}", Some("a{2}")),
            ("}", Some("}")),
            ("]", Some("]")),
            ("[[.a.]]", Some("a")),
            ("[[=a=]]", Some("a")),
            (r"[a\]]", None),
            (r"[\n]", Some("n")),
            (r"[a\-z]", Some("a")),
            (r"\d", Some("d")),
            (r"\w+", Some("aab")),
            (r"\W", Some(" ")),
            (r"\s", Some(" ")),
            (r"\S+", Some("aab")),
            (r"\<n", Some("n")),
            (r"x\>", Some("x")),
            (r"\bd\b", Some("d")),
            (r"a\Bb", Some("ab")),
            (r"\`a", Some("a")),
            (r"n\'", None),
            (r"\\\'", Some("\\")),
            (r"\\$", Some("\\")),
            ("a$b", None),
            ("a^b", None),
            ("^^a", Some("a")),
            ("(^a)", Some("a")),
            ("a|^", Some("a")),
            ("[]a]", Some("a")),
            ("[^]a]", Some("b")),
            ("[x-]", Some("x")),
            ("[-x]", Some("x")),
            ("[%--]", Some(",")),
            ("[[:alpha:]]+", Some("aab")),
            ("[^[:alpha:]]", Some(" ")),
            ("[[:digit:][:space:]]", Some(" ")),
            ("[[:punct:]]", Some("{")),
            ("a{0}", Some("")),
            ("(a|b)*c|d", Some("d")),
            ("(^|x)*a", Some("a")),
        ] {
            let translated = translate(pattern.as_bytes()).unwrap().text;
            let regex = Regex::new(&translated).expect(pattern);
            let found = regex.find(NAME).map(|found| found.as_str());
            assert_eq!(found, matched, "{pattern} as {translated}");
        }
    }

    #[test]
    fn what_glibc_refuses_is_refused_where_it_is() {
        for (pattern, at, reason) in [
            ("*a", 0, "nothing to repeat"),
            ("^*a", 1, "cannot be repeated"),
            (r"a\b*", 3, "cannot be repeated"),
            ("^{1}", 1, "cannot be repeated"),
            ("x(*a)", 2, "nothing to repeat"),
            ("a|*b", 2, "nothing to repeat"),
            ("{1}", 0, "nothing to repeat"),
            ("(?:a)", 1, "nothing to repeat"),
            ("a{", 1, "expected {n}"),
            ("a{}", 1, "expected {n}"),
            ("a{2", 1, "expected {n}"),
            ("a{x}", 1, "expected {n}"),
            ("a{1a}", 1, "expected {n}"),
            ("a{2,1}", 1, "expected {n}"),
            ("a{99999}", 6, "32767"),
            ("ab(c", 2, "never closed"),
            ("ab[c", 2, "never closed"),
            ("[[:alpha", 0, "never closed"),
            ("[[:alpha:]", 0, "never closed"),
            ("[]", 0, "never closed"),
            ("x[[:foo:]]", 2, "no such class"),
            ("[[.hyphen.]]", 1, "no such character"),
            ("[z-a]", 1, "out of order"),
            ("[a-c-e]", 1, "out of order"),
            ("[[:alpha:]-z]", 1, "out of order"),
            ("ab\\", 2, "at the end"),
            (r"(a)\1", 3, "back-references"),
            (&"(".repeat(MAX_DEPTH + 1), MAX_DEPTH, "too deeply"),
        ] {
            let fault = translate(pattern.as_bytes()).expect_err(pattern);
            assert!(fault.reason.contains(reason), "{pattern}: {fault:?}");
            assert_eq!(fault.at, at, "{pattern}: {fault:?}");
        }
    }

    #[test]
    fn longer_texts_are_tried_first() {
        assert_eq!(translate(b"a|ab|b").unwrap().text, "ab|a|b");
        // Here it isn't known which alternative is longer.
        assert_eq!(translate(b"a|b.").unwrap().text, "a|b(?s:.)");
    }

    #[test]
    fn what_stands_in_every_match_is_found() {
        for (pattern, literal) in [
            ("abc", "abc"),
            (r"\.key$", ".key"),
            ("^img/", "img/"),
            (r"\<img\>", "img"),
            ("abc*def", "def"),
            ("abcd*e", "abc"),
            ("ab(cde)f", "ab"),
            ("^(boot|hosts)/", "/"),
            ("abc|abd", ""),
            ("(abc)", ""),
            ("a|b", ""),
            ("[abc]", ""),
            ("a.b", "a"),
            ("a{0}", ""),
            ("^", ""),
        ] {
            let found = translate(pattern.as_bytes()).unwrap().literal;
            assert_eq!(found, literal.as_bytes(), "{pattern}");
        }
    }

    proptest::proptest! {
        /// `regex-lite` understands every translation.
        #[test]
        fn every_translation_compiles(
            pattern in "[ab(|)*+?{},0-2^$.\\\\\\[\\]:=-]{0,10}",
            name in "[ab0-2]{0,6}",
        ) {
            if let Ok(Translated { text: translated, literal }) = translate(pattern.as_bytes()) {
                for ignore_case in [false, true] {
                    let regex = RegexBuilder::new(&translated).case_insensitive(ignore_case).build();
                    proptest::prop_assert!(regex.is_ok(), "{pattern} as {translated}");
                    if regex.is_ok_and(|regex| regex.is_match(&name)) {
                        let literal = String::from_utf8(literal.clone()).unwrap();
                        proptest::prop_assert!(name.contains(&literal), "{pattern}: {literal}");
                    }
                }
            }
        }

        #[test]
        fn no_bytes_panic(pattern: Vec<u8>) {
            let _ = translate(&pattern);
        }
    }
}
