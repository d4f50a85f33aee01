//! The command line of `tftpd`: what each option is called, what it means, and
//! the one line that a mistake gets. Must not: act on anything.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Parser};

use super::MAX_LISTENERS;
use super::address::{Families, ListenAddress, ListenTarget};
use super::familiar;
use super::upload_args::UploadArgs;
use crate::host::usage::{self, GivenTime, Remedy, UsageError};
use crate::log::LogFormat;
use crate::log::syslog::DEV_LOG;
use crate::policy::access::Network;
use crate::policy::client_root::NamedAfter;
use crate::policy::glob::Globs;
use crate::status::StatusAddress;
#[cfg(feature = "status")]
use crate::status::command::StatusArgs;
use crate::wire::options::{
    DEFAULT_MAX_WINDOWSIZE, MAX_BLKSIZE, MIN_BLKSIZE, OptionName, OptionSet,
};

/// TFTP server (RFC 1350, 2347, 2348, 2349, 7440).
///
/// Every file below ROOT can be read, and new files can be created. Existing
/// files are never overwritten unless --overwrite is given.
#[derive(Debug, Parser)]
#[command(name = "tftpd", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  tftpd -p 6969 -t 500                    serve the current directory on port 6969
  tftpd --read-only -u nobody /srv/tftp   serve boot files on port 69
  tftpd -p 6969 --single-port --read-only /srv/tftp
                                          behind NAT or in a container")]
