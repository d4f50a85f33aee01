//! Layer 3: map files, in the rule language of tftp-hpa.
//!
//! A request's name goes in; a name or a refusal comes out. Names and rules are bytes,
//! as in the C locale: within this module they are Latin-1 text, one `char` a byte.
//! Must not: open a file; the caller tells whether a name leads to one (`E`).

mod ere;
pub mod file;
mod parse;
mod rule;

use std::fmt;
use std::net::IpAddr;

use crate::file::MAX_NAME;
use crate::wire::packet::Direction;
use rule::{Meter, Repeat, Rule, Stop, Subject, Then};

pub use parse::{MapError, MapErrors};

/// How often rules may be tried for one request, beyond once each. Ends a rule set that
/// restarts, repeats or jumps forever.
pub const MAX_STEPS: usize = 1024;

/// Bytes that expressions may look at for one request, some 3 ms of work. There are more
/// for each rule, so that all of many rules can look at a usual name.
const MAX_SCANNED: u64 = 32 * 1024;
const SCANNED_PER_RULE: u64 = 64;

/// A request, as the rules see it.
#[derive(Debug, Clone, Copy)]
pub struct MapRequest<'a> {
    /// The name, in its one spelling.
    pub name: &'a [u8],
    /// The direction, for `G` and `P`.
    pub direction: Direction,
    /// The client's address, for `4` and `6`, `\i` and `\x`.
    pub client: IpAddr,
}

/// What became of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// The name to serve, or why none is.
    pub result: Result<Vec<u8>, MapRefusal>,
    /// The lines that matched, in order. A line that matched several times in a row is
    /// there once.
    pub lines: Vec<u32>,
    /// The cost: bytes that expressions looked at.
    pub scanned: u64,
}

/// Why the rules refuse a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapRefusal {
    /// The rule on this line refuses it.
    Rule(u32),
    /// The rules come to no end; this line matched last.
    Endless(u32),
    /// The rule on this line makes the name longer than [`MAX_NAME`].
    TooLong(u32),
    /// The work allowed for a request ran out at this line.
    Costly(u32),
}

impl MapRefusal {
    /// The text for the ERROR packet.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Rule(_) => "Access violation: refused by rule",
            Self::Endless(_) | Self::TooLong(_) | Self::Costly(_) => {
                "Access violation: name cannot be mapped"
            }
        }
    }
}

impl fmt::Display for MapRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(line) => write!(f, "refused by line {line} of the map file"),
            Self::Endless(line) => write!(
                f,
                "the map file comes to no end; line {line} matched last, see s, j and rg"
            ),
            Self::TooLong(line) => write!(
                f,
                "line {line} of the map file makes a name of more than {MAX_NAME} bytes"
            ),
            Self::Costly(line) => write!(
                f,
                "the map file takes too long for this name, at line {line}"
            ),
        }
    }
}

/// Numbers of lines, as the log and `--map-test` show them.
pub(crate) struct Lines<'a>(pub(crate) &'a [u32]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The most numbers shown.
        const SHOWN: usize = 16;
        for (index, line) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{line}")?;
        }
        if self.0.len() > SHOWN {
            f.write_str(",…")?;
        }
        Ok(())
    }
}

/// The rules of a map file, in their order.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
}

impl Rules {
    /// Reads a map file's text.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(file: &[u8]) -> Result<Self, MapErrors> {
        parse::parse(file, false).map(|rules| Self { rules })
    }

    /// [`Rules::parse`] for a server that looks for names in another case: rules that
    /// refuse names refuse them in any case.
    ///
    /// # Errors
    /// As there.
    pub fn parse_ignoring_case(file: &[u8]) -> Result<Self, MapErrors> {
        parse::parse(file, true).map(|rules| Self { rules })
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether reads and writes can be mapped to different names.
    pub fn tell_directions_apart(&self) -> bool {
        self.rules.iter().any(|rule| rule.direction.is_some())
    }

    /// What the rules make of a request. `leads_to_file` tells whether a name
    /// could be transferred.
    pub fn apply(&self, request: &MapRequest<'_>, leads_to_file: impl Fn(&[u8]) -> bool) -> Mapped {
        let limit = MAX_SCANNED + SCANNED_PER_RULE * self.rules.len() as u64;
        let mut run = Run {
            rules: &self.rules,
            request,
            name: Subject::new(to_text(request.name)),
            lines: Vec::new(),
            steps: self.rules.len() + MAX_STEPS,
            meter: Meter { left: limit },
        };
        let result = run.finish(leads_to_file);
        Mapped {
            result: result.map(|()| to_bytes(&run.name.text)),
            lines: run.lines,
            scanned: limit - run.meter.left,
        }
    }
}

