//! The command line of `tftp`: one command, tftp-hpa's `-c`, or the prompt. Must
//! not: act on anything.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::target::{instead_of_url, is_url, parse_mode, parse_port};
use super::{Status, familiar};
use crate::host::usage::{self, Remedy, UsageError};
use crate::protocol::retry::{RetryPolicy, Wait};
use crate::wire::options::{MAX_BLKSIZE, MIN_BLKSIZE, Offer, OptionName, Rollover};
use crate::wire::packet::Mode;

/// What to ask for if the user doesn't say.
const ASKED_BLKSIZE: u16 = 1428;
const ASKED_WINDOWSIZE: u16 = 16;

/// Why options don't go together, and which one to leave out.
const REMEDIES: &[Remedy] = &[
    (
        "'--no-options'",
        "--no-options asks for none: leave out one of them",
    ),
    ("'--ipv4'", "leave out both to use either"),
    (
        "'--quiet'",
        "one says more, the other less: leave out one of them",
    ),
];

/// TFTP client (RFC 1350, 2347, 2348, 2349, 7440).
///
/// Without get, put, probe or -c it shows a prompt, whose commands may also come
/// from a pipe.
#[derive(Debug, Parser)]
#[command(
    name = "tftp",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
#[command(override_usage = "tftp [OPTIONS] get URL… [LOCAL]
       tftp [OPTIONS] put LOCAL… URL
       tftp [OPTIONS] probe URL [--within TIME]
       tftp [OPTIONS] HOST [PORT] -c COMMAND…
       tftp [OPTIONS] [HOST [PORT]]")]
#[command(after_help = "Examples:
  tftp get tftp://192.0.2.1/pxelinux.0
  tftp put running-config tftp://192.0.2.1:6969/backup/
  tftp --wait 2m put firmware.bin tftp://192.0.2.1/
  tftp -m binary 192.0.2.1 -c get pxelinux.0 /tmp/pxelinux.0

probe has --within TIME: how long it may take, such as 3s [default: 5s].

Exit status: 0 all went well, 1 the server's error, 2 a local file,
port or socket, 64 usage, 68 unknown host, 69 no answer, 129, 130 and 143
interrupted.")]
pub struct Args {
    /// What every way of using it knows.
    #[command(flatten)]
    pub common: CommonArgs,

    /// get, put or probe.
    #[command(subcommand)]
    pub action: Option<Action>,

    /// Server that the prompt connects to
    #[arg(value_parser = parse_host)]
    pub host: Option<String>,

    /// Its UDP port [default: 69]
    #[arg(value_parser = parse_port)]
    pub port: Option<u16>,

    /// Run one command of the prompt and exit, such as -c get FILE LOCAL;
    /// everything after -c belongs to the command
    #[arg(
        short = 'c',
        value_name = "COMMAND",
        num_args = 1..,
        allow_hyphen_values = true
    )]
    pub command: Option<Vec<OsString>>,

    /// At the prompt, take a colon in a file name as part of the name
    #[arg(short, long)]
    pub literal: bool,
}

/// What to do once.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Get files
    #[command(override_usage = "tftp [OPTIONS] get URL… [LOCAL]")]
    #[command(after_help = "Example: tftp get tftp://192.0.2.1/pxelinux.0 /tmp/")]
    Get {
        /// URLs, then a local file, a directory, or - for standard output
        /// [default: the same names here]
        #[arg(required = true, value_name = "URL… [LOCAL]")]
        files: Vec<OsString>,
    },
    /// Put files
    #[command(override_usage = "tftp [OPTIONS] put LOCAL… URL")]
    #[command(after_help = "Example: tftp put running-config tftp://192.0.2.1:6969/")]
    Put {
        /// Local files (- is standard input), then the URL to put them at
        #[arg(required = true, value_name = "LOCAL… URL")]
        files: Vec<OsString>,
    },
    /// Fetch a file, discard it, and say in one line how it went
    Probe {
        /// The URL of the file
        url: OsString,
        /// The longest it may take, such as 3s or 500ms
        #[arg(long, value_name = "TIME", default_value = "5s", value_parser = usage::parse_time)]
        within: Duration,
    },
}

/// Options that go with everything.
#[derive(Debug, Clone, Parser)]
pub struct CommonArgs {
    /// Transfer mode: octet (binary) or netascii (ascii) [default: octet]
    #[arg(short, long, value_parser = parse_mode_word, global = true)]
    pub mode: Option<Mode>,

    /// Block size to ask for, in bytes [default: 1428]
    #[arg(long, value_name = "BYTES", global = true)]
    #[arg(value_parser = usage::number(MIN_BLKSIZE..=MAX_BLKSIZE))]
    pub blksize: Option<u16>,

