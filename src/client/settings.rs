//! What the commands of the prompt set: mode, times, sizes, what is shown. Must not:
//! talk to a server or to the user.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::cli::CommonArgs;
use super::commands::{Command, usage};
use super::target::parse_mode;
use crate::protocol::retry::{RetryPolicy, Wait};
use crate::wire::escape::printable;
use crate::wire::options::{DEFAULT_BLKSIZE, DEFAULT_WINDOWSIZE, MAX_BLKSIZE, MIN_BLKSIZE, Offer};
use crate::wire::packet::Mode;

/// What is wrong with the words after a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadWords {
    /// There are too many, or too few.
    Usage,
    /// One of them, as this text says.
    Word(String),
}

/// The settings for the transfers to come.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) offer: Offer,
    pub(super) mode: Mode,
    pub(super) verbose: bool,
    pub(super) trace: bool,
    pub(super) literal: bool,
    /// How long to wait in all, if the user said so.
    patience: Option<Duration>,
    retry: RetryPolicy,
}

impl Settings {
    /// The settings that the command line asks for.
    pub(super) fn new(args: &CommonArgs, literal: bool) -> Self {
        Self {
            offer: args.offer(),
            mode: args.mode.unwrap_or(Mode::Octet),
            verbose: args.verbose,
            trace: args.trace,
            literal,
            patience: None,
            retry: args.retry(),
        }
    }

    /// When to send again and when to give up.
    pub(super) fn retry(&self) -> RetryPolicy {
        match self.patience {
            Some(patience) => self.retry.lasting(patience),
            None => self.retry,
        }
    }

    /// Changes what `command` sets, with the words after it; returns what to tell the
    /// user, if anything. Commands that set nothing change nothing.
    ///
    /// # Errors
    /// What is wrong with the words.
    pub(super) fn change(
        &mut self,
        command: Command,
        words: &[Vec<u8>],
    ) -> Result<Option<String>, BadWords> {
        match command {
            Command::Binary => self.mode = Mode::Octet,
            Command::Ascii => self.mode = Mode::Netascii,
            Command::Mode => return self.change_mode(words),
            Command::Verbose => return Ok(Some(toggle("Verbose mode", &mut self.verbose))),
            Command::Trace => return Ok(Some(toggle("Packet tracing", &mut self.trace))),
            Command::Literal => return Ok(Some(toggle("Literal mode", &mut self.literal))),
            Command::Rexmt => self.retry.wait = Wait::Fixed(seconds("rexmt", words)?),
            Command::Timeout => self.patience = Some(seconds("timeout", words)?),
            Command::Blksize => {
                self.offer.blksize = Some(number("blksize", words, MIN_BLKSIZE..=MAX_BLKSIZE)?);
            }
            Command::Windowsize => {
                let blocks = number("windowsize", words, 1..=u16::MAX)?;
                self.offer.windowsize = Some(blocks).filter(|&blocks| blocks > 1);
            }
            Command::Connect
            | Command::Put
            | Command::Get
            | Command::Mput
            | Command::Mget
            | Command::Quit
            | Command::Status
            | Command::Help => {}
        }
        Ok(None)
    }

    fn change_mode(&mut self, words: &[Vec<u8>]) -> Result<Option<String>, BadWords> {
        match words {
            [] => {
                let name = self.mode.name();
                Ok(Some(format!("Using {name} mode to transfer files.")))
            }
            [word] => {
                let mode = std::str::from_utf8(word).ok().and_then(parse_mode);
                self.mode = mode.ok_or_else(|| {
                    let (word, usage) = (printable(word), usage(Command::Mode));
                    BadWords::Word(format!("{word}: unknown mode\n{usage}"))
                })?;
                Ok(None)
            }
            _ => Err(BadWords::Usage),
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Mode: {} Verbose: {} Tracing: {} Literal: {}",
            self.mode.name(),
            on_off(self.verbose),
            on_off(self.trace),
            on_off(self.literal)
        )?;
        let patience = self.patience.unwrap_or_else(|| self.retry.patience());
        write!(
            f,
            "Rexmt-interval: {} seconds, Max-timeout: {} seconds, Blksize: {}, Windowsize: {}",
            self.retry.initial_wait().as_secs_f64(),
            patience.as_secs_f64(),
            self.offer.blksize.unwrap_or(DEFAULT_BLKSIZE),
            self.offer.windowsize.unwrap_or(DEFAULT_WINDOWSIZE)
        )
    }
}

fn toggle(name: &str, setting: &mut bool) -> String {
    *setting = !*setting;
    format!("{name} {}.", on_off(*setting))
}

const fn on_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

/// The only word after a command, a number.
fn number(name: &str, words: &[Vec<u8>], range: RangeInclusive<u16>) -> Result<u16, BadWords> {
    let (low, high) = (range.start(), range.end());
    let [word] = words else {
        return Err(BadWords::Usage);
    };
    parse(word)
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            let word = printable(word);
            BadWords::Word(format!("{word}: bad value: {name} is {low} to {high}"))
        })
}

/// The only word after a command, a time in seconds.
fn seconds(name: &str, words: &[Vec<u8>]) -> Result<Duration, BadWords> {
    let [word] = words else {
        return Err(BadWords::Usage);
    };
    parse(word)
        .filter(|seconds| (0.001..=255.0).contains(seconds))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| {
            let word = printable(word);
            BadWords::Word(format!("{word}: bad value: {name} is 0.001 to 255"))
        })
}

fn parse<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::cli::Args;
    use super::*;

    /// The table of commands has them as text.
    #[test]
    fn a_usage_names_the_range_that_holds() {
        let args = Args::read([OsString::from("tftp")]).unwrap();
        for command in [
            Command::Rexmt,
            Command::Timeout,
            Command::Blksize,
            Command::Windowsize,
        ] {
            let mut settings = Settings::new(&args.common, false);
            let Err(BadWords::Word(told)) = settings.change(command, &[b"-1".to_vec()]) else {
                panic!("{command:?}");
            };
            let (_, range) = told.rsplit_once(" is ").expect("a range");
            let usage = usage(command);
            assert!(usage.contains(&format!("({range})")), "{usage}: {told}");
        }
    }
}
