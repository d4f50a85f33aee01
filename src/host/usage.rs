//! What both commands do with a command line that is wrong: one line that names the
//! mistake. Must not: know their options.

use std::ffi::OsString;
use std::fmt::Display;
use std::iter;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, FromArgMatches};

/// Why the program ends before it started.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError {
    /// What to print, without a line end: on standard output if `status` is 0, else on
    /// standard error.
    pub text: String,
    /// What to exit with: 0 for `--help` and `--version`.
    pub status: u8,
}

impl UsageError {
    /// The `error` as `program` reports it, with the `status` it exits with after a
    /// user's mistake. Where options don't go together, or one needs another, the first
    /// of the `remedies` whose words are in the message says what to do about it; for any
    /// other mistake, one whose words are the whole message.
    pub fn new(program: &str, status: u8, error: &clap::Error, remedies: &[Remedy]) -> Self {
        let text = error.render().to_string();
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            return Self {
                text: text.trim_end().to_owned(),
                status: 0,
            };
        }
        // One line: what is wrong. The usage that clap adds is what --help is for.
        let lines = text.lines().map(str::trim);
        let what: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        let what = what.join(" ");
        let what = what.strip_prefix("error: ").unwrap_or(&what);
        let what = what.trim_end_matches('.');
        // An option that is given twice is a conflict, too, but has no such remedy.
        let is_about_others = [
            ErrorKind::ArgumentConflict,
            ErrorKind::MissingRequiredArgument,
        ]
        .contains(&error.kind())
            && !what.contains("multiple times");
        let is_meant =
            |remedy: &&Remedy| what == remedy.0 || is_about_others && what.contains(remedy.0);
        let remedy = remedies.iter().find(is_meant);
        let remedy = remedy.map_or("try --help", |remedy| remedy.1);
        Self {
            text: format!("{program}: {what}; {remedy}"),
            status,
        }
    }
}

/// Reads a command line. A negative number after an option is taken for its value, so
/// that the message about it is that option's.
///
/// # Errors
/// The user's mistake, or `--help` or `--version`.
pub fn read<T: CommandFactory + FromArgMatches>(
    words: impl IntoIterator<Item = OsString>,
) -> Result<T, clap::Error> {
    let command = T::command().mut_args(allow_negative);
    let command = command.mut_subcommands(|it| it.mut_args(allow_negative));
    T::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// Lets the option's parser see a negative number, unless any text is right for it:
/// after a forgotten file name, `-4` is an option.
fn allow_negative(option: Arg) -> Arg {
    let texts = [
        ValueParser::string(),
        ValueParser::os_string(),
        ValueParser::path_buf(),
    ];
    let parser = option.get_value_parser().type_id();
    let takes_text = texts.iter().any(|it| it.type_id() == parser);
    if takes_text || option.is_positional() || !option.get_action().takes_values() {
        return option;
    }
    option.allow_negative_numbers(true)
}

/// Words of a message, and what to do about it.
pub type Remedy = (&'static str, &'static str);

/// A parser of numbers within `range`, whose errors name the range.
pub fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            format!("expected a number from {low} to {high}")
        })
    }
}

/// Two ports, such as `50000:51999`: those that transfers may use.
///
/// # Errors
/// What was expected instead.
pub fn parse_port_range(text: &str) -> Result<RangeInclusive<u16>, &'static str> {
    let parse = || {
        let (low, high) = text.split_once(':')?;
        Some((low.parse::<u16>().ok()?, high.parse::<u16>().ok()?))
    };
    match parse() {
        Some((low, high)) if low >= 1024 && low <= high => Ok(low..=high),
        Some(_) => Err("expected LO:HI with 1024 <= LO <= HI <= 65535"),
        None => Err("expected two ports, such as 50000:51999"),
    }
}

/// A number of bytes, perhaps with a unit, in capitals or not: K and KiB are 1024 bytes,
/// KB is 1000; likewise M, G and T.
///
/// # Errors
/// What was expected instead.
pub fn parse_size(text: &str) -> Result<u64, &'static str> {
    size(text).ok_or("expected a number of bytes, or one with K, M, G or T after it, such as 10M")
}

fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let mut unit = text[digits.len()..].bytes();
    let mut letter = || unit.next().map(|it| it.to_ascii_uppercase());
    let power = match letter() {
        None => 0,
        Some(b'K') => 1,
        Some(b'M') => 2,
        Some(b'G') => 3,
        Some(b'T') => 4,
        Some(_) => return None,
    };
    let base: u64 = match (letter(), letter(), letter()) {
        (None, ..) | (Some(b'I'), Some(b'B'), None) => 1024,
        (Some(b'B'), None, _) => 1000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(base.pow(power))
}