    /// Window to ask for, in blocks [default: 16]
    #[arg(long, value_name = "BLOCKS", global = true)]
    #[arg(value_parser = usage::number(1..=u16::MAX))]
    pub windowsize: Option<u16>,

    /// Another option to ask for; can be repeated
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = parse_option, global = true)]
    pub options: Vec<(String, String)>,

    /// Ask for no options (plain RFC 1350)
    #[arg(long, conflicts_with_all = ["options", "blksize", "windowsize"], global = true)]
    pub no_options: bool,

    /// Milliseconds to wait for an answer before sending again, or a time such as
    /// 5s; doubles each time [default: follows the measured round trip]
    #[arg(short, long, value_name = "MS", global = true)]
    #[arg(value_parser = usage::parse_timeout)]
    pub timeout: Option<Duration>,

    /// How often to repeat a packet before giving up
    #[arg(long, value_name = "N", default_value_t = 5, global = true)]
    #[arg(value_parser = usage::number(0..=u8::MAX))]
    pub retries: u8,

    /// Keep asking a device that doesn't answer yet for this long, such as 2m;
    /// at least once a second [default: as --retries allows]
    #[arg(long, value_name = "TIME", value_parser = usage::parse_time, global = true)]
    pub wait: Option<Duration>,

    /// Local ports to use, one per transfer [default: any]
    #[arg(short = 'R', long, value_name = "LO:HI", global = true)]
    #[arg(value_parser = usage::parse_port_range)]
    pub port_range: Option<RangeInclusive<u16>>,

    /// Use IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6", global = true)]
    pub ipv4: bool,

    /// Use IPv6 only
    #[arg(short = '6', long, global = true)]
    pub ipv6: bool,

    /// Say more: what was negotiated, and what was tried
    #[arg(
        short,
        long,
        conflicts_with = "quiet",
        overrides_with = "verbose",
        global = true
    )]
    pub verbose: bool,

    /// Show every packet
    #[arg(long, global = true)]
    pub trace: bool,

    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

impl Args {
    /// Reads the command line.
    ///
    /// # Errors
    /// The text to print and the status to exit with: `--help` and `--version`
    /// (0, standard output), or one line about a mistake (64, standard error).
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let words = familiar::translate(words).map_err(|text| UsageError {
            text: format!("tftp: {text}"),
            status: Status::Usage.code(),
        })?;
        let remedies = [REMEDIES, familiar::REMEDIES].concat();
        let args = usage::read::<Self>(words)
            .map_err(|error| UsageError::new("tftp", Status::Usage.code(), &error, &remedies))?;
        match (&args.action, &args.host) {
            (Some(_), Some(host)) => Err(UsageError {
                text: format!(
                    "tftp: {host} and a command: write tftp {host} -c COMMAND, or name the host \
                     in the URL; try --help"
                ),
                status: Status::Usage.code(),
            }),
            _ => Ok(args),
        }
    }
}

impl CommonArgs {
    /// When to send again and when to give up.
    pub fn retry(&self) -> RetryPolicy {
        let wait = self.timeout.map_or(Wait::Adaptive, Wait::Fixed);
        RetryPolicy {
            wait,
            retries: self.retries,
        }
    }

    /// What to ask a server for, apart from the size.
    pub fn offer(&self) -> Offer {
        if self.no_options {
            return Offer::default();
        }
        let blksize = self.blksize.or(Some(ASKED_BLKSIZE));
        let windowsize = self.windowsize.or(Some(ASKED_WINDOWSIZE));
        self.offer_with(blksize, windowsize)
    }

    /// What the user asked for, and nothing else.
    pub fn explicit_offer(&self) -> Offer {
        self.offer_with(self.blksize, self.windowsize)
    }

    fn offer_with(&self, blksize: Option<u16>, windowsize: Option<u16>) -> Offer {
        let mut offer = Offer {
            blksize,
            windowsize: windowsize.filter(|&blocks| blocks > 1),
            ..Offer::default()
        };
        for (name, value) in &self.options {
            match OptionName::from_wire(name.as_bytes()) {
                Some(OptionName::Blksize) => offer.blksize = value.parse().ok(),
                Some(OptionName::Windowsize) => offer.windowsize = value.parse().ok(),
                Some(OptionName::Timeout) => offer.timeout = value.parse().ok(),
                Some(OptionName::Tsize) => offer.tsize = value.parse().ok(),
                Some(OptionName::Rollover) => offer.rollover = rollover(value),
                _ => offer.extra.push((name.clone(), value.clone())),
            }
        }
        offer
    }

    /// Whether to ask for the size, or tell it: not if the user sets `tsize` or wants no
    /// options.
    pub fn with_size(&self) -> bool {
        let is_tsize = |(name, _): &(String, String)| name.eq_ignore_ascii_case("tsize");
        !self.no_options && !self.options.iter().any(is_tsize)
    }

