//! From TOML to sections. Every mistake is told with its place.
//!
//! Must not: look at anything but the text, except that it asks the kernel for the
//! numbers of interfaces.

use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    ClientRules, Hardware, MAX_SECTIONS, Members, NamedInterface, Part, Place, Section, Settings,
};
use crate::policy::glob::{Globs, MAX_PATTERNS};
use crate::policy::hardware;
use crate::wire::options::{MAX_BLKSIZE, MIN_BLKSIZE, OptionName};

/// The most items of a list.
const MAX_ITEMS: usize = 256;

/// What sections can say.
const KEYS: &str = "networks, interfaces, hardware, roots, read, write, refuse, max-blksize, \
                    max-windowsize, rate, send-twice, octet, timeout, retries, single-port, \
                    max-sessions";

/// How the message about an unknown setting begins.
const UNKNOWN: &str = "there is no setting";

/// The longest wait for an answer, in milliseconds.
const MAX_TIMEOUT: u64 = 255_000;

/// The most mistakes that are told.
const MAX_TOLD: usize = 20;

/// Characters of a value that a message shows.
const MAX_SHOWN: usize = 40;

/// A mistake, and where it is.
struct Mistake {
    at: Range<usize>,
    what: String,
}

/// What was read, or every mistake in it.
type Checked<T> = Result<T, Vec<Mistake>>;

type Value<'i> = Spanned<DeValue<'i>>;

fn mistake<T>(at: Range<usize>, what: impl Into<String>) -> Checked<T> {
    let what = what.into();
    Err(vec![Mistake { at, what }])
}

/// The rules in a file's text.
///
/// # Errors
/// One line with all mistakes, up to a bound, each with its line and column, both
/// counted from 1; columns are characters.
pub(super) fn parse(text: &[u8]) -> Result<ClientRules, String> {
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let good = text.get(..error.valid_up_to()).unwrap_or_default();
            let line = good.split(|&byte| byte == b'\n').count();
            return Err(format!("line {line}: not UTF-8"));
        }
    };
    check(text).map_err(|mut mistakes| {
        let lines: Vec<_> = text.split('\n').collect();
        let headers = headers(&lines);
        mistakes.retain(|it| headers.contains(&it.line));
        let broken: Vec<_> = mistakes.iter().map(|it| it.line).collect();
        // What is below a broken header is checked as if the header were good.
        let good = |(line, text): (usize, &&str)| {
            if broken.contains(&line) {
                format!("[\"line {line}\"]")
            } else {
                (*text).to_owned()
            }
        };
        let mended: Vec<_> = (1..).zip(&lines).map(good).collect();
        let others = check(&mended.join("\n")).err().into_iter().flatten();
        mistakes.extend(others.filter(|it| !broken.contains(&it.line)));
        told(mistakes)
    })
}

/// The numbers of the lines that are headers, in order: those that begin with a bracket
/// while no list is open.
fn headers(lines: &[&str]) -> Vec<usize> {
    let mut open = 0;
    let mut headers = Vec::new();
    for (number, line) in (1..).zip(lines) {
        if open == 0 && line.trim_start().starts_with('[') {
            headers.push(number);
        } else {
            open = open_lists(line, open);
        }
    }
    headers
}

/// How many lists are open at the end of a line that began with `open` of them.
fn open_lists(line: &str, mut open: usize) -> usize {
    let (mut quote, mut escaped) = (None, false);
    for letter in line.chars() {
        match (quote, letter) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(it), _) if it == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, '#') => break,
            (None, '[') => open += 1,
            (None, ']') => open = open.saturating_sub(1),
            _ => {}
        }
    }
    open
}

/// A mistake, and its line and column, counted from 1.
struct Placed {
    line: usize,
    column: usize,
    what: String,
}

