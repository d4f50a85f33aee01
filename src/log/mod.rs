//! The log: typed events, how they look, and where they go.
//!
//! An `Event` is handed to the `log` crate's logger, which is one of four: it writes lines
//! with time and level, JSON objects, or records with priorities for the journal or for
//! syslog. None of them waits for a reader. Must not: know of sessions.

#[cfg(feature = "status")]
use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;

use ::log::{Level, LevelFilter, Log};
use nix::libc::PIPE_BUF;
use simplelog::{ConfigBuilder, WriteLogger};

use self::journal::Journal;
use self::json::JsonLines;
use self::shown::Count;
use self::sink::{Note, Sink};
pub(crate) use self::stamp::Process;
use self::stamp::Stamped;
use self::syslog::{DEV_LOG, Syslog, SyslogLines};
pub(crate) use self::target::LogFile;
use self::target::Target;

pub(crate) mod bounds;
pub(crate) mod event;
mod journal;
pub(crate) mod json;
mod noise;
mod priority;
pub(crate) mod repeats;
pub(crate) mod searches;
pub(crate) mod short;
pub(crate) mod shown;
mod sink;
mod stamp;
pub(crate) mod syslog;
mod target;
mod text;

/// The longest line in bytes, its end included: a pipe takes this much whole.
const MAX_LINE: usize = PIPE_BUF;

/// Stands for what was cut off.
const MARK: &str = "…";

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Time, level and text
    Text,
    /// One JSON object
    Json,
}

/// Logs to a file from now on, as this `process`.
///
/// # Errors
/// The file can't be opened or created.
pub(crate) fn to_file(
    path: &Path,
    format: LogFormat,
    level: LevelFilter,
    process: Process,
) -> io::Result<LogFile> {
    let file = LogFile::open(path)?;
    write_lines(format, level, process, |note| {
        Sink::to(&file, note, process)
    });
    Ok(file)
}

/// Logs to standard error from now on, as this `process`. With priorities if the journal
/// reads it; the journal itself knows which process wrote a line (`_PID`).
pub(crate) fn to_standard_error(format: LogFormat, level: LevelFilter, process: Process) {
    let sink = |note| Sink::new(Target::standard_error(), note, process);
    if format == LogFormat::Text && journal::is_standard_error() {
        let note: Note = |line, _, lost, why| {
            let mut text = String::new();
            journal::push_line(&mut text, Level::Warn, lost_lines(lost, why));
            line.extend(text.bytes());
        };
        install(level, Journal::new(level, sink(note)));
    } else {
        write_lines(format, level, process, sink);
    }
}

/// Logs to a syslog daemon from now on.
///
/// # Errors
/// Nobody listens there.
pub(crate) fn to_syslog(path: &Path, level: LevelFilter) -> io::Result<()> {
    install(level, SyslogLines::new(level, Syslog::connect(path)?));
    Ok(())
}

/// Logs lines with time and level.
fn write_lines(
    format: LogFormat,
    level: LevelFilter,
    process: Process,
    sink: impl FnOnce(Note) -> Sink,
) {
    if format == LogFormat::Json {
        let sink = sink(json::put_note);
        install(level, JsonLines::new(level, sink, process));
        return;
    }
    // No time of its own, whose decimals vary in number: ours are all of one length.
    let config = ConfigBuilder::new()
        .set_time_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    let lines = Stamped::new(sink(stamp::put_note), process);
    install(level, *WriteLogger::new(level, config, lines));
}

/// Installs `logger`. Only a test that starts two servers has installed one already.
fn install(level: LevelFilter, logger: impl Log + 'static) {
    if ::log::set_boxed_logger(noise::bounded(level, logger)).is_ok() {
        ::log::set_max_level(level);
    }
}

/// An event as a JSON object, as in the log, at most 4 KiB.
#[cfg(feature = "status")]
pub(crate) fn json_object(event: &event::Event<'_>) -> String {
    json::object(event)
}

/// Appends a text as a JSON string; a long one is cut.
#[cfg(feature = "status")]
pub(crate) fn put_json_text(out: &mut String, text: &dyn fmt::Display) {
    // A string takes everything.
    let _ = json::put_text(out, text, MAX_LINE);
}

/// The message about lines that couldn't be written.
fn lost_lines(lost: u64, why: &str) -> String {
    let were = if lost == 1 { "was" } else { "were" };
    format!("{} of the log {were} lost: {why}", Count(lost, "line"))
}

/// Says why the process ends, on standard error. If that can't be written to, as under
/// inetd, where it is a socket, then to syslog.
pub fn last_words(text: &str) {
    let mut line = String::new();
    if journal::is_standard_error() {
        journal::push_line(&mut line, Level::Error, text);
    } else {
        line.extend([text, "\n"]);
    }
    if io::stderr().write_all(line.as_bytes()).is_err()
        && let Ok(mut syslog) = Syslog::connect(Path::new(DEV_LOG))
    {
        syslog.write(Level::Error, text);
    }
}