    /// The addresses of a host, without those of unwanted families.
    ///
    /// # Errors
    /// One line that names the host.
    pub fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        // The sign before a zone is written %25 in URLs (RFC 6874).
        let name = host.replacen("%25", "%", 1);
        let wanted = |address: &SocketAddr| {
            !(self.ipv4 && address.is_ipv6() || self.ipv6 && address.is_ipv4())
        };
        let found = (&*name, port).to_socket_addrs();
        let found = found.map(|all| all.map(unmapped).filter(wanted));
        match found.map(Iterator::collect::<Vec<_>>) {
            Ok(addresses) if !addresses.is_empty() => Ok(addresses),
            Ok(_) if self.ipv4 => Err(format!("{host}: unknown host: it has no IPv4 address")),
            Ok(_) if self.ipv6 => Err(format!("{host}: unknown host: it has no IPv6 address")),
            _ if host.contains('@') => Err(format!(
                "{host}: unknown host; TFTP knows no users: leave out what stands before the @"
            )),
            _ if host.contains('%') => Err(format!(
                "{host}: unknown host: no such address or interface"
            )),
            _ if host.contains(':') => Err(format!(
                "{host}: unknown host; to name a port, write HOST PORT, or get \
                 tftp://HOST:PORT/FILE"
            )),
            _ => Err(format!("{host}: unknown host")),
        }
    }
}

/// An IPv4-mapped IPv6 address as the IPv4 address that it stands for, from which the
/// answers will come.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        // With its zone.
        IpAddr::V6(_) => address,
    }
}

/// A server's name or address. A URL has a command instead, which the error names.
fn parse_host(text: &str) -> Result<String, String> {
    if is_url(text.as_ref()) {
        return Err(instead_of_url(text, "tftp get", "tftp"));
    }
    Ok(text.to_owned())
}

fn parse_mode_word(word: &str) -> Result<Mode, &'static str> {
    parse_mode(word).ok_or("expected octet (binary, image) or netascii (ascii)")
}