/// The rules, or every mistake found; in a line that isn't TOML, only the first.
fn check(text: &str) -> Result<ClientRules, Vec<Placed>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let placed = |it: Mistake| {
        let (line, column) = place(text, it.at.start);
        let what = it.what;
        Placed { line, column, what }
    };
    let not_toml = errors.iter().map(|it| not_toml(text, it));
    let mut mistakes: Vec<_> = not_toml.map(placed).collect();
    // Further mistakes in the same line are consequences of the first.
    mistakes.dedup_by_key(|it| it.line);
    let broken: Vec<_> = mistakes.iter().map(|it| it.line).collect();
    match rules(table.get_ref()) {
        Ok(rules) if mistakes.is_empty() => Ok(rules),
        done => {
            // So are mistakes in what was read of a line that isn't TOML.
            let found = done.err().into_iter().flatten().map(placed);
            mistakes.extend(found.filter(|it| !broken.contains(&it.line)));
            Err(mistakes)
        }
    }
}

fn not_toml(text: &str, error: &toml::de::Error) -> Mistake {
    let mut what = error.message().lines().collect::<Vec<_>>().join(", ");
    let at = error.span().unwrap_or_default();
    // For example, TOML takes an address without quotes for a wrong number.
    if what.starts_with("invalid") {
        what += ", addresses, names and patterns need quotes";
    } else if what.starts_with("unclosed table") {
        what += ", names with blanks need quotes";
    } else if what == "duplicate key"
        && let Some(key) = text.get(at.clone())
    {
        what = format!("{key} is there twice");
    }
    Mistake { at, what }
}

/// All in one line, in the order of the file.
fn told(mut mistakes: Vec<Placed>) -> String {
    mistakes.sort_by_key(|it| (it.line, it.column));
    let show = |it: &Placed| format!("line {}, column {}: {}", it.line, it.column, it.what);
    let mut parts: Vec<_> = mistakes.iter().take(MAX_TOLD).map(show).collect();
    if let more @ 1.. = mistakes.len().saturating_sub(MAX_TOLD) {
        parts.push(format!("and {more} more"));
    }
    if mistakes.iter().any(|it| it.what.starts_with(UNKNOWN)) {
        parts.push(format!("the settings are {KEYS}"));
    }
    parts.join("; ")
}

/// The line and the column of a byte.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = 1 + before.matches('\n').count();
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, 1 + before[start..].chars().count())
}

fn rules(table: &DeTable<'_>) -> Checked<ClientRules> {
    // Sections count in the order of the file.
    let mut tables: Vec<_> = table.iter().collect();
    tables.sort_by_key(|(name, _)| name.span().start);
    if let Some((name, _)) = tables.get(MAX_SECTIONS) {
        return mistake(name.span(), format!("more than {MAX_SECTIONS} sections"));
    }
    let mut roots = Vec::new();
    let mut sections = Vec::new();
    let mut mistakes = Vec::new();
    for (name, value) in tables {
        let DeValue::Table(keys) = value.get_ref() else {
            let what = format!("{} stands above the first [section]", name.get_ref());
            mistakes.extend(mistake::<()>(name.span(), what).err().into_iter().flatten());
            continue;
        };
        let mut section = Section {
            name: name.get_ref().to_string(),
            members: Members::default(),
            places: Vec::new(),
            read: Globs::default(),
            write: Globs::default(),
            settings: Settings::default(),
            sessions: Rc::default(),
        };
        for (key, value) in keys {
            let done = set(&mut section, &mut roots, key, value);
            mistakes.extend(done.err().into_iter().flatten());
        }
        sections.push(Rc::new(section));
    }
    if mistakes.is_empty() {
        Ok(ClientRules { sections, roots })
    } else {
        Err(mistakes)
    }
}

/// Adds a setting to the section. Messages about mistakes begin with the setting's name.
fn set(
    section: &mut Section,
    roots: &mut Vec<PathBuf>,
    key: &Spanned<toml::de::DeString<'_>>,
    value: &Value<'_>,
) -> Checked<()> {
    let name = key.get_ref().as_ref();
    if !KEYS.split(", ").any(|it| it == name) {
        let name: String = name.escape_debug().take(MAX_SHOWN).collect();
        let what = format!("{UNKNOWN} {name}");
        return mistake(key.span(), what);
    }
    let named = |it: Mistake| Mistake {
        what: format!("{name}: {}", it.what),
        ..it
    };
    let done = set_known(section, roots, name, value);
    done.map_err(|mistakes| mistakes.into_iter().map(named).collect())
}