pub struct Args {
    /// Something else to do than to serve.
    #[cfg(feature = "status")]
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Directory to serve; nothing outside it can be reached [default: the current
    /// directory]
    pub root: Option<PathBuf>,

    /// UDP port to listen on; 0 picks a free one
    #[arg(short, long, default_value_t = 69, help_heading = "Listening")]
    #[arg(value_parser = usage::number(0..=u16::MAX))]
    pub port: u16,

    /// Address, interface or host name to listen on; can be repeated [default:
    /// all, IPv4 and IPv6]
    #[arg(
        short,
        long = "address",
        value_name = "ADDR[:PORT]",
        help_heading = "Listening"
    )]
    #[arg(value_parser = str::parse::<ListenAddress>)]
    pub addresses: Vec<ListenAddress>,

    /// Receive and send by this interface or VRF alone, transfers too [default: all]
    #[arg(long, value_name = "NAME", help_heading = "Listening")]
    pub interface: Option<String>,

    /// Listen on IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6", help_heading = "Listening")]
    pub ipv4: bool,

    /// Listen on IPv6 only
    #[arg(short = '6', long, help_heading = "Listening")]
    pub ipv6: bool,

    /// Ports to use for transfers [default: any free port above 1023]
    #[arg(short = 'R', long, value_name = "LO:HI", help_heading = "Listening")]
    #[arg(value_parser = usage::parse_port_range)]
    pub port_range: Option<RangeInclusive<u16>>,

    /// Use the listening port for all transfers: for clients behind NAT, for
    /// containers, firewalls and load balancers
    #[arg(long, conflicts_with = "port_range", help_heading = "Listening")]
    pub single_port: bool,

    /// Let several servers of the same user share the port; the kernel spreads
    /// clients among them
    #[arg(long, help_heading = "Listening")]
    pub reuse_port: bool,

    /// Answer read requests that were sent to a broadcast address, if the file is there
    #[arg(long, help_heading = "Listening")]
    pub answer_broadcast: bool,

    /// Milliseconds to wait for an answer before sending again, or a time such as 2s;
    /// doubles each time [default: follows the measured round trip]
    #[arg(short, long, value_name = "MS", help_heading = "Protocol")]
    #[arg(value_parser = usage::parse_given_timeout)]
    pub timeout: Option<GivenTime>,

    /// How often to repeat a packet before giving up
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Protocol")]
    #[arg(value_parser = usage::number(0..=u8::MAX))]
    pub retries: u8,

    /// Largest block size to agree to, in bytes
    #[arg(short = 'B', long, value_name = "BYTES", default_value_t = MAX_BLKSIZE, help_heading = "Protocol")]
    #[arg(value_parser = usage::number(MIN_BLKSIZE..=MAX_BLKSIZE))]
    pub max_blksize: u16,

    /// Largest window to agree to, in blocks
    #[arg(long, value_name = "BLOCKS", default_value_t = DEFAULT_MAX_WINDOWSIZE, help_heading = "Protocol")]
    #[arg(value_parser = usage::number(1..=u16::MAX))]
    pub max_windowsize: u16,

    /// TFTP option to ignore, as if it were unknown; can be repeated
    #[arg(
        short,
        long = "refuse",
        value_name = "OPTION",
        help_heading = "Protocol"
    )]
    #[arg(value_parser = parse_option_name)]
    pub refused: Vec<OptionName>,

    /// Spin for up to this many microseconds waiting for an answer before
    /// sleeping; 0 disables spinning
    #[arg(
        long,
        value_name = "MICROSECONDS",
        default_value_t = 50,
        help_heading = "Protocol"
    )]
    #[arg(value_parser = usage::number(0..=1000_u32))]
    pub busy_poll: u32,

    /// Refuse all uploads
    #[arg(long, conflicts_with_all = ["overwrite", "max_upload", "umask"], help_heading = "Access")]
    #[arg(overrides_with = "read_only")]
    pub read_only: bool,

    /// Let uploads replace existing files
    #[arg(long, help_heading = "Access")]
    pub overwrite: bool,

    /// Largest upload, in bytes or with K, M, G or T [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = "Access", value_parser = parse_max_upload)]
    pub max_upload: Option<u64>,

    /// Permission bits to clear on new files [default: the process's own umask]
    #[arg(short = 'U', long, value_name = "OCTAL", help_heading = "Access", value_parser = parse_umask)]
    pub umask: Option<u32>,

    /// Rules that rewrite requested names, in tftp-hpa's language
    #[arg(short, long, value_name = "FILE", help_heading = "Access")]
    pub map_file: Option<PathBuf>,

    /// Show what the rules in FILE do to the names on standard input, and exit
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Access",
        conflicts_with = "map_file"
    )]
    pub map_test: Option<PathBuf>,

    /// Rules by client: directories, rights, options and limits, by network, interface
    /// or hardware address
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    pub rules: Option<PathBuf>,

    /// Show what the rules by client in FILE mean for the clients and names on standard
    /// input, and exit
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Access",
        conflicts_with_all = ["rules", "map_test"]
    )]
    pub rules_test: Option<PathBuf>,

    /// Program that is told what happens and asked what to serve, for /bin/sh; started
    /// again when it ends
    #[arg(
        long,
        value_name = "COMMAND",
        help_heading = "Helpers",
        group = "whom_to_ask"
    )]
    pub helper: Option<String>,

    /// Unix socket of a service that is told and asked the same
    #[arg(
        long,
        value_name = "PATH",
        help_heading = "Helpers",
        group = "whom_to_ask",
        conflicts_with_all = ["helper", "chroot"]
    )]
    pub helper_socket: Option<PathBuf>,

    /// Names that the helper is asked about, as a pattern such as grub/*.cfg; can be
    /// repeated
    #[arg(long, value_name = "GLOB", help_heading = "Helpers")]
    #[arg(value_parser = parse_pattern, requires = "whom_to_ask")]
    pub ask: Vec<String>,

    /// Ask the helper about every file to be read that isn't there
    #[arg(long, help_heading = "Helpers", requires = "whom_to_ask")]
    pub ask_missing: bool,

    /// Milliseconds to wait for the helper's answer, or a time such as 2s; then the
    /// request is served as without it
    #[arg(
        long,
        value_name = "MS",
        default_value = "5s",
        help_heading = "Helpers",
        requires = "whom_to_ask"
    )]
    #[arg(value_parser = usage::parse_timeout)]
    pub ask_timeout: Duration,

    /// Serve each client from its own directory below ROOT, named after its
    /// address, if there is one; otherwise from ROOT
    #[arg(long, value_name = "ip|mac", help_heading = "Access")]
    pub per_client_root: Option<NamedAfter>,

    /// Directory outside ROOT that links below ROOT may lead to when a file is read;
    /// can be repeated [default: none]
    #[arg(long, value_name = "DIR", help_heading = "Access")]
    pub follow_links: Vec<PathBuf>,

    /// If there is no file of exactly that name, look for one that differs only in
    /// the case of its letters
    #[arg(long, help_heading = "Access")]
    pub ignore_case: bool,

    /// Network to serve; can be repeated [default: all]
    #[arg(long, value_name = "CIDR", help_heading = "Access")]
    pub allow: Vec<Network>,

    /// Network not to serve, even if allowed; can be repeated [default: none]
    #[arg(long, value_name = "CIDR", help_heading = "Access")]
    pub deny: Vec<Network>,

    /// Most transfers at once; further requests are dropped [default: as many as
    /// the limit on open files allows; with --single-port, as memory allows]
    #[arg(long, value_name = "N", help_heading = "Access")]
    #[arg(value_parser = usage::number(1..=1_000_000_u32))]
    pub max_sessions: Option<u32>,

    /// Most transfers at once with one client; further requests are dropped
    /// [default: no limit]
    #[arg(long, value_name = "N", help_heading = "Access")]
    #[arg(value_parser = usage::number(1..=1_000_000_u32))]
    pub max_sessions_per_client: Option<u32>,

    /// With --single-port or few ports: bytes a second, or with K, M, G or T, for all
    /// clients of a network (IPv4 /24, IPv6 /64) that haven't shown that they are
    /// there; 0: no limit
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "1M",
        help_heading = "Access"
    )]
    #[arg(value_parser = usage::parse_size)]
    pub max_unproved_rate: u64,

    /// How uploads are taken, beyond that.
    #[command(flatten)]
    pub uploads: UploadArgs,

    /// Run as this user and group (name or number); must be started as root
    /// [default: the user that started it; the user's own group]
    #[arg(
        short,
        long,
        value_name = "USER[:GROUP]",
        help_heading = "Process",
        value_parser = parse_user
    )]
    pub user: Option<UserAndGroup>,

    /// Make ROOT the only directory the process can see; must be started as root
    #[arg(long, help_heading = "Process", conflicts_with = "follow_links")]
    pub chroot: bool,

    /// Don't confine the process with Landlock
    #[arg(long, help_heading = "Process")]
    pub no_sandbox: bool,

    /// Write the process ID to FILE, and delete FILE at exit
    #[arg(short = 'P', long, value_name = "FILE", help_heading = "Process")]
    pub pid_file: Option<PathBuf>,

    /// Number of worker processes, or auto: one per processor; the kernel spreads
    /// clients among them. SIGUSR2 replaces them without dropping a transfer
    #[cfg_attr(
        feature = "workers",
        arg(
            long,
            value_name = "N|auto",
            help_heading = "Process",
            conflicts_with_all = ["reuse_port", "idle_exit"],
            value_parser = parse_workers
        )
    )]
    #[cfg_attr(not(feature = "workers"), arg(skip))]
    pub workers: Option<u8>,

    /// The part of this process, if there are several.
    #[arg(skip)]
    pub part: Part,

    /// Seconds that running transfers may take to finish after SIGTERM or SIGINT, or
    /// a time such as 2m
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "3",
        help_heading = "Process"
    )]
    #[arg(value_parser = usage::parse_time_or_none)]
    pub grace: Duration,

    /// Exit after this many seconds without a transfer or a request, or a time such
    /// as 10m [default: never; 900 under inetd]
    #[arg(long, value_name = "SECONDS", help_heading = "Process")]
    #[arg(value_parser = usage::parse_time)]
    pub idle_exit: Option<Duration>,

    /// Log more: -v also when transfers begin, and what is dropped and why; -vv
    /// every packet
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Logging")]
    pub verbose: u8,

    /// Log errors only
    #[arg(short, long, help_heading = "Logging")]
    pub quiet: bool,

    /// Append the log to FILE instead of standard error
    #[arg(long, value_name = "FILE", help_heading = "Logging")]
    pub log_file: Option<PathBuf>,

    /// Format of log lines: text, or one JSON object each
    #[arg(long, value_name = "text|json", help_heading = "Logging")]
    #[arg(default_value = "text", conflicts_with = "syslog")]
    pub log_format: LogFormat,

    /// Log to the syslog, through /dev/log or another SOCKET
    #[arg(
        long,
        value_name = "SOCKET",
        help_heading = "Logging",
        conflicts_with = "log_file"
    )]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = DEV_LOG)]
    pub syslog: Option<PathBuf>,

    /// Show the status over HTTP: a page, /status.json, /metrics, /healthz. A bare PORT
    /// listens on loopback; a value with a slash is a Unix socket. With --workers each has
    /// its own: PORT, PORT+1 and so on, or SOCKET, SOCKET.2
    #[cfg(feature = "status")]
    #[arg(
        long,
        value_name = "ADDR:PORT|SOCKET",
        help_heading = "Logging",
        value_parser = str::parse::<StatusAddress>
    )]
    pub status: Option<StatusAddress>,

    /// What tftp-hpa's users write, and what is the default here.
    #[command(flatten)]
    pub familiar: Familiar,
}