/// `NAME=VALUE`; the values of options that we act on must be in their range.
fn parse_option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("expected NAME=VALUE")?;
    let number = value.parse::<u64>().ok();
    let within = |range: RangeInclusive<u64>| {
        let (low, high) = (range.start(), range.end());
        match number {
            Some(number) if range.contains(&number) => Ok(()),
            _ => Err(format!("expected a number from {low} to {high}")),
        }
    };
    match OptionName::from_wire(name.as_bytes()) {
        Some(OptionName::Blksize) => within(MIN_BLKSIZE.into()..=MAX_BLKSIZE.into())?,
        Some(OptionName::Windowsize) => within(1..=u16::MAX.into())?,
        Some(OptionName::Timeout) => within(1..=255)?,
        Some(OptionName::Tsize) => within(0..=u64::MAX)?,
        Some(OptionName::Rollover) => within(0..=1)?,
        Some(OptionName::Blksize2) => return Err("use --blksize instead".to_owned()),
        Some(OptionName::Utimeout) => return Err("use --option timeout=SECONDS".to_owned()),
        None if text.contains('\0') => return Err("a NUL can't be sent".to_owned()),
        None => {}
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn rollover(value: &str) -> Option<Rollover> {
    match value.parse::<u8>() {
        Ok(0) => Some(Rollover::ToZero),
        Ok(1) => Some(Rollover::ToOne),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Args, UsageError> {
        Args::read(
            std::iter::once("tftp")
                .chain(words.iter().copied())
                .map(OsString::from),
        )
    }

    #[test]
    fn tftp_hpas_form_is_understood() {
        for (words, host, port, command) in [
            (&["h", "-c", "get", "f"][..], "h", None, &["get", "f"][..]),
            (
                &["-m", "binary", "h", "6969", "-c", "put", "a", "-b"],
                "h",
                Some(6969),
                &["put", "a", "-b"],
            ),
            (&["-v", "h", "tftp"], "h", Some(69), &[]),
            (&["h"], "h", None, &[]),
        ] {
            let args = read(words).unwrap_or_else(|it| panic!("{words:?}: {it:?}"));
            assert_eq!(args.host.as_deref(), Some(host), "{words:?}");
            assert_eq!(args.port, port, "{words:?}");
            assert!(args.action.is_none(), "{words:?}");
            assert_eq!(args.command.unwrap_or_default(), command, "{words:?}");
        }
    }

    #[test]
    fn options_may_stand_before_and_after_the_command() {
        for words in [
            &["--blksize", "512", "get", "tftp://h/f"][..],
            &["get", "--blksize", "512", "tftp://h/f"],
            &["get", "tftp://h/f", "--blksize=512"],
        ] {
            let args = read(words).unwrap_or_else(|it| panic!("{words:?}: {it:?}"));
            assert_eq!(args.common.blksize, Some(512), "{words:?}");
            assert!(matches!(args.action, Some(Action::Get { .. })), "{words:?}");
        }
    }

    #[test]
    fn the_offer_is_what_was_asked_for() {
        let offer = |words: &[&str]| read(words).unwrap().common.offer();
        assert_eq!(offer(&["h", "--no-options"]), Offer::default());
        let asked = offer(&["h"]);
        assert_eq!((asked.blksize, asked.windowsize), (Some(1428), Some(16)));
        let asked = offer(&[
            "h",
            "--option",
            "blksize=8",
            "--option",
            "Timeout=3",
            "--option",
            "x=",
            "--option",
            "rollover=1",
            "--windowsize",
            "1",
        ]);
        assert_eq!((asked.blksize, asked.windowsize), (Some(8), None));
        assert_eq!(
            (asked.timeout, asked.rollover),
            (Some(3), Some(Rollover::ToOne))
        );
        assert_eq!(asked.extra, [("x".to_owned(), String::new())]);
    }

    #[test]
    fn for_words_of_other_clients_the_message_says_where_ours_are() {
        let other = "see tftp(1), COMING FROM ANOTHER CLIENT";
        for (line, told) in [
            ("--get -r f -l x h", other),
            ("--put -l x -r f h 6969", other),
            ("-p -l x -r f h", other),
            ("-g -r f h", other),
            ("-gr f h", other),
            ("-r f h", other),
            ("--remote-file f --local-file x h", other),
            ("-i h get f", other),
            ("-O tftp://h/f", other),
            ("--tftp-blksize 512 tftp://h/f", other),
            ("h get f", "write tftp h -c COMMAND"),
            ("get tftp://h/f -o x", "name the local file last"),
            ("get tftp://h/f --output=x", "name the local file last"),
            ("get -ox tftp://h/f", "name the local file last"),
        ] {
            let words: Vec<_> = line.split(' ').collect();
            let refusal = read(&words).map(|_| ()).expect_err(line);
            assert_eq!(refusal.status, 64, "{line}");
            assert!(refusal.text.contains(told), "{line}: {}", refusal.text);
            assert_eq!(refusal.text.lines().count(), 1, "{}", refusal.text);
        }
    }

    #[test]
    fn a_mistake_is_one_line_that_names_the_value() {
        for (words, named) in [
            (&["--blksize", "7", "h"][..], "from 8 to 65464"),
            (&["--retries", "-1", "h"], "from 0 to 255"),
            (&["--windowsize", "0", "h"], "0"),
            (&["--blksize", "-1", "h"], "from 8 to 65464"),
            (
                &["--wait", "0", "h"],
                "'0' for '--wait <TIME>': expected a time above 0",
            ),
            (&["--wait", "-1", "h"], "'-1' for '--wait"),
            (
                &["probe", "tftp://h/f", "--within", "-3"],
                "'-3' for '--within",
            ),
            (&["-t", "-4", "h"], "'-4' for '--timeout"),
            (&["--option", "blksize", "h"], "blksize"),
            (&["--option", "=1", "h"], "=1"),
            (&["--option", "timeout=256", "h"], "256"),
            (&["--option", "blksize2=512", "h"], "blksize2"),
            (&["-m", "mail", "h"], "mail"),
            (&["-t", "0", "h"], "0"),
            (&["h", "0"], "0"),
            (&["h", "port"], "port"),
            (&["--bogus"], "--bogus"),
            (&["probe", "tftp://h/f", "--within", "soon"], "soon"),
            (&["-R", "1:2", "h"], "1:2"),
            (
                &["tftp://h:70/f"],
                "to fetch it, write tftp get tftp://h:70/f",
            ),
            (&["tftp://h/f", "here"], "to fetch it, write tftp get"),
            (&["tftp://h/f", "-c", "get", "f"], "to fetch it, write"),
            (&["TFTP://h:70"], "to connect to it, write tftp h 70"),
            (&["tftp://[::1]/d/"], "to connect to it, write tftp ::1 69"),
            (&["tftp://h:x/f"], "expected a port"),
            (&["get"], "URL"),
            (&["put"], "LOCAL"),
            (&["h", "get", "tftp://h/f"], "h"),
            (&["gett", "tftp://h/f"], "get"),
            (&["--no-options", "--blksize", "8", "h"], "--no-options"),
        ] {
            let refusal = read(words).map(|_| ()).expect_err(&format!("{words:?}"));
            assert_eq!(refusal.status, 64, "{words:?}");
            assert!(refusal.text.contains(named), "{words:?}: {}", refusal.text);
            assert_eq!(
                refusal.text.lines().count(),
                1,
                "{words:?}: {}",
                refusal.text
            );
        }
    }
}