fn set_known(
    section: &mut Section,
    roots: &mut Vec<PathBuf>,
    name: &str,
    value: &Value<'_>,
) -> Checked<()> {
    let Section {
        members,
        places,
        read,
        write,
        settings,
        ..
    } = section;
    match name {
        "networks" => members.networks = list(value, |it| it.parse().map_err(str::to_owned))?,
        "interfaces" => members.interfaces = list(value, interface)?,
        "hardware" => members.hardware = list(value, hardware)?,
        "roots" => *places = list(value, |it| root(it, roots))?,
        "read" => *read = globs(value)?,
        "write" => *write = globs(value)?,
        "refuse" => {
            for option in list(value, option)? {
                settings.refused.insert(option);
            }
        }
        "max-blksize" => {
            let range = u64::from(MIN_BLKSIZE)..=u64::from(MAX_BLKSIZE);
            settings.max_blksize = u16::try_from(number(value, range)?).ok();
        }
        "max-windowsize" => {
            let range = 1..=u64::from(u16::MAX);
            settings.max_windowsize = u16::try_from(number(value, range)?).ok();
        }
        "rate" => settings.rate = NonZeroU64::new(number(value, 1000..=1 << 40)?),
        "send-twice" => settings.send_twice = boolean(value)?,
        "octet" => settings.octet = boolean(value)?,
        "timeout" => {
            let millis = number(value, 1..=MAX_TIMEOUT)?;
            settings.timeout = Some(Duration::from_millis(millis));
        }
        "retries" => {
            settings.retries = u8::try_from(number(value, 0..=u64::from(u8::MAX))?).ok();
        }
        "single-port" => settings.single_port = Some(boolean(value)?),
        "max-sessions" => {
            settings.max_sessions = u32::try_from(number(value, 1..=1_000_000)?).ok();
        }
        _ => {}
    }
    Ok(())
}

/// A text, or a list of texts.
fn list<T>(value: &Value<'_>, mut parse: impl FnMut(&str) -> Result<T, String>) -> Checked<Vec<T>> {
    let mut item = |value: &Value<'_>| match value.get_ref() {
        DeValue::String(text) => parse(text).or_else(|what| {
            let what = format!("{}: {what}", shown(value.get_ref()));
            mistake(value.span(), what)
        }),
        other => {
            let what = format!("expected a string in quotes, not {}", shown(other));
            mistake(value.span(), what)
        }
    };
    match value.get_ref() {
        DeValue::Array(items) if items.is_empty() => mistake(value.span(), "the list is empty"),
        DeValue::Array(items) if items.len() > MAX_ITEMS => {
            mistake(value.span(), format!("more than {MAX_ITEMS} items"))
        }
        DeValue::Array(items) => {
            let (mut good, mut mistakes) = (Vec::new(), Vec::new());
            for it in items {
                match item(it) {
                    Ok(item) => good.push(item),
                    Err(more) => mistakes.extend(more),
                }
            }
            if mistakes.is_empty() {
                Ok(good)
            } else {
                Err(mistakes)
            }
        }
        _ => Ok(vec![item(value)?]),
    }
}

/// A value as a message shows it, perhaps cut.
fn shown(value: &DeValue<'_>) -> String {
    let text = match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(digits) => digits.to_string(),
        DeValue::Float(digits) => digits.to_string(),
        DeValue::Boolean(is_so) => is_so.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn number(value: &Value<'_>, range: std::ops::RangeInclusive<u64>) -> Checked<u64> {
    let number = match value.get_ref() {
        DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix()).ok(),
        _ => None,
    };
    number.filter(|it| range.contains(it)).map_or_else(
        || {
            let (low, high) = (range.start(), range.end());
            let shown = shown(value.get_ref());
            let what = format!("expected a number from {low} to {high}, not {shown}");
            mistake(value.span(), what)
        },
        Ok,
    )
}