/// One request on its way through the rules.
struct Run<'a> {
    rules: &'a [Rule],
    request: &'a MapRequest<'a>,
    name: Subject,
    lines: Vec<u32>,
    /// How often a rule may still be tried.
    steps: usize,
    meter: Meter,
}

impl Run<'_> {
    fn finish(&mut self, leads_to_file: impl Fn(&[u8]) -> bool) -> Result<(), MapRefusal> {
        let mut next = 0;
        while let Some(rule) = self.rules.get(next) {
            next += 1;
            if !rule.is_for(self.request) {
                continue;
            }
            let undo =
                (rule.then == Then::EndIfFound).then(|| (self.name.clone(), self.lines.len()));
            if !self.execute(rule)? {
                continue;
            }
            match rule.then {
                Then::Continue => {}
                Then::End => return Ok(()),
                Then::EndIfFound if leads_to_file(&to_bytes(&self.name.text)) => return Ok(()),
                Then::EndIfFound => {
                    if let Some((name, lines)) = undo {
                        self.name = name;
                        self.lines.truncate(lines);
                    }
                }
                Then::Restart => next = 0,
                Then::Refuse => return Err(MapRefusal::Rule(rule.line)),
                Then::Jump(place) => next = place,
            }
        }
        Ok(())
    }

    /// Whether the rule matched.
    fn execute(&mut self, rule: &Rule) -> Result<bool, MapRefusal> {
        let Some((repeat, pieces)) = &rule.rewrite else {
            self.step(rule)?;
            let matched = rule.matches(&self.name, &mut self.meter);
            let matched = matched.map_err(|stop| refusal(stop, rule))?;
            if matched {
                self.note(rule);
            }
            return Ok(matched);
        };
        let mut matched = false;
        loop {
            self.step(rule)?;
            let rewritten = rule
                .rewrite(
                    &self.name,
                    (*repeat, pieces),
                    self.request.client,
                    &mut self.meter,
                )
                .map_err(|stop| refusal(stop, rule))?;
            let Some(name) = rewritten else {
                return Ok(matched);
            };
            self.name = Subject::new(name);
            self.note(rule);
            matched = true;
            if *repeat != Repeat::WhileMatching {
                return Ok(true);
            }
        }
    }

    fn step(&mut self, rule: &Rule) -> Result<(), MapRefusal> {
        let last = self.lines.last().copied().unwrap_or(rule.line);
        self.steps = self.steps.checked_sub(1).ok_or(MapRefusal::Endless(last))?;
        Ok(())
    }

    fn note(&mut self, rule: &Rule) {
        if self.lines.last() != Some(&rule.line) {
            self.lines.push(rule.line);
        }
    }
}

const fn refusal(stop: Stop, rule: &Rule) -> MapRefusal {
    match stop {
        Stop::TooLong => MapRefusal::TooLong(rule.line),
        Stop::Costly => MapRefusal::Costly(rule.line),
    }
}

