//! Options of other servers: those that are accepted, and for the others what to
//! write here. Must not: give an option a second meaning.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// tftp-hpa's options for what is the default here: accepted, so that its
/// command lines work.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Accepted for compatibility with tftp-hpa, no effect")]
pub struct Familiar {
    /// Let uploads create new files
    #[arg(short, long, hide_short_help = true)]
    pub create: bool,

    /// Keep clients below ROOT
    #[arg(short, long, hide_short_help = true)]
    pub secure: bool,

    /// Listen without inetd; stays in the foreground here
    #[arg(short, long, hide_short_help = true)]
    pub listen: bool,

    /// Listen without inetd, in the foreground
    #[arg(short = 'L', long, hide_short_help = true)]
    pub foreground: bool,
}

/// What other servers call an option, and what it is here; as in the manual's table
/// for people that come from them.
static ELSEWHERE: [(&str, &str); 37] = [
    ("--bind-address", "write -a"),
    ("--blocksize", "write -B"),
    (
        "--daemon",
        "leave it out: a service manager keeps it running",
    ),
    ("--enable-tftp", "write --read-only ROOT, or -a INTERFACE"),
    ("--group", "write -u USER:GROUP"),
    ("--logfile", "write --log-file, or --syslog, or neither"),
    ("--maxthread", "write --max-sessions"),
    ("--mcast-ttl", "there is no multicast"),
    ("--mtftp", "there is no multicast"),
    ("--no-blksize", "write -r blksize -r blksize2"),
    ("--no-fork", "leave it out: it stays in the foreground"),
    ("--no-multicast", "leave it out: there is no multicast"),
    ("--no-source-port-checking", "there is no such option"),
    ("--no-timeout", "write -r timeout -r utimeout"),
    ("--no-tsize", "write -r tsize"),
    ("--no-windowsize", "write -r windowsize"),
    ("--pcre", "write -m, with rules in tftp-hpa's language"),
    (
        "--pcre-test",
        "write --map-test, with rules in tftp-hpa's language",
    ),
    (
        "--permissive",
        "leave it out: the rights of the user decide",
    ),
    ("--pidfile", "write -P, or --pid-file"),
    ("--prevent-sas", "leave it out: it is always so"),
    ("--quiet-tftp", "write -q"),
    ("--retransmit", "write -t MILLISECONDS"),
    ("--retry-timeout", "write -t MILLISECONDS"),
    ("--tftp-lowercase", "write -m FILE, with a rule"),
    ("--tftp-max", "write --max-sessions"),
    ("--tftp-mtu", "write -B, 32 less"),
    ("--tftp-no-blocksize", "write -r blksize -r blksize2"),
    ("--tftp-no-fail", "leave it out: a missing ROOT is an error"),
    ("--tftp-port-range", "write -R LO:HI"),
    (
        "--tftp-root",
        "write the directory as ROOT, with --read-only",
    ),
    (
        "--tftp-secure",
        "write -u USER, and set the files' permissions",
    ),
    ("--tftp-single-port", "write --single-port"),
    ("--tftp-unique-root", "write --per-client-root"),
    ("--tftpd-timeout", "write --idle-exit"),
    ("--trace", "write -vv"),
    ("--verbosity", "write -v or -vv"),
];

/// One line for whoever wrote another server's option or a second directory.
pub(super) fn hint(error: &clap::Error) -> Option<String> {
    let context = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        // Where there are subcommands, a second directory looks like one.
        ErrorKind::ArgumentConflict => ContextKind::InvalidSubcommand,
        _ => return None,
    };
    let Some(ContextValue::String(word)) = error.get(context) else {
        return None;
    };
    if !word.starts_with('-') {
        return Some(format!(
            "tftpd: unexpected '{word}': there is one ROOT; serve the directory above, or \
             add --follow-links DIR"
        ));
    }
    let (_, here) = ELSEWHERE.iter().find(|(option, _)| option == word)?;
    Some(format!("tftpd: unexpected '{word}': {here}; see tftpd(8)"))
}
