//! The socket of a syslog daemon: each line with its priority, and no time.
//!
//! Must not: wait for the daemon, decide what is logged.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::fchdir;

use super::priority::{FACILITY, connect, cut, push_escaped, severity};
use super::{MAX_LINE, lost_lines};

/// Where a syslog daemon usually listens.
pub(crate) const DEV_LOG: &str = "/dev/log";

/// A syslog daemon's socket.
#[derive(Debug)]
pub(crate) struct Syslog {
    place: Place,
    socket: UnixDatagram,
    line: String,
    /// Lines that the daemon didn't take, since the last one that it did.
    lost: u64,
}

/// Where to find the daemon again after it was restarted. Works in a chroot as well: the
/// directory of its socket is kept open.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// The directory, and the name in it.
    within: Option<(OwnedFd, OsString)>,
}

impl Place {
    fn new(path: &Path) -> Self {
        // Resolved before a chroot: /dev/log may be a link to elsewhere.
        let path = path.canonicalize().unwrap_or(path.to_owned());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let within = path
            .parent()
            .zip(path.file_name())
            .and_then(|(parent, name)| {
                let directory = open(parent, flags, Mode::empty()).ok()?;
                Some((directory, name.to_owned()))
            });
        Self { path, within }
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        connect(&self.path).or_else(|error| {
            // No system call connects to a path below a descriptor, so we go to that
            // directory and back: there is one thread, and it looks up no other path
            // meanwhile.
            let Some((directory, name)) = &self.within else {
                return Err(error);
            };
            let back = open(".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
            fchdir(directory)?;
            let connected = connect(Path::new(name));
            fchdir(back)?;
            connected
        })
    }
}

impl Syslog {
    /// Connects to the daemon at `path`, usually `/dev/log`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self {
            place: Place::new(path),
            socket: connect(path)?,
            line: String::new(),
            lost: 0,
        })
    }

    /// Sends one line, cut if it is long. It is lost if the daemon doesn't take it at once,
    /// or isn't there any more; a restarted daemon is found again.
    pub(crate) fn write(&mut self, level: Level, message: impl fmt::Display) {
        if self.lost > 0 {
            let note = lost_lines(self.lost, "the daemon didn't take them");
            if !self.send(Level::Warn, note) {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        if !self.send(level, message) {
            self.lost += 1;
        }
    }

    fn send(&mut self, level: Level, message: impl fmt::Display) -> bool {
        let (priority, pid) = (FACILITY * 8 + severity(level), std::process::id());
        self.line.clear();
        // The form of RFC 3164 §4.1, without the time, which the daemon knows.
        let _ = write!(self.line, "<{priority}>tftpd[{pid}]: ");
        push_escaped(&mut self.line, message);
        cut(&mut self.line, MAX_LINE);
        match self.socket.send(self.line.as_bytes()) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => {
                let Ok(socket) = self.place.connect() else {
                    return false;
                };
                self.socket = socket;
                self.socket.send(self.line.as_bytes()).is_ok()
            }
        }
    }
}

/// The log as lines for a syslog daemon.
pub(super) struct SyslogLines {
    level: LevelFilter,
    syslog: Mutex<Syslog>,
}

impl SyslogLines {
    pub(super) const fn new(level: LevelFilter, syslog: Syslog) -> Self {
        let syslog = Mutex::new(syslog);
        Self { level, syslog }
    }
}

impl Log for SyslogLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut syslog = self.syslog.lock().unwrap_or_else(PoisonError::into_inner);
            syslog.write(record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    #[track_caller]
    fn expect(daemon: &UnixDatagram, line: &str) {
        let mut buffer = [0; 2 * MAX_LINE];
        daemon.set_nonblocking(true).unwrap();
        let len = daemon.recv(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..len]), Ok(line));
    }

    #[test]
    fn a_daemon_that_was_started_again_is_found_and_told_what_it_missed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(Syslog::connect(&path).is_err());
        let first = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::connect(&path).unwrap();
        let pid = std::process::id();
        syslog.write(Level::Warn, "one\ntwo");
        expect(&first, &format!("<28>tftpd[{pid}]: one\\ntwo"));
        // Another test's child may hold a copy until it becomes another program.
        first.shutdown(Shutdown::Both).unwrap();
        drop(first);
        syslog.write(Level::Info, "lost");
        std::fs::remove_file(&path).unwrap();
        let second = UnixDatagram::bind(&path).unwrap();
        syslog.write(Level::Error, "three");
        let note = "1 line of the log was lost: the daemon didn't take them";
        expect(&second, &format!("<28>tftpd[{pid}]: {note}"));
        expect(&second, &format!("<27>tftpd[{pid}]: three"));
    }

    #[test]
    fn a_long_line_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::connect(&path).unwrap();
        syslog.write(Level::Info, "ö".repeat(5000));
        let mut buffer = [0; 2 * MAX_LINE];
        let len = daemon.recv(&mut buffer).unwrap();
        assert!(
            len <= MAX_LINE && buffer[..len].ends_with("ö…".as_bytes()),
            "{len}"
        );
    }
}