/// tftp-hpa's options for what is the default here, accepted so that its command lines
/// work. They may be repeated: Debian's init script adds some that its configuration
/// has, too.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Accepted for compatibility with tftp-hpa, no effect")]
pub struct Familiar {
    /// Let uploads create new files
    #[arg(short, long, hide_short_help = true, overrides_with = "create")]
    pub create: bool,

    /// Keep clients below ROOT
    #[arg(short, long, hide_short_help = true, overrides_with = "secure")]
    pub secure: bool,

    /// Keep clients below ROOT, without a chroot
    #[arg(short, long, hide_short_help = true, overrides_with = "jail")]
    pub jail: bool,

    /// Listen without inetd; stays in the foreground here
    #[arg(short, long, hide_short_help = true, overrides_with = "listen")]
    pub listen: bool,

    /// Listen without inetd, in the foreground
    #[arg(
        short = 'L',
        long,
        hide_short_help = true,
        overrides_with = "foreground"
    )]
    pub foreground: bool,
}

/// A wait for an answer that is hardly meant: the adaptive one never is as short.
const SHORT_WAIT: Duration = Duration::from_millis(20);

/// What the program does beside serving.
#[cfg(feature = "status")]
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what a running server does
    Status(StatusArgs),
}

/// One line for a user who wrote a second directory, which is taken for a subcommand if
/// there are any.
fn second_root(error: &clap::Error) -> Option<String> {
    let context = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::ArgumentConflict => ContextKind::InvalidSubcommand,
        _ => return None,
    };
    let Some(ContextValue::String(word)) = error.get(context) else {
        return None;
    };
    (!word.starts_with('-')).then(|| {
        format!(
            "tftpd: unexpected '{word}': there is one ROOT; serve the directory above, or \
             add --follow-links DIR"
        )
    })
}

