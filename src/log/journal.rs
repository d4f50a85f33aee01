//! The log for the journal, where that reads standard error: each record has its priority
//! and its fields, and no time.
//!
//! Fields go to the journal's socket (systemd.journal-fields(7)); where that can't
//! be reached, lines go to standard error (sd-daemon(3)). Must not: decide what is
//! logged.

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::sys::stat::{SFlag, fstat};

use super::MAX_LINE;
use super::priority::{FACILITY, connect, cut, push_escaped, severity};

/// The socket where the journal takes fields.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The log for the journal.
pub(super) struct Journal<W> {
    level: LevelFilter,
    state: Mutex<State<W>>,
}

struct State<W> {
    /// Takes fields.
    socket: Option<UnixDatagram>,
    /// Takes lines.
    stderr: W,
    buffer: String,
}

impl<W: Write> Journal<W> {
    /// Writes lines to `stderr` if the journal's socket can't be reached.
    pub(super) fn new(level: LevelFilter, stderr: W) -> Self {
        // The journal's stream is a socket. Anything else isn't it, whatever JOURNAL_STREAM
        // says.
        let is_stream = fstat(io::stderr())
            .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode).contains(SFlag::S_IFSOCK));
        let socket = is_stream.then(|| connect(Path::new(SOCKET)).ok());
        let state = State {
            socket: socket.flatten(),
            stderr,
            buffer: String::new(),
        };
        Self {
            level,
            state: Mutex::new(state),
        }
    }
}

impl<W: Write + Send> Log for Journal<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State {
            socket,
            stderr,
            buffer,
        } = &mut *state;
        if let Some(socket) = socket {
            put_fields(buffer, record);
            if socket.send(buffer.as_bytes()).is_ok() {
                return;
            }
        }
        buffer.clear();
        push_line(buffer, record.level(), record.args());
        // There is no other place to report a failure.
        let _ = stderr.write_all(buffer.as_bytes());
    }

    fn flush(&self) {}
}

/// Puts a record into a datagram, one line for each field.
fn put_fields(datagram: &mut String, record: &Record<'_>) {
    datagram.clear();
    push_escaped(datagram, record.args());
    cut(datagram, MAX_LINE);
    datagram.insert_str(0, "MESSAGE=");
    // Writing to a String cannot fail.
    let _ = write!(
        datagram,
        "\nPRIORITY={}\nSYSLOG_FACILITY={FACILITY}\nSYSLOG_IDENTIFIER=tftpd\n",
        severity(record.level())
    );
    let done = record.key_values().visit(&mut Fields(datagram));
    debug_assert!(done.is_ok(), "a string takes everything");
}

/// Appends `TFTPD_KEY=value` for each field.
struct Fields<'a>(&'a mut String);

impl<'v> VisitSource<'v> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'v>, value: Value<'v>) -> Result<(), kv::Error> {
        write!(self.0, "TFTPD_{}=", key.as_str().to_ascii_uppercase())?;
        push_escaped(self.0, value);
        self.0.push('\n');
        Ok(())
    }
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
    use crate::log::event::Event;

    #[test]
    fn the_journal_gets_fields_for_an_event() {
        let event = Event::LeftOut {
            of: "refused",
            lines: 7,
        };
        let mut datagram = String::new();
        put_fields(
            &mut datagram,
            &Record::builder()
                .level(Level::Warn)
                .key_values(&event)
                .args(format_args!("{event}"))
                .build(),
        );
        assert_eq!(
            datagram,
            "MESSAGE=left_out of=refused lines=7\nPRIORITY=4\nSYSLOG_FACILITY=3\n\
             SYSLOG_IDENTIFIER=tftpd\nTFTPD_EVENT=left_out\nTFTPD_OF=refused\nTFTPD_LINES=7\n"
        );
    }

    #[test]
    fn nothing_in_a_message_becomes_a_field() {
        let mut datagram = String::new();
        let message = format!("a\nPRIORITY=0\n{}", "x".repeat(5000));
        put_fields(
            &mut datagram,
            &Record::builder().args(format_args!("{message}")).build(),
        );
        assert!(
            datagram.starts_with("MESSAGE=a\\nPRIORITY=0\\nxxx"),
            "{datagram}"
        );
        assert_eq!(datagram.lines().count(), 4, "{datagram}");
        assert!(datagram.len() < MAX_LINE + 100 && datagram.contains('…'));
    }

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