/// Bytes as Latin-1 text.
fn to_text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Latin-1 text as bytes.
fn to_bytes(text: &str) -> Vec<u8> {
    text.chars().map(|character| character as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "192.0.2.169";
    const V6: &str = "2001:db8::1";

    fn rules(text: &str) -> Rules {
        Rules::parse(text.as_bytes()).unwrap()
    }

    fn map(rules: &Rules, name: &[u8], direction: Direction, client: &str) -> Mapped {
        let request = MapRequest {
            name,
            direction,
            client: client.parse().unwrap(),
        };
        rules.apply(&request, |name| name.starts_with(b"there"))
    }

    fn read(text: &str, name: &str) -> (Result<String, MapRefusal>, Vec<u32>) {
        let mapped = map(&rules(text), name.as_bytes(), Direction::Read, V4);
        let name = mapped.result.map(|name| String::from_utf8(name).unwrap());
        (name, mapped.lines)
    }

    /// Every letter and every escape, one case each; results of in.tftpd where
    /// it knows them.
    #[test]
    fn rules_do_what_the_manual_says() {
        for (text, name, becomes, lines) in [
            ("", "a", "a", &[][..]),
            ("r a b", "aa", "ba", &[1]),
            ("r a", "aba", "ba", &[1]),
            ("r a b\nr b c", "a", "c", &[1, 2]),
            ("rg a b", "aca", "bcb", &[1]),
            ("rg aa a", "aaaa", "a", &[1]),
            ("rgg a aa", "aba", "aabaa", &[1]),
            ("rgg x* -", "axb", "-a-b-", &[1]),
            ("r A b", "a", "a", &[]),
            ("ri A b", "a", "b", &[1]),
            ("ri [B-D] x", "c", "x", &[1]),
            ("ri [^a] x", "A", "A", &[]),
            ("re a b\nr b c", "a", "b", &[1]),
            ("e ^ok/\nr ^ no/", "ok/a", "ok/a", &[1]),
            ("e ^ok/\nr ^ no/", "a", "no/a", &[2]),
            ("r b c\nrs a b", "aa", "cc", &[2, 1, 2, 1]),
            ("~e ^k\nr a b", "a", "a", &[1]),
            ("~e ^k\nr a b", "ka", "kb", &[2]),
            ("~s b$\nr $ b", "xb", "xbb", &[2]),
            ("rE ^ there/\nr ^ here/", "a", "there/a", &[1]),
            ("rE ^ nowhere/\nr ^ here/", "a", "here/a", &[2]),
            ("E ^\nr ^ here/", "there", "there", &[1]),
            ("E ^\nr ^ here/", "a", "here/a", &[2]),
            ("j ^a done\nr . x\n:done\nr $ !", "a", "a!", &[1, 4]),
            ("j ^a done\nr . x\n:done\nr $ !", "b", "x!", &[2, 4]),
            ("j ^ end\nr . x\n:end", "a", "a", &[1]),
            (":top\nr x y\nj x top", "xxx", "yyy", &[2, 3, 2, 3, 2]),
            ("rG a b", "a", "b", &[1]),
            ("rP a b", "a", "a", &[]),
            ("r4 a b", "a", "b", &[1]),
            ("r6 a b", "a", "a", &[]),
            (r"r b [\0\1\2]", "abc", "a[b]c", &[1]),
            (r"r (b)(c)? [\2\1]", "abd", "a[b]d", &[1]),
            (r"r ^ \i/", "a", "192.0.2.169/a", &[1]),
            (r"r ^ \x/", "a", "C00002A9/a", &[1]),
            (r"r ^ \L\x/", "a", "c00002a9/a", &[1]),
            (r"r b \Ux\0\Lx\UX\EyY\q\\", "abc", "aXBxXyYq\\c", &[1]),
            (r"r b \Ux", "abcd", "aXcd", &[1]),
            (r"r a\ b c\ \#\\", "a b", "c #\\", &[1]),
            (r"r b x\", "abc", "ax\\c", &[1]),
            ("  r\ta\x0bb # c", "a", "b", &[1]),
            ("r b# x", "abc", "ac", &[1]),
            ("# r a b\n\n \t\r\nr a c\r", "a", "c", &[4]),
            ("r a b further words", "a", "b", &[1]),
            ("r a.c b", "a\nc", "b", &[1]),
        ] {
            let (result, by) = read(text, name);
            assert_eq!(
                (result.as_deref(), &*by),
                (Ok(becomes), lines),
                "{text:?} {name}"
            );
        }
    }

    #[test]
    fn direction_and_client_choose_rules() {
        let rules = rules("rP ^ put/\nrG ^ get/\nr4 ^ four/\nr6 ^ six/\nr $ /\\i/\\x");
        for (direction, client, becomes) in [
            (Direction::Read, "10.0.0.1", "four/get/a/10.0.0.1/0A000001"),
            (
                Direction::Write,
                V6,
                "six/put/a/2001:db8::1/20010DB8000000000000000000000001",
            ),
            (
                Direction::Read,
                "::ffff:10.0.0.1",
                "four/get/a/10.0.0.1/0A000001",
            ),
        ] {
            let mapped = map(&rules, b"a", direction, client);
            assert_eq!(mapped.result.as_deref(), Ok(becomes.as_bytes()));
        }
    }

    #[test]
    fn requests_are_refused_by_rule() {
        let text = "r ^x y\na \\.pvt$\n~a ^[a-z]";
        for (name, line, lines) in [("xa.pvt", 2, &[1, 2][..]), ("7", 3, &[3])] {
            assert_eq!(
                read(text, name),
                (Err(MapRefusal::Rule(line)), lines.to_vec())
            );
        }
        assert_eq!(read(text, "a").0.as_deref(), Ok("a"));
    }

    #[test]
    fn no_rules_run_for_ever() {
        for (text, line) in [
            ("rg a a", 1),
            ("r b b\nrs a a", 2),
            (":x\nj ^ x", 2),
            ("~s z", 1),
            ("~s z\nr a b", 1),
        ] {
            assert_eq!(read(text, "a").0, Err(MapRefusal::Endless(line)), "{text}");
        }
        // A long file isn't an endless one.
        let (result, lines) = read(&"r a a\n".repeat(3 * MAX_STEPS), "a");
        assert_eq!((result.as_deref(), lines.len()), (Ok("a"), 3 * MAX_STEPS));
    }

    #[test]
    fn no_name_grows_without_bound() {
        let long = "a".repeat(MAX_NAME);
        assert_eq!(read("r a b", &long).0.map(|name| name.len()), Ok(MAX_NAME));
        for text in ["r a bb", "r ^ x", "rg a aa", "rgg ^a \\0\\0", "rs ^ \\0x"] {
            assert_eq!(read(text, &long).0, Err(MapRefusal::TooLong(1)), "{text}");
        }
    }

    /// Names that are made to be slow, and rules that look harmless.
    #[test]
    fn a_requests_cost_is_bounded() {
        let long = "a".repeat(MAX_NAME);
        let many = "r [0-9]x y\n".repeat(50);
        for text in [
            "rg (a|b)*c?a b",
            "rgg a.*b|a c",
            "rgg a{0,50}b|a c",
            "r a{1,500}b c",
            &many,
            ":x\nr ^(.*)b \\1\nj [^b] x",
        ] {
            let rules = rules(text);
            let mapped = map(&rules, long.as_bytes(), Direction::Read, V4);
            let limit = MAX_SCANNED + SCANNED_PER_RULE * rules.len() as u64;
            assert!(mapped.scanned <= limit, "{text}: {}", mapped.scanned);
        }
        let mapped = map(&rules("rgg a.*b|a c"), long.as_bytes(), Direction::Read, V4);
        assert_eq!(mapped.result, Err(MapRefusal::Costly(1)));
    }

    /// For most rules it shows without running the expression that they can't match.
    #[test]
    fn rules_that_cannot_match_cost_next_to_nothing() {
        let text: String = (0..4000).fold(String::new(), |text, number| {
            text + &format!("r ^host{number}-config$ hosts/{number}\n")
        });
        let rules = rules(&text);
        for name in [
            "pxelinux.cfg/01-aa-bb-cc-dd-ee-ff",
            "host",
            &"x".repeat(500),
        ] {
            let mapped = map(&rules, name.as_bytes(), Direction::Read, V4);
            assert!(mapped.scanned <= 5000, "{name}: {}", mapped.scanned);
        }
        let mapped = map(&rules, b"host3999-config", Direction::Read, V4);
        assert_eq!(mapped.result.as_deref(), Ok(&b"hosts/3999"[..]));
    }

    #[test]
    fn a_file_of_too_many_rules_is_refused_by_line() {
        let many = "r a b\n".repeat(70_000);
        let errors = Rules::parse(many.as_bytes()).unwrap_err();
        assert_eq!(errors.told[0].line, 4097);
        let large = "r (a|b|c|d){0,20}x y\n".repeat(4000);
        let errors = Rules::parse(large.as_bytes()).unwrap_err();
        let error = &errors.told[0];
        assert!(error.reason.contains("4 MiB"), "{error}");
        assert!(error.line < 4000, "{error}");
        // An expression that is too large takes as long as the largest good one.
        let too_large = "r (((a{0,255}){0,255}){0,255}) y\n".repeat(4000);
        let errors = Rules::parse(too_large.as_bytes()).unwrap_err();
        assert_eq!(errors.told.len() + errors.more, 65, "{errors}");
    }

    #[test]
    fn under_ignore_case_refusals_ignore_it_too() {
        let text = b"a \\.key$\n~a ^[a-z]\nr B c\n";
        let rules = Rules::parse_ignoring_case(text).unwrap();
        for (name, becomes) in [
            ("a.KEY", Err(MapRefusal::Rule(1))),
            ("A", Err(MapRefusal::Rule(2))),
            ("ab", Ok("ab")),
            ("aB", Ok("ac")),
        ] {
            let mapped = map(&rules, name.as_bytes(), Direction::Read, V4);
            let result = mapped.result.map(|name| String::from_utf8(name).unwrap());
            assert_eq!(result.as_deref(), becomes.as_deref(), "{name}");
        }
    }

    #[test]
    fn names_are_bytes() {
        for (text, name, becomes) in [
            (&b"r \xe4 x"[..], &b"\xe4\xe4"[..], &b"x\xe4"[..]),
            (b"ri \xc4 x", b"\xe4", b"\xe4"),
            (b"rgg . \\0-", "\u{e4}".as_bytes(), b"\xc3-\xa4-"),
            (b"r [\x80-\xff]+ \\U\\0\xe4", b"a\xff\xe4", b"a\xff\xe4\xe4"),
        ] {
            let rules = Rules::parse(text).unwrap();
            let mapped = map(&rules, name, Direction::Read, V4);
            assert_eq!(
                mapped.result.as_deref(),
                Ok(becomes),
                "{}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn a_broken_file_is_told_by_line_and_column() {
        for (text, line, column, reason) in [
            ("r a b\n\nrz a", 3, 2, "no operation"),
            ("ra a", 1, 2, "cannot go together"),
            ("r~ a", 1, 2, "cannot go together"),
            ("rj a", 1, 2, "two rules"),
            ("res a", 1, 3, "only one of"),
            ("GP a", 1, 2, "leave both out"),
            ("46 a", 1, 2, "leave both out"),
            ("gi a", 1, 1, "write rg"),
            ("r", 1, 2, "expression is missing"),
            ("r # a", 1, 3, "expression is missing"),
            ("r  a(b c", 1, 5, "never closed"),
            ("r [a b] c", 1, 3, "a blank or #"),
            ("r a{30000} c", 1, 3, "too large"),
            ("j a", 1, 4, "label"),
            ("j a  nowhere", 1, 6, ":nowhere"),
            (":", 1, 1, "needs a name"),
            (":a\nr a b\n :a", 3, 2, "already taken"),
            ("a  ^/etc/", 1, 4, "slash"),
            ("a b\nr ^\\/boot/ boot/", 2, 3, "slash"),
        ] {
            let errors = Rules::parse(text.as_bytes()).expect_err(text);
            let [error] = &errors.told[..] else {
                panic!("{text}: {errors}");
            };
            assert_eq!(
                (error.line, error.column),
                (line, column),
                "{text}: {error}"
            );
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn all_mistakes_are_told_up_to_a_bound() {
        let text = "ra a\na ^/etc/\nj x nowhere\n:here\nr a( b\n:here\nr a b\ne ^/x\n";
        let errors = Rules::parse(text.as_bytes()).unwrap_err();
        let lines: Vec<_> = errors.told.iter().map(|it| it.line).collect();
        // The rules that look for a slash may be right: an earlier rule rewrites, and a
        // later one leads back.
        assert_eq!(lines, [1, 3, 5, 6], "{errors}");
        let text = "a ^/etc/\nz\na ^/boot/\nrz b\na ^/x/\n";
        let errors = Rules::parse(text.as_bytes()).unwrap_err();
        let lines: Vec<_> = errors.told.iter().map(|it| it.line).collect();
        assert_eq!(lines, [1, 2, 3, 4], "{errors}");
        let shown = errors.to_string();
        assert_eq!(shown.matches("; line ").count(), 3, "{shown}");
        let errors = Rules::parse("z\n".repeat(30).as_bytes()).unwrap_err();
        let shown = errors.to_string();
        assert_eq!(shown.matches("no operation").count(), 20, "{shown}");
        assert!(shown.ends_with("; and 10 more"), "{shown}");
        assert_eq!(shown.lines().count(), 1);
        // The first mistakes are told, even if they are found last.
        for first in ["a ^/etc/", "j x nowhere"] {
            let text = format!("{first}\n{}", "z\n".repeat(30));
            let errors = Rules::parse(text.as_bytes()).unwrap_err();
            let lines: Vec<_> = errors.told.iter().map(|it| it.line).collect();
            assert_eq!(lines, (1..=20).collect::<Vec<_>>(), "{errors}");
            assert_eq!(errors.more, 11);
        }
    }

    #[test]
    fn a_leading_slash_is_looked_for_where_a_rule_can_have_made_one() {
        for text in ["r ^ /boot/\na ^/etc/", "a ^/etc/\nrs ^[^/] /\\0", "a~ ^/"] {
            assert!(Rules::parse(text.as_bytes()).is_ok(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_file_and_no_name_panics(file: Vec<u8>, name: Vec<u8>) {
            if let Ok(rules) = Rules::parse(&file) {
                let _ = map(&rules, &name, Direction::Read, V6);
            }
        }

        #[test]
        fn no_likely_file_panics(
            file in "([rgieEsajGP46~:]{1,3} [ab.*()|^]{0,5} [ab0-9\\\\ixULE]{0,5}\n){1,4}",
            name in "[ab]{0,8}",
        ) {
            if let Ok(rules) = Rules::parse(file.as_bytes()) {
                let mapped = map(&rules, name.as_bytes(), Direction::Write, V4);
                proptest::prop_assert!(mapped.result.is_ok_and(|name| name.len() <= MAX_NAME)
                    || !mapped.lines.is_empty());
            }
        }
    }
}
