//! Lines for the system's log, each with the priority it has there: to the
//! journal behind standard error, or to the socket of a syslog daemon.
//!
//! Must not: wait for a reader, decide what is logged.

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use log::Level;
use nix::sys::stat::fstat;

/// Where a syslog daemon listens as a rule.
pub const DEV_LOG: &str = "/dev/log";

/// `LOG_DAEMON` (RFC 5424 §6.2.1).
const FACILITY: u8 = 3;

/// A syslog daemon's socket.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    socket: UnixDatagram,
    line: String,
}

impl Syslog {
    /// Connects to the daemon at `path`, usually `/dev/log`.
    ///
    /// # Errors
    /// Whatever the kernel says: nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        let socket = connect(&path)?;
        let line = String::new();
        Ok(Self { path, socket, line })
    }

    /// Sends one line. Lost if the daemon doesn't take it at once, or isn't
    /// there any more; one that was started anew is found again.
    pub fn write(&mut self, level: Level, message: &str) {
        let (priority, pid) = (FACILITY * 8 + severity(level), std::process::id());
        self.line.clear();
        // As RFC 3164 §4.1 has it, but for the time: the daemon knows that.
        let _ = write!(self.line, "<{priority}>tftpd[{pid}]: ");
        push_escaped(&mut self.line, message);
        match self.socket.send(self.line.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                if let Ok(socket) = connect(&self.path) {
                    self.socket = socket;
                    let _ = self.socket.send(self.line.as_bytes());
                }
            }
            _ => {}
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Appends one line for the journal, with its end (sd-daemon(3)).
pub fn push_journal_line(line: &mut String, level: Level, message: &str) {
    // Writing to a String cannot fail.
    let _ = write!(line, "<{}>", severity(level));
    push_escaped(line, message);
    line.push('\n');
}

/// Says on standard error why the process ends; under inetd that is a socket,
/// so the syslog hears it.
pub fn last_words(text: &str) {
    let mut line = String::new();
    if stderr_is_journal() {
        push_journal_line(&mut line, Level::Error, text);
    } else {
        let _ = writeln!(line, "{text}");
    }
    if io::stderr().write_all(line.as_bytes()).is_err()
        && let Ok(mut syslog) = Syslog::connect(Path::new(DEV_LOG))
    {
        syslog.write(Level::Error, text);
    }
}

/// Whether standard error leads to the journal (systemd.exec(5)).
pub fn stderr_is_journal() -> bool {
    let (Ok(wanted), Ok(stderr)) = (env::var("JOURNAL_STREAM"), fstat(io::stderr())) else {
        return false;
    };
    wanted == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

/// RFC 5424 §6.2.1.
const fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A line stays one line, whoever wrote it.
fn push_escaped(line: &mut String, message: &str) {
    for c in message.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
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
            push_journal_line(&mut line, level, message);
            assert_eq!(line, wanted);
        }
    }

    #[test]
    fn a_daemon_that_was_started_anew_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(Syslog::connect(&path).is_err());
        let mut buffer = [0; 128];
        let first = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::connect(&path).unwrap();
        let pid = std::process::id();
        let mut expect = |daemon: &UnixDatagram, line: &str| {
            daemon.set_nonblocking(true).unwrap();
            let len = daemon.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..len]), Ok(line));
        };
        syslog.write(Level::Warn, "one\ntwo");
        expect(&first, &format!("<28>tftpd[{pid}]: one\\ntwo"));
        drop(first);
        syslog.write(Level::Info, "lost");
        std::fs::remove_file(&path).unwrap();
        let second = UnixDatagram::bind(&path).unwrap();
        syslog.write(Level::Error, "three");
        expect(&second, &format!("<27>tftpd[{pid}]: three"));
    }
}
