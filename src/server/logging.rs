//! Where the log goes: standard error, a file that can be moved away, or the
//! system's log, with priorities in place of times.
//!
//! Must not: decide what is logged.

use std::fs::{File, OpenOptions};
use std::io::{self, LineWriter, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use simplelog::{ConfigBuilder, WriteLogger};

use super::cli::Args;
use crate::file::reason;
use crate::log::json::{self, JsonLines};
use crate::log::syslog::{self, DEV_LOG, Syslog};

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Time, level and text
    Text,
    /// One JSON object
    Json,
}

/// The log file, if there is one; clones share it.
#[derive(Debug, Clone)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = Arc::new(Mutex::new(append_to(path)?));
        // In a chroot, a relative one would lie among the served files.
        let path = std::path::absolute(path)?;
        Ok(Self { path, file })
    }

    /// Opens the path anew, for whoever moved the file away (logrotate). The
    /// old file stays in use if that fails.
    ///
    /// # Errors
    /// Whatever opening it says.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let file = append_to(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, or silence: who doesn't read the log must not stop the server.
#[derive(Debug)]
struct StandardError {
    format: LogFormat,
    /// Lines left out since the last one that was taken.
    lost: u64,
}

impl StandardError {
    /// Whether a line can be written without waiting for a reader. A pipe or a
    /// socket that is ready takes a line whole; a file or a terminal always is.
    fn is_ready() -> bool {
        let stderr = io::stderr();
        let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(0))
    }
}

impl Write for StandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // More than a pipe takes at once would wait for a reader.
        if line.len() > PIPE_BUF || !Self::is_ready() {
            self.lost += 1;
            return Ok(line.len());
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            let note = format!("{lost} lines of the log were lost: nobody read them");
            match self.format {
                LogFormat::Text => writeln!(io::stderr(), "({note})")?,
                LogFormat::Json => write!(io::stderr(), "{}", json::line(Level::Warn, &note))?,
            }
            if !Self::is_ready() {
                self.lost += 1;
                return Ok(line.len());
            }
        }
        io::stderr().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The system's log, which knows the time and takes a priority.
struct SystemLog {
    level: LevelFilter,
    target: Mutex<Target>,
}

enum Target {
    /// Behind standard error; with room to make a line in.
    Journal(StandardError, String),
    Syslog(Syslog),
}

impl SystemLog {
    const fn new(level: LevelFilter, target: Target) -> Self {
        let target = Mutex::new(target);
        Self { level, target }
    }
}

impl Log for SystemLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = record.args().to_string();
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *target {
            Target::Journal(writer, line) => {
                line.clear();
                syslog::push_journal_line(line, record.level(), &message);
                // There is no other place to say that it failed.
                let _ = writer.write(line.as_bytes());
            }
            Target::Syslog(syslog) => syslog.write(record.level(), &message),
        }
    }

    fn flush(&self) {}
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Starts logging as the command line says; returns the log file, if any. Under
/// inetd standard error is no place for a log: a client would get it.
///
/// # Errors
/// One line, when the log file can't be opened or nobody reads the syslog.
pub(super) fn start(args: &Args, by_inetd: bool) -> Result<Option<LogFile>, String> {
    let level = match (args.quiet, args.verbose) {
        (true, _) => LevelFilter::Error,
        (false, 0) => LevelFilter::Info,
        (false, 1) => LevelFilter::Debug,
        (false, _) => LevelFilter::Trace,
    };
    if let Some(path) = &args.log_file {
        let file = LogFile::open(path).map_err(|error| cannot_open(path, &error))?;
        write_lines(args.log_format, level, Box::new(file.clone()));
        return Ok(Some(file));
    }
    let stderr = StandardError {
        format: args.log_format,
        lost: 0,
    };
    match &args.syslog {
        Some(path) => {
            let syslog = Syslog::connect(path).map_err(|error| cannot_reach(path, &error))?;
            install(level, SystemLog::new(level, Target::Syslog(syslog)));
        }
        None if by_inetd => {
            // Without one, silence.
            if let Ok(syslog) = Syslog::connect(Path::new(DEV_LOG)) {
                install(level, SystemLog::new(level, Target::Syslog(syslog)));
            }
        }
        None if args.log_format == LogFormat::Text && syslog::stderr_is_journal() => {
            install(
                level,
                SystemLog::new(level, Target::Journal(stderr, String::new())),
            );
        }
        None => write_lines(args.log_format, level, Box::new(stderr)),
    }
    Ok(None)
}

/// Makes `logger` the log. There can only be one already in a test that starts
/// two servers.
fn install(level: LevelFilter, logger: impl Log + 'static) {
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

/// Logs lines with time and level to `target`.
fn write_lines(format: LogFormat, level: LevelFilter, target: Box<dyn Write + Send>) {
    if format == LogFormat::Json {
        install(level, JsonLines::new(level, target));
        return;
    }
    let format = ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_target_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    // The logger writes a line in pieces; they leave as one. It can only be
    // there already in a test that starts two servers.
    let _ = WriteLogger::init(level, format, LineWriter::new(target));
}

fn cannot_open(path: &Path, error: &io::Error) -> String {
    let (path, reason) = (path.display(), reason(error));
    format!("cannot open the log file {path}: {reason}; name a writable one with --log-file")
}

fn cannot_reach(path: &Path, error: &io::Error) -> String {
    let (path, reason) = (path.display(), reason(error));
    format!(
        "cannot reach the syslog at {path}: {reason}; start it, or name its socket: --syslog=SOCKET"
    )
}