fn boolean(value: &Value<'_>) -> Checked<bool> {
    match value.get_ref() {
        DeValue::Boolean(is_so) => Ok(*is_so),
        other => {
            let what = format!("expected true or false, not {}", shown(other));
            mistake(value.span(), what)
        }
    }
}

fn globs(value: &Value<'_>) -> Checked<Globs> {
    let mut globs = Globs::default();
    let count = list(value, |it| globs.add(it).map_err(str::to_owned))?.len();
    if count > MAX_PATTERNS {
        return mistake(value.span(), format!("more than {MAX_PATTERNS} patterns"));
    }
    Ok(globs)
}

fn option(text: &str) -> Result<OptionName, String> {
    OptionName::from_wire(text.as_bytes()).ok_or_else(|| {
        let names = OptionName::ALL.map(OptionName::name).join(", ");
        format!("expected one of {names}")
    })
}

fn interface(text: &str) -> Result<NamedInterface, String> {
    if text.is_empty() || text.len() > 15 || text.contains(['/', ' ']) {
        return Err("expected the name of an interface, such as eth0".to_owned());
    }
    Ok(NamedInterface {
        name: text.to_owned(),
        index: if_nametoindex(text).ok(),
    })
}

/// `aa:bb:cc:dd:ee:ff`, or the first bytes of it; dashes will do.
fn hardware(text: &str) -> Result<Hardware, String> {
    hardware::start(text).ok_or_else(|| {
        "expected a hardware address or its first bytes, such as 52:54:00:12:34:56 or 52:54:00"
            .to_owned()
    })
}

/// A directory: below ROOT, or below an absolute path, which is added to the `roots`.
fn root(text: &str, roots: &mut Vec<PathBuf>) -> Result<Place, String> {
    let path = Path::new(text);
    if text.is_empty() || text.contains('\0') {
        return Err("expected a directory".to_owned());
    }
    let is_up = |part: Component<'_>| part == Component::ParentDir;
    if path.components().any(is_up) {
        return Err(".. leads out; name the directory itself".to_owned());
    }
    let (mut base, mut way) = (PathBuf::new(), Vec::new());
    for part in path.components().filter(|part| *part != Component::CurDir) {
        let part = part.as_os_str().to_str().unwrap_or_default();
        let is_fixed = path.is_absolute() && way.is_empty() && !part.contains('%');
        if is_fixed {
            base.push(part);
            continue;
        }
        if !way.is_empty() {
            put(&mut way, b"/");
        }
        pieces(part, &mut way)?;
    }
    let base = path.is_absolute().then(|| {
        let known = roots.iter().position(|it| *it == base);
        known.unwrap_or_else(|| {
            roots.push(base);
            roots.len() - 1
        })
    });
    Ok(Place { base, way })
}

/// Splits a component at each `%i` and `%m`.
fn pieces(text: &str, way: &mut Vec<Part>) -> Result<(), String> {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        put(way, before.as_bytes());
        match after.chars().next() {
            Some('i') => way.push(Part::Address),
            Some('m') => way.push(Part::Hardware),
            Some('%') => put(way, b"%"),
            _ => {
                return Err(
                    "after % expected i (the client's address), m (its hardware address) or %"
                        .to_owned(),
                );
            }
        }
        rest = &after[1..];
    }
    put(way, rest.as_bytes());
    Ok(())
}