/// Why options don't go together, and which one to leave out.
#[rustfmt::skip]
const REMEDIES: &[Remedy] = &[
    ("'--read-only'", "--read-only refuses all uploads: leave it out, or the upload options"),
    ("'--single-port'", "--single-port uses no other ports: leave out one of them"),
    ("'--chroot'", "--chroot shuts out all but ROOT: leave it out; the sandbox confines as well"),
    ("-test <FILE>'", "a test reads the FILE it names, and serves nobody: leave out the other"),
    ("'--helper ", "there is one helper: leave out one of them"),
    ("provided: <--helper", "there is nobody to ask: add --helper or --helper-socket, or leave out --ask, --ask-missing and --ask-timeout"),
    ("'--ipv4'", "leave out both to listen on IPv4 and IPv6"),
    ("'--quiet'", "one logs more, the other less: leave out one of them"),
    ("'--syslog", "the syslog is no file and has a format of its own: leave out one of them"),
    #[cfg(feature = "uploads")]
    ("'--write-only'", "with --write-only nobody learns or replaces what is there: leave out one of them"),
    #[cfg(feature = "uploads")]
    ("provided: --keep-versions", "--version-format is only about how the versions are named that --keep-versions N keeps"),
    #[cfg(feature = "workers")]
    ("'--reuse-port'", "--workers shares the port by itself: leave out --reuse-port"),
    #[cfg(feature = "workers")]
    ("'--idle-exit", "workers don't end when idle: leave out one of them"),
];

