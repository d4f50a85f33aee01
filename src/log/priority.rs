//! What the journal and a syslog daemon have in common: a datagram socket, and lines with
//! a priority.
//!
//! Must not: let a line become two, or wait for its reader.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use log::Level;

use super::MARK;

/// `LOG_DAEMON` (RFC 5424 §6.2.1).
pub(super) const FACILITY: u8 = 3;

/// The severity of a level (RFC 5424 §6.2.1).
pub(super) const fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A socket that is connected to the one at `path` and never waits.
pub(super) fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Appends a message; control characters are escaped.
pub(super) fn push_escaped(line: &mut String, message: impl fmt::Display) {
    let done = write!(Escaped(line), "{message}");
    debug_assert_eq!(done, Ok(()), "a string takes everything");
}

/// Cuts a line to at most `max` bytes, a mark for the rest included.
pub(super) fn cut(line: &mut String, max: usize) {
    if line.len() <= max {
        return;
    }
    let mut end = max - MARK.len();
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line.push_str(MARK);
}

struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}