fn put(way: &mut Vec<Part>, text: &[u8]) {
    match way.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.extend_from_slice(text),
        _ => way.push(Part::Text(text.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[&str]) -> Vec<u8> {
        (lines.join("\n") + "\n").into_bytes()
    }

    #[test]
    fn sections_keep_the_order_of_the_file() {
        let rules = parse(b"[z]\n[a]\noctet = true\n[m]\n").unwrap();
        let names: Vec<_> = rules.sections.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["z", "a", "m"]);
        assert!(rules.sections[1].settings.octet);
    }

    #[test]
    fn roots_are_below_root_or_directories_of_their_own() {
        let file = text(&[
            "[all]",
            "roots = ['own/%i', 'phones', './.', '/srv/a', '/srv/b/%m/x', '/srv/a', '100%%']",
        ]);
        let rules = parse(&file).unwrap();
        assert_eq!(rules.roots, [Path::new("/srv/a"), Path::new("/srv/b")]);
        let shape = |base, way| Place { base, way };
        let word = |it: &str| Part::Text(it.into());
        assert_eq!(
            rules.sections[0].places,
            [
                shape(None, vec![word("own/"), Part::Address]),
                shape(None, vec![word("phones")]),
                shape(None, vec![]),
                shape(Some(0), vec![]),
                shape(Some(1), vec![Part::Hardware, word("/x")]),
                shape(Some(0), vec![]),
                shape(None, vec![word("100%")]),
            ]
        );
        assert!(rules.needs_hardware());
    }

    #[test]
    fn a_mistake_is_one_line_with_its_line_and_column() {
        for (lines, place, said) in [
            (
                &["octet = true"][..],
                "line 1, column 1",
                "octet stands above",
            ),
            (&["[a]", "octet = 1"], "line 2, column 9", "true or false"),
            (
                &["[a]", "", "  colour = 1"],
                "line 3, column 3",
                "no setting colour",
            ),
            (&["[a]", "[a]"], "line 2, column", "a is there twice"),
            (&["[a b]"], "line 1, column", "blanks need quotes"),
            (
                &["[a]", "networks = 192.0.2.0/24"],
                "line 2, column 17",
                "need quotes",
            ),
            (&["[a]", "rate = 0"], "line 2, column 8", "from 1000"),
            (&["[a]", "rate = -5"], "line 2, column 8", "from 1000"),
            (&["[a]", "rate = 1.5"], "line 2, column 8", "from 1000"),
            (
                &["[a]", "timeout = \"2s\""],
                "line 2, column 11",
                "from 1 to",
            ),
            (
                &["[a]", "retries = 256"],
                "line 2, column 11",
                "from 0 to 255",
            ),
            (
                &["[a]", "max-blksize = 7"],
                "line 2, column 15",
                "from 8 to",
            ),
            (
                &["[a]", "networks = ['::1', '192.0.2.0/33']"],
                "line 2, column 20",
                "at most 32 bits",
            ),
            (&["[a]", "networks = 5"], "line 2, column 12", "a string"),
            (&["[a]", "networks = []"], "line 2, column 12", "empty"),
            (
                &["[a]", "hardware = '52:54:0'"],
                "line 2, column 12",
                "hardware address",
            ),
            (
                &["[a]", "interfaces = ''"],
                "line 2, column 14",
                "interface",
            ),
            (
                &["[a]", "refuse = 'multicast'"],
                "line 2, column 10",
                "blksize, blksize2",
            ),
            (&["[a]", "roots = '../x'"], "line 2, column 9", ".."),
            (&["[a]", "roots = 'x/%h'"], "line 2, column 9", "after %"),
            (&["[a]", "read = ['x', '../y']"], "line 2, column 14", ".."),
            (&["[a]", "é = \"ä\"  ö"], "line 2, column 1", ""),
            (&["[a"], "line 1, column 3", ""),
        ] {
            let error = parse(&text(lines)).map(|_| ()).unwrap_err();
            assert!(error.starts_with(place), "{lines:?}: {error}");
            assert!(error.contains(said), "{lines:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let error = parse(b"[a]\n\xff\n").map(|_| ()).unwrap_err();
        assert_eq!(error, "line 2: not UTF-8");
    }

    #[test]
    fn a_mistake_names_the_setting_what_was_read_and_what_is_allowed() {
        for (line, told) in [
            (
                "rate = \"1M\"",
                "rate: expected a number from 1000 to 1099511627776, not \"1M\"",
            ),
            (
                "max-blksize = 4",
                "max-blksize: expected a number from 8 to 65464, not 4",
            ),
            (
                "retries = -1",
                "retries: expected a number from 0 to 255, not -1",
            ),
            (
                "rate = [5]",
                "rate: expected a number from 1000 to 1099511627776, not a list",
            ),
            (
                "octet = \"yes\"",
                "octet: expected true or false, not \"yes\"",
            ),
            (
                "networks = 1.5",
                "networks: expected a string in quotes, not 1.5",
            ),
            (
                "networks = \"192.0.2.0/33\"",
                "networks: \"192.0.2.0/33\": an IPv4 network's prefix has at most 32 bits, as in 192.0.2.1/32",
            ),
        ] {
            let error = parse(&text(&["[a]", line])).map(|_| ()).unwrap_err();
            assert!(error.ends_with(told), "{line}: {error}");
        }
        let long = format!("rate = '{}'", "x".repeat(500));
        let error = parse(&text(&["[a]", &long])).map(|_| ()).unwrap_err();
        assert!(error.len() < 200 && error.ends_with('…'), "{error}");
    }

    #[test]
    fn all_mistakes_are_told_up_to_a_bound() {
        let lines = [
            "[a]",
            "rate = 1",
            "colour = 1",
            "networks = ['x', '::/0', 'y']",
        ];
        let broken = ["[b]", "octet = maybe", "size = 5", "retries = 1 1"];
        let file = text(&[&lines[..], &broken[..]].concat());
        let error = parse(&file).map(|_| ()).unwrap_err();
        let mut rest = &error[..];
        for part in [
            "line 2, column 8: rate: ",
            "; line 3, column 1: there is no setting colour; ",
            "line 4, column 13: networks: \"x\": ",
            "; line 4, column 26: networks: \"y\": ",
            "; line 6, column 9: ",
            "; line 7, column 1: there is no setting size; ",
            "line 8, column ",
            "; the settings are networks, ",
        ] {
            let Some((before, behind)) = rest.split_once(part) else {
                panic!("no `{part}` in {error}");
            };
            assert!(!before.contains("line"), "{part}: {error}");
            rest = behind;
        }
        assert!(!rest.contains("line"), "{error}");
        let many: Vec<_> = (0..30)
            .map(|it| format!("[s{it}]\nrate = {it}\n"))
            .collect();
        let error = parse(many.concat().as_bytes()).map(|_| ()).unwrap_err();
        assert_eq!(error.matches("rate: ").count(), MAX_TOLD, "{error}");
        assert!(error.ends_with("; and 10 more"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn what_stands_below_a_broken_header_is_checked_as_well() {
        for header in ["[a", "[a b]", "[]", "[x] y", "  [a"] {
            let lines = [
                "[x]",
                "octet = 1",
                header,
                "octet = true",
                "colour = 1",
                "rate = 2",
            ];
            let error = parse(&text(&lines)).map(|_| ()).unwrap_err();
            for part in [
                "line 2, column 9: octet: expected true or false",
                "; line 3, column ",
                "; line 5, column 1: there is no setting colour; ",
                "line 6, column 8: rate: ",
            ] {
                assert!(error.contains(part), "{header}: no {part} in {error}");
            }
            let (_, rest) = error.split_once("line 6").unwrap();
            assert!(!rest.contains("line"), "{header}: {error}");
            assert_eq!(error.matches("line ").count(), 4, "{header}: {error}");
        }
    }

    #[test]
    fn an_item_of_a_list_is_no_header() {
        for (item, place) in [
            ("[\"a\"],", "line 3, column 1: "),
            ("[\"a\"] b,", "line 3, column "),
            ("  [a],", "line 3, column "),
        ] {
            for opening in ["read = [ # ]", "read = [\"]\", ']', \"\\\"]\","] {
                let lines = ["[x]", opening, item, "\"b\",", "]", "rate = 1"];
                let error = parse(&text(&lines)).map(|_| ()).unwrap_err();
                assert!(error.starts_with(place), "{item}: {error}");
                assert!(error.contains("; line 6, "), "{item}: {error}");
                assert_eq!(error.matches("line ").count(), 2, "{item}: {error}");
            }
        }
    }

    #[test]
    fn any_bytes_are_rules_or_a_mistake() {
        let whole = include_bytes!("../../../tests/data/rules.toml");
        parse(whole).unwrap();
        for at in 0..whole.len() {
            let _ = parse(&whole[..at]);
            let mut changed = whole.to_vec();
            changed[at] = changed[at].wrapping_add(7);
            let _ = parse(&changed);
        }
    }
}
