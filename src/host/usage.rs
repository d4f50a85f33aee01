//! What both commands do with a command line that they can't follow: one line
//! that names the mistake. Must not: know their options.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

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
