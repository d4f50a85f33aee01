//! What both commands do with a command line that is wrong: one line that names the
//! mistake. Must not: know their options.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;

/// Why the program ends before it started.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError {
    /// What to print, without a line end: on standard output where `status` is
    /// 0, on standard error elsewhere.
    pub text: String,
    /// What to exit with: 0 for `--help` and `--version`.
    pub status: u8,
}

impl UsageError {
    /// What `error` comes to for `program`, which exits with `status` where the
    /// user made a mistake.
    pub fn new(program: &str, status: u8, error: &clap::Error) -> Self {
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
        Self {
            text: format!("{program}: {what}; try --help"),
            status,
        }
    }
}

/// A parser of numbers within `range`, whose errors say what that is.
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

/// Two ports, such as `50000:50999`: those that transfers may use.
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
        None => Err("expected two ports, such as 50000:50999"),
    }
}

/// A number of bytes, perhaps with K, M, G or T.
///
/// # Errors
/// What was expected instead.
pub fn parse_size(text: &str) -> Result<u64, &'static str> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err("expected a number of bytes, or one with K, M, G or T after it"),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or("expected a number of bytes, or one with K, M, G or T after it")
}

/// A time up to a day: a number with `ms`, `s` or `m`, seconds without.
///
/// # Errors
/// What was expected instead.
pub fn parse_time(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text, "s")
        .filter(|time| !time.is_zero() && *time <= LONGEST_TIME)
        .ok_or("expected a time up to a day, in ms, s or m, such as 3s or 500ms")
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

/// A number that isn't negative with a unit, or in `default_unit`.
fn parse_duration(text: &str, default_unit: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: f64 = digits.parse().ok()?;
    let unit = match &text[digits.len()..] {
        "" => default_unit,
        unit => unit,
    };
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// As long as the timeout option can say (RFC 2349).
const LONGEST_TIMEOUT: Duration = Duration::from_secs(255);

const LONGEST_TIME: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_know_their_unit() {
        for (text, milliseconds) in [("3s", 3000), ("500ms", 500), ("2m", 120_000), ("1.5", 1500)] {
            let expected = Duration::from_millis(milliseconds);
            assert_eq!(parse_time(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "-1s", "0s", "3h", "nan", "inf", "1e9"] {
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
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "M", "1X", "-1", "1.5G", "99999999T", "1KB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