impl Args {
    /// Reads the command line.
    ///
    /// # Errors
    /// The text to print and the status to exit with: `--help` and `--version`
    /// (0, standard output), or a mistake in one line (2, standard error).
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let (part, words) = Part::split_off(words);
        let words = familiar::translate(words).map_err(|text| UsageError {
            text: format!("tftpd: {text}"),
            status: 2,
        })?;
        let args = usage::read::<Self>(words);
        let mut args = args.map_err(|error| match second_root(&error) {
            Some(text) => UsageError { text, status: 2 },
            None => UsageError::new("tftpd", 2, &error, REMEDIES),
        })?;
        // tftp-hpa's way to say that there are no rules.
        args.map_file.take_if(|file| file == Path::new("/dev/null"));
        args.part = part;
        if let Some(text) = args.contradiction() {
            return Err(UsageError { text, status: 2 });
        }
        if part == Part::Worker {
            // The pid file is the supervisor's.
            args.pid_file = None;
        }
        Ok(args)
    }

    /// One line if the words alone show that they can't be followed.
    fn contradiction(&self) -> Option<String> {
        let (count, families) = (self.addresses.len(), self.families());
        if count > MAX_LISTENERS {
            return Some(format!(
                "tftpd: -a is given {count} times; at most {MAX_LISTENERS} are possible"
            ));
        }
        if let (Some(status), Some(workers)) = (self.status(), self.workers)
            && let Err(text) = status.of_worker(workers)
        {
            return Some(format!("tftpd: {text}"));
        }
        let is_left = |it: &ListenAddress| it.may_be_left_by(families);
        let lost = &self.addresses.first()?.text;
        let (option, other) = match families {
            Families::Ipv4 => ("-4", "IPv4"),
            _ => ("-6", "IPv6"),
        };
        (!self.addresses.iter().any(is_left)).then(|| {
            format!(
                "tftpd: {option} leaves nothing of -a {lost} to listen on; leave out {option}, or \
                 name an {other} address"
            )
        })
    }

    /// A warning if `-t` may be meant as tftp-hpa's: in seconds, and something else.
    pub(super) fn doubt(&self) -> Option<String> {
        let wait = self.timeout.filter(|it| !it.has_unit)?.time;
        let there = match self.workers {
            None => "is --idle-exit",
            Some(_) => "is no option with --workers: leave it out",
        };
        let Familiar {
            create,
            secure,
            listen,
            ..
        } = self.familiar;
        (create || secure || listen || wait < SHORT_WAIT).then(|| {
            format!(
                "-t is how long the server waits for an answer before it repeats, {} ms here; \
                 tftp-hpa's -t, the seconds without work before it exits, {there}",
                wait.as_millis()
            )
        })
    }

    /// The directory to serve.
    pub fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new("."))
    }

    /// Where the status port is to be.
    #[cfg_attr(
        not(feature = "status"),
        allow(clippy::unused_self, reason = "as with the feature")
    )]
    pub(super) const fn status(&self) -> Option<&StatusAddress> {
        #[cfg(feature = "status")]
        return self.status.as_ref();
        #[cfg(not(feature = "status"))]
        None
    }

    /// Everything to listen on.
    ///
    /// # Errors
    /// One line: no such interface or host.
    pub(super) fn listen_targets(&self) -> Result<Vec<ListenTarget>, String> {
        let families = self.families();
        let any = [ListenAddress::any()];
        let addresses = match &self.addresses[..] {
            [] => &any[..],
            some => some,
        };
        let mut targets = Vec::new();
        for address in addresses {
            targets.extend(address.resolve(self.port, families)?);
        }
        Ok(targets)
    }

    const fn families(&self) -> Families {
        match (self.ipv4, self.ipv6) {
            (true, _) => Families::Ipv4,
            (_, true) => Families::Ipv6,
            _ => Families::Both,
        }
    }

    /// The options to treat as unknown.
    pub fn refused_options(&self) -> OptionSet {
        let mut set = OptionSet::default();
        for &option in &self.refused {
            set.insert(option);
        }
        set
    }
}

