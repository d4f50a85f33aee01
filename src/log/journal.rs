//! The journal behind standard error: each line with its priority, and no time.
//!
//! Must not: decide what is logged.

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::sys::stat::fstat;

use super::priority::{push_escaped, severity};

/// The log as lines for the journal (sd-daemon(3)).
pub(super) struct JournalLines<W> {
    level: LevelFilter,
    target: Mutex<(W, String)>,
}

impl<W: Write> JournalLines<W> {
    pub(super) fn new(level: LevelFilter, target: W) -> Self {
        let target = Mutex::new((target, String::new()));
        Self { level, target }
    }
}

impl<W: Write + Send> Log for JournalLines<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let (writer, line) = &mut *target;
        line.clear();
        push_line(line, record.level(), record.args());
        // There is no other place to say that it failed.
        let _ = writer.write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Whether standard error leads to the journal (systemd.exec(5)).
pub(super) fn is_standard_error() -> bool {
    let (Ok(wanted), Ok(stderr)) = (env::var("JOURNAL_STREAM"), fstat(io::stderr())) else {
        return false;
    };
    wanted == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

/// Appends one line with its end.
pub(super) fn push_line(line: &mut String, level: Level, message: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(line, "<{}>", severity(level));
    push_escaped(line, message);
    line.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_gets_a_priority_and_one_line() {
        for (level, message, wanted) in [
            (Level::Error, "a", "<3>a\n"),
            (Level::Warn, "b\nc", "<4>b\\nc\n"),
            (Level::Info, "ä \"q\"", "<6>ä \"q\"\n"),
            (Level::Debug, "\u{1b}[0m", "<7>\\u{1b}[0m\n"),
            (Level::Trace, "", "<7>\n"),
        ] {
            let mut line = String::new();
            push_line(&mut line, level, message);
            assert_eq!(line, wanted);
        }
    }
}