/// A time up to a day: a number with `ms`, `s` or `m`, seconds without.
///
/// # Errors
/// What was expected instead.
pub fn parse_time(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text, "s")
        .filter(|time| !time.is_zero() && *time <= LONGEST_TIME)
        .ok_or("expected a time above 0 and up to a day, in ms, s or m, such as 3s or 500ms")
}

/// [`parse_time`], or 0.
///
/// # Errors
/// What was expected instead.
pub fn parse_time_or_none(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text, "s")
        .filter(|time| *time <= LONGEST_TIME)
        .ok_or("expected 0, or a time up to a day, in ms, s or m, such as 3s")
}

/// A wait for an answer: a whole number of milliseconds, or a time with a unit.
///
/// # Errors
/// What was expected instead.
pub fn parse_timeout(text: &str) -> Result<Duration, &'static str> {
    let range = Duration::from_millis(1)..=LONGEST_TIMEOUT;
    parse_duration(text, "ms")
        .filter(|time| range.contains(time) && time.subsec_nanos() % 1_000_000 == 0)
        .ok_or("expected a wait from 1 to 255000 milliseconds, or with a unit, such as 500ms or 5s")
}

/// A time, and whether its unit was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenTime {
    /// The time.
    pub time: Duration,
    /// Nobody who wrote it can have meant another unit.
    pub has_unit: bool,
}

/// [`parse_timeout`], and whether a unit was given.
///
/// # Errors
/// As there.
pub fn parse_given_timeout(text: &str) -> Result<GivenTime, &'static str> {
    Ok(GivenTime {
        time: parse_timeout(text)?,
        has_unit: text.ends_with(|letter: char| letter.is_ascii_alphabetic()),
    })
}

/// A number that isn't negative, with a unit or in `default_unit`. Parsed as whole
/// numbers: floating-point parsing would add 15 KiB to the small build.
fn parse_duration(text: &str, default_unit: &str) -> Option<Duration> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "" => default_unit,
        unit => unit,
    };
    // Nanoseconds.
    let unit: u64 = match unit {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + part.len() == 0 || !is_number(whole) || !is_number(part) {
        return None;
    }
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().ok()?,
    };
    // Digits after the sixth are less than a millisecond in any unit.
    let part = part.bytes().chain(iter::repeat(b'0')).take(6);
    let millionths = part.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let nanoseconds = whole.checked_mul(unit)?;
    Some(Duration::from_nanos(
        nanoseconds.checked_add(millionths * (unit / 1_000_000))?,
    ))
}

/// The longest that the timeout option can express (RFC 2349).
const LONGEST_TIMEOUT: Duration = Duration::from_secs(255);

const LONGEST_TIME: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_know_their_unit() {
        for (text, milliseconds) in [
            ("3s", 3000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1.5", 1500),
            ("1.0000009", 1000),
            (".25m", 15_000),
            ("2.", 2000),
        ] {
            let expected = Duration::from_millis(milliseconds);
            assert_eq!(parse_time(text), Ok(expected), "{text}");
        }
        let too_long = "9".repeat(20);
        for text in [
            "", "s", ".", ".s", "-1s", "+1s", "1.2.3", "1.-5", "0s", "3h", "nan", "inf", "1e9",
            &too_long,
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        for (text, milliseconds) in [
            ("500", 500),
            ("5s", 5000),
            ("20ms", 20),
            ("255000", 255_000),
        ] {
            let expected = Duration::from_millis(milliseconds);
            assert_eq!(parse_timeout(text), Ok(expected), "{text}");
        }
        for text in ["0", "-1", "0.5", "1.5", "256s", "5h", ""] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
        assert_eq!(parse_time_or_none("0"), Ok(Duration::ZERO));
        assert_eq!(parse_time_or_none("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_time_or_none("-1").is_err());
    }

    #[test]
    fn sizes_know_their_suffix() {
        for (text, size) in [
            ("0", 0),
            ("1500", 1500),
            ("4k", 4096),
            ("2M", 2 << 20),
            ("1G", 1 << 30),
            ("10KiB", 10 << 10),
            ("10MiB", 10 << 20),
            ("10mib", 10 << 20),
            ("1kB", 1000),
            ("10MB", 10_000_000),
            ("2gb", 2_000_000_000),
            ("1TB", 1_000_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in [
            "",
            "M",
            "1X",
            "-1",
            "1.5G",
            "99999999T",
            "1B",
            "1iB",
            "1Mi",
            "1MBB",
            "1MiBs",
            "10 M",
        ] {
            let error = parse_size(text).expect_err(text);
            assert!(error.ends_with("such as 10M"), "{error}");
        }
    }
}