/// The part of a process with `--workers`. A word before all options, which isn't for
/// users, says which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// The process that was started from outside.
    #[default]
    First,
    /// A process that only says whether it could take the first one's place.
    Trial,
    /// The first process after executing its program again, with its sockets and
    /// processes.
    Resumed,
    /// A process that serves on the sockets it is handed.
    Worker,
}

impl Part {
    /// The word for this part; `number` is the worker's.
    pub(super) fn word(self, number: usize) -> String {
        match self {
            Self::First => String::new(),
            Self::Trial => TRIAL.to_owned(),
            Self::Resumed => RESUMED.to_owned(),
            Self::Worker => format!("{WORKER}{number}"),
        }
    }

    /// What the first word says, and the command line without it.
    fn split_off(words: impl IntoIterator<Item = OsString>) -> (Self, Vec<OsString>) {
        let mut words: Vec<_> = words.into_iter().collect();
        let part = match words.get(1).and_then(|word| word.to_str()) {
            _ if cfg!(not(feature = "workers")) => return (Self::First, words),
            Some(TRIAL) => Self::Trial,
            Some(RESUMED) => Self::Resumed,
            Some(word) if word.starts_with(WORKER) => Self::Worker,
            _ => return (Self::First, words),
        };
        words.remove(1);
        (part, words)
    }
}

const TRIAL: &str = "--part=trial";
const RESUMED: &str = "--part=resumed";
const WORKER: &str = "--part=worker-";

/// The most processes on one port.
#[cfg(feature = "workers")]
const MAX_WORKERS: u8 = 64;

/// A user and perhaps a group, by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserAndGroup {
    /// Name or number.
    pub user: String,
    /// Name or number; `None` for the user's own.
    pub group: Option<String>,
}

fn parse_option_name(text: &str) -> Result<OptionName, String> {
    OptionName::from_wire(text.as_bytes()).ok_or_else(|| {
        let names = OptionName::ALL.map(OptionName::name).join(", ");
        format!("expected one of {names}")
    })
}

/// How many processes are to serve; `auto`: as many as processors may be used.
#[cfg(feature = "workers")]
fn parse_workers(text: &str) -> Result<u8, String> {
    if text == "auto" {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        return Ok(u8::try_from(processors).map_or(MAX_WORKERS, |it| it.min(MAX_WORKERS)));
    }
    usage::number(1..=MAX_WORKERS)(text)
        .map_err(|_| format!("expected auto or a number from 1 to {MAX_WORKERS}"))
}

fn parse_max_upload(text: &str) -> Result<u64, &'static str> {
    match usage::parse_size(text)? {
        0 => Err("for no uploads use --read-only"),
        size => Ok(size),
    }
}

fn parse_pattern(text: &str) -> Result<String, &'static str> {
    Globs::default().add(text)?;
    Ok(text.to_owned())
}

fn parse_umask(text: &str) -> Result<u32, &'static str> {
    match u32::from_str_radix(text, 8) {
        Ok(mask) if mask <= 0o777 => Ok(mask),
        _ => Err("expected an octal number from 000 to 777, such as 022"),
    }
}

