//! Where the log goes: standard error, or a file that can be moved away; with
//! priorities in place of times where standard error is the journal.
//!
//! May not: decide what is logged.

use std::fs::{File, OpenOptions};
use std::io::{self, LineWriter, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use simplelog::{ConfigBuilder, WriteLogger};

use super::cli::Args;
use crate::daemon::syslog;

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
        if !Self::is_ready() {
            self.lost += 1;
            return Ok(line.len());
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            writeln!(
                io::stderr(),
                "({lost} lines of the log were lost: nobody read them)"
            )?;
        }
        io::stderr().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The journal behind standard error: it knows the time, and takes a priority.
struct Journal {
    level: LevelFilter,
    /// The writer, and the line that is being made for it.
    target: Mutex<(StandardError, String)>,
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
            let (writer, line) = &mut *target;
            line.clear();
            syslog::push_journal_line(line, record.level(), &record.args().to_string());
            // There is no other place to say that it failed.
            let _ = writer.write(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Starts logging as the command line says; returns the log file, if any.
///
/// # Errors
/// When the log file can't be opened.
pub(super) fn start(args: &Args) -> io::Result<Option<LogFile>> {
    let level = match (args.quiet, args.verbose) {
        (true, _) => LevelFilter::Error,
        (false, 0) => LevelFilter::Info,
        (false, 1) => LevelFilter::Debug,
        (false, _) => LevelFilter::Trace,
    };
    if args.log_file.is_none() && syslog::stderr_is_journal() {
        let target = Mutex::new((StandardError { lost: 0 }, String::new()));
        if log::set_boxed_logger(Box::new(Journal { level, target })).is_ok() {
            log::set_max_level(level);
        }
        return Ok(None);
    }
    let format = ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_target_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    let log_file = args.log_file.as_deref().map(LogFile::open).transpose()?;
    let target: Box<dyn Write + Send> = match &log_file {
        Some(file) => Box::new(file.clone()),
        None => Box::new(StandardError { lost: 0 }),
    };
    // The logger writes a line in pieces; they leave as one. It can only be
    // there already in a test that starts two servers.
    let _ = WriteLogger::init(level, format, LineWriter::new(target));
    Ok(log_file)
}