fn parse_user(text: &str) -> Result<UserAndGroup, &'static str> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    if user.is_empty() || group.is_some_and(str::is_empty) {
        return Err("expected USER or USER:GROUP, such as tftp, nobody:nogroup or 65534:65534");
    }
    Ok(UserAndGroup {
        user: user.to_owned(),
        group: group.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Args, UsageError> {
        Args::read(
            std::iter::once("tftpd")
                .chain(words.iter().copied())
                .map(OsString::from),
        )
    }

    #[test]
    fn two_options_are_enough() {
        let args = read(&["-p", "6969", "-t", "500"]).unwrap();
        assert_eq!(args.root(), Path::new("."));
        assert_eq!(
            args.timeout.map(|it| it.time),
            Some(Duration::from_millis(500))
        );
        assert_eq!(listening(&args), ["0.0.0.0:6969", "[::]:6969"]);
    }

    #[test]
    fn times_may_have_a_unit() {
        let args = read(&["-t", "2s", "--grace", "2m", "--idle-exit", "900"]).unwrap();
        let seconds = |it| Some(Duration::from_secs(it));
        assert_eq!(args.timeout.map(|it| it.time), seconds(2));
        assert_eq!(
            (Some(args.grace), args.idle_exit),
            (seconds(120), seconds(900))
        );
        assert_eq!(read(&[]).map(|args| args.grace), Ok(Duration::from_secs(3)));
    }

    fn listening(args: &Args) -> Vec<String> {
        let targets = args.listen_targets().unwrap();
        targets.iter().map(|it| it.address.to_string()).collect()
    }

    #[test]
    fn addresses_take_the_common_port_and_the_families_that_are_left() {
        for (words, expected) in [
            (&["-a", "127.0.0.1"][..], &["127.0.0.1:69"][..]),
            (
                &["-a", "127.0.0.1:7000", "-p", "8000", "-a", "::1"],
                &["127.0.0.1:7000", "[::1]:8000"],
            ),
            (&["-4"], &["0.0.0.0:69"]),
            (&["-6"], &["[::]:69"]),
            (&["-a", ":70"], &["0.0.0.0:70", "[::]:70"]),
            (&["-6", "-a", "127.0.0.1", "-a", "::1"], &["[::1]:69"]),
        ] {
            assert_eq!(listening(&read(words).unwrap()), expected, "{words:?}");
        }
    }

    #[test]
    fn a_mistake_is_one_line_that_names_the_value() {
        for (words, named) in [
            (&["-p", "70000"][..], "70000"),
            // What links lead to would be a way out.
            (&["--chroot", "--follow-links", "/srv"], "--follow-links"),
            (&["--chroot", "--chroot"], "try --help"),
            (&["-p", "tftp"], "tftp"),
            (&["-t", "0"], "0"),
            (&["-t", "-5"], "-5"),
            (&["--retries", "256"], "256"),
            (&["-B", "7"], "7"),
            (&["-B", "65465"], "65465"),
            (&["--max-windowsize", "0"], "0"),
            (&["-a", "[::1"], "[::1"),
            (&["-R", "80:90"], "80:90"),
            (&["-R", "5000"], "5000"),
            (&["-R", "6000:5000"], "6000:5000"),
            (&["-r", "multicast"], "multicast"),
            (&["--max-upload", "lots"], "lots"),
            (&["--max-upload", "0"], "use --read-only"),
            (
                &["--max-upload", "-1"],
                "'-1' for '--max-upload <SIZE>': expected a number",
            ),
            (&["--max-sessions", "-1"], "from 1 to 1000000"),
            // What may be any text isn't a number: the value is missing.
            (&["-P", "-4"], "'--pid-file <FILE>'"),
            (&["--overwrite", "--max-upload=0K"], "use --read-only"),
            (&["-U", "999"], "999"),
            (&["--max-unproved-rate", "fast"], "fast"),
            (&["--max-sessions", "0"], "0"),
            (&["--max-sessions-per-client", "0"], "0"),
            (
                &["--allow", "192.0.2.0/33"],
                "'192.0.2.0/33' for '--allow <CIDR>': an IPv4",
            ),
            (&["--allow", "::1/129"], "at most 128 bits"),
            (&["--deny", "everyone"], "everyone"),
            (&["-u", ""], "USER"),
            (&["-u", ":staff"], ":staff"),
            (&["-u", "nobody:"], "nobody:"),
            (&["--grace", "-1"], "-1"),
            (&["--bogus"], "--bogus"),
            #[cfg(feature = "workers")]
            (&["--workers", "0"], "0"),
            #[cfg(feature = "workers")]
            (&["--workers", "65"], "65"),
            #[cfg(feature = "workers")]
            (&["--workers", "two"], "auto or a number from 1 to 64"),
            #[cfg(feature = "workers")]
            (&["--workers", "2", "--reuse-port"], "--reuse-port"),
            #[cfg(feature = "workers")]
            (&["--workers", "2", "--idle-exit", "9"], "--idle-exit"),
            #[cfg(all(feature = "workers", feature = "status"))]
            (
                &["--workers", "3", "--status", "65534"],
                "no port for worker 3; choose",
            ),
            (&["a", "b"], "b"),
            (&["--ask", "grub/**"], "add --helper"),
            (&["--ask-missing"], "add --helper"),
            (&["--ask-timeout", "3s"], "add --helper"),
            (&["-4", "-a", "::1"], "leave out -4"),
            (
                &["-6", "-a", "192.0.2.1:69", "-a", "127.0.0.1"],
                "leave out -6",
            ),
            (&["-6", "-a", "192.0.2.1"], "192.0.2.1"),
            (&["-a=::1"; MAX_LISTENERS + 1], "at most 15"),
            (&["--read-only", "--overwrite"], "--overwrite"),
            #[cfg(feature = "uploads")]
            (&["--read-only", "--keep-versions", "3"], "--keep-versions"),
            #[cfg(feature = "uploads")]
            (&["--read-only", "--create-dirs"], "--create-dirs"),
            #[cfg(feature = "uploads")]
            (&["--write-only", "--overwrite"], "--overwrite"),
            #[cfg(feature = "uploads")]
            (&["--keep-versions", "0"], "0"),
            #[cfg(feature = "uploads")]
            (&["--version-format", "%Y"], "that --keep-versions N keeps"),
            #[cfg(feature = "uploads")]
            (&["--keep-versions", "3", "--version-format", "%Y%q"], "%q"),
            #[cfg(feature = "uploads")]
            (&["--min-free", "101%"], "101%"),
        ] {
            let refusal = read(words).expect_err(&format!("{words:?}"));
            assert_eq!(refusal.status, 2, "{words:?}");
            assert!(refusal.text.contains(named), "{words:?}: {}", refusal.text);
            assert_eq!(
                refusal.text.lines().count(),
                1,
                "{words:?}: {}",
                refusal.text
            );
        }
    }

    /// Words that give each option a value, if it needs one.
    fn with_value(option: &clap::Arg) -> Vec<String> {
        let word = format!("--{}", option.get_long().unwrap());
        let takes_value = option.get_action().takes_values();
        let is_optional = option.get_num_args().is_some_and(|it| it.min_values() == 0);
        if !takes_value || is_optional {
            return vec![word];
        }
        let value = match option.get_id().as_str() {
            "umask" => "022",
            "port_range" => "5000:6000",
            "workers" => "2",
            "log_format" => "json",
            "version_format" => "%s",
            _ => "9000",
        };
        vec![word, value.to_owned()]
    }

    #[test]
    fn options_that_conflict_say_which_to_leave_out() {
        use clap::CommandFactory as _;
        let mut command = Args::command();
        command.build();
        let mut tried = 0;
        for one in command.get_opts() {
            for other in command.get_arg_conflicts_with(one) {
                if other.is_positional() || other.get_id() == one.get_id() {
                    continue;
                }
                let words = [with_value(one), with_value(other)].concat();
                let words: Vec<_> = words.iter().map(String::as_str).collect();
                let told = read(&words).expect_err(&format!("{words:?}")).text;
                assert!(told.contains("cannot be used with"), "{told}");
                assert!(told.contains("leave "), "{told}");
                assert!(!told.contains("try --help"), "{told}");
                tried += 1;
            }
        }
        // Most are about uploads.
        let least = if cfg!(feature = "uploads") { 10 } else { 5 };
        assert!(tried > least, "{tried}");
    }

    #[test]
    #[cfg(feature = "status")]
    fn status_is_a_command_and_a_directory_of_that_name_can_be_served() {
        for (words, is_command) in [
            (&["status"][..], true),
            (&["status", "--json", "[::1]:1"], true),
            (&["./status"], false),
            (&["-p", "69", "status"], false),
            (&["help"], false),
        ] {
            let args = read(words).unwrap();
            assert_eq!(args.command.is_some(), is_command, "{words:?}");
            assert_eq!(args.root.is_some(), !is_command, "{words:?}");
        }
        assert_eq!(
            read(&["status", "a", "b"]).map(|_| ()).unwrap_err().status,
            2
        );
    }

    #[test]
    fn help_and_version_are_no_mistakes() {
        for word in ["--help", "-h", "--version", "-V"] {
            assert_eq!(read(&[word]).map(|_| ()).unwrap_err().status, 0, "{word}");
        }
    }
}
